"""The plots of a backtest as SVG: frontier, score over time, gain, retrains. Reads a result and its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from everloop.loop.backtest.answer import Answer
from everloop.loop.backtest.result import BacktestResult, PolicyRun, Retrain
from everloop.loop.backtest.yardstick import Yardstick
from everloop.loop.page import AMBER, BAD, BLUE, GOOD, GRID, INK, MUTED, as_svg, new_figure
from everloop.spec.retrain import Manual

Floats = npt.NDArray[np.float64]
LONGEST = 62
"""Characters of a policy's name that a plot has room for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One policy that a plot draws by name."""

    place: int
    role: str
    colour: str


def shown(result: BacktestResult, answer: Answer) -> tuple[Shown, ...]:
    """Recommended, the one at any cost (without a budget the best score), declared and never, each once."""
    never = [each.place for each in answer.policies if isinstance(result.runs[each.place].policy.retrain, Manual)]
    dear = (answer.at_any_cost, "at any cost", BLUE) if answer.budget is not None else (answer.best, "best score", BLUE)
    wanted = [
        (answer.recommended, "recommended", GOOD),
        dear,
        (answer.present, "declared", AMBER),
        (never[0] if never else None, "never", MUTED),
    ]
    found: list[Shown] = []
    for place, role, colour in wanted:
        if place is not None and place not in [each.place for each in found]:
            found.append(Shown(place, role, colour))
    return tuple(found)


def short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _label(each: Shown, answer: Answer) -> str:
    name = short(answer.of(each.place).name)
    return name if name.startswith(each.role) else f"{each.role}: {name}"


def frontier_plot(result: BacktestResult, answer: Answer) -> str:
    """Cost to the right, better upwards, whatever the metric's direction."""
    figure, axes = new_figure(4.4, dates=False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    if answer.possible is not None and answer.adds_up and answer.unit == "retrains":
        most = max(each.cost for each in answer.policies) or 1.0
        curve = [each for each in answer.possible.curve if each.retrains <= most]
        steps = [*(each.retrains for each in curve), most]
        axes.step(steps, [*(each.score for each in curve), curve[-1].score], where="post", color=INK, linewidth=1, linestyle=(0, (4, 3)), alpha=0.6)  # fmt: skip
        axes.annotate("the best possible, known afterwards", (most, curve[-1].score), xytext=(0, 4), textcoords="offset points", ha="right", color=MUTED, fontsize=8)  # fmt: skip
    if answer.budget is not None and answer.budget.cost <= max(each.cost for each in answer.policies):
        axes.axvline(answer.budget.cost, color=AMBER, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate("budget", (answer.budget.cost, 0.01), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points", color=AMBER, fontsize=8)  # fmt: skip
    on = sorted((each for each in answer.policies if each.frontier), key=lambda each: each.cost)
    axes.plot([each.cost for each in on], [each.score for each in on], color=BLUE, linewidth=1.2, alpha=0.5)
    named = {each.place: each for each in shown(result, answer)}
    for each in answer.policies:
        role = named.get(each.place)
        colour = role.colour if role else BLUE if each.frontier else MUTED
        axes.scatter(
            [each.cost],
            [each.score],
            s=90 if role else 34,
            color=colour if role or each.frontier else "white",
            edgecolor=GOOD if each.indistinct else colour,
            linewidth=1.8 if each.indistinct else 1.0,
            zorder=4 if role else 3,
        )
        if role and math.isfinite(each.lower) and math.isfinite(each.upper) and each.place == answer.recommended:
            axes.plot(
                [each.cost, each.cost], [each.lower, each.upper], color=colour, linewidth=1.2, alpha=0.5, zorder=2
            )
    low, high = _extent(answer)
    axes.set_ylim(*((low, high) if answer.greater_is_better else (high, low)))
    _labels(axes, result, answer)
    if answer.floor is not None and low < answer.floor < high:
        axes.axhline(answer.floor, color=BAD, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate("no-change rule", (1, answer.floor), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=BAD, fontsize=8)  # fmt: skip
    axes.set_xlabel("retrains" if answer.unit == "retrains" else "cost of retraining", color=MUTED)
    axes.set_ylabel(f"{answer.metric.replace('_', ' ')}{'' if answer.greater_is_better else ' (axis reversed: up is better)'}", color=MUTED)  # fmt: skip
    return as_svg(figure)


def _extent(answer: Answer) -> tuple[float, float]:
    scores = [each.score for each in answer.policies]
    if answer.possible is not None and answer.adds_up and answer.unit == "retrains":
        scores.append(answer.possible.best.score)
    low, high = min(scores), max(scores)
    room = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _labels(axes: Axes, result: BacktestResult, answer: Answer) -> None:
    """The names of the policies that matter, beside their points: above each other where they would touch."""
    low, high = _extent(answer)
    right = max(each.cost for each in answer.policies) or 1.0
    taken: list[float] = []
    for each in sorted(shown(result, answer), key=lambda one: answer.of(one.place).score, reverse=True):
        judged = answer.of(each.place)
        height = (judged.score - low) / (high - low)
        height = height if answer.greater_is_better else 1 - height
        while any(abs(height - other) < 0.055 for other in taken):
            height -= 0.055
        taken.append(height)
        late = judged.cost > 0.55 * right
        axes.annotate(
            _label(each, answer),
            (judged.cost, judged.score),
            xytext=((judged.cost / right) * 0.9 + (-0.02 if late else 0.06), height),
            textcoords="axes fraction",
            ha="right" if late else "left",
            va="center",
            color=each.colour,
            fontsize=8.5,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )


def score_plot(result: BacktestResult, answer: Answer) -> str:
    """The windows' own scores of the policies that matter, smoothed over a few windows; raw ones pale behind them."""
    if len(result.windows) < 2:
        return ""
    figure, axes = new_figure(3.8)
    middles = _middles(result)
    for each in reversed(shown(result, answer)):
        values = np.array([math.nan if one.score is None else one.score for one in result.runs[each.place].windows])
        axes.plot(middles, values, color=each.colour, linewidth=0.8, alpha=0.25)  # type: ignore[arg-type]
        axes.plot(middles, smoothed(values, _rows(result)), color=each.colour, linewidth=2, label=_label(each, answer))  # type: ignore[arg-type]  # fmt: skip
    floor = np.array([math.nan if one.score is None else one.score for one in result.floor.windows])
    if len(floor) == len(middles) and np.isfinite(floor).any():
        axes.plot(middles, smoothed(floor, _rows(result)), color=BAD, linewidth=1, linestyle=(0, (1, 2)), label="no-change rule")  # type: ignore[arg-type]  # fmt: skip
    axes.set_ylabel(answer.metric.replace("_", " "), color=MUTED)
    if not answer.greater_is_better:
        axes.annotate("lower is better", (0.995, 0.95), xycoords="axes fraction", ha="right", color=MUTED, fontsize=8)
    _legend(axes)
    return as_svg(figure)


def gain_plot(result: BacktestResult, answer: Answer) -> tuple[str, str]:
    """What each policy has gained over never retraining (or the cheapest one) since the beginning; and the caption."""
    never = [each.place for each in shown(result, answer) if each.role == "never"]
    reference = answer.of(never[0]) if never else min(answer.policies, key=lambda each: (each.cost, each.behind))
    others = [each for each in shown(result, answer) if each.place != reference.place]
    if not others or len(result.windows) < 2:
        return "", ""
    yardstick = Yardstick.of(result)
    rows = _rows(result)
    countable = answer.metric == "accuracy"
    base = _losses(result.runs[reference.place], yardstick)
    figure, axes = new_figure(3.0)
    ends = [window.until for window in result.windows]
    for each in reversed(others):
        gained = (base - _losses(result.runs[each.place], yardstick)) * rows
        total = np.cumsum(np.nan_to_num(gained)) / (1 if countable else max(float(rows.sum()), 1.0))
        axes.plot(ends, total, color=each.colour, linewidth=2, label=_label(each, answer))  # type: ignore[arg-type]  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=1)
    unit = "wrong predictions saved" if countable else "mean squared error saved" if yardstick.kind == "root" else f"{answer.metric.replace('_', ' ')} gained"  # fmt: skip
    axes.set_ylabel(unit, color=MUTED)
    _legend(axes)
    caption = (
        f"{unit.capitalize()} since the beginning, against {reference.name}. A line that rises is earning; a flat one is not "
        "worth its retrains at that time."
    )
    return as_svg(figure), caption


def retrain_plot(result: BacktestResult, answer: Answer, most: int = 8) -> str:
    """When each of the policies that matter retrained, and whether that paid."""
    places = [each.place for each in shown(result, answer)]
    places += [place for place in answer.indistinct if place not in places]
    places = [place for place in places if len(result.runs[place].retrains) > 1][:most]
    if not places:
        return ""
    figure, axes = new_figure(0.7 + 0.34 * len(places))
    axes.grid(visible=False)
    marks: dict[tuple[str, str], list[tuple[datetime, int]]] = {}
    for row, place in enumerate(reversed(places)):
        axes.axhline(row, color=GRID, linewidth=0.8)
        for each in result.runs[place].retrains[1:]:
            marks.setdefault(_mark(each), []).append((each.started, row))
    for (colour, mark), points in marks.items():  # thousands of marks, a handful of artists
        times, rows = zip(*points, strict=True)
        axes.plot(times, rows, linestyle="none", marker=mark, markersize=11 if mark == "|" else 5, markeredgewidth=1.6, color=colour)  # fmt: skip
    axes.set_yticks(range(len(places)), [short(answer.of(place).name) for place in reversed(places)], fontsize=8)
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.set_xlim(result.windows[0].since, result.windows[-1].until)  # type: ignore[arg-type]
    return as_svg(figure)


def _mark(each: Retrain) -> tuple[str, str]:
    """Colour and shape of one retrain; what the end of the history cut off is neither good nor bad."""
    if each.live is None:
        over = each.verdict is not None or each.fit is None or each.said == "turn failed"
        return (BAD, "x") if over else (MUTED, ".")
    return (MUTED if each.paid is None else GOOD if each.paid > 0 else AMBER), "|"


def smoothed(values: Floats, rows: Floats) -> Floats:
    """Means over neighbouring windows, weighted by rows; what has no score counts for nothing."""
    reach = max(1, len(values) // 40)
    told = np.isfinite(values)
    weight = np.where(told, rows, 0.0)
    total = np.where(told, values, 0.0) * weight
    kernel = np.ones(2 * reach + 1)
    below = np.convolve(weight, kernel, mode="full")[reach : reach + len(values)]
    above = np.convolve(total, kernel, mode="full")[reach : reach + len(values)]
    return np.where(below > 0, above / np.maximum(below, 1e-300), np.nan)


def _losses(run: PolicyRun, yardstick: Yardstick) -> Floats:
    return np.array([yardstick.loss(each) for each in run.windows], dtype=np.float64)


def _rows(result: BacktestResult) -> Floats:
    return np.array([window.rows for window in result.windows], dtype=np.float64)


def _middles(result: BacktestResult) -> Sequence[datetime]:
    return [window.since + (window.until - window.since) / 2 for window in result.windows]


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2, frameon=False, fontsize=8.5, labelcolor=INK)  # fmt: skip
