"""The same call gives the same bits: repeated, from many threads, and in every memory layout."""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import Any

from ..backends import Unsupported
from ..cases import dense_cases
from ..check import FAILURES, Ask, Context, check
from ..run.tally import Tally
from ..tensors import Case

ASKS = (Ask("loss", "none"), Ask("loss", "mean"), Ask("gradient", "mean"), Ask("hessian", "mean"))
TURNS = 12
"""How often each thread calls, if calls are cheap."""
SOON = 2e-5
"""Seconds after which threads switch: short enough that a switch comes in the middle of a call, so that two threads
which share scratch memory disturb each other."""


def _big(context: Context, dtype: str) -> Case:
    """Large enough that kernels split it into blocks and libraries into threads, if calls are cheap."""
    return dense_cases.plain(dtype, (257, 33) if context.backend.slow < 4 else (64, 9), "bits")


def _asks(context: Context) -> list[Ask]:
    """The questions that the subject offers, with its reductions."""
    return [ask for ask in context.offered(ASKS) if ask.reduction in context.reductions]


@check("determinism.again", "The same call twice gives the same bits.")
def again(context: Context, tally: Tally) -> None:
    for d in context.dtypes:
        case = _big(context, d)
        if not context.concerns(tally, case):
            continue
        asks = _asks(context)
        first, second = context.numbers(case, *asks), context.numbers(case, *asks)
        for ask, a, b in zip(asks, first, second, strict=True):
            tally.exactly(b, a, f"{case.name}: {ask}")


@check(
    "determinism.repeated",
    "A call that came several times changes nothing in the next one, which has other values, another memory layout, "
    "another option or another dtype.",
    bound="the budget of the values",
)
def repeated(context: Context, tally: Tally) -> None:
    """What a loss keeps of a call, such as its plan of the memory or its compiled code, must fit the next one."""
    for d in context.few_dtypes:
        first, other_values = dense_cases.plain(d, (6, 4), "first"), dense_cases.plain(d)
        pairs = [(first, other_values), (other_values, first)]
        for option in ("weight", "pos_weight", "where", "label_smoothing", "axis"):
            pairs += [(first, case) for case in dense_cases.optioned(option, d)[:1]]
        pairs += [(first, dense_cases.plain(e)) for e in context.few_dtypes if e != d]
        # With a weight, because a mean of elements in another order would be the same mean.
        weighted = dense_cases.optioned("weight", d)[0]
        for name in sorted(context.backend.layouts - {"C", "broadcast"}):
            moved = dataclasses.replace(weighted, name=f"{d}-repeated-{name}", layout=name)
            pairs += [(weighted, moved), (moved, weighted)]
        asks = _asks(context)
        for before, after in pairs:
            if context.concerns(tally, before) and context.concerns(tally, after):
                for _ in range(2 if context.expensive else 4):
                    context.tried(tally, before, asks, read=False)
                context.judge(tally, after, asks)


@check(
    "determinism.layout",
    "Every memory layout gives the same bits, of values and derivatives.",
    needs=("layouts",),
    anybody=False,
)
def layout(context: Context, tally: Tally) -> None:
    for d in context.dtypes:
        base = _big(context, d)
        if not context.concerns(tally, base):
            continue
        asks = _asks(context)
        right = context.numbers(base, *asks)
        for name in sorted(context.backend.layouts - {"C", "broadcast"}):
            case = Case(f"{base.name}-{name}", base.input, base.target, layout=name)
            for ask, seen, expected in zip(asks, context.numbers(case, *asks), right, strict=True):
                tally.exactly(seen, expected, f"{case.name}: {ask}")


@check("threads.bits", "Eight threads that call at once, each with its own data, get the bits of a single thread.")
def threads(context: Context, tally: Tally) -> None:
    if not context.backend.concurrent:
        raise Unsupported("its calls must be made in the order of one thread")
    for d in context.dtypes[-1:]:
        # Of one shape, so that scratch memory shared between the threads would be noticed.
        shape = _big(context, d).input.shape
        different = 8 if context.backend.slow < 4 else 2
        cases = [dense_cases.plain(d, shape, f"thread{i % different}") for i in range(8)]
        if not all(context.concerns(tally, case) for case in cases):
            continue
        asks = _asks(context)
        right = [context.numbers(case, *asks) for case in cases[:different]]
        right *= 8 // different
        found: list[Any] = [None] * 8
        start = threading.Barrier(8)

        def work(index: int, found: list[Any] = found, asks: list[Ask] = asks, cases: list[Case] = cases) -> None:
            start.wait()  # noqa: B023 - the threads end before the loop goes on
            try:
                with context.backend.session():  # flags and switches are thread-local in most libraries
                    for _ in range(1 if context.backend.slow >= 4 else TURNS):
                        found[index] = context.numbers(cases[index], *asks)
                        if found[index] != right[index]:  # noqa: B023 - likewise; judged below
                            break
            except FAILURES as error:
                found[index] = error

        workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SOON)
        try:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        finally:
            sys.setswitchinterval(usual)
        for index, seen in enumerate(found):
            if isinstance(seen, BaseException):
                tally.fail(f"thread {index}: raised {type(seen).__name__}: {seen}")
                continue
            for ask, values, expected in zip(asks, seen, right[index], strict=True):
                tally.exactly(values, expected, f"{cases[index].name}: {ask} in thread {index}")
