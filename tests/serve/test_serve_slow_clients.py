"""Clients that dawdle, rest, never read or come in crowds: each is ended in time, and nobody else waits for them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of

PATIENCE = 10.0
CONNECTIONS = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose patience is short."""
    served = ServedHome(tmp_path_factory.mktemp("slow"))
    served.seal(1, signature_of({"x": "number"}))
    served.release(1)
    patience = ServerSettings(
        request_seconds=0.5, idle_seconds=1.0, linger_seconds=0.3, connections=CONNECTIONS, header_bytes=4_000,
        body_bytes=200_000,
    )  # fmt: skip
    served.home.settings.write_bytes(encode(patience))
    with served.serve("--settings", str(served.home.settings)) as running:
        yield running


@pytest.fixture(autouse=True)
def others_are_answered(server: ServerProcess) -> Iterator[None]:
    """While each test does its worst, somebody else asks and is answered, each time in time."""
    longest = 0.0
    refused: list[int] = []
    stop = threading.Event()

    def steady() -> None:
        nonlocal longest
        with Client(server.port) as client:
            while not stop.is_set():
                began = time.monotonic()
                status = client.post("/predict", {"x": 1})[0]
                longest = max(longest, time.monotonic() - began)
                if status != 200:
                    refused.append(status)
                time.sleep(0.02)

    thread = threading.Thread(target=steady)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert not refused
    assert longest < 5.0  # it never waited for the slow ones, whose time would be without end
    assert server.process.poll() is None


def opened(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def ended(client: socket.socket) -> bytes:
    """Everything that came until the server closed; TimeoutError when it does not."""
    received = b""
    with suppress(ConnectionError):
        while part := client.recv(1 << 16):
            received += part
    return received


def drip(client: socket.socket, pieces: Callable[[int], bytes]) -> bytes:
    """Send a piece every 50 ms, and so never rest, until the server answers or closes; what it answered."""
    client.settimeout(0.05)
    received = b""
    end = time.monotonic() + PATIENCE
    n = 0
    while time.monotonic() < end:
        try:
            client.sendall(pieces(n))
            part = client.recv(1 << 16)
        except TimeoutError:
            n += 1
            continue
        except ConnectionError:
            return received
        if not part:
            return received
        received += part
    raise AssertionError("the server let itself be dripped on for ever")


def reset(client: socket.socket, data: bytes) -> bool:
    """Whether the server ends the connection while ``data`` is sent again and again and nothing is read."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            client.sendall(data)
        except TimeoutError:
            pass
        except ConnectionError:
            return True
        time.sleep(0.01)
    return False


def test_a_header_that_drips_is_ended_with_408(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\n")
        assert drip(client, lambda n: b"x-%d: 1\r\n" % n).startswith(b"HTTP/1.1 408")


def test_a_body_that_drips_is_ended_with_408(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        answer = drip(client, lambda n: b" ")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"not whole after 0.5 seconds" in answer


def test_chunks_that_drip_are_ended_with_408(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        assert drip(client, lambda n: b"1\r\n \r\n").startswith(b"HTTP/1.1 408")


def test_a_good_request_buys_no_time_for_the_next(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(message("POST", "/predict", {"x": 1}) + b"POST /predict HTTP/1.1\r\nhost: x\r\n")
        answer = drip(client, lambda n: b"x-%d: 1\r\n" % n)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer


def test_who_goes_on_talking_behind_a_last_request_gets_its_answer(server: ServerProcess) -> None:
    last = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    for _ in range(30):
        with opened(server) as client:
            client.sendall(last)
            for _ in range(5):  # a reset would make this fail, and many a client then never reads its answer
                time.sleep(0.002)
                client.sendall(b"x" * 50_000)
            assert ended(client).startswith(b"HTTP/1.1 200")


def test_who_never_leaves_after_a_last_request_is_ended(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert ended(client).startswith(b"HTTP/1.1 200")
        assert reset(client, b"x" * 1_000)


def test_a_connection_that_rests_is_closed_without_a_word(server: ServerProcess) -> None:
    with opened(server) as silent, opened(server) as used:
        used.sendall(message("GET", "/v2/health/live"))
        assert ended(silent) == b""
        assert ended(used).count(b"HTTP/1.1") == 1


def test_a_connection_in_use_is_not_closed(server: ServerProcess) -> None:
    with Client(server.port) as client:
        for _ in range(12):  # more than twice as long as a connection may rest
            assert client.get("/v2/health/live")[0] == 200
            time.sleep(0.2)


def test_who_never_reads_the_answers_is_ended(server: ServerProcess) -> None:
    request = message("POST", "/predict", [{"x": 1}] * 100)
    with opened(server) as client:
        client.settimeout(0.2)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        assert reset(client, request)


def test_a_refused_client_that_does_not_go_is_sent_away(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert reset(client, b"more nonsense")


def test_a_header_that_is_too_long_is_refused_by_the_declared_bound(server: ServerProcess) -> None:
    with opened(server) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 5_000)
        answer = ended(client)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"longer than 4000 bytes" in answer


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_body_that_is_too_long_is_refused_by_the_declared_bound(server: ServerProcess, framing: str) -> None:
    with opened(server) as client:
        if framing == "length":
            client.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 200001\r\n\r\n")
        else:
            head = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            with suppress(ConnectionError):
                client.sendall(head + b"30d41\r\n" + b" " * 200_001 + b"\r\n")
        answer = ended(client)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"200000" in answer


def test_more_connections_than_declared_are_told_so_and_the_others_go_on(server: ServerProcess) -> None:
    with ExitStack() as stack, Client(server.port) as steady:
        assert steady.get("/v2/health/live")[0] == 200
        crowd = [stack.enter_context(opened(server)) for _ in range(CONNECTIONS + 5)]
        answers = []
        for client in reversed(crowd[-6:]):
            with suppress(ConnectionError):
                client.sendall(message("GET", "/v2/health/live"))
            answers.append(ended(client))
        assert any(b"HTTP/1.1 503" in each and b"connections are open here" in each for each in answers)
        assert any(b"retry-after" in each for each in answers)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with Client(server.port) as later:
            if later.get("/v2/health/live")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the crowd went, and the server still had no room")
