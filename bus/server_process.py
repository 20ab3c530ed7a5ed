"""One run of the nats-server: its process, its log, and when it can be used."""

import asyncio
import contextlib
import json
import signal
import ssl
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bus import processes
from bus.child_log import TAIL_LINES, open_log
from bus.server_config import Ports, local_host
from schemas.errors import ShoalError

START_TIMEOUT = 60.0  # seconds: reading 10 GB of stored messages back takes a slow disk most of that
STOP_GRACE = 2.0  # seconds: it flushes its files on SIGTERM; SIGKILL loses nothing that was acknowledged
_TAKEN = (b"address already in use", b"Only one usage of each socket address")
_READY = b"Server is ready"
_RELOADED, _NOT_RELOADED = b"Reloaded server configuration", b"Failed to reload server configuration"
_RELOAD_TIMEOUT = 60.0  # seconds: ten thousand members take it one
_LOG_CHUNK = 64 * 1024  # bytes: the size of a pipe


class ServerFailed(ShoalError):
    """The nats-server didn't come up. Attributes: `last_lines` of its log, `log_path`."""

    def __init__(self, why: str, last_lines: tuple[str, ...], log_path: Path) -> None:
        said = f": {last_lines[-1]}" if last_lines else ""
        super().__init__(f"nats-server didn't start: {why}; see {log_path}{said}")
        self.last_lines = last_lines
        self.log_path = log_path


class PortTaken(ServerFailed):
    """Another process listens at the server's port. Attribute: `port`."""

    def __init__(self, port: int, last_lines: tuple[str, ...], log_path: Path) -> None:
        super().__init__(
            f"port {port} is taken; stop who has it, or leave the port out to get a free one", last_lines, log_path
        )
        self.port = port


class RunningServer:
    """One run of the server: its process, and its log, which is read as it is written, so that its news is an event."""

    def __init__(self, process: Process, log_path: Path) -> None:
        self.process = process
        self.started = time.monotonic()
        self._log_path = log_path
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._ready = asyncio.Event()
        self._reload: asyncio.Future[bytes] | None = None
        self._reader = asyncio.create_task(self._read(), name="nats-server log")

    async def _read(self) -> None:
        assert self.process.stderr is not None
        rest = b""
        with open_log(self._log_path) as file:
            # In chunks, not lines: no line is too long, and whatever comes the pipe is emptied, or the server would block.
            while chunk := await self.process.stderr.read(_LOG_CHUNK):
                with contextlib.suppress(OSError):  # a full disk costs the log, not the server
                    file.write(chunk)
                *lines, rest = (rest + chunk)[-_LOG_CHUNK:].split(b"\n")
                self._tail.extend(lines)
                if any(_READY in line for line in lines):
                    self._ready.set()
                    self._tail.clear()  # the start went well: what comes from here on explains an end
                for line in lines:
                    if (
                        self._reload is not None
                        and not self._reload.done()
                        and (_RELOADED in line or _NOT_RELOADED in line)
                    ):
                        self._reload.set_result(line)

    async def usable(
        self,
        listen: str,
        ports: Ports,
        name: str,
        tls: Callable[[], ssl.SSLContext] | None = None,
        *,
        stores: bool = True,
    ) -> None:
        """Returns when it answers at its port under its `name`, and has JetStream if it `stores`; else it is killed.

        Raises:
            PortTaken: one of the ports is another process's.
            ServerFailed: it ended, or said nothing for `START_TIMEOUT` seconds.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._said_ready(ports)
                await _greeted(listen, ports.nats, name, tls() if tls is not None else None, stores)
        except TimeoutError as error:
            await self.kill()
            raise ServerFailed(f"not ready within {START_TIMEOUT:.0f} s", self.last_lines(), self._log_path) from error
        except (OSError, ValueError) as error:
            await self.kill()
            raise ServerFailed(f"no greeting ({error})", self.last_lines(), self._log_path) from error
        except BaseException:
            await self.kill()
            raise

    async def _said_ready(self, ports: Ports) -> None:
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait([ready, self._reader], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._ready.is_set():
            return
        code = await self.process.wait()
        for line in self._tail:
            if any(taken in line for taken in _TAKEN):
                port = ports.websocket if f":{ports.websocket}".encode() in line else ports.nats
                raise PortTaken(port, self.last_lines(), self._log_path)
        raise ServerFailed(processes.describe_exit(code), self.last_lines(), self._log_path)

    async def reload(self) -> None:
        """Have it read its configuration again; returns when it has, or has ended. Raises `ServerFailed` if it refuses."""
        answer = self._reload = asyncio.get_running_loop().create_future()
        self.process.send_signal(signal.SIGHUP)
        await asyncio.wait([answer, self._reader], timeout=_RELOAD_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if self._reader.done():
            return
        if not answer.done() or _NOT_RELOADED in answer.result():
            said = answer.result().decode("utf-8", "replace") if answer.done() else "it doesn't answer"
            raise ServerFailed("its new configuration is refused", (said,), self._log_path)

    async def ended(self) -> int:
        """Returns the exit code when the server has ended and its log is complete."""
        code = await self.process.wait()
        await asyncio.wait([self._reader])
        return code

    async def end(self) -> None:
        """Ends it in good order."""
        await processes.end(self.process, STOP_GRACE)
        await asyncio.wait([self._reader])

    async def kill(self) -> None:
        """Ends it at once."""
        await processes.end_now(self.process)
        await asyncio.wait([self._reader])

    def last_lines(self) -> tuple[str, ...]:
        """The end of its log."""
        return tuple(line.decode("utf-8", "replace") for line in self._tail)


async def _greeted(listen: str, port: int, name: str, tls: ssl.SSLContext | None, stores: bool) -> None:
    """Reads the INFO line that a nats-server sends first; `ValueError` unless it is `name`'s and JetStream is on."""
    reader, writer = await asyncio.open_connection(local_host(listen), port, ssl=tls)
    try:
        line = await reader.readline()
    finally:
        writer.close()
    kind, _, body = line.partition(b" ")
    if kind != b"INFO":
        raise ValueError(f"port {port} isn't a NATS server's")
    info = json.loads(body)
    if info.get("server_name") != name:
        raise ValueError(f"another NATS server, {info.get('server_name')!r}, answers at port {port}")
    if stores and not info.get("jetstream"):
        raise ValueError("JetStream is off")
