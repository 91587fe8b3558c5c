"""What all pages that everloop writes share: colours, style, plots as SVG, the frame of a page. Knows no subject."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2733", "#6b7785", "#e6eaee"
GOOD, BAD, BLUE, AMBER = "#1a7f5a", "#c2413b", "#2f6fde", "#d98a1f"
BANDS = ("#eef4ff", "#f7f2e8")

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
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tag { display: inline-block; border-radius: 10px; padding: 0 8px; color: #fff; white-space: nowrap; font-size: 12.5px; }
"""


def document(title: str, body: Iterable[str], *, style: str = "") -> str:
    """A page that needs nothing from outside. ``title`` as text, ``body`` as HTML; ``style``: beside the shared one."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body><main>{''.join(body)}</main></body></html>"
    )


def tiles(given: Iterable[tuple[str, str]]) -> str:
    """A figure and what it is, as HTML both, side by side."""
    inside = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in given)
    return f'<div class="tiles">{inside}</div>'


def table(head: Sequence[str], rows: Iterable[str], *, numbers: Iterable[str] = ()) -> str:
    """``head`` as HTML; each row a whole ``<tr>``. ``numbers``: heads whose column stands to the right."""
    right = set(numbers)
    cells = (f'<th class="number">{each}</th>' if each in right else f"<th>{each}</th>" for each in head)
    return f"<table><tr>{''.join(cells)}</tr>{''.join(rows)}</table>"


def pictured(svg: str, caption: str) -> str:
    """A plot and its caption (text); nothing where there is no plot."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>" if svg else ""


def new_figure(height: float, *, dates: bool = True) -> tuple[Figure, Axes]:
    """A plot as wide as a page, ``height`` in inches; with ``dates`` the horizontal axis is time."""
    figure = Figure(figsize=(10.4, height), layout="constrained")
    axes: Axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if dates:
        locator = AutoDateLocator()
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    return figure, axes


def as_svg(figure: Figure) -> str:
    """The same bytes for the same plot: no date, no random names."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "everloop"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
