"""A real agent process on a real nats-server, killed with SIGKILL in the midst of its work."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import processes
from bus.nats import NatsBus
from bus.port import Interest, Start
from bus.server import EmbeddedServer
from schemas.decisions import AgentStarted
from schemas.jobs import JobState
from schemas.wire import Message

PATIENCE = 40.0  # seconds: Python starts slowly on a crowded machine


class Watch:
    """Everything stored, as it comes."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.changed = asyncio.Event()

    def __call__(self, message: Message, receipt: Any) -> None:
        receipt.ack()
        self.messages.append(message)
        self.changed.set()

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    made = EmbeddedServer(tmp_path / "store" / "nats")
    await made.start()
    yield made
    await made.stop()


async def submit(bus: NatsBus, id: str) -> dict[str, Any]:
    body = msgspec.json.encode({"kind": "train", "workload": "a:b", "id": id, "min_nodes": 2})
    answer: dict[str, Any] = msgspec.json.decode(await bus.request("shoal.jobs.submit", body, PATIENCE))
    return answer


async def test_a_killed_agent_goes_on_where_it_was(server: EmbeddedServer, tmp_path: Path) -> None:
    bus, watch = await NatsBus.connect(server.url, source="tester"), Watch()
    await bus.subscribe([Interest(AgentStarted), Interest(JobState)], watch, start=Start.ALL)
    argv = [sys.executable, "-m", "runners.agent_process", "job_desk"]
    argv += ["--server", server.url, "--store", str(tmp_path / "store")]
    desk = await processes.spawn(argv)
    try:
        await watch.until(lambda: len(watch.of(AgentStarted)) == 1)
        for number in range(5):
            answer = await submit(bus, f"job{number}")
            assert answer["accepted"], answer
        os.kill(desk.pid, signal.SIGKILL)
        await desk.wait()

        desk = await processes.spawn(argv)
        await watch.until(lambda: len(watch.of(AgentStarted)) == 2)
        first, second = watch.of(AgentStarted)
        assert (first.resumed, second.resumed) == (False, True)
        assert second.incarnation > first.incarnation
        assert second.replayed >= 5
        assert (await submit(bus, "job3"))["accepted"]
        listed = msgspec.json.decode(await bus.request("shoal.jobs.list", b"{}", PATIENCE))
        assert {job["job"] for job in listed["jobs"]} == {f"job{number}" for number in range(5)}
        assert len({message.id for message in watch.of(JobState)}) == len(watch.of(JobState))
    finally:
        desk.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            assert await desk.wait() == 0
        await bus.close()
