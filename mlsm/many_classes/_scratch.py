"""Blocks of the dense target of labels, written and cleared in one buffer; and results that are joined from parts.

One assignment of static shape writes all labels: those of other rows and classes, and the -1 of the padding, go to an
extra slot after the block. So no array is compressed by a condition, which would wait for a device, and an index that
is outside cannot write anywhere else.
"""

from math import prod
from typing import Any


class Parts:
    """Parts of an array, first to last along its first axis, joined when all are there."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.found: list[Any] = []

    def add(self, first: int, part: Any) -> None:
        self.found.append(part)

    def whole(self) -> Any:
        return self.found[0] if len(self.found) == 1 else self.xp.concat(self.found)


class Written(Parts):
    """Parts that are written into the result at once."""

    def __init__(self, out: Any) -> None:
        self.out = out

    def add(self, first: int, part: Any) -> None:
        self.out[first : first + part.shape[0]] = part

    def whole(self) -> Any:
        return self.out


class Scratch:
    """Blocks of the dense target of labels. A block is the buffer itself and is good until the next one is made."""

    def __init__(self, xp: Any, labels: Any, device: Any, host: bool = True) -> None:
        self.xp, self.labels, self.device, self.host = xp, labels, device, host
        self.columns = xp.astype(labels.indices, xp.int64, copy=False)  # because row*C + column needs 64 bits
        self.dtype = xp.bool if labels.values is None else labels.values.dtype
        if labels.indptr is not None:
            self.starts = xp.astype(labels.indptr, xp.int64, copy=False)
            if not host:
                self.rows = xp.searchsorted(self.starts[1:], self._arange(self.columns.shape[0]), side="right")
        self.buffer: Any = None
        self.written: Any = None
        self.on = None if labels.values is not None else xp.ones((), dtype=self.dtype, device=device)
        self.off = xp.zeros((), dtype=self.dtype, device=device)

    def _arange(self, n: int) -> Any:
        return self.xp.arange(n, dtype=self.xp.int64, device=self.device)

    def __call__(self, cell: tuple[slice, ...], classes: slice) -> Any:
        xp, labels = self.xp, self.labels
        first, end, _ = classes.indices(labels.num_classes)
        width, values = end - first, labels.values
        if labels.indptr is None:
            columns = self.columns[cell]
            batch = tuple(columns.shape[:-1])
            count = prod(batch)
            columns = xp.reshape(columns, (count, columns.shape[-1]))
            values = None if values is None else xp.reshape(values[cell], columns.shape)
            row = self._arange(count)[:, None]
            inside: Any = None
        else:
            i, j, _ = cell[0].indices(labels.indptr.shape[0] - 1)
            count, batch = j - i, (j - i,)
            if self.host:
                kept = slice(int(self.starts[i]), int(self.starts[j]))
                columns, values = self.columns[kept], None if values is None else values[kept]
                row = xp.repeat(self._arange(count), self.starts[i + 1 : j + 1] - self.starts[i:j])
                inside = None
            else:
                columns, row = self.columns, self.rows - i
                inside = (row >= 0) & (row < count)
        place = columns - first
        own = (place >= 0) & (place < width)
        place = xp.where(own if inside is None else own & inside, row * width + place, count * width)
        self._write(place, self.on if values is None else values, count * width)
        return xp.reshape(self.buffer[: count * width], (*batch, width))

    def _write(self, place: Any, values: Any, size: int) -> None:
        if self.buffer is None or self.buffer.shape[0] <= size:
            self.buffer = self.xp.zeros((size + 1,), dtype=self.dtype, device=self.device)
        elif self.written is not None:
            self.buffer[self.written] = self.off
        self.buffer[place] = values
        self.written = place


class Compared:
    """Blocks of the dense target by comparing each label with every class: for arrays that can neither be written to
    nor read as NumPy arrays."""

    def __init__(self, xp: Any, labels: Any, device: Any) -> None:
        self.xp, self.labels, self.device = xp, labels, device

    def __call__(self, cell: tuple[slice, ...], classes: slice) -> Any:
        indices, values, starts = self.labels.indices, self.labels.values, self.labels.indptr
        if starts is None:
            return self._rows(indices[(*cell, ...)], None if values is None else values[(*cell, ...)], classes)
        first, end, _ = cell[0].indices(starts.shape[0] - 1)
        places = [slice(int(starts[i]), int(starts[i + 1])) for i in range(first, end)]
        rows = [self._rows(indices[at], None if values is None else values[at], classes) for at in places]
        return self.xp.stack(rows) if rows else self._rows(self.xp.reshape(indices[:0], (0, 0)), None, classes)

    def _rows(self, indices: Any, values: Any, classes: slice) -> Any:
        """A block of some rows, by one comparison for each place of a label in its row."""
        xp = self.xp
        first, end, _ = classes.indices(self.labels.num_classes)
        columns = xp.arange(first, end, dtype=xp.int64, device=self.device)
        indices = xp.astype(indices, xp.int64, copy=False)
        dtype = xp.bool if self.labels.values is None else self.labels.values.dtype
        found = xp.zeros((*indices.shape[:-1], end - first), dtype=dtype, device=self.device)
        for k in range(indices.shape[-1]):
            here = indices[..., k : k + 1] == columns
            found = found | here if values is None else xp.where(here, values[..., k : k + 1], found)
        return found
