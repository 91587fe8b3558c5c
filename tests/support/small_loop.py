"""A small loop on made rows, a fast fit, and commands in processes that may be killed: for tests of the whole.

The world is simple and known: a parcel comes late more often the farther it goes, and more often with one carrier.
Nothing here is random but what the seed says.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from everloop.clock import Clock
from everloop.durable.crash import VARIABLE
from everloop.durable.engine import Engine
from everloop.jobs.process import ProcessExecutor
from everloop.loop.account import Account
from everloop.loop.controller import Controller
from everloop.loop.installation import Installation, install
from everloop.loop.replay import Plan, Replay, read_history
from everloop.spec.load import load

START = datetime(2024, 1, 1, tzinfo=UTC)
"""A Monday: weekly schedules begin with it."""
DAY = timedelta(days=1)
PRELOAD = ["everloop.loop.replay", "everloop.cli.declared", "everloop.cli.kept", "everloop.train.search"]
"""What a process of a test needs; modules of the tests themselves are not found by the server that forks."""
HEAD = '''"""Will a made parcel come late?"""

from datetime import timedelta as td

from sklearn.linear_model import LogisticRegression

import everloop as el


def features(row):
    return {"distance": row.distance / 1000, "carrier": row.carrier, "hour": row.sent.dt.hour()}


'''
FIELDS = {
    "name": '"parcels"',
    "source": 'el.Parquet("rows/*.parquet", key="parcel", event_time="sent", time_zone="UTC")',
    "label": 'el.Label("late", delay=td(days=1))',
    "features": "features",
    "window": "el.Everything(test=0.2)",
    "train": "el.Train(LogisticRegression())",
    "score": "el.metric.LogLoss()",
    "gate": "el.NotWorse(margin=0.05)",
    "retrain": "el.Manual()",
    "rollout": "el.Canary(guards=(el.guard.Errors(),))",
}


def made_rows(
    count: int = 1_500, *, start: datetime = START, days: float = 30, seed: int = 0, flipped: bool = False
) -> pl.DataFrame:
    """Rows evenly over ``days`` from ``start``, their keys by their time; ``flipped``: each label is told wrongly."""
    random = np.random.default_rng(seed)
    step = timedelta(days=days) / count
    sent = [start + step * number for number in range(count)]
    distance = random.uniform(1, 1_000, count).round(1)
    carrier = random.choice(["north", "south", "west"], count)
    chance = 1 / (1 + np.exp(-((distance - 500) / 150 + 1.5 * (carrier == "west"))))
    late = random.random(count) < chance
    return pl.DataFrame(
        {
            "parcel": [f"{at:%m%d%H%M%S}-{seed}-{number}" for number, at in enumerate(sent)],
            "sent": pl.Series([at.replace(tzinfo=None) for at in sent], dtype=pl.Datetime("us")),
            "distance": distance,
            "carrier": carrier,
            "late": ~late if flipped else late,
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended. ``code`` is negative for a signal."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one JSON value that was printed."""
        return msgspec.json.decode(self.out)


class SmallLoop:
    """A folder with a declaration and its rows. ``fields`` replace those of the declaration, as Python text."""

    name = "parcels"

    def __init__(self, folder: Path, *, rows: pl.DataFrame | None = None, **fields: str) -> None:
        self._lies_in(folder)
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        self.declare(**fields)
        if rows is None:
            rows = made_rows()
        if len(rows):
            self.deliver("000", rows)

    def copy(self, folder: Path) -> "SmallLoop":
        """All of it as it is now, in another folder. Nobody may be writing."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        copied = object.__new__(SmallLoop)
        copied._lies_in(folder)
        return copied

    def _lies_in(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "parcels.py"
        self.home = folder / ".everloop"

    def declare(self, **fields: str) -> None:
        """Write the declaration anew. ``head``: what stands above the loop."""
        head = fields.pop("head", HEAD)
        chosen = {**FIELDS, **fields}
        text = "".join(f"    {name}={value},\n" for name, value in chosen.items())
        self.file.write_text(f"{head}loop = el.Loop(\n{text})\n", "utf-8")

    def deliver(self, name: str, rows: pl.DataFrame) -> Path:
        """A new file of the source, complete when it is there."""
        beside = self.folder / f"{name}.beside"
        rows.write_parquet(beside)
        return beside.rename(self.folder / "rows" / f"{name}.parquet")

    def install(self, clock: Clock | None = None) -> Installation:
        return install(self.file, clock=clock)

    @contextmanager
    def controller(self, clock: Clock | None = None) -> Iterator[Controller]:
        """A controller in this process, over the loop as it is declared now."""
        installation = self.install(clock)
        executor = ProcessExecutor()
        engine = Engine(installation.ledger, installation.clock)
        try:
            yield Controller(installation, engine, executor)
        finally:
            engine.close()
            executor.close()
            installation.close()

    def replay(self, home: Path, **plan: Any) -> Account:
        """All rows through the whole real system, the arms drawn with a seed. ``plan``: fields of `Plan`."""
        declared = load(self.file)
        history = read_history(declared.loops[0], declared.source, self.folder)
        running = Replay(history, Plan(home=home, **{"seed": 3, **plan}))
        try:
            return running.run()
        finally:
            running.close()

    def command(self, *arguments: str, crash_at: str | None = None, largest_file: int | None = None) -> Ended:
        """`everloop` with these arguments in the folder, in a process of its own that may be killed.

        ``crash_at`` is a crash point (`everloop.testing.crash`); ``largest_file`` bounds every file it writes, in
        bytes, as a full disk would.
        """
        # Forked from a process that has imported everything: a command costs its own work, not seconds of imports.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        with tempfile.TemporaryDirectory(prefix="everloop-command-") as said:  # not where a disk may be full
            out, err = Path(said) / "out", Path(said) / "err"
            process = context.Process(target=_command, args=(arguments, self.folder, out, err, crash_at, largest_file))
            process.start()
            process.join()
            assert process.exitcode is not None
            ended = Ended(code=process.exitcode, out=out.read_text("utf-8"), err=err.read_text("utf-8"))
            process.close()
        return ended


def _command(
    arguments: tuple[str, ...], folder: Path, out: Path, err: Path, crash_at: str | None, largest_file: int | None
) -> None:
    from everloop.cli.app import run_app  # here, so that a test may be loaded without the command line

    for path, descriptor in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(folder)
    if crash_at is not None:
        os.environ[VARIABLE] = crash_at
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    sys.exit(run_app(list(arguments)))
