"""Two controllers race to promote: exactly one wins each round, and only its reason is kept."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from everloop.records import Decision, Release
from everloop.store.ledger import Ledger, decisions, releases

ROUNDS = 200

CONTROLLER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from everloop.errors import ReleaseConflict
from everloop.records import Decision
from everloop.release import plan
from everloop.store.ledger import Ledger, releases

who = sys.argv[2]
ledger = Ledger.open(Path(sys.argv[1]))
for line in sys.stdin:
    now = datetime.now(UTC)
    with ledger.read() as connection:
        seen = releases.get(connection, "flights")
    # Each has decided on what it has seen; now both act on it.
    change = plan.promote(seen, int(line), now=now)
    print("ready", flush=True)
    sys.stdin.readline()
    decision = Decision(loop="flights", at=now, action=change.action, because=who, version=change.release.champion)
    try:
        with ledger.write() as connection:
            releases.change(connection, seen.revision, change.release, decision)
        print("won", flush=True)
    except ReleaseConflict:
        print("lost", flush=True)
ledger.close()
"""


def test_of_two_controllers_that_promote_exactly_one_wins_each_round(tmp_path: Path) -> None:
    place = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(place)
    first = Release(loop="flights", revision=1, stage="steady", champion=1)
    with ledger.write() as connection:
        began = Decision(loop="flights", at=datetime.now(UTC), action="released", because="the first", version=1)
        releases.change(connection, 0, first, began)
    controllers = {
        who: subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CONTROLLER, str(place), who],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for who in ("ada", "bob")
    }

    def tell(who: str, line: str) -> None:
        pipe = controllers[who].stdin
        assert pipe is not None
        pipe.write(line + "\n")

    def hear(who: str) -> str:
        pipe = controllers[who].stdout
        assert pipe is not None
        return pipe.readline().strip()

    winners: list[str] = []
    for number in range(ROUNDS):
        order = ("ada", "bob") if number % 2 else ("bob", "ada")  # Neither is always told first.
        for who in order:
            tell(who, str(2 + number))
        assert [hear(who) for who in order] == ["ready", "ready"]
        for who in order:
            tell(who, "now")
        answers = {who: hear(who) for who in order}
        assert sorted(answers.values()) == ["lost", "won"], f"round {number}: {answers}"
        winners += [who for who, answer in answers.items() if answer == "won"]
    for process in controllers.values():
        process.communicate()
        assert process.returncode == 0

    with ledger.read() as connection:
        history = releases.history(connection, "flights")
        reasons = decisions.of(connection, "flights")
    ledger.close()
    assert [each.revision for each in history] == list(range(1, ROUNDS + 2))
    assert [each.champion for each in history] == list(range(1, ROUNDS + 2))
    assert [each.because for each in reasons] == ["the first", *winners]
    assert [each.revision for each in reasons] == list(range(1, ROUNDS + 2))
    assert set(winners) == {"ada", "bob"}, "a race that one always wins is no race"
