"""What a row of a file may hold: the rules of requests, and each row that breaks them by file, row and column."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from onnx import TensorProto, helper

from everloop.errors import DataError
from everloop.records import InputColumn, Signature, TensorColumn
from everloop.serve import offline
from everloop.serve.offline import Scored
from everloop.store.packages import trusted_keys
from everloop.testing.serving import FAILS_ABOVE, ServedHome, graph_of, signature_of

COLUMNS = {"x": "number", "n": "integer", "b": "boolean", "w": "instant:America/Chicago", "t": "text"}
GOOD: dict[str, Any] = {"x": 1.5, "n": 2, "b": True, "w": "1970-01-01T00:00:00Z", "t": "yes"}


class Scorer:
    """A package and a folder to score in."""

    def __init__(self, folder: Path, signature: Signature | None = None, *, graph: bytes | None = None) -> None:
        self.folder = folder
        self.served = ServedHome(folder / "home")
        self.package = self.served.seal(1, signature or signature_of(COLUMNS), graph=graph)

    def score(self, source: str, target: str = "out.parquet", **more: Any) -> Scored:
        home = self.served.home
        return offline.score(
            home.packages / self.package, self.folder / source, self.folder / target,
            trusted=trusted_keys(home.keys), **more,
        )  # fmt: skip

    def aside(self, target: str = "out") -> list[dict[str, Any]]:
        lines = (self.folder / f"{target}.bad.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def write(self, rows: list[dict[str, Any]], name: str) -> None:
        path = self.folder / name
        if path.suffix == ".csv":
            names = list(rows[0])
            cells = [",".join("" if row[n] is None else str(row[n]) for n in names) for row in rows]
            path.write_text("\n".join([",".join(names), *cells]) + "\n")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def scorer(tmp_path: Path) -> Scorer:
    return Scorer(tmp_path)


WRONG: dict[str, tuple[str, Any, str]] = {
    "a word for a number": ("x", "far", "expected a number or null"),
    "a fraction for an integer": ("n", 2.5, "expected a 64-bit integer or null"),
    "an integer of 70 bits": ("n", 2**69, "expected a 64-bit integer or null"),
    "the integer that stands for none": ("n", -(2**63), "expected a 64-bit integer or null"),
    "a word for a boolean": ("b", "perhaps", "expected true, false or null"),
    "a word for an instant": ("w", "tomorrow", "expected an instant as ISO 8601 text"),
    "a day that never was": ("w", "2026-02-30T00:00:00Z", "expected an instant as ISO 8601 text"),
}


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_cannot_be_is_named_by_file_row_and_column(wrong: str, name: str, scorer: Scorer) -> None:
    column, value, expected = WRONG[wrong]
    scorer.write([GOOD] * 700 + [{**GOOD, column: value}] + [GOOD] * 5, name)
    with pytest.raises(DataError, match=rf"{name}, row 701: column '{column}' is .*{expected}"):
        scorer.score(name)
    scored = scorer.score(name, skip_bad=True)
    assert (scored.rows, scored.bad) == (705, 1)
    (line,) = scorer.aside()
    assert (line["row"], line["column"]) == (701, column)
    assert expected in line["reason"]
    assert str(line["content"][column]) == str(value)
    assert len(pl.read_parquet(scorer.folder / "out.parquet")) == 705


def test_a_line_that_is_no_json_or_no_object_is_a_bad_row(scorer: Scorer) -> None:
    scorer.write([GOOD] * 3, "in.jsonl")
    with (scorer.folder / "in.jsonl").open("a") as file:
        file.write("{oops\n[1, 2]\n\n" + json.dumps(GOOD) + "\n")
    with pytest.raises(DataError, match=r"in.jsonl, row 4: it is not JSON\. \(1 more near it\)"):
        scorer.score("in.jsonl")
    scored = scorer.score("in.jsonl", skip_bad=True)
    assert (scored.rows, scored.bad) == (4, 2)
    assert [line["row"] for line in scorer.aside()] == [4, 5]


def test_bad_rows_of_each_file_of_a_folder_lie_beside_it(scorer: Scorer) -> None:
    (scorer.folder / "asked" / "day=1").mkdir(parents=True)
    scorer.write([GOOD, {**GOOD, "x": "far"}], "asked/day=1/a.csv")
    scorer.write([GOOD], "asked/b.csv")
    scored = scorer.score("asked", "out", skip_bad=True)
    assert scored.aside == scorer.folder / "out.bad"
    assert [path.name for path in scored.aside.rglob("*.jsonl")] == ["a.csv.jsonl"]
    assert len(pl.read_csv(scorer.folder / "out" / "day=1" / "a.csv")) == 1
    scorer.write([GOOD, GOOD], "asked/day=1/a.csv")
    assert scorer.score("asked", "out").bad == 0
    assert not list((scorer.folder / "out.bad").rglob("*.jsonl")), "what is good now is not shown as bad"


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("x", ["far"], "expected number"),
        ("x", [True], "expected number"),
        ("n", ["1"], "expected integer"),
        ("b", [1], "expected boolean"),
        ("t", [5], "expected text"),
        ("w", [1.5], "expected instant"),
    ],
)
def test_a_column_of_another_type_is_named_with_both(
    column: str, values: list[Any], expected: str, scorer: Scorer
) -> None:
    frame = pl.DataFrame({**{name: [value] for name, value in GOOD.items()}, column: values})
    frame.write_parquet(scorer.folder / "in.parquet")
    with pytest.raises(DataError, match=rf"Column '{column}' in .*in.parquet is .*; {expected}"):
        scorer.score("in.parquet", skip_bad=True)


def test_values_of_parquet_that_no_request_could_bring_are_bad_rows(scorer: Scorer) -> None:
    frame = pl.DataFrame({**{name: [value] * 4 for name, value in GOOD.items()}})
    frame = frame.with_columns(
        n=pl.Series([1.0, 2.5, None, 2.0]), t=pl.Series(["yes", "yes", "yes", "\x00"]),
    )  # fmt: skip
    frame.write_parquet(scorer.folder / "in.parquet")
    scored = scorer.score("in.parquet", skip_bad=True)
    assert (scored.rows, scored.bad) == (2, 2)
    assert [(line["row"], line["column"]) for line in scorer.aside()] == [(2, "n"), (4, "t")]


def test_every_way_to_write_an_instant_is_one_instant(scorer: Scorer) -> None:
    moment = datetime(2026, 3, 8, 15, 0, tzinfo=UTC)  # 10:00 in Chicago, the day the clocks went forward
    micros = int(moment.timestamp()) * 1_000_000
    frames: dict[str, pl.Series] = {
        "utc": pl.Series([moment]),
        "zone": pl.Series([moment]).dt.convert_time_zone("Asia/Kolkata"),
        "naive": pl.Series([datetime(2026, 3, 8, 10, 0)]),
        "nanoseconds": pl.Series([datetime(2026, 3, 8, 10, 0)]).dt.cast_time_unit("ns"),
        "integer": pl.Series([micros]),
        "text": pl.Series(["2026-03-08T15:00:00Z"]),
        "offset": pl.Series(["2026-03-08 16:00:00+01:00"]),
        "local": pl.Series(["2026-03-08T10:00:00"]),
        "fraction": pl.Series(["2026-03-08T15:00:00.000000Z"]),
    }
    whole = {name: [value] for name, value in GOOD.items()}
    answers = set()
    for name, series in frames.items():
        pl.DataFrame({**whole, "w": series}).write_parquet(scorer.folder / f"{name}.parquet")
        scorer.score(f"{name}.parquet", f"out-{name}.parquet")
        answers.add(pl.read_parquet(scorer.folder / f"out-{name}.parquet")["probability_true"][0])
    scorer.write([{**GOOD, "w": micros}], "micros.csv")
    scorer.write([{**GOOD, "w": micros}], "micros.jsonl")
    for name in ("micros.csv", "micros.jsonl"):
        scorer.score(name, f"out-{name}.parquet")
        answers.add(pl.read_parquet(scorer.folder / f"out-{name}.parquet")["probability_true"][0])
    assert len(answers) == 1
    typed = pl.read_parquet(scorer.folder / "out-micros.csv.parquet")
    assert typed["w"].to_list() == [moment], "a typed target has typed columns"


@pytest.mark.parametrize("year", [1850, 1969, 2026, 2150])
def test_naive_instants_are_read_as_the_server_reads_them(year: int, scorer: Scorer) -> None:
    from everloop.serve.instants import reader
    from everloop.serve.offline_columns import typed

    read = reader("America/Chicago")
    walls = [
        datetime(year, month, day, hour, 30) for month in range(1, 13) for day in (1, 8, 15) for hour in (0, 1, 2, 3)
    ]
    column = InputColumn(name="w", type="instant", index=0, time_zone="America/Chicago")
    for series in (pl.Series("w", walls), pl.Series("w", [each.isoformat() for each in walls])):
        found = typed(series.to_frame(), [column], (), written=frozenset(), where="here")
        assert found.bad == []
        (moments,) = found.columns.values()
        assert list(moments) == [read(each.isoformat()) for each in walls]


def test_a_naive_date_without_a_declared_zone_is_refused(tmp_path: Path) -> None:
    scorer = Scorer(tmp_path, signature_of({"w": "instant"}))
    pl.DataFrame({"w": [date(2026, 1, 1)]}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match="without a zone"):
        scorer.score("in.parquet")


def test_rows_on_which_the_model_fails_are_bad_rows_and_no_others(tmp_path: Path) -> None:
    signature = signature_of({"x": "number"})
    scorer = Scorer(tmp_path, signature, graph=graph_of(signature, fails=True))
    values = [float(n) for n in range(3000)]
    values[1234] = FAILS_ABOVE * 2
    pl.DataFrame({"x": values}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(DataError, match="row 1235: the model failed on it"):
        scorer.score("in.parquet")
    assert scorer.score("in.parquet", skip_bad=True).rows == 2999
    assert [line["row"] for line in scorer.aside()] == [1235]


def test_texts_such_as_007_stay_what_they_are(tmp_path: Path) -> None:
    carried = (InputColumn(name="id", type="text", index=-1), InputColumn(name="units", type="integer", index=-1))
    scorer = Scorer(tmp_path, signature_of({"x": "number"}, key=("id",), carried=carried))
    scorer.write([{"id": "007", "units": "3", "note": "1.10", "x": 1.0}], "in.csv")
    scorer.score("in.csv", "out.csv")
    first, second = (tmp_path / "out.csv").read_text().splitlines()
    assert first.startswith("id,units,note,x,predicted,")
    assert second.startswith("007,3,1.10,1.0,true,")
    scorer.score("in.csv")
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.select("id", "units", "note", "x").rows() == [("007", 3, "1.10", 1.0)]


def test_a_column_where_the_answers_go_is_refused_or_left_out(scorer: Scorer) -> None:
    pl.DataFrame({**{name: [value] for name, value in GOOD.items()}, "version": [9]}).write_parquet(
        scorer.folder / "in.parquet"
    )
    with pytest.raises(DataError, match="has a column 'version' already"):
        scorer.score("in.parquet")
    scorer.score("in.parquet", keep="x", version=3)
    assert pl.read_parquet(scorer.folder / "out.parquet")["version"].to_list() == [3]


def test_regression_and_classes_of_any_type_have_their_columns(tmp_path: Path) -> None:
    regression = Scorer(tmp_path / "a", signature_of({"x": "number"}, task="regression", classes=(), positive=None))
    pl.DataFrame({"x": [1.5, None]}).write_parquet(tmp_path / "a" / "in.parquet")
    regression.score("in.parquet")
    found = pl.read_parquet(tmp_path / "a" / "out.parquet")
    assert found.columns == ["x", "predicted", "version", "package"]
    assert found["predicted"].to_list() == [1.5, 0.0]
    named = Scorer(tmp_path / "b", signature_of({"x": "number"}, classes=("no", "yes")))
    pl.DataFrame({"x": [1.5, -2.0]}).write_parquet(tmp_path / "b" / "in.parquet")
    named.score("in.parquet")
    found = pl.read_parquet(tmp_path / "b" / "out.parquet")
    assert found["predicted"].to_list() == ["yes", "no"]
    assert found.columns[1:4] == ["predicted", "probability_no", "probability_yes"]


def tensor_graph() -> bytes:
    """The sum of a [2, 3] array in each row."""
    nodes = [
        helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Flatten", ["wide"], ["flat"], axis=1),
        helper.make_node("ReduceSum", ["flat", "axes"], ["prediction"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes, "sums", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 2, 3])],
        [helper.make_tensor_value_info("prediction", TensorProto.DOUBLE, [None, 1])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    )


@pytest.mark.parametrize("form", ["lists", "bytes", "json"])
def test_whole_arrays_a_row_come_as_lists_or_bytes(form: str, tmp_path: Path) -> None:
    tensor = TensorColumn(name="image", datatype="FP32", shape=(2, 3))
    scorer = Scorer(tmp_path, Signature(inputs=(), task="regression", tensors=(tensor,)), graph=tensor_graph())
    arrays = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    if form == "json":
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"image": a.tolist()}) + "\n" for a in arrays))
    elif form == "lists":
        pl.DataFrame({"image": arrays.tolist()}).write_parquet(tmp_path / "in.parquet")
    else:
        pl.DataFrame({"image": [a.tobytes() for a in arrays[:2]] + [b"short"]}).write_parquet(tmp_path / "in.parquet")
    scored = scorer.score("in.jsonl" if form == "json" else "in.parquet", skip_bad=True)
    expected = [15.0, 51.0, 87.0]
    assert pl.read_parquet(tmp_path / "out.parquet")["predicted"].to_list() == expected[: scored.rows]
    assert scored.bad == (1 if form == "bytes" else 0)


def test_the_graph_is_the_packages_own(scorer: Scorer) -> None:
    """What a file is answered is what the graph gives for the packed row."""
    scorer.write([GOOD, dict.fromkeys(GOOD)], "in.jsonl")
    scorer.score("in.jsonl")
    session = onnxruntime.InferenceSession(graph_of(signature_of(COLUMNS)), providers=["CPUExecutionProvider"])
    missing = -(2**63)
    packed = {
        "numbers": np.array([[1.5], [np.nan]]),
        "integers": np.array([[2, 1, 0], [missing] * 3], dtype=np.int64),
        "texts": np.array([["yes"], ["\x00"]], dtype=object),
    }
    expected = session.run(["prediction"], packed)[0][:, 1].tolist()
    assert pl.read_parquet(scorer.folder / "out.parquet")["probability_true"].to_list() == expected
