"""Pictures and mails through the whole loop, in the order in which they came: what retraining is worth, and at what p99.

Run: python -m bench.columns [--part images|text] [--seconds N] [--quick] [--json]. Real server, real fits, simulated clock;
the sets of ../shared/data must be there. ``--seconds`` ends each replay after about so long, with the days that it came to;
what is compared is compared on the same rows. A whole run is kept in results/columns.json, a part beside the other; --quick
replays the first days of each and keeps nothing.

Beside the loop stand: the same loop without a second fit; a baseline of histograms fitted anew in each window, on the same
pictures in the same run; and the figures that came with the data (single runs, windows of 250 and of 1,000 rows). At the
end the last version is asked over a real socket, a row a request: how long that takes, and how far the answer is from what
the network itself says in the framework that trained it.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from bench.columns import hog
from bench.columns.replays import EXAMPLES, Ran, history, home, kept, replayed
from bench.columns.served import ROUNDS, Answered, asked
from bench.rows import Row, parser, show

from everloop.loop.installation import Installation

RESULTS = Path(__file__).parents[1] / "results" / "columns.json"
QUICK_DAYS = 3
DOMAINS = ("photo", "art_painting", "cartoon")
HOG = {"never": 0.3006, "retrained": 0.4628}
TFIDF = {"never": 0.8637, "retrained": 0.9773}
LIBRARIES = ("everloop", "torch", "onnxruntime", "onnxruntime-extensions", "pillow", "scikit-learn", "polars")
PARITY = 1e-4
MAILS = ("never", "tfidf", "transformer")
"""The loops over mails; the first is what the others stand beside."""
Found = tuple[list[Row], dict[str, Any]]


def images(*, quick: bool, seconds: float | None) -> Found:
    days = QUICK_DAYS if quick else None
    served: list[Answered] = []
    found = history("pacs", "pacs")
    with home() as folder:
        ours = replayed(
            found, folder, days=days, seconds=seconds,
            then=lambda installation, rows: served.append(asked(installation, rows, module("pacs").Net(7))),
        )  # fmt: skip
    with home() as folder:
        never = replayed(history("pacs", "pacs-never"), folder, days=days, seconds=seconds).on(ours)
    begin = len(found.frame.filter(pl.col("_event_time") < ours.rows["_event_time"].min()))
    end = begin + len(ours.rows)
    peer = {
        name: hog.right(found.frame, begin=begin, end=end, retrained=name == "retrained")
        for name in ("retrained", "never")
    }
    rows = [
        *_pair("pacs, all", ours, never, None if quick else HOG["retrained"], "HOG as published, every 250"),
        Row(
            what="pacs, all: accuracy beside HOG on the same pictures", ours=ours.accuracy, unit="share",
            rounds=len(ours.rows), peer=_mean(peer["retrained"]), peer_name="HOG, every 250", greater_is_better=True,
            target=_mean(peer["retrained"]),
        ),
        *_domains(ours, never, peer["retrained"]),
        *_noticed(ours),
        *_cost("pacs", ours, served[0]),
    ]  # fmt: skip
    shown = {
        name: each.group_by("domain", maintain_order=True).agg(pl.col("right").mean()).rows()
        for name, each in peer.items()
    }
    return rows, {"pacs": kept(ours, "domain"), "never": kept(never, "domain"), "HOG": shown}


def module(name: str) -> Any:
    """An example as a module: its networks are rebuilt from it."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # its classes are read from its file by this name
    spec.loader.exec_module(found)
    return found


def _mean(rows: pl.DataFrame) -> float:
    return float(rows["right"].mean())  # type: ignore[arg-type]


def _domains(ours: Ran, never: Ran, peer: pl.DataFrame) -> Iterator[Row]:
    for domain in DOMAINS:
        mine, theirs, histograms = (each.filter(pl.col("domain") == domain) for each in (ours.rows, never.rows, peer))
        if not len(mine):
            continue
        for name, other in (("never", theirs), ("HOG, every 250", histograms)):
            yield Row(
                what=f"pacs, {domain}: accuracy", ours=_mean(mine), unit="share", rounds=len(mine),
                peer=_mean(other), peer_name=name, greater_is_better=True,
            )  # fmt: skip


def _noticed(ours: Ran) -> Iterator[Row]:
    """How many pictures of a new domain were answered until the loop began to retrain, and until who learned from it served."""
    for domain in DOMAINS[1:]:
        new = ours.rows.filter(pl.col("domain") == domain)
        if not len(new):
            continue
        first = new["_event_time"].min()
        for action, words in (("turn started", "until a turn began"), ("released", "until a new version served")):
            at = [
                each["at"]
                for each in ours.releases()
                if each["action"] in (action, "promoted" if action == "released" else action)
            ]
            later = [each for each in pl.Series(at).str.to_datetime(time_zone="UTC") if each > first]
            if later:
                count = len(new.filter(pl.col("_event_time") < later[0]))
                yield Row(what=f"pacs, {domain}: pictures {words}", ours=float(count), unit="", rounds=1)


def text(*, quick: bool, seconds: float | None) -> Found:
    days = QUICK_DAYS if quick else None
    served: dict[str, Answered] = {}
    found: dict[str, Ran] = {}
    for name in MAILS:
        network = module("enron").Reader(2) if name == "transformer" else None
        with home() as folder:
            found[name] = replayed(
                history("enron", f"enron-{name}"), folder, days=days, seconds=seconds,
                then=partial(_asking, served, name, network),
            )  # fmt: skip
    rows: list[Row] = []
    for name in MAILS[1:]:
        rows += _pair(
            f"enron, {name}", found[name], found["never"], None if quick else TFIDF["retrained"],
            "TF-IDF as published, every 1,000",
        )  # fmt: skip
        rows += _cost(f"enron, {name}", found[name], served[name])
    return rows, {name: kept(each, None) for name, each in found.items()}


def _asking(
    served: dict[str, Answered], name: str, network: Any, installation: Installation, rows: pl.DataFrame
) -> None:
    served[name] = asked(installation, rows, network)


def _pair(what: str, ours: Ran, never: Ran, published: float | None, named: str) -> Iterator[Row]:
    never, ours = never.on(ours), ours.on(never)
    yield Row(
        what=f"{what}: accuracy", ours=ours.accuracy, unit="share", rounds=len(ours.rows), peer=never.accuracy,
        peer_name="never, same run", target=never.accuracy, greater_is_better=True,
    )  # fmt: skip
    if published is not None:
        yield Row(
            what=f"{what}: accuracy beside the published", ours=ours.accuracy, unit="share", rounds=len(ours.rows),
            peer=published, peer_name=named, greater_is_better=True,
        )  # fmt: skip


def _cost(what: str, ours: Ran, served: Answered) -> Iterator[Row]:
    yield Row(what=f"{what}: turns", ours=ours.fits, unit="", rounds=1)
    for share in (0.5, 0.99):
        yield Row(
            what=f"{what}: p{round(100 * share)} over a socket, a row a request", ours=served.p(share), unit="ms",
            rounds=ROUNDS, target=20.0 if share > 0.5 else None,
        )  # fmt: skip
    if served.difference is not None and served.flipped is not None:
        yield Row(
            what=f"{what}: largest difference from the network itself", ours=served.difference, unit="probability",
            target=PARITY, rounds=served.rows,
        )  # fmt: skip
        yield Row(
            what=f"{what}: classes decided otherwise than by the network", ours=float(served.flipped), unit="",
            target=0.0, rounds=served.rows,
        )  # fmt: skip
    yield Row(what=f"{what}: refused at first, as too late", ours=float(served.refused), unit="", rounds=served.rows)
    yield Row(what=f"{what}: failed requests", ours=float(ours.account["failed"]), unit="", target=0.0, rounds=1)


PARTS = {"images": images, "text": text}


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
        **{name: version(name) for name in LIBRARIES},
    }  # fmt: skip


def keep(name: str, rows: list[Row], replays: dict[str, Any]) -> None:
    """The part in its place among the others."""
    written = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    parts = {part: written.get("parts", {}).get(part) for part in PARTS}
    parts[name] = {"rows": [row.to_json() for row in rows], "replays": replays}
    whole = {
        "machine": machine(),
        "rows": [row for part in parts.values() if part for row in part["rows"]],
        "parts": {part: each for part, each in parts.items() if each},
    }
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")


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
            keep(name, rows, replays)
    show(found, as_json=options.json)


if __name__ == "__main__":
    main()
