"""The server as an ASGI 3 application, to be mounted in somebody's own: the same routes, batches and log.

Whoever mounts it owns sockets, TLS and who may come in; what is declared in ``settings`` (keys, limits, CORS, an access
log) holds here too. It costs more than the server by itself, for a coroutine runs for each request; its batches are
the same. Knows nothing of what a request means.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import msgspec

from everloop.errors import RequestError, ServeError
from everloop.serve.application import Application
from everloop.serve.bounds import EARLY_BYTES, Bounds
from everloop.serve.exchange import JSON, Exchange
from everloop.serve.guard import Guard
from everloop.serve.heads import LISTS, WANTED, Headers
from everloop.serve.loading import Allowance, Loader
from everloop.serve.notify import Notify
from everloop.serve.replay import Channel
from everloop.serve.service import Service
from everloop.serve.settings import ServerSettings, overriding
from everloop.serve.urgency import GONE
from everloop.store.home import Home

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOOK_SECONDS = 1.0
"""How often release files are looked at beside the kernel's word that one has changed; without it, more often."""
OFTEN_SECONDS = 0.05
WATCH_SECONDS = 0.01
"""An answer that takes longer is waited for with an eye on the client: it may leave."""
DRAIN_SECONDS = 20.0
ELSEWHERE = "0.0.0.0"
"""Where the outer server listens is not known here, so the rules for a host that others reach hold."""


def application(
    home: Path | str, loops: str | Sequence[str], *, settings: ServerSettings | None = None, seed: int | None = None
) -> "AsgiApplication":
    """An ASGI 3 application that serves ``loops`` from ``home``, as ``python -m everloop.serve`` does.

    It starts with the lifespan of its server, or with ``lifespan`` in that of the application it is mounted in
    (a mounted application is told of none), or else with its first request. ``settings`` are those of `[ENV.serve]` but
    for sockets and TLS. Without keys `/metrics` and `/status` answer to clients on this machine alone.
    """
    names = (loops,) if isinstance(loops, str) else tuple(dict.fromkeys(loops))
    if not names:
        raise ServeError("There is no loop to serve; name one or several.")
    settings = msgspec.structs.replace(settings or ServerSettings(), tls=None)
    return AsgiApplication(Home(Path(home)), names, settings, seed)


class AsgiApplication:
    """Callable as ASGI 3 asks: ``await app(scope, receive, send)``."""

    def __init__(self, home: Home, loops: tuple[str, ...], settings: ServerSettings, seed: int | None) -> None:
        self._home = home
        self._loops = loops
        self._settings = settings
        self._seed = seed
        self._running: Running | None = None
        self._starting: asyncio.Future[Running] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            running = self._running
            if running is None or running.loop is not asyncio.get_running_loop():
                running = await self._started()
            await running.answer(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000, "reason": "there are no websockets here"})
        else:
            raise ServeError(f"This application answers http and lifespan; {kind!r} is neither.")

    @asynccontextmanager
    async def lifespan(self, outer: object = None) -> AsyncIterator[None]:
        """Started inside, ended after it: for the lifespan of the application that this one is mounted in."""
        await self._started()
        try:
            yield
        finally:
            await self._ended()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._started()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._ended()
        except Exception as error:
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _started(self) -> "Running":
        """What runs in this event loop. What an event loop that is gone has left is closed."""
        loop = asyncio.get_running_loop()
        if self._running is not None and self._running.loop is loop:
            return self._running
        if self._starting is None or self._starting.get_loop() is not loop:
            self._starting = loop.create_future()
            try:
                before, self._running = self._running, None
                if before is not None:
                    before.close()
                running = Running(self._home, self._loops, self._settings, self._seed, loop)
                await loop.run_in_executor(None, running.load)
                running.watch()
                self._running = running
                self._starting.set_result(running)
            except BaseException as error:
                self._starting.set_exception(error)
                self._starting.exception()  # seen, even if nobody else waits
                self._starting = None
                raise
        return await asyncio.shield(self._starting)

    async def _ended(self) -> None:
        running, self._running, self._starting = self._running, None, None
        if running is not None:
            await running.drain()
            running.close()


class Running:
    """Everything that lives in one event loop."""

    def __init__(
        self,
        home: Home,
        loops: tuple[str, ...],
        settings: ServerSettings,
        seed: int | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self._home = home
        tag = f"{time.time_ns() // 1000:016d}-{os.getpid()}"
        allowance = Allowance(
            package_bytes=settings.package_bytes,
            model_bytes=settings.model_bytes,
            load_seconds=settings.load_seconds,
        )
        channel, random = Channel(None), Random(seed)
        self.services = [Service(home, name, loop, channel, random, tag, allowance) for name in loops]
        for service in self.services:
            service.may_override = overriding(settings, ELSEWHERE)
        self.bounds = Bounds(
            body_bytes=settings.body_bytes,
            header_bytes=settings.header_bytes,
            request_seconds=settings.request_seconds,
        )
        self.application = Application(self.services, bounds=self.bounds)
        self.guard = Guard(settings, home=home, host=ELSEWHERE, loops=loops, behind=True)
        self.guard.stand_before(self.application)
        for service in self.services:
            service.predictor.traces = self.guard.traces is not None
        self.waiting = 0
        """Requests that are not answered yet."""
        self._loader = Loader(allowance.patience)
        self._notify = Notify()
        self._timer: asyncio.TimerHandle | None = None
        self._told = False
        self._closed = False

    def load(self) -> None:
        """Load what is released now: before anything else runs here, outside the event loop."""
        for service in self.services:
            service.follower.start()

    def watch(self) -> None:
        """From now on follow the releases, the keys and the settings."""
        self._told = self._notify.watch([self._home.releases, self._home.keys])
        if self._told:
            self.loop.add_reader(self._notify.descriptor, self._changed)
        self._tick()

    def _changed(self) -> None:
        self._notify.clear()
        self._look()

    def _tick(self) -> None:
        self._look()
        self._timer = self.loop.call_later(LOOK_SECONDS if self._told else OFTEN_SECONDS, self._tick)

    def _look(self) -> None:
        if self._closed:
            return
        for service in self.services:
            service.follower.poll(self._loader, self.loop.call_soon_threadsafe, self._look)
        self.guard.poll(self.application)

    async def drain(self) -> None:
        """Answer what is in flight."""
        self.application.draining = True
        end = self.loop.time() + DRAIN_SECONDS
        while self.loop.time() < end and (self.waiting or not all(s.predictor.idle for s in self.services)):
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Write the logs to their end."""
        if self._closed:
            return
        self._closed = True
        if not self.loop.is_closed():
            if self._timer is not None:
                self._timer.cancel()
            if self._told:
                self.loop.remove_reader(self._notify.descriptor)
        self._notify.close()
        for service in self.services:
            service.close()
        self.guard.close()

    # Requests

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read one request, hand it on, write its answer. A client that leaves is no longer worked for."""
        root = scope.get("root_path", "").rstrip("/")
        exchange = Mounted(self, scope, _url(scope["path"], root), root)
        self.waiting += 1
        try:
            body = await self._body(exchange, scope, receive)
            if body is None:
                return  # the client left
            if not exchange.answered.done():
                self.application.handle(exchange, exchange.method, exchange.url, exchange.headers, body)
            if not exchange.answered.done():
                await self._until_answered(exchange, receive)
            if exchange.response is not None and not exchange.left:
                await exchange.write(send)
        except asyncio.CancelledError:
            exchange.deadline = GONE
            raise
        finally:
            self.waiting -= 1

    async def _body(self, exchange: "Mounted", scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None when the client left. What is refused meanwhile is answered in the exchange."""
        try:
            exchange.headers = _headers(scope["headers"], self.bounds)
            async with asyncio.timeout(self.bounds.request_seconds):
                return await self._read(exchange, receive)
        except TimeoutError:
            seconds = self.bounds.request_seconds
            exchange.refuse(408, f"The request was not whole after {seconds:g} seconds.")
        except RequestError as error:
            exchange.refuse(error.status, str(error), reason=error.reason, retry_after=error.retry_after)
        return b""

    async def _read(self, exchange: "Mounted", receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        most = self.bounds.body_bytes
        early = False
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise RequestError(f"The body is longer than the {most} bytes that are taken at once.", status=413)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if size > EARLY_BYTES and not early:  # a stranger cannot make the server hold megabytes
                early = True
                error = self.application.turned_away(exchange, exchange.headers)
                if error is not None:
                    raise error

    async def _until_answered(self, exchange: "Mounted", receive: Receive) -> None:
        watch: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal watch
            watch = self.loop.create_task(_watch(exchange, receive))

        timer = self.loop.call_later(WATCH_SECONDS, begin)
        try:
            await exchange.answered
        except asyncio.CancelledError:
            if not exchange.left:
                raise
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()


class Client:
    """Stands for the connection of a request: who is at its other end."""

    __slots__ = ("application", "peer")

    transport = None

    def __init__(self, application: Application, peer: str) -> None:
        self.application = application
        self.peer = peer

    def send(self) -> None:
        """Nothing: whoever waits for the answer writes it."""


class Mounted(Exchange):
    """A request that came by ASGI. Its answer waits until ``answered``."""

    def __init__(self, running: Running, scope: Scope, url: bytes, root: str) -> None:
        client = scope.get("client")
        peer = str(client[0]) if client else "unknown"
        super().__init__(Client(running.application, peer), scope["method"].encode(), url)
        self.answered: asyncio.Future[None] = running.loop.create_future()
        self.headers: Headers = {}
        self.root = root
        """The path under which this application is mounted."""
        self.left = False
        """The client is gone."""
        self.bare = self.method == b"HEAD"
        self._status = 0
        self._fields: list[tuple[bytes, bytes]] = []

    def finish(self, status: int, body: bytes, kind: bytes = JSON, extra: bytes = b"") -> None:
        if self.response is not None:
            return
        self.response = body
        self._status = status
        self._fields = [
            (b"content-type", self.kind if kind is JSON else kind),
            (b"content-length", b"%d" % len(body)),
        ]
        for line in (extra + self.lines).split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                self._fields.append((name.strip(), value.strip()))
        if self.observer is not None:
            self.observer(self, status, len(body))
        if not self.answered.done():
            self.answered.set_result(None)

    async def write(self, send: Send) -> None:
        """Write the answer."""
        await send({"type": "http.response.start", "status": self._status, "headers": self._fields})
        await send({"type": "http.response.body", "body": b"" if self.bare else self.response or b""})


async def _watch(exchange: Mounted, receive: Receive) -> None:
    """Ends the wait when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.left = True
    exchange.deadline = GONE
    exchange.answered.cancel()


@lru_cache(maxsize=1024)
def _url(path: str, root: str) -> bytes:
    """The path below the mount as it stands in a request line.

    >>> _url("/models/predict/a b", "/models")
    b'/predict/a%20b'
    """
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        path = path[len(root) :]
    return quote(path or "/").encode()


def _headers(given: Sequence[tuple[bytes, bytes]], bounds: Bounds) -> Headers:
    """The headers that anybody reads. Raises RequestError (400, 413, 431)."""
    headers: Headers = {}
    if sum(len(name) + len(value) for name, value in given) > bounds.header_bytes:
        raise RequestError(f"The header is longer than {bounds.header_bytes} bytes.", status=431)
    for name, value in given:
        name = name.lower()
        if name in WANTED:
            if name in headers:
                if name not in LISTS:
                    raise RequestError(f"The header {name.decode()} is there twice; send it once.")
                value = headers[name] + b", " + value
            headers[name] = bytes(value)
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > bounds.body_bytes:
        raise RequestError(
            f"The body has {length.decode()} bytes; at most {bounds.body_bytes} are taken at once.", status=413
        )
    return headers


__all__ = ["AsgiApplication", "application"]
