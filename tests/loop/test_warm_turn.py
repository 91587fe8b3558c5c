"""``warm=True`` in a declaration: a turn goes on from the model that serves, and begins anew where it cannot."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from everloop.clock import SimulatedClock
from everloop.errors import SpecError
from everloop.loop.controller import Controller
from everloop.loop.events import Asked
from everloop.records import Candidate
from everloop.store.ledger import candidates, decisions, versions
from everloop.train.warm import KEPT
from small_loop import DAY, HEAD, START, SmallLoop, made_rows

LINEAR = HEAD.replace("LogisticRegression", "SGDClassifier")
DECLARED = {
    "train": 'el.Train(SGDClassifier(loss="log_loss", alpha=0.01))',
    "gate": "None",
    "rollout": "el.Direct()",
    "warm": "True",
}


def turned(controller: Controller) -> tuple[Candidate, Any]:
    """Turn once: the new version's candidate, and what it left for the next fit to go on from."""
    controller.take_in()
    controller.ask(Asked(action="run", by="a test"))
    controller.work()
    each = controller.installation
    with each.ledger.read() as connection:
        made = candidates.of(connection, each.name)
        served = versions.of(connection, each.name)
        said = decisions.of(connection, each.name)[-1]
    assert len(served) == len(made), said.because
    return made[-1], pickle.loads((Path(made[-1].folder) / KEPT).read_bytes())


@pytest.mark.parametrize("refit", [False, True])
def test_a_turn_goes_on_from_the_champion(tmp_path: Path, refit: bool) -> None:
    window = f"el.Last(400, test=0.25, refit={refit})"
    loop = SmallLoop(tmp_path, rows=made_rows(600), head=LINEAR, window=window, **DECLARED)
    with loop.controller(SimulatedClock(START + 80 * DAY)) as controller:
        _, first = turned(controller)
        loop.deliver("001", made_rows(600, start=START + 40 * DAY, seed=1))
        _, second = turned(controller)
    seen = 400 if refit else 300
    # It counts the rows it learned from: what was learned before was kept, and this window's came once on top.
    assert second.fitted.model.t_ == first.fitted.model.t_ + seen
    assert second.encoding == first.encoding


def test_a_change_of_the_features_begins_from_nothing(tmp_path: Path) -> None:
    window = "el.Last(400, test=0.25)"
    loop = SmallLoop(tmp_path, rows=made_rows(600), head=LINEAR, window=window, **DECLARED)
    with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
        turned(controller)
    fewer = LINEAR.replace(', "carrier": row.carrier', "")
    assert fewer != LINEAR
    loop.declare(head=fewer, window=window, **DECLARED)
    with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
        _, second = turned(controller)
    assert [each.name for each in second.encoding.features] == ["distance", "hour"]


def test_a_model_that_cannot_go_on_is_refused_before_anything_is_fitted(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(50), warm="True")
    with pytest.raises(SpecError, match=r"The loop has warm=True: LogisticRegression has no partial_fit"):
        loop.install()
