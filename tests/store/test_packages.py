"""Packages are sealed in one step and any change to them is found."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from everloop.errors import NotFound, PackageError, PackageTampered
from everloop.records import InputColumn, Signature
from everloop.store import packages

SIGNATURE = Signature(
    inputs=(InputColumn(name="x", type="number", index=0),), task="binary", classes=(False, True), positive=1
)
FILES = {"model.onnx": b"graph" * 20, "profile.json": b"{}", "evidence.json": b'{"a":1}'}


def sealed(home: Path, **changes: object) -> tuple[Path, dict[str, Ed25519PublicKey]]:
    key = packages.generate_key(home / "keys")
    digest = packages.seal(
        home / "packages",
        FILES,
        loop="flights",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        signature=SIGNATURE,
        key=key,
        score=0.7,
        metric="auc",
        lineage={"snapshot": "s"},
        requirements={"onnxruntime": "1.31.1"},
        opset={"": 18},
    )
    return home / "packages" / digest, packages.trusted_keys(home / "keys")


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "packages").mkdir()


def test_what_was_sealed_opens_as_it_was(tmp_path: Path) -> None:
    folder, trusted = sealed(tmp_path)
    opened = packages.open_package(folder, trusted)
    assert opened.files == FILES
    assert opened.model == FILES["model.onnx"]
    assert opened.digest == folder.name
    assert opened.manifest.signature == SIGNATURE
    assert opened.manifest.lineage == {"snapshot": "s"}
    assert packages.verify(folder, trusted) == []


def test_sealing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    folder, _ = sealed(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, _ = sealed(tmp_path)
    assert again == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["model.onnx", "profile.json", "evidence.json", "manifest.json", "signature.json"])
def test_any_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    folder, trusted = sealed(tmp_path)
    whole = (folder / name).read_bytes()
    for place in range(len(whole)):
        for flip in (1, 32):  # 32 changes the case of a letter
            changed = bytearray(whole)
            changed[place] ^= flip
            (folder / name).write_bytes(bytes(changed))
            assert packages.verify(folder, trusted), f"byte {place} of {name}"
    (folder / name).write_bytes(whole)
    for other in (whole[:-1], whole + b"\n", whole + b" ", b"", b"\xff\xfe"):
        (folder / name).write_bytes(other)
        with pytest.raises(PackageTampered, match=folder.name[:12]):
            packages.open_package(folder, trusted)


def test_a_file_more_or_less_or_not_a_file_is_found(tmp_path: Path) -> None:
    folder, trusted = sealed(tmp_path)
    (folder / "extra.bin").write_bytes(b"")
    assert packages.verify(folder, trusted) == ["extra.bin is not in the manifest"]
    (folder / "extra.bin").unlink()
    model = folder / "model.onnx"
    model.rename(tmp_path / "elsewhere")
    assert packages.verify(folder, trusted) == ["model.onnx is not there"]
    model.symlink_to(tmp_path / "elsewhere")
    assert any("model.onnx" in problem for problem in packages.verify(folder, trusted))
    model.unlink()
    os.mkfifo(model)
    assert any("not a regular file" in problem for problem in packages.verify(folder, trusted))


def test_a_signature_of_a_stranger_is_refused(tmp_path: Path) -> None:
    folder, trusted = sealed(tmp_path)
    assert packages.verify(folder, {}) != []
    stranger = Ed25519PrivateKey.generate().public_key()
    assert packages.verify(folder, dict.fromkeys(trusted, stranger)) == ["its signature is wrong"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "manifest.json", "signature.json", "a\x00b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError):
        packages.seal(
            tmp_path / "packages",
            {**FILES, name: b""},
            loop="flights",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            signature=SIGNATURE,
            key=Ed25519PrivateKey.generate(),
        )
    assert list((tmp_path / "packages").iterdir()) == []


def test_an_unknown_package_is_said_to_be_unknown(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no package"):
        packages.open_package(tmp_path / "packages" / ("a" * 64), {})
    with pytest.raises(NotFound, match="64 hexadecimal"):
        packages.open_package(tmp_path / "packages" / "..", {})


def test_a_signing_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    with pytest.raises(NotFound, match="no signing key"):
        packages.load_signing_key(keys)
    first = packages.generate_key(keys)
    again = packages.generate_key(keys)
    assert packages.key_id(first.public_key()) == packages.key_id(again.public_key())
    assert (keys / "signing.pem").stat().st_mode & 0o077 == 0
    name = packages.key_id(first.public_key())
    assert list(packages.trusted_keys(keys)) == [name]
    (keys / "trusted" / f"{name}.pem").rename(keys / "trusted" / "0123456789abcdef.pem")
    with pytest.raises(PackageError, match="not the Ed25519 key"):
        packages.trusted_keys(keys)


def test_keys_are_written_as_everybody_else_writes_them_and_read_likewise(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    name = packages.trust(tmp_path, public)
    theirs = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    place = tmp_path / "trusted" / f"{name}.pem"
    assert place.read_bytes() == theirs
    place.write_bytes(theirs.replace(b"\n", b"\r\n") + b"\n")
    assert packages.trusted_keys(tmp_path)[name].public_bytes_raw() == public.public_bytes_raw()
    made = packages.generate_key(tmp_path)
    assert (tmp_path / "signing.pem").read_bytes() == made.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for wrong in (
        b"",
        theirs[:-10],
        theirs.replace(b"PUBLIC", b"PRIVATE"),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    ):
        place.write_bytes(wrong)
        with pytest.raises(PackageError, match=r"is not an Ed25519 public key in PEM form\. Remove it\."):
            packages.trusted_keys(tmp_path)
