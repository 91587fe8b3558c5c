"""Which executor a loop's jobs run on: what everloop.toml says. Runs nothing."""

from __future__ import annotations

from everloop.jobs.process import ProcessExecutor
from everloop.jobs.ray import ray
from everloop.loop.installation import Installation
from everloop.loop.preload import modules


def executor_of(installation: Installation) -> ProcessExecutor:
    """One that stands by with what the fit needs."""
    if installation.environment.executor == "ray":
        return ray(installation.environment.ray)
    return ProcessExecutor(preload=modules(installation.loop))
