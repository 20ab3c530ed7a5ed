"""With `sync = "async"`: versions of the anchor instead of rounds, for which nobody is waited.

A version closes once half of those who contribute regularly have (a buffer as in FedBuff, Nguyen et al., arXiv 2106.06639),
or at its deadline with whoever is there, be it one. Whatever comes later is in the next.

What the anchor goes by may not depend on how many versions there are: with each of them a full average, ten nodes that come
one by one would move it ten times as far as together, and "Asynchronous Local-SGD Training for Language Modeling" (Liu et
al., arXiv 2401.09135) found just that, with momentum on top, to be what makes naive implementations worse than waiting. So
a version goes as far as the part of the fleet's work that is in it:

    extent = sum of the rates of its contributors / sum of the rates of all
    rate   = samples x discount / versions from one contribution of the node to the next

and within it contributions weigh by their nodes' rates. A node that brings ten times the work every tenth version moves the
anchor as far in ten versions as one that brings a tenth of it in each. With everybody in each version the extent is 1 and
weights go by samples, as in a round. The discount is FedAsync's (`policy.discount`), by versions between the anchor that
a difference was made to and the one that it comes to. All of it is known from the closings that everybody hears, so that
whoever reduces next weighs alike.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence

import msgspec

from agents.reducer import policy
from agents.reducer.state import Habit, ReducerState
from agents.reducer.works import Part
from schemas.ids import NodeId
from schemas.training import ContributionOffered, RoundClosed

GAIN = 0.3
"""Weight of the newest interval between a node's contributions: it is whole versions, and varies by one by chance."""


def buffer(regular: int) -> int:
    """Contributors with which a version closes: half of those who contribute regularly.

    Fewer would make more versions, each of which everybody downloads; more would wait for whoever is slow today.
    """
    return max(1, (regular + 1) // 2)


def waits(state: ReducerState, there: Collection[NodeId]) -> bool:
    """Whether the open version waits for more contributors than are there."""
    if state.sync != "async" or state.due:
        return False
    return len(there) < buffer(sum(node not in state.occasional for node in state.members))


def weighed(state: ReducerState, messages: Sequence[ContributionOffered]) -> tuple[tuple[Part, ...], float]:
    """The parts of the open round's average, weights summing to 1, and how far the anchor goes by it: 1 but for `async`."""
    parts = policy.weights(messages, state.round, state.parts)
    if state.sync != "async":
        return parts, 1.0
    work = {(m.node, m.round): m.samples * policy.discount(state.round - m.round) for m in messages}
    return by_rate(parts, work, state.habits, state.members, state.round)


def by_rate(
    parts: Sequence[Part],
    work: Mapping[tuple[NodeId, int], float],
    habits: Mapping[NodeId, Habit],
    members: Collection[NodeId],
    round_: int,
) -> tuple[tuple[Part, ...], float]:
    """Parts weighed by their nodes' rates, and the extent.

    Args:
        parts: of the average, in order; they stay as they are where nobody brings any work.
        work: samples x discount, by node and the round that it was made for.
        habits: what is known of nodes from the versions before.
        members: nodes whose rates count in the whole; contributors do anyway.
        round_: the version that the average makes.
    """
    of_node: dict[NodeId, float] = {}
    for (node, _), much in work.items():
        of_node[node] = of_node.get(node, 0.0) + much
    gaps = {node: _gap(habits, node, round_, sum(part.node == node for part in parts)) for node in of_node}
    rates = {node: much / gaps[node] for node, much in of_node.items()}
    absent = {node: habit for node, habit in habits.items() if node in members and node not in of_node}
    others = sum(habit.work / max(habit.gap, float(round_ - habit.round)) for habit in absent.values())
    here = sum(rates.values())
    if here <= 0:
        return tuple(parts), 1.0
    shares = {key: much / gaps[key[0]] / here for key, much in work.items()}
    made = tuple(msgspec.structs.replace(part, weight=shares[part.node, part.round]) for part in parts)
    return made, here / (here + others)


def note(state: ReducerState, closed: RoundClosed) -> None:
    """Learn from a closing how often its contributors come, and with how much; forget who is out of the roster."""
    if state.sync != "async":
        return
    work: dict[NodeId, float] = {}
    for part in closed.contributions:
        work[part.node] = work.get(part.node, 0.0) + part.samples * policy.discount(part.late)
    counts = {node: sum(part.node == node for part in closed.contributions) for node in work}
    gaps = {node: _gap(state.habits, node, closed.round, count) for node, count in counts.items()}
    for node, much in work.items():
        state.habits[node] = Habit(round=closed.round, gap=gaps[node], work=much / counts[node])
    if state.roster is not None:
        for node in [node for node in state.habits if node not in state.roster.nodes and node not in work]:
            del state.habits[node]


def arrive(state: ReducerState, node: NodeId, *, caught_up: bool = False) -> None:
    """A node has a model, or the present one: its first interval begins, or the first one since it was away."""
    if state.sync != "async":
        return
    habit = state.habits.get(node, Habit(round=state.closed, gap=0.0, work=0.0))
    if not (caught_up and habit.gap):  # who falls behind now and then has long intervals
        state.habits[node] = msgspec.structs.replace(habit, round=state.closed)


def _gap(habits: Mapping[NodeId, Habit], node: NodeId, round_: int, count: int) -> float:
    """Versions from one contribution of a node to the next, when `count` of them come now."""
    habit = habits.get(node)
    if habit is None:  # it came before this reducer could hear of it
        known = [other.gap for other in habits.values() if other.gap]
        return statistics.median(known) if known else 1.0
    newest = (round_ - habit.round) / count
    return habit.gap + GAIN * (newest - habit.gap) if habit.gap else newest
