"""The files with which the server knows its members: written whole, read by it at its start and at each reload."""

import ssl
from collections.abc import Callable, Iterable
from pathlib import Path

from bus.credentials import write_private
from bus.members_conf import render
from bus.permissions import Permissions
from bus.server_config import CONFIG
from bus.server_parts import compose

_FOLDER = "server"
_TLS = """tls {{
  cert_file: "{certificate}"
  key_file: "{key}"
  ca_file: "{authority}"
  verify: true                # clients show a certificate of the fleet's authority, too
  min_version: "1.3"
  timeout: 10                 # seconds, as for greetings
  handshake_first: true       # nothing is said in the clear that somebody between could change
}}
"""


class ServerSecurity:
    """A server of members: which configuration it runs with, and how its own parent greets it.

    Attributes:
        config: what the server is started with: nats.conf, then who may connect, in place of a token.
        tls: makes the context by which this machine connects; None: without TLS.
    """

    def __init__(self, store: Path, tls: Callable[[], ssl.SSLContext] | None = None, parts: tuple[Path, ...] = ()) -> None:
        """Nothing is written yet. `parts`: files of configuration besides nats.conf (`bus.server_parts`)."""
        self._folder = store.resolve() / _FOLDER
        self.config = self._folder / "nats.conf"
        self.tls = tls
        self._parts = parts

    def write(
        self,
        users: Iterable[tuple[str, str, Permissions]],
        *,
        certificate: Path | None = None,
        authority: Path | None = None,
    ) -> None:
        """(comment, public key, permissions) of all who may connect; with TLS the server's certificate and its authority.

        The certificate's file has its key beside it, with the ending `.key`.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        write_private(self._folder / "members.conf", render(users).encode())
        tls = ""
        if certificate is not None and authority is not None:
            paths = {"certificate": certificate, "key": certificate.with_suffix(".key"), "authority": authority}
            tls = _TLS.format(**{name: path.resolve().as_posix() for name, path in paths.items()})
        write_private(self._folder / "tls.conf", tls.encode())
        compose(self._folder, (CONFIG, *self._parts), ("members", "tls"))
