"""What ``everloop demo`` replays: the simulated parcel service, or one of the real sets beside the repository."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from everloop.errors import DataError
from everloop.loop.replay import Arrival, History, Plan, read_history
from everloop.loop.simulate import Simulation, simulate
from everloop.spec.load import load

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
DATASETS = {"hflights": "hflights.py", "elec2": "elec2.py"}
ROWS_PER_DAY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    history: History
    plan: Plan
    opening: str


def prepare(dataset: str | None, out: Path, *, seed: int) -> Prepared:
    """Raises DataError when the examples or the real sets are not there."""
    if not EXAMPLES.is_dir():
        raise DataError(f"The demo's declarations are not at {EXAMPLES}; run it from a clone of the repository.")
    return _simulated(out, seed) if dataset is None else _real(dataset, out)


def _simulated(out: Path, seed: int) -> Prepared:
    shutil.rmtree(out / "parcels", ignore_errors=True)
    made = simulate(out, seed=seed, rows_per_day=ROWS_PER_DAY)
    # Beside its data, so that `everloop check demo/parcels.py` and all the rest work on it afterwards.
    declaration = out / "parcels.py"
    shutil.copyfile(EXAMPLES / "parcels.py", declaration)
    loaded = load(declaration)
    history = read_history(loaded.loops[0], loaded.source, loaded.path.parent)
    said = (
        f"Simulated: a parcel service, {made.rows:,} parcels in {made.days} days, seed {seed}. Nobody measured this; "
        "what happened on which day is in truth.json."
    )
    plan = Plan(
        home=out / "home",
        look=timedelta(days=1),
        arrivals=(Arrival(at=made.poison_arrives, path=made.poison),),
        marks=_marks(made),
        simulated=said,
    )
    return Prepared(history=history, plan=plan, opening=f"[bold]everloop demo[/bold]\n{said}\n")


def _marks(made: Simulation) -> tuple[tuple[datetime, str], ...]:
    shown = {"concept": "the world changes", "category": "a new carrier", "poison": "a poisoned import"}
    return tuple(
        (made.start + timedelta(days=each.from_day), shown[each.kind]) for each in made.happenings if each.kind in shown
    )


def _real(dataset: str, out: Path) -> Prepared:
    declaration = EXAMPLES / DATASETS[dataset]
    loaded = load(declaration)
    history = read_history(loaded.loops[0], loaded.source, loaded.path.parent)
    opening = f"[bold]everloop demo[/bold]  {dataset}: {len(history.frame):,} real rows\n"
    return Prepared(history=history, plan=Plan(home=out / "home", look=timedelta(days=1)), opening=opening)
