"""The host on the simulated carrier: what a core decides is carried out, in order, once, and over several lives."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from toys import Counted, Toy, ToyState, heartbeat

from agents.effects import Work
from agents.inputs import Result
from bus.port import Interest, Start
from bus.simulated import SimulatedBus, SimulatedServer
from bus.simulated_faults import Faults
from runners.host import Host
from runners.journal import Journal
from schemas.decisions import (
    AgentStarted,
    AgentUsage,
    ForceNode,
    InputFailed,
    NodeJoined,
    NodeLost,
    NodeQuarantined,
    NodeReleased,
)
from schemas.jobs import JobState
from schemas.wire import Message, seal

SPOKEN = (NodeJoined, NodeLost, NodeQuarantined, NodeReleased, InputFailed, AgentStarted, AgentUsage, JobState)
PATIENCE = 20.0  # seconds: far more than anything here takes on a busy machine


class Listener:
    """Hears all that a toy says, and lets a test wait for it."""

    def __init__(self, bus: SimulatedBus) -> None:
        self.bus = bus
        self.heard: list[Any] = []
        self._changed = asyncio.Event()
        self._number = 0

    async def listen(self) -> None:
        await self.bus.subscribe([Interest(kind) for kind in SPOKEN], self._hear)

    def _hear(self, message: Message, receipt: Any) -> None:
        if receipt is not None:
            receipt.ack()
        self.heard.append(message)
        self._changed.set()

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def say(self, message: Message) -> Message:
        self._number += 1
        sealed = seal(message, id=f"tester:1:{self._number}", cause="", at=1.0, source="tester")
        await self.bus.publish(sealed)
        return sealed


class Counter:
    """A work runner that counts; its result comes in a later turn of the loop."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.stopped: list[str] = []
        self.closed = False

    def start(self, key: str, work: Work, post: Callable[[Result], None]) -> None:
        self.started.append(key)
        asyncio.get_running_loop().call_soon(post, Counted(total=3))

    def stop(self, key: str, reason: str) -> None:
        self.stopped.append(key)

    async def close(self) -> None:
        self.closed = True


class Shelf:
    """A history store."""

    def __init__(self, fail: bool = False) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.fail = fail

    async def store(self, table: str, row: dict[str, Any]) -> None:
        if self.fail:
            raise OSError("no space left on device")
        self.rows.append((table, row))


class Place:
    """A server, a listener, and hosts that come and go."""

    def __init__(self) -> None:
        self.server = SimulatedServer(seed=1, ack_wait=0.1, resend=0.02, store_timeout=0.2)
        self.listener = Listener(self.server.connect("tester"))
        self.hosts: list[tuple[Host, asyncio.Task[None]]] = []

    async def host(self, **options: Any) -> Host:
        toy = Toy(random.Random(1))
        host = Host(toy, self.server.connect("toy"), source="toy", **options)
        born = len(self.listener.of(AgentStarted))
        self.hosts.append((host, asyncio.ensure_future(host.run())))
        await self.listener.until(lambda: len(self.listener.of(AgentStarted)) > born)
        return host

    async def end(self) -> None:
        host, running = self.hosts.pop()
        host.stop("end of test")
        async with asyncio.timeout(PATIENCE):
            await running

    async def kill(self, folder: Path) -> None:
        """As a SIGKILL would: nothing more is said, and the journal is as it was at that moment."""
        host, running = self.hosts.pop()
        assert isinstance(host.bus, SimulatedBus)
        self.server.network.cut_off(host.bus.endpoint)
        left = folder.with_suffix(".left")
        shutil.copytree(folder, left)
        running.cancel()
        await asyncio.wait([running])
        shutil.rmtree(folder)
        left.rename(folder)


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    made = Place()
    await made.listener.listen()
    try:
        yield made
    finally:
        while made.hosts:
            await made.end()


async def test_messages_become_decisions_with_their_cause() -> None:
    async with place() as at:
        await at.host()
        beat = await at.listener.say(heartbeat("a", interval=60.0))
        await at.listener.until(lambda: bool(at.listener.of(NodeJoined)))
        (joined,) = at.listener.of(NodeJoined)
        assert (joined.node, joined.cause, joined.source) == ("a", beat.id, "toy")
        ids = [message.id for message in at.listener.heard]
        assert len(ids) == len(set(ids))


async def test_a_timer_fires_once_and_passes_on_its_cause() -> None:
    async with place() as at:
        host = await at.host()
        await at.listener.say(heartbeat("a", 1, interval=60.0))
        beat = await at.listener.say(heartbeat("a", 2, interval=0.01))
        await at.listener.say(heartbeat("b", 3, interval=0.01))
        await at.listener.say(heartbeat("b", 4, interval=0))  # takes its timer back
        await at.listener.until(lambda: bool(at.listener.of(NodeLost)))
        await at.end()
        assert [(lost.node, lost.cause) for lost in at.listener.of(NodeLost)] == [("a", beat.id)]
        assert host.agent.state.log.count("silent a") == 1


async def test_effects_of_one_subject_keep_the_order_of_the_decisions() -> None:
    """Whatever gets lost on the way and is sent again."""
    async with place() as at:
        host = await at.host()
        at.server.store_timeout = PATIENCE  # what is lost is sent again, however late a busy machine is
        at.server.network.set_faults(Faults(drop=0.3))
        for number in range(20):
            await at.listener.say(ForceNode(node=f"n{number}", do="include"))
        await at.listener.until(lambda: len({m.id for m in at.listener.of(NodeQuarantined)}) == 60)
        stored = [message async for message in at.listener.bus.history([Interest(NodeQuarantined)])]
        decided = [line.split()[1] for line in host.agent.state.log if line.startswith("force")]
        assert [m.reason for m in stored] == [f"{node} part {part}" for node in decided for part in range(3)]
        at.server.network.set_faults(Faults())


async def test_an_input_that_raises_is_told_and_the_agent_goes_on() -> None:
    async with place() as at:
        host = await at.host()
        await at.listener.say(ForceNode(node="a", do="include", reason="raise"))
        await at.listener.say(ForceNode(node="b", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        (failed,) = at.listener.of(InputFailed)
        assert (failed.agent, failed.input) == ("toy", "ForceNode")
        assert "half done" not in host.agent.state.log


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (b"\xff", "$", "not JSON"),
        (b'{"kind": "train", "workload": "a:b", "rouds": 1}', "$.rouds", "did you mean `rounds`"),
        (b'{"kind": "train"}', "$.workload", "required"),
        (b'{"kind": "train", "workload": "raise:raise"}', "$", "internal error: RuntimeError: no such luck"),
        (b"[" + b" " * 70_000 + b"]", "$", "too large"),
    ],
)
async def test_a_bad_request_is_answered_with_the_field_at_fault(body: bytes, field: str, reason: str) -> None:
    async with place() as at:
        await at.host()
        answer = (await at.listener.bus.request("shoal.jobs.submit", body, PATIENCE)).decode()
        assert f'"accepted":false,"field":"{field}"' in answer.replace('"job":null,', "")
        assert reason in answer


async def test_a_request_is_answered_after_its_effects_are_stored() -> None:
    async with place() as at:
        await at.host()
        body = b'{"kind": "train", "workload": "a:b", "id": "mine"}'
        answer = await at.listener.bus.request("shoal.jobs.submit", body, PATIENCE)
        assert answer == b'{"accepted":true,"job":"mine"}'
        assert [message.job async for message in at.listener.bus.history([Interest(JobState)])] == ["mine"]


async def test_works_history_and_probes_bring_their_results_in() -> None:
    async with place() as at:
        works, shelf = Counter(), Shelf()
        host = await at.host(works=works, history=shelf)
        await at.listener.say(ForceNode(node="a", do="include", reason="count"))
        asked = await at.listener.say(ForceNode(node="b", do="include", reason="store"))
        await at.listener.until(lambda: bool(at.listener.of(NodeReleased)))
        assert works.started == ["count"]
        assert at.listener.of(NodeReleased)[0].cause == "tester:1:1"
        await at.listener.until(lambda: any(q.cause == asked.id for q in at.listener.of(NodeQuarantined)))
        assert "probe 1 True" in host.agent.state.log
        await at.end()
        assert shelf.rows == [("forced", {"node": "b"})]
        assert works.closed


async def test_an_effect_that_cannot_be_carried_out_is_told() -> None:
    async with place() as at:
        await at.host(history=Shelf(fail=True))
        await at.listener.say(ForceNode(node="a", do="include", reason="store"))
        await at.listener.say(ForceNode(node="a", do="include", reason="count"))  # and there is no work runner
        await at.listener.until(lambda: len(at.listener.of(InputFailed)) == 2)
        told = sorted(failed.input for failed in at.listener.of(InputFailed))
        assert told == ["StartWork count", "Store forced"]


async def test_a_later_life_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    async with place() as at:
        await at.host(journal=Journal(tmp_path))
        await at.listener.say(heartbeat("a", interval=60.0))
        for number in range(5):
            await at.listener.say(ForceNode(node=f"n{number}", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 15)
        await at.kill(tmp_path)
        await at.listener.say(ForceNode(node="missed", do="include"))
        second = await at.host(journal=Journal(tmp_path))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 18)
        await at.end()
        state: ToyState = second.agent.state
        assert state.beats == {"a": 1}
        assert [line for line in state.log if line.startswith("force")] == [
            *(f"force n{number} include" for number in range(5)),
            "force missed include",
        ]
        first_start, second_start = at.listener.of(AgentStarted)
        assert (first_start.resumed, second_start.resumed) == (False, True)
        assert second_start.incarnation > first_start.incarnation
        assert second_start.replayed > 0
        history = [message async for message in at.listener.bus.history([Interest(NodeQuarantined)])]
        assert len({message.id for message in history}) == len(history) == 18


async def test_what_a_kill_cut_short_is_redone_once(tmp_path: Path) -> None:
    """Killed after the journal and before the stream: the next life stores it; had the stream had it, it stays one."""
    async with place() as at:
        await at.host(journal=Journal(tmp_path))
        host = at.hosts[-1][0]
        assert isinstance(host.bus, SimulatedBus)
        at.server.synchronise()
        host.bus.endpoint.up_cut = at.server.network.now + 3600  # what it publishes from now on gets nowhere
        await at.listener.say(ForceNode(node="a", do="include"))
        await until(lambda: "force a include" in host.agent.state.log)
        await at.kill(tmp_path)
        assert at.listener.of(NodeQuarantined) == []
        again = await at.host(journal=Journal(tmp_path))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        assert [message.reason for message in at.listener.of(NodeQuarantined)] == [f"a part {part}" for part in range(3)]
        await at.end()
        assert again.agent.state.log.count("force a include") == 1


async def test_overdue_timers_fire_at_the_next_start_after_what_was_missed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.host.HEAR_FIRST", 0.2)
    monkeypatch.setattr("runners.host.LATE", 0.0)
    async with place() as at:
        await at.host(journal=Journal(tmp_path))
        await at.listener.say(heartbeat("gone", interval=0.05))
        await at.listener.say(heartbeat("alive", interval=0.05))
        await at.listener.until(lambda: len(at.listener.of(NodeJoined)) == 2)
        await at.kill(tmp_path)
        await at.host(journal=Journal(tmp_path))
        await at.listener.say(heartbeat("alive", interval=60.0))
        await at.listener.until(lambda: bool(at.listener.of(NodeLost)))
        await at.end()
        assert [lost.node for lost in at.listener.of(NodeLost)] == ["gone"]


async def test_decisions_wait_for_a_server_that_is_away() -> None:
    async with place() as at:
        host = await at.host()
        at.server.stop()
        host.post(Counted(total=7))
        await until(lambda: "counted 7" in host.agent.state.log)
        at.server.start()
        await at.listener.until(lambda: any(m.node == "counted" for m in at.listener.of(NodeReleased)))


async def test_last_words_are_said_even_with_the_server_gone_it_ends(monkeypatch: Any) -> None:
    monkeypatch.setattr("runners.host.LAST_WORDS", 0.2)
    async with place() as at:
        await at.host()
        await at.end()
        await at.listener.until(lambda: bool(at.listener.of(NodeReleased)))
        assert at.listener.of(NodeReleased)[0].reason == "end of test"
        await at.host()
        at.server.stop()
        await at.end()


async def test_the_scope_narrows_what_comes_in() -> None:
    async with place() as at:
        await at.host(scope={"node": "mine", "job": "j"})
        await at.listener.say(heartbeat("other", interval=60.0))
        await at.listener.say(heartbeat("mine", interval=60.0))
        await at.listener.until(lambda: bool(at.listener.of(NodeJoined)))
        assert [joined.node for joined in at.listener.of(NodeJoined)] == ["mine"]


async def test_a_message_without_an_envelope_is_taken_once() -> None:
    async with place() as at:
        await at.host(start=Start.NEW)
        at.listener.bus.inject("shoal.decisions.node_selector.force", b'{"node": "a", "do": "include"}')
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        assert all(message.cause.startswith("client:record:") for message in at.listener.of(NodeQuarantined))


async def test_usage_is_told() -> None:
    async with place() as at:
        await at.host()
        await at.listener.until(lambda: bool(at.listener.of(AgentUsage)))
        usage = at.listener.of(AgentUsage)[0]
        assert usage.agent == "toy"
        assert usage.resident_bytes > 1_000_000
        assert usage.cpu_seconds > 0


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until a condition holds that no message tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
