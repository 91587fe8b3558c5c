"""What each alert rule sees: shares beyond chance, labels, drift, outcomes, the ledger and the machine's limits."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from everloop.clock import SimulatedClock
from everloop.durable.engine import Engine
from everloop.loop.readings import Reader, place
from everloop.records import Outcome, Release
from everloop.serve import application
from everloop.serve.counts import Counts
from everloop.serve.families import Families
from everloop.spec import alert
from everloop.store.lake import OUTCOMES, PREDICTIONS, outcome_rows
from everloop.store.ledger import releases
from everloop.testing.ledger import decision
from everloop.watch import gpu, machine
from everloop.watch.alerts import Reading
from everloop.watch.look import Seen
from everloop.watch.triggers import Signals
from small_loop import SmallLoop

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Readable:
    def __init__(self, loop: SmallLoop) -> None:
        self.installation = loop.install(SimulatedClock(NOW))
        self.reader = Reader(self.installation)

    def read(self, seen: Seen | None = None, release: Release | None = None, *, now: datetime = NOW) -> Reading:
        (reading,) = self.reader.read(seen, release or Release(loop="parcels"), now)
        return reading

    def answered(
        self, count: int, *, failed: int = 0, slow: int = 0, at: datetime | list[datetime] = NOW - MINUTE
    ) -> None:
        times = at if isinstance(at, list) else [at] * count
        self.installation.lake.append(
            PREDICTIONS,
            pl.DataFrame(
                {
                    "id": [f"{each:%H%M}-{number}" for number, each in enumerate(times)],
                    "at": times,
                    "event_time": times,
                    "arm": ["champion"] * count,
                    "error": np.arange(count) < failed,
                    "latency_us": np.where(np.arange(count) < slow, 90_000, 2_000).astype(np.int64),
                },
                schema_overrides={"at": pl.Datetime("us", "UTC"), "event_time": pl.Datetime("us", "UTC")},
            ),
        )


@pytest.fixture
def reads(small: SmallLoop) -> Iterator[Callable[[str], Readable]]:
    opened: list[Readable] = []

    def declare(rule: str) -> Readable:
        small.declare(alerts=f"[{rule}]")
        opened.append(Readable(small))
        return opened[-1]

    yield declare
    for each in opened:
        each.installation.close()


Reads = Callable[[str], Readable]


@pytest.mark.parametrize(
    ("failed", "state"),
    [(0, "quiet"), (10, "quiet"), (14, "holds"), (40, "fires")],
)
def test_errors_fire_beyond_chance_and_hold_while_the_share_is_too_large(reads: Reads, failed: int, state: str) -> None:
    each = reads("el.alert.Errors(above=0.01)")
    each.answered(1_000, failed=failed)
    reading = each.read()
    assert reading.state == state, reading.because
    assert reading.value == pytest.approx(failed / 1_000)


def test_three_failures_of_a_quiet_night_are_no_alarm(reads: Reads) -> None:
    each = reads("el.alert.Errors(above=0.01)")
    each.answered(60, failed=3)
    assert each.read().state == "holds"
    each.answered(20, failed=20, at=NOW - 10 * MINUTE)
    assert each.read().value == pytest.approx(0.05), "what came before its window does not count"


def test_a_rate_at_its_limit_seldom_fires() -> None:
    from everloop.loop.readings import _beyond

    random = np.random.default_rng(5)
    for rate in (0.01, 0.002):
        found = [_beyond(int(each), 5_000, rate) for each in random.binomial(5_000, rate, 4_000)]
        assert found.count("fires") <= 4, "1 in 10,000 looks"
    assert all(_beyond(int(each), 5_000, 0.01) == "fires" for each in random.binomial(5_000, 0.04, 500))


@pytest.mark.parametrize(("slow", "state"), [(0, "quiet"), (9, "quiet"), (14, "holds"), (40, "fires")])
def test_latency_is_the_share_of_slow_answers_beyond_chance(reads: Reads, slow: int, state: str) -> None:
    each = reads("el.alert.Latency(above=td(milliseconds=50), quantile=0.99)")
    each.answered(1_000, slow=slow)
    reading = each.read()
    assert reading.state == state, reading.because


def test_no_requests_are_neither_errors_nor_slow(reads: Reads) -> None:
    assert reads("el.alert.Errors()").read().state == "quiet"
    assert reads("el.alert.Latency(above=td(milliseconds=50))").read().state == "quiet"


@pytest.mark.parametrize(("mean", "state"), [(12.0, "quiet"), (9.9, "holds"), (8.0, "fires")])
def test_an_outcome_below_its_limit_fires_beyond_its_noise(reads: Reads, mean: float, state: str) -> None:
    each = reads('el.alert.Outcome("revenue", below=10)')
    assert each.read().state == "unknown"
    values = np.random.default_rng(1).normal(0, 3, 200)
    values += mean - values.mean()
    each.installation.lake.append(
        OUTCOMES,
        outcome_rows(
            Outcome(id=f"{number}", name="revenue", value=float(value), at=NOW - MINUTE)
            for number, value in enumerate(values)
        ),
    )
    reading = each.read()
    assert reading.state == state, reading.because


def test_labels_that_do_not_come_fire_when_enough_are_due(reads: Reads) -> None:
    each = reads("el.alert.LabelCoverage(below=0.5)")
    seen = Seen(signals=Signals())
    assert each.read(seen).state == "unknown"
    assert each.read(replace(seen, coverage=0.1, due=20)).state == "holds", "20 rows are few"
    assert each.read(replace(seen, coverage=0.1, due=500)).state == "fires"
    assert each.read(replace(seen, coverage=0.45, due=500)).state == "holds", "chance may explain it"
    assert each.read(replace(seen, coverage=0.9, due=500)).state == "quiet"


def test_a_stuck_release_and_a_stale_champion_are_told_by_their_age(reads: Reads) -> None:
    each = reads("el.alert.ReleaseStuck(after=td(days=3))")
    release = Release(
        loop="parcels", revision=1, champion=1, challenger=2, started=NOW - timedelta(days=4), stage="shadow"
    )
    assert each.read(release=release).state == "fires"
    assert each.read(release=replace(release, started=NOW - timedelta(days=2))).state == "quiet"
    assert each.read(release=replace(release, challenger=None)).state == "quiet"


def test_a_champion_is_as_old_as_its_reign(reads: Reads) -> None:
    each = reads("el.alert.Stale(after=td(days=3))")
    champions = [(1, 9), (2, 7), (1, 5), (1, 1)]
    with each.installation.ledger.write() as connection:
        for revision, (champion, days) in enumerate(champions, 1):
            at = NOW - timedelta(days=days)
            release = Release(loop="parcels", revision=revision, stage="steady", champion=champion, since=at)
            releases.change(connection, revision - 1, release, decision("released", at, loop="parcels"))
    reading = each.read(release=release)
    assert reading.state == "fires"
    assert reading.value == timedelta(days=5).total_seconds(), "since it came back, not since it was first"


def test_a_failed_turn_fires_until_one_goes_well(reads: Reads) -> None:
    each = reads("el.alert.RunFailed()")
    assert each.read().state == "quiet"
    clock = each.installation.clock
    engine = Engine(each.installation.ledger, clock)

    def work(*, fail: bool) -> None:
        def turn(run: Any) -> None:
            if fail:
                raise ValueError("no rows")

        clock.sleep(MINUTE)
        engine.submit("turn", "parcels", {}, "code")
        engine.work({"turn": turn}, "code")

    work(fail=True)
    reading = each.read()
    assert reading.state == "fires"
    assert "no rows" in reading.because
    work(fail=False)
    assert each.read().state == "quiet"


def test_a_server_that_does_not_answer_fires_after_its_time(reads: Reads) -> None:
    each = reads("el.alert.NotServing(after=td(minutes=1))")
    assert each.read().state == "quiet", "nothing is released"
    release = Release(loop="parcels", revision=1, stage="steady", champion=1)
    assert each.read(release=release).state == "holds"
    assert each.read(release=release, now=NOW + MINUTE).state == "fires"
    status = each.installation.home.servers / f"{os.getpid()}.json"
    status.write_text(json.dumps({"ready": True, "loops": {"parcels": 1, "another": 2}}))
    assert each.read(release=release, now=NOW + 2 * MINUTE).state == "quiet"
    status.unlink()
    (each.installation.home.servers / "4194304.json").write_text('{"ready": true, "loops": {"parcels": 1}}')
    assert each.read(release=release, now=NOW + 3 * MINUTE).state == "holds", "that process has ended"


def test_score_and_drift_ask_the_look_under_names_of_their_own(small: SmallLoop) -> None:
    small.declare(alerts="[el.alert.Score(by=0.1), el.alert.DriftFound()]", retrain="el.Degraded(by=0.02)")
    each = Readable(small)
    rules = each.installation.loop.watched_alerts
    assert [place(rule) for rule in rules] == ["alert score critical", "alert drift found warning"]
    each.installation.close()


@contextmanager
def group(root: Path, **files: str) -> Iterator[machine.Group]:
    root.mkdir()
    for name, text in files.items():
        (root / name.replace("_", ".", 1)).write_text(text)
    yield machine.Group(root, None)


def test_a_containers_limit_is_what_counts(tmp_path: Path) -> None:
    stat = "anon 10\ninactive_file 300000000\n"
    with group(tmp_path / "a", memory_max="1000000000\n", memory_current="700000000\n", memory_stat=stat) as each:
        assert each.memory() == (1_000_000_000, 400_000_000), "what only caches files can be dropped"
    with group(
        tmp_path / "b", cpu_max="150000 100000\n", cpu_stat="usage_usec 5000000\nthrottled_usec 250000\n"
    ) as each:
        assert each.cores() == 1.5
        assert each.processor() == (5.0, 0.25)
    with group(tmp_path / "c", memory_max="max\n", cpu_max="max 100000\n") as each:
        assert each.memory() == (None, None)
        assert each.cores() is None


def test_the_machine_is_seen_as_it_is(tmp_path: Path) -> None:
    seen = machine.look(tmp_path, [("controller", os.getpid()), ("server", 4194304)])
    assert 0 < seen.memory_used < seen.memory_limit
    assert 0 < seen.cores <= (os.cpu_count() or 1)
    assert 0 < seen.disk_share < 1
    (own,) = seen.processes
    assert own.memory_bytes > 10_000_000
    assert own.processor_seconds > 0


def test_default_rules_that_need_the_log_go_without_it(small: SmallLoop) -> None:
    small.declare(serve="el.Serve(log=False)", rollout="el.Direct()")
    each = Readable(small)
    assert not [rule for rule in each.installation.loop.watched_alerts if isinstance(rule, alert.BLIND)]
    each.installation.close()


def test_refusals_fire_beyond_chance_and_say_for_which_reason(reads: Reads) -> None:
    reader = reads("el.alert.Refused(within=td(minutes=10))")
    home = reader.installation.home
    counts = Counts(home, os.getpid())

    def counted(answered: int, refused: dict[tuple[int, str], int]) -> None:
        page = Families()
        page.histogram(
            "everloop_request_seconds",
            "",
            [1.0],
            [({"model_name": "parcels", "variant": "champion"}, [answered, 0], 0.1)],
        )
        labelled = [({"code": code, "reason": reason}, count) for (code, reason), count in refused.items()]
        page.count("everloop_refused_total", "", labelled)
        counts.write(page)

    assert reader.read().because == "no request in 0:10:00"
    counted(100_000, {(503, "deadline"): 90_000})
    assert reader.read(now=NOW + MINUTE).state == "quiet", "what came before the first look is not lately"
    # What a client did wrong, or a probe before anything is live, is not refused.
    wrong = {(400, "invalid"): 500, (503, "not_ready"): 500}
    counted(100_950, {(503, "deadline"): 90_003, **wrong})
    assert reader.read(now=NOW + 2 * MINUTE).state == "quiet"
    counted(101_000, {(503, "deadline"): 90_014, **wrong})
    seen = reader.read(now=NOW + 3 * MINUTE)
    assert seen.state == "holds", "14 where 10 were allowed are chance"
    counted(101_900, {(503, "deadline"): 90_060, (429, "rate_limit"): 40, **wrong})
    seen = reader.read(now=NOW + 4 * MINUTE)
    assert seen.state == "fires"
    assert seen.because == (
        "100 of 2,000 requests were refused in 0:10:00 (5.00%, limit 1.00%): deadline 60, rate_limit 40"
    )
    assert reader.read(now=NOW + 20 * MINUTE).state == "quiet"
    counts.clear()
    assert reader.read(now=NOW + 21 * MINUTE).state == "quiet", "no server at all is another rule's"


def test_processor_time_is_told_once_it_was_watched_long_enough(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reads("el.alert.ProcessorFull(above=0.9, within=td(minutes=10))")
    used = 0.0

    def looked(*_: Any, **__: Any) -> machine.Machine:
        return replace(SEEN, cores=2.0, processor_seconds=used)

    monkeypatch.setattr(machine, "look", looked)
    states = []
    for minute in range(31):
        used += 60 * (1.95 if 10 <= minute < 25 else 0.5)
        states.append(reader.read(now=NOW + minute * MINUTE))
    assert [each.state for each in states[:10]] == ["unknown"] * 10
    assert states[10].state == "quiet"
    assert states[22].state == "fires"
    assert "97.5% of 2 cores" in states[22].because
    assert states[30].state == "quiet"


def test_the_fullest_gpu_counts_and_none_is_no_alarm(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reads("el.alert.GpuFull()")
    assert reader.read().state == "quiet"
    gpus = tuple(
        gpu.Gpu(index=place, name="made", busy=0.5, memory_used=used, memory_size=size, celsius=60, watts=None)
        for place, (used, size) in enumerate(((10, 100), (97, 100), (None, None)))
    )
    monkeypatch.setattr(machine, "look", lambda *_, **__: replace(SEEN, gpus=gpus))
    seen = reader.read()
    assert (seen.state, seen.because) == ("fires", "97.0% of the memory of GPU 1 are used")


def test_five_minutes_unlike_the_same_time_of_the_days_before_are_unusual(reads: Reads) -> None:
    reader = reads('el.alert.Unusual("rate")')
    assert reader.read(now=NOW - 10 * MINUTE).state == "unknown"
    random = np.random.default_rng(1)
    # Three days, busy by day and nearly idle by night; it is noon.
    times = []
    for slot in range(3 * 288):
        at = NOW - timedelta(days=3) + slot * timedelta(minutes=5)
        times += [at] * int(random.poisson(40 if 8 <= at.hour < 20 else 2))
    reader.answered(len(times), at=times)
    seen = reader.read(now=NOW + MINUTE)
    assert seen.state == "quiet", seen.because
    reader.answered(400, at=NOW)
    later = NOW + 6 * MINUTE
    seen = reader.read(now=later)
    assert seen.state == "fires"
    assert "400 requests in five minutes" in seen.because
    # The same five minutes are not asked for again at each look.
    assert reader.read(now=later + timedelta(seconds=5)) == seen
    stopped = reader.read(now=later + timedelta(hours=1))
    assert stopped.state in ("fires", "quiet")
    assert stopped.value is not None


SEEN = machine.Machine(
    memory_used=1, memory_limit=10, cores=2.0, load=0.0, processor_seconds=0.0, throttled_seconds=0.0, disk_used=1, disk_size=10,
    disk_read_total=0, disk_written_total=0, network_received_total=0, network_sent_total=0,
)  # fmt: skip


def test_whatever_a_server_refuses_with_503_is_a_reason_that_an_alert_counts() -> None:
    """Read from the code: a reason that was added there and not here would be refused in silence."""
    code = "\n".join(each.read_text("utf-8") for each in Path(application.__file__).parent.glob("*.py"))
    # Whoever waits, for a model or for its pictures, is refused for its cause.
    found = set(re.findall(r"(?:(?:status=503|\brefuse\(\s*503)\b|\bCause\()[^()]*?reason=\"(\w+)\"", code))
    assert {"deadline", "decoding", "loading"} <= found
    assert found - {"not_ready"} <= set(alert.REASONS)
