from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.clock import microseconds
from everloop.records import Release, Signature, decode, encode
from everloop.spec.guard import Errors, Latency
from everloop.spec.metric import Accuracy, Brier, LogLoss
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch.fold import fold
from everloop.watch.labels import Truth, matured
from everloop.watch.service import (
    Baseline,
    Pairs,
    Tally,
    baseline,
    failed_in_shadow,
    guard_evidence,
    merged,
    pairs,
    tally,
)

START = datetime(2024, 1, 1, tzinfo=UTC)
RELEASE = Release(
    loop="parcels", revision=5, stage="canary", champion=1, challenger=2, share=0.1, epoch=3, started=START
)
GUARDS = (Errors(), Latency(quantile=0.99))
FROZEN = Baseline(rows=1_000, error_rate=0.01, limits={"0.99": 1_000.0}, rates={"0.99": 0.01})
TRUTH = Truth(column="late", delay=td(0), task="binary", classes=(0, 1))
Signatures = dict[str, Signature]


def us(hours: float) -> int:
    return microseconds(START + td(hours=hours))


def names(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def test_counts_are_kept_apart_by_epoch(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(names(9, "a"), arm="champion", epoch=3, share=0.1, latency=[500] * 8 + [2_000])
    log.predictions(names(1, "b"), arm="challenger", version=2, epoch=3, share=0.1, failed=[True])
    log.predictions(names(5, "c"), arm="champion", epoch=4, share=0.5)
    log.predictions(names(6, "d"), arm="challenger", version=2, epoch=4, share=0.5, latency=[3_000] * 6)
    fold(log.folder, lake, signatures)
    found = tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN)
    assert found == (
        Tally(
            epoch=3,
            share=0.1,
            challenger_units=1,
            champion_units=9,
            challenger_events=(1, 0),
            champion_events=(0, 1),
        ),
        Tally(
            epoch=4,
            share=0.5,
            challenger_units=6,
            champion_units=5,
            challenger_events=(0, 6),
            champion_events=(0, 0),
        ),
    )


def test_a_failure_that_the_champion_answered_counts_once_and_as_the_challenger_s(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(["a"], arm="challenger", version=2, epoch=3, share=0.1, failed=[True])
    log.predictions(["a"], arm="fallback", version=1, epoch=3, share=0.1)
    fold(log.folder, lake, signatures)
    (found,) = tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN)
    assert (found.challenger_units, found.champion_units, found.challenger_events[0]) == (1, 0, 1)


def test_shadow_answers_and_other_versions_are_no_part_of_the_canary(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(names(4, "a"), arm="shadow", version=2, epoch=2, share=0.0)
    log.predictions(names(4, "b"), arm="challenger", version=7, epoch=1, share=0.1)
    fold(log.folder, lake, signatures)
    assert tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN) == ()


def test_failures_in_shadow_are_told_apart_by_who_failed_alone(log: Any, lake: Lake, signatures: Signatures) -> None:
    at = [us(1)] * 10
    log.predictions(names(10), at=at, failed=[True] * 3 + [False] * 7)
    log.predictions(names(10), at=at, arm="shadow", version=2, failed=[False] + [True] * 8 + [False])
    log.predictions(names(10, "old"), at=[us(-1)] * 10, arm="shadow", version=2, failed=[True] * 10)
    log.predictions(names(10, "other"), at=at, arm="shadow", version=7, failed=[True] * 10)
    log.predictions(names(10, "canary"), at=at, epoch=4, share=0.1, failed=[True] * 10)
    fold(log.folder, lake, signatures)
    assert failed_in_shadow(lake, RELEASE, since=START) == (6, 1)


def test_a_unit_counts_once_an_hour_whatever_it_sends(log: Any, lake: Lake, signatures: Signatures) -> None:
    at = [us(0.1), us(0.2), us(0.9), us(1.1), us(0.3), us(0.4)]
    units = ["ada", "ada", "ada", "ada", "bob", ""]
    failed = [False, True, True, True, True, False]
    log.predictions(names(6), at=at, units=units, failed=failed, arm="challenger", version=2, epoch=3, share=0.1)
    fold(log.folder, lake, signatures)
    rows = lake.read(PREDICTIONS)
    (hourly,) = tally(rows, RELEASE, GUARDS, FROZEN, unit=True)
    assert (hourly.challenger_units, hourly.challenger_events[0]) == (4, 2)  # ada twice, bob, and one without a unit
    (always,) = tally(rows, RELEASE, GUARDS, FROZEN, unit=True, sticky="always")
    assert (always.challenger_units, always.challenger_events[0]) == (3, 1)


def test_a_unit_that_stays_for_good_counts_once_in_a_release_and_another_one_once_a_share(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    for epoch, share, hour in ((3, 0.1, 0.2), (4, 0.5, 0.4)):
        log.predictions(
            names(2, f"{epoch}-"), at=[us(hour)] * 2, units=["ada", "bob"], failed=[True, False], arm="challenger",
            version=2, epoch=epoch, share=share,
        )  # fmt: skip
    log.predictions(["new"], at=[us(0.5)], units=["eve"], arm="challenger", version=2, epoch=4, share=0.5)
    fold(log.folder, lake, signatures)
    rows = lake.read(PREDICTIONS)
    always = tally(rows, RELEASE, GUARDS, FROZEN, unit=True, sticky="always")
    assert [(each.epoch, each.challenger_units, each.challenger_events[0]) for each in always] == [(3, 2, 1), (4, 1, 0)]
    hourly = tally(rows, RELEASE, GUARDS, FROZEN, unit=True)
    assert [(each.epoch, each.challenger_units, each.challenger_events[0]) for each in hourly] == [(3, 2, 1), (4, 3, 1)]


def test_what_testers_experiments_and_routes_answered_is_no_part_of_a_release(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    log.predictions(names(9, "a"), arm="champion", epoch=3, share=0.1)
    log.predictions(names(1, "b"), arm="challenger", version=2, epoch=3, share=0.1)
    fold(log.folder, lake, signatures)
    before = tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN)
    frozen = baseline(lake, 1, GUARDS, before=START + td(hours=9))
    for version in (1, 2):
        for arm in ("override", "experiment", "route", "fallback"):
            log.predictions(
                names(40, f"{arm}{version}-"), arm=arm, version=version, epoch=3, share=0.1, failed=[True] * 40,
                latency=[90_000] * 40, experiment="e", variant="v", certainty=[0.5] * 40,
            )  # fmt: skip
    fold(log.folder, lake, signatures)
    assert tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN) == before
    assert baseline(lake, 1, GUARDS, before=START + td(hours=9)) == frozen


def test_what_testers_sent_makes_no_pair(log: Any, lake: Lake, signatures: Signatures) -> None:
    rows = shadowed(log, lake, signatures, [0.9, 0.2], [0.8, 0.7], [1, 0])
    once = pairs(rows, Accuracy(), TRUTH, champion=1, challenger=2)
    log.predictions(names(2), at=[us(0)] * 2, chance=[0.1, 0.9], arm="override")
    log.predictions(names(2), at=[us(0)] * 2, chance=[0.1, 0.9], arm="override", version=2)
    fold(log.folder, lake, signatures)
    again = matured(lake, TRUTH, since=None, until=START + td(days=1), arms=("champion", "shadow"))
    assert pairs(again, Accuracy(), TRUTH, champion=1, challenger=2) == once


def test_counting_by_and_by_is_counting_at_once(log: Any, lake: Lake, signatures: Signatures) -> None:
    random = np.random.default_rng(0)
    for part in range(6):
        arm, version = ("challenger", 2) if part % 3 == 0 else ("champion", 1)
        failed = (random.random(50) < 0.2).tolist()
        log.predictions(names(50, f"{part}-"), arm=arm, version=version, epoch=3 + part // 4, share=0.1, failed=failed)
        fold(log.folder, lake, signatures)
    at_once = tally(lake.read(PREDICTIONS), RELEASE, GUARDS, FROZEN)
    by_and_by: tuple[Tally, ...] = ()
    for version in range(lake.version(PREDICTIONS) + 1):
        rows = lake.diff(PREDICTIONS, version - 1, version)
        by_and_by = merged(by_and_by, tally(rows, RELEASE, GUARDS, FROZEN))
    assert by_and_by == at_once


def test_the_baseline_is_the_champion_before_the_release(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(
        names(1_000, "a"), at=[us(-1)] * 1_000, latency=list(range(1_000)), failed=[True] * 10 + [False] * 990
    )
    log.predictions(names(500, "b"), at=[us(1)] * 500, latency=[90_000] * 500)
    log.predictions(names(500, "c"), at=[us(-1)] * 500, version=2, latency=[90_000] * 500)
    fold(log.folder, lake, signatures)
    found = baseline(lake, 1, GUARDS, before=START)
    assert found.rows == 1_000
    assert found.error_rate == pytest.approx(10.5 / 1_001)
    assert found.limits["0.99"] == pytest.approx(989.1, abs=1)
    assert found.rates["0.99"] == pytest.approx(0.0106, abs=0.001)
    assert decode(encode(found), Baseline) == found


def test_a_champion_without_history_has_a_baseline_that_accuses_nobody(lake: Lake) -> None:
    found = baseline(lake, 1, GUARDS, before=START)
    assert found.rows == 0
    evidence = guard_evidence(GUARDS, found, ())
    assert [each.baseline for each in evidence] == [0.5, pytest.approx(0.01)]


def test_guard_evidence_names_its_guard_and_its_margin() -> None:
    tallies = (
        Tally(
            epoch=3, share=0.1, challenger_units=9, champion_units=80, challenger_events=(1, 2), champion_events=(0, 3)
        ),
    )
    errors, latency = guard_evidence(GUARDS, FROZEN, tallies)
    assert (errors.guard, latency.guard) == ("errors", "latency p99")
    assert (errors.counted, latency.counted) == ("", "answers slower than the champion's p99 before the release:")
    assert (errors.epochs[0].challenger_events, latency.epochs[0].champion_events) == (1, 3)


# Shadow


def shadowed(
    log: Any, lake: Lake, signatures: Signatures, mine: list[float], its: list[float], labels: list[int | None]
) -> pl.DataFrame:
    ids = names(len(mine))
    log.predictions(ids, at=[us(0)] * len(ids), chance=mine)
    log.predictions(ids, at=[us(0)] * len(ids), chance=its, arm="shadow", version=2, epoch=2)
    log.outcomes([(key, value, us(0)) for key, value in zip(ids, labels, strict=True) if value is not None])
    fold(log.folder, lake, signatures)
    return matured(lake, TRUTH, since=None, until=START + td(days=1), arms=("champion", "shadow"))


def test_pairs_are_the_same_rows_answered_by_both(log: Any, lake: Lake, signatures: Signatures) -> None:
    log.predictions(["only champion"], at=[us(0)])
    rows = shadowed(log, lake, signatures, [0.9, 0.2, 0.6, 0.4], [0.8, 0.7, 0.3, 0.1], [1, 0, 1, 0])
    found = pairs(rows, Accuracy(), TRUTH, champion=1, challenger=2)
    assert found.labelled == 4
    assert (found.only_challenger_wrong, found.only_champion_wrong) == (2, 0)
    assert (found.total, found.squares) == (2.0, 2.0)
    counts = found.counts(Accuracy())
    assert counts.bounded
    assert counts.pairs == 4


def test_rows_on_which_both_say_the_same_need_no_label(log: Any, lake: Lake, signatures: Signatures) -> None:
    rows = shadowed(log, lake, signatures, [0.9, 0.9, 0.9, 0.2], [0.8, 0.7, 0.1, 0.1], [None, None, 0, None])
    found = pairs(rows, Accuracy(), TRUTH, champion=1, challenger=2)
    assert (found.labelled, found.even, found.differing, found.only_champion_wrong) == (1, 3, 1, 1)
    assert found.counts(Accuracy()).pairs == 4


def test_while_labels_are_missing_even_rows_do_not_water_the_difference_down(
    log: Any, lake: Lake, signatures: Signatures
) -> None:
    mine = [0.9] * 100
    its = [0.8] * 90 + [0.1] * 10
    labels: list[int | None] = [None] * 90 + [1] * 2 + [None] * 8
    rows = shadowed(log, lake, signatures, mine, its, labels)
    counts = pairs(rows, Accuracy(), TRUTH, champion=1, challenger=2).counts(Accuracy())
    assert counts.pairs == 2 + 18
    assert counts.total / counts.pairs == pytest.approx(0.1)


def test_a_ranking_or_log_loss_is_judged_by_its_mean_over_rows(log: Any, lake: Lake, signatures: Signatures) -> None:
    rows = shadowed(log, lake, signatures, [0.5, 0.5], [0.9, 0.9], [1, 0])
    brier = pairs(rows, Brier(), TRUTH, champion=1, challenger=2)
    assert brier.total == pytest.approx((0.01 - 0.25) + (0.81 - 0.25))
    assert brier.counts(Brier()).bounded
    loss = pairs(rows, LogLoss(), TRUTH, champion=1, challenger=2)
    assert loss.total == pytest.approx(float(-np.log(0.9) - np.log(0.1) + 2 * np.log(0.5)))
    assert not loss.counts(LogLoss()).bounded


def test_pairs_add_up() -> None:
    one = Pairs(labelled=3, even=1, differing=2, differing_labelled=2, total=0.5, squares=1.0)
    assert (one + one).labelled == 6
    assert (one + Pairs()) == one
