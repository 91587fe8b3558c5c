"""Which executor a loop's jobs run on: what everloop.toml says. Runs nothing."""

from __future__ import annotations

from everloop.jobs.process import ProcessExecutor
from everloop.jobs.ray import ray
from everloop.loop.environment import Environment
from everloop.loop.preload import modules
from everloop.spec.loop import Loop


def executor_of(environment: Environment, loop: Loop, *, standing: bool = True) -> ProcessExecutor:
    """One that stands by with what the fit needs, unless its jobs stay for long themselves (``standing=False``)."""
    if environment.executor == "ray":
        return ray(environment.ray)
    return ProcessExecutor(preload=modules(loop) if standing else ())
