"""The functions that Triton compiles: row sums, and the pullback or the curvature, of CUDA tensors with any strides.

The arithmetic is that of `_cuda.cu`, with its polynomials, element by element; sums are taken in float64. Chooses
nothing (`triton.py` does). Importing it imports Triton.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
import triton
import triton.language as tl

# These constants are those of `_cuda.cu`, which explains them.
_LOG2E = tl.constexpr(1.4426950408889634)
_SHIFTER_32, _SHIFTER_64 = tl.constexpr(12582912.0 + 127 + 64), tl.constexpr(6755399441055744.0 + 1023 + 128)
_POWERED_32, _POWERED_64 = tl.constexpr(2.0**-64), tl.constexpr(2.0**-128)
_HIGH_32, _LOW_32 = tl.constexpr(0.693145751953125), tl.constexpr(1.4286068203094172e-06)
_HIGH_64, _LOW_64 = tl.constexpr(0.6931471803691238), tl.constexpr(1.9082149292705877e-10)


@triton.jit
def _constant(value: tl.constexpr, like):
    """A number in the dtype of `like`. A literal may be rounded to float32 first."""
    return tl.full(like.shape, value, like.dtype)


@triton.jit
def _q_32(x):
    """q of exp(r) = 1 + (r + r^2*q)."""
    q = _constant(0.001381448613103384, x)
    q = tl.fma(q, x, _constant(0.008368780553090566, x))
    q = tl.fma(q, x, _constant(0.04166839389522632, x))
    q = tl.fma(q, x, _constant(0.16666520106827512, x))
    return tl.fma(q, x, _constant(0.49999993413621063, x))


@triton.jit
def _q_64(x):
    """The same in float64."""
    q = _constant(2.500008929190688e-08, x)
    q = tl.fma(q, x, _constant(2.763037807074101e-07, x))
    q = tl.fma(q, x, _constant(2.755758695695997e-06, x))
    q = tl.fma(q, x, _constant(2.4801492764037963e-05, x))
    q = tl.fma(q, x, _constant(0.00019841269505186347, x))
    q = tl.fma(q, x, _constant(0.0013888888943921912, x))
    q = tl.fma(q, x, _constant(0.008333333333495436, x))
    q = tl.fma(q, x, _constant(0.04166666666652919, x))
    q = tl.fma(q, x, _constant(0.1666666666666641, x))
    return tl.fma(q, x, _constant(0.5000000000000011, x))


@triton.jit
def _r_32(x):
    """q of log1p(e) = e + e^2*q."""
    q = _constant(-0.0033739365911547533, x)
    q = tl.fma(q, x, _constant(0.020464828168909144, x))
    q = tl.fma(q, x, _constant(-0.05817676099329838, x))
    q = tl.fma(q, x, _constant(0.10735419822300372, x))
    q = tl.fma(q, x, _constant(-0.15390024129399507, x))
    q = tl.fma(q, x, _constant(0.19708424636843788, x))
    q = tl.fma(q, x, _constant(-0.24961388861426395, x))
    q = tl.fma(q, x, _constant(0.3333081857516269, x))
    return tl.fma(q, x, _constant(-0.4999994542422248, x))


@triton.jit
def _r_64(x):
    """The same in float64."""
    q = _constant(-1.724146608631894e-05, x)
    q = tl.fma(q, x, _constant(0.00020633090805066898, x))
    q = tl.fma(q, x, _constant(-0.0011739322638603788, x))
    q = tl.fma(q, x, _constant(0.004245247720404078, x))
    q = tl.fma(q, x, _constant(-0.011031873187088226, x))
    q = tl.fma(q, x, _constant(0.022157012415927664, x))
    q = tl.fma(q, x, _constant(-0.03628943520729547, x))
    q = tl.fma(q, x, _constant(0.050768289350711863, x))
    q = tl.fma(q, x, _constant(-0.06338104677759317, x))
    q = tl.fma(q, x, _constant(0.07356854454874355, x))
    q = tl.fma(q, x, _constant(-0.08219584645370416, x))
    q = tl.fma(q, x, _constant(0.09059938039393903, x))
    q = tl.fma(q, x, _constant(-0.09993331889089016, x))
    q = tl.fma(q, x, _constant(0.11109997515654242, x))
    q = tl.fma(q, x, _constant(-0.12499859334809882, x))
    q = tl.fma(q, x, _constant(0.14285701298326914, x))
    q = tl.fma(q, x, _constant(-0.16666665831718738, x))
    q = tl.fma(q, x, _constant(0.19999999965264248, x))
    q = tl.fma(q, x, _constant(-0.24999999999172703, x))
    q = tl.fma(q, x, _constant(0.33333333333324533, x))
    return tl.fma(q, x, _constant(-0.49999999999999983, x))


@triton.jit
def _decay(a, DOUBLE: tl.constexpr):
    """exp(-a) for a >= 0, NaN for NaN."""
    if DOUBLE:
        a = tl.where(a > 746.0, 746.0, a)
        shifter = _constant(_SHIFTER_64, a)
        shifted = tl.fma(-a, _constant(_LOG2E, a), shifter)
        n = shifted - shifter
        r = tl.fma(n, _constant(-_LOW_64, a), tl.fma(n, _constant(-_HIGH_64, a), -a))
        e = tl.fma(_q_64(r), r * r, r) + 1
        power = (shifted.to(tl.int64, bitcast=True) << 52).to(tl.float64, bitcast=True)
        return e * power * _constant(_POWERED_64, a)
    else:
        a = tl.where(a > 104.0, 104.0, a)
        shifter = _constant(_SHIFTER_32, a)
        shifted = tl.fma(-a, _constant(_LOG2E, a), shifter)
        n = shifted - shifter
        r = tl.fma(n, _constant(-_LOW_32, a), tl.fma(n, _constant(-_HIGH_32, a), -a))
        e = tl.fma(_q_32(r), r * r, r) + 1
        power = (shifted.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
        return e * power * _constant(_POWERED_32, a)


@triton.jit
def _offset(row, n0, n1, n2, s0, s1, s2, s3):
    """The offset of a row in an array; axis 0 is the innermost batch axis."""
    rest0 = row // n0
    rest1 = rest0 // n1
    rest2 = rest1 // n2
    return (row - rest0 * n0) * s0 + (rest0 - rest1 * n1) * s1 + (rest1 - rest2 * n2) * s2 + rest2 * s3


@triton.jit
def _read(base, at, on, BOOL: tl.constexpr, DOUBLE: tl.constexpr):
    value = tl.load(base + at, mask=on, other=0)
    if BOOL:
        value = (value != 0).to(tl.int32)  # true for every byte but 0
    return value.to(tl.float64) if DOUBLE else value.to(tl.float32)


@triton.jit
def run(
    x, y, w, p, m, scale, sums, out,
    count, classes, chunks,
    n0, n1, n2,
    x0, x1, x2, x3, xc,
    y0, y1, y2, y3, yc,
    w0, w1, w2, w3, wc,
    p0, p1, p2, p3, pc,
    m0, m1, m2, m3, mc,
    g0, g1, g2, g3,
    o0, o1, o2, o3, oc,
    WANT_ROWS: tl.constexpr, WANT_GRADIENT: tl.constexpr, WANT_HESSIAN: tl.constexpr,
    DOUBLE: tl.constexpr, SMOOTH: tl.constexpr, KEEP: tl.constexpr, SHIFT: tl.constexpr,
    WEIGHTED: tl.constexpr, POSITIVE: tl.constexpr, MASKED: tl.constexpr,
    Y_BOOL: tl.constexpr, W_BOOL: tl.constexpr, P_BOOL: tl.constexpr,
    CHUNK: tl.constexpr, HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One chunk of classes of `HIGH` rows, `WIDE` classes at a time: sums of losses, and derivatives."""
    place = tl.program_id(0).to(tl.int64)
    chunk = place % chunks
    row = (place // chunks) * HIGH + tl.arange(0, HIGH).to(tl.int64)
    present = row < count
    row = tl.where(present, row, 0)
    begin = chunk * CHUNK
    end = tl.minimum(begin + CHUNK, classes)
    xo = _offset(row, n0, n1, n2, x0, x1, x2, x3)[:, None]
    yo = _offset(row, n0, n1, n2, y0, y1, y2, y3)[:, None]
    wo = _offset(row, n0, n1, n2, w0, w1, w2, w3)[:, None]
    po = _offset(row, n0, n1, n2, p0, p1, p2, p3)[:, None]
    mo = _offset(row, n0, n1, n2, m0, m1, m2, m3)[:, None]
    oo = _offset(row, n0, n1, n2, o0, o1, o2, o3)[:, None]
    if WANT_GRADIENT or WANT_HESSIAN:
        factor = tl.load(scale + _offset(row, n0, n1, n2, g0, g1, g2, g3))[:, None]
    total = tl.zeros([HIGH], tl.float64)
    for start in range(begin, end, WIDE):
        k = (start + tl.arange(0, WIDE).to(tl.int64))[None, :]
        here = present[:, None] & (k < end)
        on = here
        if MASKED:
            on = here & (tl.load(m + mo + k * mc, mask=here, other=0) != 0)
        logit = _read(x, xo + k * xc, on, False, DOUBLE)
        target = _read(y, yo + k * yc, on, Y_BOOL, DOUBLE)
        right = logit >= 0
        a = tl.where(right, logit, -logit)
        e = _decay(a, DOUBLE)
        ybar = 1 - target
        if SMOOTH:
            keep, shift = _constant(KEEP, target), _constant(SHIFT, target)
            target = tl.fma(target, keep, shift)
            ybar = tl.fma(ybar, keep, shift)
        positive = target
        if POSITIVE:
            positive = target * _read(p, po + k * pc, on, P_BOOL, DOUBLE)
        t = tl.where(right, ybar, positive)
        if WEIGHTED:
            weight = _read(w, wo + k * wc, on, W_BOOL, DOUBLE)
        if WANT_ROWS:
            if DOUBLE:
                smooth = tl.fma(_r_64(e), e * e, e)
            else:
                smooth = tl.fma(_r_32(e), e * e, e)
            if POSITIVE:
                smooth = (ybar + positive) * smooth
            loss = tl.fma(t, tl.where(t == 0, 0.0, a), smooth)
            if WEIGHTED:
                loss = weight * loss
            total += tl.sum(tl.where(on, loss, 0.0).to(tl.float64), axis=1)
        if WANT_GRADIENT or WANT_HESSIAN:
            if DOUBLE:
                s = e / (1 + e)
            else:
                s = tl.div_rn(e, 1 + e)
            if WANT_GRADIENT:
                if POSITIVE:
                    s = (ybar + positive) * s
                derivative = tl.where(right, t - s, s - t)
            else:
                derivative = s * (1 - s)
                if POSITIVE:
                    derivative = (ybar + positive) * derivative
            if WEIGHTED:
                derivative = weight * derivative
            derivative = tl.where(on, derivative * factor, 0.0)
            tl.store(out + oo + k * oc, derivative.to(out.dtype.element_ty), mask=here)
    if WANT_ROWS:
        tl.store(sums + row * chunks + chunk, total, mask=present)


@triton.jit
def finish(parts, sums, chunks, WIDE: tl.constexpr):
    """Add the parts of one long row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([WIDE], tl.float64)
    for start in range(0, chunks, WIDE):
        k = start + tl.arange(0, WIDE)
        total += tl.load(parts + row * chunks + k, mask=k < chunks, other=0.0)
    tl.store(sums + row, tl.sum(total, axis=0))
