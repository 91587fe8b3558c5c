"""A world that is known, for backtests: what the label follows turns around in the middle, and fits are quick."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from everloop.loop.backtest.result import BacktestResult
from everloop.loop.backtest.run import Backtest
from everloop.loop.backtest.setting import Setting
from everloop.spec.load import Declaration, load
from everloop.spec.policy import Policy

START = datetime(2024, 1, 1, tzinfo=UTC)
"""A Monday."""
DAY = timedelta(days=1)
HEAD = """
from datetime import timedelta as td

from sklearn.tree import DecisionTreeClassifier

import everloop as el

loop = el.Loop(
"""
FIELDS = {
    "name": '"made"',
    "source": 'el.Parquet("rows*.parquet", key="id", event_time="at", time_zone="UTC")',
    "label": 'el.Label("y", delay=td(days=1))',
    "window": "el.Last(td(days=21), test=td(days=7))",
    "train": "el.Train(DecisionTreeClassifier(max_depth=3))",
    "score": "el.metric.Accuracy()",
    "gate": "None",
    "retrain": "el.Every(td(days=7))",
}


def rows(*, days: int = 126, per_day: int = 24, turn: float = 0.5, noise: float = 0.1, seed: int = 0) -> pl.DataFrame:
    """``y`` is whether ``x`` is large, and from ``turn`` on whether it is small; a share of labels is wrong."""
    random = np.random.default_rng(seed)
    count = days * per_day
    x = random.uniform(-1, 1, count)
    late = np.arange(count) >= turn * count
    y = (x > 0) ^ late ^ (random.random(count) < noise)
    step = DAY / per_day
    return pl.DataFrame(
        {
            "id": [f"r{place}" for place in range(count)],
            # Between the hours: nothing happens at the very edge of a window.
            "at": [(START + step * place + step / 3).replace(tzinfo=None) for place in range(count)],
            "x": x,
            "group": random.choice(["a", "b"], count),
            "y": y,
        }
    )


@dataclass
class World:
    folder: Path
    declaration: Declaration

    def policy(self, retrain: Any, **changes: Any) -> Policy:
        loop = self.declaration.loops[0]
        return Policy(retrain, **{"window": loop.window, "gate": loop.gate, **changes})

    def open(self, policies: list[Policy], **setting: Any) -> Backtest:
        chosen = {"windows": timedelta(days=7), "takes": timedelta(hours=1), **setting}
        return Backtest.open(
            self.declaration.loops[0],
            folder=self.folder,
            source=self.declaration.source,
            policies=policies,
            setting=Setting(**chosen),
            workers=2,
        )

    def run(self, policies: list[Policy], **setting: Any) -> BacktestResult:
        with self.open(policies, **setting) as running:
            return running.result(policies)

    @property
    def made(self) -> list[str]:
        """The digest of every fit that was made, as often as it was made."""
        log = self.folder / ".everloop" / "backtests" / "made.log"
        return log.read_text("utf-8").split() if log.exists() else []


def made(folder: Path, frame: pl.DataFrame | None = None, *, head: str = HEAD, **fields: str) -> World:
    """A declaration in a folder, beside its rows."""
    folder.mkdir(parents=True, exist_ok=True)
    (rows() if frame is None else frame).write_parquet(folder / "rows.parquet")
    written = "".join(f"    {name}={value},\n" for name, value in {**FIELDS, **fields}.items())
    (folder / "made.py").write_text(f"{head}{written})\n", "utf-8")
    return World(folder=folder, declaration=load(folder / "made.py"))
