"""Free texts and pictures of requests, from the log through the lake to an alarm that names them."""

from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np

from everloop.clock import microseconds
from everloop.measure import profile, space
from everloop.records import InputColumn, Signature, TensorColumn
from everloop.spec.retrain import Drift
from everloop.store.lake import PREDICTIONS, Lake
from everloop.store.segments import PredictionFrame, Writer, encode
from everloop.watch import drift
from everloop.watch.drift import Against, Drifted, DriftState
from everloop.watch.fold import fold

START = datetime(2024, 1, 1, tzinfo=UTC)
PER_DAY = 500
SIGNATURE = Signature(
    inputs=(InputColumn(name="subject", type="text", index=0),),
    tensors=(TensorColumn(name="picture", datatype="FP32", shape=(3, 16, 16)),),
    task="binary",
    classes=(0, 1),
    positive=1,
)


def drawn(random: np.random.Generator, rows: int, *, new: float = 0.0, dark: float = 0.0) -> tuple[Any, Any]:
    topics = np.where(random.random(rows) < new, 9, random.integers(0, 4, rows)).tolist()
    words = random.integers(0, 50, (rows, 8)).tolist()
    texts = [" ".join(f"t{topic}w{word}" for word in each) for topic, each in zip(topics, words, strict=True)]
    pictures = random.normal(0.5, 0.1, (rows, 3, 16, 16)) * random.uniform(0.8, 1.2, (rows, 1, 1, 1)) - dark
    return np.array(texts, dtype=object), pictures.astype(np.float32)


def watched(folder: Any, lake: Lake, days: int, **world: float) -> Drifted:
    random = np.random.default_rng(1)
    texts, pictures = drawn(random, 4_000)
    spaces, later = space.learned({"subject": texts}, {"subject": "text"}, {"picture": pictures})
    reference = profile.with_spaces(profile.build({"subject": texts}), spaces, later)
    assert set(spaces) == {"subject", "picture"}
    writer = Writer(folder, "test")
    for day in range(days):
        texts, pictures = drawn(random, PER_DAY, **world)
        at = microseconds(START + td(days=day)) + np.arange(PER_DAY) * 60_000_000
        frame = PredictionFrame(
            loop="parcels",
            version=1,
            package="package",
            arm="champion",
            revision=1,
            epoch=1,
            share=0.0,
            ids=[f"{day}-{index}" for index in range(PER_DAY)],
            at=at.astype("<i8").tobytes(),
            latency=np.full(PER_DAY, 900, "<i4").tobytes(),
            status=bytes(PER_DAY),
            texts=texts.tolist(),
            tensors={"picture": bytes(16 * PER_DAY)},
            summaries={"picture": space.summary(pictures).tobytes()},
            prediction=np.full((PER_DAY, 2), 0.5).tobytes(),
            decision=np.ones(PER_DAY, "<i8").tobytes(),
            width=2,
        )
        writer.append(encode(frame), rows=PER_DAY)
    writer.flush()
    fold(folder, lake, {"package": SIGNATURE})
    against = Against(version=1, signature=SIGNATURE, profile=reference)
    state = DriftState(opened=START)
    for day in range(days):
        state = drift.advance(drift.Logged(lake), Drift(window=td(days=1)), state, against, START + td(days=day + 1))
    assert state.found is not None
    return state.found


def test_usual_texts_and_pictures_drift_nowhere(tmp_path: Any, lake: Lake) -> None:
    found = watched(tmp_path / "segments", lake, 4)
    assert not found.columns
    assert len(lake.read(PREDICTIONS, columns=["summary_picture"])["summary_picture"][0]) == 4 * (3 + 3 + 2 + 16)


def test_a_new_topic_is_named_and_so_are_darker_pictures(tmp_path: Any, lake: Lake) -> None:
    found = watched(tmp_path / "segments", lake, 2, new=0.08, dark=0.2)
    said = {(each.column, each.measure): each for each in found.columns}
    assert ("subject (distance)", "novel rows") in said
    assert "1.0% in training" in said["subject (distance)", "novel rows"].because
    assert any(column.startswith("picture (") for column, _ in said)
    assert all(each.because for each in found.columns)


def test_rows_of_a_server_that_kept_no_summaries_are_missing_and_break_nothing(tmp_path: Any, lake: Lake) -> None:
    found = watched(tmp_path / "segments", lake, 2)
    rows = lake.read(PREDICTIONS).drop("summary_picture")
    other = Lake(tmp_path / "other")
    other.append(PREDICTIONS, rows)
    assert not found.columns
    texts, pictures = drawn(np.random.default_rng(1), 4_000)
    spaces, later = space.learned({"subject": texts}, {"subject": "text"}, {"picture": pictures})
    reference = profile.with_spaces(profile.build({"subject": texts}), spaces, later)
    against = Against(version=1, signature=SIGNATURE, profile=reference)
    state = drift.advance(
        drift.Logged(other), Drift(window=td(days=1)), DriftState(opened=START), against, START + td(days=2)
    )
    assert {each.column for each in state.signals} == {"subject (cluster)", "subject (distance)", "subject (length)"}
