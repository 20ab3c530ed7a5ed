"""Real groups of gloo, one member a thread: what they agree on, and that nobody waits for ever."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from runners.jobs.site_group import LOOPBACK, Given, SiteError, SiteGroup, connect, listen

WITHIN = 20.0  # seconds: far more than any step takes; where the others are to fail it is what they wait
NAMES = ("a", "b", "c")


def together(do: Callable[[SiteGroup], Any], rounds: tuple[int, ...] = (3, 5, 4)) -> list[Any]:
    """What `do` gave, or raised, on each member of a group; the first that its members average."""
    door = listen("j/1", WITHIN)
    came: list[Any] = [None] * len(NAMES)

    def member(rank: int) -> None:
        group = SiteGroup("j/1", NAMES, rank)
        try:
            meeting = connect((LOOPBACK,), door.store.port, "j/1", rank, WITHIN) if rank else door
            first, parts = group.meet(meeting, rounds[rank], 4 - rank, WITHIN)
            assert parts == 4, "the speaker's word"
            came[rank] = (first, do(group))
        except SiteError as error:
            came[rank] = error
        finally:
            group.close()

    threads = [threading.Thread(target=member, args=(rank,), daemon=True) for rank in range(len(NAMES))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came


def given(rank: int) -> Given:
    return Given(samples=10 * rank, steps=rank + 1, loss=rank / 2, seconds=1.5)


def test_the_speaker_has_the_average_by_samples_and_all_know_what_each_brought() -> None:
    def average(group: SiteGroup) -> Any:
        vector = torch.full((1000,), float(group.rank))
        each = group.average(vector, 1000, given(group.rank), 7, WITHIN)
        group.confirm(7, WITHIN)
        payload = b"an average" * 1000
        if group.rank:
            return each, group.receive(7, WITHIN) == payload
        group.spread(payload, 7, WITHIN)
        return each, torch.allclose(vector, torch.full((1000,), (10 * 1 + 20 * 2) / 30))

    came = together(average)
    assert came == [(6, ([given(0), given(1), given(2)], True))] * 3, "round 6: nobody can have begun it"


def test_in_the_midst_of_a_round_all_get_the_average_by_samples() -> None:
    vectors = [torch.linspace(-3e-3, 1e-3 * (rank + 1), 1000) for rank in range(3)]
    wanted = sum(samples / 60 * vector for samples, vector in zip((10, 20, 30), vectors, strict=True))

    def meet(group: SiteGroup) -> Any:
        vector = vectors[group.rank].clone()
        group.meet_midway(vector, 10 * (group.rank + 1), (7, 1, 5, 6, 7, 8), WITHIN, WITHIN)
        return vector

    averages = [each for _, each in together(meet)]
    for each in averages:
        torch.testing.assert_close(each, wanted, rtol=2e-3, atol=3e-6)  # of float16, where summands cancel
        assert torch.equal(each, averages[0])


def test_whoever_began_elsewhere_is_not_averaged_with() -> None:
    def meet(group: SiteGroup) -> None:
        group.meet_midway(torch.ones(9), 4, (7, 1, group.rank // 2, 6, 7, 8), WITHIN, WITHIN)

    assert all("has begun round 7 elsewhere" in str(one) for one in together(meet))


def test_steps_that_went_astray_are_told_by_name_before_they_are_averaged() -> None:
    def meet(group: SiteGroup) -> None:
        vector = torch.tensor([1.0, float("nan") if group.rank == 1 else 2.0])
        group.meet_midway(vector, 4, (7, 1, 5, 6, 7, 8), WITHIN, WITHIN)

    assert all("what the steps of b added is not finite" in str(one) for one in together(meet))


def test_whoever_is_at_another_round_ends_the_group_before_anything_is_added_up() -> None:
    came = together(lambda group: group.average(torch.ones(9), 9, given(1), 7 + group.rank // 2, WITHIN))
    assert all(isinstance(one, SiteError) for one in came)
    assert "c is about to average in round 8, this node to average in round 7" in str(came[0])


def test_models_of_different_size_never_get_as_far_as_gloo() -> None:
    came = together(lambda group: group.average(torch.ones(9 + group.rank), 9 + group.rank, given(1), 7, WITHIN))
    assert all("of another size" in str(one) for one in came)


def test_an_unsound_difference_is_told_by_name() -> None:
    vectors = [torch.ones(9), None, torch.ones(9)]
    came = together(lambda group: group.average(vectors[group.rank], 9, given(1), 7, WITHIN))
    assert all("the difference of b is unsound" in str(one) for one in came)


def test_one_that_goes_breaks_the_others_off() -> None:
    def leave(group: SiteGroup) -> None:
        if group.rank == 2:
            group.close()
        group.confirm(7, WITHIN)

    came = together(leave)
    assert all(isinstance(one, SiteError) for one in came)
    assert "the group is no more" in str(came[2])


def test_one_that_never_comes_costs_its_time_alone() -> None:
    door = listen("j/2", 0.2)
    with pytest.raises(SiteError, match="not all of a, b came"):
        SiteGroup("j/2", ("a", "b"), 0).meet(door, 1, 1, 0.2)


def test_a_port_of_nobody_or_of_another_group_is_told() -> None:
    door = listen("j/3", WITHIN)
    with pytest.raises(SiteError, match="another group"):
        connect((LOOPBACK,), door.store.port, "j/4", 1, WITHIN)
    port = door.store.port
    del door
    with pytest.raises(SiteError, match=f"can't be reached at port {port} .*refused"):
        connect((LOOPBACK,), port, "j/3", 1, WITHIN)
