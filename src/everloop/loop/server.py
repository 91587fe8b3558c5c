"""Starts, finds again and stops the serving process. Knows nothing of what it serves or how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import psutil

from everloop.errors import CannotListen, ServeError, SpecError
from everloop.serve.cores import cores
from everloop.serve.settings import ServerSettings, encode, read
from everloop.serve.sockets import DRAIN_SECONDS, cannot_listen, listen
from everloop.store.files import write_atomically
from everloop.store.home import Home

TOKEN_VARIABLE = "EVERLOOP_REPLAY_TOKEN"
POLL_SECONDS = 0.005
STOP_SECONDS = DRAIN_SECONDS + 10.0


class ServingProcess:
    """A server in its own process group, so that ending it ends all of it and nothing else."""

    def __init__(self, process: subprocess.Popen[bytes] | psutil.Process, home: Home) -> None:
        self._process = process
        self._home = home
        self._log = home.root / "server.log"
        self.port = 0

    @classmethod
    def start(
        cls,
        home: Home,
        loops: Sequence[str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        processes: int | Literal["auto"] = 1,
        token: str | None = None,
        seed: int | None = None,
        settings: ServerSettings | None = None,
        bound: bool = False,
        patience: float = 30.0,
    ) -> ServingProcess:
        """Start and return once it listens. Raises ServeError with the server's own last words if it does not.

        ``bound``: it ends with this process, however that ends. Raises CannotListen when the address cannot be had;
        SpecError, and starts nothing, when ``host`` can be reached by others without a key.
        """
        (settings or ServerSettings()).check_open(host)
        command = [
            sys.executable,
            "-m",
            "everloop.serve",
            "--home",
            str(home.root),
            "--host",
            host,
            "--port",
            str(port),
        ]
        for loop in loops:
            command += ["--loop", loop]
        if processes != 1:
            command += ["--processes", str(processes)]
        if settings is not None:
            hand_over(settings, home)
            command += ["--settings", str(home.settings)]
        if bound:
            command += ["--parent", str(os.getpid())]
        if seed is not None:
            command += ["--seed", str(seed)]
        environment = dict(os.environ)
        environment.pop(TOKEN_VARIABLE, None)
        if token is not None:
            environment[TOKEN_VARIABLE] = token
            command += ["--replay-token-env", TOKEN_VARIABLE]
        with (home.root / "server.log").open("ab") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        server = cls(process, home)
        try:
            server._wait(lambda status: bool(status.get("ready")), "listen", patience)
        except BaseException:
            server.stop(patience=1.0)  # A server that nobody knows of would hold its port for ever.
            raise
        server.port = int(server.status()["port"])
        return server

    @classmethod
    def find(cls, home: Home, loops: Sequence[str]) -> ServingProcess | None:
        """A server of this home and these loops that runs already: one that a killed controller left behind.

        It may listen elsewhere than is wanted now, and in more or fewer processes: `serves_as` says.
        """
        for file in sorted(home.servers.glob("*.json")):
            process = _server(file, home)
            if process is None:
                file.unlink(missing_ok=True)  # It was killed and could not tidy up.
                continue
            server = cls(process, home)
            status = server.status()
            # Of several processes on one port the supervisor is the server, and they end when it does.
            if status.get("leader") is None and status.get("ready") and set(loops) == set(status.get("loops", {})):
                server.port = int(status["port"])
                return server
        return None

    def serves_as(self, host: str, port: int, processes: int | Literal["auto"]) -> bool:
        """Whether it listens there (port 0: anywhere) in so many processes."""
        status = self.status()
        wanted = len(cores()) if processes == "auto" else processes
        found = len(status.get("processes", [self.pid]))
        return status.get("host", host) == host and port in (0, status.get("port")) and found == wanted

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def alive(self) -> bool:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        try:
            return bool(self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def status(self) -> dict[str, Any]:
        """What the process says of itself: port, ready, and the revision of each loop. Empty before it speaks."""
        try:
            content: dict[str, Any] = json.loads((self._home.servers / f"{self.pid}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content

    def wait_for(self, loop: str, revision: int, *, patience: float = 30.0) -> None:
        """Return once the process serves at least this revision of the loop."""
        self._wait(
            lambda status: status.get("loops", {}).get(loop, -1) >= revision, f"reach revision {revision}", patience
        )

    def _wait(self, reached: Any, what: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not reached(self.status()):
            if not self.alive():
                code = getattr(self._process, "returncode", "a code that only its parent knew")
                if code == CannotListen.exit_code:
                    raise CannotListen(self.last_words(1))
                raise ServeError(f"The server ended with {code} before it could {what}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServeError(f"The server did not {what} within {patience:g} s: {self.last_words()}")
            time.sleep(POLL_SECONDS)

    def last_words(self, lines: int = 5) -> str:
        try:
            return (
                " / ".join(self._log.read_text("utf-8", "replace").strip().splitlines()[-lines:]) or "it said nothing"
            )
        except FileNotFoundError:
            return "it said nothing"

    def stop(self, *, patience: float = STOP_SECONDS) -> None:
        """Drain and end; by force after ``patience`` seconds, longer than the server gives itself."""
        if not self.alive():
            return
        group = os.getpgid(self.pid)
        os.killpg(group, signal.SIGTERM)
        try:
            self._process.wait(patience)
        except (subprocess.TimeoutExpired, psutil.TimeoutExpired):
            os.killpg(group, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> ServingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def check_address(host: str, port: int) -> None:
    """Raises CannotListen when nobody could listen there now."""
    try:
        listen(host, port, share_port=False).close()
    except (OSError, OverflowError) as error:
        raise CannotListen(cannot_listen(host, port, error)) from None


def hand_over(settings: ServerSettings, home: Home) -> None:
    """Write the settings where servers of this home follow them; an unchanged file is left alone."""
    data = encode(settings)
    try:
        if home.settings.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    write_atomically(home.settings, data, mode=0o600)


def handed_over(home: Home) -> ServerSettings:
    """What the servers of this home were given last; the defaults when nothing was, or nothing that can be read."""
    try:
        return read(home.settings)
    except SpecError:
        return ServerSettings()


def _server(file: Path, home: Home) -> psutil.Process | None:
    """The process that wrote this status file; None when it is gone, or when its number is somebody else's now."""
    try:
        process = psutil.Process(int(file.stem))
        command = process.cmdline()
        served = Path(process.cwd()) / command[command.index("--home") + 1]
    except (ValueError, IndexError, psutil.Error):
        return None
    return process if "everloop.serve" in command and served.resolve() == home.root.resolve() else None
