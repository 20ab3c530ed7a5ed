"""Commands by which a person takes a node out for a while: pause, resume."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from bus.port import Interest
from runners.cli.common import (
    DEFAULT_STORE,
    MACHINES,
    ServerOption,
    StoreOption,
    console,
    example,
    fail,
    joined,
    run_async,
    told,
)
from runners.client import Client
from schemas.ids import token
from schemas.nodes import NodeProfile, NodeYielding, PauseNode

ANSWER_SECONDS = 3.0  # for the node to answer: a bad link's delay several times over

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The node's name; `shoal nodes` lists them.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="WORDS", help="What views and reports say it is for.")]


def pause(
    node: NodeArgument,
    reason: ReasonOption = "a user's choice",
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Pause a node: its jobs go on elsewhere until `shoal resume`, even if it is restarted."""
    _order(node, True, reason, server, store)


def resume(
    node: NodeArgument,
    reason: ReasonOption = "a user's choice",
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Let a node that was paused by hand go on."""
    _order(node, False, reason, server, store)


def _order(node: str, pauses: bool, reason: str, server: str | None, store: Path) -> None:
    with told():
        order = PauseNode(node=token(node), pause=pauses, reason=reason, version=int(time.time() * 1000))

    async def work() -> NodeYielding | None:
        async with await joined(server, store) as client:
            known = [m async for m in client.bus.history([Interest(NodeProfile, {"node": order.node})])]
            if not known:
                fail(f"no node is named {order.node}: `shoal nodes` lists them")
            return await _give(client, order)

    answer = run_async(work())
    if answer is not None:
        console.print(f"{order.node} {answer.reason}", markup=False, soft_wrap=True)
    else:
        then = "pauses" if order.pause else "no longer pauses by hand"
        console.print(f"{order.node} has nothing to change, or is out of reach: it {then} once it hears this", markup=False)


async def _give(client: Client, order: PauseNode) -> NodeYielding | None:
    """Give the order; the node's word on it, None where it says nothing."""
    await client.publish(order)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            async for event in client.events(f"shoal.nodes.{order.node}.yielding", past=True):
                if isinstance(event, NodeYielding) and event.cause == order.id:
                    return event
    return None


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(rich_help_panel=MACHINES, epilog=example("shoal pause attic", "shoal pause attic --reason 'a game'"))(pause)
    app.command(rich_help_panel=MACHINES, epilog=example("shoal resume attic"))(resume)
