"""What a fit refuses to hand on."""

from pathlib import Path

from everloop.clock import SimulatedClock
from everloop.loop.events import Asked
from everloop.store.ledger import decisions, versions
from small_loop import DAY, START, SmallLoop


def test_a_score_that_the_held_out_rows_do_not_define_ends_the_turn_and_says_what_to_hold_out(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, score="el.metric.RocAuc()", window="el.Everything(test=1, refit=True)")
    with loop.controller(SimulatedClock(START + 40 * DAY)) as controller:
        controller.take_in()
        controller.ask(Asked(action="run", by="a test"))
        controller.work()
        each = controller.installation
        with each.ledger.read() as connection:
            said = decisions.of(connection, each.name)[-1]
            made = versions.of(connection, each.name)
    assert not made
    assert said.action == "turn failed"
    assert "roc_auc is nan on 1 held-out rows with 1 different labels; hold out more in window.test" in said.because
