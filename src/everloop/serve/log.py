"""The prediction log and the outcomes of one loop in one process. Knows nothing of HTTP or models.

Predictions are handed to a thread that writes at least every 50 ms: a kill loses no more than that. Outcomes are on
disk before they are acknowledged; all that arrive during one write go together in the next.
"""

import threading
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from everloop.errors import StoreError
from everloop.serve.live import Part
from everloop.serve.releases import ReleaseFile
from everloop.serve.tensors import digests
from everloop.store import segments

NO_BYTES = b""


class PredictionLog:
    def __init__(self, folder: Path, tag: str) -> None:
        self.writer = segments.Writer(folder, tag)
        self._flusher = segments.Flusher(self.writer)

    def add(
        self,
        release: ReleaseFile,
        part: Part,
        ids: list[str],
        at: Sequence[int],
        latency: Sequence[int],
        units: list[str],
    ) -> None:
        """One arm's rows of one batch, answered or failed. ``at`` and ``latency`` are microseconds."""
        rows = len(ids)
        status = bytearray(rows)
        for place in part.failed:
            status[place] = 1
        packed, prediction, decision = part.packed, part.prediction, part.decision
        frame = segments.PredictionFrame(
            loop=release.loop,
            version=part.arm.version,
            package=part.arm.package,
            arm=part.role,
            revision=release.revision,
            epoch=release.epoch,
            share=release.share,
            ids=ids,
            at=array("q", at).tobytes(),
            latency=array("i", latency).tobytes(),
            status=bytes(status),
            numbers=packed["numbers"].tobytes() if "numbers" in packed else NO_BYTES,
            integers=packed["integers"].tobytes() if "integers" in packed else NO_BYTES,
            texts=packed["texts"].ravel().tolist() if "texts" in packed else [],
            tensors={column.name: digests(packed[column.name]) for column in part.arm.model.signature.tensors},
            prediction=prediction.tobytes() if prediction is not None else NO_BYTES,
            decision=decision.tobytes() if decision is not None else NO_BYTES,
            width=part.arm.model.width,
            units=units,
        )
        self.writer.append(segments.encode(frame), rows=rows)
        self._flusher.wake()

    def close(self) -> None:
        self._flusher.close()


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
