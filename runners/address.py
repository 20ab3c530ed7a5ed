"""Where the server is: given, in the environment, or that of `shoal up` in this directory."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from bus.credentials import Secret
from bus.server_config import last_url
from bus.several import each_of, place_of
from runners.members.files import joined_as, known_at, own_file
from schemas.errors import ShoalError

STORE = Path(".shoal")
TOKEN_FILE = "token"


class NoServer(ShoalError):
    """Nobody said where the server is."""

    def __init__(self, store: Path) -> None:
        super().__init__(
            f"no server: there is none in {store}; start one with `shoal up`, or give --server nats://HOST:PORT"
        )
        self.store = store


class BadServer(ShoalError):
    """Not the URL of a NATS server. Attribute: `server`."""

    def __init__(self, server: str) -> None:
        super().__init__(f"{server!r} is no server: write nats://HOST:PORT, or nats://TOKEN@HOST:PORT")
        self.server = server


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A server and what it takes to get in."""

    url: str
    """Without the token, so that it can be shown; of several servers, all, with commas between."""
    token: Secret = None
    """A token, or the file with this machine's credentials."""

    @property
    def host(self) -> str:
        """The server's host; of several the first's, and so the port."""
        return place_of(each_of(self.url)[0])[0]

    @property
    def port(self) -> int:
        """The server's port."""
        return place_of(each_of(self.url)[0])[1]

    @property
    def places(self) -> str:
        """`HOST:PORT` of each server, with commas between."""
        return ",".join(f"{host}:{port}" for host, port in map(place_of, each_of(self.url)))


def parse_server(server: str) -> Address:
    """`nats://[TOKEN@]HOST[:PORT]`, or `HOST[:PORT]`, or several of them with commas between.

    Raises `BadServer`, also for a user with a password.
    """
    found = [_parse_one(one) for one in server.split(",")]
    tokens = [one.token for one in found if one.token is not None]
    return Address(url=",".join(one.url for one in found), token=tokens[0] if tokens else None)


def _parse_one(server: str) -> Address:
    server = server.strip()
    text = server if "://" in server else f"nats://{server}"
    try:
        parts = urlsplit(text)
        port = parts.port or 4222
    except ValueError:
        raise BadServer(server) from None
    if parts.scheme not in ("nats", "tls") or not parts.hostname or parts.password is not None:
        raise BadServer(server)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(url=f"{parts.scheme}://{host}:{port}", token=parts.username)


def find_server(server: str | None = None, *, token: Secret = None, store: Path | None = None) -> Address:
    """The server to use: `server`, else `$SHOAL_SERVER`, else the one that `shoal up` last ran on this store,
    or that it has joined.

    Raises:
        NoServer: nobody says where it is.
        BadServer: it is no URL.
    """
    where = store or STORE
    given = server or os.environ.get("SHOAL_SERVER") or None
    if given is None:
        return _of_store(where, token)
    address = parse_server(given)
    token = token or address.token or _in_environment() or known_at(where, address.url)
    return msgspec.structs.replace(address, token=token)


def _of_store(store: Path, token: Secret) -> Address:
    """The server of this very store, else the one that this machine has joined."""
    given = last_url(store)
    if given is not None:
        found = token or own_file(store) or _stored_token(store) or _in_environment()
        return Address(url=parse_server(given).url, token=found)
    for path, credentials in joined_as(store):
        return Address(url=parse_server(credentials.server).url, token=token or path)
    raise NoServer(store)


def _in_environment() -> Secret:
    path = os.environ.get("SHOAL_CREDENTIALS")
    return Path(path) if path else os.environ.get("SHOAL_TOKEN")


def _stored_token(store: Path) -> str | None:
    try:
        return (store / TOKEN_FILE).read_text().strip() or None
    except (FileNotFoundError, PermissionError):
        return None
