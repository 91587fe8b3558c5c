"""Traces: takes the caller's W3C context and sends spans by OTLP over HTTP, in the background. Needs `everloop[trace]`.

Knows nothing of models. A request that its caller did not sample is not traced here either; one without a context is
traced by chance. On the request's path stand a parse and a few references; spans are made by the thread that sends.
"""

import importlib.util
import logging
import re
import threading
import time
from collections import deque
from random import Random
from typing import Any

from everloop.errors import SpecError
from everloop.serve.exchange import Exchange
from everloop.serve.heads import Headers
from everloop.serve.journal import say
from everloop.serve.paths import place_of, plain_path

WAITING = 20_000
GATHER_SECONDS = 0.5
TOGETHER = 512
TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
NO_TRACE, NO_SPAN = b"0" * 32, b"0" * 16
SAMPLED = 1
STATE_BYTES = 512


class Traced:
    """Where a request stands: ``parent`` is the caller's span, empty when the trace begins here. All in hexadecimal."""

    __slots__ = ("parent", "state", "trace_id")

    def __init__(self, trace_id: str, parent: str, state: bytes) -> None:
        self.trace_id = trace_id
        self.parent = parent
        self.state = state


class Tracing:
    """``lost``: requests whose spans were not sent. Raises SpecError when the libraries are not there."""

    def __init__(self, endpoint: str, share: float, random: Random | None = None) -> None:
        for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
            if not _installed(name):
                raise SpecError(
                    f"serve.trace is {endpoint!r}, but OpenTelemetry is not installed; "
                    "install it with pip install 'everloop[trace]', or leave trace out."
                )
        self.lost = 0
        self.sent = 0
        self._endpoint = endpoint
        self._share = share
        self._random = random or Random()
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._troubled = False
        self._thread = threading.Thread(target=self._send_on, name="traces", daemon=True)
        self._thread.start()

    def begin(self, headers: Headers) -> Traced | None:
        """The request's place in a trace; None when it is not traced. A context that is not sound counts as none."""
        sent = headers.get(b"traceparent")
        if sent is not None:
            found = TRACEPARENT(sent)
            if found is not None and _sound(*found.groups()):
                if not int(found[4], 16) & SAMPLED:
                    return None
                return Traced(found[2].decode(), found[3].decode(), headers.get(b"tracestate", b"")[:STATE_BYTES])
        if self._share < 1.0 and self._random.random() >= self._share:
            return None
        return Traced(f"{self._random.getrandbits(128) or 1:032x}", "", b"")

    def ended(self, exchange: Exchange, status: int, size: int) -> None:
        """Take down an answered request."""
        if exchange.traced is None:
            return
        if len(self._waiting) >= WAITING:
            self.lost += 1
            return
        self._waiting.append(
            (
                exchange.traced, exchange.arrived, time.perf_counter(), exchange.ran, exchange.method, exchange.url,
                status, exchange.request_id,
            )
        )  # fmt: skip
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Send what waits, then end."""
        self._ending = True
        self._wake.set()
        self._thread.join(timeout=15.0)

    def _send_on(self) -> None:
        exporter: Any = None
        resource: Any = None
        while True:
            self._wake.wait()
            if not self._ending:
                time.sleep(GATHER_SECONDS)
            ending = self._ending
            self._wake.clear()  # before looking: what comes now wakes it again
            while self._waiting:
                if exporter is None:  # the libraries take half a second to load: not before something is traced
                    exporter, resource = _exporter(self._endpoint)
                taken = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
                wall = time.time_ns() - time.perf_counter_ns()
                spans = [span for each in taken for span in self._spans(resource, wall, *each)]
                self._told(_sent(exporter, spans), len(taken))
            if ending:
                if exporter is not None:
                    exporter.shutdown()
                return

    def _told(self, because: str | None, count: int) -> None:
        if because is None:
            self.sent += count
            self._troubled = False
            return
        self.lost += count
        if not self._troubled:
            self._troubled = True
            say("traces not sent", because=because)

    def _spans(
        self,
        resource: Any,
        wall: int,
        traced: Traced,
        arrived: float,
        ended: float,
        ran: tuple[float, float] | None,
        method: bytes,
        url: bytes,
        status: int,
        request_id: bytes,
    ) -> list[Any]:
        """The request's span and, where a model ran, those of its wait and its run."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        trace_id = int(traced.trace_id, 16)
        flags = TraceFlags(TraceFlags.SAMPLED)
        state = TraceState.from_header([traced.state.decode("latin-1")]) if traced.state else TraceState()

        def context(span_id: int, remote: bool = False) -> SpanContext:
            return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=flags, trace_state=state)

        def span(name: str, start: float, end: float, parent: SpanContext | None, **more: Any) -> Any:
            return ReadableSpan(
                name,
                context=context(self._random.getrandbits(64) or 1),
                parent=parent,
                resource=resource,
                start_time=int(start * 1e9) + wall,
                end_time=int(end * 1e9) + wall,
                **more,
            )

        path = plain_path(url)[:2048].decode("latin-1")
        route = _route(url)
        request = span(
            f"{method.decode('latin-1')} {route}",
            arrived,
            ended,
            context(int(traced.parent, 16), remote=True) if traced.parent else None,
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": method.decode("latin-1"),
                "http.route": route,
                "url.path": path,
                "http.response.status_code": status,
                "everloop.request_id": request_id.decode("latin-1"),
            },
            status=Status(StatusCode.ERROR if status >= 500 else StatusCode.UNSET),
        )
        if ran is None:
            return [request]
        inside = [("queue", arrived, ran[0]), ("compute", *ran)]
        return [
            request,
            *(span(name, start, end, request.context, kind=SpanKind.INTERNAL) for name, start, end in inside),
        ]


def _sound(version: bytes, trace_id: bytes, parent: bytes, flags: bytes, more: bytes | None) -> bool:
    """By W3C Trace Context: no zero ids, no version ff, nothing behind the flags of version 00."""
    return trace_id != NO_TRACE and parent != NO_SPAN and version != b"ff" and not (version == b"00" and more)


def _route(url: bytes) -> str:
    """A path with a name in place of the loop's, so that spans of one kind have one name."""
    place = place_of(url)
    path = plain_path(url)[:2048].decode("latin-1")
    if place.about == "operate" and path not in ("/metrics", "/status"):
        return "other"
    if place.loop is not None:
        path = path.replace(f"/{place.loop.decode('latin-1')}", "/{loop}", 1)
    return path


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _exporter(endpoint: str) -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource

    told = logging.getLogger("opentelemetry")
    told.addHandler(logging.NullHandler())
    told.propagate = False  # we say once what fails, not at each try
    return OTLPSpanExporter(endpoint=endpoint, timeout=5), Resource.create({"service.name": "everloop"})


def _sent(exporter: Any, spans: list[Any]) -> str | None:
    """None when they were taken; why not otherwise."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    try:
        result = exporter.export(spans)
    except Exception as error:  # another's library over a network: nothing of it may end the thread
        return repr(error)
    return None if result is SpanExportResult.SUCCESS else "the collector did not take them"
