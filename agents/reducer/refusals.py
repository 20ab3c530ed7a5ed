"""Which offers can't be counted by what they say alone: sent twice, in another's name, of impossible figures."""

from agents.reducer import sites
from agents.reducer.state import ReducerState
from schemas.ids import BadIdentifier, NodeId, sanitised, token
from schemas.training import ContributionOffered


def speaker(event: ContributionOffered) -> NodeId:
    """Who made an offer by its envelope, `trainer/<job>/<node>`; an unsealed one is its node's."""
    name = event.source.rpartition("/")[2]
    if not name or name == event.node:
        return event.node
    try:
        return token(name)
    except BadIdentifier:
        return sanitised(name)


def objection(state: ReducerState, event: ContributionOffered) -> str:
    """What is wrong with an offer, in words; empty: nothing that shows before its bytes are here."""
    who = speaker(event)
    if who != event.node:
        return f"{who} offers it in the name of {event.node}"
    if state.rejected.get(event.node, {}).get(event.round) == event.digest:
        return "these bytes were refused already"
    if event.samples < 0 or event.steps < 0:
        return f"{event.samples} samples in {event.steps} steps are impossible"
    if state.parameters and len(event.pieces) != (state.cut.pieces if state.sharded else 0):
        return f"it is cut in {len(event.pieces)} pieces where the job's are in {state.cut.pieces}"
    wrong = sites.objection(state, event)
    if wrong:
        return wrong
    counted = state.prints.get(event.node, {}).get(event.round)
    if counted is not None and counted != event.digest:
        return f"another difference of {event.node} was counted for round {event.round} already"
    return ""


def twin(state: ReducerState, event: ContributionOffered) -> int | None:
    """Another round for which the same node sent the same bytes, which were counted or are here; None: they are new."""
    for round_, digest in state.prints.get(event.node, {}).items():
        if digest == event.digest and round_ != event.round:
            return round_
    for offer in state.offers.values():
        other = offer.message
        same = (other.node, other.digest) == (event.node, event.digest)
        if same and offer.status == "here" and other.round != event.round:
            return other.round
    return None
