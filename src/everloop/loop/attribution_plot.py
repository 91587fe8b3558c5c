"""Contributions as a picture: one prediction from what all rows share to its answer; a version's columns with their spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from everloop.errors import DataError
from everloop.loop.attribution import Attribution, Contribution, Importance
from everloop.loop.page import BAD, BLUE, GRID, INK, MUTED, as_svg, new_figure

MOST_SHOWN = 14
"""Columns with a line of their own; the rest are one line."""
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


def _plain(axes: Any) -> None:
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
