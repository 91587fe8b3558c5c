"""Several serving processes on one port: starts them, replaces one that ends, ends them all. Serves nothing itself.

Each process listens on a socket of its own that shares the port; the kernel spreads new connections over them, and no
longer to a process that crashed. At a rolling restart the old process gives its socket to the new one, with the
connections that wait in it: none is refused, none is lost.
"""

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from everloop.serve.cores import cores
from everloop.serve.counts import Counts, clear_left
from everloop.serve.journal import say
from everloop.serve.notify import Notify
from everloop.serve.parent import Parent
from everloop.serve.sockets import DRAIN_SECONDS, GIVE, REPLACED, cannot_listen, listen
from everloop.store.files import write_atomically
from everloop.store.home import Home

LOOK_SECONDS = 1.0
"""How often it looks where nothing was told."""
SHORTEST_LIFE = 1.0
"""A process that ends sooner is started again only after a pause that doubles each time."""
LONGEST_PAUSE = 30.0
GIVING_SECONDS = 10.0
FIRST_ANSWER_SECONDS = 120.0
"""How long a process of a rolling restart may take to be ready before the old one is kept."""


class Place:
    """One of the processes, whichever has its place now."""

    def __init__(self, number: int, command: list[str], host: str, port: int) -> None:
        self.number = number
        self.pause = 0.0
        self.ended: float | None = None
        self.gone: list[int] = []
        """Processes that have ended and whose counts are still to be kept."""
        self.successor: subprocess.Popen[bytes] | None = None
        self.leaving: subprocess.Popen[bytes] | None = None
        """The one that was replaced and finishes what it has."""
        self.begun = self.left = 0.0
        """When the successor began, and when the one before it was told to leave."""
        self._command = command
        self._address = host, port
        self._channel: socket.socket
        """To ask the process for its socket."""
        self.process = self._begun()

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        return [each for each in (self.process, self.successor, self.leaving) if each is not None]

    def look(self) -> None:
        """Replace the process if it ended."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            return
        if self.ended is None:
            self.ended = now
            self.gone.append(self.process.pid)
            short = now - self.started < SHORTEST_LIFE
            self.pause = min(LONGEST_PAUSE, max(0.1, self.pause * 2)) if short else 0.0
            say("process ended", pid=self.process.pid, code=code, again_in=self.pause)
        if self.successor is not None:
            self.process, self.successor, self.ended = self.successor, None, None
        elif now - self.ended >= self.pause:
            self.process = self._begun()

    @property
    def due(self) -> float | None:
        """Seconds until it is started again; None while it runs."""
        return None if self.ended is None else max(0.0, self.ended + self.pause - time.monotonic())

    def succeed(self) -> bool:
        """Start the next process beside this one, on the same socket; False when it does not give it."""
        before = self._channel
        try:
            before.sendall(GIVE)
            _, given, _, _ = socket.recv_fds(before, 1, 1)
            taken = socket.socket(fileno=given[0])
        except (OSError, IndexError):
            return False
        self.begun = time.monotonic()
        self.successor = self._start(taken)
        before.close()
        return True

    def hand_over(self) -> None:
        """The successor is ready: this one may go."""
        assert self.successor is not None
        self.leaving, self.process, self.successor = self.process, self.successor, None
        self.started, self.left = self.begun, time.monotonic()
        self.leaving.send_signal(REPLACED)

    def give_up(self) -> None:
        """The successor is not wanted: this one stays."""
        if self.successor is not None:
            self.successor.kill()
            self.successor.wait()
            self.successor = None

    def _begun(self) -> subprocess.Popen[bytes]:
        self.ended = None
        self.started = time.monotonic()
        return self._start(listen(*self._address, share_port=True))

    def _start(self, taken: socket.socket) -> subprocess.Popen[bytes]:
        """A process that listens on ``taken``, which is then its alone: it goes when the process does."""
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(GIVING_SECONDS)
        with taken, theirs:
            given = [taken.fileno(), theirs.fileno()]
            # In the supervisor's own group: ending the group ends all of it.
            command = [*self._command, "--listen-on", str(given[0]), "--channel", str(given[1])]
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=given)


class Supervisor:
    def __init__(self, given: argparse.Namespace, arguments: Sequence[str], processes: int) -> None:
        """Raises OSError when the port cannot be had."""
        self._home = Home(given.home)
        self._host = given.host
        self._file = self._home.servers / f"{os.getpid()}.json"
        self._told: dict[str, Any] = {}
        self._rolling: list[Place] = []
        self._parent = Parent(given.parent) if given.parent is not None else None
        self._ending = self._asked = False
        self._notify = Notify()
        clear_left(self._home)
        self._held = [_held(given.host, port) for port in (given.port, given.grpc_port) if port is not None]
        self._ports: list[int] = [sock.getsockname()[1] for sock in self._held]
        ours = cores()
        self._places = []
        for number in range(processes):
            command = [sys.executable, "-m", "everloop.serve", *arguments, "--processes", "1"]
            for name, port in zip(("--port", "--grpc-port"), self._ports, strict=False):
                command += [name, str(port)]
            command += ["--leader", str(os.getpid()), "--of", str(processes)]
            if processes == len(ours):
                command += ["--core", str(ours[number])]
            self._places.append(Place(number, command, given.host, self._ports[0]))

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Returns 0 when all of them ended well."""
        woken, waker = socket.socketpair()
        woken.setblocking(False)
        waker.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._heard)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        if self._notify.watch([self._home.servers]):
            poll.register(self._notify.descriptor, select.POLLIN)
        if self._parent is not None and self._parent.descriptor >= 0:
            poll.register(self._parent.descriptor, select.POLLIN)
        while not self._ending:
            self._look()
            due = [each.due for each in self._places if each.due is not None]
            poll.poll(min([LOOK_SECONDS, *due]) * 1000)
            with suppress(BlockingIOError):
                woken.recv(4096)
            if self._notify.descriptor >= 0:
                self._notify.clear()
            if self._parent is not None and self._parent.gone:
                say("ending", pid=os.getpid(), because=f"process {self._parent.pid}, for which it runs, has ended")
                self._ending = True
        return self._end()

    def _heard(self, number: int, frame: Any) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._ending = True
        elif number == signal.SIGHUP:
            self._asked = True

    def _look(self) -> None:
        for place in self._places:
            place.look()
            self._bury(place)
        self._roll()
        now = self._together()
        if now != self._told:
            try:
                write_atomically(self._file, json.dumps(now).encode(), sync=False)
                self._told = now
            except Exception as error:  # a full disk must not end the serving
                say("servers file not written", because=str(error))

    def _bury(self, place: Place) -> None:
        """What a process had counted goes on being counted."""
        if not place.gone:
            return
        try:
            counts = Counts(self._home, os.getpid())
            while place.gone:
                counts.bury(place.gone[0])
                place.gone.pop(0)
        except Exception as error:  # a full disk: later
            say("counts not kept", because=str(error))

    def _roll(self) -> None:
        """One step of a rolling restart: a process at a time, each replaced only when the next one is ready."""
        if self._asked:
            self._asked = False
            self._rolling += [each for each in self._places if each not in self._rolling]
            say("rolling restart", processes=len(self._rolling))
        while self._rolling:
            place = self._rolling[0]
            if place.leaving is not None:
                if place.leaving.poll() is None:
                    if time.monotonic() - place.left > DRAIN_SECONDS + 5:
                        place.leaving.kill()
                    return
                place.gone.append(place.leaving.pid)
                place.leaving = None
                self._rolling.pop(0)
            elif place.successor is None:
                if place.ended is not None:
                    return  # it crashed and is started again anyway
                if not place.succeed():
                    self._stop_rolling(place, f"process {place.process.pid} does not give its socket")
                return
            elif (worse := self._worse(place.process, place.successor)) is None:
                if place.successor.poll() is None and time.monotonic() - place.begun < FIRST_ANSWER_SECONDS:
                    return  # it does not listen yet
                self._stop_rolling(place, "the new process does not become ready")
            elif worse:
                self._stop_rolling(place, worse)
            else:
                say("process replaced", old=place.process.pid, new=place.successor.pid)
                place.hand_over()
                return

    def _stop_rolling(self, place: Place, because: str) -> None:
        say("rolling restart stopped", because=f"{because}; the old ones stay")
        place.give_up()
        self._rolling.clear()

    def _worse(self, old: subprocess.Popen[bytes], new: subprocess.Popen[bytes]) -> str | None:
        """What the new process does not serve and the old one does, "" when nothing; None while it does not listen."""
        before, after = self._said(old).get("loops", {}), self._said(new)
        if not after.get("ready"):
            return None
        lacking = [name for name, revision in before.items() if after["loops"].get(name, -1) < revision]
        problems = after.get("problems", {})
        return " ".join(problems.get(name, f"The new process does not serve {name}.") for name in lacking)

    def _said(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """What a process says of itself; empty before it speaks."""
        try:
            found: dict[str, Any] = json.loads((self._home.servers / f"{process.pid}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def _together(self) -> dict[str, Any]:
        """What all processes serve: the lowest revision of each loop."""
        said = [each for each in (self._said(place.process) for place in self._places) if each]
        loops: dict[str, int] = {}
        for each in said:
            for name, revision in each["loops"].items():
                loops[name] = min(revision, loops.get(name, revision))
        ready = len(said) == len(self._places) and all(each["ready"] for each in said)
        problems = {name: text for each in said for name, text in each.get("problems", {}).items()}
        return {
            "pid": os.getpid(),
            "host": self._host,
            "port": self._ports[0],
            "grpc_port": self._ports[1] if len(self._ports) > 1 else None,
            "loops": loops,
            "problems": problems,
            "ready": ready,
            "processes": [place.process.pid for place in self._places],
        }

    def _end(self) -> int:
        self._file.unlink(missing_ok=True)
        for place in self._places:
            place.give_up()
        everyone = [each for place in self._places for each in place.processes]
        for process in everyone:
            if process.poll() is None:
                process.terminate()
        code = 0
        deadline = time.monotonic() + DRAIN_SECONDS + 5
        for process in everyone:
            try:
                code = process.wait(max(0.1, deadline - time.monotonic())) or code
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = 1
        for sock in self._held:
            sock.close()
        Counts(self._home, os.getpid()).clear()
        self._notify.close()
        return 0 if code in (0, -signal.SIGTERM) else 1


def _held(host: str, port: int) -> socket.socket:
    """Bound and never listening: it holds the port for all of them and gets no connection itself. Raises OSError."""
    # Alone first: sharing the port with a stranger would succeed, and split its requests with ours.
    listen(host, port, share_port=False).close()
    return listen(host, port, share_port=True)


def supervise(given: argparse.Namespace, arguments: Sequence[str], processes: int) -> int:
    """Run ``processes`` processes until SIGTERM or SIGINT; SIGHUP replaces one after the other."""
    try:
        supervisor = Supervisor(given, arguments, processes)
    except (OSError, OverflowError) as error:
        port = given.port if given.grpc_port is None else f"{given.port} and {given.grpc_port}"
        print(cannot_listen(given.host, port, error), file=sys.stderr)
        return 7
    return supervisor.run()
