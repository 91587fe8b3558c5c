"""Accuracy by day through the three kinds of pictures, and by kind beside histograms and no second fit, as docs/pacs.svg.

Run: python -m bench.columns.plot. Draws what results/columns.json holds of the pictures; fits and replays nothing.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from everloop.loop.page import as_svg

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "columns.json"
PLOT = ROOT / "docs" / "pacs.svg"
SERIES = (("pacs", "the loop", "#1b6ca8"), ("never", "never fitted again", "#b0413e"))
HISTOGRAMS = ("HOG fitted every 250", "#8a8a8a")
WORDS = {"photo": "photos", "art_painting": "paintings", "cartoon": "cartoons"}


def drawn(replays: dict[str, Any]) -> Figure:
    """``replays``: of "pacs", "never" and "HOG" what `bench.columns` keeps."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _by_day(left, replays)
    _by_domain(right, replays)
    for axes in (left, right):
        axes.set_ylim(0, 1)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("share answered rightly")
    return figure


def _by_day(axes: Axes, replays: dict[str, Any]) -> None:
    for name, words, colour in SERIES:
        answered = dict(replays[name]["accuracy_by_day"])
        axes.plot(range(len(answered)), list(answered.values()), marker="o", color=colour, label=words)
        axes.set_xticks(range(len(answered)), [day[5:] for day in answered], rotation=45, fontsize=8)
    days = [day for day, _ in replays["pacs"]["accuracy_by_day"]]
    fitted = {each["at"][:10] for each in replays["pacs"]["decisions"] if each["action"] in ("released", "promoted")}
    places = [place for place, day in enumerate(days) if day in fitted]
    axes.plot(places, [0.03] * len(places), "^", color=SERIES[0][2], label="a new version served", linestyle="none")
    axes.set_title("by day", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _by_domain(axes: Axes, replays: dict[str, Any]) -> None:
    groups = [(name, dict(replays[name]["accuracy_by_domain"]), words, colour) for name, words, colour in SERIES]
    groups.append(("HOG", dict(replays["HOG"]["retrained"]), *HISTOGRAMS))
    domains = [each for each in WORDS if each in groups[0][1]]
    for number, (_, shares, words, colour) in enumerate(groups):
        places = [place + 0.27 * (number - 1) for place in range(len(domains))]
        heights = [shares[each] for each in domains]
        axes.bar(places, heights, 0.25, color=colour, label=words)
        for place, height in zip(places, heights, strict=True):
            axes.text(place, height + 0.01, f"{height:.2f}".lstrip("0"), ha="center", fontsize=7)
    axes.set_xticks(range(len(domains)), [WORDS[each] for each in domains])
    axes.set_title("by kind of picture", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def main() -> None:
    replays = json.loads(RESULTS.read_text("utf-8"))["parts"]["images"]["replays"]
    PLOT.write_text(as_svg(drawn(replays)), "utf-8")
    print(PLOT.relative_to(ROOT))


if __name__ == "__main__":
    main()
