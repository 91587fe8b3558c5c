"""What the evidence of a release says: harm shown, good shown, or not yet. Pure; knows no stages' order and no files.

May be asked after every request. Rollback: an e-process per guard, and one for the paired score, each against its part
of alpha (Bonferroni over guards and score, so that the release as a whole keeps alpha). Promotion: every guard must
reject "worse by its margin" at promote_alpha, undivided, because all must pass. The counts of all share epochs
multiply: neither a change of share nor the number of looks costs level. Rollback wins a tie.
"""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from everloop.measure import eprocess, shadow
from everloop.records import Evidence, GuardEvidence, Release, ReleaseEvidence
from everloop.spec.rollout import Canary, Direct

SAMPLE_RATIO_ALPHA = 0.001
A_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one look found. At most one of ``rollback`` and ``promote``."""

    rollback: bool
    promote: bool
    """All that the present stage must show is shown: the score in shadow, every guard in a canary."""
    because: str
    evidence: tuple[Evidence, ...] = ()
    about_more: int | None = None
    """About how many more requests (in shadow: labelled pairs) until promotion, if things stay so."""
    hold: bool = False
    """Leaning to harm, more than half way to a rollback: exposure must not grow."""
    beyond: bool = False
    """An estimate lies at its margin or beyond it, though harm is not shown: nobody may call that no sign of harm."""
    frozen: bool = False
    """The arms' sizes do not match their share: the counts cannot be trusted, nothing may be promoted on them."""
    requests: int = 0
    """Challenger requests at the present share (in shadow: labelled pairs)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One guard or the score: evidence for harm and for its absence, as shares of what is needed (ln over ln)."""

    evidence: Evidence
    log_worse: float
    passes: bool
    words: str
    more: int | None
    hopeless: bool = False
    """More of the same would hardly show its absence."""
    beyond: bool = False
    """The estimate lies at the margin or beyond it, or there is none."""


def judge(rollout: Canary | Direct, evidence: ReleaseEvidence, *, release: Release, now: datetime) -> Judgement:
    """Judge a challenger in shadow or canary by all its evidence so far. ``now`` bounds nothing here but is kept with
    the words; without a challenger there is nothing to judge.
    """
    if isinstance(rollout, Direct) or release.challenger is None or release.stage not in ("shadow", "canary"):
        return Judgement(rollback=False, promote=False, because="no challenger is under judgement")
    # As declared, not as seen so far: a limit that moved with the evidence would not keep alpha.
    parts = max(1, max(len(rollout.guards), len(evidence.guards)) + (1 if rollout.shadow else 0))
    limit = math.log(parts / rollout.alpha)
    score = _score(evidence, rollout, limit)
    guards = [_guard(each, rollout, limit, release) for each in evidence.guards]
    findings = [*([score] if score is not None else []), *guards]
    told = tuple(each.evidence for each in findings)
    in_shadow = release.stage == "shadow"
    requests = evidence.shadow.pairs if in_shadow and evidence.shadow else _requests(evidence, rollout, release)
    worst = max(findings, key=lambda each: each.log_worse, default=None)
    if worst is not None and worst.log_worse >= limit:
        return Judgement(
            rollback=True,
            promote=False,
            because=f"shown worse: {worst.words}",
            evidence=told,
            requests=requests,
        )
    mismatch = _sample_ratio(evidence)
    if mismatch is not None:
        return Judgement(
            rollback=False,
            promote=False,
            because=f"frozen: {mismatch.detail['words']}",
            evidence=(*told, mismatch),
            hold=True,
            frozen=True,
            requests=requests,
        )
    hold = worst is not None and worst.log_worse >= limit / 2
    asked = ([score] if score is not None else []) if in_shadow else guards
    waiting = [each for each in asked if not each.passes]
    if (asked and not waiting) or (not in_shadow and not guards):
        words = "; ".join(each.words for each in asked) or "no guards are declared"
        return Judgement(
            rollback=False,
            promote=True,
            because=f"shown not worse: {words}",
            evidence=told,
            hold=hold,
            requests=requests,
        )
    because, more = _waiting(waiting, in_shadow)
    if hold and worst is not None:
        because = f"leaning to harm, not shown: {worst.words}; {because}"
    return Judgement(
        rollback=False,
        promote=False,
        because=because,
        evidence=told,
        about_more=more,
        hold=hold,
        beyond=any(each.beyond for each in waiting),
        requests=requests,
    )


def _waiting(waiting: list[_Finding], in_shadow: bool) -> tuple[str, int | None]:
    unit = "labelled pairs" if in_shadow else "requests"
    if not waiting:
        return f"no {unit} yet", None
    hopeless = [each for each in waiting if each.hopeless]
    slowest = hopeless[0] if hopeless else max(waiting, key=lambda each: each.more or 0)
    if slowest.hopeless or slowest.more is None:
        return f"{slowest.words}; more {unit} are unlikely to show that this is not worse", None
    return f"not shown yet: {slowest.words}; {_about(slowest.more)} more {unit}", slowest.more


def _about(count: int) -> str:
    """A forecast beyond what anybody will wait for says only that."""
    return f"about {count:,}" if count < A_MILLION else "more than a million"


def _guard(guard: GuardEvidence, rollout: Canary, limit: float, release: Release) -> _Finding:
    observed = eprocess.counts_of(guard.epochs)
    baseline = min(max(guard.baseline, 1e-6), 1 - 1e-6)
    gap = float(eprocess.difference(observed))
    share = release.share if 0 < release.share < 1 else 0.1
    if guard.variance is None:
        log_worse = float(eprocess.rollback(observed, baseline)) + _in_shadow(guard)
        log_passes = float(eprocess.promotion(observed, baseline, guard.margin))
        more = eprocess.more_to_promote(observed, baseline, guard.margin, rollout.promote_alpha, share)
    else:
        worse, not_worse = _won(guard, "log_worse"), _won(guard, "log_not_worse")
        log_worse, log_passes = eprocess.mixed(worse), eprocess.mixed(not_worse)
        more = eprocess.more_to_promote_bounded(
            not_worse, gap, baseline, guard.margin, guard.variance, rollout.promote_alpha, share
        )
    low, high = guard.scale
    challenger, champion = (None if rate is None else low + rate * (high - low) for rate in _rates(guard, observed))
    units = int(sum(each.challenger_units for each in guard.epochs))
    said = _percent if {low, high} == {0.0, 1.0} else _number
    words = (
        f"{guard.counted or guard.guard} {said(challenger)} against {said(champion)} in {units:,} challenger requests"
    )
    if guard.only_challenger_failed:
        words = (
            f"in shadow it alone failed on {guard.only_challenger_failed:,} rows, the champion alone on "
            f"{guard.only_champion_failed:,}" + (f"; {words}" if units else "")
        )
    told = (baseline, guard.margin, rollout.promote_alpha)
    enough = bool(eprocess.enough(observed, *told, variance=guard.variance))
    if more is not None and not enough:
        more = max(more, eprocess.more_until_enough(observed, *told, share, variance=guard.variance))
    if guard.silent:
        words, more = f"{words}; {guard.silent}", None
    needed = math.log(1 / rollout.promote_alpha)
    return _Finding(
        evidence=Evidence(
            name=f"guard {guard.guard}",
            value=_e_value(log_worse),
            limit=_e_value(limit),
            detail={
                "challenger_rate": challenger,
                "champion_rate": champion,
                "difference": gap * (high - low),
                "margin": guard.margin * abs(high - low),
                "baseline": low + guard.baseline * (high - low),
                "challenger_units": units,
                "only_challenger_failed": guard.only_challenger_failed,
                "only_champion_failed": guard.only_champion_failed,
                "not_worse": _e_value(log_passes),
                "not_worse_limit": 1 / rollout.promote_alpha,
                "enough": enough,
            },
        ),
        log_worse=log_worse,
        passes=log_passes >= needed and enough and not guard.silent,
        words=words,
        more=more,
        hopeless=more is None,
        # Where both arms changed since the baseline was frozen, nothing may be shown any more: that alone is no harm.
        beyond=gap >= guard.margin or bool(guard.silent),
    )


def _won(guard: GuardEvidence, which: Literal["log_worse", "log_not_worse"]) -> list[float]:
    """What each bet has won in all epochs together; nothing yet: 0."""
    won = [found for each in guard.epochs if 0.0 < each.share < 1.0 and (found := getattr(each, which))]
    return [sum(of_one) for of_one in zip(*won, strict=True)] or [0.0]


def _in_shadow(guard: GuardEvidence) -> float:
    """Ln E of the failures in shadow, on the same rows: a bet on the same null, so that it multiplies with those after it.

    A challenger that fails is known before anybody has met it.
    """
    b, c = np.float64(guard.only_challenger_failed), np.float64(guard.only_champion_failed)
    return float(shadow.discordant_worse(np.asarray(b), np.asarray(c))) if b or c else 0.0


def _score(evidence: ReleaseEvidence, rollout: Canary, limit: float) -> _Finding | None:
    if evidence.shadow is None:
        return None
    pairs = evidence.shadow
    found = shadow.judge(
        pairs,
        margin=evidence.shadow_margin,
        alpha_worse=math.exp(-limit),
        alpha_not_worse=rollout.promote_alpha,
    )
    side = "worse" if found.mean > 0 else "better"
    words = f"paired loss {abs(found.mean):.4f} {side} over {pairs.pairs:,} labelled pairs"
    passes = evidence.shadow_margin is not None and found.log_not_worse >= math.log(1 / rollout.promote_alpha) - 1e-9
    return _Finding(
        evidence=Evidence(
            name="paired score",
            value=_e_value(found.log_worse),
            limit=_e_value(limit),
            detail={
                "mean_difference": found.mean,
                "margin": evidence.shadow_margin,
                "pairs": pairs.pairs,
                "only_challenger_wrong": pairs.only_challenger_wrong,
                "only_champion_wrong": pairs.only_champion_wrong,
                "not_worse": _e_value(found.log_not_worse),
                "not_worse_limit": 1 / rollout.promote_alpha,
                "method": found.method,
            },
        ),
        # A confidence sequence hands back the limit itself when its bound says so: rounding must not lose it.
        log_worse=found.log_worse + 1e-9,
        passes=passes,
        words=words,
        more=found.more,
        hopeless=pairs.pairs > 0 and found.more is None,
        beyond=pairs.pairs > 0 and found.more is None,
    )


def _sample_ratio(evidence: ReleaseEvidence) -> Evidence | None:
    """Alarm when the arms' sizes do not match the drawn share, for any guard's units."""
    for guard in evidence.guards:
        told = [each for each in guard.epochs if 0 < each.share < 1]
        if not told:
            continue
        log_e = float(
            eprocess.sample_ratio(
                [each.challenger_units for each in told],
                [each.champion_units for each in told],
                [each.share for each in told],
            )
        )
        if log_e >= math.log(1 / SAMPLE_RATIO_ALPHA):
            challenger = sum(each.challenger_units for each in told)
            both = challenger + sum(each.champion_units for each in told)
            expected = sum(each.share * (each.challenger_units + each.champion_units) for each in told)
            return Evidence(
                name="sample ratio",
                value=_e_value(log_e),
                limit=1 / SAMPLE_RATIO_ALPHA,
                detail={
                    "guard": guard.guard,
                    "words": (
                        f"the challenger has {challenger:,.0f} of {both:,.0f} requests where {expected:,.0f} were "
                        f"expected ({guard.guard}): assignments or answers are lost, so the counts cannot be trusted"
                    ),
                },
            )
    return None


def _requests(evidence: ReleaseEvidence, rollout: Canary, release: Release) -> int:
    """Challenger requests at the present share; units where the guards count units."""
    at_share = [
        sum(each.challenger_units for each in guard.epochs if math.isclose(each.share, release.share))
        for guard in evidence.guards
    ]
    if at_share:
        return int(max(at_share))
    # Without guards there is only the sum of all shares: count what the earlier shares had to reach as theirs.
    earlier = sum(share < release.share - 1e-9 for share in rollout.shares)
    return max(0, evidence.requests - earlier * rollout.minimum_requests)


def _rates(guard: GuardEvidence, observed: eprocess.Counts) -> tuple[float | None, float | None]:
    """Of challenger and champion, comparable where both were asked; None for who was not."""
    told = tuple(float(each) for each in eprocess.rates(observed))
    if not math.isnan(told[0]):
        return told[0], told[1]
    epochs = guard.epochs
    challenger = sum(each.challenger_events for each in epochs), sum(each.challenger_units for each in epochs)
    champion = sum(each.champion_events for each in epochs), sum(each.champion_units for each in epochs)
    return _share(*challenger), _share(*champion)


def _share(events: float, units: float) -> float | None:
    return events / units if units else None


def _percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.2%}"


def _number(mean: float | None) -> str:
    return "unknown" if mean is None else f"{mean:.4g}"


def _e_value(log_value: float) -> float:
    """Finite, and short enough to read."""
    return float(f"{math.exp(min(log_value, 700.0)):.6g}")
