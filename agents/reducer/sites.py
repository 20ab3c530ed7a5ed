"""Contributions that a site's speaker sends for several nodes: whose they are, and that nothing in them counts twice.

A node gives its difference to its speaker, or sends it itself; where something fails in between, both may be offered. Of
offers that have a difference in common the one that came first is collected, and the others wait: they are forgotten once
a round counted the difference, and collected if the first is refused or its node is lost. So whatever nodes believe, a
round lists a difference once.
"""

from collections.abc import Iterator, Sequence

import msgspec

from agents.reducer.state import ReducerState
from schemas.ids import NodeId
from schemas.sites import SUMMABLE
from schemas.training import Contribution, ContributionOffered, Roster

KEPT = 16
"""Sites of earlier rosters that are remembered: an offer may be older than the roster that changed them."""


def nodes_of(offer: ContributionOffered) -> tuple[NodeId, ...]:
    """Whose differences for its round an offer is made of."""
    return tuple(member.node for member in offer.members) or (offer.node,)


def remember(state: ReducerState, roster: Roster) -> None:
    """Note who may speak for whom."""
    for nodes in roster.sites:
        if nodes not in state.sites:
            state.sites.append(nodes)
    del state.sites[:-KEPT]


def objection(state: ReducerState, offer: ContributionOffered) -> str:
    """What is wrong with an offer for several nodes, in words; empty: nothing.

    A node can't take others' places in a round: only nodes that their owners have put into one site are believed to
    have given it their differences.
    """
    if not offer.members:
        return ""
    names = {member.node for member in offer.members}
    if offer.node not in names or len(names) != len(offer.members):
        return "it is said to be for several nodes, but not for its own, or twice for one"
    if any(member.samples < 0 or member.steps < 0 for member in offer.members):
        return "impossible figures of a node that it is for"
    if sum(member.samples for member in offer.members) != offer.samples:
        return "its nodes' samples do not add up to its own"
    if state.aggregation not in SUMMABLE:
        return f"{state.aggregation} takes each node's difference by itself"
    if not any(names <= set(nodes) for nodes in state.sites):
        return f"{', '.join(sorted(names - {offer.node}))} stand at another site"
    return ""


def is_counted(state: ReducerState, offer: ContributionOffered) -> bool:
    """Whether a round has listed any of its differences."""
    return any(offer.round in state.counted.get(node, ()) for node in nodes_of(offer))


def is_behind(state: ReducerState, key: str) -> bool:
    """Whether another offer of one of these differences goes first: one that is collected or here, else the one that came
    first, unless it could not be had and its node has no model any more."""
    own = state.offers[key]
    if not state.sites or own.status != "offered":
        return False  # nobody speaks for others; or the others wait for this one
    earlier = True
    for other, offer in state.offers.items():
        if other == key:
            earlier = False
        elif _in_common(offer.message, own.message):
            hopeless = offer.attempts > 0 and offer.message.node not in state.applied
            if offer.status != "offered" or (earlier and not hopeless):
                return True
    return False


def freed(state: ReducerState) -> Iterator[str]:
    """Offers that waited behind another one, which is gone."""
    waiting = [key for key, offer in state.offers.items() if offer.behind] if state.sites else []
    for key in sorted(waiting):
        if not is_behind(state, key):
            state.offers[key].behind = False
            yield key


def forget_counted(state: ReducerState, node: NodeId, round_: int) -> None:
    """A difference is counted: what else was offered with it in it can't be. Its bytes are freed with the round's."""
    if not state.sites:
        return
    gone = [k for k, o in state.offers.items() if o.message.round == round_ and node in nodes_of(o.message)]
    for key in gone:
        message = state.offers.pop(key).message
        state.overtaken.append((message.node, message.round))


def listed(contribution: Contribution, offer: ContributionOffered) -> tuple[Contribution, ...]:
    """A closing's entries for one contribution: one for each node that it is of, weighed by its samples."""
    if not offer.members:
        return (contribution,)
    total = sum(member.samples for member in offer.members)
    return tuple(
        msgspec.structs.replace(
            contribution,
            node=member.node,
            samples=member.samples,
            weight=contribution.weight * (member.samples / total if total else 1 / len(offer.members)),
            loss=member.loss,
            remark=contribution.remark if member.node == offer.node else "",
            through=offer.node,
        )
        for member in offer.members
    )


def disjoint(messages: Sequence[ContributionOffered]) -> bool:
    """Whether no difference is in two of these offers."""
    each = [(node, message.round) for message in messages for node in nodes_of(message)]
    return len(set(each)) == len(each)


def _in_common(one: ContributionOffered, other: ContributionOffered) -> bool:
    return one.round == other.round and not set(nodes_of(one)).isdisjoint(nodes_of(other))
