"""What Linux says of a process's memory."""

from __future__ import annotations

from pathlib import Path


def memory(field: str, process: int | str = "self") -> int:
    """Bytes of a line of its status, such as VmRSS (resident), VmHWM (at its peak), RssAnon (its own). 0: it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)
