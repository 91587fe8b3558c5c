"""Packages: folders of files, named by the digest of their manifest and signed. Knows nothing of what is in a graph.

``<digest>/`` holds ``manifest.json`` (canonical JSON: every other file with its size and SHA-256), ``signature.json``
(Ed25519 over the manifest) and the files. One changed byte in any of them, one file more or less, is found.
"""

import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from everloop.errors import NotFound, PackageError, PackageTampered
from everloop.records import Signature, decode, digest_of, encode
from everloop.store.files import storing, write_atomically, write_folder_atomically

MANIFEST = "manifest.json"
SEAL = "signature.json"
MODEL = "model.onnx"
FORMAT = 1
CONTEXT = b"everloop package 1\n"
"""Goes before the manifest when it is signed, so that the signature means nothing anywhere else."""
LARGEST_MANIFEST = 8 * 2**20
LARGEST_PACKAGE = 4 * 2**30
"""Bytes of all files of a package that is opened, unless more are allowed."""
TOLD = 8
"""Problems that an error names; the rest are counted."""
PUBLIC_FORM = bytes.fromhex("302a300506032b6570032100")
PRIVATE_FORM = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key as SubjectPublicKeyInfo and as PKCS 8 (RFC 8410)."""
PUBLIC_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=]+)\n-----END PUBLIC KEY-----")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,120}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a package is and where it comes from. Its SHA-256 is the package's name."""

    loop: str
    created_at: datetime
    files: dict[str, File]
    signature: Signature
    score: float | None = None
    metric: str = ""
    lineage: dict[str, Any] = field(default_factory=dict)
    """snapshot, code, features, parameters, parent, data versions."""
    requirements: dict[str, str] = field(default_factory=dict)
    opset: dict[str, int] = field(default_factory=dict)
    extensions: bool = False
    """The graph uses operators of onnxruntime-extensions."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    key: str
    manifest: str
    signature: str
    algorithm: str = "ed25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A package whose every byte was checked. ``files`` are the bytes that were checked, not to be read again."""

    digest: str
    folder: Path
    manifest: Manifest
    files: dict[str, bytes]

    @property
    def model(self) -> bytes:
        return self.files[MODEL]


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return digest_of(key.public_bytes_raw())[:16]


def generate_key(keys: Path) -> Ed25519PrivateKey:
    """Make the signing key of a home (``signing.pem``, 0600) and trust it; the present one if there is one."""
    place = keys / "signing.pem"
    if place.exists():
        return load_signing_key(keys)
    key = Ed25519PrivateKey.generate()
    trust(keys, key.public_key())
    secret = _pem(PRIVATE_FORM + key.private_bytes_raw(), "PRIVATE KEY")
    with storing(place):
        beside = keys / f".signing.{os.getpid()}.{os.urandom(4).hex()}"
        write_atomically(beside, secret, mode=0o600)
        try:
            os.link(beside, place)  # unlike rename, fails when another process made a key meanwhile
        except FileExistsError:
            return load_signing_key(keys)
        finally:
            beside.unlink()
    return key


def load_signing_key(keys: Path) -> Ed25519PrivateKey:
    """The home's signing key. Raises NotFound."""
    place = keys / "signing.pem"
    # Loaded only by whoever signs: reading every form of key takes longer than all else that a server checks.
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(place.read_bytes(), None)
    except FileNotFoundError:
        raise NotFound(f"There is no signing key at {place}; make one with generate_key.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PackageError(f"{place} holds a {type(key).__name__}; packages are signed with Ed25519 keys.")
    return key


def trust(keys: Path, key: Ed25519PublicKey) -> str:
    """Accept packages signed by ``key`` from now on. Returns its name."""
    name = key_id(key)
    (keys / "trusted").mkdir(parents=True, exist_ok=True)
    write_atomically(keys / "trusted" / f"{name}.pem", _pem(PUBLIC_FORM + key.public_bytes_raw(), "PUBLIC KEY"))
    return name


def trusted_keys(keys: Path) -> dict[str, Ed25519PublicKey]:
    """Every key whose packages are accepted, by name. A file that is not what its name says is an error."""
    found: dict[str, Ed25519PublicKey] = {}
    for place in sorted((keys / "trusted").glob("*.pem")):
        if place.name.startswith("."):
            continue
        key = _public_key(place.read_bytes())
        if key is None:
            raise PackageError(f"{place} is not an Ed25519 public key in PEM form. Remove it.")
        if key_id(key) != place.stem:
            raise PackageError(f"{place} is not the Ed25519 key that its name says. Remove it.")
        found[place.stem] = key
    return found


def _pem(content: bytes, kind: str) -> bytes:
    """A key of at most 48 bytes, which is one line of base64, in PEM form (RFC 7468)."""
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (kind.encode(), b64encode(content), kind.encode())


def _public_key(pem: bytes) -> Ed25519PublicKey | None:
    """The Ed25519 key in a PEM file; None when there is none."""
    found = PUBLIC_PEM.fullmatch(pem.strip().replace(b"\r\n", b"\n"))
    try:
        content = b64decode(found[1], validate=True) if found else b""
    except ValueError:
        return None
    if len(content) != len(PUBLIC_FORM) + 32 or not content.startswith(PUBLIC_FORM):
        return None
    return Ed25519PublicKey.from_public_bytes(content[len(PUBLIC_FORM) :])


def seal(
    packages: Path,
    files: Mapping[str, bytes],
    *,
    loop: str,
    created_at: datetime,
    signature: Signature,
    key: Ed25519PrivateKey,
    score: float | None = None,
    metric: str = "",
    lineage: Mapping[str, Any] | None = None,
    requirements: Mapping[str, str] | None = None,
    opset: Mapping[str, int] | None = None,
    extensions: bool = False,
) -> str:
    """Write and sign a package in ``packages`` in one step; the same content again changes nothing.

    ``files`` must hold ``model.onnx``; names are plain. Returns the digest that names it. Raises StoreFull with
    nothing half written, PackageError for a name that is not plain.
    """
    for name in files:
        if not _plain(name):
            raise PackageError(f"{name!r} cannot be a file in a package; use letters, digits, '.', '_' and '-'.")
    if MODEL not in files:
        raise PackageError(f"A package needs {MODEL}; these are its files: {sorted(files)}.")
    manifest = encode(
        Manifest(
            loop=loop,
            created_at=created_at,
            files={name: File(sha256=digest_of(data), size=len(data)) for name, data in files.items()},
            signature=signature,
            score=score,
            metric=metric,
            lineage=dict(lineage or {}),
            requirements=dict(requirements or {}),
            opset=dict(opset or {}),
            extensions=extensions,
        )
    )
    digest = digest_of(manifest)
    sealed = Seal(key=key_id(key.public_key()), manifest=digest, signature=key.sign(CONTEXT + manifest).hex())
    write_folder_atomically(packages / digest, {**files, MANIFEST: manifest, SEAL: encode(sealed)})
    return digest


def folder_of(packages: Path, digest: str) -> Path:
    """Where a package lies. Raises NotFound for anything that is not a digest: a name is not a path."""
    if not DIGEST.fullmatch(digest):
        raise NotFound(f"{digest[:80]!r} is not the name of a package: 64 hexadecimal digits.")
    return packages / digest


def open_package(folder: Path, trusted: Mapping[str, Ed25519PublicKey], *, largest: int = LARGEST_PACKAGE) -> Opened:
    """Read a package of at most ``largest`` bytes and check its signature, every byte and every name.

    Raises NotFound when there is none, PackageTampered with everything that does not match.
    """
    opened, problems = _examine(folder, trusted, largest)
    if opened is None or problems:
        more = f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else ""
        raise PackageTampered(
            f"Package {folder.name[:12]} is not loaded: {'; '.join(problems[:TOLD])}{more}. "
            "Restore its folder from where it was made, or release another version."
        )
    return opened


def verify(folder: Path, trusted: Mapping[str, Ed25519PublicKey]) -> list[str]:
    """Everything that is wrong with a package, as sentences; empty when it is sound. Raises NotFound."""
    return _examine(folder, trusted, LARGEST_PACKAGE)[1]


def _plain(name: str) -> bool:
    return PLAIN_NAME.fullmatch(name) is not None and name not in (MANIFEST, SEAL)


def _examine(folder: Path, trusted: Mapping[str, Ed25519PublicKey], largest: int) -> tuple[Opened | None, list[str]]:
    if not DIGEST.fullmatch(folder.name):
        raise NotFound(f"{folder.name!r} is not the name of a package: 64 hexadecimal digits.")
    try:
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no package {folder.name} in {folder.parent}.") from None
    except OSError as error:
        raise PackageError(f"{folder} cannot be read: {error.strerror}. Look at its owner and its rights.") from None
    problems: list[str] = []
    data = _read(folder / MANIFEST, LARGEST_MANIFEST, problems)
    if data is None:
        return None, problems
    if digest_of(data) != folder.name:
        problems.append(f"{MANIFEST} does not match the package's name")
    sealed = _read(folder / SEAL, LARGEST_MANIFEST, problems)
    if sealed is not None:
        problems += _seal_problems(data, sealed, folder.name, trusted)
    if problems:  # what an unproven manifest says about other files is worth nothing
        return None, problems
    try:
        manifest = decode(data, Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return None, [f"{MANIFEST} cannot be read by this version of everloop: {error}"]
    if manifest.format != FORMAT:
        return None, [f"its format is {manifest.format}; this version of everloop reads {FORMAT}"]
    expected = {*manifest.files, MANIFEST, SEAL}
    problems += [
        f"{name if _plain(name) else ascii(name[:80])} is not in the manifest" for name in names if name not in expected
    ]
    problems += [f"{name[:80]!a} is not a plain file name" for name in manifest.files if not _plain(name)]
    together = sum(file.size for file in manifest.files.values())
    if together > largest:
        problems.append(f"its files have {together} bytes, and at most {largest} are read")
    if any(file.size < 0 for file in manifest.files.values()):
        problems.append("a file has a negative size")
    if problems:  # nothing is read of a package that is refused already
        return None, problems
    read: dict[str, bytes] = {}
    for name, file in manifest.files.items():
        content = _read(folder / name, file.size, problems)
        if content is None:
            continue
        if len(content) != file.size or digest_of(content) != file.sha256:
            problems.append(f"{name} does not match the manifest")
        read[name] = content
    if MODEL not in manifest.files:
        problems.append(f"it has no {MODEL}")
    return Opened(digest=folder.name, folder=folder, manifest=manifest, files=read), problems


def _seal_problems(manifest: bytes, sealed: bytes, digest: str, trusted: Mapping[str, Ed25519PublicKey]) -> list[str]:
    try:
        seal_record = decode(sealed, Seal)
        signature = bytes.fromhex(seal_record.signature)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return [f"{SEAL} cannot be read"]
    # One form only: otherwise a byte could change and mean the same.
    if encode(seal_record) != sealed or signature.hex() != seal_record.signature or seal_record.algorithm != "ed25519":
        return [f"{SEAL} is not in its one form"]
    if seal_record.manifest != digest:
        return [f"{SEAL} belongs to another package"]
    key = trusted.get(seal_record.key)
    if key is None:
        return [f"it is signed by the key {seal_record.key[:80]!r}, which is not trusted here"]
    try:
        key.verify(signature, CONTEXT + manifest)
    except InvalidSignature:
        return ["its signature is wrong"]
    return []


def _read(path: Path, size: int, problems: list[str]) -> bytes | None:
    """The bytes of a regular file of at most ``size``; None and a problem when it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        problems.append(f"{path.name} is not there")
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror})")
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            problems.append(f"{path.name} is not a regular file")
            return None
        if found.st_size > size:
            problems.append(f"{path.name} has {found.st_size} bytes, more than the {size} it may have")
            return None
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(size + 1)
    finally:
        os.close(descriptor)
