"""What the rule is worth under overload: the real queue in a simulation of one server."""

from collections import Counter, deque
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from everloop.errors import RequestError
from everloop.serve.admission import Queue
from everloop.serve.urgency import HIGH, NORMAL
from queueing import Asked, Group, Job, group


class Policy(Protocol):
    def push(self, job: Job, now: float) -> None: ...
    def take(self, now: float) -> tuple[list[Job], list[Job]]: ...
    def ran(self, group: Group, rows: int, seconds: float) -> None: ...
    def __len__(self) -> int: ...


class Greedy:
    """Takes what is there, refuses nobody."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def push(self, job: Job, now: float) -> None:
        self._jobs.append(job)

    def take(self, now: float) -> tuple[list[Job], list[Job]]:
        return [self._jobs.popleft() for _ in range(min(len(self), self._jobs[0].group.cost.best))], []

    def ran(self, group: Group, rows: int, seconds: float) -> None:
        pass


@dataclass
class Outcome:
    arrivals: Counter[int] = field(default_factory=Counter)
    good: Counter[int] = field(default_factory=Counter)
    late: int = 0
    refused: int = 0
    dropped: int = 0

    @property
    def goodput(self) -> float:
        """The share of all that was answered in time."""
        return self.good.total() / self.arrivals.total()

    @property
    def high(self) -> float:
        return self.good[HIGH] / self.arrivals[HIGH]


def simulated(policy: Policy, model: Group, *, load: float, budgets: tuple[float, float], seconds: float) -> Outcome:
    """One server under Poisson arrivals, a fifth of them high; runs take what they cost give or take 7 %."""
    random = Random(5)
    best = model.cost.best
    rate = load * best / model.cost.predict(best)
    outcome = Outcome()
    arrival, free, now = random.expovariate(rate), 0.0, 0.0
    while arrival < seconds or len(policy):
        if arrival < seconds and (arrival <= free or not len(policy)):
            now = arrival
            priority = HIGH if random.random() < 0.2 else NORMAL
            outcome.arrivals[priority] += 1
            try:
                policy.push(Job(Asked(now, now + budgets[priority != HIGH], priority), model), now)
            except RequestError:
                outcome.refused += 1
            arrival += random.expovariate(rate)
            continue
        now = max(now, free)
        jobs, dropped = policy.take(now)
        outcome.dropped += len(dropped)
        if not jobs:
            continue
        took = model.cost.predict(len(jobs)) * random.gauss(1.0, 0.07)
        free = now + took
        if isinstance(policy, Queue):
            policy.until = now + model.cost.predict(len(jobs)) * policy.stretch
        policy.ran(model, len(jobs), took)
        for job in jobs:
            if free <= job.exchange.deadline:
                outcome.good[job.exchange.priority] += 1
            else:
                outcome.late += 1
    return outcome


def test_under_overload_nearly_all_that_is_possible_is_answered_in_time() -> None:
    """Costs of a convolutional network on one core; 1.3 times what it can do."""
    found = simulated(Queue[Job](), group(0.002, 0.003, 16), load=1.3, budgets=(0.1, 0.4), seconds=30)
    assert found.goodput > 0.95 / 1.3
    assert found.high > 0.98
    assert found.late < 0.02 * found.arrivals.total()
    assert found.dropped < found.refused  # most are told at once
    greedy = simulated(Greedy(), group(0.002, 0.003, 16), load=1.3, budgets=(0.1, 0.4), seconds=30)
    assert greedy.goodput < 0.1


def test_where_the_fixed_cost_dominates_overload_is_survived_too() -> None:
    found = simulated(Queue[Job](), group(0.010, 0.0005, 64), load=1.3, budgets=(0.1, 0.4), seconds=10)
    assert found.goodput > 0.95 / 1.3
    assert found.high > 0.98
    tight = simulated(Queue[Job](), group(0.010, 0.0005, 64), load=1.3, budgets=(0.05, 0.2), seconds=10)
    assert tight.goodput > 0.73 / 1.3  # half of 50 ms is less than the best batch takes
    assert tight.high > 0.95
    greedy = simulated(Greedy(), group(0.010, 0.0005, 64), load=1.3, budgets=(0.05, 0.2), seconds=10)
    assert greedy.goodput < 0.1


def test_below_its_limit_the_rule_refuses_nobody() -> None:
    for load in (0.1, 0.7, 0.9):
        found = simulated(Queue[Job](), group(0.002, 0.003, 16), load=load, budgets=(0.1, 0.4), seconds=20)
        assert found.goodput > 0.995
