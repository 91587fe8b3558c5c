"""Tells a network file system from a local one. Knows nothing of databases.

A write-ahead log needs memory shared by all its users, which no network file system gives: two writers would each
believe themselves alone, silently.
"""

import re
from pathlib import Path

from everloop.errors import StoreError

NETWORK = (
    "nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afs", "ncpfs", "ceph", "glusterfs", "lustre", "gpfs",
    "9p", "davfs", "beegfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse",
    "fuse.davfs", "fuse.davfs2", "fuse.mount-s3", "fuse.juicefs", "fuse.goofys",
)  # fmt: skip
MOUNTS = Path("/proc/mounts")


def refuse_network(path: Path) -> None:
    """Raise StoreError if ``path`` lies, or would lie, on a file system that several machines share."""
    try:
        table = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        return  # Not Linux: nothing to ask.
    kind = kind_of(path, table)
    if kind in NETWORK:
        raise StoreError(
            f"The ledger {path} lies on a network file system ({kind}), where SQLite loses data; "
            "put it on a local disk, or give a Postgres address."
        )


def kind_of(path: Path, table: str) -> str | None:
    r"""The type of the file system that holds ``path``, by the text of /proc/mounts.

    >>> kind_of(Path("/data/a"), "disk / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0")
    'nfs4'
    """
    resolved = path.resolve()
    found, deepest = None, -1
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[1]))
        # The last of equals wins: it was mounted over the others.
        if len(point.parts) >= deepest and (resolved == point or point in resolved.parents):
            found, deepest = fields[2], len(point.parts)
    return found
