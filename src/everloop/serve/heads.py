"""Heads of requests that were parsed before. Knows nothing of sockets, bodies or what is asked.

A client sends the same few heads again and again. What the parser makes of one depends on nothing but its bytes, so
the second time it need not be asked (measured: 2 to 3 µs a request). Only the length of the body, the id of the
request and the like differ: the value of such a header, where it is plain, is cut out before the look.
"""

from collections.abc import Set
from itertools import islice

Headers = dict[bytes, bytes]

KNOWN_HEADS = 512
KNOWN_BYTES = 4096
VARYING = (b"x-request-id", b"x-prediction-id", b"traceparent", b"x-everloop-deadline-ms")
"""Headers with another value in each request."""
SPELLINGS = 8
"""Ways of writing the lines of such headers that are told apart."""
ALONE: Set[bytes] = frozenset({b"connection", b"expect", b"transfer-encoding", b"upgrade"})
"""A head with one of these says more than where its body ends; it is parsed each time."""
PLAIN_BYTES = 128
DASHES = b"-_."


class Head:
    """All that comes before a body, as the parser took it apart. ``length``: of the body.

    ``cut``: the values of varying headers were taken out of the bytes and are not in ``headers``.
    """

    __slots__ = ("cut", "headers", "length", "method", "url")

    def __init__(self, method: bytes, url: bytes, headers: Headers, length: int) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.length = length
        self.cut = False


class Heads:
    """``find`` and ``learn`` by the bytes from the request line to the empty line, both included."""

    __slots__ = ("_heads", "_spellings")

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._spellings: dict[bytes, bytes] = {}
        """How a varying header begins, from the end of the line before to its value: its name."""

    def __len__(self) -> int:
        return len(self._heads)

    def clear(self) -> None:
        self._heads.clear()
        self._spellings.clear()

    def find(self, raw: bytes) -> tuple[Head, Headers] | None:
        """The head and its headers; None when it has to be parsed."""
        head = self._heads.get(raw)
        if head is not None:
            return None if head.cut else (head, head.headers)
        if not self._spellings:
            return None
        values: Headers = {}
        for begin, name in self._spellings.items():
            place = raw.find(begin)
            if place >= 0:
                start = place + len(begin)
                end = raw.find(b"\r\n", start)
                value = raw[start:end]
                if not plain(value):
                    return None
                values[name] = value
                raw = raw[:start] + raw[end:]
        head = self._heads.get(raw) if values else None
        if head is None or not head.cut:
            return None
        return head, head.headers | values

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
        for name in names:
            value = headers.pop(name)
            place = lower.find(b"\r\n" + name + b": ")
            start = place + len(name) + 4
            if place < 0 or not plain(value) or raw[start : start + len(value) + 2] != value + b"\r\n":
                return None
            begin = raw[place:start]
            if begin not in self._spellings:
                if len(self._spellings) >= SPELLINGS:
                    return None
                self._spellings[begin] = name
            raw = raw[:start] + raw[start + len(value) :]
            lower = lower[:start] + lower[start + len(value) :]
        found = Head(head.method, head.url, headers, head.length)
        found.cut = True
        return raw, found


def plain(value: bytes) -> bool:
    """Letters, digits, dashes, points: a value that any parser reads as it stands.

    >>> plain(b"7f3c-9a52"), plain(b"a, b"), plain(b"")
    (True, False, False)
    """
    return len(value) <= PLAIN_BYTES and (value.isalnum() or value.translate(None, DASHES).isalnum())
