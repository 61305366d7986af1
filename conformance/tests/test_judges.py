"""Tests of the judges: the oracle against mpmath, the bounds by what they accept, the catalogue by what it covers.

`test_judges_sabotage` has the wrong losses. Needs no array library except NumPy, in which the exhaustive sweeps are
written.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .. import formats, strategies
from ..cases import catalogue
from ..reference import bounds, exact, exhaustive, golden, oracle
from ..reference.bounds import Violation
from ..tensors import LAYOUTS, Case, Tensor

QUICK = strategies.profile("quick")
ALL = ("float16", "bfloat16", "float32", "float64")
# Written out, so that a family that is removed from the catalogue makes the test fail.
FAMILIES = (
    catalogue._thresholds,
    catalogue._tails,
    catalogue._soft,
    catalogue._specials,
    catalogue._weights,
    catalogue._masks,
    catalogue._smoothing,
    catalogue._shapes,
    catalogue._layouts,
    catalogue._combinations,
    catalogue._randoms,
    catalogue._sums,
)
CATALOGUE = [case for case in catalogue.catalogue("smoke", ALL) if exact.is_finite(case)]


def half_ulp(value: float) -> Fraction:
    """The error of rounding once to float64, plus a part in 2**30 for the oracle's own thirty digits."""
    return Fraction(formats.ulp(value, "float64")) * (Fraction(1, 2) + Fraction(1, 2**30))


def fraction(number: mpmath.mpf) -> Fraction:
    """An mpmath number without rounding, or 0 if it is too small to change any float64."""
    sign, mantissa, exponent, _ = number._mpf_
    if exponent < -8000:
        return Fraction(0)
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if sign else size


def agree(values: Sequence[float], truth: Sequence[mpmath.mpf], what: str) -> None:
    """Raise unless every value is the float64 nearest to the exact one."""
    assert len(values) == len(truth), what
    for i, (value, right) in enumerate(zip(values, truth, strict=True)):
        if math.isnan(value) or mpmath.isnan(right):
            assert math.isnan(value), f"{what}[{i}]: {value}"
            assert mpmath.isnan(right), f"{what}[{i}]: {value}"
        elif math.isinf(value):
            assert abs(right) > sys.float_info.max, f"{what}[{i}]: {value}, exactly {right}"
        else:
            off = abs(Fraction(value) - fraction(right))
            assert off <= half_ulp(value), f"{what}[{i}]: {value!r}, exactly {mpmath.nstr(right, 20)}"


def wrts(case: Case) -> list[str]:
    """The arguments of a case that have a derivative."""
    return [w for w in oracle.WRT if getattr(case, w) is not None]


# ---------------------------------------------------------------- the oracle


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", ALL)
def test_oracle_is_the_nearest_float64(dtype: str, reduction: str) -> None:
    for case in CATALOGUE:
        if case.input.dtype == dtype:
            agree(oracle.loss(case, reduction).values, exact.loss(case, reduction), f"{case.name} {reduction}")


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dtype", ALL)
def test_oracle_derivatives_are_the_nearest_float64(dtype: str, reduction: str) -> None:
    for case in CATALOGUE:
        if case.input.dtype == dtype:
            outer = [0.7, -3.0, 1.0] * len(case.input.values) if reduction == "none" else -0.3
            given_output = outer[: math.prod(case.batch)] if isinstance(outer, list) else outer
            for wrt in wrts(case):
                answer = oracle.grad(case, reduction, wrt, given_output)
                agree(answer.values, exact.grad(case, reduction, wrt, given_output), f"{case.name} {reduction} {wrt}")
            hessian = oracle.hessian_diag(case, reduction)
            agree(hessian.values, exact.hessian_diag(case, reduction), f"{case.name} {reduction} hessian")


@settings(QUICK, max_examples=30)
@given(strategies.cases())
def test_oracle_on_drawn_cases(case: Case) -> None:
    agree(oracle.loss(case, "mean").values, exact.loss(case, "mean"), "mean")
    for wrt in wrts(case):
        agree(oracle.grad(case, "sum", wrt).values, exact.grad(case, "sum", wrt), wrt)


def test_exact_refuses_formulas_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    right = exact.formula_b

    def slightly_wrong(*arguments: mpmath.mpf) -> exact.Exact:
        answer = right(*arguments)
        return answer._replace(gradient=answer.gradient + mpmath.ldexp(answer.gradient, -100))

    monkeypatch.setattr(exact, "formula_b", slightly_wrong)
    exact.element.cache_clear()
    with pytest.raises(exact.Disagreement, match="gradient"):
        exact.element(0.3, 1.0, 1.0, 0.0)
    exact.element.cache_clear()


# (case, answers): a row's NaN is its own; a matched infinity is 0, and its target's derivative the formula's
@pytest.mark.parametrize(
    ("x", "y", "loss", "gradient", "curvature", "by_target"),
    [
        (math.inf, 1.0, 0.0, 0.0, 0.0, -math.inf),
        (-math.inf, 0.0, 0.0, 0.0, 0.0, math.inf),
        (math.inf, 0.0, math.inf, 1.0, 0.0, -math.inf),
        (-math.inf, 1.0, math.inf, -1.0, 0.0, math.inf),
        (math.inf, 0.25, math.inf, 0.75, 0.0, -math.inf),
        (math.inf, 2.0, -math.inf, -1.0, 0.0, -math.inf),
        (0.0, math.nan, math.nan, math.nan, 0.25, 0.0),
        (math.nan, 1.0, math.nan, math.nan, math.nan, math.nan),
    ],
)
def test_oracle_special_values(
    x: float, y: float, loss: float, gradient: float, curvature: float, by_target: float
) -> None:
    case = catalogue.column("special", "float64", [x], y)
    observed = [
        oracle.loss(case, "mean").values[0],
        oracle.grad(case, "mean").values[0],
        oracle.hessian_diag(case, "mean").values[0],
        oracle.grad(case, "mean", "target").values[0],
    ]
    bounds.judge_all(observed, [loss, gradient, curvature, by_target], [0.0] * 4, f"x={x}, y={y}", "float64")


def test_oracle_empty_batches_and_rows() -> None:
    nothing = Tensor((0, 3), (), "float64")
    plain, masked = Case("empty", nothing, nothing), Case("empty", nothing, nothing, where=Tensor((), (True,), "bool"))
    assert oracle.loss(plain, "none") == ((0,), ())
    assert oracle.loss(plain, "sum").values == oracle.loss(masked, "mean").values == (0.0,)
    assert math.isnan(oracle.loss(plain, "mean").values[0])
    x, y = Tensor((2, 2), (0.0, 9.0, 9.0, math.nan), "float64"), Tensor((2, 2), (1.0, math.nan, 1.0, 1.0), "float64")
    half = Case("half", x, y, where=Tensor((2, 2), (True, False, False, False), "bool"))
    assert oracle.loss(half, "mean").values == oracle.loss(half, "sum").values == (math.log(2),)
    assert oracle.grad(half, "mean").values == (-0.5, 0.0, 0.0, 0.0)


# ---------------------------------------------------------------- hazards and golden answers


@pytest.mark.parametrize("hazard", [h for h in catalogue.hazards(ALL) if h.case is not None], ids=lambda h: h.name)
def test_hazard_answers(hazard: catalogue.Hazard) -> None:
    case = hazard.case
    assert case is not None
    observed = {
        "loss": lambda: oracle.loss(case, "sum"),
        "mean": lambda: oracle.loss(case, "mean"),
        "gradient": lambda: oracle.grad(case, "sum"),
        "hessian": lambda: oracle.hessian_diag(case, "sum"),
        "d_target": lambda: oracle.grad(case, "sum", "target"),
    }
    for quantity, digits in hazard.expected:
        bounds.judge(observed[quantity]().values[0], float(digits), 0.0, f"{hazard.name} {quantity}")
        if exact.is_finite(case) and "large" not in case.tags and quantity in ("loss", "gradient", "hessian"):
            truth = {"loss": exact.loss, "gradient": exact.grad, "hessian": exact.hessian_diag}[quantity](case, "sum")
            with mpmath.workprec(400):
                printed = mpmath.mpf(digits)
                assert abs(printed - truth[0]) <= abs(truth[0]) * mpmath.mpf(10) ** -18, f"{hazard.name} {quantity}"


def test_the_golden_table_is_the_output_of_exact() -> None:
    assert golden.text() == exact.golden_table()


def test_oracle_against_golden() -> None:
    for row in golden.table():
        case = Case("golden", Tensor((1, 1), (row.x,), "float64"), Tensor((1, 1), (row.y,), "float64"))
        observed = [oracle.loss(case, "sum"), oracle.grad(case, "sum"), oracle.hessian_diag(case, "sum")]
        assert [answer.values[0] for answer in observed] == [row.loss, row.gradient, row.hessian], row


def test_judging_needs_neither_mpmath_nor_hypothesis() -> None:
    package = __name__.partition(".")[0]
    script = f"""if True:
        import sys
        for name in ("mpmath", "hypothesis"):
            sys.modules[name] = None  # importing it raises
        from {package} import formats, tensors
        from {package}.cases import catalogue, hazards
        from {package}.reference import bounds, exhaustive, golden, oracle
        for case in catalogue.catalogue("smoke", ("float32",)):
            values, allowed = oracle.loss(case, "none").values, bounds.bound_loss(case, "none")
            bounds.judge_all(values, values, allowed, case.name, "float32")
        assert golden.table()
    """
    root = str(__import__("pathlib").Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- formats and bounds


def test_formats_agree_with_numpy() -> None:
    draw = random.Random("formats")
    values = [draw.gauss(0, 1) * 2.0 ** draw.randrange(-160, 140) for _ in range(4000)]
    values += [65519.99, 65520.0, 2.0**-25, 3 * 2.0**-25, 2.0**-150, math.nextafter(2.0**-150, 1)]
    with np.errstate(over="ignore"):
        for name, kind in (("float16", np.float16), ("float32", np.float32)):
            assert [formats.round_to(v, name) for v in values] == [float(kind(v)) for v in values]
    for value in (v for v in values if abs(v) < 2.0**127):
        single = formats.round_to(value, "float32")
        assert formats.step(single, "float32", 1) == float(np.nextafter(np.float32(single), np.float32(np.inf)))
        assert formats.ulp(single, "float32") == float(np.spacing(np.float32(abs(single))))


@QUICK
@given(st.sampled_from(ALL).flatmap(lambda d: st.tuples(st.just(d), strategies.logits(d), st.integers(-999, 999))))
def test_step_adds_its_count_to_the_ordinal(drawn: tuple[str, float, int]) -> None:
    dtype, value, count = drawn
    index = formats.ordinal(value, dtype)
    assert formats.from_ordinal(index, dtype) == value
    stepped = formats.step(value, dtype, count)
    if math.isfinite(stepped):
        assert formats.ordinal(stepped, dtype) == index + count


def test_judge_raises_and_returns_nothing() -> None:
    inf, nan = math.inf, math.nan
    for observed, right, allowed, dtype in [
        (1.0, 1.0, 0.0, "float32"),
        (0.0, -0.0, 0.0, "float32"),
        (nan, nan, 0.0, "float32"),
        (-inf, -inf, 0.0, "float32"),
        (inf, 1e39, 0.0, "float32"),
        (1.25, 1.0, 0.25, "float32"),
        (inf, 65519.0, 1.0, "float16"),
    ]:
        bounds.judge(observed, right, allowed, "fine", dtype)
    for observed, right, allowed, dtype in [
        (1.0, math.nextafter(1.0, 2), 0.0, "float64"),
        (nan, 1.0, inf, "float32"),
        (1.0, nan, inf, "float32"),
        (inf, -inf, 0.0, "float32"),
        (-inf, 1e39, 0.0, "float32"),
        (inf, 1e38, 0.0, "float32"),
        (65504.0, inf, 0.0, "float16"),
        (inf, 65519.0, 0.5, "float16"),
        (1.0, 1.0, nan, "float32"),
    ]:
        with pytest.raises(Violation, match="wrong"):
            bounds.judge(observed, right, allowed, "wrong", dtype)
    with pytest.raises(Violation, match="2 values, 1 expected"):
        bounds.judge_all([1.0, 2.0], [1.0], [0.0], "length", "float32")


def test_ulp_error_counts_spacings_and_allows_flushing() -> None:
    assert bounds.ulp_error(1.0 + 2.0**-22, 1.0, "float32") == 2
    assert bounds.ulp_error(math.inf, 1.0, "float32") == bounds.ulp_error(1.0, math.nan, "float32") == math.inf
    assert bounds.ulp_error(math.nan, math.nan, "float32") == bounds.ulp_error(math.inf, 1e39, "float32") == 0
    deep = 3.7200759760208359630e-44
    assert bounds.ulp_error(0.0, deep, "float32") > 26
    assert bounds.ulp_error(0.0, deep, "float32", flush=True) == 0
    assert bounds.ulp_error(0.0, 2.0**-126, "float32", flush=True) == 2.0**23


def test_budgets_are_the_promised_ones() -> None:
    promised = {("generic", "float32"): (4, 4, 5), ("torch", "float32"): (2, 3, 4)}
    for name, sets in bounds.LIMITS.items():
        for dtype, limits in sets.items():
            assert (limits.loss, limits.gradient, limits.hessian) == promised.get((name, dtype), (3, 4, 5))


def test_bounds_of_bare_elements_are_the_promised_ulps() -> None:
    for name, limits in bounds.LIMITS.items():
        for dtype in ("float32", "float64"):
            for y in (0.0, 1.0):
                case = catalogue.column("bare", dtype, [0.3, -0.3, 17.0, -17.0, 60.0], y)
                for values, allowed, ulps in (
                    (oracle.loss(case, "none"), bounds.bound_loss(case, "none", name), limits[dtype].loss),
                    (oracle.grad(case, "sum"), bounds.bound_grad(case, "sum", limits=name), limits[dtype].gradient),
                    (oracle.hessian_diag(case, "sum"), bounds.bound_hessian(case, "sum", name), limits[dtype].hessian),
                ):
                    promised = [ulps * formats.ulp(v, dtype) for v in values.values]
                    assert list(allowed) == promised


def test_half_bounds_stay_within_051_ulp() -> None:
    for dtype in ("float16", "bfloat16"):
        xs = [x for x in exhaustive.half_inputs(dtype)[::97].tolist() if math.isfinite(x)]
        for y in (0.0, 1.0):
            case = catalogue.column("half", dtype, xs, y)
            for answer, allowed in (
                (oracle.loss(case, "none"), bounds.bound_loss(case, "none")),
                (oracle.grad(case, "sum"), bounds.bound_grad(case, "sum")),
                (oracle.hessian_diag(case, "sum"), bounds.bound_hessian(case, "sum")),
            ):
                for value, error in zip(answer.values, allowed, strict=True):
                    if value:
                        assert error <= 0.51 * formats.ulp(abs(value) + error, dtype)


def test_bounds_double_with_the_weight() -> None:
    for case in CATALOGUE:
        if "unit" in case.tags and case.weight is None:
            double = Case(
                case.name, case.input, case.target, 2.0, case.pos_weight, None, case.label_smoothing, case.axis
            )
            one, two = bounds.bound_loss(case, "none"), bounds.bound_loss(double, "none")
            for value, small, large in zip(oracle.loss(case, "none").values, one, two, strict=True):
                form = formats.FORMATS[case.loss_dtype]
                if 2 * form.min_normal < abs(value) < form.max / 4:
                    assert large == 2 * small, case.name
    assert bounds.sum_roundings(1, "float32") == 0
    assert bounds.sum_roundings(10**9, "float32") == 8
    assert bounds.sum_roundings(2**20, "float64") == 28


# ---------------------------------------------------------------- the catalogue


def test_catalogue_has_no_gap() -> None:
    found = catalogue.catalogue("quick", ALL)
    assert [name for name, n in Counter(case.name for case in found).items() if n > 1] == []
    assert found is not catalogue.catalogue("full", ALL)
    assert all(a is b for a, b in zip(found, catalogue.catalogue("quick", ALL), strict=True))
    smoke = {case.name for case in catalogue.catalogue("smoke", ALL)}
    assert smoke < {case.name for case in found} < {case.name for case in catalogue.catalogue("full", ALL)}
    told = set((catalogue.__doc__ or "").split('"')[1::2])  # the tags in the module's docstring
    for dtype in ALL:
        mine = [case for case in found if case.input.dtype == dtype]
        assert set().union(*(case.tags for case in mine)) == told
        assert all(any(case.name == next(family(dtype, 1)).name for case in mine) for family in FAMILIES), dtype
        assert {case.layout for case in mine} == set(LAYOUTS)
        assert {len(case.input.shape) for case in mine} >= {1, 2, 3, 4}
        assert {case.target.dtype for case in mine} >= {"bool", *formats.INTEGERS, dtype}
        for option in ("weight", "pos_weight", "where"):
            shapes = {t.shape for case in mine if isinstance(t := getattr(case, option), Tensor)}
            assert {(), (1,)} <= shapes
            assert {len(s) for s in shapes} >= {0, 1, 2}
        assert {type(case.weight) for case in mine} == {Tensor, float, int, list, type(None)}
        assert any(0 in case.input.shape for case in mine)
        assert {case.axis for case in mine} >= {-1, 0, 1, -2}
    pairs = {(case.input.dtype, case.target.dtype) for case in found}
    halves = {("float16", "bfloat16"), ("bfloat16", "float16")}
    assert {(a, b) for a in ALL for b in ALL} - halves <= pairs


def test_thresholds_are_sampled_on_both_sides() -> None:
    for dtype in ("float32", "float64"):
        case = next(c for c in catalogue.catalogue("quick", (dtype,)) if c.name == f"{dtype}-threshold-y1")
        logits = set(case.input.values)
        for threshold in catalogue.THRESHOLDS:
            for k in range(-3, 4):
                assert {formats.step(threshold, dtype, k), -formats.step(threshold, dtype, k)} <= logits


def test_tensors_refuse_values_outside_their_dtype() -> None:
    for values, dtype in (((0.1,), "float32"), ((300,), "uint8"), ((1,), "bool"), ((1e39,), "float32")):
        with pytest.raises(ValueError, match=r"float32|uint8|bool"):
            Tensor((1,), values, dtype)
    with pytest.raises(ValueError, match="holds 2 values"):
        Tensor((2,), (1.0,), "float64")


@QUICK
@given(strategies.cases(special=True))
def test_drawn_cases_are_well_formed(case: Case) -> None:
    assert len(oracle.elements(case)) == len(case.input.values)
    for reduction in ("none", "mean", "sum"):
        answer = oracle.loss(case, reduction)
        bounds.judge_all(answer.values, answer.values, bounds.bound_loss(case, reduction), "itself", "float64")
    for wrt in wrts(case):
        answer = oracle.grad(case, "mean", wrt)
        bounds.judge_all(answer.values, answer.values, bounds.bound_grad(case, "mean", wrt), wrt, "float64")
    answer = oracle.hessian_diag(case, "mean")
    bounds.judge_all(answer.values, answer.values, bounds.bound_hessian(case, "mean"), "hessian", "float64")
