"""Networks whose parameters are searched, judged by epoch: pictures of digits, made rows, rentals an hour in their order."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from bench.search.compared import Ran, searched
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

import everloop as el
from everloop.measure.encode import inputs, learn
from everloop.spec.metric import LogLoss, RootMeanSquaredError
from everloop.spec.train import Choice, Integers, LogUniform, Search, Train, Uniform
from everloop.train.judging import Goal, Judging

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TRIALS, FEW, EPOCHS = 40, 16, 24
SPACE: dict[str, Any] = {
    "learning_rate": LogUniform(1e-4, 1e-1),
    "weight_decay": LogUniform(1e-5, 1e-1),
    "batch_size": Choice(64, 128, 256),
    "dropout": Uniform(0.0, 0.5),
    "width": Integers(4, 16),
}
BIKE = ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed")


class Columns(nn.Module):
    """Three linear layers."""

    def __init__(self, inputs: int, outputs: int, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, 2 * width), nn.ReLU(),
            nn.Linear(2 * width, outputs),
        )  # fmt: skip

    def forward(self, columns: torch.Tensor) -> Any:
        return self.layers(columns)


class Pixels(nn.Module):
    """Two convolutions over eight by eight pixels."""

    def __init__(self, outputs: int, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(16 * width, outputs),
        )  # fmt: skip

    def forward(self, columns: torch.Tensor) -> Any:
        return self.body(columns.reshape(-1, 1, 8, 8))


def digits() -> tuple[NDArray[np.float64], NDArray[Any]]:
    found = load_digits()
    order = np.random.default_rng(11).permutation(len(found.target))  # in their own they go by writer
    return found.data[order], found.target[order].astype(np.int64)


def made() -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Three classes: what twenty numbers say through eight bent sums and three products, and chance."""
    random = np.random.default_rng(11)
    rows = random.normal(size=(2_000, 20))
    bent = np.tanh(rows @ random.normal(size=(20, 8)) / 2) @ random.normal(size=(8, 3))
    chance = 0.7 * random.gumbel(size=(len(rows), 3))
    return rows, (bent + 0.5 * rows[:, :3] * rows[:, 3:6] + chance).argmax(axis=1).astype(np.int64)


def bike() -> tuple[NDArray[np.float64], NDArray[Any]]:
    frame = pl.read_parquet(DATA / "bike_hourly.parquet").tail(4_000)
    return frame.select(BIKE).cast(pl.Float64).to_numpy(), frame["cnt"].cast(pl.Float64).to_numpy()


SETS = {"digits, CNN": (Pixels, digits, 10), "made rows": (Columns, made, 3), "bike, network": (Columns, bike, 0)}


def there() -> list[str]:
    return [name for name, (_, rows, _) in SETS.items() if rows is not bike or (DATA / "bike_hourly.parquet").exists()]


def measure(name: str, pruner: str | None, seed: int) -> Ran:
    torch.set_num_threads(1)
    return searched(_task(name, pruner, seed, trials=TRIALS))


def quickly(name: str, pruner: str | None, seed: int) -> Ran:
    torch.set_num_threads(1)
    return searched(_task(name, pruner, seed, trials=FEW))


def _task(name: str, pruner: Any, seed: int, *, trials: int) -> Judging:
    module, rows, classes = SETS[name]
    table, target = rows()
    features = {f"x{place:02d}": column for place, column in enumerate(table.T)}
    at = int(len(target) * 0.8)
    older, newer = ({each: values[part] for each, values in features.items()} for part in (slice(at), slice(at, None)))
    encoding = learn(
        older, dict.fromkeys(features, "number"), native_categories=False, accepts_missing=False, network=True
    )
    network = el.Torch(
        module, parameters={"width": 8, "dropout": 0.0}, epochs=EPOCHS, compile="off", precision="32",
    )  # fmt: skip
    classified = Goal(task="multiclass", metric=LogLoss(), classes=tuple(range(classes)))
    return Judging(
        train=Train(network, search=Search(SPACE, trials=trials, pruner=pruner, workers=1), seed=seed),
        goal=classified if classes else Goal(task="regression", metric=RootMeanSquaredError(), scale="log1p"),
        encoding=encoding,
        matrix=inputs(encoding, older),
        target=target[:at],
        weights=None,
        held=inputs(encoding, newer),
        truth=target[at:],
        columns={},
        threads=1,
    )
