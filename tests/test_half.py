"""float16 and bfloat16: every one of the 65,536 inputs, with targets 0 and 1, within 0.51 ULP of the exact value.

The sweep and its reference are those of the conformance suite; this file has the libraries that `make test` sweeps.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm_conformance.reference import exhaustive

from ._support import Library, find, numpy_dtype

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "loss": mlsm.multilabel_soft_margin_loss,
    "gradient": mlsm.grad,
    "hessian": mlsm.hessian_diag,
}
ROUTES = [("numpy", None), ("numpy", "generic"), ("torch", None), ("torch", "generic"), ("jax", None)]


def _hard(dtype: str) -> Iterator[tuple[Any, Any]]:
    x = exhaustive.half_inputs(dtype)
    for y in (0.0, 1.0):
        yield x, np.full_like(x, y)


def _evaluate(library: Library, dtype: str, kernel: str | None) -> Callable[[Any, Any, str], Any]:
    kind = numpy_dtype(dtype)

    def evaluate(x: Any, y: Any, quantity: str) -> Any:
        with np.errstate(all="ignore"):  # NaN and infinities are intended here
            a, b = (library.make(v.astype(kind)[:, None]) for v in (x, y))
        found = library.read(FUNCTIONS[quantity](a, b, reduction="none", kernel=kernel))
        assert found.dtype == kind
        with np.errstate(all="ignore"):
            return found.astype(np.float64).reshape(-1)

    return evaluate


@pytest.mark.parametrize(("name", "kernel"), ROUTES, ids=[f"{n}-{k}" for n, k in ROUTES])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("quantity", exhaustive.QUANTITIES)
def test_all_65536_inputs(name: str, kernel: str | None, dtype: str, quantity: str) -> None:
    library = find(name)
    with library.session():
        # XLA's float32 arithmetic flushes subnormal values, and subnormal bfloat16 values are subnormal in float32.
        flush = frozenset({"float32"}) if name == "jax" else frozenset()
        evaluate = _evaluate(library, dtype, kernel)
        seen = exhaustive.sweep(evaluate, dtype, quantity, blocks=_hard(dtype), flush=flush)
    assert seen.count == 2 * 65_536
    assert seen.ulp <= 0.51, f"{seen.ulp} ULP, worst at {seen.where}: {seen.examples}"
    assert seen.conforms, seen.examples


def test_the_sweep_finds_one_wrong_element() -> None:
    right = _evaluate(find("numpy"), "float16", "generic")

    def wrong(x: Any, y: Any, quantity: str) -> Any:
        found = np.array(right(x, y, quantity))
        at = int(np.flatnonzero((x == 1.0) & (y == 1.0))[0]) if y[0] == 1 else 0
        found[at] = np.nextafter(found[at].astype(np.float16), np.float16(9)) if y[0] == 1 else found[at]
        return found

    seen = exhaustive.sweep(wrong, "float16", "loss", blocks=_hard("float16"))
    assert seen.violations == 1
    assert seen.ulp > 0.51


def test_rounding_before_the_cast_gives_the_result_of_the_cast() -> None:
    _settle = pytest.importorskip("mlsm.kernels.numpy", reason="kernels/ was deleted")._settle
    halves = np.arange(0x8000, dtype=np.uint16).view(np.float16)[:0x7C00].astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    positive = np.concatenate([halves, ties, np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1))])
    values = np.concatenate([positive, -positive, np.asarray([np.inf, -np.inf, np.nan], np.float32)])
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16)
    _settle(values, np.empty_like(values))
    with np.errstate(under="raise"):  # the cast does not round subnormal values again
        found = values.astype(np.float16)
    assert found.tobytes() == expected.tobytes()
