"""Jobs for a queue, with a cost that the test chooses."""

from dataclasses import dataclass

from everloop.serve.cost import CostLine
from everloop.serve.urgency import NEVER, NORMAL


@dataclass
class Asked:
    arrived: float
    deadline: float = NEVER
    priority: int = NORMAL


@dataclass(eq=False)
class Group:
    cost: CostLine


@dataclass(eq=False)
class Job:
    exchange: Asked
    group: Group
    size: int = 1
    name: str = ""


def line(overhead: float, each: float, best: int) -> CostLine:
    """A cost line that has seen runs of such a model, and its best batch."""
    cost = CostLine()
    for rows in (1, 4, 16):
        cost.observe(rows, overhead + each * rows)
    cost.best = best
    return cost


def group(overhead: float = 0.002, each: float = 0.003, best: int = 16) -> Group:
    return Group(line(overhead, each, best))
