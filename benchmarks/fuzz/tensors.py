"""Readers of tensors: the connection's protocol, the chunk assembler, codecs, safetensors, anchors."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import torch
from torch import nn

from benchmarks.fuzz.target import Target
from bus.tensor_frames import Kept
from bus.tensor_incoming import Ack, Inbox, Leave, Pull
from bus.tensor_outgoing import Ask, Flow, Outbox
from bus.tensor_wire import Connection
from runners.jobs.anchor import Anchor
from runners.jobs.codecs import ENCODINGS, CodecError, decode, encode, inspect_payload
from runners.jobs.snapshots import SnapshotError, model_to_bytes, snapshot_from_bytes, snapshot_to_bytes
from runners.jobs.tensor_file import entries_of

_MOST_SENT = 64
"""Chunks of the tensor that is asked for below, and some."""
_BUDGET = 256 * 1024
_MOST_HELD = 4 * 1024 * 1024
"""Bytes that all of an inbox may come to with the budget above, whatever is sent to it."""


class _Socket:
    """In place of a transport: what is written goes nowhere."""

    def __init__(self) -> None:
        self.aborted = False

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True

    def set_write_buffer_limits(self, high: int) -> None:
        pass


_LOOP = asyncio.new_event_loop()
_MESSAGE = 72 * 1024 * 1024
"""Bytes of the largest message that a server's bytes may announce, and some."""


async def _wire(data: bytes) -> None:
    """A server's bytes in pieces as a network might cut them; then the connection goes."""
    heard: list[int] = []
    connection = Connection({1: lambda subject, payload, status: heard.append(len(payload))}, lambda ended: None, 1024)
    socket = _Socket()
    connection.connection_made(cast(asyncio.BaseTransport, socket))
    at, step = 0, 1 + len(data) % 977
    while at < len(data) and not socket.aborted:
        room = connection.get_buffer(-1)
        if not len(room):
            raise AssertionError("no room for the next byte: the event loop would end the connection without a word")
        piece = data[at : at + min(step, len(room))]
        room[: len(piece)] = piece
        room.release()
        connection.buffer_updated(len(piece))
        at += len(piece)
    connection.connection_lost(None)


def _wire_corpus() -> list[bytes]:
    info = b'INFO {"server_id":"x","max_payload":1048576,"nonce":"abc"}\r\n'
    msg = b"MSG tensor.j.n.delta.r1.3.0 1 11\r\nhello world\r\n"
    headed = b"HMSG tensor.j.n.delta.r1.3.0 1 reply 16 21\r\nNATS/1.0 503\r\n\r\nhello\r\n"
    return [info + b"PING\r\n+OK\r\n" + msg, info + b"PONG\r\n" + msg * 3 + headed, b"-ERR 'Authorization Violation'\r\n"]


class _Control:
    """In place of the connection for words."""

    def post(self, subject: str, data: bytes = b"", reply: str = "") -> None:
        pass


class _Lanes:
    """In place of the lanes."""

    def __init__(self) -> None:
        self.control, self.lanes, self.on_back = _Control(), [None], []

    async def start(self, listening: object) -> None:
        pass

    async def stop(self, listening: object) -> None:
        pass

    async def send(self, indexes: Iterator[int], send: object, end: str, nobody: str = "") -> int:
        sent = sum(1 for _ in indexes)
        if sent > _MOST_SENT:
            raise AssertionError(f"{sent} chunks for one request")
        return 1


_LIFE = 20_000
"""Inputs that one inbox hears, before another one begins afresh."""


class _Chunks:
    """An inbox that has heard all earlier inputs, too: what it holds must stay bounded."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._inbox = self._made()
        self._fed = 0

    def _made(self) -> Inbox:
        inbox = Inbox(cast(Any, _Lanes()), "j", "me", _BUDGET, lambda incoming: None)
        kept = Kept("delta", "wanted", bytes(20_000))
        incoming = inbox.expect(("n", "delta", "wanted"), kept.held.size, bytes.fromhex(kept.held.digest[:16]))
        inbox.pulls["tok"] = Pull(incoming, {0, 1})
        self._loop.run_until_complete(inbox.follow("delta"))
        return inbox

    def read(self, data: bytes) -> None:
        """Messages: a byte for the way, a line for the subject's changing words, two bytes of length, the payload."""
        self._loop.run_until_complete(self._feed(data))
        if self._fed % _LIFE == 0:
            self._inbox.close()
            self._inbox = self._made()

    async def _feed(self, data: bytes) -> None:
        inbox = self._inbox
        while data:
            way, (line, _, rest) = data[0] % 3, data[1:].partition(b"\n")
            size = int.from_bytes(rest[:2], "little")
            payload, data = memoryview(rest[2 : 2 + size]), rest[2 + size :]
            words = line.decode(errors="surrogateescape").replace("\r", "").split(".")
            words = [word or "_" for word in (words + ["n", "delta", "r1", "0"][len(words) :])[:4]]
            if way == 0:
                inbox._broadcast(f"tensor.j.{words[0]}.{words[1]}.{words[2]}.0.{words[3]}", payload, 0)
            elif way == 1:
                inbox._direct(f"tensor.j.{words[0]}.to.me.tok.0.{words[3]}", payload, 0)
            else:
                await inbox._told_to_leave(cast(Any, _Word(f"tensor.j.me.leave.{words[0]}", bytes(payload))))
        self._fed += 1
        if self._fed % 64:
            return
        held = sum(2048 + incoming.total + len(incoming._here) * 33 for incoming in inbox._incoming.values())
        if held > _MOST_HELD:
            raise AssertionError(f"{len(inbox._incoming)} tensors of {held} bytes on their way in, of {_BUDGET} allowed")


class _Word(msgspec.Struct):
    subject: str
    data: bytes
    reply: str = ""


class _Asked:
    """What a holder of tensors is asked, and told by those who follow its streams."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._outbox = Outbox(cast(Any, _Lanes()), "j", "me", lambda size, seconds, lanes: None)
        self._outbox.keep("delta", "r1", bytes(50_000))
        self._outbox._flows["delta", "r1"] = self._flow = Flow(50_000)

    def read(self, data: bytes) -> None:
        """First byte: asked or told; a line for the subject's last word; the body."""
        word, _, body = data[1:].partition(b"\n")
        name = word.decode(errors="surrogateescape").replace(".", "") or "_"
        self._loop.run_until_complete(self._hear(data[:1] == b"a", name, body))

    async def _hear(self, told: bool, name: str, body: bytes) -> None:
        if told:
            await self._outbox._acknowledged(cast(Any, _Word(f"tensor.j.me.ack.delta.r1.{name}", body)))
        else:
            await self._outbox._asked(cast(Any, _Word(f"tensor.j.me.fetch.{name}", body, "reply")))
        await asyncio.gather(*self._outbox._serving)
        if len(self._flow.positions) > 20_000:
            raise AssertionError("followers without end")


def _asked_corpus() -> list[bytes]:
    ask = Ask(op="get", kind="delta", name="r1", to="n", token="tok", chunks=[(0, 3)], slots=[0, 1])
    status, latest = Ask(op="status", kind="delta", name="r1"), Ask(op="latest", kind="anchor")
    ack = b"an\n" + msgspec.json.encode(Ack("n", 16_384))
    return [b"gn\n" + msgspec.json.encode(each) for each in (ask, status, latest)] + [ack]


def _framed(way: int, words: str, payload: bytes) -> bytes:
    return bytes([way]) + words.encode() + b"\n" + len(payload).to_bytes(2, "little") + payload


def _chunk_corpus() -> list[bytes]:
    made, kept = [], Kept("delta", "wanted", bytes(20_000))
    for name, size in (("r1", 1000), ("r2", 20_000), ("wanted", 20_000), ("tiny", 1)):
        whole = Kept("delta", name, bytes(size))
        frames = [b"".join(whole.frame(index)) for index in range(whole.count)]
        made += [_framed(0, f"n.delta.{name}.{index * whole.chunk}", frame) for index, frame in enumerate(frames)]
    made += [_framed(1, f"n.delta.x.{i * kept.chunk}", b"".join(kept.frame(i))) for i in range(kept.count)]
    leave = msgspec.json.encode(Leave(kind="delta", name="r1", sender="n"))
    return [*made, made[0] * 3, _framed(0, "n.delta.r1.end", b"4"), _framed(2, "n", leave), _framed(2, "n", b"{}")]


def _payload(data: bytes) -> None:
    """A codec's; what is taken has as many finite numbers as it says."""
    flat = decode(data)
    _, count = inspect_payload(data)
    if len(flat) != count or not bool(torch.isfinite(flat).all()):
        raise AssertionError("numbers that no difference has")


def _payloads() -> list[bytes]:
    made = []
    for count in (0, 1, 5, 300, 1030):
        flat = torch.linspace(-1, 1, count)
        made += [encode(flat, encoding) for encoding in ENCODINGS]
        made.append(encode(flat, "topk", statistics=min(count, 7)))
    return made


def _tensors(data: bytes) -> None:
    for entry in entries_of(data).values():
        entry.of(data)


def _anchor() -> Anchor:
    torch.manual_seed(1)
    return Anchor.from_model(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))


def _files() -> list[bytes]:
    scalars = nn.Module()
    scalars.register_buffer("empty", torch.empty(0, 3))
    scalars.register_buffer("one", torch.tensor(1.0))
    return [model_to_bytes(scalars), model_to_bytes(nn.Linear(2, 2)), snapshot_to_bytes(_anchor())]


def targets() -> Iterator[Target]:
    """The readers."""
    yield Target("NATS connection", lambda data: _LOOP.run_until_complete(_wire(data)), (), _wire_corpus, flat=_MESSAGE)
    yield Target("chunk assembler", _Chunks().read, (), _chunk_corpus)
    yield Target("requests for tensors", _Asked().read, (), _asked_corpus)
    yield Target("encoded differences", _payload, (CodecError,), _payloads, 256)
    yield Target("safetensors", _tensors, (ValueError,), _files)
    yield Target("anchors", snapshot_from_bytes, (SnapshotError,), lambda: _files()[2:])
