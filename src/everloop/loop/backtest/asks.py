"""What a simulation asks of fits: make one, what it says of some rows, how its rows looked. Answers nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from everloop.loop.backtest.result import FitName

SeasonAsked = Literal["detect", "day", "week"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskFit:
    """Make the fit of this name."""

    name: FitName

    @property
    def fit(self) -> str:
        return self.name.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class AskAnswers:
    """What a fit says of the rows at [since, until)."""

    fit: str
    since: int
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AskCells:
    """How good a fit is in each of these windows: (index, since, until), places of rows."""

    fit: str
    windows: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskProfile:
    """What the training rows of a fit looked like, in the bins that drift is counted in."""

    fit: str
    season: SeasonAsked


Ask = AskFit | AskAnswers | AskCells | AskProfile
