"""Where a node is filed to be looked at: soon after its deadline, by its own heartbeats' measure."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.failure_detector.doubts import SLOT, is_in_time, slot_after
from agents.failure_detector.policy import INTERVALS

dues = st.floats(1.0, 2e9, allow_nan=False)
intervals = st.floats(*INTERVALS)


@given(dues, intervals)
@settings(max_examples=50, deadline=None)
def test_a_node_is_looked_at_after_its_deadline_and_within_a_twentieth_of_its_interval(due: float, interval: float) -> None:
    slot = slot_after(due, interval)
    late = slot * SLOT - due
    assert -1e-6 < late <= SLOT * max(1.0, interval + 0.5) + 1e-6
    assert is_in_time(slot, due, interval)
    assert not is_in_time(slot + 2 * max(1, round(interval)), due, interval)


@given(dues, st.lists(st.floats(0.0, 0.4), min_size=2, max_size=5))
@settings(max_examples=20, deadline=None)
def test_nodes_that_speak_seldom_share_the_timers_that_nodes_that_speak_often_would_have_alone(
    due: float, apart: list[float]
) -> None:
    often = {slot_after(due + each, 1.0) for each in apart}
    seldom = {slot_after(due + each, 10.0) for each in apart}
    assert len(seldom) <= min(2, len(often))
