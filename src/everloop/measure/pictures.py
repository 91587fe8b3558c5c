"""A column of images that is decoded when its rows are asked for, or ahead of that, and kept where it fits.

Knows nothing of networks. Threads decode, or what `decoded_by` names; what was decoded once is kept as bytes, a quarter of
what a network sees, so that from the second epoch on nothing is decoded at all.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from everloop.errors import DataError
from everloop.forms import Image
from everloop.measure import images

KEPT = 2 * 2**30
"""Bytes of decoded pixels that are kept; a column with more is decoded anew in each epoch."""
AT_ONCE = 32
"""Images that a thread decodes before it asks for more."""
AHEAD = 2
"""Batches at most that are made before they are asked for."""

Batch = tuple[NDArray[np.float32], list["Future[None]"]]


class Decoders(Protocol):
    askers: int
    """Threads that may ask at once."""

    def decoded(self, files: Sequence[bytes]) -> AbstractContextManager[NDArray[np.uint8]]:
        """uint8 [files, height, width, channels] until the context ends. Raises what ends the whole, or ConnectionError
        or `images.NotAnImage`, after which the pictures are decoded here.
        """
        ...


class Pictures:
    """``files``: objects [rows], the bytes of a PNG or JPEG each. Entries are float32 [channels, height, width]."""

    def __init__(self, form: Image, files: NDArray[Any], *, workers: int | None = None, kept: int = KEPT) -> None:
        self.form = form
        self.workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
        self._files = files
        size = form.height * form.width * form.channels
        shape = (len(files), form.height, form.width, form.channels)
        self._pixels = np.empty(shape, np.uint8) if len(files) * size <= kept else None
        self._there = np.zeros(len(files), bool)
        self._decoders: Decoders | None = None
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        """The process that began it, and its threads: they are not there in a process that was forked off."""
        self._begun: dict[bytes, Batch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoders": None, "_pool": None, "_begun": {}}

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._files), self.form.channels, self.form.height, self.form.width)

    @property
    def dtype(self) -> Any:
        return np.dtype(np.float32)

    @property
    def keeps(self) -> bool:
        """Whether what was decoded once is kept."""
        return self._pixels is not None

    @property
    def missing(self) -> int:
        """How many pictures an epoch has still to decode."""
        return len(self._files) if self._pixels is None else int((~self._there).sum())

    def decoded_by(self, decoders: Decoders | None) -> None:
        """From now on, instead of the threads here; None: by the threads here again."""
        self._decoders, self._pool, self._begun = decoders, None, {}

    def ahead(self, places: NDArray[np.int64]) -> None:
        """Begin with what will be asked for soon. Wrong ones cost their work and nothing else."""
        key = places.tobytes()
        if key not in self._begun and len(places):
            while len(self._begun) >= AHEAD:
                for each in self._begun.pop(next(iter(self._begun)))[1]:
                    each.cancel()
            self._begun[key] = self._begin(places)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(places), channels, height, width], channels last in memory. Raises DataError for a file that is no
        image.
        """
        key = places.tobytes()
        made, parts = self._begun.pop(key) if key in self._begun else self._begin(places)
        for each in parts:
            each.result()
        return made.transpose(0, 3, 1, 2)

    def pixels(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 [len(places), height, width, channels]."""
        made = np.empty((len(places), self.form.height, self.form.width, self.form.channels), np.uint8)

        def some(part: slice) -> None:
            self._into(places[part], lambda found: made.__setitem__(part, found))

        for each in self._each(some, len(places)):
            each.result()
        return made

    def _begin(self, places: NDArray[np.int64]) -> Batch:
        form = self.form
        made = np.empty((len(places), form.height, form.width, form.channels), np.float32)

        def some(part: slice) -> None:  # in one thread, so that nobody waits for what comes after decoding
            self._into(places[part], lambda found: images.normalise(found, form, made[part]))

        return made, self._each(some, len(places))

    def _each(self, some: Callable[[slice], None], rows: int) -> list["Future[None]"]:
        """Call it for all parts, by threads that stay."""
        parts = [slice(begin, begin + AT_ONCE) for begin in range(0, rows, AT_ONCE)]
        if self._pool is None or self._pool[0] != os.getpid():
            threads = self._decoders.askers if self._decoders is not None else self.workers
            self._pool = os.getpid(), ThreadPoolExecutor(threads, thread_name_prefix="pictures")
            self._begun = {}
        return [self._pool[1].submit(some, part) for part in parts]

    def _into(self, places: NDArray[np.int64], take: Callable[[NDArray[np.uint8]], Any]) -> None:
        """Decode in this thread, or have it decoded. Where two threads are asked for one picture, both may decode it, to
        the same; a picture is said to be there only once all of it is.
        """
        missing = places if self._pixels is None else places[~self._there[places]]
        if self._decoders is not None and len(missing):
            try:
                with self._decoders.decoded([self._files[place] or b"" for place in missing.tolist()]) as found:
                    if self._pixels is None:
                        take(found)
                        return
                    self._pixels[missing] = found
                    self._there[missing] = True
                    missing = missing[:0]
            except (ConnectionError, images.NotAnImage):
                pass  # What is wrong with which row is found below.
        if self._pixels is None:
            take(np.stack([self._opened(place) for place in places.tolist()]))
            return
        for place in missing.tolist():
            self._pixels[place] = self._opened(place)
            self._there[place] = True
        take(self._pixels[places])

    def _opened(self, place: int) -> NDArray[np.uint8]:
        try:
            return images.decode(self._files[place] or b"", self.form)
        except images.NotAnImage as problem:
            raise DataError(
                f"the image of row {place} is {problem}; such rows are set aside when they are taken in."
            ) from None
