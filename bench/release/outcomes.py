"""A user's own outcome among the guards: conversion and revenue, late, missing where nothing was bought, at every look.

As one of three guards, which share alpha; looked at after each hundred requests of both arms, through the bets that run
live. The outcome comes 30,000 requests late.
"""

import math
from dataclasses import dataclass

import numpy as np
from bench.release.streams import ALPHA, PROMOTE_ALPHA, Floats
from bench.rows import Row

from everloop.measure import eprocess

SHARE, LATE, EVERY = 0.5, 30_000, 100
GUARDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One request in ``buys`` buys, for about 20 with a long tail; ``lift`` of the challenger. Revenue counts up to 200."""

    name: str
    lift: float
    requests: int
    spends: bool = False


BUYS = 0.05
MARGIN = {False: 0.01, True: 0.2}
"""Conversion at most a point lower; revenue a request at most .2 of about 1.1."""
MEAN_SPENT = 1.13


def outcomes(world: World, random: np.random.Generator) -> tuple[Floats, Floats, float]:
    """How bad each request's outcome is, from 0 to 1; its arm; the width of the scale."""
    arm = (random.random(world.requests) < SHARE).astype(np.float64)
    buys = random.random(world.requests) < BUYS * np.where(arm > 0, world.lift, 1.0)
    if not world.spends:
        return 1.0 - buys, arm, 1.0
    spent = np.clip(random.lognormal(3, 0.5, world.requests), 0, 200)
    return 1.0 - np.where(buys, spent, 0.0) / 200, arm, 200.0


def frozen(spends: bool) -> tuple[float, float]:
    """What the champion reached before: its rate and variance of 20,000 requests."""
    x, _, _ = outcomes(World(name="", lift=1.0, requests=20_000, spends=spends), np.random.default_rng(1))
    rate = eprocess.frozen_baseline(float(x.sum()), len(x))
    return rate, eprocess.frozen_variance(x, rate)


def ends(world: World, runs: int, seed: int) -> list[tuple[str, int]]:
    """How each run ended, and after how many requests of both arms."""
    rate, variance = frozen(world.spends)
    found = []
    for run in range(runs):
        x, arm, width = outcomes(world, np.random.default_rng([seed, run]))
        blocks = len(x) // EVERY
        worse, not_worse = (
            np.cumsum(np.add.reduceat(each, np.arange(0, blocks * EVERY, EVERY), axis=1), axis=1)
            for each in factors(
                x[: blocks * EVERY], arm[: blocks * EVERY], rate, variance, MARGIN[world.spends] / width
            )
        )
        met = np.cumsum(arm[: blocks * EVERY].reshape(blocks, EVERY).sum(axis=1))
        seen = eprocess.counts(0, met[:, None], 0, (np.arange(1, blocks + 1) * EVERY - met)[:, None], SHARE)
        back = eprocess.log_mean(worse.T) >= math.log(GUARDS / ALPHA)
        on = eprocess.log_mean(not_worse.T) >= math.log(1 / PROMOTE_ALPHA)
        on &= eprocess.enough(seen, rate, MARGIN[world.spends] / width, PROMOTE_ALPHA, variance=variance)
        either = back | on
        place = int(np.argmax(either))
        action = "open" if not either.any() else "rolled back" if back[place] else "promoted"
        found.append((action, (place + 1) * EVERY + LATE))
    return found


def factors(x: Floats, arm: Floats, rate: float, variance: float, margin: float) -> tuple[Floats, Floats]:
    """What each request adds to the bets of `rollback_bounded` and `promotion_bounded`, [bets, requests]."""
    b = (np.log(eprocess.ROLLBACK_RATIOS) * rate * (1 - rate) / variance)[:, None]
    stake = b * (x - rate)
    z = (arm / SHARE - (1 - arm) / (1 - SHARE)) * (x - rate)
    stakes = eprocess._stakes(np.array([SHARE]), rate, margin, variance)[:, 0]
    worse = arm * stake - np.log1p(SHARE * np.expm1(stake))
    not_worse = np.log1p(stakes[:, None] * (margin - z))
    # And the whole says the same as the code that runs live.
    assert np.allclose(worse.sum(axis=1), eprocess.rollback_bounded(arm, x, SHARE, rate, variance=variance))
    assert np.allclose(
        not_worse.sum(axis=1), eprocess.promotion_bounded(arm, x, SHARE, rate, margin, variance=variance)
    )
    return worse, not_worse


def rows(runs: int) -> list[Row]:
    made: list[Row] = []
    for spends, name in ((False, "conversion 5 %, margin a point"), (True, f"revenue {MEAN_SPENT}, margin .2")):
        at = 1 - MARGIN[spends] / (MEAN_SPENT if spends else BUYS)
        for what, lift, seed in (("equal", 1.0, 31), ("at the margin", at, 32), ("half", 0.5, 33)):
            world = World(name=name, lift=lift, requests=150_000, spends=spends)
            found = ends(world, runs, seed)
            back, on = (np.mean([each == action for each, _ in found]) for action in ("rolled back", "promoted"))
            when = {
                action: float(np.median([after for each, after in found if each == action] or [math.nan]))
                for action in ("rolled back", "promoted")
            }
            if what == "equal":
                made += [
                    Row(what=f"{name}, equal: rolled back", ours=float(back), target=ALPHA / GUARDS, unit="of runs", rounds=runs),
                    Row(what=f"{name}, equal: promoted", ours=float(on), unit="of runs", rounds=runs),
                    Row(what=f"{name}, equal: promoted after, median", ours=when["promoted"], unit="requests", rounds=runs),
                ]  # fmt: skip
            elif what == "at the margin":
                made.append(
                    Row(what=f"{name}, at the margin: promoted", ours=float(on), target=PROMOTE_ALPHA, unit="of runs", rounds=runs)
                )  # fmt: skip
            else:
                made += [
                    Row(what=f"{name}, half of it: promoted", ours=float(on), target=0.0, unit="of runs", rounds=runs),
                    Row(what=f"{name}, half of it: rolled back after, median", ours=when["rolled back"], unit="requests", rounds=runs),
                ]  # fmt: skip
    return made
