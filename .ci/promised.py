"""Compare the backends that were exercised with those that docs/support.md promises; exit 1 where they differ.

    python .ci/promised.py docs/support.md RECORD.json ...

Reads the page and the records as text, so that it needs no installed package. CUDA backends may be promised and
absent: no runner has a device, and the page names the hardware on which they were tested.
"""

import json
import re
import sys
from pathlib import Path

ELSEWHERE = {"cupy", "torch-cuda"}


def promised(page: str) -> set[str]:
    """The first column of the page's first table (a row may add the kernel or device to the name, after a space)."""
    table = re.search(r"^\| backend \|.*?\n\|[-| ]+\|\n((?:\|.*\n?)+)", page, re.MULTILINE)
    if table is None:
        raise SystemExit("the page has no table of backends")
    return {re.split(r"[ (,]", row.strip("| `"), maxsplit=1)[0].strip("`") for row in table[1].splitlines()}


def exercised(records: list[str]) -> set[str]:
    """The backends of which at least one check passed."""
    found = set()
    for text in records:
        for backend in json.loads(text)["backends"]:
            if any(check["status"] == "pass" for check in backend["checks"]):
                found.add(backend["name"])
    return found


def difference(page: str, records: list[str]) -> list[str]:
    """A sentence for each backend that is on one side only."""
    promises, runs = promised(page), exercised(records)
    return [f"promised, but not exercised: {name}" for name in sorted(promises - runs - ELSEWHERE)] + [
        f"exercised, but not promised: {name}" for name in sorted(runs - promises)
    ]


if __name__ == "__main__":
    page, *records = (Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])
    complaints = difference(page, records)
    print("\n".join(complaints) or "the exercised backends are the promised ones")
    sys.exit(bool(complaints))
