"""A snapshot gives the same rows for ever, and nothing that was not known then."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.data import show, snapshot, sources
from everloop.data.ingest import Ingest
from everloop.errors import DataError, NotFound
from everloop.records import Outcome, Snapshot, decode, encode
from everloop.spec.label import Label, Outcomes
from everloop.spec.loop import Loop
from everloop.spec.resolve import LabelFacts, Resolved, resolve
from everloop.spec.source import Parquet
from everloop.spec.train import Train
from everloop.spec.window import Everything, Last
from everloop.store.lake import COMPACT_EVERY, OUTCOMES, QUARANTINE, RAW, Lake, outcome_rows

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
COUNT = 100


def never(samples: Any, parameters: Any, context: Any) -> Any:
    raise NotImplementedError


fit: Any = never


def parcels(ids: Sequence[int], **columns: Any) -> pl.DataFrame:
    """Parcel n is sent in hour n; it is late when n % 3 == 0."""
    return pl.DataFrame(
        {
            "id": ids,
            "at": [START + each * HOUR for each in ids],
            "miles": [float(each * 7 % 11) for each in ids],
            "arrived": [each + 0.5 for each in ids],
            "late": [each % 3 == 0 for each in ids],
            **columns,
        },
        schema_overrides={"late": pl.Boolean, "arrived": pl.Float64},
    )


class Made:
    def __init__(self, folder: Path, *, label: Label | None = None, window: Any = None) -> None:
        self.lake = Lake(folder / "lake")
        source = Parquet("*.parquet", key=("id",), event_time="at", after=("arrived",))
        declared = Loop(
            name="parcels",
            source=source,
            label=label or Label("late", delay=5 * HOUR),
            train=Train(fit),
            window=window or Everything(),
        )
        schema = sources.types_of(sources.normalised(source, parcels([1]), {}, where="rows", digest="d").schema)
        facts = LabelFacts(distinct=(False, True), rows=COUNT, missing=0)
        self.resolved: Resolved = resolve(declared, schema, facts)
        self.ingest = Ingest(self.resolved, self.lake)

    def within(self, window: Any) -> "Made":
        loop = dataclasses.replace(self.resolved.loop, window=window)
        self.resolved = dataclasses.replace(self.resolved, loop=loop)
        return self

    def bring(self, frame: pl.DataFrame, *, hour: float = COUNT) -> bool:
        """Take rows in; False when the same content was taken in before."""
        batch = self.ingest.frame(frame, now=START + hour * HOUR)
        assert batch is not None
        assert batch.refused is None
        return batch.at == START + hour * HOUR

    def tell(self, values: dict[int, Any], *, hour: float, name: str = "late") -> None:
        at = START + hour * HOUR
        self.lake.append(
            OUTCOMES, outcome_rows([Outcome(id=str(n), name=name, value=v, at=at) for n, v in values.items()])
        )

    def take(self, hour: float) -> Snapshot:
        return snapshot.take(self.resolved, self.lake, as_of=START + hour * HOUR)

    def samples(self, taken: Snapshot) -> snapshot.Samples:
        return snapshot.samples(self.resolved, self.lake, taken)

    def ids(self, taken: Snapshot) -> tuple[list[int], list[int]]:
        got = self.samples(taken)
        return got.train["id"].to_list(), got.test["id"].to_list()

    def labels(self, taken: Snapshot) -> dict[int, Any]:
        got = self.samples(taken)
        return dict(pl.concat([got.train, got.test]).select("id", "_label").rows())


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path)
    made.bring(parcels(range(COUNT)))
    return made


def test_only_rows_whose_labels_have_matured_are_seen(made: Made) -> None:
    taken = made.take(hour=50)
    train, test = made.ids(taken)
    assert train + test == list(range(46)), "event time + 5 h <= 50 h"
    assert (taken.train_rows, taken.test_rows, taken.unlabelled_rows) == (41, 5, 0)
    assert taken.to == START + 45 * HOUR + timedelta(microseconds=1)


def test_the_label_and_what_is_known_later_are_no_columns(made: Made) -> None:
    got = made.samples(made.take(hour=50))
    assert set(got.train.columns) == {"id", "at", "miles", "_key", "_event_time", "_label"}
    assert got.train.schema["_label"] == pl.Boolean
    assert got.train["_label"].to_list() == [n % 3 == 0 for n in got.train["id"]]


WINDOWS: list[tuple[Any, list[int], list[int]]] = [
    (Everything(test=0.1), list(range(90)), list(range(90, 100))),
    (Everything(test=10 * HOUR), list(range(90)), list(range(90, 100))),
    (Everything(test=7), list(range(93)), list(range(93, 100))),
    (Last(50 * HOUR, test=10 * HOUR), list(range(50, 90)), list(range(90, 100))),
    (Last(40, test=0.25), list(range(60, 90)), list(range(90, 100))),
    (Last(1000, test=20), list(range(80)), list(range(80, 100))),
    (Last(timedelta(days=365), test=0.5), list(range(50)), list(range(50, 100))),
]


@pytest.mark.parametrize(("window", "train", "test"), WINDOWS)
def test_the_window_ends_with_the_newest_labelled_row(
    made: Made, window: Any, train: list[int], test: list[int]
) -> None:
    taken = made.within(window).take(hour=10_000)
    # A window of 50 hours holds the instants after 50 hours before its end.
    assert made.ids(taken) == (train, test)
    assert (taken.train_rows, taken.test_rows) == (len(train), len(test))


def test_no_instant_is_on_both_sides(tmp_path: Path) -> None:
    made = Made(tmp_path, window=Last(47, test=10))
    made.bring(parcels(range(COUNT), at=[START + (n // 8) * HOUR for n in range(COUNT)]))
    got = made.samples(made.take(hour=200))
    assert got.test.height >= 10
    assert got.train["_event_time"].max() < got.test["_event_time"].min()  # type: ignore[operator]


def test_a_window_that_is_too_small_says_the_counts(made: Made, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="6 rows to train on and 1 to test on, of 7 labelled rows in all \\(12 have happened"
    ):
        made.take(hour=11)
    with pytest.raises(DataError, match=r"None of the 3 rows .* has a known label 'late'"):
        made.take(hour=2)
    with pytest.raises(DataError, match="has no rows yet"):
        Made(tmp_path / "empty").take(hour=2)
    with pytest.raises(DataError, match="1 rows to train on and 10 to test on"):
        made.within(Last(11, test=10 * HOUR)).take(hour=90)


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.bring(parcels(range(COUNT), late=[None if n % 4 == 0 else True for n in range(COUNT)]))
    taken = made.within(Last(40 * HOUR)).take(hour=200)
    assert taken.train_rows + taken.test_rows == 30
    assert taken.unlabelled_rows == 10
    assert all(n % 4 for n in chain(*made.ids(taken)))


def test_an_outcome_counts_from_its_own_time_on(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.bring(parcels(range(COUNT), late=[None] * COUNT))
    made.tell(dict.fromkeys(range(40), True), hour=60)
    made.tell(dict.fromkeys(range(5), False), hour=70)
    made.tell({5: None}, hour=70)
    at_60, at_69, at_70 = made.take(60), made.take(69.9), made.take(70)
    assert made.labels(at_60) == made.labels(at_69) == dict.fromkeys(range(40), True)
    assert made.labels(at_70) == {**dict.fromkeys(range(5), False), **dict.fromkeys(range(6, 40), True)}
    assert at_70.digest != at_60.digest == at_69.digest
    with pytest.raises(DataError, match="None of the 60 rows"):
        made.take(59.9)


def test_a_corrected_source_row_corrects_the_label_from_then_on(made: Made) -> None:
    before = made.take(hour=100)
    made.bring(parcels([0, 1], late=[False, None]), hour=120)
    assert made.labels(made.take(hour=119))[0] is True
    assert made.labels(made.take(hour=120))[0] is False
    assert made.labels(before)[0] is True


def test_no_news_is_an_answer_only_when_the_time_is_over(tmp_path: Path) -> None:
    label = Label("late", delay=5 * HOUR, absent=False, source=Outcomes())
    made = Made(tmp_path, label=label)
    made.bring(parcels(range(COUNT)).drop("late"))
    made.tell(dict.fromkeys(range(0, 60, 10), True), hour=49)
    labels = made.labels(made.take(hour=50))
    assert labels == {n: n % 10 == 0 for n in range(46)}, "50 was told early and is left out: early news are mostly bad"


def test_a_label_from_outcomes_ignores_the_column_of_the_source(tmp_path: Path) -> None:
    made = Made(tmp_path, label=Label("late", source=Outcomes()))
    made.bring(parcels(range(COUNT)))
    made.tell({n: n % 2 == 0 for n in range(50)}, hour=60)
    assert made.labels(made.take(hour=60)) == {n: n % 2 == 0 for n in range(50)}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1.5, 2.5], pl.Float64), ([3, 2**53 + 1], pl.Int64), (["a", "b|c"], pl.String), ([True, False], pl.Boolean)],
)
def test_labels_of_every_type_come_back_from_outcomes(tmp_path: Path, values: list[Any], dtype: Any) -> None:
    made = Made(tmp_path)
    nothing = pl.Series([None] * COUNT, dtype=dtype)
    # The types of the lake count, whatever was seen first by the declaration.
    made.ingest = Ingest(made.resolved.loop, made.lake)
    made.bring(parcels(range(COUNT)).with_columns(nothing.alias("late")))
    made.tell({n: values[n % 2] for n in range(50)}, hour=60)
    made.bring(parcels(range(50, COUNT)).with_columns(pl.Series("late", values * 25, dtype=dtype)), hour=60)
    labels = made.labels(made.take(hour=60))
    assert labels == {n: values[n % 2] for n in range(COUNT) if n <= 60}


def test_the_same_rows_for_ever(made: Made) -> None:
    taken = made.take(hour=70)
    before = made.samples(taken)
    for number in range(COMPACT_EVERY + 3):
        made.bring(parcels([COUNT + number]))
    made.bring(parcels([-1, -2]))
    made.bring(parcels([3000], weight=[1.0]))
    made.tell(dict.fromkeys(range(COUNT), True), hour=30)
    made.tell(dict.fromkeys(range(COUNT), False), hour=300)
    again = snapshot.samples(made.resolved, Lake(made.lake.root), decode(encode(taken), Snapshot))
    assert again.train.equals(before.train)
    assert again.test.equals(before.test)
    assert again.train.columns == before.train.columns
    assert made.take(hour=70).digest != taken.digest


def test_the_digest_is_of_the_rows(made: Made) -> None:
    taken = made.take(hour=70)
    made.bring(parcels([COUNT + 50]))
    later = made.take(hour=70)
    assert later.raw_version != taken.raw_version
    assert later.digest == taken.digest, "the same rows with the same labels are the same snapshot"
    assert made.take(hour=71).digest != taken.digest
    assert made.within(Everything(test=0.2)).take(hour=70).digest != taken.digest


def test_a_lake_that_lost_rows_is_noticed(made: Made) -> None:
    taken = made.take(hour=70)
    with pytest.raises(DataError, match="no longer holds the rows of snapshot"):
        made.samples(dataclasses.replace(taken, train_from=taken.train_from + HOUR))
    for path in (made.lake.root / RAW).glob("*.parquet"):
        path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        snapshot.samples(made.resolved, Lake(made.lake.root), taken)


ROW = st.tuples(st.integers(0, 39), st.sampled_from([None, True, False]))
EVENT = st.one_of(
    st.tuples(st.just("bring"), st.lists(ROW, max_size=12)),
    st.tuples(st.just("tell"), st.lists(st.tuples(st.integers(0, 45), st.booleans()), min_size=1, max_size=6)),
)


@settings(max_examples=25, deadline=None)
@given(events=st.lists(EVENT, min_size=1, max_size=7), delay=st.integers(0, 8), look=st.integers(5, 60))
def test_nothing_known_later_enters(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, list[Any]]], delay: int, look: int
) -> None:
    """Rows and outcomes come in any order; at any time a snapshot holds just what a plain reading says was known.

    The planted leak: `leak` is an `after` column that equals the label, and every label is told false once more after
    the look.
    """
    made = Made(tmp_path_factory.mktemp("lake"), label=Label("late", delay=delay * HOUR))
    made.bring(parcels(range(12), late=[True] * 12), hour=0)
    first: dict[int, Any] = dict.fromkeys(range(12), True)
    told: dict[int, list[tuple[float, int, Any]]] = {}
    current = dict(first)
    for order, (kind, what) in enumerate(events):
        hour = 8.0 * (order + 1)
        if kind == "tell":
            what = list(dict(what).items())
            made.tell(dict(what), hour=hour)
            for id, value in what:
                told.setdefault(id, []).append((hour, order, value))
                current[id] = value
            continue
        rows = list({id: (id, value) for id, value in what}.values())
        if not made.bring(parcels([id for id, _ in rows], late=[value for _, value in rows]), hour=hour):
            continue
        for id, value in rows:
            if id not in first:
                first[id] = value
                current[id] = current[id] if told.get(id) else value
            elif value is not None and value != current.get(id):
                told.setdefault(id, []).append((hour, order, value))
                current[id] = value
    made.tell(dict.fromkeys(range(46), False), hour=look + 1)
    expected: dict[int, Any] = {}
    for id, value in first.items():
        known = [each for each in told.get(id, []) if each[0] <= look]
        label = max(known)[2] if known else (value if id + delay <= look else None)
        if id <= look and label is not None:
            expected[id] = label
    try:
        got = made.labels(made.take(hour=look))
    except DataError:
        assert len(expected) < 12
        return
    assert got == expected


def test_batches_and_differences_can_be_looked_at(made: Made) -> None:
    made.bring(parcels([0, 1, 200, 201], late=[False, None, None, None]), hour=120)
    made.bring(parcels([300], weight=[2.5]), hour=130)
    entries = show.log(made.lake)
    assert [(each.version, each.rows) for each in entries] == [(2, 1), (1, 2), (0, COUNT)]
    assert entries[1].batch is not None
    assert (entries[1].batch.added, entries[1].batch.copies, entries[1].batch.outcomes) == (2, 1, 1)
    found = show.diff(made.lake, 0, 2)
    assert found.rows["id"].to_list() == [200, 201, 300]
    assert (found.added, found.copies, found.outcomes, found.quarantined) == (3, 1, 1, 0)
    assert found.new_columns == ("weight",)
    assert [each.rows for each in found.batches] == [4, 1]
    assert show.show(made.lake, limit=2)["id"].to_list() == [300, 201]
    assert show.show(made.lake, version=0, limit=None).height == COUNT
    assert show.show(made.lake, OUTCOMES)["id"].to_list() == ["0"]
    with pytest.raises(NotFound, match=r"no table 'quarantine' in .*There are: outcomes, raw"):
        show.show(made.lake, QUARANTINE)
    with pytest.raises(NotFound, match="no version 9"):
        show.show(made.lake, version=9)
