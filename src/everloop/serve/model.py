"""A package as a running graph: opened, verified, loaded, warm. Knows nothing of releases, requests or arms.

One ONNX Runtime thread per process and no spinning: other processes and the event loop need the cores
(docs: measured, two spinning threads cost several times the work on shared cores).
"""

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from everloop.errors import PackageError
from everloop.measure import subwords
from everloop.records import MISSING_INTEGER, MISSING_TEXT, Signature
from everloop.serve import tensors
from everloop.serve.cost import CostLine
from everloop.serve.loading import Allowance, Watch
from everloop.serve.rows import KINDS, Packed
from everloop.store.graphs import inspect
from everloop.store.packages import Manifest, Opened, open_package

ALLOWANCE = Allowance()
EXTENSIONS = "ai.onnx.contrib"
"""The operators of onnxruntime-extensions."""
WARM_ROWS = (1, 4, 16, 64)
WARM_SECONDS = 0.1
"""Warming stops early once it has taken this long, and runs nothing that would: a large model is warm after its first
run. Two sizes are enough for the line of its cost; which size is best shows in real traffic."""


class Model:
    """A graph that answers. ``cost`` is what its runs take; ``manifest`` says what it is."""

    __slots__ = (
        "_outputs",
        "_run",
        "_session",
        "_steps",
        "bytes",
        "cost",
        "digest",
        "manifest",
        "signature",
        "threads",
    )

    def __init__(
        self, digest: str, manifest: Manifest, graph: bytes, allowance: Allowance = ALLOWANCE, threads: int = 1
    ) -> None:
        """``threads``: cores that one run may use. Raises PackageError when the graph does not load, run or give what its signature says, or takes too much."""
        self.digest = digest
        self.bytes = 0
        """What it takes in memory, as far as whoever loaded it has measured."""
        self.manifest = manifest
        self.signature = manifest.signature
        self.cost = CostLine()
        self.threads = threads
        classified = self.signature.task != "regression"
        self._outputs = ["prediction", "decision"] if classified else ["prediction"]
        try:
            row = sum(map(tensors.size_of, self.signature.tensors))
            if row * WARM_ROWS[-1] > allowance.model_bytes:
                raise PackageError(f"A row has {row} bytes of tensors: a batch is more than a model may take.")
            inspection = inspect(graph, declared=(*manifest.opset, *([EXTENSIONS] if manifest.extensions else [])))
            with Watch(allowance, len(graph)) as watch:
                self._session = _session(
                    graph, watch, extensions=manifest.extensions, folds=inspection.folds, threads=threads
                )
                self._run = _native(self._session)
                self._prepare()
                self._check()
                self._warm(watch.run)
        except PackageError as error:
            raise PackageError(f"Package {digest[:12]} is not loaded: {error}") from error
        except Exception as error:  # whatever the runtime raises, this package cannot serve
            raise PackageError(f"Package {digest[:12]} does not run here: {error}") from error

    @property
    def width(self) -> int:
        return len(self.signature.classes) or 1

    def run(self, packed: Packed, options: Any = None) -> tuple[NDArray[np.float64], NDArray[np.int64] | None]:
        """Prediction float64 [rows, width] and, for classification, decision int64 [rows]."""
        found = self._run(self._outputs, packed, options)
        return found[0], found[1] if len(found) > 1 else None

    def _prepare(self) -> None:
        """Steps before the graph become a part of its run, and of its cost."""
        self._steps = subwords.steps_of(self._session.get_modelmeta().custom_metadata_map)
        if self._steps:
            native, steps = self._run, self._steps
            self._run = lambda names, packed, options: native(names, subwords.added(steps, packed), options)

    def _check(self) -> None:
        tensors.check(self.signature, self._session.get_inputs())
        tensors.check_decoder(self.signature)
        wanted = {kind for kind, types in KINDS.items() if self.signature.of(*types)}
        wanted |= {column.name for column in self.signature.tensors} | {step.input for step in self._steps}
        there = {each.name for each in self._session.get_inputs()}
        if wanted != there:
            raise PackageError(f"It takes {sorted(there)} but its signature says {sorted(wanted)}.")
        missing = set(self._outputs) - {each.name for each in self._session.get_outputs()}
        if missing:
            raise PackageError(f"It does not give {sorted(missing)}.")

    def _warm(self, options: Any) -> None:
        begin = time.thread_time()  # on a busy machine a warm-up takes longer, but knows as much
        for rows in WARM_ROWS:
            predicted = self.cost.predict(rows)
            if predicted > WARM_SECONDS or time.thread_time() - begin > WARM_SECONDS:
                break
            packed = _made_rows(self.signature, rows)
            for turn in range(1 if predicted > WARM_SECONDS / 10 else 3):
                started = time.thread_time()
                prediction, decision = self.run(packed, options)
                seconds = time.thread_time() - started
                _check_answer(self, rows, prediction, decision)
                slow = seconds > WARM_SECONDS / 2
                if turn or rows > 1 or slow:  # the very first run also sets the session up
                    self.cost.observe(rows, seconds)
                if slow:
                    break
        self.cost.guess()


def _check_answer(model: Model, rows: int, prediction: NDArray[np.float64], decision: NDArray[np.int64] | None) -> None:
    if prediction.dtype != np.float64 or prediction.shape != (rows, model.width):
        raise PackageError(
            f"It predicts {prediction.dtype} {prediction.shape}; its signature says float64 {(rows, model.width)}."
        )
    if decision is not None and (decision.dtype != np.int64 or decision.shape != (rows,)):
        raise PackageError(f"It decides {decision.dtype} {decision.shape}; expected int64 {(rows,)}.")


def _made_rows(signature: Signature, rows: int) -> Packed:
    """Rows of which the first has everything missing: what a first request must not be the first to try."""
    packed: Packed = {}
    for kind, types in KINDS.items():
        width = len(signature.of(*types))
        if not width:
            continue
        if kind == "numbers":
            packed[kind] = tensors.noise(rows, width, seed=rows) * 400 - 200
            packed[kind][0] = np.nan
        elif kind == "integers":
            packed[kind] = (tensors.noise(rows, width, seed=rows) * 1000).astype(np.int64)
            packed[kind][0] = MISSING_INTEGER
        else:
            packed[kind] = np.full((rows, width), "a", dtype=object)
            packed[kind][0] = MISSING_TEXT
    for column in signature.tensors:
        packed[column.name] = tensors.made(column, rows)
    return packed


def _session(graph: bytes, watch: Watch, *, extensions: bool, folds: bool, threads: int) -> Any:
    options = watch.options
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never the form that nobody inspected
    if not folds:
        options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    options.log_severity_level = 4  # what fails is raised, and told by whoever catches it
    if extensions:
        # Loaded only for packages that need it: the import costs more than a small model.
        options.register_custom_ops_library(importlib.import_module("onnxruntime_extensions").get_library_path())
    return watch.session(graph)


def _native(session: Any) -> Callable[[list[str], Packed, Any], Any]:
    """The run of the runtime itself: what stands around it in Python costs 5 µs a run and checks what is checked here."""
    inner = getattr(session, "_sess", None)
    found: Callable[[list[str], Packed, Any], Any] = getattr(inner, "run", None) or session.run
    return found  # the inside may change with a version: then the outside does


def load(
    folder: Path,
    trusted: Mapping[str, Ed25519PublicKey],
    allowance: Allowance = ALLOWANCE,
    opened: Opened | None = None,
    threads: int = 1,
) -> Model:
    """Verify and load a package, unless it is ``opened`` already. Raises PackageTampered, PackageError or NotFound."""
    if opened is None or sum(map(len, opened.files.values())) > allowance.package_bytes:
        opened = open_package(folder, trusted, largest=allowance.package_bytes)
    return Model(opened.digest, opened.manifest, opened.model, allowance, threads)
