"""What a machine says of itself agrees with the system, and no GPU is no failure."""

import os
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
import pynvml  # type: ignore[import-untyped]
import pytest

from runners.jobs.devices import Machine, usable_cpus


def has_nvidia_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


def test_a_machine_says_what_it_is_made_of() -> None:
    with Machine() as machine:
        reading = machine.read()
    assert 1 <= reading.cpus <= (os.cpu_count() or 1)
    assert reading.memory_bytes == psutil.virtual_memory().total
    assert 0 < reading.memory_used_bytes < reading.memory_bytes
    assert 0 <= reading.cpu_percent <= 100
    assert reading.load_average >= 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_only_cpus_that_may_be_used_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(has_nvidia_driver(), reason="there is an NVIDIA driver here")
def test_no_driver_means_no_accelerators() -> None:
    with Machine() as machine:
        assert machine.read().accelerators == ()


@pytest.mark.skipif(not has_nvidia_driver(), reason="needs an NVIDIA driver")
def test_gpus_are_described() -> None:
    with Machine() as machine:
        gpu = machine.read().accelerators[0]
        assert gpu.name
        assert 0 < gpu.memory_used_bytes <= gpu.memory_bytes
    assert machine.read().accelerators == ()


def test_the_hottest_sensor_of_a_cpu_counts_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sensor(NamedTuple):
        current: float | None

    sensors = {"coretemp": [Sensor(61.0), Sensor(74.0), Sensor(None)], "nvme": [Sensor(90.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    with Machine() as machine:
        assert machine.read().temperature_c == 74.0
        del sensors["coretemp"]
        assert machine.read().temperature_c is None


class Sample(NamedTuple):
    """As NVML tells what a process did in a sixth of a second."""

    pid: int
    smUtil: int  # noqa: N815 - NVML's name


@pytest.mark.parametrize(
    ("told", "percent"),
    [
        ([Sample(os.getppid(), 60), Sample(os.getppid(), 40), Sample(os.getpid(), 90)], 50.0),
        ([Sample(2**22 + 1, 90)], 0.0),  # of another container: it may be one's own
        (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND), 0.0),
        (pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED), None),
    ],
)
def test_what_others_use_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, told: list[Sample] | Exception, percent: float | None
) -> None:
    def utilisation(gpu: object, since: int) -> list[Sample]:
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: object())
    monkeypatch.setattr(pynvml, "nvmlDeviceGetProcessUtilization", utilisation)
    with Machine() as machine:
        assert machine.gpu_percent_of_others({os.getpid()}) == percent


def test_a_gpu_that_fell_off_the_bus_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(index: int) -> object:
        if index == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return object()

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda gpu: "the other")
    for figure in ("MemoryInfo", "UtilizationRates", "Temperature", "PowerUsage"):
        monkeypatch.setattr(pynvml, f"nvmlDeviceGet{figure}", refuses)
    with Machine() as machine:
        assert [gpu.name for gpu in machine.read().accelerators] == ["the other"]


def refuses(*arguments: object) -> object:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
