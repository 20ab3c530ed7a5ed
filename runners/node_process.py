"""The process of a node: owns a machine, hosts the node agent, runs an emulated link if one is asked for.

`python -m runners.node_process` is what `shoal up --nodes` and the demo start; `shoal node` runs the same in its own.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import platform
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agents.node import NodeAgent, NodeAgentSettings, TrustChanged
from agents.node.limits import CONFINE, Confine, JobLimits
from bus import clock, processes
from bus.credentials import Credentials, Secret, read_secret, write_credentials, write_private
from bus.locks import claim_node_name
from bus.nats import NatsBus
from bus.nats_link import LinkState
from bus.port import Start
from runners.address import STORE, Address, find_server
from runners.bounding import Bounding
from runners.bundles.keys import public_key
from runners.bundles.shelf import Fetch, Shelf
from runners.bundles.trust import TRUST_SIGNAL
from runners.host import Host
from runners.jobs.devices import Machine
from runners.loop import run
from runners.members.files import joined_as, member_file
from runners.members.invitation import Invitation, invitation_in
from runners.members.joining import join
from runners.members.renewing import keep_certified
from runners.node_work import NodeWorks, NodeWorksConfig
from runners.settings import load_settings
from schemas.errors import ShoalError
from schemas.members import Role

# Seconds for the emulator of a link to be listening: a Python start on a crowded machine.
LINK_WITHIN = 20.0
OWN_KEY = (
    "{name} joined before job processes had keys of their own, so they have the node's: `shoal revoke {name}`, "
    "`shoal invite --name {name}`, and join again"
)


class LinkFailed(ShoalError):
    """The emulator of a link didn't start. Attribute: `profile`."""

    def __init__(self, profile: str, said: str) -> None:
        super().__init__(f"the emulated link {profile!r} did not start: {said or 'it said nothing'}")
        self.profile = profile


class Refused(ShoalError):
    """The server lets this node in no more."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What `shoal node` was asked for."""

    name: str | None = None
    link: str | None = None
    cc: str = "cubic"
    slowdown: float = 1.0
    step_time_ms: float = 0.0
    app_dir: Path | None = None
    device: str | None = None
    site: str | None = None
    yield_to_owner: bool = False
    yield_share: float | None = None
    """None: as `shoal.toml` says."""
    max_temperature_c: float | None = None
    """None: as `shoal.toml` says."""
    power_limit_w: float | None = None
    confine: Confine | None = None
    """None: as `shoal.toml` says; so, too, the next."""
    job_memory_gb: float | None = None
    allow_read: tuple[str, ...] = ()
    """What confined jobs may read besides what `shoal.toml` says."""
    trust: tuple[str, ...] = ()
    """Submitters whose code it runs, besides those in the store's file."""
    server: str | None = None
    store: Path = STORE
    token_file: Path | None = None
    """With a token, or with this node's credentials."""
    join: str | None = None
    """A line of `shoal invite`."""


async def run_node(options: NodeOptions) -> None:
    """Be a node until SIGINT or SIGTERM.

    Raises:
        AlreadyLocked: the name is taken on this machine.
        Unreachable: no server there, or it refuses this node.
        Refused: it did let it in, and does so no more.
        BadInvitation, NotEnrolled: there is a line to join by, and it is of no use.
        BadKey: something to trust is no submitter's key.
    """
    stop = asyncio.Event()
    trust = tuple(public_key(key) for key in options.trust)
    # Whoever holds a node's name is sent this signal, so it must be harmless from before that.
    asyncio.get_running_loop().add_signal_handler(TRUST_SIGNAL, lambda: None)
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    invitation = invitation_in(options.join) if options.join else None
    wanted = options.name or (invitation.wanted if invitation else None) or _sole_node(options)
    name = claim_node_name(options.store, wanted)
    clock.skew_if_told(options.store / "nodes" / f"{name.name}.skew")
    try:
        address = await _address(options, name.name, invitation)
        async with _link(options, name.name, address) as url:
            await _serve(options, name.name, url, address, trust, stop)
    finally:
        name.release()


async def _address(options: NodeOptions, name: str, invitation: Invitation | None) -> Address:
    """The server, and how this node gets in: by its own credentials where it has some, or is invited now."""
    known = member_file(options.store, name)
    if invitation is not None:
        assert options.join is not None
        if not known.exists():
            await join(options.join, options.store, name)
        return find_server(options.server or invitation.server, token=known, store=options.store)
    return find_server(options.server, token=options.token_file or (known if known.exists() else None), store=options.store)


def _sole_node(options: NodeOptions) -> str | None:
    """The name that this machine joined by, if it is asked to be no other and joined once."""
    joined = [] if options.server else joined_as(options.store, Role.NODE)
    return joined[0][1].name if len(joined) == 1 else None


async def _serve(
    options: NodeOptions, name: str, url: str, address: Address, trust: tuple[str, ...], stop: asyncio.Event
) -> None:
    refused: list[str] = []

    def changed(state: LinkState, reason: str) -> None:
        if state is LinkState.REFUSED:
            refused.append(reason)
            stop.set()

    bus = await NatsBus.connect(url, source=f"node/{name}", token=address.token, on_state=changed)
    settings = _settings(options, name)
    shelf = Shelf(
        options.store,
        _fetch_from(url, name, address.token),
        trust=trust,
        most_bytes=settings.bundle_bytes,
        kept_bytes=settings.bundles_kept_bytes,
    )
    works = NodeWorks(
        NodeWorksConfig(
            node=name,
            server=url,
            folder=options.store / "nodes",
            token_file=_kept_token(options, name, address),
            app_dir=(options.app_dir or Path.cwd()).resolve(),
            shelf=shelf,
            slowdown=options.slowdown,
            step_time_ms=options.step_time_ms,
            device=options.device,
            threads=None if settings.accelerators else 1,
            bounding=Bounding(limits=_limits(options, settings.limits), in_site=settings.site_named),
        )
    )
    agent = NodeAgent(settings, random.Random(name))
    host = Host(
        agent, bus, source=f"node/{name}", scope={"node": name}, works=works, durable=False, start=Start.NEW, announce=False
    )

    def look_again() -> None:
        works.review_trust()
        host.post(TrustChanged())

    asyncio.get_running_loop().add_signal_handler(TRUST_SIGNAL, look_again)
    running = asyncio.ensure_future(host.run())
    certified = asyncio.ensure_future(keep_certified(bus, address.token, lambda: _kept_token(options, name, address)))
    stopping = asyncio.ensure_future(stop.wait())
    print(f"node {name} is up", flush=True)
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    host.stop("the node was asked to end")
    try:
        await running
    finally:
        stopping.cancel()
        certified.cancel()
        await bus.close()
    if refused:
        raise Refused(refused[0])


def _fetch_from(url: str, name: str, token: Secret) -> Fetch:
    """Fetches over a connection of its own: behind a bundle on a slow line, the node's own messages would come late."""

    async def fetch(what: str, limit: int, arrived: Callable[[], None]) -> bytes:
        bus = await NatsBus.connect(url, source=f"node/{name}/bundles", token=token)
        try:
            return await bus.get_object(what, limit=limit, arrived=arrived)
        finally:
            await bus.close()

    return fetch


@contextlib.asynccontextmanager
async def _link(options: NodeOptions, name: str, address: Address) -> AsyncIterator[str]:
    """The URL by which this node and its jobs reach the server: through an emulated link, if there is to be one."""
    if options.link is None:
        yield address.url
        return
    argv = [sys.executable, "-m", "bus.shaping", "--upstream", address.places]
    argv += ["--profile", options.link, "--cc", options.cc, "--node", name]
    variable = "SHOAL_CREDENTIALS" if isinstance(address.token, Path) else "SHOAL_TOKEN"
    environment = {variable: str(address.token)} if address.token else {}
    # A session of its own: at a Ctrl-C to the group the link must still carry this node's last words.
    emulator = await processes.spawn(argv, env=environment, stdout=asyncio.subprocess.PIPE, new_session=True)
    try:
        assert emulator.stdout is not None
        async with asyncio.timeout(LINK_WITHIN):
            line = (await emulator.stdout.readline()).decode().strip()
        if not line.startswith("listening "):
            raise LinkFailed(options.link, line)
        yield f"nats://{line.removeprefix('listening ')}"
    finally:
        await processes.end(emulator, 1.0)


def _settings(options: NodeOptions, name: str) -> NodeAgentSettings:
    host = socket.gethostname()
    with Machine() as machine:
        reading = machine.read()
    facts: dict[str, Any] = {
        "node": name,
        "host": host,
        "site": options.site or (f"{name}-link" if options.link else host),
        "site_named": bool(options.site),
        "cpus": reading.cpus,
        "memory_bytes": reading.memory_bytes,
        "accelerators": reading.accelerators,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "shoal": _version("shoal"),
        "emulated_link": f"{options.link} ({options.cc})" if options.link else "",
        "slowdown": options.slowdown,
        "step_time_ms": options.step_time_ms,
    }
    asked = {
        "yield_to_owner": options.yield_to_owner or None,
        "yield_share": options.yield_share,
        "max_temperature_c": options.max_temperature_c,
        "power_limit_w": options.power_limit_w,
    }
    facts |= {name: value for name, value in asked.items() if value is not None}
    return load_settings(NodeAgentSettings, "node", options.store, **facts)


def _limits(options: NodeOptions, limits: JobLimits) -> JobLimits:
    """What the command line says, over `shoal.toml`."""
    read = (*limits.read, *(str(Path(path).resolve()) for path in options.allow_read))
    asked = {"confine": options.confine, "memory_gb": options.job_memory_gb}
    return msgspec.structs.replace(limits, read=read, **{name: value for name, value in asked.items() if value is not None})


def _kept_token(options: NodeOptions, name: str, address: Address) -> Path | None:
    """A file with the secret for job processes, readable by this user alone: a command line would show it to others.

    Of a member not its own, but one that lets them do what a job needs and nothing else.
    """
    if address.token is None or isinstance(address.token, Credentials):
        return None
    path = (options.store / "nodes" / f"{name}.token").resolve()
    if isinstance(address.token, Path):
        held = read_secret(address.token)
        work = held.for_work() if isinstance(held, Credentials) else None
        if work is None:
            if isinstance(held, Credentials):
                print(OWN_KEY.format(name=name), file=sys.stderr, flush=True)
            return address.token.resolve()
        write_credentials(path, work)
        return path
    if options.token_file is not None:
        return options.token_file.resolve()
    write_private(path, address.token.encode())
    return path


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main(argv: list[str] | None = None) -> int:
    """The lean way in, without the command line's libraries."""
    parser = argparse.ArgumentParser(prog="python -m runners.node_process", description=__doc__)
    for option in ("name", "link", "device", "site", "server", "join"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--cc", default="cubic")
    parser.add_argument("--slowdown", type=float, default=1.0)
    parser.add_argument("--step-time", type=float, default=0.0, dest="step_time_ms")
    parser.add_argument("--yield-to-owner", action="store_true")
    parser.add_argument("--yield-share", type=float)
    parser.add_argument("--max-temperature", type=float, dest="max_temperature_c")
    parser.add_argument("--power-limit", type=float, dest="power_limit_w")
    for option in ("--app-dir", "--token-file"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--trust", action="append", default=[])
    parser.add_argument("--allow-read", action="append", default=[])
    parser.add_argument("--confine", choices=CONFINE)
    parser.add_argument("--job-memory", type=float, dest="job_memory_gb")
    parser.add_argument("--store", type=Path, default=STORE)
    try:
        run(run_node(NodeOptions(**vars(parser.parse_args(argv)))))
    except ShoalError as error:
        print(f"shoal node: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
