"""PyTorch's DTensor over two processes of this machine, sharded by rows or by classes, evenly and not.

Both processes must run every operation on such a tensor, in the same order. So the judging process starts a second
one (this module as a program) and sends it each task before it begins. Both run the task, and the verdict of the
second process is read at the end. Makes, reads and differentiates; judges nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch.distributed

from ..backends import Bulk, NotInstalled, Unsupported
from ..tensors import Case, Tensor
from .torch import Torch

dist: Any = torch.distributed  # which declares few of its names as exported
WORLD = 2
PATIENCE = datetime.timedelta(seconds=60)
"""How long one process waits for the other before it raises."""


class TorchDTensor(Torch):
    """Sharded over the rows: the first axis, whether its length is even or odd."""

    name = "torch-dtensor"
    capabilities: ClassVar[frozenset[str]] = frozenset({"float16", "bfloat16", "float64", "writable", "autograd"})
    layouts: ClassVar[frozenset[str]] = frozenset({"C"})
    known: ClassVar[Mapping[str, str]] = {
        **Torch.known_generic,
        **{
            f"labels.{name}": "labels are refused beside a DTensor: PyTorch scatters no plain tensor over processes"
            for name in ("values", "set", "blocks", "head", "head-blocks")
        },
    }
    concurrent: ClassVar[bool] = False
    slow: ClassVar[float] = 24.0
    axis: ClassVar[int] = 0

    def __init__(self) -> None:
        if not dist.is_available() or not dist.is_gloo_available():
            raise NotInstalled(f"{self.name}: this PyTorch was built without gloo")

    @contextlib.contextmanager
    def together(self, task: str, **given: Any) -> Iterator[list[str]]:
        heard: list[str] = []
        if dist.is_initialized() and dist.get_rank():  # the second process itself, which has the task
            yield heard
            return
        if task not in TASKS:
            raise Unsupported(f"{self.name}: only mlsm's own loss is judged in two processes")
        peer = Peer.found()
        peer.tell([task, self.name, given])
        try:
            yield heard
        finally:
            answer = peer.listen()
            if answer:
                heard.append(f"the other process: {answer}")

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        if not dist.is_initialized():
            raise Unsupported(f"{self.name}: arrays can be made only inside `together`, which tells the other process")
        if layout != "C":
            raise Unsupported("a DTensor is sharded into new memory, whatever the layout of the whole tensor")
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        whole = super().make(tensor, layout)
        axis = self.axis % whole.ndim if whole.ndim > 1 else 0
        spread = whole.ndim > 1 and whole.shape[axis] > 1
        # Both processes hold the whole tensor, and each takes its own part: gloo does not send every dtype.
        return distribute_tensor(whole, _mesh(), [Shard(axis) if spread else Replicate()], src_data_rank=None)

    def serves(self, case: Case) -> bool:
        # A case that cannot be sharded is judged by the plain variant.
        shape = case.input.shape
        return super().serves(case) and len(shape) > 1 and shape[self.axis] > 1

    def to_numpy(self, array: Any) -> Any:
        # A tensor that PyTorch makes from numbers alone is the same plain tensor in both processes.
        return super().to_numpy(array.detach().full_tensor() if self.owns(array) else array)

    def owns(self, array: Any) -> bool:
        from torch.distributed.tensor import DTensor

        return isinstance(array, DTensor)

    def elsewhere(self, tensor: Tensor) -> Any:
        raise Unsupported("the mesh of both processes is one device")

    def as_bool(self, array: Any) -> Any:
        raise Unsupported("a DTensor is not viewed as another dtype")

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        return {}  # a DTensor is sharded from a dense tensor

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        raise Unsupported("the shards of a DTensor have values")

    def jvp(self, function: Callable[[Any], Any], at: Any, tangent: Any) -> Any:
        raise Unsupported("DTensor does not differentiate forwards")

    def vmap(self, function: Callable[..., Any], *arrays: Any) -> Any:
        raise Unsupported("DTensor has no vmap")

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        raise Unsupported("compiling around DTensors is left to PyTorch")


class TorchDTensorClass(TorchDTensor):
    """Sharded over the last axis, which is that of the classes unless a case says otherwise."""

    name = "torch-dtensor-class"
    axis: ClassVar[int] = -1


_meshes: list[Any] = []


def _mesh() -> Any:
    if not _meshes:
        from torch.distributed.device_mesh import init_device_mesh

        _meshes.append(init_device_mesh("cpu", (WORLD,)))
    return _meshes[0]


class Peer:
    """The second process, as the judging process uses it."""

    _one: ClassVar[Peer | None] = None

    @classmethod
    def found(cls) -> Peer:
        """The second process of this one. A new one is started if there is none, or if the last one was out of step."""
        if cls._one is None:
            cls._one = cls()
            atexit.register(cls.leave)
        return cls._one

    @classmethod
    def leave(cls) -> None:
        """End the second process, and drop what was shared with it."""
        one, cls._one = cls._one, None
        if one is not None:
            _meshes.clear()
            one.end()

    def __init__(self) -> None:
        # A port that the system chooses, known before the other process needs it.
        store = dist.TCPStore("127.0.0.1", 0, WORLD, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(store.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
        dist.init_process_group("gloo", store=store, rank=0, world_size=WORLD, timeout=PATIENCE)

    def tell(self, task: Sequence[Any]) -> None:
        """Send the task that both processes run next."""
        assert self._process.stdin is not None
        print(json.dumps(task), file=self._process.stdin, flush=True)

    def listen(self) -> str:
        """The failure of the second process, or "". After a failure it may be at another step, so it is replaced."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        heard = str(json.loads(line)) if line else f"it ended, with code {self._process.wait()}"
        if heard:
            type(self).leave()
        return heard

    def end(self) -> None:
        """Close its standard input, at which it ends."""
        dist.destroy_process_group()
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(PATIENCE.total_seconds())
            finally:
                process.kill()


# ---------------------------------------------------------------- in the other process


def _check(backend: str, id: str, kernel: str | None, level: str, dtypes: list[str]) -> str:
    from ..suite import by_id, run_check

    result = run_check(by_id(id), _context(backend, kernel, level, dtypes))
    return result.reason if result.status == "fail" else ""


def _again(backend: str, **given: Any) -> str:
    from ..suite import again

    again(backend, **given)
    return ""


def _curves(backend: str, kernel: str | None, level: str, dtypes: list[str]) -> str:
    from ..run.curves import measure

    measure(_context(backend, kernel, level, dtypes))
    return ""


def _context(backend: str, kernel: str | None, level: str, dtypes: list[str]) -> Any:
    from ..backends import find
    from ..check import Context
    from ..subjects import Mlsm

    return Context(find(backend), Mlsm(kernel), level, dtypes)


TASKS: Mapping[str, Callable[..., str]] = {"check": _check, "again": _again, "curves": _curves}


def main() -> None:
    """Serve as the second process: one task per line in, one answer per line out."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a task's own output goes to standard error
    store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), WORLD, is_master=False, timeout=PATIENCE)
    dist.init_process_group("gloo", store=store, rank=1, world_size=WORLD, timeout=PATIENCE)
    for line in sys.stdin:
        task, backend, given = json.loads(line)
        try:
            answer = TASKS[task](backend, **given)
        except Exception as error:  # sent to the judging process
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
