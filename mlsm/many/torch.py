"""PyTorch: labels in a `DataLoader` and under compilers and function transforms, and logits by `F.linear`."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from ..autograd.torch import state_of
from .numpy import Writable


class _Torch(Writable):
    def arrived(self, labels: Any) -> None:
        default_collate_fn_map.setdefault(labels, _collated)

    def traced(self, *arrays: Any) -> bool:
        return state_of(*arrays) == "traced"

    def readable(self, *arrays: Any) -> tuple[Any, ...] | None:
        if self.traced(*arrays) or any(v.device.type != "cpu" for v in arrays):
            return None
        return tuple(v.numpy(force=True) for v in arrays)

    def whole(self, xp: Any, labels: Any, device: Any, traced: bool) -> Any:
        if not traced:
            return super().whole(xp, labels, device, traced)
        # Nothing is written to in place, which `vmap` would refuse, and every shape follows from the arguments'.
        classes, columns = labels.num_classes, labels.indices.long()
        place = torch.where((columns >= 0) & (columns < classes), columns, classes)
        values = torch.ones_like(columns, dtype=torch.bool) if labels.values is None else labels.values
        if labels.indptr is None:
            empty = torch.zeros((*columns.shape[:-1], classes + 1), dtype=values.dtype, device=device)
            return torch.scatter(empty, -1, place, values)[..., :classes]
        rows = labels.indptr.shape[0] - 1
        ends = labels.indptr[1:].long()
        row = torch.searchsorted(ends, torch.arange(columns.shape[0], device=device), right=True)
        empty = torch.zeros((rows + 1, classes + 1), dtype=values.dtype, device=device)
        return torch.index_put(empty, (row, place), values)[:rows, :classes]

    def logits(self, xp: Any, input: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.linear(input, weight, bias)

    def logits_dtype(self, xp: Any, input: Any, weight: Any, bias: Any) -> Any:
        with torch.no_grad():  # of no class, by which autocast and every mix of dtypes has its say
            return self.logits(xp, input, weight[:0], None if bias is None else bias[:0]).dtype

    def undisturbed(self, device: Any) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, enabled=False)


def _collated(batch: Any, *, collate_fn_map: Any = None) -> Any:
    """What `default_collate` makes of a list of labels: those of a batch, padded to the longest row with -1."""
    first = batch[0]
    if any(one.num_classes != first.num_classes or one.shape[:-1] != first.shape[:-1] for one in batch):
        shapes = ", ".join(map(str, dict.fromkeys(tuple(one.shape) for one in batch)))
        raise ValueError(f"`Labels` of one batch must have one shape; got {shapes}.")
    if first.indptr is not None:
        raise TypeError(
            "`Labels` with an `indptr` are a batch already and cannot be stacked: give the dataset's `labels[i]`, "
            "of an integer i."
        )
    longest = max(one.indices.shape[-1] for one in batch)

    def stacked(parts: list[Any], fill: int) -> Any:
        out = parts[0].new_full((len(parts), *parts[0].shape[:-1], longest), fill)
        if torch.utils.data.get_worker_info() is not None:  # where the workers' results are read by the main process
            out.share_memory_()
        for i, part in enumerate(parts):
            out[i, ..., : part.shape[-1]] = part
        return out

    return type(first)(
        stacked([one.indices for one in batch], -1),
        num_classes=first.num_classes,
        values=None if first.values is None else stacked([one.values for one in batch], 0),
    )


MANY = _Torch()
