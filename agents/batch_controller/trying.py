"""Who tries a larger microbatch, where nobody knows what it brings: one node of a kind, and the others learn from it.

A try that comes to nothing costs a node some rounds of fewer steps. Nodes of a kind have the same reasons for one at the
same time, and a fleet of equal machines would lose those rounds on all of them.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from agents.batch_controller import learning
from agents.batch_controller.state import Known, Node
from schemas.ids import NodeId
from schemas.training import Share

ABOUT_AS_FAST = learning.SHIFT
"""Factor between the steps of two machines that are taken for equally fast."""


def of_a_kind(
    name: NodeId,
    roster: Sequence[NodeId],
    present: Mapping[NodeId, Share],
    nodes: Mapping[NodeId, Node],
    known: Mapping[NodeId, Known],
    asked: int,
) -> list[NodeId]:
    """Nodes with an accelerator, or without, as this one, that were measured and contribute to each round. In the order in
    which they try: the roster's, those first that are about as fast as the fastest and so have most room to be larger."""
    kind = nodes[name].accelerated
    here = [n for n in roster if n in present and n in nodes]
    regular = [n for n in here if present[n].every == 1 and nodes[n].accelerated == kind]
    times = [(n, learning.step_seconds(known[n], asked)) for n in regular]
    measured = {n: seconds for n, seconds in times if seconds is not None}
    fastest = min(measured.values(), default=0.0)
    return sorted(measured, key=lambda n: measured[n] > ABOUT_AS_FAST * fastest)


def samples_a_second(name: NodeId, size: int, alike: list[NodeId], known: Mapping[NodeId, Known]) -> dict[int, float]:
    """Throughput by microbatch, with what is to be thought of those next to `size` that this node wasn't measured at: as
    others of its kind gained or lost by them. Where none was measured at the larger one, it gains nothing, but for the node
    that is to try it."""
    found = learning.samples_a_second(known[name])
    for move in (size // 2, size * 2):
        if move in found or size not in found:
            continue
        others = [learning.samples_a_second(known[other]) for other in alike]
        gains = [rates[move] / rates[size] for rates in others if move in rates and size in rates]
        if gains:
            found[move] = found[size] * median(gains)
        elif move > size and alike and alike[0] != name:
            found[move] = found[size]
    return found
