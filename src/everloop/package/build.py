"""A fitted model to a package's graph, with its word of parity. Knows nothing of manifests, signing or folders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.errors import PackageError
from everloop.measure import encode
from everloop.package import parity
from everloop.package.export import FittedModel, export
from everloop.package.parity import ParityReport
from everloop.package.requirements import requirements
from everloop.records import Encoding, Signature
from everloop.spec.tree import FeatureTree


@dataclass(frozen=True, kw_only=True)
class Built:
    """What goes into a package."""

    onnx: bytes
    extensions: bool
    """True: the server must register onnxruntime-extensions."""
    opset: int
    parity: ParityReport
    requirements: dict[str, str]


def build(
    fitted: FittedModel,
    encoding: Encoding,
    tree: FeatureTree,
    signature: Signature,
    *,
    rows: pl.DataFrame,
    features: Callable[[pl.DataFrame], pl.DataFrame],
    threshold: float | None = None,
) -> Built:
    """One graph from raw columns to prediction, proved on ``rows``.

    ``rows``: real raw rows that hold at least the signature's inputs. ``features``: raw rows → one column a feature,
    as the fit saw them (`everloop.data.features.render`). ``threshold``: where the positive class begins; None: argmax.
    Raises `ConversionRefused` or `ParityError`; then there is no package.
    """
    classes = max(1, len(signature.classes))
    if fitted.classes != classes or fitted.task != signature.task:
        raise PackageError(
            f"the model answers {fitted.classes} classes ({fitted.task}) and the signature says {classes} "
            f"({signature.task}); fit it again."
        )
    made = export(tree, signature, encoding, fitted, threshold=threshold)

    def trainer(raw: pl.DataFrame) -> npt.NDArray[np.float64]:
        return fitted.predict(encode.inputs(encoding, columns_of(features(raw))))

    try:
        report = parity.check(
            made.graph, signature, rows, trainer, threshold=threshold, extensions=made.extensions,
            relative=parity.NETWORK if encoding.network else parity.RELATIVE,
        )  # fmt: skip
    except PackageError as error:
        raise type(error)(f"{_names(fitted.model)}: {error}") from error
    return Built(
        onnx=made.graph, extensions=made.extensions, opset=made.opset, parity=report,
        requirements=requirements(
            fitted.model, extensions=made.extensions, images=any(each.image for each in signature.tensors),
            tokenizers=any(each.tokens is not None and each.tokens.tokenizer for each in encoding.features),
        ),
    )  # fmt: skip


def _names(model: Any) -> str:
    """The model's class; of a pipeline, those of its steps."""
    steps = getattr(model, "steps", None)
    return " → ".join(type(step).__name__ for _, step in steps) if steps else type(model).__name__


def columns_of(frame: pl.DataFrame) -> dict[str, npt.NDArray[np.generic]]:
    """A frame as `everloop.measure.encode` takes it: arrays by name, NaN or None where missing."""
    return {name: frame[name].to_numpy() for name in frame.columns}
