"""Expected useful samples a second, which `selection = "useful"` goes by; after Oort (Lai et al., OSDI 2021).

A node's worth is what its contributions counted, samples / (1 + rounds late) as in the average itself
(`agents.reducer.policy.discount`), over the seconds of the rounds it was in; less what everybody lost by waiting for it: a
round that it missed was longer than rounds in which nobody is missed, and the others computed nothing in that time.

From Oort, adapted: the utility in samples over time (eq. 1; its loss term is left out, since nodes draw from the same data
and their losses tell their steps, not their use); the bonus for what was measured long ago, sqrt(0.1 ln R / L) (section
5.1); exploration that decays by 0.98 a round (algorithm 1); and fairness as a part of the score (section 5.3). Different is
that a node that comes in costs a process's start and a copy of the model: places for exploration are fewer than Oort's 0.9
to 0.2, and who is in stays in unless beaten by a margin.
"""

import math
from collections.abc import Mapping

from agents.node_selector.policy import UNKNOWN
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Job, Member, NodeRecord
from schemas.ids import NodeId
from schemas.training import RoundClosed

MEMORY = 10
"""Rounds that a worth is the mean of, the newest counting a tenth: a node that contributes every eighth is seen at work."""

UNCERTAIN = 0.1
"""Of Oort's bonus for staleness (section 5.1)."""

HOPE = 0.5
"""Of the best node's worth: what is expected of a node nobody knows, with a link of medium score."""

NOBODY = Member()


def learn(job: Job, event: RoundClosed) -> None:
    """A round has closed: what each node brought, and what the missing ones cost."""
    counted: dict[NodeId, float] = {}
    for part in event.contributions:
        counted[part.node] = counted.get(part.node, 0.0) + part.samples / (1 + part.late)
    missing = [node for node in event.missing if node in job.nodes and node not in counted]
    if event.seconds <= 0:
        return
    if not missing and event.on_time:
        job.calm = _mean(job.calm, event.seconds, min(job.calm_rounds + 1, MEMORY))
        job.calm_rounds += 1
    waited = max(0.0, event.seconds - job.calm) if job.calm_rounds else 0.0
    blame = sum(counted.values()) / event.seconds * waited / max(1, len(missing))
    for node in job.nodes:
        member = job.members.setdefault(node, Member())
        if not member.begun and node not in missing:
            member.begun = node in counted  # a newcomer's first one is late or short: it says nothing of the next
            continue
        brought = counted.get(node, 0.0) - (blame if node in missing else 0.0)
        member.weighed = min(member.weighed + 1, MEMORY)
        member.brought = _mean(member.brought, brought, member.weighed)
        member.spanned = _mean(member.spanned, event.seconds, member.weighed)
        member.measured = job.round
        member.served += 1


def worth(member: Member) -> float | None:
    """Useful samples a second; None for a node that was never measured, negative for one that costs more than it brings."""
    return member.brought / member.spanned if member.weighed else None


def scores(job: Job, nodes: Mapping[NodeId, NodeRecord], settings: NodeSelectorSettings) -> dict[NodeId, float | None]:
    """-1 to 1, best 1: worth over the best node's, with a part for those who were seldom in.

    A node that was never in is expected to do as well as its link looks; None where not even that is known.
    """
    members = {node: job.members.get(node, NOBODY) for node in nodes}
    known = {node: value for node, member in members.items() if (value := worth(member)) is not None}
    best = max(known.values(), default=0.0)
    if best <= 0:
        return {node: None if record.link is None else record.link / 100 for node, record in nodes.items()}
    most = max(member.served for member in members.values())
    found: dict[NodeId, float | None] = {}
    for node, record in nodes.items():
        link = UNKNOWN if record.link is None else record.link / 100
        use = max(-1.0, known[node] / best) if node in known else 2 * HOPE * link
        seldom = 1.0 - members[node].served / max(1, most)
        found[node] = use if use < 0 else (1 - settings.fairness) * use + settings.fairness * seldom
    return found


def promising(job: Job, found: Mapping[NodeId, float | None], settings: NodeSelectorSettings) -> frozenset[NodeId]:
    """Nodes that never had a turn and are expected to do clearly better than the weakest of the roster: they wait for none.

    A member counts once it has been measured for as long as it takes to leave one out.
    """
    inside = [found.get(node) for node in job.nodes if job.members.get(node, NOBODY).weighed >= settings.patience]
    weakest = min((score for score in inside if score is not None), default=math.inf)
    strangers = [node for node in found if (member := job.members.get(node, NOBODY)).times_out <= 1 and not member.weighed]
    return frozenset(node for node in strangers if (found[node] or 0.0) > weakest + settings.rank_margin)


def curiosity(job: Job, node: NodeId, score: float | None) -> float:
    """What a look at a node that is out is worth: its score, and the more the longer ago it was measured."""
    member = job.members.get(node, NOBODY)
    ago = math.log(max(job.round, 1)) / max(member.measured, 1)
    return (score if score is not None else UNKNOWN) + math.sqrt(UNCERTAIN * ago)


def places_to_explore(job: Job, places: int, settings: NodeSelectorSettings) -> int:
    """Places that go to nodes nobody knows at one choice: a part that decays with the rounds, one at least."""
    return max(1, round(places * settings.explore * settings.explore_decay**job.round))


def _mean(mean: float, value: float, count: int) -> float:
    return mean + (value - mean) / count
