"""What is scraped is valid, true, and of the whole server: it rises whichever process is asked and whoever is killed."""

import os
import shutil
import signal
import subprocess
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from everloop.serve.counts import PAST, Counts, clear_left
from everloop.serve.families import Families, Family
from everloop.serve.metrics import SECONDS, Histogram
from everloop.store.home import Home
from everloop.testing.serving import Client, ServedHome, message, signature_of
from slow_graph import slow_graph

SIGNATURE = signature_of({"x": "number"}, key=("k",))
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def home(path: Path) -> ServedHome:
    served = ServedHome(path)
    served.seal(1, SIGNATURE)
    served.seal(2, SIGNATURE, bias=1.0)
    return served


def parsed(text: bytes) -> Samples:
    """Each sample by name and labels, as Prometheus' own client reads it."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation, family.name
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, f"{key} stands there twice"
            found[key] = sample.value
    return found


def scraped(port: int) -> Samples:
    with Client(port) as client:
        return parsed(client.get("/metrics")[1])


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(
        each for (found, theirs), each in samples.items() if found == name and labels.items() <= dict(theirs).items()
    )


# One process


def test_everything_that_is_counted_is_valid_and_named_as_the_field_does(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, 2, stage="canary", share=0.5, cache={"bytes": 100_000, "seconds": 60})
    with served.serve() as server, Client(server.port) as client:
        for n in range(40):
            assert client.post("/predict", {"x": n})[0] == 200
        assert client.post("/predict", {"x": "?"})[0] == 400
        assert client.get("/nowhere")[0] == 404
        client.post("/outcomes", {"id": "a", "value": True})
        text = client.get("/metrics")[1]
        assert client.headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
    samples = parsed(text)
    for version, variant in (("1", "champion"), ("2", "challenger")):
        labels = {"model_name": "made", "model_version": version, "variant": variant}
        requests = value(samples, "everloop_request_seconds_count", **labels)
        assert requests > 0
        assert value(samples, "everloop_queue_seconds_count", **labels) == requests
        assert value(samples, "everloop_request_seconds_bucket", le="+Inf", **labels) == requests
        assert value(samples, "everloop_queue_seconds_sum", **labels) <= value(
            samples, "everloop_request_seconds_sum", **labels
        )
        assert value(samples, "everloop_compute_seconds_count", **labels) == requests
        assert value(samples, "everloop_live_version", model_name="made", variant=variant) == int(version)
    assert value(samples, "everloop_request_seconds_count") == 40
    assert value(samples, "everloop_predictions_total") == 40
    assert value(samples, "everloop_refused_total", code="400") == 1
    assert value(samples, "everloop_refused_total", code="404", reason="not_found") == 1
    assert value(samples, "everloop_outcomes_total", model_name="made") == 1
    assert value(samples, "everloop_cache_misses_total") == 40
    assert value(samples, "everloop_in_flight_requests") == 1, "the scrape itself"
    assert value(samples, "everloop_connections") == 1
    assert value(samples, "everloop_build_info") == 1
    assert value(samples, "process_resident_memory_bytes") > 10_000_000
    assert value(samples, "process_cpu_seconds_total") > 0
    assert value(samples, "process_start_time_seconds") > 1_700_000_000
    assert 3 < value(samples, "process_open_fds") < value(samples, "process_max_fds")
    assert {dict(labels)["onnxruntime"] for name, labels in samples if name == "everloop_build_info"} != {""}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1, cache={"bytes": 100_000, "seconds": 60})
    with served.serve() as server, Client(server.port) as client:
        client.post("/predict", [{"x": 1}, {"x": 2}])
        text = client.get("/metrics")[1]
    found = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, b"")


def test_what_waits_is_seen_while_it_waits_and_counted_as_queue_seconds(tmp_path: Path) -> None:
    served = ServedHome(tmp_path)
    signature = signature_of({"x": "number"}, task="regression", classes=())
    served.seal(1, signature, graph=slow_graph())
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        client.post("/predict", {"x": 1.0})
        before = scraped(server.port)
        client.send(message("POST", "/predict", {"x": 2.0}))
        scraped(server.port)
        client.send(message("POST", "/predict", {"x": 3.0}))
        samples = scraped(server.port)
        assert value(samples, "everloop_in_flight_requests") > value(before, "everloop_in_flight_requests")
        assert [status for status, _ in client.answers(2)] == [200, 200]
        samples = scraped(server.port)
    assert value(samples, "everloop_in_flight_requests") == 1
    assert value(samples, "everloop_request_seconds_count") == 3
    # The third came while the second ran.
    assert value(samples, "everloop_queue_seconds_sum") > value(samples, "everloop_compute_seconds_sum") / 10


@given(st.lists(st.tuples(st.lists(st.floats(0, 20), max_size=9), st.floats(0, 1)), max_size=30))
def test_values_that_are_sorted_later_count_as_if_each_had_been_counted_at_once(
    batches: list[tuple[list[float], float]],
) -> None:
    later, once = Histogram(SECONDS), Histogram(SECONDS)
    for values, less in batches:
        later.observe_all(values, less)
        for each in values:
            once.observe(max(0.0, each - less))
    assert later.counts == once.counts
    assert later.total == pytest.approx(once.total)


def test_many_values_are_sorted_before_they_fill_memory() -> None:
    histogram = Histogram(SECONDS)
    for _ in range(100_000):
        histogram.observe_all([0.5], 0.1)
    assert len(histogram._later) < 5_000
    assert sum(histogram.counts) == 100_000


@given(st.text(), st.text(min_size=1), st.floats(allow_nan=False))
def test_any_label_help_and_value_is_read_back_as_it_was(label: str, words: str, number: float) -> None:
    page = Families()
    page.gauge("a_gauge", words, [({"label": label}, number)])
    clean = label.encode(errors="replace").decode()
    (family,) = text_string_to_metric_families(page.text().decode())
    (sample,) = family.samples
    assert sample.labels == {"label": clean}
    assert sample.value == number


# Several processes


def test_a_scrape_shows_the_whole_server_whichever_process_answers_it(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    with served.serve("--processes", "2") as server:
        for n in range(60):  # each on a new connection, so that both have some
            with Client(server.port) as client:
                assert client.post("/predict", {"x": n})[0] == 200
                assert client.post("/predict", {"x": "?"})[0] == 400
        folder = served.home.servers / "counts"
        server.wait(lambda told: len(list(folder.glob("*.counts"))) == 2 and _logged(folder) == 60)
        for _ in range(8):
            samples = scraped(server.port)
            assert value(samples, "everloop_request_seconds_count") == 60
            assert value(samples, "everloop_refused_total") == 60
            assert value(samples, "everloop_processes") == 2
            assert value(samples, "everloop_live_version", variant="champion") == 1
            assert value(samples, "process_resident_memory_bytes") > 60_000_000
        assert server.terminate() == 0
    assert list(folder.iterdir()) == []


def _logged(folder: Path) -> float:
    """The requests in the files of all processes."""
    return sum(
        sum(counts)
        for file in folder.glob("*.counts")
        for name, family in msgspec.msgpack.decode(file.read_bytes(), type=dict[str, Family]).items()
        if name == "everloop_request_seconds"
        for counts in [each.counts for each in family.samples if each.counts]
    )


def test_counts_never_fall_though_processes_are_killed_and_replaced(tmp_path: Path) -> None:
    served = home(tmp_path)
    served.release(1)
    rising: Samples = {}
    asked = 0
    with served.serve("--processes", "2") as server:
        for turn in range(3):
            for n in range(20):
                with Client(server.port) as client:
                    asked += client.post("/predict", {"x": n})[0] == 200
                samples = scraped(server.port)
                for key, before in rising.items():
                    assert samples.get(key, 0.0) >= before, key
                rising = {
                    key: each for key, each in samples.items() if key[0].endswith(("_total", "_count", "_bucket"))
                }
            # A scrape may have asked the other process, whose neighbour keeps its counts once a second.
            server.wait(lambda told: value(scraped(server.port), "everloop_request_seconds_count") == asked)  # noqa: B023
            ours = server.told()["processes"]
            if turn == 0:
                os.kill(ours[0], signal.SIGKILL)
                server.wait(lambda told: bool(told.get("ready")) and ours[0] not in told["processes"])  # noqa: B023
            elif turn == 1:
                server.process.send_signal(signal.SIGHUP)
                server.wait(lambda told: bool(told.get("ready")) and not set(ours) & set(told["processes"]))  # noqa: B023
        server.wait(lambda told: value(scraped(server.port), "everloop_processes") == 2)
        assert value(scraped(server.port), "everloop_request_seconds_count") == asked


def page(count: float, buckets: list[int], **gauges: float) -> Families:
    families = Families()
    families.count("a_total", "A.", [({"x": "1"}, count)])
    families.histogram("b_seconds", "B.", [0.1, 1.0], [({}, buckets, float(sum(buckets)))])
    for name, each in gauges.items():
        families.gauge(name, "G.", [({}, each)], name)  # type: ignore[arg-type]
    return families


def test_counts_are_summed_and_gauges_joined_as_each_says() -> None:
    first = page(1, [1, 2, 3], sum=1, max=1, min=1)
    other = page(2, [10, 0, 1], sum=5, max=5, min=5)
    other.count("a_total", "A.", [({"x": "2"}, 7)])
    other.count("new_total", "Only there.", [({}, 3)])
    first.merge(Families.decode(other.encode()))
    samples = parsed(first.text())
    assert value(samples, "a_total", x="1") == 3
    assert value(samples, "a_total", x="2") == 7
    assert value(samples, "new_total") == 3
    assert value(samples, "b_seconds_bucket", le="0.1") == 11
    assert value(samples, "b_seconds_count") == 17
    assert [value(samples, name) for name in ("sum", "max", "min")] == [6, 5, 1]
    assert list(samples) != []
    rising = parsed(first.rising.text())
    assert {name for name, _ in rising} == {
        "a_total",
        "new_total",
        "b_seconds_bucket",
        "b_seconds_sum",
        "b_seconds_count",
    }


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=6), st.randoms())
def test_sums_are_the_same_in_whatever_order_processes_are_added(seconds: list[float], random: Random) -> None:
    def summed() -> float:
        families = Families()
        for each in seconds:
            one = Families()
            one.histogram("b_seconds", "B.", [1.0], [({}, [0, 1], each)])
            families.merge(one)
        return value(parsed(families.text()), "b_seconds_sum")

    first = summed()
    for _ in range(3):
        random.shuffle(seconds)
        assert summed() == first
    assert first == pytest.approx(sum(seconds), abs=1e-6)


def test_an_ended_process_is_added_to_the_past_once_even_if_its_file_stays(tmp_path: Path) -> None:
    counts = Counts(Home(tmp_path), 1)
    left = tmp_path / "servers" / "counts" / "1-77.counts"
    left.write_bytes(page(5, [1, 0, 0], max=9).encode())
    counts.bury(77)
    assert not left.exists()
    left.write_bytes(page(5, [1, 0, 0], max=9).encode())  # as if it had been killed before it could remove the file
    counts.bury(77)
    left.write_bytes(page(5, [1, 0, 0], max=9).encode())
    (tmp_path / "servers" / "counts" / "1-78.counts").write_bytes(page(2, [0, 1, 0], max=3).encode())
    (tmp_path / "servers" / "counts" / "1-79.counts").write_bytes(b"torn")
    (tmp_path / "servers" / "counts" / "2-80.counts").write_bytes(page(100, [0, 0, 0]).encode())
    together = parsed(counts.together(page(1, [0, 0, 1], max=1)).text())
    assert value(together, "a_total") == 8
    assert value(together, "b_seconds_count") == 3
    assert value(together, "max") == 3, "a gauge of a process that is gone is not there"
    counts.bury(79)
    counts.bury(12345)
    counts.clear()
    assert [file.name for file in (tmp_path / "servers" / "counts").iterdir()] == ["2-80.counts"]


def test_a_scrape_is_answered_when_nothing_can_be_written(tmp_path: Path) -> None:
    counts = Counts(Home(tmp_path), 1)
    shutil.rmtree(tmp_path / "servers" / "counts")
    assert value(parsed(counts.together(page(5, [0, 0, 1])).text()), "a_total") == 5


def test_nothing_is_written_while_nothing_is_counted(tmp_path: Path) -> None:
    counts = Counts(Home(tmp_path), 1)
    counts.write(page(1, [0, 0, 1]))
    place = tmp_path / "servers" / "counts" / f"1-{os.getpid()}.counts"
    before = place.stat()
    counts.write(page(1, [0, 0, 1]))
    assert place.stat().st_ino == before.st_ino
    counts.write(page(2, [0, 0, 1]))
    assert place.stat().st_ino != before.st_ino


def test_files_of_servers_that_were_killed_are_removed_at_the_next_start(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = Home(tmp_path).servers / "counts"
    folder.mkdir()
    for leader in (ended.pid, os.getpid()):
        for what in (PAST, "5"):
            (folder / f"{leader}-{what}.counts").write_bytes(b"")
    clear_left(Home(tmp_path))
    assert {file.name.partition("-")[0] for file in folder.iterdir()} == {str(os.getpid())}
