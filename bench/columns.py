"""Pictures and mails through the whole loop, in the order in which they came: what retraining is worth, and at what p99.

Run: python -m bench.columns [--part images|text] [--seconds N] [--quick] [--json]. Real server, real fits, simulated clock; the sets of
../shared/data must be there. ``--seconds`` ends each replay after about so long, with the days that it came to; what is
compared is compared on the same rows. A whole run is kept in results/images.json and results/text.json; --quick replays the
first days of each and keeps nothing. The published figures beside ours come with the data: HOG and colours, and hashed
TF-IDF, each with a logistic regression, retrained every window (single runs, windows of 250 and of 1,000).
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench.rows import Row, parser, show

from everloop.loop.account import Period
from everloop.loop.replay import History, Plan, Replay, read_history
from everloop.loop.trial import Predictable
from everloop.spec.load import load
from everloop.store import packages
from everloop.store.ledger import versions

EXAMPLES = Path(__file__).parents[1] / "examples"
RESULTS = Path(__file__).parent / "results"
QUICK_DAYS = 3
ALONE = 500
DOMAINS = ("photo", "art_painting", "cartoon")
HOG = {"never": 0.3006, "retrained": 0.4628}
TFIDF = {"never": 0.8637, "retrained": 0.9773}
LIBRARIES = ("everloop", "torch", "onnxruntime", "onnxruntime-extensions", "pillow", "scikit-learn", "polars")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One replay: rows with ``right``, and what the account says."""

    rows: pl.DataFrame
    account: dict[str, Any]
    alone: np.ndarray
    """Milliseconds of one row alone through the last package, its signature's way from raw columns to the answer."""

    def on(self, other: "Ran") -> "Ran":
        """Only rows that the other has, too."""
        return dataclasses.replace(self, rows=self.rows.join(other.rows.select("_key"), on="_key", how="semi"))

    @property
    def accuracy(self) -> float:
        return float(self.rows["right"].mean())  # type: ignore[arg-type]

    @property
    def fits(self) -> int:
        return int(self.account["actions"].get("turn started", 0))

    def p(self, share: float) -> float:
        return float(np.quantile(self.alone, share))


def history(file: str, name: str) -> History:
    loaded = load(EXAMPLES / f"{file}.py")
    (loop,) = (each for each in loaded.loops if each.name == name)
    return read_history(loop, loaded.source, loaded.path.parent)


def replayed(found: History, *, days: int | None, seconds: float | None = None) -> Ran:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        running = Replay(found, Plan(home=Path(folder), seed=0))
        if days is not None:
            running.end = min(running.end, running.start + days * Plan(home=Path()).look)
        begin = time.monotonic()

        def enough(period: Period) -> None:
            if seconds is not None and time.monotonic() - begin > seconds:
                running.end = period.end

        running.listen(enough, lambda: None)
        try:
            account = running.run().summary()
            parts = [
                rows.with_columns(
                    pl.Series("right", [_same(a.decision, t) for a, t in zip(answers, rows[found.label], strict=True)])
                )
                for rows, answers in running.answered
                if len(rows)
            ]
            alone = one_by_one(running)
        finally:
            running.close()
    return Ran(rows=pl.concat(parts), account=account, alone=alone)


def one_by_one(running: Replay) -> np.ndarray:
    """The newest rows, each asked by itself, one thread, after a few that are not counted."""
    home = running.installation.home
    with running.installation.ledger.read() as connection:
        last = versions.of(connection, running.installation.name)[-1]
    tried = Predictable(packages.open_package(home.packages / last.package, packages.trusted_keys(home.keys)))
    asked = [each.name for each in (*tried.signature.inputs, *tried.signature.tensors)]
    rows = running.answered[-1][0].select(asked).to_dicts()[:ALONE]
    for each in rows[:10]:
        tried.predict(each)
    took = []
    for each in rows:
        begin = time.perf_counter()
        tried.predict(each)
        took.append(1000 * (time.perf_counter() - begin))
    return np.array(took)


def _same(decision: Any, truth: Any) -> bool:
    return decision is not None and int(decision) == int(truth)


def images(*, quick: bool, seconds: float | None) -> tuple[list[Row], dict[str, Any]]:
    days = QUICK_DAYS if quick else None
    whole = replayed(history("pacs", "pacs-never"), days=days, seconds=seconds)
    ours = replayed(history("pacs", "pacs"), days=days, seconds=seconds)
    never = whole.on(ours)
    rows = [
        *_pair("pacs, all", ours, never, None if quick else HOG["retrained"], "HOG, every window"),
        Row(
            what="pacs, never: accuracy", ours=never.accuracy, unit="share", rounds=len(never.rows),
            peer=None if quick else HOG["never"], peer_name=None if quick else "HOG, never", greater_is_better=True,
        ),
        *_domains(ours, never),
        *_cost("pacs", ours),
    ]  # fmt: skip
    return rows, {"pacs": kept(ours, "domain"), "never": kept(never, "domain")}


def _domains(ours: Ran, never: Ran) -> Iterator[Row]:
    for domain in DOMAINS:
        mine, theirs = (each.rows.filter(pl.col("domain") == domain)["right"] for each in (ours, never))
        if not len(mine):
            continue
        yield Row(
            what=f"pacs, {domain}: accuracy", ours=float(mine.mean()), unit="share", rounds=len(mine),  # type: ignore[arg-type]
            peer=float(theirs.mean()), peer_name="never", greater_is_better=True,  # type: ignore[arg-type]
        )  # fmt: skip


def text(*, quick: bool, seconds: float | None) -> tuple[list[Row], dict[str, Any]]:
    days = QUICK_DAYS if quick else None
    names = ("never", "tfidf", "transformer")
    found = {name: replayed(history("enron", f"enron-{name}"), days=days, seconds=seconds) for name in names}
    rows: list[Row] = []
    for name in ("tfidf", "transformer"):
        rows += _pair(
            f"enron, {name}", found[name], found["never"], None if quick else TFIDF["retrained"], "TF-IDF, every window"
        )
        rows += _cost(f"enron, {name}", found[name])
    return rows, {name: kept(each, None) for name, each in found.items()}


def _pair(what: str, ours: Ran, never: Ran, published: float | None, named: str) -> Iterator[Row]:
    yield Row(
        what=f"{what}: accuracy", ours=ours.accuracy, unit="share", rounds=len(ours.rows), peer=never.accuracy,
        peer_name="never, same run", target=never.accuracy, greater_is_better=True,
    )  # fmt: skip
    if published is not None:
        yield Row(
            what=f"{what}: accuracy beside the published", ours=ours.accuracy, unit="share", rounds=len(ours.rows),
            peer=published, peer_name=named, greater_is_better=True,
        )  # fmt: skip


def _cost(what: str, ours: Ran) -> Iterator[Row]:
    yield Row(what=f"{what}: fits", ours=ours.fits, unit="", rounds=1)
    for share in (0.5, 0.99):
        yield Row(
            what=f"{what}: p{round(100 * share)}, one row alone",
            ours=ours.p(share),
            unit="ms",
            rounds=len(ours.alone),
        )
    yield Row(what=f"{what}: failed requests", ours=float(ours.account["failed"]), unit="", target=0.0, rounds=1)


def kept(ran: Ran, by: str | None) -> dict[str, Any]:
    """What is published of a replay: shares by day, never a word of a mail."""
    daily = ran.rows.with_columns(day=pl.col("_event_time").dt.date().cast(pl.String))
    shown: dict[str, Any] = {
        "rows": len(ran.rows), "to": ran.account["to"], "accuracy": ran.accuracy, "fits": ran.fits,
        "accuracy_by_day": daily.group_by("day", maintain_order=True).agg(pl.col("right").mean()).rows(),
        "actions": ran.account["actions"],
    }  # fmt: skip
    if by is not None:
        shown[f"accuracy_by_{by}"] = ran.rows.group_by(by, maintain_order=True).agg(pl.col("right").mean()).rows()
    return shown


PARTS = {"images": images, "text": text}


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
        **{name: version(name) for name in LIBRARIES},
    }  # fmt: skip


def main() -> None:
    made: argparse.ArgumentParser = parser(__doc__ or "")
    made.add_argument("--part", choices=tuple(PARTS), help="one of them only")
    made.add_argument("--seconds", type=float, help="end each replay after about so long")
    options = made.parse_args()
    found: list[Row] = []
    for name, measure in PARTS.items():
        if (options.part or name) != name:
            continue
        rows, replays = measure(quick=options.quick, seconds=options.seconds)
        found += rows
        if not options.quick:
            whole = {"machine": machine(), "rows": [row.to_json() for row in rows], "replays": replays}
            (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
