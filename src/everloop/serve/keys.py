"""API keys: how they are made, kept, replaced and recognised. Knows nothing of HTTP, nor of how often one may ask.

A key is ``el_<id>_<secret>``: the id finds it, the secret has 256 random bits. The file ``home/keys/api.json`` holds the
SHA-256 of each whole key and never the key: with so many random bits neither salt nor a slow hash would add anything.
"""

import fcntl
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import msgspec

from everloop.errors import NotFound, RequestError, SpecError, StoreError
from everloop.serve.rates import Rate, quota
from everloop.serve.urgency import HIGH, LOW, NORMAL
from everloop.store.files import write_atomically
from everloop.store.home import Home

Priority = Literal["high", "normal", "low"]
Scope = Literal["predict", "operate"]
PRIORITIES: dict[str, int] = {"high": HIGH, "normal": NORMAL, "low": LOW}
SCOPES: tuple[str, ...] = get_args(Scope)
NOBODY = sha256(b"nobody").digest()
"""Compared with when there is no such id, so that an unknown id takes as long as a wrong secret."""


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times are seconds since 1970. No ``loops``: all of them. ``priority``: the highest that it may ask for."""

    id: str
    name: str
    hash: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    rate: str | None = None
    quota: str | None = None
    priority: Priority = "normal"
    loops: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ("predict",)

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: tuple[StoredKey, ...] = ()


def path_of(home: Home) -> Path:
    return home.keys / "api.json"


def read(path: Path) -> KeyFile:
    """Empty when there is no file. Raises StoreError when it is not one of ours."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=KeyFile)
        for key in found.keys:
            _check(key)
        return found
    except FileNotFoundError:
        return KeyFile()
    except OSError as error:
        raise StoreError(
            f"The keys {path} cannot be read: {error.strerror}. Look at its owner and its rights."
        ) from None
    except (msgspec.MsgspecError, ValueError, SpecError) as error:
        raise StoreError(
            f"{path} is not a file of keys: {str(error).rstrip('.')}. Put its last good copy back."
        ) from None


def _check(key: StoredKey) -> None:
    """What a server would stumble over later. Raises ValueError or SpecError."""
    if not re.fullmatch(r"[0-9a-f]{64}", key.hash):
        raise ValueError(f"the hash of {key.name[:80]!r} is {key.hash[:80]!r}, not 64 hexadecimal digits")
    if key.rate is not None:
        Rate.parse(key.rate, what=f"the rate of {key.name[:80]!r}")
    if key.quota is not None:
        quota(key.quota, what=f"the quota of {key.name[:80]!r}")


# What an operator does


def add(
    home: Home,
    name: str,
    *,
    now: float,
    seconds: float | None = None,
    rate: str | None = None,
    quota_: str | None = None,
    priority: Priority = "normal",
    loops: tuple[str, ...] = (),
    scopes: tuple[Scope, ...] = ("predict",),
) -> str:
    """Make a key that lives for ``seconds`` (None: until it is revoked). Returns it: it is nowhere else.

    Raises SpecError for a name or limit that cannot be, StoreError when an active key has the name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", name):
        raise SpecError(
            f"The name of a key is {name!r}; write at most 63 letters, digits and . _ @ -, a letter or digit first."
        )
    if rate is not None:
        Rate.parse(rate)
    if quota_ is not None:
        quota(quota_)
    with _changing(home) as kept:
        if any(each.name == name and each.state(now) == "active" for each in kept):
            raise StoreError(
                f"There is a key named {name!r} already; replace it with `everloop keys rotate {name}`, "
                "or choose another name."
            )
        text, key = _made(name, now, seconds)
        kept.append(
            msgspec.structs.replace(key, rate=rate, quota=quota_, priority=priority, loops=loops, scopes=scopes)
        )
    return text


def revoke(home: Home, name: str, *, now: float) -> int:
    """No key of this name is taken from now on. Returns how many those were. Raises NotFound when there are none."""
    with _changing(home) as kept:
        places = _active(kept, name, now)
        for place in places:
            kept[place] = msgspec.structs.replace(kept[place], revoked=now)
    return len(places)


def rotate(home: Home, name: str, *, now: float, overlap: float) -> str:
    """Make a second key with everything the newest has; the old ones are taken for ``overlap`` seconds more.

    Its own lifetime is as long as that of the key it replaces. Raises NotFound when no active key has the name.
    """
    with _changing(home) as kept:
        places = _active(kept, name, now)
        newest = kept[places[-1]]
        lifetime = None if newest.expires is None else newest.expires - newest.created
        for place in places:
            ends = kept[place].expires
            kept[place] = msgspec.structs.replace(
                kept[place], expires=now + overlap if ends is None else min(ends, now + overlap)
            )
        text, made = _made(name, now, lifetime)
        kept.append(
            msgspec.structs.replace(newest, id=made.id, hash=made.hash, created=made.created, expires=made.expires)
        )
    return text


def _made(name: str, now: float, seconds: float | None) -> tuple[str, StoredKey]:
    identity = secrets.token_hex(6)
    text = f"el_{identity}_{secrets.token_urlsafe(32)}"
    expires = None if seconds is None else now + seconds
    return text, StoredKey(id=identity, name=name, hash=_hash(text.encode()).hex(), created=now, expires=expires)


def _active(kept: list[StoredKey], name: str, now: float) -> list[int]:
    places = [place for place, each in enumerate(kept) if each.name == name and each.state(now) == "active"]
    if not places:
        names = sorted({each.name for each in kept if each.state(now) == "active"})
        raise NotFound(f"There is no active key named {name!r}; there are: {', '.join(names) or 'none'}.")
    return places


@contextmanager
def _changing(home: Home) -> Iterator[list[StoredKey]]:
    """The keys to change, written back when the block ends well. Others who change them wait."""
    path = path_of(home)
    descriptor = os.open(path.with_name(".api.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        kept = list(read(path).keys)
        yield kept
        write_atomically(path, msgspec.json.format(msgspec.json.encode(KeyFile(keys=tuple(kept)))), mode=0o600)
    finally:
        os.close(descriptor)


# What a server does


class Keyring:
    """Recognises keys. ``read`` from the file, replaced as a whole when the file changes."""

    def __init__(self, file: KeyFile) -> None:
        self.names = {each.name for each in file.keys}
        self._keys = {each.id.encode(): (each, bytes.fromhex(each.hash)) for each in file.keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, sent: bytes, now: float) -> StoredKey:
        """The key that was sent. Raises RequestError (401); the reason is counted.

        That a key has expired or was revoked is told only to who holds it.
        """
        parts = sent.split(b"_", 2)
        known = self._keys.get(parts[1]) if len(parts) == 3 else None
        right = hmac.compare_digest(_hash(sent), known[1] if known is not None else NOBODY)
        if known is None or not right:
            raise RequestError(
                "The key is not one of this server's. Look for a part that is missing, or ask for a new one.",
                status=401,
                reason="wrong_key",
            )
        key = known[0]
        state = key.state(now)
        if state != "active":
            raise refusal_of(key, state)
        return key


def refusal_of(key: StoredKey, state: str) -> RequestError:
    """What to answer to the holder of a key that is ``expired`` or ``revoked``."""
    words = "has expired" if state == "expired" else "was revoked"
    return RequestError(f"The key {key.name} {words}; ask for a new one.", status=401, reason=f"{state}_key")


def _hash(text: bytes) -> bytes:
    return sha256(text).digest()
