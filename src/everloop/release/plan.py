"""How a challenger becomes champion, step by step: shadow → shares in turn → champion, or back. Pure; knows no counts.

The rule for each step, and why it keeps the promises of the judge:

- **Rollback** at any stage as soon as the judge shows harm; it wins a tie.
- **Shadow** ends when the score is shown not worse, or when half of `longest` has passed: then with "no sign of harm".
- **A share before the last** is left once `minimum_requests` challenger requests came at that share and nothing leans to
  harm or all guards are shown not worse, or when its even part of the remaining time has passed. Moving on claims nothing:
  the evidence of all epochs multiplies, and when to move is decided by the past alone, so neither level pays for it.
- **The last share** is left for champion when every guard is shown not worse, `minimum_requests` came at that share and
  `minimum` has passed there; or at the end of `longest` as `then` says, recorded as "no sign of harm", never "proved".
- Where `then` is "wait", the end of `longest` promotes only what `minimum_requests` have met at the last share without a
  sign of harm. Whoever has met fewer, leans to harm or lies beyond a margin goes on waiting, and that is said (`waits`):
  time alone is no evidence.
- **Nobody waits for ever**: a release whose time is over, which enough have met and which is not shown good all the same,
  gives way to the next trigger (`gives_way`). What nobody could show in its time is worth less than a fit on newer rows;
  one that too few have met keeps its place, for the next one would begin to count anew.
- Where `then` is "rollback", nothing goes on unshown: the end of a stage's time is the end of the release.
- **Pause** keeps the share and takes no decision; its time counts for none of the limits. Commands work all the same.
- **The champion of before** stays in shadow for `former` after a promotion, so that what it gained can be seen; it decides
  nothing, waits for nobody and ends with its time or as soon as anything else begins.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from everloop.errors import ReleaseError
from everloop.records import Evidence, Release
from everloop.release.judge import Judgement
from everloop.spec.rollout import Canary, Direct

Start = Literal["shadow", "direct"]
Action = Literal[
    "released", "shadow", "canary", "promoted", "rolled back", "paused", "resumed", "comparison ended",
    "experiment started", "experiment stopped", "routed", "unrouted", "weights moved",
]  # fmt: skip

SHADOW_PART = 0.5
"""The part of `longest` that shadow may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new release, one revision on, with what was done and why."""

    release: Release
    action: Action
    because: str
    evidence: tuple[Evidence, ...] = ()


def begin(
    release: Release, challenger: int, rollout: Canary | Direct, *, now: datetime, to: Start = "shadow"
) -> Change:
    """Start a challenger. Where nothing serves yet, or with ``to="direct"``, it is champion at once.

    Raises ReleaseError when another release is under way or the challenger already serves.
    """
    if release.challenger is not None:
        raise ReleaseError(
            f"Version {release.challenger} of {release.loop} is still being released ({_where(release)}); "
            f"promote it or roll it back before version {challenger} begins."
        )
    if (what := divided(release)) is not None:
        raise ReleaseError(
            f"{what[0].upper()}{what[1:]} of {release.loop}; stop that before version {challenger} begins."
        )
    if challenger == release.champion:
        raise ReleaseError(f"Version {challenger} is already the champion of {release.loop}; there is nothing to do.")
    if release.champion is None:
        return _crown(release, challenger, now, "the first version: nothing serves yet", (), action="released")
    if to == "direct" or isinstance(rollout, Direct):
        return _crown(release, challenger, now, "released at once, without shadow or canary", (), action="released")
    started = replace(alone(release), challenger=challenger, started=now, paused_seconds=0.0)
    if rollout.shadow:
        return Change(
            release=_moved(started, now, stage="shadow", share=0.0),
            action="shadow",
            because=f"version {challenger} answers all traffic in shadow beside version {release.champion}",
        )
    return Change(
        release=_moved(started, now, stage="canary", share=rollout.shares[0]),
        action="canary",
        because=f"version {challenger} takes {rollout.shares[0]:.0%} of the traffic; the declaration has no shadow",
    )


def advance(release: Release, rollout: Canary | Direct, judgement: Judgement, *, now: datetime) -> Change | None:
    """The next step that the judgement and the time allow; None while there is none (or while paused)."""
    if release.paused or release.challenger is None or isinstance(rollout, Direct):
        return None
    if judgement.rollback:
        return _back(release, now, judgement.because, judgement.evidence)
    proven = _proven(release, rollout, judgement, now)
    if _elapsed(release, now) >= rollout.longest and not proven:
        because = _ended(rollout, judgement, "ends")
        if judgement.frozen or rollout.then == "rollback":
            return _back(release, now, because, judgement.evidence)
        if rollout.then == "promote" or _unharmed(release, rollout, judgement):
            return _crown_challenger(release, rollout, now, because, judgement.evidence)
    if judgement.frozen:
        return None
    if proven:
        return _raise(release, rollout, now, judgement.because, judgement.evidence)
    if release.stage == "canary" and _is_last(release, rollout):
        return None
    shown = (
        judgement.promote or not judgement.hold
    )  # what is shown not worse may lean: in shadow long ago, for instance
    if release.stage == "canary" and judgement.requests >= rollout.minimum_requests and shown:
        because = f"no sign of harm in {judgement.requests:,} challenger requests at {release.share:.0%}"
        return _raise(release, rollout, now, judgement.because if judgement.hold else because, judgement.evidence)
    if _elapsed(release, now) < _deadline(release, rollout):
        return None
    if rollout.then == "rollback":
        # A share may still wait for its requests; a score that shadow could not show will not be shown by a share.
        if release.stage == "canary":
            return None
        return _back(release, now, _ended(rollout, judgement, "shadow's time ends"), judgement.evidence)
    if judgement.hold:
        return None
    what = "shadow ends" if release.stage == "shadow" else "this share's time ends"
    return _raise(release, rollout, now, _ended(rollout, judgement, what), judgement.evidence)


def waits(release: Release, rollout: Canary | Direct, judgement: Judgement, *, now: datetime) -> str | None:
    """What is to be said of a release whose time is over and of which too little is seen; None while it need not wait."""
    if release.paused or release.challenger is None or isinstance(rollout, Direct) or rollout.then != "wait":
        return None
    if _elapsed(release, now) < rollout.longest or judgement.frozen or judgement.rollback or judgement.promote:
        return None
    goes_on = not judgement.hold and not (release.stage == "canary" and _is_last(release, rollout))
    if goes_on or _unharmed(release, rollout, judgement):
        return None
    least = f" ({rollout.minimum_requests:,} are the least)" if release.stage == "canary" else ""
    return (
        f"version {release.challenger} waits {_where(release)}, version {release.champion} stays champion: after "
        f"{_days(rollout.longest)} and {judgement.requests:,} answers{least} too little is seen to promote it; "
        f"{judgement.because}"
    )


def gives_way(
    release: Release, rollout: Canary | Direct, judgement: Judgement, *, now: datetime, to: str
) -> Change | None:
    """The end of a release that waits beyond its time, because something asks for a newer version; None: it goes on.

    ``to``: what asks, as words.
    """
    if release.paused or release.challenger is None or isinstance(rollout, Direct):
        return None
    if _elapsed(release, now) < rollout.longest or judgement.promote:
        return None
    if release.stage == "canary" and judgement.requests < rollout.minimum_requests:
        return None
    because = (
        f"after {_days(rollout.longest)} it is not shown good ({judgement.because}), and a newer version is due: {to}"
    )
    return _back(release, now, because, judgement.evidence)


def divided(release: Release) -> str | None:
    """What divides the traffic besides a release, as words; None when nothing does. See `release.divide`."""
    if release.experiment is not None:
        return f"experiment {release.experiment} divides the traffic"
    return "a route divides the traffic" if release.route is not None else None


def relieve(release: Release, now: datetime) -> Change | None:
    """Let the champion of before go once its time is over; None while it is not, or while paused."""
    if release.former is None or release.paused or (release.former_until is not None and now < release.former_until):
        return None
    return Change(
        release=replace(alone(release), revision=release.revision + 1),
        action="comparison ended",
        because=f"version {release.former} has answered beside version {release.champion} for as long as was declared",
    )


def alone(release: Release) -> Release:
    """Without the champion of before in shadow: something else begins."""
    return replace(release, former=None, former_until=None)


def promote(release: Release, version: int | None, now: datetime, rollout: Canary | Direct | None = None) -> Change:
    """Make a version champion by command: the challenger, or any version named. Raises ReleaseError if neither.

    ``rollout`` says whether the champion of before stays in shadow; None: it does not.
    """
    chosen = release.challenger if version is None else version
    if chosen is None:
        raise ReleaseError(f"{release.loop} has no challenger; name the version to promote.")
    if chosen == release.champion:
        raise ReleaseError(f"Version {chosen} is already the champion of {release.loop}; there is nothing to do.")
    because = "promoted by command"
    if release.challenger not in (None, chosen):
        because += f"; the release of version {release.challenger} ends with it"
    because += _ending(release)
    return _crown(release, chosen, now, because, (), stays=_stays(rollout))


def rollback(release: Release, now: datetime) -> Change:
    """By command: drop the challenger; without one, the champion before this one serves again.

    A second rollback does not go forward again: after it there is no previous champion. Raises ReleaseError then.
    """
    if release.challenger is not None:
        return _back(release, now, "rolled back by command", ())
    if release.previous is None:
        raise ReleaseError(f"{release.loop} has no champion before version {release.champion}; name one to promote.")
    restored = replace(_crown(release, release.previous, now, "", ()).release, previous=None)
    return Change(
        release=restored,
        action="rolled back",
        because=f"rolled back by command from version {release.champion} to version {release.previous}"
        + _ending(release),
    )


def _ending(release: Release) -> str:
    if release.experiment is not None:
        return f"; experiment {release.experiment} ends with it"
    return "; the route ends with it" if release.route is not None else ""


def pause(release: Release, now: datetime) -> Change:
    """Keep everything as it is: no decision, the share stays. Raises ReleaseError when already paused."""
    if release.paused:
        raise ReleaseError(f"{release.loop} is already paused; resume it to let it decide again.")
    return Change(
        release=replace(release, revision=release.revision + 1, paused=True, paused_at=now),
        action="paused",
        because="paused by command",
    )


def resume(release: Release, now: datetime) -> Change:
    """Decide again. The time of the pause counts for no limit. Raises ReleaseError when not paused."""
    if not release.paused:
        raise ReleaseError(f"{release.loop} is not paused; there is nothing to resume.")
    waited = (now - release.paused_at) if release.paused_at is not None else timedelta(0)
    return Change(
        release=replace(
            release,
            revision=release.revision + 1,
            paused=False,
            paused_at=None,
            paused_seconds=release.paused_seconds + waited.total_seconds(),
        ),
        action="resumed",
        because=f"resumed by command after {_days(waited)}",
    )


def _proven(release: Release, rollout: Canary, judgement: Judgement, now: datetime) -> bool:
    """Whether the stage ends because of what is shown: the score in shadow, the guards at the last share."""
    if not judgement.promote or judgement.frozen:
        return False
    if release.stage == "shadow":
        return True
    stayed = release.since is not None and now - release.since >= rollout.minimum
    return _is_last(release, rollout) and stayed and judgement.requests >= rollout.minimum_requests


def _unharmed(release: Release, rollout: Canary, judgement: Judgement) -> bool:
    """Whether enough requests were met at the last share, and none of it speaks of harm."""
    met = release.stage == "canary" and _is_last(release, rollout) and judgement.requests >= rollout.minimum_requests
    return met and not judgement.hold and not judgement.beyond


def _is_last(release: Release, rollout: Canary) -> bool:
    return release.share >= rollout.shares[-1] - 1e-9


def _ended(rollout: Canary, judgement: Judgement, what: str) -> str:
    """What is recorded when time decides: the state of the evidence, never a proof."""
    if judgement.frozen:
        found = judgement.because
    elif judgement.hold or judgement.beyond:
        found = f"harm is not shown, nor its absence ({judgement.because})"
    else:
        found = f"no sign of harm in {judgement.requests:,} answers, not proved ({judgement.because})"
    return f"{what} after its part of {_days(rollout.longest)}: {found}"


def _deadline(release: Release, rollout: Canary) -> timedelta:
    """How long after its start a release may be where it is: half for shadow, the rest evenly over the shares."""
    before = SHADOW_PART if rollout.shadow else 0.0
    if release.stage == "shadow":
        return rollout.longest * SHADOW_PART
    done = sum(share <= release.share + 1e-9 for share in rollout.shares)
    return rollout.longest * (before + (1 - before) * done / len(rollout.shares))


def _elapsed(release: Release, now: datetime) -> timedelta:
    if release.started is None:
        return timedelta(0)
    return now - release.started - timedelta(seconds=release.paused_seconds)


def _raise(release: Release, rollout: Canary, now: datetime, because: str, evidence: tuple[Evidence, ...]) -> Change:
    higher = [share for share in rollout.shares if share > release.share + 1e-9]
    if not higher:
        return _crown_challenger(release, rollout, now, because, evidence)
    return Change(
        release=_moved(release, now, stage="canary", share=higher[0]),
        action="canary",
        because=f"version {release.challenger} goes to {higher[0]:.0%} of the traffic: {because}",
        evidence=evidence,
    )


def _crown_challenger(
    release: Release, rollout: Canary, now: datetime, because: str, evidence: tuple[Evidence, ...]
) -> Change:
    assert release.challenger is not None
    return _crown(release, release.challenger, now, because, evidence, stays=_stays(rollout))


def _stays(rollout: Canary | Direct | None) -> timedelta:
    """Who has no challenger in shadow wants no champion there either."""
    return rollout.former if isinstance(rollout, Canary) and rollout.shadow else timedelta(0)


def _crown(
    release: Release,
    version: int,
    now: datetime,
    because: str,
    evidence: tuple[Evidence, ...],
    *,
    action: Action = "promoted",
    stays: timedelta = timedelta(0),
) -> Change:
    former = release.champion if stays > timedelta(0) else None
    crowned = replace(
        release,
        champion=version,
        challenger=None,
        previous=release.champion,
        former=former,
        former_until=None if former is None else now + stays,
        started=None,
        paused_seconds=0.0,
        experiment=None,
        route=None,
    )
    return Change(
        release=_moved(crowned, now, stage="steady", share=0.0),
        action=action,
        because=f"version {version} is champion: {because}",
        evidence=evidence,
    )


def _back(release: Release, now: datetime, because: str, evidence: tuple[Evidence, ...]) -> Change:
    without = replace(release, challenger=None, started=None, paused_seconds=0.0)
    return Change(
        release=_moved(without, now, stage="steady", share=0.0),
        action="rolled back",
        because=f"version {release.challenger} is turned back, version {release.champion} stays: {because}",
        evidence=evidence,
    )


def _moved(release: Release, now: datetime, *, stage: Literal["shadow", "canary", "steady"], share: float) -> Release:
    """A new epoch: share or participants changed, so counts start a new entry (and are kept beside the old)."""
    return replace(release, revision=release.revision + 1, epoch=release.epoch + 1, stage=stage, share=share, since=now)


def _where(release: Release) -> str:
    return "in shadow" if release.stage == "shadow" else f"at {release.share:.0%}"


def _days(duration: timedelta) -> str:
    days = duration / timedelta(days=1)
    return f"{days:g} days" if days >= 1 else f"{duration / timedelta(hours=1):.3g} hours"
