"""The hazard table as data: each trigger that has broken a published loss, with its exact answer.

Rows of numbers have a case of one element (or a constant array) and decimals of 20 digits. Rows of behaviour have the
right answer in words and are checked by the check of that behaviour. No answer was computed by the code under test:
every decimal was printed by `exact` at 160 bits, and a test prints it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..formats import FORMATS, promote, round_to
from ..tensors import Case, Hazard, Number, Tensor

INF, NAN = math.inf, math.nan
_BCE = "PyTorch's BCE-with-logits"


def _case(
    name: str, dtype: str, x: float, y: Number, target_dtype: str, tags: tuple[str, ...], **options: object
) -> Case:
    return Case(
        f"{dtype}-hazard-{name}",
        Tensor((1, 1), (x,), dtype),
        Tensor((1, 1), (y,), target_dtype),
        tags=frozenset({"hazard", "unit", *tags}),
        **options,  # type: ignore[arg-type]  # the two options below are fields of a Case; mypy cannot check **
    )


# name, trigger, logit, target, options, {quantity: decimal}, who fails
_Row = tuple[str, str, float, float, dict[str, float], dict[str, str], str]
_ROWS: tuple[_Row, ...] = (
    (
        "matched-plus",
        "x=+inf, y=1",
        INF,
        1,
        {},
        {"loss": "0", "gradient": "0", "hessian": "0"},
        "PyTorch mlsm, BCE: NaN",
    ),
    (
        "matched-minus",
        "x=-inf, y=0",
        -INF,
        0,
        {},
        {"loss": "0", "gradient": "0", "hessian": "0"},
        "PyTorch mlsm, BCE: NaN",
    ),
    ("opposed-plus", "x=+inf, y=0", INF, 0, {}, {"loss": "inf", "gradient": "1", "hessian": "0"}, ""),
    ("opposed-minus", "x=-inf, y=1", -INF, 1, {}, {"loss": "inf", "gradient": "-1", "hessian": "0"}, f"{_BCE}: NaN"),
    ("infinite-soft-plus", "x=+inf, y=1/4", INF, 0.25, {}, {"loss": "inf", "gradient": "0.75", "hessian": "0"}, ""),
    ("infinite-soft-minus", "x=-inf, y=1/4", -INF, 0.25, {}, {"loss": "inf", "gradient": "-0.25", "hessian": "0"}, ""),
    (
        "infinite-smoothed",
        "x=+inf, y=1, label smoothing",
        INF,
        1,
        {"label_smoothing": 0.125},
        {"loss": "inf", "gradient": "0.0625", "hessian": "0"},
        "a formula that looks at y, not at y'",
    ),
    ("infinite-weightless", "x=-inf, y=1, weight 0", -INF, 1, {"weight": 0.0}, {"loss": "nan"}, ""),
    ("weightless", "x=20, y=0, weight 0", 20, 0, {"weight": 0.0}, {"loss": "0", "gradient": "0", "hessian": "0"}, ""),
    ("nan-logit", "x=NaN", NAN, 1, {}, {"loss": "nan", "gradient": "nan", "hessian": "nan"}, ""),
    (
        "nan-target",
        "y=NaN",
        0.0,
        NAN,
        {},
        {"loss": "nan", "gradient": "nan", "hessian": "0.25"},
        "a guard on a = 0: ln 2",
    ),
    (
        "tail-20",
        "x=-20, y=0",
        -20,
        0,
        {},
        {
            "loss": "2.0611536203143807032e-9",
            "gradient": "2.0611536181902035814e-9",
            "hessian": "2.0611536139418493437e-9",
        },
        f"{_BCE}: float32 0, float64 off by 2.9e-7",
    ),
    (
        "tail-40",
        "x=-40, y=0",
        -40,
        0,
        {},
        {
            "loss": "4.2483542552915889863e-18",
            "gradient": "4.2483542552915889773e-18",
            "hessian": "4.2483542552915889592e-18",
        },
        "(1-y)x+sp(-x): 0",
    ),
    (
        "slope-17",
        "x=17, y=1",
        17,
        1,
        {},
        {
            "loss": "4.1399376330897474477e-8",
            "gradient": "-4.1399375473943306009e-8",
            "hessian": "4.1399373760035016377e-8",
        },
        "σ(x)-y and σ(1-σ): 0 in float32",
    ),
    (
        "almost-one",
        "x=1e4, y=1-2^-24",
        1e4,
        1 - 2.0**-24,
        {},
        {"loss": "0.00059604644775390625", "gradient": "5.9604644775390625e-8"},
        "max(x,0)-x·y: 64 % off",
    ),
    ("deep-tail", "x=-100, y=0", -100, 0, {}, {"loss": "3.7200759760208359630e-44"}, "XLA flushes it to 0"),
    (
        "threshold-20",
        "x=20.5, y=0",
        20.5,
        0,
        {},
        {
            "loss": "20.500000001250152866",
            "gradient": "0.99999999874984713518",
            "hessian": "1.2501528632609782561e-9",
        },
        "torch.nn.functional.softplus: 20.5",
    ),
    (
        "above-one",
        "x=2, y=2",
        2,
        2,
        {},
        {
            "loss": "-1.8730719889570275036",
            "gradient": "-1.1192029220221175559",
            "hessian": "0.10499358540350651735",
        },
        "clipped targets",
    ),
    (
        "below-zero",
        "x=2, y=-1",
        2,
        -1,
        {},
        {"loss": "4.1269280110429724964", "gradient": "1.8807970779778824441", "hessian": "0.10499358540350651735"},
        "clipped targets; uint8 arithmetic",
    ),
    (
        "zero",
        "x=0, y=1",
        0.0,
        1,
        {},
        {"loss": "0.69314718055994530942", "gradient": "-0.5", "hessian": "0.25", "d_target": "0"},
        "autograd of max, clip, where, |x|",
    ),
    (
        "minus-zero",
        "x=-0, y=1",
        -0.0,
        1,
        {},
        {"loss": "0.69314718055994530942", "gradient": "-0.5", "hessian": "0.25"},
        "copysign and sign(x)",
    ),
    (
        "soft-zero",
        "x=0, y=1/4",
        0.0,
        0.25,
        {},
        {"loss": "0.69314718055994530942", "gradient": "0.25", "hessian": "0.25"},
        "copysign and sign(x)",
    ),
    (
        "smoothed-large",
        "x=1e4, y=1, label smoothing 2^-10",
        1e4,
        1,
        {"label_smoothing": 2.0**-10},
        {"loss": "4.8828125", "gradient": "0.00048828125", "d_target": "-9990.234375"},
        "1-y' of an already rounded y'",
    ),
)
_MIXED: tuple[tuple[str, str, float, Number, str, dict[str, str], str], ...] = (
    # name, trigger, logit, target, its dtype, {quantity: decimal}, who fails
    ("bool-target", "y=True", 2, True, "bool", {"loss": "0.12692801104297249644"}, "1-bool raises in torch and strict"),
    ("uint8-target", "y=2 as uint8", 2, 2, "uint8", {"loss": "-1.8730719889570275036"}, "1-2 = 255 in uint8"),
    ("target-own-dtype", "y=1-2^-24 as float32", 1, 1 - 2.0**-24, "float32", {}, "targets cast down to 1"),
    ("target-own-double", "y=1-2^-53 as float64", 1, 1 - 2.0**-53, "float64", {}, "targets cast down to 1"),
)


def hazard_rows(dtypes: Iterable[str]) -> tuple[Hazard, ...]:
    """Every row whose logit and target exist in one of `dtypes`, once per dtype, and the rows of behaviour."""
    names = tuple(dtypes)
    found: list[Hazard] = []
    for dtype in names:
        for name, trigger, x, y, options, expected, who in _ROWS:
            if all(math.isnan(v) or round_to(v, dtype) == v for v in (float(x), float(y))):
                case = _case(name, dtype, float(x), float(y), dtype, ("special",) if x - x or y != y else (), **options)
                found.append(Hazard(case.name, trigger, tuple(expected.items()), case, who_fails=who))
        for name, trigger, x, flag, target, expected, who in _MIXED:
            wider = target in FORMATS and promote((dtype, target)) == target != dtype
            if (target in names and wider) or target not in FORMATS:
                case = _case(name, dtype, float(x), flag, target, ("target-dtype",))
                found.append(Hazard(case.name, trigger, tuple(expected.items()), case, who_fails=who))
        found += _sums(dtype)
    return (*found, *_BEHAVIOUR)


def _sums(dtype: str) -> Iterable[Hazard]:
    """The rows that need many terms: sums and divisors that exceed the range or the precision of a half precision."""
    if dtype not in ("float16", "bfloat16"):
        return
    for name, x, count, expected, who in (
        (
            "seventy-thousand",
            1.0,
            70_000,
            {"mean": "1.3132616875182228340"},
            "a sum in float16 is inf, in bfloat16 stalls",
        ),
        ("hundred-thousand", 0.0, 100_000, {"gradient": "5e-6"}, "100000 as float16 is inf, so its inverse is 0"),
    ):
        case = Case(
            f"{dtype}-hazard-{name}",
            Tensor((1, count), (x,) * count, dtype),
            Tensor((1, count), (0.0,) * count, dtype),
            tags=frozenset({"hazard", "large"}),
        )
        yield Hazard(case.name, f"{count} classes of {dtype}", tuple(expected.items()), case, who_fails=who)


_BEHAVIOUR = (
    Hazard(
        "axis0-sum",
        "float32, the sum over 2^24+2^20 rows of two ones, axis 0",
        (("mean", "1.3132616875182228340"),),
        answer="the mean over the class axis 0 is that of one element",
        who_fails="NumPy's sum along axis 0 stops at 16,777,216",
        constant=((2**24 + 2**20, 2), 1.0, 0.0),
    ),
    Hazard(
        "many-terms", "1e8 float32 terms", answer="mean within the sum's bound", who_fails="sequential sums: -27.5 %"
    ),
    Hazard("float-errors", 'np.errstate(all="raise")', answer="no error", who_fails="exp underflow raises"),
    Hazard("wide-index", "N·C > 2^31", answer="exact", who_fails="int32 products"),
    Hazard("unknown-size", "lazy arrays with unknown size", answer="the value", who_fails="Dask: silently NaN"),
    Hazard(
        "refused-arrays",
        "masked, matrix and object arrays",
        answer="TypeError",
        who_fails="array_namespace accepts them",
    ),
    Hazard("foreign-memory", "byte-swapped and unaligned arrays", answer="the value", who_fails="raw reads"),
    Hazard(
        "numpy-bfloat16", "ml_dtypes' bfloat16 on NumPy", answer="real floating", who_fails="isdtype raises TypeError"
    ),
    Hazard(
        "ragged-runtime", "5 rows against 1 row of unknown length", answer="refused", who_fails="broadcasts silently"
    ),
    Hazard(
        "no-float64",
        "a device without float64",
        answer="the library's own tree sum, no warning",
        who_fails="float64 there",
    ),
    Hazard(
        "autograd-zero",
        "autograd at x=0, y=1",
        (("gradient", "-0.5"),),
        answer="gradient -1/2",
        who_fails="|x|, max, clip",
    ),
)
