"""The extension points for users: a backend, a kernel, a loss, an expected case, `call` with a case."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mlsm
from mlsm import _dispatch

from .. import bounds, oracle
from ..__main__ import main
from ..cases import dense_cases
from ..suite import LossSuite
from ._slow import backend_or_skip
from .losses import seams

HERE = f"{__package__}.losses.seams"
FAST = ["--check", "values.hard", "--check", "values.plain", "--dtype", "float32"]


class TestRightLoss(LossSuite):
    """As the maintainer of a loss would write it."""

    impl = f"{__package__}.losses.right:numpy_loss"
    checks = ("values.hard", "values.plain", "derivatives.plain", "special.infinite", "types", "purity")


class TestLossThatIsKnownToFail(LossSuite):
    impl = f"{__package__}.losses.wrong:log_of_one_plus"
    checks = ("values.tail", "special.zero")
    expected = {"values.tail": "log for log1p"}  # noqa: RUF012  # as the documentation writes it


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--backend", f"{HERE}:Mine"], 0, "mine: conforms"),
        (["numpy", "--kernel", f"{HERE}:kernel"], 0, "seam compared with the reference on numpy"),
        (["numpy", "--kernel", f"{HERE}:wrong_kernel"], 1, "FAIL values.plain"),
        (["--impl", f"{HERE}:two_axes_only"], 0, "(N, C) only"),
        (["--impl", f"{HERE}:of_elements"], 1, "returns one value per element, 24 for 6 rows"),
        (["--impl", f"{HERE}:of_elements", "--elementwise"], 0, "of_elements is judged element by element"),
        (["--impl", f"{HERE}:mean_only"], 0, "mean_only has no `reduction`: judged as mean only"),
        (["--impl", f"{HERE}:a_cth"], 1, "every value is 1/C of the right one"),
    ],
    ids=lambda value: value[-1].rpartition(":")[2] if isinstance(value, list) else "",
)
def test_an_extension_on_the_command_line(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(["run", *words, *FAST]) == code
    finally:
        for name in {"seam", "wrong seam"} & set(_dispatch.names()):
            mlsm.unregister_kernel(name)
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("alias", "name"), [("dask.array", "dask"), ("jax.numpy", "jax"), ("array_api_compat.numpy", "numpy")]
)
def test_a_namespace_names_its_backend(alias: str, name: str) -> None:
    assert backend_or_skip(alias).name == name


@pytest.mark.parametrize("name", ["numpy", "torch", "jax-jit", "dask"])
def test_a_case_can_be_called_on_every_library(name: str) -> None:
    backend = backend_or_skip(name)
    case = dense_cases.optioned("weight", "float32")[0]
    seen = backend.to_list(backend.call(case, mlsm.multilabel_soft_margin_loss))
    bounds.judge_all(seen, oracle.loss(case, "mean").values, bounds.bound_loss(case, "mean"), name, "float32")


def test_one_case_may_be_expected_to_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    impl = f"{__package__}.losses.wrong:spreads_weights_over_rows"
    words = ["run", "numpy", "--impl", impl, "--check", "values.weight", "--dtype", "float32", "--level", "smoke"]
    assert main(words) == 1
    assert "float32-weight-square" in capsys.readouterr().out
    known = tmp_path / "known.txt"
    known.write_text("values.weight/float32-weight-square taken for rows\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 0
    known.write_text(known.read_text() + "values.weight/float32-weight-classes it does not\n", encoding="utf-8")
    assert main([*words, "--expected-failures", str(known)]) == 3
    assert "values.weight/float32-weight-classes was expected to fail" in capsys.readouterr().out


def test_arrays_are_read_in_one_call_and_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from ..backends.other import Other

    other = Other(np)
    other._trusted = None
    calls: list[object] = []
    slow = other._one_by_one

    def counted(array: object, shape: tuple[int, ...]) -> list[float]:
        calls.append(array)
        return slow(array, shape)

    monkeypatch.setattr(other, "_one_by_one", counted)
    array = np.asarray([[0.5, -0.0], [np.nan, np.inf]])
    for _ in range(3):
        assert str(other.to_list(array)) == "[0.5, -0.0, nan, inf]"
    assert len(calls) == 1
    lying = Other(np)
    lying._trusted = None
    monkeypatch.setattr(lying, "_at_once", lambda array, shape: [0.0] * 4)
    assert str(lying.to_list(array)) == "[0.5, -0.0, nan, inf]"
    assert seams.Mine().to_list(array)[0] == 0.5


def test_an_array_that_numpy_cannot_read_may_convert_itself() -> None:
    import numpy as np

    from ..backends.other import Other

    class Wrapped:
        """An array like that of ndonnx: NumPy sees an object, and `unwrap_numpy` gives the values."""

        shape = (3,)

        def __init__(self, values: list[float]) -> None:
            self.values = values

        def unwrap_numpy(self) -> Any:
            return np.asarray(self.values, dtype=np.float32)

        def __getitem__(self, index: int) -> float:
            return [0.5, 2.0, 1.0][index]

    other = Other(np)
    namespace: Any = SimpleNamespace(reshape=lambda array, shape: array)
    other._module = namespace
    for values in ([0.5, 2.0, 1.0], [0.5, 3.0, 1.0]):  # if the conversion differs from its elements, the elements count
        other._trusted = None
        assert other.to_list(Wrapped(values)) == [0.5, 2.0, 1.0]
        assert other._trusted == (values[1] == 2.0)
