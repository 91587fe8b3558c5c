"""One self-contained HTML page of an experiment: verdict, arms, and the intervals over time. Reads a report, nothing else."""

from __future__ import annotations

import html

from everloop.loop.experiment import Against, ExperimentReport, MeasureReport
from everloop.loop.page import BAD, BLUE, GOOD, MUTED, as_svg, document, new_figure, pictured, table

COLOURS = {"better": GOOD, "worse": BAD, "equal": BLUE, "waiting": MUTED, "broken": BAD}


def page(report: ExperimentReport) -> str:
    """The whole page as HTML that needs nothing from outside."""
    name = f"{report.loop}: experiment {report.name}"
    ended = f", stopped {report.stopped:%Y-%m-%d %H:%M}" if report.stopped else ""
    lead = (
        f"Drawn by {html.escape(report.unit)}, started {report.started:%Y-%m-%d %H:%M}{ended}; rows up to "
        f"{report.until:%Y-%m-%d %H:%M}. Intervals hold at every look together, {1 - report.alpha:.0%} for each measure."
    )
    body = "".join(_measure(each) for each in report.measures)
    return document(name, (f'<h1>{html.escape(name)}</h1><p class="lead">{lead}</p>', body))


def _measure(measure: MeasureReport) -> str:
    side = "lower is better" if measure.lower_is_better else "higher is better"
    rows = [
        f"<tr><td>{html.escape(arm.name)}</td><td>{arm.version}</td><td>{arm.share:.4g}</td><td>{arm.units:,}</td>"
        f"<td>{arm.rows:,}</td><td>{'–' if arm.value is None else f'{arm.value:.5g}'}</td></tr>"
        for arm in measure.arms
    ]
    head = ("arm", "version", "share", "units", "rows", "value")
    said = "".join(
        f'<p class="note"><span class="tag" style="background:{COLOURS[each.verdict]}">{each.verdict}</span> '
        f"{html.escape(each.words)}</p>"
        for each in measure.against
    )
    plots = "".join(_plot(each) for each in measure.against if measure.broken is None)
    notes = "".join(f"<li>{html.escape(each)}</li>" for each in measure.notes)
    return f"<h2>{html.escape(measure.name)} ({side})</h2>{said}{table(head, rows)}{plots}" + (
        f"<ul>{notes}</ul>" if notes else ""
    )


def _plot(against: Against) -> str:
    """The difference from the first arm over time, with its interval where there is one."""
    told = [look for look in against.looks if look.lower is not None and look.upper is not None]
    if len(told) < 2:
        return ""
    drawn, axes = new_figure(2.4)
    times = [look.at for look in told]
    lower, upper = [look.lower or 0.0 for look in told], [look.upper or 0.0 for look in told]
    axes.fill_between(times, lower, upper, color=BLUE, alpha=0.18, linewidth=0)  # type: ignore[arg-type]
    axes.plot(times, [look.estimate for look in told], color=BLUE, linewidth=1.4)  # type: ignore[arg-type]
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    # Early intervals are wide; what matters is read at the scale of the later ones.
    half = told[len(told) // 3]
    reach = 1.1 * max(
        abs(half.lower or 0.0), abs(half.upper or 0.0), abs(told[-1].lower or 0.0), abs(told[-1].upper or 0.0)
    )
    axes.set_ylim(-reach, reach)
    caption = (
        f"{against.arm} less the first arm, by units in the order in which they came; the band holds at every look."
    )
    return pictured(as_svg(drawn), caption)
