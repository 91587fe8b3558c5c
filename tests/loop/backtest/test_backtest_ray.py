"""A backtest whose workers run on a real Ray, because everloop.toml says so: the same fits, the same answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import everloop as el
from everloop.errors import JobError
from everloop.loop.backtest.result import BacktestResult
from known_world import World, made, rows
from ray_cluster import ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with ray_cluster() as address:
        yield address


def compared(world: World) -> BacktestResult:
    return world.run([world.policy(el.Manual()), world.policy(world.declaration.loops[0].retrain)])


def test_a_backtest_on_ray_makes_the_same_fits_and_gives_the_same_answer(cluster: str, tmp_path: Path) -> None:
    history = rows(days=63)
    here, there = made(tmp_path / "here", history), made(tmp_path / "there", history)
    (there.folder / "everloop.toml").write_text(f'[local]\nexecutor = "ray"\nray = "{cluster}"\n', "utf-8")
    expected, found = compared(here), compared(there)
    assert [each.score for each in found.runs] == [each.score for each in expected.runs]
    assert sorted(there.made) == sorted(here.made)
    assert found.seconds["made"] == len(there.made)
    mail = list((there.folder / ".everloop" / "backtests").glob("mail-*"))
    assert not mail, "workers were told to end"


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    world = made(tmp_path / "lost", rows(days=63))
    (world.folder / "everloop.toml").write_text('[local]\nexecutor = "ray"\nray = "127.0.0.1:1"\n', "utf-8")
    with pytest.raises(JobError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        compared(world)
