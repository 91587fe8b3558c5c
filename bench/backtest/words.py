"""enron_spam, never retrained: what the first 2,000 mails teach of the other 31,715, by how words become numbers.

Plain scikit-learn and no loop: the published row is by a hashed TF-IDF whose size is not told, ours by one that is learned.
"""

from __future__ import annotations

from typing import Any

from bench.backtest.parts import Part
from bench.backtest.sets import DATA, frame
from bench.rows import Row
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

FIRST = 2_000
PUBLISHED = 0.8637


def part(*, quick: bool) -> Part:
    found = Part()
    if not DATA.is_dir():
        return found
    rows = frame("enron")
    texts, truth = rows["text"].to_list(), rows["is_spam"].to_numpy()
    ways: dict[str, Any] = {
        "learned, frequencies as logarithms, in two mails at least (as `.text()`)": TfidfVectorizer(
            sublinear_tf=True, min_df=2
        ),
        "learned": TfidfVectorizer(),
    }
    for size in (2**12, 2**18):
        hashed = HashingVectorizer(n_features=size, alternate_sign=False)
        ways[f"hashed to {size:,}"] = make_pipeline(hashed, TfidfTransformer())
    for name, way in ways.items():
        model = LogisticRegression(max_iter=1_000).fit(way.fit_transform(texts[:FIRST]), truth[:FIRST])
        right = model.predict(way.transform(texts[FIRST:])) == truth[FIRST:]
        found.rows.append(
            Row(
                what=f"enron never, words {name}", ours=float(right.mean()), unit="accuracy", peer=PUBLISHED,
                peer_name="published", greater_is_better=True,
            )
        )  # fmt: skip
    found.notes.append(
        "A word that the first mails lack has no column in a learned vocabulary. Hashed, it falls into one of the columns, "
        "mostly a rare and heavy one, and takes its share of the row's length from the words that are known."
    )
    return found
