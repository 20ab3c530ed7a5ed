"""Whether a node has to give way: what its owner's programs use, heat, power, and a person's word.

Each figure has two limits and two times (hysteresis): it must be above the upper one for some seconds, then below the
lower one for longer, so that a pause neither comes nor ends by accident. A pause that follows shortly on another of the
same kind takes longer to end: a fleet should not see a node come and go.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from agents.node.settings import NodeAgentSettings
from agents.node.works import MachineSampled

_OWN_DOING = ("heat", "power")
_DOUBLINGS = 16  # more than any two settings of a wait are apart


class Gauge(msgspec.Struct, kw_only=True):
    """One figure's side of its limits."""

    over: str = ""
    """Why the node yields to this figure, in words; empty: it doesn't."""
    since: float | None = None
    """When the figure crossed over to the other side; None: it is where it was."""
    ended_at: float | None = None
    """When the last pause for it ended."""
    began_at: float = 0.0
    """When the last pause for it began."""
    again: int = 0
    """Pauses in a row that followed shortly on another."""


class Need(msgspec.Struct, kw_only=True):
    """What the machine is needed for besides jobs."""

    gauges: dict[str, Gauge] = msgspec.field(default_factory=dict)
    by_hand: str = ""
    """A person's reason; empty: nobody has paused the node."""
    version: int = 0
    """Of the last `NodeYielding`, at first of the profile."""
    told: tuple[str, ...] = ()
    """What the last one was for."""
    share: float = 1.0
    """Part of its speed that it left to jobs."""
    pace: float = 1.0
    """What job processes were told last."""
    reason: str = ""
    """Of the last one that said that the node yields."""

    @property
    def causes(self) -> tuple[str, ...]:
        """What the node yields to now; empty: nothing."""
        by_hand = ("hand",) if self.by_hand else ()
        return by_hand + tuple(name for name, gauge in self.gauges.items() if gauge.over)

    @property
    def pauses(self) -> bool:
        """Whether no job runs here for what was told last."""
        return self.share == 0.0

    @property
    def words(self) -> str:
        """Why it yields."""
        by_hand = [f"paused by hand: {self.by_hand}"] if self.by_hand else []
        return "; ".join(by_hand + [gauge.over for gauge in self.gauges.values() if gauge.over])


class Figure(NamedTuple):
    """A figure of the machine now, with its limits."""

    name: str
    value: float | None
    above: float
    below: float
    words: str
    """With places for the value and the limit."""


def figures(sample: MachineSampled, settings: NodeAgentSettings) -> Iterator[Figure]:
    """The figures to weigh, those that can't be read as None."""
    s = settings
    owner = (s.owner_above_percent, min(s.owner_below_percent, s.owner_above_percent))
    if s.yield_to_owner:
        yield Figure("cpu", sample.owner_cpu_percent, *owner, "its owner's programs use {:.0f} % of its CPU (limit {:g} %)")
        yield Figure("gpu", sample.owner_gpu_percent, *owner, "its owner's programs use {:.0f} % of its GPU (limit {:g} %)")
    if s.max_temperature_c:
        # A GPU that doesn't tell says 0.
        heat = [a.temperature_c for a in sample.accelerators if a.temperature_c]
        heat += [] if sample.temperature_c is None else [sample.temperature_c]
        limits = (s.max_temperature_c, s.max_temperature_c - s.cooler_c)
        yield Figure("heat", max(heat, default=None), *limits, "it is {:.0f} degrees Celsius hot (limit {:g})")
    if s.power_limit_w is not None:
        power = max((a.power_w for a in sample.accelerators if a.power_w), default=None)
        limits = (s.power_limit_w, s.power_limit_w * s.power_back)
        yield Figure("power", power, *limits, "its GPU takes {:.0f} W (limit {:g} W)")


def weigh(need: Need, sample: MachineSampled, settings: NodeAgentSettings, now: float) -> None:
    """Take a look at the machine in. A figure that can't be read any more counts as low: nobody waits for it for ever."""
    for figure in figures(sample, settings):
        gauge = need.gauges.setdefault(figure.name, Gauge())
        crossed = figure.value is None or figure.value < figure.below
        if not gauge.over:
            crossed = figure.value is not None and figure.value > figure.above
        if not crossed:
            gauge.since = None
            continue
        gauge.since = now if gauge.since is None else gauge.since
        if now - gauge.since >= _wait(gauge, settings):
            _turn(gauge, figure, settings, now)


def _wait(gauge: Gauge, settings: NodeAgentSettings) -> float:
    """Seconds that a figure must stay on the other side."""
    if not gauge.over:
        return settings.yield_after_seconds
    longer = settings.resume_after_seconds * float(2 ** min(gauge.again, _DOUBLINGS))
    return max(settings.resume_after_seconds, min(longer, settings.resume_longest_seconds))


def _turn(gauge: Gauge, figure: Figure, settings: NodeAgentSettings, now: float) -> None:
    """A pause for this figure begins or ends."""
    gauge.since = None
    if gauge.over:
        gauge.over, gauge.ended_at = "", now
        return
    gauge.began_at = now
    soon = gauge.ended_at is not None and now - gauge.ended_at < settings.calm_seconds
    gauge.again = gauge.again + 1 if soon else 0
    gauge.over = figure.words.format(figure.value, figure.above)


def share(need: Need, settings: NodeAgentSettings, now: float) -> float:
    """Part of the machine's speed that jobs may use now, 0 to 1."""
    if not need.causes:
        return 1.0
    return 0.0 if need.by_hand or _too_long(need, settings, now) else settings.yield_share


def words(need: Need, share: float) -> str:
    """Why a node yields, and what it leaves to jobs."""
    return f"{need.words}; jobs go on at {100 * share:.0f} % of their speed" if share else need.words


def _too_long(need: Need, settings: NodeAgentSettings, now: float) -> bool:
    """Whether slowing jobs hasn't helped against what they may cause themselves."""
    gauges = [need.gauges[name] for name in _OWN_DOING if name in need.gauges]
    return any(gauge.over and now - gauge.began_at >= settings.slowed_seconds for gauge in gauges)
