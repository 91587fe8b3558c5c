"""What each version gained on live rows beside what its gate saw, and whether retraining pays. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from everloop.errors import NotFound, PackageError
from everloop.loop.installation import Installation
from everloop.records import Version
from everloop.store import packages
from everloop.watch.labels import Class, Truth
from everloop.watch.worth import Gain, gain

LEAST_RELEASES = 4


def gains(installation: Installation, known: Sequence[Version], *, of: Sequence[int] | None = None) -> dict[int, Gain]:
    """Version → what it gained, of all that are ``known`` or only ``of`` some, where labels of its shadow have come."""
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
    now = each.clock.now()
    found = {
        number: gain(each.lake, truth, each.resolved.score, version=number, now=now, classes=classes)
        for number in (classes if of is None else [number for number in of if number in classes])
    }
    return {number: told for number, told in found.items() if told is not None}


def words(version: Version, told: Gain) -> str:
    """Beside what the gate saw on its own rows, where it compared."""
    side = "better" if told.value > 0 else "worse"
    said = f"{told.loss} {abs(told.value):.4g} ± {told.standard_error:.2g} {side} than the champion on {told.rows:,} live rows"
    predicted = _predicted(version)
    if predicted is None:
        return said
    return f"{said}; at its gate {abs(predicted):.4g} {'better' if predicted > 0 else 'worse'}"


def _predicted(version: Version) -> float | None:
    """The gain at the gate, in the score's units: the evidence holds how much worse the challenger was."""
    if version.verdict.outcome in ("first", "ungated"):
        return None
    for each in version.verdict.evidence:
        if " against " in each.name and isinstance(each.value, int | float):
            return -float(each.value)
    return None


def never_pays(promoted: Sequence[int], found: Mapping[int, Gain]) -> str | None:
    """What to say where the newest versions that became champion gained nothing that shows on live rows."""
    told = [found[number] for number in promoted if number in found][-2 * LEAST_RELEASES :]
    if len(told) < LEAST_RELEASES or any(each.shown for each in told):
        return None
    rows = sum(each.rows for each in told)
    mean = sum(each.value * each.rows for each in told) / rows
    return (
        f"retraining has not paid: none of the last {len(told)} versions that became champion is shown better than the one "
        f"before on live rows ({told[0].loss} {abs(mean):.4g} {'better' if mean > 0 else 'worse'} on average, {rows:,} rows); "
        "retrain more seldom, or only when Degraded()"
    )
