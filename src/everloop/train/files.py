"""What a folder of weights, or a tokenizer's file, holds: its digest. Knows nothing of networks; imports no torch."""

import hashlib
from pathlib import Path


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files."""
    whole = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        whole.update(f"{path.relative_to(folder)}\0{of_file(path)}\n".encode())
    return whole.hexdigest()


def of_file(path: Path) -> str:
    """SHA-256 of its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
