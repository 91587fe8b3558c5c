"""What a controller knows, as Prometheus reads it: the machine, each loop's data and score, its alerts. Judges nothing.

The server has its own page: whoever scrapes both sees at once which of the two is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from everloop.durable import runs
from everloop.loop import deliver
from everloop.loop.installation import Installation
from everloop.records import Release
from everloop.serve.families import Families, Labels
from everloop.store.ledger import releases, versions
from everloop.watch.alerts import Reading
from everloop.watch.look import Seen
from everloop.watch.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauged:
    """One loop as its last look left it."""

    loop: str
    metric: str
    looked: datetime
    release: Release
    versions: int
    last_turn: datetime | None
    turn_failed: bool
    """The newest that has ended."""
    deliveries: dict[str, int]
    """Status → how many messages."""
    readings: tuple[Reading, ...]
    firing: frozenset[tuple[str, str]]
    """Rule and severity of what fires."""
    seen: Seen | None


def gauged(
    installation: Installation,
    seen: Seen | None,
    readings: tuple[Reading, ...],
    firing: Iterable[tuple[str, str]],
    now: datetime,
) -> Gauged:
    """Read what the ledger adds to a look."""
    name = installation.name
    with installation.ledger.read() as connection:
        release = releases.get(connection, name)
        turns = runs.of(connection, name, name="turn", newest=5)
        sent = runs.of(connection, name, name=deliver.NAME, newest=1_000)
        made = versions.of(connection, name)
    ended = [each for each in turns if each.status in ("done", "failed")]
    statuses: dict[str, int] = {}
    for each in sent:
        statuses[each.status] = statuses.get(each.status, 0) + 1
    return Gauged(
        loop=name,
        metric=installation.resolved.score.name,
        looked=now,
        release=release,
        versions=len(made),
        last_turn=ended[-1].updated if ended else None,
        turn_failed=bool(ended) and ended[-1].status == "failed",
        deliveries=statuses,
        readings=readings,
        firing=frozenset(firing),
        seen=seen,
    )


def page(machine: Machine | None, loops: Sequence[Gauged]) -> bytes:
    """The text of the controller's ``/metrics``: bytes and seconds, ``_total`` for what only rises."""
    exposition = Families()
    if machine is not None:
        _add_machine(exposition, machine)
    for each in loops:
        _add_loop(exposition, each)
    return exposition.text()


def _add_machine(page: Families, machine: Machine) -> None:
    gauges: list[tuple[str, str, float]] = [
        ("memory_used_bytes", "Memory in use that cannot be dropped.", machine.memory_used),
        ("memory_limit_bytes", "Memory there is: of the container, where it has a limit.", machine.memory_limit),
        ("cores", "Processor cores that may be used.", machine.cores),
        ("load", "Runnable threads, over a minute.", machine.load),
        ("disk_used_bytes", "Used of the disk that holds the home.", machine.disk_used),
        (
            "disk_size_bytes",
            "Size of the disk that holds the home, less what is kept for the system.",
            machine.disk_size,
        ),
    ]
    for name, words, value in gauges:
        page.gauge(f"everloop_machine_{name}", words, [({}, value)])
    counters: list[tuple[str, str, float]] = [
        ("processor_seconds_total", "Processor time used by all.", machine.processor_seconds),
        ("throttled_seconds_total", "Time the container was held back by its limit.", machine.throttled_seconds),
        ("disk_read_bytes_total", "Read from disks.", machine.disk_read_total),
        ("disk_written_bytes_total", "Written to disks.", machine.disk_written_total),
        ("network_received_bytes_total", "Received.", machine.network_received_total),
        ("network_sent_bytes_total", "Sent.", machine.network_sent_total),
    ]
    for name, words, value in counters:
        page.count(f"everloop_machine_{name}", words, [({}, value)])
    for process in machine.processes:
        labels: Labels = {"role": process.role, "pid": process.pid}
        page.count(
            "everloop_process_processor_seconds_total", "Processor time of a process.",
            [(labels, process.processor_seconds)],
        )  # fmt: skip
        page.gauge("everloop_process_memory_bytes", "Resident memory.", [(labels, process.memory_bytes)])
        page.gauge("everloop_process_open_files", "Open files and sockets.", [(labels, process.open_files)])
        page.gauge("everloop_process_threads", "Threads.", [(labels, process.threads)])
    for gpu in machine.gpus:
        labels = {"gpu": gpu.index, "name": gpu.name}
        told: list[tuple[str, str, float | None]] = [
            ("busy_ratio", "Share of the last moment in which something ran on the GPU.", gpu.busy),
            ("memory_used_bytes", "Memory used of the GPU.", gpu.memory_used),
            ("memory_size_bytes", "Memory of the GPU.", gpu.memory_size),
            ("temperature_celsius", "Of the chip.", gpu.celsius),
            ("power_watts", "Drawn now.", gpu.watts),
        ]
        for name, words, figure in told:
            if figure is not None:
                page.gauge(f"everloop_gpu_{name}", words, [(labels, figure)])


def _add_loop(page: Families, each: Gauged) -> None:
    name: Labels = {"model_name": each.loop}
    release, seen = each.release, each.seen
    gauges: list[tuple[str, str, float | None]] = [
        ("everloop_last_look_timestamp_seconds", "When the controller last looked.", each.looked.timestamp()),
        ("everloop_champion_version", "The version that is released; 0 for none.", release.champion or 0),
        ("everloop_challenger_version", "The version that is tried; 0 for none.", release.challenger or 0),
        ("everloop_challenger_share", "Its share of live traffic: 0 in shadow.", release.share),
        (
            "everloop_release_since_timestamp_seconds",
            "Since when the release stands as it is.",
            release.since.timestamp() if release.since else None,
        ),
        (
            "everloop_last_turn_timestamp_seconds",
            "When the last turn ended.",
            each.last_turn.timestamp() if each.last_turn else None,
        ),
        ("everloop_label_coverage_ratio", "Share of due answers with a label.", seen.coverage if seen else None),
        ("everloop_due_rows", "Answers whose label is due.", seen.due if seen else None),
    ]
    for metric, words, value in gauges:
        if value is not None:
            page.gauge(metric, words, [(name, value)])
    if seen is not None and seen.score is not None:
        scored: Labels = {**name, "metric": each.metric}
        page.gauge("everloop_score", "The champion's score on matured labels.", [(scored, seen.score.value)])
        page.gauge("everloop_score_standard_error", "Its noise.", [(scored, seen.score.standard_error)])
        page.gauge("everloop_score_rows", "The labels behind it.", [(scored, seen.score.rows)])
    if seen is not None:
        page.gauge(
            "everloop_drift_size",
            "How far a column of requests is from the training rows, in the last full window.",
            [
                ({**name, "column": column, "measure": measure}, size)
                for (column, measure), size in sorted(seen.drift_sizes.items())
            ],
        )
    page.count("everloop_versions_total", "Versions made.", [(name, each.versions)])
    page.gauge("everloop_last_turn_failed", "1 while the newest turn has failed.", [(name, each.turn_failed)])
    page.gauge(
        "everloop_alert_firing",
        "1 while a rule of the declaration fires, judged by the controller.",
        [
            (
                {**name, "rule": one.rule, "severity": one.severity, "level": one.level},
                (one.rule, one.severity) in each.firing,
            )
            for one in each.readings
        ],
    )
    page.gauge(
        "everloop_alert_value",
        "What a rule of the declaration last saw.",
        [
            ({**name, "rule": one.rule, "severity": one.severity}, one.value)
            for one in each.readings
            if one.value is not None
        ],
    )
    page.gauge(
        "everloop_alert_messages",
        "The newest messages by how their delivery stands.",
        [({**name, "status": status}, count) for status, count in sorted(each.deliveries.items())],
    )
