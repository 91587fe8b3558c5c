"""High-value queries through the real server on one core, at the same load with and without routing by meaning.

A replay of queries in clusters: one in five is of high value (embeddings around its own centres). Open loop: each
query is sent when it is due, whatever became of those before. Three ways, in turns: everybody alike; the high-value
class first; and first with the weights that a route by meaning has found, which give the others to a smaller version.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bench.rows import Row
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from everloop.measure import space
from everloop.records import encode
from everloop.store import packages
from everloop.testing.serving import ServedHome, signature_of

Floats = NDArray[np.float64]
WIDTH, CENTRES, HIGH, SIDE = 16, 10, 2, 32
"""Numbers of an embedding; clusters of queries; those of high value, each as frequent as the others."""
LOADS = (0.85, 1.0)
"""Of what the large version can do alone: a busy hour, and its peak."""
BUDGET = 50
"""The declared p99, in queries that the large version answers in that time."""
SIGNATURE = signature_of({"query": f"FP32[{WIDTH}]"}, task="regression", classes=(), positive=None)


def graph(channels: int, layers: int) -> bytes:
    """Convolutions over what the embedding is spread to: each row costs the same, alone or in a batch."""
    random = np.random.default_rng(1)
    tensors = [
        numpy_helper.from_array(random.normal(0, 0.2, (WIDTH, SIDE * SIDE)).astype(np.float32), "spread"),
        numpy_helper.from_array(np.array([-1, 1, SIDE, SIDE], np.int64), "shape"),
        numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.array([-1, 1], np.int64), "column"),
    ]
    nodes = [
        helper.make_node("MatMul", ["query", "spread"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["c0"]),
    ]
    for layer in range(layers):
        weights = random.normal(0, 0.1, (channels, 1 if layer == 0 else channels, 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"c{layer}", f"w{layer}"], [f"r{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"r{layer}"], [f"c{layer + 1}"]))
    nodes += [
        helper.make_node("ReduceMean", [f"c{layers}", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["one"]),
        helper.make_node("Cast", ["one"], ["prediction"], to=TensorProto.DOUBLE),
    ]
    made = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("query", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 1])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18)]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString())


def queries(random: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings and their cluster."""
    middles = np.random.default_rng(7).normal(0, 3, (CENTRES, WIDTH))
    cluster = random.integers(0, CENTRES, count)
    return (middles[cluster] + random.normal(0, 0.3, (count, WIDTH))).astype(np.float32), cluster


class Replay:
    """A home with a large and a small version, and the space that the large one learned."""

    def __init__(self, folder: Path) -> None:
        self.served = ServedHome(folder)
        learned, cluster = queries(np.random.default_rng(2), 4_000)
        found = space.of_arrays(space.summary(learned))
        assert found is not None
        self.profile = encode({"spaces": {"query": found}, "columns": {}})
        names = space.derived("query", found, space.summary(learned))[space.of("query", space.CLUSTER)]
        high = cluster < HIGH
        self.first = sorted({str(name) for name in names[high]} - {str(name) for name in names[~high]})
        for version, (channels, layers) in ((1, (64, 6)), (2, (24, 6))):
            self.served.versions[version] = packages.seal(
                self.served.home.packages,
                {packages.MODEL: graph(channels, layers), "profile.json": self.profile, "evidence.json": b"{}"},
                loop=self.served.loop,
                created_at=np.datetime64("2026-01-01").astype("datetime64[us]").item(),
                signature=SIGNATURE,
                key=packages.load_signing_key(self.served.home.keys),
            )

    def release(self, way: str, p99_ms: float | None = None) -> None:
        package = self.served.versions
        meaning = {"column": "query", "package": package[1], "first": self.first}
        more: dict[str, Any] = {} if way == "alike" else {"meaning": meaning}
        if way == "routed":
            weights = {"": [0.05, 0.95], **{name: [0.95, 0.05] for name in self.first}}
            arms = [{"name": name, "version": n, "package": package[n]} for n, name in ((1, "large"), (2, "small"))]
            more["route"] = {"arms": arms, "weights": weights}
        self.served.release(1, log=True, p99_ms=p99_ms, **more)


async def exchanged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, row: NDArray[np.float32]) -> bool:
    """Whether the query was answered (else: refused)."""
    body = json.dumps({"query": row.tolist()}).encode()
    writer.write(b"POST /predict HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    return head.startswith(b"HTTP/1.1 200")


async def asked(port: int, rows: NDArray[np.float32], due: Floats) -> Floats:
    """Seconds from when each query was due to its answer."""
    loop, took = asyncio.get_running_loop(), np.full(len(rows), np.nan)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    began = loop.time() + 0.2

    async def one(place: int) -> None:
        await asyncio.sleep(max(0.0, began + due[place] - loop.time()))
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        if await exchanged(reader, writer, rows[place]):
            took[place] = loop.time() - began - due[place]
        idle.append((reader, writer))

    await asyncio.gather(*(one(place) for place in range(len(rows))))
    for _, writer in idle:
        writer.close()
    return took


def rate_of(port: int, clients: int = 32, each: int = 25) -> float:
    """Queries a second that the large version answers when there are always some that wait."""

    async def one(rows: NDArray[np.float32]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for row in rows:
            await exchanged(reader, writer, row)
        writer.close()

    async def everybody() -> float:
        rows, _ = queries(np.random.default_rng(3), clients * each)
        started = time.perf_counter()
        await asyncio.gather(*(one(part) for part in np.split(rows, clients)))
        return clients * each / (time.perf_counter() - started)

    return asyncio.run(everybody())


WAYS = {"first": "high value first", "routed": "first, and the others by the smaller version"}


def rows(runs: int) -> list[Row]:
    """``runs`` / 100 rounds, of 1,500 queries each way and load."""
    rounds, count = max(1, runs // 100), 1_500 if runs >= 100 else 500
    found = {(load, way): list[dict[str, float]]() for load in LOADS for way in ("alike", *WAYS)}
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="bench-routing-") as folder:
        replay = Replay(Path(folder))
        replay.release("alike")
        os.sched_setaffinity(0, {min(cores)})  # inherited by all threads of the server
        try:
            with replay.served.serve() as server:
                os.sched_setaffinity(0, cores - {min(cores)} or cores)
                for round_ in range(rounds):
                    replay.release("alike")
                    server.wait_for(replay.served.revision)
                    rate = rate_of(server.port)
                    for load, way in found:
                        replay.release(way, 1e3 * BUDGET / rate)
                        server.wait_for(replay.served.revision)
                        random = np.random.default_rng(10 + round_)
                        sent, cluster = queries(random, count)
                        due = np.cumsum(random.exponential(1 / (load * rate), count))
                        took = asyncio.run(asked(server.port, sent, due))
                        high = cluster < HIGH
                        found[load, way].append(
                            {
                                "median": float(np.nanmedian(took[high])),
                                "95 of 100": float(np.nanquantile(took[high], 0.95)),
                                "others": float(np.nanmedian(took[~high])),
                                "refused": float(np.isnan(took).mean()),
                            }
                        )
        finally:
            os.sched_setaffinity(0, cores)
    return [row for load in LOADS for way in WAYS for row in _compared(load, way, found, rounds)]


def _compared(
    load: float, way: str, found: Mapping[tuple[float, str], list[dict[str, float]]], rounds: int
) -> Iterator[Row]:
    ours, alike = found[load, way], found[load, "alike"]

    def middle(rounds_: list[dict[str, float]], name: str) -> float:
        return float(np.median([each[name] for each in rounds_]))

    def beside(what: str, name: str, scale: float, unit: str) -> Row:
        return Row(
            what=f"load {load:.0%}, {WAYS[way]}: {what}",
            ours=scale * middle(ours, name),
            peer=scale * middle(alike, name),
            peer_name="without routing",
            unit=unit,
            rounds=rounds,
        )

    for name in ("median", "95 of 100"):
        yield beside(f"high-value queries, {name}", name, 1e3, "ms")
        less = [1 - one[name] / plain[name] for one, plain in zip(ours, alike, strict=True)]
        yield Row(
            what=f"load {load:.0%}, {WAYS[way]}: less time for high-value queries, {name}",
            ours=100 * float(np.median(less)),
            target=40 if way == "routed" else None,  # the promise is of the whole; going first alone stands beside it
            greater_is_better=True,
            unit="%",
            rounds=rounds,
        )
    yield beside("the other queries, median", "others", 1e3, "ms")
    yield beside("refused as too late", "refused", 100, "%")
