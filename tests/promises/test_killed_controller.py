"""Promise 2: the controller is killed during a canary; serving goes on, and so does the canary at the same share."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from everloop.cli.app import run_app
from everloop.loop.server import ServingProcess
from everloop.loop.traffic import Traffic
from everloop.store.home import Home
from everloop.store.lake import Lake
from everloop.testing import crash
from small_loop import SmallLoop, made_rows

SHARE = 0.3
CANARY = f"el.Canary(shares=({SHARE},), shadow=False, guards=(el.guard.Errors(),), minimum_requests=10**9, longest=td(days=365))"
PATIENCE = 60.0
COMMAND = [sys.executable, "-c", "from everloop.cli import main; main()"]


class Up:
    """A real `everloop up`."""

    def __init__(self, loop: SmallLoop, name: str) -> None:
        self.said = loop.folder / f"{name}.out"
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [*COMMAND, "up", str(loop.file), "--port", "0", "--every", "0.2"], stdout=out, stderr=out
            )

    def port(self) -> int:
        """The port it serves on, once it says so."""
        return int(self.says(r"serving on http://127\.0\.0\.1:(\d+)/"))

    def says(self, pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(pattern, self.said.read_text("utf-8"))
            if found is not None:
                return found.group(1)
            time.sleep(0.02)
        raise TimeoutError(f"it never said {pattern!r}, but: {self.said.read_text('utf-8')}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Client(threading.Thread):
    """Asks without a pause, over connections that last for twenty requests."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.versions: list[int] = []
        self.failed: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        rows = made_rows(1_000, seed=5).drop("late").with_columns(pl.col("sent").dt.to_string("iso:strict"))
        asked = rows.to_dicts()
        sent = 0
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                for _ in range(20):
                    row = {**asked[sent % len(asked)], "parcel": f"asked-{sent}"}
                    connection.request("POST", "/predict/parcels", json.dumps(row))
                    sent += 1
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                    if response.status != 200:
                        raise OSError(f"{response.status}: {answer}")
                    self.versions.append(answer["version"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            finally:
                connection.close()

    def more(self, count: int) -> Counter[int]:
        """Wait for so many more answers; which versions gave them."""
        begin, deadline = len(self.versions), time.monotonic() + PATIENCE
        while len(self.versions) < begin + count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(self.versions) >= begin + count, self.failed[:3]
        return Counter(self.versions[begin:])

    def end(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def asking(port: int) -> Iterator[Client]:
    client = Client(port)
    client.start()
    try:
        yield client
    finally:
        client.end()


def released(loop: SmallLoop) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Home(loop.home).release_file(loop.name).read_bytes())
    return content


def servers(loop: SmallLoop) -> list[int]:
    return sorted(int(file.stem) for file in Home(loop.home).servers.glob("*.json"))


@pytest.fixture
def canary(turned: SmallLoop, more_rows: pl.DataFrame) -> SmallLoop:
    """Version 2 takes 30 % of the traffic."""
    turned.declare(rollout=CANARY)
    turned.deliver("001", more_rows)
    assert run_app(["run", str(turned.file)]) == 0
    assert (released(turned)["stage"], released(turned)["share"]) == ("canary", SHARE)
    return turned


def test_a_controller_killed_during_a_canary_is_missed_by_no_request(canary: SmallLoop) -> None:
    before = released(canary)
    ups = [Up(canary, "first")]
    try:
        port = ups[0].port()
        (server,) = servers(canary)
        with asking(port) as client:
            client.more(100)
            ups[0].kill()
            alone = client.more(200)
            assert set(alone) == {1, 2}, "both versions answer while nobody controls"

            ups.append(Up(canary, "second"))
            assert ups[1].port() == port, "the server is found again, no second one is started"
            assert servers(canary) == [server]
            assert released(canary) == before, "the canary goes on at the same share"
            back = client.more(600)
            assert abs(back[2] / back.total() - SHARE) < 0.1

            ups.append(Up(canary, "third"))  # stands by: one controller keeps the server
            client.more(50)
            ups[1].kill()
            assert ups[2].port() == port
            client.more(50)
        assert client.failed == []
        assert released(canary) == before
        ups[2].process.send_signal(signal.SIGTERM)
        assert ups[2].process.wait(PATIENCE) == 0
        assert servers(canary) == []
        assert not psutil.pid_exists(server)
    finally:
        for up in ups:
            up.kill()
        left = ServingProcess.find(Home(canary.home), [canary.name])
        if left is not None:
            left.stop()

    with canary.controller() as controller:
        controller.look()
    logged = Lake(Home(canary.home).lake(canary.name)).read("predictions")
    assert logged["id"].n_unique() == len(logged) == len(client.versions), "every answer is in the log, once"


@pytest.fixture(scope="module")
def logged(turned_once: SmallLoop, tmp_path_factory: pytest.TempPathFactory) -> SmallLoop:
    """300 predictions and 200 outcomes in the server's log, nothing of it in the lake yet."""
    loop = turned_once.copy(tmp_path_factory.mktemp("logged"))
    rows = made_rows(300, seed=6)
    asked = rows.drop("late").with_columns(pl.col("sent").dt.epoch("us")).to_dicts()
    times = rows["sent"].dt.epoch("us").to_list()
    with ServingProcess.start(Home(loop.home), [loop.name], token="a token") as server:
        traffic = Traffic(server.port, loop.name, "a token")
        traffic.predict(asked, times, rows["parcel"].to_list())
        traffic.outcomes(rows["parcel"].to_list()[:200], rows["late"].to_list()[:200], times[:200])
        traffic.close()
        assert traffic.failed == 0
    return loop


@pytest.mark.parametrize("point", [point for point in crash.OTHERS if point.startswith("fold.")])
def test_a_controller_killed_while_it_folds_the_log_loses_and_doubles_nothing(
    point: str, logged: SmallLoop, tmp_path: Path
) -> None:
    loop = logged.copy(tmp_path)
    killed = loop.command("up", str(loop.file), "--port", "0", crash_at=point)
    assert killed.code == -signal.SIGKILL, killed.err
    with loop.controller() as controller:
        controller.look()
        controller.look()
    lake = Lake(Home(loop.home).lake(loop.name))
    for table, count in (("predictions", 300), ("outcomes", 200)):
        rows = lake.read(table)
        assert rows["id"].n_unique() == len(rows) == count


def test_a_server_killed_behind_its_controller_is_started_again_on_its_port(turned: SmallLoop) -> None:
    up = Up(turned, "only")
    try:
        port = up.port()
        (server,) = servers(turned)
        os.kill(server, signal.SIGKILL)
        up.says("(the server ended by itself)")
        deadline = time.monotonic() + PATIENCE
        while servers(turned) in ([], [server]) and time.monotonic() < deadline:
            time.sleep(0.02)
        with asking(port) as client:
            assert set(client.more(20)) == {1}
        assert client.failed == []
        up.process.send_signal(signal.SIGTERM)
        assert up.process.wait(PATIENCE) == 0
    finally:
        up.kill()
        left = ServingProcess.find(Home(turned.home), [turned.name])
        if left is not None:
            left.stop()
