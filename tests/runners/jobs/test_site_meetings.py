"""Averages inside a site in the midst of a round: when each node comes to them, and that its difference stays its own."""

from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from job_in_process import WORKLOAD

from agents.trainer.works import Meetings, Met
from runners.jobs.codecs import Decoded
from runners.jobs.session import Session
from runners.jobs.site_meetings import SiteMeetings
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import whole
from schemas.jobs import JobRequest


class Noted:
    """Whoever averages: notes when."""

    def __init__(self, fails_at: int = 0) -> None:
        self.came: list[tuple[int, int]] = []
        self.fails_at = fails_at

    async def meet(self, meetings: Meetings, round_: int, number: int, samples: int) -> tuple[float, float] | None:
        self.came.append((number, samples))
        return None if number == self.fails_at else (0.1 * number, 1.0 / number)


def cut(parts: int) -> Meetings:
    return Meetings(epoch=1, parts=parts, within=1.0, averaging_within=1.0)


@given(st.integers(1, 30), st.integers(1, 30))
async def test_each_average_comes_once_and_in_order_however_few_steps_there_are(steps: int, parts: int) -> None:
    noted = Noted()
    meetings = SiteMeetings(noted, cut(parts), 7)
    for step in range(1, steps + 1):
        await meetings.after(step, steps, 4 * step)
    assert [number for number, _ in noted.came] == list(range(1, parts))
    for number, samples in noted.came:
        assert 0 <= samples / 4 - steps * number / parts < 1, "as soon as the part is done"
    assert meetings.met.count == parts - 1


async def test_a_node_in_no_site_never_stops() -> None:
    meetings = SiteMeetings(Noted(), None, 7)
    await meetings.after(10, 10, 40)
    assert meetings.met == Met()


async def test_after_one_that_fails_there_are_no_more_in_the_round() -> None:
    noted = Noted(fails_at=3)
    meetings = SiteMeetings(noted, cut(10), 7)
    for step in range(1, 11):
        await meetings.after(step, 10, step)
    assert [number for number, _ in noted.came] == [1, 2, 3]
    assert meetings.met == Met(count=2, seconds=pytest.approx(0.15), waited=1.0)


# What each node offers.


@pytest.fixture
def sessions(tmp_path: Path) -> list[Session]:
    """Two nodes of a job at one anchor."""
    (tmp_path / "square_meeting.py").write_text(WORKLOAD.format(width=6))
    request = msgspec.convert({"kind": "train", "workload": "square_meeting:workload"}, JobRequest)
    made = []
    for node in "ab":
        spec = JobSpec(job="j", node=node, server="", request=request, app_dir=str(tmp_path), device="cpu")
        made.append(Session.load(spec))
    made[1].replace(made[0].snapshot()[1])
    assert made[0].digest == made[1].digest
    for session in made:
        session.begin_steps(1)
    return made


def average(sessions: list[Session], weights: list[float]) -> torch.Tensor:
    """What a group would make of it; every session goes on from there."""
    told = [session.added() for session in sessions]
    made = sum((weight * vector for weight, (_, vector) in zip(weights, told, strict=True)), torch.zeros(len(told[0][1])))
    for session, (digest, _) in zip(sessions, told, strict=True):
        assert session.adopt(digest, made)
    return made


def model_of(session: Session) -> torch.Tensor:
    return session.anchor.layout.flatten(session.trainer.model)


def test_differences_hold_a_nodes_own_steps_and_average_to_the_way_of_all(sessions: list[Session]) -> None:
    a, b = sessions
    own = {session.spec.node: torch.zeros(a.anchor.layout.count) for session in sessions}
    for turn in range(3):
        for session in sessions:
            before = model_of(session)
            for _ in range(1 + turn):
                session.step(4)
            own[session.spec.node] += model_of(session) - before
        average(sessions, [0.75, 0.25])
        torch.testing.assert_close(model_of(a), model_of(b))
    start, end = a.anchor.values.clone(), model_of(a)
    differences = [whole(Decoded(session.difference("float32", 1))) for session in sessions]
    for session, difference in zip(sessions, differences, strict=True):
        torch.testing.assert_close(difference, own[session.spec.node])
    torch.testing.assert_close(start + 0.75 * differences[0] + 0.25 * differences[1], end)


def test_an_anchor_that_moves_in_the_midst_leaves_a_difference_as_it_is(sessions: list[Session]) -> None:
    a, b = sessions
    a.step(4)
    average(sessions, [1.0, 0.0])
    a.step(4)
    digest, before = a.added()
    b.step(4)
    assert a.apply(1, b.difference("float32", 1)) is not None, "the round was closed without it"
    count = a.anchor.layout.parameters
    torch.testing.assert_close(a.added()[1][:count], before[:count])
    assert not a.adopt(digest, before), "what others added belongs to an anchor that has moved on"


def test_the_next_round_begins_at_the_anchor(sessions: list[Session]) -> None:
    a, _ = sessions
    a.step(4)
    average(sessions, [0.5, 0.5])
    a.difference("float32", 1)
    a.begin_steps(2)
    assert not a.added()[1].any()
