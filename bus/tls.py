"""TLS between participants and their server: contexts from PEM texts, by one private authority and no other."""

import logging
import os
import ssl
import tempfile
from pathlib import Path


def _worth_telling(record: logging.LogRecord) -> bool:
    """nats-py keeps a connection's end from its stream reader, which asyncio warns of and makes good by itself."""
    return "eof_received() has no effect when using ssl" not in record.getMessage()


logging.getLogger("asyncio").addFilter(_worth_telling)


def client_context(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    """For a client: trusts servers whose certificate `authority` (PEM) signed, and shows its own where it has one.

    TLS 1.3 only: both ends are ours, and older versions would only be there to be attacked.

    Raises:
        ssl.SSLError: a text is no certificate, or the key isn't the certificate's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority)
    if certificate:
        # OpenSSL reads a key from a file only: one that nobody else can open, gone when this returns.
        descriptor, name = tempfile.mkstemp(prefix="shoal-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(certificate + "\n" + key)
            context.load_cert_chain(name)
        finally:
            Path(name).unlink()
    return context
