"""Contributions as a picture: one prediction from what all rows share to its answer; a version's columns with their spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from everloop.errors import DataError
from everloop.loop.attribution import Attribution
from everloop.loop.contribution import Contribution
from everloop.loop.importance import Importance, Weight
from everloop.loop.page import BAD, BLUE, GRID, INK, MUTED, as_svg, new_figure

MOST_SHOWN = 14
"""Columns with a line of their own; the rest are one line."""
MOST_WORDS = 40
"""Words of a text that are drawn: those that brought most, in the text's order."""
LONGEST = 34


def of_prediction(told: Attribution) -> Figure:
    """Bars from ``base`` to ``total``, the largest on top."""
    shown = [(each.name, short(each.value), each.contribution) for each in told.contributions[:MOST_SHOWN]]
    rest = told.contributions[MOST_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} others", "", sum(each.contribution for each in rest)))
    figure, axes = new_figure(1.3 + 0.34 * len(shown), dates=False)
    _plain(axes)
    at = told.base
    for place, (_, _, share) in enumerate(shown):
        axes.barh(place, share, left=at, color=BLUE if share >= 0 else BAD, height=0.62)
        near = max(at, at + share)
        axes.annotate(
            f"{share:+.3g}",
            (near, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8,
        )
        if place + 1 < len(shown):
            axes.plot([at + share] * 2, [place - 0.31, place + 1.31], color=MUTED, linewidth=0.6)
        at += share
    axes.set_yticks(range(len(shown)), [f"{name} = {value}" if value else name for name, value, _ in shown])
    axes.invert_yaxis()
    axes.axvline(told.base, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.axvline(told.total, color=INK, linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel(told.scale, color=MUTED)
    what = f"of {told.subject}: {told.answer:.3f}" if told.subject is not None else f": {told.answer:.5g}"
    axes.set_title(
        f"{told.loop} {told.id}, version {told.version}: {'probability ' if told.subject is not None else 'value'}{what}",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    axes.annotate("usual", (told.base, 1.0), xycoords=("data", "axes fraction"), ha="center", color=MUTED, fontsize=8)
    return figure


def of_image(told: Attribution, part: Contribution, pixels: Any) -> Figure:
    """The image, and beside it what each part brought: blue towards the answer, red away from it."""
    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    height, width = pixels.shape[:2]
    left.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=255)
    strongest = max(abs(share) for each in part.parts for share in each) or 1.0
    drawn = right.imshow(part.parts, cmap="RdBu", vmin=-strongest, vmax=strongest, extent=(0, width, height, 0))
    figure.colorbar(drawn, ax=right, shrink=0.8, label=f"contribution, {told.scale}")
    for axes in (left, right):
        axes.set_axis_off()
    left.set_title(f"{told.loop} {told.id}, version {told.version}: {part.name}", loc="left", color=INK, fontsize=11)
    right.set_title(f"what speaks for {told.subject} ({told.answer:.3f})", loc="left", color=INK, fontsize=11)
    return figure


def of_words(told: Attribution, part: Contribution) -> Figure:
    """A bar for each word, in the text's order: blue towards the answer, red away from it."""
    strongest = sorted(range(len(part.words)), key=lambda at: -abs(part.words[at][1]))[:MOST_WORDS]
    shown = [part.words[at] for at in sorted(strongest)]
    figure = _words(
        [(word, share) for word, share in shown], f"contribution, {told.scale}" + (f" of {told.subject}" if told.subject else "")
    )  # fmt: skip
    left_out = len(part.words) - len(shown)
    rest = f" ({left_out} weaker ones left out)" if left_out else ""
    figure.axes[0].set_title(
        f"{told.loop} {told.id}, version {told.version}: {part.name}{rest}", loc="left", color=INK, fontsize=11
    )
    return figure


def of_vocabulary(told: Importance, weight: Weight) -> Figure:
    """The words that move a version's answers most: what each brings where it stands."""
    figure = _words(
        [(f"{word}  {often}×", share) for word, share, often in weight.words],
        f"mean contribution, {told.scale}" + (f" of {told.subject}" if told.subject else ""),
    )
    figure.axes[0].set_title(
        f"{told.loop}, version {told.version}: words of {weight.name} ({told.rows} test rows)",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    return figure


def of_pixels(told: Importance, weight: Weight) -> Figure:
    """Where in the image a version looks: the mean size of each pixel's contributions."""
    figure = Figure(figsize=(5.4, 4.8), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(weight.parts, cmap="Blues", vmin=0)
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=f"mean size of contributions, {told.scale}")
    axes.set_axis_off()
    axes.set_title(
        f"{told.loop}, version {told.version}: where in {weight.name} ({told.rows} test rows)",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    return figure


def inside(told: Importance) -> list[tuple[str, Figure]]:
    """Of each column that is more than one value, its name and what is within it, where gradients told."""
    return [
        (each.name, of_pixels(told, each) if each.parts else of_vocabulary(told, each))
        for each in told.weights
        if each.parts or each.words
    ]


def of_version(told: Importance) -> Figure:
    """A line for each column: thin from 5 to 95 percent of its contributions, thick for the middle half, a dot at the median."""
    shown = told.weights[:MOST_SHOWN]
    figure, axes = new_figure(1.3 + 0.34 * len(shown), dates=False)
    _plain(axes)
    for place, each in enumerate(shown):
        low, lower, middle, upper, high = each.quantiles
        axes.plot([low, high], [place, place], color=BLUE, linewidth=1.2)
        axes.plot([lower, upper], [place, place], color=BLUE, linewidth=7, solid_capstyle="butt")
        axes.plot([middle], [place], marker="o", markersize=5, color="white", markeredgecolor=INK)
    axes.axvline(0.0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{each.name}  {each.mean:.3g}" for each in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"contribution, {told.scale}" + (f" of {told.subject}" if told.subject else ""), color=MUTED)
    axes.set_title(
        f"{told.loop}, version {told.version}: what moves its answers ({told.rows} test rows)",
        loc="left", color=INK, fontsize=11,
    )  # fmt: skip
    return figure


def save(figure: Figure, path: Path) -> None:
    """As .svg or .png, by the name. Raises DataError for another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        path.write_text(as_svg(figure), "utf-8")
    elif path.suffix == ".png":
        with mpl.rc_context({"font.family": "sans-serif"}):
            figure.savefig(path, format="png", dpi=120)
    else:
        raise DataError(f"--out is {path.name}; write a name that ends in .svg or .png.")


def short(value: Any) -> str:
    """A value in few letters; what is missing is said."""
    if value is None:
        return "missing"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = " ".join(text.split()).replace("$", r"\$")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _words(shown: list[tuple[str, float]], label: str) -> Figure:
    figure, axes = new_figure(1.3 + 0.24 * len(shown), dates=False)
    _plain(axes)
    places = range(len(shown))
    axes.barh(
        places, [share for _, share in shown], color=[BLUE if share >= 0 else BAD for _, share in shown], height=0.7
    )
    axes.set_yticks(places, [short(word) for word, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0.0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(label, color=MUTED)
    return figure


def _plain(axes: Any) -> None:
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
