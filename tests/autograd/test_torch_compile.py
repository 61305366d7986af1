"""PyTorch's compilers: one graph without a break, no recompile per shape, right at 0 and ±inf, with transforms.

Few compilations, because each takes seconds: one program has many checks, and its inputs have every special point.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import mlsm

from .._support import check

torch = pytest.importorskip("torch", reason="this file tests PyTorch's compilers")

# The compiler's own modules warn (deprecated scripting, a slow cold start); warnings of this package are still errors.
pytestmark = [
    pytest.mark.filterwarnings("default::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("default::FutureWarning:torch.*"),
    pytest.mark.filterwarnings("default::UserWarning:torch.*"),
]

INF = float("inf")
loss = mlsm.multilabel_soft_margin_loss
X = [[0.0, -0.0, 1.5, -40.0], [INF, -INF, 40.0, 0.25], [INF, 0.0, -INF, 3.0]]
Y = [[1.0, 0.0, 0.25, 0.0], [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.5]]  # every infinity is matched
W = [0.5, 1.5, 2.0, 1.0]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Otherwise the compiler's caches count recompilations across tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _points(dtype: Any = torch.float64) -> tuple[Any, Any, Any]:
    return torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=dtype), torch.tensor(W, dtype=dtype)


def _everything(x: Any, y: Any, w: Any) -> tuple[Any, ...]:
    """One program with the loss, mlsm's derivatives, and PyTorch's own differentiation of the loss."""
    where = y < 0.9
    return (
        loss(x, y, w, reduction="none"),
        mlsm.grad(x, y, w),
        mlsm.hessian_diag(x, y, w),
        *mlsm.value_and_grad(x, y, w, where=where, label_smoothing=0.1),
        loss(x, y, 2.0, pos_weight=[1.0, 2.0, 3.0, 4.0], axis=-1),
    )


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_fullgraph(backend: str) -> None:
    x, y, w = _points()
    compiled = torch.compile(_everything, backend=backend, fullgraph=True)
    for i, (a, b) in enumerate(zip(compiled(x, y, w), _everything(x, y, w), strict=True)):
        scale = b.abs().numpy()
        check(a.numpy(), b.numpy(), 8 * 2.0**-53 * np.where(np.isfinite(scale), scale, 0), f"result {i}")


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_backward_of_a_compiled_loss(backend: str) -> None:
    x, y, w = _points()
    leaves = [v.requires_grad_() for v in (x, y, w)]
    value = torch.compile(loss, backend=backend, fullgraph=True)(*leaves)
    compiled = torch.autograd.grad(value, leaves)
    eager = torch.autograd.grad(loss(*leaves, kernel="generic"), leaves)
    check(value.item(), loss(*leaves).item(), 8 * 2.0**-53 * abs(value.item()), "value")
    for name, a, b in zip(("input", "target", "weight"), compiled, eager, strict=True):
        check(a.numpy(), b.numpy(), 8 * 2.0**-53 * b.abs().numpy(), name)
    by_hand = mlsm.grad(x.detach(), y.detach(), w.detach())
    check(compiled[0].numpy(), by_hand.numpy(), 8 * 2.0**-53 * by_hand.abs().numpy(), "by hand")
    assert (by_hand == 0).sum() == 4  # the matched infinities


@pytest.mark.parametrize("backend", [pytest.param("inductor", marks=pytest.mark.slow), "aot_eager"])
def test_compile_over_transforms_and_transforms_over_compile(backend: str) -> None:
    x, y, w = _points()
    expected = mlsm.grad(x, y, w)
    allowed = 8 * 2.0**-53 * expected.abs().numpy()
    over = torch.compile(torch.func.grad(loss), backend=backend, fullgraph=True)(x, y, w)
    check(over.numpy(), expected.numpy(), allowed, "compile over func.grad")
    per_row = torch.func.vmap(torch.func.grad(loss), in_dims=(0, 0, None))
    rows = torch.compile(per_row, backend=backend, fullgraph=True)(x, y, w)
    check(rows.numpy() / 3, expected.numpy(), 2 * allowed, "compile over vmap over grad")
    under = torch.func.grad(torch.compile(loss, backend=backend))(x, y, w)
    check(under.numpy(), expected.numpy(), allowed, "func.grad over compile")


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _mixed(x: Any, y: Any, w: Any) -> tuple[Any, ...]:
    return loss(x, y, w), mlsm.grad(x, y, w), *mlsm.value_and_grad(x, y), mlsm.hessian_diag(x, y, pos_weight=w)


def _spaced(dtype: Any, found: Any, expected: Any, what: str) -> None:
    """Assert the dtype, and values within one rounding to a half precision and a few float32 roundings."""
    assert found.dtype == expected.dtype == dtype, what
    eps = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal * eps
    room = (8 if dtype in (torch.float32, torch.float64) else 2) * eps * expected.abs().double() + tiny
    check(found.double().numpy(), expected.double().numpy(), room.numpy(), what)


@pytest.mark.slow  # the suite's transforms.compile has some of these mixes
@pytest.mark.parametrize("dx", FLOATS, ids=str)
def test_every_mix_of_dtypes(dx: Any) -> None:
    x = torch.tensor([[0.0, -0.0, 1.5, -4.0], [0.5, -1.25, 3.0, 0.25]]).to(dx)
    for dy in (*FLOATS, torch.bool, torch.int64, torch.uint8):
        for dw in (torch.bfloat16, torch.float32, torch.float64) if dy == dx else (dx,):
            torch._dynamo.reset()
            y, w = (x > 0).to(dy), torch.tensor(W).to(dw)
            # One trace gives both, because tracing takes most of this file's time.
            traced = torch.compile(mlsm.value_and_grad, backend="eager", fullgraph=True)(x, y, w)
            for name, found, expected in zip(("loss", "gradient"), traced, mlsm.value_and_grad(x, y, w), strict=True):
                _spaced(expected.dtype, found, expected, f"{name} of {dx}, {dy}, {dw}")
            value = traced[0].dtype
            both = [d for d in (dx, dy, dw) if d.is_floating_point]
            assert value == sum(torch.zeros(1, dtype=d) for d in both).dtype


@pytest.mark.parametrize("backend", [pytest.param("inductor", marks=pytest.mark.slow), "aot_eager"])
def test_halves_fullgraph(backend: str) -> None:
    x = torch.tensor([[0.0, -0.0, 1.5, -4.0], [0.5, -1.25, 3.0, 0.25]])
    for dx, dw in ((torch.bfloat16, torch.float32), (torch.float16, torch.float16)):
        call = x.to(dx), (x > 0).to(dx), torch.tensor(W).to(dw)
        compiled = torch.compile(_mixed, backend=backend, fullgraph=True)
        for i, (a, b) in enumerate(zip(compiled(*call), _mixed(*call), strict=True)):
            _spaced(b.dtype, a, b, f"{dx}, {dw}: result {i}")


class _Both(torch.nn.Module):
    def forward(self, x: Any, y: Any) -> tuple[Any, Any]:
        return loss(x, y), mlsm.grad(x, y)


@pytest.mark.parametrize("strict", [True, False])
def test_export_of_halves_with_a_batch_of_any_length(strict: bool) -> None:
    """Without a largest length, because no code compares the symbolic length with a number."""
    x = torch.linspace(-3, 3, 12).reshape(4, 3)
    for dtype in (torch.bfloat16, torch.float32):
        batch = torch.export.Dim("batch")
        call = x.to(dtype), (x > 0).float()
        program = torch.export.export(_Both(), call, dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
        for n in (4, 2, 9):
            longer = torch.linspace(-2, 2, 3 * n).reshape(n, 3)
            given = longer.to(dtype), (longer > 0).float()
            for a, b in zip(program.module()(*given), _Both()(*given), strict=True):
                _spaced(b.dtype, a, b, f"{dtype}, {n} rows")


def _count(function: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], Any]:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("eager")  # an aot backend may be called twice for one graph
    return torch.compile(function, backend=counter, fullgraph=True, **options), counter


def test_dynamic_shapes_do_not_recompile() -> None:
    compiled, counter = _count(loss, dynamic=True)
    for n, c in ((4, 3), (5, 3), (7, 11), (64, 2)):
        x = torch.randn(n, c, generator=torch.Generator().manual_seed(n))
        y = (x > 0).float()
        value = compiled(x, y)
        check(value.item(), loss(x, y).item(), 4 * 2.0**-23, f"({n}, {c})")
    assert counter.frame_count == 1


def test_dynamic_shapes_of_a_training_step_do_not_recompile() -> None:
    def step(x: Any, y: Any, w: Any) -> Any:
        value, gradient = mlsm.value_and_grad(x, y, w)
        return value, x - gradient, loss(x, y, w, reduction="none")

    compiled, counter = _count(step, dynamic=True)
    for n, c in ((4, 3), (5, 6), (70, 11)):
        x = torch.randn(n, c, generator=torch.Generator().manual_seed(n))
        y, w = (x > 0).float(), torch.rand(c, generator=torch.Generator().manual_seed(c))
        for a, b in zip(compiled(x, y, w), step(x, y, w), strict=True):
            check(a.numpy(), b.numpy(), 16 * 2.0**-23 * (1 + b.abs().numpy()), f"({n}, {c})")
    assert counter.frame_count == 1


def test_automatic_dynamic_shapes_recompile_once() -> None:
    compiled, counter = _count(loss)
    for n in (4, 5, 7, 64):
        compiled(torch.zeros(n, 3), torch.ones(n, 3))
    assert counter.frame_count == 2  # once static, once dynamic


def test_the_class_and_the_nn_module_compile() -> None:
    import mlsm.nn.torch

    x, y, w = _points()
    expected = loss(x, y, w)
    for criterion in (mlsm.MultiLabelSoftMarginLoss(w), mlsm.nn.torch.MultiLabelSoftMarginLoss(w)):
        value = torch.compile(criterion.forward, backend="aot_eager", fullgraph=True)(x, y)
        check(value.item(), expected.item(), 4 * 2.0**-53 * expected.item(), type(criterion).__module__)


def test_refusals_inside_a_compiled_region_name_the_argument() -> None:
    compiled = torch.compile(loss, backend="eager")
    with pytest.raises(Exception, match="`target`"):
        compiled(torch.zeros(2, 3), torch.zeros(2, 2))


def test_export() -> None:
    import mlsm.nn.torch

    x, y, w = _points(torch.float32)
    module = mlsm.nn.torch.MultiLabelSoftMarginLoss(w, label_smoothing=0.0)
    batch = torch.export.Dim("batch", min=2)
    shapes = {"input": {0: batch}, "target": {0: batch}}
    program = torch.export.export(module, (x, y), dynamic_shapes=shapes)
    for n in (3, 2):
        value = program.module()(x[:n], y[:n])
        check(value.item(), module(x[:n], y[:n]).item(), 4 * 2.0**-24 * abs(value.item()), f"batch of {n}")


def test_make_fx_traces_the_formula() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    x, y, w = _points()
    x.requires_grad_()
    graph = make_fx(lambda *v: loss(*v))(x, y, w)
    other = torch.flip(x.detach(), (0,))
    expected = loss(other, torch.flip(y, (0,)), w)
    check(graph(other, torch.flip(y, (0,)), w).item(), expected.item(), 8 * 2.0**-53 * expected.item(), "traced")
