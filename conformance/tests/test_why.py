"""The gallery's sentences about the peers that the tests install: mpmath reproduces the same mistakes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from .. import peers
from ..run.why import WHY, Why, explains, look, recomputed, returned

pytest.importorskip("mpmath", reason="it recomputes the claims")
ALL = {p.call.__name__: p for p in (*peers.PEERS, *peers.OTHERS)}
CLAIMS = [
    pytest.param(name, why, id=f"{name}-{why.quantity}")
    for name, whys in WHY.items()
    for why in whys
    if name in ALL and name != "keras_bce"  # it may be installed without an engine
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # one of the mistakes is 0 * inf
@pytest.mark.parametrize(("name", "why"), CLAIMS)
def test_the_recomputed_arithmetic_has_the_same_error(name: str, why: Why) -> None:
    absent = ALL[name].absent()
    if absent is not None:
        pytest.skip(absent)
    for x, y in why.points:
        seen = returned(name, why, x, y)
        assert explains(why, x, y, seen), (name, x, y, seen, recomputed(why, x, y))


def test_a_right_or_otherwise_wrong_result_does_not_confirm_a_sentence() -> None:
    for whys in WHY.values():
        for why in whys:
            for x, y in why.points:
                right, rounded = recomputed(why, x, y)
                assert not explains(why, x, y, right)
                assert not explains(why, x, y, 1.5 * right + 1e-3)
                assert explains(why, x, y, rounded), (why.sentence, x, y)


def test_every_peer_of_the_gallery_has_a_sentence() -> None:
    assert set(WHY) == set(ALL) | {"keras_bce_numpy"}
    assert all(math.isfinite(recomputed(why, x, y)[0]) for whys in WHY.values() for why in whys for x, y in why.points)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_gallerys_line_shows_its_claim_again(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn", reason="it is scikit-learn's loss")
    look("sklearn_half_binomial")
    said = capsys.readouterr().out
    assert "at x=40.0, y=1.0: 0.0, exactly 4.248354255291589e-18" in said
    assert said.count(": confirmed") == 2


def test_the_gallery_has_mpmaths_numbers_for_every_peer() -> None:
    page = Path(__file__).resolve().parents[2].joinpath("docs", "gallery.md").read_text(encoding="utf-8")
    for name, whys in WHY.items():
        section = next(s for s in page.split("\n## ") if f'look("{name}")' in s)
        for why in whys:
            (x, y), right = why.points[0], recomputed(why, *why.points[0])[0]
            assert f"It {why.sentence}. In {why.dtype}, at x = {x!r} and y = {y!r}" in section
            assert f"the exact value is {right!r}." in section
