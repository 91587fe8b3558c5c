"""Several serving processes on one port: starts them, replaces one that ends, ends them all. Serves nothing itself."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

from everloop.serve.journal import say
from everloop.serve.sockets import DRAIN_SECONDS, listen
from everloop.store.files import write_atomically
from everloop.store.home import Home

LOOK_SECONDS = 0.05
SHORTEST_LIFE = 1.0
"""A process that ends sooner is started again only after a pause that doubles each time."""
LONGEST_PAUSE = 30.0


class Place:
    """One of the processes, whichever has its place now."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self.pause = 0.0
        self.begin()

    def begin(self) -> None:
        # In the supervisor's own group: ending the group ends all of it.
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        self.started = time.monotonic()
        self.ended: float | None = None

    def look(self) -> None:
        """Replace the process if it ended."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            return
        if self.ended is None:
            self.ended = now
            short = now - self.started < SHORTEST_LIFE
            self.pause = min(LONGEST_PAUSE, max(0.1, self.pause * 2)) if short else 0.0
            say("process ended", pid=self.process.pid, code=code, again_in=self.pause)
        if now - self.ended >= self.pause:
            self.begin()


def supervise(given: argparse.Namespace, arguments: list[str]) -> int:
    """Run ``given.processes`` processes until SIGTERM or SIGINT. Returns 0 when all of them ended well."""
    home = Home(given.home)
    ending = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        # Bound and never listening: they hold the ports for all of them and get no connection themselves.
        wanted = {"--port": given.port, "--grpc-port": given.grpc_port}
        held = {name: listen(given.host, port, share_port=True) for name, port in wanted.items() if port is not None}
    except OSError as error:
        tried = " or ".join(str(port) for port in wanted.values() if port is not None)
        print(f"Cannot listen on {given.host}:{tried}: {error.strerror}. Choose another --port.", file=sys.stderr)
        return 7
    ports = {name: sock.getsockname()[1] for name, sock in held.items()}
    command = [sys.executable, "-m", "everloop.serve", *arguments, "--processes", "1", "--share-port"]
    for name, port in ports.items():
        command += [name, str(port)]
    places = [Place(command) for _ in range(given.processes)]
    file = home.servers / f"{os.getpid()}.json"
    told: dict[str, Any] = {}
    while not ending:
        for place in places:
            place.look()
        now = _together(home, places, ports)
        if now != told:
            write_atomically(file, json.dumps(now).encode(), sync=False)
            told = now
        time.sleep(LOOK_SECONDS)
    file.unlink(missing_ok=True)
    for place in places:
        if place.process.poll() is None:
            place.process.terminate()
    code = 0
    deadline = time.monotonic() + DRAIN_SECONDS + 5
    for place in places:
        try:
            code = place.process.wait(max(0.1, deadline - time.monotonic())) or code
        except subprocess.TimeoutExpired:
            place.process.kill()
            code = 1
    for sock in held.values():
        sock.close()
    return 0 if code in (0, -signal.SIGTERM) else 1


def _together(home: Home, places: list[Place], ports: Mapping[str, int]) -> dict[str, Any]:
    """What all processes serve: the lowest revision of each loop."""
    said: list[dict[str, Any]] = []
    for place in places:
        try:
            said.append(json.loads((home.servers / f"{place.process.pid}.json").read_bytes()))
        except (OSError, ValueError):
            continue
    loops: dict[str, int] = {}
    for each in said:
        for name, revision in each["loops"].items():
            loops[name] = min(revision, loops.get(name, revision))
    ready = len(said) == len(places) and all(each["ready"] for each in said)
    problems = {name: text for each in said for name, text in each.get("problems", {}).items()}
    return {
        "pid": os.getpid(),
        "port": ports["--port"],
        "grpc_port": ports.get("--grpc-port"),
        "loops": loops,
        "problems": problems,
        "ready": ready,
        "processes": [place.process.pid for place in places],
    }
