"""What giving up hopeless trials saves, and what it costs: the same forty trials with a pruner and without.

Run: python -m bench.search [--part networks|trees] [--set NAME] [--quick] [--json]

The older four fifths of each set are fitted, the newest fifth is what trials are judged on, as in a turn. Training seconds
are CPU seconds of the fits, one after another in one process; scores are log loss and root mean squared error, lower is
better. The peer is the same search of ours without a pruner, from the same seed. Every seed is one round; medians. Equal
is a best score that is worse by at most half of the standard deviation between seeds. A whole run keeps its figures in
results/search.json, a set beside the others.
"""

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.rows import Row, parser, show
from bench.search import networks, trees
from bench.search.compared import figures

RESULTS = Path(__file__).parents[1] / "results" / "search.json"
PARTS = {"networks": networks, "trees": trees}
LIBRARIES = ("everloop", "lightgbm", "optuna", "torch")


def measured(part: str, name: str, *, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    of: Any = PARTS[part]
    yield from figures(
        name, of.quickly if quick else of.measure, say=say,
        seeds=2 if quick else 3, trials=of.FEW if quick else of.TRIALS,
    )  # fmt: skip


def keep(name: str, rows: list[Row]) -> None:
    """The set's figures in their place among the others'."""
    written = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    sets = {**written.get("sets", {}), name: [row.to_json() for row in rows]}
    sets = {each: sets[each] for of in PARTS.values() for each in of.SETS if each in sets}  # type: ignore[attr-defined]
    versions = {each: importlib.metadata.version(each) for each in LIBRARIES}
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}
    whole = {"machine": machine, "rows": [row for rows in sets.values() for row in rows], "sets": sets}
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument("--part", choices=tuple(PARTS), help="one of them only")
    made.add_argument("--set", action="append", help="only sets whose name begins so; may be given several times")
    given = made.parse_args()
    say: Callable[[str], None] = (lambda text: None) if given.json else (lambda text: print(text, flush=True))
    rows: list[Row] = []
    for part, of in PARTS.items():
        names = of.there() if given.part in (None, part) else []
        names = [each for each in names if given.set is None or each.startswith(tuple(given.set))]
        for name in names[:1] if given.quick else names:
            found = list(measured(part, name, quick=given.quick, say=say))
            rows += found
            if not given.quick:
                keep(name, found)
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
