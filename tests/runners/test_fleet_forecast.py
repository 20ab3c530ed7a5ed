"""What is forecast of fleets whose machines and links are known, and the words for it."""

import random

import pytest

from runners.cli.measuring import DEFAULT, told
from runners.fleet_forecast import Forecast, Machine, forecast
from runners.jobs import default_workload
from schemas.jobs import JobRequest
from schemas.measuring import Carried, NodeMeasured
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeProfile

REQUEST = JobRequest(kind="train", workload="m:w", microbatch=8, local_steps=100)
PARAMETERS = 1_000_000


def machine(
    node: str, step: float, rate: float = 100e6, latency: float = 0.001, quality: LinkQuality = LinkQuality.EXCELLENT
) -> Machine:
    """With steps and transfers that vary by a tenth."""
    rng = random.Random(node)
    carried = tuple(Carried(bytes=4_000_000, seconds=4e6 / rate * f + latency) for f in (0.9, 1.0, 1.1))
    measured = NodeMeasured(
        node=node,
        ticket="t",
        parameters=PARAMETERS,
        microbatch=8,
        step_seconds=tuple(step * rng.uniform(0.9, 1.1) for _ in range(30)),
        up=carried,
        down=carried,
    )
    link = LinkQualityChanged(
        node=node,
        version=1,
        quality=quality,
        previous=None,
        score=80.0,
        latency_ms=1000 * latency,
        jitter_ms=1.0,
        loss=0.0,
        trend="stable",
        reason="",
    )
    profile = NodeProfile(node=node, version=1, host=node, site=node, cpus=4, memory_bytes=1)
    return Machine(measured=measured, profile=profile, link=link)


def made(*machines: Machine) -> Forecast:
    return forecast({each.measured.node: each for each in machines}, REQUEST, random.Random(1))


def test_equal_machines_with_good_links_add_up() -> None:
    found = made(machine("a", 0.02), machine("b", 0.02), machine("c", 0.02))
    assert 2.2 < found.gain.low < 2.5 < found.gain.value < 2.8 < found.gain.high < 3.05
    assert found.fleet.value == pytest.approx(found.gain.value * 8 / 0.02, rel=0.05)
    assert {value.verdict for value in found.appraisal.nodes} == {"helps"}
    assert found.round_seconds == pytest.approx(2.0, rel=0.2)


def test_steps_in_proportion_to_speed() -> None:
    found = made(machine("a", 0.02), machine("b", 0.06))
    assert found.best == "a"
    assert 1.15 < found.gain.value < 1.34
    assert found.shares["b"].local_steps * 2 < found.shares["a"].local_steps


def test_a_fleet_behind_bad_links_is_no_gain() -> None:
    bad = [machine(name, 0.02, 0.05e6, 0.3, LinkQuality.CRITICAL) for name in ("b", "c")]
    found = made(machine("a", 0.002, 0.05e6, 0.3, LinkQuality.CRITICAL), *bad)
    assert found.gain.high < 1.0
    assert any("no gain" in line for line in told(found))


def test_it_is_told_in_sentences_with_intervals() -> None:
    found = made(machine("a", 0.02), machine("b", 0.02))
    text = "\n".join(told(found))
    assert f"{found.gain.value:.2f} times ({found.gain.low:.2f} to {found.gain.high:.2f}) what {found.best}" in text
    assert "without b the job would be" in text


def test_the_same_measurements_give_the_same_forecast() -> None:
    machines = (machine("a", 0.02), machine("b", 0.03))
    assert made(*machines) == made(*machines)


def test_the_default_workload_is_where_its_name_says() -> None:
    assert DEFAULT.workload == f"{default_workload.__name__}:workload"
    model = default_workload.workload.model()
    batch = default_workload.workload.samples("train").tensors
    assert default_workload.workload.loss(model, list(batch)).item() > 0
