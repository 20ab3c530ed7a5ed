"""Processes as forks of a server; what they do is a toy's."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from bus.processes import ON_LINUX, wait_gone
from runners.fork_client import ForkedProcess, ForkServer, ForkServerGone

PATIENCE = 60.0  # seconds; only a failing test waits this long
SERVER = (sys.executable, "-m", "runners.fork_server")
TOY = """
def read(path):
    if path.read_text() == "raise":
        raise ValueError("as it was told")
    print("read it")
    return 3
"""
pytestmark = pytest.mark.skipif(not ON_LINUX, reason="this system doesn't fork safely")


class Orders:
    """Specifications; a process that reads one waits until something is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def order(self) -> Path:
        self.count += 1
        path = self.folder / f"{self.count}.json"
        os.mkfifo(path)
        return path


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(tmp_path)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "toy.py").write_text(TOY)
    return {"PYTHONPATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
async def server(environment: dict[str, str]) -> AsyncIterator[ForkServer]:
    made = ForkServer((*SERVER, "toy:read", "json"), environment, nice=1)
    yield made
    await made.close()


async def end(process: ForkedProcess) -> int:
    return await asyncio.wait_for(process.wait(), PATIENCE)


async def test_processes_are_there_at_once_and_end_each_in_its_own_way(server: ForkServer, orders: Orders) -> None:
    first, second, third = [orders.order() for _ in range(3)]
    speaks = await server.start(first)
    killed, ended = [await server.start(path) for path in (second, third)]
    assert os.getsid(speaks.pid) == speaks.pid
    assert psutil.Process(speaks.pid).ppid() == psutil.Process(killed.pid).ppid() != os.getpid()
    assert os.getpriority(os.PRIO_PROCESS, speaks.pid) == min(19, os.nice(0) + 1)
    killed.send_signal(signal.SIGKILL)
    ended.send_signal(signal.SIGTERM)
    assert [await end(killed), await end(ended)] == [-signal.SIGKILL, -signal.SIGTERM]
    assert speaks.returncode is None
    first.write_text("do")
    assert await asyncio.wait_for(speaks.stdout.read(), PATIENCE) == b"read it\n"
    assert await end(speaks) == speaks.returncode == 3
    with pytest.raises(ProcessLookupError):
        speaks.send_signal(signal.SIGTERM)


async def test_a_process_that_raises_says_so(server: ForkServer, orders: Orders) -> None:
    order = orders.order()
    process = await server.start(order)
    order.write_text("raise")
    said = (await asyncio.wait_for(process.stdout.read(), PATIENCE)).decode()
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: as it was told\n")
    assert await end(process) == 1


async def test_a_start_that_nobody_waits_for_any_more_leaves_no_process(server: ForkServer, orders: Orders) -> None:
    kept = await server.start(orders.order())
    parent = psutil.Process(kept.pid).parent()
    given_up = asyncio.ensure_future(server.start(orders.order()))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    after = await server.start(orders.order())  # by now the one before has been told of
    others = {child.pid for child in parent.children()} - {kept.pid, after.pid}
    assert len(others) <= 1
    assert all(wait_gone(pid, PATIENCE) for pid in others)


async def test_killed_it_takes_its_processes_along_and_another_serves(server: ForkServer, orders: Orders) -> None:
    process = await server.start(orders.order())
    os.kill(psutil.Process(process.pid).ppid(), signal.SIGKILL)
    assert await end(process) == -signal.SIGKILL
    assert wait_gone(process.pid, PATIENCE)
    another = await server.start(orders.order())
    await server.close()
    assert await end(another) == -signal.SIGKILL
    assert wait_gone(another.pid, PATIENCE)


async def test_one_that_has_died_unnoticed_is_started_again(server: ForkServer, orders: Orders) -> None:
    process = await server.start(orders.order())
    parent = psutil.Process(process.pid).ppid()
    os.kill(parent, signal.SIGKILL)
    assert wait_gone(parent, PATIENCE)  # and the loop, which stood still, hasn't heard of it
    another = await server.start(orders.order())
    assert psutil.Process(another.pid).ppid() != parent
    another.send_signal(signal.SIGKILL)
    assert [await end(process), await end(another)] == [-signal.SIGKILL, -signal.SIGKILL]


async def test_without_work_it_goes(environment: dict[str, str], orders: Orders) -> None:
    server = ForkServer((*SERVER, "toy:read"), environment, nice=0, linger=0.0)
    process = await server.start(orders.order())
    parent = psutil.Process(process.pid).ppid()
    process.send_signal(signal.SIGKILL)
    await end(process)
    assert await asyncio.to_thread(wait_gone, parent, PATIENCE)
    await server.close()


async def test_a_server_that_can_not_start_is_told() -> None:
    server = ForkServer((*SERVER, "no_such_torch:train"), {}, nice=0)
    with pytest.raises(ForkServerGone):
        await server.start(Path("spec.json"))
    await server.close()
