"""Which of the eligible nodes take part: a threshold, a limit, and what keeps the choice steady and fair."""

from collections.abc import Sequence

import msgspec

from agents.node_selector.state import Out
from schemas.ids import NodeId


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An eligible node, as the choice sees it. Candidates come in the order in which nodes were first seen: that settles
    ties, so that a decision never hangs on a name."""

    node: NodeId
    score: float | None
    """0 to 1; None where nothing is known, which counts neither for nor against it."""
    member: bool
    """In the roster now."""
    forced: bool = False
    out: Out = ""
    why: str = ""
    """Why it was left out."""
    low_rounds: int = 0
    rounds_out: int = 0
    turn_due: bool = False
    """It has been left out for so long that it gets a turn."""
    trial: bool = False
    """It has its turn now."""
    eager: bool = False
    """It needn't wait for its turn: it is expected to do better than who is in."""
    curiosity: float = 0.0
    """Who gets the turn first, where several are due; the longest out where these are equal."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's terms for one choice."""

    measure: str
    """What the score measures, in words."""
    threshold: float | None = None
    words: str = ""
    """Where the threshold comes from."""
    band: float = 0.0
    """By how much the score of a node left out must pass the threshold again."""
    at_entry: bool = False
    """Whether a node has to meet the threshold to come in at all; otherwise only members are measured by it."""
    turns: bool = True
    """Whether nodes under the threshold get turns: not where it is the user's condition."""
    floor: int = 1
    """Choice leaves at least so many."""
    cap: int | None = None
    patience: int = 3
    explore: int = 1
    """Turns that one choice gives at most to those who needn't wait."""
    margin: float = 0.1
    """By how much an outsider must beat a member for its place."""


class LeftOut(msgspec.Struct, frozen=True):
    """A node left out by choice."""

    kind: Out
    reason: str


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a choice."""

    chosen: tuple[NodeId, ...]
    out: dict[NodeId, LeftOut]
    turns: tuple[NodeId, ...] = ()
    """The nodes that get a turn with this choice."""
    needed: tuple[NodeId, ...] = ()
    """Nodes taken although the score speaks against them: without them there would be too few."""


def select(candidates: Sequence[Candidate], rule: Rule, *, choosing: bool) -> Selection:
    """Apply a rule.

    `choosing`: whether members may be left out and others brought back by choice now. Otherwise nodes only come in (new
    ones, and those that a limit had kept out while there was no room) or are kept out as before.
    """
    turns = _turns(candidates, rule) if choosing else ()
    out: dict[NodeId, LeftOut] = {}
    for candidate in candidates:
        verdict = _below(candidate, rule, choosing=choosing, turns=turns)
        if verdict:
            out[candidate.node] = LeftOut("low", verdict)
    needed = _needed(candidates, out, rule.floor)
    for node in needed:
        del out[node]
    chosen = [candidate for candidate in candidates if candidate.node not in out]
    if rule.cap is not None and len(chosen) > rule.cap:
        ranked = sorted(chosen, key=lambda c: _rank(c, rule, choosing=choosing, turns=turns))
        reason = f"the job takes {rule.cap} nodes and others come first by {rule.measure}"
        forced = sum(candidate.forced for candidate in chosen)
        for candidate in ranked[max(rule.cap, forced) :]:
            out[candidate.node] = LeftOut("full", reason)
    return Selection(
        chosen=tuple(c.node for c in candidates if c.node not in out), out=out, turns=turns, needed=tuple(needed)
    )


def _turns(candidates: Sequence[Candidate], rule: Rule) -> tuple[NodeId, ...]:
    """One node at a time gets a turn: whom it is most worth while to look at, then who is out longest. Several at once only
    where nobody has to wait for one, being expected to do better than who is in."""
    due = [c for c in candidates if c.turn_due and not c.forced and (c.out == "full" or rule.turns)]
    due.sort(key=lambda candidate: (-candidate.curiosity, -candidate.rounds_out))
    eager = [candidate for candidate in due if candidate.eager][: rule.explore]
    return tuple(candidate.node for candidate in eager or due[:1])


def _below(candidate: Candidate, rule: Rule, *, choosing: bool, turns: tuple[NodeId, ...]) -> str:
    """Why the threshold leaves a candidate out; empty where it doesn't."""
    if candidate.forced or candidate.node in turns:
        return ""
    if candidate.out == "low":
        back = rule.at_entry and choosing and _meets(candidate.score, rule, rule.band)
        return "" if back else candidate.why
    if _meets(candidate.score, rule):
        return ""
    if not candidate.member:
        return _words(candidate, rule, "is under") if rule.at_entry else ""
    if not choosing or candidate.trial or candidate.low_rounds < rule.patience:
        return ""
    return _words(candidate, rule, f"has for {candidate.low_rounds} rounds been under")


def _meets(score: float | None, rule: Rule, by: float = 0.0) -> bool:
    """Whether nothing speaks against a score: it is over the threshold, or one of them is unknown."""
    return score is None or rule.threshold is None or score >= rule.threshold + by


def _words(candidate: Candidate, rule: Rule, how: str) -> str:
    return f"its {rule.measure}, {candidate.score:.2f}, {how} {rule.threshold:.2f} ({rule.words})"


def _needed(candidates: Sequence[Candidate], out: dict[NodeId, LeftOut], floor: int) -> list[NodeId]:
    """The best of those left out, as many as the floor lacks."""
    lacking = floor - (len(candidates) - len(out))
    if lacking <= 0:
        return []
    rest = [candidate for candidate in candidates if candidate.node in out]
    rest.sort(key=lambda c: (-(c.score if c.score is not None else 0.0), not c.member))
    return [candidate.node for candidate in rest[:lacking]]


def _rank(candidate: Candidate, rule: Rule, *, choosing: bool, turns: tuple[NodeId, ...]) -> tuple[int, float]:
    """Sort key for places under a limit, best first: forced, on their turn, then by score with members ahead."""
    score = candidate.score if candidate.score is not None else 0.5
    if candidate.forced:
        tier = 0
    elif candidate.node in turns or candidate.trial or (candidate.member and not choosing):
        tier = 1
    else:
        tier = 2
    return tier, -(score + (rule.margin if candidate.member else 0.0))
