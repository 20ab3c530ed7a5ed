"""Several nats-servers of this process's own that keep everything together: one may die, and nothing waits for it."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from bus.backoff import RestartPolicy
from bus.credentials import write_private
from bus.locks import FileLock
from bus.nats_streams import COPIES
from bus.server import EmbeddedServer, ServerExited, ServerRestarted
from bus.server_config import Ports, free_ports, last_url, record_several
from bus.server_parts import Part, cluster_part
from bus.server_security import ServerSecurity
from schemas.errors import ShoalError

_FOLDER = "servers"
_FILE = "cluster.json"
_ROUTES = "127.0.0.1"  # all servers are on this host: whoever comes in as a route is asked nothing more
MOST = 5
"""Servers at most: stored messages have three copies, and five servers outlive any two."""


class BadCluster(ShoalError):
    """A store can't have such a cluster. Attribute: `store`."""

    def __init__(self, store: Path, why: str) -> None:
        super().__init__(f"{store} can't have that cluster: {why}")
        self.store = store


def size_of(store: Path) -> int:
    """How many servers this store's cluster has; 0 where it has none."""
    try:
        return int(json.loads((store / _FOLDER / _FILE).read_text())["servers"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class EmbeddedCluster:
    """Servers on this host, each with a store of its own in `<store>/servers/`. To be used as one `EmbeddedServer`.

    Attributes:
        store: Shoal's directory.
        servers: in order; the first has the port asked for, the others those after it.
    """

    def __init__(
        self,
        store: Path,
        count: int,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        security: ServerSecurity | None = None,
        storage_key: str = "",
        parts: Callable[[int], tuple[Part, ...]] = lambda number: (),
        policy: RestartPolicy | None = None,
        on_exit: Callable[[ServerExited], None] | None = None,
        on_restart: Callable[[ServerRestarted], None] | None = None,
    ) -> None:
        """Nothing is started yet. Arguments as of `EmbeddedServer`; `parts` are of each server by its number, from 1.

        Raises:
            BadCluster: an even number, too few or too many; or the store has a single server's data, or other servers'.
            ServerRefused, BadToken: as of `EmbeddedServer`.
        """
        self.store = store.resolve()
        name = _begun(self.store, count)
        self._listen, self._token = listen, token
        self._lock = FileLock(self.store / _FOLDER / "cluster.lock", mend="stop that `shoal up` or give another --store")
        routes = [free_ports(_ROUTES) for _ in range((count + 1) // 2)]
        ports = [port for pair in routes for port in (pair.nats, pair.websocket)][:count]
        secret = secrets.token_urlsafe(32)
        self.servers = [
            EmbeddedServer(
                self.store / _FOLDER / str(number),
                listen=listen,
                port=port + number - 1 if port else 0,
                token=token,
                security=security,
                storage_key=storage_key,
                parts=(cluster_part(name, _ROUTES, ports[number - 1], secret, ports), *parts(number)),
                name=f"{name}-{number}",
                policy=policy,
                on_exit=on_exit,
                on_restart=on_restart,
            )
            for number in range(1, count + 1)
        ]

    async def start(self) -> None:
        """Returns when all accept clients; JetStream answers once they have found each other. Raises as a single one."""
        self._lock.acquire()
        try:
            started = await asyncio.gather(*(server.start() for server in self.servers), return_exceptions=True)
            for failure in started:
                if failure is not None:
                    raise failure
        except BaseException:
            await self.stop()
            raise
        with contextlib.suppress(OSError):  # a full disk costs the note, not the servers
            record_several(self.store, listen=self._listen, ports=[server.ports for server in self.servers])

    async def stop(self) -> None:
        """Ends all servers; no-op if none runs."""
        await asyncio.gather(*(server.stop() for server in self.servers))
        self._lock.release()

    async def reload(self) -> None:
        """Have all of them read their configuration again. Raises as `EmbeddedServer.reload`."""
        await asyncio.gather(*(server.reload() for server in self.servers))

    @property
    def url(self) -> str:
        """Where clients on this machine connect: the servers' URLs, without the token."""
        return ",".join(server.url for server in self.servers)

    @property
    def join_url(self) -> str:
        """Where clients on other machines connect, with the token: it is a secret."""
        return ",".join(server.join_url for server in self.servers)

    @property
    def websocket_url(self) -> str:
        """Where a browser on this machine connects."""
        return self.servers[0].websocket_url

    @property
    def ports(self) -> Ports:
        """Of the first server."""
        return self.servers[0].ports

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _begun(store: Path, count: int) -> str:
    """The cluster's name, kept in its store; the servers' names are made of it, by which JetStream knows them for good."""
    if count < COPIES or count > MOST or count % 2 == 0:
        raise BadCluster(store, f"it has {COPIES} servers or {MOST}, so that more than half are left when one is lost")
    there = size_of(store)
    if there and there != count:
        raise BadCluster(store, f"its cluster has {there} servers: say --cluster {there}, or give another --store")
    if not there and last_url(store) is not None:
        raise BadCluster(store, "it has what a single server keeps, which a cluster can't take over: give another --store")
    path = store / _FOLDER / _FILE
    if not there:
        facts = {"servers": count, "name": f"shoal-{secrets.token_hex(6)}"}
        write_private(path, json.dumps(facts).encode())
    return str(json.loads(path.read_text())["name"])
