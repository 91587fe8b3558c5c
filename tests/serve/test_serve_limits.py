"""Limits are exact: whoever asks, over however many processes, in any window, across restarts and clocks that jump."""

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

import httptools
import pytest

from everloop.errors import RequestError
from everloop.serve import keys
from everloop.serve.limits import PARTS, Allowance, Usage, name_of
from everloop.serve.rates import Rate, quota
from everloop.serve.settings import Limits, ServerSettings, encode
from everloop.testing.serving import Client, ServedHome, ServerProcess, message, signature_of

SIGNATURE = signature_of({"x": "number"})
ROW = {"x": 1}
DAY = 86_400
PATIENCE = 30.0


class Times:
    """Both clocks, moved by hand."""

    def __init__(self, wall: float = 1_000 * DAY + 3_600.0) -> None:
        self.seconds = 500.0
        self.wall = wall

    def usage(self, path: Path) -> Usage:
        return Usage(path, clock=lambda: self.seconds, wall=lambda: self.wall)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += seconds


def passes(allowance: Allowance, now: float) -> bool:
    try:
        allowance.take(now)
    except RequestError as error:
        return error.status != 429
    return True


def most_in_a_window(moments: Sequence[float], seconds: float) -> int:
    """The most that fell into any window of this length, its beginning left out."""
    found = start = 0
    for end, moment in enumerate(moments):
        while moments[start] <= moment - seconds:
            start += 1
        found = max(found, end - start + 1)
    return found


# Windows


@pytest.mark.parametrize("seed", range(12))
def test_no_window_ever_holds_more_than_the_limit(tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    times = Times()
    rate = Rate(dice.choice([1, 3, 50, 700]), dice.choice([1, 60]))
    processes = [
        Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), rate, None)
        for _ in range(dice.choice([1, 2, 5]))
    ]
    moments = []
    step = rate.seconds / (rate.count * dice.choice([0.5, 2, 20]))
    for _ in range(4_000):
        times.sleep(dice.expovariate(1 / step) if dice.random() < 0.98 else rate.seconds * dice.random())
        if passes(dice.choice(processes), times.seconds):
            moments.append(times.seconds)
    assert most_in_a_window(moments, rate.seconds) <= rate.count
    assert len(moments) > 3


def test_who_asks_without_end_gets_nearly_the_whole_rate(tmp_path: Path) -> None:
    times = Times()
    rate = Rate(1_000, 1)
    processes = [Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), rate, None) for _ in range(3)]
    passed = 0
    for turn in range(40_000):
        times.sleep(0.0005)
        passed += passes(processes[turn % 3], times.seconds)
    assert passed <= 21 * 1_000
    assert passed >= 20 * 1_000 * PARTS / (PARTS + 1) * 0.97


def test_one_caller_leaves_the_limits_of_another_alone(tmp_path: Path) -> None:
    times = Times()
    usage = times.usage(tmp_path / "usage")
    allowances = [Allowance(usage, f"{n}", name_of(f"caller {n}"), Rate(2, 60), None) for n in range(500)]
    for allowance in allowances:
        assert [passes(allowance, times.seconds) for _ in range(3)] == [True, True, False]


def test_a_crowd_of_addresses_is_limited_too_strictly_rather_than_too_loosely(tmp_path: Path) -> None:
    times = Times()
    usage = times.usage(tmp_path / "usage")
    for n in range(6_000):  # more than the file has places
        passes(Allowance(usage, "", name_of(f"address {n}"), Rate(1, 60), None), times.seconds)
    again = sum(
        passes(Allowance(usage, "", name_of(f"address {n}"), Rate(1, 60), None), times.seconds) for n in range(6_000)
    )
    assert again == 0
    assert (tmp_path / "usage").stat().st_size < 2 * 2**20
    times.sleep(200)
    assert passes(Allowance(usage, "", name_of("one more"), Rate(1, 60), None), times.seconds)


def test_what_a_process_did_not_use_comes_back(tmp_path: Path) -> None:
    times = Times()
    first, second = (
        Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), Rate(6_400, 60), quota("100000/d"))
        for _ in "ab"
    )
    assert passes(first, times.seconds)  # takes 100 at once
    first.close()
    left = 0
    while passes(second, times.seconds):
        left += 1
    assert left == 6_399
    assert times.usage(tmp_path / "usage").used_today(name_of("it")) == 6_400


def test_the_time_to_wait_is_honest(tmp_path: Path) -> None:
    times = Times()
    allowance = Allowance(times.usage(tmp_path / "usage"), "The key it", name_of("it"), Rate(10, 60), None)
    for _ in range(10):
        assert passes(allowance, times.seconds)
        times.sleep(3)
    with pytest.raises(RequestError, match="The key it may ask 10/m and has") as caught:
        allowance.take(times.seconds)
    wait = caught.value.retry_after
    assert wait is not None
    assert 30 <= wait <= 30 + 60 / PARTS + 1
    assert b'"rate";r=0;t=' in allowance.fields()
    times.sleep(wait)
    assert passes(allowance, times.seconds)
    assert not passes(allowance, times.seconds)


# Days


def test_a_quota_outlives_restarts_and_ends_with_the_day(tmp_path: Path) -> None:
    times = Times(wall=1_000 * DAY + DAY - 100.0)

    def taken(count: int) -> int:
        allowance = Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), None, quota("10/d"))
        found = sum(passes(allowance, times.seconds) for _ in range(count))
        allowance.close()
        return found

    assert taken(6) == 6
    times.seconds = 3.0  # the machine was started anew
    assert taken(6) == 4
    allowance = Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), None, quota("10/d"))
    with pytest.raises(RequestError, match="has used its quota of 10/d") as caught:
        allowance.take(times.seconds)
    assert caught.value.retry_after == 100
    assert caught.value.reason == "quota"
    assert b'"quota";r=0;t=100' in allowance.fields()
    times.sleep(100.5)
    assert [passes(allowance, times.seconds) for _ in range(11)] == [True] * 10 + [False]


def test_a_clock_that_is_set_back_opens_no_new_day(tmp_path: Path) -> None:
    times = Times()
    allowance = Allowance(times.usage(tmp_path / "usage"), "It", name_of("it"), None, quota("3/d"))
    assert [passes(allowance, times.seconds) for _ in range(4)] == [True, True, True, False]
    times.wall -= 2 * DAY
    times.seconds += 5
    assert not passes(allowance, times.seconds)
    times.wall += 2 * DAY
    times.seconds += 5
    assert not passes(allowance, times.seconds)


def test_grants_of_a_quota_end_with_the_day_they_were_for(tmp_path: Path) -> None:
    times = Times(wall=1_001 * DAY - 1.0)
    usage = times.usage(tmp_path / "usage")
    allowance = Allowance(usage, "It", name_of("it"), None, quota("100000/d"))
    assert passes(allowance, times.seconds)
    times.sleep(2.0)
    assert passes(allowance, times.seconds)
    assert usage.used_today(name_of("it")) <= 100


# Real servers


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.release(1)
    return served


def guarded(served: ServedHome, *arguments: str, **fields: Any) -> ServerProcess:
    served.home.settings.write_bytes(encode(ServerSettings(**fields)))
    return served.serve("--settings", str(served.home.settings), *arguments)


class Asker:
    """A connection that asks again as soon as it is answered."""

    def __init__(self, port: int, request: bytes, statuses: list[int]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._request = request
        self._statuses = statuses
        self._parser = httptools.HttpResponseParser(self)
        self.socket.sendall(request)

    def on_message_complete(self) -> None:
        self._statuses.append(self._parser.get_status_code())
        self.answered = True

    def turn(self) -> None:
        self.answered = False
        self._parser.feed_data(self.socket.recv(1 << 16))
        if self.answered:
            self.socket.sendall(self._request)


def ask_for(seconds: float, port: int, request: bytes, connections: int, refused: int = 0) -> list[int]:
    """The statuses that this many connections get that ask for so long, and until so many were refused."""
    statuses: list[int] = []
    with selectors.DefaultSelector() as selector:
        askers = [Asker(port, request, statuses) for _ in range(connections)]
        for asker in askers:
            selector.register(asker.socket, selectors.EVENT_READ, asker)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end or statuses.count(429) < refused:
            assert now < end + PATIENCE
            for key, _ in selector.select(0.1):
                key.data.turn()
        for asker in askers:
            asker.socket.close()
    return statuses


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def seconds_of(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).astimezone(UTC).timestamp()


def test_two_processes_and_many_connections_never_pass_more_than_the_limit(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "busy", now=time.time(), rate="50/s")
    log = tmp_path / "access.log"
    with guarded(served, "--processes", "2", keys=True, access_log=str(log)) as server:
        statuses = ask_for(3.0, server.port, message("POST", "/predict", ROW, x_api_key=key), connections=32)
    assert set(statuses) == {200, 429}
    lines = logged(log)
    # It was let through at some moment between the two that the log tells, to a millisecond.
    spans = [(at := seconds_of(line), at + line["milliseconds"] / 1e3) for line in lines if line["status"] == 200]
    assert max(sum(begin <= came and gone < begin + 0.999 for came, gone in spans) for begin, _ in spans) <= 50
    passed = sorted(came for came, _ in spans)
    assert 50 <= len(passed) <= 50 * (ceil(passed[-1] - passed[0]) + 1)
    assert len({line["request_id"].partition("-")[0] for line in lines if line["status"] == 429}) == 2


def test_a_quota_is_exact_over_processes_a_kill_and_a_restart(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "daily", now=time.time(), quota_="300/d")
    request = message("POST", "/predict", ROW, x_api_key=key)
    passed = 0
    with guarded(served, "--processes", "2", keys=True) as server:
        with Client(server.port) as client:
            for _ in range(100):
                client.send(request)
                passed += client.answers(1)[0][0] == 200
        victims = server.told()["processes"]
        os.kill(victims[0], signal.SIGKILL)  # with what it had been granted
    with guarded(served, "--processes", "2", keys=True) as server:
        statuses = ask_for(0.5, server.port, request, connections=8, refused=100)
        passed += statuses.count(200)
        with Client(server.port) as client:
            status, answer = client.post("/predict", ROW, x_api_key=key)
            assert (status, "has used its quota of 300/d" in answer["error"]) == (429, True)
            assert 0 < int(client.headers[b"retry-after"]) <= DAY
    assert 290 <= passed <= 300


def test_what_is_left_is_told_in_the_fields_of_the_draft(tmp_path: Path) -> None:
    served = home(tmp_path)
    key = keys.add(served.home, "told", now=time.time(), rate="5/h", quota_="7/d")
    with guarded(served, keys=True) as server, Client(server.port) as client:
        left = []
        for _ in range(6):
            client.post("/predict", ROW, x_api_key=key)
            assert client.headers[b"ratelimit-policy"] == b'"rate";q=5;w=3600, "quota";q=7;w=86400'
            rate, day = client.headers[b"ratelimit"].decode().split(", ")
            assert rate.startswith('"rate";r=')
            left.append((int(rate.split(";")[1][2:]), int(day.split(";")[1][2:])))
        assert left == [(4, 6), (3, 5), (2, 4), (1, 3), (0, 2), (0, 2)]
        assert client.headers[b"retry-after"]


def test_the_settings_limit_every_key_that_brings_no_limit(tmp_path: Path) -> None:
    served = home(tmp_path)
    plain = keys.add(served.home, "plain", now=time.time())
    more = keys.add(served.home, "more", now=time.time(), rate="8/h")
    with guarded(served, keys=True, limits=Limits(rate="3/h", headers=False)) as server, Client(server.port) as client:
        assert [client.post("/predict", ROW, x_api_key=plain)[0] for _ in range(5)] == [200] * 3 + [429] * 2
        assert [client.post("/predict", ROW, x_api_key=more)[0] for _ in range(9)] == [200] * 8 + [429]
        assert b"ratelimit" not in client.headers


def test_rotating_a_key_gives_no_second_allowance(tmp_path: Path) -> None:
    served = home(tmp_path)
    old = keys.add(served.home, "partner", now=time.time(), rate="4/h")
    new = keys.rotate(served.home, "partner", now=time.time(), overlap=600.0)
    with guarded(served, keys=True) as server, Client(server.port) as client:
        statuses = [client.post("/predict", ROW, x_api_key=key)[0] for key in (old, new) * 4]
    assert statuses == [200] * 4 + [429] * 4


def test_times_in_a_log_rise(tmp_path: Path) -> None:
    served = home(tmp_path)
    log = tmp_path / "logs" / "access.log"
    with guarded(served, access_log=str(log)) as server, Client(server.port) as client:
        for _ in range(20):
            client.post("/predict", ROW)
    moments = [seconds_of(line) for line in logged(log)]
    assert len(moments) == 20
    assert all(first <= second for first, second in pairwise(moments))
