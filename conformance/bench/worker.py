"""The process that measures: one for each number of threads, because libraries fix theirs when they start.

Run by `command.py` at the other end of a `Channel`, whose task says what to measure.
All contestants of a case run in this one process, interleaved. Draws and writes nothing.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from ..run.channel import Wire


def pin(threads: str) -> bool:
    """Keep this process and its children on one processor where `threads` is "1"; False where the system cannot."""
    if threads != "1":
        return True
    if sys.platform != "linux":
        return False
    # The last one, because systems put their own work on the first.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return True


def available_processors() -> int:
    """Processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def cases_of(spec: dict[str, Any]) -> Iterator[Any]:
    """The cases of this process, small ones first, so that results appear soon."""
    from .cases import LARGEST_VARIANT, MANY_CLASSES, PLAIN, Case

    for shape in spec["shapes"]:
        for dtype in spec["dtypes"]:
            for variant in spec["variants"]:
                large = shape[0] * shape[1] > LARGEST_VARIANT and variant not in MANY_CLASSES
                if variant != PLAIN and (dtype != "float32" or large):
                    continue
                for gradient in (False, True):
                    case = Case((shape[0], shape[1]), dtype, gradient, spec["threads"], variant)
                    if set(spec["works"]) & works_of(case):
                        yield case


def works_of(case: Any) -> set[str]:
    """The works that one case compares."""
    if case.variant == "for weight":
        return {"value_and_grad"} if case.gradient else set()
    return {"value_and_grad", "backward"} if case.gradient else {"loss"}


def candidates_of(case: Any, data: Any, spec: dict[str, Any], without: Any = None) -> tuple[list[Any], list[Any]]:
    """(contestants, entries of libraries that could not start, with the reason).

    `without` is the data without the option of a variant, for the plain call that its cost is compared with.
    """
    from .cases import HEAD, PLAIN, PLAIN_CALL
    from .measure import Entry, first_line
    from .peers import BUILDERS, LACKING

    chosen, failed = [], []
    # Variants run on these two libraries only, because on the others the reference computes them.
    plain = case.variant == "plain"
    for library in spec["libraries"] if plain else [name for name in spec["libraries"] if name in ("numpy", "torch")]:
        lacking = LACKING.get((library, case.dtype))
        if lacking:
            failed.append(Entry(library, library, "", False, reason=lacking))
            continue
        try:
            made = list(BUILDERS[library](case, data, spec["device"]))
            if without is not None and not plain and case.variant != HEAD:
                calls = BUILDERS[library](dataclasses.replace(case, variant=PLAIN), without, spec["device"])
                made += [
                    dataclasses.replace(c, name=c.name + PLAIN_CALL, value=without.value)
                    for c in calls
                    if c.ours and not c.forced and not c.compiled
                ]
        except Exception as error:  # a library that is installed and cannot start is reported, not fatal
            failed.append(Entry(library, library, "", False, reason=first_line(error)))
            continue
        made = [c for c in made if c.way in spec["works"] and (spec["compiled"] or not c.compiled)]
        chosen += [c for c in made if wanted(c, spec["only"])]
    return chosen, failed


def wanted(candidate: Any, only: list[str]) -> bool:
    """Whether `--only` names it. A library's name does not select kernels: a kernel is named as in `torch, numpy`."""
    name = candidate.name.lower()
    without = name.replace(f", {candidate.kernel}", "", 1) if candidate.kernel else name
    return not only or any(part.lower() in (name if "," in part else without) for part in only)


def device_floor(case: Any, data: Any, device: str) -> Any:
    """On a GPU: one copy on the device for the loss, and a fill in addition for the gradient."""
    import torch

    x = torch.empty(case.shape, dtype=getattr(torch, case.dtype), device=device)
    out = torch.empty_like(x)

    def move() -> None:
        out.copy_(x)
        if case.gradient:
            torch.empty_like(x).fill_(1)
        torch.cuda.synchronize()

    return move


def main() -> None:
    wire = Wire()
    spec = next(wire.hear())
    pinned = pin(spec["threads"])
    # After pinning, because the imports below ask for the number of processors.
    import numpy as np

    from .cases import copy_scaling, floor, make_data, varied
    from .measure import measure
    from .memory import measure_memory

    np.seterr(all="ignore")  # the plain expressions overflow; the error column shows the effect
    processors = available_processors()
    data, of_data = None, None
    for case in cases_of(spec):
        wire.title(str(case))
        if of_data != (case.shape, case.dtype):
            data, of_data = None, None  # free the old data before making the new
            data, of_data = make_data(case.shape, case.dtype), (case.shape, case.dtype)
        assert data is not None
        given = varied(data, case.variant)
        candidates, failed = candidates_of(case, given, spec, data)
        least = floor(case, given) if spec["device"] == "cpu" else device_floor(case, given, spec["device"])
        entries, rounds, microseconds = measure(
            case,
            given,
            candidates,
            least,
            rounds=spec["rounds"],
            seconds=spec["seconds"],
            tell=lambda words: wire.step(words, 0),
        )
        method = ""
        # Once, because the same case on more threads needs the same memory, and each contestant takes a process.
        if spec["memory"] and case.size >= spec["memory_from"] and case.threads == spec["memory_threads"]:
            for i, candidate in enumerate(candidates):
                if entries[i].reason or candidate.value is not None:  # the plain call is measured in its own case
                    continue
                wire.step(f"memory of {candidate.name}", 0)
                mib, how = measure_memory(case, candidate, spec["device"])
                if mib is None:
                    entries[i] = dataclasses.replace(entries[i], memory_reason=how)
                else:
                    entries[i], method = dataclasses.replace(entries[i], memory_mib=mib), how
        result = {
            "case": dataclasses.asdict(case),
            "rounds": rounds,
            "floor_us": microseconds,
            "memory_method": method,
            "entries": [dataclasses.asdict(e) for e in (*entries, *failed)],
        }
        wire.say("result", result)
        candidates, least = [], None
        del given  # before the next case makes its own
    scaling = None
    if spec["threads"] == "all" and processors > 1:
        scaling = copy_scaling(processors, np.ones(32 * 2**20, dtype=np.uint8), time.perf_counter)
    wire.say("end", {"processors": processors, "pinned": pinned, "copy_scaling": scaling})


if __name__ == "__main__":
    main()
