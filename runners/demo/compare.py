"""The demo's verdict: wall time to one held-out loss, against two plainer ways to train the same model."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec

from runners.client import Client
from runners.demo.faults import FaultScript, Injected
from runners.demo.scenario import alone, fixed
from schemas.jobs import JobState
from schemas.training import Assignment, RoundClosed, RoundOpened, Validated

# The others may take so many times as long as Shoal before they count as not having arrived.
PATIENCE = 3.0
# Seconds until the first round must have opened: torch starts in some seconds on each of five processes.
STARTING = 180.0
# Rounds are no limit in a race against the clock.
ROUNDS = 1000


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """How one way to train did."""

    way: str
    seconds: float | None
    """From the first round's opening to the held-out loss; None: not within the patience."""
    loss: float
    """The last held-out loss."""
    rounds: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Who got to the target when."""

    target: float
    arrivals: tuple[Arrival, ...]

    @property
    def verdict(self) -> str:
        """One line, also where Shoal loses."""
        ours, *others = self.arrivals
        parts = []
        for other in others:
            if other.seconds is None:
                parts.append(f"{other.way} did not get there (held-out loss {other.loss:.3f})")
            elif ours.seconds is not None:
                ratio = other.seconds / ours.seconds
                word = "faster than" if ratio >= 1 else "SLOWER than"
                parts.append(f"Shoal was {max(ratio, 1 / ratio):.2f}x {word} {other.way}")
        return "; ".join(parts)


async def compare(
    client: Client, script: FaultScript, injected: Injected, body: dict[str, Any], say: Callable[[str], None]
) -> Comparison:
    """Train the same again without adaptation, and on the fastest node alone, with the same faults at the same times."""
    job = body["id"]
    ours, target = await _history(client, job)
    limit = PATIENCE * (ours.seconds or 60.0)
    deadline = await _deadline(client, job)
    others = []
    for way, request in (
        ("fixed", fixed(body, f"{job}-fixed", target, deadline, ROUNDS)),
        ("fastest alone", alone(body, f"{job}-alone", target, ROUNDS)),
    ):
        await script.undo()
        say(f"comparing: {way}, to a held-out loss of {target:.4f} (at most {limit:.0f} s)")
        others.append(await _race(client, script, injected, way, request, target, limit))
    return Comparison(target=target, arrivals=(ours, *others))


async def _race(
    client: Client,
    script: FaultScript,
    injected: Injected,
    way: str,
    request: dict[str, Any],
    target: float,
    limit: float,
) -> Arrival:
    watching = asyncio.ensure_future(_arrive(client, request["id"], way, target, limit))
    await client.submit(request)
    faults = asyncio.ensure_future(script.by_time(injected))
    try:
        return await watching
    finally:
        faults.cancel()
        with contextlib.suppress(Exception):
            await client.cancel(request["id"], "the comparison is over")


async def _arrive(client: Client, job: str, way: str, target: float, limit: float) -> Arrival:
    began: float | None = None
    rounds, loss = 0, float("nan")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STARTING) as clock:
            async for event in client.events("shoal.>"):
                if getattr(event, "job", None) != job:
                    continue
                if began is None and isinstance(event, RoundOpened):
                    began = time.monotonic()
                    clock.reschedule(asyncio.get_running_loop().time() + limit)
                if isinstance(event, RoundClosed):
                    rounds = event.round
                elif isinstance(event, Validated):
                    loss = event.loss
                    if loss <= target and began is not None:
                        return Arrival(way=way, seconds=time.monotonic() - began, loss=loss, rounds=rounds)
                elif isinstance(event, JobState) and event.state.ended:
                    break
    return Arrival(way=way, seconds=None, loss=loss, rounds=rounds)


async def _history(client: Client, job: str) -> tuple[Arrival, float]:
    """Our own run: the target is its last held-out loss, the time that of the first round that got there."""
    began, losses = None, []
    async for event in client.history(f"shoal.training.{job}.>"):
        if isinstance(event, Validated):
            losses.append((event.at, event.round, event.loss))
        elif isinstance(event, RoundOpened) and began is None:
            began = event.at
    target = losses[-1][2]
    at, round_, loss = next(entry for entry in losses if entry[2] <= target)
    return Arrival(way="Shoal", seconds=at - (began or at), loss=loss, rounds=round_), target


async def _deadline(client: Client, job: str) -> float:
    """The deadline of our own run's last rounds."""
    last = 30.0
    async for event in client.history(f"shoal.training.{job}.assignment"):
        if isinstance(event, Assignment):
            last = event.deadline_seconds
    return last
