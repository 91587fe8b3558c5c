"""A network on images beside columns: decoded when they are asked for, and served as they were seen."""

import io
import pickle
import warnings
from multiprocessing import get_context
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image as Pillow

from everloop.data.features import render
from everloop.errors import DataError
from everloop.forms import Image
from everloop.measure import encode, images
from everloop.measure.pictures import AT_ONCE, Pictures
from everloop.package.build import build, columns_of
from everloop.package.predict import Predictor
from everloop.records import ColumnType, InputColumn, Signature, TensorColumn
from everloop.spec.columns import FeatureTree, trace
from everloop.spec.torch import Torch
from everloop.spec.train import Train
from everloop.spec.wholes import forms_of, images_of
from everloop.train import decoders
from everloop.train.decoders import Decoders
from everloop.train.fit import fit

SCHEMA: dict[str, ColumnType] = {"photo": "bytes", "size": "number"}


class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.looks = torch.nn.Conv2d(3, 4, 3, stride=2)
        self.says = torch.nn.Linear(4 + 1, outputs)

    def forward(self, columns: Any, photo: Any) -> Any:
        seen = torch.relu(self.looks(photo)).mean(dim=(2, 3))
        return self.says(torch.cat([seen, columns], dim=1))


def photos(count: int, kind: str = "PNG") -> tuple[list[bytes], np.ndarray]:
    """Red ones and blue ones."""
    random = np.random.default_rng(3)
    target = random.integers(0, 2, count)
    files = []
    for blue in target:
        pixels = random.integers(0, 120, (10, 9, 3), dtype=np.uint8)
        pixels[..., 2 * blue] += 100
        file = io.BytesIO()
        Pillow.fromarray(pixels).save(file, kind)
        files.append(file.getvalue())
    return files, target


def features(row: Any) -> Any:
    return {"size": row.size, "photo": row.photo.image(8, 8)}


def test_a_network_learns_from_images_and_its_graph_answers_alike() -> None:
    files, target = photos(200)
    frame = pl.DataFrame({"photo": files, "size": [float(len(each)) for each in files]})
    tree = FeatureTree(columns=trace(features))
    made = columns_of(render(tree, frame, SCHEMA))
    encoding = encode.learn(
        made, tree.types(SCHEMA), native_categories=False, accepts_missing=False, forms=forms_of(tree), network=True
    )
    train = Train(Torch(Net, epochs=6, learning_rate=0.05, batch_size=32, precision="32", compile="off"))
    fitted = fit(train, encoding, encode.inputs(encoding, made), target, task="binary", classes=2)
    (form,) = images_of(tree).values()
    column = TensorColumn(name="photo", datatype="UINT8", shape=(8, 8, 3), image=form, probe=images.probed(form))
    signature = Signature(
        inputs=(InputColumn(name="size", type="number", index=0),), tensors=(column,), task="binary", classes=(0, 1),
        positive=1,
    )  # fmt: skip
    built = build(fitted, encoding, tree, signature, rows=frame, features=lambda raw: render(tree, raw, SCHEMA))
    answer = Predictor.of(built.onnx, signature, extensions=built.extensions).predict(frame)
    assert answer.decision is not None
    assert np.mean(answer.decision == target) > 0.95
    assert built.requirements["pillow"]


@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_decoded_as_they_are_asked_for(kept: int, workers: int) -> None:
    files, _ = photos(60)
    form = Image(height=4, width=6, channels=3, fit="stretch", mean=(0.0,) * 3, deviation=(1.0,) * 3)
    column = Pictures(form, np.array(files, dtype=object), workers=workers, kept=kept)
    assert column.shape == (60, 3, 4, 6)
    places = np.array([5, 59, 5, 0, *range(40)])
    for _ in range(2):
        found = column[places]
        assert found.dtype == np.float32
        for row, place in zip(found, places.tolist(), strict=True):
            np.testing.assert_array_equal(row, images.normalised(images.decode(files[place], form)[None], form)[0])


SMALL = Image(height=4, width=6, channels=3, fit="stretch", mean=(0.5,) * 3, deviation=(0.5,) * 3)


@pytest.mark.parametrize("kept", [0, 10**9])
def test_other_processes_decode_ahead_to_the_same_pictures(kept: int) -> None:
    files, _ = photos(100)
    alone = Pictures(SMALL, np.array(files, dtype=object), workers=1, kept=kept)
    column = Pictures(SMALL, np.array(files, dtype=object), workers=2, kept=kept)
    helpers = Decoders(SMALL, 2, at_once=AT_ONCE)
    column.decoded_by(helpers)
    try:
        places = np.random.default_rng(0).permutation(100)
        for batch in np.array_split(places, 4):
            column.ahead(batch[::-1].copy())  # not what is asked for
            column.ahead(batch)
            np.testing.assert_array_equal(column[batch], alone[batch])
        for process in helpers._processes:  # killed, as by who is short of memory: pictures come all the same
            process.kill()
            process.wait()
        np.testing.assert_array_equal(column[places], alone[places])
    finally:
        helpers.close()


def test_a_file_that_is_none_is_told_with_its_row_wherever_it_is_decoded() -> None:
    files, _ = photos(40)
    column = Pictures(SMALL, np.array([*files, b"no"], dtype=object), workers=2)
    helpers = Decoders(SMALL, 2, at_once=AT_ONCE)
    column.decoded_by(helpers)
    with pytest.raises(DataError, match="row 40 is 2 bytes that are neither"):
        column[np.arange(41)]
    helpers.close()
    assert [process.returncode for process in helpers._processes] == [0, 0]


def test_processes_decode_where_that_is_worth_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = photos(40)
    column = Pictures(SMALL, np.array(files, dtype=object), workers=2, kept=0)
    with decoders.helping(column, epochs=2):
        assert column._decoders is None
    monkeypatch.setattr(decoders, "WORTH_SECONDS", 0.0)
    with decoders.helping(column, epochs=2):
        assert column._decoders is not None
        assert column[np.arange(40)].shape == (40, 3, 4, 6)
    assert column._decoders is None


def _first_row(column: Pictures, told: Any) -> None:
    told.put(float(column[np.arange(60)].sum()))


def test_a_column_that_was_read_by_threads_goes_to_other_processes() -> None:
    """Forked off, as loaders do, or pickled: threads do not come along."""
    files, _ = photos(60)
    form = Image(height=4, width=6, channels=3, fit="stretch", mean=(0.0,) * 3, deviation=(1.0,) * 3)
    column = Pictures(form, np.array(files, dtype=object), workers=2, kept=0)
    whole = float(column[np.arange(60)].sum())
    assert float(pickle.loads(pickle.dumps(column))[np.arange(60)].sum()) == whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        forking = get_context("fork")
        told = forking.Queue()
        other = forking.Process(target=_first_row, args=(column, told), daemon=True)
        other.start()
    assert told.get(timeout=60) == whole
    other.join(60)
    assert other.exitcode == 0


def test_a_file_that_is_none_is_told_with_its_row() -> None:
    form = Image(height=4, width=6, channels=3, fit="stretch", mean=(0.0,) * 3, deviation=(1.0,) * 3)
    with pytest.raises(DataError, match="row 1"):
        Pictures(form, np.array([photos(1)[0][0], b"no"], dtype=object))[np.array([0, 1])]
