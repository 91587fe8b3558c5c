"""How results are put on a terminal or printed for machines. Knows nothing of what they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from everloop.errors import EverloopError
from everloop.records import encode

UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
LONGEST_SECONDS = 36_525 * 86_400.0


class Usage(EverloopError):
    exit_code = 2


def emit(value: Any, as_json: bool, people: Callable[[Console], None]) -> None:
    """Print ``value`` as one JSON line, or let ``people`` write it for a reader."""
    if as_json:
        sys.stdout.write(encode(_plain(value)).decode() + "\n")
    else:
        people(Console(soft_wrap=True, highlight=False))


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(
        value, enc_hook=lambda each: each.item() if hasattr(each, "item") else str(each), str_keys=True
    )


def table(console: Console, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for head in heads:
        shown.add_column(head, overflow="fold")
    for row in rows:
        shown.add_row(*("–" if cell is None else str(cell) for cell in row))
    console.print(shown)


def check_page(out: Path | None) -> None:
    """Before long work: whether a page can be written there. Raises Usage."""
    if out is not None and out.is_dir():
        raise Usage(f"--out {out} is a folder; name a file in it, such as {out / 'report.html'}.")


def when(instant: datetime | None) -> str:
    return "–" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}"


def parse_instant(text: str) -> datetime:
    """ISO; UTC unless it names an offset."""
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Usage(f"{text!r} is not an instant; write it as 2026-03-01 or 2026-03-01T12:00+01:00.") from None


def parse_duration(text: str) -> timedelta:
    """Such as 30m, 12h, 1d or 2w."""
    try:
        amount, unit = float(text[:-1]), UNITS[text[-1]]
    except (ValueError, KeyError, IndexError):
        raise Usage(f"{text!r} is not a duration; write a number and one of s, m, h, d, w, such as 12h.") from None
    seconds = amount * unit
    if not seconds <= LONGEST_SECONDS:  # nor is nan
        raise Usage(f"{text!r} is not a duration that anybody sees the end of; write at most a hundred years, 36500d.")
    if timedelta(seconds=seconds) <= timedelta(0):
        raise Usage(f"{text!r} is not a duration that moves on; write more than 0.")
    return timedelta(seconds=seconds)
