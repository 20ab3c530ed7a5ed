"""What lets a participant in: a shared token, or a member's own key with a role and a name that it is held to."""

import contextlib
import os
import re
import secrets
import ssl
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client

from bus.nkeys import KeyPair
from bus.tls import client_context
from schemas.errors import FAULTS, ShoalError

_MEMBERS_INBOX = 4  # words of a request's inbox: `_INBOX`, the member, the connection, the request; others have no member


class BadCredentials(ShoalError):
    """A file that holds no credentials. Attribute: `source`."""

    def __init__(self, source: str, why: str) -> None:
        super().__init__(f"{source} holds no usable credentials ({why}): join again with a new `shoal invite` line")
        self.source = source


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a fleet: who it is, and the secret that proves it."""

    role: str
    """See `schemas.members.Role`."""
    name: str
    """Unique among all members; of a node the node's name."""
    seed: str
    """Of its nkey: never leaves the machine that made it."""
    work_seed: str = ""
    """Of a node: of the lesser nkey that the processes have which it runs for jobs."""
    server: str = ""
    """Where the fleet is, for who isn't told otherwise."""
    authority: str = ""
    """PEM: who signs the server's certificate. Empty: no TLS."""
    certificate: str = ""
    """PEM: this member's own, where the server asks for one."""
    certificate_key: str = ""
    """PEM: its secret."""

    @property
    def inbox(self) -> str:
        """The prefix of the subjects that it hears answers on; nobody else may listen there."""
        return inbox_of(self.name)

    def for_work(self) -> "Credentials | None":
        """What a node's processes get that it runs for jobs; None for one that has no such key."""
        if not self.work_seed:
            return None
        return msgspec.structs.replace(
            self, role="work", name=work_name(self.name), seed=self.work_seed, work_seed="", server=""
        )

    def __repr__(self) -> str:
        return f"Credentials({self.role} {self.name})"  # no secret in a traceback


Secret = str | Credentials | Path | None
"""A token, credentials, a file that holds either, or nothing at all."""


class Access:
    """How to get into a server, looked up anew at each attempt: what is in a file may have been renewed meanwhile."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def now(self) -> str | Credentials | None:
        """What to present at this moment. Raises `BadCredentials`, and `OSError` where a file can't be read."""
        return read_secret(self._secret) if isinstance(self._secret, Path) else self._secret

    def greeting(self, nonce: str) -> dict[str, str]:
        """What CONNECT says of who we are."""
        held = self.now()
        if isinstance(held, Credentials):
            pair = KeyPair(held.seed)
            return {"nkey": pair.public, "sig": pair.answer(nonce)}
        return {"auth_token": held} if held else {}

    def tls(self) -> ssl.SSLContext | None:
        """For a connection that is encrypted from its first byte; None where credentials name no authority."""
        held = self.now()
        if not isinstance(held, Credentials) or not held.authority:
            return None
        return client_context(held.authority, held.certificate, held.certificate_key)

    def for_nats_py(self, client: Client) -> dict[str, Any]:
        """Arguments for its `connect`.

        The handshake comes first, so that nobody between can talk a client out of encryption.
        """
        held = self.now()
        if not isinstance(held, Credentials):
            return {"token": held}
        # nats-py takes a seed only with a package of its own for it; without one it has no public way to name a key.
        client._public_nkey = KeyPair(held.seed).public
        options: dict[str, Any] = {"signature_cb": self._answer, "inbox_prefix": held.inbox}
        context = self.tls()
        return options if context is None else {**options, "tls": context, "tls_handshake_first": True}

    def renew(self, client: Client) -> None:
        """Before another attempt: with the certificate that is in the file now. The one known stays if there is none."""
        with contextlib.suppress(BadCredentials, OSError):
            context = self.tls()
            if context is not None:
                client.options["tls"] = context

    def _answer(self, nonce: str) -> bytes:
        return self.greeting(nonce)["sig"].encode()


def inbox_of(name: str) -> str:
    """The prefix of a member's inboxes."""
    return f"_INBOX.{name}"


def work_name(node: str) -> str:
    """What the processes are called that a node runs for jobs; no member can have this name."""
    return f"{node}+work"


def member_of(inbox: str) -> str:
    """Who hears answers in an inbox; `a client` for one that is nobody's own."""
    words = inbox.split(".")
    return words[1] if len(words) == _MEMBERS_INBOX and words[0] == "_INBOX" else "a client"


def read_secret(path: Path) -> str | Credentials:
    """A token or credentials from a file. Raises `BadCredentials`, and `OSError` where it can't be read."""
    data = path.read_bytes().strip()
    if not data.startswith(b"{"):
        if not re.fullmatch(rb"[A-Za-z0-9_-]+", data):
            raise BadCredentials(str(path), "neither a token nor JSON")
        return data.decode()
    try:
        return msgspec.json.decode(data, type=Credentials)
    except FAULTS as error:
        raise BadCredentials(str(path), str(error)) from None


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Keep them, whole or not at all, readable by this user only from the file's first moment."""
    write_private(path, msgspec.json.format(msgspec.json.encode(credentials), indent=2) + b"\n")


def write_private(path: Path, data: bytes) -> None:
    """Replace a file by `data`: on the disk when this returns, mode 0600."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
        raise
