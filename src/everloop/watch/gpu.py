"""GPUs as NVIDIA's management library sees them; none where it is not installed. Needs no package: it is called as C.

Names and structures are those of NVML's own reference (nvmlDeviceGetUtilizationRates, nvmlDeviceGetMemoryInfo, …).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

LIBRARY = "libnvidia-ml.so.1"
SUCCESS = 0
OF_CHIP = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device. ``busy``: the share of the last moment in which something ran; None where a figure is not told."""

    index: int
    name: str
    busy: float | None
    memory_used: int | None
    memory_size: int | None
    celsius: int | None
    watts: float | None


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


@cache
def _library() -> ctypes.CDLL | None:
    """Opened once in a process: without a driver it never comes."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    return library if library.nvmlInit_v2() == SUCCESS else None


def look() -> tuple[Gpu, ...]:
    library = _library()
    if library is None:
        return ()
    count = ctypes.c_uint()
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != SUCCESS:
        return ()
    found = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == SUCCESS:
            found.append(_one(library, index, device))
    return tuple(found)


def _one(library: ctypes.CDLL, index: int, device: ctypes.c_void_p) -> Gpu:
    name = ctypes.create_string_buffer(96)
    used, memory = _Utilization(), _Memory()
    celsius, milliwatts = ctypes.c_uint(), ctypes.c_uint()
    named = library.nvmlDeviceGetName(device, name, 96) == SUCCESS
    # A device that is divided into instances tells no rate of its own.
    told = library.nvmlDeviceGetUtilizationRates(device, ctypes.byref(used)) == SUCCESS
    held = library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == SUCCESS
    warm = library.nvmlDeviceGetTemperature(device, OF_CHIP, ctypes.byref(celsius)) == SUCCESS
    drawn = library.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts)) == SUCCESS
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace") if named else "",
        busy=used.gpu / 100 if told else None,
        memory_used=memory.used if held else None,
        memory_size=memory.total if held else None,
        celsius=celsius.value if warm else None,
        watts=milliwatts.value / 1000 if drawn else None,
    )
