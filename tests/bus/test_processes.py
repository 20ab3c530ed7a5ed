"""Children die with their parent: real processes, real signals."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import uvloop

from bus import processes
from bus.child_log import LOG_LIMIT, last_lines, open_log

PATIENCE = 20.0  # seconds; only a failing test waits this long
FOREVER = (sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()",
)
PARENT = textwrap.dedent("""
    import asyncio, sys
    from bus import processes

    async def main():
        child = await processes.spawn(sys.argv[2:], guarded=sys.argv[1] == "guarded", new_session=True)
        print(child.pid, flush=True)
        await child.wait()

    if sys.argv[1] == "uvloop":
        import uvloop
        uvloop.run(main())
    else:
        asyncio.run(main())
""")
# Says its own process id, so that the child of a guard is known too.
TELL_PID = (sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()")


async def line_of(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).strip()


@pytest.mark.parametrize("how", ["asyncio", "uvloop", "guarded"])
def test_a_child_dies_when_its_parent_is_killed(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, how, *TELL_PID], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert all(processes.wait_gone(pid, PATIENCE) for pid in pids)


async def test_a_guard_hands_on_signals_and_the_exit_code() -> None:
    child = await processes.spawn(FOREVER, stdout=asyncio.subprocess.PIPE, guarded=True)
    assert await line_of(child) == b"up"
    assert await processes.end(child, PATIENCE) == -signal.SIGTERM
    failing = await processes.spawn([sys.executable, "-c", "raise SystemExit(3)"], guarded=True)
    assert await asyncio.wait_for(failing.wait(), PATIENCE) == 3


async def test_killing_a_guarded_child_kills_the_command_too() -> None:
    child = await processes.spawn(TELL_PID, stdout=asyncio.subprocess.PIPE, guarded=True)
    command = int(await line_of(child))
    assert command != child.pid
    assert await processes.end_now(child) == -signal.SIGKILL
    assert processes.wait_gone(command, PATIENCE)


async def test_end_is_gentle_first_and_certain_in_the_end() -> None:
    gentle = await processes.spawn(FOREVER, stdout=asyncio.subprocess.PIPE)
    stubborn = await processes.spawn(STUBBORN, stdout=asyncio.subprocess.PIPE)
    await line_of(gentle)
    await line_of(stubborn)
    assert await processes.end(gentle, PATIENCE) == -signal.SIGTERM
    assert await processes.end(stubborn, 0.05) == -signal.SIGKILL
    assert await processes.end(stubborn, 0.05) == -signal.SIGKILL  # it is gone already: no harm


async def test_niceness_environment_directory_and_session(tmp_path: Path) -> None:
    report = "import os; print(os.nice(0), os.environ['COLOUR'], os.getcwd(), os.getsid(0) == os.getpid())"
    child = await processes.spawn(
        [sys.executable, "-c", report],
        env={"COLOUR": "green"},
        cwd=tmp_path,
        nice=3,
        new_session=True,
        stdout=asyncio.subprocess.PIPE,
    )
    assert (await line_of(child)).decode() == f"{os.nice(0) + 3} green {tmp_path} True"
    await child.wait()


async def test_a_thread_other_than_the_main_one_is_refused() -> None:
    raised: list[BaseException] = []

    def try_it() -> None:
        try:
            asyncio.run(processes.spawn(FOREVER))
        except processes.WrongThread as error:
            raised.append(error)

    thread = threading.Thread(target=try_it)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert "main thread" in str(raised[0])


def test_wait_gone_says_whether_it_is() -> None:
    child = subprocess.Popen(FOREVER, stdout=subprocess.DEVNULL)
    try:
        assert not processes.wait_gone(child.pid, 0.0)
        assert processes.is_alive(child.pid)
    finally:
        child.kill()
        assert processes.wait_gone(child.pid, PATIENCE)
        child.wait()
    assert processes.wait_gone(child.pid, 0.0)
    assert not processes.is_alive(child.pid)


def test_a_late_die_with_parent_ends_the_process() -> None:
    # The process that should be its parent (here: no parent of anyone) is gone before the kernel is asked.
    code = subprocess.run(
        [sys.executable, "-c", "from bus.processes import die_with_parent; die_with_parent(2**22 + 1); print('lives')"],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (code.returncode, code.stdout) == (125, b"")


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (1, "exit code 1"), (-9, "killed by SIGKILL"), (-99, "killed by signal 99")]
)
def test_exits_in_words(code: int, words: str) -> None:
    assert processes.describe_exit(code) == words


def test_logs_are_rotated_by_size_and_read_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "a.log"
    with open_log(path) as log:
        log.write(b"old\n" * 3)
        since = log.tell()
        log.write(b"\n".join(f"line {number}".encode() for number in range(100)))
    assert last_lines(path, since=since, count=2) == ("line 98", "line 99")
    assert last_lines(path, count=500)[:3] == ("old", "old", "old")
    assert last_lines(tmp_path / "none") == ()
    path.write_bytes(b"x" * (LOG_LIMIT + 1))
    with open_log(path) as log:
        log.write(b"new\n")
    assert last_lines(path) == ("new",)
    assert path.with_name("a.log.1").stat().st_size == LOG_LIMIT + 1


def test_spawn_works_on_uvloop_too() -> None:
    async def main() -> int:
        child = await processes.spawn(FOREVER, stdout=asyncio.subprocess.PIPE)
        await line_of(child)
        return await processes.end(child, PATIENCE)

    assert uvloop.run(main()) == -signal.SIGTERM
