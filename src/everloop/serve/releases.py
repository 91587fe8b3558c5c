"""The release file: who serves what, as the controller wrote it. Knows nothing of packages or of serving."""

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from everloop.errors import ServeError
from everloop.records import LOOP_NAME, Task

LARGEST = 2**20
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""What the log and JSON of any language hold."""


class Served(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    version: Count
    package: str


class CacheTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """How much memory predictions may be kept in, and for how long."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    seconds: Annotated[float, msgspec.Meta(gt=0)]


class Share(msgspec.Struct, frozen=True):
    """One arm of an experiment."""

    name: str
    version: int
    package: str
    share: float


class ExperimentFile(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment that runs (`everloop.records.Experiment`). ``unit`` None: the prediction's id decides."""

    name: str
    salt: str
    arms: tuple[Share, ...]
    unit: str | None = None
    sticky: Literal["hour", "always"] = "always"


class Way(msgspec.Struct, frozen=True):
    """One arm of a route."""

    name: str
    version: int
    package: str


class MeaningFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a query is about (`everloop.spec.serve.Meaning`): an expression of its row, or the cluster of a column."""

    node: dict[str, Any] | None = None
    column: str | None = None
    package: str | None = None
    """Whose clusters are meant."""
    first: tuple[str, ...] = ()
    """Classes that go before others."""


class RouteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A route in force (`everloop.records.Route`): ``by`` is the package of ``loop`` that decides, or None in a cascade."""

    arms: tuple[Way, ...]
    """Named by the decision that leads to each; of a cascade in the order in which they are asked."""
    loop: str | None = None
    by: Served | None = None
    threshold: float | None = None
    weights: dict[str, tuple[float, ...]] | None = None
    """By meaning: class → the weight of each arm; "" for every class that is not named."""


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """``home/releases/<loop>.json``. ``share`` is the challenger's share of live requests, 0 in shadow."""

    loop: str
    revision: Count
    stage: Literal["empty", "steady", "shadow", "canary"] = "empty"
    champion: Served | None = None
    challenger: Served | None = None
    former: Served | None = None
    """The champion of before, which goes on answering in shadow; only while nothing else divides the traffic."""
    share: float = 0.0
    epoch: Count = 0
    unit: str | None = None
    sticky: Literal["hour", "always"] = "hour"
    salt: str = ""
    log: bool = True
    sketch: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 0
    """Seconds of a stretch for which what is asked is sketched; 0: nothing is. Stretches divide a day."""
    p99_ms: float | None = None
    mode: Literal["throughput", "latency"] = "throughput"
    """Whether a run takes one core, or all that the process has to itself."""
    cache: CacheTerms | None = None
    label: str = "label"
    """The name of an outcome that is sent without one."""
    task: Task | None = None
    classes: tuple[bool | int | float | str, ...] = ()
    """What a label may be, for a server that has loaded no version."""
    experiment: ExperimentFile | None = None
    route: RouteFile | None = None
    first: dict[str, Any] | None = None
    """An expression: requests for which it is true go before others."""
    meaning: MeaningFile | None = None


Mark = tuple[int, int, int]


def mark(path: Path) -> Mark | None:
    """What changes whenever the file is replaced; None when there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116  (fifty times a second: the cheapest form)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def read(path: Path) -> ReleaseFile:
    """Raises ServeError when it is not there or not a release file."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ServeError(f"The release file {path} has more than {LARGEST} bytes. The controller rewrites it.")
        release = msgspec.json.decode(content, type=ReleaseFile)
    except OSError as error:
        raise ServeError(f"The release file {path} cannot be read: {error.strerror}.") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ServeError(f"{path} is not a release file: {error}. The controller rewrites it when it starts.") from None
    if not 0.0 <= release.share <= 1.0:
        raise ServeError(f"{path} gives the share {release.share}; a share lies between 0 and 1.")
    if release.sketch and (86_400 % release.sketch or release.sketch % 60):
        raise ServeError(
            f"{path} sketches stretches of {release.sketch} seconds; they are whole minutes and divide a day."
        )
    experiment, route = release.experiment, release.route
    if experiment is not None:
        shares = [each.share for each in experiment.arms]
        if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
            raise ServeError(
                f"{path} gives the arms of experiment {experiment.name} the shares {shares}; they add up to 1."
            )
    if route is not None:
        ways = [each is not None for each in (route.by, route.threshold, route.weights)]
        if not route.arms or sum(ways) != 1:
            raise ServeError(
                f"{path} gives a route without arms, or not one of package, threshold and weights that decides."
            )
        for weights in (route.weights or {}).values():
            if len(weights) != len(route.arms) or min(weights) < 0 or not math.isclose(sum(weights), 1.0, abs_tol=1e-9):
                raise ServeError(f"{path} gives {len(route.arms)} arms the weights {weights}; they add up to 1.")
        if route.weights is not None and ("" not in route.weights or release.meaning is None):
            raise ServeError(
                f"{path} gives a route by meaning without a meaning, or without weights for the other classes."
            )
    return release


def names(folder: Path) -> list[str]:
    """The loops that have a release file there, in order."""
    return sorted(file.stem for file in folder.glob("*.json") if LOOP_NAME.fullmatch(file.stem))
