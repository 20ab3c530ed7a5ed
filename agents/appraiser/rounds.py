"""A round as it was, and as it would have been without one of its nodes: arithmetic, and what it takes for granted.

A round lasts from its opening to the next one's. It collects until everybody whom it waits for is there, or the deadline
is over and a quorum is there (`agents.reducer`); then it averages, hands the average over and closes, which takes what it
took. So that the model gives the time that was measured when nobody is left out, only the collecting is worked out anew.

Without a node nobody waits for it, and its samples are missing. Besides:

- The node with most to do sets the round where it does all that is asked for (`Assignment.length`), or more. Without it
  the next one does at least all that is asked for, and everybody's work and the deadline grow in that proportion. Where
  rounds are made for a time, nobody sets them.
- Without the reducer the next of the list reduces: its own contribution no longer travels, the others' and the average
  take what they take in the rounds that other nodes reduce, and at least as long as its link needs for them.
- Nobody's steps of a round take longer than the round. Where steps go on beside transfers, the others' contributions
  come early only because they have waited for the node: their steps are then what rounds take without it.
- A contribution that is late took its time, whatever the rounds did meanwhile: where rounds are longer or shorter by a
  factor, so many more or fewer of them go by, and it is late by so many.
- What was lost until another reducer took over is lost to the one that fell silent.

With `sync = "async"` nobody is waited for: without a node its samples are missing, and nothing else is another.

Not modelled: other encodings for an average that no longer has to suit the worst link, other rosters and strategies that
come of the change, and that samples of longer rounds may teach less.
"""

import math
from collections.abc import Iterable
from statistics import median_low

import msgspec

from schemas.ids import NodeId
from schemas.jobs import JobRequest

PROLONGED = 2.0
"""Deadlines after which a round closes with whoever is there (`agents.reducer.settings`: twice half a deadline more)."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One contribution that a round counted."""

    node: NodeId
    samples: float
    """0 where it was left out of the average."""
    late: int
    """Rounds."""
    arrived: float
    """Seconds from the round's opening until the reducer had it; 0 where it was there before."""
    compute: float
    """Seconds."""
    up: float = 0.0
    """Seconds from its offer until the reducer had it; 0 for the reducer's own."""
    size: int = 0
    """Bytes."""


class RoundSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One round, in seconds by one clock."""

    number: int
    seconds: float
    """From its opening to the next one's."""
    members: tuple[NodeId, ...]
    """The roster."""
    parts: tuple[Part, ...]
    missing: tuple[NodeId, ...] = ()
    """Waited for until the deadline, in vain."""
    waited_for: tuple[NodeId, ...] = ()
    """Those missing, and those expected that came in time."""
    deadline: float
    """Seconds from the opening."""
    quorum: int = 1
    reducer: NodeId
    heirs: tuple[NodeId, ...] = ()
    """Who may reduce, best first."""
    average_size: int = 0
    """Bytes."""
    stretch: dict[NodeId, float] = {}
    """Factor by which the others' work grows without a node; 1 for those who aren't named."""
    lost: float = 0.0
    """Of `seconds`: until another reducer took over."""
    lost_by: str = ""
    """The reducer that fell silent; empty: none did."""


class Without(msgspec.Struct, frozen=True, kw_only=True):
    """A round without a node (or with all)."""

    seconds: float
    samples: float
    """Of contributions in time."""
    late: tuple[tuple[float, int], ...]
    """(samples, rounds late) of the others."""


def useful(round_: RoundSeen) -> float:
    """Samples that a round counted, the late ones discounted as the reducer does (`agents.reducer.policy.discount`)."""
    return sum(part.samples / (1 + part.late) for part in round_.parts)


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """What a round comes to with everybody: worked out once for all its nodes."""

    collecting: float
    """Seconds from the opening until it averaged."""
    last: str
    """For whom it collected so long; empty where the deadline ended it."""
    samples: float
    late: tuple[tuple[float, int], ...]
    by_node: dict[NodeId, float]
    """Samples in time."""
    late_nodes: frozenset[NodeId]


def whole(round_: RoundSeen) -> Whole:
    """A round with everybody."""
    prompt = [part for part in round_.parts if part.late == 0]
    late = [part for part in round_.parts if part.late > 0]
    collecting = _collecting(round_, round_.parts, round_.waited_for, round_.deadline, _quorum(round_, ""))
    lasting = [part.node for part in prompt if part.arrived == collecting and part.node in round_.waited_for]
    in_time = not round_.missing and collecting <= min(round_.deadline, round_.seconds - round_.lost)
    by_node: dict[NodeId, float] = {}
    for part in prompt:
        by_node[part.node] = by_node.get(part.node, 0.0) + part.samples
    return Whole(
        collecting=collecting,
        last=lasting[0] if in_time and len(lasting) == 1 else "",
        samples=sum(by_node.values()),
        late=tuple((part.samples, part.late) for part in late),
        by_node=by_node,
        late_nodes=frozenset(part.node for part in late),
    )


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """How it goes in the rounds that other nodes than one reduce."""

    pace: dict[NodeId, float] = {}
    """Seconds a byte of a contribution, the lower quartile: the best reducers' rounds."""
    after: dict[NodeId, float] = {}
    """Seconds that follow on the collecting, the median, by who reduces."""


def elsewhere(rounds: Iterable[tuple[RoundSeen, Whole]], node: NodeId) -> Elsewhere:
    """What is known of rounds that a node doesn't reduce: its own link is in all the transfers of those that it does."""
    paces: dict[NodeId, list[float]] = {}
    after: dict[NodeId, list[float]] = {}
    for round_, known in rounds:
        if round_.reducer != node:
            took = max(0.0, round_.seconds - round_.lost - known.collecting)
            after.setdefault(round_.reducer, []).append(took)
            for part in round_.parts:
                if part.up > 0 and part.size > 0:
                    paces.setdefault(part.node, []).append(part.up / part.size)
    pace = {name: sorted(values)[len(values) // 4] for name, values in paces.items()}
    return Elsewhere(pace=pace, after={name: median_low(values) for name, values in after.items()})


def without(round_: RoundSeen, node: NodeId, known: Whole | None = None, others: Elsewhere | None = None) -> Without:
    """The round if a node had not been there.

    `known` spares most of the work for a node that nobody had to wait for; `others` (of `elsewhere`) is for a reducer.
    """
    known = known or whole(round_)
    unmoved = known.last and node != known.last and node not in (round_.reducer, round_.lost_by, *round_.stretch)
    if unmoved and node not in known.late_nodes:
        samples = known.samples - known.by_node.get(node, 0.0)
        return Without(seconds=round_.seconds, samples=samples, late=known.late)
    return _worked_out(round_, node, known.collecting, others or Elsewhere())


def _worked_out(round_: RoundSeen, node: NodeId, collecting: float, others: Elsewhere) -> Without:
    """The round without a node, whatever the node."""
    parts = [part for part in round_.parts if part.node != node]
    factor = round_.stretch.get(node, 1.0)
    waited = [name for name in round_.waited_for if name != node]
    lost = 0.0 if round_.lost_by == node else round_.lost
    here = max(0.0, round_.seconds - round_.lost)
    after = max(0.0, here - collecting)
    if round_.reducer == node:
        parts, after = _inherited(round_, parts, after, others)
    if factor > 1.0:
        parts = [msgspec.structs.replace(p, arrived=p.arrived + (factor - 1.0) * p.compute) for p in parts]
    anew = _collecting(round_, parts, waited, round_.deadline * factor, _quorum(round_, node))
    if collecting > here:  # a death ended the wait: what was measured is shorter than the rule
        anew *= here / collecting
    slowest = max((part.compute for part in parts if part.late == 0 and part.node in waited), default=0.0)
    return Without(
        seconds=lost + max(anew + after, factor * min(here, slowest)),
        samples=factor * sum(part.samples for part in parts if part.late == 0),
        late=tuple((part.samples, part.late) for part in parts if part.late > 0),
    )


def late_samples(late: Iterable[tuple[float, int]], shorter: float) -> float:
    """What late contributions count a round, where rounds are `shorter` times as short as those they were seen in.

    They come as often a second as they did, so less often a round, and are late by more rounds.
    """
    return sum(samples / (1.0 + rounds * shorter) for samples, rounds in late) / shorter


def asked_of(request: JobRequest, length: int | None) -> float:
    """The most samples that are asked of a node in a round of that length (`Assignment`); infinity where it is a time."""
    if length == 0:
        return math.inf
    steps = length if length is not None else request.local_steps
    return float(request.microbatch if request.sync == "step" else request.microbatch * steps)


def stretch(work: dict[NodeId, float], asked: float) -> dict[NodeId, float]:
    """By node that a round is sized by, the factor by which the others' work grows without it.

    Args:
        work: samples that each node has to do in a round, of those who contribute to each one.
        asked: what the job asks of the node that does most, or the controller in rounds of another length.
    """
    most = sorted(work.values(), reverse=True)[:2]
    if len(most) < 2 or most[0] < asked * NEARLY_ALL or most[1] <= 0:
        return {}
    factor = min(most[0], asked) / most[1]
    return {node: factor for node, samples in work.items() if samples == most[0]} if factor > 1.0 else {}


NEARLY_ALL = 0.95
"""Part of the work asked for from which a node counts as doing all of it: steps are whole, microbatches powers of two."""


def _collecting(
    round_: RoundSeen, parts: Iterable[Part], waited_for: Iterable[NodeId], deadline: float, quorum: int
) -> float:
    """Seconds from the opening until the round averages."""
    arrived: dict[NodeId, float] = {}
    for part in parts:
        if part.late == 0 or part.node not in arrived:
            arrived[part.node] = part.arrived
    prompt = {part.node for part in parts if part.late == 0}
    wanted = [arrived[name] if name in prompt else math.inf for name in waited_for]
    if not wanted:
        return min(arrived.values(), default=deadline)
    last = max(wanted)
    if last <= deadline:
        return last
    here = sorted(arrived.values())
    enough = here[quorum - 1] if len(here) >= quorum else math.inf
    if enough <= PROLONGED * deadline:
        return max(deadline, enough)
    return max(PROLONGED * deadline, here[0] if here else 0.0)


def _quorum(round_: RoundSeen, gone: NodeId) -> int:
    """Contributions that a round needs after its deadline: more than a third of the nodes (`agents.node_selector`)."""
    left = sum(name != gone for name in round_.members)
    return max(1, min(round_.quorum, left // 3 + 1))


def _inherited(round_: RoundSeen, parts: list[Part], after: float, others: Elsewhere) -> tuple[list[Part], float]:
    """Contributions, and what follows on the collecting, if the next of the list had reduced."""
    prompt = {part.node: part for part in parts if part.late == 0 and part.up > 0}

    def pace(part: Part) -> float:
        """Seconds a byte."""
        return others.pace.get(part.node, part.up / max(1, part.size))

    heir = next((prompt[name] for name in round_.heirs if name in prompt), None)
    heir = heir or min(prompt.values(), key=pace, default=None)
    if heir is None:
        return parts, after
    slowest = pace(heir)

    def moved(part: Part) -> Part:
        up = 0.0 if part is heir else part.size * max(pace(part), slowest)
        return msgspec.structs.replace(part, arrived=max(0.0, part.arrived - part.up + up))

    handed = others.after.get(heir.node)
    return [moved(part) for part in parts], handed if handed is not None else max(after, round_.average_size * slowest)
