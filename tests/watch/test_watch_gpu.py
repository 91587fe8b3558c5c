"""GPUs through NVIDIA's library: called as its reference says, and none where it is not there or fails.

No driver is at hand where this runs: a library with the documented functions and structures, compiled here, stands for it.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from everloop.watch import gpu

SOURCE = r"""
#include <string.h>
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;
static int devices[3] = {0, 1, 2};
int nvmlInit_v2(void) { return FAILS; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = &devices[index]; return index == 1 ? 15 : 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned int length) { strncpy(name, "NVIDIA \xff made", length); return 0; }
int nvmlDeviceGetUtilizationRates(void *device, utilization *found) { found->gpu = 37; found->memory = 5; return *(int *)device == 2 ? 3 : 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *found) { found->total = 80ULL << 30; found->free = 60ULL << 30; found->used = 20ULL << 30; return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *found) { *found = sensor == 0 ? 61 : 0; return 0; }
int nvmlDeviceGetPowerUsage(void *device, unsigned int *found) { *found = 312500; return 0; }
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    gpu._library.cache_clear()
    yield
    gpu._library.cache_clear()


def library(folder: Path, monkeypatch: pytest.MonkeyPatch, *, fails: int = 0) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here")
    (folder / "nvml.c").write_text(SOURCE)
    made = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-DFAILS={fails}", "-o", str(made), str(folder / "nvml.c")],
        check=True,
        timeout=60,
    )
    monkeypatch.setattr(gpu, "LIBRARY", str(made))


def test_each_device_tells_what_it_tells_and_one_that_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path, monkeypatch)
    first, last = gpu.look()
    assert (first.index, last.index) == (0, 2)
    assert first.name == "NVIDIA \ufffd made"
    assert first.busy == 0.37
    assert (first.memory_used, first.memory_size) == (20 << 30, 80 << 30)
    assert (first.celsius, first.watts) == (61, 312.5)
    assert last.busy is None, "a device that is divided tells no rate"


def test_a_driver_that_does_not_start_and_none_at_all_are_no_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library(tmp_path, monkeypatch, fails=9)
    assert gpu.look() == ()
    gpu._library.cache_clear()
    monkeypatch.setattr(gpu, "LIBRARY", "libnvidia-ml-that-is-not-there.so.1")
    assert gpu.look() == ()
