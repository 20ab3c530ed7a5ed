"""What a machine says of itself agrees with the system, and no GPU is no failure."""

import os

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
