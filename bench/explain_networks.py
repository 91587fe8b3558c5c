"""A network's gradients beside Shapley's values from its served graph: where they agree, and what each costs.

Three networks: of ten made columns, of the digits' pixels, of made texts. Both methods stand beside the same: forty other
rows for columns, the mean colour for pixels; for words an unknown token by gradients and no word at all by the graph.
Used by `bench.explain`.
"""

import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch
from bench.rows import Row
from numpy.typing import NDArray
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from torch import nn

import everloop as el
from everloop.data.features import render
from everloop.loop.asked import Asked
from everloop.measure import encode, tokens
from everloop.package.build import build, columns_of
from everloop.package.predict import Predictor
from everloop.records import InputColumn, Signature, TensorColumn
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of, images_of
from everloop.train.fit import fit
from everloop.train.gradients import Brought, brought

NAMES = [f"x{place}" for place in range(10)]
WORDS = [
    "gas",
    "meeting",
    "desk",
    "notes",
    "cheap",
    "pills",
    "buy",
    "now",
    "the",
    "of",
    "and",
    "to",
    "we",
    "you",
    "please",
    "hello",
]
Numbers = NDArray[np.float64]


class Columns(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs)
        )

    def forward(self, columns: torch.Tensor) -> Any:
        return self.layers(columns)


class Pixels(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(12 * 16, outputs)

    def forward(self, photo: torch.Tensor) -> Any:
        return self.head(self.body(photo))


class Words(nn.Module):
    """What a word says depends on the one before it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 2, 16, padding_idx=0)
        self.pairs = nn.Conv1d(16, 32, 2, padding=1)
        self.head = nn.Linear(32, outputs)

    def forward(self, body: torch.Tensor) -> Any:
        there = (body != 0).float().unsqueeze(1)
        seen = torch.relu(self.pairs(self.words(body).transpose(1, 2)))[:, :, 1:]
        return self.head((seen * there).sum(2) / there.sum(2).clamp(min=1))


class Case:
    """A fitted network and its served graph."""

    def __init__(self, module: Any, features: Any, frame: pl.DataFrame, target: Any, types: Any, classes: int) -> None:
        tree = FeatureTree(columns=trace(features))
        photos = images_of(tree)
        self._render: Callable[[pl.DataFrame], Any] = lambda rows: columns_of(render(tree, rows, types))
        made = self._render(frame)
        self.encoding = encode.learn(
            made, tree.types(types), native_categories=False, accepts_missing=False, forms=forms_of(tree), network=True
        )
        train = Train(el.Torch(module, epochs=12, learning_rate=0.01, compile="off", precision="32"), seed=1)
        task: Any = "binary" if classes == 2 else "multiclass"
        fitted = fit(train, self.encoding, encode.inputs(self.encoding, made), target, task=task, classes=classes)
        self.module, self.frame = fitted.model.module, frame
        kinds = {"number": "number", "text": "text"}
        at: dict[str, int] = {}
        inputs = []
        for name, kind in types.items():
            if kind in kinds:
                at[kind] = at.get(kind, -1) + 1
                inputs.append(InputColumn(name=name, type=kind, index=at[kind]))
        tensors = tuple(
            TensorColumn(name=name, datatype="UINT8", shape=(form.height, form.width, form.channels), image=form)
            for name, form in photos.items()
        )
        signature = Signature(
            inputs=tuple(inputs), tensors=tensors, task=task, classes=tuple(range(classes)), positive=1 if classes == 2 else None,
        )  # fmt: skip
        built = build(
            fitted, self.encoding, tree, signature, rows=frame, features=lambda rows: render(tree, rows, types)
        )
        self.predictor = Predictor.of(built.onnx, signature, extensions=built.extensions)
        self.others = encode.inputs(self.encoding, self._render(frame.head(40)))

    def gradients(self, row: int, place: int) -> Brought:
        inputs = encode.inputs(self.encoding, self._render(self.frame[row : row + 1]))
        return brought(self.module, inputs, self.others, place=place)

    def asked(self, place: int) -> Asked:
        return Asked(self.predictor, self.frame.head(40), place)


def columns() -> tuple[Case, Any]:
    random = np.random.default_rng(0)
    table = random.normal(size=(3_000, 10))
    chance = random.normal(size=len(table))
    target = (table[:, 0] * table[:, 1] + np.sin(2 * table[:, 2]) + table[:, 3] + 0.5 * chance > 0).astype(np.int64)
    frame = pl.DataFrame({name: table[:, place] for place, name in enumerate(NAMES)})
    case = Case(
        Columns,
        lambda row: {name: getattr(row, name) for name in NAMES},
        frame,
        target,
        dict.fromkeys(NAMES, "number"),
        2,
    )

    def pair(row: int) -> tuple[Numbers, Numbers]:
        return np.asarray(case.asked(1).columns(case.frame[row : row + 1], row).shares), case.gradients(row, 1).shares[
            "columns"
        ]

    return case, pair


def pixels() -> tuple[Case, Any]:
    found = load_digits()
    order = np.random.default_rng(1).permutation(len(found.target))
    files = []
    for picture in found.images[order]:
        file = io.BytesIO()
        Pillow.fromarray((picture * 15.9375).astype("uint8")).save(file, "PNG")
        files.append(file.getvalue())
    target = found.target[order].astype(np.int64)
    case = Case(
        Pixels, lambda row: {"photo": row.photo.image(8, 8, channels=1)}, pl.DataFrame({"photo": files}), target,
        {"photo": "bytes"}, 10,
    )  # fmt: skip

    def pair(row: int) -> tuple[Numbers, Numbers]:
        place = int(target[row])
        parts = case.asked(place).parts(case.frame[row : row + 1], "photo", row)
        return np.array(parts).ravel(), case.gradients(row, place).shares["photo"].ravel()

    return case, pair


def words() -> tuple[Case, Any]:
    random = np.random.default_rng(2)
    texts, target = [], []
    for _ in range(3_000):
        spam = random.random() < 0.5
        chosen = [*random.choice(WORDS[4:8] if spam else WORDS[:4], 3), *random.choice(WORDS[8:], 7)]
        texts.append(" ".join(random.permutation(chosen)))
        target.append(spam)
    case = Case(
        Words, lambda row: {"body": row.body.tokens(12, vocabulary=len(WORDS))}, pl.DataFrame({"body": texts}),
        np.array(target, np.int64), {"body": "text"}, 2,
    )  # fmt: skip

    def pair(row: int) -> tuple[Numbers, Numbers]:
        graph = np.array([share for _, share in case.asked(1).words(case.frame[row : row + 1], "body", row)])
        (feature,) = case.encoding.features
        assert feature.tokens is not None
        count = len(tokens.spelled(feature.tokens, texts[row]))
        return graph, case.gradients(row, 1).shares["body"][:count]

    return case, pair


def rows(*, quick: bool) -> Iterator[Row]:
    torch.set_num_threads(1)
    count = 5 if quick else 40
    for named, made in {"columns": columns, "pixels": pixels, "words": words}.items():
        case, pair = made()
        alike, same, gaps = [], [], []
        for row in range(100, 100 + count):
            graph, own = pair(row)
            alike.append(float(np.corrcoef(graph, own)[0, 1]))
            same.append(float(np.argmax(np.abs(graph)) == np.argmax(np.abs(own))))
            told = case.gradients(row, 0)
            gaps.append(abs(told.gap) / max(0.2, abs(told.total - told.base)))
        yield Row(
            what=f"{named}: gradients and Shapley's values from the graph, correlation within a row", ours=median(alike),
            unit="", rounds=count,
        )  # fmt: skip
        yield Row(what=f"{named}: the least correlation of a row", ours=min(alike), unit="", rounds=count)
        yield Row(
            what=f"{named}: the strongest is the same", ours=sum(same) / count, unit="share of rows", rounds=count
        )
        yield Row(
            what=f"{named}: what gradients miss of what they explain, the worst row", ours=max(gaps), unit="share",
            rounds=count, target=0.005,
        )  # fmt: skip
        yield Row(
            what=f"{named}: one explanation, CPU", unit="ms", rounds=count, ours=_cpu(partial(case.gradients, 101, 1)),
            peer=_cpu(_graph(case, named)), peer_name="Shapley on the graph",
        )  # fmt: skip


def _graph(case: Case, named: str) -> Callable[[], Any]:
    asked, row = case.asked(1), case.frame[101:102]
    return {
        "columns": lambda: asked.columns(row, 0),
        "pixels": lambda: asked.parts(row, "photo", 0),
        "words": lambda: asked.words(row, "body", 0),
    }[named]


def _cpu(call: Callable[[], Any]) -> float:
    taken = []
    for _ in range(5):
        began = time.process_time()
        call()
        taken.append(1000 * (time.process_time() - began))
    return median(taken)
