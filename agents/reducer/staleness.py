"""Gradients of an older version. With `sync = "step"` only what was taken at the present anchor counts.

A difference that is late still says where the model should go, and counts discounted. A gradient that is late is the slope
of a place that the model has left; with it no machine would compute what the job does.
"""

from collections.abc import Mapping

from agents.reducer.state import ReducerState
from schemas.ids import NodeId
from schemas.training import ContributionOffered, RoundClosed, Share

LONGEST_PAUSE = 6
"""Doublings: a node that never is in time is waited for in every 64th round at most, which is under 2 % of the rounds."""


def lateness(state: ReducerState, offer: ContributionOffered) -> int:
    """Rounds that a gradient is late; 0 for a difference, which counts nevertheless."""
    return state.round - offer.round if state.sync == "step" else 0


def objection(state: ReducerState, offer: ContributionOffered) -> str:
    """Why an offer can't count in the round that is open; empty if it can."""
    if state.sync != "step":
        return ""
    late = lateness(state, offer)
    if late > 0:
        rounds = "one round" if late == 1 else f"{late} rounds"
        return f"its gradient is {rounds} late, and of an older version: with sync step only those of the present one count"
    own = state.digests.get(offer.round - 1)
    if own is not None and offer.base_digest != own:
        return f"its gradient was not taken at version {offer.round - 1} as this reducer has it"
    return ""


def fall_behind(state: ReducerState) -> list[ContributionOffered]:
    """After a closing: the offers that it has left behind, which are forgotten."""
    if state.sync != "step":
        return []
    late = sorted(key for key, offer in state.offers.items() if offer.message.round <= state.closed)
    return [state.offers.pop(key).message for key in late]


def note_absences(state: ReducerState, closed: RoundClosed) -> None:
    """How many deadlines in a row each node has missed, now that a round is closed."""
    if state.sync != "step":
        return
    for node in closed.missing:
        state.absences[node] = state.absences.get(node, 0) + 1
    for contribution in closed.contributions:
        state.absences.pop(contribution.node, None)


def heed_shares(state: ReducerState, shares: Mapping[NodeId, Share]) -> None:
    """Who contributes to every round from now on, and who less often."""
    before = {*state.occasional, *state.returning}
    state.occasional = tuple(sorted(node for node, share in shares.items() if share.every > 1))
    state.returning = tuple(sorted(node for node, share in shares.items() if share.every == 1 and node in before))


def note_offer(state: ReducerState, offer: ContributionOffered) -> None:
    """A node that is in time for the round that is open will be for the next."""
    if offer.round == state.round:
        state.returning = tuple(node for node in state.returning if node != offer.node)


def waited_for(state: ReducerState, due: tuple[NodeId, ...], needed: int) -> tuple[NodeId, ...]:
    """Of those whom a round could wait for, those it does: not in each round for one that comes late and is dropped, and
    not for one that is still at work on a share for several rounds.

    After m missed deadlines in a row a node is waited for in every 2^m-th round; it may contribute in any. All are, where
    the others would be fewer than `needed`.
    """
    awake = (n for n in due if state.round % 2 ** min(state.absences.get(n, 0), LONGEST_PAUSE) == 0)
    prompt = tuple(n for n in awake if n not in state.returning)
    return prompt if len(prompt) >= needed else due


def consequence(state: ReducerState, missing: tuple[NodeId, ...]) -> str:
    """What becomes of those who missed the deadline, for the words of a closing."""
    if state.sync != "step" or not missing:
        return ""
    return ": a gradient that comes later is dropped"
