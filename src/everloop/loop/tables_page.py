"""The page of two tables beside each other: what moved, how it looks then and now, and every column's figures."""

from __future__ import annotations

import html

from everloop.loop.page import BLUE, MUTED, document, tiles
from everloop.loop.tables import Compared, Comparison

MOST_DRAWN = 50
HEADS = (
    "column",
    "PSI",
    "KS",
    "Jensen-Shannon",
    "Wasserstein, sd",
    "χ²",
    "missing before",
    "missing",
    "new",
    "outliers",
    "novel",
)
MORE = """
.moved { display: grid; grid-template-columns: 1fr 1fr; gap: 12px; align-items: start; } figure.column { margin: 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr.hit td:first-child { font-weight: 600; }
@media (max-width: 760px) { .moved { grid-template-columns: 1fr; } }
"""


def page(found: Comparison, *, before: str, now: str) -> str:
    """The whole report as HTML that needs nothing from outside."""
    moved = found.moved
    lead = f"{len(moved)} of {len(found.columns)} columns moved" if moved else "no column moved"
    figures = (
        (f"{found.rows_before:,}", "rows before"),
        (f"{found.rows:,}", "rows now"),
        (str(len(found.columns)), "columns"),
        (str(len(moved)), "moved"),
    )
    body = [
        f"<h1>{lead}</h1>",
        f'<p class="lead">{html.escape(before)} beside {html.escape(now)}. Of equal tables one in a hundred has a column '
        "that is named here by chance.</p>",
        tiles(figures),
        '<div class="moved">' + "".join(_drawn(each) for each in moved[:MOST_DRAWN]) + "</div>",
    ]  # fmt: skip
    if len(moved) > MOST_DRAWN:
        body.append(f"<p>{len(moved) - MOST_DRAWN} more are in the table.</p>")
    for names, words in ((found.only_before, "only before"), (found.only_now, "only now")):
        if names:
            body.append(f'<p class="note">Columns that are there {words}: {html.escape(", ".join(names))}.</p>')
    if found.left_out:
        listed = "; ".join(f"{name} ({why})" for name, why in found.left_out.items())
        body.append(f'<p class="note">Not compared: {html.escape(listed)}.</p>')
    rows = "".join(_row(each) for each in found.columns)
    heads = "".join(f'<th class="{"n" if place else ""}">{head}</th>' for place, head in enumerate(HEADS))
    body.append(f"<h2>Every column</h2><table><tr>{heads}</tr>{rows}</table>")
    return document(f"everloop: {lead}", body, style=MORE)


def _row(each: Compared) -> str:
    figures = (
        f"{each.psi:.3f}",
        "" if each.ks is None else f"{each.ks:.3f}",
        f"{each.jensen_shannon:.3f}",
        "" if each.wasserstein is None else f"{each.wasserstein:.2f}",
        f"{each.chi_square:,.0f} / {each.degrees_of_freedom}",
        f"{each.missing_before:.1%}",
        f"{each.missing:.1%}",
        f"{each.new:.1%}" if each.kind == "category" else "",
        f"{each.outliers:.1%}" if each.kind == "number" else "",
        "" if each.novel is None else f"{each.novel:.1%}",
    )
    cells = "".join(f'<td class="n">{figure}</td>' for figure in figures)
    hit = ' class="hit"' if each.moved else ""
    return f"<tr{hit}><td>{html.escape(each.column)}</td>{cells}</tr>"


def _drawn(each: Compared) -> str:
    """Shares then (grey) and now (blue), a pair of bars for each bin or value."""
    width, height, left = 480, 24 * len(each.shares), 150
    most = max((max(a, b) for _, a, b in each.shares), default=1.0) or 1.0
    bars = []
    for place, (name, then, now) in enumerate(each.shares):
        top, scale = 24 * place, (width - left - 56) / most
        short = html.escape(name if len(name) <= 22 else name[:21] + "…")
        bars.append(
            f'<text x="{left - 8}" y="{top + 15}" text-anchor="end" font-size="12" fill="{MUTED}">{short}</text>'
            f'<rect x="{left}" y="{top + 3}" width="{then * scale:.1f}" height="8" fill="#b8c2cc"/>'
            f'<rect x="{left}" y="{top + 12}" width="{now * scale:.1f}" height="8" fill="{BLUE}"/>'
            f'<text x="{left + max(then, now) * scale + 6:.1f}" y="{top + 16}" font-size="11" fill="{MUTED}">{now:.1%}</text>'
        )
    words = ". ".join(html.escape(one) for one in each.moved)
    return (
        f'<figure class="column"><svg viewBox="0 0 {width} {max(height, 24)}" role="img">{"".join(bars)}</svg>'
        f"<figcaption>{words}. Grey: before; blue: now.</figcaption></figure>"
    )
