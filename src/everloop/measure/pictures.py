"""A column of images that is decoded when its rows are asked for, by several threads, and kept where it fits.

Knows nothing of networks. Decoding lets go of the interpreter, so that threads are enough; what was decoded once is kept
as bytes, a quarter of what a network sees, so that from the second epoch on nothing is decoded at all.
"""

import os
from collections.abc import Callable
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
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        """The process that began it, and its threads: they are not there in a process that was forked off."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._files), self.form.channels, self.form.height, self.form.width)

    @property
    def dtype(self) -> Any:
        return np.dtype(np.float32)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(places), channels, height, width]. Raises DataError for a file that is no image."""
        made = np.empty((len(places), *self.shape[1:]), np.float32)

        def some(part: slice) -> None:  # in one thread, so that nobody waits for what comes after decoding
            made[part] = images.normalised(self._decoded(places[part]), self.form)

        self._each(some, len(places))
        return made

    def pixels(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(places), height, width, channels]."""
        made = np.empty((len(places), self.form.height, self.form.width, self.form.channels), np.uint8)

        def some(part: slice) -> None:
            made[part] = self._decoded(places[part])

        self._each(some, len(places))
        return made

    def _each(self, some: Callable[[slice], None], rows: int) -> None:
        """Call it for all parts, by threads that stay."""
        parts = [slice(begin, begin + AT_ONCE) for begin in range(0, rows, AT_ONCE)]
        if self._workers < 2 or len(parts) < 2:
            for part in parts:
                some(part)
            return
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self._workers, thread_name_prefix="pictures")
        list(self._pool[1].map(some, parts))

    def _decoded(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """In this thread. Where two threads are asked for one picture, both may decode it, to the same; a picture is said
        to be there only once all of it is.
        """
        if self._pixels is None:
            return np.stack([self._opened(place) for place in places.tolist()])
        for place in places[~self._there[places]].tolist():
            self._pixels[place] = self._opened(place)
            self._there[place] = True
        found: NDArray[np.uint8] = self._pixels[places]
        return found

    def _opened(self, place: int) -> NDArray[np.uint8]:
        try:
            return images.decode(self._files[place] or b"", self.form)
        except images.NotAnImage as problem:
            raise DataError(
                f"the image of row {place} is {problem}; such rows are set aside when they are taken in."
            ) from None
