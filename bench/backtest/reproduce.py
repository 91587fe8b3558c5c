"""The published baselines of four sets, by the same protocol: what this engine gives beside what was measured without it.

Schedules run through production's own triggers. Rules that production does not have (a window's score three points below
the best, river's detectors, PSI and KS on columns) take the triggers' place; the rest of the engine is the same.
"""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

from bench.backtest.foreign import watching
from bench.backtest.parts import Part, opened
from bench.backtest.sets import Set, sets
from bench.rows import Row

from everloop.loop.backtest.simulation import Simulation
from everloop.spec.policy import Policy
from everloop.spec.retrain import Every, Manual, Rows, Trigger

WHY = {
    "enron": "enron, never: words and their weights are learned from the first 2,000 messages alone; the baseline hashed "
    "words into a fixed table. The more often a model is fitted, the less that tells: from seven retrains on they agree.",
}


def part(*, quick: bool) -> Part:
    found = Part()
    for each in sets():
        if quick and each.name != "bike":
            continue
        with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
            _one(each, Path(folder), found)
    return found


def _one(each: Set, folder: Path, found: Part) -> None:
    names = list(each.published)
    policies = [_policy(each, name) for name in names]
    regression = each.name == "bike"
    with opened(each, folder, policies) as running:
        simulations = [
            Simulation(policy, running.world, watching=watching(each, name))
            if _is_foreign(each, name)
            else Simulation(policy, running.world)
            for name, policy in zip(names, policies, strict=True)
        ]
        running.drive(simulations)
        runs = [running.concluded(one) for one in simulations]
    if each.name in WHY:
        found.notes.append(WHY[each.name])
    for name, run in zip(names, runs, strict=True):
        retrains, score = each.published[name]
        ours = run.score or 0.0
        off = abs(ours / score - 1) if regression else abs(ours - score)
        found.rows.append(
            Row(
                what=f"{each.name}: {name}, {'RMSE' if regression else 'accuracy'} off by ({ours:.4g}, {run.costs.released} retrains)",
                ours=100 * off,
                peer=score,
                peer_name=f"published, {retrains} retrains",
                unit="%" if regression else "points",
                target=8.0 if regression else 1.5,
            )
        )


def _policy(each: Set, name: str) -> Policy:
    trigger: Trigger = Manual()
    if name.startswith("every-"):
        count = int(name.removeprefix("every-").partition(" ")[0])
        trigger = Every(each.step * count) if isinstance(each.step, timedelta) else Rows(each.step * count)
    window = each.expanding() if name.endswith("expanding") else each.sliding()
    return Policy(trigger, window=window, gate=None)


def _is_foreign(each: Set, name: str) -> bool:
    """Calendar months are no schedule of ours; the other rules are others' too."""
    return name != "never" and (not name.startswith("every-") or each.name == "bike")
