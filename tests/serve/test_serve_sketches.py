"""Where predictions are not logged, servers write sketches of what they were asked: two of them, added up, say what all
rows say; a kill loses what came since the last writing, and it is said how many rows that were.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.clock import microseconds
from everloop.errors import ServeError, StoreFull
from everloop.measure import profile, season, space
from everloop.measure.comparison import compare
from everloop.measure.profile import PREDICTION, Profile
from everloop.measure.sketch import Sketch, from_bytes
from everloop.records import MISSING_INTEGER, Signature
from everloop.serve import releases
from everloop.serve import sketches as writing
from everloop.serve.live import Part
from everloop.serve.sketches import Held, Sketcher
from everloop.spec.retrain import Drift
from everloop.store import sketches
from everloop.testing.serving import Client, ServedHome, ServerProcess, live_of, signature_of
from everloop.watch.drift import Against, signals_of
from everloop.watch.sketched import Sketched
from everloop.watch.windows import Window

COLUMNS = {"distance": "number", "items": "integer", "insured": "boolean", "carrier": "text", "note": "text"}
SIGNATURE = signature_of(COLUMNS)
CARRIERS = np.array(["heron", "plover", "swift"], dtype=object)
Rows = dict[str, NDArray[Any]]
DAY = timedelta(days=1)


def made(count: int, *, shift: float = 0.0, seed: int = 0) -> Rows:
    """Rows of which ``distance`` moves by ``shift``; one in twenty misses its items."""
    random = np.random.default_rng(seed)
    topics = [
        "late again and nobody said why",
        "thank you for the quick parcel today",
        "where is my box please tell me",
    ]
    return {
        "distance": random.normal(shift, 1, count).round(3),
        "items": random.poisson(4, count).astype(np.int64),
        "insured": random.random(count) < 0.3,
        "carrier": CARRIERS[random.integers(0, 3, count)],
        "note": np.array([f"{topics[n % 3]} {random.integers(10**6)}" for n in range(count)], dtype=object),
    }


def reference() -> Profile:
    rows = made(4_000, seed=1)
    spaces, later = space.learned(rows, dict(COLUMNS), {})  # type: ignore[arg-type]
    whole = profile.with_spaces(profile.build(rows), spaces, later)
    assert "note" in spaces
    answers = profile.build({PREDICTION: np.random.default_rng(2).random(4_000)})
    return Profile(rows=whole.rows, columns={**whole.columns, **answers.columns}, spaces=whole.spaces)


@pytest.fixture(scope="module")
def known() -> Profile:
    return reference()


def home(path: Path, known: Profile, signature: Signature = SIGNATURE) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, signature, profile=profile.to_json(known))
    served.release(1, log=False, sketch=300)
    return served


def sent(rows: Rows, places: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            name: values[place].item() if hasattr(values[place], "item") else values[place]
            for name, values in rows.items()
        }
        for place in places
    ]


def ask(server: ServerProcess, rows: list[dict[str, Any]], at_once: int = 7) -> list[float]:
    """Ask a few rows at a time; the probabilities."""
    found: list[float] = []
    with Client(server.port) as client:
        for begin in range(0, len(rows), at_once):
            status, answers = client.post("/predict", rows[begin : begin + at_once])
            assert status == 200, answers
            found += [each["probability"]["true"] for each in answers]
    return found


def heads(served: ServedHome) -> list[sketches.Head]:
    folder = served.home.sketches(served.loop)
    return [sketches.read(path)[0] for path, _ in sketches.files(folder)]


def reached(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def against(known: Profile, version: int = 1) -> Against:
    return Against(version=version, signature=SIGNATURE, profile=known)


def window() -> Window:
    now = datetime.now(UTC)
    return Window(since=now - DAY, until=now + DAY)


def test_two_servers_sketches_added_up_say_what_all_rows_say_and_a_killed_one_loses_its_last_second(
    tmp_path: Path, known: Profile
) -> None:
    served, rows = home(tmp_path, known), made(700, shift=1.0, seed=3)
    with served.serve() as one, served.serve() as other:
        answers = ask(one, sent(rows, range(0, 400)))
        answers += ask(other, sent(rows, range(400, 650)))
        reached(lambda: sum(each.rows for each in heads(served)) == 650)
        # What comes just after a writing is lost with the process.
        ask(other, sent(rows, range(650, 700)))
        reached(lambda: max(each.rows for each in sketches.taken(served.home.sketches("made")).values()) == 400)
        reached(lambda: sum(each.rows for each in sketches.taken(served.home.sketches("made")).values()) == 700)
        other.kill()
        told = one.told()
        assert told["ready"]
        with Client(one.port) as client:
            said = client.get("/status")[1]["loops"]["made"]["sketches"]
        assert said == {"rows": 400, "lost_rows": 0, "trouble": None}
        assert one.terminate() == 0
    kept = sum(each.rows for each in heads(served))
    assert 650 <= kept <= 700
    assert not list(served.frames()), "no row is logged"
    seen = Sketched(served.home.sketches("made")).observed(window(), against(known), known)
    assert seen.profile.rows == kept
    assert seen.weights.tolist() == [kept]
    if kept < 700:
        (note,) = seen.notes
        assert note.startswith(f"{700 - kept} rows that were answered are in no sketch")
    exact = profile.build({name: values[:kept] for name, values in rows.items() if name != "note"}, like=known)
    for name, column in exact.columns.items():
        found = seen.profile.columns[name]
        assert (found.rows, found.missing, found.counts) == (column.rows, column.missing, column.counts), name
        assert (found.value_counts, found.other) == (column.value_counts, column.other), name
    by_hand = profile.build(space.replaced({"note": rows["note"][:kept]}, known.spaces), like=known).columns
    assert seen.profile.columns["note (cluster)"].value_counts == by_hand["note (cluster)"].value_counts
    assert seen.profile.columns["note (distance)"].counts == by_hand["note (distance)"].counts
    assert seen.profile.columns[PREDICTION].counts[: len(answers)] == pytest.approx(
        profile.build({PREDICTION: np.array(answers)}, like=known).columns[PREDICTION].counts, abs=kept - 650
    )
    (exactly,) = (each for each in compare(known, exact) if each.column == "distance")
    moved = {each.name: each for each in signals_of(known, seen, Drift())}
    assert moved["distance"].psi == pytest.approx(exactly.psi)
    assert exactly.ks is not None
    assert moved["distance"].ks == pytest.approx(exactly.ks, abs=0.005)
    assert moved["distance"].psi > 0.5 > 0.1 > moved["carrier"].psi


# In one process, without a server


class Asked:
    """A sketcher whose thread does nothing by itself, and batches for it."""

    def __init__(self, tmp_path: Path, known: Profile, signature: Signature = SIGNATURE) -> None:
        self.folder = tmp_path / "sketches"
        self.folder.mkdir()
        self.live = live_of(signature)
        types = {each.name: each.type for each in signature.inputs}
        self.live.champion.held = Held(1, signature, known, types)
        self.sketcher = Sketcher(self.folder, "1-1")

    def batch(
        self, rows: Rows, at: Sequence[int], *, role: str = "champion", failed: Sequence[int] = (), seconds: int = 300
    ) -> None:
        names = self.live.reader.names
        values = [tuple(_packable(rows[name][place]) for name in names) for place in range(len(at))]
        part = Part(self.live.champion, role, values, None)
        part.run([str(place) for place in range(len(at))])
        if failed:
            assert part.prediction is not None
            part.prediction[list(failed)] = np.nan
            part.failed = list(failed)
        part.answered()
        self.sketcher.add(part, at, seconds)

    @property
    def heads(self) -> list[sketches.Head]:
        return [sketches.read(path)[0] for path, _ in sketches.files(self.folder)]

    def whole(self) -> Sketch:
        found = Sketch()
        for path, _ in sketches.files(self.folder):
            found.merge(from_bytes(sketches.read(path)[1]))
        return found


def _packable(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


@pytest.fixture
def asked(tmp_path: Path, known: Profile) -> Iterator[Asked]:
    made = Asked(tmp_path, known)
    try:
        yield made
    finally:
        made.sketcher.close()


def test_a_large_sketch_is_whole_when_its_stretch_is_read_though_nobody_asks_anything_more(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "WRITE_BYTES", 1)  # so that the next writing is hours away
    now = time.time_ns() // 1000
    asked.batch(made(10), [now] * 10, seconds=2)
    reached(lambda: [each.rows for each in asked.heads] == [10])
    asked.batch(made(5), [now] * 5, seconds=2)
    reached(lambda: [each.rows for each in asked.heads] == [15])


def test_a_server_that_rests_has_said_what_it_wrote(asked: Asked) -> None:
    asked.batch(made(10), [BEGIN] * 10)
    reached(lambda: [each.rows for each in asked.heads] == [10])
    reached(lambda: sketches.taken(asked.folder)["1-1"][:2] == (10, 10))
    with asked.sketcher._making:  # the thread waits
        asked.batch(made(5), [BEGIN] * 5)
    asked.sketcher.flush()
    assert sketches.taken(asked.folder)["1-1"][:2] == (15, 15)


def test_what_a_stretch_that_goes_on_or_is_long_over_costs_is_bounded() -> None:
    second = writing.WRITE_BYTES
    assert [writing._wait(20 * second, left) for left in (300.0, 15.0, 0.3, -9.0, -11.0, -1e8)] == [
        20,
        15,
        1,
        1,
        20,
        20,
    ]
    assert writing._wait(1, 300.0) == writing.WRITE_SECONDS


def test_a_server_that_rested_while_its_count_was_tidied_away_says_what_a_kill_lost(
    tmp_path: Path, known: Profile
) -> None:
    served, rows = home(tmp_path, known), made(60, seed=3)
    folder = served.home.sketches(served.loop)
    with served.serve() as server:
        ask(server, sent(rows, range(20)))
        reached(lambda: sum(each.rows for each in heads(served)) == 20)
        (count,) = folder.glob("*.taken")
        os.utime(count, (1e9, 1e9))
        for path, _ in sketches.files(folder):
            path.unlink()  # as years later, when no window asks for them
        sketches.remove(folder, BEGIN)
        assert not list(folder.glob("*.taken"))
        ask(server, sent(rows, range(20, 60)))
        reached(lambda: sum(each.rows for each in sketches.taken(folder).values()) == 60)
        server.kill()
    kept = max((each.sketched for each in heads(served)), default=20)
    seen = Sketched(folder)
    lost = seen._lost(*(microseconds(each) for each in (window().since, window().until)))
    assert kept + lost == 60


STRETCH = 300_000_000
BEGIN = 1_767_268_800_000_000


def test_rows_go_into_the_stretch_in_which_they_came_late_ones_too(asked: Asked) -> None:
    rows = made(30)
    asked.batch(rows, [BEGIN] * 10 + [BEGIN + STRETCH - 1] * 5 + [BEGIN + STRETCH] * 15)
    asked.sketcher.flush()
    assert [(each.since, each.until, each.rows) for each in asked.heads] == [
        (BEGIN, BEGIN + STRETCH, 15),
        (BEGIN + STRETCH, BEGIN + 2 * STRETCH, 15),
    ]
    asked.batch(rows, [BEGIN + STRETCH + 7] * 3)
    asked.batch(rows, [BEGIN + 7] * 2)
    asked.sketcher.flush()
    assert [(each.since, each.rows) for each in asked.heads] == [
        (BEGIN, 15),
        (BEGIN, 2),
        (BEGIN + STRETCH, 18),
    ], "a stretch that was over has another file"
    assert sum(each.rows for each in asked.heads) == asked.whole().rows == asked.sketcher.rows == 35
    assert max(each.sketched for each in asked.heads) == 35


def test_only_requests_of_the_world_count_and_only_answers_that_were_given(asked: Asked) -> None:
    rows = made(20)
    asked.batch(rows, [BEGIN] * 20, failed=[3, 4])
    asked.batch(rows, [BEGIN] * 20, role="route")
    for role in ("shadow", "former", "fallback", "override"):
        asked.batch(rows, [BEGIN] * 20, role=role)
    asked.sketcher.flush()
    found = asked.whole()
    assert found.rows == 40
    assert found.columns["distance"].present == 40
    assert found.columns[PREDICTION].present == 18, "neither those that failed nor those that a route gave it"
    assert sorted(found.columns) == sorted(asked.live.champion.held.reference.columns)


def test_the_hour_is_that_of_the_row_where_it_brings_one(tmp_path: Path) -> None:
    signature = signature_of({"distance": "number", "sent": "instant"}, event_time="sent")
    asked = Asked(tmp_path, profile.build({"distance": np.arange(100.0)}), signature)
    hour = 3_600_000_000
    sent = np.array([0, 5 * hour, MISSING_INTEGER], dtype=np.int64)
    asked.batch({"distance": np.arange(3.0), "sent": sent}, [BEGIN] * 3)
    asked.sketcher.close()
    (head,) = asked.heads
    came = int(season.slot_of(np.array([BEGIN]), "week")[0])
    thursday = 3 * 24
    assert head.hours == {thursday: 1, thursday + 5: 1, came: 1}, "1970 began on a Thursday"


def test_a_disk_that_takes_nothing_is_said_and_tried_again(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    full = StoreFull("No space is left.")

    def refuse(*given: Any, **more: Any) -> None:
        raise full

    with monkeypatch.context() as patched:
        patched.setattr(sketches, "write", refuse)
        asked.batch(made(5), [BEGIN] * 5)
        with pytest.raises(StoreFull):
            asked.sketcher.flush()
        assert str(asked.sketcher.trouble) == "No space is left."
        assert asked.sketcher.rows == 0
    assert capfd.readouterr().err.count("sketches not written") == 1
    asked.sketcher.flush()
    assert (asked.sketcher.rows, asked.sketcher.lost_rows) == (5, 0)
    assert asked.whole().rows == 5
    monkeypatch.setattr(sketches, "write", refuse)
    asked.batch(made(4), [BEGIN] * 4)
    asked.sketcher.close()
    assert asked.sketcher.lost_rows == 4
    monkeypatch.undo()


def test_rows_that_nobody_has_time_for_are_counted(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everloop.serve.sketches.NOTED_BYTES", 1_000)
    with asked.sketcher._making:  # the thread waits
        for _ in range(50):
            asked.batch(made(4), [BEGIN] * 4)
    asked.sketcher.flush()
    assert asked.sketcher.rows + asked.sketcher.lost_rows == 200
    assert asked.sketcher.lost_rows > 0
    assert sketches.taken(asked.folder)["1-1"][0] == 200


def test_what_a_batch_holds_that_cannot_be_sketched_costs_that_batch_alone(
    asked: Asked, capfd: pytest.CaptureFixture[str]
) -> None:
    asked.batch(made(5), [BEGIN] * 5)
    asked.sketcher._notes[-1].part.packed.pop("numbers")
    asked.sketcher.flush()
    asked.batch(made(6), [BEGIN] * 6)
    asked.sketcher.flush()
    assert (asked.sketcher.rows, asked.sketcher.lost_rows) == (6, 5)
    assert "rows not sketched" in capfd.readouterr().err


# What is loaded, and when


def maps(server: ServerProcess) -> str:
    return Path(f"/proc/{server.process.pid}/maps").read_text()


def test_the_library_is_loaded_only_where_sketches_are_asked_for(tmp_path: Path, known: Profile) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE, profile=profile.to_json(known))
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        assert "_datasketches" not in maps(server)
        server.wait_for(served.release(1, log=False))
        assert client.post("/predict", sent(made(3), range(3)))[0] == 200
        assert client.get("/status")[1]["loops"]["made"]["sketches"] is None
        assert "_datasketches" not in maps(server)
        server.wait_for(served.release(1, log=False, sketch=60))
        assert client.post("/predict", sent(made(3), range(3)))[0] == 200
        assert "_datasketches" in maps(server)
        reached(lambda: sum(each.rows for each in heads(served)) == 3)
        server.wait_for(served.release(1))
        assert client.post("/predict", sent(made(3), range(3)))[0] == 200
        status, page = client.get("/metrics")
        assert status == 200
        assert b'everloop_sketched_rows_total{model_name="made"} 3' in page
        assert server.terminate() == 0
    assert sum(each.rows for each in heads(served)) == 3
    assert sum(len(each.ids) for each in served.predictions()) == 3


def test_a_package_without_a_profile_is_served_and_it_is_said_that_nothing_is_sketched(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, SIGNATURE)
    served.release(1, log=False, sketch=300)
    with served.serve() as server, Client(server.port) as client:
        assert client.post("/predict", sent(made(3), range(3)))[0] == 200
        assert "not sketched" in server.log.read_text()
    assert heads(served) == []


def test_a_stretch_that_divides_no_day_is_refused(tmp_path: Path, known: Profile) -> None:
    served = home(tmp_path, known)
    served.release(1, log=False, sketch=420)
    with pytest.raises(ServeError, match="divide a day"):
        releases.read(served.home.release_file("made"))


def test_pictures_are_sketched_by_what_drift_is_seen_in(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    usual = random.random((400, 3, 8, 8)).astype(np.float32)
    spaces, later = space.learned({}, {}, {"photo": usual})
    known = profile.with_spaces(profile.build({}), spaces, later)
    served = ServedHome(tmp_path)
    served.seal(1, signature_of({"photo": "FP32[3,8,8]"}), profile=profile.to_json(known))
    served.release(1, log=False, sketch=300)
    dark = usual[:60] * 0.1
    with served.serve() as server:
        ask(server, [{"photo": each.tolist()} for each in dark], at_once=20)
        reached(lambda: sum(each.rows for each in heads(served)) == 60)
    seen = Sketched(served.home.sketches("made")).observed(window(), against(known), known)
    (far,) = (each for each in compare(known, seen.profile) if each.column == "photo (distance)")
    assert far.novel == 1.0
    exact = profile.build(space.replaced({"photo": space.summary(dark)}, known.spaces), like=known).columns
    assert seen.profile.columns["photo (cluster)"].value_counts == exact["photo (cluster)"].value_counts


def test_what_the_cache_answers_is_sketched_like_any_request(tmp_path: Path, known: Profile) -> None:
    served = home(tmp_path, known)
    served.release(1, log=False, sketch=300, cache={"bytes": 1_000_000, "seconds": 60.0})
    rows = sent(made(2), [0, 0, 0, 1, 0])
    with served.serve() as server, Client(server.port) as client:
        for each in rows:
            assert client.post("/predict", each)[0] == 200
        assert b'everloop_cache_hits_total{model_name="made"} 3' in client.get("/metrics")[1]
        reached(lambda: sum(each.rows for each in heads(served)) == 5)
    seen = Sketched(served.home.sketches("made")).observed(window(), against(known), known)
    assert seen.profile.columns[PREDICTION].present == 5
