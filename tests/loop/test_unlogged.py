"""A loop that logs no prediction watches drift all the same: in the sketches of its servers, and makes a new version."""

from datetime import timedelta

import polars as pl
import pytest

from everloop.loop.account import Account
from everloop.store import segments, sketches
from everloop.store.home import Home
from everloop.store.lake import PREDICTIONS, Lake
from small_loop import DAY, START, SmallLoop, made_rows

MOVED = START + 11 * DAY


@pytest.fixture(scope="module")
def unlogged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Account, Home, str]:
    """A replay in which every parcel goes 700 further from the eleventh day on."""
    folder = tmp_path_factory.mktemp("unlogged")
    farther = pl.when(pl.col("sent") >= MOVED.replace(tzinfo=None)).then(700.0).otherwise(0.0)
    loop = SmallLoop(
        folder / "loop",
        rows=made_rows(2_000, days=18).with_columns(pl.col("distance") + farther),
        window="el.Last(td(days=6), test=td(days=2))",
        serve="el.Serve(log=False)",
        retrain="el.Drift(window=300)",
        rollout="el.Direct()",
        gate="None",
    )
    return loop.replay(folder / "home"), Home(folder / "home" / ".everloop"), loop.name


def test_drift_is_found_in_sketches_and_a_new_version_serves(unlogged: tuple[Account, Home, str]) -> None:
    account, home, name = unlogged
    assert account.failed == 0
    asked = [each for each in account.decisions if each.action == "turn started" and "distance" in each.because]
    assert asked, [(each.action, each.because) for each in account.decisions]
    assert asked[0].at >= MOVED
    assert asked[0].at < MOVED + timedelta(days=7), "two windows of 300 rows, 111 a day"
    assert len(account.versions) >= 2
    assert not Lake(home.lake(name)).exists(PREDICTIONS)
    frames = [
        segments.decode(payload) for path in segments.files(home.segments(name)) for payload, _ in segments.read(path)
    ]
    assert not [each for each in frames if isinstance(each, segments.PredictionFrame)]
    kept = [sketches.read(path)[0] for path, _ in sketches.files(home.sketches(name))]
    later = made_rows(2_000, days=18).filter(pl.col("sent") >= (account.started + DAY).replace(tzinfo=None))
    assert sum(each.rows for each in kept) == len(later), "each row since the first look once, put together or not"
    together = [each for each in kept if each.tag == "together"]
    assert {each.until - each.since for each in together} == {6 * 3_600_000_000}, "for the alert's windows of a week"
    assert max(each.rows for each in together) > 20
