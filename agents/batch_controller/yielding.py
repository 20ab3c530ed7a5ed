"""A node whose owner needs it for a while: it computes for a part of the time, and is known to before anything is measured.

Its times of a step are brought to the new speed at once, and so is what counts as its present share: however gradual
changes by choice are, this one has happened.
"""

import msgspec

from agents.batch_controller.state import Known, Node
from schemas.nodes import NodeYielding
from schemas.training import Share


def left_to_jobs(event: NodeYielding) -> float:
    """Part of a node's speed that jobs have, above 0; 1 also where none runs on it: it then comes back at full speed."""
    return event.share if event.yielding and event.share > 0 else 1.0


def turn_to(node: Node, known: list[Known], share: float, why: str) -> bool:
    """Reckon with another part of a node's speed, in all jobs that know it; gives whether it is another."""
    factor = node.share / share
    node.share = share
    for job in known if factor != 1 else ():
        job.steps = {size: [seconds * factor for seconds in times] for size, times in job.steps.items()}
        job.slowed *= factor
        job.news = why
    return factor != 1


def at_present_speed(share: Share, known: Known) -> Share:
    """A share as it would be now, had the node's owner needed what he needs now when it was made."""
    if known.slowed == 1:
        return share
    return msgspec.structs.replace(share, local_steps=max(1, round(share.local_steps / known.slowed)))
