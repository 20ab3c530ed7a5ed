"""The port: what every carrier of messages offers, and the one contract suite that they pass."""

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.errors import ShoalError
from schemas.wire import Message


class BusError(ShoalError):
    """The root of what carriers raise."""


class NoResponders(BusError):
    """Nobody answers requests on this subject now. Attribute: `subject`."""

    def __init__(self, subject: str, mend: str = "start the desk with `shoal up`") -> None:
        super().__init__(f"nobody answers on {subject}: {mend}")
        self.subject = subject


class TimedOut(BusError):
    """No answer within the time given."""


class Unreachable(BusError):
    """The server can't be reached, or refused the credentials."""


class NoRoom(BusError):
    """The server can't store: its disk or its limits are full. Nothing was lost; publish it again later.

    Attributes: `subject`, `why` (the server's words).
    """

    def __init__(self, subject: str, why: str) -> None:
        super().__init__(f"{subject} was not stored: the server has no room ({why}): free its disk or raise its limits")
        self.subject = subject
        self.why = why


class SubjectTaken(BusError):
    """A publish with `first=True` found a message on its subject already: another writer won."""


class Superseded(BusError):
    """A log has grown by somebody else's hand: whoever appended here has been replaced. Attribute: `log`."""

    def __init__(self, log: str) -> None:
        super().__init__(f"the log {log} has another writer now")
        self.log = log


class Start(enum.Enum):
    """Where a subscription to RECORD messages begins. LAST_VALUE always begins with the newest of each subject."""

    NEW = "new"
    """What is published from now on."""
    LAST = "last"
    """The newest stored message of each subject, then what is new."""
    ALL = "all"
    """Everything that is still stored, in order, then what is new."""


@dataclass(frozen=True)
class Interest:
    """A type of message, and placeholders of its subject held fixed: `Interest(RoundClosed, {"job": "j1"})`."""

    kind: type[Message]
    fixed: Mapping[str, str] = field(default_factory=dict)


class Receipt(Protocol):
    """What comes with a stored message: the receiver acknowledges once it is done with it, or gets it again."""

    redelivered: bool
    sequence: int
    """Position in its stream."""

    def ack(self) -> None:
        """Done with it: don't deliver it again. Never blocks."""


Handler = Callable[[Message, Receipt | None], None]
"""Called in order for each message; must not block. The receipt is None for TELEMETRY."""

Responder = Callable[[bytes], Awaitable[bytes]]
"""Answers one request."""


class Subscription(Protocol):
    """A standing interest."""

    async def stop(self) -> None:
        """Deliver no more. What was received but not acknowledged comes again to whoever subscribes under its name."""


class Log(Protocol):
    """Bytes in order under a name, kept by the server, which grow only from the end that their writer knows.

    So of several who take themselves for its writer only one can be it: the others' next append raises `Superseded`,
    however long they stood still in between. It is a lease whose every use is fenced.
    """

    async def append(self, data: bytes, *, after: int, name: str) -> int:
        """Store at the end; gives the sequence of what was stored. `after`: the last sequence, 0 of an empty log.

        `name` is that of this append alone: doing it again under the same stores nothing more.

        Raises:
            Superseded: something else came after `after`; nothing was stored.
            Unreachable: whether it was stored can't be told; do it again.
        """

    async def follow(self, handler: Callable[[int, bytes], None]) -> "Subscription":
        """Give everything that is kept, and then what is appended, to `handler` with its sequence, in order."""

    async def trim(self, before: int | None) -> None:
        """Forget what comes before a sequence, but for the last one; with None all of it, so that the log is a new one."""


class Bus(Protocol):
    """A carrier of messages."""

    source: str
    """Name that this participant goes by."""

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        """Send a sealed message on its type's subject.

        TELEMETRY returns when the connection has it; RECORD and LAST_VALUE when the stream has stored it. `dedup` names
        the effect, so that doing it again stores nothing new. `first`: only if its subject holds no message yet.

        Raises:
            SubjectTaken: with `first`, when another message is there.
            Unreachable: not stored within the carrier's time-out, reconnects included.
            NoRoom: the stream takes nothing now.
        """

    async def subscribe(
        self, interests: Sequence[Interest], handler: Handler, *, durable: str | None = None, start: Start = Start.NEW
    ) -> Subscription:
        """Deliver every message of these interests to `handler`.

        Stored messages come at least once, each stream in its order, again until acknowledged. `durable` names a position
        that outlives the subscriber: the next one of that name goes on where it stopped (`start` counts for the first).
        Bytes that don't decode are dropped, counted and reported as `MessageRejected`.
        """

    async def request(self, subject: str, body: bytes, timeout: float) -> bytes:
        """Ask and wait for one answer. Raises `NoResponders` at once where nobody listens, `TimedOut` after `timeout` s."""

    async def serve(self, subject: str, responder: Responder, *, group: str = "servers") -> Subscription:
        """Answer requests on a subject; one of several servers of a subject and group gets each request.

        The first answer counts where there are several groups.
        """

    async def round_trip(self, timeout: float) -> float | None:
        """Seconds that a message takes to the server and back; None after `timeout` seconds."""

    def history(self, interests: Sequence[Interest]) -> AsyncIterator[Message]:
        """Everything stored for these interests up to now, stream by stream in order, then the end."""

    def log(self, name: str) -> Log:
        """The log of that name (one token of a subject), empty where nobody has written to it."""

    async def put_object(self, name: str, data: bytes) -> None:
        """Keep a large value (a model, a snapshot) under a name, replacing an older one."""

    async def get_object(self, name: str) -> bytes:
        """The value kept under a name. Raises `KeyError` where there is none."""

    async def purge(self, subjects: str) -> None:
        """Remove stored messages whose subjects match a filter."""

    async def close(self) -> None:
        """Finish what is under way, then go."""
