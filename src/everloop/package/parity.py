"""Does the graph answer as the trainer does? On real rows, and on rows with something missing, unseen or extreme.

Knows nothing of how either came to be; there is no package without its word.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import polars as pl

from everloop.errors import ConversionRefused, PackageError, ParityError
from everloop.measure import images, subwords
from everloop.package.pack import feeds
from everloop.package.render import KINDS
from everloop.records import MISSING_INTEGER, MISSING_TEXT, InputColumn, Signature

Columns = Mapping[str, npt.NDArray[Any]]
"""Raw columns by name: number float64 (NaN missing), text str objects (`MISSING_TEXT`), others int64
(`MISSING_INTEGER`)."""
Trainer = Callable[[pl.DataFrame], npt.NDArray[np.float64]]
"""Raw columns, null where missing → the trainer's prediction [rows, classes], or [rows] for regression."""

RELATIVE = 1e-5
NETWORK = 1e-4
"""The same for networks: sums of thousands of float32 products, added in another order."""
FLOOR = 1e-6
"""Near zero: absolute for probabilities; for regression times the root mean square of the trainer's predictions."""
FLIP = 1e-5
"""A decision counts as flipped where the trainer's probability is farther than this from the threshold."""
SAMPLED = 24
"""How many real rows are mutated in each way."""
LETTERS = "don't  ÇA_VA Straße İI ΣΟΦΟΣ 日本語の テスト\t½ ☃\r\n\U0001f600x é e\u0301 \u200b2x2 The END"
ALONE = 8
"""How many rows are also asked one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What was compared and the largest difference seen; everything was within the limits."""

    rows: int
    mutated: int
    worst: float
    """Largest difference, in units of what was allowed for that row: at most 1."""
    seconds: float = 0.0


class Prepared:
    """A graph with steps before it: runs as a session does, on the inputs that a signature names."""

    def __init__(self, opened: onnxruntime.InferenceSession, steps: Sequence[subwords.Step]) -> None:
        self._opened, self._steps = opened, steps

    def run(self, names: Sequence[str] | None, inputs: dict[str, Any]) -> list[Any]:
        found: list[Any] = self._opened.run(names, subwords.added(self._steps, inputs))
        return found


class Opened(Protocol):
    """A session, or one with steps before it."""

    def run(self, names: Sequence[str] | None, inputs: dict[str, Any]) -> list[Any]: ...


def session(graph: bytes, *, extensions: bool = False, threads: int = 0) -> Opened:
    """Open a graph as the server will, but with ``threads`` (0: as many as there are cores)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores, the server first
    if extensions:
        import onnxruntime_extensions

        options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    try:
        opened = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises kinds of its own that share no public base
        raise ConversionRefused(
            f"the graph does not load ({str(error).splitlines()[0]}); use a linear model, a forest, LightGBM or XGBoost."
        ) from error
    steps = subwords.steps_of(opened.get_modelmeta().custom_metadata_map)
    found: Opened = Prepared(opened, steps) if steps else opened
    return found


def check(
    graph: bytes,
    signature: Signature,
    rows: pl.DataFrame,
    trainer: Trainer,
    *,
    threshold: float | None = None,
    extensions: bool = False,
    relative: float = RELATIVE,
) -> ParityReport:
    """Raise `ParityError` naming rows, columns and sizes unless graph and trainer agree on all of them.

    ``relative``: the difference that is allowed, as a share of the trainer's prediction.
    """
    started = time.perf_counter()
    floor = FLOOR * relative / RELATIVE
    opened = session(graph, extensions=extensions)
    count = len(rows)
    if count == 0:
        raise PackageError("parity needs rows and got none; hold back test rows with window=el.Everything(test=0.1).")
    inputs = feeds(rows, signature)
    expected = _trained(trainer, rows, "")
    answer, decision = run(opened, inputs)
    if signature.task == "regression":
        finite = expected[np.isfinite(expected)]
        floor = floor * float(np.sqrt(np.mean(np.square(finite)))) if len(finite) else floor
    limits = (relative, floor)
    worst = _compare(signature, answer, decision, expected, limits, threshold, lambda row: f"row {row}")
    for row in np.unique(np.linspace(0, count - 1, ALONE, dtype=np.int64)).tolist():
        answer, decision = run(opened, {kind: values[row : row + 1] for kind, values in inputs.items()})
        said = [f"row {row} alone"]
        alone = _compare(signature, answer, decision, expected[row : row + 1], limits, threshold, said.__getitem__)
        worst = max(worst, alone)
    raw = unpacked(signature, inputs) | files_of(signature, rows)
    changed, words = mutations(signature, raw)
    try:
        expected = _trained(trainer, frame_of(signature, changed), "")
    except ParityError:  # some estimators have no answer for 1e30: then there is nothing to agree with
        changed, words = mutations(signature, raw, extremes=False)
        expected = _trained(trainer, frame_of(signature, changed), " on rows with a missing or unseen value")
    answer, decision = run(opened, feeds(changed, signature))
    worst = max(worst, _compare(signature, answer, decision, expected, limits, threshold, words.__getitem__))
    return ParityReport(rows=count, mutated=len(words), worst=worst, seconds=time.perf_counter() - started)


def run(
    opened: Opened, inputs: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None]:
    """The graph's prediction [rows, width] and, for classification, decision [rows], of packed inputs."""
    try:
        answers = opened.run(None, dict(inputs))
    except Exception as error:  # onnxruntime raises kinds of its own that share no public base
        raise ParityError(f"the graph fails where the trainer answers: {str(error).splitlines()[0]}") from error
    return answers[0], answers[1] if len(answers) > 1 else None


def unpacked(signature: Signature, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Raw columns by name from packed inputs."""
    return {each.name: inputs[KINDS[each.type]][:, each.index] for each in signature.inputs}


def files_of(signature: Signature, rows: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """The columns of images: objects, the bytes of a file each."""
    found: dict[str, npt.NDArray[Any]] = {}
    for each in signature.tensors:
        found[each.name] = np.empty(len(rows), dtype=object)
        found[each.name][:] = rows[each.name].to_list()
    return found


def frame_of(signature: Signature, columns: Columns) -> pl.DataFrame:
    """Raw columns as the data room holds them: null where missing, instants as Datetime in UTC."""
    series = []
    for each in signature.inputs:
        values = columns[each.name]
        if each.type == "number":
            series.append(pl.Series(each.name, values, dtype=pl.Float64).fill_nan(None))
        elif each.type == "text":
            listed = [None if value == MISSING_TEXT else value for value in values.tolist()]
            series.append(pl.Series(each.name, listed, dtype=pl.String))
        else:
            whole = pl.Series(each.name, values, dtype=pl.Int64)
            whole = whole.set(whole == MISSING_INTEGER, None)
            kinds = {"boolean": pl.Boolean(), "instant": pl.Datetime("us", "UTC")}
            series.append(whole.cast(kinds[each.type]) if each.type in kinds else whole)
    series += [pl.Series(each.name, columns[each.name].tolist(), dtype=pl.Binary) for each in signature.tensors]
    return pl.DataFrame(series)


def mutations(
    signature: Signature, rows: Columns, *, extremes: bool = True
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Real rows with one input changed at a time, then all inputs missing; and what was done to each, in words."""
    count = len(next(iter(rows.values())))
    chosen = np.unique(np.linspace(0, count - 1, SAMPLED, dtype=np.int64))
    names = [*(each.name for each in signature.inputs), *(each.name for each in signature.tensors)]
    base = {name: np.asarray(rows[name])[chosen] for name in names}
    blocks: list[dict[str, npt.NDArray[Any]]] = []
    words: list[str] = []
    for column in signature.inputs:
        for value, word in _variants(column, np.asarray(rows[column.name]), extremes):
            changed = base[column.name].copy()
            changed[:] = value
            blocks.append({**base, column.name: changed})
            words += [f"row {row} with {column.name!r} {word}" for row in chosen]
    for tensor in signature.tensors:
        for data in images.KNOWN:  # of other sizes and colours than anything that was learned from
            changed = base[tensor.name][:1].copy()
            changed[0] = data
            blocks.append({**{name: values[:1] for name, values in base.items()}, tensor.name: changed})
            words.append(f"row {chosen[0]} with a pattern of colours as {tensor.name!r}")
    empty = {tensor.name: base[tensor.name][:1] for tensor in signature.tensors}
    for column in signature.inputs:
        empty[column.name] = base[column.name][:1].copy()
        empty[column.name][:] = _variants(column, base[column.name], extremes)[0][0]
    blocks.append(empty)
    words.append("a row with every input missing")
    return {name: np.concatenate([block[name] for block in blocks]) for name in names}, words


def _variants(column: InputColumn, values: npt.NDArray[Any], extremes: bool) -> list[tuple[Any, str]]:
    if column.type == "number":
        tried = [0.0, -1.0, 1e-40, 1e9, -1e9, *((1e30, -1e30, 1e300) if extremes else ())]
        return [(np.nan, "missing"), *((number, f"= {number:g}") for number in tried)]
    if column.type == "text":
        unseen = [
            ("", "empty"),
            ("never seen before ☃", "unseen"),
            ("x" * 1000, "very long"),
            (LETTERS, "of all kinds"),
        ]
        return [(MISSING_TEXT, "missing"), *unseen]
    missing = (MISSING_INTEGER, "missing")
    if column.type == "boolean":
        return [missing, (0, "false"), (1, "true")]
    if column.type == "integer":
        return [missing, *((whole, f"= {whole}") for whole in (0, -1, 2**31, 2**53 + 1, -(2**53) - 1))]
    known = values[values != MISSING_INTEGER]
    earliest, latest = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    year = 366 * 86_400_000_000
    return [missing, (earliest - year, "a year earlier"), (latest + year, "a year later"), (0, "in 1970")]


def _trained(trainer: Trainer, rows: pl.DataFrame, where: str) -> npt.NDArray[np.float64]:
    try:
        with np.errstate(all="ignore"):
            expected = np.asarray(trainer(rows), dtype=np.float64)
    except Exception as error:
        raise ParityError(
            f"the trainer itself fails{where} ({type(error).__name__}: {str(error).splitlines()[0]}); use an estimator "
            "that takes such rows."
        ) from error
    return expected.reshape(-1, 1) if expected.ndim == 1 else expected


def _compare(
    signature: Signature,
    answer: npt.NDArray[np.float64],
    decision: npt.NDArray[np.int64] | None,
    expected: npt.NDArray[np.float64],
    limits: tuple[float, float],
    threshold: float | None,
    name: Callable[[int], str],
) -> float:
    """The largest difference in units of the allowed one, or raise."""
    if answer.shape != expected.shape:
        raise ParityError(f"the graph answers {answer.shape[1]} columns and the trainer {expected.shape[1]}.")
    if decision is not None and decision.shape != (len(answer),):
        raise ParityError(f"the graph decides in the shape {decision.shape} for {len(answer)} rows.")
    with np.errstate(invalid="ignore", over="ignore"):
        units = np.abs(answer - expected) / (limits[0] * np.abs(expected) + limits[1])
    same = (answer == expected) | (np.isnan(answer) & np.isnan(expected))
    units = np.where(same, 0.0, np.where(np.isnan(units), np.inf, units))
    worst = float(units.max()) if units.size else 0.0
    if worst > 1.0:
        _refuse(answer, expected, units, signature, limits[0], name)
    if decision is not None:
        flipped = np.flatnonzero(_flipped(signature, decision, expected, threshold))
        if len(flipped):
            raise ParityError(
                f"the graph decides otherwise than the trainer on {len(flipped)} of {len(answer)} rows: "
                f"{_listed(flipped, name)}; use a linear model, a forest, LightGBM or XGBoost."
            )
    return worst


def _flipped(
    signature: Signature,
    decision: npt.NDArray[np.int64],
    expected: npt.NDArray[np.float64],
    threshold: float | None,
) -> npt.NDArray[np.bool_]:
    rows = np.arange(len(expected))
    if threshold is not None and signature.positive is not None:
        positive = expected[:, signature.positive]
        wanted = np.where(positive >= threshold, signature.positive, 1 - signature.positive)
        flipped: npt.NDArray[np.bool_] = (decision != wanted) & (np.abs(positive - threshold) > FLIP)
        return flipped
    chosen: npt.NDArray[np.bool_] = expected.max(axis=1) - expected[rows, decision] > FLIP
    return chosen


def _refuse(
    answer: Any, expected: Any, units: Any, signature: Signature, relative: float, name: Callable[[int], str]
) -> None:
    bad = np.flatnonzero((units > 1.0).any(axis=1))
    row, place = np.unravel_index(int(np.argmax(units)), units.shape)
    column = f"class {signature.classes[place]!r}" if signature.classes else "prediction"
    raise ParityError(
        f"the graph and the trainer differ on {len(bad)} of {len(answer)} rows: {_listed(bad, name)}. Largest at "
        f"{name(int(row))}, {column}: graph {answer[row, place]:.9g}, trainer {expected[row, place]:.9g} (difference "
        f"{abs(answer[row, place] - expected[row, place]):.3g}, allowed {relative:g} relative). Use a linear model, a "
        "forest, LightGBM or XGBoost."
    )


def _listed(rows: npt.NDArray[np.int64], name: Callable[[int], str]) -> str:
    shown = ", ".join(name(int(row)) for row in rows[:5])
    return shown + (" …" if len(rows) > 5 else "")
