"""What the queue looks at of the jobs that wait. Knows nothing of what they are."""

from typing import Protocol


class Waiting(Protocol):
    """What is looked at of a request; see everloop.serve.urgency."""

    @property
    def arrived(self) -> float: ...
    @property
    def deadline(self) -> float: ...
    @property
    def priority(self) -> int: ...


class Cost(Protocol):
    overhead: float
    each: float

    def size(self, waiting: int) -> int:
        """The most rows that go together."""
        ...


class Group(Protocol):
    @property
    def cost(self) -> Cost: ...


class Job(Protocol):
    @property
    def exchange(self) -> Waiting: ...

    @property
    def size(self) -> int:
        """Rows."""
        ...

    @property
    def group(self) -> Group:
        """Only jobs of one group go together."""
        ...
