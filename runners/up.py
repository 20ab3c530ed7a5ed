"""`shoal up`: the server, all agents, and nodes of this machine if they are asked for."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bus.credentials import write_private
from bus.locks import name_after_host
from bus.nats import NatsBus
from bus.port import BusError
from bus.server import ServerExited, ServerRestarted
from runners.address import TOKEN_FILE, Address, find_server
from runners.agent_restarts import AgentRestarts
from runners.bundles.keys import own_signer
from runners.members.files import has_register
from runners.servers import Servers, files_besides, leaf_url, make_servers, servers_wanted
from runners.supervisor import ChildExited, ChildRestarted, ChildSpec, Supervisor
from schemas.errors import ShoalError
from schemas.jobs import ListRequest
from schemas.wire import encode

if TYPE_CHECKING:
    from runners.members.membership import Membership

DESK = "job_desk"
AGENTS = (
    DESK,
    "node_selector",
    "batch_controller",
    "network_monitor",
    "failure_detector",
    "healer",
    "predictor",
    "optimizer",
    "appraiser",
    "recorder",
)
OPEN_TO_ALL = (
    "whoever has this token may submit jobs and speak as anybody, and what is sent can be read: for your own network."
    " --secure gives each machine and person a key and a role, --tls encrypts as well (docs/security.md)"
)
GIVEN_TOKEN = "given-token"
"""The file with the token of a server that isn't one of our own: its own processes read it there."""
# Seconds for the desk to answer after its start; it takes one, a crowded machine may take ten times as long.
READY_WITHIN = 30.0
# Seconds between asking a desk that isn't there yet.
ASK_EVERY = 0.05


class NotReady(ShoalError):
    """The desk didn't answer in time. Attribute: `log`."""

    def __init__(self, log: Path) -> None:
        super().__init__(f"the desk did not answer within {READY_WITHIN:.0f} s: look into {log}")
        self.log = log


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What `shoal up` was asked for."""

    store: Path
    listen: str = "127.0.0.1"
    port: int = 0
    token: str | None = None
    secure: bool = False
    """Members with keys of their own instead of a token; so, too, wherever the store has members already."""
    tls: bool = False
    """Encrypted connections, with certificates both ways; needs `secure`."""
    storage_key: str = ""
    """With which JetStream encrypts what it stores."""
    leaves: int = 0
    """The port at which other sites are let in; 0: none. Needs a token."""
    cluster: int = 0
    """Servers that keep everything together; 0: as many as the store has had, one at first."""
    nodes: int = 0
    server: str | None = None
    """A server that runs already; by default one of our own is started."""
    replicas: int | None = None
    """Processes of each agent; by default as `shoal.toml` says."""
    say: Callable[[str], None] = print
    warn: Callable[[str], None] = print


class Fleet:
    """A server and its agents under one supervisor."""

    def __init__(self, options: UpOptions) -> None:
        self.options = options
        self.server: Servers | None = None
        self.members: Membership | None = None
        if options.server is None and (options.secure or has_register(options.store)):
            from runners.members import membership  # all commands import this module, which needn't wait for it

            self.members = membership.Membership(
                options.store, AGENTS, tls=options.tls, listen=options.listen, besides=files_besides(options)
            )
        if options.server is None:
            security = self.members.security if self.members is not None else None
            self.server = make_servers(options, security, self._server_ended, self._server_back)
        self.supervisor = Supervisor(
            options.store, server=self.server, on_exit=self._child_ended, on_restart=self._child_back
        )
        self.address: Address | None = None
        self._token_file = options.store / TOKEN_FILE
        self.restarts = AgentRestarts(self.supervisor, options.warn)

    async def start(self) -> Address:
        """Start everything; returns once the desk answers."""
        options = self.options
        if self.server is not None:
            await self.server.start()
            self.address = Address(url=self.server.url, token=options.token)
            if self.members is not None:
                await self.members.serve(self.server)
                self.address = Address(url=self.server.url, token=self.members.operator)
        else:
            self.address = find_server(options.server, store=options.store)
            if isinstance(self.address.token, str):
                self._token_file = options.store / GIVEN_TOKEN
                write_private(self._token_file, self.address.token.encode())
        if options.server is None and servers_wanted(options):
            await self._prepare(self.address)
        # Nine Pythons at once on two cores would keep the desk, and whoever waits to submit, three times as long. What it
        # accepts meanwhile is stored, and the others find it.
        from runners.replica_settings import replicas_of  # likewise

        replicas = replicas_of(AGENTS, options.store, options.replicas)
        await self._start_agent(DESK, int(replicas[DESK] > 1))
        await self._desk_answers(self.address)
        for name in AGENTS:
            if name != DESK:
                await self._start_agent(name, int(replicas[name] > 1))
        for name, count in replicas.items():
            for number in range(2, count + 1):
                await self._start_agent(name, number)
        await self.restarts.listen(self.address.url, self.address.token)
        for number in range(1, options.nodes + 1):
            await self.start_node(f"node-process-{number}", self._name_of(number))
        return self.address

    async def start_node(self, child: str, arguments: tuple[str, ...], *, nice: int = 0) -> int:
        """Start a node on this machine as a child; returns its process id."""
        if self.members is not None:
            if "--name" not in arguments:
                arguments = (*arguments, "--name", child)
            name = arguments[arguments.index("--name") + 1]
            arguments = (*arguments, "--token-file", str(await self.members.node(name)))
        argv = (sys.executable, "-m", "runners.node_process", *self._common(), *arguments)
        return await self.supervisor.start(ChildSpec(name=child, argv=argv, nice=nice))

    @property
    def join_line(self) -> str | None:
        """How another machine joins; None if none can."""
        if self.members is not None:
            return "`shoal invite` prints the line for another machine"
        if self.server is None or self.options.token is None:
            return None
        signer = own_signer(self.options.store).public
        return f"on another machine: shoal node --server {self.server.join_url} --trust {signer}"

    @property
    def leaf_line(self) -> str | None:
        """How another site joins; None if none can."""
        if self.server is None or not self.options.leaves:
            return None
        return f"at another site: shoal leaf --server {leaf_url(self.server, self.options.leaves)}"

    def _name_of(self, number: int) -> tuple[str, ...]:
        """A node's key belongs to a name, so that its name is given where there are keys; else it takes a free one."""
        if self.members is None:
            return ()
        return ("--name", name_after_host(number))

    async def _start_agent(self, name: str, replica: int) -> None:
        """Start an agent's process; `replica` counts those of an agent with standbys, 0 is one without."""
        argv = (sys.executable, "-m", "runners.agent_process", name, *self._common())
        if self.members is not None:
            argv += ("--token-file", str(self.members.agent(name)))
        if replica:
            argv += ("--replica", str(replica))
        await self.supervisor.start(ChildSpec(name=name if replica < 2 else f"{name}@{replica}", argv=argv))

    def _common(self) -> tuple[str, ...]:
        if self.address is None:
            raise AssertionError("the server is started first")
        common = ("--server", self.address.url, "--store", str(self.options.store))
        return (*common, "--token-file", str(self._token_file)) if isinstance(self.address.token, str) else common

    async def _prepare(self, address: Address) -> None:
        """Make all streams while all servers of a cluster are there: each gets its copies on three of them."""
        bus = await NatsBus.connect(address.url, source="up", token=address.token)
        try:
            await bus.prepare_objects()
            await bus.prepare_logs()
        finally:
            await bus.close()

    async def _desk_answers(self, address: Address) -> None:
        bus = await NatsBus.connect(address.url, source="up", token=address.token)
        try:
            async with asyncio.timeout(READY_WITHIN):
                while True:
                    with contextlib.suppress(BusError):
                        await bus.request("shoal.jobs.list", encode(ListRequest()), READY_WITHIN)
                        return
                    await asyncio.sleep(ASK_EVERY)
        except TimeoutError:
            raise NotReady(self.supervisor.log_path("job_desk")) from None
        finally:
            await bus.close()

    def _child_ended(self, event: ChildExited) -> None:
        self.options.warn(str(event))
        for line in event.last_lines[-3:] if event.crash_loop else ():
            self.options.warn(f"  {line}")

    def _child_back(self, event: ChildRestarted) -> None:
        self.options.warn(f"{event.name}: runs again after {event.down_s:.1f} s")

    def _server_ended(self, event: ServerExited) -> None:
        self.options.warn(f"{event.name} ended and starts again in {event.restart_in:.1f} s")

    def _server_back(self, event: ServerRestarted) -> None:
        self.options.warn(f"{event.name}: runs again after {event.down_s:.1f} s")


async def bring_up(options: UpOptions) -> str | None:
    """Run everything until a signal comes; gives the signal's name.

    Raises:
        ShoalError: something could not be started.
    """
    fleet = Fleet(options)

    async def work() -> None:
        address = await fleet.start()
        options.say(f"ready {address.url}")
        if fleet.join_line:
            options.say(fleet.join_line)
            if fleet.members is None:
                options.warn(OPEN_TO_ALL)
        if fleet.leaf_line:
            options.say(fleet.leaf_line)
        await asyncio.Event().wait()

    try:
        await fleet.supervisor.run(work())
    finally:
        await fleet.restarts.close()
        if fleet.members is not None:
            await fleet.members.stop()
    return fleet.supervisor.signalled.name if fleet.supervisor.signalled else None
