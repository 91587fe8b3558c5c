"""Named tensors as a folder of plain arrays, for other processes. What makes its entries is made here once, part by part."""

from pathlib import Path

import msgspec
import numpy as np

from everloop.forms import Special
from everloop.measure.tensors import Tensors

SPECIAL = "special.json"
ROWS = 256
"""So many rows are made at once."""


def save(folder: Path, tensors: Tensors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPECIAL).write_bytes(msgspec.json.encode(tensors.special))
    for name, column in tensors.items():
        path = folder / f"{name}.npy"
        if isinstance(column, np.ndarray):
            np.save(path, column)
            continue
        whole = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(column.dtype), shape=column.shape)
        for first in range(0, tensors.rows, ROWS):
            places = np.arange(first, min(first + ROWS, tensors.rows))
            whole[places] = column[places]
        whole.flush()


def load(folder: Path) -> Tensors:
    """Mapped, so that processes share their memory."""
    special = msgspec.json.decode((folder / SPECIAL).read_bytes(), type=dict[str, Special])
    paths = sorted(folder.glob("*.npy"))
    return Tensors({path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in paths}, special)
