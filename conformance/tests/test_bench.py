"""Does the benchmark measure what it says? With a simulated clock, and one real run of a few elements.

Asserts nothing about speed: a test that does belongs to the kernel that promises it.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..__main__ import main
from ..bench import command, worker
from ..bench.candidate import Candidate
from ..bench.cases import (
    FLOOR_MEANING,
    HEAD,
    MANY_CLASSES,
    PLAIN,
    PLAIN_CALL,
    POSITIVES,
    VARIANTS,
    Case,
    Data,
    copy_scaling,
    floor,
    make_data,
    parse_shape,
    shape_text,
    varied,
)
from ..bench.contestants import numpy_candidates
from ..bench.measure import FEWEST_ROUNDS, interleave, measure
from ..bench.memory import ELSEWHERE, LINUX, peak_of, resettable
from ..bench.peers import BUILDERS, present
from ..bench.report import NOISY_MEANING, performance_page, ratio, rows, speedup, text_header, text_table
from ..bench.svg import GAP, WIDTH, lines_of, picture, spread
from ..run.progress import Progress


class Clock:
    """A clock that advances only during work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float, value: float = 1.0) -> Callable[[], float]:
        """Work that takes these times in turn, and then always the last one."""
        times = list(seconds)

        def run() -> float:
            self.now += times.pop(0) if len(times) > 1 else times[0]
            return value

        return run


CASE = Case((4, 3), "float32", False, "1")
DATA = Data(None, None, 2.0)


def ready(work: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
    return lambda: work


# ---------------------------------------------------------------- the measurement


def test_every_contestant_is_timed_in_every_round_and_the_median_is_over_rounds() -> None:
    clock = Clock()
    # One call to find the number of repeats; then one in each round.
    timed, done = interleave({"a": clock.work(1.0), "b": clock.work(9, 2, 2, 2, 50, 3, 3, 3)}, 7, 1e9, clock)
    assert done == 7
    assert timed["a"].median == 1.0
    assert timed["b"].median == 3.0
    assert (timed["b"].low, timed["b"].high) == (2.0, 3.0)


def test_short_work_is_repeated_and_divided() -> None:
    clock = Clock()
    calls = []

    def work() -> None:
        calls.append(1)
        clock.now += 1e-5

    timed, _ = interleave({"a": work}, 5, 1e9, clock)
    assert timed["a"].median == pytest.approx(1e-5, rel=1e-9)
    assert len(calls) == 1 + 5 * 100


def test_rounds_stop_at_the_budget_but_not_before_there_is_a_median() -> None:
    clock = Clock()
    assert interleave({"a": clock.work(1.0)}, 100, 10.0, clock)[1] == 10
    assert interleave({"a": clock.work(1.0)}, 100, 0.5, clock)[1] == FEWEST_ROUNDS


def test_the_order_changes_from_round_to_round() -> None:
    order: list[str] = []
    clock = Clock()

    def named(name: str) -> Callable[[], None]:
        def work() -> None:
            order.append(name)
            clock.now += 1.0

        return work

    interleave({name: named(name) for name in "abc"}, 12, 1e9, clock)
    rounds = {"".join(order[i : i + 3]) for i in range(3, len(order), 3)}
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(rounds) > 2


def entries_of(*candidates: Candidate, clock: Clock, floor_seconds: float = 0.5) -> list[Any]:
    work = clock.work(floor_seconds)
    return measure(CASE, DATA, candidates, lambda: (work(), None)[1], rounds=5, seconds=1e9, tell=print, clock=clock)[0]


def test_entries_are_ratios_to_the_floor_and_carry_the_error() -> None:
    clock = Clock()
    slow = Candidate("slow", "numpy", "loss", ready(clock.work(2.0, value=2.5)))
    (entry,) = entries_of(slow, clock=clock)
    assert (entry.over_floor, entry.low, entry.high) == (4.0, 4.0, 4.0)
    assert entry.error == 0.25
    assert entry.reason == ""


def test_a_contestant_that_raises_keeps_its_line_with_the_reason() -> None:
    def refuse() -> Any:
        raise TypeError("no bfloat16 here\nand more")

    clock = Clock()
    good = Candidate("good", "numpy", "loss", ready(clock.work(1.0)))
    while_made = Candidate("never made", "x", "loss", refuse)
    while_run = Candidate("never run", "x", "loss", ready(refuse))
    entries = entries_of(while_made, good, while_run, clock=clock)
    assert [(e.name, e.over_floor is None, e.reason) for e in entries] == [
        ("never made", True, "TypeError: no bfloat16 here"),
        ("good", False, ""),
        ("never run", True, "TypeError: no bfloat16 here"),
    ]


def test_two_contestants_of_one_name_raise() -> None:
    clock = Clock()
    twin = Candidate("twin", "numpy", "loss", ready(clock.work(1.0)))
    with pytest.raises(ValueError, match="two implementations are called 'twin'"):
        entries_of(twin, twin, clock=clock)


# ---------------------------------------------------------------- cases, data, floor, memory


def test_shapes_are_read_and_written() -> None:
    assert parse_shape("8192x1000") == (8192, 1000)
    assert shape_text((64, 1_000_000)) == "64×1 000 000"
    for wrong in ("8192", "8192x", "x", "0x3", "3x-1", "1x2x3", "ax3"):
        with pytest.raises(ValueError, match="rows x classes"):
            parse_shape(wrong)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_data_are_seeded_hard_and_their_exact_value_is_right(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16 of its own")
    data = make_data((50, 40), dtype)
    again = make_data((50, 40), dtype)
    x, y = (v.astype(np.float64) for v in (data.x, data.y))
    assert np.array_equal(x, again.x.astype(np.float64))
    assert set(np.unique(y)) == {0.0, 1.0}
    assert str(data.x.dtype) == str(data.y.dtype) == dtype
    terms = (math.log1p(math.exp(-a)) if b else math.log1p(math.exp(a)) for a, b in zip(x.flat, y.flat, strict=True))
    # Two summations of 2,000 positive terms, each with at most a few roundings per term.
    assert abs(data.value / (math.fsum(terms) / x.size) - 1) < 16 * np.finfo(np.float64).eps


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_floor_runs_and_does_not_change_the_data(dtype: str, gradient: bool) -> None:
    data = make_data((8, 12), dtype)
    before = data.x.tobytes() + data.y.tobytes()
    floor(Case((8, 12), dtype, gradient, "1"), data)()
    assert data.x.tobytes() + data.y.tobytes() == before


def test_copying_in_parts_copies_everything() -> None:
    assert copy_scaling(3, np.ones(1000), iter(float(i) for i in range(1000)).__next__) == 1.0


@pytest.mark.skipif(not resettable(), reason="this system does not let a process reset its peak memory")
def test_peak_memory_includes_freed_memory() -> None:
    mib = 48

    def work() -> None:
        np.ones(mib * 2**20, dtype=np.uint8)

    peak, method = peak_of(work)
    assert method == LINUX
    # Linux counts resident pages in batches (64 pages for each processor or thread), so a reading may be short.
    assert mib - 1 < peak / 2**20 < mib + 8
    quiet, _ = peak_of(lambda: None)
    assert quiet / 2**20 < 4


def test_the_fallback_memory_measurement_names_its_method() -> None:
    assert "ru_maxrss" in ELSEWHERE
    assert "clear_refs" in LINUX


# ---------------------------------------------------------------- text and picture


def entry(name: str, over_floor: float | None, **more: Any) -> dict[str, Any]:
    ours = name.startswith("mlsm")
    base = {"name": name, "library": "numpy", "way": "loss", "ours": ours, "kernel": "", "forced": False, "reason": ""}
    value = over_floor
    times = {"over_floor": value, "low": value, "high": value, "error": None if value is None else 1e-8}
    return {**base, **times, "memory_mib": None, "memory_reason": "", **more}


def report(*results: dict[str, Any]) -> dict[str, Any]:
    run = {"threads": "1", "processors": 1, "pinned": True, "copy_scaling": None}
    return {
        "schema": command.SCHEMA,
        "kind": command.KIND,
        "mlsm": "0.1",
        "machine": {"cpu": "A Processor", "features": ["avx2"], "accelerator": "", "runs": [run]},
        "versions": {"numpy": "2"},
        "absent": {"mlx": "not installed"},
        "results": list(results),
    }


def result(*entries: dict[str, Any], shape: tuple[int, int] = (32, 20), threads: str = "1") -> dict[str, Any]:
    case = {"shape": list(shape), "dtype": "float32", "gradient": False, "threads": threads}
    return {"case": case, "rounds": 5, "memory_method": "", "entries": list(entries)}


OURS = entry("mlsm, numpy, numba", 2.0, kernel="numba", memory_mib=1.25)
SMALL = result(entry("torch mlsm", 9.0), OURS, entry("broken", None, reason="TypeError: no"))


def test_rows_are_sorted_and_compared() -> None:
    head, body, remarks = rows(SMALL)
    assert head == ["implementation", "time / floor", "quartiles", "× torch mlsm", "extra MiB", "error"]
    assert body[0] == ["mlsm, numpy, numba", "2", "2 to 2", "4.5", "1.2", "10⁻⁸".replace("10", "1·10")]
    assert body[1][:4] == ["torch mlsm", "9", "9 to 9", "1"]
    assert remarks == ["broken: TypeError: no"]
    assert speedup(OURS, SMALL["entries"], "absent") is None
    assert [ratio(v) for v in (None, 0.123456, 1.6, 14617.4)] == ["–", "0.123", "1.6", "14617"]


def test_only_the_floors_time_is_printed() -> None:
    whole = report(SMALL)
    timed = report({**SMALL, "floor_us": 123.4})
    assert text_table(timed["results"]).startswith("32×20 float32, loss, 1 thread; floor 123 µs  (5 rounds)")
    for text in (text_table(whole["results"]), performance_page(whole), picture(whole), json.dumps(whole)):
        assert not re.search(r"\d\s*(ms|µs|us|ns|s|sec|seconds)\b", text)


def test_noisy_lines_are_marked() -> None:
    quiet, noisy = entry("mlsm, numpy", 2.0, low=1.5, high=2.9), entry("torch mlsm", 2.0, low=1.0, high=2.1)
    _, body, _ = rows(result(quiet, noisy))
    assert [line[2] for line in body] == ["1.5 to 2.9", "1 to 2.1 !"]
    assert NOISY_MEANING in performance_page(report(result(quiet)))


def test_the_table_begins_with_machine_versions_and_floor() -> None:
    header = text_header(report(SMALL))
    for words in ("A Processor (avx2)", "numpy 2", FLOOR_MEANING, NOISY_MEANING):
        assert words in header


def test_the_page_names_machine_versions_absent_libraries_and_failures() -> None:
    page = performance_page(report(SMALL), "performance.svg")
    for words in (
        "A Processor (avx2)",
        "numpy 2",
        "mlx (not installed)",
        "CUDA devices have not been measured yet",
        "](performance.svg)",
        "- 32×20 float32, loss, 1 thread: broken: TypeError: no",
    ):
        assert words in page
    assert "All threads compared with one" not in page


def trained(shape: tuple[int, int], floor: float, variant: str = PLAIN) -> dict[str, Any]:
    """Loss and gradient on NumPy arrays and on tensors, with the peers they are compared with."""
    whole = result(
        entry("mlsm, numpy, numba", 2.0, kernel="numba", way="value_and_grad", library="numpy"),
        entry("mlsm, numpy, numpy", 1.0, kernel="numpy", way="value_and_grad", library="numpy", forced=True),
        entry("plain expression, numpy", 9.0, way="value_and_grad", library="numpy"),
        entry("mlsm, torch, numba, backward", 4.0, kernel="numba", way="backward", library="torch"),
        entry("torch mlsm", 10.0, way="backward", library="torch"),
        entry("torch BCE-with-logits", 3.0, way="backward", library="torch"),
        shape=shape,
    )
    return {**whole, "floor_us": floor, "case": {**whole["case"], "gradient": True, "variant": variant}}


def compared(loss_alone: float = 0.5) -> list[dict[str, Any]]:
    """Three shapes in which the times of mlsm and of its peers differ in each direction, and JAX's loss alone."""
    cases = []
    for shape, numpys, bces, jaxs in (
        ((8192, 1000), 14.4, 12.9, 10.0),
        ((32, 20), 1.5, 1.88, 7.1),
        ((512, 80), 2.02, 2.9, 10.2),
    ):
        whole = result(
            entry("mlsm, numpy, numba", 2.0, kernel="numba", way="value_and_grad", library="numpy"),
            entry("plain expression, numpy", numpys, way="value_and_grad", library="numpy"),
            entry("mlsm, torch, numba, backward", 4.0, kernel="numba", way="backward", library="torch"),
            entry("torch mlsm", 4 * bces, way="backward", library="torch"),
            entry("torch BCE-with-logits", bces, way="backward", library="torch"),
            entry("mlsm, jax jit, backward", 20.0, kernel="generic", way="backward", library="jax"),
            entry("plain expression, jax jit", jaxs, way="backward", library="jax"),
            shape=shape,
        )
        alone = result(
            entry("mlsm, jax jit", 8.0, kernel="generic", way="loss", library="jax"),
            entry("plain expression, jax jit", 8.0 * loss_alone, way="loss", library="jax"),
            shape=shape,
        )
        cases += [{**whole, "floor_us": 10.0, "case": {**whole["case"], "gradient": True}}, {**alone, "floor_us": 10.0}]
    return cases


def test_the_page_begins_with_the_answer() -> None:
    """When mlsm is faster, when it is slower, and by how much: no ratio is below 1."""
    page = performance_page(report(*compared(), SMALL))
    answer = page.partition("# Performance\n\n")[2].partition("\n\n")[0].splitlines()
    numpys, torchs, jaxs = answer
    assert numpys == (
        "- With NumPy arrays, the textbook expression is 1.3 times as fast as mlsm at 32×20, the two are about equally "
        "fast at 512×80, and mlsm is 7.2 times as fast at 8192×1000."
    )
    assert torchs == (
        "- With PyTorch tensors and `backward()`, mlsm is faster than PyTorch's own loss at every shape measured "
        "(1.9 to 13 times as fast); PyTorch's binary cross-entropy is 2.1 times as fast as mlsm at 32×20 and 1.4 times "
        "at 512×80, and mlsm is 3.2 times as fast at 8192×1000."
    )
    assert jaxs == (
        "- With `jax.value_and_grad` under `jax.jit`, the textbook expression is faster than mlsm at every shape "
        "measured (2 to 2.8 times as fast); without the gradient, the textbook expression is faster than mlsm at every "
        "shape measured (2 times as fast)."
    )
    for row in (
        "| NumPy arrays | 32×20 | 20 µs | the textbook expression is 1.3 × as fast as mlsm |",
        "| NumPy arrays | 512×80 | 20 µs | about as fast as the textbook expression |",
        "| NumPy arrays | 8192×1000 | 20 µs | 7.2 × as fast as the textbook expression |",
        "| `jax.jit`, loss without its gradient | 8192×1000 | 80 µs | the textbook expression is 2 × as fast as mlsm |",
    ):
        assert row in page
    faster = performance_page(report(*compared(loss_alone=2.0)))
    assert "without the gradient, mlsm is faster than the textbook expression at every shape measured" in faster


def test_the_answer_names_only_what_was_measured() -> None:
    page = performance_page(report(trained((8192, 1000), 1000.0)))
    assert "- With NumPy arrays, mlsm is 4.5 times as fast as the textbook expression at 8192×1000." in page
    assert "JAX" not in page.partition("## How")[0]
    assert "jax" not in page.partition("## How")[0]


def test_a_noisy_time_is_marked_on_the_page() -> None:
    case = trained((8192, 1000), 1000.0)
    assert "| 2000 µs |" in performance_page(report(case))
    case["entries"][0]["low"] = 0.9
    assert "| 2000 µs ! |" in performance_page(report(case))


def test_the_page_says_what_an_option_costs() -> None:
    """Compared with the plain call of the same rounds, because another run may have had a slower machine."""
    masked = trained((512, 80), 15.0, "mask")
    ours = next(e for e in masked["entries"] if e["ours"] and e["library"] == "numpy")
    masked["entries"].append({**ours, "name": f"{ours['name']}{PLAIN_CALL}", "over_floor": ours["over_floor"] / 1.5})
    page = performance_page(report(trained((512, 80), 1.0), masked))
    assert f"| {VARIANTS['mask']} | NumPy arrays | 512×80 | 1.5 |" in page
    assert "What options cost" not in performance_page(report(trained((512, 80), 10.0)))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != HEAD])
def test_a_variant_is_timed_together_with_the_plain_call(variant: str) -> None:
    data = make_data((64, 30), "float32")
    case = Case((64, 30), "float32", True, "1", variant)
    spec = {
        "libraries": ["numpy", "torch"],
        "works": worker.works_of(case),
        "compiled": False,
        "only": [],
        "device": "cpu",
    }
    found, failed = worker.candidates_of(case, varied(data, variant), spec, data)
    assert not failed
    plain = [c for c in found if c.name.endswith(PLAIN_CALL)]
    assert {c.library for c in plain} == {"numpy", "torch"}
    for candidate in plain:
        assert candidate.value == data.value
        assert abs(float(candidate.make()()) / data.value - 1) < 32 * np.finfo(np.float32).eps, candidate.name


def test_the_page_stays_short() -> None:
    shapes = [(32, 20), (512, 80), (8192, 1000)]
    cases = [trained(shape, 10.0, variant) for shape in shapes for variant in (PLAIN, *VARIANTS)]
    page = performance_page(report(*cases), "performance.svg")
    assert len(page.splitlines()) < 150
    assert len(re.findall(r"\| \d+ µs \|", page)) <= 10


def test_all_threads_are_compared_with_one() -> None:
    large = [
        result(entry("mlsm, numpy, numba", t), shape=(8192, 1000), threads=n) for n, t in (("1", 1.5), ("all", 1.0))
    ]
    page = performance_page(report(*large))
    assert "| 8192×1000 float32, loss | mlsm, numpy, numba | 1.5 × as fast with all threads |" in page
    large[1]["entries"][0]["over_floor"] = 1.8
    assert "| mlsm, numpy, numba | 1.2 × as fast with one thread |" in performance_page(report(*large))


def test_the_picture_has_every_contestant_once_and_no_forced_kernel() -> None:
    forced = entry("mlsm, numpy, generic", 30.0, kernel="generic", forced=True)
    large = result(entry("mlsm, numpy, numpy", 3.0, kernel="numpy"), entry("torch mlsm", 5.0), shape=(512, 80))
    whole = report(result(*SMALL["entries"], forced), large)
    lines = lines_of(whole, "float32", False, "1")
    assert {line.name: len(line.points) for line in lines} == {"torch mlsm": 2, "mlsm, numpy": 2}
    drawn = picture(whole)
    assert drawn.count(">torch mlsm<") == 1
    for number in "12":
        assert drawn.count(f">{number}</text>") >= 2, "each line has its number in the plot and in the legend"


def test_the_legend_is_below_the_plot_and_legible_on_a_telephone() -> None:
    drawn = picture(report(SMALL))
    (axis,) = re.findall(r'y="([\d.]+)"[^>]*>elements of the input<', drawn)
    (name,) = re.findall(r'y="([\d.]+)"[^>]*>torch mlsm<', drawn)
    assert float(name) > float(axis)
    rules = re.findall(r"([^{}]+)\{[^{}]*font-size:(\d+)px", drawn)  # the last rule of a class counts
    sizes = {css: float(size) for names, size in rules for css in re.findall(r"\.(\w+)", names)}
    shown = set(re.findall(r'<text class="(\w+)', drawn))
    assert min(sizes[css] for css in shown) * 380 / WIDTH >= 10


def test_labels_are_spread_without_overlap_and_in_order() -> None:
    wanted = [50.0, 50.0, 51.0, 10.0, 99.0, 100.0]
    places = spread(wanted, 0.0, 100.0)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    ordered = [places[i] for i in order]
    assert min(b - a for a, b in pairwise(ordered)) >= GAP
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
    assert spread([10.0, 90.0], 0, 100) == [10.0, 90.0]
    assert spread([0.0, 0.0, 0.0], 0, 100) == [0.0, GAP, 2 * GAP]


# ---------------------------------------------------------------- the command


def test_every_peer_is_present_or_listed_as_absent() -> None:
    here, absent = present()
    assert set(here).isdisjoint(absent)
    assert set(here) | set(absent) >= set(BUILDERS)
    assert "numpy" in here


def test_each_work_has_mlsm_and_the_plain_expression_on_numpy() -> None:
    data = make_data((4, 3), "float32")
    for gradient, way in ((False, "loss"), (True, "value_and_grad")):
        found = list(numpy_candidates(Case((4, 3), "float32", gradient, "1"), data, "cpu"))
        assert {c.way for c in found} == {way}
        assert {"generic"} <= {c.kernel for c in found}
        assert "plain expression, numpy" in {c.name for c in found}
        assert sum(c.ours and not c.forced for c in found) == 1
        for c in found:
            assert abs(float(c.make()()) / data.value - 1) < 16 * np.finfo(np.float32).eps


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("gradient", [False, True])
def test_all_contestants_compute_the_same_variant(variant: str, gradient: bool) -> None:
    """Each contestant's loss is the reference value, which is computed here independently."""
    case = Case((6, 8), "float32", gradient, "1", variant)
    plain = make_data(case.shape, case.dtype)
    data = varied(plain, variant)
    x, y = data.x.astype(np.float64), data.y.astype(np.float64)
    losses = np.logaddexp(0, np.where(y == 1, -x, x)) * (1 if data.weight is None else data.weight)
    where = np.ones(x.shape, bool) if data.where is None else data.where
    means = (losses * where).sum(-1) / np.maximum(where.sum(-1), 1)
    assert (data.labels is None) == (variant not in MANY_CLASSES)
    if data.labels is not None:
        assert y.sum(-1).tolist() == [POSITIVES] * 6
    assert data.value == pytest.approx(means.sum() / where.any(-1).sum(), rel=1e-12)
    floor(case, data)()
    found = [*numpy_candidates(case, data, "cpu")]
    if "torch" in present()[0]:
        found += BUILDERS["torch"](case, data, "cpu")
    found = [candidate for candidate in found if candidate.way in worker.works_of(case)]
    assert bool(found) == (gradient or variant != "for weight")
    for candidate in found:
        assert abs(float(candidate.make()()) / data.value - 1) < 32 * np.finfo(np.float32).eps, candidate.name


def test_variants_are_measured_in_float32_and_are_not_in_the_picture() -> None:
    spec = {"shapes": [[4, 3], [65536, 1000]], "dtypes": ["float32", "float64"], "works": ["loss"], "threads": "1"}
    found = [str(case) for case in worker.cases_of({**spec, "variants": ["plain", "mask", "for weight"]})]
    assert found == [
        "4×3 float32, loss, 1 thread",
        "4×3 float32, loss, mask, 1 thread",
        "4×3 float64, loss, 1 thread",
        "65536×1000 float32, loss, 1 thread",
        "65536×1000 float64, loss, 1 thread",
    ]
    masked = result(entry("mlsm, numpy, numba", 9.0, kernel="numba"), shape=(512, 80))
    masked["case"]["variant"] = "mask"
    whole = report(SMALL, masked)
    assert [len(line.points) for line in lines_of(whole, "float32", False, "1")] == [1, 1]


def test_only_selects_contestants_by_name_and_kernels_by_library_and_name() -> None:
    def named(name: str, kernel: str = "") -> Candidate:
        return Candidate(name, "", "loss", lambda: lambda: 0.0, kernel=kernel)

    for name, kernel, only, right in (
        ("mlsm, numpy, numba", "numba", ["numpy"], True),
        ("mlsm, torch, numpy", "numpy", ["numpy"], False),
        ("mlsm, torch, numpy", "numpy", ["torch, numpy"], True),
        ("mlsm, torch, numba, backward", "numba", ["numpy", "Torch"], True),
        ("torch BCE-with-logits", "", ["bce"], True),
        ("torch BCE-with-logits", "", ["numba"], False),
        ("torch BCE-with-logits", "", [], True),
    ):
        assert worker.wanted(named(name, kernel), only) is right, (name, only)


def test_only_without_a_match_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--quick", "--shape", "4x3", "--work", "loss", "--rounds", "1", "--only", "nobody"]
    assert main(["bench", *options]) == 2
    assert "--only nobody: no implementation" in capsys.readouterr().err


def test_a_real_run_of_a_few_elements(tmp_path: Path) -> None:
    spec = {
        "shapes": [[4, 3]],
        "dtypes": ["float32"],
        "works": ["loss", "value_and_grad"],
        "variants": ["plain"],
        "libraries": ["numpy"],
        "only": ["numpy"],
        "rounds": 5,
        "seconds": 1.0,
        "compiled": False,
        "memory": False,
        "memory_from": 0,
        "device": "cpu",
        "threads": "1",
    }
    with open(tmp_path / "log", "w", encoding="utf-8") as log, Progress(2, log) as progress:
        results, end = command.run_worker(spec, progress)
    told = (tmp_path / "log").read_text(encoding="utf-8")
    assert told.startswith("4×3 float32, loss, 1 thread\n4×3 float32, loss and gradient, 1 thread\n"), told
    assert end["threads"] == "1"
    assert [r["case"]["gradient"] for r in results] == [False, True]
    for r in results:
        assert all(e["over_floor"] > 0 for e in r["entries"])
        assert r["rounds"] == 5
        assert r["floor_us"] > 0


def test_a_plain_expression_that_overflows_does_not_print_into_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = {
        "shapes": [[200, 200]],
        "dtypes": ["float16"],
        "works": ["value_and_grad"],
        "variants": ["plain"],
        "libraries": ["numpy"],
        "only": ["plain"],
        "rounds": 1,
        "seconds": 0.1,
        "compiled": False,
        "memory": False,
        "memory_from": 0,
        "device": "cpu",
        "threads": "1",
    }
    data = make_data((200, 200), "float16")
    with pytest.warns(RuntimeWarning, match="overflow"):
        np.exp(-data.x)
    with open(tmp_path / "log", "w", encoding="utf-8") as log, Progress(1, log) as progress:
        results, _ = command.run_worker(spec, progress)
    assert [e["name"] for e in results[0]["entries"]] == ["plain expression, numpy"]
    assert capfd.readouterr().err == ""


def test_a_worker_that_dies_is_an_error() -> None:
    with Progress(1, sys.stderr) as progress, pytest.raises(command.BenchError, match="ended with"):
        command.run_worker({"threads": "1"}, progress)


def test_from_shows_a_result_again_and_refuses_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "b.json"
    source.write_text(json.dumps(report(SMALL)), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    markdown, svg = tmp_path / "docs" / "performance.md", tmp_path / "docs" / "performance.svg"
    assert main(["bench", "--from", str(source), "--markdown", str(markdown), "--svg", str(svg)]) == 0
    assert "](performance.svg)" in markdown.read_text(encoding="utf-8")
    assert svg.read_text(encoding="utf-8").startswith("<svg ")
    assert "torch mlsm" in capsys.readouterr().out
    for wrong in ("{}", "[]", "not json"):
        source.write_text(wrong, encoding="utf-8")
        assert main(["bench", "--from", str(source)]) == 2
        assert "b.json" in capsys.readouterr().err


def test_from_joins_the_parts_of_one_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [report(SMALL), report(result(OURS, shape=(512, 80)))]
    other = report(result(OURS, shape=(8192, 1000)))
    other["machine"] = {**other["machine"], "cpu": "another"}
    names = []
    for i, part in enumerate((*parts, other)):
        names.append(str(tmp_path / f"{i}.json"))
        Path(names[-1]).write_text(json.dumps(part), encoding="utf-8")
    assert main(["bench", "--from", names[0], "--from", names[1]]) == 0
    told = capsys.readouterr().out
    assert "32×20" in told
    assert "512×80" in told
    for wrong, why in ((names[2], "different machines"), (names[0], "the same case")):
        assert main(["bench", "--from", names[0], "--from", wrong]) == 2
        assert why in capsys.readouterr().err


def test_default_options_with_and_without_quick() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    full, quick = parser.parse_args([]), parser.parse_args(["--quick", "--shape", "3x4", "--memory"])
    command.complete(full)
    command.complete(quick)
    assert (len(full.shape), len(full.dtype), full.threads, full.memory) == (5, 4, ["1", "all"], True)
    assert (quick.shape, quick.dtype, quick.threads, quick.memory) == ([(3, 4)], ["float32"], ["1"], True)
    with pytest.raises(SystemExit):
        parser.parse_args(["--shape", "3"])


def test_the_command_imports_no_array_library() -> None:
    code = (
        "import sys, mlsm_conformance.bench.command; "
        "print(sorted({'torch', 'jax', 'dask', 'numba'} & set(sys.modules)))"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


def test_the_worker_does_not_import_numpy() -> None:
    code = "import sys, mlsm_conformance.bench.worker; print('numpy' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "False", f"{worker.__name__} pins its processor before NumPy counts them"


def test_one_thread_means_one_processor() -> None:
    code = (
        "from mlsm_conformance.bench import worker as w; "
        "pinned = w.pin('1'); print(w.available_processors() == 1 or not pinned)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "True"
