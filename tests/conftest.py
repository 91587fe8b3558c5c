"""A small loop for the tests of whole commands: turned once in a session, copied for each test that needs it."""

from pathlib import Path

import polars as pl
import pytest

from small_loop import DAY, START, SmallLoop, made_rows


@pytest.fixture
def small(tmp_path: Path) -> SmallLoop:
    """Rows and a declaration; nothing has turned yet."""
    return SmallLoop(tmp_path / "small")


@pytest.fixture(scope="session")
def turned_once(tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """Version 1 serves. For reading only; `turned` is a copy for tests that write."""
    loop = SmallLoop(tmp_path_factory.mktemp("turned"), checks='[el.check.NotNull("carrier")]')
    ended = loop.command("run", str(loop.file))
    assert ended.code == 0, ended.err
    return loop


@pytest.fixture
def turned(turned_once: SmallLoop, tmp_path: Path) -> SmallLoop:
    return turned_once.copy(tmp_path / "turned")


@pytest.fixture(scope="session")
def more_rows() -> pl.DataFrame:
    """A second file: 300 new rows, five more that fail their check, and ten old ones whose label turned out otherwise."""
    new = made_rows(305, start=START + 30 * DAY, days=6, seed=1)
    failing = pl.Series([None if number < 5 else carrier for number, carrier in enumerate(new["carrier"])])
    corrected = made_rows().head(10).with_columns(~pl.col("late"))
    return pl.concat([new.with_columns(failing.alias("carrier")), corrected])
