"""What comes in: chunks of streams that are followed, chunks that were asked for, and who is to have them."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from nats.aio.msg import Msg

from bus.tensor_assembly import Incoming
from bus.tensor_frames import HEADER_SIZE, Header, header_of, number_in, speaker_of
from bus.tensor_lanes import Lanes, Listening
from schemas.errors import FAULTS

Key = tuple[str, str, str]
"""(sender, kind, name)"""

_ACK_EVERY = 1024 * 1024  # bytes: sixteen acknowledgements a window
_ACK_WITHIN = 0.2  # seconds: on a slow link the sender learns of each chunk
_MOST_UNASKED = 1024  # tensors, and words of those who are too fast: what is small must not be many
_REJOIN_AFTER = 30.0  # seconds until a follower that was asked to leave comes back though nobody told it to


class Ack(msgspec.Struct):
    """A follower's word to the sender of a stream: how far it is."""

    follower: str
    position: int


class Leave(msgspec.Struct):
    """A sender's word to a follower that can't keep up: stop listening, fetch the rest; or, when done, come back."""

    kind: str
    name: str
    sender: str
    done: bool = False


@dataclass
class Pull:
    """Chunks that were asked for and have not come."""

    incoming: Incoming
    waiting: set[int]
    ends: int = 0


@dataclass
class Followed:
    """A kind of tensors that is listened to, but while one of its senders is too fast for this node."""

    listening: Listening | None = None
    since: float = math.inf
    """When (`time.monotonic`) every chunk streamed from then on was sure to come here."""
    left: set[Key] = field(default_factory=set)
    rejoin: asyncio.TimerHandle | None = None


class Inbox:
    """Everything on its way in.

    Attributes:
        pulls: what was asked for, by token.
        rejected: messages that were no chunks, or chunks of another tensor than their name says.
        evicted: tensors that came unasked and had to make room for others; whoever wants one asks for it.
    """

    def __init__(self, lanes: Lanes, job: str, node: str, budget: int, complete: Callable[[Incoming], None]) -> None:
        """`budget`: bytes to hold for tensors that nobody has asked for. `complete`: told of each that came in whole."""
        self._lanes = lanes
        self._job = job
        self._node = node
        self._budget = budget
        self._complete = complete
        self._incoming: OrderedDict[Key, Incoming] = OrderedDict()
        self._followed: dict[str, Followed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.pulls: dict[str, Pull] = {}
        self.rejected = self.evicted = 0

    async def open(self) -> None:
        """Listen to what is sent to this node alone."""
        await self._lanes.start(Listening(f"tensor.{self._job}.*.to.{self._node}.*.#.*", self._direct))
        await self._lanes.control.nc.subscribe(f"tensor.{self._job}.{self._node}.leave.*", cb=self._told_to_leave)
        self._lanes.on_back.append(self._back)

    async def follow(self, kind: str) -> None:
        """Listen to what is streamed of a kind."""
        if kind not in self._followed:
            self._followed[kind] = Followed()
            await self._join(kind)

    async def unfollow(self, kind: str) -> None:
        """Listen to it no more, and forget what came of it that nobody has asked for."""
        for key in [key for key, incoming in self._incoming.items() if key[1] == kind and not incoming.wanted]:
            del self._incoming[key]
        followed = self._followed.pop(kind, None)
        if followed is not None:
            if followed.rejoin is not None:
                followed.rejoin.cancel()
            if followed.listening is not None:
                await self._lanes.stop(followed.listening)

    @property
    def size(self) -> int:
        """Bytes that the tensors on their way in have, or will have."""
        return sum(incoming.total for incoming in self._incoming.values())

    def hears(self, kind: str, since: float) -> bool:
        """Whether all chunks of this kind's streams come in that were sent since (`time.monotonic`)."""
        followed = self._followed.get(kind)
        return followed is not None and followed.since <= since

    def expect(self, key: Key, total: int, content: bytes) -> Incoming:
        """Somebody wants this tensor: what has come of it, kept until `release`."""
        incoming = self._incoming.get(key)
        if incoming is None or incoming.content != content or incoming.total != total:
            incoming = self._incoming[key] = Incoming(total, content)
        incoming.wanted += 1
        return incoming

    def span(self, key: Key) -> tuple[float, float | None] | None:
        """When the first chunk of a tensor came, and the last one if it is here in whole (`time.monotonic`); None where
        nothing of it is waiting here."""
        incoming = self._incoming.get(key)
        if incoming is None or incoming.begun_at is None:
            return None
        return incoming.begun_at, None if incoming.missing else incoming.last_at

    def release(self, key: Key, incoming: Incoming, *, done: bool) -> None:
        """Somebody has it, or gave up. What has come stays for the next attempt, while there is room."""
        incoming.wanted -= 1
        if done and not incoming.wanted and self._incoming.get(key) is incoming:
            del self._incoming[key]

    def _admit(self, key: Key, header: Header) -> Incoming | None:
        incoming = self._incoming.get(key)
        if incoming is not None and incoming.content == header.content and incoming.total == header.total:
            self._incoming.move_to_end(key)
            return incoming
        if incoming is not None and incoming.wanted:
            return None  # whoever waits has said which content it must be
        if not 0 < header.total <= self._budget:
            return None
        unasked = [key for key, other in self._incoming.items() if not other.wanted]
        held, count = sum(self._incoming[key].total for key in unasked), len(unasked)
        for old in unasked:
            if held + header.total <= self._budget and count < _MOST_UNASKED:
                break
            held, count = held - self._incoming.pop(old).total, count - 1
            self.evicted += 1
        incoming = self._incoming[key] = Incoming(header.total, header.content)
        return incoming

    def _broadcast(self, subject: str, payload: memoryview, status: int) -> None:
        """`tensor.<job>.<sender>.<kind>.<name>.<slot>.<offset or end>`"""
        _, _, sender, kind, name, _, offset = subject.split(".")
        key = (sender, kind, name)
        if sender == self._node:
            return
        if offset == "end":
            self._ended(key, payload)
            return
        header = header_of(payload)
        if header is None:
            self.rejected += 1
            return
        incoming = self._admit(key, header)
        if incoming is None or not self._take(incoming, offset, payload, header):
            return
        if incoming.broadcasting is None:
            incoming.broadcasting = True
        incoming.unacknowledged += len(payload)
        if incoming.unacknowledged >= _ACK_EVERY or not incoming.missing:
            self._acknowledge(key, incoming, incoming.position)
        elif incoming.ack_timer is None:
            loop = asyncio.get_running_loop()
            incoming.ack_timer = loop.call_later(_ACK_WITHIN, lambda: self._acknowledge(key, incoming, incoming.position))

    def _direct(self, subject: str, payload: memoryview, status: int) -> None:
        """`tensor.<job>.<holder>.to.<this node>.<token>.<slot>.<offset or end>`"""
        _, _, _, _, _, token, _, offset = subject.split(".")
        pull = self.pulls.get(token)
        if pull is None:
            return
        if offset == "end":
            pull.ends += 1
            # On a single lane everything sent before has come, or is lost. Over several it may still be on its way.
            if len(self._lanes.lanes) == 1 and pull.ends == _lanes_in(payload):
                pull.waiting.clear()
                pull.incoming.move()
            return
        header = header_of(payload)
        incoming = pull.incoming
        if header is None or header.content != incoming.content or header.total != incoming.total:
            self.rejected += 1
            return
        if self._take(incoming, offset, payload, header):
            pull.waiting.discard(int(offset) // incoming.chunk)

    def _take(self, incoming: Incoming, offset: str, payload: memoryview, header: Header) -> bool:
        """Put a chunk into its place; whether it has one."""
        index, rest = divmod(number_in(offset), incoming.chunk)
        if rest or len(payload) <= HEADER_SIZE or len(payload) - HEADER_SIZE != incoming.size_of(index):
            self.rejected += 1
            return False
        if incoming.take(index, payload[HEADER_SIZE:], header.check, time.monotonic()) and not incoming.missing:
            self._complete(incoming)
        return True

    def _ended(self, key: Key, data: memoryview) -> None:
        incoming = self._incoming.get(key)
        if incoming is None:
            return
        incoming.ends += 1
        if incoming.ends >= _lanes_in(data):
            incoming.ends = 0
            self._acknowledge(key, incoming, incoming.total)
            if len(self._lanes.lanes) == 1:
                incoming.broadcasting = False
                incoming.move()

    def _acknowledge(self, key: Key, incoming: Incoming, position: int) -> None:
        incoming.unacknowledged = 0
        if incoming.ack_timer is not None:
            incoming.ack_timer.cancel()
            incoming.ack_timer = None
        sender, kind, name = key
        subject = f"tensor.{self._job}.{sender}.ack.{kind}.{name}.{self._node}"
        self._lanes.control.post(subject, msgspec.json.encode(Ack(self._node, position)))

    async def _told_to_leave(self, msg: Msg) -> None:
        try:
            word = msgspec.json.decode(msg.data, type=Leave)
        except FAULTS:
            self.rejected += 1
            return
        if word.sender != speaker_of(msg.subject):
            self.rejected += 1
            return
        key, followed = (word.sender, word.kind, word.name), self._followed.get(word.kind)
        if followed is None:
            return
        if word.done:
            followed.left.discard(key)
            if not followed.left:
                await self._join(word.kind)
            return
        if len(followed.left) < _MOST_UNASKED:
            followed.left.add(key)
        incoming = self._incoming.get(key)
        if incoming is not None:
            incoming.broadcasting = None
        if followed.listening is not None:
            listening, followed.listening, followed.since = followed.listening, None, math.inf
            await self._lanes.stop(listening)
            loop = asyncio.get_running_loop()
            followed.rejoin = loop.call_later(_REJOIN_AFTER, lambda: self._soon(self._join(word.kind)))

    async def _join(self, kind: str) -> None:
        followed = self._followed.get(kind)
        if followed is None or followed.listening is not None:
            return
        followed.left.clear()
        if followed.rejoin is not None:
            followed.rejoin.cancel()
            followed.rejoin = None
        # Set before the first wait, so that two who call don't listen twice.
        listening = followed.listening = Listening(f"tensor.{self._job}.*.{kind}.*.#.*", self._broadcast)
        await self._lanes.start(listening)
        if followed.listening is listening:
            followed.since = time.monotonic()

    def _back(self) -> None:
        """A connection was lost: what was under way on it may never come."""
        for followed in self._followed.values():
            if followed.since < math.inf:
                followed.since = time.monotonic()
        for incoming in self._incoming.values():
            incoming.broadcasting = None
            incoming.move()
        for pull in self.pulls.values():
            pull.waiting.clear()

    def _soon(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Forget everything."""
        for task in self._tasks:
            task.cancel()
        for followed in self._followed.values():
            if followed.rejoin is not None:
                followed.rejoin.cancel()
        for incoming in self._incoming.values():
            if incoming.ack_timer is not None:
                incoming.ack_timer.cancel()


def _lanes_in(payload: memoryview) -> int:
    said = bytes(payload[:8])
    return int(said) if said.isdigit() else 1
