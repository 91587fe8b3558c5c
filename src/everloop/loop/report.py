"""One self-contained HTML page of a replay: what was served, what was decided, and why. Reads an Account, nothing else."""

from __future__ import annotations

import html
import io
from datetime import datetime
from itertools import pairwise

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from everloop.loop.account import Account, Period
from everloop.records import Decision

INK, MUTED, GRID = "#1d2733", "#6b7785", "#e6eaee"
GOOD, BAD, BLUE, AMBER = "#1a7f5a", "#c2413b", "#2f6fde", "#d98a1f"
BANDS = ("#eef4ff", "#f7f2e8")
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

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 0; background: #f6f8fa; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
p.lead { color: #6b7785; margin: 0 0 20px; }
.note { background: #fff6e0; border-left: 4px solid #d98a1f; padding: 8px 12px; margin: 12px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { background: #fff; border: 1px solid #e6eaee; border-radius: 8px; padding: 12px 14px; }
.tile b { display: block; font-size: 22px; } .tile span { color: #6b7785; font-size: 13px; }
figure { background: #fff; border: 1px solid #e6eaee; border-radius: 8px; margin: 12px 0; padding: 8px; }
figure svg { width: 100%; height: auto; display: block; } figcaption { color: #6b7785; font-size: 13px; padding: 4px 8px; }
table { border-collapse: collapse; width: 100%; background: #fff; border: 1px solid #e6eaee; border-radius: 8px; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border-top: 1px solid #eef1f4; font-size: 13.5px; }
th { color: #6b7785; font-weight: 600; border-top: 0; } td.when { white-space: nowrap; color: #6b7785; }
.tag { display: inline-block; border-radius: 10px; padding: 0 8px; color: #fff; white-space: nowrap; font-size: 12.5px; }
"""


def page(account: Account) -> str:
    """The whole report as HTML that needs nothing from outside."""
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
        *(f"<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>" for svg, text in figures if svg),
        "<h2>Decisions, with their reasons</h2>",
        _decisions(account),
        "<h2>Versions</h2>",
        _versions(account),
        "<h2>Where the time went</h2>",
        _seconds(account),
    ]
    title = html.escape(f"everloop: {account.loop}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def _tiles(account: Account) -> str:
    score = "–" if account.score is None else f"{account.score:.4f}"
    tiles = [
        (f"{account.predictions:,}", "predictions served"),
        (f"{account.failed:,}", "failed requests"),
        (score, f"{account.metric} over all"),
        (str(len(account.versions)), "versions made"),
        (str(account.count("promoted", "released")), "became champion"),
        (str(account.count("rolled back", "rejected")), "turned back"),
    ]
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
        + "</div>"
    )


def _decisions(account: Account) -> str:
    rows = []
    for each in account.decisions:
        colour = COLOURS.get(each.action, MUTED)
        version = "" if each.version is None else str(each.version)
        rows.append(
            f'<tr><td class="when">{each.at:%Y-%m-%d %H:%M}</td><td><span class="tag" style="background:{colour}">'
            f"{html.escape(each.action)}</span></td><td>{version}</td><td>{html.escape(each.because)}{_limits(each)}</td></tr>"
        )
    return "<table><tr><th>when</th><th>what</th><th>version</th><th>because</th></tr>" + "".join(rows) + "</table>"


def _limits(decision: Decision) -> str:
    """How the limits of a drift came about."""
    said = {str(each.detail["limits"]) for each in decision.evidence if each.detail.get("limits")}
    return "".join(f'<br><small class="when">limits: {html.escape(each)}</small>' for each in sorted(said))


def _versions(account: Account) -> str:
    rows = [
        f'<tr><td>{each.number}</td><td class="when">{each.created_at:%Y-%m-%d %H:%M}</td>'
        f"<td>{html.escape(each.trigger)}</td><td>{each.score:.4f}</td><td>{html.escape(each.verdict.because)}</td>"
        f"<td><code>{each.package[:12]}</code></td></tr>"
        for each in account.versions
    ]
    head = f"<tr><th>version</th><th>made</th><th>trigger</th><th>{html.escape(account.metric)}</th><th>gate</th><th>package</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _seconds(account: Account) -> str:
    rows = [f"<tr><td>{html.escape(name)}</td><td>{value:.2f}</td></tr>" for name, value in account.seconds.items()]
    return f"<table><tr><th>part</th><th>seconds</th></tr>{''.join(rows)}</table>"


def new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10.4, height), layout="constrained")
    axes: Axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure, axes


def as_svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "everloop"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


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
