"""The record of a run: what a suite run found, as frozen dataclasses, and their JSON form.

Does not judge and does not draw: checks fill it, `report/` shows it.  The JSON is strict (no bare NaN or Infinity): a
number that is not finite is written as the string "nan", "inf" or "-inf" and read back as a float.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

SCHEMA = 1
"""Version of the JSON form.  It grows by one if a field changes its meaning or is removed, not if a field with a
default is added."""

Status = Literal["pass", "fail", "skip", "xfail"]
Quantity = Literal["loss", "gradient", "hessian"]

STATUSES: tuple[Status, ...] = ("pass", "fail", "skip", "xfail")
QUANTITIES: tuple[Quantity, ...] = ("loss", "gradient", "hessian")


_NUMBERS = re.compile(r"\[\s+[-+0-9.eE]+(?:,\s+(?:[-+0-9.eE]+|\"-?inf\"|\"nan\"))*\s+\]")


class RecordError(ValueError):
    """The file is not a record this version can read."""


@dataclasses.dataclass(frozen=True)
class Worst:
    """The worst case of one check: observed distance and promised bound, both in ULP of the result's dtype."""

    ulp: float
    bound: float
    case: str
    repro: str = ""
    """A line of Python to paste (empty if a case has none)."""


@dataclasses.dataclass(frozen=True)
class CheckRecord:
    """One check on one backend."""

    id: str
    group: str
    status: Status
    reason: str = ""
    """Why it failed, was skipped, or was expected to fail; empty for a pass."""
    worst: Worst | None = None
    seconds: float = 0.0
    cases: int = 0
    """How many results were judged: a pass without any would mean nothing."""
    passed_over: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Questions that were not asked, by reason, in a check that asked others."""
    again: tuple[str, ...] = ()
    """Lines to paste, one for each violation that is shown."""
    causes: tuple[str, ...] = ()
    """The causes that together explain all of its violations; empty if one is left unexplained."""
    severity: tuple[float, ...] = ()
    """Severity of its worst violation: smaller is shown first."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Observed error against logit, for one quantity, dtype and hard target, with the promised bound at each point."""

    quantity: Quantity
    dtype: str
    target: float
    logit: tuple[float, ...]
    ulp: tuple[float, ...]
    bound: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class BackendRecord:
    """Everything observed on one backend (with one kernel, or `"auto"`: the one that the dispatch chose)."""

    name: str
    library: str
    device: str
    kernel: str
    dtypes: tuple[str, ...]
    capabilities: tuple[str, ...]
    checks: tuple[CheckRecord, ...]
    curves: tuple[Curve, ...] = ()
    absent_curves: tuple[str, ...] = ()
    """The curves that could not be drawn, with the reason."""
    diagnosis: tuple[str, ...] = ()
    """What a few calls before the checks showed about a foreign loss, in words."""
    unjudged: str = ""
    """Why nothing was asked; empty if something was."""


@dataclasses.dataclass(frozen=True)
class PeerRecord:
    """Another library's loss on the same logits: drawn next to the backends, without effect on the exit code."""

    name: str
    curves: tuple[Curve, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the suite, or several merged."""

    mlsm: str
    versions: Mapping[str, str]
    backends: tuple[BackendRecord, ...]
    peers: tuple[PeerRecord, ...] = ()
    level: str = "quick"
    impl: str = ""
    """`pkg.module:callable` if a foreign loss was judged; empty for mlsm's own."""
    date: str = ""
    """The day of the run in ISO 8601."""
    schema: int = SCHEMA

    def failures(self) -> list[tuple[str, CheckRecord]]:
        """(backend, check) of everything that failed."""
        return [(b.name, c) for b in self.backends for c in b.checks if c.status == "fail"]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def to_json(run: Run) -> str:
    """The run as strict JSON, keys in a fixed order, one trailing newline."""
    fields = dataclasses.asdict(run)
    ordered = {"schema": fields.pop("schema"), **fields}
    text = json.dumps(_plain(ordered), indent=1, allow_nan=False, ensure_ascii=False)
    # A list of numbers goes on one line: a curve has hundreds, and people read records, too.
    return _NUMBERS.sub(lambda found: " ".join(found.group().split()), text) + "\n"


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _curve(d: Mapping[str, Any]) -> Curve:
    if d["quantity"] not in QUANTITIES:
        raise RecordError(f"`quantity` must be one of {', '.join(QUANTITIES)}, got {d['quantity']!r}")
    lengths = {len(d["logit"]), len(d["ulp"]), len(d["bound"])}
    if len(lengths) != 1:
        raise RecordError(f"a curve's `logit`, `ulp` and `bound` must have one length, got {sorted(lengths)}")
    return Curve(
        quantity=d["quantity"],
        dtype=str(d["dtype"]),
        target=float(d["target"]),
        logit=_floats(d["logit"]),
        ulp=_floats(d["ulp"]),
        bound=_floats(d["bound"]),
    )


def _check(d: Mapping[str, Any]) -> CheckRecord:
    if d["status"] not in STATUSES:
        raise RecordError(f"`status` must be one of {', '.join(STATUSES)}, got {d['status']!r}")
    w = d.get("worst")
    worst = None if w is None else Worst(float(w["ulp"]), float(w["bound"]), str(w["case"]), str(w.get("repro", "")))
    return CheckRecord(
        id=str(d["id"]),
        group=str(d["group"]),
        status=cast("Status", d["status"]),
        reason=str(d.get("reason", "")),
        worst=worst,
        seconds=float(d.get("seconds", 0.0)),
        cases=int(d.get("cases", 0)),
        passed_over={str(k): int(v) for k, v in d.get("passed_over", {}).items()},
        again=tuple(map(str, d.get("again", ()))),
        causes=tuple(map(str, d.get("causes", ()))),
        severity=_floats(d.get("severity", ())),
    )


def _backend(d: Mapping[str, Any]) -> BackendRecord:
    return BackendRecord(
        name=str(d["name"]),
        library=str(d["library"]),
        device=str(d["device"]),
        kernel=str(d["kernel"]),
        dtypes=tuple(d["dtypes"]),
        capabilities=tuple(d["capabilities"]),
        checks=tuple(_check(c) for c in d["checks"]),
        curves=tuple(_curve(c) for c in d.get("curves", ())),
        absent_curves=tuple(map(str, d.get("absent_curves", ()))),
        diagnosis=tuple(map(str, d.get("diagnosis", ()))),
        unjudged=str(d.get("unjudged", "")),
    )


def from_json(text: str) -> Run:
    """A run from its JSON; for anything else RecordError, which names the mistake."""
    try:
        d = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(d, dict) or "schema" not in d:
        raise RecordError("not a conformance record: it has no `schema`")
    if d["schema"] != SCHEMA:
        raise RecordError(f"`schema` must be {SCHEMA}, got {d['schema']!r}: write the record again with this version")
    try:
        return Run(
            mlsm=str(d["mlsm"]),
            versions={str(k): str(v) for k, v in d["versions"].items()},
            backends=tuple(_backend(b) for b in d["backends"]),
            peers=tuple(PeerRecord(str(p["name"]), tuple(_curve(c) for c in p["curves"])) for p in d.get("peers", ())),
            level=str(d.get("level", "quick")),
            impl=str(d.get("impl", "")),
            date=str(d.get("date", "")),
        )
    except KeyError as error:
        raise RecordError(f"the record lacks {error}") from error


def write(run: Run, path: str | Path) -> None:
    """Write the run to `path` as JSON (UTF-8)."""
    Path(path).write_text(to_json(run), encoding="utf-8")


def read(path: str | Path) -> Run:
    """Read a run from `path`; RecordError names the file."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
