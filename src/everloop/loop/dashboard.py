"""A Grafana dashboard for one loop, in the classic JSON model: service, data and business, machine. Draws nothing.

Held against Grafana's own schema in the tests (grafana-foundation-sdk). One field is not in it: an annotation's ``expr``,
which the schema leaves to the data source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from everloop.records import digest_of
from everloop.spec.loop import Loop

SCHEMA = 39
"""The version of the model; newer Grafanas bring it up to date when they read it."""
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 24, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    """Expression and legend."""
    kind: str = "timeseries"
    width: int = 8


def of(loop: Loop) -> dict[str, Any]:
    """The whole dashboard; imported by hand, or put where Grafana provisions from."""
    panels: list[dict[str, Any]] = []
    top = 0
    for name, graphs in (("Service", _service(loop)), ("Data and business", _data(loop)), ("Machine", _machine())):
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": name, "collapsed": False, "panels": [],
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            }
        )  # fmt: skip
        top += 1
        left = 0
        for each in graphs:
            if left + each.width > WIDTH:
                left, top = 0, top + HEIGHT
            panels.append(_panel(len(panels) + 1, each, left, top))
            left += each.width
        top += HEIGHT
    return {
        "id": None,
        "uid": f"everloop-{digest_of(loop.name.encode())[:16]}",
        "title": f"everloop: {loop.name}",
        "tags": ["everloop"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-24h", "to": "now"},
        "timepicker": {"refresh_intervals": ["10s", "30s", "1m", "5m", "1h"]},
        "refresh": "30s",
        "schemaVersion": SCHEMA,
        "version": 1,
        "links": [],
        "annotations": {"list": [_fired(loop)]},
        "templating": {
            "list": [
                {
                    "name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1,
                    "hide": 0, "includeAll": False, "multi": False, "options": [],
                }
            ]
        },
        "panels": panels,
    }  # fmt: skip


def _fired(loop: Loop) -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'everloop_alert_firing{{model_name="{loop.name}"}} == 1',
        "titleFormat": "{{rule}}",
    }


def _panel(number: int, graph: Graph, left: int, top: int) -> dict[str, Any]:
    options: dict[str, Any] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if graph.kind == "stat":
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
            "percentChangeColorMode": "standard",
            "showPercentChange": False,
            "textMode": "auto",
            "wideLayout": True,
        }
    return {
        "id": number,
        "type": graph.kind,
        "title": graph.title,
        "datasource": SOURCE,
        "gridPos": {"x": left, "y": top, "w": graph.width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": graph.unit}, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(graph.lines)
        ],
    }


def _service(loop: Loop) -> list[Graph]:
    model = f'model_name="{loop.name}"'
    by = "by (model_version, variant)"
    seconds = f"everloop_request_seconds_bucket{{{model}}}[$__rate_interval]"
    failed = f"sum {by} (rate(everloop_prediction_failures_total{{{model}}}[$__rate_interval]))"
    rows = f"sum {by} (rate(everloop_predictions_total{{{model}}}[$__rate_interval]))"
    arm = "v{{model_version}} {{variant}}"
    return [
        Graph(title="Rows a second", unit="reqps", lines=((rows, arm),)),
        Graph(
            title="Latency",
            unit="s",
            lines=tuple(
                (f"histogram_quantile({each}, sum by (le, model_version, variant) (rate({seconds})))", f"p{each * 100:g} {arm}")
                for each in (0.5, 0.99)
            ),
        ),
        Graph(title="Share of rows that failed", unit="percentunit", lines=((f"{failed} / {rows}", arm),)),
        Graph(
            title="Refused a second",
            unit="reqps",
            lines=(("sum by (code, reason) (rate(everloop_refused_total[$__rate_interval]))", "{{code}} {{reason}}"),),
        ),
        Graph(
            title="Waiting rows, and rows in a batch",
            unit="short",
            lines=(
                (f"sum(everloop_waiting_rows{{{model}}})", "waiting"),
                (
                    f"sum(rate(everloop_batch_rows_sum{{{model}}}[$__rate_interval]))"
                    f" / sum(rate(everloop_batch_rows_count{{{model}}}[$__rate_interval]))",
                    "in a batch",
                ),
            ),
        ),
        Graph(title="Versions that are live", unit="none", lines=((f"max by (variant) (everloop_live_version{{{model}}})", "{{variant}}"),)),
    ]  # fmt: skip


def _data(loop: Loop) -> list[Graph]:
    model = f'model_name="{loop.name}"'
    return [
        Graph(title="Score on matured labels", unit="none", lines=((f"everloop_score{{{model}}}", "{{metric}}"),)),
        Graph(title="Drift by column (PSI)", unit="none", lines=((f"topk(10, everloop_drift_size{{{model}}})", "{{column}} {{measure}}"),)),
        Graph(title="Due answers with a label", unit="percentunit", lines=((f"everloop_label_coverage_ratio{{{model}}}", "coverage"),)),
        Graph(title="Alerts", unit="none", lines=((f"everloop_alert_firing{{{model}}}", "{{rule}} ({{severity}})"),)),
        Graph(title="Challenger's share", unit="percentunit", lines=((f"everloop_challenger_share{{{model}}}", "share"),)),
        Graph(title="Since the last turn", unit="s", kind="stat", width=4, lines=((f"time() - everloop_last_turn_timestamp_seconds{{{model}}}", "turn"),)),
        Graph(title="Since the last look", unit="s", kind="stat", width=4, lines=((f"time() - everloop_last_look_timestamp_seconds{{{model}}}", "look"),)),
    ]  # fmt: skip


def _machine() -> list[Graph]:
    of_process = "{{role}} {{pid}}"
    return [
        Graph(
            title="Memory and disk",
            unit="percentunit",
            lines=(
                ("everloop_machine_memory_used_bytes / everloop_machine_memory_limit_bytes", "memory"),
                ("everloop_machine_disk_used_bytes / everloop_machine_disk_size_bytes", "disk"),
                ("everloop_gpu_memory_used_bytes / everloop_gpu_memory_size_bytes", "GPU {{gpu}}"),
            ),
        ),
        Graph(
            title="Processor cores",
            unit="none",
            lines=(
                ("rate(everloop_process_processor_seconds_total[$__rate_interval])", of_process),
                ("rate(everloop_machine_processor_seconds_total[$__rate_interval])", "all"),
                ("everloop_machine_cores", "may be used"),
            ),
        ),
        Graph(title="Memory of each process", unit="bytes", lines=(("everloop_process_memory_bytes", of_process),)),
        Graph(
            title="Disk and network",
            unit="Bps",
            width=12,
            lines=tuple(
                (f"rate(everloop_machine_{name}_bytes_total[$__rate_interval])", name.replace("_", " "))
                for name in ("disk_read", "disk_written", "network_received", "network_sent")
            ),
        ),
        Graph(title="GPU", unit="percentunit", width=12, lines=(("everloop_gpu_busy_ratio", "{{gpu}} {{name}}"),)),
    ]
