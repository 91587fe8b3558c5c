"""What the whole loop scores on real histories, what its safety costs, and how fast a replay goes.

Run: python -m bench.replay [--data elec2|hflights|made] [--part speed|scores] [--quick] [--json]. Real server, real
fits, simulated clock. Without --data all sets whose rows are there, one after another; that takes most of an hour. A whole run adds its set
to results/replay.json; --quick replays the first weeks only, beside no published figure, and keeps nothing.

Each set is replayed twice from the same first model: *plain* (every week a new model, champion at once, the protocol
of the published figures; of the made service, its own triggers) and *full* (rows held out, gate, shadow, canary, and
the triggers of the example). What safety costs is the score of plain less the score of full, in points; where it is
negative, safety pays. Speed is a third replay that makes no model after the first: requests over loopback alone, 256 in
flight on one connection, and the whole replay (first fit, files, journal, outcomes and a look a week included).
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.rows import Row, parser, show

from everloop.loop.account import Account
from everloop.loop.demo import EXAMPLES, prepare
from everloop.loop.replay import History, Plan, Replay
from everloop.spec.load import load
from everloop.spec.loop import Loop
from everloop.spec.retrain import Manual
from everloop.spec.rollout import Direct

RESULTS = Path(__file__).parent / "results" / "replay.json"
LIBRARIES = ("polars", "deltalake", "lightgbm", "scikit-learn", "onnx", "onnxruntime", "sqlalchemy", "httptools")
WEEK, DAY = timedelta(days=7), timedelta(days=1)
QUICK = timedelta(days=21)
COST_POINTS = 1.0
"""What safety may cost, in points (hundredths) of accuracy and of AUC."""
BEHIND_POINTS = 1.5
"""How far the plain policy may be from the published row."""
PER_SECOND = 3_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The row "every-1 sliding" of the baselines that came with the data: single runs, seed 0, windows of their own."""

    accuracy: float
    roc_auc: float
    named: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """A history with its two policies. The full loop looks every day."""

    name: str
    compared: str
    """The metric that the promise is about."""
    published: Published | None
    plain_look: timedelta = WEEK


SETS = {
    "elec2": Set(
        name="elec2",
        compared="accuracy",
        published=Published(accuracy=0.7296, roc_auc=0.8046, named="every-1 sliding, 8 weeks"),
    ),
    "hflights": Set(
        name="hflights",
        compared="roc_auc",
        published=Published(accuracy=0.8094, roc_auc=0.6608, named="every-1 sliding, 4 weeks"),
    ),
    "made": Set(name="made", compared="roc_auc", published=None, plain_look=DAY),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One replay: the account's summary, and what became of its candidates."""

    summary: dict[str, Any]
    verdicts: dict[str, int]

    @classmethod
    def of(cls, account: Account) -> "Outcome":
        verdicts: dict[str, int] = {}
        for version in account.versions:
            verdicts[version.verdict.outcome] = verdicts.get(version.verdict.outcome, 0) + 1
        return cls(summary=account.summary(), verdicts=verdicts)

    @property
    def scores(self) -> dict[str, float]:
        scores: dict[str, float] = self.summary["scores"]
        return scores

    def actions(self, *names: str) -> int:
        return sum(self.summary["actions"].get(name, 0) for name in names)

    def to_json(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.summary.items() if name != "decisions"}
        return {**kept, "verdicts": self.verdicts}


def histories(chosen: Set, folder: Path) -> tuple[History, History, Plan]:
    """The set with its plain and its full policy, and what comes beside the traffic (of the made one, the poisoned
    import). Raises DataError where its rows are not there.
    """
    prepared = prepare(None if chosen.name == "made" else chosen.name, folder, seed=0)
    full = prepared.history
    loaded = load(folder / "parcels.py" if chosen.name == "made" else EXAMPLES / f"{chosen.name}.py")
    declared = {loop.name: loop for loop in loaded.loops}
    plain = declared.get(f"{full.loop.name}-plain") or plainly(full.loop)
    return dataclasses.replace(full, loop=plain), full, prepared.plan


def plainly(loop: Loop) -> Loop:
    """The same model, window and triggers; test rows are fitted on too, and a new model is champion at once."""
    window = dataclasses.replace(loop.window, refit=True)
    return dataclasses.replace(loop, name=f"{loop.name}-plain", window=window, gate=None, rollout=Direct())


def replayed(history: History, plan: Plan, *, look: timedelta, length: timedelta | None = None) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        running = Replay(history, dataclasses.replace(plan, home=Path(folder), look=look, seed=0))
        if length is not None:
            running.end = min(running.end, running.start + length)
        try:
            return Outcome.of(running.run())
        finally:
            running.close()


def figures(chosen: Set, plain: Outcome, full: Outcome, *, whole: bool) -> Iterator[Row]:
    """Scores beside the published ones, what safety costs, what became of the candidates."""
    rounds = plain.summary["predictions"]
    for metric in ("accuracy", "roc_auc"):
        published: float | None = getattr(chosen.published, metric) if chosen.published and whole else None
        target = None if published is None or metric != chosen.compared else published - BEHIND_POINTS / 100
        yield Row(
            what=f"{chosen.name}, plain: {metric}",
            ours=plain.scores[metric],
            unit="score",
            peer=published,
            peer_name=chosen.published.named if chosen.published and whole else None,
            target=target,
            greater_is_better=True,
            rounds=rounds,
        )
        yield Row(
            what=f"{chosen.name}, full: {metric}",
            ours=full.scores[metric],
            unit="score",
            peer=plain.scores[metric],
            peer_name="plain, same run",
            greater_is_better=True,
            rounds=full.summary["predictions"],
        )
        yield Row(
            what=f"{chosen.name}: what safety costs in {metric}",
            ours=100 * (plain.scores[metric] - full.scores[metric]),
            unit="points",
            target=COST_POINTS,
            rounds=full.summary["predictions"],
        )
    for policy, outcome in (("plain", plain), ("full", full)):
        counts = {
            "turns after the first": outcome.actions("turn started") - 1,
            "promoted": outcome.actions("promoted", "released") - 1,
            "unsure at the gate": outcome.verdicts.get("unsure", 0),
            "rejected at the gate": outcome.actions("rejected", "kept champion"),
            "rolled back": outcome.actions("rolled back"),
            "failed requests": outcome.summary["failed"],
        }
        for name, count in counts.items():
            yield Row(what=f"{chosen.name}, {policy}: {name}", ours=count, unit="", rounds=1)


def speed(name: str, outcome: Outcome) -> Iterator[Row]:
    rates = outcome.summary["predictions_per_second"]
    named = {
        "over_http": ("requests over HTTP alone", None),
        "end_to_end": ("a whole replay without new models", PER_SECOND),
    }
    for key, (what, target) in named.items():
        yield Row(
            what=f"{name}: {what}",
            ours=float(rates[key] or 0),
            unit="predictions a second",
            target=target,
            greater_is_better=True,
            rounds=outcome.summary["predictions"],
        )


def still(history: History) -> History:
    """The same history served by its first model to the end."""
    return dataclasses.replace(history, loop=dataclasses.replace(history.loop, retrain=Manual()))


def scores(chosen: Set, *, quick: bool = False) -> tuple[list[Row], dict[str, Outcome]]:
    """The plain policy and the full one."""
    with tempfile.TemporaryDirectory(prefix="everloop-bench-made-") as folder:
        plain, full, plan = histories(chosen, Path(folder))
        length = QUICK if quick else None
        outcomes = {
            "plain": replayed(plain, plan, look=chosen.plain_look, length=length),
            "full": replayed(full, plan, look=DAY, length=length),
        }
    return [*figures(chosen, outcomes["plain"], outcomes["full"], whole=not quick)], outcomes


def speeds(chosen: Set, *, quick: bool = False) -> tuple[list[Row], dict[str, Outcome]]:
    """The first model to the end."""
    with tempfile.TemporaryDirectory(prefix="everloop-bench-made-") as folder:
        plain, _, plan = histories(chosen, Path(folder))
        outcome = replayed(still(plain), plan, look=WEEK, length=10 * QUICK if quick else None)
    return [*speed(chosen.name, outcome)], {"still": outcome}


PARTS = {"speed": speeds, "scores": scores}


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code; no names of machines."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        **{name: importlib.metadata.version(name) for name in ("everloop", *LIBRARIES)},
    }


def keep(chosen: Set, part: str, rows: list[Row], outcomes: dict[str, Outcome]) -> None:
    """Put these figures in the place of the last ones of this set and part."""
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"sets": {}}
    kept["sets"].setdefault(chosen.name, {})[part] = {
        "machine": machine(),
        "rows": [row.to_json() for row in rows],
        "replays": {name: outcome.to_json() for name, outcome in outcomes.items()},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


def there(chosen: Set) -> bool:
    return chosen.name == "made" or (EXAMPLES.parents[1] / "shared" / "data" / f"{chosen.name}.parquet").exists()


def rows(*, quick: bool = False, data: str | None = None, part: str | None = None) -> list[Row]:
    found: list[Row] = []
    for name, chosen in SETS.items():
        if (data or name) != name or not there(chosen):
            continue
        for named, measure in PARTS.items():
            if (part or named) != named:
                continue
            made, outcomes = measure(chosen, quick=quick)
            if not quick:
                keep(chosen, named, made, outcomes)
            found += made
    return found


def main() -> None:
    made: argparse.ArgumentParser = parser(__doc__ or "")
    made.add_argument("--data", choices=tuple(SETS), help="one set only")
    made.add_argument("--part", choices=tuple(PARTS), help="speed alone (a minute a set), or scores alone (most of it)")
    options = made.parse_args()
    show(rows(quick=options.quick, data=options.data, part=options.part), as_json=options.json)


if __name__ == "__main__":
    main()
