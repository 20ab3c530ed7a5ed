"""Which server `shoal up` runs of its own: one, or several that keep everything together; and whom it lets in besides."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bus.cluster import EmbeddedCluster, size_of
from bus.server import EmbeddedServer, ServerExited, ServerRestarted
from bus.server_parts import CLUSTER, Part, leaves_part
from bus.server_security import ServerSecurity
from bus.several import each_of

Servers = EmbeddedServer | EmbeddedCluster


class ServerOptions(Protocol):
    """What `shoal up` was asked for about its server."""

    @property
    def store(self) -> Path:
        """Shoal's directory."""

    @property
    def listen(self) -> str:
        """An address of this machine."""

    @property
    def port(self) -> int:
        """Of the first server; 0 for any."""

    @property
    def token(self) -> str | None:
        """What clients must present."""

    @property
    def storage_key(self) -> str:
        """With which JetStream encrypts."""

    @property
    def leaves(self) -> int:
        """The port, of the first server, at which other sites are let in; 0: they aren't."""

    @property
    def cluster(self) -> int:
        """Servers; 0 for what the store has had so far."""


def servers_wanted(options: ServerOptions) -> int:
    """How many servers there are to be: a store that has several keeps them. 0: a single one."""
    return options.cluster or size_of(options.store)


def files_besides(options: ServerOptions) -> tuple[Path, ...]:
    """The files of configuration that a server of members has besides nats.conf."""
    return (CLUSTER,) if servers_wanted(options) else ()


def make_servers(
    options: ServerOptions,
    security: ServerSecurity | None,
    on_exit: Callable[[ServerExited], None],
    on_restart: Callable[[ServerRestarted], None],
) -> Servers:
    """The server or servers; nothing is started yet. Raises as they do."""
    count = servers_wanted(options)

    def besides(number: int) -> tuple[Part, ...]:
        return (leaves_part(options.leaves + number - 1, options.token or ""),) if options.leaves else ()

    if count:
        return EmbeddedCluster(
            options.store,
            count,
            listen=options.listen,
            port=options.port,
            token=options.token,
            security=security,
            storage_key=options.storage_key,
            parts=besides,
            on_exit=on_exit,
            on_restart=on_restart,
        )
    return EmbeddedServer(
        options.store,
        listen=options.listen,
        port=options.port,
        token=options.token,
        security=security,
        storage_key=options.storage_key,
        parts=besides(1),
        on_exit=on_exit,
        on_restart=on_restart,
    )


def leaf_url(server: Servers, port: int) -> str:
    """Where servers of other sites connect, with the token: a secret. `port`: of the first server."""
    urls = each_of(server.join_url)
    return ",".join(f"{url.rpartition(':')[0]}:{port + number}" for number, url in enumerate(urls))
