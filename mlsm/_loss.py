"""The public functions: check, choose a kernel, run it across the row seam, reduce.

Each has a full docstring and a body of a few lines; their common code is at the end. No formula and no check is here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from . import _blocks, _check, _core, _dispatch
from ._core import Operands
from ._dispatch import Explanation, Kernel
from ._problem import Problem, State
from ._reduce import REDUCE, reduced, row_count
from ._typing import Array, ArrayT, Number, Reduction, Weight, Wrt
from .libraries.base import Library
from .many_classes import _row_blocks, _targets


def multilabel_soft_margin_loss(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    kernel: str | None = None,
) -> ArrayT:
    r"""Multi-label soft margin loss: binary cross-entropy with logits, averaged over the classes.

    For logits x, targets y and label smoothing eps, with softplus(x) = log(1 + exp(x)), y' = y*(1-eps) + eps/2 and
    (1-y)' = (1-y)*(1-eps) + eps/2::

        l    = weight * (pos_weight*y'*softplus(-x) + (1-y)'*softplus(x))
        row  = mean of l over the classes (those with `where` true)
        loss = row, mean of the rows, sum of the rows
               for the reductions "none", "mean", "sum"

    Parameters
    ----------
    input : array, shape ``(*batch, C)``
        Logits (raw scores, not probabilities), of float16, bfloat16, float32 or float64, of any Array API library.
    target : array, `Labels` or CSR matrix, same shape
        Labels: bool, integer or floating, hard (0 or 1) or soft. Targets outside [0, 1] get the formula unchanged.
    weight : array, number or nested list, optional
        Factor of each term; broadcasts to `input`'s shape without enlarging it: ``(C,)`` for the classes, ``(N, 1)``
        for the rows. The mean divides by C and N, never by the sum of the weights.
    reduction : {"mean", "sum", "none"}
        Over the batch. "sum" adds the class *means* of the rows, as PyTorch does.
    pos_weight : array, number or nested list, optional
        Factor of the positive part of each term; broadcasts like `weight`.
    where : bool array, optional
        True where a label was observed; broadcasts like `weight`. Other entries never contribute, whatever they hold.
        A row without an observed class has the loss 0, and "mean" leaves it out.
    label_smoothing : float
        eps in [0, 1]: moves every target towards 1/2.
    axis : int
        The class axis.
    kernel : str, optional
        Force a kernel by name; "generic" is the formula without a kernel. See `explain`.

    Returns
    -------
    array
        Shape ``batch`` for "none", else 0-d, on the device of `input`. Its dtype is the library's `result_type` of the
        floating arrays among `input`, `target`, `weight` and `pos_weight`; sums are taken in float64 if the device
        has it.

    Raises
    ------
    TypeError
        If an argument is not an array, if arrays belong to two libraries, or if dtypes are not accepted or promoted.
    ValueError
        If shapes, devices or options do not fit, or if `input` has no class.

    Notes
    -----
    Infinite logits are exact: (+inf, 1) and (-inf, 0) give 0, (+inf, 0) and (-inf, 1) give +inf. NaN stays in its
    row. An empty batch gives NaN for "mean" (0 with `where`), 0 for "sum". No warning is given.

    References
    ----------
    ``torch.nn.functional.multilabel_soft_margin_loss``, whose calls work unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> x = np.asarray([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]])
    >>> y = np.asarray([[1, 0, 1], [0, 1, 1]])
    >>> print(f"{mlsm.multilabel_soft_margin_loss(x, y):.15f}")
    0.630488204319660
    >>> rows = mlsm.multilabel_soft_margin_loss(x, y, [1.0, 2.0, 0.5], reduction="none")
    >>> print(rows.round(6))
    [0.388021 0.617929]
    """
    checked = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    value: ArrayT = _value(*checked, kernel)
    return value


def sigmoid_binary_cross_entropy(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    kernel: str | None = None,
) -> ArrayT:
    r"""Binary cross-entropy with logits of each element, not averaged.

    For logits x, targets y and label smoothing eps, with softplus(x) = log(1 + exp(x)), y' = y*(1-eps) + eps/2 and
    (1-y)' = (1-y)*(1-eps) + eps/2::

        l = weight * (pos_weight*y'*softplus(-x) + (1-y)'*softplus(x))

    The mean of l over the observed classes of a row is `multilabel_soft_margin_loss` with ``reduction="none"``.

    Parameters
    ----------
    input : array, any shape
        Logits (raw scores, not probabilities), of float16, bfloat16, float32 or float64, of any Array API library.
        There is no class axis: 0-d, 1-D and empty arrays are accepted.
    target : array, `Labels` or CSR matrix, same shape
        Labels: bool, integer or floating, hard (0 or 1) or soft. Targets outside [0, 1] get the formula unchanged.
    weight, pos_weight : array, number or nested list, optional
        Factors of each term, and of its positive part; each broadcasts to `input`'s shape without enlarging it.
    where : bool array, optional
        True where a label was observed; broadcasts like `weight`. Elsewhere the result is exactly 0, whatever the
        entries hold.
    label_smoothing : float
        eps in [0, 1]: moves every target towards 1/2.
    kernel : str, optional
        Force a kernel by name; "generic" is the formula without a kernel. See `explain`.

    Returns
    -------
    array
        Of `input`'s shape, on its device. Its dtype is the library's `result_type` of the floating arrays among
        `input`, `target`, `weight` and `pos_weight`.

    Raises
    ------
    TypeError
        If an argument is not an array, if arrays belong to two libraries, or if dtypes are not accepted or promoted.
    ValueError
        If shapes, devices or options do not fit.

    Notes
    -----
    Infinite logits are exact: (+inf, 1) and (-inf, 0) give 0, (+inf, 0) and (-inf, 1) give +inf. NaN stays in its
    element. No warning is given. Automatic differentiation is right at 0 and at infinite logits, to every order.

    References
    ----------
    ``optax.sigmoid_binary_cross_entropy`` and, with reduction "none",
    ``torch.nn.functional.binary_cross_entropy_with_logits``, which give NaN or lose every digit in the tails.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> x, y = np.asarray([0.5, -1.0, np.inf]), np.asarray([1, 0, 1])
    >>> print(mlsm.sigmoid_binary_cross_entropy(x, y).round(6))
    [0.474077 0.313262 0.      ]
    >>> print(mlsm.sigmoid_binary_cross_entropy(x, y, where=y == 1, label_smoothing=0.1).round(6))
    [0.499077 0.            inf]
    """
    checked = _check.problem(input, target, weight, pos_weight, where, "none", label_smoothing, -1, elementwise=True)
    value: ArrayT = _value(*checked, kernel)
    return value


def grad(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    grad_output: Array | Number | None = None,
    wrt: Wrt = "input",
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    kernel: str | None = None,
) -> ArrayT:
    r"""Gradient of the loss with respect to one argument (vector-Jacobian product), by the formulas below.

    With sigma the logistic function and the names of `multilabel_soft_margin_loss`::

        dl/d input      = weight * ((1-y)'*sigma(x) - pos_weight*y'*sigma(-x))
        dl/d target     = (1-eps) * weight * ((pos_weight-1)*log1p(exp(-|x|)) - r)
                          with r = x where x >= 0, else pos_weight*x
        dl/d weight     = pos_weight*y'*softplus(-x) + (1-y)'*softplus(x)
        dl/d pos_weight = weight*y'*softplus(-x)

    each divided by the number of observed classes, for "mean" also by the number of rows, and times `grad_output`.
    Those for the weights are summed to the shape of the weight.

    Parameters
    ----------
    input, target, weight, reduction, pos_weight, where, label_smoothing, axis, kernel
        As for `multilabel_soft_margin_loss`.
    grad_output : array or number, optional
        Upstream gradient, of the shape of the loss (``batch`` for "none", else 0-d); ones by default.
    wrt : {"input", "target", "weight", "pos_weight"}
        The argument to differentiate with respect to. "target" needs a dense target.

    Returns
    -------
    array
        Of that argument's shape (0-d for a number, the nested shape for a list) and floating dtype (`input`'s dtype
        if it has none). The result can be differentiated again.

    Raises
    ------
    TypeError
        As for the loss, and if `grad_output` belongs to another library or its dtype is not real.
    ValueError
        As for the loss, if `grad_output` has another shape, and if `wrt` is unknown or names an argument that was not
        given.

    Notes
    -----
    At (+inf, 1) and (-inf, 0) the gradient for `input` is 0, at (+inf, 0) and (-inf, 1) it is +weight and -weight.
    Entries with `where` false are exactly 0. At x = 0, without weights and smoothing, it is 1/2 - y and has no jump.

    References
    ----------
    docs/derivation derives each of the four formulas.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> mlsm.grad(np.asarray([[0.0, 0.0]]), np.asarray([[1, 0]]))
    array([[-0.25,  0.25]])
    >>> mlsm.grad(np.asarray([[2.0, -1.0]]), np.asarray([[1.0, 0.0]]), wrt="target")
    array([[-1. ,  0.5]])
    """
    given = {"input": input, "target": target, "weight": weight, "pos_weight": pos_weight}
    _check.check_wrt(wrt, given)
    checked = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    call = _prepared(*checked, grad_output, kernel)
    if wrt == "input":
        served, reference = call.chosen.rows_vjp, _core.rows_vjp
    else:
        dtype = _check.floating_dtype(given[wrt], call.library) or input.dtype
        served, reference = (partial(pullback, dtype=dtype) for pullback in _PULLBACKS[wrt])
    result = _moved_back(call.problem, call.operands, _derivative(call, kernel, served, reference))
    added = result.ndim - _check.rank(given[wrt])  # dimensions that were added to a weight for the class axis
    value: ArrayT = result[(*(0,) * added, ...)] if added else result
    return value


def value_and_grad(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    grad_output: Array | Number | None = None,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    kernel: str | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""The loss and its gradient for `input`, in one pass over the data if the kernel can.

    The pair ``(multilabel_soft_margin_loss(...), grad(...))`` of the same arguments; the value has the same bits. The
    gradient is multiplied by `grad_output`, the value is not.

    Parameters
    ----------
    input, target, weight, reduction, pos_weight, where, label_smoothing, axis, kernel
        As for `multilabel_soft_margin_loss`.
    grad_output : array or number, optional
        As for `grad`: the upstream gradient; ones by default.

    Returns
    -------
    value, gradient
        The value of the shape and dtype of the loss, the gradient of those of `input`.

    Raises
    ------
    TypeError, ValueError
        As for `grad`.

    Notes
    -----
    Special values are those of `multilabel_soft_margin_loss` and `grad`.

    References
    ----------
    docs/derivation shows the common parts of the two: exp(-|x|) and the linear part.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> value, gradient = mlsm.value_and_grad(np.zeros((1, 2)), np.asarray([[1, 0]]))
    >>> print(f"{value:.15f}", gradient)
    0.693147180559945 [[-0.25  0.25]]
    >>> value, gradient = mlsm.value_and_grad(np.zeros((1, 2)), np.asarray([[1, 0]]), grad_output=2)
    >>> print(f"{value:.15f}", gradient)
    0.693147180559945 [[-0.5  0.5]]
    """
    checked = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    call = None if grad_output is None else _prepared(*checked, grad_output, kernel)
    problem, o = checked[:2] if call is None else call[:2]
    if problem.state is State.PLAIN:
        chosen, g = (_select(problem, o, kernel), 1.0) if call is None else (call.chosen, call.cotangent)
        at_once = _dispatch.at_once(chosen, problem, o, g)
        if at_once is not None:
            return at_once[0], _moved_back(problem, o, at_once[1])
    call = call or _prepared(*checked, grad_output, kernel)
    count = row_count(call.problem.reduction, call.operands, call.chosen)
    rows, gradient = _derivative(call, kernel, call.chosen.value_and_gradient, _core.rows_and_vjp, count)
    value = _reduced(call.problem, call.operands, call.library, call.chosen, rows, count)
    found: tuple[ArrayT, ArrayT] = value, _moved_back(call.problem, call.operands, gradient)
    return found


def hessian_diag(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    grad_output: Array | Number | None = None,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    kernel: str | None = None,
) -> ArrayT:
    r"""Diagonal of the second derivative of the loss with respect to `input`.

    ::

        d2l/d input2 = weight * ((1-y)' + pos_weight*y') * sigma(x)*sigma(-x)

    divided by the number of observed classes, for "mean" also by the number of rows, and times `grad_output`. The loss
    is separable, so for "sum" and "mean" this diagonal is the whole Hessian.

    Parameters
    ----------
    input, target, weight, reduction, pos_weight, where, label_smoothing, axis, kernel
        As for `multilabel_soft_margin_loss`.
    grad_output : array or number, optional
        Factor of each row (for "none"), or of the reduced loss; ones by default.

    Returns
    -------
    array
        Of `input`'s shape and dtype. With non-negative weights and without `grad_output` it is between 0 and
        weight*max(1, pos_weight)/(4*C*N).

    Raises
    ------
    TypeError, ValueError
        As for `grad`.

    Notes
    -----
    It is exactly 0 at an infinite logit and where `where` is false. d2l/d input2 is 1/4 at 0 without weights. Without
    `pos_weight` it does not depend on the target, and is finite for a NaN target.

    References
    ----------
    docs/numerics: why s*(1-s) of s = exp(-|x|)/(1+exp(-|x|)) keeps the digits that sigma*(1-sigma) loses.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> mlsm.hessian_diag(np.asarray([[0.0, np.inf]]), np.asarray([[1, 0]]))
    array([[0.125, 0.   ]])
    >>> mlsm.hessian_diag(np.asarray([[0.0, np.inf]]), np.asarray([[1, 0]]), grad_output=4)
    array([[0.5, 0. ]])
    """
    checked = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    call = _prepared(*checked, grad_output, kernel)
    curvature = _derivative(call, kernel, call.chosen.curvature, _core.curvature)
    value: ArrayT = _moved_back(call.problem, call.operands, curvature)
    return value


def explain(
    input: Array,
    target: Array,
    weight: Weight | None = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    kernel: str | None = None,
) -> Explanation:
    """Which kernel would serve this call, and why each other kernel declines. Computes nothing.

    Parameters
    ----------
    input, target, weight, reduction, pos_weight, where, label_smoothing, axis, kernel
        As for `multilabel_soft_margin_loss`.

    Returns
    -------
    Explanation
        Its `chosen` is the kernel's name, its `reasons` a tuple of ``(kernel, reason)``. Prints as a table.

    Raises
    ------
    TypeError, ValueError
        As for `multilabel_soft_margin_loss`.

    Examples
    --------
    >>> import array_api_strict as xp
    >>> import mlsm
    >>> mlsm.explain(xp.zeros((2, 3)), xp.ones((2, 3))).chosen
    'generic'
    """
    problem, *_ = _check.problem(input, target, weight, pos_weight, where, reduction, label_smoothing, axis)
    return _dispatch.explanation(problem, kernel)


_Pullback = Callable[[Operands, Any], Any]
# For each argument but `input`: the pullback by blocks, and the reference, which is traced and differentiated again.
_PULLBACKS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "target": (_blocks.target_vjp, _core.target_vjp),
    "weight": (_blocks.weight_vjp, _core.weight_vjp),
    "pos_weight": (_blocks.pos_weight_vjp, _core.pos_weight_vjp),
}


class _Call(NamedTuple):
    """A checked call of a derivative, and the kernel that serves it."""

    problem: Problem
    operands: Operands
    library: Library
    cotangent: Any
    chosen: Kernel


def _prepared(problem: Problem, o: Operands, library: Library, grad_output: Any, kernel: str | None) -> _Call:
    problem, cotangent = _check.cotangent(grad_output, problem, o, library)
    return _Call(problem, o, library, cotangent, _select(problem, o, kernel))


def _select(problem: Problem, o: Operands, kernel: str | None) -> Kernel:
    chosen = _dispatch.select(problem, kernel)
    return _row_blocks.by_rows(chosen, o) if type(o.y) is _targets.Target else chosen


def _derivative(call: _Call, kernel: str | None, served: _Pullback, reference: _Pullback, count: Any = None) -> Any:
    """A pullback of the row losses, applied to the pullback of the reduction; it can be differentiated again."""
    problem, o, library, cotangent, _ = call
    adjoint = REDUCE[problem.reduction].adjoint
    if type(o.y) is _targets.Target:
        o, served, reference = _row_blocks.apart(o, served, reference)
    if kernel == _dispatch.GENERIC.name or problem.state is State.TRACED:
        served = reference
    elif problem.state is State.TRACKED:
        return library.autograd.recomputed(
            lambda o, g: served(o, adjoint(o, g)), lambda o, g: reference(o, adjoint(o, g)), o, cotangent
        )
    with library.errstate(problem.device):
        count = row_count(problem.reduction, o, call.chosen) if count is None else count
        return served(o, adjoint(o, cotangent, count))


def _value(problem: Problem, o: Operands, library: Library, kernel: str | None) -> Any:
    """The loss of a checked call, differentiable."""
    chosen = _select(problem, o, kernel)
    if problem.state is State.TRACKED and kernel != _dispatch.GENERIC.name:
        if type(o.y) is _targets.Target:
            return library.autograd_of_blocks.loss_of_labels(chosen, problem, o)
        return library.autograd.tracked(chosen, problem, o)
    at_once = _dispatch.at_once(chosen, problem, o, None)
    if at_once is not None:
        return at_once[0]
    with library.errstate(problem.device):
        rows = chosen.rows(o)
    return _reduced(problem, o, library, chosen, rows)


def _reduced(problem: Problem, o: Operands, library: Library, chosen: Kernel, rows: Any, count: Any = None) -> Any:
    if library.reduced_rows is not None and problem.state is State.PLAIN:
        return library.reduced_rows(chosen, problem, o, rows, count)
    with library.errstate(problem.device):
        count = row_count(problem.reduction, o, chosen) if count is None else count
        return reduced(problem.reduction, o, rows, problem.loss_dtype, count)


def _moved_back(problem: Problem, o: Operands, values: Any) -> Any:
    """A result with the class axis moved back to where the caller has it."""
    ndim = len(problem.input.shape)
    if problem.axis == ndim - 1 or values.ndim != ndim:
        return values
    return o.xp.moveaxis(values, -1, problem.axis)
