"""The linear head: the loss of ``input @ linear_weight.T + linear_bias``, which is never stored, by blocks of classes.

With n_b the observed classes of block b, n their sum (1 where that is 0), and any kernel of the row seam::

    r, S   = kernel.value_and_gradient(block, n_b)     # n_b cancels the block's own divisor: S is not averaged
    rows  += r * n_b
    dW_b   = S.T @ (h * scale),  db_b = S.T @ scale,  dh += S @ W_b
    rows  /= n,  dh *= scale                        # scale = adjoint(grad_output) / n

Blocks of classes and not of rows: there is no normalisation over the classes, so each block of dW is final at once. The
scale does not multiply S, whose elements 1/(N*C) would round to 0 in a narrow dtype. Holds no formula of the loss.
"""

from math import prod
from typing import Any, Final, NamedTuple

from .. import _blocks, _check, _core, _dispatch
from .._core import Operands
from .._dispatch import Kernel
from .._problem import Problem, State
from .._reduce import REDUCE, reduced
from .._typing import Array, ArrayT, DType, Number, Reduction, Weight
from ..libraries.base import Library
from . import _targets
from ._check import linear

# Logits of a block: 8 MiB of float32, and as much for the gradient. N=1024, D=256, C=131072 float32 on PyTorch: a peak
# of 49 MiB in addition to arguments and gradients. With fewer classes a BLAS does not reach its full speed.
ELEMENTS: Final = 2**21
# Rows of a block at most: with more, a block has so few classes that its products are slow. SigLIP's 8192 x 8192 with
# D=512 takes 5.0 s with 2^14, 4.0 with 2^12, 3.7 with 2^11 and 3.5 with 2^10.
HEIGHT: Final = 2**11
_ALL: Final = slice(None)


def linear_multilabel_soft_margin_loss(
    input: ArrayT,
    linear_weight: Array,
    target: Any,
    weight: Weight | None = None,
    *,
    linear_bias: Array | None = None,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    kernel: str | None = None,
) -> ArrayT:
    r"""The loss of a linear layer's logits, which are never stored as a whole: for 10^5 classes and more.

    ::

        multilabel_soft_margin_loss(input @ linear_weight.T + linear_bias, target, weight, ...)

    In eager calls, and in their first backward pass on PyTorch, no array of shape ``(N, C)`` is made: blocks of classes
    are computed, and computed again for the gradient. PyTorch's graph keeps the arguments only.

    Parameters
    ----------
    input : array, shape ``(*batch, D)``
        Hidden states, of float16, bfloat16, float32 or float64.
    linear_weight : array, shape ``(C, D)``
        A row for each class, as in ``torch.nn.Linear``.
    target : array, `Labels` or CSR matrix, shape ``(*batch, C)``
        As for `multilabel_soft_margin_loss`.
    linear_bias : array, shape ``(C,)``, optional
        Added to the logits.
    weight, reduction, pos_weight, where, label_smoothing, kernel
        As for `multilabel_soft_margin_loss` of the logits. `kernel` forces the kernel of the blocks; "generic" is the
        formula without a kernel, which stores all logits.

    Returns
    -------
    array
        Of the shape and dtype that the loss of these logits has.

    Raises
    ------
    TypeError, ValueError
        As for `multilabel_soft_margin_loss`, and for a `linear_weight` or `linear_bias` that does not fit.

    Notes
    -----
    Special values are those of `multilabel_soft_margin_loss`. Under create_graph, function transforms and tracing all
    logits are stored, as in the dense call. `where` masks logits only: an entry of `input` or `linear_weight` that is
    not finite reaches the gradients as in the library's own product.

    References
    ----------
    ``torch.nn.functional.linear_cross_entropy``, the same for the softmax; Renee (Jain et al., MLSys 2023).

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> h, W = np.asarray([[1.0, -1.0], [0.5, 2.0]]), np.asarray([[0.5, 0.0], [1.0, 1.0], [-1.0, 0.5]])
    >>> labels = mlsm.Labels(np.asarray([[0, -1], [1, 2]]), num_classes=3)
    >>> print(f"{mlsm.linear_multilabel_soft_margin_loss(h, W, labels):.12f}")
    0.457923930179
    >>> print(f"{mlsm.multilabel_soft_margin_loss(h @ W.T, labels):.12f}")
    0.457923930179
    """
    head = _head(
        input, linear_weight, target, weight, linear_bias, reduction, pos_weight, where, label_smoothing, kernel
    )
    value: ArrayT = _value(head)
    return value


def linear_value_and_grad(
    input: ArrayT,
    linear_weight: Array,
    target: Any,
    weight: Weight | None = None,
    *,
    linear_bias: Array | None = None,
    grad_output: Array | Number | None = None,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    kernel: str | None = None,
) -> tuple[ArrayT, tuple[ArrayT, ArrayT, ArrayT | None]]:
    r"""The loss of a linear head and its gradients, in one pass over blocks of classes.

    ::

        value, (d value/d input, d value/d linear_weight, d value/d linear_bias)

    of `linear_multilabel_soft_margin_loss`. No array of shape ``(N, C)`` is made, whatever C. It computes three matrix
    products, as the dense call does, and makes no other large array.

    Parameters
    ----------
    input, linear_weight, target, weight, linear_bias, reduction, pos_weight, where, label_smoothing, kernel
        As for `linear_multilabel_soft_margin_loss`.
    grad_output : array or number, optional
        As for `value_and_grad`: the gradients are multiplied by it, the value is not.

    Returns
    -------
    value, (array, array, array or None)
        Each gradient of the shape and dtype of its argument; None without a `linear_bias`.

    Raises
    ------
    TypeError, ValueError
        As for `linear_multilabel_soft_margin_loss` and `value_and_grad`.

    Notes
    -----
    Special values are those of `linear_multilabel_soft_margin_loss`. The scale 1/(N*C) multiplies the products and not
    the elementwise gradient, so half-precision gradients do not vanish at any C.

    References
    ----------
    docs/numerics: why a gradient of a "mean" vanishes in float16, and where it does not.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> h, W = np.asarray([[1.0, -1.0], [0.5, 2.0]]), np.zeros((3, 2))
    >>> labels = mlsm.Labels(np.asarray([[0, -1], [1, 2]]), num_classes=3)
    >>> value, (by_input, by_weight, by_bias) = mlsm.linear_value_and_grad(h, W, labels, linear_bias=np.zeros(3))
    >>> print(f"{value:.6f}", by_weight.shape, by_bias.round(4))
    0.693147 (3, 2) [0. 0. 0.]
    """
    head = _head(
        input, linear_weight, target, weight, linear_bias, reduction, pos_weight, where, label_smoothing, kernel
    )
    found: tuple[ArrayT, tuple[ArrayT, ArrayT, ArrayT | None]] = _value_and_grad(*_with_cotangent(head, grad_output))
    return found


class Head(NamedTuple):
    """One checked call: the metadata and operands of its logits, without these, and the arrays that make them."""

    problem: Problem  # that of the dense call
    rest: Operands  # without logits; its target may be a `Target`, which is made by blocks
    dtype: DType  # of the logits
    library: Library
    kernel: str | None
    h: Any
    W: Any
    b: Any

    def tensors(self) -> tuple[Any, ...]:
        """All arrays that may need a gradient, in the order of `holding`."""
        o = self.rest
        return self.h, self.W, self.b, None if type(o.y) is _targets.Target else o.y, o.w, o.p, o.m

    def holding(self, h: Any, W: Any, b: Any, y: Any, w: Any, p: Any, m: Any) -> "Head":
        rest = self.rest.holding(None, self.rest.y if y is None else y, w, p, m)
        return self._replace(h=h, W=W, b=b, rest=rest)

    @property
    def lean(self) -> bool:
        """Whether the logits are made by blocks: the call is not traced, and the reference was not asked for."""
        return self.problem.state is not State.TRACED and self.kernel != _dispatch.GENERIC.name and self.W.shape[1] > 0

    @property
    def batched(self) -> Operands:
        """Operands of the same rows and one class, for the reductions."""
        return self.rest._replace(x=self.column, y=None)

    @property
    def column(self) -> Any:
        """An array of shape ``(*batch, 1)``."""
        h = self.h
        return h[..., :1] if h.shape[-1] else self.rest.xp.zeros((*h.shape[:-1], 1), dtype=h.dtype)

    def counts(self) -> Any:
        """The number of observed classes of each row; 1 for a row that has none, whose sum is 0."""
        o, classes = self.rest, float(self.W.shape[0])
        if o.m is None:
            return classes
        found = _blocks.observed_classes(self.batched)  # it counts the mask's own classes
        found = found if o.m.ndim and o.m.shape[-1] != 1 else found * classes
        return o.xp.where(found == 0, o.xp.ones_like(found), found)

    def logits(self, rows: tuple[slice, ...], classes: slice) -> Any:
        xp = self.rest.xp

        def cast(values: Any) -> Any:
            return xp.astype(values, self.dtype, copy=False)

        b = None if self.b is None else cast(self.b[classes])
        return self.library.logits(cast(self.h[(*rows, _ALL)]), cast(self.W[classes, :]), b)

    def adjoint(self, g: Any) -> Any:
        """The factor of the gradient of each row, in the accumulation dtype."""
        return REDUCE[self.problem.reduction].adjoint(self.batched, g) / self.counts()


def _head(
    input: Any,
    linear_weight: Any,
    target: Any,
    weight: Any,
    linear_bias: Any,
    reduction: Any,
    pos_weight: Any,
    where: Any,
    label_smoothing: Any,
    kernel: Any,
) -> Head:
    problem, rest, dtype, library = linear(
        *(input, linear_weight, linear_bias, target, weight, pos_weight, where, reduction, label_smoothing),
        kernel == _dispatch.GENERIC.name,
    )
    return Head(problem, rest, dtype, library, kernel, input, linear_weight, linear_bias)


# ---------------------------------------------------------------- the whole


def _value(head: Head) -> Any:
    device = head.problem.device
    with head.library.undisturbed(device), head.library.errstate(device):
        if head.problem.state is State.TRACKED and head.lean:
            return head.library.autograd_of_blocks.loss_of_head(head)
        return value(head) if head.lean else reference(head)


def value(head: Head) -> Any:
    """The loss, by blocks."""
    return _reduced(head, run(head, None, frozenset())["rows"])


def reference(head: Head) -> Any:
    """The loss of all logits at once, by the generic code, which can be traced and differentiated."""
    _dispatch.select(head.problem, head.kernel)  # raises an error if the forced kernel is not available
    o = _targets.dense(head.rest)._replace(x=head.logits((_ALL,) * (head.h.ndim - 1), _ALL))
    return reduced(head.problem.reduction, o, _core.rows(o), head.problem.loss_dtype)


def _reduced(head: Head, rows: Any) -> Any:
    return reduced(head.problem.reduction, head.batched, rows, head.problem.loss_dtype)


def _with_cotangent(head: Head, grad_output: Any) -> tuple[Head, Any]:
    problem, cotangent = _check.cotangent(grad_output, head.problem, head.batched, head.library)
    states = (head.problem.state, problem.state)
    return head._replace(problem=problem._replace(state=max(states, key=_STATES.index))), cotangent


_STATES = tuple(State)
_ALL_THREE = frozenset({"h", "W", "b"})


def _value_and_grad(head: Head, cotangent: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    device = head.problem.device
    with head.library.undisturbed(device), head.library.errstate(device):
        if head.problem.state is State.TRACKED:
            value, *found = head.library.autograd_of_blocks.value_and_grad_of_head(head, cotangent)
        else:
            value, *found = both(head, cotangent)
    return value, (found[0], found[1], found[2] if head.b is not None else None)


def both(head: Head, cotangent: Any) -> tuple[Any, ...]:
    """The loss and the gradients of `input`, `linear_weight` and, where there is one, `linear_bias`."""
    found = run(head, head.adjoint(cotangent), _ALL_THREE if head.b is not None else frozenset({"h", "W"}))
    return (_reduced(head, found.pop("rows")), *(found[name] for name in ("h", "W", "b") if name in found))


# ---------------------------------------------------------------- by blocks


def run(head: Head, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
    """`by_blocks`, as the library runs it."""
    return head.library.run_head(by_blocks, head, scale, wanted)


def by_blocks(head: Head, scale: Any, wanted: frozenset[str]) -> dict[str, Any]:
    """The row losses, and the gradients that `wanted` names: of "h", "W", "b", and of the operands "y", "w", "p".

    `scale` is the result of `Head.adjoint`. If the head is not `lean`, there is one block of all classes, and no array
    is written to.
    """
    o, xp, library, device = head.rest, head.rest.xp, head.library, head.problem.device
    batch, (classes, features) = head.h.shape[:-1], head.W.shape
    cut = head.lean and library.mutable
    cells = list(_targets.cells(batch, HEIGHT)) if cut and prod(batch) > HEIGHT else [(_ALL,) * len(batch)]
    width = max(1, min(classes, ELEMENTS // max(1, min(prod(batch), HEIGHT)))) if head.lean else classes
    zeros = xp.zeros_like(head.column[..., 0], dtype=o.acc)
    found: dict[str, Any] = {}
    if "W" in wanted:
        found["W"] = library.parts((classes, features), head.W.dtype, device)
    if "b" in wanted:
        found["b"] = library.parts((classes,), head.b.dtype, device)
    for name in wanted & {"y", "w", "p"}:
        of_it = getattr(o, name)
        dtype = of_it.dtype if name == "y" else o.acc
        found[name] = xp.zeros(of_it.shape, dtype=dtype, device=device)
    if scale is not None:
        scale = scale + zeros
        narrow = xp.astype(scale, o.dtype, copy=False)
        scaled = xp.astype(head.h, o.dtype, copy=False) * narrow[..., None]

    rows: list[Any] = [None] * len(cells)
    pulled: list[Any] = [None] * len(cells)
    for first in range(0, classes, width):
        here = slice(first, min(classes, first + width))
        W = xp.astype(head.W[here, :], o.dtype, copy=False) if "h" in wanted else None
        by_W = by_b = None
        for place, cell in enumerate(cells):
            part = _part(head, cell, here)
            kernel = _kernel(head, part)
            count = xp.full((), float(part.x.shape[-1]), dtype=o.acc, device=device)
            if o.m is not None:
                count = _core.observed_classes(part) + zeros[cell]
            if scale is None:
                rows[place] = _plus(rows[place], xp.astype(kernel.rows(part), o.acc, copy=False) * count)
                continue
            r, S = kernel.value_and_gradient(part, count)  # the count cancels the kernel's own divisor
            rows[place] = _plus(rows[place], xp.astype(r, o.acc, copy=False) * count)
            for name in wanted & {"y", "w", "p"}:
                _add_vjp(found, name, part, scale[cell] * count, (*cell, here))
            if "h" in wanted:
                pulled[place] = _plus(pulled[place], xp.astype(S @ W, o.acc, copy=False))
            turned = xp.matrix_transpose(xp.reshape(S, (-1, S.shape[-1])))
            if "W" in wanted:
                by_W = _plus(by_W, turned @ xp.reshape(scaled[(*cell, _ALL)], (turned.shape[-1], features)))
            if "b" in wanted:
                by_b = _plus(by_b, turned @ xp.reshape(narrow[cell], (-1,)))
        for name, by in (("W", by_W), ("b", by_b)):
            if by is not None:
                found[name].add(first, xp.astype(by, getattr(head, name).dtype, copy=False))

    for name in wanted & {"W", "b"}:
        found[name] = found[name].whole()
    for name in wanted & {"w", "p"}:
        found[name] = xp.astype(found[name], getattr(o, name).dtype, copy=False)
    if "h" in wanted:
        found["h"] = xp.astype(_joined(xp, pulled, cells, (*batch, features)) * scale[..., None], head.h.dtype)
    found["rows"] = xp.astype(_joined(xp, rows, cells, batch) / head.counts(), o.dtype, copy=False)
    return found


def _part(head: Head, cell: tuple[slice, ...], classes: slice) -> Operands:
    """A block of the logits, in the compute dtype, and of their operands."""
    o = head.rest
    x = o.xp.astype(head.logits(cell, classes), o.dtype, copy=False)
    if not head.lean:
        return _targets.dense(o)._replace(x=x)
    return o.holding(x, *(_blocks.at(v, (*cell, classes)) for v in o[2:6]))


def _kernel(head: Head, part: Operands) -> Kernel:
    if not head.lean:
        return _dispatch.GENERIC
    problem = _dispatch.problem_of(part, head.library, head.problem.device)
    if head.kernel is None:
        return _dispatch.select(problem)
    try:
        return _dispatch.select(problem, head.kernel)
    except ValueError as error:
        if head.kernel not in _dispatch.names():
            raise
        explained = _dispatch.explanation(problem)
        others = "; ".join(f"{name}: {reason}" for name, reason in explained.reasons if name != head.kernel)
        raise ValueError(f"{error} The blocks of this call are served by {explained.chosen!r} ({others}).") from None


def _add_vjp(found: dict[str, Any], name: str, part: Operands, g: Any, index: tuple[slice, ...]) -> None:
    """Add the pullback of one block for the target or a weight to the whole."""
    total = found[name]
    if name == "y":
        total[index] = _blocks.target_vjp(part, g, total.dtype)
        return
    pullback = _blocks.weight_vjp if name == "w" else _blocks.pos_weight_vjp
    place: tuple[Any, ...] = index[len(index) - total.ndim :] if total.ndim else ()
    place = tuple(_ALL if n == 1 else i for n, i in zip(total.shape, place, strict=True))
    total[place] += pullback(part, g, total.dtype)


def _plus(total: Any, part: Any) -> Any:
    return part if total is None else total + part


def _joined(xp: Any, by_cell: list[Any], cells: list[Any], shape: tuple[Any, ...]) -> Any:
    if len(cells) == 1:
        return by_cell[0]
    out = xp.empty(shape, dtype=by_cell[0].dtype, device=getattr(by_cell[0], "device", None))
    for place, cell in enumerate(cells):
        out[cell] = by_cell[place]
    return out
