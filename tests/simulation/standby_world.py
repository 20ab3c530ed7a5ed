"""Replicas of one agent on a simulated server, in virtual time: the very code that runs, with its faults drawn from a seed.

Whatever a replica sends goes through a gate that is shut while it stands still: all that it had decided comes out when it
wakes, long after it was replaced. That is what makes split brains.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import msgspec
from toys import Toy, heartbeat
from virtual_loop import passing

from agents.effects import Publish
from bus.port import Interest
from bus.simulated import SimulatedBus, SimulatedServer
from bus.simulated_log import LogData
from runners.journal import Entry, frames_in
from runners.journaled import JournaledCore
from runners.shared_journal import Kept, decode_page
from runners.standby import Replica
from schemas.decisions import ForceNode, NodeJoined, NodeLost, NodeQuarantined, NodeReleased
from schemas.wire import Message, seal

SOURCE = "toy"
DECISIONS = (NodeJoined, NodeLost, NodeQuarantined, NodeReleased)
# Seconds that somebody stands still at most: the server ends a connection that is silent for 40 s, and with it all that
# was about to be sent; streams know a name for 120 s.
LONGEST_PAUSE = 35.0


class GatedLog:
    """A log whose appends wait at the gate."""

    def __init__(self, log: Any, gate: asyncio.Event) -> None:
        self._log = log
        self._gate = gate

    async def append(self, data: bytes, *, after: int, name: str) -> int:
        await self._gate.wait()
        sequence: int = await self._log.append(data, after=after, name=name)
        await self._gate.wait()
        return sequence

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class GatedBus:
    """A participant that can stand still."""

    def __init__(self, bus: SimulatedBus) -> None:
        self.bus = bus
        self.gate = asyncio.Event()
        self.gate.set()

    def log(self, name: str) -> GatedLog:
        return GatedLog(self.bus.log(name), self.gate)

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        await self.gate.wait()
        await self.bus.publish(message, dedup=dedup, first=first)

    async def put_object(self, name: str, data: bytes) -> None:
        await self.gate.wait()
        await self.bus.put_object(name, data)

    async def round_trip(self, timeout: float) -> float | None:
        await self.gate.wait()
        return await self.bus.round_trip(timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bus, name)


class Member:
    """One replica's process."""

    def __init__(self, world: "StandbyWorld", number: int) -> None:
        self.bus = GatedBus(world.server.connect(SOURCE, latency=0.005, jitter=0.01))
        self.replica = Replica(
            lambda: Toy(random.Random(world.rng.random())), self.bus,
            source=SOURCE, number=number, folder=None, clock=asyncio.get_running_loop().time,
        )  # fmt: skip
        self.running = asyncio.ensure_future(self.replica.run())

    async def kill(self, server: SimulatedServer) -> None:
        server.network.cut_off(self.bus.bus.endpoint)
        self.running.cancel()
        await asyncio.wait([self.running])


class StandbyWorld:
    """The replicas, somebody who gives them work, and what goes wrong.

    Attributes:
        fenced: times that somebody found out that it had been replaced.
        counts: troubles, by kind.
    """

    def __init__(self, seed: int, replicas: int = 3) -> None:
        self.rng = random.Random(seed)
        self.server = SimulatedServer(seed)
        self.server.logs[SOURCE] = self.log = _Log()
        self.server.objects = self.objects = _Objects()
        self.members = {number: Member(self, number) for number in range(1, replicas + 1)}
        self.speaker = self.server.connect("speaker")
        self.told = 0
        self.beats = 0
        self.fenced = 0
        self.counts: Counter[str] = Counter()

    async def say(self, message: Message) -> None:
        self.told += 1
        await self.speaker.publish(seal(message, id=f"speaker:1:{self.told}", cause="", at=1.0, source="speaker"))

    async def work(self, seconds: float) -> None:
        """Give the agent something to decide, by messages and by silences, until the time is over."""
        loop = asyncio.get_running_loop()
        end, number = loop.time() + seconds, 0
        while loop.time() < end:
            number += 1
            if number % 3:
                self.beats += 1
                await self.say(heartbeat(f"n{number % 5}", number, interval=2.0))
            else:
                await self.say(ForceNode(node=f"x{number}", do="include"))
            await passing(self.rng.expovariate(2.0))

    async def trouble(self, seconds: float) -> None:
        """Pauses, partitions, kills and a server that goes away, one after the other and into each other."""
        loop, kinds = asyncio.get_running_loop(), ("pause", "cut", "kill", "server")
        end, under_way = loop.time() + seconds, []
        while loop.time() < end:
            await passing(self.rng.expovariate(0.4))
            kind = self.rng.choices(kinds, (5, 5, 2, 1))[0]
            leading = [number for number, member in self.members.items() if member.replica.host is not None]
            victims = leading if leading and self.rng.random() < 0.7 else list(self.members)
            self.counts[kind] += 1
            under_way.append(asyncio.ensure_future(getattr(self, f"_{kind}")(self.rng.choice(victims))))
        await asyncio.gather(*under_way)

    async def _pause(self, number: int) -> None:
        member, long = self.members[number], min(LONGEST_PAUSE, self.rng.expovariate(0.2))
        network = self.server.network
        member.bus.gate.clear()
        member.bus.bus.endpoint.paused = max(member.bus.bus.endpoint.paused, network.now + long)
        await passing(long)
        member.bus.gate.set()

    async def _cut(self, number: int) -> None:
        endpoint, until = self.members[number].bus.bus.endpoint, self.server.network.now + self.rng.expovariate(0.3)
        ways = self.rng.choice(("up", "down", "both"))
        if ways != "down":
            endpoint.up_cut = until
        if ways != "up":
            endpoint.down_cut = until

    async def _kill(self, number: int) -> None:
        member = self.members[number]
        self.fenced += member.replica.fenced
        await member.kill(self.server)
        await passing(self.rng.expovariate(1.0))
        if self.members[number] is member:
            self.members[number] = Member(self, number)

    async def _server(self, number: int) -> None:
        self.server.stop()
        await passing(self.rng.expovariate(0.5))
        self.server.start()

    async def end(self) -> None:
        """Everything ends in good order."""
        for member in self.members.values():
            self.fenced += member.replica.fenced
            member.replica.stop("the end")
        await asyncio.gather(*(member.running for member in self.members.values()))

    async def stored(self) -> list[Message]:
        """What the agent has published."""
        reader = self.server.connect("reader")
        return [message async for message in reader.history([Interest(kind) for kind in DECISIONS])]

    @property
    def leaders(self) -> int:
        """How many lives led."""
        return len({decode_page(data).incarnation for data in self.log.pages})

    def decided(self) -> dict[str, Message]:
        """What a single core that lived through the whole log would have published, by id."""
        pages = [decode_page(data) for data in self.log.pages]
        first = next(page.index for page in pages if page.frames)
        begun = max((kept for kept in self.objects.kept if kept.index < first), key=lambda kept: kept.index)
        core = JournaledCore(Toy(random.Random(0)), SOURCE, 0, None)
        core.restore(begun.snapshot)
        published: dict[str, Message] = {}
        for page in pages:
            for record, _ in frames_in(page.frames):
                step = core.again(record) if isinstance(record, Entry) else None
                for effect in step.effects if step is not None else []:
                    if isinstance(effect, Publish) and isinstance(effect.message, DECISIONS):
                        published[effect.message.id] = effect.message
        return published


class _Log(LogData):
    """A log that keeps what its writers trim."""

    def __init__(self) -> None:
        super().__init__(resend=1.0)
        self.pages: list[bytes] = []

    def append(self, data: bytes, after: int, name: str) -> int | None:
        before = self.last
        sequence = super().append(data, after, name)
        if self.last > before:
            self.pages.append(data)
        return sequence


class _Objects(dict[str, bytes]):
    """An object store that keeps what is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Kept] = []

    def __setitem__(self, name: str, data: bytes) -> None:
        super().__setitem__(name, data)
        self.kept.append(msgspec.msgpack.decode(data, type=Kept))
