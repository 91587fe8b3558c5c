"""A column of images that is decoded when its rows are asked for, by several threads, and kept where it fits.

Knows nothing of networks. Decoding lets go of the interpreter, so that threads are enough; what was decoded once is kept
as bytes, a quarter of what a network sees, so that from the second epoch on nothing is decoded at all.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.errors import DataError
from everloop.forms import Image
from everloop.measure import images

KEPT = 2 * 2**30
"""Bytes of decoded pixels that are kept; a column with more is decoded anew in each epoch."""
AT_ONCE = 16
"""Images that a thread decodes before it asks for more."""


class Pictures:
    """``files``: objects [rows], the bytes of a PNG or JPEG each. Entries are float32 [channels, height, width]."""

    def __init__(self, form: Image, files: NDArray[Any], *, workers: int | None = None, kept: int = KEPT) -> None:
        self.form = form
        self._files = files
        self._workers = workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers or 1
        size = form.height * form.width * form.channels
        shape = (len(files), form.height, form.width, form.channels)
        self._pixels = np.empty(shape, np.uint8) if len(files) * size <= kept else None
        self._there = np.zeros(len(files), bool)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._files), self.form.channels, self.form.height, self.form.width)

    @property
    def dtype(self) -> Any:
        return np.dtype(np.float32)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(places), channels, height, width]. Raises DataError for a file that is no image."""
        return images.normalised(self.pixels(places), self.form)

    def pixels(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(places), height, width, channels]."""
        if self._pixels is None:
            made = np.empty((len(places), self.form.height, self.form.width, self.form.channels), np.uint8)
            self._decode(places, made, np.arange(len(places)))
            return made
        wanted = np.unique(places[~self._there[places]])
        self._decode(wanted, self._pixels, wanted)
        self._there[wanted] = True
        found: NDArray[np.uint8] = self._pixels[places]
        return found

    def _decode(self, places: NDArray[np.int64], into: NDArray[np.uint8], at: NDArray[np.int64]) -> None:
        def some(begin: int) -> None:
            for place, where in zip(
                places[begin : begin + AT_ONCE].tolist(), at[begin : begin + AT_ONCE].tolist(), strict=True
            ):
                try:
                    into[where] = images.decode(self._files[place] or b"", self.form)
                except images.NotAnImage as problem:
                    raise DataError(
                        f"the image of row {place} is {problem}; such rows are set aside when they are taken in."
                    ) from None

        pieces = range(0, len(places), AT_ONCE)
        if self._workers < 2 or len(pieces) < 2:
            for begin in pieces:
                some(begin)
            return
        with ThreadPoolExecutor(min(self._workers, len(pieces))) as pool:
            list(pool.map(some, pieces))
