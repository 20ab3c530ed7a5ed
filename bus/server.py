"""The embedded nats-server: a child process, up when `start` returns; it comes back by itself and dies with its parent."""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bus import processes
from bus.backoff import RestartHistory, RestartPolicy
from bus.congestion import ask_for_child
from bus.locks import AlreadyLocked, FileLock
from bus.server_config import (
    CONFIG,
    Binary,
    Ports,
    bracketed,
    checked_address,
    environment,
    find_binary,
    free_ports,
    is_loopback,
    local_host,
    primary_address,
    record,
    recorded,
)
from bus.server_parts import Part, compose
from bus.server_process import PortTaken, RunningServer, ServerFailed
from bus.server_security import ServerSecurity

_ORPHAN_TIMEOUT = 3.0  # seconds for the kernel to finish killing the server of a parent that was killed
_PORT_RACES = 5  # attempts at free ports; one lost race is rare, five running mean something else


@dataclass(frozen=True, kw_only=True)
class ServerExited:
    """The server ended unasked and will be started again."""

    name: str = "nats-server"
    """Which, where there are several."""
    code: int | None  # None: it didn't even come up
    last_lines: tuple[str, ...]
    restart_in: float  # seconds
    crash_loop: bool


@dataclass(frozen=True, kw_only=True)
class ServerRestarted:
    """The server is back on its ports."""

    name: str = "nats-server"
    pid: int
    down_s: float  # seconds from its end to its being usable again


class EmbeddedServer:
    """A nats-server of this process's own on the directory `store`.

    `async with EmbeddedServer(store) as server:` or `start` and `stop`. If it ends unasked it is started again with
    back-off, on the same ports, so clients reconnect by themselves; what was stored is still there.

    Attributes:
        store: Shoal's directory; the server's part is `jetstream/`, `nats-server.log`, `server.json`, `server.lock`.
        token: what clients must present; None for a server on loopback that asks for nothing.
    """

    def __init__(
        self,
        store: Path,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        origins: tuple[str, ...] = (),
        security: ServerSecurity | None = None,
        storage_key: str = "",
        config: Path = CONFIG,
        parts: tuple[Part, ...] = (),
        name: str = "",
        policy: RestartPolicy | None = None,
        on_exit: Callable[[ServerExited], None] | None = None,
        on_restart: Callable[[ServerRestarted], None] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            store: made if it isn't there.
            listen: an address of this machine; other than loopback only with a token.
            port: of NATS; 0 for the one that this store had last, if it is free, else any free one.
            token: see `ensure_token`.
            origins: web pages that may connect (`http://host:port`); by default pages served at the WebSocket's own port.
            security: has it know its members, in place of a token; its files must have been written.
            storage_key: with which JetStream encrypts what it stores; empty: not at all.
            config: what it is started with where it doesn't know members.
            parts: what that has besides.
            name: among the servers of a cluster, the same for good; by default it has another at each start.
            policy: of restarts.
            on_exit: told when the server ended unasked.
            on_restart: told when it is back.

        Raises:
            ServerRefused: not loopback, and no token.
            BadToken: a token that doesn't fit a URL.
        """
        self.store = store.resolve()
        self.token = token
        self._listen = listen if security is not None else checked_address(listen, token)
        self._security = security
        self._storage_key = storage_key
        self._config, self._parts = config, parts
        self._name = name
        self._reloading = asyncio.Lock()
        self._wanted_port = port
        self._origins = origins
        self._history = RestartHistory(policy or RestartPolicy())
        self._on_exit = on_exit
        self._on_restart = on_restart
        self._lock = FileLock(self.store / "server.lock", mend="stop that `shoal up` or give another --store")
        self._binary: Binary | None = None
        self._ports: Ports | None = None
        self._running: RunningServer | None = None
        self._tender: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when clients can connect and JetStream answers.

        Raises:
            ServerMissing, ServerTooOld: no binary to run.
            AlreadyLocked: another server runs on this store.
            ServerRefused: `listen` isn't an address of this machine.
            PortTaken, ServerFailed: it didn't come up; the last lines of its log are in the error.
        """
        self._binary = await find_binary()
        await self._take_store()
        try:
            await self._launch_somewhere()
        except BaseException:
            self._lock.release()
            raise
        self._tender = asyncio.create_task(self._tend(), name="nats-server")

    async def stop(self) -> None:
        """Ends the server and lets go of the store; no-op if it isn't running."""
        if self._tender is not None:
            self._tender.cancel()
            await asyncio.wait([self._tender])
            self._tender = None
        if self._running is not None:
            await self._running.end()
            self._running = None
        self._lock.release()

    async def restart(self) -> None:
        """Ends the server and starts it again on the same ports, as an upgrade would. Raises as `start`."""
        await self.stop()
        await self.start()

    async def reload(self) -> None:
        """Have it read its configuration again; on return it has ended the connections of who isn't in it any more.

        A server that is down reads it when it comes back.

        Raises:
            ServerFailed: it refuses the configuration, and keeps to the last one.
        """
        async with self._reloading:
            if self._running is not None:
                await self._running.reload()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where clients on this machine connect, without the token: `nats://127.0.0.1:4222`."""
        return f"nats://{bracketed(local_host(self._listen))}:{self.ports.nats}"

    @property
    def join_url(self) -> str:
        """Where clients on other machines connect, with the token in it if there is one: it is a secret."""
        host = primary_address() if self._listen in ("0.0.0.0", "::") else self._listen
        secret = f"{self.token}@" if self.token else ""
        return f"nats://{secret}{bracketed(host)}:{self.ports.nats}"

    @property
    def websocket_url(self) -> str:
        """Where a browser on this machine connects."""
        return f"ws://127.0.0.1:{self.ports.websocket}"

    @property
    def ports(self) -> Ports:
        """The ports in use; they stay the same as long as this object lives. The server must have been started."""
        if self._ports is None:
            raise ValueError("the server has not been started")
        return self._ports

    @property
    def pid(self) -> int | None:
        """The server's process id; None while it is down."""
        return self._running.process.pid if self._running is not None else None

    @property
    def version(self) -> str:
        """The server's version. It must have been started."""
        if self._binary is None:
            raise ValueError("the server has not been started")
        return self._binary.version

    @property
    def log_path(self) -> Path:
        """What the server says."""
        return self.store / "nats-server.log"

    async def _take_store(self) -> None:
        try:
            self._lock.acquire()
        except AlreadyLocked as held:
            # The server holds the lock as well as its parent. If the parent was killed, the kernel is just killing it too.
            orphan = recorded(self.store).get("pid")
            if not isinstance(orphan, int) or held.holder is None or processes.is_alive(held.holder):
                raise
            await asyncio.to_thread(processes.wait_gone, orphan, _ORPHAN_TIMEOUT)
            self._lock.acquire()

    async def _launch_somewhere(self) -> None:
        """The first launch: on the ports given, the ones that this store had last, or free ones."""
        if self._ports is not None:
            self._running = await self._launch(self._ports)
            return
        last = recorded(self.store)
        for attempt in range(_PORT_RACES):
            ports = free_ports(self._listen)
            if attempt == 0 and isinstance(last.get("port"), int) and isinstance(last.get("websocket_port"), int):
                ports = Ports(nats=last["port"], websocket=last["websocket_port"])
            if self._wanted_port:
                ports = Ports(nats=self._wanted_port, websocket=ports.websocket)
            try:
                self._running = await self._launch(ports)
            except PortTaken as taken:
                if attempt == _PORT_RACES - 1 or taken.port == self._wanted_port:
                    raise
                continue
            self._ports = ports
            return

    async def _launch(self, ports: Ports) -> RunningServer:
        assert self._binary is not None
        # The name is new each time, so that the greeting shows it is this very server that answers at the port. The servers
        # of a cluster know each other by it.
        name = self._name or f"shoal-{secrets.token_hex(6)}"
        variables = environment(
            name=name,
            listen=self._listen,
            ports=ports,
            store=self.store,
            token=self.token,
            origins=self._origins,
            storage_key=self._storage_key,
        )
        for part in self._parts:
            variables |= part.variables
        config = self._security.config if self._security is not None else self._config
        files = [part.file for part in self._parts if part.file is not None]
        if files and self._security is None:
            config = compose(self.store / "server", (config, *files))
        process = await processes.spawn(
            [str(self._binary.path), "-c", str(config)],
            env=variables,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            new_session=True,  # Ctrl-C is for the parent, which stops the server last, when everyone has said goodbye
            pass_fds=(self._lock.fileno(),) if os.name == "posix" else (),
        )
        running = RunningServer(process, self.log_path)
        tls = self._security.tls if self._security is not None else None
        await running.usable(self._listen, ports, name, tls, stores=self._config == CONFIG)
        if not is_loopback(self._listen):  # nothing gets lost there
            ask_for_child(process.pid, ports.nats)
        with contextlib.suppress(OSError):  # a full disk costs the note, not the server
            record(self.store, listen=self._listen, ports=ports, pid=process.pid)
        return running

    async def _tend(self) -> None:
        """Starts the server again whenever it ends; runs until cancelled."""
        assert self._running is not None
        while True:
            code: int | None = await self._running.ended()
            down_since = time.monotonic()
            started = self._running.started
            lines = self._running.last_lines()
            self._running = None
            while self._running is None:
                again = self._history.exited(started=started, now=time.monotonic())
                if self._on_exit is not None:
                    self._on_exit(
                        ServerExited(
                            name=self._name or "nats-server",
                            code=code,
                            last_lines=lines,
                            restart_in=again.delay,
                            crash_loop=again.crash_loop,
                        )
                    )
                await asyncio.sleep(again.delay)
                started = time.monotonic()
                try:
                    self._running = await self._launch(self.ports)
                except (ServerFailed, OSError) as error:
                    code, lines = None, getattr(error, "last_lines", (str(error),))
            if self._on_restart is not None:
                self._on_restart(
                    ServerRestarted(
                        name=self._name or "nats-server",
                        pid=self._running.process.pid,
                        down_s=time.monotonic() - down_since,
                    )
                )
