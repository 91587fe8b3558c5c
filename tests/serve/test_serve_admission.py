"""Who goes next and who is turned away: the rule alone, under a clock that the test moves."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everloop.errors import RequestError
from everloop.serve import admission
from everloop.serve.admission import Queue
from everloop.serve.cost import LARGEST, CostLine
from everloop.serve.urgency import GONE, HIGH, LOW, NEVER, NORMAL
from queueing import Asked, Group, Job, group


def names(jobs: list[Job]) -> list[str]:
    return [job.name for job in jobs]


def refusal(queue: Queue[Job], job: Job, now: float) -> RequestError:
    before = len(queue), queue.rows
    with pytest.raises(RequestError) as raised:
        queue.push(job, now)
    assert (len(queue), queue.rows) == before
    return raised.value


# The order


def test_requests_that_ask_for_nothing_leave_in_the_order_they_came() -> None:
    queue, model = Queue[Job](), group(best=4)
    for n in range(10):
        queue.push(Job(Asked(n / 100), model, name=str(n)), n / 100)
    taken = [names(queue.take(1.0)[0]) for _ in range(3)]
    assert taken == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    assert (len(queue), queue.rows) == (0, 0)


def test_the_high_class_goes_first_and_within_a_class_the_earliest_deadline() -> None:
    queue, model = Queue[Job](), group(best=2)
    for name, priority, deadline in (
        ("slow", NORMAL, 0.9), ("none", NORMAL, NEVER), ("low", LOW, 0.2), ("soon", NORMAL, 0.5),
        ("high slow", HIGH, 0.8), ("high soon", HIGH, 0.4),
    ):  # fmt: skip
        queue.push(Job(Asked(0.0, deadline, priority), model, name=name), 0.0)
    order = [name for _ in range(3) for name in names(queue.take(0.0)[0])]
    assert order == ["high soon", "high slow", "soon", "slow", "none", "low"]


def test_what_comes_out_of_order_turns_the_plain_queue_into_an_ordered_one() -> None:
    queue, model = Queue[Job](), group(best=8)
    queue.push(Job(Asked(0.0), model, name="first"), 0.0)
    queue.push(Job(Asked(0.1), model, name="second"), 0.1)
    queue.push(Job(Asked(0.1, 0.2), model, name="hurried"), 0.1)
    assert names(queue.take(0.1)[0]) == ["hurried", "first", "second"]
    queue.push(Job(Asked(0.2), model, name="later"), 0.2)
    assert names(queue.take(0.2)[0]) == ["later"]


def test_what_has_no_deadline_and_the_low_class_do_not_starve() -> None:
    """The normal class alone asks for more than there is, each request within half a second; others still come on."""
    queue, model = Queue[Job](), group(0.0, 0.01, 4)
    ran: dict[str, float] = {}
    now, arrival = 0.0, 0.0
    while now < 5.0 and len(ran) < 2:
        while arrival <= now:
            with suppress(RequestError):
                queue.push(Job(Asked(arrival, arrival + 0.5), model), arrival)
            arrival += 0.005
            if arrival == pytest.approx(1.0):
                queue.push(Job(Asked(1.0), model, name="patient"), now)
                queue.push(Job(Asked(1.0, NEVER, LOW), model, name="low"), now)
        jobs, _ = queue.take(now)
        ran.update({job.name: now for job in jobs if job.name})
        now += 0.01 * len(jobs)
    assert 1.3 < ran["patient"] < 2.1
    assert 2.0 < ran["low"] < 3.1


# Refused and dropped


def test_a_request_that_would_be_late_is_refused_before_it_waits() -> None:
    queue, model = Queue[Job](), group(best=4)
    for n in range(16):  # four batches of 14 ms
        queue.push(Job(Asked(0.0, 0.060), model, name=str(n)), 0.0)
    error = refusal(queue, Job(Asked(0.0, 0.060), model), 0.0)
    assert (error.status, error.reason) == (503, "deadline")
    assert "after its deadline of 60 ms" in str(error)
    assert error.retry_after == pytest.approx(4 * 0.014 + 0.005 - 0.060)
    queue.push(Job(Asked(0.0, 0.060, HIGH), model, name="ahead of them"), 0.0)
    queue.push(Job(Asked(0.0, 0.090), model, name="has more time"), 0.0)


def test_what_runs_now_counts_for_a_request_that_comes() -> None:
    queue, model = Queue[Job](), group()
    queue.until = 10.050
    error = refusal(queue, Job(Asked(10.0, 10.050), model), 10.0)
    assert error.retry_after == pytest.approx(0.005)
    queue.push(Job(Asked(10.0, 10.060), model), 10.0)


def test_a_request_that_can_never_be_in_time_is_told_so() -> None:
    error = refusal(Queue[Job](), Job(Asked(0.0, 0.100), group(), size=1000), 0.0)
    assert error.reason == "deadline"
    assert "by itself" in str(error)
    assert "send fewer rows" in str(error)


def test_what_became_late_while_it_waited_is_dropped_before_its_run() -> None:
    queue, model = Queue[Job](), group(best=2)
    for n in range(4):
        queue.push(Job(Asked(0.0, 0.040), model, name=str(n)), 0.0)
    assert names(queue.take(0.0)[0]) == ["0", "1"]
    jobs, dropped = queue.take(0.035)  # two would be done at 0.043
    assert jobs == []
    assert names(dropped) == ["2", "3"]
    assert (len(queue), queue.rows) == (0, 0)


def test_a_batch_is_made_smaller_where_that_saves_a_request_and_costs_little() -> None:
    queue, model = Queue[Job](), group(best=16)
    queue.push(Job(Asked(-0.080, 0.020), model, name="hurried"), -0.080)
    for _ in range(7):
        queue.push(Job(Asked(0.0, 0.200), model), 0.0)
    jobs, dropped = queue.take(0.0)  # all eight would take 26 ms
    assert (jobs[0].name, len(jobs), dropped) == ("hurried", 6, [])


def test_a_request_whose_client_has_left_is_not_run() -> None:
    for priority in (NORMAL, HIGH):
        queue, model = Queue[Job](), group()
        for n in range(4):
            queue.push(Job(Asked(0.0, NEVER, priority), model, name=str(n)), 0.0)
        everybody = list(queue._plain) or [entry[2] for entry in queue._high]
        for job in everybody[1:3]:
            job.exchange.deadline = GONE
        jobs, dropped = queue.take(0.0)
        assert (names(jobs), names(dropped)) == (["0", "3"], ["1", "2"])


def test_the_queue_is_bounded_by_predicted_seconds() -> None:
    queue, model = Queue[Job](), group(0.0, 0.1, 10)
    for _ in range(99):
        queue.push(Job(Asked(0.0), model), 0.0)
    queue.push(Job(Asked(0.0), model), 0.0)
    queue.push(Job(Asked(0.0, NEVER, HIGH), model), 0.0)
    error = refusal(queue, Job(Asked(0.0), model), 0.0)
    assert (error.status, error.reason) == (503, "queue_full")
    assert error.retry_after is not None
    assert 1.0 < error.retry_after < 10.2
    queue.push(Job(Asked(0.0, NEVER, HIGH), model), 0.0)


def test_the_queue_is_bounded_by_rows() -> None:
    queue, model = Queue[Job](), group(0.0, 1e-7, LARGEST)
    for _ in range(13):
        queue.push(Job(Asked(0.0), model, size=4096), 0.0)
    assert queue.rows > admission.WAITING_ROWS
    assert refusal(queue, Job(Asked(0.0), model), 0.0).reason == "queue_full"
    queue.push(Job(Asked(0.0, NEVER, HIGH), model), 0.0)


# How large a batch is


def test_a_batch_takes_no_more_than_half_of_the_tightest_time_given() -> None:
    queue, model = Queue[Job](), group(0.010, 0.0005, 64)
    for n in range(200):
        deadline = 0.050 if n == 0 else 1.0
        queue.push(Job(Asked(0.0, deadline), model), 0.0)
    sizes = [len(queue.take(0.0)[0]) for _ in range(3)]
    assert sizes == [30, 30, 30]
    for _ in range(200):
        queue.push(Job(Asked(25.0), model), 25.0)
    queue.take(25.0)
    assert len(queue.take(50.0)[0]) == 64  # nobody was in a hurry for a while


def test_one_hurried_client_does_not_halve_the_rate_of_the_rest() -> None:
    queue, model = Queue[Job](), group(0.010, 0.0005, 64)
    queue.push(Job(Asked(0.0, 0.011), model), 0.0)
    assert len(queue.take(0.0)[0]) == 1
    for _ in range(100):
        queue.push(Job(Asked(0.0), model), 0.0)
    rows = len(queue.take(0.0)[0])
    assert rows / model.cost.predict(rows) > 0.5 * 64 / model.cost.predict(64)


def test_what_larger_batches_cost_is_learned_where_only_single_rows_were_seen() -> None:
    """Everybody is in a hurry, and the line of a model that was warmed with one row makes two look twice as dear."""
    queue, model = Queue[Job](), Group(CostLine())
    for _ in range(3):
        model.cost.observe(1, 0.0105)
    sizes = []
    for turn in range(20):
        for _ in range(50):
            queue.push(Job(Asked(float(turn), turn + 0.040), model), turn) if len(queue) < 2 else None
            queue.push_all([Job(Asked(float(turn)), model)], turn)
        jobs, _ = queue.take(float(turn))
        model.cost.observe(len(jobs), 0.010 + 0.0005 * len(jobs))
        sizes.append(len(jobs))
    assert sizes[0] <= 2
    assert sizes[-1] >= 20


def test_jobs_of_two_releases_never_share_a_batch() -> None:
    for priority in (NORMAL, HIGH):
        queue, old, new = Queue[Job](), group(), group()
        for n in range(6):
            queue.push(Job(Asked(0.0, NEVER, priority), old if n < 3 else new, name=str(n)), 0.0)
        queue.push(Job(Asked(0.0), new, name="6"), 0.0)
        batches = []
        while queue:
            jobs, _ = queue.take(0.0)
            assert len({id(job.group) for job in jobs}) == 1
            batches.append(names(jobs))
        assert batches == [["0", "1", "2"], ["3", "4", "5", "6"]]


def test_a_small_request_gets_in_between_the_pieces_of_a_large_one() -> None:
    queue, model = Queue[Job](), group(0.0, 0.001, 100)
    large = Asked(0.0)
    queue.push_all([Job(large, model, size=100, name=f"piece {n}") for n in range(50)], 0.0)
    assert queue.rows == 5000
    order: list[str] = []
    now, arrived = 0.0, 0.45
    while queue:
        if now >= arrived and not any(name == "small" for name in order):
            queue.push(Job(Asked(arrived), model, name="small"), now)
            arrived = NEVER
        jobs, _ = queue.take(now)
        order += names(jobs)
        now += 0.001 * sum(job.size for job in jobs)
    assert 5 <= order.index("small") <= 16  # of 51: a second behind, like everybody
    assert [name for name in order if name != "small"] == [f"piece {n}" for n in range(50)]


def test_an_expected_time_is_learned_from_what_batches_take() -> None:
    queue, model = Queue[Job](), group(0.0, 0.001, 100)
    random = Random(1)
    for _ in range(400):
        queue.ran(model, 10, 0.010 * random.uniform(2.0, 3.0))
    assert 2.6 < queue.stretch < 3.0
    for _ in range(400):
        queue.ran(model, 10, 0.010)
    assert queue.stretch == pytest.approx(1.0, rel=0.05)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "large", "leave", "take"]),
            st.integers(0, 2),
            st.one_of(st.just(NEVER), st.floats(0.001, 2.0)),
            st.integers(1, 20),
            st.floats(0.0, 0.3),
        ),
        max_size=60,
    )
)
def test_every_request_leaves_exactly_once_and_none_runs_late(
    steps: list[tuple[str, int, float, int, float]],
) -> None:
    queue, models, now = Queue[Job](), [group(best=4), group(0.01, 0.0005, 64)], 0.0
    waiting: dict[int, Job] = {}

    def take() -> float:
        jobs, dropped = queue.take(now)
        for job in jobs + dropped:
            del waiting[id(job)]
        assert all(job.exchange.deadline >= now + jobs[0].group.cost.predict(queue.taken) - 1e-9 for job in jobs)
        assert queue.taken == sum(job.size for job in jobs)
        assert queue.rows == sum(job.size for job in waiting.values())
        return jobs[0].group.cost.predict(queue.taken) if jobs else 0.0

    for what, priority, budget, size, pause in steps:
        now += pause
        exchange, model = Asked(now, now + budget, priority), models[size % 2]
        if what == "leave" and waiting:
            next(iter(waiting.values())).exchange.deadline = GONE
        elif what == "take":
            now += take()
        else:
            jobs = [Job(exchange, model, size) for _ in range(1 if what == "push" else 5)]
            try:
                queue.push(jobs[0], now) if what == "push" else queue.push_all(jobs, now)
            except RequestError:
                continue
            waiting.update({id(job): job for job in jobs})
    for _ in range(1000):
        if not queue:
            break
        now += take()
    assert not waiting
    assert (len(queue), queue.rows) == (0, 0)
