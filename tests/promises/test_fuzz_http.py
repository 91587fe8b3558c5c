"""20,000 messages that no client should send: none fails, hangs or fells the server, none is taken for another's.

What is ambiguous is answered with one 4xx and an end (RFC 9112 §6.3, §11.2); a request that strict reading does not
see is never answered, however the bytes are cut; a client beside it all gets its right answers throughout.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from everloop.serve import keys
from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, expected, message, signature_of
from raw_http import PATIENCE, Outcome, Shot, descriptors, memory, requests_in, volley

MESSAGES = 20_000
WARM = 1_500
GROWTH = 12 * 2**20
"""Bytes that the process may grow by after the first messages: the allocator's pieces, the heads that it knows."""
STEADY_EVERY = 40
KEYLESS = 4_000
COLUMNS = {"x": "number", "t": "text"}
numbers = count()


def marked() -> tuple[bytes, str]:
    """A sound request that nobody else sends, and what its answer is known by."""
    key = f"m{next(numbers)}"
    return message("POST", "/predict/made", {"x": 1.0, "k": key}), key


def after(head: bytes, body: bytes = b"") -> bytes:
    """A request with ``head`` lines of its own, and another behind it that only a confused server would answer."""
    canary, _ = marked()
    return b"POST /predict/made HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n\r\n" + body + canary


# Each kind of message: how it is made, and whether it must be refused


def smuggled(dice: random.Random) -> Shot:
    """Where does the body end? One server in a chain says here, the other there."""
    inner, _ = marked()
    coding = dice.choice([
        b"transfer-encoding: chunked", b"Transfer-Encoding: Chunked", b"TRANSFER-ENCODING:chunked",
        b"transfer-encoding:\tchunked", b"transfer-encoding: chunked ", b"transfer-encoding: chunked\t",
    ])  # fmt: skip
    length = dice.choice([b"content-length: %d", b"Content-Length:%d", b"content-length: 0%d"]) % dice.choice(
        [0, 4, 5, len(inner), len(inner) + 5]
    )
    lines = dice.choice([[coding, length], [length, coding], [length, b"x: y", coding], [coding, b"host-x: a", length]])
    return Shot([after(b"\r\n".join(lines), b"0\r\n\r\n" + inner)], refused=True)


def obfuscated(dice: random.Random) -> Shot:
    inner, _ = marked()
    coding = dice.choice([
        b"transfer-encoding : chunked", b"transfer-encoding: xchunked", b"transfer-encoding: chunked, identity",
        b"transfer-encoding: identity, chunked", b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        b"transfer-encoding: identity\r\ntransfer-encoding: chunked", b"transfer-encoding:\x0bchunked",
        b"transfer-encoding: \x00chunked", b"transfer-encoding: chunked;q=0", b'transfer-encoding: "chunked"',
        b"transfer-encoding:\r\n chunked", b"transfer-encoding\r\n : chunked", b"transfer-encoding: gzip",
        b"transfer-encoding: gzip, chunked", b"transfer-encoding: chunked, chunked", b"transfer-encoding: ,chunked",
        b"transfer-encoding: chunked,", b"transfer-encoding: cow", b"transfer-encoding:", b"transfer\xadencoding: chunked",
        b" transfer-encoding: chunked", b"x: y\ntransfer-encoding: chunked", b"x: y\rtransfer-encoding: chunked",
        b"x\x00: y\r\ntransfer-encoding: chunked", b"transfer-encoding: chunke\xe4", b"transfer-encoding: chunked\x00",
        b"transfer-encoding: Chunked\x0c", b"transfer-encoding: identity", b"transfer-encoding: deflate",
    ])  # fmt: skip
    if dice.random() < 0.3:
        coding += b"\r\ncontent-length: %d" % dice.choice([0, 5, len(inner)])
    return Shot([after(coding, b"0\r\n\r\n" + inner)], refused=True)


def lengths(dice: random.Random) -> Shot:
    inner, _ = marked()
    value = dice.choice([
        b"-1", b"+5", b"0x10", b"1e3", b"5 5", b"5,5", b"5, 5", b"", b" ", b"five", b"\xd9\xa5", b"5;", b"5.0", b"1_0", b"0b1",
        b"99999999999999999999999", b"18446744073709551616", b"18446744073709551621", b"-0", b"5\x00", b"\x0b5", b"5\r\n 5",
        b"%d\r\ncontent-length: %d" % (len(inner), len(inner)), b"0\r\ncontent-length: %d" % len(inner),
        b"%d\r\nContent-Length: 0" % len(inner), b"4\r\nx: y\r\ncontent-length: 4", b"0\r\n0", b"\xb2",
    ])  # fmt: skip
    return Shot([after(b"content-length: " + value, inner)], refused=True)


def chunks(dice: random.Random) -> Shot:
    inner, _ = marked()
    body = dice.choice([
        b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"2\r{}\r0\r\r", b"2\r\n{}0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"2\r\n{}\n0\r\n\r\n",
        b"\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffff1\r\n{}\r\n0\r\n\r\n", b"10000000000000002\r\n{}\r\n0\r\n\r\n", b"2;\x00\r\n{}\r\n0\r\n\r\n",
        b"2;a\nb\r\n{}\r\n0\r\n\r\n", b"2;a\rb\r\n{}\r\n0\r\n\r\n", b"2\t\r\n{}\r\n0\r\n\r\n", b"1\r\n{}\r\n0\r\n\r\n", b"3\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\ncontent-length: 5\r\n\r\n", b"2\r\n{}\r\n0\r\ntransfer-encoding: gzip\r\n\r\n", b"2\r\n{}\r\n0\r\nx\r\n\r\n",
        b"2\r\n{}\r\n0\r\n x: y\r\n\r\n", b"2\r\n{}\r\n0\r\nx: \x00\r\n\r\n", b"2\r\n{}\r\n0\r\nx : y\r\n\r\n", b"\xef\xbc\x92\r\n{}\r\n0\r\n\r\n",
    ])  # fmt: skip
    return Shot([after(b"transfer-encoding: chunked", body + inner)], refused=True)


def old_chunks(dice: random.Random) -> Shot:
    """Chunks in HTTP/1.0, where a proxy may not know them."""
    canary, _ = marked()
    stays = dice.choice([b"", b"connection: keep-alive\r\n"])
    head = b"POST /predict/made HTTP/1.0\r\n" + stays + b"transfer-encoding: chunked\r\n\r\n"
    return Shot([head + b"2\r\n{}\r\n0\r\n\r\n" + canary], refused=True)


def line_ends(dice: random.Random) -> Shot:
    good, _ = marked()
    canary, _ = marked()
    head, _, body = good.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    end = dice.choice([b"\n", b"\r", b"\n\r", b"\r\r\n", b"\x0b\r\n"])
    place = dice.randrange(len(lines))
    if dice.random() < 0.3:
        broken = end.join(lines) + end * 2
    else:
        broken = b"\r\n".join(lines[: place + 1]) + end + b"\r\n".join([*lines[place + 1 :], b"", b""])
    return Shot([broken + body + canary], refused=True)


def header_lines(dice: random.Random) -> Shot:
    line = dice.choice([
        b"a b: c", b": empty", b"no colon", b"x: \x00", b"x: a\x00b", b"x\x00: a", b"x: \x7f", b"x: \x01", b"x : y", b"x\t: y", b" x: y",
        b"\tx: y", b"x: y\r\n folded", b"x: y\r\n\tfolded", b"x:\r\n folded", b"host: b", b"Host: a", b"h\xc3\xb6st: a", b"(x): y",
        b"x@: y", b"x=: y", b'"x": y', b"x: a\rb", b"x: a\nb", b"x: a\n b", b"\x00", b"authorization: a\r\nauthorization: b",
        b"x-api-key: a\r\nX-Api-Key: b", b"x-prediction-id: a\r\nx-prediction-id: b", b"content-type: a\r\ncontent-type: b",
        b"x-everloop-version: 1\r\nx-everloop-version: 2", b"x-request-id: a\r\nx-request-id: a", b"{}: x", b"[x]: y", b"\x80: y",
    ])  # fmt: skip
    good, _ = marked()
    canary, _ = marked()
    return Shot([good.replace(b"host: test", b"host: test\r\n" + line, 1) + canary], refused=True)


def first_lines(dice: random.Random) -> Shot:
    good, _ = marked()
    canary, _ = marked()
    line = dice.choice([
        b"GRAB / HTTP/1.1", b"get / HTTP/1.1", b"GE T / HTTP/1.1", b"GET\t/ HTTP/1.1", b" GET / HTTP/1.1", b"GET /", b"GET / HTTP/0.9",
        b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / HTTP/3", b"GET / HTTP/1.11", b"GET / http/1.1", b"GET / HTTP/1.1 ", b"GET /a b HTTP/1.1",
        b"GET / HTTPS/1.1", b"GET / HTTP /1.1", b"GET / HTTP/1,1", b"GET / HTTP/1.", b"GET / HTTP/-1.1", b"GET / HTTP/11", b"GET", b"",
        b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET \\ HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
        b"CONNECT /predict/made HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET / HTTP/1.1\x00", b"\x00GET / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-OpenSSH_9.6", b"\xef\xbb\xbfGET / HTTP/1.1", b"EHLO a", b"*1", b"{}",
        b"HTTP/1.1 200 OK", b"GET http//x HTTP/1.1", b"GET  HTTP/1.1", b"G\xc3\x89T / HTTP/1.1",
    ])  # fmt: skip
    _, _, rest = good.partition(b"\r\n")
    return Shot([line + b"\r\n" + rest + canary], refused=bool(line))


def targets(dice: random.Random) -> Shot:
    """Paths that lead nowhere; the connection goes on, and what follows is answered."""
    target = dice.choice([
        b"/../../etc/passwd", b"/predict/%2e%2e%2fmade", b"/predict/..%2Fmade", b"/predict/%00", b"/predict/made%zz", b"/predict/made%",
        b"/predict/made%2", b"//predict/made", b"/predict//made", b"/predict/made/../made", b"/%2e/predict/made", b"*", b"/", b"/?", b"/#",
        b"/predict/made#x", b"/predict/made;x=1", b"/predict/%252e", b"/predict/%c0%ae", b"/v2/models/..%2f..%2f/infer", b"/%", b"/predict/%ff",
        b"/v2/models/made/versions/%2e%2e/infer", b"/v2/models/made/versions/99999999999999999999999/infer", b"/outcomes/%6dade%2f..",
        b"http://evil/nowhere", b"http://evil:80/predict/other", b"/predict/" + b"a" * 5000, b"/" + b"/" * 3000, b"/predict/MADE", b"/.", b"/..",
        b"/v2/models/made/versions/-1/infer", b"/v2/models/made/versions/1.5", b"/settled/made", b"/servers/1.json", b"/keys/signing.pem",
        b"/metrics/../keys", b"/status/", b"/predict/made\\", b"/predict/made%5c..", b"/predict/\xe2\x80\xae",
    ])  # fmt: skip
    method = dice.choice(
        [b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"PROPFIND", b"QUERY", b"M-SEARCH"]
    )
    canary, _ = marked()
    body = dice.choice([b"", b"{}", b"x" * 100])
    head = b"%b %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (method, target, len(body))
    return Shot([head + body + canary])


def clear_chunks(dice: random.Random) -> Shot:
    """Odd but clear: extensions, many small chunks, capital digits, trailers that must not count as headers."""
    good, _ = marked()
    canary, _ = marked()
    body = good.partition(b"\r\n\r\n")[2]
    pieces, place = [], 0
    while place < len(body):
        part = body[place : place + dice.randrange(1, 30)]
        extension = dice.choice([b"", b"", b";a", b";a=b", b';a="b c"', b";" + b"x" * 200])
        pieces.append(
            b"%b%b\r\n%b\r\n" % (dice.choice([b"%x", b"%X", b"0%x", b"0000000%x"]) % len(part), extension, part)
        )
        place += len(part)
    trailer = dice.choice([
        b"", b"x: y\r\n", b"x-prediction-id: stolen\r\n", b"authorization: Bearer x\r\nx-api-key: y\r\n", b"connection: close\r\n",
        b"x-everloop-replay: token\r\n", b"host: evil\r\n", b"x-everloop-version: 77\r\n", b"content-encoding: gzip\r\n", b"expect: 100-continue\r\n",
    ])  # fmt: skip
    head = b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    return Shot([head + b"".join(pieces) + b"0\r\n" + trailer + b"\r\n" + canary])


def upgrades(dice: random.Random) -> Shot:
    good, _ = marked()
    canary, _ = marked()
    offer = dice.choice([
        b"connection: upgrade\r\nupgrade: h2c", b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk",
        b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZQ==\r\nsec-websocket-version: 13",
        b"upgrade: h2c", b"connection: upgrade", b"connection: close, upgrade\r\nupgrade: h2c", b"connection: upgrade\r\nupgrade: TLS/1.0",
        b"connection: upgrade\r\nexpect: 100-continue\r\nupgrade: h2c", b"connection: keep-alive, upgrade\r\nupgrade: h2c\r\nupgrade: foo",
    ])  # fmt: skip
    return Shot([good.replace(b"host: test", b"host: test\r\n" + offer, 1) + canary])


def endings(dice: random.Random) -> Shot:
    """What comes after a request that says it is the last is nobody's."""
    good, _ = marked()
    canary, _ = marked()
    if dice.random() < 0.5:
        line = dice.choice(
            [
                b"connection: close",
                b"Connection: CLOSE",
                b"connection: keep-alive, close",
                b"connection: x\r\nconnection: close",
            ]
        )
        good = good.replace(b"host: test", b"host: test\r\n" + line, 1)
    else:
        good = good.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        if dice.random() < 0.5:
            good = good.replace(b"host: test", b"connection: keep-alive", 1)
    return Shot([good + dice.choice([b"", b"\r\n", b"garbage", b"\x00" * 100]) + canary])


def expectations(dice: random.Random) -> Shot:
    good, _ = marked()
    line = dice.choice(
        [
            b"expect: 100-continue",
            b"expect: 100-Continue",
            b"expect: x",
            b"expect: 100-continue\r\nexpect: 100-continue",
            b"expect:",
        ]
    )
    good = good.replace(b"host: test", b"host: test\r\n" + line, 1)
    if dice.random() < 0.2:
        good = good.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    head, blank, body = good.partition(b"\r\n\r\n")
    canary, _ = marked()
    return Shot([head + blank, body + canary])


def oversized(dice: random.Random) -> Shot:
    good, _ = marked()
    size = dice.choice([40_000, 70_000, 200_000])
    what = dice.randrange(6)
    if what == 0:
        data = b"GET /" + b"a" * size + b" HTTP/1.1\r\nhost: a\r\n\r\n"
    elif what == 1:
        data = good.replace(b"host: test", b"host: test\r\nx: " + b"a" * size, 1)
    elif what == 2:
        data = good.replace(b"host: test", b"host: test\r\n" + b"x: y\r\n" * (size // 6) + b"z: z", 1)
    elif what == 3:
        data = good.replace(b"host: test", b"host: test\r\n" + b"n" * size + b": v", 1)
    elif what == 4:
        data = b"POST /predict/made HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % dice.choice(
            [2**24 + 1, 2**31, 2**40, 2**63 - 1]
        )
    else:
        data = (
            b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            + b"1;"
            + b"e" * size
            + b"\r\n{\r\n"
        )
    return Shot([data], name=f"oversized {what}")


def escapes(dice: random.Random) -> Shot:
    """Sound framing, unsound values: each is a 4xx of its own and the connection goes on."""
    canary, _ = marked()
    line = dice.choice([
        b"x-prediction-id: \xff\xfe", b"x-prediction-id: " + b"a" * 2000, b"x-everloop-replay: x", b"x-everloop-event-time: 5",
        b"x-everloop-event-time: " + b"9" * 300, b"x-everloop-deadline-ms: nan", b"x-everloop-deadline-ms: -5", b"x-everloop-deadline-ms: 1e999",
        b"x-everloop-deadline-ms: " + b"9" * 3000, b"x-everloop-deadline-ms: \xb2", b"x-everloop-priority: highest", b"x-everloop-priority: \xff",
        b"x-everloop-version: 99999999999999999999999", b"x-everloop-version: ../1", b"x-everloop-version: \xb2", b"content-encoding: gzip",
        b"content-encoding: br, gzip", b"content-type: application/xml", b"content-type: " + b";" * 500, b"inference-header-content-length: -1",
        b"inference-header-content-length: 99999999999999999999", b"inference-header-content-length: \xb2", b"authorization: Bearer " + b"\xff" * 50,
        b"traceparent: 00-" + b"0" * 500, b"origin: null", b"x-request-id: " + b"\xff" * 300, b"accept: " + b"*/*," * 500, b"x-api-key: \x80",
        b"inference-header-content-length: 1_0", b"x-everloop-event-time: 1_0", b"x-everloop-deadline-ms: 0", b"x-everloop-deadline-ms: inf",
    ])  # fmt: skip
    path = dice.choice(
        ["/predict/made", "/v2/models/made/infer", "/outcomes/made", "/settled/made", "/v2/models/made", "/metrics"]
    )
    data = message("POST", path, {"x": 1.0, "k": f"m{next(numbers)}"}).replace(
        b"host: test", b"host: test\r\n" + line, 1
    )
    return Shot([data + canary])


def mutated(dice: random.Random) -> Shot:
    """A sound stream with a few bytes changed, lost, doubled or added."""
    parts = []
    for _ in range(dice.randrange(1, 5)):
        good, _ = marked()
        if dice.random() < 0.3:
            body = good.partition(b"\r\n\r\n")[2]
            good = (
                b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
                % (len(body), body)
            )
        parts.append(good)
    data = bytearray(b"".join(parts))
    for _ in range(dice.randrange(1, 5)):
        place = dice.randrange(len(data))
        way = dice.randrange(5)
        if way == 0:
            data[place] = dice.randrange(256)
        elif way == 1:
            data[place] ^= 1 << dice.randrange(8)
        elif way == 2:
            del data[place : place + dice.randrange(1, 6)]
        elif way == 3:
            data[place:place] = data[place : place + dice.randrange(1, 40)]
        else:
            data[place:place] = dice.choice(
                [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"\r\n\r\n", b"0\r\n\r\n", b"content-length: 3\r\n"]
            )
        if not data:
            data = bytearray(b"x")
    return Shot([bytes(data)])


def noise(dice: random.Random) -> Shot:
    return Shot([dice.randbytes(dice.randrange(1, 3000))])


def cut(dice: random.Random) -> Shot:
    """A stream that ends in the middle, politely or not."""
    data = b"".join(marked()[0] for _ in range(dice.randrange(1, 4)))
    return Shot([data[: dice.randrange(len(data))]], leaves=dice.random() < 0.5)


def split(dice: random.Random) -> Shot:
    """A sound or broken stream in pieces: what is answered must not depend on where they end."""
    inner = dice.choice(
        [smuggled, obfuscated, chunks, clear_chunks, upgrades, endings, header_lines, line_ends, mutated]
    )(dice)
    data = inner.data
    places = sorted(dice.sample(range(1, len(data)), min(len(data) - 1, dice.randrange(1, 6))))
    pieces = [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]
    return Shot(pieces, refused=inner.refused)


def slow(dice: random.Random) -> Shot:
    """Byte by byte."""
    inner = dice.choice([smuggled, chunks, clear_chunks, upgrades])(dice)
    return Shot([bytes([byte]) for byte in inner.data], refused=inner.refused)


def crowd(dice: random.Random) -> Shot:
    """Many requests at once with something broken behind, and more behind that."""
    sound = dice.randrange(5, 60)
    data = b"".join(marked()[0] for _ in range(sound))
    broken = dice.choice([smuggled, obfuscated, lengths, chunks, first_lines, header_lines])(dice)
    return Shot([data + broken.data], refused=broken.refused, sound=sound)


KINDS: dict[Callable[[random.Random], Shot], int] = {
    smuggled: 12, obfuscated: 12, lengths: 10, chunks: 10, old_chunks: 2, line_ends: 8, header_lines: 10, first_lines: 10, targets: 10,
    clear_chunks: 8, upgrades: 5, endings: 4, expectations: 3, oversized: 1, escapes: 10, mutated: 30, noise: 4, cut: 6, split: 16,
    slow: 1, crowd: 3,
}  # fmt: skip


def shots(number: int, seed: int) -> Iterator[Shot]:
    dice = random.Random(seed)
    for kind in dice.choices(list(KINDS), list(KINDS.values()), k=number):
        shot = kind(dice)
        shot.name = shot.name or kind.__name__
        yield shot


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> ServedHome:
    served = ServedHome(tmp_path_factory.mktemp("home"))
    served.seal(1, signature_of(COLUMNS, key=("k",)))
    served.release(1)
    return served


class Judge:
    """Holds each outcome against what may be."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.refused = 0
        self.statuses: Counter[int] = Counter()

    def look(self, outcome: Outcome) -> None:
        shot, data = outcome.shot, outcome.shot.data
        told = (shot.name, data[:3000], outcome.received[-2000:], outcome.ended, outcome.seconds)
        assert outcome.ended != "silence", told
        assert outcome.seconds < PATIENCE, told
        if shot.leaves:
            return
        statuses = [status for status, _ in outcome.answers]
        self.statuses.update(statuses)
        assert all(200 <= status < 500 for status in statuses), told
        ids = [
            json.loads(body)["id"] for status, body in outcome.answers if status == 200 and body.startswith(b'{"id"')
        ]
        self.answered += ids
        seen, clear = requests_in(data)
        allowed = [request.marked for request in seen]
        # In order, and none that strict reading does not see.
        assert set(ids) <= {each for each in allowed if each is not None}, told
        assert ids == sorted(ids, key=allowed.index), told
        assert len(statuses) <= len(seen) + (not clear), told
        if shot.refused and outcome.ended == "eof":
            assert ids == allowed[: shot.sound], told
            assert len(statuses) == shot.sound + 1, told
            assert 400 <= statuses[-1] < 500, told
            self.refused += 1


def test_twenty_thousand_messages_that_no_client_should_send(home: ServedHome) -> None:
    judge = Judge()
    with home.serve() as server, Client(server.port) as steady:

        def wave(number: int, seed: int) -> None:
            for place, outcome in enumerate(volley(server.port, shots(number, seed))):
                judge.look(outcome)
                if place % STEADY_EVERY == 0:
                    status, answer = steady.post("/predict/made", {"x": 0.5, "k": "steady"})
                    assert (status, answer["id"]) == (200, "steady")
                    assert answer["probability"]["true"] == pytest.approx(expected(0.5), rel=1e-12)

        def settled() -> None:
            """Those that left have been noticed."""
            end = time.monotonic() + PATIENCE
            while steady.get("/status")[1]["connections"] > 1:
                assert time.monotonic() < end, "connections of clients that are gone are still open"

        wave(WARM, 1)
        settled()
        before, files = memory(server.process.pid), descriptors(server.process.pid)
        wave(MESSAGES - WARM, 2)
        settled()
        assert memory(server.process.pid) - before < GROWTH
        assert descriptors(server.process.pid) <= files + 2
        assert server.terminate() == 0
    assert "request failed" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    assert min(judge.statuses[200], judge.statuses[400], judge.statuses[404]) > 500
    assert judge.refused > MESSAGES / 3
    logged = Counter(id for frame in home.predictions() for id in frame.ids if id != "steady")
    assert Counter(judge.answered) - logged == Counter(), "what was answered is in the log"


def test_without_a_key_nothing_passes_however_the_bytes_are_laid(tmp_path: Path) -> None:
    """Keys that are sent in a trailer, behind an end, in another's body, or twice are no keys."""
    served = ServedHome(tmp_path)
    served.seal(1, signature_of(COLUMNS, key=("k",)))
    served.release(1)
    served.home.settings.write_bytes(encode(ServerSettings(keys=True, operate="key")))
    key = keys.add(served.home, "good", now=time.time()).encode()
    good = b"x-api-key: " + key
    statuses: Counter[int] = Counter()
    with served.serve("--settings", str(served.home.settings)) as server, Client(server.port) as steady:

        def hidden(number: int) -> Iterator[Shot]:
            for shot in shots(number, 3):
                # Wherever a trailer, an ending or a folded line says something, it says the key.
                shot.pieces = [
                    piece.replace(b"\r\nx: y\r\n\r\n", b"\r\n" + good + b"\r\n\r\n")
                    .replace(b"x-api-key: y", good)
                    .replace(b"0\r\n\r\nPOST", b"0\r\n" + good + b"\r\n\r\nPOST")
                    .replace(b" folded", b" " + good)
                    for piece in shot.pieces
                ]
                yield shot

        for place, outcome in enumerate(volley(server.port, hidden(KEYLESS))):
            told = (outcome.shot.name, outcome.shot.data[:3000], outcome.received[-2000:])
            assert outcome.ended != "silence", told
            statuses.update(status for status, _ in outcome.answers)
            assert all(400 <= status < 500 for status, _ in outcome.answers), told
            if place % STEADY_EVERY == 0:
                assert steady.post("/predict/made", {"x": 0.5, "k": "steady"}, x_api_key=key.decode())[0] == 200
        assert server.terminate() == 0
    assert min(statuses[400], statuses[401]) > KEYLESS / 5
    assert {id for frame in served.predictions() for id in frame.ids} == {"steady"}


@pytest.mark.parametrize("kind", [clear_chunks, upgrades, mutated, crowd, smuggled])
def test_where_the_bytes_are_cut_changes_no_answer(home: ServedHome, kind: Callable[[random.Random], Shot]) -> None:
    dice = random.Random(kind.__name__)
    shot = kind(dice)
    data = shot.data[:900]

    def answers(outcome: Outcome) -> list[tuple[int, bytes]]:
        return [(status, body if status == 200 else b"") for status, body in outcome.answers]

    with home.serve() as server:
        (whole,) = volley(server.port, [Shot([data])])
        pieces = [Shot([data[:place], data[place:]]) for place in range(1, len(data))]
        for outcome in volley(server.port, [*pieces, Shot([bytes([byte]) for byte in data])]):
            assert answers(outcome) == answers(whole), (outcome.shot.pieces[:2], whole.received)
