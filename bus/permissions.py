"""What the server lets each member do: its part of `shoal.>`, and as little of JetStream and tensors as it needs."""

from collections.abc import Iterable
from dataclasses import dataclass

from bus.credentials import inbox_of, work_name
from bus.nats_log import PREFIX as LOGS
from bus.nats_objects import BUCKET
from bus.nats_objects import STREAM as OBJECTS
from bus.nats_streams import AUDIT, LATEST, RECORD
from schemas.members import Role
from schemas.roles import Speech, invited, speech_of, working
from schemas.writers import SPEAKERS

_READABLE = (RECORD, LATEST, AUDIT, OBJECTS)
_WRITERS_OF_OBJECTS = frozenset({Role.OPERATOR, Role.AGENT, Role.NODE, Role.SUBMITTER})
AGENTS = tuple(speaker for speaker in SPEAKERS if speaker.isidentifier())
"""The names of agents, which are those of their positions in the streams, too."""


@dataclass(frozen=True)
class Permissions:
    """Subject filters, as nats-server checks them; what is denied wins.

    Attributes:
        publish, subscribe: what is allowed.
        not_publish, not_subscribe: exceptions from it.
        answers: whether it may answer whatever it is asked, once each.
    """

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    not_publish: tuple[str, ...] = ()
    not_subscribe: tuple[str, ...] = ()
    answers: bool = False


def permissions_of(role: Role, name: str) -> Permissions:
    """What a member of this role and name may do."""
    speech = speech_of(role, name)
    publish = [*speech.says, *_reading()]
    subscribe = [*speech.hears, inbox_of(name) + ".>"]
    if role is not Role.DASHBOARD:
        publish.append(inbox_of(name) + ".>")  # a round trip to itself
    if speech.answers and role is Role.AGENT:
        # Not by leave of each question alone: the server forgets those when it reads its members anew.
        publish.append("_INBOX.>")
    if role in _WRITERS_OF_OBJECTS:
        # A new value's predecessor is purged by whoever puts it. The server doesn't look into the request for one.
        publish += _putting()
    if role is Role.NODE:
        publish += _own_tensors(name)
        subscribe += _heard_tensors(name)
    if role is Role.AGENT:  # what its replicas share
        publish.append(LOGS + name)
        subscribe.append(LOGS + name)
    if role in (Role.OPERATOR, Role.AGENT):
        # They make the streams, end jobs' subjects and hold leases; both run where the server does.
        publish += [f"$JS.API.STREAM.{act}.*" for act in ("INFO", "CREATE", "UPDATE", "PURGE")]
        publish += ["$KV.>", "$JS.API.CONSUMER.>", "$JS.API.DIRECT.GET.>", "$JS.ACK.>"]
        publish.append("$JS.API.STREAM.MSG.GET.*")
    denied = [] if role is Role.OPERATOR else _positions_of(agent for agent in AGENTS if agent != name)
    if role is not Role.OPERATOR:
        denied += [f"$JS.API.STREAM.{act}.{AUDIT}" for act in ("UPDATE", "PURGE")]
    return Permissions(
        publish=tuple(publish),
        subscribe=tuple(subscribe),
        not_publish=tuple(denied),
        not_subscribe=speech.deaf,
        answers=speech.answers and role is Role.NODE,
    )


def permissions_of_invited(name: str) -> Permissions:
    """What the bearer of an invitation may do: ask once, and hear the answer."""
    speech: Speech = invited(name)
    own = inbox_of(name) + ".>"
    return Permissions(publish=(*speech.says, own), subscribe=(own,))


def permissions_of_work(name: str) -> Permissions:
    """What the processes that a node runs for jobs may do: less than the node, and nothing but what a job needs."""
    speech, own = working(name), inbox_of(work_name(name)) + ".>"
    reading = [*_reading((RECORD, LATEST, OBJECTS)), f"$JS.API.STREAM.INFO.{AUDIT}"]  # whether the streams are there
    return Permissions(
        publish=(*speech.says, *reading, own, *_putting(), *_own_tensors(name)),
        subscribe=(*speech.hears, own, *_heard_tensors(name)),
        not_publish=tuple(_positions_of(AGENTS)),
        answers=speech.answers,
    )


def _putting() -> list[str]:
    """To put a value into the object store and to purge its predecessor."""
    return [f"$O.{BUCKET}.C.*", f"$O.{BUCKET}.M.*", f"$JS.API.STREAM.PURGE.{OBJECTS}"]


def _reading(streams: Iterable[str] = _READABLE) -> list[str]:
    """To look at streams, and to have consumers, whose random names nobody else knows, and to acknowledge to them."""
    allowed = []
    for stream in streams:
        allowed += [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}.>"]
        allowed.append(f"$JS.API.STREAM.MSG.GET.{stream}")
        allowed += [f"$JS.API.CONSUMER.{act}.{stream}.*" for act in ("CREATE", "INFO", "DELETE", "RESET", "MSG.NEXT")]
        allowed += [f"$JS.API.CONSUMER.CREATE.{stream}.*.>", f"$JS.ACK.{stream}.*.>"]
    return allowed


def _positions_of(agents: Iterable[str]) -> list[str]:
    """All that would move an agent's position in a stream: whoever acknowledges for it takes its messages from it."""
    denied = []
    for agent in agents:
        denied += [f"$JS.API.CONSUMER.*.*.{agent}", f"$JS.API.CONSUMER.*.*.{agent}.>", f"$JS.ACK.*.{agent}.>"]
        denied.append(f"$JS.API.CONSUMER.MSG.NEXT.*.{agent}")
    return denied


def _heard_tensors(name: str) -> list[str]:
    return [f"tensor.*.{name}.>", f"tensor.*.*.to.{name}.>", "tensor.*.*.*.*.*.*"]


def _own_tensors(name: str) -> list[str]:
    """Its own tensors, and what it says of others', with its name at the end (see `bus.tensors`)."""
    about_others = [f"tensor.*.*.{word}.{name}" for word in ("fetch", "leave", "ack.*.*")]
    return [f"tensor.*.{name}.>", *about_others]
