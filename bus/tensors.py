"""Tensors between the nodes of a job, on connections of their own, so that a large one never delays a heartbeat.

A tensor is kept by the node that made it, under a kind and a name. It is streamed once to all who follow its kind:
chunks of 256 KiB on `tensor.<job>.<node>.<kind>.<name>.<slot>.<offset>`. Whoever misses any of it, or wants it later,
fetches it from a holder: a request on `tensor.<job>.<holder>.fetch.<asker>`, then chunks on
`tensor.<job>.<holder>.to.<asker>.<token>.<slot>.<offset>`. At most 16 MiB are under way to one receiver. Whatever a node
publishes has its own name in the subject: as the sender of its own, at the end of what it says of another's. By the slots a
receiver's connections share what comes.

A stream keeps its window to the slowest of its followers, so that nothing piles up in the server; but one that alone holds
up the others is asked to leave and fetches the rest at its own pace. No stream waits for the slowest link.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from bus.credentials import Secret
from bus.nats_link import OnState
from bus.tensor_assembly import Incoming
from bus.tensor_fetch import Fetch, TensorUnavailable
from bus.tensor_frames import Data, Held, Kept
from bus.tensor_incoming import Inbox
from bus.tensor_lanes import Lanes
from bus.tensor_outgoing import Outbox, Provider
from schemas.ids import token

__all__ = ["Data", "Held", "Provider", "TensorBus", "TensorUnavailable", "Transfer"]

_RESERVED = ("ack", "fetch", "leave", "nobody", "to")  # words of the protocol in a kind's place
_BUDGET = (
    1024 * 1024 * 1024
)  # bytes of streamed tensors that nobody has asked for yet: the followers of a 250 M model's deltas
_STALL = 60.0  # seconds without a single chunk: eight times what one takes on the worst link (0.3 Mbit/s)


@dataclass(frozen=True)
class Transfer:
    """A measured transfer.

    Attributes:
        direction: `up`: a stream, until the first follower had all of it; `down`: to this node.
        bytes: that took `seconds`.
        streams: connections at this end.
    """

    direction: Literal["up", "down"]
    bytes: int
    seconds: float
    streams: int


class TensorBus:
    """One node's tensors in one job. Make one with `connect`."""

    def __init__(
        self, lanes: Lanes, job: str, node: str, on_transfer: Callable[[Transfer], None] | None, budget: int, stall: float
    ) -> None:
        self.job = job
        self.node = node
        self._lanes = lanes
        self._on_transfer = on_transfer
        self._stall = stall
        self._inbox = Inbox(lanes, job, node, budget, self._received)
        self._outbox = Outbox(lanes, job, node, self._sent)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        job: str,
        node: str,
        token: Secret = None,
        streams: int = 1,
        on_transfer: Callable[[Transfer], None] | None = None,
        on_state: OnState | None = None,
        budget: int = _BUDGET,
        stall: float = _STALL,
    ) -> Self:
        """Join a job's exchange of tensors.

        Args:
            url: of the server (or of the emulated link to it).
            job: whose tensors.
            node: this node's name, the sender in its subjects.
            token: what the server asks for: a token, a member's credentials, or the file with either.
            streams: connections for chunks; several where a lossy link throttles one.
            on_transfer: told of each measured transfer.
            on_state: told of the connections' troubles.
            budget: bytes to hold of streams that nobody has asked for.
            stall: seconds of silence after which a fetch gives up.

        Raises:
            Unreachable: with what to do about it.
        """
        lanes = Lanes(url, node, token, on_state)
        bus = cls(lanes, _token(job), _token(node), on_transfer, budget, stall)
        await lanes.open(streams)
        try:
            await bus._inbox.open()
            await bus._outbox.open()
            await lanes.control.round_trip(stall)
        except BaseException:
            await bus.close()
            raise
        return bus

    @property
    def streams(self) -> int:
        """Connections for chunks."""
        return len(self._lanes.lanes)

    @property
    def rejected(self) -> int:
        """Messages received that were no chunks of what their subject names."""
        return self._inbox.rejected

    @property
    def bytes_in(self) -> int:
        """Bytes held, or set aside, for tensors on their way in."""
        return self._inbox.size

    async def set_streams(self, streams: int) -> None:
        """Use so many connections from now on. Raises `Unreachable` where a new one can't be made."""
        await self._lanes.set_streams(streams)

    def provide(self, provider: Provider | None) -> None:
        """Who makes a kind's newest tensor when somebody fetches the latest; it runs on the loop, or is awaited."""
        self._outbox.provider = provider

    def keep(self, kind: str, name: str, data: Data) -> Held:
        """Hold a tensor for whoever asks, until `drop`; one of the same name is replaced. The bytes are not copied.

        Hashing takes some 2 ms a MiB on the calling thread, which may be any: for large tensors
        `await asyncio.to_thread(tensors.keep, kind, name, data)`.
        """
        if kind in _RESERVED:
            raise ValueError(f"{kind!r} is a word of the protocol: call the kind something else")
        return self._outbox.keep(_token(kind), _token(name), data)

    def drop(self, kind: str, name: str) -> None:
        """Hold it no more; nothing happens where it isn't held."""
        self._outbox.drop(kind, name)

    async def stream(self, kind: str, name: str) -> bool:
        """Send a tensor held here to all who follow its kind. Whether one of them has it in whole now; others may lag.

        Where nobody follows it returns at once.

        Raises:
            TensorUnavailable: it isn't held here.
        """
        return await self._outbox.stream(self._held(kind, name))

    async def follow(self, kind: str) -> None:
        """Take in what others stream of a kind from now on. A later `fetch` finds it here."""
        await self._inbox.follow(_token(kind))

    async def unfollow(self, kind: str) -> None:
        """Take in no more of that kind."""
        await self._inbox.unfollow(kind)

    def arrived(self, holder: str, kind: str, name: str) -> tuple[float, float | None] | None:
        """When a tensor's first chunk came, and its last if it is here in whole (`time.monotonic`), as long as nobody has
        fetched it; None where nothing of it is here."""
        return self._inbox.span((holder, kind, name))

    async def fetch(self, holder: str, kind: str, name: str, size: int, digest: str, timeout: float) -> memoryview:
        """The bytes of a tensor, checked against its SHA-256 (hexadecimal). At once if it was streamed here in whole.

        They are looked at where they were received, and stay for as long as anybody holds the view.

        Raises:
            TensorUnavailable: the holder is gone or has dropped it, nothing came for a while, or `timeout` s are over.
        """
        if holder == self.node:
            kept = self._held(kind, name)
            if kept.held.digest != digest:
                raise TensorUnavailable(f"{kind}/{name} here is another one: it was made anew")
            return memoryview(kept.data).toreadonly()
        fetch = Fetch(self._lanes, self._inbox, self.job, self.node, (_token(holder), kind, name), self._stall)
        return await fetch.get(size, digest, timeout)

    async def fetch_latest(self, holder: str, kind: str, timeout: float) -> tuple[str, memoryview]:
        """(name, bytes) of the newest tensor of a kind, made by the holder on demand (`provide`).

        Raises:
            TensorUnavailable: the holder is gone, has none, or `timeout` s are over.
        """
        begun = time.monotonic()
        asked = Fetch(self._lanes, self._inbox, self.job, self.node, (_token(holder), kind, "latest"), self._stall)
        made = await asked.latest(timeout)
        left = timeout - (time.monotonic() - begun)
        return made.name, await self.fetch(holder, kind, made.name, made.size, made.digest, left)

    async def close(self) -> None:
        """Leave. What was being sent is cut off; its receivers ask another holder."""
        self._outbox.close()
        self._inbox.close()
        await self._lanes.close()

    def _held(self, kind: str, name: str) -> Kept:
        kept = self._outbox.held(kind, name)
        if kept is None:
            raise TensorUnavailable(f"{kind}/{name} is not held by {self.node}: it was dropped, or never kept")
        return kept

    def _sent(self, size: int, seconds: float, streams: int) -> None:
        if self._on_transfer is not None:
            self._on_transfer(Transfer("up", size, seconds, streams))

    def _received(self, incoming: Incoming) -> None:
        seconds = incoming.last_at - (incoming.begun_at or incoming.last_at)
        if self._on_transfer is not None and incoming.counted and seconds > 0:
            self._on_transfer(Transfer("down", incoming.counted, seconds, self.streams))


def _token(text: str) -> str:
    return token(text, "tensor")
