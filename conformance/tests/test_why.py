"""The sentences of the gallery about the peers that are installed for the tests: mpmath finds the same mistakes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from .. import peers
from ..run.why import WHY, Why, explains, look, recomputed, returned

pytest.importorskip("mpmath", reason="it recomputes what is claimed")
ALL = {p.call.__name__: p for p in (*peers.PEERS, *peers.OTHERS)}
CLAIMS = [
    pytest.param(name, why, id=f"{name}-{why.quantity}")
    for name, whys in WHY.items()
    for why in whys
    if name in ALL and name != "keras_bce"  # installed without an engine as often as with it
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # 0 * inf, which is what one of them is about
@pytest.mark.parametrize(("name", "why"), CLAIMS)
def test_the_same_arithmetic_is_as_wrong(name: str, why: Why) -> None:
    absent = ALL[name].absent()
    if absent is not None:
        pytest.skip(absent)
    for x, y in why.points:
        seen = returned(name, why, x, y)
        assert explains(why, x, y, seen), (name, x, y, seen, recomputed(why, x, y))


def test_a_sentence_is_not_confirmed_by_what_is_right_or_wrong_in_another_way() -> None:
    for whys in WHY.values():
        for why in whys:
            for x, y in why.points:
                right, rounded = recomputed(why, x, y)
                assert not explains(why, x, y, right)
                assert not explains(why, x, y, 1.5 * right + 1e-3)
                assert explains(why, x, y, rounded), (why.sentence, x, y)


def test_every_peer_of_the_gallery_has_its_sentence() -> None:
    assert set(WHY) == set(ALL) | {"keras_bce_numpy"}
    assert all(math.isfinite(recomputed(why, x, y)[0]) for whys in WHY.values() for why in whys for x, y in why.points)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_line_of_the_gallery_shows_a_claim_again(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="it is scikit-learn's loss")
    look("sklearn_half_binomial")
    said = capsys.readouterr().out
    assert "at x=40.0, y=1.0: 0.0, exactly 4.248354255291589e-18" in said
    assert said.count(": confirmed") == 2


def test_the_gallery_says_of_every_peer_what_mpmath_gives() -> None:
    page = Path(__file__).resolve().parents[2].joinpath("docs", "gallery.md").read_text(encoding="utf-8")
    for name, whys in WHY.items():
        section = next(s for s in page.split("\n## ") if f'look("{name}")' in s)
        for why in whys:
            (x, y), right = why.points[0], recomputed(why, *why.points[0])[0]
            assert f"It {why.sentence}. In {why.dtype}, at x = {x!r} and y = {y!r}" in section
            assert f"exactly {right!r}." in section
