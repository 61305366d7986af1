"""The catalogue: every named case that a loss is judged on, generated for each input dtype.

Tags say what a case is about: "unit" (one class, so that each row is one bare element), "hard", "soft", "out-of-range",
"threshold", "tail", "root", "special" (an infinity or a NaN somewhere), "hazard", "weight", "pos_weight", "where",
"smoothing", "axis", "size", "large", "layout", "target-dtype", "pairing", "empty", "combination", "random".
Uses no randomness without a seed (the case's own name) and no array library: neighbours of a threshold are computed
in pure Python.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..formats import FORMATS, INTEGERS, round_to, step
from ..tensors import LAYOUTS, Case, Hazard, Nested, Number, Tensor
from .hazards import hazard_rows

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "LEVELS",
    "THRESHOLDS",
    "Case",
    "Hazard",
    "Nested",
    "Number",
    "Tensor",
    "catalogue",
    "column",
    "hazards",
    "sample",
]
LEVELS = ("smoke", "quick", "full")
DTYPES = ("float16", "bfloat16", "float32", "float64")
THRESHOLDS = (
    9.704,  # 1 + exp(-a) rounds to 1 in float16, half an ULP of it, then of float32, then of float64
    16.636,
    17.3287,
    36.737,
    87.3365,  # exp(-a) becomes subnormal, exp(a) overflows, exp(-a) becomes 0: float32
    88.72,
    103.9721,
    708.3964,  # the same in float64
    745.1332,
)
INF, NAN = math.inf, math.nan
SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 257)


def catalogue(level: str = "quick", dtypes: Iterable[str] = DTYPES) -> tuple[Case, ...]:
    """Every case of `level` ("smoke" within "quick" within "full") whose input has one of `dtypes`; names are unique.

    The same arguments return the same objects, so that backends share the judges' cached answers. A case that needs
    another floating dtype than its input's appears only if `dtypes` contains that one, too.
    """
    return _catalogue(level, tuple(dtypes))


@functools.cache
def _catalogue(level: str, dtypes: tuple[str, ...]) -> tuple[Case, ...]:
    if level not in LEVELS or not set(dtypes) <= set(DTYPES):
        raise ValueError(f"`level` is one of {LEVELS} and `dtypes` are among {DTYPES}, not {level!r} and {dtypes}")
    rank = LEVELS.index(level)
    found = [hazard.case for hazard in hazards(dtypes) if hazard.case is not None]
    found = [case for case in found if rank or "large" not in case.tags]
    for dtype in dtypes:
        for family in _FAMILIES:
            found.extend(family(dtype, rank))
        found.extend(_pairings(dtype, dtypes, rank))
    return tuple(found)


def hazards(dtypes: Iterable[str] = DTYPES) -> tuple[Hazard, ...]:
    """The rows of the hazard table for these input dtypes, with their answers; their cases are in the catalogue."""
    return _hazards(tuple(dtypes))


_hazards = functools.cache(hazard_rows)


def _tags(*tags: str) -> frozenset[str]:
    return frozenset(tags)


def column(name: str, dtype: str, xs: Sequence[float], y: Number | Sequence[Number], *tags: str, **more: Any) -> Case:
    """A case of one class: a row for each logit (rounded to `dtype`, without repeats when the target is one number)."""
    logits = [round_to(float(x), dtype) for x in xs]
    if not isinstance(y, Sequence):
        # By sign and value, because -0.0 == 0.0 and both are wanted.
        logits = list({(x, math.copysign(1.0, x)): x for x in logits}.values())
        y = [y] * len(logits)
    target = Tensor((len(logits), 1), tuple(round_to(float(v), dtype) for v in y), dtype)
    return Case(
        f"{dtype}-{name}", Tensor(target.shape, tuple(logits), dtype), target, tags=_tags("unit", *tags), **more
    )


def sample(name: str, shape: tuple[int, ...], dtype: str, kind: str = "logit") -> Tensor:
    """Values drawn with `name` as the seed: "logit", "hard", "soft", "weight" or "mask".

    Large tensors repeat a pool of some hundred values, so that the judges compute each one once.
    """
    draw = random.Random(f"{name}:{kind}:{dtype}")
    count = math.prod(shape)
    makers: dict[str, Callable[[], Number]] = {
        "logit": lambda: draw.gauss(0.0, 1.0) * draw.choice((0.1, 1.0, 4.0, 20.0)),
        "hard": lambda: draw.randrange(2),
        "soft": lambda: draw.random(),
        "weight": lambda: draw.uniform(0.2, 3.0),
        "mask": lambda: draw.random() < 0.7,
    }
    pool = [makers[kind]() for _ in range(min(count, 384))]
    values = pool if len(pool) == count else [draw.choice(pool) for _ in range(count)]
    if dtype == "bool":
        return Tensor(shape, tuple(bool(v) for v in values), dtype)
    if dtype in INTEGERS:
        return Tensor(shape, tuple(int(v) for v in values), dtype)
    return Tensor(shape, tuple(round_to(float(v), dtype) for v in values), dtype)


def drawn(name: str, shape: tuple[int, ...], dtype: str, *tags: str, kind: str = "hard", **more: Any) -> Case:
    """A case of sampled logits and targets; `kind` is that of the targets."""
    full = f"{dtype}-{name}"
    target = sample(full, shape, more.pop("target_dtype", dtype), kind)
    return Case(full, sample(full, shape, dtype), target, tags=_tags(*tags), **more)


def _thresholds(dtype: str, rank: int) -> Iterator[Case]:
    reach = (1, 3, 40)[rank]
    near = [step(a, dtype, k) for a in THRESHOLDS for k in range(-reach, reach + 1)]
    for y in (0.0, 1.0):
        yield column(f"threshold-y{y:g}", dtype, [s * a for a in near for s in (1, -1)], y, "hard", "threshold")


def _tails(dtype: str, rank: int) -> Iterator[Case]:
    form = FORMATS[dtype]
    small = [0.0, form.tiny, 2 * form.tiny, form.min_normal - form.tiny, form.min_normal, 1.5 * form.min_normal]
    binades = range(form.emin, form.emax + 1, (16, 4, 1)[rank] if form.emax > 100 else 1)
    # 2**-12 of the range: a sum over this column must not leave it if the accumulator is no wider
    wide = [min(math.ldexp(1.3, k), form.max * 2.0**-12) for k in binades]
    ramp = [k * (7.0, 1.75, 0.25)[rank] for k in range(1, (107, 428, 2996)[rank])]
    for y in (0.0, 1.0, 0.25):
        kind = "soft" if y == 0.25 else "hard"
        yield column(f"small-y{y:g}", dtype, [s * a for a in small for s in (1, -1)], y, kind, "tail")
        yield column(f"wide-y{y:g}", dtype, [s * a for a in wide for s in (1, -1)], y, kind, "tail")
        for sign, spelled in ((1, "largest"), (-1, "lowest")):
            yield column(f"{spelled}-y{y:g}", dtype, [sign * form.max], y, kind, "tail")
    for y in (0.0, 1.0):
        yield column(f"ramp-y{y:g}", dtype, [s * a for a in ramp for s in (1, -1)], y, "hard", "tail")


def _soft(dtype: str, rank: int) -> Iterator[Case]:
    wanted = (0.1, 0.25, 0.999, 0.5, 0.7, 2.0**-10, step(1.0, dtype, -1), FORMATS[dtype].min_normal)[: (3, 8, 8)[rank]]
    targets = [y for y in (round_to(y, dtype) for y in wanted) if y < 1]
    spread = (0, 1, 2, 5, 40)[: (2, 4, 5)[rank]]
    for y in targets:
        root = math.log(y) - math.log1p(-y)
        xs = [step(root, dtype, s * k) for k in spread for s in (1, -1)]
        yield column(f"root-y{y:.4g}", dtype, xs, y, "soft", "root")
    xs = [-80.0, -9.5, -2.0, -0.125, -0.0, 0.0, 0.3, 3.0, 11.0, 17.0, 95.0]
    for y in targets[: (2, 4, 8)[rank]]:
        yield column(f"soft-y{y:.4g}", dtype, xs, y, "soft")
    for y in (2.0, -1.0, 1.5, -0.25)[: (2, 4, 4)[rank]]:
        yield column(f"out-of-range-y{y:g}", dtype, xs, y, "out-of-range")
    if rank:
        more = [y for y in (5.0, -7.0) for _ in xs]
        yield column("out-of-range-far", dtype, xs * 2, more, "out-of-range")


def _specials(dtype: str, rank: int) -> Iterator[Case]:
    xs = (INF, -INF, INF, -INF, INF, -INF, 1.0, -1.0)
    ys = (1.0, 0.0, 0.0, 1.0, 0.5, 0.25, 1.0, 0.0)
    logits, targets = Tensor((4, 2), xs, dtype), Tensor((4, 2), ys, dtype)
    tags = _tags("special")
    yield Case(f"{dtype}-infinite", logits, targets, tags=tags)
    yield column("infinite-elements", dtype, xs, ys, "special")
    yield column(
        "out-of-range-infinite", dtype, (INF, -INF, INF, -INF), (2.0, 2.0, -1.0, -1.0), "special", "out-of-range"
    )
    weight = Tensor((2,), (2.0, 0.5), dtype)
    yield Case(f"{dtype}-infinite-weighted", logits, targets, weight=weight, pos_weight=weight, tags=tags | {"weight"})
    yield Case(f"{dtype}-infinite-smoothed", logits, targets, label_smoothing=0.25, tags=tags | {"smoothing"})
    nan_x = Tensor((3, 2), (1.0, NAN, 0.5, -2.0, 0.0, 3.0), dtype)
    nan_y = Tensor((3, 2), (1.0, 0.0, NAN, 1.0, 0.0, 1.0), dtype)
    clean = Tensor((3, 2), (1.0, 0.0, 1.0, 0.0, 0.0, 1.0), dtype)
    yield Case(f"{dtype}-nan", nan_x, nan_y, tags=tags)
    yield Case(f"{dtype}-nan-logit", nan_x, clean, tags=tags)
    yield Case(f"{dtype}-nan-target", Tensor((3, 2), (0.0, -0.0, 0.0, 2.0, -2.0, 9.0), dtype), nan_y, tags=tags)
    hidden = Tensor((3, 2), (True, False, False, True, True, True), "bool")
    yield Case(f"{dtype}-nan-masked", nan_x, nan_y, where=hidden, tags=tags | {"where"})
    junk = Tensor((2, 4), (INF, NAN, -INF, 0.5, 1.0, -INF, INF, NAN), dtype)
    junk_y = Tensor((2, 4), (0.0, NAN, 1.0, 1.0, 0.0, NAN, INF, 1.0), dtype)
    shown = Tensor((2, 4), (False, False, False, True, True, False, False, False), "bool")
    junk_w = Tensor((2, 4), (NAN, INF, 0.0, 2.0, 3.0, NAN, -INF, INF), dtype)
    yield Case(
        f"{dtype}-junk-masked", junk, junk_y, junk_w, junk_w, shown, tags=tags | {"where", "weight", "pos_weight"}
    )
    yield column("infinite-weightless", dtype, (INF, -INF, 3.0), (0.0, 0.0, 1.0), "special", "weight", weight=0.0)


def _weights(dtype: str, rank: int) -> Iterator[Case]:
    n, c = 4, 3
    shapes: dict[str, tuple[int, ...]] = {"0d": (), "1": (1,), "c": (c,), "n1": (n, 1), "nc": (n, c), "1c": (1, c)}
    for option in ("weight", "pos_weight"):
        for spelled, shape in list(shapes.items())[2 * (rank == 0) : (5, 6, 6)[rank]]:
            kind = "soft" if spelled in ("c", "nc") and option == "pos_weight" else "hard"
            given: dict[str, Any] = {option: sample(f"{dtype}-{option}-{spelled}", shape, dtype, "weight")}
            yield drawn(f"{option}-{spelled}", (n, c), dtype, option, kind=kind, **given)
        values: dict[str, Any] = {
            "number": 1.7,
            "integer": 3,
            "power-of-two": 0.25,
            "zero": 0.0,
            "list": [0.3, 2.0, 5],
            "nested": [[0.5], [1.5], [0.1], [3.0]],
            "int-array": Tensor((c,), (3, 1, 2), "int32"),
            "bool-array": Tensor((c,), (True, False, True), "bool"),
        }
        if option == "weight":
            values["negative"] = Tensor((c,), (-2.0, 1.5, -0.5), dtype)
        for spelled, value in list(values.items())[:: (4, 1, 1)[rank]]:
            yield drawn(f"{option}-{spelled}", (n, c), dtype, option, **{option: value})
        unit = Tensor((), (round_to(3.3, dtype),), dtype)
        xs = [s * a for a in (0.0, 0.7, 5.0, 17.0, 86.0, 95.0) for s in (1, -1)]
        for y in (0.0, 1.0):
            yield column(f"{option}-element-y{y:g}", dtype, xs, y, option, "hard", **{option: unit})


def _masks(dtype: str, rank: int) -> Iterator[Case]:
    n, c = 4, 5
    for spelled, shape in {"0d": (), "1": (1,), "c": (c,), "n1": (n, 1), "nc": (n, c)}.items():
        mask = sample(f"{dtype}-where-{spelled}", shape, "bool", "mask")
        if spelled in ("0d", "1"):
            if rank == 0:
                continue
            mask = Tensor(shape, (True,) * math.prod(shape), "bool")
        yield drawn(f"where-{spelled}", (n, c), dtype, "where", where=mask)
    rows = Tensor((n, c), (True,) * c + (False,) * c + (True, False, True, False, False) + (False,) * c, "bool")
    yield drawn("where-empty-rows", (n, c), dtype, "where", where=rows)
    yield drawn("where-none", (n, c), dtype, "where", where=Tensor((), (False,), "bool"))
    both = sample(f"{dtype}-where-weight", (c,), dtype, "weight")
    yield drawn("where-weight", (n, c), dtype, "where", "weight", kind="soft", where=rows, weight=both)


def _smoothing(dtype: str, rank: int) -> Iterator[Case]:
    for eps in (0.1, 1e-3, 1.0, 0.25, 1e-7)[: (2, 5, 5)[rank]]:
        yield drawn(f"smoothing-{eps:g}", (5, 3), dtype, "smoothing", label_smoothing=eps)
        yield drawn(f"smoothing-{eps:g}-soft", (5, 3), dtype, "smoothing", kind="soft", label_smoothing=eps)
        xs = [s * a for a in (0.0, 3.0, 18.0, 9984.0) for s in (1, -1)]
        for y in (0.0, 1.0):
            yield column(f"smoothing-{eps:g}-y{y:g}", dtype, xs, y, "smoothing", label_smoothing=eps)


def _shapes(dtype: str, rank: int) -> Iterator[Case]:
    shapes = ((4,), (1,), (1, 1), (6, 4), (3, 2, 5), (2, 3, 2, 3))
    for shape in shapes:
        for axis in range(len(shape))[:: (-2, 1, 1)[rank]]:
            for spelled in (axis, axis - len(shape))[: 1 + (rank > 0)]:
                text = "x".join(map(str, shape))
                yield drawn(f"shape-{text}-axis{spelled}", shape, dtype, "axis", axis=spelled)
    given = sample(f"{dtype}-axis", (4, 1), dtype, "weight")
    mask = sample(f"{dtype}-axis", (4, 6), "bool", "mask")
    yield drawn("axis0-weight", (4, 6), dtype, "axis", "weight", axis=0, weight=given)
    yield drawn("axis0-where", (4, 6), dtype, "axis", "where", axis=0, where=mask, pos_weight=given)
    for size in SIZES if rank else (1, 3, 8, 17):
        yield drawn(f"classes-{size}", (2, size), dtype, "size", kind="soft" if size % 2 else "hard")
        yield drawn(f"rows-{size}", (size, 3), dtype, "size")
    for name, shape in (("rows", (0, 3)), ("planes", (0, 2, 3))):
        yield drawn(f"empty-{name}", shape, dtype, "empty")
    nothing = Tensor((0, 3), (), "bool")
    yield drawn("empty-where", (0, 3), dtype, "empty", "where", where=nothing, weight=[1.0, 2.0, 3.0])
    large = {"smoke": ((2, 600),), "quick": ((2, 5003), (5003, 2)), "full": ((1, 100_003), (70_001, 2))}
    for shape in (shape for level in LEVELS[: rank + 1] for shape in large[level]):
        for axis in (0, 1):
            yield drawn(f"large-{shape[0]}x{shape[1]}-axis{axis}", shape, dtype, "large", axis=axis)


def _layouts(dtype: str, rank: int) -> Iterator[Case]:
    for shape in ((5, 7), (3, 4, 9))[: 1 + (rank > 0)]:
        for layout in LAYOUTS[1:] if rank else ("F", "negative_stride", "broadcast", "byte_swapped"):
            text = "x".join(map(str, shape))
            case = drawn(f"layout-{layout}-{text}", shape, dtype, "layout", layout=layout)
            if layout == "broadcast":
                size = math.prod(shape[1:])
                x, y = (Tensor(shape, t.values[:size] * shape[0], t.dtype) for t in (case.input, case.target))
                case = Case(case.name, x, y, layout=layout, tags=case.tags)
            yield case
    given = sample(f"{dtype}-layout", (7,), dtype, "weight")
    yield drawn(
        "layout-F-weight-axis0", (7, 5), dtype, "layout", layout="F", axis=0, weight=[[v] for v in given.values]
    )


def _pairings(dtype: str, dtypes: tuple[str, ...], rank: int) -> Iterator[Case]:
    for target in ("bool", *INTEGERS) if rank else ("bool", "uint8", "int64"):
        yield drawn(f"target-{target}", (3, 4), dtype, "target-dtype", target_dtype=target)
        if rank and target == "bool":
            pos_weight = [1.0, 2.0, 3.0, 4.0]
            yield drawn("target-bool-all", (3, 4), dtype, "target-dtype", target_dtype=target, pos_weight=pos_weight)
    for other in dtypes:
        # not every library has a common type of float16 and bfloat16, so no case mixes these two
        if other == dtype or {other, dtype} == {"float16", "bfloat16"}:
            continue
        yield drawn(f"target-{other}", (3, 4), dtype, "pairing", "soft", kind="soft", target_dtype=other)
        for option in ("weight", "pos_weight"):
            given: dict[str, Any] = {option: sample(f"{dtype}-{other}-{option}", (4,), other, "weight")}
            yield drawn(f"{option}-{other}", (3, 4), dtype, "pairing", option, **given)


def _combinations(dtype: str, rank: int) -> Iterator[Case]:
    for seed in range((3, 12, 60)[rank]):
        draw = random.Random(f"combination-{seed}-{dtype}")
        shape = draw.choice(((3, 5), (5, 3), (2, 3, 4), (7,), (4, 1)))
        axis = draw.randrange(len(shape))
        name = f"combination-{seed}"

        def part(option: str, kind: str, given: str = dtype) -> Tensor:
            kept = tuple(n if draw.random() < 0.6 else 1 for n in shape)  # noqa: B023  # called in this pass only
            return sample(f"{dtype}-{name}-{option}", kept, given, kind)  # noqa: B023  # called in this pass only

        options: dict[str, Any] = {
            "weight": part("weight", "weight") if draw.random() < 0.7 else None,
            "pos_weight": part("pos_weight", "weight") if draw.random() < 0.7 else None,
            "where": part("where", "mask", "bool") if draw.random() < 0.5 else None,
            "label_smoothing": draw.choice((0.0, 0.0, 0.1, 0.5)),
        }
        kind = draw.choice(("hard", "soft"))
        yield drawn(name, shape, dtype, "combination", kind=kind, axis=axis, **options)


def _randoms(dtype: str, rank: int) -> Iterator[Case]:
    count = (60, 400, 4000)[rank]
    for kind in ("hard", "soft"):
        yield drawn(f"random-{kind}", (count // 20, 20), dtype, "random", kind, kind=kind)
        xs, ys = (sample(f"{dtype}-elements-{kind}", (count,), dtype, k).values for k in ("logit", kind))
        yield column(f"random-{kind}-elements", dtype, xs, ys, "random", kind)


def _sums(dtype: str, rank: int) -> Iterator[Case]:
    count = (2049, 5003, 20_011)[rank]
    for name, shape in (("classes", (1, count)), ("rows", (count, 1))):
        # one repeated term: each addition in a narrow accumulator drops an error of the same sign
        x, y = (Tensor(shape, (round_to(v, dtype),) * count, dtype) for v in (0.3, 0.0))
        yield Case(f"{dtype}-accumulate-{name}", x, y, tags=_tags("large"))


_FAMILIES: tuple[Callable[[str, int], Iterator[Case]], ...] = (
    _thresholds,
    _tails,
    _soft,
    _specials,
    _weights,
    _masks,
    _smoothing,
    _shapes,
    _layouts,
    _combinations,
    _randoms,
    _sums,
)
