"""The node selector under any order of events: what must hold after each of them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from node_selector_world import World

from schemas.anchors import DigestMismatch
from schemas.decisions import ForceNode
from schemas.jobs import JobPhase
from schemas.network import LinkQuality
from schemas.training import ContributionRefused, Roster, Tuning

NODES = ("ant", "bee", "cat", "dog", "eel", "fox")
JOBS = ("one", "two")
nodes, jobs = st.sampled_from(NODES), st.sampled_from(JOBS)
strategies = st.sampled_from(["all", "quality", "top_n", "adaptive", "contribution", "useful"])
some_nodes = st.lists(nodes, max_size=2, unique=True).map(tuple)


class SelectorMachine(RuleBasedStateMachine):
    """Nodes come, go, fail and return, links change, jobs run, the selector restarts; `World` checks after each input."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(quarantine_seconds=8.0, turn_after=3, trial_rounds=2, nodes_kept=16)

    @initialize(count=st.integers(1, len(NODES)))
    def begin(self, count: int) -> None:
        self.world.fleet(*NODES[:count])

    @rule(node=nodes)
    def beat(self, node: str) -> None:
        self.world.beat(node)

    @rule(node=nodes)
    def kill(self, node: str) -> None:
        self.world.kill(node)

    @rule(node=nodes)
    def leave(self, node: str) -> None:
        self.world.leave(node)

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 3.0, 7.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(
        job=jobs,
        selection=strategies,
        min_nodes=st.integers(1, 4),
        spare=st.none() | st.integers(0, 2),
        include=some_nodes,
        exclude=some_nodes,
    )
    def submit(
        self,
        job: str,
        selection: str,
        min_nodes: int,
        spare: int | None,
        include: tuple[str, ...],
        exclude: tuple[str, ...],
    ) -> None:
        most = None if spare is None else min_nodes + spare
        if job not in self.world.core.state.ended and job not in self.world.core.state.jobs:
            self.world.job(job, selection=selection, min_nodes=min_nodes, max_nodes=most, include=include, exclude=exclude)
            self.world.job(job, JobPhase.RUNNING)

    @precondition(lambda self: self.world.core.state.jobs)
    @rule(job=jobs, phase=st.sampled_from([JobPhase.FINISHING, JobPhase.COMPLETED]))
    def finish(self, job: str, phase: JobPhase) -> None:
        if job in self.world.core.state.jobs and self.world.core.state.jobs[job].round > 6:
            self.world.job(job, phase)

    @rule(job=jobs, node=nodes)
    def ready(self, job: str, node: str) -> None:
        self.world.ready(node, job)

    @rule(job=jobs, node=nodes, seconds=st.floats(0, 10), samples=st.integers(0, 500))
    def step(self, job: str, node: str, seconds: float, samples: int) -> None:
        self.world.steps(node, seconds, samples, job)

    @rule(job=jobs, missing=some_nodes, late=some_nodes, count=st.integers(1, 4))
    def close(self, job: str, missing: tuple[str, ...], late: tuple[str, ...], count: int) -> None:
        for _ in range(count):
            if job in self.world.core.state.jobs:
                inside = self.world.core.state.jobs[job].nodes
                there = [node for node in inside if node not in missing and node not in late]
                behind = {node: 2 for node in late if node in inside}
                self.world.close(*there, missing=missing, late=behind, name=job)

    @rule(job=jobs, node=nodes, kind=st.sampled_from(["raised", "killed", "hung"]), retry=st.booleans())
    def crash(self, job: str, node: str, kind: str, retry: bool) -> None:
        self.world.crash(node, kind, retry, job)

    @rule(job=jobs, node=nodes, round=st.integers(1, 30))
    def refuse(self, job: str, node: str, round: int) -> None:
        self.world.give(ContributionRefused(job=job, node="ant", contributor=node, round=round, reason="not finite"))
        self.world.give(DigestMismatch(job=job, node="ant", suspect=node, version=round, expected="x", found="y"))

    @rule(node=nodes, score=st.floats(0, 100), quality=st.sampled_from(LinkQuality))
    def link(self, node: str, score: float, quality: LinkQuality) -> None:
        self.world.link(node, score, quality)

    @rule(node=nodes, do=st.sampled_from(["include", "exclude", "neither", "neither"]))
    def force(self, node: str, do: str) -> None:
        self.world.give(ForceNode(node=node, do=do))

    @rule(job=jobs, adapt=st.booleans(), version=st.integers(0, 50))
    def tune(self, job: str, adapt: bool, version: int) -> None:
        fields = {"job": job, "version": version, "phase": "adaptive", "policy": "reactive", "max_factor": 2.0}
        self.world.give(Tuning(**fields, adapt=adapt, reason=""))

    @rule(remembers=st.sampled_from([True, True, False]))
    def restart(self, remembers: bool) -> None:
        world = self.world
        before = {roster.job: roster for roster in world.all(Roster)}
        running = dict(world.core.state.jobs)
        world.reborn(remembers=remembers)
        if not remembers:
            for roster in before.values():
                if roster.job in running:
                    world.give(roster)
            for name, job in running.items():
                world.versions[name] = job.state_version
                world.job(name, JobPhase.RUNNING)

    @invariant()
    def versions_grow_by_one(self) -> None:
        for job in JOBS:
            versions = [roster.version for roster in self.world.all(Roster) if roster.job == job]
            assert versions == list(range(1, len(versions) + 1))

    @invariant()
    def what_was_published_is_what_is_known(self) -> None:
        for name, job in self.world.core.state.jobs.items():
            if job.version:
                roster = self.world.roster(name)
                assert (roster.version, roster.nodes, roster.reducers) == (job.version, job.nodes, job.reducers)
                assert roster.reason
                assert all(exclusion.reason for exclusion in roster.excluded)

    @invariant()
    def the_quarantined_are_in_no_roster_unless_forced(self) -> None:
        state = self.world.core.state
        for job in state.jobs.values():
            for node in job.nodes:
                forced = node in job.request.include or node in state.forced
                assert forced or not state.nodes[node].conduct.quarantined


TestSelector = SelectorMachine.TestCase
TestSelector.settings = settings(
    max_examples=35, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

MOVES = st.lists(
    st.tuples(
        st.sampled_from(["beat", "kill", "leave", "wait", "miss", "close", "link", "step", "crash"]), st.integers(0, 5)
    ),
    max_size=40,
)


def play(moves: list[tuple[str, int]], names: tuple[str, ...], strategy: str) -> list[tuple[object, ...]]:
    """The rosters that a schedule of moves leads to, with the names' places in `names` instead of the names."""
    world = World()
    world.fleet(*names[:4])
    world.start(selection=strategy, max_nodes=4)
    for move, number in moves:
        node = names[number]
        if move == "beat":
            world.beat(node)
        elif move == "kill":
            world.kill(node)
        elif move == "leave":
            world.leave(node)
        elif move == "wait":
            # All nodes beat at the same instants; their order there is by place, not by name.
            world.order = {name: place for place, name in enumerate(names)}
            world.run(float(number))
        elif move == "link":
            world.link(node, 15.0 * number)
        elif move == "step":
            world.steps(node, 1.0 + number)
        elif move == "crash":
            world.crash(node)
        else:
            world.rounds(2, missing=(node,) if move == "miss" else ())
    place = {name: number for number, name in enumerate(names)}
    return [
        (
            roster.version,
            [place[node] for node in roster.nodes],
            [place[node] for node in roster.reducers],
            [place[exclusion.node] for exclusion in roster.excluded],
        )
        for roster in world.all(Roster)
    ]


@settings(max_examples=25, deadline=None)
@given(moves=MOVES, order=st.permutations(NODES), strategy=strategies)
def test_renaming_nodes_renames_decisions(moves: list[tuple[str, int]], order: list[str], strategy: str) -> None:
    assert play(moves, NODES, strategy) == play(moves, tuple(order), strategy)


@pytest.mark.parametrize("better", [0.0, 20.0, 60.0])
def test_a_better_link_never_costs_the_first_seat(better: float) -> None:
    world = World()
    world.fleet(*NODES)
    for node in NODES:
        world.link(node, 40.0)
    world.link("dog", 40.0 + better)
    world.job()
    seat = world.roster().reducers.index("dog") if "dog" in world.roster().reducers else 3
    assert seat == (3 if better == 0 else 0)
