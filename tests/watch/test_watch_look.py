import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from datetime import timedelta as td
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.clock import microseconds
from everloop.measure import metrics, profile
from everloop.measure.distance import ks
from everloop.records import MISSING_TEXT, Release, Signature, decode, encode
from everloop.spec.detector import Adwin
from everloop.spec.guard import Errors, Latency
from everloop.spec.metric import Accuracy, LogLoss, RocAuc
from everloop.spec.retrain import AnyOf, Degraded, Drift, Rows, Trigger
from everloop.spec.rollout import Canary
from everloop.store.lake import Lake
from everloop.watch import observed
from everloop.watch.fold import fold
from everloop.watch.labels import Truth
from everloop.watch.look import Champion, Seen, Watched, WatchState, begin, look
from everloop.watch.observed import PREDICTION, observe
from everloop.watch.recent import Recent
from everloop.watch.triggers import Fired, fired
from everloop.watch.windows import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
TRUTH = Truth(column="late", delay=td(days=3), task="binary", classes=(0, 1))
DRIFT, DEGRADED = Drift(), Degraded(by=0.02)
STEADY = Release(loop="parcels", revision=1, stage="steady", champion=1, since=START)
PER_DAY = 100


def at(day: float) -> datetime:
    return START + td(days=day)


@dataclass
class Service:
    """Parcels a day: numbers, texts, the champion's calibrated answer and the label that comes three days later."""

    log: Any
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(11))
    waiting: list[tuple[str, int, int]] = field(default_factory=list)

    def columns(self, rows: int, *, shift: float = 0.0, new: float = 0.0, clumped: bool = False) -> dict[str, Any]:
        carrier = np.where(
            self.random.random(rows) < new, "kestrel", self.random.choice(["heron", "plover"], rows, p=[0.7, 0.3])
        )
        return {
            "distance": self.random.normal(shift, 1, rows),
            "items": np.full(rows, self.random.poisson(3))
            if clumped
            else self.random.poisson(3, rows).astype(np.int64),
            "insured": (self.random.random(rows) < 0.2).astype(np.int64),
            "carrier": carrier.astype(object),
            "region": self.random.choice(["hill", "bay", MISSING_TEXT], rows, p=[0.5, 0.4, 0.1]).astype(object),
        }

    def chance(self, columns: dict[str, Any]) -> Any:
        return 1 / (1 + np.exp(-(columns["distance"] - 0.5)))

    def day(
        self, day: int, *, turned: bool = False, shift: float = 0.0, new: float = 0.0, clumped: bool = False
    ) -> None:
        made = self.columns(PER_DAY, shift=shift, new=new, clumped=clumped)
        chance = self.chance(made)
        true = 1 - chance if turned else chance
        label = (self.random.random(PER_DAY) < true).astype(int)
        ids = [f"{day}-{index}" for index in range(PER_DAY)]
        times = [microseconds(at(day)) + index * 60_000_000 for index in range(PER_DAY)]
        self.log.predictions(
            ids,
            at=times,
            chance=chance,
            numbers=made["distance"],
            integers=np.stack([made["items"], made["insured"]], axis=1).ravel(),
            texts=[each for pair in zip(made["carrier"], made["region"], strict=True) for each in pair],
        )
        delay = 3 * 86_400_000_000
        self.waiting += [(key, int(value), when + delay) for key, value, when in zip(ids, label, times, strict=True)]
        now = microseconds(at(day + 1))
        due = [each for each in self.waiting if each[2] <= now]
        self.waiting = [each for each in self.waiting if each[2] > now]
        if due:
            self.log.outcomes(due)

    def champion(self, signature: Signature) -> Champion:
        made = self.columns(5_000)
        chance = self.chance(made)
        label = (self.random.random(5_000) < chance).astype(np.int64)
        types = {each.name: each.type for each in signature.inputs}
        return Champion(
            version=1,
            since=START,
            score=metrics.score(LogLoss(), label, np.stack([1 - chance, chance], axis=1)),
            test_rows=1_000,
            signature=signature,
            profile=profile.build({**made, PREDICTION: chance}, types=types),
        )


@dataclass
class Watch:
    lake: Lake
    champion: Champion
    watched: Watched
    state: WatchState = field(default_factory=lambda: begin(START))
    fires: list[tuple[int, Fired]] = field(default_factory=list)
    slowest: float = 0.0

    def look(self, service: Service, day: int, release: Release = STEADY) -> Seen:
        signatures = {"package": self.champion.signature}
        fold(service.log.folder, self.lake, signatures)
        begun = time.perf_counter()
        # Through JSON and back at every look, as the ledger does it.
        state = decode(encode(self.state), WatchState)
        seen, state = look(self.lake, self.watched, self.champion, release, state, now=at(day + 1))
        found, triggers = fired(self.watched.trigger, seen.signals, state.triggers, at(day + 1))
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        self.state = replace(state, triggers=triggers)
        if found:
            self.fires.append((day, found))
        return seen

    def days(self, service: Service, days: Sequence[int], **world: Any) -> Seen:
        for day in days:
            service.day(day, **world)
            seen = self.look(service, day)
        return seen


@pytest.fixture(params=[Lake, Recent])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    made: Lake = request.param(tmp_path / "lake")
    return made


@pytest.fixture
def service(log: Any) -> Service:
    return Service(log)


def watching(service: Service, lake: Lake, signatures: dict[str, Signature], trigger: Trigger, **more: Any) -> Watch:
    champion = service.champion(signatures["package"])
    return Watch(lake, champion, Watched(truth=TRUTH, metric=LogLoss(), trigger=trigger, **more))


def test_a_quiet_service_fires_nothing_in_two_months(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, AnyOf(DRIFT, DEGRADED))
    seen = watch.days(service, range(60))
    assert watch.fires == []
    assert seen.coverage == 1.0
    assert seen.score is not None
    assert abs(seen.score.value - watch.champion.score) < 0.03
    assert seen.largest_drift < 0.1


def test_a_changed_concept_is_seen_within_days_of_its_labels(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, AnyOf(DRIFT, DEGRADED))
    watch.days(service, range(30))
    watch.days(service, range(30, 40), turned=True)
    day, reason = watch.fires[0]
    assert 32 <= day <= 36
    assert reason.evidence[0].name == "degraded"
    assert "log_loss" in reason.because


def test_moved_inputs_and_a_new_category_are_seen_after_two_windows(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, DRIFT)
    watch.days(service, range(21))
    seen = watch.days(service, range(21, 36), shift=1.0, new=0.25)
    ((day, reason),) = watch.fires
    assert day == 34
    columns = {(each.detail["column"], each.detail["measure"]) for each in reason.evidence}
    assert ("distance", "distribution") in columns
    assert ("carrier", "new values") in columns
    assert (PREDICTION, "distribution") in columns
    assert not {"items", "insured", "region"} & {column for column, _ in columns}
    assert seen.largest_drift > 0.5
    assert "the score is " in reason.because
    assert "'kestrel' (new) 0.0% → 2" in reason.because
    detail = reason.evidence[0].detail
    assert detail["score"].startswith("the score is ")
    assert detail["carried"]
    assert "uncalibrated" in detail["limits"]


def test_inputs_are_watched_whoever_answers_them_and_testers_are_nobody(
    log: Any, lake: Lake, signatures: dict[str, Signature], service: Service
) -> None:
    window = Window(since=START, until=at(7))
    reference = profile.build({"distance": np.linspace(-3, 3, 100)}, types={"distance": "number"})
    times = [microseconds(at(1))] * 40
    for arm in ("champion", "challenger", "experiment", "route", "shadow", "fallback", "override"):
        log.predictions([f"{arm}{n}" for n in range(40)], at=times, arm=arm, chance=[0.9] * 40)
    fold(log.folder, lake, signatures)
    seen = observe(lake, window, signatures["package"], reference, champion=1)
    assert seen.profile.rows == 4 * 40
    answers = profile.build({PREDICTION: np.linspace(0, 1, 100)}, types={PREDICTION: "number"})
    said = observe(lake, window, signatures["package"], answers, champion=1)
    assert sum(said.profile.columns[PREDICTION].counts) == 3 * 40, "what a route gave it was chosen for what it is"


def test_a_window_says_the_same_whether_it_fits_into_memory_or_is_read_day_by_day(
    service: Service, lake: Lake, signatures: dict[str, Signature], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watching(service, lake, signatures, DRIFT)
    watch.days(service, range(3))
    watch.days(service, range(3, 7), new=0.2)
    window, profile_then = Window(since=START, until=at(7)), watch.champion.profile
    whole = observe(lake, window, signatures["package"], profile_then, champion=1)
    monkeypatch.setattr(observed, "AT_ONCE", 100)
    sliced = observe(lake, window, signatures["package"], profile_then, champion=1)
    assert whole.profile.rows == sliced.profile.rows == 7 * PER_DAY
    assert set(whole.profile.columns) == set(sliced.profile.columns)
    for name, one in whole.profile.columns.items():
        other = sliced.profile.columns[name]
        assert (one.rows, one.missing, one.counts, one.values, one.value_counts, one.other) == (
            other.rows, other.missing, other.counts, other.values, other.value_counts, other.other,
        )  # fmt: skip
        assert ks(one.quantiles, other.quantiles) < 0.01
    assert (whole.values, whole.missing) == (sliced.values, sliced.missing)
    assert whole.newcomers["carrier"] == sliced.newcomers["carrier"]
    assert whole.newcomers["carrier"][0][0] == "kestrel"


def test_a_column_with_one_value_a_day_does_not_cry_wolf(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, DRIFT)
    seen = watch.days(service, range(63), clumped=True)
    # The distance is large in every week, as seven draws from it must be; the days are what counts, not the rows.
    assert seen.largest_drift > 0.3
    assert watch.fires == []


def test_too_few_rows_make_a_longer_window(service: Service, lake: Lake, signatures: dict[str, Signature]) -> None:
    watch = watching(service, lake, signatures, DRIFT)
    watch.days(service, [0, 1])
    for day in range(2, 10):
        watch.look(service, day)
    assert list(next(iter(watch.state.drifts.values())).closed) == []
    watch.days(service, [10])
    window = next(iter(watch.state.drifts.values())).closed[-1]
    assert window.until - window.since == td(days=11)


def test_missing_labels_show_as_coverage(service: Service, lake: Lake, signatures: dict[str, Signature]) -> None:
    watch = watching(service, lake, signatures, DEGRADED)
    watch.days(service, range(6))
    service.waiting = service.waiting[::2]
    seen = watch.days(service, range(6, 10))
    assert seen.coverage is not None
    assert 0.7 < seen.coverage < 0.95


def test_labelled_rows_are_counted_from_both_sides_and_once(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, Rows(10))
    delivered = pl.DataFrame({"_key": [str(index) for index in range(12)], "late": [1, 0, None] * 4})
    delivered = delivered.with_columns(pl.lit(START).cast(pl.Datetime("us", "UTC")).alias("_event_time"))
    lake.append("raw", delivered)
    service.day(0)
    assert watch.look(service, 0).signals.rows == 8
    service.log.outcomes([("a", 1, 5), ("b", 0, 6)])
    service.log.outcomes([("a", 7, 5)], name="something else")
    assert watch.look(service, 1).signals.rows == 10
    assert watch.look(service, 2).signals.rows == 10
    service.log.outcomes([("a", 0, 9), ("0", 0, 9), ("c", 1, 9)])  # a correction, one of a delivered row, a new one
    assert watch.look(service, 3).signals.rows == 11
    again = pl.DataFrame({"_key": ["c", "d"], "late": [1, 1]})  # what an outcome told before is delivered
    lake.append("raw", again.with_columns(pl.lit(START).cast(pl.Datetime("us", "UTC")).alias("_event_time")))
    assert watch.look(service, 4).signals.rows == 12
    assert len(watch.fires) == 1


def test_pairs_seen_look_by_look_are_those_seen_at_once(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, DEGRADED, rollout=Canary(guards=(Errors(),)), shadow_margin=0.01)
    shadow = replace(STEADY, revision=2, stage="shadow", challenger=2, started=at(2), since=at(2), epoch=2)
    service.day(0)
    service.day(1)
    assert watch.look(service, 1).evidence is None
    for day in range(2, 12):
        service.day(day)
        ids = [f"{day}-{index}" for index in range(PER_DAY)]
        times = [microseconds(at(day)) + index * 60_000_000 for index in range(PER_DAY)]
        chance = service.random.random(PER_DAY)
        service.log.predictions(ids, at=times, chance=chance, arm="shadow", version=2, epoch=2)
        seen = watch.look(service, day, shadow)
    assert seen.evidence is not None
    assert seen.evidence.shadow is not None
    assert seen.evidence.shadow_margin == 0.01
    fresh, _ = look(lake, watch.watched, watch.champion, shadow, begin(START), now=at(12))
    assert fresh.evidence is not None
    assert fresh.evidence.shadow is not None
    # Seven days are due, and of the eighth the row of midnight sharp.
    assert seen.evidence.shadow.pairs == fresh.evidence.shadow.pairs == 7 * PER_DAY + 1
    assert seen.evidence.shadow.total == pytest.approx(fresh.evidence.shadow.total)
    assert seen.evidence.shadow.total > 0  # a challenger that guesses is worse


def test_guards_counted_look_by_look_are_those_counted_at_once(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, DEGRADED, rollout=Canary(guards=(Errors(),)))
    canary = replace(STEADY, revision=3, stage="canary", challenger=2, share=0.1, started=at(1), since=at(1), epoch=3)
    service.day(0)
    for day in range(1, 6):
        times = [microseconds(at(day)) + index for index in range(40)]
        failed = (service.random.random(40) < 0.1).tolist()
        service.log.predictions(
            [f"{day}a{index}" for index in range(40)], at=times, epoch=3 + day // 3, share=0.1, failed=failed
        )
        service.log.predictions(
            [f"{day}b{index}" for index in range(40)],
            at=times,
            epoch=3 + day // 3,
            share=0.1,
            arm="challenger",
            version=2,
            failed=failed,
        )
        seen = watch.look(service, day, canary)
    fresh, _ = look(lake, watch.watched, watch.champion, canary, begin(START), now=at(6))
    assert seen.evidence is not None
    assert fresh.evidence is not None
    assert seen.evidence.guards == fresh.evidence.guards
    assert seen.evidence.requests == 200
    assert len(seen.evidence.guards[0].epochs) == 2
    assert seen.evidence.guards[0].baseline == pytest.approx(0.5 / 101)


def test_guards_and_a_score_declared_anew_during_a_release_are_counted_from_its_beginning(
    service: Service, lake: Lake, signatures: dict[str, Signature]
) -> None:
    watch = watching(service, lake, signatures, DEGRADED, rollout=Canary(guards=(Errors(),)))
    canary = replace(STEADY, revision=3, stage="canary", challenger=2, share=0.1, started=at(1), since=at(1), epoch=3)

    def served(day: int) -> None:
        service.day(day)
        times = [microseconds(at(day)) + index for index in range(40)]
        for arm, version in (("champion", 1), ("challenger", 2)):
            ids = [f"{day}{arm}{index}" for index in range(40)]
            service.log.predictions(ids, at=times, epoch=3, share=0.1, arm=arm, version=version)

    for day in range(3):
        served(day)
        watch.look(service, day, canary)
    rollout = Canary(guards=(Latency(), Errors()))
    watch.watched = replace(watch.watched, rollout=rollout, metric=Accuracy())
    served(3)
    seen = watch.look(service, 3, canary)
    fresh, _ = look(lake, watch.watched, watch.champion, canary, begin(START), now=at(4))

    assert seen.evidence == fresh.evidence
    assert seen.evidence is not None
    assert [each.guard for each in seen.evidence.guards] == ["latency p99", "errors"]
    assert seen.evidence.requests == 120


def test_without_a_champion_there_is_nothing_to_see(lake: Lake) -> None:
    watched = Watched(truth=TRUTH, metric=LogLoss(), trigger=AnyOf(DRIFT, DEGRADED))
    seen, state = look(lake, watched, None, Release(loop="parcels"), begin(START), now=at(1))
    assert seen.score is None
    assert not seen.signals.drift
    assert state.release is None


def test_a_declared_detector_sees_what_became_worse_and_fires_on_it_once(
    log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    # No area falls by so much: only the detector can speak, of the loss that stands in for it.
    sees = Degraded(by=0.9, detector=Adwin())
    service = Service(log)
    watched = Watched(truth=TRUTH, metric=RocAuc(), trigger=sees)
    champion = service.champion(signatures["package"])
    state, reasons = begin(START), []
    for day in range(40):
        service.day(day, turned=day >= 20)
        fold(log.folder, lake, signatures)
        now = at(day + 1)
        seen, state = look(lake, watched, champion, STEADY, state, now=now)
        why, after = fired(sees, seen.signals, state.triggers, now)
        state = replace(state, triggers=after)
        reasons += [(day, why.because)] if why else []
    assert len(reasons) == 1
    day, because = reasons[0]
    assert 23 <= day <= 25, "three days until the first label, and a hundred or two of them"
    assert because.startswith("Adwin: the mean brier")
