"""Two processes of one agent: one is paused, then the other killed; who is left answers, and knows what was accepted."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import processes
from bus.nats import NatsBus
from bus.port import Interest, Receipt
from bus.server import EmbeddedServer
from schemas.decisions import AgentStarted
from schemas.wire import Message

PATIENCE = 100.0  # seconds: two imports of Python on a machine that does much else
ROOT = Path(__file__).parents[2]


class Desk:
    """A process of the desk, and what it says of itself."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, number: int, url: str, store: Path) -> "Desk":
        arguments = ("job_desk", "--replica", str(number), "--server", url, "--store", str(store))
        argv = (sys.executable, "-m", "runners.agent_process", *arguments)
        return cls(await processes.spawn(argv, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=PIPE))

    async def says(self, what: str) -> None:
        """Return once it has said so."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while what not in (line := (await self.process.stdout.readline()).decode()):
                assert line, f"it ended and never said {what!r}"

    def send(self, sign: signal.Signals) -> None:
        os.kill(self.process.pid, sign)


class Lives:
    """Counts who began to lead: they answer by then."""

    def __init__(self) -> None:
        self._began: asyncio.Queue[Message] = asyncio.Queue()

    def heard(self, message: Message, receipt: Receipt | None) -> None:
        if receipt is not None:
            receipt.ack()
        self._began.put_nowait(message)

    async def next(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self._began.get()


async def jobs(bus: NatsBus, subject: str, **body: Any) -> Any:
    return msgspec.json.decode(await bus.request(f"shoal.jobs.{subject}", msgspec.json.encode(body), PATIENCE))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
async def test_a_paused_leader_is_replaced_and_fenced_and_a_killed_one_replaced(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    await server.start()
    bus = await NatsBus.connect(server.url, source="tester")
    desks: list[Desk] = []
    lives = Lives()
    try:
        await bus.subscribe([Interest(AgentStarted)], lives.heard)
        first = await Desk.start(1, server.url, tmp_path)
        desks.append(first)
        await lives.next()
        second = await Desk.start(2, server.url, tmp_path)
        desks.append(second)
        answer = await jobs(bus, "submit", kind="train", workload="a:b", id="mine")
        assert answer["accepted"], answer
        await second.says("stands by")
        first.send(signal.SIGSTOP)
        await lives.next()
        answer = await jobs(bus, "submit", kind="train", workload="a:b", id="next")
        assert answer["accepted"], answer
        first.send(signal.SIGCONT)
        await first.says("was replaced")
        await first.says("stands by")
        second.send(signal.SIGKILL)
        await lives.next()
        answer = await jobs(bus, "submit", kind="train", workload="a:b", id="last")
        assert answer["accepted"], answer
        listed = await jobs(bus, "list")
        assert {job["job"] for job in listed["jobs"]} == {"mine", "next", "last"}
    finally:
        for desk in desks:
            await processes.end_now(desk.process)
        await bus.close()
        await server.stop()
