"""Everything the server counts, as Prometheus reads it. Knows where the counts are, not how they come about."""

from collections.abc import Iterable

from everloop.serve.cache import Cache
from everloop.serve.metrics import Exposition, Labels
from everloop.serve.service import Service


def exposition(services: Iterable[Service], refused: dict[tuple[int, str], int], connections: int) -> bytes:
    """The text of ``/metrics``: seconds and rows as base units, ``_total`` for what only rises."""
    page = Exposition()
    page.add("everloop_connections", "gauge", "Open connections.", [({}, connections)])
    page.add(
        "everloop_refused_total",
        "counter",
        "Requests that were not answered with success, by status and reason.",
        [({"code": status, "reason": reason}, count) for (status, reason), count in sorted(refused.items())],
    )
    for service in services:
        _add(page, service)
    return page.text()


def _add(page: Exposition, service: Service) -> None:
    name: Labels = {"model_name": service.name}
    predictor, follower = service.predictor, service.follower
    meters = [
        ({**name, "model_version": version, "variant": role}, meter)
        for (version, role), meter in list(predictor.meters.items())
    ]
    page.add_histogram(
        "everloop_request_seconds",
        "From the whole request read to its answer written.",
        [
            (labels, meter.requests)
            for labels, meter in meters
            if labels["variant"] in ("champion", "challenger") or any(meter.requests.counts)
        ],
    )
    page.add_histogram(
        "everloop_compute_seconds", "One run of the graph.", [(labels, meter.compute) for labels, meter in meters]
    )
    page.add_histogram("everloop_batch_rows", "Rows answered together.", [(name, predictor.batch_rows)])
    page.add(
        "everloop_predictions_total", "counter", "Rows answered.", [(labels, meter.rows) for labels, meter in meters]
    )
    page.add(
        "everloop_prediction_failures_total",
        "counter",
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
    for metric, words, value in counters:
        page.add(metric, "counter", words, [(name, value)])
    gauges: list[tuple[str, str, float]] = [
        ("everloop_waiting_rows", "Rows that wait to be run.", predictor.batcher.waiting),
        ("everloop_waiting_seconds", "When they will have run, as predicted.", predictor.batcher.waiting_seconds),
        ("everloop_release_revision", "The revision that is served.", follower.revision),
        (
            "everloop_log_trouble",
            "1 while the disk takes no log or no outcomes.",
            bool(log.trouble or outcomes.trouble),
        ),
    ]
    for metric, words, value in gauges:
        page.add(metric, "gauge", words, [(name, value)])
    if follower.cache is not None:
        _add_cache(page, name, follower.cache)
    page.add(
        "everloop_package_refused_total",
        "counter",
        "Packages that were not loaded.",
        [({**name, "reason": reason}, count) for reason, count in follower.refusals.items()],
    )
    if predictor.live is not None:
        live = predictor.live
        arms = [("champion", live.champion), ("challenger", live.challenger)]
        arms += live.way.named.items() if live.way is not None else ()
        page.add(
            "everloop_live_version",
            "gauge",
            "The versions that are live.",
            [({**name, "variant": variant}, arm.version) for variant, arm in arms if arm is not None],
        )


def _add_cache(page: Exposition, name: Labels, cache: Cache) -> None:
    page.add("everloop_cache_hits_total", "counter", "Rows answered without running the model.", [(name, cache.hits)])
    page.add("everloop_cache_misses_total", "counter", "Rows that the cache did not know.", [(name, cache.misses)])
    page.add(
        "everloop_cache_evictions_total",
        "counter",
        "Predictions that went: for room, by age, with their version.",
        [({**name, "reason": reason}, count) for reason, count in cache.evicted.items()],
    )
    page.add("everloop_cache_bytes", "gauge", "Memory that kept predictions take.", [(name, cache.bytes)])
    page.add("everloop_cache_entries", "gauge", "Predictions that are kept.", [(name, cache.entries)])
