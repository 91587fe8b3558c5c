"""What is backtested, besides the policies: which windows, in what world. Reads no rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from everloop.errors import SpecError
from everloop.loop.backtest.grid import Windows
from everloop.loop.backtest.result import Prices


@dataclass(slots=True, kw_only=True)
class Setting:
    """What is backtested, besides the policies. A window of None is as long as is usual for the history."""

    windows: Windows | None = None
    start: datetime | None = None
    end: datetime | None = None
    takes: timedelta | None = None
    looks: int = 1
    later: timedelta = timedelta(0)
    """Labels come so much later than declared."""
    labels: float = 1.0
    """The share of labels that ever come."""
    prices: Prices | None = None
    oracle: bool = False
    """Ask every fit about every window that it could have served."""

    def check(self) -> None:
        """Raises SpecError with the value and what to write instead."""
        if isinstance(self.windows, timedelta) and self.windows < timedelta(minutes=1):
            raise SpecError(f"windows is {self.windows}; write at least a minute, such as 7d.")
        if isinstance(self.windows, int) and self.windows < 20:
            raise SpecError(f"windows is {self.windows} rows; write at least 20: fewer have no score.")
        if not 0 < self.labels <= 1:
            raise SpecError(f"labels is {self.labels:g}; write a share above 0, at most 1.")
        if self.looks < 1:
            raise SpecError(f"looks is {self.looks}; write at least 1.")
        if self.takes is not None and self.takes < timedelta(0):
            raise SpecError(f"takes is {self.takes}; write 0 or more.")
        if self.later < timedelta(0):
            raise SpecError(f"later is {self.later}; a label cannot come before its event: write 0 or more.")
