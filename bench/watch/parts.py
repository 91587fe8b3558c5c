"""A part of the figures: its rows, what is told beside them, and what is kept for later. Measures nothing."""

from dataclasses import dataclass, field
from typing import Any

from bench.rows import Row


@dataclass(kw_only=True)
class Part:
    rows: list[Row] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    """Tables and lists beside the rows, as they are printed."""
    notes: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    """What is printed and kept nowhere."""
    more: dict[str, Any] = field(default_factory=dict)
