"""Hypothesis strategies for all arguments of the loss, as plain `Tensor` and `Case` data for any array library.

Import them into another project's property tests. They need only hypothesis, which nothing else in this package
needs. `profile` gives the settings of three depths. Makes no arrays: a backend turns a `Tensor` into an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .cases.catalogue import THRESHOLDS
from .formats import FORMATS, INTEGERS, round_to, step
from .tensors import LAYOUTS, Case, Nested, Number, Tensor

PROFILES = {
    # derandomised: a change is judged on the same examples as the change before it
    "quick": settings(max_examples=60, derandomize=True, database=None, deadline=None),
    "thorough": settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
    "nightly": settings(max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow]),
}


def profile(name: str) -> settings:
    """The settings "quick" (derandomised), "thorough" or "nightly", to decorate a test or to register and load."""
    return PROFILES[name]


def dtypes(among: Sequence[str] = ("float16", "bfloat16", "float32", "float64")) -> st.SearchStrategy[str]:
    """The name of a floating dtype."""
    return st.sampled_from(tuple(among))


def logits(dtype: str = "float64", *, special: bool = False, largest: float | None = None) -> st.SearchStrategy[float]:
    """One logit of `dtype`: any finite number, often near a threshold or zero; with `special`, infinities and NaN too.

    `largest` bounds the size of the finite ones, for callers whose sums must not leave the range.
    """
    form = FORMATS[dtype]
    top = round_to(form.max if largest is None else largest, dtype)
    near = [t for t in THRESHOLDS if t <= top]
    thresholds = st.builds(
        lambda a, k, s: s * step(a, dtype, k),
        st.sampled_from(near or [0.0]),
        st.integers(-3, 3),
        st.sampled_from((1, -1)),
    )
    small = st.floats(-min(30.0, top), min(30.0, top)).map(lambda x: round_to(x, dtype))
    wide = st.floats(-top, top).map(lambda x: round_to(x, dtype))
    edges = st.sampled_from((0.0, -0.0, form.tiny, -form.tiny, form.min_normal, top, -top))
    finite = st.one_of(small, thresholds, wide, edges)
    return st.one_of(finite, st.sampled_from((math.inf, -math.inf, math.nan))) if special else finite


def targets(dtype: str = "float64", kind: str = "any") -> st.SearchStrategy[Number]:
    """One target of `dtype` (floating, integer or bool): "hard", "soft", "out-of-range", or "any" of its members."""
    if dtype == "bool":
        return st.booleans()
    if dtype in INTEGERS:
        low, high = INTEGERS[dtype]
        return st.integers(max(low, -3), min(high, 3)) if kind in ("any", "out-of-range") else st.integers(0, 1)
    hard = st.sampled_from((0.0, 1.0))
    soft = st.floats(0.0, 1.0).map(lambda y: round_to(y, dtype))
    outside = st.floats(-4.0, 4.0).map(lambda y: round_to(y, dtype))
    kinds: dict[str, st.SearchStrategy[Number]] = {"hard": hard, "soft": soft, "out-of-range": outside}
    return kinds[kind] if kind != "any" else st.one_of(hard, soft, outside)


def shapes(max_dims: int = 4, max_side: int = 6, *, empty: bool = False) -> st.SearchStrategy[tuple[int, ...]]:
    """A shape of 1 to `max_dims` dimensions without an empty class axis; with `empty`, the batch may be empty."""
    sides = st.lists(st.integers(1, max_side), min_size=1, max_size=max_dims).map(tuple)
    if not empty:
        return sides
    return st.one_of(sides, sides.map(lambda s: (0, *s)))


def broadcastable(shape: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """A shape that broadcasts to `shape` without enlarging it: leading axes dropped, others set to 1."""
    kept = st.tuples(*(st.sampled_from((n, 1)) for n in shape))
    return st.builds(lambda part, drop: tuple(part[drop:]), kept, st.integers(0, len(shape)))


def tensors(shape: tuple[int, ...], dtype: str, values: st.SearchStrategy[Number]) -> st.SearchStrategy[Tensor]:
    """A tensor of `shape` with elements drawn from `values`."""
    size = math.prod(shape)
    return st.lists(values, min_size=size, max_size=size).map(lambda found: Tensor(shape, tuple(found), dtype))


def weight_values(dtype: str = "float64") -> st.SearchStrategy[float]:
    """One weight: usually in [1/8, 8], sometimes 0 or negative."""
    usual = st.floats(0.125, 8.0).map(lambda w: round_to(w, dtype))
    return st.one_of(usual, st.sampled_from((0.0, 1.0, 2.0, -0.5)))


def weights(
    shape: tuple[int, ...], dtype: str = "float64", *, positive: bool = False
) -> st.SearchStrategy[Tensor | Number | Nested | None]:
    """A weight for an input of `shape`, of every accepted kind: none, a number, a list, an array that broadcasts."""
    one = st.floats(0.125, 8.0).map(lambda w: round_to(w, dtype)) if positive else weight_values(dtype)
    arrays = broadcastable(shape).flatmap(lambda s: tensors(s, dtype, one))

    def listed(tensor: Tensor) -> Tensor | Number | Nested:
        return tensor.nested

    return st.one_of(st.none(), one, arrays, arrays.filter(lambda t: len(t.values) > 0).map(listed))


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor | None]:
    """A `where` for an input of `shape`: none, or a bool array that broadcasts; a row may have no observed class."""
    return st.one_of(st.none(), broadcastable(shape).flatmap(lambda s: tensors(s, "bool", st.booleans())))


def layouts(among: Sequence[str] = LAYOUTS) -> st.SearchStrategy[str]:
    """A memory layout by name ("broadcast" repeats the first row, so `cases` leaves it out)."""
    return st.sampled_from(tuple(among))


@st.composite
def cases(
    draw: st.DrawFn,
    dtype: st.SearchStrategy[str] | None = None,
    target: str = "any",
    options: bool = True,
    special: bool = False,
    largest: float | None = 1e4,
    max_dims: int = 3,
) -> Case:
    """A whole `Case`: input, target, and (with `options`) weights, mask, smoothing, axis and layout.

    `target` is a kind of `targets`; `special` lets infinities and NaN in; `largest` bounds finite logits.
    """
    name = draw(dtype if dtype is not None else dtypes())
    shape = draw(shapes(max_dims))
    given = draw(tensors(shape, name, logits(name, special=special, largest=largest)))
    truth = draw(tensors(shape, name, targets(name, target)))
    if not options:
        return Case("drawn", given, truth)
    return Case(
        "drawn",
        given,
        truth,
        weight=draw(weights(shape, name)),
        pos_weight=draw(weights(shape, name, positive=True)),
        where=draw(masks(shape)),
        label_smoothing=draw(st.sampled_from((0.0, 0.0, 0.1, 0.25, 1.0))),
        axis=draw(st.integers(-len(shape), len(shape) - 1)),
        layout=draw(layouts([name for name in LAYOUTS if name != "broadcast"])),
    )
