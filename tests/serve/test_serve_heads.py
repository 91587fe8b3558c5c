"""A head that was parsed before is not parsed again, and nothing else changes by it."""

import socket
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import RequestError
from everloop.serve import heads, http
from everloop.serve.bounds import Bounds
from everloop.serve.exchange import Exchange, Observer
from everloop.testing.serving import Client, ServedHome, signature_of


@pytest.fixture
def served(tmp_path: Path) -> ServedHome:
    home = ServedHome(tmp_path, "made")
    home.seal(1, signature_of({"x": "number"}))
    home.release(1)
    return home


def message(body: bytes, *lines: bytes, method: bytes = b"POST", url: bytes = b"/predict") -> bytes:
    head = [b"%b %b HTTP/1.1" % (method, url), b"host: here", *lines, b"content-length: %d" % len(body), b"", b""]
    return b"\r\n".join(head) + body


class Kept:
    """An application that keeps what it is asked and answers with the body."""

    def __init__(self) -> None:
        self.draining = False
        self.tick = 0
        self.bounds = Bounds()
        self.observer: Observer | None = None
        self.refused: dict[tuple[int, str], int] = {}
        self.connections: set[http.Connection] = set()
        self.asked: list[tuple[bytes, bytes, dict[bytes, bytes], bytes]] = []

    def handle(self, exchange: Exchange, method: bytes, url: bytes, headers: heads.Headers, body: bytes) -> None:
        self.asked.append((method, url, dict(headers), body))
        exchange.finish(200, body)

    def turned_away(self, exchange: Exchange, headers: heads.Headers) -> RequestError | None:
        return None


class Written:
    """What a connection wrote."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.data += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def connection(kept: Kept) -> http.Connection:
    made = http.Connection(kept)
    made.connection_made(Written())
    return made


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    http.known.clear()


PIECES = [
    message(b'{"x":1}'),
    message(b'{"x":22}'),
    message(b"", method=b"GET", url=b"/status"),
    message(b'{"x":3}', b"x-request-id: a"),
    message(b'{"x":4}', b"transfer-encoding: identity"),
    b"POST /predict HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /status HTTP/1.1\r\nhost: here\r\n\r\n",
    b"\r\n\r\nGET /status HTTP/1.1\r\nhost: here\r\n\r\n",
]


@pytest.mark.parametrize("cut", range(0, 240, 7))
def test_however_a_stream_is_cut_the_same_is_asked(cut: int) -> None:
    stream = b"".join(PIECES[:4] + PIECES[5:] + PIECES[:4])
    whole = Kept()
    for piece in (*PIECES[:4], *PIECES[5:], *PIECES[:4]):  # piece by piece: heads are learnt
        connection(whole).data_received(piece)
    learnt = len(http.known)
    assert learnt >= 5
    again, together, parted = connection(Kept()), connection(Kept()), connection(Kept())
    for piece in (*PIECES[:4], *PIECES[5:], *PIECES[:4]):
        again.data_received(piece)
    together.data_received(stream)
    for start in range(0, len(stream), cut + 1):
        parted.data_received(stream[start : start + cut + 1])
    for each in (again, together, parted):
        assert each.application.asked == whole.asked  # type: ignore[attr-defined]


def test_a_head_that_says_more_than_its_length_is_never_learnt() -> None:
    kept = Kept()
    for lines in ([b"connection: close"], [b"connection: keep-alive"], [b"expect: 100-continue"]):
        connection(kept).data_received(message(b"abc", *lines))
    connection(kept).data_received(PIECES[5])
    connection(kept).data_received(message(b"", method=b"HEAD"))
    connection(kept).data_received(b"POST / HTTP/1.0\r\ncontent-length: 1\r\n\r\na")
    connection(kept).data_received(message(b"abc" * 9, b"padding: " + b"p" * heads.KNOWN_BYTES))
    assert len(kept.asked) == 7
    assert len(http.known) == 0


def test_half_a_request_is_no_beginning() -> None:
    """The body of a request that looks like a head that is known stays a body."""
    kept = Kept()
    inside = message(b'{"x":1}')
    connection(kept).data_received(inside)
    assert http.known
    one = connection(kept)
    outer = message(inside + b"rest")
    cut = outer.index(inside)
    one.data_received(outer[:cut])
    one.data_received(inside)
    assert len(kept.asked) == 1
    one.data_received(b"rest")
    assert kept.asked[-1][3] == inside + b"rest"


def test_known_heads_are_bounded() -> None:
    kept = Kept()
    one = connection(kept)
    for n in range(3 * heads.KNOWN_HEADS):
        one.data_received(message(b"{}", b"accept: %d" % n))
    assert len(kept.asked) == 3 * heads.KNOWN_HEADS
    assert len(http.known) <= heads.KNOWN_HEADS


def test_a_request_id_of_its_own_makes_no_head_of_its_own() -> None:
    kept = Kept()
    one = connection(kept)
    for n in range(50):
        lines = (b"X-Request-Id: id-%d" % n, b"host: there", b"traceparent: 00-%d" % n)
        one.data_received(message(b"{}", lines[0], lines[2]))
    assert len(http.known) == 1
    assert [asked[2][b"x-request-id"] for asked in kept.asked] == [b"id-%d" % n for n in range(50)]
    assert [asked[2][b"traceparent"] for asked in kept.asked] == [b"00-%d" % n for n in range(50)]
    assert all(asked[2][b"content-length"] == b"2" for asked in kept.asked)


@pytest.mark.parametrize(
    "value", [b"", b"a b", b"a\tb", b" ", b"\xc3\xa4", b"a,b", b"a" * 200, b"a:b", b"\x80", b"a;b"]
)
def test_a_value_that_is_not_plain_is_left_to_the_parser(value: bytes) -> None:
    learning, fresh = Kept(), Kept()
    one = connection(learning)
    one.data_received(message(b"{}", b"x-request-id: plain-1"))
    one.data_received(message(b"{}", b"x-request-id: " + value))
    http.known.clear()
    connection(fresh).data_received(message(b"{}", b"x-request-id: " + value))
    assert learning.asked[1:] == fresh.asked


def test_a_head_with_its_value_cut_out_is_not_the_head_itself() -> None:
    """What is kept under the bytes without the value must not answer for a client that sends just these bytes."""
    kept = Kept()
    one = connection(kept)
    one.data_received(message(b"{}", b"x-request-id: a-1"))
    one.data_received(message(b"{}", b"x-request-id: "))
    one.data_received(message(b"{}", b"x-request-id: a-2", b"x-request-id: a-3"))
    assert kept.asked[1][2][b"x-request-id"] == b""
    assert len(kept.asked) == 2  # two ids: refused


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x-request-id", b"X-Request-ID", b"traceparent", b"accept", b"x-prediction-id"]),
            st.sampled_from([b": ", b":", b":  "]),
            st.sampled_from([b"a", b"b-1", b"", b"a b", b"x-request-id: a", b"00-abc-def-01", b"application/json"]),
        ),
        max_size=4,
    ),
    st.sampled_from([b"{}", b'{"x":1}']),
    st.randoms(use_true_random=False),
)
@settings(max_examples=300, deadline=None)
def test_whatever_was_learnt_a_request_is_read_as_if_it_were_the_first(
    lines: list[tuple[bytes, bytes, bytes]], body: bytes, random: Random
) -> None:
    written = message(body, *(name + colon + value for name, colon, value in lines))
    others = [name + b": " + random.choice([b"q", b"q-2", b"z z"]) for name, _, _ in lines]
    http.known.clear()
    first = Kept()
    connection(first).data_received(written)
    http.known.clear()
    learning = Kept()
    for each in (message(body, *others), message(body, *others[:1]), written, message(body, *others)):
        connection(learning).data_received(each)
    asked = len(learning.asked)
    connection(learning).data_received(written)
    assert learning.asked[asked:] == first.asked


def test_many_requests_in_one_piece_are_answered_in_order(served: ServedHome) -> None:
    with served.serve() as server, Client(server.port) as client:
        client.send(message(b'{"x":0}'))
        assert client.answers(1)[0][0] == 200
        client.send(b"".join(message(b'{"x":%d}' % (n % 10)) for n in range(100)))
        found = [msgspec.json.decode(body)["probability"]["true"] for _, body in client.answers(100)]
        assert found == [found[n % 10] for n in range(100)]
        assert len(set(found)) == 10


def test_a_known_head_with_half_its_body_waits_for_the_rest(served: ServedHome) -> None:
    with served.serve() as server, Client(server.port) as client:
        whole = message(b'{"x":0.5}')
        for _ in range(2):
            client.send(whole)
            assert client.answers(1)[0][0] == 200
        client.send(whole[:-3])
        client.socket.settimeout(0.2)
        with pytest.raises(socket.timeout):
            client.socket.recv(1)
        client.socket.settimeout(5)
        client.send(whole[-3:])
        assert client.answers(1)[0][0] == 200
