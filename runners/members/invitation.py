"""The one line that lets a machine or a person in, once."""

import base64
import binascii

import msgspec

from bus.credentials import Credentials
from schemas.errors import ShoalError
from schemas.members import Role

_MARK = "shoal-join:"


class BadInvitation(ShoalError):
    """A line that is no invitation. Nothing of it is in the message."""

    def __init__(self) -> None:
        super().__init__("that is no whole line of `shoal invite`: copy all of it, from `shoal-join:` to its end")


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """What the line holds."""

    server: str
    """URL, as other machines reach it."""
    name: str
    """The invitation's own."""
    seed: str
    """Its key: lets its bearer ask to be enrolled, and do nothing else."""
    role: Role
    wanted: str | None = None
    """The only name that it is good for."""
    until: float
    """When it ends, in seconds since the epoch."""
    signer: str = ""
    """The submitter whose code a node of this fleet runs: the server's own host."""
    authority: str = ""
    """PEM; empty where the fleet has no TLS."""
    certificate: str = ""
    """PEM, as short-lived as the invitation: the server asks for one before it hears anything."""
    certificate_key: str = ""

    def credentials(self) -> Credentials:
        """With which its bearer connects."""
        return Credentials(
            role="invited",
            name=self.name,
            seed=self.seed,
            server=self.server,
            authority=self.authority,
            certificate=self.certificate,
            certificate_key=self.certificate_key,
        )


def line_of(invitation: Invitation) -> str:
    """The line to paste."""
    return _MARK + base64.urlsafe_b64encode(msgspec.json.encode(invitation)).rstrip(b"=").decode()


def invitation_in(line: str) -> Invitation:
    """What a line holds. Raises `BadInvitation`."""
    mark, found, body = line.strip().partition(_MARK)
    if mark or not found:
        raise BadInvitation
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Invitation)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise BadInvitation from None
