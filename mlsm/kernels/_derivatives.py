"""Gradient and curvature of every element in host memory, not averaged, by blocks: for boosters.

Cuts arrays into blocks in the order of their memory, so that Fortran-ordered margins are read and written in place,
and converts each block to one dtype. The arithmetic is a function of flat blocks: NumPy's here, Numba's in
`_numba_loops`. Knows no library but NumPy, and validates nothing.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .._core import Operands
from .._problem import Problem

# Elements of a block, which takes a dozen NumPy calls, each of which costs as much as 5,000 elements of a pass. 100,000
# x 20 float32 without options, Zen 4, ns per element: 16384 2.70, 32768 2.47, 65536 2.36, 131072 2.18; naive 1.92.
BLOCK = 131072


@cache
def numbers(dtype: Any) -> tuple[Any, Any, Any]:
    """0, 1 and -2 in the dtype of the arithmetic: NumPy takes 8 µs to compare with a Python 0, and 1 µs with these."""
    return tuple(np.asarray(v, dtype) for v in (0, 1, -2))  # type: ignore[return-value]  # of three values


@cache
def _bits(dtype: Any) -> tuple[Any, Any]:
    """The sign bit, and the number of bits of the exponent, as integers of the dtype's size."""
    integer, exponent = (np.int32, 8) if dtype == np.float32 else (np.int64, 11)
    return np.asarray(np.iinfo(integer).min, integer), np.asarray(exponent, integer)


Work = Callable[[Any, Any, Any, Any, Any, Any, Any, Any, Any], None]


def derivatives(o: Operands, scale: Any, least: float, work: Work, block: int = BLOCK) -> tuple[Any, Any]:
    """(gradient, hessian) of `work` over NumPy arrays of any shape; `scale` broadcasts to the logits, or is None."""
    gradient, hessian = (np.empty_like(o.x, subok=False) for _ in range(2))
    shape = o.x.shape
    # The axes by their stride in the results, which are dense: the largest first.
    axes = sorted(range(o.x.ndim), key=lambda i: -gradient.strides[i])

    def laid(v: Any) -> Any:
        if v is None:
            return None
        v = (v if v.shape == shape else np.broadcast_to(v, shape)).transpose(axes)
        return v[(None,) * (2 - v.ndim)] if v.ndim < 2 else v

    arrays = [laid(v) for v in (o.x, o.y, o.w, scale, o.p, o.m, gradient, hessian)]
    smooth = (1 - o.eps, o.eps / 2) if o.eps else None
    for index in np.ndindex(arrays[0].shape[:-2]):
        _blocks([None if v is None else v[index] for v in arrays], smooth, least, o.dtype, work, block)
    return gradient, hessian


def _blocks(arrays: Any, smooth: Any, least: float, dtype: Any, work: Work, block: int) -> None:
    n, c = arrays[0].shape
    width = max(1, min(c, block))
    height = max(1, min(n, block // width))
    room: dict[str, Any] = {}

    def scratch(name: str, shape: tuple[int, int], dtype: Any) -> Any:
        if name not in room:
            room[name] = np.empty(height * width, dtype)
        return room[name][: shape[0] * shape[1]].reshape(shape)

    def ready(v: Any, name: str, dtype: Any) -> Any:
        """A block, flat and in the dtype of the arithmetic."""
        if not (v.dtype == dtype and v.dtype.isnative and v.flags.c_contiguous and v.flags.aligned):
            copy = scratch(name, v.shape, dtype)
            np.copyto(copy, v, casting="unsafe")
            v = copy
        return v.reshape(-1)

    def factor(a: Any, b: Any, name: str, first: bool) -> Any:
        """The product of two factors of a block, each of which may be None; computed once if all rows are equal."""
        if a is None and b is None:
            return None
        a, b = (b, None) if a is None else (a, b)
        if b is None and 0 not in a.strides:
            return ready(a, name, dtype)
        product = scratch(name, a.shape, dtype)
        fixed = c == width and a.strides[0] == 0 and (b is None or b.strides[0] == 0)
        if first or not fixed:
            if b is None:
                np.copyto(product, a, casting="unsafe")
            else:
                np.multiply(a, b, product, dtype=dtype, casting="unsafe")
        return product.reshape(-1)

    for i in range(0, n, height):
        for k in range(0, c, width):
            at = (slice(i, min(n, i + height)), slice(k, min(c, k + width)))
            views: Any = [None if v is None else v[at] for v in arrays]
            xs, ys, ws, ss, ps, ms, gs, hs = views
            inside = gs.dtype == dtype and gs.flags.c_contiguous
            outs = [gs, hs] if inside else [scratch(name, gs.shape, dtype) for name in ("gradient", "hessian")]
            work(
                ready(xs, "x", dtype),
                ready(ys, "y", dtype),
                factor(ws, ss, "w", i == 0),
                factor(ps, None, "p", i == 0),
                None if ms is None else ready(ms.view(np.uint8), "m", np.uint8),
                smooth,
                least,
                outs[0].reshape(-1),
                outs[1].reshape(-1),
            )
            if not inside:
                np.copyto(gs, outs[0], casting="unsafe")
                np.copyto(hs, outs[1], casting="unsafe")


def by_numpy(room: dict[Any, Any]) -> Work:
    """The arithmetic of a block with NumPy alone, in place; `room` keeps its scratch from block to block."""

    def work(x: Any, y: Any, w: Any, p: Any, m: Any, smooth: Any, least: float, gradient: Any, hessian: Any) -> None:
        h, e = (_kept(room, k, x.size, x.dtype) for k in range(2))
        zero, one, _ = numbers(x.dtype)
        lowest, exponent = _bits(x.dtype)
        bits = lowest.dtype
        e_bits, spare, spare_bits = e.view(bits), gradient, gradient.view(bits)
        np.bitwise_or(x.view(bits), lowest, e_bits)  # -|x|
        np.exp(e, e)
        np.add(e, one, hessian)
        np.divide(e, hessian, e)  # s
        np.divide(e, hessian, hessian)  # s*(1 - s)
        if least:
            np.maximum(hessian, least, out=hessian)
        # h = [x >= 0], so that the contract's sign*t is h - y without smoothing and pos_weight. The lowest bit of the
        # exponent of 1.0, shifted to the place of the sign, turns s into -sign*s: one pass less than a product.
        np.greater_equal(x, zero, h)
        np.left_shift(h.view(bits), exponent, spare_bits)
        np.bitwise_or(e_bits, spare_bits, e_bits)
        if p is None:
            if smooth is None:
                np.subtract(h, y, h)
            else:
                np.subtract(h, 0.5, spare)
                np.multiply(spare, 2 * smooth[1], spare)
                np.subtract(h, y, h)
                np.multiply(h, smooth[0], h)
                np.add(h, spare, h)
        else:
            on, off = (_kept(room, k, x.size, x.dtype) for k in (2, 3))
            np.subtract(one, y, off)
            np.multiply(y, smooth[0] if smooth else one, on)
            if smooth is not None:
                np.add(on, smooth[1], on)
                np.multiply(off, smooth[0], off)
                np.add(off, smooth[1], off)
            np.multiply(on, p, on)
            np.multiply(off, h, spare)
            np.add(off, on, off)  # q
            np.multiply(e, off, e)
            np.multiply(hessian, off, hessian)
            np.subtract(one, h, h)
            np.multiply(on, h, on)
            np.subtract(spare, on, h)
        np.add(h, e, gradient)
        if w is not None:
            np.multiply(gradient, w, gradient)
            np.multiply(hessian, w, hessian)
        if m is not None:
            # By bits, because NaN * 0 is NaN: keep all bits where the mask is true, else none.
            keep = e_bits
            np.not_equal(m, 0, keep, casting="unsafe")
            np.negative(keep, keep)
            for out in (gradient, hessian):
                np.bitwise_and(out.view(bits), keep, out.view(bits))

    return work


def _kept(room: dict[Any, Any], key: int, size: int, dtype: Any) -> Any:
    if key not in room or room[key].size < size:
        room[key] = np.empty(size, dtype)
    return room[key][:size]


def unreadable(problem: Problem) -> str | None:
    """Why NumPy cannot view these tensors; None if it can."""
    if problem.library == "torch":
        metas = (problem.input, problem.target, problem.weight, problem.pos_weight)
        if any(meta is not None and meta.dtype == "bfloat16" for meta in metas):
            return "NumPy cannot view a bfloat16 tensor"
        if any(meta is not None and meta.layout == "foreign" for meta in metas):
            return "NumPy cannot view a tensor that PyTorch negates when it is read"
    return None


def host(o: Operands) -> Operands:
    """CPU tensors as NumPy arrays of the same memory; NumPy arrays unchanged."""
    if isinstance(o.x, np.ndarray):
        return o
    x, y, w, p, m = (None if v is None else v.numpy(force=True) for v in o[1:6])
    dtype = np.float64 if o.dtype == o.acc else np.float32
    return Operands(o.xp, x, y, w, p, m, o.eps, dtype, np.float64)
