"""Shadow → shares → champion, or back: every step, every way out, in event time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import ReleaseError
from everloop.records import Evidence, PairedCounts, Release, ReleaseEvidence, decode, encode
from everloop.release import plan
from everloop.release.judge import Judgement, judge
from everloop.spec.rollout import Canary, Direct

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ROLLOUT = Canary()
STRICT = Canary(then="rollback")
HURRIED = Canary(then="promote")
SERVING = Release(loop="made", revision=4, stage="steady", champion=1, epoch=3, previous=None)
PROOF = (Evidence(name="guard errors", value=1.0),)


def judged(
    *,
    rollback: bool = False,
    promote: bool = False,
    hold: bool = False,
    frozen: bool = False,
    requests: int = 0,
    beyond: bool = False,
) -> Judgement:
    return Judgement(
        rollback=rollback,
        promote=promote,
        because="as seen",
        evidence=PROOF,
        hold=hold,
        beyond=beyond,
        frozen=frozen,
        requests=requests,
    )


def begun(rollout: Canary = ROLLOUT) -> Release:
    return plan.begin(SERVING, 2, rollout, now=START).release


def at(share: float, *, since: timedelta = timedelta(0)) -> Release:
    return Release(
        loop="made",
        revision=7,
        stage="canary",
        champion=1,
        challenger=2,
        share=share,
        epoch=5,
        started=START,
        since=START + since,
    )


def test_the_first_version_serves_at_once() -> None:
    change = plan.begin(Release(loop="made"), 1, ROLLOUT, now=START)
    assert (change.action, change.release.champion, change.release.stage) == ("released", 1, "steady")
    assert (change.release.revision, change.release.epoch) == (1, 1)


def test_direct_makes_champion_at_once_and_remembers_who_served_before() -> None:
    for change in (
        plan.begin(SERVING, 2, Direct(), now=START),
        plan.begin(SERVING, 2, ROLLOUT, now=START, to="direct"),
    ):
        assert (change.action, change.release.champion, change.release.previous) == ("released", 2, 1)


def test_a_release_goes_from_shadow_over_the_shares_to_champion() -> None:
    release, now = begun(), START
    assert (release.stage, release.share, release.challenger) == ("shadow", 0.0, 2)
    seen = []
    for judgement in (judged(promote=True), judged(requests=200), judged(promote=True, requests=200)):
        now += DAY
        change = plan.advance(release, ROLLOUT, judgement, now=now)
        assert change is not None
        assert change.release.revision == release.revision + 1
        assert change.release.epoch == release.epoch + 1
        assert change.evidence == PROOF
        assert "as seen" in change.because or "no sign of harm in 200" in change.because
        release = change.release
        seen.append((change.action, release.stage, release.share))
    assert seen == [("canary", "canary", 0.1), ("canary", "canary", 0.5), ("promoted", "steady", 0.0)]
    assert (release.champion, release.previous, release.challenger) == (2, 1, None)


def test_without_shadow_it_begins_at_the_first_share() -> None:
    assert begun(Canary(shadow=False)).share == 0.1


def test_harm_turns_it_back_from_every_stage_even_when_something_else_is_proved() -> None:
    for release in (begun(), at(0.1), at(0.5)):
        change = plan.advance(
            release, ROLLOUT, judged(rollback=True, promote=True, requests=10**6), now=START + 30 * DAY
        )
        assert change is not None
        assert (change.action, change.release.champion, change.release.challenger) == ("rolled back", 1, None)
        assert change.because == "version 2 is turned back, version 1 stays: as seen"


def test_an_early_share_waits_for_its_requests_and_does_not_grow_while_leaning_to_harm() -> None:
    hour = START + timedelta(hours=1)
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=199), now=hour) is None
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=5_000, hold=True), now=hour) is None
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=5_000, frozen=True, hold=True), now=hour) is None
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=200), now=hour) is not None


def test_what_leaned_once_and_is_shown_not_worse_since_does_not_wait_for_ever_at_an_early_share() -> None:
    hour = START + timedelta(hours=1)
    change = plan.advance(at(0.1), ROLLOUT, judged(requests=5_000, promote=True, hold=True), now=hour)
    assert change is not None
    assert change.release.share == 0.5
    assert change.because.endswith("as seen")
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=199, promote=True, hold=True), now=hour) is None


def test_the_last_share_asks_for_proof_requests_and_time() -> None:
    later = START + DAY
    assert plan.advance(at(0.5), ROLLOUT, judged(promote=True, requests=199), now=later) is None
    assert plan.advance(at(0.5), ROLLOUT, judged(promote=True, requests=200), now=later - timedelta(seconds=1)) is None
    assert plan.advance(at(0.5), ROLLOUT, judged(requests=10**6), now=later) is None
    assert plan.advance(at(0.5), ROLLOUT, judged(promote=True, frozen=True, requests=200), now=later) is None
    change = plan.advance(at(0.5), ROLLOUT, judged(promote=True, requests=200), now=later)
    assert change is not None
    assert change.action == "promoted"


def test_when_the_time_is_over_nobody_is_promoted_whom_too_few_have_met() -> None:
    over = START + ROLLOUT.longest
    for judgement in (
        judged(),
        judged(requests=199),
        judged(requests=900, hold=True),
        judged(requests=900, beyond=True),
    ):
        for now in (over, over + 300 * DAY):
            assert plan.advance(at(0.5), ROLLOUT, judgement, now=now) is None
            said = plan.waits(at(0.5), ROLLOUT, judgement, now=now)
            assert said is not None
            assert said.startswith(
                "version 2 waits at 50%, version 1 stays champion: after 14 days and "
                f"{judgement.requests} answers (200 are the least) too little is seen"
            )
        assert plan.waits(at(0.5), ROLLOUT, judgement, now=over - DAY) is None
        assert plan.waits(at(0.5), HURRIED, judgement, now=over) is None
    # A share before the last goes on by time: there it is met sooner. A score that leans to harm stays in shadow.
    higher = plan.advance(at(0.1), ROLLOUT, judged(requests=3), now=over)
    assert higher is not None
    assert higher.release.share == 0.5
    assert plan.advance(begun(), ROLLOUT, judged(hold=True), now=over) is None
    assert plan.waits(begun(), ROLLOUT, judged(hold=True), now=over) is not None
    # As soon as enough have met it, it need not wait.
    change = plan.advance(at(0.5), ROLLOUT, judged(requests=200), now=over + 30 * DAY)
    assert change is not None
    assert change.action == "promoted"
    assert "no sign of harm in 200 answers, not proved" in change.because
    assert plan.waits(at(0.5), ROLLOUT, judged(requests=200), now=over) is None


def test_who_waits_beyond_its_time_gives_way_to_what_asks_for_a_newer_version_and_says_why() -> None:
    over = START + ROLLOUT.longest
    for judgement in (judged(requests=200, hold=True), judged(requests=200, beyond=True)):
        change = plan.gives_way(at(0.5), ROLLOUT, judgement, now=over, to="drift of distance")
        assert change is not None
        assert (change.action, change.release.champion, change.release.challenger) == ("rolled back", 1, None)
        assert "after 14 days it is not shown good" in change.because
        assert change.because.endswith("a newer version is due: drift of distance")
        assert plan.gives_way(at(0.5), ROLLOUT, judgement, now=over - DAY, to="drift") is None
        assert (
            plan.gives_way(replace(at(0.5), paused=True, paused_at=over), ROLLOUT, judgement, now=over, to="d") is None
        )
    assert plan.gives_way(at(0.5), ROLLOUT, judged(requests=199, hold=True), now=over, to="drift") is None
    assert plan.gives_way(at(0.5), ROLLOUT, judged(requests=200, promote=True), now=over, to="drift") is None


def test_when_the_time_is_over_it_ends_as_declared_and_never_claims_a_proof() -> None:
    over = START + HURRIED.longest
    for release in (at(0.1), at(0.5)):
        assert plan.advance(release, HURRIED, judged(requests=5, hold=release.share == 0.1), now=over - DAY * 5) is None
        change = plan.advance(release, HURRIED, judged(requests=5), now=over)
        assert change is not None
        assert change.action == "promoted"
        assert "no sign of harm in 5 answers, not proved" in change.because
        change = plan.advance(release, STRICT, judged(requests=5), now=over)
        assert change is not None
        assert (change.action, change.release.champion) == ("rolled back", 1)


def test_what_leans_to_harm_is_not_called_harmless_at_the_end() -> None:
    change = plan.advance(at(0.5), HURRIED, judged(hold=True, requests=900), now=START + HURRIED.longest)
    assert change is not None
    assert "no sign of harm" not in change.because
    assert "harm is not shown, nor its absence" in change.because


def test_counts_that_cannot_be_trusted_never_promote_not_even_by_time() -> None:
    for release in (begun(), at(0.5)):
        change = plan.advance(release, ROLLOUT, judged(frozen=True, hold=True), now=START + ROLLOUT.longest)
        assert change is not None
        assert change.action == "rolled back"


def test_shadow_takes_at_most_half_of_the_time() -> None:
    half = START + ROLLOUT.longest / 2
    assert plan.advance(begun(), ROLLOUT, judged(), now=half - timedelta(seconds=1)) is None
    change = plan.advance(begun(), ROLLOUT, judged(requests=31), now=half)
    assert change is not None
    assert (change.release.stage, change.release.share) == ("canary", 0.1)
    assert "no sign of harm in 31 answers, not proved" in change.because
    strict = plan.advance(begun(STRICT), STRICT, judged(), now=half)
    assert strict is not None
    assert strict.action == "rolled back"


def test_low_traffic_does_not_keep_a_share_for_ever() -> None:
    """The time after shadow is shared out evenly: three quarters of it in, the first share ends."""
    assert plan.advance(at(0.1), ROLLOUT, judged(requests=3), now=START + DAY * 10) is None
    change = plan.advance(at(0.1), ROLLOUT, judged(requests=3), now=START + DAY * 10.5)
    assert change is not None
    assert change.release.share == 0.5
    assert plan.advance(at(0.1), STRICT, judged(requests=3), now=START + DAY * 10.5) is None


def test_a_pause_keeps_the_share_and_costs_no_time() -> None:
    release = at(0.5)
    paused = plan.pause(release, START + DAY).release
    assert (paused.share, paused.challenger, paused.paused, paused.epoch) == (0.5, 2, True, release.epoch)
    assert plan.advance(paused, ROLLOUT, judged(rollback=True), now=START + 2 * DAY) is None
    resumed = plan.resume(paused, START + 21 * DAY)
    assert "after 20 days" in resumed.because
    assert plan.advance(resumed.release, HURRIED, judged(), now=START + 30 * DAY) is None
    assert plan.advance(resumed.release, HURRIED, judged(), now=START + 34 * DAY) is not None
    with pytest.raises(ReleaseError, match="already paused"):
        plan.pause(paused, START)
    with pytest.raises(ReleaseError, match="not paused"):
        plan.resume(release, START)


def test_a_person_may_promote_the_challenger_or_any_version() -> None:
    assert plan.promote(at(0.1), None, START).release.champion == 2
    change = plan.promote(at(0.1), 9, START)
    assert (change.release.champion, change.release.challenger, change.release.previous) == (9, None, 1)
    assert "the release of version 2 ends with it" in change.because
    with pytest.raises(ReleaseError, match="no challenger"):
        plan.promote(SERVING, None, START)
    with pytest.raises(ReleaseError, match="already the champion"):
        plan.promote(SERVING, 1, START)


def test_a_person_rolls_back_the_challenger_or_the_champion_but_never_forward_again() -> None:
    dropped = plan.rollback(at(0.1), START).release
    assert (dropped.champion, dropped.challenger) == (1, None)
    promoted = plan.promote(at(0.5), None, START).release
    restored = plan.rollback(promoted, START)
    assert (restored.action, restored.release.champion, restored.release.previous) == ("rolled back", 1, None)
    assert "from version 2 to version 1" in restored.because
    with pytest.raises(ReleaseError, match="name one to promote"):
        plan.rollback(restored.release, START)


def test_one_release_at_a_time() -> None:
    with pytest.raises(ReleaseError, match="still being released"):
        plan.begin(at(0.1), 3, ROLLOUT, now=START)
    with pytest.raises(ReleaseError, match="already the champion"):
        plan.begin(SERVING, 1, ROLLOUT, now=START)


judgements = st.builds(
    judged,
    rollback=st.booleans(),
    promote=st.booleans(),
    hold=st.booleans(),
    frozen=st.booleans(),
    requests=st.integers(0, 1_000),
)


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(judgements, st.floats(0, 6)), min_size=1, max_size=30),
    shares=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found))),
    then=st.sampled_from(["promote", "rollback"]),
    shadow=st.booleans(),
)
def test_whatever_is_judged_the_machine_stays_sound_and_ends_in_time(
    steps: list[tuple[Judgement, float]], shares: tuple[float, ...], then: str, shadow: bool
) -> None:
    rollout = Canary(shares=shares, shadow=shadow, then="promote" if then == "promote" else "rollback")
    release, now = begun(rollout), START
    for judgement, days in steps:
        now += DAY * days
        change = plan.advance(release, rollout, judgement, now=now)
        if change is None:
            assert not judgement.rollback
            assert now - START < rollout.longest
            continue
        after = change.release
        assert after.revision == release.revision + 1
        assert after.epoch == release.epoch + 1
        assert change.because
        assert decode(encode(after), Release) == after
        if after.challenger is None:
            assert after.champion == (1 if change.action == "rolled back" else 2)
            assert (after.stage, after.share) == ("steady", 0.0)
            assert not (judgement.rollback and after.champion == 2)
            return
        assert after.stage == "canary"
        assert after.share in shares
        assert after.share > release.share
        assert not judgement.frozen
        release = after


def test_an_estimate_beyond_its_margin_is_never_called_no_sign_of_harm() -> None:
    pairs = PairedCounts(pairs=85, total=6.0, squares=20.0, bounded=True)
    rollout = Canary(longest=timedelta(days=8))
    release = begun(rollout)
    later = START + timedelta(days=4)
    found = judge(rollout, ReleaseEvidence(shadow=pairs, shadow_margin=0.02), release=release, now=later)
    assert not found.rollback
    assert found.beyond
    change = plan.advance(release, rollout, found, now=later)
    assert change is not None
    assert "no sign of harm" not in change.because
    assert "harm is not shown, nor its absence" in change.because


# The champion of before


def test_after_a_promotion_the_champion_of_before_stays_in_shadow_for_its_time() -> None:
    last = at(0.5)
    change = plan.advance(last, ROLLOUT, judged(promote=True, requests=1_000), now=START + 2 * DAY)
    assert change is not None
    crowned = change.release
    assert (crowned.champion, crowned.former, crowned.former_until) == (2, 1, START + 9 * DAY)
    assert plan.relieve(crowned, START + 9 * DAY - timedelta(seconds=1)) is None
    ended = plan.relieve(crowned, START + 9 * DAY)
    assert ended is not None
    assert (ended.action, ended.release.former, ended.release.champion) == ("comparison ended", None, 2)
    assert ended.release.epoch == crowned.epoch, "nobody's answers are counted otherwise"
    assert plan.relieve(plan.pause(crowned, START + 3 * DAY).release, START + 30 * DAY) is None


def test_whatever_begins_next_ends_the_comparison_and_waits_for_nothing() -> None:
    crowned = plan.promote(begun(), 2, START, ROLLOUT).release
    assert crowned.former == 1
    assert plan.begin(crowned, 3, ROLLOUT, now=START + DAY).release.former is None
    assert plan.rollback(crowned, START + DAY).release.former is None
    assert plan.promote(crowned, 3, START + DAY, ROLLOUT).release.former == 2
    assert plan.promote(crowned, 3, START + DAY).release.former is None


@pytest.mark.parametrize("rollout", [Canary(former=timedelta(0)), Canary(shadow=False), Direct()])
def test_who_wants_no_shadow_has_none_afterwards(rollout: Canary | Direct) -> None:
    assert plan.promote(begun(), 2, START, rollout).release.former is None


def test_the_first_version_has_nobody_beside_it() -> None:
    assert plan.begin(Release(loop="made"), 1, ROLLOUT, now=START).release.former is None


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=-1)])
def test_a_clock_that_goes_back_decides_nothing(jump: timedelta) -> None:
    for release in (begun(), at(0.1), at(0.5)):
        assert plan.advance(release, ROLLOUT, judged(), now=START + jump) is None
        assert plan.advance(release, STRICT, judged(), now=START + jump) is None
    crowned = plan.promote(begun(), 2, START, ROLLOUT).release
    assert plan.relieve(crowned, START + jump) is None


def test_a_clock_that_jumps_ahead_ends_a_release_as_declared_and_says_what_was_seen() -> None:
    waiting = plan.advance(begun(), ROLLOUT, judged(requests=3), now=START + 900 * DAY)
    assert waiting is not None
    assert (waiting.action, waiting.release.share) == ("canary", 0.1)
    change = plan.advance(begun(), HURRIED, judged(requests=3), now=START + 900 * DAY)
    assert change is not None
    assert change.action == "promoted"
    assert "no sign of harm in 3 answers, not proved" in change.because
    strict = plan.advance(begun(STRICT), STRICT, judged(requests=3), now=START + 900 * DAY)
    assert strict is not None
    assert strict.action == "rolled back"
