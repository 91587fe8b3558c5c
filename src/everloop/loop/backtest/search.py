"""Proposes policies one after the other, from how the earlier ones did: triggers, their thresholds and windows together.

Two aims at once, the score and what it cost. A policy that was run already is never run again, and fits are shared with
all others. Knows no rows.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from everloop.loop.backtest.choices import MONTH, usual_windows
from everloop.loop.backtest.run import Backtest
from everloop.spec.policy import Policy
from everloop.spec.retrain import AnyOf, Degraded, Drift, Every, Manual, Rows, Trigger, leaves

AT_ONCE = 8
"""Policies that are proposed together, so that cores have work."""
SEED = 0


def searched(running: Backtest, present: Policy, *, trials: int, seed: int = SEED) -> list[Policy]:
    """So many policies as a search proposes them; equal ones once. They have been run when this returns.

    Optuna's tree-structured Parzen estimator with several aims (Ozaki et al. 2020); ``seed`` makes it repeatable.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True, n_startup_trials=AT_ONCE)
    better = "maximize" if running.resolved.score.greater_is_better else "minimize"
    study = optuna.create_study(directions=[better, "minimize"], sampler=sampler)
    windows = usual_windows(present.window, running.setting.windows, running.span, len(running.timeline.labelled))
    found: dict[str, Policy] = {}
    left = trials
    while left > 0:
        asked = [study.ask() for _ in range(min(AT_ONCE, left))]
        left -= len(asked)
        proposed = [_policy(each, present, windows, running) for each in asked]
        runs = running.run(proposed)
        for trial, policy, run in zip(asked, proposed, runs, strict=True):
            found[policy.digest] = policy
            if run.problem is not None or run.score is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            money = run.costs.money
            study.tell(trial, [run.score, float(run.costs.retrains) if money is None else money])
    return list(found.values())


def _policy(trial: Any, present: Policy, windows: list[Any], running: Backtest) -> Policy:
    kind = trial.suggest_categorical("trigger", ["every", "degraded", "drift", "every or degraded", "never"])
    window = windows[trial.suggest_int("window", 0, len(windows) - 1)]
    trigger: Trigger = Manual()
    if kind in ("every", "every or degraded"):
        trigger = _schedule(running, trial.suggest_int("every", 1, max(2, len(running.grid) // 4), log=True))
    if kind in ("degraded", "every or degraded"):
        fallen = _degraded(trial, running, present)
        trigger = AnyOf(trigger, fallen) if kind != "degraded" else fallen
    if kind == "drift":
        days = trial.suggest_int("false_alarm_every", 7, 365, log=True)
        trigger = Drift(false_alarm_every=timedelta(days=days))
    cooldown = timedelta(0)
    if kind in ("degraded", "drift", "every or degraded"):
        count = trial.suggest_categorical("cooldown", [0, 1, 2, 4])
        cooldown = running.window * count
    return replace(present, retrain=trigger, window=window, cooldown=cooldown)


def _schedule(running: Backtest, count: int) -> Trigger:
    every = running.setting.windows
    if isinstance(every, int):
        return Rows(every * count)
    return Every((MONTH if every == "month" or every is None else every) * count)


def _degraded(trial: Any, running: Backtest, present: Policy) -> Degraded:
    usual = next(each for policy in running.policies() for each in leaves(policy.retrain) if isinstance(each, Degraded))
    times = trial.suggest_float("by", 0.25, 5.0, log=True)
    over = trial.suggest_categorical("over", [1, 2, 4])
    return Degraded(by=float(f"{usual.by * times:.2g}"), over=running.window * over)
