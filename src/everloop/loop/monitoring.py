"""What Prometheus, Alertmanager and Grafana need to watch loops, made from their declarations. Watches nothing.

What Prometheus can judge by itself (shares, quantiles, a full disk) is a rule on the server's and the controller's own
series; what takes labels, windows and statistics (score, drift, coverage, outcomes) is judged by the controller, and
the rule asks for its verdict: ``everloop_alert_firing``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from everloop.loop import dashboard
from everloop.loop.environment import Environment
from everloop.spec import alert, notify
from everloop.spec.alert import LEVELS, Rule, name_of
from everloop.spec.loop import Loop
from everloop.store.files import write_atomically

WORD = re.compile(r"[A-Za-z0-9]+")
SILENT = "10m"
"""A controller that has not looked for so long is not there."""
SECRETS = "/etc/alertmanager/secrets"
"""Where Alertmanager finds each ``$NAME``, as a file of that name: it reads no environment variables."""


def write(loops: Sequence[Loop], environment: Environment, out: Path) -> list[Path]:
    """Write all files into ``out``; their paths."""
    files = {
        "prometheus.yml": prometheus(loops, environment),
        "rules.yml": rules(loops),
        "alertmanager.yml": alertmanager(loops),
    }
    texts = {name: _yaml(value) for name, value in files.items()}
    for loop in loops:
        texts[f"dashboards/{loop.name}.json"] = json.dumps(dashboard.of(loop), indent=2) + "\n"
    written = []
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode(), sync=False)
        written.append(path)
    return written


def prometheus(loops: Sequence[Loop], environment: Environment) -> dict[str, Any]:
    """Scrapes servers and controller where the environment says that they listen."""
    server: dict[str, Any] = {
        "job_name": "everloop",
        "scheme": "http" if environment.serve.tls is None else "https",
        "static_configs": [{"targets": [f"{_reached(environment.host)}:{environment.port}"]}],
    }
    jobs = [server]
    if environment.metrics:
        jobs.append(
            {"job_name": "everloop-controller", "static_configs": [{"targets": [_reached(environment.metrics)]}]}
        )
    managers = [
        each.url.split("://", 1)[-1].rstrip("/")
        for loop in loops
        for each in loop.receivers
        if isinstance(each, notify.Alertmanager) and not each.url.startswith("$")
    ]
    targets = list(dict.fromkeys(managers)) or ["127.0.0.1:9093"]
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": targets}]}]},
        "scrape_configs": jobs,
    }


def _reached(address: str) -> str:
    """Whoever listens everywhere is reached here."""
    return address.replace("0.0.0.0", "127.0.0.1") if address.startswith("0.0.0.0") else address


def rules(loops: Sequence[Loop]) -> dict[str, Any]:
    """A group a loop, each rule of the declaration once, and that the controller looks at all."""
    return {
        "groups": [
            {
                "name": f"everloop-{loop.name}",
                "rules": [_gone(loop), *(_rule(loop, each) for each in loop.watched_alerts)],
            }
            for loop in loops
        ]
    }


def _gone(loop: Loop) -> dict[str, Any]:
    known = f'everloop_last_look_timestamp_seconds{{model_name="{loop.name}"}}'
    return {
        "alert": "EverloopControllerGone",
        "expr": f"absent({known}) or time() - {known} > 600",
        "for": SILENT,
        "labels": {"loop": loop.name, "severity": "critical", "level": "infrastructure"},
        "annotations": {
            "summary": f"{loop.name}: nobody has looked for 10 minutes",
            "description": "The controller (`everloop up`) is gone or stuck; servers go on serving what is released.",
        },
    }


def _rule(loop: Loop, rule: Rule) -> dict[str, Any]:
    expression, lasting, says = _asked(loop, rule)
    name = name_of(rule).replace("{{", "{ {")  # labels and annotations are templates there
    return {
        "alert": f"Everloop{''.join(word.capitalize() for word in WORD.findall(name_of(rule)))}",
        "expr": expression,
        **({"for": lasting} if lasting else {}),
        "labels": {"loop": loop.name, "severity": rule.severity, "level": LEVELS[type(rule)], "rule": name},
        "annotations": {"summary": f"{loop.name}: {name}", "description": says},
    }


def _asked(loop: Loop, rule: Rule) -> tuple[str, str, str]:
    """The expression, for how long it must hold, and what to say."""
    model = f'model_name="{loop.name}"'
    match rule:
        case alert.DiskFull():
            used = "everloop_machine_disk_used_bytes / everloop_machine_disk_size_bytes"
            return f"{used} > {rule.above}", "1m", "{{ $value | humanizePercentage }} of the home's disk are used."
        case alert.MemoryFull():
            used = "everloop_machine_memory_used_bytes / everloop_machine_memory_limit_bytes"
            return f"{used} > {rule.above}", "1m", "{{ $value | humanizePercentage }} of the memory are used."
        case alert.ProcessorFull():
            used = f"rate(everloop_machine_processor_seconds_total[{_span(rule.within)}]) / everloop_machine_cores"
            return f"{used} > {rule.above}", "", "{{ $value | humanizePercentage }} of the processor time are used."
        case alert.GpuFull():
            used = "everloop_gpu_memory_used_bytes / everloop_gpu_memory_size_bytes"
            return (
                f"{used} > {rule.above}",
                "1m",
                "{{ $value | humanizePercentage }} of the memory of GPU {{ $labels.gpu }} are used.",
            )
        case alert.NotServing():
            released = f"everloop_champion_version{{{model}}} > 0"
            served = f'everloop_live_version{{{model},variant="champion"}}'
            return (
                f"({released}) unless on (model_name) {served}",
                _span(rule.after),
                "Version {{ $value }} is released, and no server that is scraped serves it.",
            )
        case alert.Errors():
            live = f'{model},variant!~"shadow|former"'
            failed = f"sum(rate(everloop_prediction_failures_total{{{live}}}[{_span(rule.within)}]))"
            asked = f"sum(rate(everloop_predictions_total{{{live}}}[{_span(rule.within)}]))"
            return f"{failed} / {asked} > {rule.above}", "", "{{ $value | humanizePercentage }} of the rows failed."
        case alert.Latency():
            counts = f"sum by (le) (rate(everloop_request_seconds_bucket{{{model}}}[{_span(rule.within)}]))"
            slow = f"histogram_quantile({rule.quantile}, {counts}) > {rule.above.total_seconds()}"
            return slow, "", f"The {rule.quantile:g} quantile is {{{{ $value | humanizeDuration }}}}."
        case alert.Refused():
            over = f"[{_span(rule.within)}]"
            refused, every = (
                f'sum(rate(everloop_refused_total{{code=~"429|503",reason=~"{"|".join(reasons)}"}}{over}))'
                for reasons in (rule.reasons or alert.REASONS, alert.REASONS)
            )
            # A server that has answered nobody yet has no series of answers.
            asked = f"({every} + (sum(rate(everloop_request_seconds_count{over})) or vector(0)))"
            says = "{{ $value | humanizePercentage }} of the requests were refused; the dashboard shows by reason."
            return f"{refused} / {asked} > {rule.above}", "", says
        case _:
            # A label's value is quoted in PromQL as a text is in JSON.
            quoted = json.dumps(name_of(rule), ensure_ascii=False)
            verdict = f'{model},rule={quoted},severity="{rule.severity}"'
            says = "The controller judges so; `everloop alerts list` says why."
            return f"everloop_alert_firing{{{verdict}}} == 1", "", says


def alertmanager(loops: Sequence[Loop]) -> dict[str, Any]:
    """A route a loop, to its receivers. ``$NAME`` is read from a file of that name in `SECRETS`."""
    routes, receivers = [], [{"name": "nobody"}]
    for loop in loops:
        receiver: dict[str, Any] = {"name": loop.name}
        for each in loop.receivers:
            kind, settings = _receiver(each)
            if settings is not None:
                receiver.setdefault(kind, []).append(settings)
        receivers.append(receiver)
        routes.append(
            {"receiver": loop.name, "matchers": [f'loop="{loop.name}"'], "repeat_interval": _span(loop.pace.repeat)}
        )
    return {
        "route": {
            "receiver": "nobody",
            "group_by": ["loop", "alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "routes": routes,
        },
        "receivers": receivers,
    }


def _receiver(each: notify.Receiver) -> tuple[str, dict[str, Any] | None]:
    match each:
        case notify.Webhook():
            if each.url.startswith("$"):
                return "webhook_configs", None  # it takes no address from a file: that comes with Alertmanager 0.26
            bearer = {"http_config": {"authorization": {"credentials_file": _file(each.token)}}} if each.token else {}
            return "webhook_configs", {"url": each.url, "send_resolved": True, **bearer}
        case notify.Slack():
            return "slack_configs", {"api_url_file": _file(each.url), "send_resolved": True}
        case notify.Email():
            login: dict[str, Any] = {}
            if each.user is not None and not each.user.startswith("$"):
                login["auth_username"] = each.user
            if each.password is not None:
                login["auth_password_file"] = _file(each.password)
            secure = {"require_tls": each.security == "starttls"}
            to = {"to": ", ".join(each.to), "from": each.sender, "smarthost": each.server}
            return "email_configs", {**to, **login, **secure, "send_resolved": True}
        case notify.Alertmanager():
            return "webhook_configs", None  # it is this one


def _file(variable: str) -> str:
    return f"{SECRETS}/{variable.removeprefix('$')}"


def _span(span: timedelta) -> str:
    """As Prometheus writes it; whole seconds."""
    return f"{max(1, round(span.total_seconds()))}s"


def _yaml(value: Any, indent: int = 0) -> str:
    """Block YAML of maps, lists and scalars. Texts are quoted as in JSON, which YAML reads alike."""
    pad = "  " * indent
    lines: list[str] = []
    pairs = value.items() if isinstance(value, Mapping) else [(None, each) for each in value]
    for key, each in pairs:
        head = f"{pad}-" if key is None else f"{pad}{key}:"
        if isinstance(each, Mapping | list) and each:
            inner = _yaml(each, indent + 1)
            lines.append(f"{head} {inner.lstrip()}" if key is None else f"{head}\n{inner}")
        else:
            lines.append(f"{head} {json.dumps(each, ensure_ascii=False)}\n")
    return "".join(lines)
