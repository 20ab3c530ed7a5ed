"""Which figures of a node a message carries."""

import msgspec

from schemas.ids import NodeId
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat
from schemas.training import StepTimed, TransferTimed


class Figures(msgspec.Struct, frozen=True):
    """Named figures of a node, in the units of their names."""

    node: NodeId
    values: dict[str, float]


def of_heartbeat(event: NodeHeartbeat) -> Figures:
    """How busy the machine is."""
    values = {"cpu_percent": event.cpu_percent, "memory_used_bytes": float(event.memory_used_bytes)}
    for name in ("temperature_c", "disk_used_part"):
        value = getattr(event, name)
        if value is not None:
            values[name] = value
    for index, gpu in enumerate(event.accelerators):
        values[f"gpu{index}_percent"] = gpu.utilisation_percent
        values[f"gpu{index}_memory_used_bytes"] = float(gpu.memory_used_bytes)
        values[f"gpu{index}_temperature_c"] = gpu.temperature_c
        values[f"gpu{index}_power_w"] = gpu.power_w
        if gpu.ecc_corrected is not None:
            values[f"gpu{index}_ecc_corrected"] = float(gpu.ecc_corrected)
    return Figures(event.node, values)


def of_probe(event: LinkProbed) -> Figures:
    """What the link is like; a lost probe has no round trip."""
    values = {"probe_lost": float(event.rtt_ms is None)}
    if event.rtt_ms is not None:
        values["rtt_ms"] = event.rtt_ms
    return Figures(event.node, values)


def of_steps(event: StepTimed) -> Figures:
    """How fast it trains; nothing where no time was measured."""
    if event.steps == 0 or event.seconds <= 0:
        return Figures(event.node, {})
    values = {"step_ms": 1000 * event.seconds / event.steps, "samples_per_s": event.samples / event.seconds}
    return Figures(event.node, values)


def of_transfer(event: TransferTimed) -> Figures:
    """How fast its link carries tensors."""
    if event.seconds <= 0:
        return Figures(event.node, {})
    return Figures(event.node, {f"{event.direction}_mbit_per_s": event.bytes * 8 / 1e6 / event.seconds})
