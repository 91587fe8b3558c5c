"""A function or class of the user's, by name and by the digest of the file it stands in. Calls it only when it was bound."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everloop.errors import SpecError
from everloop.records import digest_of
from everloop.spec.conform import shown

DECLARATION = "everloop_declaration_"
"""How the name of a loaded declaration's module begins; the digest of its content follows."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """Found again later by ``name`` in the stored source with ``module_file_digest``."""

    name: str
    module_file_digest: str
    call: Callable[..., Any] | None = field(default=None, compare=False, repr=False, metadata={"encoded": False})

    @classmethod
    def of(cls, given: Callable[..., Any] | Function, where: str, *, classes: bool = False) -> Function:
        """``classes``: a class will do, too. Raises SpecError for one that could not be found again: a lambda, an inner function, one without a file."""
        if isinstance(given, Function):
            return given
        if not callable(given):
            raise SpecError(f"{where} is {shown(given)}; write a function.")
        name = getattr(given, "__qualname__", "")
        if not (inspect.isfunction(given) or (classes and inspect.isclass(given))) or "<" in name or "." in name:
            raise SpecError(
                f"{where} is {shown(given)}, which cannot be found again by its name; "
                f"write a def{' or a class' if classes else ''} at the top level of the declaration."
            )
        try:
            content = Path(_file_of(given)).read_bytes()
        except (OSError, TypeError, LookupError):
            raise SpecError(
                f"{where} is {name}, whose file cannot be read; write it in the declaration's file."
            ) from None
        return cls(name=name, module_file_digest=digest_of(content), call=given)

    def bound(self, call: Callable[..., Any]) -> Function:
        return replace(self, call=call)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self.call is None:
            raise SpecError(f"The function {self.name} was decoded without its source; give codec.from_bytes the file.")
        return self.call(*arguments, **named)


def _file_of(given: Any) -> str:
    if inspect.isclass(given):  # a declaration that is being executed is known by its module alone
        return str(sys.modules[given.__module__].__file__ or "")
    return inspect.getsourcefile(inspect.unwrap(given)) or ""
