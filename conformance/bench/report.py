"""The benchmark as text: a table for the terminal, and docs/performance.md.

Reads the benchmark's JSON (see `command.py`) and measures nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..report.markdown import table
from ..report.svg import short
from .cases import FLOOR_MEANING, HEAD, PLAIN, PLAIN_CALL, VARIANTS, Case, shape_text

REFERENCES: tuple[tuple[str, str], ...] = (
    ("torch mlsm", "torch mlsm"),
    ("torch BCE-with-logits", "torch BCE"),
    ("plain expression, jax jit", "jitted JAX"),
)
"""(implementation, short name): every line says how many times as fast as these it is."""
REFERENCES_MEANING = (
    "A column such as “× torch BCE” is the time of that implementation divided by the time of the line: above 1, the "
    "line is faster."
)


def case_of(result: Mapping[str, Any]) -> Case:
    """The case of one result of the JSON."""
    c = result["case"]
    return Case((c["shape"][0], c["shape"][1]), c["dtype"], c["gradient"], c["threads"], c.get("variant", PLAIN))


def ratio(value: float | None) -> str:
    """A ratio for people: three digits where they fit."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


NOISY = "!"
NOISY_MEANING = (
    f"“{NOISY}” marks a time whose upper quartile is more than twice the lower one: another program disturbed it."
)


def noisy(entry: Mapping[str, Any]) -> bool:
    """Whether an implementation's times vary too much for their median to mean anything."""
    low, high = entry["low"], entry["high"]
    return low is not None and high is not None and high > 2 * low


def heading(result: Mapping[str, Any]) -> str:
    """The case and the time of its floor: the only time that is printed; all others are multiples of it."""
    floor = result.get("floor_us")
    return f"{case_of(result)}; floor {ratio(floor)} µs" if floor else str(case_of(result))


def speedup(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], reference: str) -> float | None:
    """How many times as fast as the implementation called `reference`; None if either was not timed."""
    other = next((e["over_floor"] for e in entries if e["name"] == reference), None)
    own = entry["over_floor"]
    return None if other is None or own is None else other / own


def _extra(entry: Mapping[str, Any]) -> str:
    mib = entry["memory_mib"]
    if mib is None:
        return "–"
    return f"{mib:.1f}" if mib < 100 else f"{mib:.0f}"


NO_ACCELERATOR = (
    "none. CUDA devices have not been measured yet; `conformance/gpu.sh` does it in one command. The CUDA and Triton "
    "kernels compile, and their arithmetic passes the suite's cases on a CPU"
)


def rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """(head, rows, remarks) of one case: the fastest first, without empty columns."""
    entries = result["entries"]
    timed = sorted((e for e in entries if e["over_floor"] is not None), key=lambda e: e["over_floor"])
    references = [(name, words) for name, words in REFERENCES if any(e["name"] == name for e in timed)]
    memory = any(e["memory_mib"] is not None for e in timed)
    head = ["implementation", "time / floor", "quartiles", *(f"× {words}" for _, words in references)]
    head += (["extra MiB"] if memory else []) + ["error"]
    body = []
    for e in timed:
        spread = f"{ratio(e['low'])} to {ratio(e['high'])}"
        cells = [e["name"], ratio(e["over_floor"]), f"{spread} {NOISY}" if noisy(e) else spread]
        cells += [ratio(speedup(e, entries, name)) for name, _ in references]
        body.append(cells + ([_extra(e)] if memory else []) + [short(e["error"])])
    remarks = [f"{e['name']}: {e['reason']}" for e in entries if e["reason"]]
    remarks += [f"{e['name']}: memory not measured, {e['memory_reason']}" for e in entries if e["memory_reason"]]
    return head, body, remarks


def text_table(results: Iterable[Mapping[str, Any]]) -> str:
    """All cases for a terminal: names to the left, figures to the right."""
    parts = []
    for result in results:
        head, body, remarks = rows(result)
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [f"{heading(result)}  ({result['rounds']} rounds)"]
        for cells in [head, *body]:
            figures = "  ".join(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
            lines.append(f"  {cells[0]:<{widths[0]}}  {figures}")
        parts.append("\n".join([*lines, *(f"  ! {remark}" for remark in remarks)]))
    return "\n\n".join(parts)


def text_header(report: Mapping[str, Any]) -> str:
    """The heading of a terminal's table: the machine, the versions, and what the figures mean."""
    return f"{_machine(report)}\n- {FLOOR_MEANING}\n- {REFERENCES_MEANING}\n- {NOISY_MEANING}\n"


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    lines = [f"- Processor: {machine['cpu']} ({', '.join(machine['features']) or 'instruction sets not known'})"]
    accelerator = machine.get("accelerator") or NO_ACCELERATOR
    lines.append(f"- Accelerator: {accelerator}")
    for run in machine["runs"]:
        threads = "One thread" if run["threads"] == "1" else f"All threads: {run['processors']} processors"
        pinned = (
            "" if run["pinned"] else "; this system cannot keep a process on one processor, so a library may use more"
        )
        scaling = run["copy_scaling"]
        gain = f"; copying memory is {ratio(scaling)} times as fast with all of them as with one" if scaling else ""
        lines.append(f"- {threads}{pinned}{gain}")
    lines.append(f"- mlsm {report['mlsm']}; " + ", ".join(f"{name} {v}" for name, v in report["versions"].items()))
    if report["absent"]:
        lines.append("- Not measured: " + ", ".join(f"{name} ({why})" for name, why in report["absent"].items()))
    return "\n".join(lines)


def _scaling(report: Mapping[str, Any]) -> str:
    """All threads compared with one, for every implementation measured with both."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for result in report["results"]:
        case = case_of(result)
        work = str(dataclasses.replace(case, threads="1")).removesuffix(", 1 thread")
        for e in result["entries"]:
            if e["over_floor"] is not None and e["ours"] and not e["forced"] and case.size >= 2**22:
                found.setdefault((work, e["name"]), {})[case.threads] = e["over_floor"]
    lines = [[work, name, _threads(t["1"] / t["all"])] for (work, name), t in found.items() if {"1", "all"} <= set(t)]
    if not lines:
        return ""
    return f"""## All threads compared with one thread

{table(["work", "implementation", "comparison"], lines)}

"""


class Family(NamedTuple):
    """The comparisons on the arrays of one library, in loss and gradient."""

    arrays: str
    library: str
    way: str
    peers: tuple[tuple[str, str], ...]
    """(implementation, its name in a sentence)."""
    alone: str = ""
    """Words for the loss without its gradient, if that is compared too."""


FAMILIES = (
    Family("NumPy arrays", "numpy", "value_and_grad", (("plain expression, numpy", "the textbook expression"),)),
    Family(
        "PyTorch tensors and `backward()`",
        "torch",
        "backward",
        (("torch mlsm", "PyTorch's own loss"), ("torch BCE-with-logits", "PyTorch's binary cross-entropy")),
    ),
    Family(
        "`jax.value_and_grad` under `jax.jit`",
        "jax",
        "backward",
        (("plain expression, jax jit", "the textbook expression"), ("optax, jax jit", "optax")),
        "`jax.jit`, loss without its gradient",
    ),
)


def _of(family: Family, result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """mlsm's entry with the kernel that the dispatch chose on these arrays; None if it was not timed."""
    way = family.way if case_of(result).gradient else "loss"
    for e in result["entries"]:
        chosen = e["ours"] and not e["forced"] and e["over_floor"] is not None and "compiled" not in e["name"]
        if chosen and not e["name"].endswith(PLAIN_CALL) and (e["library"], e["way"]) == (family.library, way):
            found: Mapping[str, Any] = e
            return found
    return None


def _small_to_large(report: Mapping[str, Any], gradient: bool = True) -> list[Mapping[str, Any]]:
    """The plain cases in float32 on one thread, in the shapes of training."""
    cases = [(case_of(result), result) for result in report["results"]]
    wanted = [
        (case.size, result)
        for case, result in cases
        if case.gradient == gradient
        and (case.variant, case.dtype, case.threads) == (PLAIN, "float32", "1")
        and case.size <= 2**24
    ]
    return [result for _, result in sorted(wanted, key=lambda pair: pair[0])]


def _series(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _factor(times: float) -> str:
    """How many times as fast the faster of two is, to two digits; empty where that is once."""
    larger = max(times, 1 / times)
    told = f"{larger:.0f}" if larger >= 10 else f"{larger:.2g}"
    return "" if told == "1" else told


def _threads(times: float) -> str:
    factor = _factor(times)
    return f"{factor} × as fast with {'all threads' if times > 1 else 'one thread'}" if factor else "about as fast"


def _versus(times: float, peer: str) -> str:
    """A cell of the table, which names the faster one, so that no ratio is below 1."""
    factor = _factor(times)
    if not factor:
        return f"about as fast as {peer}"
    return f"{factor} × as fast as {peer}" if times > 1 else f"{peer} is {factor} × as fast as mlsm"


def _sentence(peer: str, pairs: Sequence[tuple[str, float]]) -> str:
    """At which shapes mlsm is faster than a peer, and at which it is slower: (shape, how many times as fast)."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for shape, times in pairs:
        factor = _factor(times)
        faster = ("mlsm" if times > 1 else peer) if factor else ""
        groups.setdefault(faster, []).append((factor, shape))
    if len(groups) == 1 and "" not in groups and len(pairs) > 1:
        ((faster, _),) = groups.items()
        slower = peer if faster == "mlsm" else "mlsm"
        factors = [_factor(times) for _, times in sorted(pairs, key=lambda pair: abs(math.log(pair[1])))]
        span = " to ".join(dict.fromkeys((factors[0], factors[-1])))
        return f"{faster} is faster than {slower} at every shape measured ({span} times as fast)"
    clauses: list[str] = []
    for faster, found in groups.items():
        slower = "" if clauses else f" as {peer if faster == 'mlsm' else 'mlsm'}"
        if faster:
            (factor, shape), *more = found
            told = [f"{factor} times as fast{slower} at {shape}", *(f"{f} times at {s}" for f, s in more)]
            clauses.append(f"{faster} is {_series(told)}")
        else:
            both = f"mlsm is about as fast as {peer}" if not clauses else "the two are about equally fast"
            clauses.append(f"{both} at {_series([shape for _, shape in found])}")
    return f"{', '.join(clauses[:-1])}, and {clauses[-1]}" if len(clauses) > 1 else clauses[0]


def _comparisons(family: Family, peers: Sequence[tuple[str, str]], results: Sequence[Mapping[str, Any]]) -> str:
    """mlsm compared with each of these peers over these cases; empty if nothing was timed."""
    told = []
    for peer, words in peers:
        pairs = []
        for result in results:
            ours = _of(family, result)
            times = None if ours is None else speedup(ours, result["entries"], peer)
            if times is not None:
                pairs.append((shape_text(case_of(result).shape), times))
        if pairs:
            told.append(_sentence(words, pairs))
    return "; ".join(told)


def _answer(report: Mapping[str, Any]) -> str:
    """A sentence for each library: when mlsm is faster than its peers, when it is slower, and by how much."""
    sentences = []
    for family in FAMILIES:
        told = _comparisons(family, family.peers, _small_to_large(report))
        first = family.peers[:1] if family.alone else ()
        alone = _comparisons(family, first, _small_to_large(report, gradient=False))
        if told:
            more = f"; without the gradient, {alone}" if alone else ""
            sentences.append(f"- With {family.arrays}, {told}{more}.")
    return "\n".join(sentences)


def _headlines(report: Mapping[str, Any]) -> str:
    """Every family at every shape, in microseconds and compared with its peers: at most ten rows."""
    asked = [(family, family.arrays, _small_to_large(report)) for family in FAMILIES]
    asked += [(f, f.alone, _small_to_large(report, gradient=False)[-1:]) for f in FAMILIES if f.alone]
    lines = []
    for family, work, results in asked:
        for result in results:
            ours, floor = _of(family, result), result.get("floor_us")
            if ours is not None:
                compared = [
                    _versus(times, words)
                    for peer, words in family.peers
                    if (times := speedup(ours, result["entries"], peer)) is not None
                ]
                time = f"{ratio(ours['over_floor'] * floor)} µs" if floor else "–"
                time = f"{time} {NOISY}" if noisy(ours) else time
                lines.append([work, shape_text(case_of(result).shape), time, "; ".join(compared) or "–"])
    return table(["arrays", "rows × classes", "time of mlsm", "mlsm compared with others"], lines[:10])


def _variants(report: Mapping[str, Any]) -> str:
    """What each option costs compared with the plain call in the same rounds, at the largest shape."""
    found: dict[tuple[str, str], tuple[int, list[str]]] = {}
    for result in report["results"]:
        case = case_of(result)
        if not case.gradient or case.variant in (PLAIN, HEAD) or case.threads != "1":
            continue
        plain = {(e["library"], e["way"]): e["over_floor"] for e in result["entries"] if e["name"].endswith(PLAIN_CALL)}
        for family in FAMILIES[:2]:
            ours, without = _of(family, result), plain.get((family.library, family.way))
            if ours and without and case.size >= found.get((case.variant, family.arrays), (0, []))[0]:
                cells = [
                    VARIANTS[case.variant],
                    family.arrays,
                    shape_text(case.shape),
                    ratio(ours["over_floor"] / without),
                ]
                found[case.variant, family.arrays] = case.size, cells
    if not found:
        return ""
    return f"""## What options cost

Loss and gradient with the option, as a multiple of the plain call's time on the same arrays in the same rounds.

{table(["option", "arrays", "rows × classes", "× the plain call's time"], [cells for _, cells in found.values()])}

"""


def _heads(report: Mapping[str, Any]) -> str:
    """The linear layer and its loss, in one call and in two."""
    lines = []
    for result in report["results"]:
        case, floor = case_of(result), result.get("floor_us")
        if case.variant == HEAD and case.gradient and floor:
            timed = [e for e in result["entries"] if e["over_floor"] is not None]
            for e in sorted(timed, key=lambda e: e["over_floor"]):
                lines.append([shape_text(case.shape), e["name"], f"{ratio(e['over_floor'] * floor / 1000)} ms"])
    if not lines:
        return ""
    return f"""## A linear layer and its loss

{VARIANTS[HEAD].capitalize()}. “head” is one call, which does not store the logits.

{table(["rows × classes", "implementation", "time"], lines)}

"""


def performance_page(report: Mapping[str, Any], picture: str = "") -> str:
    """docs/performance.md; `picture` is the plot's file name in the same folder."""
    plot = f"![The time divided by the floor, against the number of elements]({picture})\n\n" if picture else ""
    broken = "".join(
        f"\n- {case_of(result)}: {e['name']}: {e['reason']}"
        for result in report["results"]
        for e in result["entries"]
        if e["reason"] and case_of(result).variant == PLAIN
    )
    broken = f"\n\nWhat could not be timed:\n{broken}" if broken else ""
    return f"""<!-- Generated by `python -m mlsm_conformance bench --markdown docs/performance.md`; do not edit. -->

# Performance

{_answer(report)}

{_headlines(report)}

The times are those of loss and gradient in float32 on one thread, unless a row says otherwise. With the `fast` extra,
the first call of a process may compile for seconds; `python -m mlsm warm` compiles in advance.

{plot}{_variants(report)}{_heads(report)}{_scaling(report)}## How it was measured

All implementations of a case were timed in one process, in turn, in a new random order in each round. The figures are
medians. {NOISY_MEANING}
{FLOOR_MEANING}
The name of an mlsm implementation gives the library of its arrays and the kernel; “backward” is the library's own
automatic differentiation. “plain expression” is the textbook expression in the functions of its library.

{_machine(report)}

Every case, with quartiles, memory and the error of every value, is printed by the command that made this page:
`python -m mlsm_conformance bench --json bench.json` measures, `bench --from bench.json` prints it again.{broken}
"""
