"""Free text through a whole fit and its graph: what the estimator learned from is what the graph calculates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

import everloop as el
from everloop.data.features import render
from everloop.errors import SpecError, TrainError
from everloop.measure import encode
from everloop.package.build import Built, build, columns_of
from everloop.package.predict import Predictor
from everloop.records import ColumnType, InputColumn, Signature
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of
from everloop.train import sparse
from everloop.train.fit import fit, needs

SCHEMA: dict[str, ColumnType] = {"body": "text", "subject": "text", "size": "number"}
INPUTS = (
    InputColumn(name="size", type="number", index=0),
    InputColumn(name="body", type="text", index=0),
    InputColumn(name="subject", type="text", index=1),
)
SPAM = ["Cheap", "watches!", "Buy", "now,", "buy", "cheap;", "offer", "ends", "today.", "ÉTÉ", "50%", "de", "réduction"]
HAM = [
    "The",
    "meeting",
    "about",
    "gas",
    "prices",
    "is",
    "moved",
    "to",
    "Tuesday,",
    "please",
    "bring",
    "the",
    "forecast.",
    "日本",
    "office",
]


@pytest.fixture(scope="module")
def mails() -> tuple[pl.DataFrame, np.ndarray]:
    random = np.random.default_rng(5)
    target = random.integers(0, 2, 400)
    rows: dict[str, list[Any]] = {"body": [], "subject": [], "size": []}
    for spam in target:
        own, other = (SPAM, HAM) if spam else (HAM, SPAM)
        words = [*random.choice(own, 12), *random.choice(other, 4), f"x{random.integers(0, 10_000)}"]
        rows["body"].append(None if random.random() < 0.05 else " ".join(words))
        rows["subject"].append("" if random.random() < 0.1 else " ".join(random.choice(own, 3)))
        rows["size"].append(None if random.random() < 0.1 else float(len(words)))
    return pl.DataFrame(rows, schema={"body": pl.String, "subject": pl.String, "size": pl.Float64}), target


def turned(
    estimator: Any, features: Callable[[Any], Any], mails: tuple[pl.DataFrame, np.ndarray]
) -> tuple[Built, Predictor]:
    frame, target = mails
    tree, train = FeatureTree(columns=trace(features)), Train(estimator)
    wants = needs(train)
    made = columns_of(render(tree, frame, SCHEMA))
    encoding = encode.learn(
        made, tree.types(SCHEMA), native_categories=wants.native_categories, accepts_missing=wants.accepts_missing,
        forms=forms_of(tree),
    )  # fmt: skip
    fitted = fit(train, encoding, encode.apply(encoding, made), target, task="binary", classes=2)
    signature = Signature(inputs=INPUTS, task="binary", classes=(0, 1), positive=1)
    built = build(fitted, encoding, tree, signature, rows=frame, features=lambda raw: render(tree, raw, SCHEMA))
    return built, Predictor.of(built.onnx, signature, extensions=built.extensions)


def everything(row: el.Columns) -> dict[str, el.Column]:
    return {
        "body": row.body.text(ngram_range=(1, 2)),
        "size": row.size,
        "letters": row.subject.text(analyzer="char", ngram_range=(2, 3)),
        "no_subject": row.subject == "",
    }


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        make_pipeline(MaxAbsScaler(), LogisticRegression()),
        RandomForestClassifier(n_estimators=5),
        LGBMClassifier(n_estimators=5, verbose=-1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_graph_and_trainer_agree_on_free_text(estimator: Any, mails: tuple[pl.DataFrame, np.ndarray]) -> None:
    built, _ = turned(estimator, everything, mails)
    assert built.parity.rows == 400
    assert built.parity.worst < 0.01
    assert built.extensions


def test_words_decide(mails: tuple[pl.DataFrame, np.ndarray]) -> None:
    _, predictor = turned(LogisticRegression(), lambda row: {"body": row.body.text(), "size": row.size}, mails)
    texts = ["buy CHEAP watches today", "the MEETING about gas", None, "", "ÉTÉ", "été", "x" * 300_000]
    asked = pl.DataFrame({"body": texts, "subject": [""] * 7, "size": [17.0] * 7})
    spam = predictor.predict(asked).prediction[:, 1]
    assert spam[0] > 0.9
    assert spam[1] < 0.1
    assert spam[2] == spam[3] == spam[6]
    assert spam[4] == spam[5] > spam[3]


def test_a_text_with_a_nul_ends_there(mails: tuple[pl.DataFrame, np.ndarray]) -> None:
    _, predictor = turned(LogisticRegression(), lambda row: {"body": row.body.text(), "size": row.size}, mails)
    asked = pl.DataFrame({"body": ["buy\x00 meeting", "buy"], "subject": ["", ""], "size": [17.0, 17.0]})
    first, second = predictor.predict(asked).prediction[:, 1]
    assert first == second


def test_a_matrix_too_large_in_full_is_refused(
    monkeypatch: pytest.MonkeyPatch, mails: tuple[pl.DataFrame, np.ndarray]
) -> None:
    monkeypatch.setattr(sparse, "LARGEST", 1000)
    with pytest.raises(TrainError, match="takes no sparse matrix"):
        turned(HistGradientBoostingClassifier(), everything, mails)


def test_texts_without_a_common_term_are_refused(mails: tuple[pl.DataFrame, np.ndarray]) -> None:
    with pytest.raises(TrainError, match="min_df"):
        turned(LogisticRegression(), lambda row: {"body": row.body.text(min_df=100_000, ngram_range=(8, 8))}, mails)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda row: row.body.text(analyzer="words"), "analyzer"),
        (lambda row: row.body.text(ngram_range=(2, 1)), "ngram_range"),
        (lambda row: row.body.text(ngram_range=3), "ngram_range"),
        (lambda row: row.body.text(max_features=0), "max_features"),
        (lambda row: row.body.text(lowercase=1), "lowercase"),
        (lambda row: row.size.text(), "takes text, not number"),
        (lambda row: row.body.text() + 1, "nothing is calculated with terms"),
        (lambda row: row.body.text() == row.body.text(), "nothing is calculated with terms"),
        (lambda row: el.when(row.size > 1).then(row.body.text()).otherwise(None), "nothing is calculated with terms"),
        (lambda row: row.body.text().text(), "nothing is calculated with terms"),
    ],
)
def test_mistakes_are_told(wrong: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        FeatureTree(columns=trace(lambda row: {"it": wrong(row)})).types(SCHEMA)
