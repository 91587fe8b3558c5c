"""Runs a job on a Ray cluster. Knows nothing of what the job does.

The folder, the result and the errors are those of any job; the folder must lie where every machine of the cluster finds it
under the same path. Ray itself is loaded only by the agent that stands between (`everloop.jobs.ray_agent`).
"""

from everloop.jobs.process import ProcessExecutor

RESTARTS = 3
"""How often ranks that train together are started again after one of them died, before the job has failed."""


def ray(address: str = "auto", *, cpus: float = 1.0, gpus: float = 0.0) -> ProcessExecutor:
    """An executor whose jobs each run as one task of so many processors and graphics processors.

    ``address``: ``auto`` (the cluster that this machine belongs to), ``host:port``, or ``ray://host:port``.
    """
    # An agent that has connected stands by, so that a job does not begin with seconds of that.
    return ProcessExecutor(
        preload=("ray",), launcher=("everloop.jobs.ray_agent", address, "1", str(cpus), str(gpus), "0")
    )


def ray_train(address: str, processes: int, *, cpus: float = 1.0, gpus: float = 0.0) -> ProcessExecutor:
    """An executor whose jobs run in so many processes of the cluster that train together, by Ray Train.

    When one dies, Ray Train starts all of them again; what they go on from is their own checkpoint.
    """
    launcher = ("everloop.jobs.ray_agent", address, str(processes), str(cpus), str(gpus), str(RESTARTS))
    return ProcessExecutor(launcher=launcher)
