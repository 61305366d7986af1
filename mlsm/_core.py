"""The mathematics of the loss: value, gradient, curvature, the class mean and its pullbacks.

Written once, against the Python Array API standard. This file knows no array library, makes no decision that
depends on a value, cuts nothing into blocks, and validates nothing: its arguments have passed `_check`.

With H = [x >= 0], sign = +1 where H else -1 (a constant for differentiation) and a = x * sign:

    e = exp(-a),  L = log1p(e),  s = e / (1 + e)
    q = ybar + p*y'                          coefficient of the smooth part, exactly 1 when p is absent
    t = ybar where H, else p*y'              coefficient of the linear part
    loss      = w * (t*a + q*L)              with t*a = 0 where t = 0 and a is infinite
    gradient  = w * sign*(t - q*s)
    curvature = w * q*s*(1 - s)

where y' = y*(1-eps) + eps/2 and ybar = (1-y)*(1-eps) + eps/2. It is written this way because every rule that a
framework needs to differentiate it is exact: |x|, maximum, clip and copysign all have a wrong gradient at x = 0 or at
-0.0, and `where` applied to the product instead of to a factor turns an infinite logit into 0 * inf.
"""

from typing import Any, NamedTuple

from ._typing import DType, Namespace


class Operands(NamedTuple):
    """The checked operands of one loss: arrays of one library on one device, class axis last."""

    xp: Namespace
    x: Any  # logits, in the caller's dtype
    y: Any  # targets, in the caller's dtype, of the shape of x
    w: Any  # weight, and below pos_weight and where: None, or broadcastable to x
    p: Any
    m: Any
    eps: float  # label smoothing
    dtype: DType  # the compute dtype: of the arithmetic and of the row losses
    acc: DType  # the accumulation dtype: of every sum and of the pullbacks' scale
    flat: bool = True  # whether sums flatten first; False where that would move chunks or shards, or is not needed
    host: bool = False  # whether these are plain arrays in host memory, which `_blocks` may cut and write to in parts

    def holding(self, x: Any, y: Any, w: Any, p: Any, m: Any) -> "Operands":
        """The same loss with other arrays, such as blocks of these, or tensors that a graph has kept."""
        return Operands(self.xp, x, y, w, p, m, self.eps, self.dtype, self.acc, self.flat, self.host)


class Parts(NamedTuple):
    """What value, gradient and curvature have in common, in the compute dtype; w and q are None where they are 1."""

    x: Any
    w: Any
    y: Any  # y' of the formula
    ybar: Any
    positive: Any  # p*y'
    q: Any
    right: Any  # H
    sign: Any
    e: Any


# ---------------------------------------------------------------- elementwise


def _select(o: Operands, values: Any) -> Any:
    """Keep the observed entries and put exactly 0 elsewhere, whatever stood there (NaN included)."""
    return values if o.m is None else o.xp.where(_ranked(o, o.m), values, o.xp.zeros_like(values))


def _read(o: Operands, values: Any) -> Any:
    """An operand in the compute dtype, masked; None stays None (it stands for a factor of 1)."""
    return None if values is None else _select(o, o.xp.astype(_ranked(o, values), o.dtype, copy=False))


def _ranked(o: Operands, values: Any) -> Any:
    """An operand with as many axes as the logits, or with none: JAX can be set to refuse broadcasting between ranks."""
    added = o.x.ndim - values.ndim
    return values[(*(None,) * added, ...)] if added and values.ndim else values


def _scaled(factor: Any, values: Any) -> Any:
    """factor * values, where a factor of None is 1 and costs nothing."""
    return values if factor is None else factor * values


def multiply_no_nan(xp: Namespace, t: Any, a: Any) -> Any:
    """t*a for a >= 0, and 0 where t = 0 and a is infinite.

    The guard selects the factor, not the product, so that 0*inf is formed neither in the value nor in the derivative.
    It tests t *and* a, because a guard on t alone would make the target's gradient 0 for every hard label.
    """
    return xp.where((t == 0) & xp.isinf(a), xp.zeros_like(a), a) * t


def parts(o: Operands) -> Parts:
    """Read the operands in the compute dtype, and compute what value, gradient and curvature have in common."""
    xp = o.xp
    x, y, w, p = _read(o, o.x), _read(o, o.y), _read(o, o.w), _read(o, o.p)
    ybar = 1 - y
    if o.eps:
        # Both coefficients are computed from y: 1 - y' of a rounded y' would lose every digit of eps.
        y, ybar = y * (1 - o.eps) + o.eps / 2, ybar * (1 - o.eps) + o.eps / 2
    positive = _scaled(p, y)
    right = x >= 0
    sign = 2 * xp.astype(right, o.dtype) - 1  # not sign(x), which is 0 at 0; not copysign, which is -1 at -0.0
    return Parts(x, w, y, ybar, positive, None if p is None else ybar + positive, right, sign, xp.exp(-(x * sign)))


def by_weight(o: Operands, f: Parts) -> Any:
    """t*a + q*L. The linear part is written as two terms, one of which is always 0: with t selected first, the
    selection's own derivative would multiply the coefficient that was not selected by an infinite a."""
    xp, zero = o.xp, o.xp.zeros_like(f.x)
    linear = multiply_no_nan(xp, f.ybar, xp.where(f.right, f.x, zero)) + multiply_no_nan(
        xp, f.positive, xp.where(f.right, zero, -f.x)
    )
    return linear + _scaled(f.q, xp.log1p(f.e))


def loss(o: Operands, f: Parts) -> Any:
    """w * (t*a + q*L), and 0 where `where` is false."""
    return _select(o, _scaled(f.w, by_weight(o, f)))


def gradient(o: Operands, f: Parts) -> Any:
    """w * sign*(t - q*s)."""
    t = o.xp.where(f.right, f.ybar, f.positive)
    return _scaled(f.w, f.sign * (t - _scaled(f.q, f.e / (1 + f.e))))


def hessian(o: Operands, f: Parts, least: float = 0.0) -> Any:
    """w * q*s*(1 - s), where s*(1 - s) is at least `least`."""
    s = f.e / (1 + f.e)
    curve = s * (1 - s)
    if least:
        curve = o.xp.where(curve < least, o.xp.full_like(curve, least), curve)
    return _scaled(f.w, _scaled(f.q, curve))


def derivatives(o: Operands, scale: Any, least: float) -> tuple[Any, Any]:
    """Gradient and curvature of every element, not averaged, times `scale`, which broadcasts to x, or is None for 1."""
    f = parts(o)
    first, second = (
        _stored(o, _select(o, _scaled(scale, values)), o.x.dtype) for values in (gradient(o, f), hessian(o, f, least))
    )
    return first, second


def by_target(o: Operands, f: Parts) -> Any:
    """(1-eps)*w*((p-1)*L - (x if x >= 0 else p*x)), which is -(1-eps)*w*x without pos_weight."""
    xp = o.xp
    if o.p is None:
        derivative = -f.x
    else:
        p = _read(o, o.p)
        derivative = (p - 1) * xp.log1p(f.e) - xp.where(f.right, f.x, p * f.x)
    return _scaled(f.w, derivative * (1 - o.eps) if o.eps else derivative)


def by_pos_weight(o: Operands, f: Parts) -> Any:
    """w*y'*softplus(-x)."""
    xp = o.xp
    derivative = multiply_no_nan(xp, f.y, xp.where(f.right, xp.zeros_like(f.x), -f.x)) + f.y * xp.log1p(f.e)
    return _scaled(f.w, derivative)


# ---------------------------------------------------------------- the class mean M and its adjoint


def total(o: Operands, values: Any, axis: int | None = -1) -> Any:
    """The sum over one axis, or over all, in the accumulation dtype. Its bits do not depend on the strides.

    A library's own sum is accurate along the contiguous axis and naive along others (NumPy's is 368 ulp off over 10^6
    float64 terms of a Fortran-ordered row). Flattening makes the last axis contiguous: by a view if it is already, else
    by a copy.
    """
    if o.flat and values.ndim > 1:
        shape, values = values.shape, o.xp.reshape(values, (-1,))
        if axis is not None:
            values = o.xp.reshape(values, shape)
    return o.xp.sum(values, axis=axis, dtype=o.acc)


def observed(o: Operands) -> Any:
    """`where`, broadcast to the logits by arithmetic, because `broadcast_to` needs known lengths."""
    return _ranked(o, o.m) | o.xp.zeros_like(o.x, dtype=o.xp.bool)


def known(n: Any) -> bool:
    """Whether a length is a known number: an unknown one is None, NaN or -1, or the symbol of a trace."""
    return type(n) is int and n >= 0


def counted(o: Operands, values: Any, axis: int | None = -1) -> Any:
    """How many values there are along one axis, or along all, for arrays with lengths that are not known."""
    ones = o.xp.ones_like(values, dtype=o.xp.int32)  # not float32, in which a sum of ones stops at 2^24
    return o.xp.astype(o.xp.sum(ones, axis=axis), o.acc)


def class_count(o: Operands) -> Any:
    """The number of classes, as a float, because JAX without x64 has no integer beyond 2^31."""
    classes = o.x.shape[-1]
    return float(classes) if known(classes) else counted(o, o.x)


def observed_classes(o: Operands) -> Any:
    """The number of observed classes of each row, of the batch shape of `where`, which broadcasts."""
    m = _ranked(o, o.m) if o.m.ndim else o.m[None]
    classes = o.xp.sum(o.xp.astype(m, o.acc), axis=-1)
    return classes if m.shape[-1] == o.x.shape[-1] else classes * class_count(o)


def divisor(o: Operands, classes: Any) -> Any:
    """The divisor of the sums of the rows: 1 for a row without an observed class, whose sum is 0 already."""
    return class_count(o) if o.m is None else o.xp.where(classes == 0, o.xp.ones_like(classes), classes)


def _divisor(o: Operands) -> Any:
    return divisor(o, None if o.m is None else observed_classes(o))


def _mean(o: Operands, values: Any) -> Any:
    return o.xp.astype(total(o, values) / _divisor(o), o.dtype, copy=False)


def times_scale(o: Operands, scale: Any, values: Any) -> Any:
    """An elementwise derivative times the scale of its row. Masked entries are set to 0 after the product, because the
    scale itself may be infinite or NaN."""
    scale = o.xp.astype(scale, o.dtype, copy=False)
    return _select(o, values * (scale[..., None] if scale.ndim else scale))


def mean_vjp(o: Operands, g: Any, values: Any) -> Any:
    """The adjoint of the class mean, applied to g and multiplied into the elementwise derivative.

    The scale is divided in the accumulation dtype and rounded once.
    """
    return times_scale(o, g / _divisor(o), values)


def rows(o: Operands) -> Any:
    """The row losses: the mean over the observed classes."""
    return _mean(o, loss(o, parts(o)))


def rows_vjp(o: Operands, g: Any) -> Any:
    """The pullback of `rows` for the logits; g broadcasts to the row losses."""
    return _stored(o, mean_vjp(o, g, gradient(o, parts(o))), o.x.dtype)


def rows_and_vjp(o: Operands, g: Any) -> tuple[Any, Any]:
    """`rows` and `rows_vjp`, which share the exponential and their other common parts."""
    f = parts(o)
    return _mean(o, loss(o, f)), _stored(o, mean_vjp(o, g, gradient(o, f)), o.x.dtype)


def curvature(o: Operands, g: Any) -> Any:
    """The diagonal of the second derivative of `rows`, scaled by g."""
    return _stored(o, mean_vjp(o, g, hessian(o, parts(o))), o.x.dtype)


def _stored(o: Operands, values: Any, dtype: DType) -> Any:
    return o.xp.astype(values, dtype, copy=False)


def sum_stored(o: Operands, values: Any, dtype: DType) -> Any:
    """A sum in its storage dtype, rounded once.

    A cast is not linear, but DTensor treats it as linear and would round each shard's part of the sum. It treats a
    selection as nonlinear, and adds the parts first.
    """
    if not o.flat and values.dtype != dtype:
        values = o.xp.where(values == values, values, values)
    return o.xp.astype(values, dtype, copy=False)


# ---------------------------------------------------------------- pullbacks of the other arguments


def target_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    """The pullback of `rows` for the target."""
    return _stored(o, mean_vjp(o, g, by_target(o, parts(o))), dtype)


def weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    """The pullback of `rows` for the weight, summed back to its shape."""
    return sum_stored(o, unbroadcast(o, mean_vjp(o, g, by_weight(o, parts(o))), o.w.shape), dtype)


def pos_weight_vjp(o: Operands, g: Any, dtype: DType) -> Any:
    """The pullback of `rows` for pos_weight, summed back to its shape."""
    return sum_stored(o, unbroadcast(o, mean_vjp(o, g, by_pos_weight(o, parts(o))), o.p.shape), dtype)


def unbroadcast(o: Operands, values: Any, shape: tuple[Any, ...]) -> Any:
    """The adjoint of broadcasting from `shape` to the logits' shape; a sum is in the accumulation dtype.

    The summed axes are first moved to the end and joined, because `total` is accurate along the last axis.
    """
    xp, added = o.xp, values.ndim - len(shape)
    spread = (*range(added), *(added + i for i, n in enumerate(shape) if n == 1))
    if len(spread) == values.ndim:
        return xp.reshape(total(o, values, axis=None), shape)
    if not spread:
        return values
    if o.flat:
        kept = tuple(i for i in range(values.ndim) if i not in spread)
        together = 1
        for i in spread:
            together = together * values.shape[i]
        values = xp.permute_dims(values, (*kept, *spread))
        values = xp.reshape(values, (*values.shape[: len(kept)], together))
        return xp.reshape(total(o, values), shape)
    values = xp.sum(values, axis=spread, keepdims=True, dtype=o.acc)
    return values[(*(0,) * added, ...)] if added else values
