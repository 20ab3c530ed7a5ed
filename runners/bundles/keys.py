"""Who a submitter is: an Ed25519 key pair (RFC 8032). Nodes know people by the public half and take only what it signed."""

import base64
import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from runners.bundles.errors import BundleError
from schemas.bundles import SIGNER_PATTERN

KEY_FILE: Final = "submitter.key"
_PREFIX: Final = "ed25519:"
_PUBLIC = re.compile(SIGNER_PATTERN)


class BadKey(BundleError):
    """Not a submitter's key, or one that isn't safe to use."""


class Signer:
    """A submitter's own key."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @property
    def public(self) -> str:
        """What nodes are told to trust."""
        return _PREFIX + _text(bytes(self._key.verify_key))

    def sign(self, statement: bytes) -> str:
        """The signature; the same for the same statement."""
        return _text(self._key.sign(statement).signature)


def own_signer(store: Path) -> Signer:
    """The key of this store, made at first use; readable by its owner alone.

    Raises:
        BadKey: others may read or have made it, or it is no key.
    """
    path = store / KEY_FILE
    if not path.exists():
        store.mkdir(parents=True, exist_ok=True)
        # Written aside and linked into place: two commands at once make one key, and none is ever seen half-written.
        descriptor, aside = tempfile.mkstemp(prefix=f"{KEY_FILE}.", dir=store)  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            file.write(_text(bytes(SigningKey.generate())) + "\n")
        try:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        finally:
            os.unlink(aside)
    return _read(path)


def stored_signer(store: Path) -> Signer | None:
    """The key of this store, None where none was made. Raises as `own_signer`."""
    path = store / KEY_FILE
    return _read(path) if path.exists() else None


def verified(public: str, statement: bytes, signature: str) -> bool:
    """Whether the holder of `public` signed this statement."""
    try:
        VerifyKey(_bytes(public_key(public).removeprefix(_PREFIX))).verify(statement, _bytes(signature))
    except (BadSignatureError, BadKey, ValueError):
        return False
    return True


def public_key(text: str) -> str:
    """A public key as people type it.

    Raises:
        BadKey: it is none.
    """
    text = text.strip()
    if not _PUBLIC.match(text):
        raise BadKey(f"{text[:80]!r} is no submitter's key", "copy all of it, `ed25519:` and 43 characters")
    return text


def _read(path: Path) -> Signer:
    descriptor = os.open(path, os.O_RDONLY)
    with os.fdopen(descriptor) as file:
        about = os.fstat(descriptor)
        text = file.read(256).strip()
    if os.name == "posix" and (about.st_mode & 0o077 or about.st_uid != os.geteuid()):
        mend = f"`chmod 600 {path}` if nobody else has read it, else remove it: a new one is made"
        raise BadKey(f"{path} can be read or written by others", mend)
    try:
        return Signer(SigningKey(_bytes(text)))
    except ValueError:
        raise BadKey(f"{path} holds no key", "remove it: a new one is made") from None


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
