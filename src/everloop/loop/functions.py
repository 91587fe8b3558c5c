"""Finds the user's functions again in the stored source of their declaration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from everloop.spec.function import Function
from everloop.train.function import load


def binder(declaration: Path) -> Callable[[Function], Callable[..., Any]]:
    """For ``codec.from_bytes``: a function by its name, from the file whose content has its digest."""

    def bind(function: Function) -> Callable[..., Any]:
        return load(declaration, function.module_file_digest, function.name)

    return bind
