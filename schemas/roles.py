"""What each role may say and hear, in subjects: worked out from the registry and the table of writers."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

import schemas.catalogue  # noqa: F401 - the registry is complete only with every message module imported
from schemas.decisions import ForceNode
from schemas.drills import DrillMark
from schemas.emulation import LinkOrder
from schemas.health import ReachNode
from schemas.jobs import CancelRequest
from schemas.members import EnrolRequest, InviteRequest, MembersRequest, RenewRequest, RevokeRequest, Role
from schemas.nodes import PauseNode
from schemas.wire import Delivery, registered, wire_of
from schemas.writers import CLIENT, EMULATOR, EVERYONE, NODE, REDUCER, SPEAKERS, SPEAKING_AGENT, TRAINER, writer_of

GATEKEEPER = "gatekeeper"
ADMINISTRATIVE = frozenset({ForceNode, PauseNode, LinkOrder, DrillMark, InviteRequest, RevokeRequest, MembersRequest})
"""Of what clients may say, the part that is an operator's; a node's owner may pause that node from the node itself."""
_WATCHES = "failure_detector"
"""The agent that asks nodes whether they live, as nodes ask one another for it."""
_PERSONAL = frozenset({EnrolRequest, RenewRequest})
_OF_A_NODE = (NODE, TRAINER, REDUCER, EMULATOR, EVERYONE)
_SERVED_BY = {"jobs": "job_desk", "members": GATEKEEPER}
"""Who answers requests that name nobody, by the second word of their subjects."""


@dataclass(frozen=True)
class Speech:
    """Subject filters.

    Attributes:
        says: what it may publish.
        hears: what it may subscribe to.
        deaf: what it may not subscribe to although it is among the above.
        answers: whether it answers requests.
    """

    says: tuple[str, ...]
    hears: tuple[str, ...]
    deaf: tuple[str, ...] = ()
    answers: bool = False


def speech_of(role: Role, name: str) -> Speech:
    """What a member of this role and name may say and hear on `shoal.>`."""
    says = tuple(sorted({*_says(role, name)}))
    if role is Role.NODE:
        # Only what comes on plain subjects. Stored messages come to its inbox; on their subjects it would see where their
        # publishers await the acknowledgement, and could give it.
        told = [wire.pattern for wire in registered() if wire.delivery is Delivery.TELEMETRY]
        asked = [wire_of(kind).filter(node=name) for kind in requests() if server_of(kind) == NODE]
        return Speech(says=says, hears=tuple(sorted([*told, *asked])), answers=True)
    served = {kind for kind in requests() if role is Role.AGENT and server_of(kind) == name}
    heard = served | ({CancelRequest} if role is Role.AGENT and name == GATEKEEPER else set())
    deaf = tuple(sorted(wire_of(kind).pattern for kind in requests() if kind not in heard))
    return Speech(says=says, hears=("shoal.>",), deaf=deaf, answers=bool(served))


def working(name: str) -> Speech:
    """What the processes that a node runs for jobs say and hear: what trainers and reducers of that node do."""
    says = {
        wire.filter(**_own(Role.NODE, name, wire.fields))
        for wire in registered()
        if writer_of(wire.type) in (TRAINER, REDUCER, EVERYONE)
    }
    told = [wire.pattern for wire in registered() if wire.delivery is Delivery.TELEMETRY]
    return Speech(says=tuple(sorted(says)), hears=tuple(sorted(told)), answers=True)


def invited(name: str) -> Speech:
    """What an invitation lets its bearer say: that it joins."""
    return Speech(says=(wire_of(EnrolRequest).filter(name=name),), hears=())


def requests() -> tuple[type[msgspec.Struct], ...]:
    """All types that are answered."""
    return tuple(wire.type for wire in registered() if wire.delivery is Delivery.REQUEST)


def server_of(kind: type[msgspec.Struct]) -> str:
    """Who answers a request: an agent, or the node in its subject."""
    wire = wire_of(kind)
    return NODE if "node" in wire.fields else _SERVED_BY[wire.tokens[1]]


def _says(role: Role, name: str) -> Iterator[str]:
    if role is Role.DASHBOARD:
        return
    yield wire_of(RenewRequest).filter(name=name)
    for wire in registered():
        kind, writer = wire.type, writer_of(wire.type)
        match role:
            case Role.OPERATOR:
                allowed = (writer == CLIENT and kind not in _PERSONAL) or writer == EVERYONE
            case Role.SUBMITTER:
                allowed = (writer == CLIENT and kind not in _PERSONAL | ADMINISTRATIVE) or writer == EVERYONE
            case Role.NODE:
                allowed = writer in _OF_A_NODE or kind is PauseNode or kind is ReachNode
            case _:
                allowed = writer in (name, SPEAKING_AGENT, EVERYONE) and (writer != name or writer in SPEAKERS)
                allowed = allowed or (kind is ReachNode and name == _WATCHES)
        if allowed:
            # A request has the name of who is to answer it in its subject.
            yield wire.pattern if wire.delivery is Delivery.REQUEST else wire.filter(**_own(role, name, wire.fields))


def _own(role: Role, name: str, fields: tuple[str, ...]) -> dict[str, str]:
    """The places of a subject that hold the speaker's own name."""
    own = {Role.NODE: "node", Role.AGENT: "agent"}.get(role)
    return {own: name} if own in fields else {}
