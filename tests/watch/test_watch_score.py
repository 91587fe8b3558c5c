from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.clock import microseconds
from everloop.records import InputColumn, Signature
from everloop.spec.metric import Accuracy, LogLoss, RocAuc
from everloop.store.lake import Lake
from everloop.watch.fold import fold
from everloop.watch.labels import Truth, answers, matured, truths, unfit_labels
from everloop.watch.score import Judged, Reference, bound, degradation, score

START = datetime(2024, 1, 1, tzinfo=UTC)
TRUTH = Truth(column="late", delay=td(days=3), task="binary", classes=(0, 1))
Signatures = dict[str, Signature]


def us(days: float) -> int:
    return microseconds(START + td(days=days))


def rows_of(seed: int, count: int, *, days: int = 28, wrong: float = 0.0) -> Judged:
    """A calibrated model on ``count`` rows; a share of the newest half's labels turned round."""
    random = np.random.default_rng(seed)
    chance = random.beta(2, 3, count)
    label = (random.random(count) < chance).astype(np.int64)
    newest = np.arange(count) >= count // 2
    label = np.where(newest & (random.random(count) < wrong), 1 - label, label)
    times = np.linspace(us(0), us(days), count).astype(np.int64)
    return Judged(truth=label, prediction=np.stack([1 - chance, chance], axis=1), times=times)


# Labels


def test_a_row_is_judged_when_its_label_is_due_and_not_before(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a", "b"], at=[us(0), us(1)], chance=[0.2, 0.8])
    log.outcomes([("a", 1, us(1)), ("b", 0, us(1))])
    fold(log.folder, lake, signatures)
    assert matured(lake, TRUTH, since=None, until=START + td(days=2)).is_empty()
    first = matured(lake, TRUTH, since=None, until=START + td(days=3))
    assert first["id"].to_list() == ["a"]
    second = matured(lake, TRUTH, since=START + td(days=3), until=START + td(days=4))
    assert second["id"].to_list() == ["b"]
    assert truths(second, TRUTH).tolist() == [0]
    assert answers(second, TRUTH).tolist() == [pytest.approx([0.2, 0.8])]


def test_a_score_is_of_rows_as_the_world_sends_them(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a"], at=[us(0)])
    log.predictions(["b"], at=[us(0)], arm="experiment", experiment="e", variant="control", share=0.5)
    log.predictions(["c"], at=[us(0)], arm="route", variant="easy")
    log.predictions(["d"], at=[us(0)], arm="override")
    fold(log.folder, lake, signatures)
    found = matured(lake, TRUTH, since=None, until=START + td(days=3), versions=[1])
    assert sorted(found["id"]) == ["a", "b"], "a route chooses its rows, and so does a tester"


def test_the_latest_label_counts_and_one_from_the_future_does_not(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a"], at=[us(0)])
    log.outcomes([("a", 0, us(4)), ("a", 1, us(2)), ("a", 0, us(9))])
    fold(log.folder, lake, signatures)
    due = START + td(days=3)
    assert matured(lake, TRUTH, since=None, until=due)["truth"].to_list() == [1]
    assert matured(lake, TRUTH, since=None, until=START + td(days=5))["truth"].to_list() == [0]


def test_labels_come_from_the_source_s_rows_too_and_a_report_corrects_them(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    lake.append(
        "raw",
        pl.DataFrame(
            {"_key": ["a", "b", "c"], "_event_time": [START] * 3, "late": [1, 0, None]},
            schema_overrides={"_event_time": pl.Datetime("us", "UTC")},
        ),
    )
    log.predictions(["a", "b", "c"], at=[us(0)] * 3)
    log.outcomes([("b", 1, us(3))])
    fold(log.folder, lake, signatures)
    found = matured(lake, TRUTH, since=None, until=START + td(days=4)).sort("id")
    assert found["truth"].to_list() == [1, 1, None]


def test_no_news_is_an_answer_where_it_is_declared_so(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a"], at=[us(0)])
    fold(log.folder, lake, signatures)
    silent = Truth(column="late", delay=td(days=3), task="binary", classes=(0, 1), absent=0)
    assert matured(lake, silent, since=None, until=START + td(days=4))["truth"].to_list() == [0]


@pytest.mark.parametrize(
    ("classes", "reported", "places"),
    [
        ((0, 1), [1, "1", True, 7], [1, 1, 1, None]),
        ((False, True), [True, "true", 0, "maybe"], [1, 1, 0, None]),
        (("no", "yes"), ["yes", "no", "perhaps", "yes"], [1, 0, None, 1]),
    ],
)
def test_a_label_finds_its_class_however_a_client_writes_it(
    log: Any, lake: Lake, signatures: Signatures, classes: Any, reported: list[Any], places: list[int]
) -> None:
    ids = ["a", "b", "c", "d"]
    log.predictions(ids, at=[us(0)] * 4)
    log.outcomes([(key, value, us(1)) for key, value in zip(ids, reported, strict=True)])
    fold(log.folder, lake, signatures)
    truth = Truth(column="late", delay=td(days=3), task="binary", classes=classes)
    assert matured(lake, truth, since=None, until=START + td(days=4)).sort("id")["truth"].to_list() == places
    assert unfit_labels(lake, truth, since=START, now=START + td(days=4)) == 1


def test_what_is_neither_of_two_classes_hides_no_label_and_a_third_of_three_is_a_wrong_answer(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(["a", "b"], at=[us(0)] * 2)
    log.outcomes([("a", "no", us(1)), ("a", "perhaps", us(2)), ("b", "yes", us(1)), ("b", None, us(2))])
    fold(log.folder, lake, signatures)
    for classes, places in ((("no", "yes"), [0, None]), (("no", "yes", "soon"), [-1, None])):
        task: Any = "binary" if len(classes) == 2 else "multiclass"
        truth = Truth(column="late", delay=td(days=3), task=task, classes=classes)
        found = matured(lake, truth, since=None, until=START + td(days=4)).sort("id")
        assert found["truth"].to_list() == places, "a label that is taken back is one no more"
        assert unfit_labels(lake, truth, since=START, now=START + td(days=4)) == int(len(classes) == 2)


def test_what_is_no_number_hides_no_label_and_a_null_takes_one_back(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(["a", "b", "c", "d"], at=[us(0)] * 4)
    log.outcomes(
        [
            *(("a", 2.5, us(1)), ("a", "many", us(2))),
            *(("b", 2.5, us(1)), ("b", "many", us(2)), ("b", None, us(3))),
            *(("c", "many", us(1)), ("c", 2**60, us(2))),
            ("d", "many", us(1)),
        ]
    )
    fold(log.folder, lake, signatures)
    truth = Truth(column="late", delay=td(days=3), task="regression")
    found = matured(lake, truth, since=None, until=START + td(days=4)).sort("id")
    assert found["truth"].to_list() == [2.5, None, 2**60, None]
    assert unfit_labels(lake, truth, since=START, now=START + td(days=4)) == 2, "what was settled since is none"


def test_a_version_with_its_classes_in_another_order_is_read_in_ours(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(["a"], at=[us(0)], chance=[0.9], version=1)
    log.predictions(["b"], at=[us(0)], chance=[0.9], version=2)
    log.outcomes([("a", 1, us(1)), ("b", 1, us(1))])
    fold(log.folder, lake, signatures)
    rows = matured(lake, TRUTH, since=None, until=START + td(days=4)).sort("id")
    assert answers(rows, TRUTH, {2: (1, 0)})[:, 1].tolist() == pytest.approx([0.9, 0.1])


def test_failed_and_fallback_rows_are_nobody_s_score(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["a", "b"], at=[us(0)] * 2, failed=[True, False])
    log.predictions(["c"], at=[us(0)], arm="fallback")
    log.predictions(["d"], at=[us(0)], arm="challenger")
    fold(log.folder, lake, signatures)
    assert matured(lake, TRUTH, since=None, until=START + td(days=4))["id"].to_list() == ["b"]


# Scores


def test_a_few_rows_have_no_score() -> None:
    assert score(LogLoss(), rows_of(0, 99)) is None
    assert score(LogLoss(), rows_of(0, 100)) is not None


def test_an_unchanged_champion_is_rarely_called_worse() -> None:
    calls = 0
    for seed in range(300):
        reference = score(LogLoss(), rows_of(10_000 + seed, 700))
        assert reference is not None
        found = degradation(
            LogLoss(), rows_of(seed, 1_000), Reference(value=reference.value, rows=700, source="gate"), by=0.02
        )
        assert found is not None
        calls += found.worse
    assert calls <= 3  # .1 % nominal: P(more than 3 of 300) < .1 %


@pytest.mark.parametrize("metric", [LogLoss(), RocAuc(), Accuracy()], ids=lambda each: each.name)
def test_a_champion_that_fell_is_called_worse(metric: Any) -> None:
    reference = score(metric, rows_of(1, 5_000))
    assert reference is not None
    found = degradation(
        metric, rows_of(2, 2_000, wrong=0.4), Reference(value=reference.value, rows=700, source="at its gate"), by=0.02
    )
    assert found is not None
    assert found.worse
    assert found.difference > 0.05
    assert "at its gate" in found.because


def test_getting_better_is_no_degradation() -> None:
    found = degradation(LogLoss(), rows_of(3, 2_000), Reference(value=0.9, rows=700, source="gate"), by=0.02)
    assert found is not None
    assert found.difference < 0
    assert not found.worse


def test_a_fresh_fall_is_seen_in_the_newest_rows_only() -> None:
    old = rows_of(4, 4_000)
    truth = old.truth.copy()
    truth[-200:] = 1 - truth[-200:]
    fallen = Judged(truth=truth, prediction=old.prediction, times=old.times)
    reference = score(LogLoss(), rows_of(5, 5_000))
    assert reference is not None
    found = degradation(LogLoss(), fallen, Reference(value=reference.value, rows=1_000, source="gate"), by=0.02)
    assert found is not None
    assert found.worse
    assert found.rows < 4_000


def test_a_small_window_with_a_large_difference_does_not_cry_wolf() -> None:
    unlucky = rows_of(6, 120, wrong=0.12)
    found = degradation(LogLoss(), unlucky, Reference(value=0.58, rows=700, source="gate"), by=0.001)
    assert found is not None
    assert not found.worse


def test_days_that_differ_widen_the_noise() -> None:
    random = np.random.default_rng(7)
    day = np.repeat(np.arange(28), 100)
    chance = np.full(2_800, 0.5)
    label = (random.random(2_800) < np.clip(0.5 + random.normal(0, 0.3, 28)[day], 0, 1)).astype(np.int64)
    prediction = np.stack([1 - chance, chance], axis=1)
    prediction[:, 1] = 0.7
    prediction[:, 0] = 0.3
    times = (us(0) + day * 86_400_000_000).astype(np.int64)
    found = score(LogLoss(), Judged(truth=label, prediction=prediction, times=times))
    assert found is not None
    independent = float(np.log(7 / 3)) * 0.5 / np.sqrt(2_800)
    assert found.standard_error > 3 * independent


def test_what_was_reached_is_stated_less_its_noise() -> None:
    found = score(RocAuc(), rows_of(8, 1_000))
    assert found is not None
    assert bound(RocAuc(), found) < found.value
    loss = score(LogLoss(), rows_of(8, 1_000))
    assert loss is not None
    assert bound(LogLoss(), loss) > loss.value


def test_a_regression_s_labels_are_numbers(log: Any, lake: Lake) -> None:
    signature = Signature(inputs=(InputColumn(name="x", type="number", index=0),), task="regression")
    log.predictions(["a"], at=[us(0)], values=[12.0], numbers=[1.0], integers=[], texts=[])
    log.outcomes([("a", 10, us(1))])
    fold(log.folder, lake, {"package": signature})
    truth = Truth(column="late", delay=td(0), task="regression")
    rows = matured(lake, truth, since=None, until=START + td(days=2))
    assert (truths(rows, truth).tolist(), answers(rows, truth).tolist()) == ([10.0], [12.0])
