"""Traces: the caller's context is taken, its decision respected, and spans reach a real collector over HTTP."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, signature_of

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

SIGNATURE = signature_of({"x": "number"})
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATIENCE = 20.0


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans as a collector does, and keeps them."""

    daemon_threads = True

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Taken)
        self.status = status
        self.spans: list[Any] = []
        self.requests = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"


class Taken(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests += 1
        if self.server.status == 200:
            asked = proto.ExportTraceServiceRequest.FromString(body)
            self.server.spans += [s for r in asked.resource_spans for scope in r.scope_spans for s in scope.spans]
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    with Collector(status) as collector:
        thread = threading.Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def traced(served: ServedHome, **fields: Any) -> ServerProcess:
    served.home.settings.write_bytes(encode(ServerSettings(**fields)))
    return served.serve("--settings", str(served.home.settings))


def eventually(said: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_sampled_request_becomes_spans_of_its_callers_trace(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    before = time.time_ns()
    with collecting() as collector:
        served = home(tmp_path / "home")
        with traced(served, trace=collector.address, access_log=str(log)) as server, Client(server.port) as client:
            context = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=value"}
            assert client.post("/predict/made", {"x": 1}, x_request_id="mine", **context)[0] == 200
            assert client.post("/predict/made", {"y": 1}, **context)[0] == 400
            eventually(lambda: len(collector.spans) >= 4)
    spans = {span.name: span for span in collector.spans if span.trace_state}
    request, queue, compute = (spans[name] for name in ("POST /predict/{loop}", "queue", "compute"))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert queue.parent_span_id == compute.parent_span_id
    assert queue.parent_span_id in {span.span_id for span in collector.spans}
    assert request.trace_state == "vendor=value"
    assert before - 10**9 < queue.start_time_unix_nano <= queue.end_time_unix_nano <= compute.start_time_unix_nano
    assert compute.start_time_unix_nano <= compute.end_time_unix_nano < time.time_ns() + 10**9
    statuses = sorted(
        int(attribute.value.int_value)
        for span in collector.spans
        for attribute in span.attributes
        if attribute.key == "http.response.status_code"
    )
    assert statuses == [200, 400]
    assert f'"trace_id":"{TRACE}"' in log.read_text()


def test_what_the_caller_did_not_sample_is_not_traced(tmp_path: Path) -> None:
    with (
        collecting() as collector,
        traced(home(tmp_path), trace=collector.address, trace_share=0.0) as server,
        Client(server.port) as client,
    ):
        client.post("/predict", {"x": 1}, traceparent=f"00-{TRACE}-{PARENT}-00")
        client.post("/predict", {"x": 1})  # the share is 0
        client.post("/predict", {"x": 1}, traceparent=f"00-{TRACE}-{PARENT}-01")
        eventually(lambda: len(collector.spans) >= 3)
        assert server.terminate() == 0
        assert len(collector.spans) == 3


@pytest.mark.parametrize(
    "context",
    [
        "", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more", f"00-{TRACE}-{PARENT}-1",
    ],
)  # fmt: skip
def test_a_context_that_is_not_sound_begins_a_new_trace(context: str) -> None:
    from everloop.serve.trace import Tracing

    tracing = Tracing("http://127.0.0.1:9/", 1.0)
    place = tracing.begin({b"traceparent": context.encode()})
    assert place is not None
    assert (place.trace_id != TRACE, place.parent) == (True, "")
    known = tracing.begin({b"traceparent": f"01-{TRACE}-{PARENT}-01-later".encode()})  # a version to come
    assert known is not None
    assert (known.trace_id, known.parent) == (TRACE, PARENT)
    tracing.close()


def test_a_collector_that_refuses_or_is_gone_stops_no_answer(tmp_path: Path) -> None:
    with (
        collecting(status=400) as collector,
        traced(home(tmp_path), trace=collector.address) as server,
        Client(server.port) as client,
    ):
        for _ in range(5):
            assert client.post("/predict", {"x": 1})[0] == 200
        eventually(lambda: "traces not sent" in server.log.read_text())
        assert client.post("/predict", {"x": 1})[0] == 200
        assert "Traceback" not in server.log.read_text()
        assert server.terminate() == 0


def test_without_the_extra_the_start_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util\n"
        "sys.modules['opentelemetry'] = None\n"
        "from everloop.serve.trace import Tracing\n"
        "from everloop.errors import SpecError\n"
        "try:\n    Tracing('http://localhost/', 1.0)\nexcept SpecError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install 'everloop[trace]'" in said.stdout, said.stderr


def test_a_share_of_nothing_sends_nothing(tmp_path: Path) -> None:
    with (
        collecting() as collector,
        traced(home(tmp_path), trace=collector.address, trace_share=0.0) as server,
        Client(server.port) as client,
    ):
        client.post("/predict", {"x": 1})
        assert server.terminate() == 0
        assert collector.requests == 0
