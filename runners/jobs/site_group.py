"""A group of nodes of one site, as torch.distributed knows it: gloo between CPUs, found through a store on the speaker.

All of it blocks, each step for a given time at most; nothing here knows of the bus or the loop. What gloo of torch 2.13 was
seen to do when things go wrong: a peer that is killed, or drops its group, breaks everybody's operations at once; one that
stands still lets them run into their time-out; after either the group is of no more use. Tensors of other sizes than
the peers expect end the process (gloo's event thread throws), so every operation is preceded by an exchange of headers of
one size, and whoever is of another mind about what comes next fails there.

No process group of torch is the default one, and none has a name: groups come and go, a dropped one closes its
connections, and a workload that uses torch.distributed itself doesn't notice.
"""

import hashlib
import math
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    BroadcastOptions,
    PrefixStore,
    ProcessGroupGloo,
    ReduceOptions,
    TCPStore,
)

from schemas.errors import ShoalError

_GLOO: Any = ProcessGroupGloo  # whose stub lacks what is set here

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 2.0  # for one address of the speaker: a firewall that drops packets takes all of it
HEADER = 12  # numbers of a header: what, round, sound, elements or bytes, samples, steps, loss, seconds, digest in four
JOIN, AVERAGE, CONFIRM, SPREAD, MEET = range(1, 6)
WHAT = {JOIN: "to join", AVERAGE: "to average", CONFIRM: "to confirm", SPREAD: "to spread an average", MEET: "to meet"}


class SiteError(ShoalError):
    """The group came to nothing: somebody can't be reached, is gone or late, or is of another mind."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where a site's nodes meet."""

    store: TCPStore
    own: str
    """This machine's address on the way to the speaker; empty on the speaker, which goes by what the others used."""


def addresses() -> tuple[str, ...]:
    """Where other machines may reach this one (IPv4), and at last where its own processes do."""
    found = [
        each.address
        for of_interface in psutil.net_if_addrs().values()
        for each in of_interface
        if each.family is socket.AF_INET and not each.address.startswith(("127.", "169.254."))
    ]
    return (*found, LOOPBACK)


def listen(name: str, within: float) -> Meeting:
    """A store for a group of this name to meet at, on a port that the system chose. Raises `SiteError`."""
    limit = timedelta(seconds=within)
    try:
        store = TCPStore(LOOPBACK, 0, None, is_master=True, timeout=limit, wait_for_workers=False)
        store.set("name", name)
    except RuntimeError as error:
        raise SiteError(f"no port to meet at: {_first_line(error)}") from error
    return Meeting(store, "")


def connect(hosts: Sequence[str], port: int, name: str, rank: int, within: float) -> Meeting:
    """Go where the speaker of a group listens. Raises `SiteError` with what was tried."""
    tried, limit = [], timedelta(seconds=within)
    for host in hosts:
        try:
            with socket.create_connection((host, port), min(CONNECT_SECONDS, within)) as probe:
                own = str(probe.getsockname()[0])
            store = TCPStore(host, port, None, is_master=False, timeout=limit, wait_for_workers=False)
            if store.get("name") == name.encode():
                store.set(f"seen/{rank}", host)
                return Meeting(store, own)
            tried.append(f"{host}: another group")
        except (OSError, RuntimeError) as error:
            tried.append(f"{host}: {_first_line(error)}")
    raise SiteError(f"its speaker can't be reached at port {port} ({'; '.join(tried)})")


@dataclass(frozen=True, slots=True)
class Given:
    """What one member brings into an average."""

    samples: int
    steps: int
    loss: float
    seconds: float
    parts: int = 0
    """The speaker's word: into how many parts all cut the next round's steps."""


class SiteGroup:
    """One group, from all members' being there to anybody's failure. Its methods are called by all, in the same order."""

    def __init__(self, name: str, members: Sequence[str], rank: int) -> None:
        self.name = name
        self.members = tuple(members)
        self.rank = rank
        self.seconds = 0.0
        """What the last average took, once all were there."""
        self._group: ProcessGroupGloo | None = None

    def meet(self, meeting: Meeting, round_: int, parts: int, within: float) -> tuple[int, int]:
        """Be connected with all; gives the first round that no member can have begun yet, and the speaker's `parts`.

        Raises `SiteError`.
        """
        store, limit = meeting.store, timedelta(seconds=within)
        try:
            keys = [f"seen/{rank}" for rank in range(1, len(self.members))]
            store.wait(keys, limit)
            seen = [store.get(key).decode() for key in keys]
            own = meeting.own or max(seen, key=seen.count)
            options = _GLOO._Options()
            options._devices = [_GLOO.create_device(hostname=own, lazy_init=False)]
            options._timeout = limit
            options._threads = 1
            self._group = _GLOO(PrefixStore(self.name, store), self.rank, len(self.members), options)
        except RuntimeError as error:
            raise SiteError(f"not all of {', '.join(self.members)} came ({_first_line(error)})") from error
        headers = self._agree(JOIN, round_, (parts,), within, any_round=True)
        return max(header[1] for header in headers) + 1, headers[0][2]

    def average(self, vector: Tensor | None, count: int, given: Given, round_: int, within: float) -> list[Given]:
        """Make the speaker's vector the average of all, weighted by samples; the others' are spent. What each brought.

        `vector` is flat float32 of `count` elements; None: this node's can't be used, and nobody's is. Raises `SiteError`.
        """
        mine = (
            int(vector is not None),
            count,
            given.samples,
            given.steps,
            _bits(given.loss),
            _bits(given.seconds),
            given.parts,
        )
        headers = self._agree(AVERAGE, round_, mine, within)
        for member, header in zip(self.members, headers, strict=True):
            if not header[2]:
                raise SiteError(f"the difference of {member} is unsound")
            if header[3] != count:
                raise SiteError(f"{member} has a model of another size")
        each = [Given(header[4], header[5], _float(header[6]), _float(header[7]), header[8]) for header in headers]
        total = sum(max(0, one.samples) for one in each)
        assert vector is not None  # the header has said so
        vector.mul_(given.samples / total if total else 1 / len(each))
        options = ReduceOptions()
        options.rootRank, options.timeout = 0, timedelta(seconds=within)
        begun = time.monotonic()
        self._do(lambda group: group.reduce([vector], options), within)
        self.seconds = time.monotonic() - begun
        return each

    def meet_midway(self, vector: Tensor, samples: int, at: Sequence[int], within: float, averaging_within: float) -> float:
        """Make everybody's vector, flat float32, the average of all, weighted by samples; gives seconds waited for others.

        `at`: round, number of the average in it, and what tells that all have begun at the same, in numbers. `within` is
        for all to come, `averaging_within` for the average itself. It travels in float16, scaled by the largest element of
        all: three decimals are plenty for a point to take the next steps from. Raises `SiteError`; the vector may then be
        anything.
        """
        round_, number, *same = at
        begun = time.monotonic()
        peak = float(vector.abs().max()) if len(vector) else 0.0
        headers = self._agree(MEET, round_, (number, len(vector), samples, 0, 0, _bits(peak), *same), within)
        met = time.monotonic()
        peaks = [_float(header[7]) for header in headers]
        for member, header, theirs in zip(self.members, headers, peaks, strict=True):
            if header[2:4] != [number, len(vector)] or header[8:] != same:
                raise SiteError(f"{member} has begun round {round_} elsewhere, or is at another part of it")
            if not math.isfinite(theirs):
                raise SiteError(f"what the steps of {member} added is not finite")
        total, scale = sum(header[4] for header in headers), _scale(max(peaks))
        part = samples / total if total else 1 / len(headers)
        half = vector.mul_(part * scale).to(torch.float16)
        options = AllreduceOptions()
        options.timeout = timedelta(seconds=averaging_within)
        self._do(lambda group: group.allreduce([half], options), averaging_within)
        vector.copy_(half).div_(scale)
        self.seconds = time.monotonic() - met
        return met - begun

    def confirm(self, round_: int, within: float) -> None:
        """All know that the speaker has what they gave. Raises `SiteError`."""
        self._agree(CONFIRM, round_, (), within)

    def spread(self, payload: bytes | memoryview, round_: int, within: float) -> None:
        """Of the speaker: give a round's average to all. Raises `SiteError`."""
        digest = struct.unpack("<4q", hashlib.sha256(payload).digest())
        self._agree(SPREAD, round_, (1, len(payload), 0, 0, 0, 0, *digest), within)
        self._broadcast(torch.frombuffer(bytearray(payload), dtype=torch.uint8), within)

    def receive(self, round_: int, within: float) -> bytes:
        """Of the others: a round's average from the speaker. Raises `SiteError`."""
        header = self._agree(SPREAD, round_, (), within)[0]
        bytes_ = torch.empty(max(0, header[3]), dtype=torch.uint8)
        self._broadcast(bytes_, within)
        payload = bytes_.numpy().tobytes()
        if hashlib.sha256(payload).digest() != struct.pack("<4q", *header[8:12]):
            raise SiteError("an average came damaged from the speaker")
        return payload

    def close(self) -> None:
        """Drop the connections: whoever waits for this node learns it at once."""
        self._group = None

    def _broadcast(self, data: Tensor, within: float) -> None:
        options = BroadcastOptions()
        options.rootRank, options.timeout = 0, timedelta(seconds=within)
        self._do(lambda group: group.broadcast([data], options), within)

    def _agree(
        self, what: int, round_: int, more: Sequence[int], within: float, *, any_round: bool = False
    ) -> list[list[int]]:
        """Everybody's header, in the order of ranks, if all are about to do the same. Raises `SiteError`."""
        mine = torch.zeros(HEADER, dtype=torch.int64)
        mine[: 2 + len(more)] = torch.tensor([what, round_, *more])
        theirs = [torch.empty_like(mine) for _ in self.members]
        options = AllgatherOptions()
        options.timeout = timedelta(seconds=within)
        self._do(lambda group: group.allgather([theirs], [mine], options), within)
        headers = [header.tolist() for header in theirs]
        for member, header in zip(self.members, headers, strict=True):
            if header[0] != what or (header[1] != round_ and not any_round):
                asked = f"{WHAT.get(header[0], 'something else')} in round {header[1]}"
                raise SiteError(f"{member} is about {asked}, this node {WHAT[what]} in round {round_}")
        return headers

    def _do(self, operation: Callable[[Any], Any], within: float) -> None:
        """Carry out an operation of all members, or drop the group."""
        if self._group is None:
            raise SiteError("the group is no more")
        try:
            operation(self._group).wait(timedelta(seconds=within))
        except RuntimeError as error:
            self._group = None
            raise SiteError(f"{_first_line(error)}, within {within:.1f} s") from error


def _scale(peak: float) -> float:
    """A power of two that takes numbers up to this one near to the largest of float16, 65504, but not to it."""
    return 2.0 ** min(100, 15 - math.frexp(peak)[1])


def _bits(number: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def _first_line(error: BaseException) -> str:
    """What went wrong, without the places in gloo's source that it names, and the advice that follows."""
    line = (str(error).strip() or type(error).__name__).split("\n")[0]
    return re.sub(r"\[/[^]]*\] ?", "", line).partition(". This is typically")[0]
