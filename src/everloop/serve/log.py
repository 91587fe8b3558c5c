"""The prediction log and the outcomes of one loop in one process. Knows nothing of HTTP or models.

A prediction is noted in a list; a thread makes frames of the list and writes them at least every 50 ms: a kill loses no
more than that, and the requests pay for neither the encoding nor the disk. Outcomes are on disk before they are
acknowledged; all that arrive during one write go together in the next.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.errors import StoreError
from everloop.measure.space import summary
from everloop.serve.journal import say
from everloop.serve.live import Part
from everloop.serve.releases import ReleaseFile
from everloop.serve.tensors import digests
from everloop.store import segments

FRAME_ROWS = 4096
"""A frame holds no more than this, or one batch."""
NOTED_BYTES = 32 * 2**20
"""Rows that wait for their frame while the disk takes nothing; beyond it the oldest are lost, and counted."""
ROW_BYTES = 200
"""What a row takes besides its columns, roughly."""
LONGEST = 2**31 - 1
"""The longest latency that can be written, in microseconds."""


class Note:
    """One arm's rows of one batch. ``at`` in microseconds, ``latency`` in seconds."""

    __slots__ = ("at", "ids", "latency", "meanings", "part", "release", "size", "units")

    def __init__(
        self,
        release: ReleaseFile,
        part: Part,
        ids: list[str],
        at: Sequence[int],
        latency: Sequence[float],
        units: list[str],
        meanings: list[str],
    ) -> None:
        self.release = release
        self.part = part
        self.ids = ids
        self.at = at
        self.latency = latency
        self.units = units
        self.meanings = meanings
        self.size = len(ids) * ROW_BYTES + sum(array.nbytes for array in part.packed.values())

    def goes_with(self, other: "Note") -> bool:
        """Whether both may stand in one frame."""
        return (
            self.release is other.release
            and self.part.arm is other.part.arm
            and self.part.role == other.part.role
            and (self.part.prediction is None) == (other.part.prediction is None)
        )


class PredictionLog:
    def __init__(self, folder: Path, tag: str) -> None:
        self.writer = segments.Writer(folder, tag)
        self._notes: list[Note] = []
        self._bytes = 0
        self._guard = threading.Lock()  # over the notes: held for moments only
        self._making = threading.Lock()  # frames are made by one thread at a time, so that they stay in order
        self._flusher = segments.Flusher(self.writer, before=self._make_frames)

    def add(
        self,
        release: ReleaseFile,
        part: Part,
        ids: list[str],
        at: Sequence[int],
        latency: Sequence[float],
        units: list[str],
        meanings: list[str],
    ) -> None:
        """One arm's rows of one batch, answered or failed. ``at`` in microseconds, ``latency`` in seconds."""
        note = Note(release, part, ids, at, latency, units, meanings)
        with self._guard:
            self._notes.append(note)
            self._bytes += note.size
            if self._bytes > NOTED_BYTES:
                self._drop()
        self._flusher.wake()

    def _drop(self) -> None:
        dropped = 0
        while self._bytes > NOTED_BYTES and dropped < len(self._notes) - 1:
            note = self._notes[dropped]
            self._bytes -= note.size
            self.writer.lost_frames += 1
            self.writer.lost_rows += len(note.ids)
            dropped += 1
        del self._notes[:dropped]

    def _make_frames(self) -> None:
        with self._making:
            with self._guard:
                notes, self._notes = self._notes, []
                self._bytes = 0
            for group in grouped(notes):
                rows = sum(len(note.ids) for note in group)
                try:
                    self.writer.append(segments.encode(frame(group)), rows=rows)
                except Exception as error:  # the thread goes on, and what it could not write is counted
                    say("rows not logged", rows=rows, because=repr(error))
                    self.writer.lost_frames += 1
                    self.writer.lost_rows += rows

    def flush(self) -> None:
        """Write all that was noted. Raises StoreError; what was not written waits on."""
        self._make_frames()
        self.writer.flush()

    def close(self) -> None:
        self._flusher.close()


def grouped(notes: Sequence[Note]) -> list[list[Note]]:
    """What stands in one frame together, each group in the order noted."""
    groups: list[list[Note]] = []
    rows: list[int] = []
    for note in notes:
        for place in range(len(groups) - 1, -1, -1):
            if groups[place][0].goes_with(note) and rows[place] < FRAME_ROWS:
                groups[place].append(note)
                rows[place] += len(note.ids)
                break
        else:
            groups.append([note])
            rows.append(len(note.ids))
    return groups


def frame(notes: Sequence[Note]) -> segments.PredictionFrame:
    """The rows of several notes of one arm, in order."""
    release, first = notes[0].release, notes[0].part
    parts = [note.part for note in notes]
    micros = np.fromiter(chain.from_iterable(note.latency for note in notes), np.float64) * 1e6
    return segments.PredictionFrame(
        loop=release.loop,
        version=first.arm.version,
        package=first.arm.package,
        arm=first.role,
        revision=release.revision,
        epoch=release.epoch,
        share=release.share if first.arm.share is None else first.arm.share,
        ids=list(chain.from_iterable(note.ids for note in notes)),
        at=np.fromiter(chain.from_iterable(note.at for note in notes), np.int64).tobytes(),
        latency=np.minimum(micros, LONGEST).astype(np.int32).tobytes(),
        status=b"".join(map(_status, parts, (len(note.ids) for note in notes))),
        numbers=_joined(part.packed.get("numbers") for part in parts),
        integers=_joined(part.packed.get("integers") for part in parts),
        tensors={
            column.name: b"".join(digests(part.packed[column.name]) for part in parts)
            for column in first.arm.model.signature.tensors
        },
        summaries={
            column.name: b"".join(summary(part.packed[column.name]).tobytes() for part in parts)
            for column in first.arm.model.signature.tensors
        },
        texts=[text for part in parts if "texts" in part.packed for text in part.packed["texts"].ravel().tolist()],
        prediction=_joined(part.prediction for part in parts),
        decision=_joined(part.decision for part in parts),
        width=first.arm.model.width,
        units=list(chain.from_iterable(note.units for note in notes)),
        meanings=list(chain.from_iterable(note.meanings for note in notes)),
        experiment=first.arm.experiment,
        variant=first.arm.variant,
        certainty=_joined(part.certainty for part in parts),
    )


def _status(part: Part, rows: int) -> bytes:
    status = bytearray(rows)
    for place in part.failed:
        status[place] = 1
    return bytes(status)


def _joined(arrays: Iterable[NDArray[Any] | None]) -> bytes:
    return b"".join(array.tobytes() for array in arrays if array is not None)


Acknowledge = Callable[[StoreError | None], None]


class OutcomeLog:
    """``add`` returns at once; ``acknowledge`` is called from the writing thread when the disk has it, or has not."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.writer = segments.Writer(folder, tag)
        self._waiting: SimpleQueue[tuple[bytes, Acknowledge] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, frame: segments.OutcomeFrame, acknowledge: Acknowledge) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="outcomes", daemon=True)
            self._thread.start()
        self._waiting.put((segments.encode(frame), acknowledge))

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while True:
                try:
                    batch.append(self._waiting.get_nowait())
                except Empty:
                    break
            ended = None in batch
            together = [each for each in batch if each is not None]
            if not together:
                continue
            try:
                self.writer.write_now(*(payload for payload, _ in together))
            except StoreError:
                self._one_by_one(together)  # some may still fit
            else:
                for _, acknowledge in together:
                    acknowledge(None)

    def _one_by_one(self, together: list[tuple[bytes, Acknowledge]]) -> None:
        for payload, acknowledge in together:
            try:
                self.writer.write_now(payload)
            except StoreError as error:
                acknowledge(error)
            else:
                acknowledge(None)

    def close(self) -> None:
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
        self.writer.close()
