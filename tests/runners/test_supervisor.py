"""The supervisor over real child processes and real signals."""

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import processes
from bus.backoff import RestartPolicy
from bus.locks import FileLock
from bus.server_process import STOP_GRACE
from runners.supervisor import (
    GRACE,
    WORK_GRACE,
    ChildExited,
    ChildRestarted,
    ChildSpec,
    DuplicateChild,
    Supervisor,
    UnknownChild,
)

PATIENCE = 20.0  # seconds; only a failing test waits this long
QUICK = RestartPolicy(first=0.01, limit=0.02, loop_after=3)
# Tells on a pipe (its number is the first argument) that it is up, and what ended it.
CHILD = textwrap.dedent("""
    import os, signal, sys
    ends = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ends.append(number))
    print("hello from", os.getpid(), flush=True)
    with open(sys.argv[1], "w") as fifo:
        fifo.write(f"up {os.getpid()}\\n")
    while not ends:
        signal.pause()
    print("goodbye", flush=True)
""")
STUBBORN = CHILD.replace("while not ends:", "while True:")


class Fifo:
    """Where children say that they are up, read with patience but not for ever."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fifo"
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._lines: list[str] = []

    def line(self) -> str:
        while not self._lines:
            assert select.select([self._descriptor], [], [], PATIENCE)[0], "no child says that it is up"
            self._lines = os.read(self._descriptor, 4096).decode().splitlines()  # each was written at once
        return self._lines.pop(0)

    def close(self) -> None:
        os.close(self._descriptor)


class Watch:
    """A supervisor's reports as queues, and a pipe on which children say that they are up."""

    def __init__(self, folder: Path) -> None:
        self.exits: asyncio.Queue[ChildExited] = asyncio.Queue()
        self.restarts: asyncio.Queue[ChildRestarted] = asyncio.Queue()
        self.fifo = Fifo(folder)

    def supervisor(self, store: Path, **options: object) -> Supervisor:
        return Supervisor(
            store, policy=QUICK, on_exit=self.exits.put_nowait, on_restart=self.restarts.put_nowait, **options
        )  # type: ignore[arg-type]

    def child(self, name: str, code: str = CHILD, **options: object) -> ChildSpec:
        return ChildSpec(name=name, argv=(sys.executable, "-c", code, str(self.fifo.path)), **options)  # type: ignore[arg-type]

    async def up(self) -> int:
        """The process id of the next child to say that it is up."""
        return int((await asyncio.to_thread(self.fifo.line)).split()[1])

    async def exit(self) -> ChildExited:
        return await asyncio.wait_for(self.exits.get(), PATIENCE)

    async def restart(self) -> ChildRestarted:
        return await asyncio.wait_for(self.restarts.get(), PATIENCE)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    made.fifo.close()


class RecordingServer:
    """Stands where the server stands; knows which processes lived when it was stopped."""

    def __init__(self) -> None:
        self.watched: list[int] = []
        self.alive_at_stop: list[bool] = []

    async def stop(self) -> None:
        self.alive_at_stop = [processes.is_alive(pid) for pid in self.watched]


async def test_a_killed_child_is_started_again(tmp_path: Path, watch: Watch) -> None:
    async with watch.supervisor(tmp_path) as supervisor:
        pid = await supervisor.start(watch.child("agent"))
        assert await watch.up() == pid == supervisor.pid("agent")
        os.kill(pid, signal.SIGKILL)
        ended, again = await watch.exit(), await watch.restart()
        assert (ended.name, ended.code, ended.crash_loop) == ("agent", -signal.SIGKILL, False)
        assert str(ended) == "agent: killed by SIGKILL, starts again in 0.0 s"
        assert ended.last_lines == (f"hello from {pid}",)
        assert again.pid == supervisor.pid("agent") != pid
        assert await watch.up() == again.pid
        assert again.attempt == 1
        assert again.down_s < PATIENCE
    assert not processes.is_alive(again.pid)


async def test_a_crash_loop_is_reported_with_the_childs_own_words(tmp_path: Path, watch: Watch) -> None:
    crashing = ChildSpec(name="broken", argv=(sys.executable, "-c", "raise ValueError('no such setting')"))
    async with watch.supervisor(tmp_path) as supervisor:
        await supervisor.start(crashing)
        exits = [await watch.exit() for _ in range(3)]
    assert [each.crash_loop for each in exits] == [False, False, True]
    assert all(each.code == 1 for each in exits)
    for each in exits:  # the lines of this run, not those of the runs before
        assert each.last_lines[-1] == "ValueError: no such setting"
        assert sum("Traceback" in line for line in each.last_lines) == 1
    assert "again and again" in str(exits[2])


async def test_output_goes_to_the_log_and_not_to_the_supervisors(
    tmp_path: Path, watch: Watch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with watch.supervisor(tmp_path) as supervisor:
        pid = await supervisor.start(watch.child("talker"))
        await watch.up()
        path = supervisor.log_path("talker")
        assert path == tmp_path / "logs" / "talker.log"
    assert path.read_text().splitlines() == [f"hello from {pid}", "goodbye"]
    assert capfd.readouterr() == ("", "")


async def test_killed_for_a_drill_it_stays_down_until_resumed(tmp_path: Path, watch: Watch) -> None:
    async with watch.supervisor(tmp_path) as supervisor:
        await supervisor.start(watch.child("node"))
        await watch.up()
        assert await supervisor.kill("node") == -signal.SIGKILL
        assert supervisor.pid("node") is None
        assert supervisor.names == ("node",)
        assert await supervisor.kill("node") is None
        pid = await supervisor.resume("node")
        assert await watch.up() == pid == supervisor.pid("node")
        assert await supervisor.resume("node") == pid
        os.kill(pid, signal.SIGKILL)  # it is watched over again
        assert (await watch.restart()).pid == await watch.up()
        assert (await watch.exit()).code == -signal.SIGKILL
    assert watch.exits.empty()


async def test_a_child_not_to_be_restarted_is_not(tmp_path: Path, watch: Watch) -> None:
    once = ChildSpec(name="once", argv=(sys.executable, "-c", "raise SystemExit(4)"), restart=False)
    async with watch.supervisor(tmp_path) as supervisor:
        await supervisor.start(once)
        ended = await watch.exit()
        assert (ended.code, ended.restart_in) == (4, None)
        assert str(ended) == "once: exit code 4, stays down"
    assert watch.restarts.empty()


async def test_stopped_children_are_forgotten_and_their_names_free(tmp_path: Path, watch: Watch) -> None:
    async with watch.supervisor(tmp_path) as supervisor:
        await supervisor.start(watch.child("a"))
        await watch.up()
        with pytest.raises(DuplicateChild, match="'a'"):
            await supervisor.start(watch.child("a"))
        assert await supervisor.stop("a") == 0
        with pytest.raises(UnknownChild, match="'a'"):
            supervisor.pid("a")
        await supervisor.start(watch.child("a"))
        await watch.up()
        with pytest.raises(FileNotFoundError):
            await supervisor.start(ChildSpec(name="b", argv=("/no/such/program",)))
        assert supervisor.names == ("a",)
    assert watch.exits.empty()


async def test_draining_is_gentle_then_certain_and_the_server_goes_last(tmp_path: Path, watch: Watch) -> None:
    server = RecordingServer()
    supervisor = watch.supervisor(tmp_path, server=server, grace=0.3)
    for name, code in (("gentle", CHILD), ("stubborn", STUBBORN)):
        server.watched.append(await supervisor.start(watch.child(name, code)))
        await watch.up()
    await supervisor.drain()
    assert server.alive_at_stop == [False, False]
    assert "goodbye" in supervisor.log_path("gentle").read_text()
    assert "goodbye" not in supervisor.log_path("stubborn").read_text()
    assert watch.exits.empty()  # ends that were asked for are no news


async def test_a_run_ends_with_its_work_and_then_drains(tmp_path: Path, watch: Watch) -> None:
    supervisor = watch.supervisor(tmp_path)

    async def work() -> int:
        pid = await supervisor.start(watch.child("agent"))
        await watch.up()
        return pid

    pid = await supervisor.run(work())
    assert pid is not None
    assert not processes.is_alive(pid)
    assert supervisor.signalled is None

    async def fail() -> None:
        raise ValueError("on its own account")

    with pytest.raises(ValueError, match="on its own account"):
        await watch.supervisor(tmp_path).run(fail())


async def test_a_signal_cancels_the_work(tmp_path: Path, watch: Watch) -> None:
    supervisor = watch.supervisor(tmp_path)
    cleaned: list[str] = []

    async def work() -> int:
        try:
            await supervisor.start(watch.child("agent"))
            await watch.up()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")
        return 1

    assert await supervisor.run(work()) is None
    assert supervisor.signalled is signal.SIGTERM
    assert cleaned == ["yes"]
    assert supervisor.pid("agent") is None


async def test_an_impatient_second_signal_waits_for_nobody(tmp_path: Path, watch: Watch) -> None:
    supervisor = watch.supervisor(tmp_path, grace=10 * PATIENCE)

    async def work() -> None:
        await supervisor.start(watch.child("stubborn", STUBBORN))
        await watch.up()
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    await asyncio.wait_for(supervisor.run(work()), PATIENCE)
    assert supervisor.pid("stubborn") is None


# A client of the server, with something to say when it is told to end.
CLIENT = textwrap.dedent("""
    import asyncio, os, signal, sys
    import nats

    async def main():
        told = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        client = await nats.connect(sys.argv[2], allow_reconnect=False)
        with open(sys.argv[1], "w") as fifo:
            fifo.write(f"up {os.getpid()}\\n")
        await told.wait()
        await client.publish("goodbye", b"")
        await client.flush()
        print("said goodbye", flush=True)
        await client.close()

    asyncio.run(main())
""")
WHOLE = textwrap.dedent("""
    import asyncio, json, sys
    from pathlib import Path
    import uvloop
    from bus.server import EmbeddedServer
    from runners.supervisor import ChildSpec, Supervisor

    store, fifo, children = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    async def main():
        server = EmbeddedServer(store)
        supervisor = Supervisor(store, server=server, grace=1.0)
        async def work():
            await server.start()
            pids = [server.pid]
            for number, code in enumerate(children):
                argv = (sys.executable, "-c", code, fifo, server.url)
                pids.append(await supervisor.start(ChildSpec(name=f"child-{number}", argv=argv)))
            facts = {"pids": pids, "port": server.ports.nats}
            with open(fifo, "w") as out:
                out.write(json.dumps(facts) + "\\n")
            await asyncio.Event().wait()
        await supervisor.run(work())

    uvloop.run(main())
""")


class Whole:
    """A supervisor in a process group of its own with a server and three children, one of which doesn't listen."""

    def __init__(self, store: Path) -> None:
        self.store = store
        fifo = Fifo(store)
        argv = [sys.executable, "-c", WHOLE, str(store), str(fifo.path), CHILD, STUBBORN, CLIENT]
        self.process = subprocess.Popen(argv, start_new_session=True)
        try:
            said = [fifo.line() for _ in range(4)]
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            fifo.close()
        facts = json.loads(next(line for line in said if line.startswith("{")))
        self.pids: list[int] = facts["pids"]
        self.port: int = facts["port"]

    def assert_nothing_is_left(self, deadline: float) -> None:
        assert all(processes.wait_gone(pid, max(0.0, deadline - time.monotonic())) for pid in self.pids)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", self.port)) != 0
        with FileLock(self.store / "server.lock"):
            pass


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    started = Whole(tmp_path)
    yield started
    started.process.kill()
    started.process.wait()


def test_the_graces_add_up_to_less_than_ten_seconds() -> None:
    assert WORK_GRACE + GRACE + STOP_GRACE < 10.0


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGTERM, signal.SIGINT], [signal.SIGINT, signal.SIGTERM]],
    ids=lambda signals: "-".join(each.name for each in signals),
)
def test_signals_to_the_whole_group_end_everything_in_ten_seconds(whole: Whole, signals: list[signal.Signals]) -> None:
    deadline = time.monotonic() + 10.0
    for number in signals:
        os.killpg(whole.process.pid, number)
    assert whole.process.wait(timeout=10.0) == 0
    whole.assert_nothing_is_left(deadline)
    # The one that had something to say to the server could say it: the server went last.
    assert "said goodbye" in (whole.store / "logs" / "child-2.log").read_text()


def test_sigkill_of_the_supervisor_leaves_nothing(whole: Whole) -> None:
    whole.process.kill()
    whole.process.wait()
    whole.assert_nothing_is_left(time.monotonic() + PATIENCE)
