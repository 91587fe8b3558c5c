"""A backtest of texts and of pictures in the order of time, by the same call as one of numbers."""

import io
from datetime import timedelta as td
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image as Pillow

import everloop as el
from everloop.loop.backtest.result import BacktestResult
from known_world import World, made, rows

TEXT = """
from datetime import timedelta as td

from sklearn.linear_model import LogisticRegression

import everloop as el

loop = el.Loop(
    features=lambda row: {"body": row.body.text(), "x": row.x},
"""
PICTURE = """
from datetime import timedelta as td

import torch

import everloop as el


class Net(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.says = torch.nn.Linear(3, outputs)

    def forward(self, photo):
        return self.says(photo.mean(dim=(2, 3)))


loop = el.Loop(
    features=lambda row: {"photo": row.photo.image(4, 4)},
"""
WEEK = td(days=7)


def texts(frame: pl.DataFrame) -> pl.DataFrame:
    """What ``x`` says stands in words alone: ``x`` itself is noise."""
    random = np.random.default_rng(1)
    words = np.where(frame["x"] > 0, "win money", "see you")
    bodies = [
        f"{word} {other}" for word, other in zip(words, random.choice(["now", "here", "then"], len(frame)), strict=True)
    ]
    return frame.with_columns(body=pl.Series(bodies), x=random.uniform(-1, 1, len(frame)))


def pictures(frame: pl.DataFrame) -> pl.DataFrame:
    """Red ones where ``x`` is large, blue ones where it is small."""
    files = []
    for large in frame["x"] > 0:
        pixels = np.full((4, 4, 3), 60, dtype=np.uint8)
        pixels[..., 0 if large else 2] = 200
        file = io.BytesIO()
        Pillow.fromarray(pixels).save(file, "PNG")
        files.append(file.getvalue())
    return frame.select("id", "at", "y", photo=pl.Series(files, dtype=pl.Binary))


def compared(world: World) -> BacktestResult:
    return world.run([world.policy(el.Manual()), world.policy(el.Every(WEEK))])


def check(world: World, result: BacktestResult) -> None:
    never, weekly = result.runs
    assert never.score is not None
    assert weekly.score is not None
    # The world turns in the middle: who never learns again is as often wrong afterwards as right before.
    assert never.score < 0.65
    assert weekly.score > never.score + 0.08
    assert len(world.made) == len(set(world.made)) == len({each.fit for run in result.runs for each in run.retrains})
    again = compared(world)
    assert again.seconds["made"] == 0
    assert [each.score for each in again.runs] == [each.score for each in result.runs]


def test_texts_go_through_a_backtest(tmp_path: Path) -> None:
    world = made(
        tmp_path / "texts", texts(rows(days=84, per_day=8)), head=TEXT, train="el.Train(LogisticRegression())"
    )  # fmt: skip
    check(world, compared(world))


def test_pictures_go_through_a_backtest(tmp_path: Path) -> None:
    train = "el.Train(el.Torch(Net, epochs=3, learning_rate=0.2, batch_size=32))"
    world = made(tmp_path / "pictures", pictures(rows(days=84, per_day=8)), head=PICTURE, train=train)
    check(world, compared(world))


def test_drift_of_words_starts_a_retrain(tmp_path: Path) -> None:
    frame = texts(rows(days=84, per_day=24))
    late = np.arange(len(frame)) >= len(frame) // 2
    bodies = [f"{body} viagra casino" if new else body for body, new in zip(frame["body"], late, strict=True)]
    world = made(
        tmp_path / "texts",
        frame.with_columns(body=pl.Series(bodies)),
        head=TEXT,
        train="el.Train(LogisticRegression())",
    )
    (run,) = world.run([world.policy(el.Drift())]).runs
    fired = [each for each in run.retrains if each.window >= 0]
    assert fired, "nothing was noticed"
    assert all("drift" in each.kinds for each in fired)
    assert any("body" in each.because for each in fired)
