"""A look at the nodes of a fleet: profiles and links as they are stored, heartbeats as they come."""

import asyncio
import contextlib

import msgspec

from bus.port import Interest, Receipt
from runners.client import Client
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeProfile, NodeYielding
from schemas.wire import Message

# Seconds to wait for heartbeats of nodes that are silent: two beats at 1 Hz, and the slowest emulated link's delay.
LISTEN = 2.5


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A node in one row."""

    node: str
    alive: bool
    host: str
    cpus: int
    memory_bytes: int
    accelerators: tuple[str, ...]
    torch: str
    emulated_link: str
    slowdown: float
    step_time_ms: float
    quality: str | None
    score: float | None
    jobs: tuple[str, ...]
    cpu_percent: float | None
    yielding: str = ""
    """Why it gives way to its owner; empty: it doesn't."""


async def look_at_nodes(client: Client) -> list[NodeRow]:
    """All nodes that ever introduced themselves here, by name; `alive` are those whose heart beats now."""
    beats: dict[str, NodeHeartbeat] = {}
    profiles: dict[str, NodeProfile] = {}
    links: dict[str, LinkQualityChanged] = {}
    yields: dict[str, NodeYielding] = {}

    beat = asyncio.Event()

    def take(message: Message, receipt: Receipt | None) -> None:
        if isinstance(message, NodeHeartbeat):
            beats[message.node] = message
            beat.set()

    subscription = await client.bus.subscribe([Interest(NodeHeartbeat)], take)
    async for message in client.bus.history([Interest(NodeProfile), Interest(LinkQualityChanged), Interest(NodeYielding)]):
        if isinstance(message, NodeProfile):
            profiles[message.node] = message
        elif isinstance(message, LinkQualityChanged):
            links[message.node] = message
        elif isinstance(message, NodeYielding):
            yields[message.node] = message
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LISTEN):
            while not profiles.keys() <= beats.keys():
                beat.clear()
                await beat.wait()
    await subscription.stop()
    return [_row(profile, links.get(name), beats.get(name), yields.get(name)) for name, profile in sorted(profiles.items())]


def _row(
    profile: NodeProfile, link: LinkQualityChanged | None, beat: NodeHeartbeat | None, word: NodeYielding | None
) -> NodeRow:
    yields = word is not None and word.yielding and word.version > profile.version
    return NodeRow(
        node=profile.node,
        alive=beat is not None,
        host=profile.host,
        cpus=profile.cpus,
        memory_bytes=profile.memory_bytes,
        accelerators=tuple(a.name for a in profile.accelerators),
        torch=profile.torch,
        emulated_link=profile.emulated_link,
        slowdown=profile.slowdown,
        step_time_ms=profile.step_time_ms,
        quality=link.quality.value if link else None,
        score=link.score if link else None,
        jobs=beat.jobs if beat else (),
        cpu_percent=beat.cpu_percent if beat else None,
        yielding=word.reason if word is not None and yields else "",
    )
