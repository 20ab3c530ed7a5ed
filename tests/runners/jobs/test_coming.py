"""Averages that come side by side are one transfer."""

from runners.jobs.coming import Coming


def test_what_comes_together_counts_together_and_once() -> None:
    coming = Coming()
    coming.begin(10.0)
    coming.begin(10.5)
    assert coming.end(100, 11.0) == (0, 0.0)
    coming.begin(11.5)
    assert coming.end(50, 12.0) == (0, 0.0)
    assert coming.end(25, 12.5) == (175, 2.5)


def test_what_comes_later_is_another_transfer() -> None:
    coming = Coming()
    coming.begin(10.0)
    assert coming.end(100, 11.0) == (100, 1.0)
    coming.begin(20.0)
    assert coming.end(30, 20.5) == (30, 0.5)


def test_what_was_here_before_anybody_spoke_of_it_took_its_own_time() -> None:
    coming = Coming()
    coming.begin(8.0)
    coming.begin(7.0)
    assert coming.end(10, 9.0) == (0, 0.0)
    assert coming.end(10, 8.5) == (20, 2.0)


def test_what_fails_or_comes_over_no_link_says_nothing() -> None:
    coming = Coming()
    coming.begin(10.0)
    assert coming.end(0, 11.0) == (0, 0.0)
    coming.begin(20.0)
    coming.begin(20.0)
    assert coming.end(40, 22.0) == (0, 0.0)
    assert coming.end(0, 30.0) == (40, 2.0)
