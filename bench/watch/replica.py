"""What it costs to watch without a log: each server process sketches, the controller adds up. Beside the log of the same rows.

20 columns, 12 numbers and 8 texts. "In its thread": batches of 16 handed over as the server does, written at every 1,000 rows;
all CPU of the process, the thread's too. "From a real server": one process on loopback, one request a row, 64 on the wire, CPU of
its process by the kernel's account; the three kinds of server take turns. Resident memory is that of the same process at
the end.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench.rows import Row
from bench.watch import parts as figures
from numpy.typing import NDArray

from everloop.measure import profile
from everloop.measure.profile import PREDICTION, Profile
from everloop.records import Signature
from everloop.serve.live import Live, Part
from everloop.serve.log import PredictionLog
from everloop.serve.sketches import Held, Sketcher
from everloop.spec.retrain import Drift
from everloop.testing.serving import Client, ServedHome, live_of, message, signature_of
from everloop.watch.drift import Against, signals_of
from everloop.watch.sketched import Sketched
from everloop.watch.windows import Window

NAMES = np.array([f"value {index}" for index in range(40)], dtype=object)
NUMBERS, TEXTS, BATCH, STRETCH, WIRE = 12, 8, 16, 300, 64
COLUMNS = {**{f"number_{n}": "number" for n in range(NUMBERS)}, **{f"text_{n}": "text" for n in range(TEXTS)}}
BEGIN = 1_767_268_800_000_000
Table = dict[str, NDArray[Any]]


def table(random: np.random.Generator, rows: int) -> Table:
    made: Table = {f"number_{n}": random.lognormal(0, 1, rows) for n in range(NUMBERS)}
    return made | {f"text_{n}": NAMES[np.minimum(random.zipf(1.6, rows), 40) - 1] for n in range(TEXTS)}


def reference() -> Profile:
    random = np.random.default_rng(1)
    return profile.build(table(random, 20_000) | {PREDICTION: random.random(20_000)})


def parts(live: Live, rows: int) -> list[Part]:
    values = list(zip(*(column.tolist() for column in table(np.random.default_rng(2), rows).values()), strict=True))
    made = []
    for begin in range(0, rows, BATCH):
        part = Part(live.champion, "champion", values[begin : begin + BATCH], None)
        part.run([str(begin + place) for place in range(len(part.rows))])
        part.answered()
        made.append(part)
    return made


def in_its_thread(rows: int, rounds: int) -> list[Row]:
    signature = signature_of(COLUMNS)
    live, known = live_of(signature), reference()
    live.champion.held = Held(1, signature, known, {each.name: each.type for each in signature.inputs})
    asked = parts(live, rows)
    handed: dict[str, list[float]] = {"sketched": [], "logged": []}
    spent: dict[str, list[float]] = {"sketched": [], "logged": []}
    judged: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for what, each in _in_turn(Path(folder), live):
                begun = time.process_time()
                on_path = 0.0
                for place in range(0, len(asked), 1_000 // BATCH):
                    before = time.thread_time()
                    for part in asked[place : place + 1_000 // BATCH]:
                        each(part)
                    on_path += time.thread_time() - before
                    _FLUSH[what]()
                spent[what].append((time.process_time() - begun) / rows)
                handed[what].append(on_path / rows)
            judged.append(_judged(Path(folder) / "sketches", signature, known, rows))
    ours, log = (median(spent[what]) * 1e6 for what in ("sketched", "logged"))
    path, log_path = (median(handed[what]) * 1e6 for what in ("sketched", "logged"))
    controller = median(judged) * 1e6
    return [
        Row(what="watching a prediction of 20 columns without a log: sketched by its server, written every 1,000 rows",
            ours=ours, peer=log, peer_name="logged instead", target=5.0, unit="µs CPU", rounds=rounds),
        Row(what="the same: sketches of that window added up and judged by the controller", ours=controller, target=5.0 - ours,
            unit="µs CPU", rounds=rounds),
        Row(what="the same: on the request's path, a reference handed over", ours=path, peer=log_path,
            peer_name="handed to the log", unit="µs CPU", rounds=rounds),
    ]  # fmt: skip


_FLUSH: dict[str, Callable[[], None]] = {}


def _in_turn(folder: Path, live: Live) -> Iterator[tuple[str, Callable[[Part], None]]]:
    (folder / "sketches").mkdir()
    sketcher, log = Sketcher(folder / "sketches", "1-1"), PredictionLog(folder / "log", "1-1")
    at, ids, latency = [BEGIN] * BATCH, [f"{n:032x}" for n in range(BATCH)], [0.001] * BATCH
    _FLUSH.update(sketched=sketcher.flush, logged=log.flush)
    yield "sketched", lambda part: sketcher.add(part, at[: len(part.packed["numbers"])], STRETCH)
    yield "logged", lambda part: log.add(
        live.release, part, ids[: len(part.packed["numbers"])], at[: len(part.packed["numbers"])],
        latency[: len(part.packed["numbers"])], [], [],
    )  # fmt: skip
    sketcher.close()
    log.close()


def _judged(folder: Path, signature: Signature, known: Profile, rows: int) -> float:
    """CPU seconds a row, of a controller that reads the files for the first time."""
    begin = datetime.fromtimestamp(BEGIN / 1e6, UTC)
    requests, against = Sketched(folder), Against(version=1, signature=signature, profile=known)
    begun = time.process_time()
    now = begin + timedelta(hours=1)
    assert requests.closed(begin, timedelta(minutes=30), now)
    seen = requests.observed(Window(since=begin, until=now), against, known)
    signals_of(known, seen, Drift())
    assert seen.profile.rows == rows
    return (time.process_time() - begun) / rows


def from_a_server(requests: int, rounds: int) -> list[Row]:
    kinds: dict[str, dict[str, Any]] = {
        "sketched": {"log": False, "sketch": STRETCH}, "logged": {"log": True}, "neither": {"log": False},
    }  # fmt: skip
    bodies = [
        message("POST", "/predict", dict(zip(COLUMNS, row, strict=True)))
        for row in zip(*(column.tolist() for column in table(np.random.default_rng(4), 2_048).values()), strict=True)
    ]
    known, cost, memory = (
        profile.to_json(reference()),
        {kind: list[float]() for kind in kinds},
        {kind: list[float]() for kind in kinds},
    )
    with tempfile.TemporaryDirectory() as folder:
        homes = {}
        for kind, given in kinds.items():
            homes[kind] = ServedHome(Path(folder) / kind)
            homes[kind].seal(1, signature_of(COLUMNS), profile=known)
            homes[kind].release(1, **given)
        for _ in range(rounds):
            for kind, home in homes.items():
                with home.serve() as server, Client(server.port) as client:
                    _ask(client, bodies, 2_000)  # what is done once
                    before = _cpu(server.process.pid)
                    _ask(client, bodies, requests)
                    time.sleep(1.5)  # what its threads still have to do
                    cost[kind].append((_cpu(server.process.pid) - before) / requests)
                    memory[kind].append(_resident(server.process.pid))
    each = {kind: median(found) * 1e6 for kind, found in cost.items()}
    held = {kind: median(found) for kind, found in memory.items()}
    return [
        Row(what="a request of 20 columns to a real server that sketches, all its CPU beside one that does neither",
            ours=each["sketched"], peer=each["neither"], peer_name="no log, no sketches", unit="µs CPU", rounds=rounds),
        Row(what="the same of a server that logs", ours=each["logged"], peer=each["neither"],
            peer_name="no log, no sketches", unit="µs CPU", rounds=rounds),
        Row(what="sketching in a real server, what a request costs more", ours=each["sketched"] - each["neither"],
            peer=each["logged"] - each["neither"], peer_name="logging", target=5.0, unit="µs CPU", rounds=rounds),
        Row(what="resident memory of a server that sketches 20 columns", ours=held["sketched"], peer=held["logged"],
            peer_name="that logs", target=90.0, unit="MB", rounds=rounds),
    ]  # fmt: skip


def _ask(client: Client, bodies: list[bytes], count: int) -> None:
    for begin in range(0, count, WIRE):
        client.send(b"".join(bodies[(begin + place) % len(bodies)] for place in range(WIRE)))
        answers = client.answers(WIRE)
        assert {status for status, _ in answers} == {200}, json.loads(answers[0][1])


def _cpu(pid: int) -> float:
    """Seconds of a process, by its scheduler's account."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def part(*, quick: bool = False) -> figures.Part:
    made = [
        *in_its_thread(4_992 if quick else 19_968, 2 if quick else 5),
        *from_a_server(6_400 if quick else 25_600, 1 if quick else 5),
    ]
    note = (
        "A server that sketches hands a reference to each batch to a thread, as one that logs does; what a request costs more there "
        "includes that the thread and the requests share an interpreter. Each file holds 20 columns in about 160 KB."
    )
    return figures.Part(rows=made, notes=[note])
