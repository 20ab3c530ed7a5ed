"""A walk sees every sample once an epoch, is the same everywhere, and goes on where it stopped."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.jobs.sampling import Cursor, Sampler


@given(st.integers(1, 3000), st.integers(0, 2**63), st.text(min_size=1, max_size=8))
def test_an_epoch_is_a_permutation(count: int, seed: int, node: str) -> None:
    assert sorted(Sampler(count, seed, node).next_indices(count)) == list(range(count))


@given(st.integers(1, 40), st.lists(st.integers(0, 50), max_size=10))
def test_uneven_shares_cover_the_data_evenly(count: int, shares: list[int]) -> None:
    sampler = Sampler(count, 1, "a")
    taken = [index for share in shares for index in sampler.next_indices(share)]
    assert len(taken) == sum(shares)
    times = [taken.count(index) for index in range(count)]
    assert max(times) - min(times) <= 1
    assert (sampler.cursor.epoch, sampler.cursor.position) in {
        divmod(len(taken), count),
        (len(taken) // count - 1, count),  # an epoch that has just ended
    }


def test_the_walk_is_the_same_in_every_process_and_version() -> None:
    assert Sampler(1000, 7, "node-1").next_indices(8) == GOLDEN


def test_nodes_seeds_and_epochs_go_their_own_ways() -> None:
    walks = [
        Sampler(500, 0, "a").next_indices(500),
        Sampler(500, 0, "b").next_indices(500),
        Sampler(500, 1, "a").next_indices(500),
        Sampler(500, 0, "a", Cursor(epoch=1)).next_indices(500),
    ]
    assert all(sum(x == y for x, y in zip(walks[i], walks[j], strict=True)) < 10 for i in range(4) for j in range(i))


def test_neighbours_are_not_taken_together() -> None:
    walk = Sampler(10_000_000, 0, "a").next_indices(5000)
    gaps = [abs(x - y) for x, y in pairwise(walk)]
    assert sum(gaps) / len(gaps) == pytest.approx(10_000_000 / 3, rel=0.05)  # that of independent uniform draws
    assert sum(walk) / len(walk) == pytest.approx(5_000_000, rel=0.05)


def test_a_walk_goes_on_from_its_cursor() -> None:
    whole = Sampler(50, 3, "a").next_indices(120)
    sampler = Sampler(50, 3, "a")
    sampler.next_indices(70)
    cursor = msgspec.json.decode(msgspec.json.encode(sampler.cursor), type=Cursor)
    assert Sampler(50, 3, "a", cursor).next_indices(50) == whole[70:]


def test_no_data_and_other_data_are_refused() -> None:
    with pytest.raises(ValueError, match="without samples"):
        Sampler(0, 0, "a")
    with pytest.raises(ValueError, match="changed"):
        Sampler(10, 0, "a", Cursor(position=11))


GOLDEN = [898, 92, 679, 190, 114, 643, 180, 978]
