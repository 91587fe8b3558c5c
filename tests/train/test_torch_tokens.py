"""A network on tokens of two texts: the ids of training are those of the served graph."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from everloop.data.features import render
from everloop.errors import TrainError
from everloop.forms import Tokens
from everloop.measure import encode, tokens
from everloop.package.build import build, columns_of
from everloop.package.graph import Graph
from everloop.package.predict import Predictor
from everloop.records import ColumnType, InputColumn, Signature
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.torch import Torch
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of
from everloop.train.fit import fit

SCHEMA: dict[str, ColumnType] = {"body": "text", "subject": "text"}
INPUTS = (InputColumn(name="body", type="text", index=0), InputColumn(name="subject", type="text", index=1))


class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    def __init__(self, outputs: int, vocabulary: int = 50) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(vocabulary + 2, 8, padding_idx=0)
        self.letters = torch.nn.Embedding(vocabulary + 2, 8, padding_idx=0)
        self.says = torch.nn.Linear(16, outputs)

    def forward(self, body: Any, subject: Any) -> Any:
        return self.says(torch.cat([self.words(body).sum(dim=1), self.letters(subject).mean(dim=1)], dim=1))


def form(**changes: Any) -> Tokens:
    return Tokens(**{"length": 5, "vocabulary": 3, "analyzer": "word", "lowercase": True, **changes})


def test_ids_are_in_the_order_of_the_words() -> None:
    texts = ["b a", "A c a", "a b d", None, "", "a a a b b b c"]
    table = tokens.learn(form(), texts)
    assert table.values[:2] == ("a", "b")
    assert table.size == 5
    assert tokens.ids(table, texts).tolist() == [
        [3, 2, 0, 0, 0], [2, 4, 2, 0, 0], [2, 3, 1, 0, 0], [0] * 5, [0] * 5, [2, 2, 2, 3, 3],
    ]  # fmt: skip


def test_the_share_of_unknown_tokens_is_of_tokens_alone() -> None:
    assert tokens.unknown_share(np.array([[1, 2, 0], [0, 0, 0], [3, 0, 0]])) == 1 / 3
    assert tokens.unknown_share(np.zeros((2, 3), np.int64)) == 0.0


def features(row: Any) -> Any:
    return {
        "body": row.body.tokens(6, vocabulary=50),
        "subject": row.subject.tokens(9, vocabulary=50, analyzer="char", lowercase=False),
    }


def test_a_network_learns_from_words_and_its_graph_answers_alike() -> None:
    random = np.random.default_rng(4)
    target = random.integers(0, 2, 300)
    bodies = [
        " ".join(random.choice(["buy", "cheap", "ÉTÉ"] if each else ["gas", "meeting", "日本"], 8)) for each in target
    ]
    subjects = [None if place % 9 == 0 else f"Re: {body[:5]}!" for place, body in enumerate(bodies)]
    frame = pl.DataFrame({"body": bodies, "subject": subjects})
    tree = FeatureTree(columns=trace(features))
    made = columns_of(render(tree, frame, SCHEMA))
    encoding = encode.learn(
        made, tree.types(SCHEMA), native_categories=False, accepts_missing=False, forms=forms_of(tree), network=True
    )
    train = Train(Torch(Net, epochs=4, learning_rate=0.05, batch_size=32, precision="32", compile="off"))
    fitted = fit(train, encoding, encode.inputs(encoding, made), target, task="binary", classes=2)
    signature = Signature(inputs=INPUTS, task="binary", classes=(0, 1), positive=1)
    built = build(fitted, encoding, tree, signature, rows=frame, features=lambda raw: render(tree, raw, SCHEMA))
    predictor = Predictor.of(built.onnx, signature, extensions=built.extensions)
    answer = predictor.predict({"body": ["CHEAP été buy", "meeting", "", None], "subject": ["", None, "", "Re"]})
    assert answer.decision is not None
    assert answer.decision[:2].tolist() == [1, 0]


def test_an_estimator_takes_no_tokens() -> None:
    tree = FeatureTree(columns=trace(features))
    made = {"body": np.array(["a b"], dtype=object), "subject": np.array(["c"], dtype=object)}
    with pytest.raises(TrainError, match="only a network takes"):
        encode.learn(made, tree.types(SCHEMA), native_categories=True, accepts_missing=True, forms=forms_of(tree))


def test_texts_without_any_known_token_have_a_graph() -> None:
    from everloop.package.tokens import ids

    table = tokens.learn(form(), ["x", "y"])
    assert table.values == ()
    assert ids(Graph(), table, "texts")
    assert tokens.ids(table, ["x y", None]).tolist() == [[1, 1, 0, 0, 0], [0] * 5]
