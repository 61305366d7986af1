"""The benchmark in words: a table for the terminal, docs/performance.md. Ratios only; a bare time says more about the
machine.

Reads the benchmark's JSON (see `command.py`) and measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..report.markdown import table
from ..report.svg import short
from .cases import FLOOR_MEANING, Case

REFERENCES: tuple[tuple[str, str], ...] = (
    ("torch mlsm", "torch mlsm"),
    ("torch BCE-with-logits", "torch BCE"),
    ("plain expression, jax jit", "jitted JAX"),
)
"""(contestant, short name): every line says how many times faster it is than these."""


def case_of(result: Mapping[str, Any]) -> Case:
    """The case of one result of the JSON."""
    c = result["case"]
    return Case((c["shape"][0], c["shape"][1]), c["dtype"], c["gradient"], c["threads"])


def ratio(value: float | None) -> str:
    """A ratio for people: three digits where they fit."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def speedup(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], reference: str) -> float | None:
    """How many times faster than the contestant called `reference`; None where either was not timed."""
    other = next((e["over_floor"] for e in entries if e["name"] == reference), None)
    own = entry["over_floor"]
    return None if other is None or own is None else other / own


def _extra(entry: Mapping[str, Any]) -> str:
    mib = entry["memory_mib"]
    if mib is None:
        return "–"
    return f"{mib:.1f}" if mib < 100 else f"{mib:.0f}"


NO_ACCELERATOR = (
    "none took part, and figures of CUDA devices are outstanding. The CUDA kernel compiles, and its arithmetic passes "
    "the catalogue on a host; how fast it is, nobody has seen. Without CuPy, CUDA tensors are served by the generic "
    "code: whether a kernel in Triton would be faster has not been measured either"
)


def rows(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[str]]:
    """(head, rows, remarks) of one case; the fastest first, columns only where something stands in them."""
    entries = result["entries"]
    timed = sorted((e for e in entries if e["over_floor"] is not None), key=lambda e: e["over_floor"])
    references = [(name, words) for name, words in REFERENCES if any(e["name"] == name for e in timed)]
    memory = any(e["memory_mib"] is not None for e in timed)
    head = ["contestant", "time / floor", "quartiles", *(f"× {words}" for _, words in references)]
    head += (["extra MiB"] if memory else []) + ["error"]
    body = []
    for e in timed:
        cells = [e["name"], ratio(e["over_floor"]), f"{ratio(e['low'])} to {ratio(e['high'])}"]
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
        lines = [f"{case_of(result)}  ({result['rounds']} rounds)"]
        for cells in [head, *body]:
            figures = "  ".join(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
            lines.append(f"  {cells[0]:<{widths[0]}}  {figures}")
        parts.append("\n".join([*lines, *(f"  ! {remark}" for remark in remarks)]))
    return "\n\n".join(parts)


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
        lines.append("- Not taking part: " + ", ".join(f"{name} ({why})" for name, why in report["absent"].items()))
    return "\n".join(lines)


def _scaling(report: Mapping[str, Any]) -> str:
    """All threads against one, for every contestant measured with both."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for result in report["results"]:
        case = case_of(result)
        work = f"{case.shape[0]}×{case.shape[1]} {case.dtype}, {'loss and gradient' if case.gradient else 'loss'}"
        for e in result["entries"]:
            if e["over_floor"] is not None and e["ours"] and case.size >= 2**22:
                found.setdefault((work, e["name"]), {})[case.threads] = e["over_floor"]
    lines = [[work, name, ratio(t["1"] / t["all"])] for (work, name), t in found.items() if {"1", "all"} <= set(t)]
    if not lines:
        return ""
    return f"""## All threads against one

{table(["work", "contestant", "times as fast"], lines)}

"""


def _headlines(report: Mapping[str, Any]) -> str:
    """What mlsm chooses by itself on each library, for each case: for those who read no further."""
    lines = []
    for result in report["results"]:
        entries = result["entries"]
        ours = [e for e in entries if e["ours"] and not e["forced"] and e["over_floor"] is not None]
        for e in sorted(ours, key=lambda e: e["over_floor"]):
            cells = [ratio(speedup(e, entries, name)) for name, _ in REFERENCES]
            lines.append([str(case_of(result)), e["name"], ratio(e["over_floor"]), *cells])
    return table(["work", "mlsm by itself", "time / floor", *(f"× {words}" for _, words in REFERENCES)], lines)


def performance_page(report: Mapping[str, Any], picture: str = "") -> str:
    """docs/performance.md; `picture` is the plot's file name beside the page."""
    methods = [r["memory_method"] for r in report["results"] if r["memory_method"]]
    memory = f"Extra memory is the {methods[0]}. " if methods else ""
    plot = f"![Time over floor against size]({picture})\n\n" if picture else ""
    cases = []
    for result in report["results"]:
        head, body, remarks = rows(result)
        notes = "".join(f"\n- {remark}" for remark in remarks)
        cases.append(f"### {case_of(result)}\n\n{table(head, body)}\n{notes}\n".rstrip() + "\n")
    return f"""<!-- Generated by `python -m mlsm_conformance bench --markdown docs/performance.md`; do not edit. -->

# Performance

Everybody in a case was timed in one process, in turn, in an order drawn anew for each round; the figures are medians as
multiples of the floor, with quartiles. {FLOOR_MEANING}

"× torch mlsm" says how many times faster a line is than PyTorch's own loss doing the same work (with its own backward
pass where a gradient is made), and so for the other columns. {memory}The error is the relative distance of the mean
loss from its float64 value.

{_machine(report)}

{plot}## In short

{_headlines(report)}

{_scaling(report)}## Every case

{chr(10).join(cases)}"""
