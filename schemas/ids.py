"""Identifiers that become subject tokens: no dots, wildcards or white space can get into a subject through them."""

import re
from typing import Annotated

from msgspec import Meta

from schemas.errors import ShoalError

# 64 characters: a DNS label (63) and one to spare; long enough for host names, short enough for a table column.
# Python's `$` also matches before a line break at the end, which in a subject would begin a command of its own.
TOKEN_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$(?!\n)"
_TOKEN = re.compile(TOKEN_PATTERN)
WORKLOAD_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$(?!\n)"

NodeId = Annotated[str, Meta(pattern=TOKEN_PATTERN, description="A node's name, unique in the fleet.")]
JobId = Annotated[str, Meta(pattern=TOKEN_PATTERN, description="A job's id.")]
AgentName = Annotated[str, Meta(pattern=TOKEN_PATTERN, description="The name of an agent.")]
EventId = Annotated[str, Meta(max_length=256, description="agent:incarnation:sequence")]


class BadIdentifier(ShoalError):
    """A name that can't be a subject token. Attributes: `text`, `what` (node, job, agent)."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__(
            f"{text!r} can't be the name of a {what}: use 1 to 64 letters, digits, '_' or '-', not beginning with '-'"
        )
        self.text = text
        self.what = what


def token(text: str, what: str = "node") -> str:
    """`text` itself if it can be one token of a subject, else `BadIdentifier`."""
    if not _TOKEN.match(text):
        raise BadIdentifier(text, what)
    return text


def sanitised(text: str) -> str:
    """The nearest valid token to any text, for names that come from a host: `My.Host` becomes `my-host`."""
    cleaned = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:64]
    return cleaned or "node"


def incarnation_of(event_id: str) -> str:
    """The incarnation in an event id (`source:incarnation:sequence`); empty where there is none."""
    parts = event_id.rsplit(":", 2)
    return parts[1] if len(parts) == 3 else ""


def is_older(one: str, other: str) -> bool:
    """Whether an incarnation precedes another; never where either isn't a number."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)
