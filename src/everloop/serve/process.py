"""One serving process: sockets in, signals, the watch over release files, the way out. Knows nothing of predictions."""

import asyncio
import gc
import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from everloop.errors import EverloopError, ServeError
from everloop.serve.ahead import Ahead
from everloop.serve.application import Application
from everloop.serve.bounds import Bounds
from everloop.serve.counts import Counts
from everloop.serve.guard import Guard
from everloop.serve.http import Connection
from everloop.serve.journal import say
from everloop.serve.loading import Allowance, Loader
from everloop.serve.loops import Loops, Terms
from everloop.serve.memory import trim
from everloop.serve.models import Models
from everloop.serve.notify import Notify
from everloop.serve.parent import Parent
from everloop.serve.replay import Channel
from everloop.serve.repository import Repository
from everloop.serve.service import Service
from everloop.serve.settings import ServerSettings, overriding
from everloop.serve.sockets import BACKLOG, DRAIN_SECONDS, GIVE, REPLACED, allow_files, cannot_listen, listen
from everloop.serve.tls import HANDSHAKE_SECONDS
from everloop.serve.unloaded import Unloaded
from everloop.store.files import write_atomically
from everloop.store.home import Home

POLL_SECONDS = 0.05
"""How often the files are looked at where the kernel does not say that one has changed."""
LEAVE_SECONDS = 1.0
"""How long a process that is replaced waits for clients to ask once more, so that it can tell them to come again."""
SWITCH_SECONDS = 0.0005
"""How long the worker thread may wait for the interpreter when the loop is busy: Python's own 5 ms is a long batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where to serve what. ``seed`` makes the draw of arms repeatable."""

    home: Home
    loops: tuple[str, ...]
    """Empty: every loop that has a release file, and those that come."""
    host: str = "127.0.0.1"
    port: int = 0
    replay_token: bytes | None = None
    seed: int | None = None
    grpc_port: int | None = None
    """None: no gRPC. 0: a free one."""
    listen_on: int | None = None
    """The number of a bound socket that a supervisor gave to this process; None: bind one."""
    channel: int | None = None
    """The number of the socket over which it asks for that one again, to give it to the next process."""
    leader: int | None = None
    """The number of that supervisor."""
    processes: int = 1
    """How many serve the same port."""
    memory: int | None = None
    """Bytes that the models of this process may take together; None: no bound."""
    pinned: frozenset[str] = frozenset()
    """Loops that stay in memory."""
    parent: int | None = None
    """End when the process with this number does."""
    server: ServerSettings = field(default_factory=ServerSettings)
    server_file: Path | None = None
    """Where those came from: read again when it changes."""
    open_to_the_world: bool = False
    """Said on the command line: holds whatever the file says later."""
    ahead: Ahead | None = None
    """Packages that are being read already."""


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop of uvloop where it is installed: a few percent cheaper, and it joins small writes."""
    try:
        import uvloop  # its only use; the server works without it
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Process:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = event_loop()
        tag = f"{time.time_ns() // 1000:016d}-{os.getpid()}"
        channel = Channel(settings.replay_token)
        random = Random(settings.seed)
        server = settings.server
        allowance = Allowance(
            package_bytes=server.package_bytes, model_bytes=server.model_bytes, load_seconds=server.load_seconds
        )
        models = Models(settings.home, allowance)

        def made(name: str) -> Service:
            service = Service(
                settings.home, name, self.loop, channel, random, tag, allowance, settings.processes, models
            )
            service.may_override = overriding(server, settings.host)
            service.predictor.traces = server.trace is not None
            return service

        bounds = Bounds(
            body_bytes=server.body_bytes,
            header_bytes=server.header_bytes,
            connections=server.connections,
            request_seconds=server.request_seconds,
            idle_seconds=server.idle_seconds,
            linger_seconds=server.linger_seconds,
        )
        self.application = Application([], bounds=bounds)
        self._unloaded = Unloaded(settings.home, settings.leader or os.getpid())
        self.loops = Loops(
            settings.home,
            models,
            Terms(names=settings.loops, limit=settings.memory, pinned=settings.pinned),
            self._unloaded,
            make=made,
            added=self._added,
            soon=lambda: self.loop.call_soon(self._look),
        )
        self._repository = Repository(self.loops)
        self.application.services = self.loops.services
        self.application.repository = self._repository
        self.application.add(self._repository.routes())
        self.loops.open()
        self.guard = Guard(
            server,
            home=settings.home,
            host=settings.host,
            loops=settings.loops,
            file=settings.server_file,
            open_to_the_world=settings.open_to_the_world,
        )
        self.guard.stand_before(self.application)
        self._loader = Loader(allowance.patience)
        self._server: asyncio.Server | None = None
        self._grpc: Any = None
        self._port = 0
        self._file = settings.home.servers / f"{os.getpid()}.json"
        self._stopping = asyncio.Event()
        self._notify = Notify()
        self._replaced = False
        self._counted: object = None
        self.application.counts = Counts(settings.home, settings.leader or os.getpid())
        self._parent = Parent(settings.parent) if settings.parent is not None else None

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; then answer what is in flight, write the logs to their end and return 0."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
        finally:
            self._notify.close()
            for service in self.loops.services.values():
                service.close()
            self._keep_counts()
            self.guard.close()
            with suppress(OSError):
                self._file.unlink()
            if self.settings.leader is None:
                self._unloaded.clear()
                Counts(self.settings.home, os.getpid()).clear()
            self.loop.close()
        say("ended", pid=os.getpid())
        if self._loader.running:
            os._exit(0)  # a load that does not end would be torn down while it runs
        return 0

    async def _main(self) -> None:
        self.loops.start(self.settings.ahead)
        if self.settings.ahead is not None:
            self.settings.ahead.forget()
        sock = self._socket()
        self._port = sock.getsockname()[1]
        certificate = self.guard.certificate
        self._server = await self.loop.create_server(
            lambda: Connection(self.application),
            sock=sock,
            backlog=BACKLOG,
            ssl=certificate.context if certificate is not None else None,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if certificate is not None else None,
        )
        if self.settings.grpc_port is not None:
            self._grpc = grpc_server(self.application, self.settings)
            await self._grpc.start(self.settings.host, self.settings.grpc_port)
        if self.settings.channel is not None:
            channel = socket.socket(fileno=self.settings.channel)
            channel.set_inheritable(False)
            self.loop.add_reader(channel, self._give, channel, sock)
        allow_files(self.settings.server.connections)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._stopping.set)
        self.loop.add_signal_handler(REPLACED, self._leave)
        self.loop.add_signal_handler(
            signal.SIGHUP, say, "no rolling restart of one process: restart it, or run several"
        )
        gc.collect()
        trim()
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # what was loaded stays: later collections need not look at it
        self._tell()
        say("listening", pid=os.getpid(), host=self.settings.host, port=self._port, loops=list(self.loops.services))
        self._watch()
        self._tick()
        await self._stopping.wait()
        await self._drain()

    def _added(self, service: Service) -> None:
        self.application.add_service(service, alone=len(self.settings.loops) == 1)
        self.application.add(self._repository.routes_of(service))

    def _socket(self) -> socket.socket:
        given = self.settings.listen_on
        if given is None:
            return listen(self.settings.host, self.settings.port, share_port=False)
        sock = socket.socket(fileno=given)
        sock.set_inheritable(False)
        sock.setblocking(False)
        return sock

    def _give(self, channel: socket.socket, listening: socket.socket) -> None:
        """The next process takes over the socket, with the connections that wait in it."""
        if channel.recv(len(GIVE)) == GIVE:
            socket.send_fds(channel, [GIVE], [listening.fileno()])
        else:  # the other end is closed
            self.loop.remove_reader(channel)

    def _leave(self) -> None:
        """Another process has this one's place and takes what comes from now on."""
        self._replaced = True
        self._stopping.set()

    def _outlived(self) -> None:
        """Nobody is left for whom this process runs."""
        assert self._parent is not None
        if self._parent.gone and not self._stopping.is_set():
            say("the process for which this one runs has ended", pid=os.getpid(), parent=self._parent.pid)
            self._stopping.set()

    def _watch(self) -> None:
        """From now on look at the files when the kernel says that one has changed; often, where it does not say."""
        home, given = self.settings.home, self.settings.server_file
        folders = [*self.loops.folders, home.keys, *([given.parent] if given is not None else [])]
        if self._notify.watch(folders):
            self.loop.add_reader(self._notify.descriptor, self._changed)
        else:
            self._poll()
        self._look()  # at what changed while nobody watched
        if self._parent is not None and self._parent.descriptor >= 0:
            self.loop.add_reader(self._parent.descriptor, self._outlived)

    def _changed(self) -> None:
        self._notify.clear()
        self._look()

    def _poll(self) -> None:
        self.loop.call_later(POLL_SECONDS, self._poll)
        self._look()

    def _look(self) -> None:
        if self._stopping.is_set():
            return
        self.loops.look(self._loader, self.loop.call_soon_threadsafe, self._switched)
        self.guard.poll(self.application)

    def _switched(self) -> None:
        self.loops.settle()
        self._tell()
        self._look()  # at what changed while it was loaded

    def _tick(self) -> None:
        application = self.application
        # First: whatever goes wrong below, time goes on for slow clients and new releases.
        self.loop.call_later(application.bounds.tick_seconds, self._tick)
        application.tick += 1
        for connection in list(application.connections):
            connection.look_at_time()
        self._look()  # a network file system changes without a word
        if self._parent is not None:
            self._outlived()
        self._keep_counts()

    def _keep_counts(self) -> None:
        """For the other processes of this server, for those that come after this one, and for the controller."""
        counts = self.application.counts
        mark = self.application.mark
        if counts is None or mark == self._counted:
            return
        self._counted = mark
        try:
            counts.write(self.application.counted())
        except Exception as error:  # a full disk must not end the serving
            say("counts not written", because=str(error))

    def _tell(self) -> None:
        """Write ``home/servers/<pid>.json``: what others may know of this process."""
        services = self.loops.services.values()
        content = {
            "pid": os.getpid(),
            "host": self.settings.host,
            "port": self._port,
            "grpc_port": self._grpc and self._grpc.port,
            "leader": self.settings.leader,
            "loops": {each.name: each.follower.revision for each in services},
            "problems": {each.name: each.follower.problem for each in services if each.follower.problem is not None},
            "ready": self._server is not None and not self._stopping.is_set(),
        }
        try:
            write_atomically(self._file, msgspec.json.encode(content), sync=False)
        except Exception as error:  # a full disk must not end the serving
            say("servers file not written", because=str(error))

    async def _drain(self) -> None:
        assert self._server is not None
        say("ending", pid=os.getpid(), connections=len(self.application.connections))
        self.application.draining = True
        self._tell()
        self._server.close()
        self.loops.stop_waiting()
        calls = self._grpc and self.loop.create_task(self._grpc.stop(DRAIN_SECONDS))
        if self._replaced:
            # A client that keeps its connection may be writing at this moment: each answer tells it to come again.
            end = self.loop.time() + LEAVE_SECONDS
            while self.application.connections and self.loop.time() < end:
                await asyncio.sleep(0.01)
        for connection in list(self.application.connections):
            connection.end()
        end = self.loop.time() + DRAIN_SECONDS
        while self.loop.time() < end and not self._quiet():
            await asyncio.sleep(0.005)
        for connection in list(self.application.connections):
            connection.transport.abort()
        if calls is not None:
            await calls

    def _quiet(self) -> bool:
        return not self.application.connections and all(each.predictor.idle for each in self.loops.services.values())


def grpc_server(application: Application, settings: Settings) -> Any:
    """What listens for gRPC. Raises ServeError without the libraries for it."""
    try:
        module = importlib.import_module("everloop.serve.grpc_server")  # an extra: nobody else pays for it
    except ImportError as error:
        raise ServeError(
            f"gRPC needs a library that is not here ({error.name}): pip install 'everloop[grpc]'."
        ) from None
    return module.GrpcServer(application, share_port=settings.leader is not None, tls=settings.server.tls)


def serve(settings: Settings) -> int:
    """Serve in this process. Returns the exit code."""
    try:
        return Process(settings).run()
    except EverloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (OSError, OverflowError) as error:
        print(cannot_listen(settings.host, settings.port, error), file=sys.stderr)
        return 7


def token_from(variable: str | None, environment: Sequence[tuple[str, str]]) -> bytes | None:
    """The replay token that an environment variable holds; None when there is none."""
    value = dict(environment).get(variable) if variable else None
    return value.encode() if value else None
