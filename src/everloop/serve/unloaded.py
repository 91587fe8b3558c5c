"""Which loops of a server were unloaded by request: a file each, so that every process of the server knows.

It holds until they are loaded again, whatever is released meanwhile and whichever process is replaced, and ends with
the server.
"""

from contextlib import suppress

from everloop.serve.parent import gone
from everloop.store.home import Home


class Unloaded:
    """``server`` is the number of its supervisor, or of its only process."""

    def __init__(self, home: Home, server: int) -> None:
        self.folder = home.servers / "unloaded"
        self.folder.mkdir(exist_ok=True)
        self._server = server

    def names(self) -> set[str]:
        return {file.name.partition("-")[2] for file in self.folder.glob(f"{self._server}-*")}

    def add(self, loop: str) -> None:
        (self.folder / f"{self._server}-{loop}").write_bytes(b"")

    def remove(self, loop: str) -> None:
        (self.folder / f"{self._server}-{loop}").unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the files of this server and of those that were killed."""
        for file in self.folder.iterdir():
            server = file.name.partition("-")[0]
            if server.isdigit() and (int(server) == self._server or gone(int(server))):
                with suppress(OSError):
                    file.unlink()
