"""Every message of the registry, tried by every role on a real server: whoever isn't its writer is refused."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import nats
import nats.errors
import pytest
from nats.aio.client import Client

from bus.credentials import Access, Credentials, work_name
from bus.nkeys import KeyPair
from bus.permissions import AGENTS, permissions_of, permissions_of_invited, permissions_of_work
from bus.server import EmbeddedServer
from bus.server_security import ServerSecurity
from schemas.members import Role
from schemas.roles import ADMINISTRATIVE, requests, server_of
from schemas.wire import Delivery, Wire, registered
from schemas.writers import CLIENT, EMULATOR, EVERYONE, NODE, REDUCER, SPEAKING_AGENT, TRAINER, writer_of
from tests.bus.tensor_exchange import settled

WIRES = tuple(registered())
SPEAKERS = {
    "ann": Role.SUBMITTER,
    "laptop": Role.NODE,
    "attic": Role.NODE,
    "wall": Role.DASHBOARD,
    "boss": Role.OPERATOR,
    "i-1": None,
    **dict.fromkeys(AGENTS, Role.AGENT),
}
PERSONAL = ("EnrolRequest", "RenewRequest")


@dataclass
class Speaker:
    """A connection, and what the server refused it."""

    client: Client = field(default_factory=nats.NATS)
    refused: list[str] = field(default_factory=list)

    async def erred(self, error: Exception) -> None:
        self.refused.append(str(error))

    async def allowed(self, *subjects: str) -> list[str]:
        """Those of the subjects that it may publish on."""
        self.refused.clear()
        for subject in subjects:
            await self.client.publish(subject, b"{}")
        await settled(self.client)  # an error comes before the answer to a later ping
        return [subject for subject in subjects if not self._was_refused(f'publish to "{subject}"')]

    async def may_subscribe(self, subject: str, queue: str = "") -> bool:
        self.refused.clear()
        await self.client.subscribe(subject, queue=queue)
        await settled(self.client)
        return not self._was_refused(f'subscription to "{subject}"')

    def _was_refused(self, what: str) -> bool:
        return any(what.lower() in said.lower() for said in self.refused)


@pytest.fixture(scope="module")
def loop_of_module() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def fleet(loop_of_module: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Fleet"]:
    made = Fleet(loop_of_module, tmp_path_factory.mktemp("store"))
    loop_of_module.run(made.start())
    yield made
    loop_of_module.run(made.stop())


class Fleet:
    """A server with one member of each kind, all connected."""

    def __init__(self, runner: asyncio.Runner, store: Path) -> None:
        self.run = runner.run
        self.store = store
        self.speakers: dict[str, Speaker] = {}

    async def start(self) -> None:
        security = ServerSecurity(self.store)
        keys = {name: KeyPair.generate() for name in (*SPEAKERS, work_name("laptop"))}
        security.write((name, pair.public, may(name)) for name, pair in keys.items())
        self.server = EmbeddedServer(self.store, security=security)
        await self.server.start()
        for name, role in SPEAKERS.items():
            held = Credentials(role=role.value if role else "invited", name=name, seed=keys[name].seed)
            self.speakers[name] = await self.connected(held)
        node = Credentials(role="node", name="laptop", seed=keys["laptop"].seed, work_seed=keys[work_name("laptop")].seed)
        work = node.for_work()
        assert work is not None
        assert keys["laptop"].seed not in msgspec.json.encode(work).decode()
        self.work = await self.connected(work)

    async def connected(self, held: Credentials) -> Speaker:
        speaker = Speaker()
        how = Access(held).for_nats_py(speaker.client)
        await speaker.client.connect(self.server.url, error_cb=speaker.erred, allow_reconnect=False, **how)
        return speaker

    async def stop(self) -> None:
        for speaker in (*self.speakers.values(), self.work):
            await speaker.client.close()
        await self.server.stop()


def may(name: str):  # type: ignore[no-untyped-def]
    if name == work_name("laptop"):
        return permissions_of_work("laptop")
    role = SPEAKERS[name]
    return permissions_of_invited(name) if role is None else permissions_of(role, name)


def rightful(wire: Wire, speaker: str, own: bool) -> bool:
    """Whether `speaker` is a writer of this message; `own`: on the subject with its own name."""
    writer, role, kind = writer_of(wire.type), SPEAKERS[speaker], wire.type
    if role is Role.DASHBOARD:
        return False
    if role is None or kind.__name__ in PERSONAL:
        return own and kind.__name__ == ("EnrolRequest" if role is None else "RenewRequest")
    if writer == EVERYONE:
        return True
    match role:
        case Role.NODE:
            named = own or "node" not in wire.fields or wire.delivery is Delivery.REQUEST
            return named and (writer in (NODE, TRAINER, REDUCER, EMULATOR) or kind.__name__ in ("PauseNode", "ReachNode"))
        case Role.AGENT:
            watching = speaker == "failure_detector" and kind.__name__ == "ReachNode"
            return watching or writer == speaker or (writer == SPEAKING_AGENT and own)
        case Role.SUBMITTER:
            return writer == CLIENT and kind not in ADMINISTRATIVE
    return writer == CLIENT


def subjects_of(wire: Wire, name: str) -> list[str]:
    """Where `name` would say it of itself, and of somebody else."""
    return [wire.filter(**dict.fromkeys(wire.fields, who)) for who in (name, "somebody-else")]


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.type.__name__)
def test_only_its_writer_may_say_it(fleet: Fleet, wire: Wire) -> None:
    async def try_all() -> dict[str, list[str]]:
        tried = {n: s.allowed(*subjects_of(wire, n)) for n, s in fleet.speakers.items()}
        return dict(zip(tried, await asyncio.gather(*tried.values()), strict=True))

    wanted = {
        name: [
            subject
            for subject, own in zip(subjects_of(wire, name), (True, not wire.fields), strict=True)
            if rightful(wire, name, own)
        ]
        for name in SPEAKERS
    }
    assert fleet.run(try_all()) == wanted


@pytest.mark.parametrize("kind", requests(), ids=lambda kind: kind.__name__)
def test_only_who_answers_may_take_requests(fleet: Fleet, kind: type) -> None:
    wire = next(wire for wire in WIRES if wire.type is kind)

    async def who_may() -> set[str]:
        return {n for n, s in fleet.speakers.items() if await s.may_subscribe(wire.pattern, "servers")}

    # The gatekeeper overhears who cancels, for the audit.
    answering = {server_of(kind)} - {NODE}  # a node takes those that name it, and no others
    assert fleet.run(who_may()) == answering | ({"gatekeeper"} if kind.__name__ == "CancelRequest" else set())


def test_everything_may_be_read_but_other_peoples_answers(fleet: Fleet) -> None:
    async def try_all() -> dict[str, tuple[bool, bool, bool]]:
        return {
            name: (
                await speaker.may_subscribe("shoal.>"),
                await speaker.may_subscribe(f"_INBOX.{name}.>"),
                await speaker.may_subscribe("_INBOX.somebody-else.>"),
            )
            for name, speaker in fleet.speakers.items()
        }

    found = fleet.run(try_all())
    # Nodes hear telemetry on its subjects and all else by their inboxes.
    assert found == {name: (SPEAKERS[name] not in (Role.NODE, None), True, False) for name in SPEAKERS}
    telemetry = [wire.pattern for wire in WIRES if wire.delivery is Delivery.TELEMETRY]
    assert all(fleet.run(fleet.speakers["laptop"].may_subscribe(pattern)) for pattern in telemetry)


ADMIN_OF_JETSTREAM = (
    "$JS.API.STREAM.DELETE.SHOAL_RECORD",
    "$JS.API.STREAM.PURGE.SHOAL_RECORD",
    "$JS.API.STREAM.UPDATE.SHOAL_LATEST",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.PURGE.SHOAL_AUDIT",
    "$JS.API.CONSUMER.DELETE.SHOAL_RECORD.job_desk",
    "$JS.API.CONSUMER.MSG.NEXT.SHOAL_RECORD.job_desk",
    "$JS.API.CONSUMER.CREATE.SHOAL_RECORD.job_desk",
    "$JS.API.CONSUMER.CREATE.SHOAL_RECORD.job_desk.shoal.jobs.queue",
    "$JS.API.CONSUMER.LIST.SHOAL_RECORD",
    "$JS.ACK.SHOAL_RECORD.job_desk.1.1.1.1.0",
    "$KV.leases.job_desk",
    "$SYS.REQ.SERVER.PING",
    "tensor.j.somebody-else.average.1-1.0.0",
    "tensor.j.somebody-else.fetch.somebody-else",
    "_INBOX.somebody-else.x",
    "anything.else",
)


@pytest.mark.parametrize("name", ["laptop", "ann", "wall", "i-1"])
def test_members_may_not_touch_streams_and_positions_of_others(fleet: Fleet, name: str) -> None:
    assert fleet.run(fleet.speakers[name].allowed(*ADMIN_OF_JETSTREAM)) == []


def test_a_node_speaks_of_tensors_under_its_own_name(fleet: Fleet) -> None:
    laptop = fleet.speakers["laptop"]
    own = (
        "tensor.j.laptop.average.1-1.0.0",
        "tensor.j.attic.fetch.laptop",
        "tensor.j.attic.ack.average.1-1.laptop",
        "tensor.j.attic.leave.laptop",
    )
    assert fleet.run(laptop.allowed(*own, "tensor.j.attic.ack.average.1-1.attic")) == list(own)
    assert fleet.run(laptop.may_subscribe("tensor.j.*.average.*.3.*"))
    assert not fleet.run(laptop.may_subscribe("tensor.j.attic.fetch.*"))
    assert not fleet.run(laptop.may_subscribe("tensor.j.*.to.attic.>"))
    assert not fleet.run(fleet.speakers["ann"].may_subscribe("tensor.>"))
    assert fleet.run(fleet.speakers["ann"].allowed("tensor.j.ann.average.1-1.0.0")) == []


def test_a_jobs_process_says_what_its_job_needs_and_nothing_else(fleet: Fleet) -> None:
    wanted = [
        subject
        for wire in WIRES
        for subject, own in zip(subjects_of(wire, "laptop"), (True, "node" not in wire.fields), strict=True)
        if own and writer_of(wire.type) in (TRAINER, REDUCER, EVERYONE)
    ]
    tried = [subject for wire in WIRES for subject in subjects_of(wire, "laptop")]
    assert fleet.run(fleet.work.allowed(*tried)) == wanted


def test_a_jobs_process_is_not_its_node(fleet: Fleet) -> None:
    work = fleet.work
    assert fleet.run(work.allowed(*ADMIN_OF_JETSTREAM)) == []
    assert not fleet.run(work.may_subscribe("_INBOX.laptop.>"))
    assert not fleet.run(work.may_subscribe("shoal.nodes.laptop.reach"))
    assert fleet.run(work.may_subscribe(f"_INBOX.{work_name('laptop')}.>"))
    tensors = ("tensor.j.laptop.average.1-1.0.0", "tensor.j.attic.fetch.laptop")
    assert fleet.run(work.allowed(*tensors, "tensor.j.attic.average.1-1.0.0")) == list(tensors)


def test_an_agent_s_replicas_share_a_log_that_no_other_agent_writes(fleet: Fleet) -> None:
    desk = fleet.speakers["job_desk"]
    assert fleet.run(desk.allowed("journal.job_desk", "journal.recorder")) == ["journal.job_desk"]
    assert fleet.run(fleet.speakers["laptop"].allowed("journal.laptop", "journal.job_desk")) == []


async def test_who_has_no_key_or_another_key_is_not_let_in(tmp_path: Path) -> None:
    security, known = ServerSecurity(tmp_path), KeyPair.generate()
    security.write([("node", known.public, permissions_of(Role.NODE, "laptop"))])
    async with EmbeddedServer(tmp_path, security=security, listen="0.0.0.0") as server:
        stranger = Credentials(role="node", name="laptop", seed=KeyPair.generate().seed)
        for secret in (None, "a-token", stranger):
            client = Speaker()
            how = Access(secret).for_nats_py(client.client)
            with pytest.raises(nats.errors.Error):
                await client.client.connect(server.url, error_cb=client.erred, allow_reconnect=False, **how)
            assert any("authorization" in said.lower() for said in client.refused)
