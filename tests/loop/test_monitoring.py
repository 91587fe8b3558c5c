"""The files for Prometheus, Alertmanager and Grafana, read by the real programs, and an alert from end to end."""

import importlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everloop.errors import CannotListen
from everloop.loop import dashboard, monitoring
from everloop.loop.environment import Environment
from everloop.loop.metrics_page import MetricsPage
from everloop.loop.up import Upkeep
from everloop.spec.load import load
from receivers import Web, web
from small_loop import SmallLoop

PATIENCE = 90.0
PARTS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")
RULES = (
    "[*el.alert.DEFAULT, el.alert.Latency(above=td(milliseconds=50)), el.alert.Stale(), el.alert.ProcessorFull(), "
    'el.alert.GpuFull(), el.alert.Unusual("rate"), el.alert.Refused("queue_full"), '
    'el.alert.Outcome("revenue \\"net\\"", below=3), el.alert.DiskFull(above=1e-9, severity="warning")]'
)


def real(*names: str) -> None:
    """Skip where the programs are not installed; where they must be, fail."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(missing)} must be here; .ci/install-real-parts installs them")
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; .ci/install-real-parts installs them")


def checked(*command: str, into: bytes | None = None) -> str:
    ended = subprocess.run(command, input=into, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 0, (command, ended.stdout.decode(), ended.stderr.decode())
    return ended.stdout.decode() + ended.stderr.decode()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def until(reached: Callable[[], bool], what: object = "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.1)


@contextmanager
def running(folder: Path, *command: str) -> Iterator[Path]:
    said = folder / f"{Path(command[0]).name}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
        try:
            yield said
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def kept(loop: SmallLoop) -> Iterator[tuple[Environment, list[str]]]:
    """The loop up in a thread, with its metrics; and the environment that tells where."""
    said: list[str] = []
    installation, stop = loop.install(), threading.Event()
    upkeep = Upkeep(
        [installation],
        host="127.0.0.1",
        port=0,
        processes=1,
        every=timedelta(milliseconds=200),
        told=lambda decision: None,
        said=said.append,
        metrics="127.0.0.1:0",
    )
    thread = threading.Thread(target=upkeep.run, args=(stop,))
    thread.start()
    try:
        until(lambda: any("serving on" in line for line in said) or not thread.is_alive(), lambda: said)
        served = next(line for line in said if "serving on" in line).split("//")[1].split("/")[0]
        shown = next(line for line in said if "metrics on" in line).split("//")[1].split("/")[0]
        yield Environment(name="local", home=loop.home, port=int(served.split(":")[1]), metrics=shown), said
    finally:
        stop.set()
        thread.join(PATIENCE)
        installation.close()
    assert not thread.is_alive()


@pytest.fixture
def hook() -> Iterator[Web]:
    with web() as each:
        yield each


def test_a_rule_fires_in_prometheus_and_the_webhook_of_the_declaration_hears_of_it(
    turned: SmallLoop, hook: Web, tmp_path: Path
) -> None:
    real(*PARTS)
    manager = f"127.0.0.1:{free_port()}"
    turned.declare(
        alerts=RULES, notify=f'[el.notify.Webhook("{hook.url}/hook"), el.notify.Alertmanager("http://{manager}/")]'
    )
    with kept(turned) as (environment, _), ExitStack() as stack:
        loop = load(turned.file).loops[0]
        out = tmp_path / "monitoring"
        monitoring.write([loop], environment, out)
        # As it is written, but sooner.
        for name, slow, quick in (
            ("prometheus.yml", '"15s"', '"1s"'),
            ("rules.yml", '"1m"', '"1s"'),
            ("alertmanager.yml", 'group_wait: "30s"', 'group_wait: "1s"'),
            ("alertmanager.yml", 'group_interval: "5m"', 'group_interval: "1s"'),
        ):
            text = (out / name).read_text()
            assert slow in text
            (out / name).write_text(text.replace(slow, quick))
        address = f"127.0.0.1:{free_port()}"
        stack.enter_context(
            running(
                out,
                "prometheus-alertmanager",
                "--config.file=alertmanager.yml",
                f"--storage.path={tmp_path / 'manager'}",
                f"--web.listen-address={manager}",
                "--cluster.listen-address=",
            )
        )
        log = stack.enter_context(
            running(
                out,
                "prometheus",
                "--config.file=prometheus.yml",
                f"--storage.tsdb.path={tmp_path / 'prometheus'}",
                f"--web.listen-address={address}",
            )
        )

        def asked(query: str) -> list[Any]:
            found = json.loads(got(f"http://{address}/api/v1/query?query={urllib.parse.quote(query)}"))
            assert found["status"] == "success", (query, found)
            return list(found["data"]["result"])

        def fired() -> set[tuple[str, str]]:
            # Alertmanager's form, and of those the ones that Prometheus sent: they bear the job that was scraped.
            sent = [each for path, _, body in hook.taken if path == "/hook" for each in body["alerts"]]
            alerts = [each for each in sent if each.get("labels", {}).get("job") == "everloop-controller"]
            return {(each["labels"]["alertname"], each["labels"]["severity"]) for each in alerts}

        until(lambda: ("EverloopDiskFull", "warning") in fired(), lambda: (log.read_text()[-2_000:], hook.taken))
        told = {path.split("/")[1] for path, headers, _ in hook.taken if "idempotency-key" in headers}
        assert told == {"hook"}, "and by the controller itself"
        grouped = json.loads(got(f"http://{manager}/api/v2/alerts"))
        own = [each for each in grouped if "job" not in each["labels"]]
        assert {each["labels"]["alertname"] for each in own} == {"EverloopDiskFull"}, (
            "the receiver Alertmanager heard too"
        )
        # Both are scraped, no rule is broken, and every line of the dashboard is a query.
        assert {each["metric"]["job"]: each["value"][1] for each in asked("up")} == {
            "everloop": "1",
            "everloop-controller": "1",
        }
        groups = json.loads(got(f"http://{address}/api/v1/rules"))["data"]["groups"]
        rules = [each for group in groups for each in group["rules"]]
        assert len(rules) == len(loop.watched_alerts) + 1
        until(lambda: all(each["health"] == "ok" for each in _rules(address)), lambda: _rules(address))
        assert not asked('ALERTS{alertname="EverloopNotServing"}'), "it is served"
        assert not asked('ALERTS{alertname="EverloopControllerGone"}')
        for expression in expressions(dashboard.of(loop)):
            asked(expression.replace("$__rate_interval", "1m"))
        for series in ("everloop_champion_version", "everloop_live_version", "everloop_process_memory_bytes"):
            assert asked(series), series


def _rules(address: str) -> list[dict[str, Any]]:
    groups = json.loads(got(f"http://{address}/api/v1/rules"))["data"]["groups"]
    return [each for group in groups for each in group["rules"]]


def test_the_programs_own_checks_accept_every_file_and_both_pages(turned: SmallLoop, tmp_path: Path) -> None:
    real(*PARTS)
    receivers = (
        '[el.notify.Webhook("http://127.0.0.1:1/a", token="$TOKEN"), el.notify.Slack("$SLACK"), el.notify.Pace(), '
        'el.notify.Email("a@example.com", sender="b@example.com", server="mail:587", user="me", password="$WORD")]'
    )
    turned.declare(alerts=RULES, notify=receivers)
    ended = turned.command("monitoring", str(turned.file), "--out", str(tmp_path / "out"), "--json")
    assert ended.code == 0, ended.err
    out = tmp_path / "out"
    assert sorted(Path(each).name for each in ended.value["files"]) == [
        "alertmanager.yml", "parcels.json", "prometheus.yml", "rules.yml",
    ]  # fmt: skip
    assert "SUCCESS" in checked("promtool", "check", "rules", str(out / "rules.yml"))
    assert "SUCCESS" in checked("promtool", "check", "config", str(out / "prometheus.yml"))
    assert "SUCCESS" in checked("amtool", "check-config", str(out / "alertmanager.yml"))
    assert "$" not in (out / "alertmanager.yml").read_text(), "secrets are files there"
    with kept(turned) as (environment, _):
        served, controlled = (
            got(f"http://{place}/metrics") for place in (f"127.0.0.1:{environment.port}", environment.metrics)
        )
        assert checked("promtool", "check", "metrics", into=controlled) == ""
        assert b"everloop_label" in controlled or b"everloop_champion_version" in controlled
        checked("promtool", "check", "metrics", into=served)


def test_refusals_fire_by_their_share_of_all_requests(small: SmallLoop, tmp_path: Path) -> None:
    """`promtool test rules`: two per mille are none of it, two per cent are, also where nobody was answered at all."""
    real("promtool")
    small.declare(alerts="[el.alert.Refused(), el.alert.Refused('quota', severity='critical')]")
    out = tmp_path / "out"
    monitoring.write([load(small.file).loops[0]], Environment(name="local", home=small.home), out)

    def case(refused: dict[tuple[int, str], int], answered: int | None, fires: set[str]) -> dict[str, Any]:
        series = [
            {
                "series": f'everloop_refused_total{{code="{code}",reason="{reason}",job="everloop"}}',
                "values": f"0+{each}x20",
            }
            for (code, reason), each in refused.items()
        ]
        if answered is not None:
            name = 'everloop_request_seconds_count{model_name="parcels",variant="champion",job="everloop"}'
            series.append({"series": name, "values": f"0+{answered}x20"})
        return {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [],
            "alert_rule_test": [
                {
                    "eval_time": "10m",
                    "alertname": name,
                    "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}] if name in fires else [],
                }
                for name, labels, annotations in told
            ],
        }

    rules = monitoring.rules([load(small.file).loops[0]])["groups"][0]["rules"][1:]
    told = [
        (
            each["alert"],
            each["labels"],
            {
                "summary": each["annotations"]["summary"],
                "description": each["annotations"]["description"].replace("{{ $value | humanizePercentage }}", "2%"),
            },
        )
        for each in rules
    ]
    both = {each["alert"] for each in rules}
    quiet = case({(503, "deadline"): 2, (400, "invalid"): 500, (503, "not_ready"): 100}, 998, set())
    overloaded = case({(503, "deadline"): 15, (429, "rate_limit"): 5}, 980, {"EverloopRefused"})
    spent = case({(429, "quota"): 20}, 980, both)
    tests = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [quiet, overloaded, spent]}
    (out / "test.yml").write_text(json.dumps(tests))
    assert "SUCCESS" in checked("promtool", "test", "rules", str(out / "test.yml"))
    for _, _, annotations in told:
        annotations["description"] = annotations["description"].replace("2%", "100%")
    tests["tests"] = [case({(429, "quota"): 3}, None, both)]
    (out / "test.yml").write_text(json.dumps(tests))
    assert "SUCCESS" in checked("promtool", "test", "rules", str(out / "test.yml"))


def expressions(board: dict[str, Any]) -> list[str]:
    lines = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [*lines, *(each["expr"] for each in board["annotations"]["list"])]


NEEDED = {
    "id", "uid", "title", "tags", "timezone", "editable", "graphTooltip", "panels", "time", "timepicker", "templating",
    "annotations", "refresh", "schemaVersion", "version", "links",
}  # fmt: skip
"""The fields of a new dashboard in Grafana's documentation of the JSON model."""


def test_a_dashboard_is_as_grafanas_model_asks(small: SmallLoop) -> None:
    board = json.loads(json.dumps(dashboard.of(load(small.file).loops[0])))
    assert set(board) == NEEDED
    assert board["id"] is None, "Grafana numbers what it takes in"
    assert 8 <= len(board["uid"]) <= 40
    assert isinstance(board["schemaVersion"], int)
    assert board["graphTooltip"] in (0, 1, 2)
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["source"]["type"] == "datasource"
    panels = board["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert 1 <= at["w"] <= 24
        assert at["x"] + at["w"] <= 24
        assert at["h"] >= 1
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, f"{panel['title']} lies over another"
        taken |= cells
        assert panel["type"] in ("row", "timeseries", "stat")
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        assert set(panel["fieldConfig"]) == {"defaults", "overrides"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        assert all(target["expr"] and target["datasource"] == panel["datasource"] for target in panel["targets"])


NOT_IN_THE_SCHEMA = {"/annotations/list/titleFormat", "/id"}
"""The data source's own field of an annotation; and null, which is left out."""
NEWER = {"/panels/options/percentChangeColorMode", "/panels/options/showPercentChange", "/panels/options/wideLayout"}
"""Fields that Grafana 11 needs and the schema of 10.1 does not have yet."""


def lost(given: Any, known: Any, where: str = "") -> set[str]:
    """Where a value did not come back as it was; what was added is a default."""
    if isinstance(given, dict) and isinstance(known, dict):
        return {at for name, value in given.items() for at in (lost(value, known[name], f"{where}/{name}") if name in known else {f"{where}/{name}"})}  # fmt: skip
    if isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        return {at for one, other in zip(given, known, strict=True) for at in lost(one, other, where)}
    return set() if given == known else {where}


def test_grafanas_own_schema_knows_every_field_of_a_dashboard(small: SmallLoop) -> None:
    """Through the classes that Grafana generates from its schema (grafana-foundation-sdk): unknown fields do not come back."""
    if importlib.util.find_spec("grafana_foundation_sdk") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("grafana-foundation-sdk must be here: it is in the extra dev")
        pytest.skip("grafana-foundation-sdk is not installed; it is in the extra dev")
    parts = {
        name: importlib.import_module(f"grafana_foundation_sdk.{name}")
        for name in ("cog.plugins", "cog.encoder", "models.dashboard")
    }
    parts["cog.plugins"].register_default_plugins()

    def through(board: dict[str, Any]) -> set[str]:
        read = parts["models.dashboard"].Dashboard.from_json(json.loads(json.dumps(board)))
        return lost(board, json.loads(parts["cog.encoder"].JSONEncoder(sort_keys=True).encode(read)))

    board = json.loads(json.dumps(dashboard.of(load(small.file).loops[0])))
    assert through(board) <= NOT_IN_THE_SCHEMA | NEWER
    # And it would not know a mistake.
    wrong = json.loads(json.dumps(board))
    wrong["panels"][1]["gridpos"] = wrong["panels"][1].pop("gridPos")
    wrong["panels"][1]["fieldConfig"]["defaults"]["units"] = "s"
    wrong["templating"]["list"][0]["kind"] = "datasource"
    assert through(wrong) - NOT_IN_THE_SCHEMA - NEWER == {
        "/panels/gridpos", "/panels/fieldConfig/defaults/units", "/templating/list/kind",
    }  # fmt: skip


def test_two_dashboards_are_told_apart_and_one_stays_itself(small: SmallLoop) -> None:
    one = load(small.file).loops[0]
    small.declare(name='"others"')
    other = load(small.file).loops[0]
    assert dashboard.of(one)["uid"] == dashboard.of(one)["uid"] != dashboard.of(other)["uid"]


def test_an_address_that_is_taken_is_said_with_its_remedy() -> None:
    first = MetricsPage("127.0.0.1", 0, lambda: b"a 1\n")
    host, _, port = first.address.rpartition(":")
    with pytest.raises(CannotListen, match=r"everloop\.toml"):
        MetricsPage(host, int(port), lambda: b"")
    assert got(f"http://{first.address}/metrics") == b"a 1\n"
    first.close()
