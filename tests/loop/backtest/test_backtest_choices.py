"""Which policies are compared, where they come from, and how thresholds and proposals are found."""

import json
from datetime import timedelta as td
from pathlib import Path

import pytest

import everloop as el
from everloop.errors import SpecError
from everloop.loop.backtest import policy_file
from everloop.loop.backtest.calibrate import calibrated
from everloop.loop.backtest.search import searched
from everloop.loop.backtest.what_if import Change, changed
from everloop.spec.policy import Policy
from known_world import World

EVERY = el.Every(td(days=7))


def test_without_policies_there_are_the_declared_one_never_schedules_drift_and_a_fallen_score(world: World) -> None:
    with world.open([]) as running:
        names = [each.name for each in running.policies()]
    assert names[0] == "every week · last 3 weeks · no gate"
    assert names[1] == "never · last 3 weeks · no gate"
    assert len(names) == len(set(names))
    assert {name.partition(" · ")[0] for name in names} >= {"every 2 weeks", "every 8 weeks", "degraded by 0.02"}
    assert any("drift" in name for name in names)
    assert {name.split(" · ")[1] for name in names} == {"last 2 weeks", "last 3 weeks", "last 6 weeks"}


def test_policies_are_read_from_python_and_from_json(tmp_path: Path) -> None:
    file = tmp_path / "policies.py"
    file.write_text(
        "from datetime import timedelta as td\nimport everloop as el\n"
        "weekly = el.Policy(el.Every(td(days=7)))\npolicies = [weekly, el.Policy(el.Manual(), gate=None)]\n"
    )
    found = policy_file.read(file)
    assert [each.name for each in found] == ["every week · all rows", "never · all rows · no gate"]
    written = tmp_path / "policies.json"
    written.write_text(json.dumps([each.to_json() for each in found]))
    assert policy_file.read(written) == found


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.py", "policies = []", r"a.py holds no policy; write policies"),
        ("a.py", "import everloop as el\np = el.Policy(el.Every(7))", r"a.py:2: SpecError: Every.period is 7"),
        ("a.py", "p = (", r"a.py:1: .*; correct the line"),
        ("a.json", "{}", r"a.json is an object without runs or policies; give what everloop backtest --json printed"),
        ("a.json", '{"policies": 3}', r"a.json holds 3 and no list of policies"),
        ("a.json", "[{}]", r"a.json, policy 1: Policy has no retrain; write Policy"),
        ("a.json", '[{"policy": 5}]', r"a.json, policy 1 is 5 and no policy; give what"),
        ("a.json", '[{"retrain": {"period": 7}}]', r"policy 1: retrain is an object that does not say its kind; give"),
        ("a.json", '[{"retrain": {"kind": "Weekly"}}]', r"retrain is of the kind 'Weekly', which there is not; give"),
        (
            "a.json",
            '[{"retrain": {"kind": "AnyOf", "triggers": [{"kind": "Often"}]}}]',
            r"of the kind 'Often', which there",
        ),
        ("a.json", '[{"retrain": {"kind": "Every"}}]', r"policy 1: Every has no period; write Every"),
        (
            "a.json",
            '[{"retrain": {"kind": "Every", "period": {"kind": "timedelta", "microseconds": -4}}}]',
            r"a.json, policy 1: Every.period is -.*; write more than zero",
        ),
        (
            "a.json",
            '[{"retrain": {"kind": "Manual"}, "window": "35d"}]',
            r"policy 1: Policy.window is '35d'; write Last",
        ),
        ("a.json", "[", r"a.json is not JSON"),
        ("a.txt", "", r"neither Python nor JSON"),
    ],
)
def test_a_file_that_holds_no_policies_is_told_so(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SpecError, match=says):
        policy_file.read(tmp_path / name)
    with pytest.raises(SpecError, match="There is no file"):
        policy_file.read(tmp_path / "other.py")


def test_a_threshold_is_the_most_sensitive_one_that_keeps_the_budget(world: World) -> None:
    present = world.policy(el.Degraded(by=0.05, over=td(days=7)))
    with world.open([present]) as running:
        tight = calibrated(running, present, budget=td(days=365))
        loose = calibrated(running, present, budget=td(days=10))
    for found in (*tight, *loose):
        assert found.tried[0].value != found.tried[-1].value
        if found.policy is not None:
            chosen = next(each for each in found.tried if each.value == found.chosen)
            assert chosen.false <= chosen.alarms
    by, again = tight[0], loose[0]
    assert by.name == "Degraded.by"
    assert again.chosen is not None
    assert again.policy == world.policy(el.Degraded(by=again.chosen, over=td(days=7)))
    # A tighter budget never asks for a more sensitive threshold.
    assert by.chosen is None or by.chosen >= again.chosen
    assert "at most one false alarm in 10 days" in again.words


def test_a_search_runs_no_policy_twice_and_makes_no_fit_twice(world: World) -> None:
    present = world.policy(EVERY)
    with world.open([present]) as running:
        running.run([present])
        found = searched(running, present, trials=12)
        result = running.result([present, *found])
        same = searched(running, present, trials=12)
    assert 2 <= len(found) <= 12
    assert len({each.digest for each in found}) == len(found)
    assert [each.digest for each in same] == [each.digest for each in found]
    assert len(world.made) == len(set(world.made))
    assert {each.digest for each in result.runs} == {present.digest, *(each.digest for each in found)}


def test_later_labels_ask_for_fits_that_were_made_earlier(world: World) -> None:
    policies = [world.policy(EVERY), world.policy(el.Manual())]
    with world.open(policies) as running:
        result = running.result(policies)
        later, new = changed(running, policies, result, Change(words="later", later=td(days=14)))
        fewer, newer = changed(running, policies, result, Change(words="fewer", labels=0.5))
    # A turn sees what one saw two windows before: only the first ones see rows that no turn had seen.
    assert new <= 3
    assert later.delay == td(days=15)
    assert later.runs[0].score is not None
    assert result.runs[0].score is not None
    assert later.runs[0].score < result.runs[0].score
    assert newer > 5
    assert all(
        0.3 * one.rows < half.rows < 0.7 * one.rows
        for one, half in zip(result.runs[0].retrains, fewer.runs[0].retrains, strict=True)
    )


def test_a_price_changes_nothing_but_money(world: World) -> None:
    policies = [world.policy(EVERY)]
    with world.open(policies, prices=el.Prices(retrain=10.0)) as running:
        result = running.result(policies)
        dearer, new = changed(running, policies, result, Change(words="dearer", retrain=2.0))
    assert new == 0
    assert dearer.runs[0].costs.money == 2 * (result.runs[0].costs.money or 0) > 0
    assert dearer.runs[0].windows == result.runs[0].windows


def test_a_policy_goes_on_from_its_own_model(tmp_path: Path) -> None:
    from known_world import made

    head = (
        "from datetime import timedelta as td\nfrom sklearn.linear_model import SGDClassifier\n"
        "import everloop as el\nloop = el.Loop(\n"
    )
    world = made(tmp_path / "warm", head=head, train='el.Train(SGDClassifier(loss="log_loss"))')
    result = world.run([world.policy(EVERY, warm=True), world.policy(EVERY)])
    warm = [each.fit for each in result.runs[0].retrains]
    assert result.fits[warm[0] or ""].name.parent is None
    assert result.fits[warm[2] or ""].name.parent == warm[1]
    cold = {each.fit for each in result.runs[1].retrains}
    assert cold & set(warm) == {warm[0]}
    assert all(Policy.from_json(each.policy.to_json()) == each.policy for each in result.runs)
