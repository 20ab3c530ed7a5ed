"""`shoal leaf`: the server of a site whose nodes share one outbound connection to the fleet."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bus.nats import NatsBus
from bus.port import Unreachable
from bus.server import EmbeddedServer, ServerExited, ServerRestarted
from bus.server_parts import LEAF, remotes_part
from bus.several import address_of, each_of
from runners.address import parse_server
from runners.supervisor import Supervisor
from schemas.errors import ShoalError

_ASK_EVERY = 1.0  # seconds between attempts while the fleet is out of reach; the site's server tries as often


class NoToken(ShoalError):
    """A fleet's address without the token that lets sites in."""

    def __init__(self) -> None:
        super().__init__("--server has no token: give it as `shoal up --leaves PORT` printed it, nats://TOKEN@HOST:PORT")


@dataclass(frozen=True, kw_only=True)
class LeafOptions:
    """What `shoal leaf` was asked for."""

    server: str
    """Where the fleet lets sites in, with the token; several with commas between."""
    store: Path
    listen: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    """What the site's own clients must present; None on loopback."""
    say: Callable[[str], None] = print
    warn: Callable[[str], None] = print


def leaf_server(options: LeafOptions) -> EmbeddedServer:
    """The site's server, not started yet.

    Raises:
        NoToken, BadServer: of the fleet's address.
        ServerRefused, BadToken: of the site's own.
    """
    fleet = parse_server(options.server)
    if not isinstance(fleet.token, str):
        raise NoToken

    def ended(event: ServerExited) -> None:
        options.warn(f"{event.name} ended and starts again in {event.restart_in:.1f} s")

    def back(event: ServerRestarted) -> None:
        options.warn(f"{event.name}: runs again after {event.down_s:.1f} s")

    return EmbeddedServer(
        options.store,
        listen=options.listen,
        port=options.port,
        token=options.token,
        config=LEAF,
        parts=(remotes_part(each_of(fleet.url), fleet.token),),
        on_exit=ended,
        on_restart=back,
    )


async def run_leaf(options: LeafOptions) -> str | None:
    """Run the site's server until a signal comes; gives the signal's name.

    Raises:
        ShoalError: it could not be started.
    """
    server = leaf_server(options)
    supervisor = Supervisor(options.store, server=server)

    async def work() -> None:
        await server.start()
        await _fleet_answers(options, server)
        options.say(f"ready {server.url}")
        if options.token is not None:
            options.say(f"on another machine of this site: shoal node --server {server.join_url}")
        await asyncio.Event().wait()

    await supervisor.run(work())
    return supervisor.signalled.name if supervisor.signalled else None


async def _fleet_answers(options: LeafOptions, server: EmbeddedServer) -> None:
    """Returns once what the site's clients ask reaches the fleet's streams."""
    told = False
    while True:
        try:
            bus = await NatsBus.connect(server.url, source="leaf", token=options.token)
        except Unreachable:
            if not told:
                options.warn(f"the fleet at {address_of(options.server)} is out of reach, and tried again all the time")
                told = True
            await asyncio.sleep(_ASK_EVERY)
        else:
            await bus.close()
            return
