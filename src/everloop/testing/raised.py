"""Holds a call to the error it must raise, without a test framework."""

from collections.abc import Callable
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=BaseException)


def raised(kind: type[Kind], call: Callable[[], Any], otherwise: str) -> Kind:
    """The error that ``call`` raises; AssertionError with ``otherwise`` if it raises none."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(otherwise)
