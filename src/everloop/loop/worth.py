"""What each version gained on live rows beside what was predicted, and whether retraining pays. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from everloop.errors import NotFound, PackageError
from everloop.loop.installation import Installation
from everloop.measure.truth import Class
from everloop.records import Version
from everloop.store import packages
from everloop.store.ledger import releases
from everloop.watch.labels import Truth
from everloop.watch.worth import Gain, gain, read, realised

LEAST_RELEASES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What is known of one version's gain; at least one of ``shadow`` and ``realised``."""

    predicted: float | None
    """By its gate, in the score's own units, above 0 better; None where there was nobody to compare with."""
    shadow: Gain | None = None
    """In its shadow, before the release: what that was decided by."""
    realised: Gain | None = None
    """Since it became champion, beside the champion of before in shadow."""
    former: int | None = None
    """Whom ``realised`` is beside."""

    @property
    def best(self) -> Gain:
        """The one to believe."""
        found = self.realised or self.shadow
        assert found is not None
        return found


def gains(installation: Installation, known: Sequence[Version], *, of: Sequence[int] | None = None) -> dict[int, Worth]:
    """Version → what it gained, of all that are ``known`` or only ``of`` some, where labels have come."""
    each, label = installation, installation.loop.label
    classes: dict[int, tuple[Class, ...]] = {}
    keys = packages.trusted_keys(each.home.keys)
    for version in known:
        try:
            opened = packages.open_package(each.home.packages / version.package, keys)
        except (PackageError, NotFound):
            continue
        classes[version.number] = opened.manifest.signature.classes
    truth = Truth(
        column=label.column,
        delay=label.delay,
        task=each.resolved.task,
        classes=each.resolved.classes,
        absent=label.absent,
    )
    asked = [version for version in known if version.number in classes and (of is None or version.number in of)]
    if not asked:
        return {}
    metric, formers = each.resolved.score, _formers(each)
    rows = read(each.lake, truth, since=min(version.created_at for version in asked), now=each.clock.now())
    found: dict[int, Worth] = {}
    for version in asked:
        number = version.number
        since = None
        former, began = formers.get(number, (None, None))
        if former in classes and former is not None and began is not None:
            since = realised(rows, truth, metric, version=number, former=former, since=began, classes=classes)
        shadow = gain(rows, truth, metric, version=number, classes=classes)
        if shadow is not None or since is not None:
            found[number] = Worth(predicted=_predicted(version), shadow=shadow, realised=since, former=former)
    return found


def _formers(installation: Installation) -> dict[int, tuple[int, datetime]]:
    """Champion → who stayed in shadow beside it, and since when."""
    with installation.ledger.read() as connection:
        history = releases.history(connection, installation.name)
    return {
        each.champion: (each.former, each.since)
        for each in history
        if each.champion is not None and each.former is not None and each.since is not None
    }


def words(told: Worth) -> str:
    """The realised gain, or the shadow's until there is one, beside what was predicted."""
    best = told.best
    beside = "the champion of then in shadow" if told.realised is None else f"version {told.former} since its release"
    side = "better" if best.value > 0 else "worse"
    said = [
        f"{best.loss} {abs(best.value):.4g} ± {best.standard_error:.2g} {side} than {beside}, {best.rows:,} live rows"
    ]
    if told.realised is not None and told.shadow is not None:
        said.append(f"before it, in shadow, {_side(told.shadow.value)}")
    if told.predicted is not None:
        said.append(f"at its gate {_side(told.predicted)}")
    return "; ".join(said)


def _side(value: float) -> str:
    return f"{abs(value):.4g} {'better' if value > 0 else 'worse'}"


def _predicted(version: Version) -> float | None:
    """The gain at the gate, in the score's units: the evidence holds how much worse the challenger was."""
    if version.verdict.outcome in ("first", "ungated"):
        return None
    for each in version.verdict.evidence:
        if " against " in each.name and isinstance(each.value, int | float):
            return -float(each.value)
    return None


def never_pays(promoted: Sequence[int], found: Mapping[int, Worth]) -> str | None:
    """What to say where the newest versions that became champion gained nothing that shows on live rows."""
    told = [found[number].best for number in promoted if number in found][-2 * LEAST_RELEASES :]
    if len(told) < LEAST_RELEASES or any(each.shown for each in told):
        return None
    rows = sum(each.rows for each in told)
    mean = sum(each.value * each.rows for each in told) / rows
    return (
        f"retraining has not paid: none of the last {len(told)} versions that became champion is shown better than the one "
        f"before on live rows ({told[0].loss} {_side(mean)} on average, {rows:,} rows); "
        "retrain more seldom, or only when Degraded()"
    )
