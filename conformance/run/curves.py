"""Observed error against logit, for the report's plots: how many digits a backend (or a peer) loses, and where.

Measures only: the checks judge.  Every point is one element at unit scale, so the promised bound is the elementwise
one.
"""

from __future__ import annotations

import functools
import math
import warnings

from ..backends import Unsupported, find
from ..cases import dense_cases
from ..check import FAILURES, Ask, Context, exact, raised, result_dtype
from ..formats import FORMATS, round_to
from ..record import QUANTITIES, Curve, PeerRecord
from ..reference import bounds
from ..subjects import Declined, Foreign, Mlsm
from ..subjects.peers import installed_peers
from ..tensors import Case, Tensor

REACH = {"float16": 20.0, "bfloat16": 110.0, "float32": 110.0, "float64": 760.0}
"""How far a plot goes: a little beyond where the loss of a hard target underflows (float16 ends sooner)."""


@functools.cache
def pack(dtype: str, target: float) -> Case:
    """A few hundred logits for one hard target: an even grid, and every threshold with its neighbours."""
    reach = REACH[dtype]
    grid = {round_to(-reach + k * reach / 60, dtype) for k in range(121)}
    inner = {round_to(-40 + k * 0.75, dtype) for k in range(107)} if reach > 40 else set()
    near = {x for x in dense_cases.logits(dtype) if 1e-3 < abs(x) <= reach}
    xs = tuple(sorted(grid | inner | near))
    return Case(
        f"{dtype}-curve-{target:g}",
        Tensor((len(xs), 1), xs, dtype),
        Tensor((len(xs), 1), (target,) * len(xs), dtype),
    )


def measure(context: Context) -> tuple[tuple[Curve, ...], tuple[str, ...]]:
    """The curves of one backend for the quantities that its subject offers; and those that failed, with the reason."""
    out: list[Curve] = []
    absent: dict[str, None] = {}
    for dtype in context.dtypes:
        for target in (0.0, 1.0):
            case = pack(dtype, target)
            if not context.backend.serves(case):
                continue
            for quantity in QUANTITIES:
                ask = Ask(quantity, "none")
                why = context.subject.lacking(quantity)
                if why:
                    absent[f"{quantity}: {why}"] = None
                    continue
                try:
                    with context.backend.session(), warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # a peer may warn; only its result is drawn
                        seen = context.backend.to_list(context.answer(case, ask))
                        limits = context.limits(case)
                except (Declined, Unsupported) as reason:
                    absent[f"{quantity}: {reason}"] = None
                except FAILURES as error:
                    absent[f"{dtype} {quantity}: raised {raised(error)}"] = None
                else:
                    right = len(case.input.values)
                    if len(seen) == right:
                        out.append(curve(context, case, ask, seen, limits))
                    else:
                        absent[f"{dtype} {quantity}: {len(seen)} values, {right} expected"] = None
    return tuple(out), tuple(absent)


def curve(context: Context, case: Case, ask: Ask, seen: list[float], limits: str) -> Curve:
    """The curve of one answer, with the bound at each logit."""
    right = exact(case, ask).values
    dtype = result_dtype(case, ask)
    room = context.allowed(case, ask, limits)
    flush = dtype in context.flush
    form = FORMATS[dtype]
    ulps, allowances = [], []
    for s, r, b in zip(seen, right, room, strict=True):
        ulps.append(bounds.ulp_error(s, r, dtype, flush))
        # On a backend that declares flushing, a flushed result counts as no error, so the bound must not allow for it.
        flushed = flush and abs(r) < form.min_normal
        allowances.append(b / bounds.ulp(r, dtype) if not flushed else math.ceil(0.5))
    return Curve(
        quantity=ask.quantity,  # type: ignore[arg-type]  # taken from QUANTITIES
        dtype=dtype,
        target=case.target.values[0],
        logit=tuple(case.input.values),
        # Six digits are more than a plot shows; rounding does not change which of error and bound is larger.
        ulp=tuple(float(f"{u:.6g}") for u in ulps),
        bound=tuple(float(f"{a:.6g}") for a in allowances),
    )


def peers(dtypes: tuple[str, ...] = ("float32", "float64"), beside_mlsm: bool = False) -> tuple[PeerRecord, ...]:
    """The curves of every installed peer, and of mlsm itself if another loss is judged. A peer that cannot be called
    has none, under its own name."""
    out = []
    if beside_mlsm:
        out.append(PeerRecord("mlsm", measure(Context(find("numpy"), Mlsm(), "quick", dtypes))[0]))
    for peer in installed_peers():
        curves: list[Curve] = []
        for dtype in dtypes:
            if dtype not in peer.backend:
                continue
            backend = find(peer.backend[dtype])
            context = Context(backend, Foreign(peer.call, peer.name, backend), "quick", (dtype,))
            curves += measure(context)[0]
        out.append(PeerRecord(peer.name, tuple(curves)))
    return tuple(out)
