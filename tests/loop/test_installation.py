"""What is known of a source before a turn: classes that only its newest file has, keys that are told twice."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from everloop.errors import DataError
from everloop.loop.events import Asked
from everloop.loop.installation import reopen
from everloop.loop.trial import examine, turn
from small_loop import START, SmallLoop, made_rows


@pytest.fixture
def small(tmp_path: Path) -> SmallLoop:
    return SmallLoop(tmp_path)


def test_a_class_that_only_the_newest_file_has_is_a_class(small: SmallLoop) -> None:
    for name, low in (("000", "no"), ("001", "perhaps")):
        rows = made_rows(100, start=START + timedelta(days=int(name)), seed=int(name))
        named = pl.when("late").then(pl.lit("yes")).otherwise(pl.lit(low)).alias("late")
        small.deliver(name, rows.with_columns(named))

    installation = small.install()

    assert set(installation.resolved.classes) == {"no", "perhaps", "yes"}
    assert installation.facts is not None
    assert (installation.facts.rows, installation.facts.missing) == (200, 0)
    installation.close()


def test_two_files_that_overlap_have_a_key_that_is_unique(small: SmallLoop) -> None:
    rows = made_rows(100)
    small.deliver("000", rows.head(70))
    corrected = pl.when(pl.int_range(pl.len()) < 30).then(~pl.col("late")).otherwise("late").alias("late")
    small.deliver("001", rows.tail(60).with_columns(corrected))

    installation = small.install()

    assert examine(installation.resolved, small.folder).rows == 130
    installation.close()


def test_a_key_of_two_different_rows_is_not_unique(small: SmallLoop) -> None:
    rows = made_rows(100)
    small.deliver("001", rows.tail(10).with_columns(pl.col("distance") + 1))
    installation = small.install()

    small.deliver("000", rows)
    with pytest.raises(DataError, match="10 keys have rows that differ"):
        examine(installation.resolved, small.folder)
    installation.close()


def test_a_trial_of_rows_that_never_happened_says_so(small: SmallLoop) -> None:
    rows = made_rows(50).with_columns(sent=pl.lit(None, pl.Datetime("us")))
    small.deliver("000", rows)
    installation = small.install()

    with pytest.raises(DataError, match="has an event time"):
        turn(installation.loop, folder=small.folder, source=installation.source)
    installation.close()


def test_a_home_of_two_loops_finds_the_one_that_has_a_run(small: SmallLoop) -> None:
    runs = []
    for name in ("parcels", "letters"):
        small.declare(name=f'"{name}"')
        with small.controller() as controller:
            controller.ask(Asked(action="run"))
            runs.append(controller.state().turn)

    for name, run in zip(("parcels", "letters"), runs, strict=True):
        with closing(reopen(small.home, of_run=run)) as found:
            assert found.name == name


def test_a_reason_in_brackets_is_shown_as_it_is(small: SmallLoop) -> None:
    with small.controller() as controller:
        controller.take_in()
        controller.ask(Asked(action="run", by="[/me]"))
        controller.work()

    for command in (("why", "v1"), ("status",), ("versions",)):
        ended = small.command(*command)
        assert ended.code == 0, ended.err
        assert "[/me]" in ended.out
