"""Promise 3: 50 hot swaps and rollbacks under load: no failed request, every answer from a version that was live."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from everloop.testing.serving import Client, ServedHome, expected, message, signature_of

SWAPS = 50
CLIENTS = 3
PIPELINED = 8
ANSWERS = 50
"""So many are waited for between two swaps, however slow the machine is."""
PATIENCE = 60.0


def test_fifty_swaps_under_load_lose_no_request_and_answer_from_live_versions(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    signature = signature_of({"x": "number"}, key=("k",))
    for version in range(1, 7):
        served.seal(version, signature, bias=float(version))
    served.release(1)
    # When each version began and ceased to be named by the release file: an answer may lag behind by its own duration
    # and by the time until the server said that it had switched.
    released: list[tuple[float, int]] = [(time.monotonic(), 1)]
    reached: list[float] = []
    seen: list[tuple[float, float, int]] = []
    failures: list[object] = []
    stop = threading.Event()

    with served.serve() as server:

        def load(number: int) -> None:
            turn = 0
            with Client(server.port) as client:
                while not stop.is_set():
                    rows = [{"x": 0.25, "k": f"{number}-{turn}-{n}"} for n in range(PIPELINED)]
                    turn += 1
                    began = time.monotonic()
                    client.send(b"".join(message("POST", "/predict/made", row) for row in rows))
                    answers = client.answers(PIPELINED)
                    ended = time.monotonic()
                    if len(answers) != PIPELINED:
                        failures.append(f"{len(answers)} answers")
                        return
                    for status, body in answers:
                        if status != 200:
                            failures.append((status, body))
                            continue
                        version = int(body.partition(b'"version":')[2].partition(b",")[0])
                        probability = float(body.partition(b'"true":')[2].rstrip(b"}"))
                        if probability != pytest.approx(expected(0.25 + version), rel=1e-12):
                            failures.append(body)
                        seen.append((began, ended, version))

        threads = [threading.Thread(target=load, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        reached.append(time.monotonic())
        for swap in range(1, SWAPS + 1):
            version = released[-1][1] % 6 + 1 if swap % 3 else released[-2][1]  # every third one goes back
            released.append((time.monotonic(), version))
            server.wait_for(served.release(version))
            reached.append(time.monotonic())
            while len(seen) < ANSWERS * swap and not failures:
                assert time.monotonic() < reached[-1] + PATIENCE, "the clients are no longer answered"
                time.sleep(0.001)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert server.terminate() == 0

    assert failures == []
    assert len(seen) >= ANSWERS * SWAPS
    assert len(Counter(version for _, _, version in seen)) == 6
    for began, ended, version in seen:
        # live at some moment of the request: from its release until the server reached the next one
        live = [
            number
            for place, (start, number) in enumerate(released)
            if start <= ended and (place + 1 >= len(reached) or began <= reached[place + 1])
        ]
        assert version in live
    logged = Counter(id for frame in served.predictions() for id in frame.ids)
    assert len(logged) == len(seen)
    assert set(logged.values()) == {1}
