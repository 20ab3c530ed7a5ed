"""What `shoal up` does about members: keys before the server starts, the gatekeeper after it, new certificates."""

import asyncio
import time
from pathlib import Path

from bus.nats import NatsBus
from bus.server_config import primary_address
from bus.server_security import ServerSecurity
from runners.members.authority import LIFETIME, RENEW_AFTER, Authority
from runners.members.files import member_file
from runners.members.gatekeeper import Gatekeeper
from runners.members.register import OPERATOR
from runners.servers import Servers
from schemas.roles import GATEKEEPER

_LOOK_AGAIN = 3600.0  # seconds between looks at the wall clock: a host that slept has missed what its timer was for


class Membership:
    """Attributes: `security`: for the server; `operator`: the file with the operator's credentials."""

    def __init__(
        self, store: Path, agents: tuple[str, ...], *, tls: bool, listen: str, besides: tuple[Path, ...] = ()
    ) -> None:
        """Makes what is missing: keys, with `tls` the authority and certificates, and the server's files.

        `besides`: files of configuration that the server has besides nats.conf.

        Raises:
            BadRegister: the register is damaged.
            NoCryptography: `tls`, and its package is missing.
        """
        tls = tls or (store / "tls" / "authority.pem").exists()
        address = primary_address() if listen in ("0.0.0.0", "::") else listen
        self._authority = Authority(store, (address,)) if tls else None
        self.security = ServerSecurity(store, self._authority.context if self._authority is not None else None, besides)
        self.operator = member_file(store, OPERATOR)
        self._store = store
        self._gatekeeper = Gatekeeper(store, self.security, self._authority)
        self._gatekeeper.prepare(agents)
        self._bus: NatsBus | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def serve(self, server: Servers) -> None:
        """Answer invitations and the like; the streams and the object store are there on return."""
        operator = await NatsBus.connect(server.url, source=OPERATOR, token=self.operator)
        await operator.prepare_objects()
        await operator.close()
        self._bus = await NatsBus.connect(server.url, source=GATEKEEPER, token=member_file(self._store, GATEKEEPER))
        await self._gatekeeper.serve(server, self._bus)
        if self._authority is not None:
            self._renewing = asyncio.create_task(self._renew(), name="certificates")

    async def node(self, name: str) -> Path:
        """The credentials of a node on this host."""
        return await self._gatekeeper.local_node(name)

    def agent(self, name: str) -> Path:
        """The credentials of an agent."""
        return member_file(self._store, name)

    async def _renew(self) -> None:
        """New certificates when a third of the last ones' time is over, until cancelled."""
        due = time.time() + LIFETIME * RENEW_AFTER
        while True:
            await asyncio.sleep(min(_LOOK_AGAIN, max(0.0, due - time.time())))
            if time.time() >= due:
                await self.renew()
                due = time.time() + LIFETIME * RENEW_AFTER

    async def renew(self) -> None:
        """New certificates for the server and this host's members now; connections stand."""
        await self._gatekeeper.renew_certificates()

    async def stop(self) -> None:
        """Answer no more."""
        if self._renewing is not None:
            self._renewing.cancel()
        await self._gatekeeper.stop()
        if self._bus is not None:
            await self._bus.close()
