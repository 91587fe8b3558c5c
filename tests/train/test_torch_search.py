"""A search over a network's fields: scores by epoch, hopeless trials given up, the same again from the same seed."""

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import everloop as el
from everloop.spec.metric import LogLoss
from everloop.spec.train import LogUniform, Search, Train
from everloop.train import compete, trials
from everloop.train.compete import Rows
from everloop.train.judging import Goal
from tiny_nets import Net

pytestmark = pytest.mark.xdist_group("torch")


GOAL = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
DECLARED = Train(
    el.Torch(Net, epochs=4, batch_size=64),
    search=Search({"learning_rate": LogUniform(1e-6, 1e-1)}, trials=12, pruner="halving"),
    seed=1,
)


def rows() -> Rows:
    random = np.random.default_rng(5)
    x, z = random.normal(size=400), random.normal(size=400)
    return Rows(
        features={"x": x, "z": z}, types={"x": "number", "z": "number"}, target=(x + z > 0).astype(np.int64),
        event_time=np.arange(400, dtype=np.int64), columns={},
    )  # fmt: skip


def test_a_network_tells_its_score_by_epoch_and_hopeless_ones_are_given_up(tmp_path: Path) -> None:
    one, two = (compete.train(DECLARED, rows(), GOAL, cores=1, folder=tmp_path / name) for name in ("one", "two"))
    ended = trials.of(tmp_path / "one" / "search-0")
    assert [step for step, _ in ended[0].steps] == [1, 2, 3, 4]
    assert any(each.state == "pruned" and len(each.steps) < 4 for each in ended.values())
    assert one.parameters == two.parameters
    assert [each["score"] for each in one.entries[0].trials] == [each["score"] for each in two.entries[0].trials]


def searching(folder: Path) -> None:
    compete.train(DECLARED, rows(), GOAL, cores=1, folder=folder)


def test_a_search_that_is_killed_in_the_middle_of_a_trial_goes_on_to_the_same_end(tmp_path: Path) -> None:
    undisturbed = compete.train(DECLARED, rows(), GOAL, cores=1, folder=tmp_path / "undisturbed")
    place = tmp_path / "killed" / "search-0"
    process = multiprocessing.get_context("spawn").Process(target=searching, args=(tmp_path / "killed",))
    process.start()
    until = time.monotonic() + 120
    while len(list(place.glob("trial-*.json"))) < 5 and process.is_alive() and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended before"
    before = trials.of(place)
    assert 5 <= len(before) < 12
    again = compete.train(DECLARED, rows(), GOAL, cores=1, folder=tmp_path / "killed")
    assert {number: trials.of(place)[number] for number in before} == before, "none that had ended is done again"
    told = [
        [(each["parameters"], each["score"], each.get("pruned_at")) for each in made.entries[0].trials]
        for made in (undisturbed, again)
    ]
    assert told[0] == told[1]
