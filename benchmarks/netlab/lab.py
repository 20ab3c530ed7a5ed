"""The laboratory itself: namespaces, the router between them, and what can be told to it."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.netlab import probes

SOURCE = Path(__file__).with_name("router.c")
RUN = Path(tempfile.gettempdir()) / "shoal-netlab"
"""Where the compiled router, its sockets and its logs are."""

ROUTER_GONE_WITHIN = 1.0  # seconds after SIGTERM: it has nothing to tidy up but its socket
ANSWER_WITHIN = 5.0  # seconds for the router to answer an order: it looks at them between two batches of packets
MOST_NODES = 250  # the router's table, and what a /24 has room for

Congestion = Literal["bbr", "cubic"]

PROFILES: Mapping[str, Mapping[str, object]] = {
    "perfect": {"rtt": (0, 1), "loss": 0, "rate": 1000, "queue": 50},
    "good": {"rtt": (10, 50), "loss": 0.1, "rate": 200, "queue": 100},
    "average": {"rtt": (50, 150), "loss": 1, "rate": 50, "queue": 100},
    "poor": {"rtt": (150, 300), "loss": 5, "rate": 20, "queue": 200},
    "unstable": {"rtt": (50, 500), "loss": 10, "rate": 10, "queue": 200},
}
"""Round trip in ms, loss in % of round trips, Mbit/s each way, the queue's length in ms; of a node's access link."""


class LabError(Exception):
    """The laboratory can't be had or told something; the message says why and what to do."""


def address_of(node: int) -> str:
    """A node's address: the same in every laboratory, which share nothing."""
    return f"10.77.0.{node + 1}"


def _run(*argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done


def require() -> None:
    """Raises:
    LabError: this machine or this user can't have a laboratory; says what is missing.
    """
    if os.name != "posix" or not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise LabError("network namespaces need root on Linux: run this with sudo, or as root in a container that may")
    for program, package in (("gcc", "gcc"), ("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            raise LabError(f"{program} is missing: install it (Debian: `apt install {package}`)")
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing: load the module `tun`, or give the container that device")


def router() -> Path:
    """The compiled router; made once for each version of its source.

    Raises:
        LabError: it doesn't compile.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    binary = RUN / f"router-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        made = binary.with_suffix(f".{os.getpid()}")
        _run("gcc", "-O2", "-Wall", "-o", str(made), str(SOURCE), "-lm")
        made.replace(binary)
    return binary


class NetLab:
    """So many nodes and the network between them; a context manager. Two of one name can't be up at once."""

    def __init__(
        self,
        nodes: int = 4,
        lab: str = "lab",
        profile: str = "perfect",
        congestion: Congestion = "bbr",
        mtu: int = 1500,
        seed: int = 1,
    ) -> None:
        """`profile` is everybody's to begin with; `seed` is of losses and round trips."""
        if not 1 <= nodes <= MOST_NODES:
            raise LabError(f"{nodes} nodes: there can be 1 to {MOST_NODES}")
        if not re.fullmatch(r"[a-z0-9]{1,8}", lab):
            raise LabError(f"{lab!r} is no name for a laboratory: up to eight lower-case letters and digits")
        self.nodes, self.lab, self.profile, self.congestion, self.mtu, self.seed = (
            nodes,
            lab,
            profile,
            congestion,
            mtu,
            seed,
        )
        self._socket = RUN / f"{lab}.sock"
        self._pid_file = RUN / f"{lab}.pid"
        self._log = RUN / f"{lab}.log"
        self._router: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}
        """Of signals, as they were before."""

    def namespace(self, node: int) -> str:
        """The name of a node's network namespace."""
        return f"nl-{self.lab}-{node}"

    # Up and down.

    def up(self) -> Self:
        """Make the namespaces and start the router; what an earlier laboratory of this name left is removed.

        Raises:
            LabError: see `require`; or TCP's congestion control can't be chosen here.
        """
        require()
        binary = router()
        self.down()
        _allow(self.congestion)
        hosts = "127.0.0.1 localhost\n" + "".join(f"{address_of(i)} node{i}\n" for i in range(self.nodes))
        for node in range(self.nodes):
            _run("ip", "netns", "add", self.namespace(node))
            folder = _etc(self.namespace(node))
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts)  # `ip netns exec` mounts this over /etc/hosts
        self._start(binary)
        for node in range(self.nodes):
            self._connect(node)
        self.set("all", self.profile)
        return self

    def _start(self, binary: Path) -> None:
        ends = [f"{self.namespace(i)}={address_of(i)}" for i in range(self.nodes)]
        with self._log.open("w") as log:
            self._router = subprocess.Popen(
                [binary, self._socket, str(self.mtu), str(self.seed), *ends],
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self._router.stdout is not None
        if not self._router.stdout.readline().startswith(b"ready"):
            raise LabError(f"the router did not start: {self._log.read_text().strip()}")
        self._pid_file.write_text(str(self._router.pid))

    def _connect(self, node: int) -> None:
        # No IPv6 noise; a TUN queue that is short enough for TCP to feel the link and not the device.
        script = (
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null; ip link set lo up;"
            f"ip addr add {address_of(node)}/24 dev tun0; ip link set tun0 mtu {self.mtu} txqueuelen 1000 up;"
            f"echo {self.congestion} > /proc/sys/net/ipv4/tcp_congestion_control;"
            "cat /proc/sys/net/ipv4/tcp_congestion_control"
        )
        done = _run("ip", "netns", "exec", self.namespace(node), "sh", "-c", script, check=False)
        if done.stdout.strip() != self.congestion:
            why = done.stderr.strip() or f"it is {done.stdout.strip()}"
            raise LabError(f"node {node} can't use {self.congestion}: {why}; try `modprobe tcp_{self.congestion}`")

    def down(self) -> None:
        """Stop the router and whatever runs in the nodes, and remove the namespaces."""
        self._stop_router()
        for line in _run("ip", "netns", "list", check=False).stdout.splitlines():
            name = line.split()[0]
            if re.fullmatch(rf"nl-{re.escape(self.lab)}-\d+", name):
                _kill_all_in(name)
                _run("ip", "netns", "del", name, check=False)
                shutil.rmtree(_etc(name), ignore_errors=True)
        for path in (self._pid_file, self._socket):
            path.unlink(missing_ok=True)

    def _stop_router(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pid_file.read_text())
            if str(self._socket).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
                return  # the number is somebody else's by now
            os.kill(pid, signal.SIGTERM)
            until = time.monotonic() + ROUTER_GONE_WITHIN
            while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
                if self._router is not None:
                    self._router.poll()
                time.sleep(0.02)

    def __enter__(self) -> Self:
        """Up, and down whatever ends it: SIGTERM (of `timeout`, say) and SIGINT come as `KeyboardInterrupt`, in a shell's
        background too, where SIGINT is ignored otherwise."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, signal.default_int_handler)
        try:
            return self.up()
        except BaseException:
            self._end()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self.down()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    # Programs.

    def command(self, node: int, argv: Sequence[str | Path]) -> list[str]:
        """A command that runs `argv` on a node. Every step execs the next: the process is the program's own."""
        inner = ["unshare", "--uts", "sh", "-c", f'hostname node{node}; exec "$@"', "_", *map(str, argv)]
        return ["ip", "netns", "exec", self.namespace(node), *inner]

    def popen(self, node: int, argv: Sequence[str | Path], **keywords: Any) -> "subprocess.Popen[bytes]":
        """Start a program on a node; keywords as of `subprocess.Popen`."""
        return subprocess.Popen(self.command(node, argv), **keywords)

    def probe(self, near: int, far: int, seconds: float = 10.0, *kinds: str) -> dict[str, Any]:
        """Measure the way between two nodes: round trips and loss (`rtt`), one TCP stream (`tcp`); by default both."""

        def start(node: int, argv: list[str]) -> "subprocess.Popen[bytes]":
            return self.popen(node, argv, stdout=subprocess.PIPE)

        return probes.probe(start, near, far, address_of(far), seconds, *(kinds or ("rtt", "tcp")))

    @property
    def router_pid(self) -> int | None:
        """The router's process; None while the laboratory is down."""
        return self._router.pid if self._router is not None else None

    def processes(self, node: int) -> list[int]:
        """Ids of all processes on a node."""
        return [int(pid) for pid in _run("ip", "netns", "pids", self.namespace(node), check=False).stdout.split()]

    def crash(self, node: int) -> None:
        """SIGKILL to every process of a node: the machine is gone, its files stay."""
        _kill_all_in(self.namespace(node))

    # Orders.

    def order(self, text: str) -> str:
        """Send the router an order (the list is in `router.c`); gives its answer.

        Raises:
            LabError: it refuses, or there is none.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            try:
                line.bind("")  # an abstract address, for the answer
                line.settimeout(ANSWER_WITHIN)
                line.connect(str(self._socket))
                line.send(text.encode())
                answer = line.recv(1 << 18).decode()
            except OSError as error:
                mend = f"bring it up with `python -m benchmarks.netlab --lab {self.lab} up`, or look into {self._log}"
                raise LabError(f"the router of laboratory {self.lab!r} doesn't answer ({error}): {mend}") from error
        if answer.startswith("error"):
            raise LabError(f"{text!r}: {answer}")
        return answer

    def set(self, node: int | str, profile: str | None = None, **changes: object) -> None:
        """A node's (or `all`'s) link: a profile by name, and single figures (`rtt`, `loss`, `rate`, `up`, `down`, ...)."""
        if profile is not None and profile not in PROFILES:
            raise LabError(f"no profile is named {profile!r}: there are {', '.join(PROFILES)}")
        figures = {**(PROFILES[profile] if profile else {}), **changes}
        if isinstance(figures.get("rtt"), tuple):
            figures["rtt"] = "{:g}:{:g}".format(*figures["rtt"])  # type: ignore[misc]
        self.order(f"set {node} " + " ".join(f"{name}={value}" for name, value in figures.items()))

    def spike(self, node: int | str, milliseconds: float, seconds: float) -> None:
        """So much more round trip for so long."""
        self.order(f"spike {node} ms={milliseconds} for={seconds}")

    def cut(self, node: int | str, seconds: float = 0) -> None:
        """Disconnect for so long; 0: until `heal`."""
        self.order(f"cut {node} for={seconds}")

    def heal(self, node: int | str = "all") -> None:
        """End cuts, spikes and partitions."""
        self.order(f"heal {node}")

    def stats(self) -> list[dict[str, Any]]:
        """Packets, bytes and drops of each node, both ways, since the start."""
        nodes: list[dict[str, Any]] = json.loads(self.order("stats"))["nodes"]
        return nodes


def _etc(namespace: str) -> Path:
    return Path("/etc/netns") / namespace


def _kill_all_in(namespace: str) -> None:
    for pid in _run("ip", "netns", "pids", namespace, check=False).stdout.split():
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGKILL)  # only what runs inside a node of ours


def _allow(congestion: str) -> None:
    """A namespace may only choose what is on the machine's list."""
    path = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    allowed = path.read_text().split()
    if congestion not in allowed:
        try:
            path.write_text(" ".join([*allowed, congestion]))
        except OSError as error:
            raise LabError(f"{congestion} can't be used here ({error}): try `modprobe tcp_{congestion}`") from error
