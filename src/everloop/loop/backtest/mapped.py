"""Numbers that are written piece by piece and read as mapped files: memory of theirs is the system's to take back. Knows
nothing of what they mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAPPED_FROM = 16 << 20
"""Bytes of an array from which on it is not read as a whole."""


class Columns:
    """Writes raw numbers of the machine's byte order, one file a column, in a folder."""

    def __init__(self, folder: Path, *names: str) -> None:
        self._files = {name: (folder / name).open("wb") for name in names}

    def append(self, name: str, values: Array) -> None:
        self._files[name].write(np.ascontiguousarray(values).data)

    def __enter__(self) -> Columns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()


def mapped(path: Path, dtype: npt.DTypeLike) -> Array:
    """A column that was written, [rows]; not to be changed.

    As a plain array over the mapped file: memmap's own class makes every small look-up ten times as dear. It keeps one
    file open for as long as it lives.
    """
    if not path.stat().st_size:
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def write_array(path: Path, parts: Iterable[Array], *, rows: int) -> None:
    """Parts of one array, at least one, ``rows`` in all, as numpy's own file: whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            dtype, written = None, 0
            for part in parts:
                written += len(part)
                if dtype is None:
                    dtype = part.dtype
                    header: dict[str, Any] = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
                    np.lib.format.write_array_header_2_0(file, {**header, "shape": (rows, *part.shape[1:])})
                file.write(np.ascontiguousarray(part, dtype).data)
        if written != rows:
            raise ValueError(f"{path.name} was to hold {rows} rows, and its parts have {written}.")
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_array(path: Path) -> Array:
    """What `write_array` wrote; a long one as a mapped file. Raises ValueError, EOFError or OSError where it is damaged."""
    if path.stat().st_size < MAPPED_FROM:
        found: Array = np.load(path)
        return found
    return np.asarray(np.load(path, mmap_mode="r"))
