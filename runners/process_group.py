"""A child process in a group of its own: signals that can't go astray, and an exit that is told at once."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process

from bus import processes
from runners.fork_client import ForkedProcess


class ProcessGroup:
    """A child of `processes.spawn(..., new_session=True)` or of a fork server, and whatever it started itself.

    On Linux the child is held by a process file descriptor: `Process.send_signal` looks whether the child has ended and
    may so take its exit code away from the event loop, and `Process.wait` also waits for others that hold its output.
    """

    def __init__(self, process: Process | ForkedProcess) -> None:
        self.process = process
        self._descriptor: int | None = None
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                self._descriptor = os.pidfd_open(process.pid)
            _no_core_file(process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; no harm if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if sys.platform != "linux":
                self.process.send_signal(number)
            elif self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """SIGKILL to the child and to those that it started; no harm where none is left."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if sys.platform != "linux" and isinstance(self.process, Process) and self.process.returncode is None:
            processes.kill(self.process)  # a guard stands between, whose command has to be killed through it

    async def ended(self) -> None:
        """Returns when the child has ended, whoever still holds its output."""
        if sys.platform != "linux":
            await self.process.wait()
        elif self._descriptor is not None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(self._descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Let go of the child."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _no_core_file(pid: int) -> None:
    """An aborted torch process would leave gigabytes of core file where the system writes such."""
    if sys.platform == "linux":
        import resource

        with contextlib.suppress(OSError):
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
