"""The heavy work of averaging inside a site, and how it ends. Groups don't change: another epoch is another one."""

from agents.effects import Work
from agents.inputs import Result
from agents.trainer.works import LocalRoundDone
from schemas.ids import NodeId
from schemas.jobs import Encoding
from schemas.sites import SiteMember


class OpenSite(Work, frozen=True, kw_only=True):
    """Listen for the others of a site, say where (`SiteListening`), and be one group with them (`SiteJoined`)."""

    epoch: int
    members: tuple[NodeId, ...]
    round: int
    """The next that this node trains for."""
    within: float
    """Seconds for all to be there."""
    parts: int = 1
    """Into how many parts all cut their steps in the first round that they average."""


class JoinSite(Work, frozen=True, kw_only=True):
    """Connect to a site's speaker, and be one group with the others (`SiteJoined`)."""

    epoch: int
    members: tuple[NodeId, ...]
    addresses: tuple[str, ...]
    port: int
    round: int
    within: float


class SiteListening(Result, frozen=True, kw_only=True):
    """The others may connect."""

    epoch: int
    addresses: tuple[str, ...]
    port: int


class SiteJoined(Result, frozen=True, kw_only=True):
    """All members are one group; the first round that they average is the same for all, and so are its parts."""

    epoch: int
    first: int
    parts: int = 1


class AverageInSite(Work, frozen=True, kw_only=True):
    """Average what the members' differences of a round are, as they would have been sent; ends on the speaker in
    `SiteAveraged`, on the others in `SiteGiven`, or in `SiteFailed` within `within` seconds."""

    epoch: int
    done: LocalRoundDone
    within: float
    spread_within: float
    """Seconds that the speaker has to come up with the round's average, once it is offered."""
    parts: int = 0
    """The speaker's word to the others: into how many parts they all cut the next round's steps."""


class SitePlanned(Result, frozen=True, kw_only=True):
    """A round is averaged inside, and all have the speaker's word on the next one."""

    epoch: int
    round: int
    parts: int
    seconds: float
    """The average took, once all were there."""


class SiteAveraged(Result, frozen=True, kw_only=True):
    """The site's contribution is encoded and kept under `key`."""

    epoch: int
    round: int
    members: tuple[SiteMember, ...]
    encoding: Encoding
    key: str
    size: int
    digest: str


class SiteGiven(Result, frozen=True, kw_only=True):
    """The speaker has this node's difference in a contribution that it is about to offer."""

    epoch: int
    round: int


class SiteFailed(Result, frozen=True, kw_only=True):
    """The group has come to nothing, or is no more: somebody is missing, slow, or of another mind about the round."""

    epoch: int
    reason: str


class LeaveSite(Work, frozen=True, kw_only=True):
    """Leave a group; whoever waits in it for this node is told by the broken connection."""

    epoch: int
