"""Frames as a server would write them, for the tests of this room."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everloop.records import MISSING_INTEGER, MISSING_TEXT, InputColumn, Signature
from everloop.store.lake import Lake
from everloop.store.segments import OutcomeFrame, PredictionFrame, Writer, encode

SIGNATURE = Signature(
    inputs=(
        InputColumn(name="distance", type="number", index=0),
        InputColumn(name="items", type="integer", index=0),
        InputColumn(name="insured", type="boolean", index=1),
        InputColumn(name="carrier", type="text", index=0),
        InputColumn(name="region", type="text", index=1),
    ),
    task="binary",
    classes=(0, 1),
    positive=1,
)


class Log:
    """Writes frames into segments the way a server does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = Writer(folder, "test")

    def predictions(
        self,
        ids: Sequence[str],
        *,
        at: Sequence[int] | None = None,
        chance: Sequence[float] | None = None,
        version: int = 1,
        package: str = "package",
        arm: str = "champion",
        epoch: int = 1,
        share: float = 0.0,
        revision: int = 1,
        latency: Sequence[int] | None = None,
        failed: Sequence[bool] | None = None,
        numbers: Sequence[float] | None = None,
        integers: Sequence[int] | None = None,
        texts: Sequence[str] | None = None,
        units: list[str] | None = None,
        values: Sequence[float] | None = None,
        experiment: str = "",
        variant: str = "",
        certainty: Sequence[float] = (),
    ) -> None:
        n = len(ids)
        positive = np.full(n, 0.5) if chance is None else np.asarray(chance, dtype=np.float64)
        bad = np.zeros(n, dtype=bool) if failed is None else np.asarray(failed)
        answers = np.stack([1 - positive, positive], axis=1)
        answers[bad] = np.nan
        frame = PredictionFrame(
            loop="parcels",
            version=version,
            package=package,
            arm=arm,
            revision=revision,
            epoch=epoch,
            share=share,
            ids=list(ids),
            at=np.asarray(np.zeros(n) if at is None else at, dtype="<i8").tobytes(),
            latency=np.asarray(np.full(n, 900) if latency is None else latency, dtype="<i4").tobytes(),
            status=bad.astype("<u1").tobytes(),
            numbers=np.asarray(np.arange(n) if numbers is None else numbers, dtype="<f8").tobytes(),
            integers=np.asarray(np.ones(2 * n) if integers is None else integers, dtype="<i8").tobytes(),
            texts=list(["heron", "hill"] * n if texts is None else texts),
            prediction=(answers if values is None else np.asarray(values)).astype("<f8").tobytes(),
            decision=b"" if values is not None else np.where(bad, -1, positive > 0.5).astype("<i8").tobytes(),
            width=2 if values is None else 1,
            units=units or [],
            experiment=experiment,
            variant=variant,
            certainty=np.asarray(certainty, dtype="<f8").tobytes(),
        )
        self.writer.append(encode(frame), rows=n)
        self.writer.flush()

    def outcomes(self, reported: Sequence[tuple[str, Any, int]], *, name: str = "late") -> None:
        frame = OutcomeFrame(loop="parcels", outcomes=[(key, name, value, at) for key, value, at in reported])
        self.writer.write_now(encode(frame))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "segments")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def signatures() -> dict[str, Signature]:
    return {"package": SIGNATURE}


@pytest.fixture
def missing() -> Callable[[str], Any]:
    return {"integer": MISSING_INTEGER, "text": MISSING_TEXT}.__getitem__
