"""Why each peer errs: a sentence, and the peer's own arithmetic in mpmath, with the same rounding of each operation.

A sentence is confirmed if the peer is wrong, and the same arithmetic at its precision is wrong by the same amount,
while at 200 bits it is right. `look("torch_mlsm")` shows it for one peer. Says nothing about a peer that is not in
this table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from .. import peers
from ..backends import find
from ..check import Ask, Context
from ..formats import FORMATS
from ..subjects import subject_of
from ..tensors import Case, Tensor

Form = Callable[[Any, Any], Any]
"""A quantity of one element as a function of logit and label, in mpmath's numbers and working precision."""


class Why(NamedTuple):
    """One mistake: in words, in arithmetic, and the points at which it is shown."""

    sentence: str
    form: Form
    points: tuple[tuple[float, float], ...]
    dtype: str = "float64"
    quantity: str = "loss"


def recomputed(why: Why, x: float, y: float) -> tuple[float, float]:
    """The right value at this point, and that of the peer's arithmetic with each operation rounded."""
    from mpmath import mp

    with mp.workprec(200):
        right = float(_EXACT[why.quantity](mp.mpf(x), mp.mpf(y)))
    with mp.workprec(FORMATS[why.dtype].precision):
        return right, float(why.form(mp.mpf(x), mp.mpf(y)))


def explains(why: Why, x: float, y: float, seen: float) -> bool:
    """Whether the peer is wrong here, by more than any bound allows, and as wrong as its arithmetic is."""
    right, rounded = recomputed(why, x, y)
    if not math.isfinite(seen):
        return math.isnan(seen) and math.isnan(rounded) and math.isfinite(right)
    error = abs(seen - right)
    return error > 8 * FORMATS[why.dtype].u * abs(right) and abs(seen - rounded) <= error / 4


def returned(name: str, why: Why, x: float, y: float) -> float:
    """What the peer returns for one logit and label; `keras_bce_numpy` needs `KERAS_BACKEND=numpy`."""
    numpys, name = name.endswith("_numpy"), name.removesuffix("_numpy")
    peer = next(p for p in (*peers.PEERS, *peers.OTHERS) if p.call.__name__ == name)
    backend = find("numpy" if numpys else next(iter(peer.backend.values())))
    context = Context(backend, subject_of(backend, f"{peers.__name__}:{name}"))
    case = Case("claim", Tensor((1, 1), (x,), why.dtype), Tensor((1, 1), (y,), why.dtype))
    with backend.session():
        return backend.to_list(context.answer(case, Ask(why.quantity, "none")))[0]


def look(name: str) -> None:
    """Print for each sentence about one peer what it returns, the right value, and what its arithmetic gives."""
    for why in WHY[name]:
        print(f"{name} {why.sentence}")
        for x, y in why.points:
            seen, (right, rounded) = returned(name, why, x, y), recomputed(why, x, y)
            verdict = "confirmed" if explains(why, x, y, seen) else "NOT the reason"
            print(
                f"  {why.quantity} in {why.dtype} at x={x!r}, y={y!r}: {seen!r}, exactly {right!r}; "
                f"its arithmetic, rounded, gives {rounded!r}: {verdict}"
            )


# ------------------------------------------------------------ the right values


def _right_loss(x: Any, y: Any) -> Any:
    from mpmath import mp

    on = y * mp.log1p(mp.exp(-x)) if y else 0
    return on + ((1 - y) * mp.log1p(mp.exp(x)) if y != 1 else 0)


def _right_gradient(x: Any, y: Any) -> Any:
    from mpmath import mp

    return (1 - y) / (1 + mp.exp(-x)) - y / (1 + mp.exp(x))


def _right_hessian(x: Any, y: Any) -> Any:
    from mpmath import mp

    return 1 / ((1 + mp.exp(-x)) * (1 + mp.exp(x)))


_EXACT: dict[str, Form] = {"loss": _right_loss, "gradient": _right_gradient, "hessian": _right_hessian}


# ------------------------------------------------------------ the arithmetic of the peers


def _softplus(x: Any) -> Any:
    from mpmath import mp

    return max(x, mp.mpf(0)) + mp.log1p(mp.exp(-abs(x)))


def _log_sigmoids(x: Any, y: Any) -> Any:
    return y * _softplus(-x) + (1 - y) * _softplus(x)


def _one_sided(x: Any, y: Any) -> Any:
    return (1 - y) * x + _softplus(-x)


def _maximum(x: Any, y: Any) -> Any:
    from mpmath import mp

    return max(x, mp.mpf(0)) - x * y + mp.log1p(mp.exp(-abs(x)))


def _softplus_minus(x: Any, y: Any) -> Any:
    return _softplus(x) - x * y


def _log_of_a_sum(x: Any, y: Any) -> Any:
    from mpmath import mp

    def log_sigmoid(v: Any) -> Any:
        most = max(-v, mp.mpf(0))
        return -(most + mp.log(mp.exp(-most) + mp.exp(-v - most)))

    return -(y * log_sigmoid(x) + (1 - y) * log_sigmoid(-x))


def _clipped(x: Any, y: Any) -> Any:
    from mpmath import mp

    tiny = mp.mpf("1e-7")
    p = min(max(1 / (1 + mp.exp(-x)), tiny), 1 - tiny)
    return -(y * mp.log(p) + (1 - y) * mp.log(1 - p))


def _gradient_by_exponent(x: Any, y: Any) -> Any:
    from mpmath import mp

    return (1 - y) * mp.exp(x - _softplus(x)) - y * mp.exp(-x - _softplus(-x))


def _second_derivative_by_exponent(x: Any, y: Any) -> Any:
    from mpmath import mp

    e = mp.exp(x - _softplus(x)) if not y else mp.exp(-x - _softplus(-x))
    return e * (1 - e)


def _second_derivative_by_difference(x: Any, y: Any) -> Any:
    from mpmath import mp

    s = 1 / (1 + mp.exp(-x))
    return s * (1 - s)


_INFINITE = ((math.inf, 1.0), (-math.inf, 0.0))
_ONE_SIDED = Why(
    "computes (1 - y)·x - log σ(x): for a label of 0 and a large negative logit, both terms are as large as the "
    "logit, and few or no digits of their difference are correct",
    _one_sided,
    ((-40.0, 0.0), (-60.0, 0.0)),
)
_SECOND_DERIVATIVE = Why(
    "computes the second derivative as s·(1 - s), with s = σ(x): where s is close to 1, 1 - s has few or no correct "
    "digits",
    _second_derivative_by_difference,
    ((40.0, 1.0),),
    quantity="hessian",
)
_ZERO_TIMES_INFINITY = Why(
    "multiplies 0 by ∞, which gives NaN: at an infinite logit that agrees with its label, the loss is 0",
    _log_sigmoids,
    _INFINITE,
)

WHY: dict[str, tuple[Why, ...]] = {
    "torch_mlsm": (_ZERO_TIMES_INFINITY, _SECOND_DERIVATIVE),
    "torch_bce_with_logits": (_ONE_SIDED, _SECOND_DERIVATIVE),
    "optax_sigmoid_bce": (
        _ZERO_TIMES_INFINITY,
        Why(
            "lets JAX differentiate log σ, which gives exp(x - softplus(x)): the exponent is as large as x, and its "
            "rounding gives the gradient a relative error of |x|·u, where u is half an ULP at 1",
            _gradient_by_exponent,
            ((17.0, 1.0), (-17.0, 0.0)),
            quantity="gradient",
        ),
        Why(
            "lets JAX differentiate e = exp(x - softplus(x)) again, which gives e·(1 - e): where e is close to 1, "
            "1 - e has few or no correct digits",
            _second_derivative_by_exponent,
            ((40.0, 0.0), (-40.0, 1.0)),
            quantity="hessian",
        ),
    ),
    "keras_bce": (_ONE_SIDED, _SECOND_DERIVATIVE),
    "keras_bce_numpy": (
        Why(
            "limits σ(x) to the range from 1e-7 to 1 - 1e-7 before the logarithm: the loss is at most 16.2 for every "
            "logit",
            _clipped,
            ((30.0, 0.0), (-60.0, 1.0)),
            "float32",
        ),
    ),
    "tensorflow_bce": (
        Why(
            "computes max(x, 0) - x·y + log1p(exp(-|x|)): for a soft label close to 1 and a large logit, the first "
            "two terms are as large as the logit, and their difference has the rounding error of x·y",
            _maximum,
            ((1e4, 1 - 2.0**-52), (1e3, 1 - 2.0**-50)),
        ),
    ),
    "sklearn_half_binomial": (
        Why(
            "computes log(1 + exp(x)) - y·x: for a label of 1 and a large logit, both terms are as large as the "
            "logit, and few or no digits of their difference are correct",
            _softplus_minus,
            ((40.0, 1.0), (60.0, 1.0)),
        ),
    ),
    "scipy_log_expit": (_ZERO_TIMES_INFINITY,),
    "mlx_bce": (
        Why(
            "computes logaddexp(0, x) - x·y: for a label of 1 and a large logit, both terms are as large as the "
            "logit, and few or no digits of their difference are correct",
            _softplus_minus,
            ((17.5, 1.0), (30.0, 1.0)),
            "float32",
        ),
    ),
    "paddle_mlsm": (
        Why(
            "computes log σ(x) as -m - log(exp(-m) + exp(-x - m)) with m = max(-x, 0): the sum is close to 1, so "
            "that a term smaller than the last digit of 1 is lost",
            _log_of_a_sum,
            ((40.0, 1.0), (-40.0, 0.0)),
        ),
    ),
    "timm_bce": (_ONE_SIDED, _SECOND_DERIVATIVE),
    "torchvision_focal": (_ONE_SIDED, _SECOND_DERIVATIVE),
    "monai_focal": (
        Why(
            "computes x - x·y - log σ(x) in float32, for arguments of every dtype: for a label of 0 and a large "
            "negative logit, the terms are as large as the logit, and few or no digits of their difference are "
            "correct",
            _one_sided,
            ((-17.5, 0.0), (-30.0, 0.0)),
            "float32",
        ),
    ),
}
"""By the name of the peer's function (`keras_bce_numpy`: the same function, where Keras runs on NumPy)."""
