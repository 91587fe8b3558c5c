"""Windows added up from sketches say what windows of logged rows say, whoever is champion by now."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from datetime import timedelta as td
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from everloop.clock import microseconds
from everloop.errors import StoreFull
from everloop.measure import profile, season
from everloop.measure.profile import PREDICTION, Profile
from everloop.measure.sketch import Sketch, to_bytes
from everloop.records import Signature, decode, encode
from everloop.spec.retrain import Drift
from everloop.store import sketches
from everloop.store.lake import Lake
from everloop.store.sketches import LATE
from everloop.watch import drift
from everloop.watch.drift import Against, DriftState, Logged
from everloop.watch.fold import fold
from everloop.watch.observed import Observed
from everloop.watch.sketched import Sketched, Wanted, stretch
from everloop.watch.windows import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
PER_DAY = 600
DAY = td(days=1)
HOUR = 3_600_000_000


def at(day: float) -> datetime:
    return START + td(days=day)


class Servers:
    """Two processes that sketch what they are asked, hour by hour, in the bins of their champion."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.seen = dict.fromkeys(("1-1", "2-2"), 0)

    def asked(
        self, columns: Mapping[str, NDArray[Any]], times: NDArray[np.int64], like: Profile, *, version: int = 1
    ) -> None:
        for place in np.unique(times // HOUR).tolist():
            for number, tag in enumerate(self.seen):
                here = (times // HOUR == place) & (np.arange(len(times)) % 2 == number)
                if not here.any():
                    continue
                sketch = Sketch()
                own = {name: values[here] for name, values in columns.items()}
                sketch.update(own, like=like)
                self.seen[tag] += sketch.rows
                hours, rows = np.unique(season.slot_of(times[here], "week"), return_counts=True)
                since = place * HOUR
                head = sketches.Head(
                    version=version, tag=tag, first=1, since=since, until=since + HOUR, rows=sketch.rows,
                    sketched=self.seen[tag], written=since, hours=dict(zip(hours.tolist(), rows.tolist(), strict=True)),
                )  # fmt: skip
                path = self.folder / sketches.name(version, tag, since, since + HOUR, 1)
                sketches.write(path, head, to_bytes(sketch))


@pytest.fixture
def servers(tmp_path: Path) -> Servers:
    return Servers(tmp_path / "sketches")


def drawn(day: int, shift: float = 0.0, *, seed: int = 5) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    random = np.random.default_rng([seed, day + 100])
    times = microseconds(at(day)) + np.arange(PER_DAY) * (86_400_000_000 // PER_DAY)
    distance = random.normal(shift, 1, PER_DAY)
    distance[::50] = np.nan
    carrier = random.choice(np.array(["heron", "plover", "swift", None], dtype=object), PER_DAY)
    if shift:
        carrier[::3] = "nightjar"
    return {"distance": distance, "carrier": carrier, PREDICTION: random.random(PER_DAY)}, times


def learned(days: range, *, seed: int = 5, hourly: bool = False) -> Profile:
    parts = [drawn(day, seed=seed) for day in days]
    columns = {name: np.concatenate([part[0][name] for part in parts]) for name in parts[0][0]}
    times = np.concatenate([part[1] for part in parts])
    if hourly:
        columns["distance"] = columns["distance"] + np.sin(times % (24 * HOUR) / (24 * HOUR) * 2 * np.pi)
    made = profile.build(columns)
    return season.seasonal(made, columns, times)


def against(known: Profile, signatures: dict[str, Signature], version: int = 1) -> Against:
    return Against(version=version, signature=signatures["package"], profile=known)


def test_windows_alarms_and_what_carries_them_are_as_from_the_log(
    servers: Servers, log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    known = learned(range(-28, 0))
    for day in range(9):
        columns, times = drawn(day, 1.5 if day >= 6 else 0.0)
        servers.asked(columns, times, known)
        texts = [text for each in columns["carrier"] for text in (each or "\x00", "hill")]
        ids = [f"{day}-{row}" for row in range(PER_DAY)]
        log.predictions(ids, at=times, numbers=columns["distance"], texts=texts, chance=columns[PREDICTION])
    fold(log.folder, lake, signatures)
    trigger, found = Drift(window=2 * DAY), []
    for requests in (Logged(lake), Sketched(servers.folder)):
        state = DriftState(opened=at(0))
        for day in range(9):
            now = at(day + 1) + LATE
            state = decode(encode(drift.advance(requests, trigger, state, against(known, signatures), now)), DriftState)
        found.append(state)
    logged, sketched = found
    assert sketched.closed == logged.closed == (Window(since=at(4), until=at(6)), Window(since=at(6), until=at(8)))
    ours, theirs = ({each.name: each for each in state.signals} for state in (sketched, logged))
    assert set(ours) == set(theirs) - {each for each in theirs if each.startswith(("items", "insured", "region"))}
    for name, each in ours.items():
        assert (each.rows, each.bins) == (theirs[name].rows, theirs[name].bins), name
        if each.kind == "outliers":  # beyond the ends of the bins the sketch alone knows
            assert each.share == pytest.approx(theirs[name].share, abs=0.005)
        else:
            assert each.share == theirs[name].share
            assert each.psi == pytest.approx(theirs[name].psi, abs=1e-9), "the same bins, counted alike"
        assert each.clumping == pytest.approx(theirs[name].clumping, abs=1e-9), "days are counted alike"
        if each.ks is not None:
            assert each.ks == pytest.approx(theirs[name].ks, abs=0.005)
    columns, times = drawn(9, 1.5)
    servers.asked(columns, times, known)
    state = drift.advance(Sketched(servers.folder), trigger, sketched, against(known, signatures), at(10) + LATE)
    assert state.found is not None
    alarms = {(each.column, each.measure): each for each in state.found.columns}
    assert {("distance", "distribution"), ("carrier", "new values")} <= set(alarms)
    assert "'nightjar' (new)" in alarms["carrier", "new values"].carried[0].rows


def test_a_window_is_held_against_a_new_champion_from_the_sketches_alone(
    servers: Servers, signatures: dict[str, Signature]
) -> None:
    before, after = learned(range(-28, 0)), learned(range(-28, 0), seed=6)
    whole = []
    for day in range(4):
        columns, times = drawn(day, 0.3)
        servers.asked(columns, times, before if day < 2 else after, version=1 if day < 2 else 2)
        whole.append(columns)
    exact = profile.build(
        {name: np.concatenate([each[name] for each in whole]) for name in ("distance", "carrier")}, like=after
    )
    seen = Sketched(servers.folder).observed(Window(since=at(0), until=at(4)), against(after, signatures, 2), after)
    assert seen.profile.rows == 4 * PER_DAY
    assert seen.profile.columns["carrier"].value_counts == exact.columns["carrier"].value_counts
    counts = np.array(seen.profile.columns["distance"].counts)
    assert counts.sum() == exact.columns["distance"].present
    assert np.abs(counts - exact.columns["distance"].counts).max() <= 0.005 * 4 * PER_DAY
    assert seen.profile.columns[PREDICTION].rows == 2 * PER_DAY, "what the other version answered is left out"


def test_hours_have_their_habits_in_sketches_too(servers: Servers, signatures: dict[str, Signature]) -> None:
    known = learned(range(-28, 0), hourly=True)
    assert known.season == "day"
    columns, times = drawn(0)
    morning = times % (24 * HOUR) < 12 * HOUR
    columns["distance"] = columns["distance"] + np.sin(times % (24 * HOUR) / (24 * HOUR) * 2 * np.pi)
    servers.asked({name: values[morning] for name, values in columns.items()}, times[morning], known)
    requests, seen = Sketched(servers.folder), Window(since=at(0), until=at(0.5))
    found = requests.observed(seen, against(known, signatures), known)
    assert found.weights.tolist() == [PER_DAY / 24] * 12 + [0] * 12
    plain = {
        each.name: each.psi
        for each in drift.signals_of(
            profile_without(known), requests.observed(seen, against(known, signatures), profile_without(known)), Drift()
        )
    }
    allowed = {each.name: each.psi for each in drift.signals_of(known, found, Drift())}
    assert allowed["distance"] < 0.1 < plain["distance"]


def profile_without(known: Profile) -> Profile:
    return Profile(rows=known.rows, columns=known.columns)


def test_windows_of_rows_end_with_a_stretch_and_what_goes_on_waits(
    servers: Servers, signatures: dict[str, Signature]
) -> None:
    known = learned(range(-28, 0))
    columns, times = drawn(0)
    servers.asked(columns, times, known)
    requests = Sketched(servers.folder)
    assert requests.closed(at(0), 300, at(0.5)) == [], "the stretch that is just over may not be written yet"
    (window,) = requests.closed(at(0), 310, at(0.6))
    assert window == Window(since=at(0), until=at(13 / 24)), "25 rows an hour: thirteen hours hold 310"
    assert requests.observed(window, against(known, signatures), known).profile.rows == 325
    assert requests.closed(window.until, 310, at(1)) == []
    assert requests.closed(at(0), DAY, at(1)) == [], "not before it is surely written"
    assert requests.closed(at(0), DAY, at(1) + LATE) == [Window(since=at(0), until=at(1))]


def test_a_damaged_file_is_left_out_and_said_and_old_ones_go(
    servers: Servers, signatures: dict[str, Signature]
) -> None:
    known = learned(range(-28, 0))
    columns, times = drawn(0)
    servers.asked(columns, times, known)
    torn, strange = [path for path, _ in sketches.files(servers.folder)][:2]
    torn.write_bytes(torn.read_bytes()[:-1])
    head, _ = sketches.read(strange)
    sketches.write(
        strange,
        head,
        b'{"rows":1,"columns":{"distance":{"kind":"number","sketches":["AAAA"],"missing":0,"present":1,"moments":"","counts":null}}}',
    )
    requests, window = Sketched(servers.folder), Window(since=at(0), until=at(1))
    seen = requests.observed(window, against(known, signatures), known)
    assert seen.profile.rows == PER_DAY - 25
    (note,) = seen.notes
    assert note.startswith("2 damaged files of sketches are not counted, such as 20240101T0000-60m-v1-")
    later = Window(since=at(0.5), until=at(1))
    assert requests.observed(later, against(known, signatures), known).notes == (), "it is of another window"
    requests.tidy([Wanted(length=DAY, since=at(0.5))])
    assert min(until for _, until in sketches.files(servers.folder)) == microseconds(at(13 / 24))
    assert requests.observed(window, against(known, signatures), known).notes == ()


def test_the_shortest_window_says_how_long_a_stretch_is() -> None:
    assert stretch([td(days=7), DAY]) == td(hours=1)
    assert stretch([td(minutes=1)]) == td(minutes=1)
    assert stretch([td(days=366)]) == td(hours=6)
    assert stretch([300]) == td(minutes=5)
    assert all(td(days=1) % stretch([td(minutes=length)]) == td(0) for length in range(1, 2_000))


def test_short_stretches_that_only_long_windows_ask_for_are_put_together(
    servers: Servers, signatures: dict[str, Signature]
) -> None:
    known = learned(range(-28, 0))
    for day in range(3):
        servers.asked(*drawn(day), known)
    asked, window = against(known, signatures), Window(since=at(0.02), until=at(2.5))
    requests = Sketched(servers.folder)
    whole = requests.observed(window, asked, known)
    wanted = [
        Wanted(length=DAY, since=at(2), edges=(at(2), at(3))),
        Wanted(length=7 * DAY, since=at(0), edges=(at(0), at(1.1))),
    ]

    def same(seen: Observed) -> None:
        assert (seen.profile.rows, seen.weights.tolist()) == (whole.profile.rows, whole.weights.tolist())
        assert (seen.values, seen.missing, seen.newcomers) == (whole.values, whole.missing, whole.newcomers)
        for name, column in whole.profile.columns.items():
            found = seen.profile.columns[name]
            assert (found.counts, found.value_counts, found.missing) == (
                column.counts, column.value_counts, column.missing
            )  # fmt: skip

    before = {path: path.read_bytes() for path, _ in sketches.files(servers.folder)}
    assert len(before) == 3 * 24 * 2
    with sketches.alone(servers.folder) as mine:
        assert mine
        requests.tidy(wanted)
        assert len(list(sketches.files(servers.folder))) == 144, "somebody else does it"
    requests = Sketched(servers.folder)
    requests.tidy(wanted)
    kept = [path.name for path, _ in sketches.files(servers.folder)]
    together = [name for name in kept if "together" in name]
    assert len(together) == 7, "of the eight quarters of two days not the one in which a window ends"
    assert len(kept) == 7 + 6 * 2 + 24 * 2
    same(requests.observed(window, asked, known))
    same(Sketched(servers.folder).observed(window, asked, known))
    for path, data in before.items():  # as if it had been killed before they were removed
        path.write_bytes(data)
    again = Sketched(servers.folder)
    same(again.observed(window, asked, known))
    again.tidy(wanted)
    same(again.observed(window, asked, known))
    assert len([path for path, _ in sketches.files(servers.folder) if "together" in path.name]) == 7
    again.tidy([replace(wanted[0], since=at(3)), replace(wanted[1], since=at(0.5))])
    same_rows = again.observed(Window(since=at(0.5), until=at(3)), asked, known)
    assert same_rows.profile.rows == round(2.5 * PER_DAY)


def test_of_two_versions_in_one_stretch_none_is_lost_when_the_disk_is_full_between_them(
    tmp_path: Path, signatures: dict[str, Signature], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = learned(range(-28, 0))
    hour = 3_600_000_000
    since = microseconds(at(0))
    for version, rows in ((1, 1_000), (2, 500)):
        sketch = Sketch()
        sketch.update({"x": np.arange(rows, dtype=np.float64)})
        head = sketches.Head(
            version=version, tag="p1", first=1, since=since, until=since + hour, rows=rows, sketched=1_500,
            written=since + hour, hours={0: rows},
        )  # fmt: skip
        name = sketches.name(version, "p1", head.since, head.until, version)
        sketches.write(tmp_path / name, head, to_bytes(sketch))

    def counted() -> int:
        window = Window(since=at(0), until=at(1.5))
        return Sketched(tmp_path).observed(window, against(known, signatures), known).profile.rows

    assert counted() == 1_500
    write, calls = sketches.write, list[Path]()

    def full(path: Path, *given: Any, **named: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise StoreFull("The disk is full.")
        write(path, *given, **named)

    monkeypatch.setattr(sketches, "write", full)
    wanted = [Wanted(length=DAY, since=at(2)), Wanted(length=7 * DAY, since=at(0))]
    with pytest.raises(StoreFull):
        Sketched(tmp_path).tidy(wanted)
    assert counted() == 1_500
    Sketched(tmp_path).tidy(wanted)
    assert counted() == 1_500
    assert len(list(sketches.files(tmp_path))) == 2
