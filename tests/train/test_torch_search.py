"""A search over a network's fields: scores by epoch, hopeless trials given up, the same again from the same seed."""

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


def test_a_network_tells_its_score_by_epoch_and_hopeless_ones_are_given_up(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    x, z = random.normal(size=400), random.normal(size=400)
    rows = Rows(
        features={"x": x, "z": z}, types={"x": "number", "z": "number"}, target=(x + z > 0).astype(np.int64),
        event_time=np.arange(400, dtype=np.int64), columns={},
    )  # fmt: skip
    declared = Train(
        el.Torch(Net, epochs=4, batch_size=64),
        search=Search({"learning_rate": LogUniform(1e-6, 1e-1)}, trials=12, pruner="median"),
        seed=1,
    )
    goal = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
    one, two = (compete.train(declared, rows, goal, cores=1, folder=tmp_path / name) for name in ("one", "two"))
    ended = trials.of(tmp_path / "one" / "search-0")
    assert [step for step, _ in ended[0].steps] == [1, 2, 3, 4]
    assert any(each.state == "pruned" and len(each.steps) < 4 for each in ended.values())
    assert one.parameters == two.parameters
    assert [each["score"] for each in one.entries[0].trials] == [each["score"] for each in two.entries[0].trials]
