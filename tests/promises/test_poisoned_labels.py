"""Promise 5: a candidate that was fitted on flipped labels never becomes champion; the next sound one does."""

from pathlib import Path

import pytest

from everloop.loop.account import Account
from everloop.loop.inject import Span
from small_loop import DAY, START, SmallLoop, made_rows

POISON = Span(START + 7 * DAY, 9 * DAY)
"""All that the turn of 22 January learns from; what it is tested on came later and is sound."""
TURN = START + 21 * DAY
ROLLOUT = (
    "el.Canary(shares=(0.5,), guards=(el.guard.Errors(),), minimum=td(days=1), minimum_requests=20, longest=td(days=8))"
)


def replayed(folder: Path, *, gate: str) -> Account:
    loop = SmallLoop(
        folder / "loop",
        rows=made_rows(2_600, days=44),
        window="el.Last(td(days=14), test=td(days=5))",
        retrain="el.Every(td(days=14))",
        rollout=ROLLOUT,
        gate=gate,
    )
    return loop.replay(folder / "home", poison=POISON, start=START + 8 * DAY)


@pytest.mark.parametrize(
    ("gate", "action"),
    [("el.NotWorse(margin=0.05)", "rejected"), ("None", "rolled back")],
    ids=["by its gate", "in shadow, where there is no gate"],
)
def test_a_candidate_with_flipped_labels_is_turned_back_and_a_sound_one_follows(
    tmp_path: Path, gate: str, action: str
) -> None:
    account = replayed(tmp_path, gate=gate)
    poisoned, sound = account.versions[1], account.versions[2]
    assert poisoned.created_at == TURN
    turned_back = next(each for each in account.decisions if each.version == poisoned.number and each.action == action)
    assert "worse" in turned_back.because
    assert not any(each.action == "promoted" and each.version == poisoned.number for each in account.decisions)
    exposed = [period for period in account.periods if period.challenger == poisoned.number and period.share > 0]
    assert exposed == []
    assert all(period.champion != poisoned.number for period in account.periods)

    assert sound.verdict.promote
    assert account.periods[-1].champion == sound.number
    assert account.failed == 0
