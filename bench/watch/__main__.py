"""What the watch costs, what it finds, and how often it cries for nothing.

Run: make bench-watch, or python -m bench.watch [--quick] [--json] [PART …]. Statistical parts are seeded simulations
through the live code and give the same figures on any machine; costs are CPU time. A whole run keeps its figures in
results/watch.json; a run of some parts renews those. docs/watch-figures.md is written from what is kept.
"""

import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from bench.watch import published
from bench.watch.parts import Part

from bench import rows as table

PARTS = ("cost", "replica", "curve", "sketch", "quiet", "concept", "business", "unstructured", "nab", "real")
"""Each is a module here with ``part(quick=)``."""


def machine() -> dict[str, Any]:
    """Its shape, without a name."""
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ("numpy", "polars", "scipy", "datasketches", "river", "scikit-learn", "lightgbm")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": next(models, "unknown: ").partition(":")[2].strip(),
        "memory_gib": round(gib),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
    }


def main() -> int:
    parser = table.parser(__doc__ or "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; all when none is named")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    shape, found, failed = machine(), {}, {}
    for name in given.parts or PARTS:
        measure: Callable[..., Part] = import_module(f"bench.watch.{name}").part
        began = time.perf_counter()
        try:
            part = measure(quick=given.quick)
        except Exception as error:  # what was measured before it is worth keeping
            traceback.print_exc()
            failed[name] = repr(error)
            continue
        part.more["seconds"] = round(time.perf_counter() - began)
        found[name] = part
        if not given.json:
            print("\n".join([f"\n{name} ({part.more['seconds']} s)", *part.text, *part.aside, *part.notes]), flush=True)
        if not given.quick:
            keep(shape, {name: part})
    table.show((row for part in found.values() for row in part.rows), as_json=given.json)
    for name, because in failed.items():
        print(f"the part {name} did not come to its end: {because}", file=sys.stderr)
    return 1 if failed else 0


def keep(shape: dict[str, Any], found: dict[str, Part]) -> None:
    """Write what was measured over what was kept of the same parts."""
    kept = json.loads(published.RESULTS.read_text()) if published.RESULTS.exists() else {"parts": {}}
    for name, part in found.items():
        kept["parts"][name] = {
            "measured": datetime.now(UTC).date().isoformat(),
            "machine": shape,
            "rows": [row.to_json() for row in part.rows],
            "text": part.text,
            "notes": part.notes,
            **part.more,
        }
    kept["parts"] = {name: kept["parts"][name] for name in PARTS if name in kept["parts"]}
    published.RESULTS.write_text(
        json.dumps(kept, indent=1, ensure_ascii=False, default=lambda each: each.item()) + "\n"
    )
    published.write(kept)


if __name__ == "__main__":
    sys.exit(main())
