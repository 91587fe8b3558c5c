"""What every part of the figures shares: an opened set, and a part's rows with what is told beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.backtest.sets import Set
from bench.rows import Row

from everloop.loop.backtest.run import Backtest
from everloop.loop.backtest.setting import Setting
from everloop.spec.policy import Policy


@dataclass(kw_only=True)
class Part:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


def opened(
    each: Set, folder: Path, policies: Sequence[Policy], *, home: Path | None = None, **changes: Any
) -> Backtest:
    """A backtest of a set, in a folder that is thrown away."""
    declared = each.written(folder)
    setting: Setting = replace(each.setting, **changes) if changes else each.setting
    return Backtest.open(
        declared.loops[0],
        folder=folder,
        source=declared.source,
        policies=policies,
        setting=setting,
        home=home or folder / ".everloop",
    )


class Clock:
    """Wall and CPU seconds of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        return time.process_time() - self._cpu
