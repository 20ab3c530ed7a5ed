"""The appraiser's core: what it makes of a job's words, and when it speaks."""

import random
from typing import Any

import msgspec
import pytest

from agents.appraiser import Appraiser, AppraiserSettings, AppraiserState
from agents.base import Publish
from schemas.appraisal import NodesAppraised
from schemas.jobs import JobPhase, JobRequest, JobState, SyncMode
from schemas.training import (
    Assignment,
    Average,
    Contribution,
    ContributionOffered,
    ContributionReceived,
    Roster,
    RoundClosed,
    RoundOpened,
    Share,
)
from schemas.wire import Message

JOB, NODES = "j", ("ada", "bob", "cyd")
REQUEST = JobRequest(kind="train", workload="m:w", rounds=100, local_steps=100)


class World:
    """An appraiser and its clock; a job of three nodes, ada the reducer."""

    def __init__(self, sync: SyncMode = "round", **settings: Any) -> None:
        self.sync = sync
        self.core = Appraiser(AppraiserSettings(**settings), random.Random(1))
        self.now = 1000.0
        self.said: list[NodesAppraised] = []
        self.number = 0
        self.round = 0
        self.state(JobPhase.RUNNING)
        self.roster(NODES)
        self.shares(dict.fromkeys(NODES, 100))

    def give(self, event: Message) -> None:
        self.number += 1
        sealed = msgspec.structs.replace(event, id=f"x:1:{self.number}")
        for effect in self.core.handle(sealed, self.now):
            assert isinstance(effect, Publish)
            assert isinstance(effect.message, NodesAppraised)
            assert effect.cause == sealed.id
            self.said.append(effect.message)
        self.core.check()

    def state(self, phase: JobPhase) -> None:
        self.number += 1
        self.give(
            JobState(
                job=JOB,
                version=self.number,
                state=phase,
                reason="",
                round=self.number,
                rounds=100,
                request=msgspec.structs.replace(REQUEST, sync=self.sync),
                submitted_at=0.0,
            )
        )

    def roster(self, nodes: tuple[str, ...]) -> None:
        self.number += 1
        self.give(Roster(job=JOB, version=self.number, nodes=nodes, reducers=nodes[:2], quorum=2, reason=""))

    def shares(self, steps: dict[str, int], length: int | None = None) -> None:
        self.number += 1
        shares = {name: Share(microbatch=8, local_steps=count, encoding="int8") for name, count in steps.items()}
        self.give(
            Assignment(
                job=JOB,
                version=self.number,
                roster_version=1,
                shares=shares,
                average_encoding="int8",
                round_seconds=3.0,
                deadline_seconds=30.0,
                strategy="hybrid",
                length=length,
                reason="",
            )
        )

    def opened(self, term: int = 0, node: str = "ada", reason: str = "") -> None:
        expected = () if self.sync == "async" else NODES
        self.give(
            RoundOpened(
                job=JOB, node=node, round=self.round, term=term, deadline_seconds=30.0, expected=expected, reason=reason
            )
        )

    def offer(self, node: str, *, received: bool = True) -> None:
        """At once there; its two halves may be given apart."""
        self.give(
            ContributionOffered(
                job=JOB,
                node=node,
                round=self.round,
                base_digest="",
                samples=800,
                steps=100,
                loss=1.0,
                compute_seconds=2.0,
                encoding="int8",
                key="1",
                size=1000,
                digest="",
            )
        )
        if received:
            self.give(ContributionReceived(job=JOB, node="ada", contributor=node, round=self.round, size=1000, seconds=0.1))

    def closed(self, parts: dict[str, int], missing: tuple[str, ...] = ()) -> None:
        """`parts`: rounds late, by node."""
        counted = tuple(
            Contribution(node=name, round=self.round - late, late=late, samples=800, weight=0.3, loss=1.0)
            for name, late in parts.items()
        )
        self.give(
            RoundClosed(
                job=JOB,
                round=self.round,
                term=0,
                reducer="ada",
                next_reducer="ada",
                contributions=counted,
                missing=missing,
                average=Average(key="1", size=1000, digest="", holders=()),
                samples=800 * len(parts),
                loss=1.0,
                seconds=3.0,
                on_time=not missing,
                reason="",
            )
        )

    def play(self, rounds: int, slow: float = 3.0) -> None:
        """Rounds of which ada and bob are in time after 3 s, cyd after `slow`."""
        for _ in range(rounds):
            self.round += 1
            self.opened()
            last = self.now
            for node, seconds in sorted({"ada": 2.9, "bob": 3.0, "cyd": slow}.items(), key=lambda item: item[1]):
                self.now = last + seconds
                self.offer(node)
            self.now += 0.5
            self.closed(dict.fromkeys(NODES, 0))
            self.now += 0.1

    def value(self, node: str) -> Any:
        return next(value for value in self.said[-1].nodes if value.node == node)


def test_it_says_who_hinders_once_there_are_rounds_enough() -> None:
    world = World()
    world.play(9, slow=9.0)
    assert world.said == [], "eight rounds without the first one, the last of which still lasts"
    world.play(5, slow=9.0)
    assert world.said
    assert world.value("cyd").verdict == "hinders"
    assert world.value("cyd").without == pytest.approx(2 / 3.6 / (3 / 9.6) - 1, abs=0.01)
    assert world.value("ada").verdict == "helps"
    assert world.said[-1].samples_per_second == pytest.approx(2400 / 9.6, rel=0.01)
    assert "without cyd the job would be" in world.said[-1].reason


def test_where_nobody_waits_a_node_is_worth_its_samples() -> None:
    world = World(sync="async")
    world.shares({"ada": 100, "bob": 50, "cyd": 10})
    world.play(14, slow=9.0)
    for node in NODES:
        assert world.value(node).verdict == "helps"
        assert world.value(node).without == pytest.approx(-1 / 3, abs=0.01)


def test_it_repeats_only_what_is_news() -> None:
    world = World()
    world.play(60, slow=9.0)
    assert len(world.said) == 1
    world.play(60, slow=3.1)
    assert len(world.said) > 1
    assert world.value("cyd").verdict == "helps"
    assert [said.version for said in world.said] == list(range(1, len(world.said) + 1))


def test_the_job_s_end_has_the_last_word() -> None:
    world = World()
    world.play(4)
    assert world.said == []
    world.state(JobPhase.FINISHING)
    assert [value.verdict for value in world.said[-1].nodes] == ["early"] * 3
    assert "too early to say" in world.said[-1].reason
    said = len(world.said)
    world.state(JobPhase.COMPLETED)
    assert len(world.said) == said
    world.play(1)
    assert world.core.state.jobs == {}, "late words don't bring it back"


def test_the_first_round_and_what_began_unheard_do_not_count() -> None:
    world = World()
    world.round = 7
    world.opened()
    world.now += 500.0
    world.closed({"ada": 0})
    world.play(2)
    assert [seen.number for seen in world.core.state.jobs[JOB].seen] == [8]


def test_a_round_without_an_opening_is_left_out() -> None:
    world = World()
    world.play(3)
    world.round += 1
    world.closed(dict.fromkeys(NODES, 0))
    world.play(2)
    numbers = [seen.number for seen in world.core.state.jobs[JOB].seen]
    assert numbers == [2, 5], "round 3 is seen to end only with 4's closing, of which nobody heard the opening"


def test_what_is_known_of_a_round() -> None:
    world = World()
    world.play(2)
    world.round += 1
    world.opened()
    world.now += 2.0
    world.offer("ada")
    world.offer("bob", received=False)
    world.now += 1.0
    world.closed({"ada": 0, "bob": 0, "cyd": 1}, missing=("cyd",))
    world.now += 0.5
    world.round += 1
    world.opened()
    (seen,) = world.core.state.jobs[JOB].seen[-1:]
    parts = {(part.node, part.late): part for part in seen.parts}
    assert seen.seconds == pytest.approx(3.5)
    assert seen.waited_for == NODES
    assert seen.missing == ("cyd",)
    assert (parts["ada", 0].arrived, parts["ada", 0].up, parts["ada", 0].compute) == (pytest.approx(2.0), 0.0, 2.0)
    assert parts["bob", 0].arrived == pytest.approx(2.0), "its arrival was not heard of: its offer is the next best"
    assert parts["cyd", 1].arrived == 0.0


def test_a_take_over_is_charged_to_the_silent_reducer() -> None:
    world = World()
    world.play(2)
    world.round += 1
    world.opened()
    world.now += 20.0
    world.opened(reason="prolonged by 15.0 s")
    world.now += 14.0
    world.opened(term=1, node="bob")
    world.now += 3.0
    world.offer("bob")
    world.closed({"bob": 0})
    world.round += 1
    world.opened(node="bob")
    (seen,) = world.core.state.jobs[JOB].seen[-1:]
    assert (seen.lost, seen.lost_by, seen.seconds) == (pytest.approx(34.0), "ada", pytest.approx(37.0))
    assert seen.parts[0].arrived == pytest.approx(3.0)


def test_the_work_asked_for_sizes_rounds() -> None:
    world = World()
    world.shares({"ada": 100, "bob": 50, "cyd": 25})
    world.play(3)
    assert world.core.state.jobs[JOB].seen[-1].stretch == {"ada": 2.0}


@pytest.mark.parametrize(("length", "stretch"), [(40, {"ada": 2.0}), (None, {}), (0, {})])
def test_shortened_rounds_are_sized_by_what_is_asked_of_them(length: int | None, stretch: dict[str, float]) -> None:
    world = World()
    world.shares({"ada": 40, "bob": 20, "cyd": 10}, length)
    world.play(3)
    assert world.core.state.jobs[JOB].seen[-1].stretch == stretch


def test_memory_is_bounded_and_survives() -> None:
    world = World(rounds_kept=10, jobs_kept=2)
    world.play(30)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(world.core.state), type=AppraiserState)
    assert len(kept.jobs[JOB].seen) == 10
    again = Appraiser(AppraiserSettings(), random.Random(1), kept)
    assert again.state == world.core.state
    for name in ("k", "l"):
        request = RoundOpened(job=name, node="ada", round=1, term=0, deadline_seconds=1.0, expected=(), reason="")
        world.core.handle(request, world.now)
    assert set(world.core.state.jobs) == {"k", "l"}


def test_a_new_life_goes_on_from_what_an_earlier_one_said() -> None:
    world = World()
    world.give(NodesAppraised(job=JOB, version=7, round=3, rounds=3, samples_per_second=1.0, nodes=(), reason=""))
    world.play(20, slow=9.0)
    assert world.said[0].version == 8
