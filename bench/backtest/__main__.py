"""Which retraining policy would have been best: whether the figures are right, and what they cost.

Run: python -m bench.backtest [--quick] [--json] [PART …]. Needs the sets of ../shared/data. A whole run keeps its figures in
results/backtest.json; a run of some parts renews those.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from bench.backtest.parts import Part

from bench import rows as table

PARTS = ("reproduce", "words", "sharing", "overhead", "memory", "halves", "killed")
"""Each is a module here with ``part(quick=)``."""
RESULTS = Path(__file__).parents[1] / "results" / "backtest.json"


def main() -> int:
    parser = table.parser(__doc__ or "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; all when none is named")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    found: dict[str, Part] = {}
    for name in given.parts or PARTS:
        measure: Callable[..., Part] = import_module(f"bench.backtest.{name}").part
        began = time.perf_counter()
        found[name] = measure(quick=given.quick)
        found[name].more["seconds"] = round(time.perf_counter() - began)
        if not given.json:
            print(f"\n{name} ({found[name].more['seconds']} s)", *found[name].notes, sep="\n", flush=True)
        if not given.quick and found[name].rows:
            _keep(name, found[name])
    table.show((row for part in found.values() for row in part.rows), as_json=given.json)
    return 0


def _keep(name: str, part: Part) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"parts": {}}
    kept["parts"][name] = {
        "measured": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "rows": [row.to_json() for row in part.rows],
        "notes": part.notes,
        **part.more,
    }
    kept["parts"] = {each: kept["parts"][each] for each in PARTS if each in kept["parts"]}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def _machine() -> dict[str, Any]:
    """Its shape, without a name."""
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    libraries = ("numpy", "polars", "scikit-learn", "lightgbm", "river", "optuna")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": next(models, "unknown: ").partition(":")[2].strip(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in libraries},
    }


if __name__ == "__main__":
    sys.exit(main())
