"""Who belongs to a fleet: invitations, enrolments, revocations, and the chained record of what administrators did."""

import enum
import hashlib
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from schemas.bundles import SHA256_PATTERN
from schemas.ids import TOKEN_PATTERN, NodeId
from schemas.wire import Answer, Delivery, Message, Request, on_wire

MemberName = Annotated[str, Meta(pattern=TOKEN_PATTERN, description="A member's name, unique among all roles.")]

KEY_PATTERN: Final = r"^U[A-Z2-7]{55}$(?!\n)"
"""A user's public key as NATS writes it: prefix, 32 bytes and checksum in base32."""

SHORTEST, HOUR, LONGEST = 10.0, 3600.0, 7 * 86_400.0
"""Seconds that an invitation may last: enough to paste a line; by default; a machine that is set up next week."""


class Role(enum.Enum):
    """What a member may do; `schemas.roles` has it in subjects."""

    OPERATOR = "operator"
    """Administers: everything that any client may ask for, and who belongs to the fleet."""
    AGENT = "agent"
    """Decides: says what the agent of its name says, and nothing else."""
    NODE = "node"
    """A machine with its job processes: speaks as itself only."""
    SUBMITTER = "submitter"
    """Submits, cancels and lists jobs."""
    DASHBOARD = "dashboard"
    """Reads, and can't speak at all."""


class InviteAnswer(Answer, frozen=True, kw_only=True):
    """The answer to an invitation: a line to paste, or why there is none."""

    accepted: bool
    line: str | None = None
    """A secret until it is used: the first who presents it joins."""
    field: str | None = None
    reason: str | None = None


class EnrolAnswer(Answer, frozen=True, kw_only=True):
    """The answer to who joins, or renews its certificate."""

    accepted: bool
    role: Role | None = None
    name: str | None = None
    certificate: str | None = None
    """PEM, signed by the fleet's authority; none where the fleet has no TLS."""
    field: str | None = None
    reason: str | None = None


class RevokeAnswer(Answer, frozen=True, kw_only=True):
    """The answer to a revocation: when it comes, the server has closed the member's connections."""

    accepted: bool
    field: str | None = None
    reason: str | None = None


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Someone who belongs, did belong, or is invited."""

    name: str
    role: Role
    state: str
    """`member`, `invited` or `revoked`."""
    since: float
    """Seconds since the epoch."""
    until: float | None = None
    """When an invitation ends by itself."""
    key: str = ""
    """Public."""


class MembersAnswer(Answer, frozen=True, kw_only=True):
    """Everybody, in order of their coming."""

    members: tuple[Member, ...] = ()
    entries: int = 0
    """Of the audit, so far."""
    digest: str = ""
    """Of its last entry: with it `shoal audit --verify` sees whether the end was cut off."""


@on_wire("shoal.members.invite", Delivery.REQUEST, answer=InviteAnswer)
class InviteRequest(Request, frozen=True, kw_only=True):
    """An operator's wish for a line that lets one machine or person in, once."""

    role: Role = Role.NODE
    name: MemberName | None = None
    """Whom it is for; by default whoever joins says its name."""
    seconds: Annotated[float, Meta(ge=SHORTEST, le=LONGEST)] = HOUR
    """For which it can be used."""


@on_wire("shoal.members.revoke", Delivery.REQUEST, answer=RevokeAnswer)
class RevokeRequest(Request, frozen=True, kw_only=True):
    """An operator's wish that a member, or an invitation, end now and for good."""

    name: MemberName
    reason: str = ""


@on_wire("shoal.members.list", Delivery.REQUEST, answer=MembersAnswer)
class MembersRequest(Request, frozen=True, kw_only=True):
    """An operator's question who belongs to the fleet."""


@on_wire("shoal.members.{name}.enrol", Delivery.REQUEST, answer=EnrolAnswer)
class EnrolRequest(Request, frozen=True, kw_only=True):
    """What an invitation is good for, and nothing else: one public key becomes a member's."""

    name: MemberName
    """The invitation's."""
    key: Annotated[str, Meta(pattern=KEY_PATTERN)]
    """The joining machine's; the seed stays where it was made."""
    wanted: NodeId | None = None
    """The name to go by, where the invitation names none."""
    work_key: Annotated[str, Meta(pattern=KEY_PATTERN)] | None = None
    """Of a node: for the processes that it runs for jobs, which may do less than the node."""
    certificate_key: str | None = None
    """PEM: the public key to be certified, where the fleet has TLS."""


@on_wire("shoal.members.{name}.renew", Delivery.REQUEST, answer=EnrolAnswer)
class RenewRequest(Request, frozen=True, kw_only=True):
    """A member's wish for a new certificate before the last one ends."""

    name: MemberName
    """Its own."""
    certificate_key: str
    """PEM: the public key to be certified."""


@on_wire("shoal.audit.{number}", Delivery.AUDIT)
class AuditEntry(Message, frozen=True, kw_only=True):
    """One administrative act. Each names the digest of the one before, so that none can be changed or left out unseen."""

    number: int
    """One after another, from 1."""
    act: str
    """`invite`, `enrol`, `revoke`, `expire`, `renew`, `cancel`, `pause`, `resume`, `force`, `settings`, `start`."""
    by: str
    """Who wanted it, as far as it is known."""
    target: str
    """Whom or what it was about."""
    reason: str
    when: float
    """Seconds since the epoch, by the clock of the server's host."""
    previous: Annotated[str, Meta(pattern=SHA256_PATTERN)]
    """The digest of entry `number - 1`; zeros for the first."""
    digest: Annotated[str, Meta(pattern=SHA256_PATTERN)]
    """SHA-256 of all the above: see `chained`."""


BEGINNING: Final = "0" * 64
"""In place of the digest before the first entry."""


def chained(number: int, act: str, by: str, target: str, reason: str, when: float, previous: str) -> str:
    """The digest of an entry: SHA-256 of its fields as a JSON array, in this order."""
    return hashlib.sha256(msgspec.json.encode([number, act, by, target, reason, when, previous])).hexdigest()
