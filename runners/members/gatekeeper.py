"""The gatekeeper: keeps the register beside the server, has the server obey it at once, and tells the audit."""

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from bus.credentials import Credentials, read_secret, write_credentials
from bus.nats import NatsBus
from bus.nkeys import KeyPair, checked_public
from bus.permissions import permissions_of_invited
from bus.port import BusError, Interest, Receipt, Start, Subscription
from bus.server_security import ServerSecurity
from runners.bundles.keys import own_signer
from runners.members.authority import Authority
from runners.members.files import load_register, member_file, save_register
from runners.members.invitation import Invitation, line_of
from runners.members.register import OPERATOR, Known, NotAllowed
from runners.servers import Servers
from runners.settings import FILE
from schemas.decisions import ForceNode
from schemas.errors import DecodeError, ShoalError
from schemas.jobs import CancelRequest
from schemas.members import (
    AuditEntry,
    EnrolAnswer,
    EnrolRequest,
    InviteAnswer,
    InviteRequest,
    MembersAnswer,
    MembersRequest,
    RenewRequest,
    RevokeAnswer,
    RevokeRequest,
    Role,
)
from schemas.nodes import PauseNode
from schemas.requests import Refusal, decode_request
from schemas.roles import GATEKEEPER
from schemas.wire import Message, encode, seal, wire_of

log = logging.getLogger("shoal.members")

_TELL_AGAIN = 5.0  # seconds until the audit is tried again where its stream didn't take an entry
_SAID_WITHIN = 5.0  # seconds for the server to have taken an answer; it runs on this very host
_LONGEST_WAIT = 3600.0  # seconds until the clock is looked at again: it may have been set


class Gatekeeper:
    """See the module. `open` it before the server starts, `serve` once it has."""

    def __init__(self, store: Path, security: ServerSecurity, authority: Authority | None = None) -> None:
        """Reads the register. Raises `BadRegister` where it is damaged."""
        self._store = store
        self._security = security
        self._authority = authority
        self._register = load_register(store)
        self._server: Servers | None = None
        self._bus: NatsBus | None = None
        self._hearing: dict[str, Known] = {}  # used invitations whose bearers have not heard the answer yet
        self._one_at_a_time = asyncio.Lock()
        self._standing: list[Subscription] = []
        self._personal: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def prepare(self, agents: tuple[str, ...]) -> None:
        """Before the server starts: keys for the operator and the agents of this host, and the server's files."""
        for role, name in ((Role.OPERATOR, OPERATOR), *((Role.AGENT, name) for name in (*agents, GATEKEEPER))):
            self._local(role, name)
        self._register.expire(time.time())
        self._note_settings()
        save_register(self._store, self._register)
        self._write()

    def _local(self, role: Role, name: str) -> Path:
        path = member_file(self._store, name)
        known = self._register.members.get(name)
        if known is None or not path.exists():
            pair = KeyPair.generate()
            self._register.add(role, name, pair.public, time.time())
            certificate, key = self._authority.issue(name) if self._authority is not None else ("", "")
            write_credentials(
                path,
                Credentials(
                    role=role.value,
                    name=name,
                    seed=pair.seed,
                    authority=self._pem,
                    certificate=certificate,
                    certificate_key=key,
                ),
            )
        elif self._authority is not None:
            self._authority.refresh(path, name)
        return path

    async def local_node(self, name: str) -> Path:
        """The credentials of a node of this host, which the server lets in from now on."""
        async with self._one_at_a_time:
            path = self._local(Role.NODE, name)
            held = read_secret(path)
            if isinstance(held, Credentials) and not (held.work_seed and self._register.members[name].work_key):
                pair = KeyPair.generate()
                write_credentials(path, msgspec.structs.replace(held, work_seed=pair.seed))
                self._register.add_work_key(name, pair.public)
            await self._obeyed()
        return path

    async def serve(self, server: Servers, bus: NatsBus) -> None:
        """Answer from now on; `bus` is the gatekeeper's own."""
        self._server, self._bus = server, bus
        stored = [entry async for entry in bus.history([Interest(AuditEntry)])]
        if stored and isinstance(stored[-1], AuditEntry):
            self._register.adopt(stored[-1])
        for kind, answer in ((InviteRequest, self._invite), (RevokeRequest, self._revoke), (MembersRequest, self._list)):
            self._standing.append(await bus.serve_member(wire_of(kind).pattern, refusing(answer)))
        self._standing.append(await bus.overhear(wire_of(CancelRequest).pattern, self._cancelled))
        acts = [Interest(PauseNode), Interest(ForceNode)]
        self._standing.append(await bus.subscribe(acts, self._overheard, start=Start.NEW))
        async with self._one_at_a_time:
            await self._obeyed()

    async def stop(self) -> None:
        """Answer no more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        for subscription in (*self._standing, *self._personal.values()):
            await subscription.stop()

    async def renew_certificates(self) -> None:
        """New certificates for the server and for this host's own members, in use without an interruption."""
        if self._authority is None:
            return
        async with self._one_at_a_time:
            self._authority.renew_server()
            for name in self._register.members:
                if (path := member_file(self._store, name)).exists():
                    self._authority.refresh(path, name, always=True)
            self._register.note("renew", "time", "server", "certificates of the server and its host", time.time())
            await self._obeyed()

    # What is asked.

    async def _invite(self, data: bytes, by: str) -> InviteAnswer:
        request = decode_request(InviteRequest, data)
        name, pair, now = f"i-{secrets.token_hex(4)}", KeyPair.generate(), time.time()
        until = now + request.seconds
        asked = Known(name=name, role=request.role, key=pair.public, since=now, until=until, wanted=request.name)
        async with self._one_at_a_time:
            self._register.invite(asked, by)
            await self._obeyed()
        assert self._server is not None
        certificate, key = self._authority.issue(name, request.seconds) if self._authority is not None else ("", "")
        invitation = Invitation(
            server=self._server.join_url,
            name=name,
            seed=pair.seed,
            role=request.role,
            wanted=request.name,
            until=until,
            signer=own_signer(self._store).public,
            authority=self._pem,
            certificate=certificate,
            certificate_key=key,
        )
        return InviteAnswer(accepted=True, line=line_of(invitation))

    async def _enrol(self, invitation: str, data: bytes) -> EnrolAnswer:
        request = decode_request(EnrolRequest, data)
        if request.name != invitation:
            raise NotAllowed("$.name", "that is another invitation's name")
        for key in (request.key, *([request.work_key] if request.work_key else ())):
            checked_public(key)
        async with self._one_at_a_time:
            if self._authority is not None:
                self._authority.check(request.certificate_key or "")
            asked = self._register.invited.get(invitation)
            member = self._register.enrol(invitation, request.key, request.wanted, time.time(), request.work_key or "")
            if asked is not None:
                self._hearing[invitation] = asked
            await self._obeyed()
        self._soon(self._heard(invitation))
        return EnrolAnswer(
            accepted=True,
            role=member.role,
            name=member.name,
            certificate=self._authority.certify(request.certificate_key or "", member.name) if self._authority else None,
        )

    async def _heard(self, invitation: str) -> None:
        """The bearer of a used invitation has its answer: its connection can end."""
        assert self._bus is not None
        await self._bus.said(_SAID_WITHIN)
        async with self._one_at_a_time:
            self._hearing.pop(invitation, None)
            await self._obeyed()

    async def _revoke(self, data: bytes, by: str) -> RevokeAnswer:
        request = decode_request(RevokeRequest, data)
        async with self._one_at_a_time:
            self._register.revoke(request.name, request.reason, by, time.time())
            await self._obeyed()
        return RevokeAnswer(accepted=True)

    async def _list(self, data: bytes, by: str) -> MembersAnswer:
        decode_request(MembersRequest, data)
        register = self._register
        return MembersAnswer(members=register.everybody(), entries=register.number, digest=register.digest)

    async def _renew(self, name: str, data: bytes) -> EnrolAnswer:
        request = decode_request(RenewRequest, data)
        if request.name != name:
            raise NotAllowed("$.name", "that is another member's name")
        if self._authority is None:
            raise NotAllowed("$", "this fleet has no TLS: there is nothing to renew")
        async with self._one_at_a_time:
            certificate = self._authority.certify(request.certificate_key, name)
            self._register.note("renew", name, name, "its certificate", time.time())
            await self._obeyed()
        return EnrolAnswer(accepted=True, role=self._register.members[name].role, name=name, certificate=certificate)

    # What others do.

    def _cancelled(self, data: bytes, by: str) -> None:
        with contextlib.suppress(DecodeError):
            self._noted("cancel", by, decode_request(CancelRequest, data).job, "asked of the desk")

    def _overheard(self, message: Message, receipt: Receipt | None) -> None:
        by = message.source or "a client"
        match message:
            case PauseNode():
                self._noted("pause" if message.pause else "resume", by, message.node, message.reason)
            case ForceNode():
                self._noted("force", by, message.node, f"{message.do}: {message.reason}")
        if receipt is not None:
            receipt.ack()

    def _noted(self, act: str, by: str, target: str, reason: str) -> None:
        self._register.note(act, by, target, reason, time.time())
        self._soon(self._keep_and_tell())

    async def _keep_and_tell(self) -> None:
        async with self._one_at_a_time:
            save_register(self._store, self._register)
            await self._tell()

    # What follows.

    @property
    def _pem(self) -> str:
        return self._authority.pem if self._authority is not None else ""

    def _note_settings(self) -> None:
        path = self._store.resolve().parent / FILE
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
        if digest != self._register.settings:
            said = f"SHA-256 {digest}" if digest else "removed: all settings have their defaults"
            self._register.note("settings", OPERATOR, FILE, said, time.time())
            self._register.settings = digest

    def _write(self) -> None:
        hearing = (
            (f"used invitation {one.name}", one.key, permissions_of_invited(one.name)) for one in self._hearing.values()
        )
        users = [*self._register.users(), *hearing]
        if self._authority is None:
            self._security.write(users)
        else:
            self._security.write(users, certificate=self._authority.server_file, authority=self._authority.file)

    async def _obeyed(self) -> None:
        """The register as it is now is on the disk, and the server goes by it; its connections that it ends are ended."""
        save_register(self._store, self._register)
        self._write()
        if self._server is None:
            return
        await self._server.reload()
        await self._listen_to_each()
        self._wake_at_the_next_end()
        await self._tell()

    async def _listen_to_each(self) -> None:
        """One subject for each who may ask something in its own name, so that the server vouches for the name."""
        assert self._bus is not None
        wanted: dict[str, Callable[[bytes, str], Awaitable[msgspec.Struct]]] = {}
        for name in (*self._register.invited, *self._hearing):  # who comes second is told so
            wanted[wire_of(EnrolRequest).filter(name=name)] = lambda data, by, name=name: self._enrol(name, data)  # type: ignore[misc]
        for name in self._register.members if self._authority is not None else ():
            wanted[wire_of(RenewRequest).filter(name=name)] = lambda data, by, name=name: self._renew(name, data)  # type: ignore[misc]
        for subject in self._personal.keys() - wanted.keys():
            self._soon(self._personal.pop(subject).stop())  # it may be answering this very request
        for subject in wanted.keys() - self._personal.keys():
            self._personal[subject] = await self._bus.serve_member(subject, refusing(wanted[subject]))

    def _wake_at_the_next_end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        end = self._register.next_end()
        if end is not None:
            wait = min(_LONGEST_WAIT, max(0.0, end - time.time()))
            self._timer = asyncio.get_running_loop().call_later(wait, lambda: self._soon(self._expire()))

    async def _expire(self) -> None:
        async with self._one_at_a_time:
            if self._register.expire(time.time()):
                await self._obeyed()
            else:
                self._wake_at_the_next_end()

    async def _tell(self) -> None:
        """Put what is untold into the audit, in order; what its stream doesn't take now is tried again."""
        assert self._bus is not None
        try:
            while (entry := self._register.next_entry()) is not None:
                seal(entry, id=f"{GATEKEEPER}:audit:{entry.number}", cause="", at=entry.when, source=GATEKEEPER)
                await self._bus.publish(entry, first=True)
                self._register.told(entry)
                save_register(self._store, self._register)
        except BusError as error:
            log.warning("the audit takes no entries yet: %s", error)
            asyncio.get_running_loop().call_later(_TELL_AGAIN, lambda: self._soon(self._keep_and_tell()))

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def refusing(answer: Callable[[bytes, str], Awaitable[msgspec.Struct]]) -> Callable[[bytes, str], Awaitable[bytes]]:
    """What is wrong with a request becomes an answer that says so."""

    async def answered(data: bytes, by: str) -> bytes:
        try:
            return encode(await answer(data, by))
        except DecodeError as error:
            field, why = error.field, error.why
        except NotAllowed as error:
            field, why = error.field, error.why
        except ShoalError as error:
            field, why = "$", str(error)
        return encode(Refusal(accepted=False, field=field, reason=why))

    return answered
