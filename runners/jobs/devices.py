"""What a machine is made of and how busy it is: psutil for CPU and memory, NVML for NVIDIA GPUs. No torch in here.

Node agents read this once a heartbeat; a reading takes well under a millisecond without a GPU.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec
import psutil  # type: ignore[import-untyped]
import pynvml  # type: ignore[import-untyped]

from schemas.nodes import Accelerator

_T = TypeVar("_T")

# Linux drivers that read a CPU's own sensors: Intel, AMD (two), and those of ARM boards. Disks and radios have others.
CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")


class MachineReading(msgspec.Struct, frozen=True, kw_only=True):
    """A machine at one moment."""

    cpus: int
    """Logical CPUs that this process may use (its affinity), which containers and `taskset` make fewer."""
    cpu_percent: float
    """Of all CPUs since the previous reading, 0 to 100; 0 in the first."""
    load_average: float
    """Processes that wanted a CPU, mean of the last minute."""
    memory_bytes: int
    memory_used_bytes: int
    """Total less what could be had without swapping."""
    accelerators: tuple[Accelerator, ...]
    temperature_c: float | None = None
    """Of the hottest CPU sensor, degrees Celsius; None where there is none to read."""


class Machine:
    """Reads the machine it runs on. Holds NVML open; use it as a context manager or call `close`."""

    def __init__(self) -> None:
        self._gpus: list[object] = []
        self._nvml = False
        self._seen_at = 0
        psutil.cpu_percent(interval=None)  # the first call only sets the mark that later ones count from
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return  # no NVIDIA driver: a machine without such GPUs
        self._nvml = True
        for index in range(_figure(pynvml.nvmlDeviceGetCount, 0)):
            with contextlib.suppress(pynvml.NVMLError):  # one that fell off the bus, or isn't ours to look at
                self._gpus.append(pynvml.nvmlDeviceGetHandleByIndex(index))

    def read(self) -> MachineReading:
        """The present figures. What a GPU doesn't tell is 0, as in the message they go into."""
        memory = psutil.virtual_memory()
        return MachineReading(
            cpus=usable_cpus(),
            cpu_percent=psutil.cpu_percent(interval=None),
            load_average=psutil.getloadavg()[0],
            memory_bytes=memory.total,
            memory_used_bytes=memory.total - memory.available,
            accelerators=tuple(_accelerator(gpu) for gpu in self._gpus),
            temperature_c=_cpu_temperature(),
        )

    def gpu_percent_of_others(self, own: Collection[int]) -> float | None:
        """What processes not in `own` used since the last call of the GPU they use most; None where no GPU tells.

        Processes that can't be seen from here (of another container) count for nobody: they may be one's own.
        """
        told: list[float] = []
        since, self._seen_at = self._seen_at, time.time_ns() // 1000
        for gpu in self._gpus:
            with contextlib.suppress(pynvml.NVMLError):  # one that doesn't tell
                told.append(_percent_of_others(gpu, since, own))
        return max(told, default=None)

    def close(self) -> None:
        """Lets go of NVML; reading afterwards shows no GPUs."""
        self._gpus.clear()
        if self._nvml:
            self._nvml = False
            pynvml.nvmlShutdown()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def usable_cpus() -> int:
    """Logical CPUs that this process may run on; those of the machine where the system doesn't tell (macOS, Windows)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def disk_used_part(path: Path) -> float | None:
    """Of the disk that a folder is on, 0 to 1, as a user who isn't root sees it; None where it can't be asked."""
    try:
        return float(psutil.disk_usage(str(path)).percent) / 100
    except OSError:
        return None


def _errors(gpu: object, kind: int) -> int | None:
    """Of its memory, since the driver was loaded; None where it doesn't count them."""
    found = _figure(lambda: int(pynvml.nvmlDeviceGetTotalEccErrors(gpu, kind, pynvml.NVML_VOLATILE_ECC)), -1)
    return found if found >= 0 else None


def _accelerator(gpu: object) -> Accelerator:
    name = _figure(lambda: pynvml.nvmlDeviceGetName(gpu), "NVIDIA GPU")
    total, used = _figure(lambda: _memory(gpu), (0, 0))
    return Accelerator(
        name=name.decode() if isinstance(name, bytes) else name,
        memory_bytes=total,
        memory_used_bytes=used,
        utilisation_percent=float(_figure(lambda: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu, 0)),
        temperature_c=float(_figure(lambda: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU), 0)),
        power_w=_figure(lambda: pynvml.nvmlDeviceGetPowerUsage(gpu), 0) / 1000.0,  # NVML tells milliwatts
        ecc_corrected=_errors(gpu, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=_errors(gpu, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    )


def _cpu_temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):  # macOS, Windows
        return None
    sensors = psutil.sensors_temperatures()
    found = [sensor.current for chip in CPU_SENSORS for sensor in sensors.get(chip, ()) if sensor.current]
    return max(found, default=None)


def _percent_of_others(gpu: object, since: int, own: Collection[int]) -> float:
    """NVML's samples of each process since a time in microseconds of the epoch, the mean of each one's summed up."""
    try:
        samples = pynvml.nvmlDeviceGetProcessUtilization(gpu, since)
    except pynvml.NVMLError_NotFound:
        return 0.0  # nobody used it
    by_process: dict[int, list[int]] = {}
    for sample in samples:
        if sample.pid not in own and psutil.pid_exists(sample.pid):
            by_process.setdefault(sample.pid, []).append(sample.smUtil)
    return min(100.0, sum(sum(parts) / len(parts) for parts in by_process.values()))


def _memory(gpu: object) -> tuple[int, int]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return memory.total, memory.used


def _figure(read: Callable[[], _T], otherwise: _T) -> _T:
    """A figure, or another where this GPU doesn't have it (passively cooled, virtual, or partitioned ones)."""
    try:
        return read()
    except pynvml.NVMLError:
        return otherwise
