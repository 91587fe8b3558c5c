"""What a newcomer reads before the loop runs."""

from collections.abc import Callable
from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import pytest

import everloop as el
from everloop.records import ColumnType
from everloop.spec.describe import describe
from everloop.spec.loop import Loop
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.spec.train import Estimator

Make = Callable[..., Loop]
Schema = dict[str, ColumnType]
FACTS = LabelFacts(distinct=(True, False), rows=1_000, missing=0)


def text(declared: Resolved | Loop) -> str:
    return "\n".join(describe(declared))


def test_the_shortest_loop_says_every_default_aloud(loop: Make, schema: Schema) -> None:
    said = text(resolve(loop(label="late"), schema, FACTS))
    for words in (
        "Take in every new file of flights/*.parquet. Same id, same row",
        "never a feature: arrived",
        "Check only types and keys (the default)",
        "more than 5 % of such rows is refused as a whole (the default)",
        "Predict late: yes or no (True is yes, False is no, inferred)",
        "known at once (the default)",
        "every column but the key, the time, the label and those known later (the default)",
        "Fit on all labelled rows (the default), without the newest 10 % of them",
        "without a search (the default); seed 0 (the default)",
        "Score by log loss (the default); smaller is better.",
        "most probable class (the default)",
        "not to be worse than the champion by 0.01 or more (95% sure) (the default)",
        "10 %, then 50 % of the traffic, then all of it (the default)",
        "after 14 days, it becomes champion where 200 requests at 50% showed no sign of harm, and waits where they did not",
        "Retrain every 7 days, or when the score on matured labels is 0.02 worse than what the champion once reached "
        "(the default); one at a time, with no pause between them (the default).",
        "every prediction is kept in the log (the default)",
        "no limit on the time of an answer (the default)",
    ):
        assert words in said, f"{words}\n--- is not in ---\n{said}"


def test_a_declaration_that_has_not_met_its_columns_says_what_it_will_infer(loop: Make) -> None:
    said = text(loop(label="late"))
    assert "Predict late: what kind of value, `everloop check` infers." in said
    assert "Learn from every column but the key" in said
    assert "Score by log loss for classes, or by the root mean squared error for numbers (the default)" in said


# A changed field, and words that must be said of it.
SAID: list[tuple[dict[str, Any], str]] = [
    ({"source": el.Csv("x.csv", key=("a", "b"), event_time="t", time_zone="Asia/Tokyo")}, "Same a + b, same row; a row happens at the time in t, read in Asia/Tokyo where it has no zone."),
    ({"source": el.Csv("x.csv", key="a", event_time=el.Fixed("n", datetime(2020, 1, 1, tzinfo=UTC), td(minutes=30)))}, "2020-01-01 00:00 UTC plus 30 minutes for each step of n"),
    ({"checks": [el.check.NotNull("a", "b")]}, "Check that a and b are never missing."),
    ({"checks": [el.check.Between("a", 0, 1), el.check.OneOf("b", ["x"])]}, "that a is between 0 and 1; that b is one of 'x'."),
    ({"checks": [el.check.Fresh(td(hours=6))]}, "the newest row of a file is at most 6 hours old"),
    ({"checks": [el.check.Unique("a")]}, "no two rows of a file share a"),
    ({"checks": [el.check.Matches("a", "^x")]}, "a matches ^x"),
    ({"checks": [el.check.Holds(lambda row: row.a > row.b, "lands later")]}, "lands later (row.a > row.b)"),
    ({"quarantine_up_to": 0.001}, "more than 0.1 % of such rows"),
    ({"label": el.Label("y", delay=td(days=3), absent=0)}, "known 3 days after the event. Where none has come by then, it is 0."),
    ({"label": el.Label("y", delay=td(days=3), source=el.Outcomes())}, "as an outcome that you report"),
    ({"features": lambda row: {"a": row.a, "b": row.a / 2}}, "Learn from 2 features: a; b = row.a / 2."),
    ({"window": el.Last(5_000, test=500, refit=True)}, "Fit on the newest 5,000 labelled rows, without the newest 500 rows: these stay unseen as test rows. What ships is fitted once more with them."),
    ({"window": el.Last(td(days=90), test=td(days=7))}, "rows of the last 90 days, without the newest 7 days"),
    ({"train": el.Train(Estimator(path="a.Model", parameters={"rate": 1}), search=el.Search({"rate": el.Integers(1, 3)}, sampler="grid", pruner="median", workers=2))}, "Search 3 trials for the best parameters of Model (rate from 1 to 3), every combination, judged on the newest part of the training rows, never on the test rows; hopeless trials are given up (median); 2 at once"),
    ({"train": el.Train(Estimator(path="a.Model", parameters={"rate": 1}), search=el.Search({"rate": el.LogUniform(0.01, 0.3)}, trials=40, timeout=td(minutes=5)))}, "Search 40 trials or 5 minutes for the best parameters of Model (rate from 0.01 to 0.3)"),
    ({"train": el.Train(Estimator(path="a.Model", parameters={}), weight={"x": 2}, seed=7, timeout=td(hours=2))}, "weighted 'x': 2; seed 7, at most 2 hours."),
    ({"train": el.Train(Estimator(path="a.Model", parameters={}), weight="balanced")}, "each class weighted alike"),
    ({"train": [Estimator(path="a.One", parameters={}), Estimator(path="a.Two", parameters={})]}, "Go on with the one of these 2 that has the best score."),
    ({"score": el.metric.RocAuc()}, "Score by roc auc; greater is better. Where a mean over rows is needed (shadow), brier stands in."),
    ({"decision": el.Threshold(0.7)}, "decide for yes from a probability of 0.7 on"),
    ({"decision": el.Threshold(precision=0.9)}, "decide for yes as often as it can with a precision of 0.9 on the test rows"),
    ({"decision": el.Threshold(false_positive_rate=0.01)}, "with a false positive rate of 0.01"),
    ({"decision": el.Threshold(minimise=el.metric.F1())}, "where f1 is best on the test rows"),
    ({"gate": None}, "there is no gate"),
    ({"gate": el.Better(0.005, slices="carrier")}, "better than the champion by more than 0.005 (95% sure). A value of carrier on which it is shown worse by more than 0 stops it."),
    ({"gate": el.NotWorse(margin=0.02, slices="carrier", unsure="keep")}, "is kept aside and the champion stays. A value of carrier on which it is shown worse by more than 0.04 stops it."),
    ({"rollout": el.Direct()}, "Give a version that passed all traffic at once."),
    ({"rollout": el.Canary(shadow=False, guards=[], unit="user", sticky="always", then="rollback")}, "Let a version that passed have 10 %, then 50 % of the traffic, then all of it. Guards: none."),
    ({"retrain": el.Every(td(days=2))}, "Mind: a release may take 14 days and a turn is due every 2 days; what is due meanwhile waits."),
    ({"rollout": el.Canary(unit="user")}, "Requests with the same user stay on one side, for an hour."),
    ({"retrain": el.AllOf(el.Rows(5_000), el.Drift(columns=["a", "b"]))}, "Retrain when 5,000 new labelled rows have come and at the same time when a or b drifts from the training rows (about one false alarm in 90 days)"),
    ({"retrain": el.AnyOf(el.AllOf(el.Rows(5), el.Degraded(over=td(days=3))), el.Every(td(days=1), time_zone="Asia/Tokyo", catch_up="all"))}, "Retrain (when 5 new labelled rows have come and at the same time when the score on matured labels over 3 days is 0.02 worse than what the champion once reached), or every 1 day (days of Asia/Tokyo), once for each time that was missed"),
    ({"retrain": el.Manual(), "cooldown": td(days=2)}, "Retrain when you ask for it (everloop run); one at a time, and not within 2 days of the last."),
    ({"warm": True}, "Each fit goes on from the champion's model instead of from nothing."),
    ({"serve": el.Serve(p99=td(milliseconds=20))}, "Serve over HTTP: 99 of 100 answers within 20 milliseconds"),
    (
        {"serve": el.Serve(cache=el.Cache(time_to_live=td(minutes=2)))},
        "the same columns get the same answer for 2 minutes, from a cache of 64,000,000 bytes",
    ),
    ({"serve": el.Serve(log=False), "rollout": el.Direct(), "retrain": el.Manual()}, "NOT kept, only sketches of their columns"),
    ({"serve": el.Serve(log=False), "rollout": el.Direct(), "retrain": el.Manual(), "alerts": []}, "are NOT kept; no cache"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), SAID, ids=[next(iter(each)) for each, _ in SAID])
def test_what_is_declared_is_said(changes: dict[str, Any], words: str, loop: Make) -> None:
    said = text(loop(**changes))
    assert words in said, said


def test_what_is_declared_is_not_called_the_default(loop: Make) -> None:
    said = text(
        loop(gate=el.NotWorse(margin=0.02), window=el.Last(td(days=9)), quarantine_up_to=0.1, cooldown=td(days=1))
    )
    assert "0.02 or more (95% sure);" in said
    assert "the last 9 days, without" in said
    assert "10 % of such rows is refused as a whole." in said


def test_every_line_is_a_sentence(loop: Make, schema: Schema) -> None:
    for line in (*describe(loop()), *describe(resolve(loop(), schema, FACTS))):
        assert line.endswith("."), line
        assert line[0].isupper()
        assert "None" not in line
        assert "object at" not in line


def test_a_release_that_ends_before_the_next_turn_is_due_needs_no_warning(loop: Make) -> None:
    short = el.Canary(longest=td(days=5), minimum=td(days=1))
    assert "Mind:" not in text(loop(rollout=short, retrain=el.Every(td(days=7))))
    assert "Mind:" not in text(loop(retrain=el.Manual()))
    assert "Mind:" not in text(loop(rollout=el.Direct(), retrain=el.Every(td(days=1))))
