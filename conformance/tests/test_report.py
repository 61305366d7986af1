"""Does the report show what its record contains? Page, pictures, table and fingerprint, from small records.

Tests the content, not the appearance; nothing here runs a loss.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

import mlsm

from ..__main__ import main
from ..backends import find
from ..record import BackendRecord, CheckRecord, Curve, PeerRecord, Run, Worst, read, write
from ..report import claims
from ..report.command import MergeError, merge
from ..report.html import page
from ..report.markdown import StaleRecordError, stamp_of, support_page, table
from ..report.summary import alike, by_reason, label, lost, observed, worst_cases
from ..report.svg import short
from ..report.ulp import SMALL, Series, Size, envelope, panel, thin

LOGITS = tuple(x / 2 for x in range(-200, 201))
VOID = {"meta", "br", "img", "link", "input", "hr"}


def curve(
    ulp: float, *, quantity: str = "loss", dtype: str = "float32", target: float = 0.0, bound: float = 4.0
) -> Curve:
    """The same error at every logit."""
    n = len(LOGITS)
    return Curve(quantity, dtype, target, LOGITS, (ulp,) * n, (bound,) * n)  # type: ignore[arg-type]  # a plain str here


def backend(
    name: str = "numpy", *checks: CheckRecord, kernel: str = "auto", curves: tuple[Curve, ...] = ()
) -> BackendRecord:
    """A record of an installed backend, with its real declarations."""
    made = find(name)
    declared = tuple(sorted(made.capabilities))
    return BackendRecord(name, made.library, "cpu", kernel, ("float32",), declared, checks, curves)


def passed(i: str = "values.loss", group: str = "values") -> CheckRecord:
    return CheckRecord(i, group, "pass", cases=10)


def run_of(*backends: BackendRecord, peers: tuple[PeerRecord, ...] = ()) -> Run:
    return Run(mlsm.__version__, {"numpy": "2.0"}, backends, peers)


class Balanced(HTMLParser):
    """Raises if tags are not closed in order, and collects everything that would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in {"script", "link", "img", "iframe", "object", "image"}:
            self.fetched.append(tag)
        self.fetched += [f"{n}={v}" for n, v in attrs if n in {"src", "srcset"} or (n == "href" and v and v[0] != "#")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def full_run() -> Run:
    """Every status, two backends, a peer that loses everything, a hostile reason."""
    checks = (
        passed(),
        CheckRecord("lazy.watch", "lazy", "skip", "numpy computes at once <script>alert(1)</script>"),
        CheckRecord(
            "values.tail", "values", "fail", "7.5 ULP where 4 are promised", Worst(7.5, 4, "x = -17", "print('a < b')")
        ),
    )
    known = CheckRecord("special.flush", "special", "xfail", "this library flushes subnormals")
    curves = tuple(curve(3.0, quantity=q, target=t) for q in ("loss", "gradient", "hessian") for t in (0.0, 1.0))
    ours = (backend("numpy", *checks, curves=curves), backend("numpy", passed(), known, kernel="numba"))
    return run_of(*ours, peers=(PeerRecord("a <peer>", (curve(1.6e7),)),))


# ---------------------------------------------------------------- the page


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    html = page(full_run())
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert not parser.fetched
    assert "url(" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}, (
        "the SVG namespace is not fetched"
    )


def test_the_page_shows_every_status_by_glyph_and_word_and_escapes_reasons() -> None:
    html = page(full_run())
    for glyph, word in (("✓", "pass"), ("✗", "fail"), ("△", "expected failure"), ("○", "skipped")):
        assert f"<i role='img' aria-label='{word}'>{glyph}</i>".replace("'", '"') in html
    assert "<script>" not in html
    below = html[html.index("id='reasons'") :]
    assert "computes at once &lt;script&gt;" in below, "a reason is in the list, not only shown on hover"
    assert "1 of 3 checks fail" not in html
    assert "1 of 4 checks fail" in html
    assert "print(&#x27;a &lt; b&#x27;)" in html
    assert "python -m mlsm_conformance run numpy --check values.tail" in html


def test_the_headline_of_an_empty_run_does_not_say_that_it_conforms() -> None:
    html = page(run_of(backend("numpy", CheckRecord("a.b", "a", "skip", "why"))))
    assert "nothing was judged" in html
    assert "conforms" not in html
    assert "conforms" in page(run_of(backend("numpy", passed())))


def test_light_and_dark_define_the_same_colours() -> None:
    html = page(full_run())
    light, dark = html.split("@media (prefers-color-scheme:dark)", 1)
    names = set(re.findall(r"(--[a-z0-9-]+):", light))
    assert names == set(re.findall(r"(--[a-z0-9-]+):", dark[: dark.index("}}")]))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", html)) <= names


# ---------------------------------------------------------------- the pictures


def heights(picture: str, css: str) -> list[float]:
    """The y coordinates of a line's points."""
    found = re.search(rf'<path class="{css}" d="M([^"]*)"', picture)
    assert found, f"no line {css!r}"
    return [float(point.split()[1]) for point in found[1].split("L")]


def test_errors_of_three_ulp_and_of_all_digits_are_both_visible() -> None:
    picture = panel([Series("ours", curve(3.0), "ours"), Series("peer", curve(1.6e7), "p0")], "loss")
    ours, peer, bound = (heights(picture, c) for c in ("ours series", "p0 series", "bound"))
    size = Size()
    assert max(peer) < min(bound) < min(ours), "smaller is higher: the peer above the bound above ours"
    assert min(bound) - max(peer) > size.height / 4
    assert min(ours) - max(bound) > 2
    assert min(peer) > 30, "below the upper edge of the frame"
    assert "no digit left" in picture


def test_exact_and_non_finite_results_have_their_own_bands() -> None:
    wild = replace(curve(0.0), ulp=(math.nan, math.inf, *(0.0,) * (len(LOGITS) - 2)))
    picture = panel([Series("ours", curve(0.0), "ours"), Series("peer", wild, "p0")], "loss")
    peer = heights(picture, "p0 series")
    assert peer[0] == min(peer) < min(heights(picture, "bound"))
    assert len(set(heights(picture, "ours series"))) == 1
    assert ">NaN<" in picture
    assert ">NaN<" not in panel([Series("ours", curve(0.0), "ours")], "loss")


@pytest.mark.parametrize("worst", [0.3, 3.0, 40.0, 1.7e7, 8e14, 8.5e15, 3e16, math.nan])
@pytest.mark.parametrize("reach", [5.0, 110.0, 760.0])
@pytest.mark.parametrize("compact", [True, False])
def test_no_two_ticks_overlap(worst: float, reach: float, compact: bool) -> None:
    logits = (-reach, 0.0, reach)
    measured = Curve("loss", "float64", 0.0, logits, (0.0, worst, 0.0), (3.0,) * 3)
    picture = panel([Series("s", measured, "p0")], "t", SMALL if compact else Size())
    ticks = re.findall(r'<text class="tick" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"', picture)
    vertical = sorted(float(y) for _, y, anchor in ticks if anchor == "end")
    horizontal = sorted(float(x) for x, _, anchor in ticks if anchor == "middle")
    assert len(vertical) >= 2
    assert len(horizontal) >= 2
    assert min(b - a for a, b in pairwise(vertical)) >= 12
    assert min(b - a for a, b in pairwise(horizontal)) >= 26
    notes = re.findall(r'<text class="note" x="[\d.]+" y="([\d.]+)"', picture)
    assert all(float(y) >= (14 if compact else 30) + 11 for y in notes), "inside the frame, clear of the title"


def test_thinning_keeps_the_worst_of_each_column() -> None:
    from ..report.svg import Box, linear

    box = Box(0, 0, 100, 100)
    points = [(x / 100, 1.0) for x in range(10_000)]
    points[4321] = (43.21, 77.0)
    points[8000] = (80.0, math.nan)
    kept = thin(points, linear(0, 100, 0, 100), box)
    assert len(kept) < 100
    assert (43.21, 77.0) in kept
    assert sum(math.isnan(value) for _, value in kept) == 1


def test_the_envelope_is_the_worst_of_all_backends() -> None:
    both = envelope([curve(1.0), replace(curve(2.0), ulp=(math.nan, *(2.0,) * (len(LOGITS) - 1)))])
    assert both is not None
    assert math.isnan(both.ulp[0])
    assert set(both.ulp[1:]) == {2.0}
    assert envelope([]) is None


# ---------------------------------------------------------------- the summary


def test_lost_stretches_join_on_one_side_of_zero_only() -> None:
    ulp = tuple(2.0**23 if abs(x) >= 50 and x != 60 else 1.0 for x in LOGITS)
    found = lost([replace(curve(0.0), ulp=ulp)])
    assert [(s.low, s.high) for s in found] == [(-100.0, -50.0), (50.0, 100.0)]
    assert lost([curve(2.0**23 - 1)]) == []
    assert lost([replace(curve(2.0**23), dtype="float64")]) == []
    assert len(lost([curve(math.nan)])) == 1


def test_observed_is_the_point_nearest_to_its_bound_not_the_largest() -> None:
    tight = replace(curve(1.0), bound=(0.5, *(4.0,) * (len(LOGITS) - 1)))
    worst = observed([curve(3.0), tight], "loss", "float32")
    assert worst is not None
    assert (worst.ulp, worst.bound, worst.logit) == (1.0, 0.5, LOGITS[0])
    assert observed([curve(3.0)], "gradient", "float32") is None
    broken = observed([curve(3.0), curve(math.nan)], "loss", "float32")
    assert broken is not None
    assert math.isnan(broken.ulp)


def test_worst_cases_are_ordered_by_their_share_of_the_bound() -> None:
    def check(i: str, ulp: float, bound: float) -> CheckRecord:
        return CheckRecord(i, "values", "pass", worst=Worst(ulp, bound, "c"))

    run = run_of(backend("numpy", check("a", 3, 4), check("b", 2, 2.1), check("c", math.nan, 4), check("d", 0, 4)))
    assert [c.id for _, c, _ in worst_cases(run, most=3)] == ["c", "b", "a"]


def test_one_reason_is_listed_once() -> None:
    skips = [CheckRecord(f"a.{i}", "a", "skip", "the same") for i in range(3)]
    found = by_reason(run_of(backend("numpy", *skips)), "skip")
    assert [(reason, len(items)) for reason, items in found] == [("the same", 3)]


def test_reasons_that_differ_only_in_the_backends_name_are_joined() -> None:
    both = [backend(n, CheckRecord("a.b", "a", "skip", f"{n} has no clock")) for n in ("numpy", "numpy-readonly")]
    ((reason, items),) = by_reason(run_of(*both), "skip")
    assert reason == "has no clock"
    assert [name for name, _ in items] == ["numpy", "numpy-readonly"]


def test_short_prints_numbers_with_three_digits() -> None:
    values = (0.0, 0.51, 3.30, -17.3287, 1234.0, 1.7e7, 2e-9, -2e-9, math.inf, math.nan)
    said = ["0", "0.51", "3.3", "−17.3", "1,234", "1.7·10⁷", "2·10⁻⁹", "−2·10⁻⁹", "∞", "NaN"]
    assert [short(v) for v in values] == said


# ---------------------------------------------------------------- merging, the table, the fingerprint


def test_merging_keeps_order_and_refuses_incompatible_records() -> None:
    first, second = run_of(backend("numpy", passed())), run_of(backend("numpy-readonly", passed()))
    both = merge([first, replace(second, versions={"numpy": "2.1", "jax": "0.1"}, level="full")])
    assert [b.name for b in both.backends] == ["numpy", "numpy-readonly"]
    assert both.versions == {"numpy": "2.0 and 2.1", "jax": "0.1"}
    assert both.level == "quick, full"
    with pytest.raises(MergeError, match="'numpy' is in more than one"):
        merge([first, first])
    with pytest.raises(MergeError, match="differ in `mlsm`"):
        merge([first, replace(second, mlsm="0.0.0")])
    with pytest.raises(MergeError, match="differ in `impl`"):
        merge([first, replace(second, impl="a:b")])
    assert len(merge([first, run_of(backend("numpy", passed(), kernel="numba"))]).backends) == 2


def test_merging_collects_a_peers_curves_once() -> None:
    one = run_of(backend("numpy"), peers=(PeerRecord("p", (curve(1.0),)),))
    two = run_of(backend("numpy-readonly"), peers=(PeerRecord("p", (curve(1.0), curve(1.0, dtype="float64"))),))
    peers = merge([one, two]).peers
    assert [(p.name, [c.dtype for c in p.curves]) for p in peers] == [("p", ["float32", "float64"])]


def test_the_support_page_has_observed_errors_promised_bounds_and_the_fingerprint() -> None:
    text = support_page(full_run())
    assert stamp_of(text) == claims.claims()
    assert "| numpy | float32 | 3 / 4 | 3 / 4 | 3 / 4 |" in text
    assert "this library flushes subnormals" in text
    over = support_page(run_of(backend("numpy", passed(), curves=(curve(5.0),))))
    assert "| numpy | float32 | **5 / 4** | – | – |" in over
    assert stamp_of("# another page") == ""


def test_exceptions_that_differ_in_dtypes_only_are_one_cause() -> None:
    checks = {name: CheckRecord(name, name.partition(".")[0], "fail") for name in ("a.x", "b.x", "b.y")}
    first, second, third = checks.values()
    found = [
        ("raises TypeError: bool with float32 (at /p/comm", [first, second, third]),
        ("f rounds to float16 more than once: at x=1.0", [first, second]),
        ("raises TypeError: int8 with float64 (at /p/com", [second, third]),
        ("f rounds to bfloat16 more than once: at x=2.0", [second]),
        ("raises ValueError: bool with float32", [third]),
        ("raises TypeError: UInt16 with float32", [first]),
        ("raises TypeError: bool without float32", [first]),
    ]
    assert alike(found) == [
        (found[0][0], [first, second, third], ["a.x", "b.x"], 2),
        (found[1][0], [first, second], ["a.x"], 0),
        (found[3][0], [second], ["b.x"], 0),
        (found[4][0], [third], ["b.y"], 0),
        (found[6][0], [first], ["a.x"], 0),
    ]


def test_the_support_page_explains_an_ulp_before_it_counts_in_them() -> None:
    text = support_page(full_run())
    assert text.index("One ULP (unit in the last place) is") == text.index("ULP") - len("One ")
    assert "3 ULP observed, 4 ULP promised, at x = " in text


def test_the_support_page_refuses_a_record_of_older_code() -> None:
    now = backend("numpy", passed())
    with pytest.raises(StaleRecordError, match="is of mlsm 0"):
        support_page(replace(run_of(now), mlsm="0.0.0"))
    with pytest.raises(StaleRecordError, match="flies"):
        support_page(run_of(replace(now, capabilities=(*now.capabilities, "flies"))))
    with pytest.raises(StaleRecordError, match="float64"):
        support_page(run_of(replace(now, capabilities=tuple(c for c in now.capabilities if c != "float64"))))


def test_a_bar_in_a_cell_does_not_end_it() -> None:
    assert table(["a"], [["x | y"]]).splitlines()[-1] == "| x \\| y |"


def test_a_kernel_is_named_and_auto_is_not() -> None:
    assert label(backend("numpy")) == "numpy"
    assert label(backend("numpy", kernel="numba")) == "numpy · numba kernel"
    assert label(replace(backend("numpy"), name="torch-cuda", device="cuda")) == "torch-cuda"
    assert label(replace(backend("numpy"), device="cuda:1")) == "numpy · cuda:1"
    assert label(replace(backend("numpy"), device="CPU_DEVICE")) == "numpy"


SOURCE = '''"""Bounds."""
# a comment
LIMIT = 4  # ULP
"""What it means."""


def bound(x):
    """A docstring."""
    return LIMIT * x
'''
CLASS = """class A(B):
    name = "a"
    capabilities = frozenset({"x"})

    def make(self):
        return 1
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    for folder in ("reference", "cases", "backends"):
        (tmp_path / folder).mkdir()
    (tmp_path / "reference/bounds.py").write_text(SOURCE)
    (tmp_path / "backends/base.py").write_text(CLASS)
    return tmp_path


def test_the_fingerprint_ignores_comments_docstrings_and_layout(code: Path) -> None:
    before = claims.claims(code)
    (code / "reference/bounds.py").write_text(
        SOURCE.replace("a comment", "another").replace("A docstring", "It").replace("# ULP", "")
    )
    (code / "backends/base.py").write_text(CLASS.replace("return 1", "return 2"))
    assert claims.claims(code) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("reference/bounds.py", "LIMIT = 4", "LIMIT = 5"),
        ("reference/bounds.py", "LIMIT * x", "LIMIT + x"),
        ("backends/base.py", '{"x"}', '{"x", "y"}'),
        ("backends/base.py", '"a"', '"b"'),
        ("backends/base.py", "A(B)", "A(C)"),
    ],
)
def test_the_fingerprint_changes_with_a_claim(code: Path, name: str, old: str, new: str) -> None:
    before = claims.claims(code)
    path = code / name
    path.write_text(path.read_text().replace(old, new))
    assert claims.claims(code) != before


def test_the_fingerprint_sees_every_file_that_claims(code: Path) -> None:
    before = claims.claims(code)
    (code / "cases" / "catalogue_more.py").write_text("CASES = 1\n")
    with_cases = claims.claims(code)
    (code / "backends" / "new.py").write_text(CLASS)
    assert len({before, with_cases, claims.claims(code)}) == 3


def test_docs_support_is_not_older_than_the_claims() -> None:
    file = Path(__file__).parents[2] / "docs" / "support.md"
    if not file.exists():
        pytest.skip("docs/support.md is missing: an installation without docs, or a page not generated yet")
    made = stamp_of(file.read_text(encoding="utf-8"))
    assert made == claims.claims(), (
        "docs/support.md is older than the code's claims: run the suite with --json, then "
        "python -m mlsm_conformance report RECORD.json --markdown docs/support.md"
    )


# ---------------------------------------------------------------- the command


def test_the_command_writes_html_and_markdown_and_reports_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, html, markdown = (str(tmp_path / name) for name in ("r.json", "r.html", "r.md"))
    write(full_run(), record)
    assert read(record) == full_run()
    assert main(["report", record, "--html", html, "--markdown", markdown]) == 0
    assert Path(html).read_text(encoding="utf-8") == page(full_run())
    assert Path(markdown).read_text(encoding="utf-8") == support_page(full_run())
    assert main(["report", record]) == 2
    assert "nothing to write" in capsys.readouterr().err
    Path(record).write_text("{}")
    assert main(["report", record, "--html", html]) == 2
    assert "no `schema`" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "absent.json"), "--html", html]) == 2
    assert "absent.json" in capsys.readouterr().err
