"""Whatever arrives, the server answers with a 4xx or closes; it never fails, hangs or stops answering others."""

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of

MESSAGES = 600
COLUMNS = {"x": "number", "n": "integer", "when": "instant", "t": "text"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    served = ServedHome(tmp_path_factory.mktemp("home"))
    served.seal(1, signature_of(COLUMNS))
    served.release(1)
    with served.serve() as process:
        yield process


def malformed(dice: random.Random) -> bytes:
    """A message that is broken in one of many ways, or not at all."""
    good = message("POST", "/predict/made", {"x": 1.5, "n": 3, "t": "yes"})
    way = dice.randrange(12)
    if way == 0:
        return dice.randbytes(dice.randrange(1, 2000))
    if way == 1:  # some bytes changed
        changed = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        return bytes(changed)
    if way == 2:
        return good[: dice.randrange(len(good))]
    if way == 3:  # two lengths, or a length and chunks
        extra = dice.choice([b"content-length: 3", b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked"])
        return good.replace(b"host: test", b"host: test\r\n" + extra, 1)
    if way == 4:
        length = dice.choice([b"-1", b"+5", b"0x10", b"1e3", b"99999999999999999999999", b"5 5", b""])
        return b"POST /predict/made HTTP/1.1\r\ncontent-length: " + length + b"\r\n\r\n{}"
    if way == 5:
        size = dice.choice([b"zz", b"-1", b"ffffffffffffffff1", b"5", b"\r\n", b"5;" + b"a" * 5000])
        return b"POST /predict/made HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n" + size + b"\r\n{}\r\n0\r\n\r\n"
    if way == 6:
        version = dice.choice([b"HTTP/3.0", b"HTTP/1", b"HTTP/0.9", b"http/1.1", b"", b"HTTP/1.11"])
        return good.replace(b"HTTP/1.1", version, 1)
    if way == 7:
        method = dice.choice([b"GRAB", b"get", b"CONNECT", b"PRI", b"\x16\x03\x01", b"POST POST"])
        return good.replace(b"POST", method, 1)
    if way == 8:
        path = dice.choice(
            [b"/../../etc/passwd", b"/predict/%00", b"*", b"/" + b"a" * 9000, b"/predict/made%zz", b"//"]
        )
        return good.replace(b"/predict/made", path, 1)
    if way == 9:
        line = dice.choice(
            [b"upgrade: h2c\r\nconnection: upgrade", b"a b: c", b": empty", b"x: \x00", b"x:\r\n folded", b"expect: x"]
        )
        return good.replace(b"host: test", line, 1)
    if way == 10:
        body = dice.choice([b"[[[[", b'{"x":' * 500, b'{"x":"\\ud800"}', b'{"n":1e9}', b"\xff\xfe", b'{"when":"9999"}'])
        return message("POST", dice.choice(["/predict/made", "/outcomes/made", "/v2/models/made/infer"]), body)
    return good * dice.randrange(1, 5)


def test_malformed_messages_get_no_5xx_and_no_silence(server: ServerProcess) -> None:
    dice = random.Random(7)
    with Client(server.port) as steady:
        for n in range(MESSAGES):
            data = malformed(dice)
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                received = b""
                try:
                    for start in range(0, len(data), max(1, len(data) // dice.randrange(1, 4))):
                        client.sendall(data[start : start + max(1, len(data) // 2)])
                    client.shutdown(socket.SHUT_WR)
                    while part := client.recv(1 << 16):
                        received += part
                except ConnectionError:
                    pass  # closed in the middle of what we sent
            for line in received.split(b"HTTP/1.1 ")[1:]:
                assert line[:1] in b"124", (data[:500], received[:500])
            if n % 20 == 0:
                assert steady.post("/predict/made", {"x": 1})[0] == 200
    assert server.process.poll() is None


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


def test_memory_stays_flat_under_garbage(server: ServerProcess) -> None:
    dice = random.Random(8)

    def resident() -> int:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def wave(count: int) -> None:
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                client.sendall(malformed(dice)[:3000])

    wave(300)
    before = resident()
    wave(600)
    assert resident() - before < 8 * 1024  # kilobytes


def test_a_client_that_never_reads_is_no_longer_read(server: ServerProcess) -> None:
    request = message("POST", "/predict/made", [{"x": 1}] * 200)
    with socket.create_connection(("127.0.0.1", server.port), timeout=2) as client:
        sent = 0
        with suppress(TimeoutError):
            while sent < 200 * 2**20:
                sent += client.send(request)
        with Client(server.port) as steady:
            assert steady.post("/predict/made", {"x": 1})[0] == 200
    assert sent < 60 * 2**20
