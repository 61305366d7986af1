"""PyTorch's tensors, on the CPU and on CUDA, and PyTorch's own transforms.  Makes, reads and differentiates; judges
nothing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..tensors import Tensor
from .base import Backend, Bulk, NotInstalled, Unsupported
from .numpy import host


class Torch(Backend):
    """Tensors on the CPU."""

    name = "torch"
    library = "torch"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            *("float16", "bfloat16", "float64", "writable", "layouts", "any_byte"),
            *("autograd", "forward", "vmap", "compile", "watched"),
        }
    )
    layouts: ClassVar[frozenset[str]] = frozenset({"C", "F", "broadcast", "offset_view"})
    known_generic: ClassVar[Mapping[str, str]] = {
        "transforms.target-at-infinity": "plain differentiation sees 0 * inf, which the guard makes 0; `grad` says it"
    }
    slow: ClassVar[float] = 1.5

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        # Forward mode makes PyTorch 2.13 load one of its own modules that it has deprecated.
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        yield

    def make(self, tensor: Tensor | Bulk, layout: str = "C") -> Any:
        a = self.of_numpy(host(tensor.values, tensor.shape, tensor.dtype))
        if layout == "C":
            return a
        if layout == "F":
            return a.permute(*reversed(range(a.ndim))).contiguous().permute(*reversed(range(a.ndim)))
        if layout == "broadcast":
            return a[:1].clone().expand(a.shape)
        if layout == "offset_view":
            return torch.cat([a.new_ones(1), a.reshape(-1)])[1:].reshape(a.shape)
        raise Unsupported(f"PyTorch has no layout {layout!r}")

    def of_numpy(self, array: Any) -> Any:
        array = np.array(array)  # a copy, which may be written to
        if array.dtype.name == "bfloat16":  # PyTorch does not know the dtype of ml_dtypes: hand over the bits
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self.device)
        return torch.from_numpy(array).to(self.device)

    def to_numpy(self, array: Any) -> Any:
        array = array.detach().cpu()
        if array.dtype != torch.bfloat16:
            return array.numpy()
        import ml_dtypes

        return array.view(torch.int16).numpy().view(ml_dtypes.bfloat16)

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def device_of(self, array: Any) -> str:
        return str(array.device)

    def elsewhere(self, tensor: Tensor) -> Any:
        # "meta" is a device on every machine.
        return self.make(tensor).to("meta")

    def as_bool(self, array: Any) -> Any:
        return array.view(torch.bool)

    target_remedies: ClassVar[Any] = dict.fromkeys(("COO", "CSC"), (".to_sparse_csr()", lambda v: v.to_sparse_csr()))

    def is_compressed(self, value: Any) -> bool:
        return bool(value.layout is torch.sparse_csr)

    def formats(self, tensor: Tensor) -> dict[str, tuple[Any, str, Callable[[Any], Any]]]:
        a = self.make(tensor)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls most of these a prototype
            made: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {}
            sparse = {
                "COO": a.to_sparse(),
                "CSR": a.to_sparse_csr(),
                "CSC": a.to_sparse_csc(),
                "BSR": a.to_sparse_bsr((1, 1)),
                "BSC": a.to_sparse_bsc((1, 1)),
            }
            if a.dtype in (torch.float32, torch.bfloat16, torch.float16) and a.device.type == "cpu":
                sparse["mkldnn"] = a.to_mkldnn()
            for name, value in sparse.items():
                made[name] = value, ".to_dense()", lambda v: v.to_dense()
            made["nested"] = torch.nested.nested_tensor([a[:1], a[1:]]), ".unbind()", lambda v: torch.cat(v.unbind())
            jagged = torch.nested.nested_tensor([a[:1], a[1:]], layout=torch.jagged)
            made["jagged"] = jagged, ".values()", lambda v: v.values()
            if a.dtype not in (torch.bfloat16, torch.uint8, torch.uint16, torch.uint32, torch.uint64):  # not maskable
                masked = torch.masked.masked_tensor(a, torch.ones_like(a, dtype=torch.bool))
                made["masked"] = masked, ".get_data()", lambda v: v.get_data()
            if a.dtype == torch.float32 and a.device.type == "cpu":
                quantised = torch.quantize_per_tensor(a, 0.5, 8, torch.quint8)
                made["quantised"] = quantised, ".dequantize()", lambda v: v.dequantize()
        return made

    def write(self, array: Any, value: float) -> None:
        array.fill_(value)

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        # A tensor of the meta device has a shape and a dtype, and no value to look at.
        return function(*(a.to("meta") for a in arrays))

    def vjp(self, function: Callable[..., Any], arrays: Sequence[Any], index: int, cotangent: Any = None) -> Any:
        # The cotangent may itself require a gradient, and the result stays differentiable: double backward needs both.
        leaves = list(arrays)
        if not leaves[index].requires_grad:
            leaves[index] = leaves[index].detach().clone().requires_grad_()
        value = function(*leaves)
        seed = torch.ones_like(value) if cotangent is None else cotangent
        (result,) = torch.autograd.grad(value, leaves[index], seed, create_graph=True)
        return result

    def jvp(self, function: Callable[[Any], Any], at: Any, tangent: Any) -> Any:
        return torch.func.jvp(function, (at,), (tangent,))[1]

    def vmap(self, function: Callable[..., Any], *arrays: Any) -> Any:
        return torch.func.vmap(function)(*arrays)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        # Its caches count the programs of one code object, whatever they contain, and raise an error after eight.
        torch._dynamo.reset()
        # aot_eager traces forward and backward as inductor does, and needs no C++ compiler on the machine.
        return torch.compile(function, fullgraph=True, backend="aot_eager")


class TorchCUDA(Torch):
    """Tensors on the current CUDA device."""

    name = "torch-cuda"
    capabilities: ClassVar[frozenset[str]] = Torch.capabilities
    device: str = "cuda"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise NotInstalled("torch-cuda: this PyTorch sees no CUDA device")
        self.device = f"cuda:{torch.cuda.current_device()}"

    def force(self, result: Any) -> Any:
        torch.cuda.synchronize()
        return result

    def unseen(self, function: Callable[..., Any], *arrays: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return function(*arrays)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "cuda": str(torch.version.cuda), "device": torch.cuda.get_device_name()}
