"""The register of a fleet: who belongs, who is invited, who is out. Decides; reads no clock and touches no file."""

from collections.abc import Iterator

import msgspec

from bus.permissions import AGENTS, Permissions, permissions_of, permissions_of_invited, permissions_of_work
from schemas.errors import ShoalError
from schemas.members import BEGINNING, AuditEntry, Member, Role, chained

OPERATOR = "operator"
"""The name of the operator of the server's own host."""


class NotAllowed(ShoalError):
    """A request that the register refuses. Attributes: `field` (JSON path), `why`."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field
        self.why = why


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A member, one who was, or an invitation."""

    name: str
    role: Role
    key: str
    work_key: str = ""
    """Of a node: the lesser key of the processes that it runs for jobs."""
    since: float
    """Seconds since the epoch."""
    until: float | None = None
    """Of an invitation: when it ends."""
    wanted: str | None = None
    """Of an invitation: the only name that it is good for."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """An administrative act that is not in the audit stream yet."""

    act: str
    by: str
    target: str
    reason: str
    when: float


class Register(msgspec.Struct, kw_only=True):
    """All that a gatekeeper must remember; every change leaves an act to be told."""

    members: dict[str, Known] = {}
    invited: dict[str, Known] = {}
    revoked: dict[str, Known] = {}
    untold: list[Act] = []
    number: int = 0
    """Of the last entry of the audit."""
    digest: str = BEGINNING
    """Its digest."""
    settings: str = ""
    """Digest of `shoal.toml` as it was last seen."""

    def invite(self, invitation: Known, by: str) -> None:
        """Let whoever has the invitation's key join until it ends. Raises `NotAllowed` for a name that is taken."""
        if invitation.role is Role.AGENT:
            raise NotAllowed("$.role", "agents run beside the server, which makes their keys itself")
        if invitation.wanted is not None:
            self._free(invitation.wanted, "$.name")
        self.invited[invitation.name] = invitation
        whom = invitation.wanted or "whoever has the line"
        seconds = (invitation.until or 0.0) - invitation.since
        self._did("invite", by, invitation.name, f"{invitation.role.value} {whom}, for {seconds:.0f} s", invitation.since)

    def enrol(self, invitation: str, key: str, wanted: str | None, now: float, work_key: str = "") -> Known:
        """Make the bearer of an invitation a member; the invitation is used up. `work_key`: a node's, for its jobs.

        Raises:
            NotAllowed: it is used up, has ended, or is for another name; or the name is taken.
        """
        found = self.invited.get(invitation)
        if found is None:
            raise NotAllowed("$.name", "this invitation was used already, or has ended: ask for another")
        if found.until is not None and now >= found.until:
            raise NotAllowed("$.name", "this invitation has ended: ask for another")
        if found.wanted is not None and wanted not in (None, found.wanted):
            raise NotAllowed("$.wanted", f"this invitation is for {found.wanted}")
        name = found.wanted or wanted
        if name is None:
            raise NotAllowed("$.wanted", "this invitation names nobody: say your name")
        self._free(name, "$.wanted")
        if found.wanted is None and name in self.revoked:
            raise NotAllowed("$.wanted", f"{name} was revoked: an operator must invite it by its name")
        if work_key and (found.role is not Role.NODE or work_key == key):
            raise NotAllowed("$.work_key", "that is for nodes, and another key than the node's own")
        member = Known(name=name, role=found.role, key=key, work_key=work_key, since=now)
        del self.invited[invitation]
        self.revoked.pop(name, None)
        self.members[name] = member
        self._did("enrol", invitation, name, f"{found.role.value}, by invitation", now)
        return member

    def add(self, role: Role, name: str, key: str, now: float) -> None:
        """A member of the server's own host, whose key was made there."""
        self.revoked.pop(name, None)
        self.members[name] = Known(name=name, role=role, key=key, since=now)
        self._did("enrol", OPERATOR, name, f"{role.value}, on the server's host", now)

    def add_work_key(self, name: str, key: str) -> None:
        """The lesser key of a node of the server's own host."""
        self.members[name] = msgspec.structs.replace(self.members[name], work_key=key)

    def revoke(self, name: str, reason: str, by: str, now: float) -> None:
        """Put a member, or an invitation, out for good. Raises `NotAllowed` for nobody, and for agents."""
        found = self.members.get(name) or self.invited.get(name)
        if found is None:
            known = ", ".join([*self.members, *self.invited])
            raise NotAllowed("$.name", f"nobody is named {name}: there are {known}")
        if found.role is Role.AGENT or name == OPERATOR:
            raise NotAllowed("$.name", f"{name} runs beside the server: stop `shoal up` instead")
        self.members.pop(name, None)
        self.invited.pop(name, None)
        self.revoked[name] = msgspec.structs.replace(found, since=now, until=None)
        self._did("revoke", by, name, reason or "no reason given", now)

    def expire(self, now: float) -> bool:
        """Forget invitations that have ended; whether there were any."""
        ended = [one for one in self.invited.values() if one.until is not None and one.until <= now]
        for one in ended:
            del self.invited[one.name]
            self._did("expire", "time", one.name, f"nobody used this invitation as {one.role.value}", now)
        return bool(ended)

    def note(self, act: str, by: str, target: str, reason: str, now: float) -> None:
        """Something that an administrator did elsewhere."""
        self._did(act, by, target, reason, now)

    def next_end(self) -> float | None:
        """When the next invitation ends, in seconds since the epoch."""
        return min((one.until for one in self.invited.values() if one.until is not None), default=None)

    def users(self) -> Iterator[tuple[str, str, Permissions]]:
        """(comment, public key, permissions) of all who may connect."""
        for one in self.members.values():
            yield f"{one.role.value} {one.name}", one.key, permissions_of(one.role, one.name)
            if one.work_key:
                yield f"jobs on {one.name}", one.work_key, permissions_of_work(one.name)
        for one in self.invited.values():
            yield f"invitation {one.name}", one.key, permissions_of_invited(one.name)

    def everybody(self) -> tuple[Member, ...]:
        """For people, in order of their coming."""
        groups = (("member", self.members), ("invited", self.invited), ("revoked", self.revoked))
        found = [
            Member(name=one.name, role=one.role, state=state, since=one.since, until=one.until, key=one.key)
            for state, group in groups
            for one in group.values()
        ]
        return tuple(sorted(found, key=lambda member: member.since))

    def next_entry(self) -> AuditEntry | None:
        """What the audit is to hold next; None if it is told everything."""
        if not self.untold:
            return None
        act, number = self.untold[0], self.number + 1
        digest = chained(number, act.act, act.by, act.target, act.reason, act.when, self.digest)
        facts = msgspec.structs.asdict(act)
        return AuditEntry(number=number, previous=self.digest, digest=digest, **facts)

    def told(self, entry: AuditEntry) -> None:
        """The audit holds this one now."""
        self.number, self.digest = entry.number, entry.digest
        del self.untold[0]

    def adopt(self, last: AuditEntry) -> None:
        """What the audit holds already goes before what was remembered of it: a stop may have come between the two."""
        due = self.next_entry()
        if due is not None and due.digest == last.digest:
            self.told(due)
        elif last.number > self.number:
            self.number, self.digest = last.number, last.digest

    def _free(self, name: str, field: str) -> None:
        if name in self.members or name in self.invited or name in (*AGENTS, OPERATOR):
            raise NotAllowed(field, f"the name {name} is taken: revoke its holder first, or choose another")

    def _did(self, act: str, by: str, target: str, reason: str, when: float) -> None:
        self.untold.append(Act(act=act, by=by, target=target, reason=reason, when=when))
