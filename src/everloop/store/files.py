"""Puts bytes on disk so that nobody ever sees half of them. Knows no formats and no places.

A file is written beside its place, forced to disk and renamed into it; a folder likewise. A full disk becomes
`StoreFull`, and what was half written is removed.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from everloop.errors import StoreError, StoreFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, or a file size limit: each means that nothing more fits here."""


@contextmanager
def storing(place: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing at ``place`` into ours."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, place) from error


def storage_error(error: OSError, place: Path) -> StoreError:
    if error.errno in FULL:
        return StoreFull(
            f"No space is left to write {place} ({error.strerror}); nothing was half written. "
            "Free some space and do it again."
        )
    return StoreError(f"{place} cannot be written: {error.strerror}. Look at its owner, its rights and its disk.")


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte, however little the system takes at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_atomically(path: Path, data: bytes, *, sync: bool = True, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` in one step: a reader sees the old file or the new one.

    ``sync`` forces it to disk first, so that it is still whole after a power cut. Raises `StoreFull`.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    with storing(path):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            try:
                write_all(descriptor, data)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            beside.replace(path)
            if sync:
                sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def sync_folder(folder: Path) -> None:
    """Force the names in ``folder`` to disk: without it a rename may be forgotten at a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder_atomically(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make ``folder`` with ``files`` in one step; False when it is there already and was left alone.

    Raises `StoreFull`; then nothing is left behind.
    """
    if folder.exists():
        return False
    beside = folder.with_name(f".{folder.name[:16]}.{os.getpid()}.{os.urandom(4).hex()}")
    with storing(folder):
        try:
            beside.mkdir(parents=True)
            for name, data in files.items():
                write_atomically(beside / name, data)
            sync_folder(beside)
            try:
                beside.rename(folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                shutil.rmtree(beside, ignore_errors=True)  # somebody else made the same folder first
                return False
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return True
