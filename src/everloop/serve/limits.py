"""How often somebody may ask, exactly, over all processes of one home. Knows nothing of keys, HTTP or who that is.

A rate is at most N requests in *any* stretch of T seconds, not in stretches that begin at full seconds: a bucket that
refills would let almost 2 N pass around an unlucky edge. T is cut into `PARTS`; one small record in a file counts what
each part was granted, and what any process may still grant is N less the sum of the last PARTS + 1 of them. So it errs by
refusing for up to T / PARTS too long, never by letting through too much.

A process takes several grants at once, valid until the part ends, and gives back what it did not use: a request costs a
comparison and a subtraction. Times within a window are on the monotonic clock, which all processes of a machine share
and which nobody sets; the day of a quota is the wall clock's, in UTC, and a clock that is set back opens no new day.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from math import ceil
from pathlib import Path

from everloop.errors import RequestError, StoreError
from everloop.serve.rates import Rate

PARTS = 50
RECORD = struct.Struct("<16sqQ8sqQ" + f"{PARTS + 1}I")
"""Name, day and its requests, boot, newest part, window in seconds, requests by part (a ring)."""
RING = PARTS + 1
SIZE = 320
SLOTS = 4096
PROBES = 64
"""Places at which one name may be."""
DAY = 86_400
NONE_YET = -1
MOST = 2**62
NOTHING = Rate(1, 1)
LONGEST_GRANT = 60.0
"""Seconds that grants of a quota may be held: what a killed process held is lost to its caller."""
QUOTA_LOOK = 1.0
"""Seconds between two looks at a quota that was used up."""


def boot_id() -> bytes:
    """Changes with each start of the machine, when the monotonic clock begins anew."""
    try:
        return blake2b(Path("/proc/sys/kernel/random/boot_id").read_bytes(), digest_size=8).digest()
    except OSError:
        return bytes(8)


class Record:
    """What is known of one caller. ``counts`` of the parts that end with ``newest``."""

    __slots__ = ("boot", "counts", "day", "name", "newest", "seconds", "used")

    def __init__(self, data: bytes) -> None:
        self.name, self.day, self.used, self.boot, self.newest, self.seconds, *self.counts = RECORD.unpack_from(data)

    @classmethod
    def empty(cls, name: bytes) -> "Record":
        return cls(RECORD.pack(name, NONE_YET, 0, bytes(8), 0, 0, *([0] * RING)))

    def pack(self) -> bytes:
        return RECORD.pack(
            self.name, self.day, self.used, self.boot, self.newest, self.seconds, *self.counts
        ).ljust(SIZE, b"\0")  # fmt: skip

    def turn_to(self, part: int, seconds: int, boot: bytes) -> int:
        """Forget the parts that no window reaches any more. Returns the part that counts now."""
        fresh = self.boot != boot or self.seconds != seconds or part - self.newest > PARTS
        if fresh or part < self.newest - 1:  # the clock began anew
            self.boot, self.seconds, self.newest = boot, seconds, part
            self.counts = [0] * RING
        for each in range(self.newest + 1, part + 1):
            self.counts[each % RING] = 0
        self.newest = max(self.newest, part)
        return int(self.newest)

    def free_from(self) -> int:
        """The first part in which the oldest grants no longer count."""
        oldest = (part for part in range(self.newest - PARTS, self.newest + 1) if self.counts[part % RING])
        return next(oldest, self.newest) + RING


class Usage:
    """A file of records, found by name. Raises StoreError when it cannot be opened."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.perf_counter, wall: Callable[[], float] = time.time
    ) -> None:
        self.clock = clock
        self.wall = wall
        self.boot = boot_id()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(self._file, 0, (SLOTS + PROBES) * SIZE)  # a disk that fills later changes nothing
        except OSError as error:
            raise StoreError(
                f"{path} cannot be used to count requests: {error.strerror}. Look at its rights and its disk."
            ) from None

    def close(self) -> None:
        os.close(self._file)

    @contextmanager
    def changing(self, name: bytes, place: int) -> Iterator[tuple[Record, int]]:
        """The record of ``name``, locked against other processes, and its place; written when the block ends.

        ``place``: where it was the last time, -1 when that is not known. With no place left the record is one that
        another name has: two callers then share a limit, which is too strict rather than too loose.
        """
        if place < 0 or Record(self._read(place, 1)).name != name:
            with self._locked(0, 0):
                place = self._find(name)
        with self._locked(place * SIZE, SIZE):
            record = Record(self._read(place, 1))
            yield record, place
            os.pwrite(self._file, record.pack(), place * SIZE)

    @contextmanager
    def _locked(self, start: int, length: int) -> Iterator[None]:
        fcntl.lockf(self._file, fcntl.LOCK_EX, length, start)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, length, start)

    def _read(self, place: int, records: int) -> bytes:
        return os.pread(self._file, SIZE * records, place * SIZE)

    def _find(self, name: bytes) -> int:
        """Where it is, or a place that nobody needs any more, which it is given."""
        start = int.from_bytes(name[:4], "little") % SLOTS
        near = self._read(start, PROBES)
        names = [near[step * SIZE : step * SIZE + 16] for step in range(PROBES)]
        if name in names:
            return start + names.index(name)
        for step in range(PROBES):
            if self._forgotten(Record(near[step * SIZE : (step + 1) * SIZE])):
                os.pwrite(self._file, Record.empty(name).pack(), (start + step) * SIZE)
                return start + step
        return start

    def _forgotten(self, record: Record) -> bool:
        """Whether nothing in it limits anybody any more."""
        part = int(self.clock() * PARTS / record.seconds) if record.seconds else 0
        rested = record.boot != self.boot or not record.seconds or part - record.newest > PARTS
        return bool(rested) and record.day < int(self.wall() // DAY)

    def used_today(self, name: bytes) -> int:
        """How many requests of today's quota were granted to ``name``."""
        start = int.from_bytes(name[:4], "little") % SLOTS
        near = self._read(start, PROBES)
        for step in range(PROBES):
            record = Record(near[step * SIZE : (step + 1) * SIZE])
            if record.name == name:
                return int(record.used) if record.day >= int(self.wall() // DAY) else 0
        return 0


class Allowance:
    """What one caller may still do, as far as this process knows. ``who`` is for the words of a refusal."""

    __slots__ = (
        "_blocked", "_chunk", "_day", "_fields", "_left", "_name", "_part", "_place", "_policy", "_quota", "_quota_spare",
        "_rate", "_refusal", "_spare", "_until", "_usage", "who",
    )  # fmt: skip

    def __init__(self, usage: Usage, who: str, name: bytes, rate: Rate | None, quota: Rate | None) -> None:
        self.who = who
        self._usage = usage
        self._name = name
        self._rate = rate
        self._quota = quota
        self._chunk = (
            max(1, rate.count // 64) if rate is not None else max(1, min(1_000, (quota or NOTHING).count // 1_000))
        )
        self._place = -1
        self._part = self._day = 0
        self._left = 0
        self._until = self._blocked = 0.0
        self._spare = self._quota_spare = 0
        """What was left of the rate and the quota beyond the grant, when that was taken."""
        self._refusal: tuple[str, str] = ("", "")
        self._fields = b""
        policies = [(b"rate", rate), (b"quota", quota)]
        told = [b'"%b";q=%d;w=%d' % (name, each.count, each.seconds) for name, each in policies if each is not None]
        self._policy = b"ratelimit-policy: " + b", ".join(told) + b"\r\n"

    def take(self, now: float) -> None:
        """One request at ``now`` on the usage's clock. Raises RequestError (429) with an honest time to wait."""
        if self._left and now < self._until:
            self._left -= 1
        else:
            self._more()

    def fields(self) -> bytes:
        """The header lines that tell what is left (draft-ietf-httpapi-ratelimit-headers-10)."""
        left = self._left
        if self._quota is None:
            return self._fields % (left + self._spare)
        if self._rate is None:
            return self._fields % (left + self._quota_spare)
        return self._fields % (left + self._spare, left + self._quota_spare)

    def close(self) -> None:
        """Give back what was not used."""
        if self._left:
            with self._usage.changing(self._name, self._place) as (record, _):
                self._give_back(record)

    def _more(self) -> None:
        usage, rate, quota = self._usage, self._rate, self._quota
        if usage.clock() < self._blocked:
            now, tomorrow = usage.clock(), DAY - usage.wall() % DAY
            self._tell(self._blocked - now, tomorrow)
            raise self._refused(now, tomorrow)
        with usage.changing(self._name, self._place) as (record, self._place):
            now, wall = usage.clock(), usage.wall()
            self._give_back(record)
            spare = quota_spare = MOST
            until = now + LONGEST_GRANT
            if rate is not None:
                self._part = record.turn_to(int(now * PARTS / rate.seconds), rate.seconds, usage.boot)
                spare = rate.count - sum(record.counts)
                until = (self._part + 1) * rate.seconds / PARTS
            if quota is not None:
                self._day = max(record.day, int(wall // DAY))
                if self._day > record.day:
                    record.day, record.used = self._day, 0
                quota_spare = quota.count - record.used
                until = min(until, now + (self._day + 1) * DAY - wall)
            available = min(spare, quota_spare)
            grant = max(1, min(self._chunk, available // 8)) if available > 0 else 0
            if rate is not None:
                record.counts[self._part % RING] += grant
            if quota is not None:
                record.used += grant
            free_from = record.free_from()
        self._left, self._until = grant, until
        self._spare, self._quota_spare = max(0, spare - grant), max(0, quota_spare - grant)
        tomorrow = (self._day + 1) * DAY - wall
        if grant:
            self._left -= 1
            self._tell(float(rate.seconds) if rate is not None else 0.0, tomorrow)
        elif quota is not None and quota_spare <= 0:
            self._blocked = now + min(tomorrow, QUOTA_LOOK)  # others may give back what they hold
            self._refusal = ("quota", f"{self.who} has used its quota of {quota} for this day in UTC.")
            self._tell(0.0, tomorrow)
            raise self._refused(now, tomorrow)
        else:
            assert rate is not None
            self._blocked = free_from * rate.seconds / PARTS
            self._refusal = ("rate_limit", f"{self.who} may ask {rate} and has.")
            self._tell(self._blocked - now, tomorrow)
            raise self._refused(now, tomorrow)

    def _give_back(self, record: Record) -> None:
        left, self._left = self._left, 0
        if not left or record.name != self._name:
            return
        rate = self._rate
        same = rate is not None and record.seconds == rate.seconds and record.boot == self._usage.boot
        if same and 0 <= record.newest - self._part <= PARTS:
            place = self._part % RING
            record.counts[place] = max(0, record.counts[place] - left)
        if self._quota is not None and record.day == self._day:
            record.used = max(0, record.used - left)

    def _tell(self, rate_seconds: float, quota_seconds: float) -> None:
        items = []
        if self._rate is not None:
            items.append(b'"rate";r=%%d;t=%d' % ceil(rate_seconds))
        if self._quota is not None:
            items.append(b'"quota";r=%%d;t=%d' % ceil(quota_seconds))
        self._fields = self._policy + b"ratelimit: " + b", ".join(items) + b"\r\n"

    def _refused(self, now: float, tomorrow: float) -> RequestError:
        reason, words = self._refusal
        again = max(1, ceil(tomorrow if reason == "quota" else self._blocked - now))
        return RequestError(f"{words} Ask again in {again} s.", status=429, reason=reason, retry_after=again)


def name_of(text: str) -> bytes:
    """The name under which somebody is counted."""
    return blake2b(text.encode(), digest_size=16).digest()
