"""One self-contained HTML page of a replay: what was served, what was decided, and why. Reads an Account, nothing else."""

from __future__ import annotations

import html
from datetime import datetime
from itertools import pairwise

from everloop.loop.account import Account, Period
from everloop.loop.attribution_plot import inside, of_version
from everloop.loop.importance import Importance
from everloop.loop.page import (
    AMBER,
    BAD,
    BANDS,
    BLUE,
    GOOD,
    INK,
    MUTED,
    as_svg,
    document,
    new_figure,
    pictured,
    table,
    tiles,
)
from everloop.records import Decision

COLOURS = {
    "promoted": GOOD,
    "released": GOOD,
    "rolled back": BAD,
    "rejected": BAD,
    "turn failed": BAD,
    "turn started": BLUE,
    "canary": AMBER,
    "shadow": AMBER,
}


def page(account: Account, moved: Importance | None = None) -> str:
    """The whole report as HTML that needs nothing from outside. ``moved``: what moves the last champion's answers."""
    figures = [
        (
            _score_plot(account),
            f"{account.metric} by period, on labels as they came true. Bands: the champion's number.",
        ),
        (_share_plot(account), "Who answers: the challenger's share of live traffic; pale while it only shadows."),
        (_drift_plot(account), "The largest drift of a column (PSI) against the champion's own training rows."),
    ]
    body = [
        f"<h1>{html.escape(account.loop)}: the loop turning</h1>",
        f'<p class="lead">{account.started:%Y-%m-%d} to {account.ended:%Y-%m-%d}, replayed in event time through the '
        "real server.</p>"
        if account.ended
        else "",
        f'<p class="note">{html.escape(account.simulated)}</p>' if account.simulated else "",
        _tiles(account),
        *(pictured(svg, text) for svg, text in figures),
        *_moved(moved),
        "<h2>Decisions, with their reasons</h2>",
        _decisions(account),
        "<h2>Versions</h2>",
        _versions(account),
        "<h2>Where the time went</h2>",
        _seconds(account),
    ]
    return document(f"everloop: {account.loop}", body)


def _moved(told: Importance | None) -> tuple[str, ...]:
    if told is None or not told.weights:
        return ()
    caption = (
        "Contributions of each column: thin from 5 to 95 percent of them, thick for the middle half, a dot at the median; "
        "beside the name their mean size."
    )
    if told.note is not None:
        caption += f" By {html.escape(told.method)}: {html.escape(told.note)}."
    within = (
        pictured(as_svg(figure), f"Within {html.escape(name)}, by the network's gradients over the same rows.")
        for name, figure in inside(told)
    )
    return "<h2>What moves its answers</h2>", pictured(as_svg(of_version(told)), caption), *within


def _tiles(account: Account) -> str:
    score = "–" if account.score is None else f"{account.score:.4f}"
    told = [
        (f"{account.predictions:,}", "predictions served"),
        (f"{account.failed:,}", "failed requests"),
        (score, f"{account.metric} over all"),
        (str(len(account.versions)), "versions made"),
        (str(account.count("promoted", "released")), "became champion"),
        (str(account.count("rolled back", "rejected")), "turned back"),
    ]
    return tiles(told)


def _decisions(account: Account) -> str:
    rows = []
    for each in account.decisions:
        colour = COLOURS.get(each.action, MUTED)
        version = "" if each.version is None else str(each.version)
        rows.append(
            f'<tr><td class="when">{each.at:%Y-%m-%d %H:%M}</td><td><span class="tag" style="background:{colour}">'
            f"{html.escape(each.action)}</span></td><td>{version}</td><td>{html.escape(each.because)}{_limits(each)}</td></tr>"
        )
    return table(("when", "what", "version", "because"), rows)


def _limits(decision: Decision) -> str:
    """How the limits of a drift came about."""
    said = {str(each.detail["limits"]) for each in decision.evidence if each.detail.get("limits")}
    return "".join(f'<br><small class="when">limits: {html.escape(each)}</small>' for each in sorted(said))


def _versions(account: Account) -> str:
    rows = [
        f'<tr><td>{each.number}</td><td class="when">{each.created_at:%Y-%m-%d %H:%M}</td>'
        f"<td>{html.escape(each.trigger)}</td><td>{each.score:.4f}</td><td>{html.escape(each.verdict.because)}</td>"
        f"<td>{html.escape(account.worth.get(each.number, ''))}</td><td><code>{each.package[:12]}</code></td></tr>"
        for each in account.versions
    ]
    said = "" if account.unpaid is None else f'<p class="note">{html.escape(account.unpaid)}</p>'
    head = ("version", "made", "trigger", html.escape(account.metric), "gate", "on live rows", "package")
    return said + table(head, rows)


def _seconds(account: Account) -> str:
    rows = [f"<tr><td>{html.escape(name)}</td><td>{value:.2f}</td></tr>" for name, value in account.seconds.items()]
    return table(("part", "seconds"), rows)


def _reigns(account: Account) -> list[tuple[datetime, datetime, int]]:
    reigns: list[tuple[datetime, datetime, int]] = []
    for period in account.periods:
        if period.champion is None:
            continue
        if reigns and reigns[-1][2] == period.champion:
            reigns[-1] = (reigns[-1][0], period.end, period.champion)
        else:
            reigns.append((period.start, period.end, period.champion))
    return reigns


def _score_plot(account: Account) -> str:
    scored = [period for period in account.periods if period.score is not None]
    if len(scored) < 2:
        return ""
    figure, axes = new_figure(3.6)
    for position, (start, end, number) in enumerate(_reigns(account)):
        axes.axvspan(start, end, color=BANDS[position % 2], linewidth=0)  # type: ignore[arg-type]
        axes.text(start, 1.0, f" {number}", transform=axes.get_xaxis_transform(), va="top", color=MUTED, fontsize=8)  # type: ignore[arg-type]
    middles = [period.start + (period.end - period.start) / 2 for period in scored]
    values = [period.score for period in scored]
    axes.plot(middles, values, color=BLUE, linewidth=0.9, alpha=0.35)  # type: ignore[arg-type]
    axes.plot(middles, _smoothed(scored), color=BLUE, linewidth=2)  # type: ignore[arg-type]
    for when, what in account.marks:
        axes.axvline(when, color=BAD, linewidth=1, linestyle=(0, (4, 3)))  # type: ignore[arg-type]
        axes.text(when, 0.02, f" {what}", transform=axes.get_xaxis_transform(), color=BAD, fontsize=8)  # type: ignore[arg-type]
    for each in account.decisions:
        if each.action in {"promoted", "released", "rolled back", "rejected"}:
            axes.plot([each.at], [0.94], marker="v", color=COLOURS[each.action], transform=axes.get_xaxis_transform())  # type: ignore[arg-type]
    axes.set_ylabel(account.metric, color=MUTED)
    axes.set_xlim(account.periods[0].start, account.periods[-1].end)  # type: ignore[arg-type]
    if not account.greater_is_better:
        axes.annotate("lower is better", (0.995, 0.9), xycoords="axes fraction", ha="right", color=MUTED, fontsize=8)
    return as_svg(figure)


def _smoothed(periods: list[Period], reach: int = 3) -> list[float]:
    values = []
    for position in range(len(periods)):
        near = periods[max(0, position - reach) : position + reach + 1]
        rows = sum(period.rows for period in near)
        values.append(sum((period.score or 0.0) * period.rows for period in near) / max(1, rows))
    return values


def _share_plot(account: Account) -> str:
    if not account.periods:
        return ""
    figure, axes = new_figure(1.7)
    for period in account.periods:
        if period.challenger is None:
            continue
        shadow = period.share == 0
        height, strength = (1.0, 0.15) if shadow else (period.share, 1.0)
        axes.fill_between([period.start, period.end], 0, height, linewidth=0, color=AMBER, alpha=strength)  # type: ignore[arg-type]
    axes.set_ylim(0, 1)
    axes.set_xlim(account.periods[0].start, account.periods[-1].end)  # type: ignore[arg-type]
    axes.set_ylabel("share", color=MUTED)
    return as_svg(figure)


def _drift_plot(account: Account) -> str:
    if not any(period.drift for period in account.periods):
        return ""
    figure, axes = new_figure(1.9)
    for before, after in pairwise(account.periods):
        axes.plot([before.end, after.end], [before.drift, after.drift], color=INK, linewidth=1.2)  # type: ignore[arg-type]
    axes.axhline(0.1, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlim(account.periods[0].start, account.periods[-1].end)  # type: ignore[arg-type]
    axes.set_ylabel("PSI", color=MUTED)
    return as_svg(figure)
