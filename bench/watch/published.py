"""What is kept of the figures as a page of the documentation. Measures nothing.

Run: python -m bench.watch.published writes docs/watch-figures.md from results/watch.json.
"""

import json
import textwrap
from pathlib import Path
from typing import Any

from bench.rows import Row

from bench import rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results" / "watch.json"
WIDTH = 118
PAGE = ROOT / "docs" / "watch-figures.md"
TITLES = {
    "cost": "What a drift report and a watched prediction cost",
    "replica": "What it costs to watch without a log",
    "curve": "A million rows by the number of columns",
    "sketch": "How far sketches are from exact",
    "quiet": "Quiet data, and shifts that are found",
    "concept": "Errors that become more frequent",
    "business": "Business metrics and what they go with",
    "unstructured": "Texts and arrays",
    "nab": "Unusual values of a series: the Numenta anomaly benchmark",
    "real": "Real data: alarms, when and why",
}
BEGIN = """# Watch: figures

Written by `make bench-watch`, on one machine; nothing here is typed by hand. Statistical figures are seeded simulations
through the code that runs live, and come out the same anywhere; costs are CPU seconds of the process, the best of a few
rounds, and the peer runs on the same tables in the same run.

```text
make bench-watch                        # everything, about half an hour; Evidently gets an environment of its own
make bench-watch ARGS="quiet concept"   # some parts: cost replica curve sketch quiet concept business unstructured nab real
python -m bench.watch --quick cost      # fewer rounds, nothing is kept; --json for machines
```

Every row of a table is in bench/results/watch.json. Real data sets are not part of everloop: parts that need them
are left out where ../shared/data is not there.
"""


def page(kept: dict[str, Any]) -> str:
    parts = [BEGIN]
    if not kept["parts"]:
        return f"{BEGIN}\nThere are no kept figures yet."
    machine = next(iter(kept["parts"].values()))["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts.append(
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, Python {machine['python']}; {versions}."
    )
    parts += [_part(title, kept["parts"][name]) for name, title in TITLES.items() if name in kept["parts"]]
    return "\n".join(parts)


def _part(title: str, part: dict[str, Any]) -> str:
    took = f", {part['seconds']} s" if part["seconds"] else ""
    lines = [f"\n## {title}\n", f"{part['measured']}{took}."]
    lines += [f"\n```text\n{_wrapped(each)}\n```" for each in part["text"]]
    if part["rows"]:
        lines.append(f"\n```text\n{rows.table([Row.from_json(row) for row in part['rows']])}\n```")
    lines += [f"\n{note}" for note in part["notes"]]
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    """Long lines go on below themselves, further in."""
    parts = (
        textwrap.wrap(line, WIDTH, subsequent_indent=" " * 14, break_long_words=False) for line in text.split("\n")
    )
    return "\n".join("\n".join(each) for each in parts)


def write(kept: dict[str, Any]) -> None:
    PAGE.write_text(page(kept).rstrip() + "\n")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()) if RESULTS.exists() else {"parts": {}})
