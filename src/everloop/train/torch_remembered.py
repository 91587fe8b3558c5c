"""What measurements of earlier fits found on this machine: rows that memory holds, whether compiling paid.

Small JSON, one file a kind of fit; nothing depends on its being there.
"""

from pathlib import Path
from typing import Any

import msgspec

from everloop.records import encode
from everloop.store.files import write_atomically


class Remembered:
    def __init__(self, folder: Path | None, identity: str) -> None:
        self._path = None if folder is None else folder / f"{identity[:32]}.json"

    def known(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            known: dict[str, Any] = msgspec.json.decode(self._path.read_bytes())
        except (FileNotFoundError, msgspec.DecodeError):
            return {}
        return known

    def keep(self, **facts: Any) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, encode({**self.known(), **facts}), sync=False)
