"""What release judge, gate and experiments promise: seeded simulations of the code that runs live, beside usual rules.

Run: python -m bench.release [--quick] [--runs N] [--json] [PART …]. 2,000 runs of each world (experiments and years: fewer, and said); 24 with
--quick. A whole run keeps its figures in results/release.json; a run of some parts renews those, and
docs/release-figures.md is written from what is kept.
"""

import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata

from bench.release import experiments, gate, harm, outcomes, policy, published, queueing, routing, traffic, whole
from bench.rows import Row, parser, show, table

PARTS: dict[str, tuple[Callable[[int], list[Row]], int]] = {
    "policy": (policy.rows, 2_000),
    "traffic": (traffic.rows, 2_000),
    "outcomes": (outcomes.rows, 1_000),
    "harm": (harm.rows, 2_000),
    "whole": (whole.rows, 2_000),
    "gate": (gate.rows, 2_000),
    "experiments": (experiments.rows, 400),
    "queue": (queueing.rows, 300),
    "routing": (routing.rows, 500),
}
QUICK = 24


def main() -> int:
    options = parser(__doc__ or "")
    options.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    options.add_argument("--runs", type=int, help="of each world, instead of what the part takes")
    given = options.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        options.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    rows: list[Row] = []
    for name in given.parts or PARTS:
        make, runs = PARTS[name]
        began = time.perf_counter()
        found = make(QUICK if given.quick else given.runs or runs)
        seconds = round(time.perf_counter() - began)
        rows += found
        if not given.json:
            print(f"\n{name} ({seconds} s)\n{table(found)}", flush=True)
        if not given.quick:
            published.keep(name, found, seconds, _machine())
    if given.json:
        show(rows, as_json=True)
    return 0


def _machine() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("numpy", "scipy", "everloop")}
    return {"measured": datetime.now(UTC).date().isoformat(), "python": platform.python_version(), **versions}


if __name__ == "__main__":
    sys.exit(main())
