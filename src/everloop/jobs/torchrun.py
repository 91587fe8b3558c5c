"""Runs a job in several processes that train together, by torchrun's agent. Knows nothing of what the job does.

The folder, the result and the errors are those of any job; each process sees its rank and the world in its context, and
only rank 0 leaves the result, which counts once all have ended well. When one dies, the agent ends the others and starts
all of them again; what they go on from is their own checkpoint.
"""

from everloop.jobs.process import ProcessExecutor

RESTARTS = 3
"""How often all processes are started again after one of them died, before the job has failed."""


def torchrun(processes: int, *, restarts: int = RESTARTS) -> ProcessExecutor:
    """An executor whose jobs run in so many processes on this machine."""
    return ProcessExecutor(launcher=("everloop.jobs.agent", str(processes), str(restarts)))
