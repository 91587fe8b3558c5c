"""20,000 bodies that hypothesis makes, near to sound ones: each is answered, none with a 5xx, and none with a wrong number.

What is taken is taken for what it says: Python's own reader of JSON must read the same row, and a sum worked out from
it must be the answer. Beside it all a client gets its right answers, and memory stays where it was.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from everloop.testing.serving import Client, ServedHome, ServerProcess, expected, message, signature_of
from raw_http import Shot, memory, most_memory, volley

BODIES = 20_000
TOGETHER = 20
"""Bodies of one example: they go out on one connection, one behind the other."""
WARM = 100
GROWTH = 16 * 2**20
COLUMNS = {"x": "number", "y": "number", "n": "integer", "b": "boolean", "t": "text", "when": "instant:Europe/Berlin"}
TOKEN = "a token for replays"
numbers = count()


def mostly(sound: Callable[[], st.SearchStrategy[Any]], *others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Hypothesis likes what stands first and last best: so the sound ones do."""
    return st.one_of(*(sound() for _ in range(4)), *others, *(sound() for _ in range(4)))


# Values, and how they are written


class Pairs(list[tuple[str, Any]]):
    """An object as it is written: names may come twice."""


class Raw(str):
    """Written as it stands."""


def written(value: Any) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{written(each)}" for name, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


odd = st.sampled_from(
    [
        *map(Raw, ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "01", "+1", "1.", ".5", "0x10", "1_0", "--1", "-", "True", "None"]),
        *map(Raw, ["9" * 400, "-" + "9" * 25, "1" + "0" * 308, "1e308", "-0", "-0.0", "9223372036854775807", "9223372036854775808"]),
        *map(Raw, ["-9223372036854775808", "-9223372036854775809", "18446744073709551615", "1.0", "1e2", "2.5e0", "1E400", "4.9e-324"]),
        *map(Raw, ['"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"a\\u0000b"', '"\\x41"', '"\x01"', '"\\', "'a'", '"' + "a" * 3000 + '"', "//", ""]),
        *map(Raw, ["[" * 200, "[" * 5000 + "]" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, "[[]]", "{}", "[]", "null", "true", "nul", "\ufeff1"]),
        "2026-02-30", "9999-12-31T23:59:59.999999Z", "0001-01-01", "10000-01-01", "2026-03-29T02:30:00", "2026-10-25T02:30:00", "now", "1e3",
        "2026-01-01T00:00:00+25:00", "2026-01-01T00:00:00.1234567Z", "-2026-01-01", "2026-W01-1", "１", "yes", "YES", "", " ", "\u202e", "é" * 50,
        2**63 - 1, 2**63, -(2**63), -(2**63) + 1, 2**200, -(2**200), 2**53 + 1, 0.1, 1e308, -1e308, 5e-324, 253402300799999999, 253402300800000000,
    ]
)  # fmt: skip
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-100, 100),
    st.floats(-1e3, 1e3),
    st.text(max_size=4),
    st.sampled_from(["yes", "no"]),
)
scalar = st.one_of(
    plain, plain, odd, st.integers(-(2**70), 2**70), st.floats(), st.text('\ud800\udfff\0\x7fa"\\/é😀', max_size=4)
)
value = st.one_of(
    scalar, scalar, scalar, st.lists(scalar, max_size=3), st.builds(lambda v: Pairs([("a", v)]), scalar)
).map(lambda found: found)
"""One choice for `one_of`, which would otherwise count each of its own."""
column = st.sampled_from([*COLUMNS, *COLUMNS, "x", "y", "k", "unknown", "X", "", "c0", "\ud800", "x\0", "__class__"])


@st.composite
def row(draw: st.DrawFn) -> Any:
    """Named columns: mostly of the right type, one or two of them of another."""
    right: list[tuple[str, Any]] = [
        ("x", draw(st.floats(-50, 50))), ("n", draw(st.integers(-50, 50))), ("b", draw(st.booleans())), ("t", draw(st.sampled_from(["yes", "no"]))),
    ]  # fmt: skip
    pairs = Pairs(right[: draw(st.integers(0, 4))])
    if draw(st.booleans()):
        pairs += draw(st.lists(st.tuples(column, value), max_size=2))
    return pairs


rows = mostly(
    row, st.lists(row(), max_size=3), st.builds(lambda r, n: [r] * n, row(), st.sampled_from([1, 50, 300])), value
)
datatypes = st.sampled_from(["FP64", "FP32", "INT64", "BOOL", "BYTES", "FP16", "UINT8", "fp64", "", "FLOAT", "INT128"])
shapes = st.one_of(
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([[1], [2], [1, 1], [2**63], [-1], [2**70], [0], [10**9, 10**9], "x", None, [1.5], [True]]),
)


@st.composite
def tensor(draw: st.DrawFn) -> Any:
    pairs = Pairs([("name", draw(st.one_of(column, scalar)))])
    pairs.append(("shape", draw(shapes)))
    pairs.append(("datatype", draw(datatypes)))
    pairs.append(
        (
            "data",
            draw(st.one_of(st.lists(scalar, max_size=3), st.lists(st.lists(scalar, max_size=2), max_size=2), value)),
        )
    )
    if draw(st.booleans()):
        pairs.append(
            ("parameters", draw(st.one_of(scalar, st.builds(lambda v: Pairs([("binary_data_size", v)]), scalar))))
        )
    if draw(st.integers(0, 9)) == 0:
        del pairs[draw(st.integers(0, len(pairs) - 1))]
    return pairs


@st.composite
def sound_tensors(draw: st.DrawFn) -> Any:
    rows = draw(st.integers(0, 3))
    shape = draw(st.sampled_from([[rows], [rows, 1]]))
    kinds = {
        "x": ("FP64", st.floats(-50, 50)),
        "n": ("INT64", st.integers(-50, 50)),
        "t": ("BYTES", st.sampled_from(["yes", "no"])),
    }
    return [
        Pairs([("name", name), ("shape", shape), ("datatype", kind), ("data", draw(st.lists(each, min_size=rows, max_size=rows)))])
        for name, (kind, each) in kinds.items()
    ]  # fmt: skip


@st.composite
def inference(draw: st.DrawFn) -> Any:
    pairs = Pairs([("inputs", draw(mostly(sound_tensors, st.lists(tensor(), max_size=3), value)))])
    if draw(st.integers(0, 3)) == 0:
        pairs.append((draw(st.sampled_from(["id", "parameters", "outputs", "inputs", "zz"])), draw(value)))
    if draw(st.integers(0, 3)) == 0:
        pairs.append(("outputs", [Pairs([("name", draw(st.sampled_from(["id", "decision", "probability", "nope"])))])]))
    return pairs


names = st.text('abcü😀"', min_size=1, max_size=5)
values = plain.map(lambda found: found)


@st.composite
def outcome(draw: st.DrawFn) -> Any:
    pairs = Pairs(
        [("id", draw(st.one_of(names, names, names, value))), ("value", draw(st.one_of(values, values, value)))]
    )
    if draw(st.booleans()):
        pairs.append(
            ("at", draw(st.one_of(st.integers(0, 2**51), st.sampled_from(["2026-01-01T00:00:00Z", "now"]), value)))
        )
    if draw(st.integers(0, 3)) == 0:
        pairs.append((draw(st.sampled_from(["name", "id", "value", "zz"])), draw(value)))
    return pairs


outcomes = mostly(outcome, st.lists(outcome(), max_size=3), value)


@st.composite
def replay(draw: st.DrawFn) -> Any:
    """Rows of a replay, a moment for each."""
    told = draw(st.lists(row(), max_size=3))
    moments: Any = [draw(st.one_of(st.integers(0, 2**51), *[st.integers(0, 2**51)] * 4, value)) for _ in told]
    if draw(st.integers(0, 3)) == 0:
        moments = draw(st.one_of(value, st.lists(value, max_size=4)))
    pairs = Pairs([("rows", told), ("at", moments)])
    if draw(st.integers(0, 3)) == 0:
        pairs.append((draw(st.sampled_from(["at", "rows", "id", "zz"])), draw(value)))
    return pairs


replays = mostly(replay, rows.map(lambda found: found))
REPLAY = {"x_everloop_replay": TOKEN}


@st.composite
def binary(draw: st.DrawFn) -> Any:
    """A V2 request whose numbers come as bytes behind its JSON; one of the three lengths may lie."""
    rows = draw(st.integers(0, 3))
    size = draw(st.one_of(st.just(8 * rows), st.just(8 * rows), st.just(8 * rows), st.integers(-1, 40), value))
    told = [
        Pairs(
            [("name", name), ("shape", [rows]), ("datatype", kind), ("parameters", Pairs([("binary_data_size", size)]))]
        )
        for name, kind in (("x", "FP64"), ("n", "INT64"))
    ]
    told += draw(st.one_of(st.just([]), st.just([]), st.lists(tensor(), max_size=1)))
    rest = draw(
        st.one_of(st.just(bytes(16 * rows)), st.binary(min_size=16 * rows, max_size=16 * rows), st.binary(max_size=60))
    )
    return Pairs([("inputs", told)]), rest, draw(st.one_of(st.just(0), st.just(0), st.just(0), st.integers(-3, 3)))


kinds = st.one_of(
    st.tuples(st.just("/predict/made"), rows),
    st.tuples(st.just("/predict/made"), rows),
    st.tuples(st.just("/v2/models/made/infer"), inference()),
    st.tuples(st.just("/outcomes/made"), outcomes),
    st.tuples(st.just("replay"), replays),
    st.tuples(st.just("binary"), binary()),
)
change = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from([b"", b"", b"\xff", b"\0", b"{", b"]", b",", b'"', b"\\", b"\xed\xa0\x80", b"1", b" ", b"/**/"]),
)


@st.composite
def body(draw: st.DrawFn) -> tuple[str, bytes]:
    path, told = draw(kinds)
    rest, wrong = b"", 0
    if path == "binary":
        told, rest, wrong = told
    data = written(told).encode("utf-8", "surrogatepass")
    if path == "binary":
        return f"binary {len(data) + wrong}", data + rest
    for place, piece in draw(st.one_of(*[st.just(())] * 4, st.lists(change, min_size=1, max_size=2))):
        at = place % (len(data) + 1)
        data = data[:at] + piece + data[at + 1 :]
    return path, data


def request(path: str, data: bytes) -> bytes:
    if path == "replay":
        return message("POST", "/predict/made", data, **REPLAY)
    if path.startswith("binary"):
        length = path.partition(" ")[2]
        return message("POST", "/v2/models/made/infer", data, inference_header_content_length=length)
    return message("POST", path, data)


def total(row: Any) -> float | None:
    """What the graph of the tests adds up; None where we leave it to others (instants)."""
    if not isinstance(row, dict) or row.get("when") is not None:
        return None
    found = math.fsum(float(row[name]) for name in "xy" if row.get(name) is not None)
    found += sum(int(row[name]) for name in "nb" if row.get(name) is not None)
    return found + (row.get("t") == "yes")


class Judge:
    def __init__(self) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.bodies = 0
        self.checked = 0

    def look(self, path: str, data: bytes, status: int, answer: bytes) -> None:
        told = (path, data[:2000], status, answer[:1000])
        self.bodies += 1
        self.statuses[path.partition(" ")[0], status] += 1
        assert 200 <= status < 500, told
        if status >= 400:
            assert json.loads(answer)["error"], told
            assert len(answer) < 4000, told
            return
        assert b"NaN" not in answer, told
        if path != "/predict/made":
            return
        sent = json.loads(data)  # what we take, others take
        found = json.loads(answer)
        for each, got in zip(sent, found, strict=True) if isinstance(sent, list) else [(sent, found)]:
            right = total(each)
            if right is not None and abs(right) < 600:
                assert got["probability"]["true"] == pytest.approx(expected(right), rel=1e-9, abs=1e-12), told
                self.checked += 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    served = ServedHome(tmp_path_factory.mktemp("home"))
    served.seal(1, signature_of(COLUMNS))
    served.release(1, cache={"bytes": 8 * 2**20, "seconds": 60.0})  # what was kept must be right as well
    with served.serve(token=TOKEN) as process:
        yield process
        assert process.terminate() == 0
        assert "request failed" not in process.log.read_text()
        assert "Traceback" not in process.log.read_text()


def test_twenty_thousand_bodies_are_answered_without_a_5xx_and_without_a_wrong_number(server: ServerProcess) -> None:
    judge = Judge()
    resident: list[int] = []
    with Client(server.port) as client, Client(server.port) as steady:

        @settings(
            max_examples=BODIES // TOGETHER, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.lists(body(), min_size=TOGETHER, max_size=TOGETHER))
        def send(bodies: list[tuple[str, bytes]]) -> None:
            client.send(b"".join(request(*each) for each in bodies))
            answers = client.answers(len(bodies))
            assert len(answers) == len(bodies), (bodies, answers)
            for (path, data), (status, answer) in zip(bodies, answers, strict=True):
                judge.look(path, data, status, answer)
            status, answer = steady.post("/predict/made", {"x": 0.5, "n": 2})
            assert status == 200
            assert answer["probability"]["true"] == pytest.approx(expected(2.5), rel=1e-12)
            resident.append(memory(server.process.pid))

        send()
    assert judge.bodies >= BODIES
    assert judge.checked > BODIES / 20
    for path in ("/predict/made", "/v2/models/made/infer", "/outcomes/made", "replay", "binary"):
        assert min(judge.statuses[path, 200], judge.statuses[path, 400]) > BODIES / 1_000, judge.statuses
    assert max(resident[WARM:]) - resident[WARM] < GROWTH


def test_bodies_that_are_enormous_are_refused_or_answered_and_leave_nothing_behind(server: ServerProcess) -> None:
    """Each is within the sixteen megabytes that a body may have, or says that it is not."""
    enormous = {
        "numbers in a row": b'{"x":[' + b"1," * 4_000_000 + b"1]}",
        "rows": b"[" + b"{}," * 4_000_000 + b"{}]",
        "rows, just too many": b"[" + b"{}," * 20_000 + b"{}]",
        "depth": b"[" * 8_000_000,
        "closed depth": b"[" * 4_000_000 + b"]" * 4_000_000,
        "objects in objects": b'{"x":' * 2_000_000,
        "a name": b'{"' + b"a" * 8_000_000 + b'":1}',
        "names": b"{" + b",".join(b'"c%d":1' % n for n in range(500_000)) + b"}",
        "one name again and again": b"{" + b'"x":1,' * 2_000_000 + b'"x":1}',
        "a text": b'{"t":"' + b"a" * 15_000_000 + b'"}',
        "escapes": b'{"t":"' + b"\\u0041" * 2_000_000 + b'"}',
        "digits": b'{"x":' + b"9" * 8_000_000 + b"}",
        "digits of an integer": b'{"n":' + b"9" * 8_000_000 + b"}",
        "digits behind the point": b'{"x":0.' + b"1" * 8_000_000 + b"}",
        "an exponent": b'{"x":1e' + b"9" * 1_000_000 + b"}",
        "space": b" " * 12_000_000,
        "space before a row": b" " * 12_000_000 + b'{"x":1}',
        "zeros": b"\0" * 12_000_000,
    }  # fmt: skip
    shots = [
        Shot([request(path, data)], name=f"{path}: {name}")
        for name, data in enormous.items()
        for path in ("/predict/made", "/v2/models/made/infer", "/outcomes/made")
    ]
    with Client(server.port) as steady:
        before = 0
        for place, result in enumerate([*volley(server.port, shots[:6], 1), *volley(server.port, shots, 2)]):
            assert result.ended == "eof", (result.shot.name, result.seconds)
            ((status, answer),) = result.answers
            assert status in (200, 400, 413), (result.shot.name, status, answer[:300])
            assert status == 200 or len(answer) < 4_000, result.shot.name
            assert steady.post("/predict/made", {"x": 1})[0] == 200
            if place == 5:
                before = memory(server.process.pid)
        assert memory(server.process.pid) - before < 64 * 2**20
        assert most_memory(server.process.pid) - before < 320 * 2**20  # two at a time, of at most sixteen megabytes


def test_names_and_paths_are_never_places(server: ServerProcess, tmp_path: Path) -> None:
    with Client(server.port) as client:
        for name in (
            "..",
            "%2e%2e",
            "..%2f..%2fkeys",
            "made%2f..",
            "made%00",
            "%2fmade",
            "made/",
            "MADE",
            "%6d%61de%2e",
            "*",
            "~",
            ".",
        ):
            for before in ("/predict/", "/outcomes/", "/v2/models/", "/settled/"):
                status, answer = client.post(f"{before}{name}", {})
                assert status in (403, 404, 405) or name == "made/", (before, name, status, answer)
        for place in (
            "/keys/signing.pem",
            "/packages",
            "/servers",
            "/releases/made.json",
            "/..",
            "/%2e%2e/keys/signing.pem",
            "/settings.json",
        ):
            assert client.get(place)[0] == 404
