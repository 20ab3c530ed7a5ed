"""`shoal doctor --fleet`: every node measures itself, all at once as in a job; then what they would make of one."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable
from statistics import median

import msgspec

from agents.batch_controller.links import streams_for
from bus.port import Interest, Receipt
from runners.client import Client
from runners.fleet_forecast import Forecast, Machine, forecast
from runners.fleet_view import NodeRow, look_at_nodes
from schemas.appraisal import NodeValue
from schemas.jobs import JobRequest
from schemas.measuring import PATIENCE, Carried, MeasureNode, NodeMeasured
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeProfile
from schemas.wire import Message

GRACE = 5.0  # seconds more for its answer to be here


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One node."""

    node: str
    problem: str = ""
    """Why it isn't counted on; empty: it is."""
    device: str = ""
    step_ms: float | None = None
    samples_per_second: float | None = None
    """By itself."""
    up_mbit_per_s: float | None = None
    down_mbit_per_s: float | None = None
    streams: int = 1
    link: str | None = None
    """Grade."""
    value: NodeValue | None = None
    """What it would be worth to the job; null where that can't be said."""


class FleetFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet that was measured."""

    workload: str
    nodes: tuple[Figures, ...]
    forecast: Forecast | None
    """Null where fewer than two nodes could be measured."""


async def measure_fleet(
    client: Client, request: JobRequest, seconds: float = PATIENCE, say: Callable[[str], None] = lambda line: None
) -> FleetFigures:
    """Have all nodes that are alive measured with a job's workload.

    Args:
        client: of the fleet.
        request: the job; its id and what else doesn't concern steps are left aside.
        seconds: for each node, after which it is given up.
        say: told what goes on.
    """
    rows = await look_at_nodes(client)
    profiles, links = await _standing(client)
    alive = [row for row in rows if row.alive]
    say(f"measuring {len(alive)} nodes with {request.workload}, up to {seconds:.0f} s")
    answers = await _measured(client, alive, links, request, seconds, say)
    machines = {
        name: Machine(measured=found, profile=profiles[name], link=links.get(name))
        for name, found in answers.items()
        if not found.problem and found.step_seconds and found.up and found.down
    }
    made = forecast(machines, request, random.Random(request.seed)) if len(machines) > 1 else None
    values = {value.node: value for value in made.appraisal.nodes} if made is not None else {}
    figures = tuple(_figures(row, answers.get(row.node), values.get(row.node), seconds) for row in rows)
    return FleetFigures(workload=request.workload, nodes=figures, forecast=made)


async def _standing(client: Client) -> tuple[dict[str, NodeProfile], dict[str, LinkQualityChanged]]:
    profiles: dict[str, NodeProfile] = {}
    links: dict[str, LinkQualityChanged] = {}
    async for message in client.bus.history([Interest(NodeProfile), Interest(LinkQualityChanged)]):
        if isinstance(message, NodeProfile):
            profiles[message.node] = message
        elif isinstance(message, LinkQualityChanged):
            links[message.node] = message
    return profiles, links


async def _measured(
    client: Client,
    alive: list[NodeRow],
    links: dict[str, LinkQualityChanged],
    request: JobRequest,
    seconds: float,
    say: Callable[[str], None],
) -> dict[str, NodeMeasured]:
    """The answers that came in time."""
    ticket = f"m-{secrets.token_hex(4)}"
    answers: dict[str, NodeMeasured] = {}
    all_here = asyncio.Event()

    def take(message: Message, receipt: Receipt | None) -> None:
        if receipt is not None:
            receipt.ack()
        if isinstance(message, NodeMeasured) and message.ticket == ticket and message.node not in answers:
            answers[message.node] = message
            say(f"{message.node}: {message.problem or 'measured'}")
            if answers.keys() >= {row.node for row in alive}:
                all_here.set()

    subscription = await client.bus.subscribe([Interest(NodeMeasured)], take)
    try:
        for row in alive:
            link = links.get(row.node)
            streams = streams_for(link.quality if link is not None else None)
            order = MeasureNode(node=row.node, ticket=ticket, request=request, streams=streams, seconds=seconds)
            await client.publish(order)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + GRACE if alive else 0.0):
                await all_here.wait()
    finally:
        await subscription.stop()
    return answers


def _figures(row: NodeRow, found: NodeMeasured | None, value: NodeValue | None, seconds: float) -> Figures:
    if found is None:
        problem = f"no answer within {seconds + GRACE:.0f} s: is it a Shoal that can measure?" if row.alive else "not alive"
        return Figures(node=row.node, problem=problem, link=row.quality)
    problem = found.problem
    if not problem and not (found.up and found.down):
        problem = "its link carried too little to be measured in time"
    step = median(found.step_seconds) if found.step_seconds else None
    return Figures(
        node=row.node,
        problem=problem,
        device=found.device,
        step_ms=round(1000 * step, 3) if step else None,
        samples_per_second=found.microbatch / step if step else None,
        up_mbit_per_s=_mbit(found.up),
        down_mbit_per_s=_mbit(found.down),
        streams=found.streams,
        link=row.quality,
        value=value,
    )


def _mbit(transfers: tuple[Carried, ...]) -> float | None:
    """Of the largest transfers, the median."""
    if not transfers:
        return None
    largest = max(each.bytes for each in transfers)
    return median(each.bytes * 8e-6 / each.seconds for each in transfers if each.bytes == largest)
