"""Who a round waits for although it isn't done with the fastest: those without whom it gains less than it loses.

Who reduces a part of a round is waited for anyway: the round can't close without its part. Others are worth waiting for
where all that is counted in a second, late contributions at what they count, is more with the longer round. Where steps
take most of a round that is hardly ever so, since the fast nodes stand still meanwhile. Where transfers do, and links are
alike, a few per cent decide who is fastest, and without waiting everybody else's differences would come a round late.
"""

from collections.abc import Collection, Mapping

from agents.batch_controller import rounds
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from schemas.ids import NodeId

WORTH = 1.1
"""Factor by which a longer round must be better for it to be waited for those who aren't now: rates vary."""

STILL_WORTH = 0.95
"""The same for those who are waited for already: between the two nothing changes."""

WEIGHED = 8
"""Lengths that are weighed at most, of large fleets every so many nodes' one."""


def round_time(
    paces: Mapping[NodeId, Pace],
    asked: Mapping[NodeId, int],
    least: float,
    settings: BatchControllerSettings,
    needed: Collection[NodeId] = (),
    regular: Collection[NodeId] = (),
) -> float:
    """Seconds a round should take, at least `least` (`rounds.round_time`).

    Args:
        needed: who is waited for anyway.
        regular: who contributes to each round now.
    """
    shortest = max([least, *(paces[name].time(1) for name in needed)])
    later = sorted({pace.time(1) + pace.spread for pace in paces.values() if pace.time(1) + pace.spread > shortest})
    best, most = shortest, _counted(paces, asked, shortest, settings) / shortest
    for seconds in later[:: -max(1, -(-len(later) // WEIGHED))]:
        waited_for = {name for name, pace in paces.items() if shortest < pace.time(1) + pace.spread <= seconds}
        value = _counted(paces, asked, seconds, settings) / seconds
        value /= STILL_WORTH if waited_for <= set(regular) else WORTH
        if value > most:
            best, most = seconds, value
    return best


def needed(
    paces: Mapping[NodeId, Pace], least: float, reducing: Collection[NodeId], settings: BatchControllerSettings
) -> list[NodeId]:
    """Who reduces a part of a round and is waited for; not who takes so long that another had better do it.

    `least`: seconds of a round that waits for nobody.
    """
    longest = settings.deadline_patience * least
    return [name for name in sorted(reducing) if name in paces and paces[name].time(1) <= longest]


def _counted(
    paces: Mapping[NodeId, Pace], asked: Mapping[NodeId, int], seconds: float, settings: BatchControllerSettings
) -> float:
    """Steps of a round of so many seconds that count."""
    every = {name: rounds.rounds_between(pace, seconds, 1, asked[name], settings) for name, pace in paces.items()}
    return sum(rounds.counted(pace, seconds, every[name], asked[name]) for name, pace in paces.items())
