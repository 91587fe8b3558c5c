"""How fast pictures come to a network, beside what decoding alone allows and beside torch's Dataset over a folder.

Run: python -m bench.loader [--quick] [--json]. The pictures of ../shared/data/pacs_64.parquet, 2 workers, batches of 64 in
shuffled order, as float32 tensors, two batches ahead of who takes them, as in training. The limit is Pillow decoding the
same bytes, and nothing else, in two processes or in two threads, whichever is faster. Everybody's processes have started
before the clock does. Rounds of all of them are interleaved; medians. A whole run is kept in results/loader.json.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.utils.data
from bench.rows import Row, parser, show
from PIL import Image as Pillow

from everloop.forms import Image
from everloop.measure import images
from everloop.measure.pictures import AHEAD, AT_ONCE, Pictures
from everloop.measure.tensors import Tensors
from everloop.train.decoders import Decoders, settle
from everloop.train.torch_batches import Source, order, step_places, steps

DATA = Path(__file__).parents[2] / "shared" / "data" / "pacs_64.parquet"
RESULTS = Path(__file__).parent / "results" / "loader.json"
WORKERS = 2
BATCH = 64
FORMS = {
    "64 px as they are": Image(height=64, width=64, channels=3, fit="stretch", mean=(0.5,) * 3, deviation=(0.5,) * 3),
    "resized to 32 px": Image(height=32, width=32, channels=3, fit="stretch", mean=(0.5,) * 3, deviation=(0.5,) * 3),
}


MINE: list[bytes] = []
"""The files, in each process that decodes and nothing else."""


def load(files: list[bytes]) -> None:
    MINE[:] = files
    settle()


def decoded(part: int, form: Image) -> int:
    files = MINE[part::WORKERS]
    for each in files:
        images.decode(each, form)
    return len(files)


def limit(form: Image, pool: Any) -> Callable[[], float]:
    """Samples a second of decoding alone, of files that lie where they are decoded."""

    def measure() -> float:
        started = time.perf_counter()
        total = sum(pool.map(decoded, range(WORKERS), [form] * WORKERS))
        return float(total / (time.perf_counter() - started))

    return measure


def ours(files: list[bytes], form: Image, *, kept: int, warm: bool) -> Callable[[], float]:
    array = np.empty(len(files), dtype=object)
    array[:] = files
    target = np.zeros(len(files), np.int64)
    column = Pictures(form, array, workers=WORKERS, kept=kept)
    if warm:
        column.pixels(np.arange(len(files)))

    helpers = Decoders(form, WORKERS, at_once=AT_ONCE)

    def measure() -> float:
        fresh = column if warm else Pictures(form, array, workers=WORKERS, kept=kept)
        fresh.decoded_by(None if warm else helpers)
        source = Source(Tensors({"picture": fresh}), target, None, torch.device("cpu"), channels_last=True)
        places, count = order(len(files), seed=0, epoch=0), steps(len(files), BATCH)
        started = time.perf_counter()
        for step in range(count):
            source.batch(step_places(places, step, count))
            for ahead in range(step + 1, min(step + 1 + AHEAD, count)):
                source.ahead(step_places(places, ahead, count))
        return len(files) / (time.perf_counter() - started)

    return measure


class Folder(torch.utils.data.Dataset):  # type: ignore[type-arg, misc, unused-ignore]
    """Files in a folder, as torch's own tutorial writes it, with Pillow."""

    def __init__(self, place: Path, form: Image) -> None:
        self.paths, self.form = sorted(place.glob("*.jpg")), form

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Pillow.open(self.paths[number]) as opened:
            image = opened.convert("RGB").resize((self.form.width, self.form.height), Pillow.Resampling.BILINEAR)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)
        return tensor.sub_(0.5).div_(0.5)


def folder(files: list[bytes], form: Image, place: Path) -> Callable[[], float]:
    """A Dataset over a folder behind torch's DataLoader."""
    place.mkdir(parents=True)
    for number, each in enumerate(files):
        (place / f"{number:05d}.jpg").write_bytes(each)
    loader = torch.utils.data.DataLoader(
        Folder(place, form), batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True,
        multiprocessing_context="fork",
    )  # fmt: skip
    next(iter(loader))

    def measure() -> float:
        started, seen = time.perf_counter(), 0
        for batch in loader:
            seen += len(batch)
        return seen / (time.perf_counter() - started)

    return measure


def rows(*, quick: bool) -> Iterator[Row]:
    files = pl.read_parquet(DATA, columns=["jpeg"])["jpeg"].to_list()[: 2_048 if quick else None]
    rounds = 3 if quick else 5
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as place,
        ThreadPoolExecutor(WORKERS) as threads,
        ProcessPoolExecutor(WORKERS, get_context("spawn"), load, (files,)) as processes,
    ):
        MINE[:] = files
        for number, (named, form) in enumerate(FORMS.items()):
            ways = {
                "threads": limit(form, threads),
                "processes": limit(form, processes),
                "first": ours(files, form, kept=0, warm=False),
                "kept": ours(files, form, kept=2**31, warm=True),
                "folder": folder(files, form, Path(place) / str(number)),
            }
            for measure in ways.values():
                measure()
            measured = {name: list[float]() for name, measure in ways.items()}
            for _ in range(rounds):
                for name, measure in ways.items():
                    measured[name].append(measure())
            found = {name: median(values) for name, values in measured.items()}
            most = max(found["threads"], found["processes"])
            shared = {"unit": "samples/s", "rounds": rounds, "greater_is_better": True}
            peer = {"peer": found["folder"], "peer_name": "Dataset over a folder, DataLoader"}
            yield Row(
                what=f"{named}: first epoch", ours=found["first"], limit=most, target=0.9 * most, **peer, **shared
            )  # type: ignore[arg-type]
            yield Row(what=f"{named}: later epochs, pixels kept", ours=found["kept"], limit=most, **peer, **shared)  # type: ignore[arg-type]
            yield Row(what=f"{named}: decoding alone, 2 threads", ours=found["threads"], **shared)  # type: ignore[arg-type]
            yield Row(what=f"{named}: decoding alone, 2 processes", ours=found["processes"], **shared)  # type: ignore[arg-type]


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    found = list(rows(quick=options.quick))
    if not options.quick:
        machine = {
            "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
            **{name: version(name) for name in ("everloop", "pillow", "torch")},
        }  # fmt: skip
        RESULTS.write_text(
            json.dumps({"machine": machine, "rows": [row.to_json() for row in found]}, indent=1) + "\n", "utf-8"
        )
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
