"""NATS's keys: ed25519 key pairs in the letters that nats-server reads, and the answers to its challenges.

Format: https://docs.nats.io/using-nats/developer/connecting/nkey and github.com/nats-io/nkeys: a prefix that says what the
key is for, the 32 bytes, a CRC-16/XMODEM with its low byte first, all in base32 without padding.
"""

import base64
import binascii

from nacl.signing import SigningKey

from schemas.errors import ShoalError

_USER = 20 << 3  # prefix of a user's public key: its first letter is U
_SEED = 18 << 3  # prefix of a seed: S, and then the letter of its kind
_KEY_BYTES = 32  # of an ed25519 seed and of a public key


class BadKey(ShoalError):
    """Letters that are no key of NATS. Nothing of a seed is in the message."""

    def __init__(self, what: str) -> None:
        super().__init__(f"that is no {what} (base32 letters with a checksum): was it cut off when it was copied?")


class KeyPair:
    """A user's key pair.

    Attributes:
        public: the public key, `U...`, under which a server knows its user.
        seed: the secret, `SU...`.
    """

    def __init__(self, seed: str) -> None:
        """Raises `BadKey` for letters that are no user's seed."""
        raw = _decoded(seed, "user's seed")
        if len(raw) != 2 + _KEY_BYTES or raw[0] != _SEED | _USER >> 5 or raw[1] != (_USER & 31) << 3:
            raise BadKey("user's seed")
        self._signing = SigningKey(raw[2:])
        self.seed = seed
        self.public = _encoded(bytes((_USER,)) + bytes(self._signing.verify_key))

    @classmethod
    def generate(cls) -> "KeyPair":
        """A new one."""
        prefix = bytes((_SEED | _USER >> 5, (_USER & 31) << 3))
        return cls(_encoded(prefix + bytes(SigningKey.generate())))

    def answer(self, nonce: str) -> str:
        """The signature of a server's challenge, as CONNECT carries it."""
        return base64.urlsafe_b64encode(self._signing.sign(nonce.encode()).signature).rstrip(b"=").decode()


def checked_public(text: str) -> str:
    """`text`, if it is a user's public key. Raises `BadKey`."""
    raw = _decoded(text, "user's public key")
    if len(raw) != 1 + _KEY_BYTES or raw[0] != _USER:
        raise BadKey("user's public key")
    return text


def _encoded(raw: bytes) -> str:
    return base64.b32encode(raw + _crc(raw)).rstrip(b"=").decode()


def _decoded(text: str, what: str) -> bytes:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise BadKey(what) from None
    if len(raw) < 3 or _crc(raw[:-2]) != raw[-2:] or _encoded(raw[:-2]) != text:
        raise BadKey(what)
    return raw[:-2]


def _crc(raw: bytes) -> bytes:
    return binascii.crc_hqx(raw, 0).to_bytes(2, "little")
