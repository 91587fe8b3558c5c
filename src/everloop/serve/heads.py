"""Heads of requests that were parsed before. Knows nothing of sockets, bodies or what is asked.

A client sends the same few heads again and again. What the parser makes of one depends on nothing but its bytes, so
the second time it need not be asked (measured: 2 to 3 µs a request). Only the length of the body, the id of the
request and the like differ: the value of such a header, where it is plain, is cut out before the look.
"""

import re
from collections.abc import Set
from itertools import islice

from everloop.serve.urgency import DEADLINE, PRIORITY

Headers = dict[bytes, bytes]

KNOWN_HEADS = 512
KNOWN_BYTES = 4096
WANTED = frozenset(
    {
        b"accept", b"access-control-request-headers", b"access-control-request-method", b"authorization",
        b"connection", b"content-encoding", b"content-length", b"content-type", b"expect", b"host",
        b"inference-header-content-length", b"origin", b"traceparent", b"tracestate", b"transfer-encoding", b"upgrade",
        b"x-api-key", b"x-everloop-deadline-ms", b"x-everloop-event-time", b"x-everloop-priority",
        b"x-everloop-replay", b"x-everloop-version", b"x-prediction-id", b"x-request-id",
    }
)  # fmt: skip
LISTS = frozenset(
    {
        b"accept", b"access-control-request-headers", b"connection", b"content-encoding", b"expect",
        b"transfer-encoding", b"tracestate", b"upgrade",
    }
)  # fmt: skip
"""Wanted headers that may come in several lines. Of any other, two would let a proxy read one and us the other."""
VARYING = (b"x-request-id", b"x-prediction-id", b"traceparent")
"""Headers with another value in each request."""
SPELLINGS = 8
"""Ways of writing the lines of such headers that are told apart."""
ALONE: Set[bytes] = frozenset({b"connection", b"expect", b"origin", b"transfer-encoding", b"upgrade"})
"""A head with one of these says more than where its body ends, or comes from a page; it is parsed each time."""
SPECIAL: Set[bytes] = frozenset(
    {b"content-encoding", b"x-everloop-event-time", b"x-everloop-replay", b"x-everloop-version", b"x-prediction-id"}
)
"""What makes a prediction another one than the body alone says."""
URGENT: Set[bytes] = frozenset({DEADLINE, PRIORITY})
plain = re.compile(rb"[!-~]{1,128}").fullmatch
"""A value that any parser reads as it stands."""


class Head:
    """All that comes before a body, as the parser took it apart. ``length``: of the body.

    ``cut``: the names of varying headers whose values were taken out of the bytes and are not in ``headers``; ``at``:
    where, when there is one. ``plain``: none of the headers in `SPECIAL` is there; ``urgent``: one of those in
    `URGENT` is.
    """

    __slots__ = ("at", "cut", "headers", "length", "method", "plain", "urgent", "url")

    def __init__(self, method: bytes, url: bytes, headers: Headers, length: int) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.length = length
        self.cut: tuple[bytes, ...] = ()
        self.at = 0
        self.plain = SPECIAL.isdisjoint(headers)
        self.urgent = not URGENT.isdisjoint(headers)


Place = tuple[int, int, int]
"""How long a head is with all its bytes, and where the value of its one varying header begins and ends; else 0, 0."""
Found = tuple[Head, Headers, Place]


class Heads:
    """``find`` and ``learn`` by the bytes from the request line to the empty line, both included."""

    __slots__ = ("_heads", "_spellings")

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._spellings: dict[bytes, tuple[bytes, int]] = {}
        """How a varying header begins, from the end of the line before to its value: its name, and the bytes of that."""

    def __len__(self) -> int:
        return len(self._heads)

    def clear(self) -> None:
        self._heads.clear()
        self._spellings.clear()

    def near(self, data: bytes, place: Place) -> Found | None:
        """The head that ``data`` begins with, if it is shaped like the one before on its connection; else None.

        To look for the end of a head costs more than all that follows (0.6 µs); with the place known it need not be.
        """
        length, start, end = place
        if not start:
            head = self._heads.get(data[:length])
            return None if head is None or head.cut else (head, head.headers, place)
        head = self._heads.get(data[:start] + data[end:length])
        if head is None or head.at != start:
            return None
        value = data[start:end]
        if plain(value) is None:
            return None
        headers = head.headers.copy()
        headers[head.cut[0]] = value
        return head, headers, place

    def find(self, data: bytes) -> Found | None:
        """The head that ``data`` begins with; None when it has to be parsed."""
        length = data.find(b"\r\n\r\n") + 4
        raw = data[:length]
        head = self._heads.get(raw)
        if head is not None:
            return None if head.cut else (head, head.headers, (length, 0, 0))
        if not self._spellings:
            return None
        found: list[tuple[bytes, bytes]] = []
        start = 0
        for begin, (name, size) in self._spellings.items():
            place = raw.find(begin)
            if place >= 0:
                start = place + size
                end = raw.find(b"\r\n", start)
                value = raw[start:end]
                if plain(value) is None:
                    return None
                found.append((name, value))
                raw = raw[:start] + raw[end:]
        head = self._heads.get(raw) if found else None
        if head is None or not head.cut:
            return None
        headers = head.headers.copy()
        for name, value in found:
            headers[name] = value
        return head, headers, (length, start, start + len(found[0][1])) if len(found) == 1 else (length, 0, 0)

    def learn(self, raw: bytes, head: Head) -> None:
        """Keep what the parser made of ``raw``."""
        if len(raw) > KNOWN_BYTES:
            return
        varying = [name for name in VARYING if name in head.headers]
        if varying:
            cut = self._without(raw, head, varying)
            if cut is None:
                return  # written in a way of its own: another one would come with every request
            raw, head = cut
        if len(self._heads) >= KNOWN_HEADS:
            # The older half: what is used comes back with its next request.
            for old in list(islice(self._heads, KNOWN_HEADS // 2)):
                del self._heads[old]
        self._heads[raw] = head

    def _without(self, raw: bytes, head: Head, names: list[bytes]) -> tuple[bytes, Head] | None:
        """``raw`` and its head without the values of these headers; None where one of them is not written plainly."""
        lower = raw.lower()
        headers = dict(head.headers)
        at = 0
        for name in names:
            value = headers.pop(name)
            place = lower.find(b"\r\n" + name + b": ")
            at = place + len(name) + 4
            if place < 0 or plain(value) is None or raw[at : at + len(value) + 2] != value + b"\r\n":
                return None
            begin = raw[place:at]
            if begin not in self._spellings:
                if len(self._spellings) >= SPELLINGS:
                    return None
                self._spellings[begin] = name, len(begin)
            raw = raw[:at] + raw[at + len(value) :]
            lower = lower[:at] + lower[at + len(value) :]
        found = Head(head.method, head.url, headers, head.length)
        found.cut = tuple(names)
        found.at = at if len(names) == 1 else 0
        found.plain = head.plain
        return raw, found
