"""The server inside somebody else's application: uvicorn for real, Starlette around it, the same answers and the same log."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from everloop.errors import ServeError
from everloop.serve import asgi
from everloop.serve import keys as api_keys
from everloop.serve.settings import ServerSettings
from everloop.testing.serving import Client, ServedHome, expected, signature_of

PATIENCE = 30.0
SIGNATURE = signature_of({"x": "number", "t": "text"}, key=("id",))
APPLICATION = """
import asyncio, json, os, socket, sys
import uvicorn
from everloop.serve import asgi
from everloop.serve.settings import ServerSettings
home, loops, shape, settings = sys.argv[1], sys.argv[2].split(","), sys.argv[3], json.loads(sys.argv[4])
settings = ServerSettings.of(settings, "test")
app = inner = asgi.application(home, loops, settings=settings)
if shape != "plain":
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    async def own(request):
        return PlainTextResponse("its own")
    lifespan = inner.lifespan if shape == "mounted" else None
    app = Starlette(routes=[Route("/own", own), Mount("/models", inner)], lifespan=lifespan)
bound = socket.socket()
bound.bind(("127.0.0.1", 0))
bound.listen()
print(bound.getsockname()[1], flush=True)
config = uvicorn.Config(app, log_level="warning", http=os.environ.get("HTTP", "httptools"), timeout_keep_alive=5)
uvicorn.Server(config).run(sockets=[bound])
"""


class Running:
    def __init__(self, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def uvicorn(
    home: ServedHome, shape: str = "plain", *, loops: str = "made", http: str = "httptools", **settings: Any
) -> Iterator[Running]:
    log = home.home.root / "uvicorn.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", APPLICATION, str(home.home.root), loops, shape, json.dumps(settings)],
            stdout=subprocess.PIPE, stderr=output, start_new_session=True, env={**os.environ, "HTTP": http},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Running(int(line), process, log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def home(tmp_path: Path) -> ServedHome:
    served = ServedHome(tmp_path / "home")
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def eventually(reached: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


ROW = {"x": 1.5, "t": "yes", "id": "a"}


@pytest.mark.parametrize("implementation", ["httptools", "h11"])
def test_under_uvicorn_it_answers_what_the_server_answers(implementation: str, home: ServedHome) -> None:
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/predict/made", ROW),
        ("POST", "/predict", [ROW, {"x": None, "id": "b"}]),
        ("POST", "/predict/made", {"x": "far"}),
        ("POST", "/predict/made", b"{"),
        ("GET", "/v2/models/made", None),
        ("POST", "/v2/models/made/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [2.0]},
                                                      {"name": "id", "shape": [1], "datatype": "BYTES", "data": ["c"]}]}),
        ("POST", "/outcomes/made", {"id": "a", "value": True}),
        ("GET", "/v2/health/ready", None),
        ("GET", "/predict/made", None),
        ("GET", "/nowhere", None),
        ("GET", "/predict%2Fmade", None),
    ]  # fmt: skip
    with home.serve() as server, Client(server.port) as client:
        ours = [client.ask(method, path, body) for method, path, body in asked]
    with uvicorn(home, http=implementation) as running, Client(running.port) as client:
        theirs = [client.ask(method, path, body) for method, path, body in asked]
        assert client.headers[b"content-type"] == b"application/json"
    assert theirs == ours
    assert [status for status, _ in ours][:4] == [200, 200, 400, 400]


def test_mounted_it_stands_beside_the_routes_of_its_host(home: ServedHome) -> None:
    with uvicorn(home, "mounted") as running, Client(running.port) as client:
        assert client.get("/own") == (200, b"its own")
        status, answer = client.post("/models/predict/made", ROW)
        assert (status, answer["probability"]["true"]) == (200, pytest.approx(expected(2.5)))
        assert client.get("/predict/made")[0] == 404
        status, document = client.get("/models/openapi.json")
        assert document["servers"] == [{"url": "/models"}]
        assert client.get("/models/docs")[0] == 200
        assert client.get("/models/v2/health/ready")[0] == 200
        assert running.end() in (0, -signal.SIGTERM)


def test_without_a_lifespan_it_starts_with_its_first_request(home: ServedHome) -> None:
    with uvicorn(home, "lazy") as running:
        with Client(running.port) as client:
            assert client.post("/models/predict", ROW)[0] == 200
        with Client(running.port) as first, Client(running.port) as second:
            for client in (first, second, first):
                assert client.post("/models/predict", ROW)[0] == 200


def test_its_predictions_and_outcomes_are_in_the_log_when_it_ends(home: ServedHome) -> None:
    with uvicorn(home) as running:
        with Client(running.port) as client:
            for n in range(40):
                assert client.post("/predict", {**ROW, "id": f"row {n}"})[0] == 200
            assert client.post("/outcomes", {"id": "row 0", "value": True})[0] == 200
        assert running.end() in (0, -signal.SIGTERM)
    logged = [id for frame in home.predictions("champion") for id in frame.ids]
    assert sorted(logged) == sorted(f"row {n}" for n in range(40))
    assert [outcome[0] for outcome in home.outcomes()] == ["row 0"]


def test_it_follows_a_release(home: ServedHome) -> None:
    home.seal(2, SIGNATURE, bias=1.0)
    with uvicorn(home) as running, Client(running.port) as client:
        assert client.post("/predict", ROW)[1]["version"] == 1
        home.release(2)
        eventually(lambda: client.post("/predict", ROW)[1]["version"] == 2)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_body_may_come_in_pieces_of_any_size(home: ServedHome) -> None:
    body = json.dumps([{"x": float(n), "id": str(n)} for n in range(500)]).encode()
    with uvicorn(home) as running, Client(running.port) as client:
        client.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 997):
            client.send(chunk(body[start : start + 997]))
        client.send(b"0\r\n\r\n")
        ((status, answer),) = client.answers(1)
        assert status == 200
        assert len(json.loads(answer)) == 500


def test_a_body_that_is_too_long_is_refused_however_it_comes(home: ServedHome) -> None:
    with uvicorn(home, body_bytes=10_000) as running:
        with Client(running.port) as client:
            status, answer = client.post("/predict", b" " * 10_001)
            assert status == 413
            assert "10000" in answer["error"]
        with Client(running.port) as client:
            client.send(
                b"POST /predict HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b" " * 9_000)
            )
            client.send(chunk(b" " * 9_000) + b"0\r\n\r\n")
            assert client.answers(1)[0][0] == 413
        with Client(running.port) as client:
            assert client.post("/predict", ROW)[0] == 200


def test_a_body_that_does_not_come_to_its_end_is_not_waited_for(home: ServedHome) -> None:
    with uvicorn(home, request_seconds=0.3) as running, Client(running.port) as client:
        client.send(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n{")
        ((status, answer),) = client.answers(1)
        assert status == 408, answer


def test_clients_that_leave_cost_nobody_an_answer(home: ServedHome) -> None:
    with uvicorn(home) as running:
        for n in range(20):
            leaving = Client(running.port)
            body = json.dumps([{"x": 1.0, "id": f"{n} {row}"} for row in range(2_000)]).encode()
            head = b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n" % len(body)
            leaving.send(head + (body if n % 2 else body[:100]))
            leaving.close()
        with Client(running.port) as client:
            assert client.post("/predict", ROW)[0] == 200
            status, told = client.get("/status")
            assert status == 200
            eventually(lambda: client.get("/status")[1]["loops"]["made"]["waiting_rows"] == 0)
            assert told["loops"]["made"]["ready"]
    assert "Traceback" not in running.log.read_text()


def test_a_head_request_has_no_body(home: ServedHome) -> None:
    with uvicorn(home) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
        connection.request("HEAD", "/v2/health/live")
        answer = connection.getresponse()
        assert (answer.status, answer.read(), answer.getheader("content-length")) == (200, b"", "13")
        connection.close()


def test_a_header_that_is_there_twice_is_refused(home: ServedHome) -> None:
    with uvicorn(home) as running, Client(running.port) as client:
        head = b"POST /predict HTTP/1.1\r\nhost: test\r\nx-prediction-id: a\r\nx-prediction-id: b\r\ncontent-length: 2\r\n\r\n{}"
        client.send(head)
        ((status, answer),) = client.answers(1)
        assert status == 400
        assert b"twice" in answer


def test_keys_and_limits_hold_where_they_are_declared(home: ServedHome) -> None:
    key = api_keys.add(home.home, "caller", now=time.time(), rate="3/m")
    with uvicorn(home, "mounted", keys=True) as running, Client(running.port) as client:
        assert client.post("/models/predict", ROW)[0] == 401
        assert client.headers[b"www-authenticate"].startswith(b"Bearer")
        assert [client.post("/models/predict", ROW, x_api_key=key)[0] for _ in range(4)] == [200, 200, 200, 429]
        assert b"retry-after" in client.headers
        assert client.get("/models/v2/health/live")[0] == 200


def test_what_operators_see_is_for_this_machine_alone(home: ServedHome) -> None:
    async def asked(peer: tuple[str, int] | None) -> int:
        app = asgi.application(home.home.root, "made")
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: Any = {"type": "http", "method": "GET", "path": "/metrics", "headers": [], "client": peer}
        async with app.lifespan():
            await app(scope, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(asked(("127.0.0.1", 5))) == 200
    assert asyncio.run(asked(("2001:db8::7", 5))) == 403
    assert asyncio.run(asked(None)) == 403


def test_several_loops_and_a_websocket(home: ServedHome) -> None:
    other = ServedHome(home.home.root, "other")
    other.seal(1, signature_of({"area": "number"}))
    other.release(1)
    with uvicorn(home, loops="made,other") as running, Client(running.port) as client:
        assert client.post("/predict/other", {"area": 2.0})[0] == 200
        assert client.post("/predict/made", ROW)[0] == 200
        upgrade = "GET /predict HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\nconnection: upgrade\r\n" \
                  "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"  # fmt: skip
        with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE) as plain:
            plain.sendall(upgrade.encode())
            assert plain.recv(100).startswith((b"HTTP/1.1 403", b"HTTP/1.1 4"))
        assert client.post("/predict/other", {"area": 2.0})[0] == 200


def test_a_loop_without_a_release_starts_and_says_so(tmp_path: Path) -> None:
    home = ServedHome(tmp_path / "home")
    home.seal(1, SIGNATURE)
    with uvicorn(home) as running, Client(running.port) as client:
        status, answer = client.post("/predict", ROW)
        assert status == 503
        assert "nothing live" in answer["error"]
        home.release(1)
        eventually(lambda: client.post("/predict", ROW)[0] == 200)


def test_it_can_be_started_again_in_another_event_loop(home: ServedHome) -> None:
    app = asgi.application(home.home.root, "made", settings=ServerSettings())

    async def once(n: int) -> int:
        sent: list[Any] = []
        body = json.dumps({**ROW, "id": f"loop {n}"}).encode()

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": "POST", "path": "/predict", "headers": [], "client": None}, receive, send)
        return int(sent[0]["status"])

    assert [asyncio.run(once(n)) for n in range(3)] == [200, 200, 200]

    async def last() -> None:
        async with app.lifespan():
            pass

    asyncio.run(last())
    logged = [id for frame in home.predictions() for id in frame.ids]
    assert sorted(logged) == ["loop 0", "loop 1", "loop 2"]


def test_an_application_needs_a_loop_and_answers_nothing_else(home: ServedHome) -> None:
    with pytest.raises(ServeError, match="no loop to serve"):
        asgi.application(home.home.root, ())

    async def odd() -> None:
        async def receive() -> Any:
            return {}

        async def send(message: Any) -> None:
            pass

        await asgi.application(home.home.root, "made")({"type": "odd"}, receive, send)

    with pytest.raises(ServeError, match="'odd' is neither"):
        asyncio.run(odd())
