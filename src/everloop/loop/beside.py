"""What a declaration names by path and a candidate is made of: tokenizers and pretrained weights. Reads no rows."""

from __future__ import annotations

from pathlib import Path

from everloop.forms import Tokens
from everloop.loop.installation import Installation
from everloop.measure import subwords
from everloop.spec.torch import Pretrained, Torch
from everloop.spec.wholes import forms_of
from everloop.train import files


def contents(installation: Installation) -> dict[str, str]:
    """Path as declared → digest of what lies there now: another content is another candidate.

    What is not there is left out: the fit says so.
    """
    tokenizers = {
        form.tokenizer
        for form in forms_of(installation.resolved.features).values()
        if isinstance(form, Tokens) and form.tokenizer is not None
    }
    weights = {
        each.estimator.model.path
        for each in installation.loop.trains
        if isinstance(each.estimator, Torch) and isinstance(each.estimator.model, Pretrained)
    }
    found = {path: _tokenizer(installation.folder / path) for path in tokenizers}
    found |= {path: _weights(installation.folder / path) for path in weights}
    return {path: digest for path, digest in sorted(found.items()) if digest is not None}


def _tokenizer(place: Path) -> str | None:
    file = place / subwords.FILE if place.is_dir() else place
    return files.of_file(file) if file.is_file() else None


def _weights(place: Path) -> str | None:
    return files.digest(place) if place.is_dir() else None
