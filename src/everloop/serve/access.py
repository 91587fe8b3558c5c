"""The access log: one JSON object a request, written by a thread of its own. Knows nothing of keys' secrets or bodies.

Nothing waits for the disk: what the thread has not written yet is kept up to a bound, beyond it lines are counted as
lost. The file is put aside when it is full, and opened anew when somebody else moved it (logrotate needs no signal).
"""

import fcntl
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from everloop.serve.exchange import Exchange
from everloop.serve.gate import peer_of
from everloop.serve.journal import say
from everloop.store.files import write_all

WAITING_LINES = 100_000
GATHER_SECONDS = 0.05
TOGETHER = 128
"""Lines encoded in one go: the interpreter can be had by others in between."""
PATH_BYTES = 2_048
STDERR = "stderr"


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """``at``: when the request was whole. ``bytes``: of the answer's body. No query: it may hold what is private."""

    at: str
    request_id: str
    address: str
    method: str
    path: str
    status: int
    bytes: int
    milliseconds: float
    key: str | None = None
    trace_id: str | None = None


class AccessLog:
    """``lost``: lines that nobody will see. ``path`` may be ``stderr``."""

    def __init__(self, path: str, *, file_bytes: int, files: int) -> None:
        self.lost = 0
        self.written = 0
        self._path = None if path == STDERR else Path(path)
        self._file_bytes = file_bytes
        self._files = files
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._troubled = False
        self._descriptor = self._opened()
        self._wall = time.time() - time.perf_counter()
        self._second = (-1, "")
        self._thread = threading.Thread(target=self._write_on, name="access log", daemon=True)
        self._thread.start()

    def ended(self, exchange: Exchange, status: int, size: int) -> None:
        """Take down an answered request: a few references, no words yet."""
        waiting = self._waiting
        if len(waiting) >= WAITING_LINES:
            self.lost += 1
            return
        waiting.append(
            (
                exchange.arrived, time.perf_counter(), exchange.request_id, peer_of(exchange), exchange.method,
                exchange.url, status, size, exchange.caller, exchange.traced,
            )
        )  # fmt: skip
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what waits, then end."""
        self._ending = True
        self._wake.set()
        self._thread.join()
        if self._path is not None:
            os.close(self._descriptor)

    def _write_on(self) -> None:
        while True:
            self._wake.wait()
            if not self._ending:
                time.sleep(GATHER_SECONDS)
            ending = self._ending
            self._wake.clear()  # before looking: what comes now wakes it again
            self._wall = time.time() - time.perf_counter()
            while self._waiting:
                self._write([self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))])
            if ending:
                return

    def _write(self, taken: list[tuple[Any, ...]]) -> None:
        data = b"".join(msgspec.json.encode(self._line(*each)) + b"\n" for each in taken)
        try:
            self._reopen()
            write_all(self._descriptor, data)
            self.written += len(taken)
            self._troubled = False
        except OSError as error:
            self.lost += len(taken)
            if not self._troubled:
                self._troubled = True
                say("access log not written", because=error.strerror)

    def _line(
        self,
        arrived: float,
        ended: float,
        request_id: bytes,
        address: str,
        method: bytes,
        url: bytes,
        status: int,
        size: int,
        caller: Any,
        traced: Any,
    ) -> Line:
        return Line(
            at=self._instant(arrived + self._wall),
            request_id=request_id.decode("latin-1"),
            address=address,
            method=method.decode("latin-1"),
            path=url.partition(b"?")[0][:PATH_BYTES].decode("latin-1"),
            status=status,
            bytes=size,
            milliseconds=round((ended - arrived) * 1e3, 3),
            key=None if caller is None or caller.key is None else caller.name,
            trace_id=None if traced is None else traced.trace_id,
        )

    def _instant(self, seconds: float) -> str:
        whole = int(seconds)
        if self._second[0] != whole:
            self._second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
        return f"{self._second[1]}.{int((seconds - whole) * 1e6):06d}Z"

    # The file

    def _opened(self) -> int:
        if self._path is None:
            return 2
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _reopen(self) -> None:
        """Follow the file that has the name now; put it aside when it is full."""
        if self._path is None:
            return
        ours = os.fstat(self._descriptor)
        if ours.st_size >= self._file_bytes:
            self._put_aside(ours)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        if named is None or (named.st_ino, named.st_dev) != (ours.st_ino, ours.st_dev):
            opened = self._opened()
            os.close(self._descriptor)
            self._descriptor = opened

    def _put_aside(self, ours: os.stat_result) -> None:
        """Rename it to ``.1``, that to ``.2`` and so on; the oldest goes. One process does, the others follow."""
        assert self._path is not None
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            named = self._path.stat()
            if (named.st_ino, named.st_dev) != (ours.st_ino, ours.st_dev):
                return
            for number in range(self._files, 1, -1):
                older = self._path.with_name(f"{self._path.name}.{number - 1}")
                if older.exists():
                    older.replace(self._path.with_name(f"{self._path.name}.{number}"))
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except FileNotFoundError:
            return
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
