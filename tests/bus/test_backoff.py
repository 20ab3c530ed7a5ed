"""Back-off: arithmetic in virtual time."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bus.backoff import RestartHistory, RestartPolicy

POLICY = RestartPolicy(first=0.5, factor=2.0, limit=3.0, healthy_after=10.0, loop_after=3)


def test_delays_double_up_to_the_limit_and_the_loop_is_named() -> None:
    history = RestartHistory(POLICY)
    decisions = [history.exited(started=0.0, now=1.0) for _ in range(5)]
    assert [each.delay for each in decisions] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [each.attempt for each in decisions] == [1, 2, 3, 4, 5]
    assert [each.crash_loop for each in decisions] == [False, False, True, True, True]


def test_a_healthy_run_forgets_what_was() -> None:
    history = RestartHistory(POLICY)
    for _ in range(4):
        history.exited(started=0.0, now=1.0)
    again = history.exited(started=0.0, now=10.0)
    assert (again.delay, again.attempt, again.crash_loop) == (0.5, 1, False)


@given(st.lists(st.floats(0.0, 40.0), max_size=60), st.integers(0, 3000))
def test_bounded_and_never_shorter_in_a_loop(runs: list[float], crashes: int) -> None:
    history = RestartHistory(POLICY)
    delays = [history.exited(started=0.0, now=run).delay for run in runs]
    assert all(POLICY.first <= delay <= POLICY.limit for delay in delays)
    in_a_row = [history.exited(started=0.0, now=0.0).delay for _ in range(crashes)]
    assert all(earlier <= later <= POLICY.limit for earlier, later in itertools.pairwise(in_a_row))
