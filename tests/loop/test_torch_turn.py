"""A declared network goes the whole way: fit in a job, one graph, parity, package, served answers."""

from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch

from everloop.clock import SimulatedClock
from everloop.data.snapshot import samples
from everloop.loop.events import Asked
from everloop.loop.fit_job import replayed
from everloop.loop.trial import Predictable
from everloop.records import Candidate, decode
from everloop.store import packages
from everloop.store.ledger import candidates, decisions, snapshots, versions
from small_loop import DAY, START, SmallLoop, made_rows
from tiny_nets import HEAD

pytestmark = pytest.mark.xdist_group("torch")


def turned(loop: SmallLoop) -> tuple[Candidate, Predictable]:
    with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
        controller.take_in()
        controller.ask(Asked(action="run", by="a test"))
        controller.work()
        each = controller.installation
        with each.ledger.read() as connection:
            made = versions.of(connection, each.name)
            said = decisions.of(connection, each.name)[-1]
        assert made, said.because
        (record,) = each.home.candidates.glob("*/candidate.json")
        opened = packages.open_package(each.home.packages / made[-1].package, packages.trusted_keys(each.home.keys))
        return decode(record.read_bytes(), Candidate), Predictable(opened)


@pytest.mark.parametrize(
    "train", ["el.Torch(Net, parameters={'hidden': 8}, epochs=12, learning_rate=0.02)", "el.Train(own)"]
)
def test_a_declared_network_is_served_from_one_graph(tmp_path: Path, train: str) -> None:
    gaps = pl.when(pl.int_range(pl.len()) % 7 == 0).then(None).otherwise(pl.col("distance"))
    loop = SmallLoop(tmp_path, rows=made_rows(900).with_columns(gaps.alias("distance")), train=train, head=HEAD)
    candidate, package = turned(loop)
    assert candidate.score < 0.55
    details = msgspec.json.decode((Path(candidate.folder) / "details.json").read_bytes())
    assert details["parity"]["worst"] <= 1
    assert details["requirements"]["torch"]
    near, far = (
        package.predict({"distance": far, "carrier": "north", "sent": START})["probability"][True]
        for far in (10.0, 990.0)
    )
    assert near < 0.2 < 0.8 < far
    missing = package.predict({"distance": None, "carrier": "never seen", "sent": None})
    assert np.isfinite(missing["probability"][True])


def test_a_fit_may_begin_with_the_champion_and_remember_rows_of_before_its_window(tmp_path: Path) -> None:
    train = "el.Torch(Net, parameters={'hidden': 8}, epochs=%s, learning_rate=%s, start='champion', replay=0.5)"
    loop = SmallLoop(
        tmp_path, rows=made_rows(900), train=train % (10, 0.02), head=HEAD, window="el.Last(400, test=0.2)", gate="None"
    )
    first, _ = turned(loop)
    loop.declare(train=train % (1, 1e-9), head=HEAD, window="el.Last(300, test=0.2)", gate="None")
    with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
        controller.ask(Asked(action="run", by="a test"))
        controller.work()
        each = controller.installation
        with each.ledger.read() as connection:
            made = candidates.of(connection, each.name)
            snapshot = snapshots.get(connection, made[-1].snapshot)
        taken = samples(each.resolved, each.lake, snapshot)
        rows = replayed(each.resolved, each.lake, snapshot, taken)
        again = replayed(each.resolved, each.lake, snapshot, taken)
    assert len(taken.train) == 240
    assert len(rows.train) == 360
    assert rows.train.equals(again.train)
    assert rows.train["_event_time"][:120].max() < snapshot.train_from  # type: ignore[operator]
    assert [one.digest for one in made[:-1]] == [first.digest]
    before, after = (torch.load(Path(one.folder) / "network.pt") for one in (first, made[-1]))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.allclose(weight, after[name], atol=1e-5)
