"""What is kept of the figures as a page of the documentation. Measures nothing.

Run: python -m bench.serving.published writes docs/serving-figures.md from results/serving.json.
"""

import json
from pathlib import Path
from typing import Any

from bench.rows import Row
from bench.serving import cells
from bench.serving.contenders import ROOT

from bench import rows

RESULTS = ROOT / "bench" / "results" / "serving.json"
PAGE = ROOT / "docs" / "serving-figures.md"
TITLES = {
    "tabular": "One row of 20 numbers a request, 200 trees of 31 leaves",
    "cnn": "An image of 3 × 64 × 64 a request, the layout of ResNet-18 (45 MB)",
    "transformer": "A text of 64 tokens a request, the layout of MiniLM-L6 (90 MB)",
    "processes": "Two processes on two cores",
    "starts": "Cold start and rest",
    "cache": "Kept answers",
    "safety": "What each thing that guards a request costs it",
    "overload": "Overload",
    "offline": "Offline scoring",
}
BEGIN = """# Serving: figures

Written by `make bench-serving`, each part in one run on the machine that it names; nothing here is typed by hand. Each
server has one core and one thread of ONNX Runtime, the load (wrk) another core; all serve the same graphs, and every
answer was held against the graph before anything was timed. Servers take turns in rounds while the others are stopped;
a figure is the median of its rounds. CPU is the kernel's account of a server's whole process tree, a good answer. Ours
runs with validation, ids, a key for each request, limits, deadlines, metrics and the prediction log on.

```text
apt-get install wrk                       # without it a Python client makes the load: it costs four times as much
make bench-serving                        # everything, about a quarter of an hour: leave the machine alone
make bench-serving ARGS="tabular cnn"     # some parts: tabular cnn transformer processes starts cache safety overload offline
python -m bench.serving --quick           # ours alone, a minute; --json for machines
```

Every row of a table is in bench/results/serving.json. A server that cannot be installed or started is named with its
reason; answers that are not 2xx, broken connections and late answers are counted as failures; `!` stands where the
load was at its own limit and the server may do more. The rows take turns, 512 different ones: one row again and again
teaches a processor its way through the trees and makes any server look faster. One pause of the machine rewrites a p99:
the lowest of the rounds stands beside it.
"""


def page(kept: dict[str, Any]) -> str:
    parts = [BEGIN]
    if not kept["parts"]:
        return f"{BEGIN}\nThere are no kept figures yet."
    servers = {name: told for part in kept["parts"].values() for name, told in part["machine"]["servers"].items()}
    parts.append("| server | versions | settings |\n|---|---|---|")
    for name, told in servers.items():
        if isinstance(told, str):
            parts.append(f"| {name} | {told} | |")
        else:
            versions = ", ".join(f"{each} {version}" for each, version in told.items() if each != "settings")
            parts.append(f"| {name} | {versions} | {told.get('settings', 'all that is on by default, and as above')} |")
    for name, title in TITLES.items():
        if name in kept["parts"]:
            parts.append(_part(title, kept["parts"][name]))
    return "\n".join(parts)


def _part(title: str, part: dict[str, Any]) -> str:
    machine = part["machine"]
    shape = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, Python {machine['python']}"
    lines = [f"\n## {title}\n", f"{part['measured']}, {part['seconds']} s, on {shape}; load: {machine['load']}.\n"]
    if part["cells"]:
        lines.append(f"```text\n{cells.table(part['cells'])}\n```\n")
    if part["rows"]:
        lines.append(f"```text\n{rows.table([Row.from_json(row) for row in part['rows']])}\n```")
    lines += [f"\n{note}." for note in part["notes"]]
    return "\n".join(lines)


def write(kept: dict[str, Any]) -> None:
    PAGE.write_text(page(kept).rstrip() + "\n")


if __name__ == "__main__":
    write(json.loads(Path(RESULTS).read_text()) if RESULTS.exists() else {"parts": {}})
