"""Gradient and Hessian of every element, not averaged: check, choose a kernel, run it. No formula is here."""

from typing import Any

from .. import _check, _dispatch
from .._problem import State
from .._typing import Array, ArrayT, Weight
from ..many_classes import _targets


def derivatives(
    input: ArrayT,
    target: Array,
    weight: Weight | None = None,
    *,
    sample_weight: Weight | None = None,
    pos_weight: Weight | None = None,
    where: Array | None = None,
    label_smoothing: float = 0.0,
    min_hessian: float = 0.0,
    kernel: str | None = None,
) -> tuple[ArrayT, ArrayT]:
    r"""First and second derivative of `mlsm.sigmoid_binary_cross_entropy` for `input`, element by element.

    With sigma the logistic function, y' = y*(1-eps) + eps/2, (1-y)' = (1-y)*(1-eps) + eps/2 and sample weights v::

        gradient = v * weight * ((1-y)'*sigma(x) - pos_weight*y'*sigma(-x))
        hessian  = v * weight * ((1-y)' + pos_weight*y') * max(sigma(x)*sigma(-x), min_hessian)

    Nothing is divided by the number of classes or of rows: a booster adds these values over the rows of a leaf.

    Parameters
    ----------
    input : array, any shape
        Margins (logits), of float16, bfloat16, float32 or float64, of any Array API library, C or Fortran ordered. In
        one dimension it is one class, and each element is a row.
    target : array, `Labels` or CSR matrix, same shape
        Labels: bool, integer or floating, hard (0 or 1) or soft.
    weight, pos_weight : array, number or nested list, optional
        Factors of each term, and of its positive part; each broadcasts to `input`'s shape without enlarging it:
        ``(C,)`` for the classes.
    sample_weight : array or nested list, optional
        Factor of each row, of shape ``batch``, which is `input`'s shape without the last axis, or `input`'s own shape
        if it has one dimension.
    where : bool array, optional
        True where a label was observed; broadcasts like `weight`. Elsewhere both results are exactly 0.
    label_smoothing : float
        eps in [0, 1]: moves every target towards 1/2.
    min_hessian : float
        Lower bound of sigma(x)*sigma(-x) in the Hessian of an observed element, before the weights. With 0 the Hessian
        is unchanged, and exactly 0 at an infinite margin.
    kernel : str, optional
        Force a kernel by name; "generic" is the formula without a kernel. See `mlsm.explain`.

    Returns
    -------
    gradient, hessian
        Of `input`'s shape, dtype, device and memory order.

    Raises
    ------
    TypeError
        If an argument is not an array, if arrays belong to two libraries, or if dtypes are not accepted or promoted.
    ValueError
        If shapes, devices or options do not fit.

    Notes
    -----
    No digit is lost in the tails: at a margin of 17 with label 1 the float32 gradient is -4.1e-8, where sigma(x) - y is
    0. At (+inf, 1) and (-inf, 0) the gradient is 0, at (+inf, 0) and (-inf, 1) it is +weight and -weight.

    References
    ----------
    docs/derivation derives both; ``binary:logistic`` of XGBoost floors its Hessian at 1e-16 in the same way.

    Examples
    --------
    >>> import numpy as np
    >>> import mlsm
    >>> margins, labels = np.asarray([[0.0, 2.0], [-1.0, 0.0]]), np.asarray([[1, 0], [-1, 1]])
    >>> gradient, hessian = mlsm.objectives.derivatives(margins, labels, where=labels >= 0)
    >>> print(gradient.round(4))
    [[-0.5     0.8808]
     [ 0.     -0.5   ]]
    >>> print(hessian.round(4))
    [[0.25  0.105]
     [0.    0.25 ]]
    """
    least = _check.check_min_hessian(min_hessian)
    problem, o, library = _check.problem(
        input, target, weight, pos_weight, where, "none", label_smoothing, -1, elementwise=True
    )
    o = _targets.dense(o)
    problem, scale = _check.scaled_rows(sample_weight, input, problem, o, library)
    # A kernel's results cannot be differentiated again; those of the generic code can.
    tracked = problem.state is State.TRACKED and kernel is None
    chosen = _dispatch.select(problem, _dispatch.GENERIC.name if tracked else kernel, elements=True)
    # The checks gave each element a class axis of its own; here an element is not a row.
    o = o.holding(*(v if v is None or not v.ndim else v[..., 0] for v in o[1:6]))
    with library.errstate(problem.device):
        found: Any = chosen.derivatives(o, scale, least)
        if problem.state is State.PLAIN:
            found = tuple(library.laid_out(values, input) for values in found)
    value: tuple[ArrayT, ArrayT] = found
    return value
