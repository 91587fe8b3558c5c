"""Records as canonical JSON, and the name of a content by its digest. Knows no record."""

import hashlib
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def _encode_extra(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} has no JSON form")


def encode(record: Any) -> bytes:
    """Canonical JSON: keys sorted, no spaces, so that equal records have equal bytes."""
    return msgspec.json.encode(record, enc_hook=_encode_extra, order="sorted")


def decode(data: bytes | str, kind: type[T]) -> T:
    return msgspec.json.decode(data, type=kind)


def digest_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits: the name of everything that is named by its content."""
    return hashlib.sha256(data).hexdigest()
