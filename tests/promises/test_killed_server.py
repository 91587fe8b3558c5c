"""Part of promise 1: a killed server loses at most the last second of its log and no acknowledged outcome."""

import threading
import time
from pathlib import Path

from everloop.testing.serving import Client, ServedHome, signature_of

PATIENCE = 60.0


def test_a_killed_server_loses_at_most_the_last_second_and_no_acknowledged_outcome(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    served.seal(1, signature_of({"x": "number"}, key=("k",)))
    served.release(1)
    answered: dict[str, float] = {}
    acknowledged: set[str] = set()
    with served.serve() as server:

        def predictions() -> None:
            n = 0
            with Client(server.port) as client:
                while True:
                    try:
                        status, answer = client.post("/predict", {"x": 1, "k": n})
                    except (OSError, ValueError):
                        return
                    assert status == 200
                    answered[answer["id"]] = time.monotonic()
                    n += 1

        def outcomes() -> None:
            n = 0
            with Client(server.port) as client:
                while True:
                    try:
                        status, _ = client.post("/outcomes", {"id": str(n), "value": True})
                    except (OSError, ValueError):
                        return
                    assert status == 200
                    acknowledged.add(str(n))
                    n += 1

        threads = [threading.Thread(target=predictions), threading.Thread(target=outcomes)]
        for thread in threads:
            thread.start()
        time.sleep(2.0)
        end = time.monotonic() + PATIENCE
        while (len(answered) <= 100 or len(acknowledged) <= 10) and time.monotonic() < end:
            time.sleep(0.05)
        killed = time.monotonic()
        server.kill()
        for thread in threads:
            thread.join(30)

    logged = {id for frame in served.predictions() for id in frame.ids}
    lost = [when for id, when in answered.items() if id not in logged]
    assert len(answered) > 100
    assert all(killed - when < 1.0 for when in lost)
    kept = {id for id, _, _, _ in served.outcomes()}
    assert len(acknowledged) > 10
    assert acknowledged <= kept
    with served.serve() as server, Client(server.port) as client:  # the torn tail does not disturb the next server
        assert client.post("/predict", {"x": 1, "k": "after"})[0] == 200
        assert server.terminate() == 0
    assert "after" in {id for frame in served.predictions() for id in frame.ids}
