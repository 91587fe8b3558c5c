"""What pacs_64 came with as a baseline: histograms of oriented gradients and of colours, a logistic regression on them.

Fitted on the newest rows of each window, as the figures published with the data were (windows of 250, the last six of
them). Here it answers the very rows that the loop answered, so that the two stand side by side by domain.
"""

import io

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CELL, ORIENTATIONS, COLOURS = 8, 9, 4
WINDOW, KEPT = 250, 6


def described(files: list[bytes]) -> NDArray[np.float32]:
    """[rows, columns]: blocks of two by two cells of gradients, each of length 1, and a histogram of 64 colours."""
    return np.stack([_of(np.asarray(Image.open(io.BytesIO(each)).convert("RGB"), np.float32)) for each in files])


def _of(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    grey = picture.mean(axis=2)
    down, across = np.gradient(grey)
    strength = np.hypot(down, across)
    angle = np.minimum((np.arctan2(down, across) % np.pi) / np.pi * ORIENTATIONS, ORIENTATIONS - 1).astype(int)
    cells = np.zeros((grey.shape[0] // CELL, grey.shape[1] // CELL, ORIENTATIONS), np.float32)
    rows, columns = np.indices(grey.shape) // CELL
    np.add.at(cells, (rows, columns, angle), strength)
    blocks = np.concatenate([cells[:-1, :-1], cells[1:, :-1], cells[:-1, 1:], cells[1:, 1:]], axis=2)
    blocks /= np.linalg.norm(blocks, axis=2, keepdims=True) + 1.0
    coded = (picture // (256 // COLOURS)).astype(int) @ [COLOURS**2, COLOURS, 1]
    colours = np.bincount(coded.ravel(), minlength=COLOURS**3) / coded.size
    return np.concatenate([blocks.ravel(), np.sqrt(colours)]).astype(np.float32)


def right(frame: pl.DataFrame, *, begin: int, end: int, retrained: bool) -> pl.DataFrame:
    """``right`` of the rows from ``begin`` to ``end`` of ``frame``, which is in the order of their time."""
    table, truth = described(frame["jpeg"].to_list()), frame["label"].to_numpy()
    found = np.zeros(end - begin, bool)
    model = None
    for start in range(begin, end, WINDOW):
        stop = min(start + WINDOW, end)
        if model is None or retrained:
            since = max(0, start - KEPT * WINDOW)
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=100))
            model.fit(table[since:start], truth[since:start])
        found[start - begin : stop - begin] = model.predict(table[start:stop]) == truth[start:stop]
    return frame[begin:end].select("domain").with_columns(right=pl.Series(found))
