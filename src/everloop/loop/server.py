"""Starts and stops the serving process. Knows nothing of what it serves or how."""

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

from everloop.errors import ServeError
from everloop.store.home import Home

TOKEN_VARIABLE = "EVERLOOP_REPLAY_TOKEN"
POLL_SECONDS = 0.005


class ServingProcess:
    """A server in its own process group, so that ending it ends all of it and nothing else."""

    def __init__(self, process: subprocess.Popen[bytes], home: Home, log: Path) -> None:
        self._process = process
        self._home = home
        self._log = log
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
        patience: float = 30.0,
    ) -> ServingProcess:
        """Start and return once it listens. Raises ServeError with the server's own last words if it does not."""
        command = [sys.executable, "-m", "everloop.serve", "--home", str(home.root), "--host", host, "--port", str(port)]
        for loop in loops:
            command += ["--loop", loop]
        if processes > 1:
            command += ["--processes", str(processes)]
        environment = dict(os.environ)
        environment.pop(TOKEN_VARIABLE, None)
        if token is not None:
            environment[TOKEN_VARIABLE] = token
            command += ["--replay-token-env", TOKEN_VARIABLE]
        log = home.root / "server.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        server = cls(process, home, log)
        server._wait(lambda status: bool(status.get("ready")), "listen", patience)
        server.port = int(server.status()["port"])
        return server

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def status(self) -> dict[str, Any]:
        """What the process says of itself: port, ready, and the revision of each loop. Empty before it speaks."""
        try:
            content: dict[str, Any] = json.loads((self._home.servers / f"{self.pid}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return content

    def wait_for(self, loop: str, revision: int, *, patience: float = 30.0) -> None:
        """Return once the process serves at least this revision of the loop."""
        self._wait(lambda status: status.get("loops", {}).get(loop, -1) >= revision, f"reach revision {revision}", patience)

    def _wait(self, reached: Any, what: str, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not reached(self.status()):
            if not self.alive():
                raise ServeError(
                    f"The server ended with {self._process.returncode} before it could {what}: {self.last_words()}"
                )
            if time.monotonic() > deadline:
                raise ServeError(f"The server did not {what} within {patience:g} s: {self.last_words()}")
            time.sleep(POLL_SECONDS)

    def last_words(self, lines: int = 5) -> str:
        try:
            return " / ".join(self._log.read_text("utf-8", "replace").strip().splitlines()[-lines:]) or "it said nothing"
        except FileNotFoundError:
            return "it said nothing"

    def stop(self, *, patience: float = 10.0) -> None:
        """Drain and end; by force after ``patience`` seconds."""
        if not self.alive():
            return
        os.killpg(self.pid, signal.SIGTERM)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> ServingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
