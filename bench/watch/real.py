"""What the watch says of real data: a champion fitted once, on the first rows, and never again; each alarm, when and why.

Predictions and labels go into a lake as a server's would, and the live code looks at every window: drift of the inputs and
of the answers, the score on matured labels, ADWIN on its losses. So it is seen what is told, when, and with what reason;
not what retraining would do.
"""

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench.rows import Row
from bench.watch.parts import Part
from numpy.typing import NDArray

from everloop.measure import habit, metrics, profile, season, space
from everloop.records import ColumnType, InputColumn, Release, Signature, TensorColumn
from everloop.spec.detector import Adwin
from everloop.spec.metric import Accuracy, Metric, RootMeanSquaredError
from everloop.spec.retrain import AnyOf, Degraded, Drift
from everloop.store.lake import OUTCOME_SCHEMA, OUTCOMES, PREDICTIONS
from everloop.watch import triggers
from everloop.watch.labels import Truth
from everloop.watch.look import Champion, Watched, begin, look
from everloop.watch.observed import PREDICTION, array_of
from everloop.watch.recent import Recent

DATA = Path(__file__).parents[3] / "shared" / "data"
Fitted = Callable[[pl.DataFrame], NDArray[np.float64]]
MOST = 14
INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64)


@dataclass(kw_only=True)
class Real:
    """One set. ``frame`` has the inputs, ``at`` (instants, rising) and ``truth``."""

    name: str
    frame: pl.DataFrame
    inputs: Sequence[str]
    first: int
    """Rows that the champion is fitted on."""
    fit: Callable[[pl.DataFrame], Fitted]
    classes: tuple[int, ...] = (0, 1)
    """Empty: a number."""
    metric: Metric = field(default_factory=Accuracy)
    by: float = 0.03
    window: timedelta | int = timedelta(days=7)
    look: timedelta = timedelta(days=7)
    pictures: NDArray[np.float32] | None = None
    known: str = ""
    """What happened, as the data's own description says."""
    letters: bool = False
    """Letters of real people: what is found in them is printed and kept nowhere."""
    places: bool = False
    """Whether instants are made up: then rows are told, not days."""


def lightgbm(target: str) -> Callable[[pl.DataFrame], Fitted]:
    def fit(rows: pl.DataFrame) -> Fitted:
        from lightgbm import LGBMClassifier, LGBMRegressor

        codes = {
            name: {value: place for place, value in enumerate(rows[name].unique().sort().to_list())}
            for name, kind in rows.schema.items()
            if kind == pl.String
        }

        def matrix(part: pl.DataFrame) -> NDArray[np.float64]:
            return np.column_stack([
                part[name].replace_strict(codes[name], default=-1, return_dtype=pl.Float64).to_numpy() if name in codes else part[name].cast(pl.Float64).to_numpy()
                for name in part.columns if name not in ("truth", "at")
            ])  # fmt: skip

        kind = LGBMRegressor if target == "number" else LGBMClassifier
        model = kind(n_jobs=1, verbose=-1, random_state=0).fit(matrix(rows), rows["truth"].to_numpy())
        return lambda part: model.predict(matrix(part)) if target == "number" else model.predict_proba(matrix(part))

    return fit


def words(rows: pl.DataFrame) -> Fitted:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import LogisticRegression

    vectors = HashingVectorizer(n_features=2**16, alternate_sign=False)

    def texts(part: pl.DataFrame) -> list[str]:
        return [
            f"{one} {other}"
            for one, other in zip(part["subject"].fill_null(""), part["body"].fill_null(""), strict=True)
        ]

    model = LogisticRegression(C=30, max_iter=300).fit(vectors.transform(texts(rows)), rows["truth"].to_numpy())
    return lambda part: model.predict_proba(vectors.transform(texts(part)))


def small_pictures(rows: pl.DataFrame) -> Fitted:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    def matrix(part: pl.DataFrame) -> NDArray[np.float64]:
        return np.array(part["small"].to_list())

    scale = StandardScaler().fit(matrix(rows))
    model = LogisticRegression(C=0.01, max_iter=200).fit(scale.transform(matrix(rows)), rows["truth"].to_numpy())
    return lambda part: model.predict_proba(scale.transform(matrix(part)))


def sets() -> list[Real]:
    made = []
    elec = pl.read_parquet(DATA / "elec2.parquet").with_columns(at="ts", truth=pl.col("price_up").cast(pl.Int64))
    made.append(
        Real(name="elec2", frame=elec, inputs=("day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"),
             first=8 * 336, fit=lightgbm("class"), known="three dead inputs wake on 1997-05-05; demand has seasons")
    )  # fmt: skip
    flights = (
        pl.read_parquet(DATA / "hflights.parquet").filter(pl.col("dep_delayed_15").is_not_null()).sort("sched_dep_ts")
    )
    flights = flights.with_columns(
        at="sched_dep_ts", truth=pl.col("dep_delayed_15").cast(pl.Int64),
        minute=pl.col("sched_dep_ts").dt.hour().cast(pl.Int64) * 60 + pl.col("sched_dep_ts").dt.minute().cast(pl.Int64),
    )  # fmt: skip
    early = len(flights.filter(pl.col("at") < flights["at"][0] + timedelta(weeks=4)))
    made.append(
        Real(name="hflights", frame=flights, inputs=("day_of_week", "minute", "carrier", "origin", "dest", "distance_mi"), first=early,
             fit=lightgbm("class"), known="delays from 13.8 % to 24.3 % by month, most in June and July; February's ice storm")
    )  # fmt: skip
    bike = pl.read_parquet(DATA / "bike_hourly.parquet").with_columns(at="ts", truth=pl.col("cnt").cast(pl.Float64))
    made.append(
        Real(name="bike_hourly", frame=bike, inputs=("season", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed"),
             first=60 * 24, fit=lightgbm("number"), classes=(), metric=RootMeanSquaredError(), by=15.0,
             known="rentals grow from 144 to 235 an hour; the season moves temperature; Sandy on 2012-10-29")
    )  # fmt: skip
    mails = pl.read_parquet(DATA / "enron_spam.parquet").with_columns(truth=pl.col("is_spam").cast(pl.Int64))
    for order, known in (("seq", "campaigns and vocabulary of five years"), ("seq_mailbox", "another mailbox from rows 5,172, 11,029, 16,541, 22,541 and 27,716 on: spam 29, 26, 27, 75, 71, 75 %")):  # fmt: skip
        ordered = mails.sort(order).with_columns(at=minutes(len(mails)))
        made.append(
            Real(name=f"enron_spam by {order}", frame=ordered, inputs=("subject", "body"), first=3_000, fit=words, window=1_000,
                 look=timedelta(minutes=1_000), known=known, places=True, letters=True)
        )  # fmt: skip
    pacs = (
        pl.read_parquet(DATA / "pacs_64.parquet")
        .sort("seq")
        .with_columns(truth=pl.col("label").cast(pl.Int64), at=minutes(6_062))
    )
    pictures = decoded(pacs["jpeg"].to_list())
    small = pictures.reshape(len(pictures), 3, 16, 4, 16, 4).mean(axis=(3, 5)).reshape(len(pictures), -1)
    pacs = pacs.with_columns(small=pl.Series(small.tolist()))
    made.append(
        Real(name="pacs_64", frame=pacs, inputs=(), first=1_000, fit=small_pictures, classes=tuple(range(7)), by=0.1, window=300,
             look=timedelta(minutes=300), pictures=pictures, known="photo → art painting at row 1,670, → cartoon at 3,718", places=True)
    )  # fmt: skip
    return made


def minutes(count: int) -> pl.Series:
    start = datetime(2024, 1, 1)
    return pl.Series([start + timedelta(minutes=place) for place in range(count)]).cast(pl.Datetime("us"))


def decoded(files: list[bytes]) -> NDArray[np.float32]:
    from PIL import Image

    whole = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), dtype=np.float32) / 255 for each in files]
    return np.moveaxis(np.stack(whole), -1, 1)


def watched(each: Real) -> tuple[list[str], list[Row]]:
    """What is told of one set, a line for each alarm, and its counts."""
    frame = each.frame.with_columns(pl.col("at").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    frame = frame.with_columns(
        pl.col(name).cast(pl.Int64 if frame.schema[name] in INTEGERS else pl.String if frame.schema[name] == pl.String else pl.Float64)
        for name in each.inputs
    )  # fmt: skip
    model_columns = [*each.inputs, *(["small"] if "small" in frame.columns else []), "truth"]
    trained = frame[: each.first]
    predict = each.fit(trained.select(model_columns))
    kinds: dict[str, ColumnType] = {
        name: "integer" if frame.schema[name] == pl.Int64 else "text" if frame.schema[name] == pl.String else "number" for name in each.inputs
    }  # fmt: skip
    tensors = (
        () if each.pictures is None else (TensorColumn(name="picture", datatype="FP32", shape=each.pictures.shape[1:]),)
    )
    binary = len(each.classes) == 2
    signature = Signature(
        inputs=tuple(
            InputColumn(name=name, type=kind, index=place) for place, (name, kind) in enumerate(kinds.items())
        ),
        tensors=tensors,
        task="binary" if binary else "multiclass" if each.classes else "regression",
        classes=each.classes,
        positive=1 if each.classes else None,
    )
    # What it says of rows that it was fitted on is too sure: the last fifth is kept for what is usual.
    held = each.first * 4 // 5
    usual = each.fit(trained[:held].select(model_columns))(trained[held:].select(model_columns))
    columns = {name: array_of(trained[name]) for name in each.inputs}
    arrays = {} if each.pictures is None else {"picture": each.pictures[: each.first]}
    spaces, later = space.learned(columns, kinds, arrays)
    plain = {name: values for name, values in columns.items() if name not in spaces}
    reference = profile.with_spaces(profile.build(plain, types=kinds), spaces, later)
    said = usual[:, 1] if each.classes else usual
    beside = profile.build({PREDICTION: said})
    reference = replace(reference, rows=each.first, columns={**reference.columns, **beside.columns})
    if not each.places:
        times = trained["at"].dt.epoch("us").to_numpy()
        known = {**plain, **later}
        reference = habit.daily(season.seasonal(reference, known, times, season="detect"), known, times)
    answers = predict(frame[each.first :].select(model_columns))
    served = frame[each.first :].with_columns(pl.int_range(pl.len()).cast(pl.String).alias("id"))
    summaries = None if each.pictures is None else [row.tobytes() for row in space.summary(each.pictures[each.first :])]
    truth = Truth(column="truth", delay=timedelta(0), task=signature.task, classes=each.classes)
    held_truth = trained["truth"][held:].to_numpy()
    champion = Champion(
        version=1,
        since=served["at"][0],
        score=metrics.score(each.metric, held_truth, usual),
        test_rows=len(held_truth),
        signature=signature,
        profile=reference,
        trained_until=served["at"][0],
    )
    trigger = AnyOf(Drift(window=each.window), Degraded(by=each.by, detector=Adwin()))
    return _told(each, served, answers, summaries, champion, Watched(truth=truth, metric=each.metric, trigger=trigger))


def _told(
    each: Real,
    served: pl.DataFrame,
    answers: NDArray[np.float64],
    summaries: list[bytes] | None,
    champion: Champion,
    watched: Watched,
) -> tuple[list[str], list[Row]]:
    start, release = (
        served["at"][0],
        Release(loop="real", revision=1, stage="steady", champion=1, since=served["at"][0]),
    )
    state, lines, alarmed, windows, worse = begin(start), [], 0, 0, 0
    open_drift: tuple[str, ...] = ()
    until = None
    with tempfile.TemporaryDirectory() as folder:
        lake = Recent(Path(folder))
        place = 0
        now = start
        while place < len(served):
            now = now + each.look
            end = int(served["at"].search_sorted(now, side="left"))
            if end > place:
                _append(
                    lake,
                    served[place:end],
                    answers[place:end],
                    None if summaries is None else summaries[place:end],
                    each,
                )
            place = max(end, place)
            seen, state = look(lake, watched, champion, release, state, now=now)
            fires, after = triggers.fired(watched.trigger, seen.signals, state.triggers, now)
            state = replace(state, triggers=after)
            for found in seen.signals.drift.values():
                if found.until == until:
                    continue
                until, windows = found.until, windows + 1
                names = tuple(sorted(column.column for column in found.columns))
                alarmed += bool(names)
                if set(names) - set(open_drift):
                    fresh = [column for column in found.columns if column.column not in open_drift]
                    hurt = f"; {found.score}" if found.score else ""
                    lines.append(f"{_when(each, found.until, start)}  drift      {'; '.join(column.because for column in fresh[:3])}"
                                 + (f"; and {len(fresh) - 3} more columns" if len(fresh) > 3 else "") + hurt)  # fmt: skip
                elif open_drift and not names:
                    lines.append(f"{_when(each, found.until, start)}  drift over")
                open_drift = names
            for degraded in seen.signals.degraded.values():
                if degraded.worse and fires:
                    worse += 1
                    lines.append(f"{_when(each, now, start)}  degraded   {degraded.because}")
    rows = [
        Row(what=f"{each.name}: pairs of windows with drift", ours=float(alarmed), unit="pairs", rounds=windows),
        Row(
            what=f"{each.name}: times it was told that the score fell", ours=float(worse), unit="times", rounds=windows
        ),
    ]
    return lines, rows


def _when(each: Real, instant: datetime, start: datetime) -> str:
    if each.places:
        return f"row {each.first + int((instant - start) / timedelta(minutes=1)):>6,}"
    return f"{instant:%Y-%m-%d}"


def _append(
    lake: Recent, rows: pl.DataFrame, answers: NDArray[np.float64], summaries: list[bytes] | None, each: Real
) -> None:
    count = len(rows)
    given: dict[str, Any] = {
        "id": rows["id"], "at": rows["at"], "event_time": rows["at"], "version": pl.Series([1] * count, dtype=pl.Int64),
        "arm": ["champion"] * count, "revision": pl.Series([1] * count, dtype=pl.Int64), "epoch": pl.Series([1] * count, dtype=pl.Int64),
        "share": [0.0] * count, "unit": pl.Series([None] * count, dtype=pl.String), "latency_us": pl.Series([900] * count, dtype=pl.Int64),
        "error": [False] * count,
        "decision": pl.Series(answers.argmax(axis=1) if each.classes else [None] * count, dtype=pl.Int64),
    }  # fmt: skip
    if each.classes:
        given |= {f"p_{place}": answers[:, place] for place in range(answers.shape[1])}
    else:
        given["value"] = answers
    given |= {f"input_{name}": rows[name] for name in each.inputs}
    if summaries is not None:
        given["summary_picture"] = pl.Series(summaries, dtype=pl.Binary)
    lake.append(PREDICTIONS, pl.DataFrame(given))
    outcomes = {
        "id": rows["id"], "name": ["truth"] * count, "value_text": pl.Series([None] * count, dtype=pl.String),
        "value_number": rows["truth"].cast(pl.Float64), "at": rows["at"], "_batch": pl.Series([None] * count, dtype=pl.String),
    }  # fmt: skip
    lake.append(OUTCOMES, pl.DataFrame(outcomes, schema=OUTCOME_SCHEMA))


def part(*, quick: bool = False) -> Part:
    if not DATA.exists():
        return Part(notes=["The data sets are not here: ../shared/data."])
    rows, text, aside = [], [], []
    for each in sets():
        if quick and each.name not in ("elec2", "pacs_64"):
            continue
        lines, counts = watched(each)
        if not each.letters:
            rows += counts
        head = f"{each.name}, a champion of the first {each.first:,} rows. Known: {each.known}"
        drifted = [line for line in lines if "  degraded   " not in line]
        fell = [line for line in lines if "  degraded   " in line]
        shown = (
            drifted
            if len(drifted) <= MOST
            else [*drifted[: MOST - 3], f"… {len(drifted) - MOST + 1} more", *drifted[-2:]]
        )
        shown += (
            fell[:2] if len(fell) <= 3 else [fell[0], f"… {len(fell) - 2} more, for it is never fitted again", fell[-1]]
        )
        (aside if each.letters else text).append(
            "\n".join([head, *(f"  {line}" for line in shown or ["nothing was told"])])
        )
    notes = [
        "The mails (enron_spam) are run as well; they are letters of real people, and what is found in them is printed and not kept."
    ]
    return Part(rows=rows, text=text, aside=aside, notes=notes)
