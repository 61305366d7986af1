"""DTensor in two processes, sharded by rows and by classes, evenly and not: the values of plain tensors."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="this file tests PyTorch")
WORLD = 2


def _everything(x: Any, y: Any, options: dict[str, Any], reduction: Any) -> list[Any]:
    """Every function, and PyTorch's own derivative for every argument."""
    import torch

    import mlsm

    own = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    found = [*mlsm.value_and_grad(x, y, reduction=reduction, **own)]
    found += [mlsm.hessian_diag(x, y, reduction=reduction, **own)]
    for wrt in ("target", "weight", "pos_weight"):
        if wrt == "target" or wrt in own:
            found.append(mlsm.grad(x, y, wrt=wrt, reduction=reduction, **own))  # type: ignore[arg-type]
    leaves = [x.detach().clone(), y.detach().clone()]
    leaves += [v for k, v in own.items() if k != "where" and isinstance(v, torch.Tensor)]
    for leaf in leaves:
        leaf.requires_grad_()
    loss = mlsm.multilabel_soft_margin_loss(leaves[0], leaves[1], reduction=reduction, **own)
    loss.sum().backward()
    return [*found, loss.detach(), *(leaf.grad for leaf in leaves)]


def _halves(mesh: Any, made: Any) -> int:
    """A half-precision result is the sum over all shards, rounded once: no shard's part is rounded by itself."""
    import torch
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    import mlsm

    calls = 0
    for dtype in (torch.bfloat16, torch.float16):
        x, y = (2 * torch.randn(24, 10, generator=made)).to(dtype), (torch.rand(24, 10, generator=made) > 0.5).to(dtype)
        weight = (torch.rand(10, generator=made) + 0.5).to(dtype)
        for axis in (0, 1):
            spread = [distribute_tensor(v, mesh, [Shard(axis)]) for v in (x, y)]
            whole = distribute_tensor(weight, mesh, [Replicate()])
            for function, options in (
                (mlsm.multilabel_soft_margin_loss, {"reduction": "none"}),
                (mlsm.multilabel_soft_margin_loss, {"reduction": "mean"}),
                (mlsm.grad, {"wrt": "weight", "reduction": "sum"}),
            ):
                seen = function(*spread, whole, **options).full_tensor()  # type: ignore[operator]
                right = function(x.double(), y.double(), weight.double(), **options)  # type: ignore[operator]
                u = torch.finfo(dtype).eps / 2
                error = (seen.double() - right).abs()
                assert seen.dtype == dtype
                assert bool((error <= 1.01 * u * right.abs()).all()), (dtype, axis, options, error / right.abs() / u)
                calls += 1
    return calls


def _refusals(mesh: Any) -> None:
    """A plain tensor with a DTensor is refused by name, with a remedy that works; a 0-d one is accepted."""
    import torch
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    import mlsm

    plain = torch.zeros(4, 2)
    spread = distribute_tensor(plain, mesh, [Shard(0)])
    one = torch.ones(2)
    for name, value in (("weight", one), ("pos_weight", one), ("where", one > 0), ("target", plain)):
        given = {"input": spread, "target": spread, name: value}
        with pytest.raises(TypeError, match=f"`{name}` must be a DTensor .*distribute_tensor"):
            mlsm.multilabel_soft_margin_loss(**given)  # type: ignore[arg-type]
        given[name] = distribute_tensor(value, mesh, [Replicate()])
        with pytest.raises(TypeError, match=f"`{name}` must be a plain tensor.*full_tensor"):
            mlsm.grad(**{"input": plain, "target": plain, name: given[name]})
        assert mlsm.multilabel_soft_margin_loss(**given).full_tensor() > 0  # type: ignore[arg-type, attr-defined]
    with pytest.raises(TypeError, match="`grad_output` must be a DTensor"):
        mlsm.grad(spread, spread, reduction="none", grad_output=torch.ones(4))
    assert mlsm.grad(spread, spread, torch.tensor(2.0)).full_tensor().shape == (4, 2)  # type: ignore[attr-defined]


def _judge() -> None:
    """The program of each process: the same in both, as distributed tensors require."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

    import mlsm

    mesh = init_device_mesh("cpu", (WORLD,))
    made = torch.Generator().manual_seed(0)
    calls = 0
    for (n, c), axis in [((4, 4), 0), ((4, 4), 1), ((5, 3), 0), ((3, 5), 1), ((1, 2), 0)]:
        x = 2 * torch.randn(n, c, generator=made)
        y = (torch.rand(n, c, generator=made) > 0.5).float()
        where = torch.rand(n, c, generator=made) > 0.4
        where[0] = False
        classes, rows = torch.rand(c, generator=made) + 0.5, torch.rand(n, 1, generator=made) + 0.5

        def put(value: Any, axis: int = axis) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            whole = value.ndim < 2 or value.shape[axis] == 1
            return distribute_tensor(value, mesh, [Replicate() if whole else Shard(axis)])

        listed = [1.0 + i for i in range(c)]
        for reduction, options in (
            ("mean", {"where": where}),
            ("sum", {"where": where, "weight": classes, "pos_weight": rows}),
            ("none", {"where": where[-1], "weight": 2.0}),
            ("mean", {"weight": listed, "pos_weight": [listed] * n}),
            ("mean", {"label_smoothing": 0.1, "weight": rows, "where": where}),
        ):
            right = _everything(x, y, options, reduction)
            seen = _everything(put(x), put(y), {k: put(v) for k, v in options.items()}, reduction)
            for place, (a, b) in enumerate(zip(seen, right, strict=True)):
                assert isinstance(a, DTensor), place
                a = a.full_tensor()
                what = f"{(n, c)} sharded by axis {axis}, {reduction}, {[*options]}, result {place}: {a} and {b}"
                assert a.shape == b.shape, what
                assert a.dtype == b.dtype, what
                bound = 16 * 2.0**-24 * torch.maximum(b.abs(), b.abs().mean() if b.ndim else b.abs())
                assert bool(((a - b).abs() <= bound).all()), what
                calls += 1
    calls += _halves(mesh, made)
    _refusals(mesh)
    # A case worked out by hand: two of three rows are observed, and every logit is 0.
    zero, half = torch.zeros(3, 4), torch.tensor([[True] * 4, [False, True, False, True], [False] * 4])
    shard = [Shard(1)]
    own = (distribute_tensor(v, mesh, shard) for v in (zero, zero.clone(), half))
    value = mlsm.multilabel_soft_margin_loss(*(pair := [*own])[:2], where=pair[2]).full_tensor()  # type: ignore[union-attr]
    assert abs(value.item() - 0.6931471805599453) <= 2.0**-23, value
    print("judged", calls, flush=True)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.thread_unsafe(reason="it starts two processes")
def test_sharded_tensors_give_the_values_of_plain_ones() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(WORLD),
        "OMP_NUM_THREADS": "1",
    }
    program = [sys.executable, "-W", "error", str(Path(__file__).resolve())]
    ranks = [
        subprocess.Popen(
            program, env={**env, "RANK": str(i)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for i in range(WORLD)
    ]
    try:
        told = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()  # a process that waits for one that has failed
    for rank, text in zip(ranks, told, strict=True):
        assert rank.returncode == 0, text
        assert "judged" in text, text


if __name__ == "__main__":
    from datetime import timedelta

    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    _judge()
