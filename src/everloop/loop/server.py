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
from typing import Any

import psutil

from everloop.errors import ServeError, SpecError
from everloop.serve.settings import ServerSettings, encode, read
from everloop.store.files import write_atomically
from everloop.store.home import Home

TOKEN_VARIABLE = "EVERLOOP_REPLAY_TOKEN"
POLL_SECONDS = 0.005


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
        processes: int = 1,
        token: str | None = None,
        seed: int | None = None,
        settings: ServerSettings | None = None,
        patience: float = 30.0,
    ) -> ServingProcess:
        """Start and return once it listens. Raises ServeError with the server's own last words if it does not.

        Raises SpecError, and starts nothing, when ``host`` can be reached by others without a key.
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
        if processes > 1:
            command += ["--processes", str(processes)]
        if settings is not None:
            hand_over(settings, home)
            command += ["--settings", str(home.settings)]
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
        """A server of this home and these loops that runs already: one that a killed controller left behind."""
        for file in sorted(home.servers.glob("*.json")):
            process = _server(file, home)
            if process is None:
                file.unlink(missing_ok=True)  # It was killed and could not tidy up.
                continue
            server = cls(process, home)
            status = server.status()
            # Of several processes on one port the supervisor is the server; the others are its children.
            led = process.ppid() in _told(home)
            if not led and status.get("ready") and set(loops) == set(status.get("loops", {})):
                server.port = int(status["port"])
                return server
        return None

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

    def stop(self, *, patience: float = 10.0) -> None:
        """Drain and end; by force after ``patience`` seconds."""
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


def _told(home: Home) -> set[int]:
    return {int(file.stem) for file in home.servers.glob("*.json") if file.stem.isdigit()}


def _server(file: Path, home: Home) -> psutil.Process | None:
    """The process that wrote this status file; None when it is gone, or when its number is somebody else's now."""
    try:
        process = psutil.Process(int(file.stem))
        command = process.cmdline()
        served = Path(process.cwd()) / command[command.index("--home") + 1]
    except (ValueError, IndexError, psutil.Error):
        return None
    return process if "everloop.serve" in command and served.resolve() == home.root.resolve() else None
