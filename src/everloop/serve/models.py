"""The models of one process: each package is loaded once, whoever serves it. Knows nothing of releases or requests.

What a model takes is measured: by how much the process has grown when it is loaded and warm, after the memory that
loading left was given back; at the least what its graph takes on disk.
"""

import threading
from collections.abc import Iterable

from everloop.errors import NotFound
from everloop.serve.ahead import Ahead
from everloop.serve.loading import Allowance
from everloop.serve.memory import resident, trim
from everloop.serve.model import ALLOWANCE, Model, load
from everloop.store.home import Home
from everloop.store.packages import MODEL, folder_of, trusted_keys

KEPT_MODELS = 4
"""Of each loop, so that going back to the version before takes no loading."""
GROWTH = 1.2
"""A graph in memory against its file (measured: 1.0 to 1.1 for large ones)."""
LEAST_BYTES = 2 * 2**20
"""What the smallest model takes, about."""
Key = tuple[str, int]
"""Package, and the cores that one run may use."""


class Models:
    """May be used by the event loop and by whoever loads."""

    def __init__(self, home: Home, allowance: Allowance = ALLOWANCE) -> None:
        self.loads = 0
        self._home = home
        self._allowance = allowance
        self._models: dict[Key, Model] = {}
        """The newest asked for last."""
        self._asked: dict[Key, set[str]] = {}
        """The loops that have asked for each."""
        self._held: dict[str, set[Key]] = {}
        """What each loop serves now."""
        self._coming: dict[str, set[Key]] = {}
        """What each loop has asked for and does not serve yet."""
        self._guard = threading.Lock()

    @property
    def bytes(self) -> int:
        """What all models take together."""
        with self._guard:
            return sum(model.bytes for model in self._models.values())

    def bytes_of(self, loop: str) -> int:
        """What the models take that ``loop`` serves; one that several serve counts for each."""
        with self._guard:
            return sum(self._models[key].bytes for key in self._held.get(loop, ()) if key in self._models)

    def expected(self, packages: Iterable[str]) -> int:
        """What models that are not loaded will take, about."""
        with self._guard:
            known = {package for package, _ in self._models}
        total = 0
        for package in set(packages) - known:
            try:
                size = (folder_of(self._home.packages, package) / MODEL).stat().st_size
            except (OSError, NotFound):
                continue  # whoever loads it says what is wrong
            total += max(LEAST_BYTES, int(size * GROWTH))
        return total

    def get(self, package: str, *, owner: str, loop: str, threads: int = 1, ahead: Ahead | None = None) -> Model:
        """The model of a package that must be of ``owner``, for ``loop``. Raises what `load` raises, and NotFound."""
        key = package, threads
        with self._guard:
            model = self._models.pop(key, None)
            if model is not None:
                self._models[key] = model
        if model is None:
            model = self._loaded(package, threads, ahead)
        if model.manifest.loop != owner:
            raise NotFound(f"Package {package[:12]} belongs to loop {model.manifest.loop}, not {owner}.")
        with self._guard:
            self._models.setdefault(key, model)
            self._asked.setdefault(key, set()).add(loop)
            self._coming.setdefault(loop, set()).add(key)
        return model

    def _loaded(self, package: str, threads: int, ahead: Ahead | None) -> Model:
        opened = ahead.take(package) if ahead is not None else None
        trim()
        before = resident()
        folder = folder_of(self._home.packages, package)
        model = load(folder, trusted_keys(self._home.keys), self._allowance, opened, threads)
        del opened
        trim()
        model.bytes = max(resident() - before, model.manifest.files[MODEL].size)
        self.loads += 1
        return model

    def hold(self, loop: str, models: Iterable[Model]) -> None:
        """These are what ``loop`` serves from now on; of those it served before the last few are kept."""
        with self._guard:
            held = {(model.digest, model.threads) for model in models}
            self._held[loop] = held
            self._coming.pop(loop, None)
            spare = [key for key in self._spare() if loop in self._asked.get(key, ())]
            self._drop(spare[: max(0, len(spare) + len(held) - max(KEPT_MODELS, len(held)))])

    def let_go(self, loop: str) -> None:
        """``loop`` serves nothing for now."""
        with self._guard:
            self._held.pop(loop, None)
            self._coming.pop(loop, None)
            self._drop([key for key in self._spare() if loop in self._asked.get(key, ())])

    def drop_spare(self) -> bool:
        """Forget models that nobody serves now; False when there are none."""
        with self._guard:
            spare = self._spare()
            self._drop(spare)
            return bool(spare)

    def _spare(self) -> list[Key]:
        used = set().union(*self._held.values(), *self._coming.values())
        return [key for key in self._models if key not in used]

    def _drop(self, keys: Iterable[Key]) -> None:
        for key in keys:
            del self._models[key]
            self._asked.pop(key, None)
