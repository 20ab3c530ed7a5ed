"""CPU per event, publisher and receiver together: this bus, raw nats-py with the same bytes, FastStream with msgspec.

    python -m benchmarks.events [--json] [--rounds 7] [--events 20000]

One typed, enveloped event of 213 bytes as JSON, made beforehand, travels from this process by way of an embedded
nats-server to a second process. What is measured is each process's own CPU time (user and system) over all events, divided
by their number; the server's is the same for all and left out. `tight` publishes in a loop, `yield` lets the event loop
run after each event, as an agent does. Contestants take turns in every round, so that a change of the machine's mood meets
all of them; figures are medians over the rounds, with the range. All run on uvloop where it is installed.

FastStream is measured where it is installed: `pip install -e '.[bench]'`.
"""

import argparse
import asyncio
import importlib.util
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import nats

from bus.nats import NatsBus
from bus.port import Interest
from bus.server import EmbeddedServer
from schemas.training import StepTimed
from schemas.wire import encode, seal, subject_of

SIZE = 213  # bytes of the event
MODES = ("tight", "yield")
WARM_UP = 500  # events before each measurement, so that caches and adaptive buffers are as in a long run

PATIENCE = 120.0  # seconds for one contestant's turn; the slowest takes ten on a busy machine
SETTLE = 0.3  # seconds for FastStream's subscription to reach the server: it offers no way to wait for that

Publish = Callable[[], Awaitable[object]]


def event() -> StepTimed:
    """The event, its source padded so that it has exactly SIZE bytes."""

    def made(padding: str) -> StepTimed:
        message = StepTimed(job="j-1", node="n-1", round=12, steps=10, samples=80, seconds=1.25, microbatch=8, loss=2.5)
        seal(message, id="node/n-1:1:42", cause="a:1:7", at=1.7e9, source="node/n-1" + padding)
        return message

    message = made("x" * (SIZE - len(encode(made("")))))
    assert len(encode(message)) == SIZE
    return message


@asynccontextmanager
async def raw_publisher(url: str) -> AsyncIterator[Publish]:
    """nats-py and bytes."""
    message = event()
    subject, data = subject_of(message), encode(message)
    client = await nats.connect(url)
    yield lambda: client.publish(subject, data)
    await client.drain()


@asynccontextmanager
async def raw_receiver(url: str, got: Callable[[], None]) -> AsyncIterator[None]:
    """nats-py and bytes."""
    client = await nats.connect(url)

    async def received(msg: object) -> None:
        got()

    await client.subscribe(subject_of(event()), cb=received)
    await client.flush()
    await client.flush()  # the first one's ping may overtake the subscription
    yield
    await client.close()


@asynccontextmanager
async def shoal_publisher(url: str) -> AsyncIterator[Publish]:
    """This bus."""
    message, bus = event(), await NatsBus.connect(url, source="publisher")
    yield lambda: bus.publish(message)
    await bus.close()


@asynccontextmanager
async def shoal_receiver(url: str, got: Callable[[], None]) -> AsyncIterator[None]:
    """This bus."""
    bus = await NatsBus.connect(url, source="receiver")
    await bus.subscribe([Interest(StepTimed)], lambda message, receipt: got())
    yield
    await bus.close()


def _broker(url: str) -> Any:
    from fast_depends.msgspec import MsgSpecSerializer
    from faststream.nats import NatsBroker

    return NatsBroker(url, serializer=MsgSpecSerializer(), logger=None)


@asynccontextmanager
async def faststream_publisher(url: str) -> AsyncIterator[Publish]:
    """FastStream, its messages encoded by msgspec."""
    message, broker = event(), _broker(url)
    subject = subject_of(message)
    await broker.connect()
    yield lambda: broker.publish(message, subject)
    await broker.stop()


@asynccontextmanager
async def faststream_receiver(url: str, got: Callable[[], None]) -> AsyncIterator[None]:
    """FastStream with its msgspec serializer: the handler's annotation says what it takes."""
    broker = _broker(url)

    @broker.subscriber(subject_of(event()))  # type: ignore[untyped-decorator]
    async def received(message: StepTimed) -> None:
        got()

    await broker.start()
    await asyncio.sleep(SETTLE)
    yield
    await broker.stop()


@asynccontextmanager
async def faststream_lean_receiver(url: str, got: Callable[[], None]) -> AsyncIterator[None]:
    """FastStream at its leanest: a decoder of one's own, no check of arguments."""
    from faststream.nats import NatsBroker

    decode = msgspec.json.Decoder(StepTimed).decode

    async def decoder(message: Any) -> StepTimed:
        return decode(message.body)

    broker = NatsBroker(url, logger=None, apply_types=False, decoder=decoder)

    @broker.subscriber(subject_of(event()))
    async def received(message: StepTimed) -> None:
        got()

    await broker.start()
    await asyncio.sleep(SETTLE)
    yield
    await broker.stop()


CONTESTANTS: dict[str, tuple[Any, Any]] = {
    "raw nats-py": (raw_publisher, raw_receiver),
    "shoal": (shoal_publisher, shoal_receiver),
}
if importlib.util.find_spec("faststream") is not None:
    CONTESTANTS["faststream, msgspec"] = (faststream_publisher, faststream_receiver)
    CONTESTANTS["faststream, own decoder"] = (faststream_publisher, faststream_lean_receiver)


def run(work: Any) -> Any:
    """Run a coroutine on uvloop, or on asyncio's loop where there is none."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def receive(pipe: Connection) -> None:
    """The second process: measures what one contestant's receiver spends, again and again, until told None."""

    async def once(name: str, url: str, events: int) -> float:
        count, reached, waiting_for = 0, asyncio.Event(), WARM_UP

        def got() -> None:
            nonlocal count
            count += 1
            if count == waiting_for:
                reached.set()

        async with CONTESTANTS[name][1](url, got):
            pipe.send("ready")
            await reached.wait()
            reached.clear()
            waiting_for += events
            begun = time.process_time()
            pipe.send("warm")
            await reached.wait()
            return time.process_time() - begun

    while (order := pipe.recv()) is not None:
        pipe.send(run(once(*order)))


async def heard(pipe: Connection) -> Any:
    """The next word from the second process."""
    if not await asyncio.to_thread(pipe.poll, PATIENCE):
        raise TimeoutError("events were lost: the receiver is still waiting for the last one")
    return pipe.recv()


async def publish(name: str, mode: str, url: str, events: int, pipe: Connection) -> float:
    """CPU seconds that publishing takes."""
    async with CONTESTANTS[name][0](url) as send:
        for _ in range(WARM_UP):
            await send()
            await asyncio.sleep(0)
        assert await heard(pipe) == "warm"
        begun = time.process_time()
        if mode == "tight":
            for _ in range(events):
                await send()
        else:
            for _ in range(events):
                await send()
                await asyncio.sleep(0)
        await asyncio.sleep(0)  # the last tick's events are written out
        return time.process_time() - begun


@dataclass(frozen=True)
class Row:
    """One contestant in one mode; microseconds of CPU an event."""

    contestant: str
    mode: str
    publish_us: float
    receive_us: float
    both_us: float
    low_us: float
    high_us: float
    times_raw: float


async def measure(rounds: int, events: int) -> list[Row]:
    """Every contestant in every mode, in turns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=receive, args=(theirs,), daemon=True)
    child.start()
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as store:
        async with EmbeddedServer(Path(store)) as server:
            for turn in range(rounds):
                names = list(CONTESTANTS)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    for mode in MODES:
                        ours.send((name, server.url, events))
                        assert await heard(ours) == "ready"
                        sent = await publish(name, mode, server.url, events, ours)
                        received = await heard(ours)
                        samples.setdefault((name, mode), []).append((sent / events * 1e6, received / events * 1e6))
    ours.send(None)
    child.join()
    return rows(samples)


def rows(samples: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Row]:
    """Medians and ranges."""
    made = []
    for (name, mode), pairs in samples.items():
        both = [sum(pair) for pair in pairs]
        # Round by round, since what else the machine does changes from one to the next.
        ratios = [mine / sum(raw) for mine, raw in zip(both, samples["raw nats-py", mode], strict=True)]
        made.append(
            Row(
                contestant=name,
                mode=mode,
                publish_us=statistics.median(pair[0] for pair in pairs),
                receive_us=statistics.median(pair[1] for pair in pairs),
                both_us=statistics.median(both),
                low_us=min(both),
                high_us=max(both),
                times_raw=statistics.median(ratios),
            )
        )
    return sorted(made, key=lambda row: (MODES.index(row.mode), list(CONTESTANTS).index(row.contestant)))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--events", type=int, default=20_000)
    arguments = parser.parse_args()
    found = run(measure(arguments.rounds, arguments.events))
    if arguments.json:
        print(
            json.dumps(
                {
                    "machine": platform.machine(),
                    "python": platform.python_version(),
                    "size": SIZE,
                    "rounds": arguments.rounds,
                    "events": arguments.events,
                    "rows": [asdict(row) for row in found],
                }
            )
        )
        return
    print(f"{'contestant':<24} {'mode':<6} {'publish':>9} {'receive':>9} {'both':>9} {'range':>15} {'of raw':>7}")
    for row in found:
        span = f"{row.low_us:.2f}-{row.high_us:.2f}"
        print(
            f"{row.contestant:<24} {row.mode:<6} {row.publish_us:>6.2f} us {row.receive_us:>6.2f} us"
            f" {row.both_us:>6.2f} us {span:>15} {row.times_raw:>6.2f}x"
        )
    if len(CONTESTANTS) == 2:
        print("FastStream is not installed: `pip install -e '.[bench]'` to measure it too")


if __name__ == "__main__":
    main()
