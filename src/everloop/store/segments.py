"""The append-only log between a server and the lake: framed, checksummed, rotated. Knows nothing of HTTP or tables.

A segment is a file that one process appends to and never reopens: ``<tag>-<number>.segment``. It begins with
`MAGIC`; a frame is its length and its CRC-32 (both little-endian uint32), then the payload. A reader stops at a torn
or unfinished tail and may go on from the same offset later. After a crash the tail stays as it is: the next process
has a tag of its own.
"""

import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from everloop.errors import StoreError
from everloop.store.files import storage_error, sync_folder, write_all

MAGIC = b"EVLSEG1\n"
HEAD = struct.Struct("<II")
SUFFIX = ".segment"
ROTATE_BYTES = 64 * 2**20
PENDING_BYTES = 32 * 2**20
"""How much waits in memory while the disk takes nothing; beyond it the oldest frames are lost, and counted."""
LARGEST_FRAME = 2**30


class PredictionFrame(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="prediction", tag_field="kind"):
    """What one version answered in one role within a moment. Arrays are little-endian bytes, row-major."""

    loop: str
    version: int
    package: str
    arm: str
    """champion, challenger, shadow; experiment or route: the arm that ``variant`` names; fallback: drawn for another
    arm that failed, answered by the champion; override: a tester named the version."""
    revision: int
    epoch: int
    share: float
    ids: list[str]
    at: bytes
    """int64 [rows], µs: when the request came, or its event time in a replay."""
    latency: bytes
    """int32 [rows], µs from the whole request read to its answer written; 0 for shadow."""
    status: bytes
    """uint8 [rows]: 0 answered, 1 failed."""
    numbers: bytes = b""
    """float64 [rows, n], as packed for the graph (records.Signature)."""
    integers: bytes = b""
    texts: list[str] = []
    tensors: dict[str, bytes] = {}
    """Of each tensor column 16 bytes [rows]: blake2b of the row's bytes. The tensors themselves are not kept."""
    summaries: dict[str, bytes] = {}
    """Of each tensor column float32 [rows, width], as ``measure.space.summary`` gives it: what drift is seen in."""
    prediction: bytes = b""
    """float64 [rows, width]; NaN where failed."""
    decision: bytes = b""
    """int64 [rows], or empty for regression; −1 where failed."""
    width: int = 1
    units: list[str] = []
    """The declared unit of each row, when the rollout or the experiment names one: what is counted instead of requests."""
    meanings: list[str] = []
    """What each row is about, where the declaration asks; empty where it is about nothing known."""
    experiment: str = ""
    """The experiment that gave these rows their arm."""
    variant: str = ""
    """The name of the arm, in an experiment or a route."""
    certainty: bytes = b""
    """float64 [rows], in a route: how sure the decision for this arm was, or the weight it was drawn with; NaN where it
    could not be made."""


class OutcomeFrame(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="outcome", tag_field="kind"):
    """What came true: ``[id, name, value, at in µs]`` each. On disk before it is acknowledged."""

    loop: str
    outcomes: list[tuple[str, str, str | int | float | bool | None, int]]


Frame = PredictionFrame | OutcomeFrame
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
encode: Callable[[Frame], bytes] = _encoder.encode


def decode(payload: bytes) -> Frame:
    """The frame in a payload. Raises msgspec.DecodeError if it is none."""
    return _decoder.decode(payload)


def framed(payload: bytes) -> bytes:
    length = len(payload)
    return HEAD.pack(length, zlib.crc32(payload, length)) + payload


def files(folder: Path) -> list[Path]:
    """All segments of ``folder``, each process's in the order written."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def read(path: Path, offset: int = 0) -> Iterator[tuple[bytes, int]]:
    """Each whole payload from ``offset`` on (0: the first) with the offset after it; stops cleanly at a torn tail.

    Frames that are written while this reads may or may not be seen; the next call with the last offset sees them.
    Raises StoreError when ``path`` is not a segment.
    """
    with path.open("rb") as file:
        begin = file.read(len(MAGIC))
        if begin != MAGIC:
            if MAGIC.startswith(begin):
                return  # torn before its first byte was whole
            raise StoreError(f"{path} is not a segment: it begins with {begin!r}. Move it out of this folder.")
        place = max(offset, len(MAGIC))
        file.seek(place)
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, checksum = HEAD.unpack(head)
            if length > LARGEST_FRAME:
                return
            payload = file.read(length)
            if len(payload) < length or zlib.crc32(payload, length) != checksum:
                return
            place += HEAD.size + length
            yield payload, place


class Writer:
    """Appends frames for one process. ``append`` and ``flush`` may be called from different threads.

    Attributes: ``lost_frames`` and ``lost_rows`` were dropped because the disk stayed full; ``trouble`` is the
    present error, None when the last write went well.
    """

    def __init__(self, folder: Path, tag: str, *, rotate: int = ROTATE_BYTES, pending: int = PENDING_BYTES) -> None:
        self.folder = folder
        self.tag = tag
        self.lost_frames = 0
        self.lost_rows = 0
        self.written_rows = 0
        self.trouble: StoreError | None = None
        self._rotate = rotate
        self._limit = pending
        self._pending: list[tuple[bytes, int]] = []
        self._pending_bytes = 0
        self._guard = threading.Lock()  # over what waits: held for moments only
        self._disk = threading.Lock()  # over the file: held while the disk works
        self._descriptor = -1
        self._number = 0
        self._size = 0
        self._unsynced = False
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """The segment being written, whether or not its first frame has come."""
        return self.folder / f"{self.tag}-{self._number:06d}{SUFFIX}"

    @property
    def waiting(self) -> bool:
        return bool(self._pending) or self._unsynced

    def append(self, payload: bytes, *, rows: int = 1) -> None:
        """Take a frame; it is written at the next `flush`. Never blocks on the disk, never raises."""
        frame = framed(payload)
        with self._guard:
            self._pending.append((frame, rows))
            self._pending_bytes += len(frame)
            if self._pending_bytes > self._limit:
                self._drop()

    def _drop(self) -> None:
        kept = 0
        while self._pending_bytes > self._limit and kept < len(self._pending):
            frame, rows = self._pending[kept]
            self._pending_bytes -= len(frame)
            self.lost_frames += 1
            self.lost_rows += rows
            kept += 1
        del self._pending[:kept]

    def flush(self, *, sync: bool = False) -> None:
        """Write what waits; with ``sync`` force it to disk. Raises StoreError; what was not written waits on."""
        with self._disk:
            with self._guard:
                batch, self._pending = self._pending, []
                self._pending_bytes = 0
            try:
                if batch:
                    self._write(b"".join(frame for frame, _ in batch))
                    self.written_rows += sum(rows for _, rows in batch)
                    batch = []
                if sync and self._unsynced:
                    os.fsync(self._descriptor)
                    self._unsynced = False
                self.trouble = None
            except OSError as error:
                with self._guard:
                    self._pending[:0] = batch
                    self._pending_bytes = sum(len(frame) for frame, _ in self._pending)
                self.trouble = storage_error(error, self.path)
                raise self.trouble from error

    def write_now(self, *payloads: bytes) -> None:
        """Write these frames and force them to disk, or leave no byte of them: raises StoreFull or StoreError."""
        with self._disk:
            try:
                self._write(b"".join(map(framed, payloads)), durable=True)
                self.trouble = None
            except OSError as error:
                self.trouble = storage_error(error, self.path)
                raise self.trouble from error

    def close(self) -> None:
        """Write what waits, force it to disk, and stop. Raises StoreError when the disk takes no more."""
        try:
            self.flush(sync=True)
        finally:
            with self._disk:
                self._end()

    def abandon(self) -> None:
        """Count what still waits as lost: the process ends and the disk takes no more."""
        with self._guard:
            self.lost_frames += len(self._pending)
            self.lost_rows += sum(rows for _, rows in self._pending)
            self._pending = []
            self._pending_bytes = 0

    def _write(self, data: bytes, *, durable: bool = False) -> None:
        if self._descriptor < 0:
            self._begin()
        try:
            write_all(self._descriptor, data)
            if durable:
                os.fsync(self._descriptor)
        except OSError:
            self._cut()
            raise
        self._size += len(data)
        self._unsynced = not durable
        if self._size >= self._rotate:
            self._end()

    def _begin(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        while True:
            try:
                descriptor = os.open(self.path, flags, 0o644)
                break
            except FileExistsError:
                self._number += 1
        try:
            write_all(descriptor, MAGIC)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                self.path.unlink()
            raise
        sync_folder(self.folder)
        self._descriptor, self._size = descriptor, len(MAGIC)

    def _cut(self) -> None:
        """Take back a frame that was written in part; if even that fails, leave the torn file and begin another."""
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self._end()

    def _end(self) -> None:
        if self._descriptor >= 0:
            with suppress(OSError):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor, self._size = -1, 0
            self._number += 1
            self._unsynced = False


class Flusher:
    """A thread that writes what a `Writer` holds at most ``every`` seconds after it came, and syncs every ``sync``.

    It sleeps while there is nothing to write. A full disk is no reason to stop: it tries again at the next turn.
    ``before`` is called in the thread before each writing: what is dear to put together can be appended there.
    """

    def __init__(
        self, writer: Writer, *, every: float = 0.05, sync: float = 1.0, before: Callable[[], None] | None = None
    ) -> None:
        self._writer = writer
        self._before = before or (lambda: None)
        self._every = every
        self._turns = max(1, round(sync / every))
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segments", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that something waits. Cheap: call it after every append."""
        if not self._wake.is_set():
            self._wake.set()

    def _run(self) -> None:
        turn = 0
        while not self._stop.is_set():
            if not self._writer.waiting:
                turn = 0
                self._wake.wait()
            self._wake.clear()
            self._stop.wait(self._every)
            turn += 1
            self._before()
            with suppress(StoreError):  # the writer keeps the trouble for /status and counts what is lost
                self._writer.flush(sync=turn % self._turns == 0)

    def close(self) -> None:
        """Stop the thread and write the rest; what the disk refuses is counted as lost."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._before()
        try:
            self._writer.close()
        except StoreError:
            self._writer.abandon()
