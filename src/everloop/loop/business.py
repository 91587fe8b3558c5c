"""The business metrics of one loop, with what they go with; as values, and as a page. Decides nothing."""

from __future__ import annotations

import html
from datetime import timedelta

import numpy as np

from everloop.loop.installation import Installation
from everloop.loop.page import BLUE, INK, MUTED, as_svg, document, new_figure, table
from everloop.loop.signals import remembered
from everloop.watch import business as watch
from everloop.watch.business import Business


def metrics(installation: Installation, name: str | None, *, days: int) -> tuple[Business, ...]:
    """Every metric that was reported, or the one that is named (an empty tuple where nobody reported it)."""
    each = installation
    known = watch.names(each.lake, each.loop.label.column)
    state = remembered(each)
    drifts = {} if state is None else state.drifts
    now = each.clock.now()
    return tuple(
        watch.business(each.lake, one, drifts, now=now, days=days) for one in known if name is None or one == name
    )


def page(loop: str, found: tuple[Business, ...]) -> str:
    """One self-contained HTML page: each metric by day, what it goes with, and what it was by version."""
    body = [f"<h1>{html.escape(loop)}: business metrics</h1>"]
    for each in found:
        body.append(f"<h2>{html.escape(each.name)}</h2>")
        body += [f"<p>{html.escape(one)}.</p>" for one in each.words]
        body.append(f"<figure>{_by_day(each)}</figure>")
        rows = [
            f"<tr><td>{html.escape(one.signal)}{' (the day before)' if one.lag else ''}</td><td>{one.correlation:+.2f}</td>"
            f"<td>{one.low:+.2f} to {one.high:+.2f}</td><td>{'yes' if one.shown else ''}</td></tr>"
            for one in each.associated[:12]
        ]
        if rows:
            heads = ("signal", "correlation of surprises", "interval, for all together", "shown")
            body.append(table(heads, rows))
        rows = [
            f"<tr><td>{one.version}</td><td>{html.escape(one.arm)}</td><td>{one.mean:.4g} ± {one.half:.2g}</td><td>{one.count:,}</td></tr>"
            for one in each.by_version
        ]
        if rows:
            body.append("<p>By who answered; for a fair comparison of two versions run an experiment.</p>")
            body.append(table(("version", "arm", "mean", "outcomes"), rows))
    return document(f"everloop: {loop}", body)


def _by_day(each: Business) -> str:
    """The metric, and below it what it is most surely associated with."""
    shown = next((one for one in each.associated if one.shown), None)
    when = [each.since + timedelta(days=place) for place in range(len(each.mean))]
    figure, axes = new_figure(2.6)
    axes.plot(when, each.mean, color=BLUE, linewidth=1.6)  # type: ignore[arg-type]
    axes.set_ylabel(each.name, color=BLUE)
    if shown is not None:
        other = axes.twinx()
        other.spines[["top", "right", "left", "bottom"]].set_visible(False)
        other.plot(when, np.array(each.signals[shown.signal]), color=INK, linewidth=0.9, alpha=0.6)  # type: ignore[arg-type]
        other.set_ylabel(shown.signal, color=MUTED)
        other.tick_params(colors=MUTED, length=0)
    return as_svg(figure)
