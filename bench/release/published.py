"""What is kept of the figures, and as a page of the documentation. Measures nothing.

Run: python -m bench.release.published writes docs/release-figures.md from results/release.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.rows import Row, number

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "release.json"
PAGE = ROOT / "docs" / "release-figures.md"
TITLES = {
    "policy": (
        "Three guards at 10 %, labels 30,000 requests late, a look after every request",
        "Roll back at .05 over the three, promote at .02 each. Where a run ends, the judge of production is asked about the "
        "same counts and must say the same. Five seeds where failures are rare and the challenger is beyond the margin: until a "
        "guard waited for fifteen failures that would have come at the margin, one of 8,000 such runs was promoted.",
    ),
    "traffic": (
        "Traffic that breaks rules of thumb",
        "4,000 callers of very different zeal (Pareto 1.2) whose failures belong to them (intraclass correlation .3); two "
        "shares while both arms get worse; labels that come late, the bad ones sooner, and one in five never.",
    ),
    "outcomes": (
        "A user's own outcome among the guards",
        "Conversion, and revenue up to 200, one of three guards at 50 %: a third of .05 to roll back, .02 to promote. The "
        "outcome comes 30,000 requests late, and a look at each hundred.",
    ),
    "harm": (
        "How soon a harm is found",
        "Ours with a look after every request and a third of alpha, as one of three guards has. The peers are simplified "
        "readings of what canary tools do: over one and a half times the usual rate in three windows of a hundred running; a "
        "one-sided z-test at each hundred; Mann and Whitney's test of the rates in such windows, at each fifth.",
    ),
    "whole": (
        "Whole releases, and little traffic",
        "Shadow, 10 %, 50 %, champion by judge and plan, a look every two hours for up to 14 days. With 48 requests a day "
        "nothing can be proved: nobody is turned back for that.",
    ),
    "gate": (
        "The gate",
        "At the margin: the challenger is worse by exactly the margin, on two million rows. A year: 52 gates of 1,000 rows.",
    ),
    "experiments": (
        "Experiments",
        "10,000 customers, a look at each hundred; alpha .05 of both sides together.",
    ),
    "queue": (
        "Routing by meaning, through the server's own queue",
        "A replay in counted time: 3 ms a row, two queries in ten of high value. Going first alone helps where there is a "
        "queue; at a load of 85 % most of what waits goes in the next batch anyway. What the others no longer cost helps at "
        "any load.",
    ),
    "routing": (
        "Routing by meaning, over the real server",
        "A replay of queries in clusters on one core: the same load, with and without.",
    ),
}
BEGIN = """# Release: figures

Written by `python -m bench.release`: seeded simulations of the code that runs live, each beside what is usually done. The
rules and their promises: [statistics.md](statistics.md).

```text
python -m bench.release                    # everything, about an hour of one core
python -m bench.release traffic gate       # some parts: policy traffic outcomes harm whole gate experiments queue routing
python -m bench.release --quick            # a minute; --json for machines
```

A share of 2,000 runs is known to ±.010 at .05 and ±.006 at .02 (95 %), one of 500 to ±.019 and ±.012.
`python -m bench.release policy traffic whole experiments` renews the judge's figures in three quarters of an hour of an idle
core; `routing` wants a machine that nobody else uses.
"""


def keep(name: str, rows: Sequence[Row], seconds: int, machine: dict[str, str]) -> None:
    """Write one part over what was kept of it, and the page anew."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts: dict[str, Any] = kept.get("parts", {})
    parts[name] = {"machine": machine, "seconds": seconds, "rows": [row.to_json() for row in rows]}
    kept = {"parts": {each: parts[each] for each in TITLES if each in parts}}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(kept))


def page(kept: dict[str, Any]) -> str:
    sections = [BEGIN]
    for name, part in kept["parts"].items():
        title, words = TITLES[name]
        told = part["machine"]
        sections.append(f"## {title}\n\n{words}\n")
        sections.append(
            f"Measured {told['measured']}, Python {told['python']}, numpy {told['numpy']}, {part['seconds']:,} s.\n"
        )
        sections.append(_table([Row.from_json(row) for row in part["rows"]]))
    return "\n".join(sections).rstrip() + "\n"


def _table(rows: Sequence[Row]) -> str:
    """One line for each figure; several peers of one figure stand together."""
    lines = ["| what | ours | target | met | beside it | runs |", "|---|---|---|---|---|---|"]
    seen: dict[str, list[Row]] = {}
    for row in rows:
        seen.setdefault(row.what, []).append(row)
    for what, alike in seen.items():
        first = alike[0]
        target = "" if first.target is None else f"{'≥' if first.greater_is_better else '≤'} {number(first.target)}"
        met = {True: "yes", False: "**no**", None: ""}[first.met]
        beside = ", ".join(f"{each.peer_name} {number(each.peer)}" for each in alike if each.peer is not None)
        lines.append(f"| {what} | {number(first.ours)} {first.unit} | {target} | {met} | {beside} | {first.rounds:,} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
