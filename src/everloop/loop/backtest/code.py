"""All that a fit depends on besides rows, features and seed, as one digest: two fits of the same code are one."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata

from everloop.records import Encoding, FeatureEncoding, digest_of, encode
from everloop.spec import codec
from everloop.spec.load import functions_of
from everloop.spec.loop import Loop
from everloop.spec.resolve import Resolved
from everloop.spec.train import Estimator
from everloop.train.compete import Trained
from everloop.train.fit import Fitted


def code_of(resolved: Resolved, source: bytes) -> str:
    """``source``: the declaration's text, which counts where it holds functions."""
    loop = resolved.loop
    meaning = {
        "train": codec.to_json(loop.train if isinstance(loop.train, tuple) else (loop.train,)),
        "score": codec.to_json(resolved.score),
        "label": codec.to_json(loop.label),
        "source": digest_of(source) if functions_of(loop) else None,
        "libraries": sorted(set(_libraries(loop))),
        # Models are kept as they are in memory: of another form they could not be read again.
        "kept": [
            [each.name for each in dataclasses.fields(kind)] for kind in (Trained, Fitted, Encoding, FeatureEncoding)
        ],
    }
    return digest_of(encode(meaning))


def _libraries(loop: Loop) -> list[str]:
    """Versions of the libraries that fit: another one may fit otherwise."""
    found = [f"everloop {importlib.metadata.version('everloop')}"]
    for each in loop.trains:
        if isinstance(each.estimator, Estimator):
            name = {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu"}.get(
                top := each.estimator.path.partition(".")[0], top
            )
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.append(f"{name} {importlib.metadata.version(name)}")
    return found
