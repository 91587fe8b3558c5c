"""What every ledger must do, whatever database is under it. Knows no database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread

from everloop.errors import NotFound, ReleaseConflict, ReleaseError
from everloop.records import (
    Alert,
    Batch,
    Candidate,
    Decision,
    Evidence,
    Experiment,
    ExperimentArm,
    Release,
    Signature,
    Silence,
    Snapshot,
    Verdict,
)
from everloop.store.ledger import (
    Ledger,
    alerts,
    batches,
    candidates,
    decisions,
    experiments,
    loops,
    releases,
    snapshots,
    versions,
    watermarks,
)
from everloop.testing.raised import raised

AT = datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
FIRST = Verdict(outcome="first", promote=True, because="the first")


def check_ledger(open_ledger: Callable[[], Ledger]) -> None:
    """Run every check. ``open_ledger`` opens the same ledger, empty at first, each time that it is called."""
    first, second = open_ledger(), open_ledger()
    try:
        _what_was_written_is_read_as_it_was(first, second)
        _a_transaction_that_raises_leaves_nothing(first, second)
        _the_same_twice_is_once(first)
        _versions_count_from_one(first)
        _a_release_changes_by_compare_and_swap(first, second)
        _a_release_is_known_by_its_time(first)
        _an_experiment_has_its_name_for_ever_and_ends_with_its_release(first, second)
        _an_alert_is_the_one_of_its_beginning_until_it_is_settled(first, second)
        _of_two_at_once_one_wins(first, second)
        _what_is_not_there_is_not_found(first)
    finally:
        first.close()
        second.close()


def batch(digest: str, *, refused: str | None = None) -> Batch:
    return Batch(loop="conform", digest=digest, path="a.parquet", at=AT, rows=3, refused=refused)


def snapshot(digest: str) -> Snapshot:
    return Snapshot(
        digest=digest, loop="conform", as_of=AT, raw_version=1, outcomes_version=2, train_from=AT, test_from=AT, to=AT,
        train_rows=1, test_rows=1,
    )  # fmt: skip


def candidate(digest: str) -> Candidate:
    return Candidate(
        digest=digest, loop="conform", snapshot="s", code="c", estimator="e", parameters={"rate": 0.1, "depth": None},
        seed=1, folder="f", signature=Signature(inputs=(), task="binary", classes=("ja", "nein, ünïcode")), score=0.1 + 0.2,
    )  # fmt: skip


def decision(action: str, at: datetime = AT, *, loop: str = "conform", version: int | None = None) -> Decision:
    evidence = (Evidence(name="auc", value=0.1 + 0.2, limit=None, detail={"rows": [1, 2]}),)
    return Decision(loop=loop, at=at, action=action, because="a reason", evidence=evidence, version=version)


def _what_was_written_is_read_as_it_was(first: Ledger, second: Ledger) -> None:
    with first.write() as connection:
        batches.add(connection, batch("b1"))
        snapshots.add(connection, snapshot("s1"))
        candidates.add(connection, candidate("c1"))
        decisions.add(connection, decision("noted"))
        loops.put(connection, "conform", b'{"a":1}', "d1", "folder", at=AT)
        watermarks.put(connection, "conform", "segments", {"a.seg": 2**53 + 1})
    with second.read() as connection:
        assert batches.of(connection, "conform") == (batch("b1"),)
        assert snapshots.get(connection, "s1") == snapshot("s1")
        assert candidates.of(connection, "conform") == (candidate("c1"),)
        assert decisions.of(connection, "conform") == (decision("noted"),)
        known = loops.get(connection, "conform")
        assert (known.spec, known.digest, known.folder, known.at) == (b'{"a":1}', "d1", "folder", AT)
        assert loops.names(connection) == ("conform",)
        assert watermarks.of(connection, "conform") == {"segments": {"a.seg": 2**53 + 1}}


def _a_transaction_that_raises_leaves_nothing(first: Ledger, second: Ledger) -> None:
    class Undone(Exception):
        pass

    try:
        with first.write() as connection:
            batches.add(connection, batch("undone"))
            watermarks.put(connection, "conform", "segments", {})
            raise Undone
    except Undone:
        pass
    with second.read() as connection:
        assert batches.known(connection, "conform") == {"b1"}
        assert watermarks.get(connection, "conform", "segments") != {}


def _the_same_twice_is_once(ledger: Ledger) -> None:
    with ledger.write() as connection:
        assert not batches.add(connection, batch("b1"))
        assert not snapshots.add(connection, snapshot("s1"))
        assert not candidates.add(connection, candidate("c1"))
        assert batches.add(connection, batch("b2", refused="too many bad rows"))
        assert batches.known(connection, "conform") == {"b1", "b2"}
        assert batches.known(connection, "conform", refused=False) == {"b1"}
        assert batches.add(connection, batch("b2")), "a batch that was refused may be tried again"
        assert not batches.add(connection, batch("b2", refused="once more"))
        loops.put(connection, "conform", b'{"a":1}', "d1", "folder", at=AT + timedelta(days=1))
        assert loops.get(connection, "conform").at == AT
        loops.put(connection, "conform", b'{"a":2}', "d2", "folder", at=AT + timedelta(days=1))
        assert loops.get(connection, "conform").at == AT + timedelta(days=1)
        watermarks.remove(connection, "conform", "segments")
        assert watermarks.get(connection, "conform", "segments", 7) == 7


def _versions_count_from_one(ledger: Ledger) -> None:
    def add(package: str, loop: str = "conform") -> int:
        with ledger.write() as connection:
            return versions.add(
                connection, loop=loop, package=package, snapshot="s1", created_at=AT, score=0.5, verdict=FIRST,
                trigger="asked for",
            ).number  # fmt: skip

    assert [add("p1"), add("p2"), add("p1", "other"), add("p1"), add("p3")] == [1, 2, 1, 1, 3]
    with ledger.read() as connection:
        assert [each.package for each in versions.of(connection, "conform")] == ["p1", "p2", "p3"]
        assert versions.get(connection, "conform", 2).verdict == FIRST
        found = versions.by_package(connection, "p1", loop="other")
        assert found is not None
        assert found.loop == "other"
        assert versions.by_package(connection, "p9") is None


def _a_release_changes_by_compare_and_swap(first: Ledger, second: Ledger) -> None:
    with first.read() as connection:
        assert releases.get(connection, "conform") == Release(loop="conform")
    wanted = Release(loop="conform", revision=1, stage="steady", champion=1, since=AT)
    with first.write() as connection:
        releases.change(connection, 0, wanted, decision("released", version=1))
    late = Release(loop="conform", revision=1, stage="steady", champion=2)

    def change_late() -> None:
        with second.write() as connection:
            releases.change(connection, 0, late, decision("released", version=2))

    raised(
        ReleaseConflict, change_late, "a change from a revision that is no longer in force must raise ReleaseConflict"
    )
    with second.read() as connection:
        assert releases.get(connection, "conform") == wanted
        kept = decisions.of(connection, "conform", newest=1)
        assert [(each.action, each.version, each.revision) for each in kept] == [("released", 1, 1)]
        assert decisions.of(connection, "conform", version=2) == ()


def _a_release_is_known_by_its_time(ledger: Ledger) -> None:
    day = timedelta(days=1)
    with ledger.write() as connection:
        canary = Release(
            loop="conform", revision=2, stage="canary", champion=1, challenger=2, share=0.1, since=AT + day
        )
        releases.change(connection, 1, canary, decision("canary", AT + day))
    with ledger.read() as connection:
        assert releases.at(connection, "conform", AT - timedelta(microseconds=1)) is None
        for time, stage in ((AT, "steady"), (AT + day - timedelta(microseconds=1), "steady"), (AT + day, "canary")):
            found = releases.at(connection, "conform", time)
            assert found is not None
            assert found.stage == stage
        assert [each.revision for each in releases.history(connection, "conform")] == [1, 2]
        since = decisions.of(connection, "conform", since=AT + day)
        assert [each.action for each in since] == ["canary"]


def _an_experiment_has_its_name_for_ever_and_ends_with_its_release(first: Ledger, second: Ledger) -> None:
    arms = (ExperimentArm(name="a", version=1, share=0.1 + 0.2), ExperimentArm(name="b", version=2, share=0.7))
    wanted = Experiment(loop="tried", name="price", arms=arms, salt="s", unit="käufer", started=AT)
    hour = timedelta(hours=1)

    def change(revision: int, experiment: str | None) -> None:
        release = Release(loop="tried", revision=revision, stage="steady", champion=1, experiment=experiment)
        with first.write() as connection:
            if experiment is not None:
                experiments.add(connection, wanted)
            releases.change(connection, revision - 1, release, decision("as told", AT + revision * hour, loop="tried"))

    change(1, "price")
    with second.read() as connection:
        assert experiments.of(connection, "tried") == (wanted,)
        assert releases.get(connection, "tried").experiment == "price"
    change(2, None)
    stopped = replace(wanted, stopped=AT + 2 * hour)
    with second.read() as connection:
        assert experiments.get(connection, "tried", "price") == stopped
        assert experiments.of(connection, "conform") == ()
    raised(ReleaseError, lambda: change(3, "price"), "the name of an experiment must not be used twice")
    with second.read() as connection:
        assert releases.get(connection, "tried").revision == 2, "what is refused changes nothing"
        error = raised(NotFound, lambda: experiments.get(connection, "tried", "colour"), "an unknown name is not found")
        assert "colour" in str(error)
        assert "price" in str(error)


def _an_alert_is_the_one_of_its_beginning_until_it_is_settled(first: Ledger, second: Ledger) -> None:
    hour = timedelta(hours=1)
    fires = Alert(
        loop="conform", fingerprint="a", rule="errors", level="service", severity="critical", began=AT, seen=AT,
        because="4 %", value=0.1 + 0.2,
    )  # fmt: skip
    later = replace(fires, began=AT + hour, seen=AT + hour)
    over = replace(fires, seen=AT + hour, ended=AT + hour, settled=True)
    quiet = Silence(loop="conform", id="s", rule=None, since=AT, until=AT + hour)
    with first.write() as connection:
        for each in (fires, later, over):
            alerts.put(connection, each)
        alerts.silence(connection, quiet)
    with second.read() as connection:
        assert alerts.of(connection, "conform") == (over, later)
        assert alerts.of(connection, "conform", newest=1) == (later,)
        assert alerts.unsettled(connection, "conform") == (later,)
        assert alerts.unsettled(connection, "tried") == ()
        assert alerts.silenced(connection, "conform", now=AT) == (quiet,)
        assert alerts.silenced(connection, "conform", now=AT + hour) == ()
    with second.write() as connection:
        assert alerts.unsilence(connection, "conform", "s") == quiet
    with first.write() as connection:
        raised(NotFound, lambda: alerts.unsilence(connection, "conform", "s"), "a silence ends once")


def _of_two_at_once_one_wins(first: Ledger, second: Ledger, rounds: int = 20) -> None:
    barrier = Barrier(2)
    won: list[tuple[int, int]] = []
    failed: list[BaseException] = []

    def race(who: int, ledger: Ledger) -> None:
        for revision in range(rounds):
            barrier.wait(60)
            release = Release(loop="race", revision=revision + 1, stage="steady", champion=who)
            try:
                with ledger.write() as connection:
                    releases.change(connection, revision, release, decision("promoted", loop="race", version=who))
                won.append((revision, who))
            except ReleaseConflict:
                pass
            except BaseException as error:
                failed.append(error)
                barrier.abort()
                return
            barrier.wait(60)

    threads = [Thread(target=race, args=(who, ledger)) for who, ledger in ((1, first), (2, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert sorted(revision for revision, _ in won) == list(range(rounds)), "exactly one wins each round"
    with first.read() as connection:
        assert [each.champion for each in releases.history(connection, "race")] == [who for _, who in sorted(won)]
        assert [each.version for each in decisions.of(connection, "race")] == [who for _, who in sorted(won)]


def _what_is_not_there_is_not_found(ledger: Ledger) -> None:
    with ledger.read() as connection:
        for ask in (
            lambda: versions.get(connection, "conform", 99),
            lambda: snapshots.get(connection, "nothing"),
            lambda: candidates.get(connection, "nothing"),
            lambda: loops.get(connection, "nothing"),
        ):
            error = raised(NotFound, ask, "what is not there must raise NotFound")
            assert "99" in str(error) or "nothing" in str(error), "an error names what was asked for"
