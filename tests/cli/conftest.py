"""A home in which something has happened, and the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from everloop.cli.app import run_app
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Traffic
from everloop.store.home import Home
from small_loop import Ended, SmallLoop, made_rows


@pytest.fixture
def everloop(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``everloop("status", "--json")``: what it says and its exit code. An exception that escapes fails the test."""

    def called(*arguments: str | Path | int) -> Ended:
        capfd.readouterr()
        code = run_app([str(each) for each in arguments])
        out, err = capfd.readouterr()
        return Ended(code=code, out=out, err=err)

    return called


@pytest.fixture(scope="session")
def lived_once(turned_once: SmallLoop, more_rows: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """Version 1 serves, version 2 is in shadow; sixty predictions and forty outcomes are in the lake."""
    loop = turned_once.copy(tmp_path_factory.mktemp("lived"))
    rows = made_rows(60, seed=7)
    times = rows["sent"].dt.epoch("us").to_list()
    asked = rows.drop("late").with_columns(pl.col("sent").dt.epoch("us")).to_dicts()
    with ServingProcess.start(Home(loop.home), [loop.name], token="a token") as server:
        traffic = Traffic(server.port, loop.name, "a token")
        traffic.predict(asked, times, rows["parcel"].to_list())
        traffic.outcomes(rows["parcel"].to_list()[:40], rows["late"].to_list()[:40], times[:40])
        traffic.close()
    loop.deliver("001", more_rows)
    with loop.controller() as controller:
        controller.look()
    ended = loop.command("run", str(loop.file))
    assert ended.code == 0, ended.err
    return loop


@pytest.fixture
def lived(lived_once: SmallLoop, tmp_path: Path) -> SmallLoop:
    return lived_once.copy(tmp_path / "lived")
