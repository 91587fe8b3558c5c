"""A backtest and a replay of one declaration over one history decide alike: the same retrains, the same scores."""

from datetime import timedelta as td
from pathlib import Path

import pytest

from everloop.loop.replay import Plan, Replay, read_history
from everloop.spec.policy import Policy
from known_world import DAY, HEAD, START, made, rows

LINEAR = HEAD.replace("sklearn.tree import DecisionTreeClassifier", "sklearn.linear_model import SGDClassifier")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "declared"),
    [
        (HEAD, {"gate": "None"}),
        (HEAD, {"gate": "el.NotWorse(margin=0.05)"}),
        (LINEAR, {"train": 'el.Train(SGDClassifier(loss="log_loss"))', "warm": "True"}),
    ],
    ids=["no gate", "gate", "warm"],
)
def test_a_backtest_decides_as_the_whole_real_system_does(tmp_path: Path, head: str, declared: dict[str, str]) -> None:
    world = made(
        tmp_path / "world",
        rows(days=70),
        head=head,
        rollout="el.Direct()",
        # The drift of nothing and a score that falls when the world turns: both are watched by the real thing.
        retrain="el.AnyOf(el.Every(td(days=14)), el.Degraded(by=0.1, over=td(days=7)), el.Drift(window=td(days=14)))",
        **declared,
    )
    (loop,) = world.declaration.loops
    start, end = START + 23 * DAY, START + 65 * DAY
    history = read_history(loop, world.declaration.source, world.folder)
    replay = Replay(history, Plan(home=tmp_path / "replay", start=start, to=end, look=DAY))
    try:
        account = replay.run()
    finally:
        replay.close()
    began = [each for each in account.decisions if each.action == "turn started"][1:]

    policy = Policy.of(loop)
    assert policy.warm is loop.warm
    run = world.run([policy], start=start, end=end, takes=td(0), looks=7).runs[0]
    turns = [each for each in run.retrains if each.window >= 0]
    assert [each.started for each in turns] == [each.at for each in began]
    assert [each.because.partition(":")[0] for each in turns] == [each.because.partition(":")[0] for each in began]
    assert len(turns) >= 4
    assert any("degraded" in each.kinds for each in turns)
    released = [each for each in account.decisions if each.action == "released"]
    assert [each.live for each in run.retrains if each.live is not None] == [each.at for each in released]
    assert run.score == pytest.approx(account.score, abs=1e-9)
