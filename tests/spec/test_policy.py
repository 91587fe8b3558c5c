"""A policy is a value: it can be pasted into a declaration, and written down and read again."""

from datetime import timedelta as td

import pytest

import everloop as el
from everloop.errors import SpecError
from everloop.spec.policy import Policy

POLICIES = [
    Policy(el.Manual()),
    Policy(el.Every(td(days=28)), window=el.Last(td(days=56), test=td(days=7), refit=True), gate=None),
    Policy(el.Rows(5_000), window=el.Last(20_000, test=1_000), gate=el.Better(0.01), warm=True),
    Policy(
        el.AnyOf(
            el.Every(td(hours=36), time_zone="Europe/Berlin"),
            el.AllOf(el.Drift(columns="miles"), el.Degraded(by=0.03, detector=el.detector.Adwin(delta=0.01))),
        ),
        cooldown=td(minutes=90),
    ),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_policy_is_read_as_it_was_written(policy: Policy) -> None:
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_json(policy.to_json()).digest == policy.digest


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_line_of_a_policy_is_what_one_types(policy: Policy) -> None:
    typed = eval(f"dict({policy.line})", {"el": el, "td": td})
    assert Policy(**typed) == policy


def test_policies_that_differ_in_one_field_have_two_digests() -> None:
    assert len({policy.digest for policy in POLICIES}) == len(POLICIES)
    assert Policy(el.Manual()).digest != Policy(el.Manual(), warm=True).digest


def test_a_policy_has_a_name_for_people() -> None:
    assert [policy.name for policy in POLICIES[:3]] == [
        "never · all rows",
        "every 4 weeks · last 8 weeks, refit · no gate",
        "every 5,000 labels · last 20,000 rows · better by 0.01 · warm",
    ]


def test_a_mistake_in_a_policy_is_told_with_its_value() -> None:
    with pytest.raises(SpecError, match=r"Policy.cooldown is -1 day"):
        Policy(el.Manual(), cooldown=td(days=-1))
    with pytest.raises(SpecError, match=r"no value of a declaration"):
        Policy.from_json({"retrain": {"kind": "Sometimes"}})
