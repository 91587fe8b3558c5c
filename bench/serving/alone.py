"""The limit: ONNX Runtime alone, `session.run` in a loop with one thread. Knows nothing of servers.

Run as a process of its own: python -m bench.serving.alone MODEL INPUT SECONDS BATCH … prints {batch: [rows a second, CPU µs a row]}.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime


def measured(
    model: Path, given: str, batches: Sequence[int], seconds: float, core: int
) -> dict[int, tuple[float, float]]:
    """Rows a second and CPU µs a row of each batch size, on ``core`` by a process that ends afterwards. The rows lie beside the model (`Model.write`)."""
    command = [sys.executable, "-m", "bench.serving.alone", str(model), given, str(seconds), *map(str, batches)]
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    ).stdout
    return {int(batch): (rate, cpu) for batch, (rate, cpu) in json.loads(said).items()}


def main(model: str, given: str, seconds: str, *batches: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = np.load(Path(model).with_suffix(".npy"))
    found: dict[str, tuple[float, float]] = {}
    for batch in map(int, batches):
        tiled = np.concatenate([rows] * (2 + batch // len(rows)))
        starts = range(0, len(rows), max(1, min(batch, len(rows) // 7)))
        session.run(None, {given: tiled[:batch]})
        began, used, done = time.perf_counter(), time.process_time(), 0
        while (now := time.perf_counter()) < began + float(seconds):
            start = starts[done % len(starts)]
            session.run(None, {given: tiled[start : start + batch]})
            done += 1
        rows_done, used = done * batch, time.process_time() - used
        found[str(batch)] = rows_done / (now - began), used / rows_done * 1e6
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
