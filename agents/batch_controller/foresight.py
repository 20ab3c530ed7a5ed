"""A link planned with as it is about to be, not as it was measured last; and what is gone back to when that ends."""

import msgspec

from agents.batch_controller import transfers
from agents.batch_controller.links import expected_rate, streams_for
from agents.batch_controller.state import Before, Job, Known, Moved, Node
from schemas.network import LinkQuality
from schemas.training import Foreseen

GRADES = tuple(LinkQuality)
"""Best first."""


def as_foreseen(node: Node, known: Known, foreseen: Foreseen) -> tuple[Node, Known]:
    """What to plan with, in place of what is known: the rate is the one foreseen.

    Encoding and connections follow the worse of the two grades: a spell of good weather is no reason for a finer encoding,
    which would still be under way when it ends.
    """
    worse = node.quality is None or GRADES.index(foreseen.quality) > GRADES.index(node.quality)
    quality = foreseen.quality if worse else node.quality
    moving = expected_rate(quality, streams_for(quality)) / max(foreseen.rate, 1.0)  # a byte a second: nothing gets through
    up, down = (transfers.as_if(transfers.factors(known_one).fixed, moving) for known_one in (known.up, known.down))
    return (
        msgspec.structs.replace(node, quality=quality),
        msgspec.structs.replace(known, up=up, down=down, regraded=known.regraded or worse),
    )


def remembered(job: Job) -> Before | None:
    """What is in force, and the transfers it was made from: those that come while forecasts are acted upon are of other
    sizes and at other times, and planning without forecasts would find other shares by them than it has."""
    if job.current is None:
        return None
    return Before(
        kept=job.current,
        up={name: _copied(known.up) for name, known in job.nodes.items()},
        down={name: _copied(known.down) for name, known in job.nodes.items()},
    )


def _copied(transfers_: dict[int, list[Moved]]) -> dict[int, list[Moved]]:
    return {size: list(moved) for size, moved in transfers_.items()}
