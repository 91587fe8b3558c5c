"""A challenger, the champion and the anchors on the same rows, as `loop.gating.judge` holds them. Releases nobody."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping

from everloop.clock import instant
from everloop.gate.compare import compare
from everloop.loop.backtest.asks import Ask
from everloop.loop.backtest.cells import positive
from everloop.loop.backtest.versions import Version
from everloop.loop.backtest.world import World
from everloop.records import Verdict
from everloop.spec.gate import Better, NotWorse

DAY_MICROSECONDS = 86_400_000_000


def judge(
    world: World,
    gate: NotWorse | Better | None,
    version: Version,
    champion: Version | None,
    anchors: Mapping[str, Version],
) -> Generator[tuple[Ask, ...], None, Verdict]:
    """On the newest test rows of the challenger that none of them has seen."""
    if champion is None:
        figure = "not asked" if math.isnan(version.score) else f"{version.score:.4f}"
        return Verdict(
            outcome="first",
            promote=True,
            because=f"the first version: {world.resolved.score.name} {figure} on its test rows",
        )
    if gate is None:
        return Verdict(outcome="ungated", promote=True, because="the policy has no gate (gate=None)")
    since = max(each.fitted_until for each in (champion, *anchors.values()))
    low, high = world.known_in(max(version.taken.test, since), version.taken.end)
    if high <= low:
        return Verdict(
            outcome="unsure",
            promote=False,
            because=f"no test row is newer than what version {champion.number} was fitted on ({instant(since):%Y-%m-%d %H:%M})",
        )
    for fit in (version.tested, champion.fit, *(each.fit for each in anchors.values())):
        yield world.asked_about(fit, low, high)
    ours = world.judged(version.tested, low, high)
    raw = None
    if gate.slices:
        places = world.known[low:high]
        raw = world.timeline.raw(int(places[0]), int(places[-1]) + 1, places)
    named = tuple((name, each.fit) for name, each in anchors.items())
    key = ("gate", gate, version.tested, champion.fit, champion.number, named, low, high)
    found: Verdict = world.remembered(
        key,
        lambda: compare(
            gate,
            world.resolved.score,
            truth=ours.truth,
            challenger=ours.prediction,
            champion=world.judged(champion.fit, low, high).prediction,
            anchors={name: world.judged(fit, low, high).prediction for name, fit in named},
            rows=(
                {name: raw[name].cast(str).fill_null("missing").to_numpy() for name in gate.slices}
                if raw is not None
                else {}
            ),
            days=ours.times // DAY_MICROSECONDS,
            positive=positive(world.resolved),
            extra=world.rows(low, high),
            champion_name=f"version {champion.number}",
        ),
    )
    return found
