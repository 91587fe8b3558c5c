"""`everloop keys`: what it says, what it keeps, and that a running server follows it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from everloop.serve.settings import ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, signature_of
from small_loop import Ended

Everloop = Callable[..., Ended]


@pytest.fixture
def served(tmp_path: Path) -> ServedHome:
    made = ServedHome(tmp_path / ".everloop")
    made.seal(1, signature_of({"x": "number"}))
    made.release(1)
    return made


def test_a_key_is_shown_once_and_opens_a_running_server(everloop: Everloop, served: ServedHome) -> None:
    home = served.home.root
    served.home.settings.write_bytes(encode(ServerSettings(keys=True)))
    with served.serve("--settings", str(served.home.settings)) as server, Client(server.port) as client:

        def becomes(status: int, key: str) -> bool:
            end = time.monotonic() + 10
            while client.post("/predict", {"x": 1}, x_api_key=key)[0] != status and time.monotonic() < end:
                time.sleep(0.01)
            return client.post("/predict", {"x": 1}, x_api_key=key)[0] == status

        first = everloop("keys", "add", "partner", "--home", home, "--rate", "100/s", "--json").value["key"]
        assert becomes(200, first)
        second = everloop("keys", "rotate", "partner", "--home", home, "--overlap", "0", "--json").value["key"]
        assert becomes(200, second)
        assert becomes(401, first)
        assert everloop("keys", "revoke", "partner", "--home", home, "--json").value == {
            "name": "partner",
            "revoked": 1,
        }
        assert becomes(401, second)
    said = everloop("keys", "list", "--home", home)
    for key in (first, second):
        assert key.split("_", 2)[2] not in said.out + (home / "keys" / "api.json").read_text() + server.log.read_text()
    assert [each["state"] for each in everloop("keys", "list", "--home", home, "--json").value] == [
        "expired",
        "revoked",
    ]


def test_people_are_told_what_to_do_with_a_key_and_that_it_is_not_asked_for(
    everloop: Everloop, served: ServedHome
) -> None:
    said = everloop("keys", "add", "partner", "--home", served.home.root)
    assert said.out.startswith("el_")
    assert "shown once" in said.out
    assert "keys = true" in said.out
    served.home.settings.write_bytes(encode(ServerSettings(keys=True)))
    assert "keys = true" not in everloop("keys", "rotate", "partner", "--home", served.home.root).out


@pytest.mark.parametrize("lifetime", ["99999999999d", "nand", "infw", "36526d"])
def test_a_lifetime_beyond_the_calendar_is_a_mistake_on_the_command_line(
    everloop: Everloop, served: ServedHome, lifetime: str
) -> None:
    said = everloop("keys", "add", "partner", "--expires", lifetime, "--home", served.home.root)
    assert said.code == 2
    assert "a hundred years" in said.err
    assert json.loads(everloop("keys", "list", "--json", "--home", served.home.root).out) == []


def test_a_list_says_what_each_key_may(everloop: Everloop, served: ServedHome) -> None:
    home = served.home.root
    assert "everloop keys add NAME" in everloop("keys", "list", "--home", home).out
    everloop(
        "keys", "add", "partner", "--home", home, "--expires", "90d", "--rate", "100/s", "--quota", "1000/d",
        "--priority", "low", "--loop", "a", "--loop", "b", "--scope", "predict", "--scope", "operate",
    )  # fmt: skip
    (value,) = everloop("keys", "list", "--home", home.parent, "--json").value
    assert (value["rate"], value["quota"], value["priority"]) == ("100/s", "1000/d", "low")
    assert (value["loops"], value["scopes"], value["state"]) == (["a", "b"], ["predict", "operate"], "active")
    assert "hash" not in json.dumps(value)
    assert "partner" in everloop("keys", "list", "--home", home).out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "100"), "such as 100/s"),
        (("--rate", "100/d"), "such as 100/s"),
        (("--quota", "100/s"), "such as 100/d"),
        (("--expires", "soon"), "not a duration"),
        (("--priority", "urgent"), "high, normal or low"),
        (("--scope", "all"), "predict or operate"),
    ],
)
def test_a_limit_that_is_none_is_a_mistake_of_the_command_line(
    everloop: Everloop, served: ServedHome, options: tuple[str, str], said: str
) -> None:
    ended = everloop("keys", "add", "partner", "--home", served.home.root, *options)
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert not (served.home.keys / "api.json").exists()


def test_a_name_that_there_is_or_is_not(everloop: Everloop, served: ServedHome) -> None:
    home = served.home.root
    assert everloop("keys", "revoke", "partner", "--home", home).code == 11
    assert everloop("keys", "add", "partner", "--home", home).code == 0
    twice = everloop("keys", "add", "partner", "--home", home)
    assert (twice.code, "everloop keys rotate partner" in twice.err) == (10, True)
    assert everloop("keys", "add", "not a name", "--home", home).code == 2
