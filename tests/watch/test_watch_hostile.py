"""Windows that nobody would draw: empty, missing, constant, huge; the watch goes on, and says what is there to say."""

from datetime import UTC, datetime
from datetime import timedelta as td
from typing import Any

import numpy as np
import pytest

from everloop.clock import microseconds
from everloop.measure import profile, season
from everloop.records import MISSING_INTEGER, MISSING_TEXT, Signature, decode, encode
from everloop.spec.retrain import Drift
from everloop.store.lake import Lake
from everloop.watch import drift
from everloop.watch.drift import Against, DriftState
from everloop.watch.fold import fold

START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = 400
Columns = dict[str, Any]


def usual(random: np.random.Generator, rows: int = ROWS) -> Columns:
    return {
        "distance": random.normal(0, 1, rows),
        "items": random.poisson(3, rows).astype(np.int64),
        "insured": random.integers(0, 2, rows).astype(np.int64),
        "carrier": random.choice(["heron", "plover"], rows).astype(object),
        "region": random.choice(["hill", "bay"], rows).astype(object),
    }


def missing(random: np.random.Generator) -> Columns:
    texts = np.full(ROWS, MISSING_TEXT, dtype=object)
    whole = np.full(ROWS, MISSING_INTEGER)
    return {"distance": np.full(ROWS, np.nan), "items": whole, "insured": whole, "carrier": texts, "region": texts}


def constant(random: np.random.Generator) -> Columns:
    texts = np.full(ROWS, "heron", dtype=object)
    return {
        "distance": np.full(ROWS, 7.0),
        "items": np.full(ROWS, 2),
        "insured": np.ones(ROWS, np.int64),
        "carrier": texts,
        "region": texts,
    }


def huge(random: np.random.Generator) -> Columns:
    texts = np.array([f"{'x' * 5_000}{place}" for place in range(ROWS)], dtype=object)
    return {
        "distance": np.where(np.arange(ROWS) % 2 == 0, 1e308, -1e308),
        "items": np.full(ROWS, 2**62),
        "insured": np.ones(ROWS, np.int64),
        "carrier": texts,
        "region": np.array(["", " ", "\u202e", "🦆" * 100] * (ROWS // 4), dtype=object),
    }


def infinite(random: np.random.Generator) -> Columns:
    made = usual(random)
    return made | {"distance": np.where(np.arange(ROWS) % 2 == 0, np.inf, -np.inf)}


KINDS = {each.__name__: each for each in (usual, missing, constant, huge, infinite)}


def serve(log: Any, day: int, made: Columns) -> None:
    rows = len(made["distance"])
    log.predictions(
        [f"{day}-{place}" for place in range(rows)],
        at=microseconds(START + td(days=day)) + np.arange(rows) * 1_000_000,
        numbers=made["distance"],
        integers=np.stack([made["items"], made["insured"]], axis=1).ravel(),
        texts=[each for pair in zip(made["carrier"], made["region"], strict=True) for each in pair],
    )


@pytest.mark.parametrize("then", KINDS)
@pytest.mark.parametrize("now", KINDS)
def test_whatever_was_trained_on_and_whatever_comes_is_watched(
    then: str, now: str, log: Any, lake: Lake, signatures: dict[str, Signature]
) -> None:
    random = np.random.default_rng(1)
    signature = signatures["package"]
    types = {each.name: each.type for each in signature.inputs}
    trained = KINDS[then](random)
    reference = profile.build(trained, types=types)
    times = microseconds(START - td(days=30)) + np.arange(ROWS) * 3_600_000_000
    reference = profile.from_json(profile.to_json(season.seasonal(reference, trained, times)))
    for day in range(3):
        serve(log, day, KINDS[now](random))
    fold(log.folder, lake, {"package": signature})
    against = Against(version=1, signature=signature, profile=reference)
    state = DriftState(opened=START)
    for day in range(3):
        state = decode(
            encode(
                drift.advance(drift.Logged(lake), Drift(window=td(days=1)), state, against, START + td(days=day + 1))
            ),
            DriftState,
        )
    assert state.found is not None
    named = {each.column for each in state.found.columns}
    assert all(np.isfinite([each.size, each.limit]).all() and each.because for each in state.found.columns)
    if then == now:
        assert not named
    elif then == "usual" and now in ("missing", "constant", "huge"):
        assert {"distance", "carrier"} <= named, state.found
    drift.described(Drift(window=td(days=1)), state)


def test_a_window_of_one_row_or_of_none_waits(log: Any, lake: Lake, signatures: dict[str, Signature]) -> None:
    random, signature = np.random.default_rng(2), signatures["package"]
    reference = profile.build(usual(random, 2_000), types={each.name: each.type for each in signature.inputs})
    against = Against(version=1, signature=signature, profile=reference)
    serve(log, 0, usual(random, 1))
    fold(log.folder, lake, {"package": signature})
    state = drift.advance(
        drift.Logged(lake), Drift(window=td(days=1)), DriftState(opened=START), against, START + td(days=200)
    )
    assert state.closed == ()
    assert state.found is None
    for rows in (300, 301):
        state = drift.advance(drift.Logged(lake), Drift(window=rows), state, against, START + td(days=200))
        assert state.closed == ()
