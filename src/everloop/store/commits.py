"""The commits of a Delta table: one JSON file for each version, there whole or not at all. Knows nothing of rows.

Follows the published protocol (https://github.com/delta-io/delta/blob/master/PROTOCOL.md, "Delta Log Entries"): whoever
first gives a file the name of the next version has made that version. What is needed for a plain append is here;
making tables, widening them and merging their files is left to the deltalake library, which costs five times as much.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from everloop.store.files import write_all

LOG = "_delta_log"
WRITER = 2
"""The newest writer version whose duties a plain append fulfils: append-only tables and, since none are declared here,
invariants of columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What one version did. ``added``: paths, in the table's folder, of files that brought new rows."""

    version: int
    at: datetime
    operation: str
    rows: int
    note: dict[str, str] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    shape: bool = False
    """It changed the columns, the settings or what readers and writers must know."""

    def entry(self) -> dict[str, Any]:
        """For a person: version, at (wall clock), operation, rows (added), note."""
        return {
            "version": self.version,
            "at": self.at,
            "operation": self.operation,
            "rows": self.rows,
            "note": dict(self.note),
        }


def place(table: Path, version: int) -> Path:
    return table / LOG / f"{version:020d}.json"


def read(table: Path, version: int) -> Commit | None:
    """None where that version is not there (yet)."""
    try:
        data = place(table, version).read_bytes()
    except FileNotFoundError:
        return None
    info: dict[str, Any] = {}
    added: list[str] = []
    shape = False
    for line in data.splitlines():
        for kind, value in (msgspec.json.decode(line) if line.strip() else {}).items():
            if kind == "commitInfo":
                info = value
            elif kind == "add" and value["dataChange"]:
                added.append(unquote(value["path"]))
            elif kind in ("metaData", "protocol"):
                shape = True
    operation = str(info.get("operation", ""))
    merged = operation == "OPTIMIZE"
    note = info.get("note")
    return Commit(
        version=version,
        at=datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC),
        operation="merge files" if merged else operation.lower(),
        rows=0 if merged else int((info.get("operationMetrics") or {}).get("num_added_rows", 0)),
        note=json.loads(note) if isinstance(note, str) else {},
        added=tuple(added),
        shape=shape,
    )


def append(table: Path, version: int, *, file: str | None, rows: int, note: Mapping[str, str] | None) -> Commit | None:
    """Make ``version`` an append of one file of the table's folder (or of none); None if somebody else made it first.

    Raises OSError, and then the version is not made.
    """
    now = time.time_ns() // 1_000_000
    info: dict[str, Any] = {
        "timestamp": now,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append"},
        "isBlindAppend": True,
        "engineInfo": "everloop",
        "operationMetrics": {"num_added_files": int(file is not None), "num_added_rows": rows},
    }
    if note:
        info["note"] = json.dumps(dict(note))
    lines: list[dict[str, Any]] = [{"commitInfo": info}]
    if file is not None:
        lines.append(
            {
                "add": {
                    "path": quote(file),
                    "partitionValues": {},
                    "size": (table / file).stat().st_size,
                    "modificationTime": now,
                    "dataChange": True,
                    "stats": json.dumps({"numRecords": rows}),
                }
            }
        )
    if not _made(place(table, version), b"".join(msgspec.json.encode(line) + b"\n" for line in lines)):
        return None
    return Commit(
        version=version,
        at=datetime.fromtimestamp(now / 1000, UTC),
        operation="write",
        rows=rows,
        note=dict(note or {}),
        added=() if file is None else (file,),
    )


def _made(path: Path, data: bytes) -> bool:
    """Write a file that must not be there yet, whole before it has its name.

    It is not forced to disk: what the lake holds is in the source's files and the servers' segments too, which are.
    """
    beside = path.with_name(f"_commit_{uuid.uuid4()}.json.tmp")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.link(beside, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            beside.unlink()
    return True


__all__ = ["LOG", "WRITER", "Commit", "append", "place", "read"]
