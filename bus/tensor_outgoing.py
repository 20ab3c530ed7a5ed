"""Tensors on their way out: streamed once to all who follow, or sent chunk by chunk to whoever asks."""

import asyncio
import inspect
import itertools
import logging
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from nats.aio.msg import Msg

from bus.tensor_frames import CHUNK, SLOTS, WINDOW, Data, Held, Kept, slot_of, speaker_of
from bus.tensor_incoming import Ack, Leave
from bus.tensor_lane import Lane
from bus.tensor_lanes import Lanes, Listening
from schemas.errors import FAULTS
from schemas.ids import BadIdentifier, token

log = logging.getLogger("shoal.bus")

Provider = Callable[[str], Awaitable[tuple[str, Data] | None] | tuple[str, Data] | None]
"""Makes the newest tensor of a kind when somebody asks for it: (name, bytes), or None."""

_PACE = 0.5  # seconds that a full window may hold up the others before who fills it is asked to leave
_ASK_EVERY = 8  # chunks: two MiB are sent in vain at most, when the last follower has gone
_NO_RESPONDERS = 503  # the status of the server's own answer where nobody listens
_END = "0.end"  # in a chunk's place: a lane has sent its last; it comes over one connection, as any slot does
MADE_FOR = 60.0
"""Seconds that what was made on demand is held after it was last asked for or sent: who takes it asks for the next window,
or for what is missing, as soon as a window is through, and over the worst links within some 20 s."""

_MOST_SERVED = 256  # requests for chunks that are served at once: a window each of a fleet's latecomers
_MOST_FOLLOWERS = 10_000  # of one stream: a fleet
_GIVE_UP = 30.0  # seconds without a word from any follower; over four times a chunk's time on the worst link


class Ask(msgspec.Struct):
    """A word to a holder.

    Attributes:
        op: `status`: do you have it, are you streaming it? `get`: send me these chunks. `latest`: make one.
        chunks: first and last index of each range.
        slots: that they are to come by; empty for any.
    """

    op: str
    kind: str
    name: str = ""
    to: str = ""
    token: str = ""
    chunks: list[tuple[int, int]] = []
    slots: list[int] = []


class Answer(msgspec.Struct, omit_defaults=True):
    """A holder's answer."""

    found: bool
    name: str = ""
    size: int = 0
    digest: str = ""
    streaming: bool = False
    age: float = 0.0
    """Seconds since the stream began."""
    reason: str = ""


class Flow:
    """How far a stream and its followers are.

    The window is kept to the slowest follower, as long as all are about as fast. One that alone holds up the others is
    asked to leave: it fetches what it misses later, at its own pace, and nobody waits for it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.begun = time.monotonic()
        self.sent = 0
        self.nobody = False
        self.positions: dict[str, int] = {}
        self.left: set[str] = set()
        self._moved = asyncio.Event()

    def heard(self, follower: str, position: int) -> None:
        """A follower's acknowledgement."""
        known = follower in self.positions or len(self.positions) < _MOST_FOLLOWERS
        if known and follower not in self.left:
            self.positions[follower] = max(position, self.positions.get(follower, 0))
        self._moved.set()

    def no_follower(self) -> None:
        """The server says that nobody listens, any more."""
        self.nobody = not self.delivered
        self._moved.set()

    def broken(self) -> None:
        """A connection was lost, and what was under way on it: whoever misses some of it asks."""
        self.no_follower()

    @property
    def _room(self) -> bool:
        slowest = min(self.positions.values(), default=0)
        return self.sent + CHUNK - slowest <= WINDOW

    @property
    def delivered(self) -> bool:
        """One follower has all of it."""
        return max(self.positions.values(), default=0) >= self.total

    async def room(self, dismiss: Callable[[str], None]) -> bool:
        """Returns once another chunk may be sent; False if there is nobody to send it to."""
        return await self._until(lambda: self._room, dismiss)

    async def finished(self, dismiss: Callable[[str], None]) -> bool:
        """Returns once a follower has everything; False if none will."""
        return await self._until(lambda: self.delivered, dismiss)

    async def _until(self, condition: Callable[[], bool], dismiss: Callable[[str], None]) -> bool:
        silent_since = time.monotonic()
        while not condition():
            if self.nobody or time.monotonic() - silent_since > _GIVE_UP:
                self.nobody = True
                return False
            self._moved.clear()
            try:
                async with asyncio.timeout(_PACE):
                    await self._moved.wait()
                silent_since = time.monotonic()
            except TimeoutError:
                self._dismiss_laggards(dismiss)
        return not self.nobody

    def _dismiss_laggards(self, dismiss: Callable[[str], None]) -> None:
        leader = max(self.positions.values(), default=0)
        for follower, position in tuple(self.positions.items()):
            if self.sent + CHUNK - position > WINDOW and leader - position > WINDOW // 2:
                del self.positions[follower]
                self.left.add(follower)
                dismiss(follower)


class Outbox:
    """What this node keeps, and the sending of it.

    Attributes:
        put_off: requests for chunks that found too many under way, and have to be made again.
    """

    def __init__(self, lanes: Lanes, job: str, node: str, sent: Callable[[int, float, int], None]) -> None:
        """`sent(bytes, seconds, streams)` is told of each stream that a follower has received in whole."""
        self._lanes = lanes
        self._job = job
        self._node = node
        self._sent = sent
        self._kept: dict[tuple[str, str], Kept] = {}
        self._made: dict[str, str] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._sending: Counter[tuple[str, str]] = Counter()
        self._flows: dict[tuple[str, str], Flow] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self.put_off = 0
        self.provider: Provider | None = None
        self.made_for = MADE_FOR

    async def open(self) -> None:
        """Listen to who asks, and to what followers acknowledge."""
        control = self._lanes.control.nc
        await control.subscribe(f"tensor.{self._job}.{self._node}.fetch.*", cb=self._asked)
        await control.subscribe(f"tensor.{self._job}.{self._node}.ack.*.*.*", cb=self._acknowledged)
        # The server tells only the very connection that asked that nobody listens.
        await self._lanes.start(Listening(f"tensor.{self._job}.{self._node}.nobody.*.*", self._nobody))
        self._lanes.on_back.append(self._back)

    def keep(self, kind: str, name: str, data: Data) -> Held:
        """Hold a tensor for whoever asks; replaces an older one of that name."""
        kept = Kept(kind, name, data)
        self._kept[kind, name] = kept
        return kept.held

    def drop(self, kind: str, name: str) -> None:
        """Hold it no more."""
        self._kept.pop((kind, name), None)

    def held(self, kind: str, name: str) -> Kept | None:
        """What is held under that name."""
        return self._kept.get((kind, name))

    async def stream(self, kept: Kept) -> bool:
        """Send a tensor to all who follow its kind. Returns whether one of them has it now in whole."""
        held = kept.held
        flow = self._flows[held.kind, held.name] = Flow(held.size)
        subject = f"tensor.{self._job}.{self._node}.{held.kind}.{held.name}."
        # Now and then a chunk asks for an answer: where nobody listens the server says so at once.
        nobody = f"tensor.{self._job}.{self._node}.nobody.{held.kind}.{held.name}"

        def dismiss(follower: str) -> None:
            log.info("%s is too slow for the stream of %s/%s: it will fetch it", follower, held.kind, held.name)
            self._tell(follower, held, done=False)

        async def send(lane: Lane, index: int) -> bool:
            if not await flow.room(dismiss):
                return False
            frame = kept.frame(index)
            where = f"{subject}{slot_of(index)}.{index * kept.chunk}"
            await lane.publish(where, frame, nobody if index % _ASK_EVERY == 0 else "")
            flow.sent += len(frame[1])
            await asyncio.sleep(0)
            return True

        begun = time.monotonic()
        try:
            lanes = await self._lanes.send(iter(range(kept.count)), send, subject + _END, nobody)
            delivered = await flow.finished(dismiss)
            if not delivered:  # what broke it off may have cost followers the word of its end, too
                await self._lanes.end(subject + _END, nobody)
            if delivered and held.size:
                self._sent(held.size, time.monotonic() - begun, lanes)
            return delivered
        finally:
            if self._flows.get((held.kind, held.name)) is flow:
                del self._flows[held.kind, held.name]
            for follower in flow.left:
                self._tell(follower, held, done=True)

    def _tell(self, follower: str, held: Held, *, done: bool) -> None:
        word = Leave(kind=held.kind, name=held.name, sender=self._node, done=done)
        self._lanes.control.post(f"tensor.{self._job}.{follower}.leave.{self._node}", msgspec.json.encode(word))

    async def _acknowledged(self, msg: Msg) -> None:
        """`tensor.<job>.<this node>.ack.<kind>.<name>.<follower>`"""
        *_, kind, name, follower = msg.subject.split(".")
        flow = self._flows.get((kind, name))
        if flow is None:
            return
        try:
            ack = msgspec.json.decode(msg.data, type=Ack)
        except FAULTS:
            return
        if ack.follower == follower:
            flow.heard(follower, ack.position)

    def _nobody(self, subject: str, payload: memoryview, status: int) -> None:
        """`tensor.<job>.<this node>.nobody.<kind>.<name>`: the server's word on a chunk of a stream."""
        *_, kind, name = subject.split(".")
        flow = self._flows.get((kind, name))
        if flow is not None and status == _NO_RESPONDERS:
            flow.no_follower()

    def _back(self) -> None:
        for flow in self._flows.values():
            flow.broken()

    async def _asked(self, msg: Msg) -> None:
        try:
            ask = msgspec.json.decode(msg.data, type=Ask)
            if ask.op == "get" and ask.to != speaker_of(msg.subject):
                raise msgspec.ValidationError("it asks in another's name")
            answer = await self._latest(ask) if ask.op == "latest" else self._answer(ask)
        except (*FAULTS, BadIdentifier) as error:
            answer = Answer(found=False, reason=f"that is no request for a tensor: {error}")
        except Exception as error:
            log.exception("a tensor that was asked for could not be made")
            answer = Answer(found=False, reason=f"its holder could not make it: {error}")
        if msg.reply:
            self._lanes.control.post(msg.reply, msgspec.json.encode(answer))

    async def _latest(self, ask: Ask) -> Answer:
        made = self.provider(ask.kind) if self.provider is not None else None
        if inspect.isawaitable(made):
            made = await made
        if made is None:
            return Answer(found=False, reason=f"its holder has no {ask.kind}")
        name, data = made
        kept = self._kept.get((ask.kind, name))
        if kept is None:
            # Of what was made on demand only the newest stays: whoever asked for an older one asks again.
            older = self._made.get(ask.kind)
            if older is not None:
                self.drop(ask.kind, older)
            kept = self._kept[ask.kind, name] = await asyncio.to_thread(Kept, ask.kind, name, data)
            self._made[ask.kind] = name
        self._wanted(ask.kind, name)
        return self._describe(kept)

    def _wanted(self, kind: str, name: str) -> None:
        """What was made on demand is asked for, or a part of it is sent: it stays for a while after the last of that."""
        if self._made.get(kind) != name:
            return
        if (leaving := self._leaving.pop(kind, None)) is not None:
            leaving.cancel()
        if not self._sending[kind, name]:
            self._leaving[kind] = asyncio.get_running_loop().call_later(self.made_for, self._let_go, kind)

    def _let_go(self, kind: str) -> None:
        self._leaving.pop(kind, None)
        if (name := self._made.pop(kind, None)) is not None:
            self.drop(kind, name)

    def _has_sent(self, task: asyncio.Task[None], kept: Kept) -> None:
        self._serving.discard(task)
        key = kept.held.kind, kept.held.name
        self._sending[key] -= 1
        if not self._sending[key]:
            del self._sending[key]
        self._wanted(*key)

    def _answer(self, ask: Ask) -> Answer:
        kept = self._kept.get((ask.kind, ask.name))
        if kept is None:
            return Answer(found=False, reason=f"its holder has dropped {ask.kind}/{ask.name}")
        if ask.op == "get":
            if len(self._serving) >= _MOST_SERVED:
                self.put_off += 1
                return self._describe(kept)  # nothing comes, and so it is asked for again
            ranges = [range(max(0, first), min(kept.count, last + 1)) for first, last in ask.chunks]
            # However often one is named: who asks may not have more sent than there is.
            indexes = itertools.islice((index for span in ranges for index in span), kept.count)
            subject = f"tensor.{self._job}.{self._node}.to.{token(ask.to)}.{token(ask.token)}."
            slots = [slot for slot in ask.slots if 0 <= slot < SLOTS] or list(range(SLOTS))
            turn = zlib.crc32(ask.token.encode()) % len(slots)
            task = asyncio.get_running_loop().create_task(self._serve(kept, indexes, subject, slots[turn:] + slots[:turn]))
            self._serving.add(task)
            self._sending[ask.kind, ask.name] += 1
            self._wanted(ask.kind, ask.name)
            task.add_done_callback(lambda done: self._has_sent(done, kept))
        return self._describe(kept)

    def _describe(self, kept: Kept) -> Answer:
        held = kept.held
        flow = self._flows.get((held.kind, held.name))
        return Answer(
            found=True,
            name=held.name,
            size=held.size,
            digest=held.digest,
            streaming=flow is not None,
            age=0.0 if flow is None else time.monotonic() - flow.begun,
        )

    async def _serve(self, kept: Kept, indexes: Iterator[int], subject: str, slots: list[int]) -> None:
        """Send chunks to one who asked. It asks for a window at a time, so no acknowledgements are needed.

        They are dealt out anew: those that one connection didn't bring come by all that are to bring them.
        """
        turns = itertools.cycle(slots)

        async def send(lane: Lane, index: int) -> bool:
            await lane.publish(f"{subject}{next(turns)}.{index * kept.chunk}", kept.frame(index))
            await asyncio.sleep(0)
            return True

        await self._lanes.send(indexes, send, subject + _END)

    def close(self) -> None:
        """Send no more."""
        self._made.clear()
        for leaving in self._leaving.values():
            leaving.cancel()
        for task in tuple(self._serving):
            task.cancel()
