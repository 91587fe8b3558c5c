"""What keeps a loop up: it serves what the ledger says, survives what fails, and keeps one server, found again."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from everloop.errors import CannotListen, StoreFull
from everloop.loop.installation import install_all
from everloop.loop.server import ServingProcess
from everloop.loop.up import Upkeep
from everloop.serve.settings import ServerSettings, encode, read
from everloop.store.home import Home
from small_loop import SmallLoop, made_rows

PATIENCE = 60.0


class Kept:
    """One upkeep in a thread of this process."""

    def __init__(self, loop: SmallLoop, *, port: int = 0, processes: int = 1) -> None:
        self.said: list[str] = []
        self.told: list[str] = []
        self.stop = threading.Event()
        self.failed: BaseException | None = None
        self.installations = install_all(loop.file)
        self.upkeep = Upkeep(
            self.installations,
            host="127.0.0.1",
            port=port,
            processes=processes,
            every=timedelta(milliseconds=50),
            told=lambda decision: self.told.append(decision.action),
            said=self.said.append,
        )
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.upkeep.run(self.stop)
        except BaseException as error:
            self.failed = error

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def heard(self, text: str) -> bool:
        return any(text in line for line in self.said)

    def serves(self) -> str:
        """The line in which it says where."""
        self.until(lambda: self.heard("serving on") or not self.thread.is_alive())
        return next(line for line in self.said if "serving on" in line)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@contextmanager
def kept(
    loop: SmallLoop, *, port: int = 0, processes: int = 1, prepared: Callable[[Kept], None] = lambda each: None
) -> Iterator[Kept]:
    each = Kept(loop, port=port, processes=processes)
    prepared(each)
    each.thread.start()
    try:
        yield each
    finally:
        each.end()
        for installation in each.installations:
            installation.close()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No server outlives its test, whatever it was about."""
    yield
    for home in {file.parent.parent for file in tmp_path.rglob("servers/*.json")}:
        left = ServingProcess.find(Home(home), [SmallLoop.name])
        if left is not None:
            left.stop()


def servers(loop: SmallLoop) -> list[int]:
    return [int(file.stem) for file in Home(loop.home).servers.glob("*.json")]


def test_a_loop_without_a_version_makes_its_first_one_and_serves_it(small: SmallLoop) -> None:
    with kept(small) as up:
        assert "/predict/parcels" in up.serves()
        assert up.heard("no version yet: the first turn starts now")
        assert up.told == ["turn started", "released"]
        (server,) = servers(small)
        status = json.loads((Home(small.home).servers / f"{server}.json").read_bytes())
        assert status["loops"] == {"parcels": 1}
    assert up.failed is None
    assert servers(small) == [], "it drains the server that it kept"


def test_a_new_file_is_taken_in_and_a_new_turn_served_while_it_is_up(
    turned: SmallLoop, more_rows: pl.DataFrame
) -> None:
    turned.declare(retrain="el.Rows(250)", rollout="el.Direct()", checks='[el.check.NotNull("carrier")]')
    with kept(turned) as up:
        up.serves()
        turned.deliver("001", more_rows)
        up.until(lambda: "released" in up.told)
        found = ServingProcess.find(Home(turned.home), [turned.name])
        assert found is not None
        found.wait_for(turned.name, 2)


def test_what_fails_is_said_and_the_server_serves_all_the_same(turned: SmallLoop) -> None:
    def full(*given: object) -> None:
        raise StoreFull("No space is left.")

    def prepared(up: Kept) -> None:
        up.upkeep.turning[0].controller.look = full  # type: ignore[method-assign,assignment]
        up.upkeep.turning[0].controller.take_in = full  # type: ignore[method-assign,assignment]

    with kept(turned, prepared=prepared) as up:
        up.serves()
        up.until(lambda: up.said.count("StoreFull: No space is left.") > 5)
    assert up.failed is None


def test_an_error_that_nobody_thought_of_leaves_the_server_to_the_next_controller(turned: SmallLoop) -> None:
    with kept(turned) as up:
        up.serves()
        (server,) = servers(turned)

        def broken() -> None:
            raise RuntimeError("nobody thought of this")

        up.upkeep.turning[0].controller.look = broken  # type: ignore[method-assign,assignment]
        up.until(lambda: not up.thread.is_alive())
    assert isinstance(up.failed, RuntimeError)
    assert servers(turned) == [server]
    with kept(turned) as following:
        assert following.serves() == up.serves()
        assert servers(turned) == [server]
    assert servers(turned) == []
    assert up.upkeep._server is not None
    assert not up.upkeep._server.alive()


def test_of_two_controllers_one_keeps_the_server_and_the_other_leaves_it_alone(turned: SmallLoop) -> None:
    with kept(turned) as first:
        first.serves()
        (server,) = servers(turned)
        with kept(turned) as second:
            time.sleep(0.5)
            assert not second.heard("serving on")
        assert servers(turned) == [server], "ending the one that does not keep it ends nothing"
        assert not first.heard("ended by itself")


def test_a_server_left_on_another_port_drains_before_the_new_one_listens(turned: SmallLoop) -> None:
    left = ServingProcess.start(Home(turned.home), [turned.name])
    with ServingProcess.start(Home(turned.home), ["another"]) as another, kept(turned, port=free_port()) as up:
        line = up.serves()
        assert f":{left.port}/" not in line
        assert up.heard(f"the server left on port {left.port} drains")
        assert not left.alive()
        assert another.alive(), "the server of another loop is nobody's to end"


def test_only_a_server_of_this_home_and_loop_is_found(turned: SmallLoop, tmp_path: Path) -> None:
    home, other = Home(turned.home), Home(tmp_path / "other")
    for number in (os.getpid(), 2**22 + 1):  # a process that is no server, and none at all
        (home.servers / f"{number}.json").write_text('{"ready": true, "port": 1, "loops": {"parcels": 1}}')
    assert ServingProcess.find(home, [turned.name]) is None
    assert servers(turned) == [], "what a killed server could not tidy up is tidied up"

    with ServingProcess.start(home, [turned.name]) as server:
        (other.servers / f"{server.pid}.json").write_bytes((home.servers / f"{server.pid}.json").read_bytes())
        assert ServingProcess.find(other, [turned.name]) is None, "it serves another home"
        assert ServingProcess.find(home, [turned.name, "more"]) is None, "it serves other loops"
        found = ServingProcess.find(home, [turned.name])
        assert found is not None
        assert (found.pid, found.port) == (server.pid, server.port)
        assert found.alive()
        found.stop()
        assert not found.alive()


def test_several_processes_on_one_port_are_one_server(turned: SmallLoop) -> None:
    home = Home(turned.home)
    with ServingProcess.start(home, [turned.name], processes=2) as server:
        found = ServingProcess.find(home, [turned.name])
        assert found is not None
        assert found.pid == server.pid, "the one that leads the others"
        assert len(servers(turned)) == 3
        found.stop()
    assert servers(turned) == []


def test_a_server_left_in_one_process_drains_before_one_of_two_takes_its_place(turned: SmallLoop) -> None:
    left = ServingProcess.start(Home(turned.home), [turned.name])
    with kept(turned, port=left.port, processes=2) as up:
        assert f":{left.port}/" in up.serves()
        assert up.heard(f"the server left on port {left.port} drains")
        assert up.heard("in 2 processes")
        assert not left.alive()
        assert len(servers(turned)) == 3


def test_a_port_that_another_has_ends_it_at_once_with_one_error(turned: SmallLoop) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with kept(turned, port=taken.getsockname()[1]) as up:
            up.until(lambda: not up.thread.is_alive())
        assert isinstance(up.failed, CannotListen)
        assert up.said == []
        ended = turned.command("up", str(turned.file), "--port", str(taken.getsockname()[1]))
    assert ended.code == 7
    assert ended.err.splitlines()[-1].startswith("CannotListen: Cannot listen on 127.0.0.1:")
    assert "Traceback" not in ended.err
    assert servers(turned) == []


def test_two_loops_of_one_file_are_kept_by_one_controller_with_one_server(turned: SmallLoop) -> None:
    text = turned.file.read_text()
    second = text[text.index("loop = el.Loop") :].replace("loop = ", "other = ", 1).replace('"parcels"', '"boxes"', 1)
    turned.file.write_text(f"{text}\n\n{second}")
    with kept(turned) as up:
        up.serves()
        up.until(lambda: up.told.count("released") == 1)  # parcels was released before
        (server,) = servers(turned)
        told = Home(turned.home).servers / f"{server}.json"
        up.until(lambda: json.loads(told.read_bytes())["loops"] == {"parcels": 1, "boxes": 1})
        assert up.heard("boxes: no version yet: the first turn starts now")
        assert not up.heard("parcels: no version yet")
        assert len([line for line in up.said if "serving on" in line]) == 2
    assert up.failed is None
    assert servers(turned) == []


def free_port() -> int:
    import socket

    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def test_made_rows_are_as_the_seed_says() -> None:
    assert made_rows(20, seed=1).equals(made_rows(20, seed=1))
    assert not made_rows(20, seed=1).equals(made_rows(20, seed=2))
    assert (made_rows(20, seed=1)["late"] != made_rows(20, seed=1, flipped=True)["late"]).all()


def test_a_first_turn_that_failed_is_begun_again_when_rows_have_come(tmp_path: Path) -> None:
    loop = SmallLoop(tmp_path, rows=made_rows(8))
    with kept(loop) as up:
        up.until(lambda: "turn failed" in up.told)
        loop.deliver("001", made_rows(300, seed=1))
        up.serves()
    assert up.failed is None
    assert up.told == ["turn started", "turn failed", "turn started", "released"]


def test_a_server_that_was_left_with_other_settings_is_replaced(turned: SmallLoop) -> None:
    installation = turned.install()
    home = installation.home
    installation.close()
    home.settings.write_bytes(encode(ServerSettings(body_bytes=1_000)))
    with ServingProcess.start(home, [turned.name], settings=read(home.settings)) as left, kept(turned) as up:
        up.serves()
        assert up.heard("drains; body_bytes changed since it was started")
        assert not left.alive()
    assert read(home.settings) == ServerSettings()
