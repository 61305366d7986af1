"""Targets stored as their positives only: the class `Labels`, and the CSR matrices that are converted to it.

Checks what needs no wait for a device (shapes, dtypes, and the values of arrays in host memory). `_targets` makes the
dense target, a block at a time. Knows no formula and imports no array library.
"""

import operator
from typing import Any, NoReturn, final

from .. import _policy
from .._format import spelled
from ..libraries import compressed, library_of
from ..libraries.base import Library

_SIGNED = frozenset({"int8", "int16", "int32", "int64"})


@final
class Labels:
    """Targets stored as the positive classes of each row, instead of a dense array of shape ``(*batch, C)``.

    ::

        target[..., c] = 1 (or the value) where c is among the indices of the row, else 0

    Every function with a `target` accepts them. On NumPy arrays and CPU tensors the result has the same bits as for the
    dense target, by the same kernel. A CSR matrix of the same library (SciPy's with NumPy, CuPy's, PyTorch's, JAX's
    BCSR) is accepted too, with its data as the values.

    Parameters
    ----------
    indices : array of a signed integer dtype, shape ``(*batch, K)`` or, with `indptr`, ``(nnz,)``
        The classes of each row in any order, padded with -1.
    num_classes : int
        C, the number of classes.
    indptr : array of a signed integer dtype, shape ``(N + 1,)``, optional
        Where the indices of each row start and end, as in a CSR matrix.
    values : array of a real dtype, of the shape of `indices`, optional
        Soft labels; a stored 0 is a negative, and an index must not repeat in its row. Without them a label is hard,
        and the indices of a row are a set. Floating values take part in the dtype of the loss.

    Attributes
    ----------
    shape, ndim, dtype
        Those of the dense target, which is bool without `values`.
    nnz : int
        How many labels are stored. Counts the indices that are not -1, so it waits for a device.
    indices, num_classes, indptr, values
        As given.

    Raises
    ------
    TypeError
        If an argument is not an array, if dtypes do not fit, or if arrays belong to two libraries.
    ValueError
        If shapes or devices do not fit, if `indptr` decreases or does not end at nnz, if `num_classes` is less than 1,
        or if there are `values` and an index repeats in its row.
    IndexError
        If an index is not in [0, C-1]. Indices are checked once, on construction, and only in host memory. On a device
        and in JAX an index outside is ignored, and if an index with a value repeats, one of its values counts.

    References
    ----------
    ``scipy.sparse.csr_array``, whose `indptr`, `indices` and `data` these are.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> labels = mlsm.Labels(np.asarray([[2, 0], [1, -1]]), num_classes=3)
    >>> labels
    Labels(indices=<numpy array of shape (2, 2), int64>, num_classes=3)
    >>> labels.toarray()
    array([[ True, False,  True],
           [False,  True, False]])
    >>> labels[1:].shape, labels.nnz, len(labels)
    ((1, 3), 3, 2)
    >>> print(f"{mlsm.multilabel_soft_margin_loss(np.zeros((2, 3)), labels):.6f}")
    0.693147
    """

    __slots__ = ("__weakref__", "indices", "indptr", "num_classes", "values")

    indices: Any
    num_classes: int
    indptr: Any
    values: Any

    def __init__(self, indices: Any, *, num_classes: int, indptr: Any = None, values: Any = None) -> None:
        library = _checked_form(indices, num_classes, indptr, values)
        _keep(self, indices, operator.index(num_classes), indptr, values)
        library.register_labels(Labels)
        _checked_values(self, library)

    # ------------------------------------------------------------ what it is

    @property
    def shape(self) -> tuple[int, ...]:
        batch = self.indices.shape[:-1] if self.indptr is None else (self.indptr.shape[0] - 1,)
        return (*batch, self.num_classes)

    @property
    def ndim(self) -> int:
        return 2 if self.indptr is not None else int(self.indices.ndim)

    @property
    def dtype(self) -> Any:
        return library_of(self.indices, "indices").xp.bool if self.values is None else self.values.dtype

    @property
    def nnz(self) -> int:
        if self.indptr is not None:
            return int(self.indices.shape[0])
        xp = library_of(self.indices, "indices").xp
        return int(xp.sum(xp.astype(self.indices != -1, xp.int32)))

    def __len__(self) -> int:
        if self.ndim == 1:
            raise TypeError("`Labels` of one row have no length.")
        return int(self.shape[0])

    def toarray(self) -> Any:
        """The dense target, of the library, device and dtype of the labels."""
        library = library_of(self.indices, "indices")
        device = library.form(self.indices, "indices").device
        return library.dense_target(self, device, library.traced(*self.arrays()))

    def arrays(self) -> tuple[Any, ...]:
        """The arrays that are not None: indices, indptr, values."""
        return tuple(v for v in (self.indices, self.indptr, self.values) if v is not None)

    def __repr__(self) -> str:
        shown = [f"indices={_shown(self.indices)}", f"num_classes={self.num_classes}"]
        shown += [f"{n}={_shown(v)}" for n in ("indptr", "values") if (v := getattr(self, n)) is not None]
        return f"Labels({', '.join(shown)})"

    # ------------------------------------------------------------ other labels

    def __getitem__(self, rows: Any) -> "Labels":
        """The labels of some rows, by a slice, an integer array or a bool array, or of one row, by an integer."""
        if self.ndim == 1:
            raise IndexError("`Labels` of one row have no rows to take.")
        if rows is None or rows is Ellipsis or isinstance(rows, tuple | list):
            raise TypeError(
                f"`labels[rows]` takes a slice, an integer, or an integer or bool array; got {spelled(rows)}."
            )
        if self.indptr is None:
            return _made(self.indices[rows], self.num_classes, None, None if self.values is None else self.values[rows])
        library = library_of(self.indices, "indices")
        xp = library.xp
        first, last = self.indptr[:-1][rows], self.indptr[1:][rows]
        if not first.ndim:
            kept: Any = slice(int(first), int(last))
            return _made(self.indices[kept], self.num_classes, None, None if self.values is None else self.values[kept])
        ends = xp.cumulative_sum(last - first, include_initial=True)
        here = library.form(ends, "indptr").device
        kept = xp.repeat(first - ends[:-1], last - first) + xp.arange(int(ends[-1]), dtype=ends.dtype, device=here)
        return _made(self.indices[kept], self.num_classes, ends, None if self.values is None else self.values[kept])

    def to(self, device: Any, *, non_blocking: bool = False) -> "Labels":
        """The same labels on another device, as by ``Tensor.to``; for labels of PyTorch tensors only."""
        return self._tensors("to", lambda v: v.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Labels":
        """The same labels in page-locked memory, as a ``DataLoader`` with ``pin_memory=True`` asks for."""
        return self._tensors("pin_memory", lambda v: v.pin_memory())

    def _tensors(self, method: str, change: Any) -> "Labels":
        name = library_of(self.indices, "indices").name
        if not hasattr(self.indices, method):
            raise TypeError(f"`Labels.{method}` moves tensors; these labels are arrays of {name}.")
        return self.mapped(change)

    def mapped(self, change: Any) -> "Labels":
        """Labels with each array replaced by ``change(array)``; they are not checked again."""
        indices, indptr, values = (None if v is None else change(v) for v in (self.indices, self.indptr, self.values))
        return _made(indices, self.num_classes, indptr, values)

    # ------------------------------------------------------------ immutable, picklable

    def __reduce__(self) -> Any:
        return _unpickled, (self.indices, self.num_classes, self.indptr, self.values)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"`{name}` cannot be set: Labels are immutable; make new ones.")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"`{name}` cannot be deleted: Labels are immutable; make new ones.")

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Labels is final: keep an instance as an attribute, or write a function.")


def _keep(labels: Labels, indices: Any, num_classes: int, indptr: Any, values: Any) -> None:
    for name, value in (("indices", indices), ("num_classes", num_classes), ("indptr", indptr), ("values", values)):
        object.__setattr__(labels, name, value)


def _made(indices: Any, num_classes: int, indptr: Any, values: Any) -> Labels:
    """Labels of arrays that are checked already, or of placeholders, as in a pytree of JAX."""
    labels = object.__new__(Labels)
    _keep(labels, indices, num_classes, indptr, values)
    return labels


def _unpickled(indices: Any, num_classes: int, indptr: Any, values: Any) -> Labels:
    return Labels(indices, num_classes=num_classes, indptr=indptr, values=values)


def _shown(value: Any) -> str:
    library = library_of(value, "indices")
    return f"<{library.name} array of shape {_plain(value.shape)}, {library.dtype_name(value.dtype)}>"


def _plain(shape: Any) -> str:
    return str(tuple(int(n) if n == n else "unknown" for n in shape))


# ---------------------------------------------------------------- CSR matrices


def taken(target: Any) -> Any:
    """A CSR matrix as Labels, checked; TypeError for sparse tensors of other formats; anything else unchanged."""
    if type(target) is Labels:
        return target
    parts = compressed(target)
    return target if parts is None else _of_rows(*parts)


def _of_rows(shape: Any, indptr: Any, indices: Any, data: Any) -> Labels:
    library = library_of(indices, "target")
    if len(shape) == 1:  # SciPy has arrays of one dimension in this format
        indptr = None
    elif len(shape) != 2 or data.ndim != 1:
        raise TypeError(
            f"`target` must be a CSR matrix of two dimensions; got one of shape {_plain(shape)}: "
            "pass a dense array or `mlsm.Labels`."
        )
    if indptr is not None and indptr.shape[0] != shape[0] + 1:
        raise ValueError(
            f"`target` must have an `indptr` of one more than its rows, {shape[0] + 1}; got {indptr.shape[0]}."
        )
    kind = library.dtype_name(data.dtype)
    if not _policy.is_real(kind):
        raise TypeError(
            f"`target` must have a bool, integer or real floating dtype; got {kind}: cast it to one of these first."
        )
    if shape[-1] < 1:
        raise ValueError("`target` must have at least one class; got a CSR matrix without a column.")
    labels = _made(indices, int(shape[-1]), indptr, data)
    library.register_labels(Labels)
    _checked_values(labels, library, "target")
    return labels


# ---------------------------------------------------------------- checks


def _checked_form(indices: Any, num_classes: Any, indptr: Any, values: Any) -> Library:
    """Check shapes, dtypes and devices; returns the library."""
    library = library_of(indices, "indices")
    kind = library.dtype_name(indices.dtype)
    if kind not in _SIGNED:
        raise TypeError(
            f"`indices` must have a signed integer dtype ({', '.join(sorted(_SIGNED))}), because -1 is the padding; "
            f"got {kind}: cast them."
        )
    if isinstance(num_classes, bool):
        raise TypeError(f"`num_classes` must be an integer; got {spelled(num_classes)}.")
    try:
        classes = operator.index(num_classes)
    except TypeError:
        raise TypeError(f"`num_classes` must be an integer; got {spelled(num_classes)}.") from None
    if classes < 1:
        raise ValueError(f"`num_classes` must be at least 1, since a mean over no class has no value; got {classes}.")
    if indptr is not None:
        _same(indptr, "indptr", indices, library)
        kind = library.dtype_name(indptr.dtype)
        if kind not in _SIGNED:
            raise TypeError(f"`indptr` must have a signed integer dtype; got {kind}: cast it.")
        if library.lazy is not None:
            raise ValueError(
                "`indptr` cannot be cut into blocks of rows: give lazy labels as `indices` of shape (N, K), padded "
                "with -1."
            )
        if indptr.ndim != 1 or not indptr.shape[0]:
            raise ValueError(f"`indptr` must have shape (N + 1,), for N rows; got {_plain(indptr.shape)}.")
        if indices.ndim != 1:
            raise ValueError(
                f"`indices` must have shape (nnz,) where there is an `indptr`, here of shape {_plain(indptr.shape)}; "
                f"got {_plain(indices.shape)}."
            )
    elif not indices.ndim:
        raise ValueError("`indices` must have at least one dimension, the labels of a row; got a 0-d array.")
    if values is not None:
        _same(values, "values", indices, library)
        kind = library.dtype_name(values.dtype)
        if not _policy.is_real(kind):
            raise TypeError(f"`values` must have a bool, integer or real floating dtype; got {kind}: cast them.")
        if tuple(values.shape) != tuple(indices.shape) and library.lazy is None:
            raise ValueError(
                f"`values` must have the shape of `indices`, {_plain(indices.shape)}; got {_plain(values.shape)}."
            )
    return library


def _same(value: Any, argument: str, indices: Any, library: Library) -> None:
    own = library_of(value, argument)
    if own.name != library.name:
        raise TypeError(
            f"`{argument}` must belong to the library of `indices`, {library.name}; got an array of {own.name}: "
            f"convert it with `{library.conversion}({argument})`."
        )
    here, there = own.form(value, argument).device, library.form(indices, "indices").device
    if here != there and type(here) is type(there):
        raise ValueError(
            f"`{argument}` must be on the device of `indices`, {there}; got {here}. Move one of them explicitly."
        )


def _checked_values(labels: Labels, library: Library, argument: str = "") -> None:
    """Check the values of the arrays, if they are in host memory and not traced."""
    arrays = library.readable(*(v for v in (labels.indices, labels.indptr) if v is not None))
    if arrays is None:
        return
    import numpy as np

    spoken = f"`{argument}`: " if argument else ""
    indices, least = arrays[0], -1
    row: Any = None  # of each index
    if labels.indptr is not None:
        least = 0
        starts = arrays[1].astype(np.int64, copy=False)
        down = np.flatnonzero(starts[1:] < starts[:-1])
        if down.size:
            i = int(down[0])
            raise ValueError(
                f"{spoken}`indptr` must not decrease; it does at {i + 1}, from {starts[i]} to {starts[i + 1]}."
            )
        if starts[0] != 0 or starts[-1] != indices.shape[0]:
            raise ValueError(
                f"{spoken}`indptr` must start at 0 and end at the number of `indices`, {indices.shape[0]}; "
                f"got {starts[0]} and {starts[-1]}."
            )
    # One pass each if all indices are valid: the least and the largest.
    if indices.size and (indices.min() < least or int(indices.max()) >= labels.num_classes):
        bad = np.argwhere((indices < least) | (indices.astype(np.int64) >= labels.num_classes))[0]
        at = np.searchsorted(starts[1:], bad[0], side="right") if labels.indptr is not None else bad[:-1]
        wanted = f"in [0, {labels.num_classes - 1}]" + ("" if labels.indptr is not None else ", or -1 for none")
        raise IndexError(f"{spoken}`indices` must be {wanted}; got {indices[tuple(bad)]} in row {_row(at)}.")
    if labels.values is None or not indices.size:
        return
    if labels.indptr is None:
        flat = indices.reshape(-1, indices.shape[-1]).astype(np.int64, copy=False)
        row = np.repeat(np.arange(flat.shape[0]), flat.shape[1])
        column = flat.reshape(-1)
        row, column = row[column >= 0], column[column >= 0]
    else:
        column = indices
        row = np.repeat(np.arange(starts.size - 1), np.diff(starts))
    same = row[1:] == row[:-1]
    if not (same & (column[1:] <= column[:-1])).any():
        return  # ascending in each row, as a canonical matrix has them
    order = np.lexsort((column, row))
    row, column = row[order], column[order]
    twice = np.flatnonzero((row[1:] == row[:-1]) & (column[1:] == column[:-1]))
    if twice.size:
        i = int(twice[0])
        at = row[i] if labels.indptr is not None else np.unravel_index(row[i], indices.shape[:-1])
        remedy = " call `.sum_duplicates()`" if argument else " give each once"
        raise ValueError(
            f"{spoken}an index must not repeat in its row where there are `values`; got {column[i]} more than once in "
            f"row {_row(at)}:{remedy}."
        )


def _row(at: Any) -> str:
    import numpy as np

    numbers = [int(n) for n in np.atleast_1d(np.asarray(at))]
    return str(numbers[0]) if len(numbers) == 1 else str(tuple(numbers))
