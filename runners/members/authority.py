"""A fleet's private certificate authority: its key stays on the server's host, in a file that only this user can read.

Ed25519 throughout: short keys and certificates, which fit an invitation's line.
"""

import datetime
import ipaddress
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import msgspec

from bus.credentials import Credentials, read_secret, write_credentials, write_private
from bus.tls import client_context
from schemas.errors import ShoalError

_DAY = 86_400.0  # seconds
_OWN_DAYS = 3650  # days of the authority itself: a new one means that everybody joins anew
LIFETIME = (
    30 * _DAY
)  # seconds that a certificate is good for: a stolen one, worth nothing without its owner's nkey, ends by itself
RENEW_AFTER = 1 / 3  # of its lifetime: two thirds are left for a machine that was away to come back with the old one
_SLACK = 300.0  # seconds that a clock on another machine may be behind


class NoCryptography(ShoalError):
    """Certificates need a package that isn't installed."""

    def __init__(self) -> None:
        super().__init__("--tls needs the package `cryptography`: pip install 'shoal[tls]'")


class BadCertificateKey(ShoalError):
    """What a member wants certified is no public key of Ed25519."""

    def __init__(self) -> None:
        super().__init__("that is no public key of Ed25519 in PEM: join with the same version of Shoal")


class Authority:
    """Signs certificates. Attributes: `pem`: its own certificate; `file`: where that is; `server_file`: the server's."""

    def __init__(self, store: Path, addresses: tuple[str, ...]) -> None:
        """Made at first use in `<store>/tls/`; the server has a new certificate each time, for this host and `addresses`.

        Raises:
            NoCryptography: the package is missing.
        """
        _needed()
        folder = store.resolve() / "tls"
        self.file, self.server_file = folder / "authority.pem", folder / "server.pem"
        self._addresses = tuple(dict.fromkeys(("127.0.0.1", "::1", "localhost", socket.gethostname(), *addresses)))
        self._folder = folder
        if not self.file.exists():
            self._begin()
        self.pem = self.file.read_text()
        self._key: Any = _private((folder / "authority.key").read_text())
        self.renew_server()

    def _begin(self) -> None:
        private, public = new_pair()
        name = f"Shoal fleet of {socket.gethostname()}"
        pem = _signed(_public(public), name, _private(private), name, _OWN_DAYS * _DAY, authority=True)
        write_private(self._folder / "authority.key", private.encode())
        write_private(self.file, pem.encode())

    def renew_server(self) -> None:
        """A new certificate for the server, used once it reads its configuration again."""
        private, public = new_pair()
        pem = _signed(_public(public), "server", self._key, _subject(self.pem), LIFETIME, addresses=self._addresses)
        # The key first: a server that reads the two in between keeps what it has, and says so.
        write_private(self.server_file.with_suffix(".key"), private.encode())
        write_private(self.server_file, pem.encode())

    def issue(self, name: str, seconds: float = LIFETIME) -> tuple[str, str]:
        """(certificate, key) in PEM for a member of this host, or for an invitation."""
        private, public = new_pair()
        return _signed(_public(public), name, self._key, _subject(self.pem), seconds), private

    def certify(self, public: str, name: str) -> str:
        """A certificate for a key whose secret is elsewhere. Raises `BadCertificateKey`."""
        return _signed(_public(public), name, self._key, _subject(self.pem), LIFETIME)

    def check(self, public: str) -> None:
        """Raises `BadCertificateKey` for what can't be certified."""
        _public(public)

    def refresh(self, path: Path, name: str, *, always: bool = False) -> None:
        """A new certificate in a member's file on this host, where the one there is another authority's or due."""
        held = read_secret(path)
        if isinstance(held, Credentials) and (
            always or held.authority != self.pem or is_due(held.certificate, time.time())
        ):
            certificate, key = self.issue(name)
            new = msgspec.structs.replace(held, authority=self.pem, certificate=certificate, certificate_key=key)
            write_credentials(path, new)

    def context(self) -> ssl.SSLContext:
        """For a connection of the server's own parent."""
        return client_context(self.pem, *self.issue("shoal-up", _DAY))


def new_pair() -> tuple[str, str]:
    """(private, public) in PEM. Raises `NoCryptography`."""
    _needed()
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def is_due(certificate: str, now: float) -> bool:
    """Whether it is time for the next one; a certificate that isn't there is due."""
    end = ends(certificate)
    return end is None or now >= end - LIFETIME * (1 - RENEW_AFTER)


def ends(certificate: str) -> float | None:
    """When a certificate ends, in seconds since the epoch; None where there is none."""
    if not certificate:
        return None
    _needed()
    from cryptography import x509

    return float(x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc.timestamp())


def _needed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise NoCryptography from None


def _private(pem: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(pem.encode(), None)


def _public(pem: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadCertificateKey from None
    if not isinstance(key, Ed25519PublicKey):
        raise BadCertificateKey
    return key


def _subject(pem: str) -> str:
    from cryptography import x509

    (name,) = x509.load_pem_x509_certificate(pem.encode()).subject
    return str(name.value)


def _signed(
    public: Any,
    name: str,
    signer: Any,
    issuer: str,
    seconds: float,
    *,
    addresses: tuple[str, ...] = (),
    authority: bool = False,
) -> str:
    """A certificate in PEM: for an authority, for a server at `addresses`, or for a client (RFC 5280)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def called(text: str) -> Any:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(called(name)).issuer_name(called(issuer)).public_key(public)
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(seconds=_SLACK))
    made = made.not_valid_after(now + datetime.timedelta(seconds=seconds))
    made = made.add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    made = made.add_extension(identifier, critical=False)
    if authority:
        made = made.add_extension(_authority_usage(), critical=True)
    else:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if addresses else ExtendedKeyUsageOID.CLIENT_AUTH
        made = made.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if addresses:
        names = [_address(text) for text in addresses]
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return str(made.sign(signer, None).public_bytes(forms.Encoding.PEM), "ascii")


def _address(text: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _authority_usage() -> Any:
    from cryptography import x509

    off = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only")
    return x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **dict.fromkeys(off, False))
