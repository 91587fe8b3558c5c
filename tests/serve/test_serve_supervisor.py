"""Several processes on one port: a crash costs nobody else anything, a restart nothing at all, and nobody is left over."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from everloop.errors import CannotListen
from everloop.loop.server import STOP_SECONDS, ServingProcess, check_address
from everloop.serve.cores import cores
from everloop.serve.parent import Parent
from everloop.serve.sockets import DRAIN_SECONDS
from everloop.store.home import Home
from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of

SIGNATURE = signature_of({"x": "number"}, key=("k",))
PATIENCE = 30.0


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    served.release(1)
    return served


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


class Asking:
    """Asks from threads, each time on a new connection or always on the same, and keeps what went wrong."""

    def __init__(self, port: int, *, keep: bool, threads: int = 3) -> None:
        self._port, self._keep = port, keep
        self._stop = threading.Event()
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        client: Client | None = None
        for n in range(20_000):
            if self._stop.is_set():
                break
            try:
                client = client or Client(self._port)
                client.headers.clear()
                status, answer = client.post("/predict", {"x": 1.0, "k": f"{number}-{n}"})
                self.answered.append(answer["id"])
                if status != 200:
                    self.failed.append(str(status))
                if not self._keep or client.headers.get(b"connection") == b"close":
                    client.close()
                    client = None
            except (OSError, ValueError) as error:  # ValueError: closed without an answer
                self.failed.append(type(error).__name__)
                if client is not None:
                    client.close()
                client = None
        if client is not None:
            client.close()

    def more(self, count: int) -> None:
        """Return when ``count`` more were answered."""
        wanted = len(self.answered) + count
        until(lambda: len(self.answered) >= wanted)

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *ended: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def processes(server: ServerProcess) -> list[int]:
    found: list[int] = server.told().get("processes", [])
    return found


def logged(served: ServedHome) -> list[str]:
    return [id for frame in served.predictions() for id in frame.ids]


def test_when_processes_are_killed_under_load_the_others_go_on_and_no_connection_is_refused(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve("--processes", "3") as server, Asking(server.port, keep=False) as asking:
        asking.more(50)
        for _ in range(4):
            before = processes(server)
            os.kill(before[0], signal.SIGKILL)
            asking.more(100)
            server.wait(lambda told: bool(told.get("ready")) and before[0] not in told["processes"])  # noqa: B023
        asking.more(100)
    assert "ConnectionRefusedError" not in asking.failed
    # Lost is what the killed one had taken on: at most, of each of three clients, the request that it answered and one
    # more that came while the system was taking it apart.
    assert len(asking.failed) <= 4 * 3 * 2


def test_a_rolling_restart_replaces_every_process_and_fails_no_request(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve("--processes", "2") as server:
        before = processes(server)
        with Asking(server.port, keep=False) as new, Asking(server.port, keep=True) as kept:
            new.more(50)
            kept.more(50)
            server.process.send_signal(signal.SIGHUP)
            server.wait(lambda told: bool(told.get("ready")) and not set(before) & set(told["processes"]))
            until(lambda: not any(psutil.pid_exists(pid) for pid in before))
            new.more(50)
            kept.more(50)
        assert new.failed == []
        assert kept.failed == []
        assert server.terminate() == 0
    answered = [*new.answered, *kept.answered]
    assert sorted(logged(served)) == sorted(answered), "every answer is in the log, once"


def test_a_rolling_restart_onto_a_package_that_is_no_longer_sound_keeps_the_processes_that_serve(
    tmp_path: Path,
) -> None:
    served = home(tmp_path)
    with served.serve("--processes", "2") as server:
        before = processes(server)
        place = served.home.packages / served.versions[1] / "model.onnx"
        place.write_bytes(place.read_bytes()[:-1] + b"?")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "rolling restart stopped" in server.log.read_text())
        assert "model.onnx does not match the manifest" in server.log.read_text()
        assert processes(server) == before
        with Client(server.port) as client:
            assert client.post("/predict", {"x": 1})[0] == 200


def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve("--processes", "2") as server:
        ours = processes(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE)
        until(lambda: not any(psutil.pid_exists(pid) for pid in ours))


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_server_that_runs_for_another_process_ends_when_that_is_killed(count: str, tmp_path: Path) -> None:
    served = home(tmp_path)
    command = [sys.executable, "-m", "everloop.serve", "--home", str(tmp_path), "--loop", "made", "--processes", count]
    code = f"import os, subprocess, time; subprocess.Popen([*{command!r}, '--parent', str(os.getpid())], start_new_session=True); time.sleep(60)"
    with (tmp_path / "server.log").open("ab") as output:
        starter = subprocess.Popen([sys.executable, "-c", code], stderr=output)
    told: list[dict[str, object]] = []

    def serves() -> bool:
        told[:] = []
        for file in served.home.servers.glob("*.json"):
            with suppress(OSError, ValueError):
                told.append(json.loads(file.read_bytes()))
        return sum(bool(each["ready"]) for each in told) == (1 if count == "1" else 3)

    until(serves)
    starter.kill()
    starter.wait()
    until(lambda: not any(psutil.pid_exists(int(str(each["pid"]))) for each in told))
    assert "has ended" in (tmp_path / "server.log").read_text()


def test_a_parent_that_was_gone_before_is_seen_too() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert Parent(ended.pid).gone
    assert not Parent(os.getpid()).gone
    assert not Parent(1).gone


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_port_that_cannot_be_had_is_said_in_one_line(count: str, tmp_path: Path) -> None:
    home(tmp_path)
    command = [sys.executable, "-m", "everloop.serve", "--home", str(tmp_path), "--loop", "made", "--processes", count]
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for given in (["--port", port], ["--host", "2001:db8::1", "--open-to-the-world"]):
            found = subprocess.run([*command, *given], capture_output=True, text=True, timeout=60)
            assert found.returncode == 7
            said = [line for line in found.stderr.splitlines() if not line.startswith("{")]
            assert len(said) == 1
            assert said[0].startswith("Cannot listen on ")
            assert said[0].endswith("Choose another --port or --host.")
        with pytest.raises(CannotListen, match="Address already in use"):
            ServingProcess.start(Home(tmp_path), ["made"], port=int(port))
        with pytest.raises(CannotListen):
            check_address("127.0.0.1", int(port))
    check_address("127.0.0.1", int(port))


def test_two_supervisors_do_not_share_a_port_by_accident(tmp_path: Path) -> None:
    served = home(tmp_path / "one")
    home(tmp_path / "other")
    with served.serve("--processes", "2") as server:
        found = subprocess.run(
            [
                sys.executable, "-m", "everloop.serve", "--home", str(tmp_path / "other"), "--loop", "made",
                "--processes", "2", "--port", str(server.port),
            ],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert found.returncode == 7


def test_with_a_process_for_each_core_each_has_its_own(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve("--processes", "auto") as server:
        ours = processes(server) or [server.process.pid]
        assert len(ours) == len(cores())
        if len(ours) > 1:
            bound = [os.sched_getaffinity(pid) for pid in ours]
            assert sorted(core for each in bound for core in each) == cores()
        with Client(server.port) as client:
            assert client.post("/predict", {"x": 1})[0] == 200


def test_a_container_that_pays_for_fewer_cores_is_believed(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    everything = cores(quota)
    assert everything == sorted(os.sched_getaffinity(0))
    for text, count in (("max 100000", len(everything)), ("50000 100000", 1), ("nonsense", len(everything))):
        quota.write_text(text)
        assert len(cores(quota)) == count


def test_a_crashing_process_is_started_again_ever_more_slowly_and_the_port_stays_usable(tmp_path: Path) -> None:
    served = home(tmp_path)
    crashing = (
        "import os, sys\n"
        "if '--leader' in sys.argv and os.path.exists(sys.argv[sys.argv.index('--home') + 1] + '/crash'): os._exit(9)"
    )
    folder = tmp_path / "started"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(crashing)
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    before = f"import os; os.environ['PYTHONPATH'] = {path!r}"
    with served.serve("--processes", "2", before=before) as server:
        first = processes(server)
        (tmp_path / "crash").touch()
        os.kill(first[0], signal.SIGKILL)
        until(lambda: server.log.read_text().count('"process ended"') >= 4)
        pauses = [
            json.loads(line)["again_in"] for line in server.log.read_text().splitlines() if '"process ended"' in line
        ]
        assert pauses == sorted(pauses)
        assert pauses[-1] >= 0.4
        for _ in range(30):
            with Client(server.port) as client:
                assert client.post("/predict", {"x": 1})[0] == 200
        (tmp_path / "crash").unlink()
        server.wait(lambda told: bool(told.get("ready")) and first[0] not in told["processes"])


def test_whoever_stops_a_server_waits_longer_than_it_drains() -> None:
    assert STOP_SECONDS > DRAIN_SECONDS + 5


def test_one_process_says_that_it_cannot_be_replaced_by_itself_and_goes_on(tmp_path: Path) -> None:
    served = home(tmp_path)
    with served.serve() as server, Client(server.port) as client:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "no rolling restart" in server.log.read_text())
        client.send(message("POST", "/predict", {"x": 1}))
        assert client.answers(1)[0][0] == 200
