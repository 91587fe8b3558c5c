"""What each duty of the gate costs a request, alone: the gate is called as the server calls it, without anything else.

Run: python -m bench.serving_costs [--quick] [--json]. The least of many short measurements: what a duty takes, not what a busy
machine adds. `bench.serving` shows the same duties within whole requests.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.rows import Row, parser, show

from everloop.serve import keys
from everloop.serve.access import AccessLog
from everloop.serve.exchange import Exchange
from everloop.serve.gate import Gate
from everloop.serve.keys import Keyring
from everloop.serve.limits import Usage
from everloop.serve.settings import Cors, Limits, ServerSettings
from everloop.store.home import Home

CALLS, ROUNDS = 5_000, 60


class Nothing:
    """A connection that nobody listens to."""

    peer = "127.0.0.1"


def least(call: Callable[[Exchange], object], rounds: int, after: Callable[[int], None] | None = None) -> float:
    """µs a call in this thread, the least of all rounds. ``after`` is told how many calls there were so far."""
    found = float("inf")
    for turn in range(rounds):
        exchanges = [Exchange(Nothing(), b"POST", b"/predict/bench") for _ in range(CALLS)]  # type: ignore[arg-type]
        began = time.thread_time()
        for exchange in exchanges:
            call(exchange)
        found = min(found, (time.thread_time() - began) / CALLS * 1e6)
        if after is not None:
            after((turn + 1) * CALLS)
    return found


def costs(folder: Path, *, rounds: int = ROUNDS) -> list[Row]:
    """A row for each duty: µs of one request, the empty call taken off."""
    home = Home(folder)
    usage = Usage(folder / "usage")
    made = {
        "plain": keys.add(home, "plain", now=time.time()),
        "limited": keys.add(home, "limited", now=time.time(), rate="2000000000/s"),
        "both": keys.add(home, "both", now=time.time(), rate="2000000000/s", quota_="2000000000/d"),
        "of one loop": keys.add(home, "one", now=time.time(), loops=("bench",)),
    }
    ring = Keyring(keys.read(keys.path_of(home)))

    def gate(**more: Any) -> Gate:
        settings = ServerSettings(
            **{name: more.pop(name) for name in list(more) if name in ServerSettings.__struct_fields__}
        )
        return Gate(settings, **{"keyring": None, "usage": None, "addresses": None, **more})

    def admitting(guard: Gate, headers: dict[bytes, bytes]) -> Callable[[Exchange], object]:
        return lambda exchange: guard.admit(exchange, headers, b"")

    def bearer(name: str) -> dict[bytes, bytes]:
        return {b"authorization": b"Bearer " + made[name].encode()}

    empty = least(lambda exchange: None, rounds)
    log = AccessLog("/dev/null", file_bytes=2**62, files=1)
    silent = Limits(headers=False)
    duties: dict[str, Callable[[Exchange], object]] = {
        "a gate that asks nothing": admitting(gate(), {}),
        "key": admitting(gate(keyring=ring, usage=usage), bearer("plain")),
        "key of one loop": admitting(gate(keyring=ring, usage=usage), bearer("of one loop")),
        "key and rate": admitting(gate(keyring=ring, usage=usage, limits=silent), bearer("limited")),
        "key, rate and what is left": admitting(gate(keyring=ring, usage=usage), bearer("limited")),
        "key, rate, quota and what is left": admitting(gate(keyring=ring, usage=usage), bearer("both")),
        "limit by address": admitting(
            gate(addresses=Usage(folder / "addresses"), limits=Limits(address_rate="2000000000/s", headers=False)), {}
        ),
        "request id, made": admitting(gate(request_ids=True), {}),
        "request id, echoed": admitting(gate(request_ids=True), {b"x-request-id": b"0123456789abcdef"}),
        "cross-origin": admitting(gate(cors=Cors(origins=("https://a.example",))), {b"origin": b"https://a.example"}),
    }
    rows = [
        Row(what=what, ours=round(least(call, rounds) - empty, 3), unit="µs", rounds=rounds)
        for what, call in duties.items()
    ]

    def written(calls: int) -> None:
        while log.written + log.lost < calls:
            time.sleep(0.01)

    told = least(lambda exchange: log.ended(exchange, 200, 100), rounds, written) - empty
    log.close()
    return [*rows, Row(what="access log, the request's part", ours=round(told, 3), unit="µs", rounds=rounds)]


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(costs(Path(folder), rounds=10 if given.quick else ROUNDS), as_json=given.json)


if __name__ == "__main__":
    main()
