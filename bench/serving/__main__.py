"""What serving costs, beside others in the same run.

Run: make bench-serving, or python -m bench.serving [--quick] [--peers] [--json] [PART …]. Servers run on one core with
one thread of ONNX Runtime each, the load on another; every answer is counted, and checked once against the graph.
CPU is the kernel's account of a server's whole process tree. A whole run keeps its figures in results/serving.json;
a run of some parts renews those. docs/serving-figures.md is written from what is kept.
"""

import json
import os
import platform
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.serving import cells, published
from bench.serving import contenders as peers
from bench.serving.figures import PARTS, Part, Plan
from bench.serving.load import generator
from bench.serving.ours import Ours
from bench.serving.processes import Neighbours, adopt_orphans

from bench import rows as table

BUSY = 0.05
"""A share of the machine that ran something else, above which a table says so."""
SCRIPTS = ("overload", "offline")
"""Scripts of their own, of which a whole run takes the rows."""


def machine(with_peers: bool) -> dict[str, Any]:
    """Its shape, without a name; what was compared, in which version and with which settings."""
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    servers: dict[str, Any] = {"everloop": Ours().versions()}
    if with_peers:
        for each in peers.EACH:
            because = each.why_not()
            servers[each.name] = because or {**each.versions(), "settings": each.says}
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": next(models, "unknown: ").partition(":")[2].strip(),
        "memory_gib": round(gib),
        "python": platform.python_version(),
        "load": "wrk, one thread" if generator() == "wrk" else "a Python client: wrk is not installed",
        "lightgbm": metadata.version("lightgbm"),
        "servers": servers,
    }


def main() -> int:
    parser = table.parser(__doc__ or "")
    parser.add_argument("--peers", action="store_true", help="beside FastAPI, MLServer, LitServe and BentoML")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; all when none is named")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    adopt_orphans()
    shape = machine(given.peers)
    if not given.json:
        print(_told(shape), flush=True)
    found: dict[str, Part] = {}
    failed: dict[str, str] = {}
    for name in given.parts or (name for name in PARTS if given.peers or name not in SCRIPTS):
        began, neighbours = time.perf_counter(), Neighbours()
        with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder:
            plan = Plan(folder=Path(folder), quick=given.quick, peers=given.peers)
            try:
                found[name] = part = PARTS[name](plan)
            except Exception as error:  # what was measured before it is worth keeping
                traceback.print_exc()
                failed[name] = repr(error)
                continue
        part.more["seconds"] = round(time.perf_counter() - began)
        others, stolen = part.more["others"], part.more["stolen"] = [round(each, 3) for each in neighbours.share()]
        if others > BUSY or stolen > BUSY:
            part.notes.append(
                f"The machine was not quiet: others ran on {others:.0%} of it, the host took {stolen:.0%}; trust CPU and ratios only"
            )
        if not given.json:
            print(_side(name, part), flush=True)
    if not given.quick:
        keep(shape, found)
    table.show((row for part in found.values() for row in part.rows), as_json=given.json)
    for name, because in failed.items():
        print(f"the part {name} did not come to its end: {because}", file=sys.stderr)
    return 1 if failed else 0


def _told(shape: dict[str, Any]) -> str:
    lines = [
        f"{shape['cores']} cores of {shape['cpu']}, {shape['memory_gib']} GiB, Python {shape['python']}; {shape['load']}"
    ]
    for name, told in shape["servers"].items():
        lines.append(f"{name}: {told if isinstance(told, str) else ', '.join(f'{k} {v}' for k, v in told.items())}")
    return "\n".join(lines)


def _side(name: str, part: Part) -> str:
    lines = [f"\n{name} ({part.more['seconds']} s)"]
    if part.cells:
        lines.append(cells.table([cell.to_json() for cell in part.cells]))
    return "\n".join([*lines, *part.notes])


def keep(shape: dict[str, Any], found: dict[str, Part]) -> None:
    """Write what was measured over what was kept of the same parts."""
    kept = json.loads(published.RESULTS.read_text()) if published.RESULTS.exists() else {"parts": {}}
    for name, part in found.items():
        kept["parts"][name] = {
            "measured": datetime.now(UTC).date().isoformat(),
            "machine": shape,
            "rows": [row.to_json() for row in part.rows],
            "cells": [cell.to_json() for cell in part.cells],
            "notes": part.notes,
            **part.more,
        }
    published.RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    published.write(kept)


if __name__ == "__main__":
    sys.exit(main())
