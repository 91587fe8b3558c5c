"""Everything the server counts, as metric families. Knows where the counts are, not how they come about."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import onnxruntime

from everloop import __version__
from everloop.serve import usage
from everloop.serve.families import Families, Labels
from everloop.serve.live import Meter
from everloop.serve.metrics import ROWS, SECONDS
from everloop.serve.service import Service


class Connected(Protocol):
    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        ...


def families(
    services: Iterable[Service], refused: dict[tuple[int, str], int], connections: Iterable[Connected]
) -> Families:
    """Seconds, bytes and rows as base units, ``_total`` for what only rises."""
    page = Families()
    build = usage.build(__version__, onnxruntime.__version__)
    page.gauge("everloop_build_info", "What the server is made of.", [(build, 1)], "max")
    page.gauge("everloop_processes", "Processes that share the port.", [({}, 1)])
    open_ones = list(connections)
    page.gauge("everloop_connections", "Open connections.", [({}, len(open_ones))])
    in_flight = sum(each.in_flight for each in open_ones)
    page.gauge("everloop_in_flight_requests", "Requests that wait for their answer.", [({}, in_flight)])
    page.count(
        "everloop_refused_total",
        "Requests that were not answered with success, by status and reason.",
        [({"code": status, "reason": reason}, count) for (status, reason), count in sorted(refused.items())],
    )
    for service in services:
        _add(page, service)
    usage.add(page)
    return page


def _add(page: Families, service: Service) -> None:
    name: Labels = {"model_name": service.name}
    predictor, follower = service.predictor, service.follower
    meters = [
        ({**name, "model_version": version, "variant": role}, meter)
        for (version, role), meter in list(predictor.meters.items())
    ]
    _add_seconds(page, meters)
    page.histogram(
        "everloop_batch_rows",
        "Rows answered together.",
        ROWS,
        [(name, predictor.batch_rows.counts, predictor.batch_rows.total)],
    )
    page.count("everloop_predictions_total", "Rows answered.", [(labels, meter.rows) for labels, meter in meters])
    page.count(
        "everloop_prediction_failures_total",
        "Rows on which the model failed.",
        [(labels, meter.failed) for labels, meter in meters],
    )
    log, outcomes = service.log.writer, service.outcome_log.writer
    counters: list[tuple[str, str, float]] = [
        ("everloop_log_rows_total", "Rows written to the prediction log.", log.written_rows),
        ("everloop_log_lost_rows_total", "Rows that the prediction log lost: the disk took no more.", log.lost_rows),
        ("everloop_outcomes_total", "Outcomes on disk.", service.outcomes_taken),
        ("everloop_outcomes_refused_total", "Outcomes that the disk did not take.", service.outcomes_refused),
        ("everloop_shadow_skipped_rows_total", "Rows that the shadow had no time for.", predictor.shadow_skipped),
        ("everloop_release_switches_total", "Releases that were switched to.", follower.switches),
    ]
    sketcher = service.sketcher
    if sketcher is not None:
        counters += [
            ("everloop_sketched_rows_total", "Rows whose sketches are on disk, where none are logged.", sketcher.rows),
            ("everloop_sketch_lost_rows_total", "Rows that no sketch holds or will.", sketcher.lost_rows),
        ]
    for metric, words, value in counters:
        page.count(metric, words, [(name, value)])
    page.gauge("everloop_waiting_rows", "Rows that wait to be run.", [(name, predictor.batcher.waiting)])
    seconds = predictor.batcher.waiting_seconds
    page.gauge("everloop_waiting_seconds", "When they will have run, as predicted.", [(name, seconds)], "max")
    page.gauge("everloop_release_revision", "The revision that is served.", [(name, follower.revision)], "min")
    trouble = bool(log.trouble or outcomes.trouble or (sketcher is not None and sketcher.trouble))
    page.gauge("everloop_log_trouble", "1 while the disk takes no log or no outcomes.", [(name, trouble)], "max")
    page.gauge("everloop_model_bytes", "Memory that its models take.", [(name, follower.models.bytes_of(service.name))])
    loaded = predictor.live is not None
    page.gauge("everloop_model_loaded", "1 while it is in memory, of each process.", [(name, loaded)])
    _add_cache(page, name, service)
    page.count(
        "everloop_package_refused_total",
        "Packages that were not loaded.",
        [({**name, "reason": reason}, count) for reason, count in follower.refusals.items()],
    )
    if predictor.live is not None:
        live = predictor.live
        arms = [("champion", live.champion), ("challenger", live.challenger)]
        arms += live.way.named.items() if live.way is not None else ()
        page.gauge(
            "everloop_live_version",
            "The versions that are live.",
            [({**name, "variant": variant}, arm.version) for variant, arm in arms if arm is not None],
            "max",
        )


def _add_seconds(page: Families, meters: Sequence[tuple[Labels, Meter]]) -> None:
    asked = [
        (labels, meter)
        for labels, meter in meters
        if labels["variant"] in ("champion", "challenger") or any(meter.requests.counts)
    ]
    page.histogram(
        "everloop_request_seconds",
        "From the whole request read to its answer written.",
        SECONDS,
        [(labels, meter.requests.counts, meter.requests.total) for labels, meter in asked],
    )
    page.histogram(
        "everloop_queue_seconds",
        "From the whole request read to the beginning of its batch.",
        SECONDS,
        [(labels, meter.queue.counts, meter.queue.total) for labels, meter in asked],
    )
    page.histogram(
        "everloop_compute_seconds",
        "One run of the graph, as processor time.",
        SECONDS,
        [(labels, meter.compute.counts, meter.compute.total) for labels, meter in meters],
    )


def _add_cache(page: Families, name: Labels, service: Service) -> None:
    cache = service.follower.cache
    if cache is None:
        return
    page.count("everloop_cache_hits_total", "Rows answered without running the model.", [(name, cache.hits)])
    page.count("everloop_cache_misses_total", "Rows that the cache did not know.", [(name, cache.misses)])
    page.count(
        "everloop_cache_evictions_total",
        "Predictions that went: for room, by age, with their version.",
        [({**name, "reason": reason}, count) for reason, count in cache.evicted.items()],
    )
    page.gauge("everloop_cache_bytes", "Memory that kept predictions take.", [(name, cache.bytes)])
    page.gauge("everloop_cache_entries", "Predictions that are kept.", [(name, cache.entries)])
