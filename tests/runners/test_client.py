"""The client library against a real server with a small desk."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from report_story import told
from toy_desk import PATIENCE, ToyDesk

import shoal
from bus.port import NoResponders, Unreachable
from bus.server import EmbeddedServer
from bus.server_config import ensure_token
from runners.address import NoServer
from runners.client import Client, NoSuchSubject, Refused, connect, matches
from schemas.ids import BadIdentifier
from schemas.jobs import JobPhase, JobQueued, JobRequest, JobState
from schemas.nodes import NodeHeartbeat, NodeLeaving
from schemas.training import RoundClosed
from schemas.wire import Message

BODY = {"kind": "train", "workload": "examples.digits:workload", "rounds": 5}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_SERVER", "SHOAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store") as server:
        yield server


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    async with await connect(server.url, name="tester") as client:
        yield client


@pytest.fixture
async def desk(server: EmbeddedServer) -> AsyncIterator[ToyDesk]:
    desk = await ToyDesk.open(server.url)
    yield desk
    await desk.close()


async def first(events: AsyncIterator[Message], count: int) -> list[Message]:
    """So many messages."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(events) for _ in range(count)]


async def test_a_job_is_submitted_listed_and_cancelled(client: Client, desk: ToyDesk) -> None:
    accepted = await client.submit(BODY)
    assert not accepted.queued
    other = await client.submit(JobRequest(kind="train", workload="m:w", id="mine"))
    assert other.job == "mine"
    assert [row.job for row in await client.jobs()] == ["mine", accepted.job]
    await client.cancel("mine", "changed my mind")
    state = await client.state("mine")
    assert state is not None
    assert (state.state, state.reason) == (JobPhase.CANCELLED, "changed my mind")
    assert await client.state("unheard-of") is None


async def test_refusals_carry_field_and_reason(client: Client, desk: ToyDesk) -> None:
    with pytest.raises(Refused, match=r"\$\.rounds: at most 100") as caught:
        await client.submit(BODY | {"rounds": 101})
    assert (caught.value.field, caught.value.reason) == ("$.rounds", "at most 100")
    with pytest.raises(Refused, match="did you mean `rounds`") as caught:
        await client.submit(BODY | {"round": 5})
    assert caught.value.field == "$.round"
    with pytest.raises(Refused, match="there is no job x"):
        await client.cancel("x")


async def test_without_a_desk_a_job_is_stored_for_the_next_one(client: Client, server: EmbeddedServer) -> None:
    named = await client.submit(BODY | {"id": "mine"})
    unnamed = await client.submit(BODY)
    assert (named.job, named.queued, unnamed.queued) == ("mine", True, True)
    async with await connect(server.url) as other:
        stored = [event async for event in other.history("shoal.jobs.queue")]
    assert [event.request.id for event in stored if isinstance(event, JobQueued)] == ["mine", unnamed.job]
    assert all(event.source == "tester" and event.id for event in stored)
    assert len({event.id for event in stored}) == 2


async def test_without_a_desk_a_bad_request_is_refused_at_once(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        await client.submit({"kind": "train"})
    assert (caught.value.field, caught.value.reason) == ("$.workload", "required")
    assert [event async for event in client.history("shoal.jobs.queue")] == []


async def test_a_caller_may_insist_on_a_desk(client: Client) -> None:
    with pytest.raises(NoResponders, match="shoal up"):
        await client.submit(BODY, queue=False)
    with pytest.raises(NoResponders):
        await client.jobs()


async def test_the_module_offers_the_same_in_one_call(server: EmbeddedServer, desk: ToyDesk) -> None:
    accepted = await shoal.submit(BODY, server.url)
    async with aclosing(shoal.events(f"shoal.jobs.{accepted.job}.state", server.url, past=True)) as events:
        (state,) = await first(events, 1)
    assert isinstance(state, JobState)
    assert state.job == accepted.job


async def _beat(desk: ToyDesk) -> None:
    """Heartbeats until cancelled: the first one that a subscriber hears shows that it listens."""
    sequence = 0
    while True:
        sequence += 1
        await desk.say(NodeHeartbeat(node="n", sequence=sequence, interval=1.0))
        await desk.bus.round_trip(PATIENCE)


async def listening(events: AsyncIterator[Message], desk: ToyDesk) -> None:
    """Returns once what is published is heard."""
    beating = asyncio.ensure_future(_beat(desk))
    assert isinstance((await first(events, 1))[0], NodeHeartbeat)
    beating.cancel()


async def without_beats(events: AsyncIterator[Message], count: int) -> list[Message]:
    seen: list[Message] = []
    while len(seen) < count:
        (event,) = await first(events, 1)
        if not isinstance(event, NodeHeartbeat):
            seen.append(event)
    return seen


async def test_events_begin_now_and_leave_out_what_was_known(client: Client, desk: ToyDesk) -> None:
    job = (await client.submit(BODY)).job
    await desk.say(NodeLeaving(node="n", reason="before"))
    async with aclosing(client.events()) as events:
        await listening(events, desk)
        await desk.change(job, JobPhase.RUNNING, "on 2 nodes")
        await desk.say(NodeLeaving(node="n", reason="after"))
        seen = await without_beats(events, 2)
    assert {event.reason for event in seen if isinstance(event, JobState | NodeLeaving)} == {"on 2 nodes", "after"}


async def test_the_past_comes_first_in_order_of_time_and_nothing_twice(client: Client, desk: ToyDesk) -> None:
    story = told(rounds=6)
    await desk.tell(sorted(story, key=lambda message: message.at))
    stored = [event async for event in client.history()]
    assert len({event.id for event in stored}) == len(stored)
    assert [event.at for event in stored] == sorted(event.at for event in stored)
    assert {event.id for event in stored if isinstance(event, RoundClosed)} == {
        event.id for event in story if isinstance(event, RoundClosed)
    }
    async with aclosing(client.events(past=True)) as events:
        assert await first(events, len(stored)) == stored
        live = await desk.say(NodeLeaving(node="n", reason="now"))
        assert await first(events, 1) == [live]


async def test_filters_with_wildcards_names_and_several_subjects(client: Client, desk: ToyDesk) -> None:
    await desk.tell(told(job="one", rounds=3))
    await desk.tell(msgspec.structs.replace(message, id=f"two-{message.id}") for message in told(job="two", rounds=2))

    async def ids(*subjects: str) -> list[str]:
        return [event.id async for event in client.history(*subjects)]

    assert len(await ids("shoal.training.one.round.*.closed")) == 3
    assert len(await ids("shoal.training.*.round.*.closed")) == 5
    assert len(await ids("shoal.training.*.round.2.closed")) == 2
    assert len(await ids("shoal.training.two.round.3.closed")) == 0
    one_state, all_states = await ids("shoal.jobs.one.state"), await ids("shoal.jobs.*.state")
    assert (len(one_state), len(all_states)) == (1, 2)
    both = await ids("shoal.jobs.one.state", "shoal.training.two.round.1.closed")
    assert len(both) == 2
    # Filters that overlap bring nothing twice.
    assert await ids("shoal.jobs.*.state", "shoal.jobs.one.>", "shoal.jobs.one.state") == await ids(
        "shoal.jobs.*.state", "shoal.jobs.one.>"
    )


async def test_subjects_on_which_nothing_travels_are_refused(client: Client) -> None:
    with pytest.raises(NoSuchSubject, match="shoal schema") as caught:
        await anext(client.events("shoal.jobs.>", "shoal.nobody"))
    assert caught.value.subject == "shoal.nobody"
    with pytest.raises(BadIdentifier):
        await anext(client.history("shoal.jobs.not a name.state"))


@pytest.mark.parametrize(
    ("pattern", "subject", "yes"),
    [
        ("shoal.>", "shoal.jobs.x.state", True),
        (">", "shoal.jobs.x.state", True),
        ("shoal.jobs.*.state", "shoal.jobs.x.state", True),
        ("shoal.jobs.*", "shoal.jobs.x.state", False),
        ("shoal.jobs.x.state.>", "shoal.jobs.x.state", False),
        ("shoal.jobs.y.state", "shoal.jobs.x.state", False),
        ("shoal.*.x.>", "shoal.jobs.x.state", True),
    ],
)
def test_matching_is_that_of_nats(pattern: str, subject: str, yes: bool) -> None:
    assert matches(pattern, subject) is yes


async def test_connecting_says_what_to_do_when_it_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="shoal up"):
        await connect(f"nats://127.0.0.1:{port}")
    with pytest.raises(NoServer, match="shoal up"):
        await connect(store=tmp_path)


async def test_the_token_is_asked_for_and_found_in_the_store(tmp_path: Path) -> None:
    token = ensure_token(tmp_path)
    async with EmbeddedServer(tmp_path, token=token) as server:
        with pytest.raises(Unreachable, match="token"):
            await connect(server.url)
        with pytest.raises(Unreachable, match="token"):
            await connect(server.url, token="wrong")
        async with await connect(store=tmp_path) as client:
            assert token not in client.address.url
            assert [row async for row in client.history("shoal.jobs.*.state")] == []
