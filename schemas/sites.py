"""Nodes of one site, which average among themselves before one of them sends.

A site is what its owner calls one (`shoal node --site lab`): machines that reach each other without the links that tie them
to the rest of the fleet. In a round their differences are averaged inside, weighted by samples, and one node, the site's
speaker, sends the result as a contribution of all of them; the round's average comes to the speaker once and is spread
inside. Sums of a level first, then of levels, as in any hierarchical all-reduce; the level inside is torch.distributed's.
"""

import msgspec

from schemas.aggregation import Aggregation
from schemas.ids import JobId, NodeId
from schemas.jobs import JobRequest
from schemas.shards import pieces_of
from schemas.wire import Delivery, Message, on_wire

SUMMABLE: tuple[Aggregation, ...] = ("mean", "clip")
"""Methods that an average made inside leaves their meaning; the others give each node a vote of its own."""

MOST_MEMBERS = 32
"""Nodes of a site that average together: each has a connection to each. Those beyond send for themselves."""


class SiteMember(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part of a contribution that its site's speaker sends."""

    node: NodeId
    samples: int
    steps: int
    loss: float
    """Mean training loss over its steps."""
    compute_seconds: float = 0.0


@on_wire("shoal.training.{job}.node.{node}.site_opened", Delivery.TELEMETRY)
class SiteOpened(Message, frozen=True, kw_only=True):
    """A site's speaker waits for the others to connect to it; whoever is named and doesn't come, keeps them all alone."""

    job: JobId
    node: NodeId
    """The speaker."""
    epoch: int
    """Names the group: milliseconds since the epoch by the speaker's clock. Groups don't change, others follow."""
    members: tuple[NodeId, ...]
    """The speaker first; a member's place is its rank."""
    addresses: tuple[str, ...]
    """Where the speaker may be reached, to be tried in this order."""
    port: int


@on_wire("shoal.training.{job}.node.{node}.site_parted", Delivery.RECORD)
class SiteParted(Message, frozen=True, kw_only=True):
    """A node's site does not average inside for now: each of its nodes sends for itself."""

    job: JobId
    node: NodeId
    epoch: int
    round: int = 0
    """From its speaker: the round whose contribution is not sent together after all; 0: none is concerned."""
    reason: str


@on_wire("shoal.training.{job}.node.{node}.site_paced", Delivery.RECORD)
class SitePaced(Message, frozen=True, kw_only=True):
    """A site's speaker has decided how often its nodes average among themselves, from the round after the next on."""

    job: JobId
    node: NodeId
    """The speaker."""
    epoch: int
    members: tuple[NodeId, ...]
    parts: int
    """Into which each node's local steps are cut; all average between two parts, and at the end as ever. 1: only there."""
    steps: float
    """Of each member between two averages, the mean by samples."""
    seconds: float
    """An average inside takes so long once all are there; 0: not timed yet."""
    reason: str


def why_alone(request: JobRequest, parameters: int) -> str:
    """Why the nodes of a site each send for themselves in a job, in words; empty where they needn't."""
    if request.sync != "round":
        return f"with sync {request.sync} nobody waits for another node of its site"
    if request.aggregation not in SUMMABLE:
        return f"{request.aggregation} gives each node a vote of its own"
    if pieces_of(request, parameters) > 1:
        return "the job's rounds are reduced in pieces"
    return ""
