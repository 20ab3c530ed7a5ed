"""A job's code as it travels: source files packed by content, and the word of whoever sends them."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAX_BUNDLE: Final = 32 * 1024 * 1024
"""Bytes of a bundle's content: source and small tables are well under it, data sets are read on each node. A node on the
worst links (0.4 Mbit/s) has it, compressed, in some minutes."""

SIGNER_PATTERN: Final = r"^ed25519:[A-Za-z0-9_-]{43}$(?!\n)"
"""A public key of Ed25519 (RFC 8032): its 32 bytes in base64url without padding."""

SHA256_PATTERN: Final = r"^[0-9a-f]{64}$(?!\n)"
SIGNATURE_PATTERN: Final = r"^[A-Za-z0-9_-]{86}$(?!\n)"
"""64 bytes in base64url without padding."""

Submitter = Annotated[str, Meta(pattern=SIGNER_PATTERN, description="A submitter's public key.")]


class SourceBundle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source that a job's workload is loaded from, in the object store under `bundles/<digest>`."""

    digest: Annotated[str, Meta(pattern=SHA256_PATTERN)]
    """SHA-256 of the content before compression: the same files have the same."""
    size: Annotated[int, Meta(ge=1, le=MAX_BUNDLE)]
    """Bytes of that content."""
    submitter: Submitter
    """Public key (ed25519) of whoever sends it: nodes run it if they trust this key."""
    signature: Annotated[str, Meta(pattern=SIGNATURE_PATTERN)]
    """Of that key, over workload, digest and size."""


def object_name(digest: str) -> str:
    """Where a bundle is in the object store."""
    return f"bundles/{digest}"


def statement(workload: str, digest: str, size: int) -> bytes:
    """What a submitter signs: this content, to be used as this workload, and as nothing else that it holds."""
    return f"shoal bundle 1\n{workload}\n{digest}\n{size}\n".encode()
