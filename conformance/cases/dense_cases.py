"""The suite's own dense cases: many elements in one array, so that a library that compiles for each shape compiles
once.

An elementwise pack has one class per row (shape (n, 1)), so that reduction "none" shows every element at unit scale.
 The named, hand-picked calls are in `catalogue.py`.
"""

from __future__ import annotations

import functools
import itertools
import random
from typing import Any

from ..formats import FORMATS, round_to, step
from ..tensors import Case, Tensor

LENGTH = 720
"""How many elements an elementwise pack has; shorter lists are repeated."""
THRESHOLDS = (9.704, 16.636, 17.3287, 36.737, 87.3365, 88.72, 103.9721, 708.3964, 745.1332)
"""The |x| at which exp, 1+e, the gradient or a subnormal changes its regime in one of the formats."""


@functools.cache
def logits(dtype: str, count: int = 120, seed: int = 0) -> tuple[float, ...]:
    """Members of `dtype`, ascending and both signs: zeros, thresholds and their neighbours, powers of two, and
    random ones."""
    form = FORMATS[dtype]
    found = {0.0}
    for t in THRESHOLDS:
        if t < form.max:
            found |= {step(t, dtype, k) for k in (-3, -1, 0, 1, 3)}
    found |= {2.0**k for k in range(max(form.emin, -30), min(form.emax, 20) + 1, 3)}
    source = random.Random(f"logits-{dtype}-{seed}")
    while len(found) < count:
        found.add(round_to(source.choice((1.0, 8.0, 40.0, 120.0)) * source.random(), dtype))
    return tuple(sorted({-v for v in found if v} | found))


def _elements(name: str, dtype: str, pairs: list[tuple[float, float]], target: str | None = None) -> Case:
    # All packs have one length, so that a library that compiles for each shape compiles once.
    if len(pairs) > LENGTH:
        raise ValueError(f"{name} in {dtype}: {len(pairs)} pairs, {LENGTH} fit")
    pairs = [pairs[i % len(pairs)] for i in range(LENGTH)]
    shape = (LENGTH, 1)
    return Case(
        f"{dtype}-{name}",
        Tensor(shape, tuple(x for x, _ in pairs), dtype),
        Tensor(shape, tuple(round_to(y, target or dtype) for _, y in pairs), target or dtype),
        tags=frozenset({"packed"}),
    )


@functools.cache
def elementwise(theme: str, dtype: str) -> Case:
    """The pack of one theme: "hard", "soft", "tail" (|x| beyond where a digit is lost), "soft-tail", or "outside"
    [0, 1]."""
    form = FORMATS[dtype]
    every = logits(dtype)
    if theme == "hard":
        return _elements(theme, dtype, [(x, y) for x in every if abs(x) < 9.7 for y in (0.0, 1.0)])
    if theme == "tail":
        return _elements(theme, dtype, [(x, y) for x in every if abs(x) > 9.7 for y in (0.0, 1.0)])
    source = random.Random(f"{theme}-{dtype}")
    if theme == "soft":
        ys = (0.5, 0.25, 0.9, 2.0**-8, 1 - 2.0**-7, *(source.random() for _ in range(3)))
        return _elements(theme, dtype, [(x, y) for x in every[::4] if abs(x) < 40 for y in ys])
    if theme == "soft-tail":
        near = (1 - form.u, 1 - 2 * form.u, 1 - 4 * form.u, form.u, 2.0**-20)
        big = [v for v in (10.0, 40.0, 1e3, 1e4) if v < form.max]
        pairs = [(s * x, y) for x, y in itertools.product(big, near) for s in (1.0, -1.0)]
        return _elements(theme, dtype, [(round_to(x, dtype), y) for x, y in pairs])
    if theme == "outside":
        return _elements(theme, dtype, [(x, y) for x in every[::9] if abs(x) < 40 for y in (2.0, -1.0, 1.5)])
    raise ValueError(f"no pack is called {theme!r}")


ELEMENTWISE = ("hard", "soft", "tail", "soft-tail", "outside")


@functools.cache
def plain(dtype: str, shape: tuple[int, ...] = (6, 4), name: str = "plain", soft: bool = True) -> Case:
    """A seeded random call of `shape`, without options."""
    source = random.Random(f"{name}-{dtype}-{shape}")
    n = functools.reduce(lambda a, b: a * b, shape, 1)
    xs = tuple(round_to(source.uniform(-6, 6), dtype) for _ in range(n))
    ys = tuple(
        round_to(source.random(), dtype) if soft and source.random() < 0.4 else float(source.random() < 0.5)
        for _ in range(n)
    )
    return Case(f"{dtype}-{name}-{'x'.join(map(str, shape))}", Tensor(shape, xs, dtype), Tensor(shape, ys, dtype))


def _weights(dtype: str, shape: tuple[int, ...], name: str) -> Tensor:
    source = random.Random(f"{name}-{dtype}-{shape}")
    n = functools.reduce(lambda a, b: a * b, shape, 1)
    return Tensor(shape, tuple(round_to(source.uniform(0.2, 3.0), dtype) for _ in range(n)), dtype)


def _mask(shape: tuple[int, ...], hidden: tuple[int, ...]) -> Tensor:
    n = functools.reduce(lambda a, b: a * b, shape, 1)
    return Tensor(shape, tuple(i not in hidden for i in range(n)), "bool")


def _tall(dtype: str) -> Case:
    """1,500 rows with `where`, some without an observed class; only six differ, to save the oracle's time."""
    base, rows = plain(dtype), 1500
    x, y = (Tensor((rows, 4), t.values * (rows // 6), t.dtype) for t in (base.input, base.target))
    hidden = tuple(i for i in range(4 * rows) if i % 7 == 3 or (i // 4) % 250 == 11)
    return Case(f"{dtype}-where-tall", x, y, where=_mask((rows, 4), hidden))


@functools.cache
def optioned(theme: str, dtype: str) -> tuple[Case, ...]:
    """One or two calls with the theme's option alone, whose values are unequal, so that a misplaced one shows."""
    base = plain(dtype)
    x, y = base.input, base.target

    def case(name: str, **options: object) -> Case:
        fields: Any = options  # the fields of a Case; mypy cannot check **
        return Case(f"{dtype}-{theme}-{name}", x, y, **fields)

    cube = plain(dtype, (3, 3, 4), "cube")

    def equal(option: str) -> Case:
        base = plain(dtype, (4, 4), "square")
        given: Any = {option: _weights(dtype, (4,), option)}
        return Case(f"{dtype}-{option}-square", base.input, base.target, **given)

    if theme == "weight":
        return (
            case("classes", weight=_weights(dtype, (4,), "w")),
            case("rows", weight=_weights(dtype, (6, 1), "w")),
            case("number", weight=3.0),
            # as many rows as classes, so that only the rule tells them apart; below, a second axis of rows
            equal("weight"),
            Case(f"{dtype}-weight-planes", cube.input, cube.target, weight=_weights(dtype, (3, 1, 1), "w")),
            # float32's largest number as it is printed, which is a little larger than the number
            Case(f"{dtype}-weight-largest", Tensor((1, 1), (0.0,), dtype), Tensor((1, 1), (1.0,), dtype), 3.4028235e38),
        )
    if theme == "pos_weight":
        classes = case("classes", pos_weight=_weights(dtype, (4,), "p"))
        return (classes, case("number", pos_weight=2.5), equal("pos_weight"))
    if theme == "where":
        return (
            case("some", where=_mask((6, 4), (1, 5, 6, 10, 20, 21))),
            case("a-row", where=_mask((6, 4), (8, 9, 10, 11, 3))),
            case("classes", where=_mask((4,), (2,))),
            _tall(dtype),
        )
    if theme == "label_smoothing":
        return (case("tenth", label_smoothing=0.1), case("tiny", label_smoothing=1e-7))
    if theme == "axis":
        square = plain(dtype, (5, 3, 2), "axis")
        return (
            Case(f"{dtype}-axis-first", x, y, axis=0),
            Case(f"{dtype}-axis-middle", square.input, square.target, axis=1),
        )
    if theme == "plain":
        return (base, plain(dtype, (5,)), plain(dtype, (3, 2, 4)), cube)
    if theme == "dtypes":
        wide = {"float16": "float32", "bfloat16": "float32", "float32": "float64", "float64": ""}[dtype]
        hard = tuple(round(v) for v in y.values)
        out = [
            Case(f"{dtype}-target-bool", x, Tensor(y.shape, tuple(bool(v) for v in hard), "bool")),
            Case(f"{dtype}-target-uint8", x, Tensor(y.shape, tuple(int(v) for v in hard), "uint8")),
            Case(f"{dtype}-target-int32", x, Tensor(y.shape, tuple(int(v) for v in hard), "int32")),
        ]
        if wide:  # first, because a slow backend is judged on the first case only
            fine = tuple(round_to(0.999 if i % 2 else 0.1, wide) for i in range(len(y.values)))
            out.insert(0, Case(f"{dtype}-target-{wide}", x, Tensor(y.shape, fine, wide)))
        return tuple(out)
    raise ValueError(f"no theme is called {theme!r}")


THEMES = ("plain", "weight", "pos_weight", "where", "label_smoothing", "axis", "dtypes", "layouts")


def theme_of(case: Case) -> str:
    """The theme under which a catalogue case is judged: its rarest property decides."""
    arguments = (case.input, case.target)
    if 0 in case.input.shape or any(v - v != 0 for t in arguments for v in t.values):
        return "special"
    floats = {
        t.dtype for t in (*arguments, case.weight, case.pos_weight) if isinstance(t, Tensor) and t.dtype in FORMATS
    }
    if len(floats) > 1:
        return "dtypes"
    if case.where is not None:
        return "where"
    if case.label_smoothing:
        return "label_smoothing"
    if case.axis % len(case.input.shape) != len(case.input.shape) - 1:
        return "axis"
    if case.pos_weight is not None:
        return "pos_weight"
    if case.weight is not None:
        return "weight"
    if case.layout != "C":
        return "layouts"
    if case.input.dtype != case.target.dtype:
        return "dtypes"
    return "plain"
