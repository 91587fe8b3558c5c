"""What serving costs: cold start, CPU per request at 1, 16 and 64 connections, rows per second of large requests.

Run: python -m bench.serving [--quick] [--json]. A gradient-boosted model of 200 trees with 31 leaves over 20 columns,
one row a request, 512 different rows in turn (identical rows flatter trees), everything on: validation, ids, metrics,
the prediction log. The limit is ONNX Runtime alone, in one thread, on the same rows. CPU time is the server's whole
process tree (the kernel's account); the load comes from another process. Both are pinned to a core of their own where
there are two. No peer runs here: their figures are in research notes, and a comparison needs them in the same run.
"""

import argparse
import json
import multiprocessing
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from everloop.records import InputColumn, Signature
from everloop.testing.serving import ServedHome, ServerProcess

COLUMNS = 20
TREES, LEAVES = 200, 31
ROWS = 512


def signature() -> Signature:
    columns = tuple(InputColumn(name=f"column_{n}", type="number", index=n) for n in range(COLUMNS))
    return Signature(inputs=columns, task="binary", classes=(False, True), positive=1)


def boosted(seed: int = 0) -> bytes:
    """A classifier of random trees: best-first growth to 31 leaves, thresholds where the rows are."""
    random = np.random.default_rng(seed)
    nodes: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "feature", "value", "mode", "true", "false")}
    leaves: dict[str, list[Any]] = {name: [] for name in ("tree", "node", "weight")}
    for tree in range(TREES):
        children: dict[int, tuple[int, int]] = {}
        ends = [0]
        made = 1
        while len(ends) < LEAVES:
            split = ends.pop(int(random.integers(len(ends))))
            children[split] = (made, made + 1)
            ends += [made, made + 1]
            made += 2
        for node in range(made):
            branch = children.get(node)
            nodes["tree"].append(tree)
            nodes["node"].append(node)
            nodes["feature"].append(int(random.integers(COLUMNS)) if branch else 0)
            nodes["value"].append(float(random.normal()) if branch else 0.0)
            nodes["mode"].append("BRANCH_LEQ" if branch else "LEAF")
            nodes["true"].append(branch[0] if branch else 0)
            nodes["false"].append(branch[1] if branch else 0)
            if not branch:
                leaves["tree"].append(tree)
                leaves["node"].append(node)
                leaves["weight"].append(float(random.normal(0, 0.05)))
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["floats"], ["raw"], domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        nodes_treeids=nodes["tree"], nodes_nodeids=nodes["node"], nodes_featureids=nodes["feature"],
        nodes_values=nodes["value"], nodes_modes=nodes["mode"], nodes_truenodeids=nodes["true"],
        nodes_falsenodeids=nodes["false"], nodes_missing_value_tracks_true=[0] * len(nodes["tree"]),
        nodes_hitrates=[1.0] * len(nodes["tree"]), target_treeids=leaves["tree"], target_nodeids=leaves["node"],
        target_ids=[0] * len(leaves["tree"]), target_weights=leaves["weight"],
    )  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
            ensemble,
            helper.make_node("Cast", ["raw"], ["score"], to=TensorProto.DOUBLE),
            helper.make_node("Sigmoid", ["score"], ["positive"]),
            helper.make_node("Sub", ["one", "positive"], ["negative"]),
            helper.make_node("Concat", ["negative", "positive"], ["prediction"], axis=1),
            helper.make_node("GreaterOrEqual", ["positive", "half"], ["above"]),
            helper.make_node("Cast", ["above"], ["chosen"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["chosen", "axes"], ["decision"]),
        ],
        "boosted",
        [helper.make_tensor_value_info("numbers", TensorProto.DOUBLE, [None, COLUMNS])],
        [
            helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 2]),
            helper.make_tensor_value_info("decision", TensorProto.INT64, [None]),
        ],
        [
            numpy_helper.from_array(np.array(1.0), "one"),
            numpy_helper.from_array(np.array(0.5), "half"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def requests(loop: str, rows: np.ndarray[Any, Any], *, together: int = 1) -> list[bytes]:
    """Whole HTTP requests, ``together`` rows in each."""
    found = []
    for start in range(0, len(rows), together):
        dictionaries = [
            {f"column_{n}": round(float(value), 6) for n, value in enumerate(row)}
            for row in rows[start : start + together]
        ]
        body = msgspec.json.encode(dictionaries[0] if together == 1 else dictionaries)
        head = (
            f"POST /predict/{loop} HTTP/1.1\r\nhost: bench\r\nuser-agent: bench\r\ncontent-type: application/json\r\n"
        )
        found.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return found


def load(port: int, messages: list[bytes], connections: int, seconds: float, core: int | None, out: Any) -> None:
    """One request at a time on each connection until the time is over. Sends (answers, latencies) to ``out``."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    poll = select.epoll()
    sockets = {}
    sent = {}
    for _ in range(connections):
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[each.fileno()] = each
        poll.register(each, select.EPOLLIN)
    turn = answers = 0
    latencies: list[float] = []
    waiting: dict[int, bytes] = {}
    end = time.perf_counter() + seconds
    for n in sockets:
        sockets[n].sendall(messages[turn % len(messages)])
        sent[n] = time.perf_counter()
        turn += 1
    while (now := time.perf_counter()) < end:
        for n, _ in poll.poll(1.0):
            data = waiting.pop(n, b"") + sockets[n].recv(1 << 20)
            head = data.find(b"\r\n\r\n")
            place = data.find(b"content-length: ")
            if head < 0 or len(data) < head + 4 + int(data[place + 16 : data.find(b"\r", place)]):
                waiting[n] = data
                continue
            if not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a success: {data[:300]!r}")
            answers += 1
            now = time.perf_counter()
            latencies.append(now - sent[n])
            sockets[n].sendall(messages[turn % len(messages)])
            sent[n] = now
            turn += 1
    out.send((answers, latencies))


def cpu_seconds(pid: int) -> float:
    """What all threads of a process have run, from the scheduler."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def measured(
    server: ServerProcess, messages: list[bytes], connections: int, seconds: float
) -> tuple[float, float, float]:
    """CPU µs per request, requests a second, p99 in ms."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if len(cores) > 1 else None
    if core is not None:
        for task in Path(f"/proc/{server.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {cores[0]})
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    client = context.Process(target=load, args=(server.port, messages, connections, seconds, core, theirs))
    before, began = cpu_seconds(server.process.pid), time.perf_counter()
    client.start()
    answers, latencies = ours.recv()
    wall = time.perf_counter() - began
    used = cpu_seconds(server.process.pid) - before
    client.join()
    return used / answers * 1e6, answers / wall, float(np.quantile(latencies, 0.99)) * 1e3


def limit(graph: bytes, rows: np.ndarray[Any, Any], together: int, seconds: float) -> float:
    """µs per row of session.run alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    end = time.process_time() + seconds
    began = time.process_time()
    done = 0
    while time.process_time() < end:
        start = done % (len(rows) - together + 1)
        session.run(None, {"numbers": rows[start : start + together]})
        done += together
    return (time.process_time() - began) / done * 1e6


def cold_start(served: ServedHome, message: bytes) -> float:
    """Seconds from exec to the first correct answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    command = [sys.executable, "-m", "everloop.serve", "--home", str(served.home.root), "--loop", served.loop]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                    client.sendall(message)
                    answer = client.recv(1 << 16)
                    break
            except ConnectionError:
                time.sleep(0.002)
        seconds = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not a success: {answer[:300]!r}")
        return seconds
    finally:
        process.terminate()
        process.wait(30)


def resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def figures(*, quick: bool) -> list[dict[str, Any]]:
    rounds, seconds = (1, 1.0) if quick else (5, 3.0)
    rows = np.random.default_rng(1).normal(size=(ROWS, COLUMNS))
    graph = boosted()
    found: list[dict[str, Any]] = []

    def row(what: str, unit: str, ours: float, target: float | None, limit_: float | None = None, **more: Any) -> None:
        met = None if target is None else more.pop("better", ours <= target)
        found.append(
            {
                "what": what, "ours": round(ours, 3), "peer": None, "peer_name": "", "limit": limit_ and round(limit_, 3),
                "ratio": None if limit_ is None else round(ours / limit_, 2), "target": target, "met": met,
                "unit": unit, "rounds": rounds, **more,
            }
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        served = ServedHome(Path(folder), "bench")
        served.seal(1, signature(), graph=graph)
        served.release(1)
        single = requests("bench", rows)
        starts = [cold_start(served, single[0]) for _ in range(1 if quick else 7)]
        row("cold start, exec to first correct answer", "s", median(starts), 0.5)
        with served.serve() as server:
            measured(server, single, 16, 0.5 if quick else 1.0)  # warm
            for connections in (1, 16, 64):
                taken = [measured(server, single, connections, seconds) for _ in range(rounds)]
                floor = limit(graph, rows, connections, 0.3)
                cpu, rate, p99 = (median(each) for each in zip(*taken, strict=True))
                row(f"CPU per request, c={connections}", "µs", cpu, 22.0 if connections == 64 else None, floor)
                row(f"requests a second, c={connections}", "1/s", rate, None)
                row(f"p99, c={connections}", "ms", p99, 5.0 if connections == 64 else None)
            large = requests("bench", np.tile(rows, (4, 1))[:2000], together=500)
            taken = [measured(server, large, 4, seconds) for _ in range(rounds)]
            floor = limit(graph, rows, 500, 0.3)
            row("CPU per row, 500 rows a request, c=4", "µs", median(each[0] for each in taken) / 500, 20.0, floor)
            row("rows a second, 500 rows a request, c=4", "1/s", median(each[1] for each in taken) * 500, None)
            row("resident memory", "MB", resident(server.process.pid), 90.0)
            before = cpu_seconds(server.process.pid)
            time.sleep(1.0 if quick else 5.0)
            idle = (cpu_seconds(server.process.pid) - before) / (1.0 if quick else 5.0)
            row("idle CPU, share of a core", "%", idle * 100, 1.0)
    return found


def printed(rows: list[dict[str, Any]]) -> None:
    columns = ("what", "ours", "unit", "limit", "ratio", "target", "met")
    shown = [[("" if row[name] is None else str(row[name])) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *shown, strict=True)]
    for cells in (columns, *shown):
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each: within a minute")
    parser.add_argument("--json", action="store_true", help="rows for machines")
    given = parser.parse_args()
    rows = figures(quick=given.quick)
    if given.json:
        print(json.dumps(rows, indent=1))
    else:
        printed(rows)


if __name__ == "__main__":
    main()
