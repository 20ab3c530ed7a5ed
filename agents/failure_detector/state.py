"""What the failure detector knows; all of it serialises. A node takes less than 2 kB."""

import msgspec

from agents.failure_detector.series import Series
from schemas.health import Life
from schemas.ids import JobId, NodeId


class Gaps(msgspec.Struct, kw_only=True, array_like=True):
    """What a node's heartbeats have taught: how far apart they come. Seconds."""

    count: int = 0
    mean: float
    high: float
    """One gap in twenty is longer."""
    excess: float
    """Mean of what the longer ones are longer by."""
    worst: float
    """The longest one, forgotten slowly."""


class Doubt(msgspec.Struct, kw_only=True):
    """A silence that is being looked into."""

    began: float
    """In terms of `now`."""
    ticket: int
    helpers: tuple[NodeId, ...] = ()
    """Who was asked to reach it."""
    told: int = 0
    """Helpers that tried in vain."""
    absent_at: float | None = None
    """Since when the server says that its connection has ended."""
    waited: bool = False
    """More time was given already, because no helper answered."""


class Pace(msgspec.Struct, kw_only=True, array_like=True):
    """How a job's process on a node takes its steps."""

    gaps: Gaps
    """Between its signs of life, while it computes."""
    at: float = 0.0
    """When it spoke last."""
    computing: bool = False
    armed: bool = False
    """A deadline is set."""
    told: bool = False
    """It was called stalled since."""


class Watched(msgspec.Struct, kw_only=True):
    """A node."""

    gaps: Gaps
    interval: float
    """Seconds between its heartbeats, as it announces them."""
    state: Life = "alive"
    version: int = -1
    """Of the last word on it."""
    life: str = ""
    left: str = ""
    """Incarnation that said goodbye."""
    beat: int = 0
    heard_at: float = 0.0
    """When its last heartbeat came."""
    sign_at: float = 0.0
    """When its last sign of life came, heartbeat or answer."""
    last: str = ""
    """Id of its last heartbeat: what is decided in its silence was caused by it."""
    due: float = 0.0
    """When to look at it next."""
    slot: int = 0
    """Where it is filed for that; 0: nowhere."""
    serves: bool = False
    """It has answered a request: that nobody is there to answer means something."""
    rtt: float = 0.1
    """Seconds from it to the server and back, as it measures them, smoothed; at first those of an average link."""
    away: float = 0.0
    """Longest time that its connection took to be made anew, forgotten slowly; seconds."""
    doubt: Doubt | None = None
    present_since: float = 0.0
    """There was no doubt since then."""
    paces: dict[JobId, Pace] = {}
    figures: dict[str, Series] = {}
    """By name, as the recorder records them."""


class Ears(msgspec.Struct, kw_only=True):
    """How well the detector itself hears."""

    since: float = 0.0
    """It hears since then: silences count from there."""
    pulse_due: float = 0.0
    probes: int = 0
    sent: dict[int, float] = {}
    """When the probes were sent that aren't back."""
    sure_until: float = 0.0
    """When the last probe was sent that the server answered."""
    deaf: bool = False
    """The last probe was lost."""
    strain: int = 0
    """0 to 8."""
    good: int = 0
    """Looks in a row that found nothing wrong."""


class FailureDetectorState(msgspec.Struct, kw_only=True):
    """All of it."""

    nodes: dict[NodeId, Watched] = {}
    slots: dict[int, list[NodeId]] = {}
    """Nodes by when to look at them next, in twentieths of a second."""
    doubts: dict[NodeId, None] = {}
    """Those that are being looked into."""
    gone: dict[NodeId, None] = {}
    """Those that are dead or have left, longest first."""
    ears: Ears = msgspec.field(default_factory=Ears)
    tickets: int = 0
