"""Every row of the hazard table, on every installed library, with its exact answer.

The rows and answers are data of the conformance suite. Rows of behaviour, which have no single number, are tested in
the test of that behaviour; this file only checks that each has such a test.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import mlsm
from mlsm import _check, _core, _reduce
from mlsm_conformance import oracle
from mlsm_conformance.cases.catalogue import hazards
from mlsm_conformance.tensors import Hazard, Tensor

from . import _support
from ._support import Library, Route, answer, check, find, numpy_dtype, spacing

DTYPES = ("float16", "bfloat16", "float32", "float64")
ROWS: dict[str, Hazard] = {h.name: h for h in hazards(DTYPES)}
NUMBERS = [name for name, h in ROWS.items() if h.case is not None]

QUANTITIES: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[..., oracle.Answer]]] = {
    "loss": (mlsm.multilabel_soft_margin_loss, {"reduction": "none"}, lambda c: oracle.loss(c, "none")),
    "gradient": (mlsm.grad, {"reduction": "none"}, lambda c: oracle.grad(c, "none")),
    "hessian": (mlsm.hessian_diag, {"reduction": "none"}, lambda c: oracle.hessian_diag(c, "none")),
    "d_target": (mlsm.grad, {"reduction": "none", "wrt": "target"}, lambda c: oracle.grad(c, "none", "target")),
    "mean": (mlsm.multilabel_soft_margin_loss, {}, lambda c: oracle.loss(c, "mean")),
}


def _array(library: Library, tensor: Tensor) -> Any:
    if tensor.dtype not in library.dtypes and tensor.dtype in DTYPES:
        pytest.skip(f"{library.name} has no {tensor.dtype}")
    with np.errstate(all="ignore"):  # NaN and values that are subnormal in the dtype are intended
        return library.make(np.asarray(tensor.values).reshape(tensor.shape).astype(numpy_dtype(tensor.dtype)))


def _size(hazard: Hazard, quantity: str) -> float:
    """The sum of the sizes of an element's terms, to which its rounding errors are relative."""
    assert hazard.case is not None
    e = oracle.elements(hazard.case)[0]
    sizes = {"gradient": e.t + e.q * e.s, "loss": e.linear + e.smooth, "mean": e.linear + e.smooth}
    size = abs(e.w) * sizes.get(quantity, 0.0)
    return size if np.isfinite(size) else 0.0


@pytest.mark.parametrize("route", [r for r in _support.ROUTES if r != "dask-generic"], indirect=True)
@pytest.mark.parametrize("name", NUMBERS)
def test_row_of_numbers(route: Route, name: str) -> None:
    library, kernel = route
    hazard = ROWS[name]
    case = hazard.case
    assert case is not None
    x, y = _array(library, case.input), _array(library, case.target)
    # A row without decimals tests dtypes: the oracle has the answer.
    expected = {k: float(Decimal(v)) for k, v in hazard.expected} or {"loss": None, "gradient": None}
    for quantity, decimal in expected.items():
        function, options, exactly = QUANTITIES[quantity]
        result = function(
            x,
            y,
            case.weight,
            pos_weight=case.pos_weight,
            label_smoothing=case.label_smoothing,
            kernel=kernel,
            **options,
        )
        found = library.read(result)
        exact = answer(exactly(case)) if decimal is None else np.full(found.shape, decimal)
        size = np.maximum(np.abs(exact), _size(hazard, quantity))
        with np.errstate(all="ignore"):
            storage = 0.5 * spacing(exact, found.dtype.name) if found.dtype.name != case.compute_dtype else 0
            allowed = np.where(np.isfinite(exact), 5 * spacing(size, case.compute_dtype) + storage, 0)
            if library.name.startswith("jax") and case.compute_dtype == "float32":  # XLA flushes subnormal values
                allowed = np.maximum(allowed, np.where(np.abs(exact) < np.finfo(np.float32).tiny, np.abs(exact), 0))
            check(found, exact, allowed, f"{name}: {quantity}")


ELSEWHERE = {
    "axis0-sum": "test_hazards.py::test_sum_along_a_slow_axis",
    "many-terms": "test_sums.py::test_a_hundred_million_terms",
    "float-errors": "test_layouts.py::test_no_floating_point_flag_and_no_warning",
    "wide-index": "test_hazards.py::test_more_elements_than_32_bits_count",
    "unknown-size": "libraries/test_dask.py::test_unknown_batch_length",
    "refused-arrays": "test_check_refusals.py::test_refusal",
    "foreign-memory": "test_layouts.py::test_numpy_layout",
    "numpy-bfloat16": "test_core.py::test_special_values",
    "ragged-runtime": "libraries/test_dask.py::test_lengths_that_disagree_are_refused_inside_the_block",
    "no-float64": "test_hazards.py::test_a_device_without_float64",
    "autograd-zero": "test_hazards.py::test_gradient_at_zero_by_the_librarys_own_differentiation",
}


def test_every_row_of_behaviour_has_a_test() -> None:
    from importlib.resources import files

    assert {name for name, h in ROWS.items() if h.case is None} == set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, _, test = place.partition("::")
        assert f"def {test}(" in files(__package__).joinpath(file).read_text(encoding="utf-8"), place


@pytest.mark.parametrize(("library_name", "kernel"), [("numpy", None), ("numpy", "generic"), ("torch", None)])
def test_sum_along_a_slow_axis(library_name: str, kernel: str | None) -> None:
    """NumPy's own float32 sum of ones along axis 0 stops at 2**24."""
    hazard = ROWS["axis0-sum"]
    assert hazard.constant is not None
    (rows, columns), logit, target = hazard.constant
    library = find(library_name)
    x = np.broadcast_to(np.float32(logit), (rows, columns))
    if library_name == "torch":
        import torch

        x = torch.tensor(logit).expand(rows, columns)
        y = torch.tensor(bool(target)).expand(rows, columns)
    else:
        y = np.broadcast_to(np.bool_(target), (rows, columns))
    value = library.read(mlsm.multilabel_soft_margin_loss(x, y, axis=0, kernel=kernel))
    exact = float(Decimal(dict(hazard.expected)["mean"]))
    check(value, exact, 4 * np.spacing(np.float32(exact)).astype(np.float64), "mean")


@pytest.mark.parametrize("library_name", ["numpy", "torch"])
def test_more_elements_than_32_bits_count(library_name: str) -> None:
    """The divisors of 2**33 elements, which a 32-bit index cannot count; no array of that size is made."""
    shape = (2**21, 2**12)
    if find(library_name).name == "torch":
        import torch

        x = torch.zeros(()).expand(shape)
    else:
        x = np.broadcast_to(np.float32(0), shape)
    _, o, _ = _check.problem(x, x, None, None, None, "mean", 0.0, -1)
    g = o.xp.asarray(1.0, dtype=o.acc)
    assert float(_reduce.REDUCE["mean"].adjoint(o, g)) == 2.0**-21
    assert float(_core.rows_vjp(o._replace(x=x[:1, ...], y=x[:1, ...]), g)[0, 0]) == 2.0**-13


def test_more_rows_than_32_bits_count_under_jax() -> None:
    jax = pytest.importorskip("jax", reason="this row is about JAX")
    shape = jax.ShapeDtypeStruct((2**32, 1), np.float32)
    for x64 in (False, True):
        with jax.enable_x64(x64):
            assert jax.eval_shape(mlsm.multilabel_soft_margin_loss, shape, shape).shape == ()
            assert jax.eval_shape(mlsm.grad, shape, shape).shape == (2**32, 1)


def test_a_device_without_float64() -> None:
    xp = pytest.importorskip("array_api_strict", reason="it has a device without float64")
    if "no_float64" not in [str(d) for d in xp.__array_namespace_info__().devices()] and not _has_device(xp):
        pytest.skip("this array_api_strict has no device without float64")
    x = xp.zeros((5, 3), dtype=xp.float32, device=xp.Device("no_float64"))
    y = xp.ones((5, 3), dtype=xp.float32, device=xp.Device("no_float64"))
    value, gradient = mlsm.value_and_grad(x, y, 2.0, where=y > 0, pos_weight=[1.0, 2.0, 3.0])
    assert value.device == gradient.device == x.device
    assert value.dtype == xp.float32
    check(float(value), 4 * np.log(2), 8 * 2.0**-24 * 4, "value")


def _has_device(xp: Any) -> bool:
    try:
        xp.Device("no_float64")
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("library_name", ["torch", "jax", "jax-x64"])
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_gradient_at_zero_by_the_librarys_own_differentiation(library_name: str, zero: float) -> None:
    library = find(library_name)
    with library.session():
        x, y = (library.make(np.asarray([v], dtype=np.float32)) for v in (zero, 1.0))
        gradients = []
        if library_name == "torch":
            import torch

            for kernel in (None, "generic"):
                leaf = x.clone().requires_grad_()
                mlsm.multilabel_soft_margin_loss(leaf, y, kernel=kernel).backward()
                gradients.append(leaf.grad)
            gradients.append(torch.func.grad(mlsm.multilabel_soft_margin_loss)(x, y))
        else:
            import jax

            gradients.append(jax.grad(mlsm.multilabel_soft_margin_loss)(x, y))
        for gradient in gradients:
            assert library.read(gradient).tolist() == [-0.5]


def test_the_table_is_not_empty() -> None:
    assert len(NUMBERS) > 60
    assert _support.LIBRARIES
