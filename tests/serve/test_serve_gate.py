"""Who may come in: keys that are missing, wrong, expired, revoked, replaced or for something else; CORS; request ids."""

import re
import stat
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from everloop.errors import NotFound, RequestError, SpecError, StoreError
from everloop.serve import keys, urgency
from everloop.serve.application import Application
from everloop.serve.exchange import Exchange
from everloop.serve.gate import Gate, network
from everloop.serve.http import Connection
from everloop.serve.keys import Keyring, Priority
from everloop.serve.settings import Cors, Limits, ServerSettings, encode
from everloop.serve.urgency import HIGH, LOW, NORMAL
from everloop.testing.serving import Client, ServedHome, ServerProcess, signature_of

SIGNATURE = signature_of({"x": "number"})
ROW = {"x": 1}
PATIENCE = 10.0


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def guarded(served: ServedHome, *arguments: str, **fields: Any) -> ServerProcess:
    served.home.settings.write_bytes(encode(ServerSettings(**fields)))
    return served.serve("--settings", str(served.home.settings), *arguments)


def asked(client: Client, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, answer and the headers of this answer alone."""
    client.headers.clear()
    status, answer = client.ask(method, path, body, **headers)
    return status, answer, {name.decode(): value.decode() for name, value in client.headers.items()}


def eventually(said: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, dict[str, str]]]:
    served = home(tmp_path_factory.mktemp("gated"))
    now = time.time()

    def key(name: str, **fields: Any) -> str:
        return keys.add(served.home, name, now=now, **fields)

    made = {
        "good": key("good"),
        "expired": key("expired", seconds=0.0),
        "revoked": key("revoked"),
        "elsewhere": key("elsewhere", loops=("other",)),
        "here": key("here", loops=("made", "other")),
        "watcher": key("watcher", scopes=("operate",)),
    }
    keys.revoke(served.home, "revoked", now=now)
    with guarded(served, keys=True, operate="key") as server:
        yield server, made


# What is refused


@pytest.mark.parametrize(
    ("headers", "status", "reason", "words", "challenge"),
    [
        ({}, 401, "no_key", "asks for a key", 'Bearer realm="everloop"'),
        ({"authorization": ""}, 401, "no_key", "asks for a key", "Bearer"),
        ({"x_api_key": "x"}, 401, "wrong_key", "not one of this server's", "invalid_token"),
        ({"authorization": "Bearer el_000000000000_x"}, 401, "wrong_key", "not one of", "invalid_token"),
        ({"authorization": "Basic dXNlcjpwYXNz"}, 401, "wrong_key", "not one of", "invalid_token"),
        ({"authorization": "Bearer"}, 401, "wrong_key", "not one of", "invalid_token"),
        ({"x_api_key": "el_" * 100}, 401, "wrong_key", "not one of", "invalid_token"),
        ({"x_api_key": "KEY:expired"}, 401, "expired_key", "has expired; ask for a new one", "invalid_token"),
        ({"x_api_key": "KEY:revoked"}, 401, "revoked_key", "was revoked; ask for a new one", "invalid_token"),
        ({"x_api_key": "KEY:elsewhere"}, 403, "other_loop", "is for other, not for made", "insufficient_scope"),
        ({"x_api_key": "KEY:watcher"}, 403, "scope", "may operate; this takes one that may predict", "insufficient"),
    ],
)
def test_a_key_that_does_not_open_is_refused_with_the_reason(
    gated: tuple[ServerProcess, dict[str, str]],
    headers: dict[str, str],
    status: int,
    reason: str,
    words: str,
    challenge: str,
) -> None:
    server, made = gated
    sent = {
        name: made[value.removeprefix("KEY:")] if value.startswith("KEY:") else value for name, value in headers.items()
    }
    counted = re.compile(rf'everloop_refused_total{{code="{status}",reason="{reason}"}} (\d+)')
    with Client(server.port) as client:

        def count() -> int:
            found = counted.search(client.ask("GET", "/metrics", x_api_key=made["watcher"])[1].decode())
            return int(found[1]) if found else 0

        before = count()
        for path in ("/predict/made", "/predict", "/v2/models/made/infer", "/outcomes/made", "/predict/%6dade"):
            found, answer, told = asked(client, "POST", path, ROW, **sent)
            assert (found, words in answer["error"]) == (status, True), answer
            assert challenge in told["www-authenticate"]
        assert count() - before == 5


def test_a_wrong_secret_is_not_told_from_an_unknown_id(gated: tuple[ServerProcess, dict[str, str]]) -> None:
    server, made = gated
    with Client(server.port) as client:
        near = made["revoked"][:-1] + ("a" if made["revoked"][-1] != "a" else "b")
        answers = [client.post("/predict", ROW, x_api_key=each) for each in (near, "el_aaaaaaaaaaaa_" + "b" * 43)]
    assert answers[0] == answers[1]
    assert answers[0][0] == 401


def test_a_good_key_opens_in_either_header(gated: tuple[ServerProcess, dict[str, str]]) -> None:
    server, made = gated
    with Client(server.port) as client:
        for headers in (
            {"authorization": f"Bearer {made['good']}"},
            {"authorization": f"bearer   {made['good']}"},
            {"x_api_key": made["good"]},
            {"x_api_key": made["here"]},
        ):
            for _ in range(2):
                assert client.post("/predict/made", ROW, **headers)[0] == 200


def test_probes_need_no_key_and_nothing_else_does_without(gated: tuple[ServerProcess, dict[str, str]]) -> None:
    server, made = gated
    with Client(server.port) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "http://host/v2/health/%6cive"):
            assert client.get(path)[0] == 200
        for path in (
            "/v2",
            "/metrics",
            "/status",
            "/nothing",
            "/v2/models/made",
            "/v2/models/made/ready",
            "/v2/health",
        ):
            assert client.get(path)[0] == 401, path
        assert client.ask("GET", "/v2", x_api_key=made["good"])[0] == 200
        assert client.ask("GET", "/status", x_api_key=made["good"])[0] == 403
        assert client.ask("GET", "/status", x_api_key=made["watcher"])[0] == 200
        assert client.ask("GET", "/nothing", x_api_key=made["watcher"])[0] == 404


def test_an_operator_on_the_machine_needs_no_key_unless_told_otherwise(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, keys=True) as server, Client(server.port) as client:
        assert client.get("/metrics")[0] == 200
        assert client.get("/status")[0] == 200
        assert client.get("/v2")[0] == 401


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_stranger_is_refused_before_his_body_is_read(
    gated: tuple[ServerProcess, dict[str, str]], framing: str
) -> None:
    server, made = gated
    size = 8 * 2**20
    for key, expected in (("el_a_b", 401), (made["expired"], 401), (made["elsewhere"], 403), (made["good"], 400)):
        head = f"POST /predict/made HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n".encode()
        with Client(server.port) as client:
            if framing == "length":
                client.send(head + b"content-length: %d\r\n\r\n" % size + b" " * 100_000)
                rest = b" " * (size - 100_000)
            else:
                client.send(head + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % size + b" " * 100_000)
                rest = b" " * (size - 100_000) + b"\r\n0\r\n\r\n"
            if expected == 400:  # who may come in is read to the end
                client.send(rest)
            ((status, answer),) = client.answers(1)
            assert status == expected
            assert b"error" in answer
            assert (b"www-authenticate" in client.headers) == (expected != 400)


# What changes without a restart


def test_keys_are_followed_without_a_restart(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, keys=True) as server, Client(server.port) as client:

        def status(key: str) -> int:
            return client.post("/predict", ROW, x_api_key=key)[0]

        assert status("el_a_b") == 401
        first = keys.add(served.home, "partner", now=time.time())
        eventually(lambda: status(first) == 200)
        second = keys.rotate(served.home, "partner", now=time.time(), overlap=60.0)
        eventually(lambda: status(second) == 200)
        assert status(first) == 200
        third = keys.rotate(served.home, "partner", now=time.time(), overlap=0.0)
        eventually(lambda: status(third) == 200)
        assert status(first) == status(second) == 401
        assert keys.revoke(served.home, "partner", now=time.time()) == 1
        eventually(lambda: status(third) == 401)


def test_a_key_ends_at_its_time_while_the_server_runs(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, keys=True) as server, Client(server.port) as client:
        key = keys.add(served.home, "brief", now=time.time(), seconds=3.0)
        eventually(lambda: client.post("/predict", ROW, x_api_key=key)[0] == 200)
        eventually(lambda: client.post("/predict", ROW, x_api_key=key)[0] == 401)
        assert "has expired" in client.post("/predict", ROW, x_api_key=key)[1]["error"]


def test_a_broken_key_file_changes_nothing(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "partner", now=time.time())
    with guarded(served, keys=True) as server, Client(server.port) as client:
        assert client.post("/predict", ROW, x_api_key=key)[0] == 200
        keys.path_of(served.home).write_text("{")
        eventually(lambda: "keys refused" in server.log.read_text())
        assert client.post("/predict", ROW, x_api_key=key)[0] == 200
        assert client.post("/predict", ROW)[0] == 401


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [("hash", "secret", "64 hexadecimal digits"), ("rate", "often", "'often'"), ("quota", "10/s", "'10/s'")],
)
def test_a_key_file_that_could_not_be_served_is_no_key_file(tmp_path: Path, field: str, value: str, word: str) -> None:
    served = home(tmp_path)
    keys.add(served.home, "partner", now=time.time())
    path = keys.path_of(served.home)
    path.write_bytes(
        msgspec.json.encode({"keys": [msgspec.json.decode(path.read_bytes())["keys"][0] | {field: value}]})
    )
    with pytest.raises(StoreError, match=word) as refused:
        keys.read(path)
    assert "Put its last good copy back" in str(refused.value)


def test_paths_and_keys_of_many_kilobytes_are_not_remembered(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "partner", now=time.time()).encode()
    ring = Keyring(keys.read(keys.path_of(served.home)))
    gate = Gate(ServerSettings(keys=True), keyring=ring, usage=None, addresses=None)
    connection = Connection(Application([]))
    tracemalloc.start()
    try:
        for n in range(500):
            url = b"/predict/made?%d" % n + b"x" * 16_000
            padded = b"bearer " + b" " * 8_000 + b"%d" % n
            assert gate.admit(Exchange(connection, b"POST", url), {b"x-api-key": key}, b"")
            with pytest.raises(RequestError):
                gate.admit(Exchange(connection, b"POST", url), {b"authorization": padded}, b"")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000


def test_a_key_file_that_is_gone_opens_for_nobody(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "partner", now=time.time())
    with guarded(served, keys=True) as server, Client(server.port) as client:
        keys.path_of(served.home).unlink()
        eventually(lambda: client.post("/predict", ROW, x_api_key=key)[0] == 401)


def test_settings_are_followed_where_that_needs_no_restart(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served) as server, Client(server.port) as client:
        assert client.post("/predict", ROW)[0] == 200
        served.home.settings.write_bytes(encode(ServerSettings(keys=True, body_bytes=1)))
        eventually(lambda: client.post("/predict", ROW)[0] == 401)
        assert '"after_a_restart":["body_bytes"]' in server.log.read_text()
        served.home.settings.write_text('{"keys": 1}')
        eventually(lambda: "settings refused" in server.log.read_text())
        assert client.post("/predict", ROW)[0] == 401
        served.home.settings.write_bytes(encode(ServerSettings()))
        eventually(lambda: client.post("/predict", ROW)[0] == 200)


def test_settings_that_cannot_be_kept_to_are_refused_and_said(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.home.keys.mkdir(exist_ok=True)
    (served.home.keys / "usage").mkdir()  # where requests would be counted
    with guarded(served) as server, Client(server.port) as client:
        served.home.settings.write_bytes(encode(ServerSettings(keys=True)))
        eventually(lambda: "settings refused" in server.log.read_text())
        assert client.post("/predict", ROW)[0] == 200
        assert "Traceback" not in server.log.read_text()
        served.home.settings.write_bytes(encode(ServerSettings(request_ids=True)))
        eventually(lambda: '"now":["request_ids"]' in server.log.read_text())


# The file


def test_a_key_is_kept_hashed_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    served = home(tmp_path)
    made = keys.add(served.home, "partner", now=1.0, rate="5/s", quota_="9/d", priority="low", loops=("made",))
    path = keys.path_of(served.home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_text()
    assert made not in content
    assert made.split("_", 2)[2] not in content
    (kept,) = keys.read(path).keys
    assert (kept.name, kept.rate, kept.quota, kept.priority, kept.loops) == ("partner", "5/s", "9/d", "low", ("made",))
    assert len(made.split("_", 2)[2]) == 43


def test_a_rotated_key_keeps_everything_and_its_lifetime(tmp_path: Path) -> None:
    served = home(tmp_path)
    keys.add(served.home, "partner", now=1_000.0, seconds=500.0, rate="5/s", scopes=("predict", "operate"))
    keys.rotate(served.home, "partner", now=1_200.0, overlap=600.0)
    old, new = keys.read(keys.path_of(served.home)).keys
    assert (old.expires, new.created, new.expires) == (1_500.0, 1_200.0, 1_700.0)  # never longer than it had
    assert (new.rate, new.scopes) == (old.rate, old.scopes)
    assert new.hash != old.hash


@pytest.mark.parametrize("name", ["", " ", "a b", "ä", "-x", "x" * 64, "a\nb"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="write at most 63"):
        keys.add(home(tmp_path).home, name, now=0.0)


def test_names_are_one_active_key_each_and_unknown_ones_are_said(tmp_path: Path) -> None:
    served = home(tmp_path)
    keys.add(served.home, "partner", now=0.0)
    with pytest.raises(StoreError, match="keys rotate partner"):
        keys.add(served.home, "partner", now=0.0)
    with pytest.raises(NotFound, match="there are: partner"):
        keys.revoke(served.home, "other", now=0.0)
    keys.revoke(served.home, "partner", now=0.0)
    with pytest.raises(NotFound, match="there are: none"):
        keys.rotate(served.home, "partner", now=0.0, overlap=1.0)
    keys.add(served.home, "partner", now=0.0)


# Classes


@pytest.mark.parametrize(
    ("priority", "asked_for", "given"),
    [
        ("high", b"high", HIGH),
        ("normal", b"high", NORMAL),
        ("normal", b"low", LOW),
        ("low", b"high", LOW),
        ("low", None, LOW),
        ("high", None, NORMAL),
    ],
)
def test_nobody_is_put_before_the_class_of_his_key(
    tmp_path: Path, priority: Priority, asked_for: bytes | None, given: int
) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "caller", now=time.time(), priority=priority)
    ring = Keyring(keys.read(keys.path_of(served.home)))
    gate = Gate(ServerSettings(keys=True), keyring=ring, usage=None, addresses=None)
    exchange = Exchange(Connection(Application([])), b"POST", b"/predict/made")
    headers = {b"x-api-key": key.encode()} | ({} if asked_for is None else {urgency.PRIORITY: asked_for})
    assert gate.admit(exchange, headers, b"")
    urgency.read(exchange, headers)
    assert exchange.priority == given


# Request ids and CORS


def test_a_request_id_is_echoed_or_made(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, request_ids=True) as server, Client(server.port) as client:
        assert asked(client, "POST", "/predict", ROW, x_request_id="abc-1/2")[2]["x-request-id"] == "abc-1/2"
        made = [asked(client, "POST", "/predict", ROW)[2]["x-request-id"] for _ in range(3)]
        assert len(set(made)) == 3
        for bad in ("x" * 129, "a b", "ä".encode().decode("latin-1"), '"\t"'):
            told = asked(client, "GET", "/v2", x_request_id=bad)[2]["x-request-id"]
            assert told != bad
            assert re.fullmatch(r"[!-~]{1,128}", told)
        assert asked(client, "POST", "/predict", {"y": 1}, x_request_id="bad-row")[2]["x-request-id"] == "bad-row"
        assert asked(client, "GET", "/nothing", x_request_id="gone")[2]["x-request-id"] == "gone"


def test_without_a_declaration_no_page_of_another_origin_is_allowed_anything(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served) as server, Client(server.port) as client:
        status, _, told = asked(client, "POST", "/predict", ROW, origin="https://example.com")
        assert status == 403
        assert not [name for name in told if name.startswith("access-control") or name == "x-request-id"]
        preflight = asked(client, "OPTIONS", "/predict", origin="https://e.com", access_control_request_method="POST")
        assert preflight[0] == 403


def test_a_declared_origin_may_ask_and_its_browser_is_answered_without_a_key(tmp_path: Path) -> None:
    served = home(tmp_path)
    cors = Cors(origins=("https://example.com",), methods=("POST",), headers=("x-api-key",), seconds=60)
    key = keys.add(served.home, "page", now=time.time())
    with guarded(served, keys=True, cors=cors) as server, Client(server.port) as client:
        question = {"access_control_request_method": "POST", "access_control_request_headers": "x-api-key"}
        status, _, told = asked(client, "OPTIONS", "/predict", origin="https://example.com", **question)
        assert status == 200
        assert told["access-control-allow-origin"] == "https://example.com"
        assert (told["access-control-allow-methods"], told["access-control-allow-headers"]) == ("POST", "x-api-key")
        assert (told["access-control-max-age"], told["vary"]) == ("60", "origin")
        assert "access-control-allow-credentials" not in told
        for headers, expected in (({}, 401), ({"x_api_key": key}, 200)):
            status, _, told = asked(client, "POST", "/predict", ROW, origin="https://example.com", **headers)
            assert (status, told["access-control-allow-origin"]) == (expected, "https://example.com")
        for origin in ("https://evil.com", "null", "https://example.com.evil.com"):
            status, _, told = asked(client, "OPTIONS", "/predict", origin=origin, **question)
            assert not [name for name in told if name.startswith("access-control")], origin


def test_every_origin_may_ask_where_that_is_declared(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, cors=Cors(origins=("*",))) as server, Client(server.port) as client:
        told = asked(client, "POST", "/predict", ROW, origin="https://any.where")[2]
        assert told["access-control-allow-origin"] == "*"


# Who an address is


def test_an_address_is_counted_as_one_customer_has_it() -> None:
    assert network("127.0.0.1") == "127.0.0.1"
    assert network("2001:db8::1") == network("2001:db8::ffff:1:2:3") == "2001:db8::/64"
    assert network("::ffff:127.0.0.1") == "127.0.0.1"
    assert network("") == ""


def test_a_limit_for_addresses_holds_without_keys(tmp_path: Path) -> None:
    served = home(tmp_path)
    with guarded(served, limits=Limits(address_rate="5/h")) as server:
        statuses = []
        for _ in range(2):  # a second connection is the same client
            with Client(server.port) as client:
                statuses += [client.post("/predict", ROW)[0] for _ in range(5)]
        assert statuses == [200] * 5 + [429] * 5
        with Client(server.port) as client:
            assert client.get("/v2/health/live")[0] == 200
            answer, told = asked(client, "POST", "/predict", ROW)[1:]
            assert "The address 127.0.0.1 may ask 5/h" in answer["error"]
            assert 3_400 < int(told["retry-after"]) <= 3_672
