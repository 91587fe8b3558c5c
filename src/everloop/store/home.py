"""Where everything of one installation lies on disk. Knows no formats, only places."""

from dataclasses import dataclass
from pathlib import Path

from everloop.errors import NotFound
from everloop.records import LOOP_NAME


@dataclass(frozen=True, slots=True)
class Home:
    """`.everloop/` beside the declaration, or where everloop.toml says. Places are made when first asked for."""

    root: Path

    @property
    def ledger(self) -> Path:
        return self._made(self.root) / "ledger.sqlite"

    @property
    def packages(self) -> Path:
        """One folder a package, named by the digest of its manifest."""
        return self._made(self.root / "packages")

    @property
    def keys(self) -> Path:
        """signing.pem (private, 0600) and trusted/<key id>.pem."""
        return self._made(self.root / "keys")

    @property
    def code(self) -> Path:
        """Sources of user functions, by digest."""
        return self._made(self.root / "code")

    @property
    def releases(self) -> Path:
        """<loop>.json: what servers watch. Derived from the ledger, replaced atomically."""
        return self._made(self.root / "releases")

    @property
    def servers(self) -> Path:
        """<pid>.json: port and revision of each running server process."""
        return self._made(self.root / "servers")

    @property
    def settings(self) -> Path:
        """settings.json: how servers guard themselves. Derived from everloop.toml."""
        return self._made(self.root) / "settings.json"

    @property
    def jobs(self) -> Path:
        return self._made(self.root / "jobs")

    @property
    def measured(self) -> Path:
        """What fits found out about this machine: how many rows its memory holds at once, whether compiling pays."""
        return self._made(self.root / "measured")

    @property
    def candidates(self) -> Path:
        """Fitted, exported and not yet signed models, by candidate digest."""
        return self._made(self.root / "candidates")

    @property
    def backtests(self) -> Path:
        """Rendered histories and the fits of backtests, by digest. May be removed at any time: it is made again."""
        return self._made(self.root / "backtests")

    def lake(self, loop: str) -> Path:
        """raw, quarantine, predictions, outcomes: Delta tables."""
        return self._made(self.root / "lake" / _name(loop))

    def segments(self, loop: str) -> Path:
        """The prediction log and acknowledged outcomes, before they are folded into the lake."""
        return self._made(self.root / "segments" / _name(loop))

    def sketches(self, loop: str) -> Path:
        """What servers were asked, as sketches: where predictions are not logged."""
        return self._made(self.root / "sketches" / _name(loop))

    def release_file(self, loop: str) -> Path:
        return self.releases / f"{_name(loop)}.json"

    @staticmethod
    def _made(path: Path) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        return path


def _name(loop: str) -> str:
    """Raises NotFound for what cannot be the name of a loop: a name is not a path."""
    if not LOOP_NAME.fullmatch(loop):
        raise NotFound(
            f"{loop[:80]!r} is not the name of a loop: lower-case letters, digits, '-' and '_', 63 at most, "
            "the first a letter or a digit."
        )
    return loop
