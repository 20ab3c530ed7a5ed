"""Whether a silent node is dead, where no failure detector says so: heartbeats, one deadline a node, and doubts about the
selector's own ears.

A fixed time-out is the plain end of the failure detectors of Chandra and Toueg (J. ACM 43(2), 1996): complete, since a
dead node is silent for good, and accurate as long as a heartbeat is not held up for five intervals.
"""

from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import NodeRecord, NodeSelectorState


def bounded_interval(announced: float, settings: NodeSelectorSettings) -> float:
    """Seconds between heartbeats to reckon with, whatever a node announces (not a number included)."""
    if not announced > settings.interval_min:
        return settings.interval_min
    return min(announced, settings.interval_max)


def silence_limit(record: NodeRecord, settings: NodeSelectorSettings) -> float:
    """Seconds of silence after which this node is taken for dead."""
    return settings.missed_beats * record.interval


def deaf(state: NodeSelectorState, now: float, settings: NodeSelectorSettings) -> bool:
    """Whether nobody at all is heard: the one that spoke last has missed several beats itself."""
    return now - state.heard_at > settings.deaf_beats * state.heard_interval


def note_hearing(state: NodeSelectorState, record: NodeRecord, now: float, settings: NodeSelectorSettings) -> None:
    """A heartbeat was heard: if nobody's had been for a while, the silences of all nodes begin to count from now."""
    if deaf(state, now, settings):
        state.hearing_since = now
    state.heard_at, state.heard_interval = now, record.interval
    state.answers = 0
    record.heard_at = now


def note_answer(state: NodeSelectorState, answered: bool) -> None:
    """A probe has come back, or has not: only answers without a loss between them speak for the selector's ears."""
    state.answers = state.answers + 1 if answered else 0


def should_probe(state: NodeSelectorState, now: float, settings: NodeSelectorSettings) -> bool:
    """Whether to ask the server now if it can be heard: nobody else is, and the last time is a silence's limit ago."""
    apart = settings.missed_beats * state.heard_interval
    return deaf(state, now, settings) and now - state.probed_at >= apart


def look_again(state: NodeSelectorState, record: NodeRecord, now: float, settings: NodeSelectorSettings) -> float | None:
    """When to look at a silent node again, or None: it is dead.

    Three things speak against a death although the deadline has passed: the selector was asleep itself (the timer comes
    an interval late and nothing came in between: it was stopped, or restarted); it only began to hear a moment ago; it
    hears nobody at all, and can't be sure either that it hears the server.
    """
    limit = silence_limit(record, settings)
    if now > record.due + record.interval and state.heard_at <= record.due:
        state.hearing_since = now
    deadline = max(record.heard_at, state.hearing_since) + limit
    if now < deadline:
        return deadline
    if deaf(state, now, settings) and state.answers < settings.deaf_answers:
        return now + limit
    return None


def watched(state: NodeSelectorState, now: float, settings: NodeSelectorSettings) -> bool:
    """Whether a failure detector lives, so that its word decides and not the time-out."""
    return state.detector_at is not None and now - state.detector_at <= settings.detector_seconds


def wait_for_word(record: NodeRecord, now: float, settings: NodeSelectorSettings) -> float | None:
    """When to look again at a silent node that a failure detector watches, or None: it is dead."""
    last = record.heard_at + settings.detector_patience * silence_limit(record, settings)
    if record.condemned or now >= last:
        return None
    return min(now + silence_limit(record, settings), last)
