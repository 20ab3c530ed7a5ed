"""Standbys take over with the leader's state and carry out what it left; a leader that was replaced says nothing more."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from test_host import Listener
from toys import Toy, heartbeat
from virtual_loop import virtual

from bus.simulated import SimulatedBus, SimulatedServer
from runners.journal import Journal
from runners.journal_past import chapters
from runners.journaled import JournaledCore
from runners.replaying import play
from runners.shared_journal import forget
from runners.standby import Replica
from runners.steps import Input
from schemas.decisions import AgentStarted, ForceNode, NodeJoined, NodeLost, NodeQuarantined

PATIENCE = 30.0  # seconds: far more than anything here takes on a busy machine


class Team:
    """A server, a listener, and replicas of a toy that come and go."""

    def __init__(self, folder: Path | None = None) -> None:
        self.server = SimulatedServer(seed=1, ack_wait=0.1, resend=0.02, store_timeout=0.5)
        self.listener = Listener(self.server.connect("tester"))
        self.members: dict[int, tuple[Replica, asyncio.Task[None]]] = {}
        self._folder = folder

    def start(self, number: int) -> Replica:
        folder = self._folder / str(number) if self._folder is not None else None
        replica = Replica(
            lambda: Toy(random.Random(time.time_ns())), self.server.connect("toy"),
            source="toy", number=number, folder=folder,
            clock=asyncio.get_running_loop().time,
        )  # fmt: skip
        self.members[number] = (replica, asyncio.ensure_future(replica.run()))
        return replica

    @property
    def leaders(self) -> list[int]:
        return [number for number, (replica, _) in self.members.items() if replica.host is not None]

    def toy(self, number: int) -> Any:
        host = self.members[number][0].host
        assert host is not None
        return host.agent.state

    async def started(self, count: int) -> None:
        await self.listener.until(lambda: len(self.listener.of(AgentStarted)) >= count)

    def endpoint(self, number: int) -> Any:
        bus = self.members[number][0]._bus
        assert isinstance(bus, SimulatedBus)
        return bus.endpoint

    async def kill(self, number: int) -> None:
        """As a SIGKILL would: nothing more is said."""
        _, running = self.members[number]
        self.server.network.cut_off(self.endpoint(number))
        del self.members[number]
        running.cancel()
        await asyncio.wait([running])

    async def end(self, number: int) -> None:
        replica, running = self.members.pop(number)
        replica.stop("end of test")
        async with asyncio.timeout(PATIENCE):
            await running


@asynccontextmanager
async def team(folder: Path | None = None) -> AsyncIterator[Team]:
    made = Team(folder)
    await made.listener.listen()
    try:
        yield made
    finally:
        for number in list(made.members):
            await made.end(number)


@virtual
async def test_a_standby_takes_over_with_the_leaders_state(tmp_path: Path) -> None:
    async with team(tmp_path) as at:
        at.start(1)
        await at.started(1)
        at.start(2)
        await at.listener.say(heartbeat("a", interval=1000.0))
        await at.listener.say(ForceNode(node="x", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        assert at.leaders == [1]
        draws = at.toy(1).draws
        await at.kill(1)
        await at.started(2)
        assert at.leaders == [2]
        assert at.toy(2).beats == {"a": 1}
        assert at.toy(2).draws == draws
        assert at.toy(2).log.count("force x include") == 1
        first, second = at.listener.of(AgentStarted)
        assert second.incarnation > first.incarnation
        assert second.resumed
        await at.listener.say(ForceNode(node="y", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 6)
        assert len(at.listener.of(NodeJoined)) == 1


@virtual
async def test_timers_of_the_leader_are_the_standbys() -> None:
    async with team() as at:
        at.start(1)
        await at.started(1)
        at.start(2)
        await at.listener.say(heartbeat("a", interval=2.5))
        await at.listener.until(lambda: len(at.listener.of(NodeJoined)) == 1)
        await at.kill(1)
        await at.listener.until(lambda: len(at.listener.of(NodeLost)) == 1)
        assert at.leaders == [2]


@virtual
async def test_what_a_leader_took_in_and_did_not_publish_is_published_once() -> None:
    async with team() as at:
        at.start(1)
        await at.started(1)
        at.start(2)
        sending = at.members[1][0]._bus

        async def stuck(message: Any, **_: Any) -> None:
            if isinstance(message, NodeQuarantined) and message.failures > 0:
                await asyncio.Future()
            await SimulatedBus.publish(sending, message, **_)  # type: ignore[arg-type]

        sending.publish = stuck  # type: ignore[method-assign]
        await at.listener.say(ForceNode(node="x", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 1)
        await at.kill(1)
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        assert [message.failures for message in at.listener.of(NodeQuarantined)] == [0, 1, 2]
        assert len({message.id.rpartition(":")[0] for message in at.listener.of(NodeQuarantined)}) == 1


@virtual
async def test_a_leader_that_wakes_after_it_was_replaced_says_nothing_and_stands_by() -> None:
    async with team() as at:
        first = at.start(1)
        await at.started(1)
        at.start(2)
        journal = first.host._commit.__self__  # type: ignore[union-attr]
        log, awake = journal._log, asyncio.Event()

        class Still:
            async def append(self, *args: Any, **kwargs: Any) -> int:
                await awake.wait()
                sequence: int = await log.append(*args, **kwargs)
                return sequence

        journal._log = Still()
        await at.listener.say(ForceNode(node="x", do="include"))
        await at.started(2)
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 3)
        assert first.host is not None, "it doesn't know yet"
        awake.set()
        await at.listener.say(ForceNode(node="y", do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 6)
        await at.kill(2)
        await at.started(3)
        assert at.leaders == [1]
        assert first.fenced == 1
        assert at.toy(1).log.count("force x include") == at.toy(1).log.count("force y include") == 1
        assert len(at.listener.of(NodeQuarantined)) == len({each.id for each in at.listener.of(NodeQuarantined)}) == 6


@virtual
async def test_a_leader_that_ends_in_good_order_leaves_nobody_waiting_and_a_state_for_whoever_comes(tmp_path: Path) -> None:
    async with team(tmp_path) as at:
        at.start(1)
        await at.started(1)
        await at.listener.say(heartbeat("a", interval=1000.0))
        await at.listener.until(lambda: len(at.listener.of(NodeJoined)) == 1)
        await at.end(1)
        assert "toy" in at.server.logs
        at.start(2)
        await at.started(2)
        assert at.toy(2).beats == {"a": 1}
        assert at.toy(2).lives == 2


@virtual
async def test_an_agent_that_gets_standbys_brings_its_journal_and_one_that_loses_them_goes_on_from_it(
    tmp_path: Path,
) -> None:
    alone = JournaledCore(Toy(random.Random(1)), "toy", 1000, Journal(tmp_path / "1"))
    alone.recover(1.0)
    alone.take(Input(heartbeat("old", interval=1e6)), 2.0)
    alone.flush(2.0)
    async with team(tmp_path) as at:
        at.start(1)
        await at.started(1)
        assert at.toy(1).beats == {"old": 1}
        await at.listener.say(heartbeat("a", interval=1000.0))
        await at.listener.until(lambda: len(at.listener.of(NodeJoined)) == 2)
        await at.end(1)
        again = JournaledCore(Toy(random.Random(2)), "toy", 1000, Journal(tmp_path / "1"))
        again.recover(3.0)
        assert again.agent.state.beats == {"old": 1, "a": 1}
        await forget("toy", at.server.connect("alone"))
        at.start(2)
        await at.started(2)
        assert at.toy(2).beats == {}, "what was given up must not come back"


@virtual
async def test_both_copies_replay_to_the_same_decisions(tmp_path: Path) -> None:
    async with team(tmp_path) as at:
        at.start(1)
        await at.started(1)
        at.start(2)
        for node in "abc":
            await at.listener.say(heartbeat(node, interval=1000.0))
            await at.listener.say(ForceNode(node=node, do="include"))
        await at.listener.until(lambda: len(at.listener.of(NodeQuarantined)) == 9)
        await at.kill(1)
        await at.started(2)
        await at.end(2)
    for number in (1, 2):
        played = list(play("toy", chapters(tmp_path / str(number)), lambda settings: Toy(random.Random(0))))
        assert len(played) > 6
        assert all(getattr(each, "agrees", False) for each in played)
