"""A server with members and its gatekeeper, in this process."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bus.nats import NatsBus
from bus.nats_link import OnState
from bus.server import EmbeddedServer
from runners.members.files import member_file
from runners.members.membership import Membership
from schemas.members import InviteAnswer, InviteRequest, MembersAnswer, MembersRequest
from schemas.wire import Request, encode, wire_of

PATIENCE = 60.0  # seconds; only a failing test waits this long
A = TypeVar("A")


class MemberFleet:
    """See the module. Attributes: `store`, `server`, `membership`, `operator`: the operator's bus."""

    def __init__(self, store: Path, server: EmbeddedServer, membership: Membership, operator: NatsBus) -> None:
        self.store = store
        self.server = server
        self.membership = membership
        self.operator = operator

    async def ask(self, request: Request, answer: type[A], bus: NatsBus | None = None) -> A:
        """What the gatekeeper says to the operator, or to who else has a bus."""
        subject = wire_of(type(request)).subject_of(request)
        return msgspec.json.decode(await (bus or self.operator).request(subject, encode(request), PATIENCE), type=answer)

    async def invite(self, **what: Any) -> str:
        """A line."""
        answer = await self.ask(InviteRequest(**what), InviteAnswer)
        assert answer.line is not None, answer.reason
        return answer.line

    async def states(self) -> dict[str, str]:
        """Who is what."""
        return {one.name: one.state for one in (await self.ask(MembersRequest(), MembersAnswer)).members}

    async def connect(self, path: Path, source: str, on_state: OnState | None = None) -> NatsBus:
        """A bus of whoever has these credentials."""
        return await NatsBus.connect(self.server.url, source=source, token=path, on_state=on_state)


@contextlib.asynccontextmanager
async def member_fleet(store: Path, *, tls: bool = False, key: str = "") -> AsyncIterator[MemberFleet]:
    """One that runs."""
    membership = Membership(store, ("job_desk",), tls=tls, listen="127.0.0.1")
    async with EmbeddedServer(store, security=membership.security, storage_key=key) as server:
        await membership.serve(server)
        operator = await NatsBus.connect(server.url, source="operator", token=member_file(store, "operator"))
        try:
            yield MemberFleet(store, server, membership, operator)
        finally:
            await operator.close()
            await membership.stop()
