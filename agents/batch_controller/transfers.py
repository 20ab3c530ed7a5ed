"""How long a tensor takes over a node's link: a fixed part, and its bytes at a rate, both learned from what was measured.

What a link of a grade is expected to take is known (`expected`): round trips, and bytes over the goodput of its grade. A
node's link takes `fixed` times the one and `moving` times the other:

    seconds = fixed x round trips + moving x bytes / expected rate

Two sizes tell the two factors apart, on a link of one grade: the slope is the median of the slopes between transfers of
different sizes (Theil-Sen: Sen, J. Am. Stat. Assoc. 63, 1968), which an odd one in four doesn't move. While all transfers
had nearly the same size, both are the median of measured over expected: the excess is shared in proportion, so that a small
tensor, which hardly has bytes to wait for, says little of the rate at which a large one will travel.

The factors outlive a change of grade, encoding or connections: they are the host's and the kernel's part.
"""

import math
from itertools import combinations
from statistics import median

import msgspec

from agents.batch_controller.links import FIRST_FLIGHT, expected_rate
from agents.batch_controller.state import Moved, Node
from schemas.training import Share

REMEMBERED = 5
"""Transfers of one size that are remembered: two odd ones are outvoted, a lasting change counts from the third on."""

SIZES = 3
"""Sizes (by powers of two) of which transfers are remembered: those of the present encoding and of those around it."""

APART = 1.5
"""Factor by which bytes must count for more of one transfer's expected time than of another's for a slope between the two
to be more than noise."""

SHIFT = 1.5
"""Factor by which a size's transfers change when the link itself has changed: what was measured of other sizes is void."""

BOUNDS = (0.02, 200.0)
"""Of measured over expected; beyond it a measurement says more of its own accident than of the link."""

LEAST_FIXED = 0.001
"""Seconds: two messages and the wake-ups of two processes on one machine."""

Transfers = dict[int, list[Moved]]
"""What is remembered of one direction, by size in powers of two, the newest size last."""


class Factors(msgspec.Struct, frozen=True):
    """What a link takes over what is expected of one like it."""

    fixed: float
    moving: float


def expected(size: float, streams: int, node: Node) -> tuple[float, float]:
    """Seconds that such a link is expected to take: (round trips, bytes at the full rate).

    One round trip for asking and answering, and one for each doubling of what is under way, from ten segments a
    connection (RFC 6928) up to the link's bandwidth-delay product: TCP's slow start (RFC 5681), which begins again after
    every pause.
    """
    trip, rate = node.latency_ms / 1e3, expected_rate(node.quality, streams)
    doublings = math.log2(1.0 + min(size, rate * trip) / (FIRST_FLIGHT * max(1, streams)))
    return max(LEAST_FIXED, trip * (1.0 + doublings)), size / rate


def observe(known: Transfers, size: int, seconds: float, streams: int, node: Node) -> None:
    """A tensor went over a node's link; one that was there at once says nothing."""
    if size <= 0 or seconds <= 0:
        return
    fixed, moving = expected(size, streams, node)
    kind = size.bit_length()
    moved = known.pop(kind, [])
    before = _usual(moved)
    moved.append(Moved(grade=node.quality, fixed=fixed, moving=moving, seconds=seconds))
    del moved[:-REMEMBERED]
    if before is not None and not 1 / SHIFT < (_usual(moved) or before) / before < SHIFT:
        known.clear()
    known[kind] = moved
    while len(known) > SIZES:
        del known[next(iter(known))]


def newest(known: Transfers) -> list[Moved]:
    """The last transfers of the size that was seen last."""
    return known[next(reversed(known))] if known else []


def factors(known: Transfers) -> Factors:
    """The two factors as far as they are known; 1 where nothing was measured."""
    last = newest(known)
    usual = _usual(last)
    if usual is None:
        return Factors(1.0, 1.0)
    alike = [m for of_size in known.values() for m in of_size if m.grade is last[-1].grade]
    points = [(m.moving / m.fixed, m.seconds / m.fixed) for m in alike]
    least, most = min(points)[0], max(points)[0]
    if not (most > APART * least and most > least):
        return Factors(usual, usual)  # the usual case: no two are far enough apart
    slopes = [
        (y1 - y0) / (x1 - x0) for (x0, y0), (x1, y1) in combinations(sorted(points), 2) if x1 > APART * x0 and x1 > x0
    ]
    if not slopes:
        return Factors(usual, usual)
    moving = _bounded(median(slopes))
    fixed = median([y - moving * x for x, y in points])
    if fixed < 0:
        return Factors(0.0, _bounded(median([y / x for x, y in points])))
    return Factors(min(fixed, BOUNDS[1]), moving)


def as_if(fixed: float, moving: float) -> Transfers:
    """What would have to be remembered for these to be the factors: two sizes, and two transfers of the newest, since an
    encoding isn't chosen by a single one."""
    moving = _bounded(moving)
    small, large = (Moved(grade=None, fixed=1.0, moving=part, seconds=fixed + moving * part) for part in (1.0, 2 * APART))
    return {1: [small], 2: [large, large]}


def rate(known: Transfers, streams: int, node: Node) -> float:
    """Bytes a second at which a large tensor is expected to travel."""
    return expected_rate(node.quality, streams) / factors(known).moving


def seconds_for(known: Transfers, size: float, share: Share, node: Node) -> float:
    """Seconds for `size` bytes over a node's link."""
    fixed, moving = expected(size, share.streams, node)
    learned = factors(known)
    return learned.fixed * fixed + learned.moving * moving


def slowest_seconds_for(known: Transfers, size: float, share: Share, node: Node) -> float:
    """Seconds for `size` bytes when the link is as slow as in the slowest of the last transfers."""
    learned = factors(known)
    over = [m.seconds / max(1e-9, learned.fixed * m.fixed + learned.moving * m.moving) for m in newest(known)]
    return seconds_for(known, size, share, node) * max([1.0, *over])


def _usual(moved: list[Moved]) -> float | None:
    """Measured over expected, in the median (the lower of two); None where nothing was measured."""
    if not moved:
        return None
    ratios = sorted([m.seconds / (m.fixed + m.moving) for m in moved])
    return _bounded(ratios[(len(ratios) - 1) // 2])


def _bounded(factor: float) -> float:
    return min(BOUNDS[1], max(BOUNDS[0], factor))
