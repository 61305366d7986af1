"""No call changes an argument, and no result is a view of one."""

from __future__ import annotations

from ..backends import Unsupported
from ..cases import dense_cases
from ..check import Ask, Context, check
from ..run.tally import Tally
from ..subjects import Declined
from ..tensors import Case, Tensor


def _cases(context: Context) -> list[Case]:
    out = []
    for d in context.few_dtypes:
        base = dense_cases.plain(d)
        out += [
            base,
            *dense_cases.optioned("weight", d)[:1],
            *dense_cases.optioned("where", d)[:1],
            *dense_cases.optioned("axis", d)[:1],
        ]
        # One element and one class: the mean over it is the identity, so that returning an alias would be easy.
        out.append(Case(f"{d}-single", Tensor((1, 1), (3.0,), d), Tensor((1, 1), (1.0,), d)))
        if "layouts" in context.backend.capabilities:
            out.append(Case(f"{d}-fortran", base.input, base.target, layout="F"))
    return [c for c in out if context.backend.serves(c)]


ASKS = (Ask("loss", "none"), Ask("loss", "mean"), Ask("gradient", "none"), Ask("hessian", "none"))
TARGET = Ask("gradient", "none", "target")


@check("purity.inputs", "No argument is changed by any call, not even in the sign of a zero.")
def inputs(context: Context, tally: Tally) -> None:
    for case in _cases(context):
        if not context.concerns(tally, case):
            continue
        arrays = context.arrays(case)
        before = {name: [v.hex() for v in context.backend.to_list(a)] for name, a in arrays.items()}
        fixed = context.options(case)
        for ask in context.offered((*ASKS, TARGET)):
            try:
                context.backend.to_list(context.one(ask, {**arrays, **fixed}))
            except (Declined, Unsupported) as reason:
                tally.passed_by(str(reason))
        for name, array in arrays.items():
            after = [v.hex() for v in context.backend.to_list(array)]
            tally.equal(after, before[name], f"{case.name}: `{name}` was changed")


@check(
    "purity.alias",
    "Writing into a result changes no argument, and writing into an argument changes no result.",
    needs=("writable",),
)
def alias(context: Context, tally: Tally) -> None:
    b = context.backend
    for case in _cases(context):
        if not context.concerns(tally, case):
            continue
        fixed = context.options(case)
        for ask in context.offered((*ASKS, TARGET)):
            arrays = context.arrays(case)
            before = {name: b.to_list(a) for name, a in arrays.items()}
            try:
                result = context.one(ask, {**arrays, **fixed})
            except (Declined, Unsupported) as reason:
                tally.passed_by(str(reason))
                continue
            kept = b.to_list(result)
            if b.shape_of(result):  # a NumPy scalar shares no memory and cannot be written to
                b.write(result, 77.0)
            for name, array in arrays.items():
                tally.exactly(b.to_list(array), before[name], f"{case.name}: {ask} is a view of `{name}`")
            second = context.one(ask, {**arrays, **fixed})
            if case.layout != "broadcast":
                b.write(arrays["input"], 55.0)
            tally.exactly(b.to_list(second), kept, f"{case.name}: {ask} shares memory with `input`")


@check("purity.readonly", "Arrays that cannot be written to are accepted.", needs=("readonly",))
def readonly(context: Context, tally: Tally) -> None:
    for d in context.dtypes:
        base = dense_cases.plain(d)
        case = Case(f"{d}-readonly", base.input, base.target, layout="read_only")
        context.judge(tally, case, ASKS)


@check("purity.kept", "A result does not change when the same function is called again with other data.")
def kept(context: Context, tally: Tally) -> None:
    for d in context.few_dtypes:
        cases = [dense_cases.plain(d, (6, 4), name) for name in ("first", "second")]
        if not all(context.concerns(tally, case) for case in cases):
            continue
        for ask in context.offered([Ask("loss", r) for r in context.reductions] + [Ask("gradient", context.reduction)]):
            (result,) = context.tried(tally, cases[0], [ask], read=False)
            if result is None:
                continue
            before = context.backend.to_list(result)
            context.tried(tally, cases[1], [ask], read=False)
            tally.exactly(context.backend.to_list(result), before, f"{cases[0].name}: {ask} after another call")
