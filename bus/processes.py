"""Child processes that never outlive their parent, whatever ends it.

On Linux the kernel does it (PR_SET_PDEATHSIG). Elsewhere `bus/guard.py` stands between: it watches a pipe from the
parent and kills the child when the pipe ends.
"""

import asyncio
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from schemas.errors import ShoalError

ON_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ORPHANED = 125  # exit code of a child whose parent died while it was being started; nobody is left to read it
# Looked up here, not between fork and exec, where as little as possible should happen.
_libc = ctypes.CDLL(None, use_errno=True) if ON_LINUX else None


class WrongThread(ShoalError):
    """A child was to be started outside the main thread."""

    def __init__(self) -> None:
        super().__init__(
            "start child processes from the main thread: on Linux a child dies with the thread that started it"
        )


def die_with_parent(parent: int, sig: int = signal.SIGKILL) -> bool:
    """Asks the kernel to send `sig` to this process when the thread that started it ends.

    Args:
        parent: the process id that should be this process's parent. If another one is by now, the parent died before the
            kernel was asked, and this process ends at once.
        sig: the signal to be sent.

    Returns:
        Whether the kernel will do so: False where it can't (not Linux), where `spawn` uses a guard instead.
    """
    if _libc is None:
        return False
    if _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(_ORPHANED)
    return True


def _before_exec(nice: int) -> Callable[[], None]:
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(parent)
        if nice:
            os.nice(nice)

    return prepare


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    inherit: bool = True,
    cwd: Path | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    nice: int = 0,
    new_session: bool = False,
    pass_fds: Sequence[int] = (),
    guarded: bool = not ON_LINUX,
) -> Process:
    """Starts `argv` as a child that is killed when this process ends, by whatever: a return, an exception, SIGKILL.

    Args:
        argv: the command and its arguments.
        env: added to this process's environment.
        inherit: whether it gets that one at all.
        cwd: its working directory, this process's by default.
        stdout: as for `subprocess`; inherited by default.
        stderr: as for `subprocess`; inherited by default.
        nice: added to the child's niceness (0 to 19; more is more patient).
        new_session: keeps signals to this process's group (Ctrl-C in a terminal) from reaching the child.
        pass_fds: file descriptors that the child keeps, such as a lock that must live as long as either.
        guarded: whether `bus/guard.py` stands between; by default where the kernel can't do it.

    Raises:
        WrongThread: called outside the main thread, whose end is the process's end.
        OSError: the command can't be started.
    """
    if threading.current_thread() is not threading.main_thread():
        raise WrongThread
    options: dict[str, Any] = {"start_new_session": new_session, "pass_fds": tuple(pass_fds)} if os.name == "posix" else {}
    if guarded:
        argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), *argv]
    else:
        options["preexec_fn"] = _before_exec(nice)
    return await asyncio.create_subprocess_exec(
        *argv,
        env={**(os.environ if inherit else {}), **(env or {})},
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE if guarded else asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        **options,
    )


def kill(process: Process) -> None:
    """Ends a child of `spawn` at once and for certain; no harm if it has ended already."""
    if process.stdin is not None:
        process.stdin.close()  # a guard kills its command at this; killing the guard would leave the command behind
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def send(process: Process, sig: signal.Signals) -> None:
    """Sends a signal to a child; no harm if it has ended already."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sig)


async def end(process: Process, grace: float, sig: signal.Signals = signal.SIGTERM) -> int:
    """Sends `sig`, and SIGKILL if the child is still there after `grace` seconds. Returns its exit code."""
    send(process, sig)
    try:
        return await asyncio.wait_for(process.wait(), grace)
    except TimeoutError:
        return await end_now(process)
    except asyncio.CancelledError:
        kill(process)
        raise


async def end_now(process: Process) -> int:
    """SIGKILL; returns the exit code once the process is gone."""
    kill(process)
    return await process.wait()


def wait_gone(pid: int, timeout: float) -> bool:
    """Blocks until process `pid` (not necessarily a child) has ended, at most `timeout` seconds; whether it has.

    Where the kernel has no process file descriptors (not Linux) it can only look once.
    """
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], timeout)[0])
        finally:
            os.close(descriptor)
    return not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process `pid` runs. One that has ended and that nobody has asked after yet (a zombie) doesn't."""
    if sys.platform == "linux":
        return not wait_gone(pid, 0.0)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def describe_exit(code: int) -> str:
    """An exit code in words: `exit code 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
