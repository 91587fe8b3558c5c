"""Clients that vanish, dawdle, never read or send their bodies in crumbs harm nobody. (Malformed messages:
tests/promises/test_fuzz_http.py.)"""

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of
from raw_http import memory

COLUMNS = {"x": "number", "n": "integer", "when": "instant", "t": "text"}
MEGABYTE = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    served = ServedHome(tmp_path_factory.mktemp("home"))
    served.seal(1, signature_of(COLUMNS))
    served.release(1)
    with served.serve() as process:
        yield process


def never_read(server: ServerProcess, request: bytes) -> int:
    """How much the server takes from a client that does not read; another is answered meanwhile."""
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as client:
        with suppress(TimeoutError):
            while sent < 200 * MEGABYTE:
                sent += client.send(request)
        with Client(server.port) as steady:
            assert steady.post("/predict/made", {"x": 1})[0] == 200
    return sent


def test_clients_that_vanish_or_dawdle_harm_nobody(server: ServerProcess) -> None:
    held = []
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(b"POST /predict/made HTTP/1.1\r\ncontent-le")
        held.append(client)
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(message("POST", "/predict/made", [{"x": 1}] * 100) * 20)
        client.close()  # before reading a single answer
    with Client(server.port) as steady:
        for _ in range(20):
            assert steady.post("/predict/made", {"x": 1})[0] == 200
    for client in held:
        client.close()
    assert server.process.poll() is None


def test_a_client_that_never_reads_is_no_longer_read(server: ServerProcess) -> None:
    assert never_read(server, message("POST", "/predict/made", [{"x": 1}] * 200)) < 60 * MEGABYTE


@pytest.mark.parametrize("path", ["/metrics", "/status", "/v2/models/made", "/nowhere"])
def test_a_flood_of_short_requests_with_long_answers_piles_up_nothing(server: ServerProcess, path: str) -> None:
    before = memory(server.process.pid)
    sent = never_read(server, message("GET", path) * 2000)
    assert sent < 20 * MEGABYTE
    assert memory(server.process.pid) - before < 8 * MEGABYTE


def test_a_body_in_crumbs_takes_no_more_than_its_length(server: ServerProcess) -> None:
    before = memory(server.process.pid)
    with Client(server.port) as client:
        client.send(b"POST /predict/made HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.send(b"2\r\n  \r\n" * 100_000)
        with Client(server.port) as steady:
            assert steady.post("/predict/made", {"x": 1})[0] == 200
        assert memory(server.process.pid) - before < 16 * MEGABYTE
        client.send(b'8\r\n{"x": 1}\r\n0\r\n\r\n')
        assert client.answers(1)[0][0] == 200
