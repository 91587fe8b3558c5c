"""One replay of a set in the order in which its rows came: what was answered rightly, and by whom.

Knows nothing of pictures or mails.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from everloop.loop.account import Period
from everloop.loop.installation import Installation
from everloop.loop.replay import History, Plan, Replay, read_history
from everloop.spec.load import load

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One replay: rows with ``right``, and what the account says."""

    rows: pl.DataFrame
    account: dict[str, Any]

    def on(self, other: "Ran") -> "Ran":
        """Only rows that the other has, too."""
        return dataclasses.replace(self, rows=self.rows.join(other.rows.select("_key"), on="_key", how="semi"))

    @property
    def accuracy(self) -> float:
        return float(self.rows["right"].mean())  # type: ignore[arg-type]

    @property
    def fits(self) -> int:
        return int(self.account["actions"].get("turn started", 0))

    def releases(self) -> list[dict[str, Any]]:
        """Decisions that say what retraining did, oldest first."""
        told = ("turn started", "released", "promoted", "rejected", "turn failed")
        return [each for each in self.account["decisions"] if each["action"] in told]


def history(file: str, name: str) -> History:
    """The rows that the loop ``name`` of an example is declared over."""
    loaded = load(EXAMPLES / f"{file}.py")
    (loop,) = (each for each in loaded.loops if each.name == name)
    return read_history(loop, loaded.source, loaded.path.parent)


@contextmanager
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        yield Path(folder)


def replayed(
    found: History,
    folder: Path,
    *,
    days: int | None,
    seconds: float | None = None,
    then: Callable[[Installation, pl.DataFrame], None] | None = None,
) -> Ran:
    """``then``: asked with what the replay left, before it is closed, and the newest rows."""
    running = Replay(found, Plan(home=folder, seed=0))
    if days is not None:
        running.end = min(running.end, running.start + days * Plan(home=folder).look)
    begin = time.monotonic()

    def told(period: Period) -> None:
        score = "" if period.score is None else f"{period.score:.3f}"
        print(
            f"{found.loop.name} {period.end:%Y-%m-%d}: {score} by version {period.champion} "
            f"({time.monotonic() - begin:.0f} s)",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        if seconds is not None and time.monotonic() - begin > seconds:
            running.end = period.end

    running.listen(told, lambda: None)
    try:
        account = running.run().summary()
        parts = [
            rows.with_columns(
                pl.Series("right", [_same(a.decision, t) for a, t in zip(answers, rows[found.label], strict=True)])
            )
            for rows, answers in running.answered
            if len(rows)
        ]
        if then is not None:
            then(running.installation, pl.concat([rows for rows, _ in running.answered[-3:] if len(rows)]))
    finally:
        running.close()
    return Ran(rows=pl.concat(parts), account=account)


def _same(decision: Any, truth: Any) -> bool:
    return decision is not None and int(decision) == int(truth)


def kept(ran: Ran, by: str | None) -> dict[str, Any]:
    """What is published of a replay: shares by day, and what was decided; never a word of a mail."""
    daily = ran.rows.with_columns(day=pl.col("_event_time").dt.date().cast(pl.String))
    shown: dict[str, Any] = {
        "rows": len(ran.rows), "to": ran.account["to"], "accuracy": ran.accuracy, "fits": ran.fits,
        "accuracy_by_day": daily.group_by("day", maintain_order=True).agg(pl.col("right").mean()).rows(),
        "decisions": [{name: each[name] for name in ("at", "action", "version", "because")} for each in ran.releases()],
    }  # fmt: skip
    if by is not None:
        shown[f"accuracy_by_{by}"] = ran.rows.group_by(by, maintain_order=True).agg(pl.col("right").mean()).rows()
    return shown
