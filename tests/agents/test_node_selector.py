"""The node selector by direct calls: liveness, rosters, failures, force, restarts."""

import msgspec
import pytest
from node_selector_world import START, World, request

from agents.effects import SetTimer
from agents.inputs import Woken
from agents.node_selector import NodeSelectorState
from agents.node_selector.fleet import Silence
from schemas.anchors import DigestMismatch
from schemas.decisions import ForceNode, NodeJoined, NodeLost, NodeQuarantined, NodeReleased
from schemas.jobs import JobPhase, JobState
from schemas.network import LinkQuality
from schemas.nodes import NodeHeartbeat, NodeLeaving, NodeProfile
from schemas.training import ContributionReceived, ContributionRefused, Roster, TrainingProgress, Tuning


@pytest.fixture
def world() -> World:
    return World()


def tuning(version: int, adapt: bool) -> Tuning:
    return Tuning(job="j", version=version, phase="adaptive", policy="reactive", adapt=adapt, max_factor=2, reason="")


# Liveness


def test_a_profile_is_no_sign_of_life(world: World) -> None:
    world.give(NodeProfile(node="a", version=1, host="h", site="s", cpus=1, memory_bytes=1))
    world.run(60)
    assert world.job() == []
    assert world.all(NodeJoined) == []
    assert world.all(NodeLost) == []


def test_first_heartbeat_joins_and_says_so_once(world: World) -> None:
    world.fleet("a")
    world.run(20)
    assert [(event.node, event.returned) for event in world.all(NodeJoined)] == [("a", False)]


def test_silence_of_five_intervals_is_a_death(world: World) -> None:
    world.fleet("a", "b")
    world.kill("a")
    last = world.core.state.nodes["a"].heard_at
    world.run(4.9 - (world.now - last))
    assert world.all(NodeLost) == []
    world.run(0.2)
    lost = world.last(NodeLost)
    assert (lost.node, lost.silent_seconds) == ("a", 5.0)
    assert "5.0 s" in lost.reason


def test_the_deadline_follows_the_announced_interval(world: World) -> None:
    world.fleet("a", "b")
    world.beating.discard("a")
    world.give(NodeHeartbeat(node="a", sequence=9, interval=4.0))
    world.run(19)
    assert world.all(NodeLost) == []
    world.run(2)
    assert world.last(NodeLost).silent_seconds == 20.0


@pytest.mark.parametrize("interval", [0.0, -1.0, 1e-9, 1e300])
def test_an_absurd_interval_is_bounded(world: World, interval: float) -> None:
    world.fleet("b")
    world.give(NodeHeartbeat(node="a", sequence=1, interval=interval))
    world.run(world.settings.interval_max * world.settings.missed_beats + 1)
    assert world.last(NodeLost).node == "a"


def test_heartbeats_move_the_deadline_and_no_timer(world: World) -> None:
    world.fleet("a", "b")
    set_for = world.timers.copy()
    world.beat("a")
    last = f"node/a:1:{world.count}"
    assert world.timers == set_for
    again = world.core.handle(Silence(node="a"), world.now)
    due = world.now + world.settings.missed_beats
    assert again == [SetTimer(timer=Silence(node="a"), at=due, cause=last)], "a death is caused by the last that was heard"
    world.beating = {"b"}
    world.run(world.settings.missed_beats - 0.01)
    assert world.all(NodeLost) == []
    world.run(0.02)
    assert [event.silent_seconds for event in world.all(NodeLost)] == [pytest.approx(world.settings.missed_beats)]


def test_a_node_that_beats_faster_from_now_on_is_missed_sooner(world: World) -> None:
    world.interval = 10.0
    world.fleet("a", "b")
    world.interval = 1.0
    world.beat("a")
    world.beating = {"b"}
    world.run(world.settings.missed_beats + 0.01)
    assert [event.node for event in world.all(NodeLost)] == ["a"]


def test_a_goodbye_is_a_death_at_once(world: World) -> None:
    world.fleet("a", "b")
    world.start()
    said = world.leave("a")
    assert [type(message) for message in said] == [NodeLost, Roster]
    assert world.roster().nodes == ("b",)
    assert "goodbye" in world.why("a")


def test_a_heartbeat_overtaken_by_its_goodbye_does_not_revive(world: World) -> None:
    world.fleet("a", "b")
    life = world.lives.get("a", 1)
    world.leave("a")
    world.give(NodeHeartbeat(id=f"node/a:{life}:999999", node="a", sequence=9, interval=1))
    assert not world.core.state.nodes["a"].alive


def test_a_goodbye_of_an_earlier_life_is_ignored(world: World) -> None:
    world.fleet("b")
    world.lives["a"] = 7
    world.beat("a")
    assert world.give(NodeLeaving(id="node/a:6:3", node="a", reason="old")) == []
    assert world.core.state.nodes["a"].alive


def test_a_return_says_how_long_it_was_away_and_enrols_again(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start()
    world.kill("a")
    world.run(30)
    assert world.roster().nodes == ("b", "c")
    world.fleet("a")
    joined = world.last(NodeJoined)
    assert joined.returned
    assert joined.absent_seconds == pytest.approx(30, abs=1.5)
    assert world.roster().nodes == ("a", "b", "c")


@pytest.mark.parametrize("interval", [1.0, 10.0])
def test_a_selector_that_is_cut_off_takes_nobody_for_dead(world: World, interval: float) -> None:
    world.interval = interval
    world.fleet("a", "b")
    world.start()
    before = len(world.all(Roster))
    world.cut_off = True
    world.run(600)
    world.cut_off = False
    world.run(60)
    assert world.all(NodeLost) == []
    assert len(world.all(Roster)) == before


def test_two_cuts_in_a_row_are_no_death(world: World) -> None:
    world.interval = 10.0
    world.fleet("a", "b")
    world.start()
    world.cut_off = True
    world.run(29)
    world.cut_off, world.beating = False, {"a"}
    world.run(1)
    world.cut_off = True
    world.run(19)
    world.cut_off = False
    world.run(5)
    world.fleet("b")
    assert world.all(NodeLost) == []


def test_a_fleet_that_is_dead_is_known_to_be_as_the_server_is_heard(world: World) -> None:
    world.fleet("a", "b")
    world.beating = set()
    world.run(16)
    assert {event.node for event in world.all(NodeLost)} == {"a", "b"}


def test_answers_of_the_server_from_before_an_outage_say_nothing_after_it(world: World) -> None:
    world.fleet("a", "b")
    world.beating = set()
    world.run(8)
    world.cut_off = True
    world.run(60)
    world.cut_off = False
    world.run(4)
    assert world.all(NodeLost) == []
    world.run(13)
    assert {event.node for event in world.all(NodeLost)} == {"a", "b"}


def test_after_an_outage_every_node_gets_its_time_again(world: World) -> None:
    world.fleet("a", "b")
    world.cut_off = True
    world.run(13)
    world.cut_off = False
    world.beating = {"b"}
    world.run(4)
    assert world.all(NodeLost) == []
    world.run(3)
    assert [event.node for event in world.all(NodeLost)] == ["a"]


def test_a_selector_that_was_stopped_does_not_blame_the_nodes(world: World) -> None:
    world.fleet("a", "b")
    world.now += 100  # neither timers nor heartbeats came in
    world.fire(world.now)
    assert world.all(NodeLost) == []
    world.fleet("a", "b")
    world.run(20)
    assert world.all(NodeLost) == []


def test_a_restarted_selector_gives_nodes_a_grace(world: World) -> None:
    world.fleet("a", "b")
    world.start()
    before = len(world.all(Roster))
    world.kill("a")
    world.now += 50
    world.reborn(remembers=True)
    world.run(4)
    assert world.all(NodeLost) == []
    world.run(6)
    assert [event.node for event in world.all(NodeLost)] == ["a"]
    assert world.roster().nodes == ("b",)
    assert len(world.all(Roster)) == before + 1


# Rosters


def test_a_fleet_that_starts_gets_one_roster(world: World) -> None:
    world.job(min_nodes=2)
    for node in ("a", "b", "c", "d", "e"):
        world.beat(node)
    assert world.all(Roster) == []
    world.run(1)
    assert [roster.nodes for roster in world.all(Roster)] == [("a", "b", "c", "d", "e")]


def test_no_roster_before_there_are_enough_nodes(world: World) -> None:
    world.fleet("a", "b")
    assert world.job(min_nodes=3) == []
    world.fleet("c")
    assert world.roster().version == 1
    assert world.roster().nodes == ("a", "b", "c")


@pytest.mark.parametrize(("nodes", "quorum"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (8, 3)])
def test_quorum_is_more_than_a_third(world: World, nodes: int, quorum: int) -> None:
    world.fleet(*[f"n{i}" for i in range(nodes)])
    world.job()
    assert world.roster().quorum == quorum


def test_reducers_are_the_best_connected_and_faster_nodes(world: World) -> None:
    world.fleet("a", "b", "c", "d", "e")
    for node, score in {"a": 20, "b": 95, "c": 60, "d": 90, "e": 50}.items():
        world.link(node, score)
    world.job()
    assert world.roster().reducers == ("b", "d", "c")


def test_a_job_goes_on_below_its_minimum_and_says_so(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start(min_nodes=3)
    world.leave("a")
    assert world.roster().nodes == ("b", "c")
    assert "2 of at least 3" in world.roster().reason
    world.leave("b")
    assert (world.roster().nodes, world.roster().quorum) == (("c",), 1)
    world.leave("c")
    roster = world.roster()
    assert (roster.nodes, roster.reducers, roster.quorum) == ((), (), 1)
    assert roster.reason.startswith("nobody is left; waiting")
    world.fleet("b")
    assert world.roster().nodes == ("b",)


def test_versions_grow_and_causes_are_named(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start()
    world.causes.clear()
    said = world.give(NodeLeaving(id="node/a:1:77", node="a", reason="told to"))
    assert [type(message) for message in said] == [NodeLost, Roster]
    assert world.causes == ["node/a:1:77"] * 2
    assert [roster.version for roster in world.all(Roster)] == [1, 2]


def test_a_quiet_job_keeps_its_roster(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    for number in range(40):
        for seat, node in enumerate(("a", "b", "c", "d")):
            world.link(node, 60 + 3 * ((number + seat) % 3))
            world.steps(node, 4.0 + 0.2 * ((number * 7 + seat) % 3))
        world.rounds(1)
    assert len(world.all(Roster)) == 1


def test_two_jobs_have_rosters_of_their_own() -> None:
    world = World(jobs_together=2)
    world.fleet("a", "b", "c")
    world.start("one")
    world.start("two", exclude=("a",))
    assert world.roster("one").nodes == ("a", "b", "c")
    assert world.roster("two").nodes == ("b", "c")
    assert world.roster("one").reducers[0] == "a"
    world.leave("b")
    assert (world.roster("one").nodes, world.roster("two").nodes) == (("a", "c"), ("c",))


def test_a_node_that_leads_one_job_stands_back_in_the_next(world: World) -> None:
    world.fleet("a", "b")
    world.start("one")
    world.start("two")
    assert (world.roster("one").reducers[0], world.roster("two").reducers[0]) == ("a", "b")


@pytest.mark.parametrize("phase", [JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.CANCELLED])
def test_an_ended_job_is_forgotten_and_stays_so(world: World, phase: JobPhase) -> None:
    world.fleet("a")
    world.start()
    world.job("j", phase)
    assert world.core.state.jobs == {}
    stale = JobState(
        job="j", version=1, state=JobPhase.QUEUED, reason="", round=0, rounds=1, request=request(), submitted_at=0.0
    )
    assert world.give(stale) == []
    assert world.leave("a")[1:] == []


def test_a_reducer_with_a_broken_link_is_replaced_as_the_round_closes(world: World) -> None:
    world.fleet("a", "b", "c")
    for node in ("a", "b", "c"):
        world.link(node, 90)
    world.start()
    world.give(tuning(1, adapt=False))
    assert world.roster().reducers[0] == "a"
    world.link("a", 5, LinkQuality.CRITICAL)
    assert len(world.all(Roster)) == 1
    world.rounds(1)
    assert world.roster().reducers == ("b", "c", "a")
    assert "b reduces now" in world.roster().reason


def test_links_that_become_known_before_the_first_round_decide_who_reduces(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.job()
    world.job(state=JobPhase.RUNNING)
    assert world.roster().reducers == ("a", "b", "c")
    world.link("d", 97, LinkQuality.EXCELLENT)
    assert world.roster().reducers[0] == "d"
    assert world.roster().reason == "before the first round; d reduces now"
    world.link("a", 5, LinkQuality.POOR)
    assert world.roster().reducers == ("d", "b", "c")
    world.ready("b")
    before = world.roster()
    world.link("c", 100, LinkQuality.EXCELLENT)
    assert world.roster() == before, "a round may be open"


def test_a_line_that_carries_little_does_not_lead_however_short_its_round_trips_are(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    for node in ("a", "b", "c", "d"):
        world.link(node, 90)
    world.start()
    assert world.roster().reducers[0] == "a"
    for contributor, seconds in {"a": 0.1, "b": 100.0, "c": 0.2, "d": 0.1}.items():
        received = ContributionReceived(
            job="j", node="a", contributor=contributor, round=1, size=1_000_000, seconds=seconds
        )
        assert world.give(received) == []
    assert world.core.state.nodes["a"].rate is None, "its own went over no line"
    world.rounds(8)
    assert world.roster().reducers == ("a", "c", "d")


def test_a_returned_node_does_not_lead_before_it_is_ready(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.link("a", 100)
    world.start()
    assert world.roster().reducers[0] == "a"
    world.kill("a")
    world.run(10)
    world.fleet("a")
    assert world.roster().reducers[0] != "a"


# Failures, quarantine, force


def test_three_missed_rounds_bring_a_quarantine(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    world.rounds(2, missing=("d",))
    assert world.all(NodeQuarantined) == []
    world.rounds(1, missing=("d",))
    confined = world.last(NodeQuarantined)
    assert (confined.node, confined.seconds, confined.failures) == ("d", 30.0, 3)
    assert world.roster().nodes == ("a", "b", "c")
    assert "quarantine" in world.why("d")


def test_quarantine_ends_in_probation_and_grows(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    world.rounds(3, missing=("d",))
    world.run(29)
    assert world.all(NodeReleased) == []
    world.run(2)
    assert world.last(NodeReleased).node == "d"
    assert "d" in world.roster().nodes
    world.ready("d")
    world.rounds(1, missing=("d",))
    assert world.last(NodeQuarantined).seconds == 60.0
    world.run(61)
    world.ready("d")
    world.rounds(3)
    assert world.core.state.nodes["d"].conduct.probation == 0
    world.rounds(1, missing=("d",))
    assert world.core.state.nodes["d"].conduct.until == 0


def test_every_second_round_is_no_reason_for_a_quarantine(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start(selection="all")
    for _ in range(10):
        world.rounds(1, missing=("d",))
        world.rounds(1)
    assert world.all(NodeQuarantined) == []


def test_late_is_not_missing(world: World) -> None:
    """A node whose contributions take two rounds each, and that is listed as missing in between, stays."""
    world.fleet("a", "b", "c", "d")
    world.start()
    for _ in range(10):
        world.close("a", "b", "c", missing=("d",))
        world.close("a", "b", "c", missing=("d",))
        world.close("a", "b", "c", late={"d": 2})
    assert world.all(NodeQuarantined) == []
    assert world.roster().nodes == ("a", "b", "c", "d")


def test_a_node_that_is_seen_at_work_gets_twice_the_time(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    for number in range(6):
        assert world.all(NodeQuarantined) == []
        world.give(TrainingProgress(job="j", node="d", round=number, doing="sending"))
        world.rounds(1, missing=("d",))
    assert world.last(NodeQuarantined).node == "d"


def test_the_dead_do_not_fail(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    world.leave("d")
    for _ in range(5):
        world.close("a", "b", "c", missing=("d",))
    assert world.core.state.nodes["d"].conduct.strikes == 0


def test_no_quarantine_below_the_minimum(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start(min_nodes=3)
    world.rounds(10, missing=("c",))
    assert world.all(NodeQuarantined) == []
    assert world.roster().nodes == ("a", "b", "c")


def test_a_quarantine_ends_when_the_node_is_needed(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start(min_nodes=3)
    world.rounds(3, missing=("d",))
    assert world.roster().nodes == ("a", "b", "c")
    world.leave("a")
    assert "too few" in world.last(NodeReleased).reason
    assert world.roster().nodes == ("b", "c", "d")


def test_crashes_and_refusals_count_but_a_round_only_once(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    refused = {"job": "j", "node": "a", "contributor": "d", "reason": "not finite"}
    for _ in range(5):
        world.give(ContributionRefused(**refused, round=1))
    world.give(ContributionRefused(**refused, round=2, late=1))
    assert world.core.state.nodes["d"].conduct.strikes == 1
    world.give(DigestMismatch(job="j", node="a", suspect="d", version=1, expected="x", found="y"))
    world.crash("d")
    assert world.last(NodeQuarantined).node == "d"
    assert "killed" in world.last(NodeQuarantined).reason


def test_a_workload_that_raises_at_once_is_not_the_nodes_fault(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start()
    for _ in range(5):
        world.crash("a", "raised")
    assert world.core.state.nodes["a"].conduct.strikes == 0
    world.rounds(1)
    world.crash("a", "raised")
    assert world.core.state.nodes["a"].conduct.strikes > 0


def test_a_job_that_failed_on_a_node_for_good_goes_on_without_it() -> None:
    world = World(jobs_together=2)
    world.fleet("a", "b", "c")
    world.start("j")
    world.start("other")
    world.crash("a", "raised", retry=False)
    assert world.roster().nodes == ("b", "c")
    assert "for good: it was raised" in world.why("a")
    assert world.roster("other").nodes == ("a", "b", "c")
    world.kill("a")
    world.run(10)
    world.fleet("a")
    assert world.roster().nodes == ("b", "c")
    world.give(ForceNode(node="a", do="include", reason="mended"))
    assert "a" in world.roster().nodes


def test_force_wins_over_request_and_quarantine(world: World) -> None:
    world.fleet("a", "b", "c", "d", "e")
    world.start(exclude=("a",), include=("b",))
    assert world.roster().nodes == ("b", "c", "d", "e")
    world.give(ForceNode(node="a", do="include"))
    world.give(ForceNode(node="b", do="exclude", reason="too loud"))
    assert world.roster().nodes == ("a", "c", "d", "e")
    assert "too loud" in world.why("b")
    world.rounds(3, missing=("e",))
    assert "e" not in world.roster().nodes
    world.give(ForceNode(node="e", do="include"))
    assert "e" in world.roster().nodes
    for node in ("a", "b", "e"):
        world.give(ForceNode(node=node, do="neither"))
    assert world.roster().nodes == ("b", "c", "d")


def test_nodes_a_request_asks_for_in_vain_are_named(world: World) -> None:
    world.fleet("a")
    world.job(include=("ghost",))
    assert "nothing was ever heard" in world.why("ghost")


# Restarts


def test_a_selector_without_memory_goes_on_from_its_last_roster(world: World) -> None:
    world.fleet("a", "b", "c")
    world.start()
    world.leave("c")
    last = world.roster()
    state = world.core.state.jobs["j"].state_version
    for first in ("roster", "job"):
        world.reborn(remembers=False)
        job = JobState(
            job="j", version=state, state=JobPhase.RUNNING, reason="", round=3, rounds=9, request=request(), submitted_at=0
        )
        before = len(world.all(Roster))
        for message in (last, job) if first == "roster" else (job, last):
            world.give(message)
        assert all(roster.version > last.version for roster in world.all(Roster)[before:])
        assert world.core.state.jobs["j"].nodes == ("a", "b")
        assert world.core.state.nodes["a"].alive


def test_a_roster_said_before_the_old_one_was_heard_is_said_again(world: World) -> None:
    """Late starters see the newest message, so what has the highest version must also be the newest."""
    world.fleet("a", "b", "c")
    world.start()
    world.leave("c")
    last = world.roster()
    world.reborn(remembers=False)
    world.fleet("a", "b")
    world.job("j", JobPhase.RUNNING)
    assert world.roster().version == 1
    world.give(last)
    assert (world.roster().version, world.roster().nodes) == (last.version + 1, ("a", "b"))


def test_state_goes_through_msgpack_unchanged(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    world.give(ForceNode(node="b", do="include"))
    world.rounds(3, missing=("d",))
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(world.core.state), type=NodeSelectorState)
    assert copy == world.core.state


def test_nodes_and_words_of_strangers_are_bounded() -> None:
    world = World(nodes_kept=20)
    world.fleet("a")
    for number in range(400):
        world.give(NodeProfile(node=f"ghost{number}", version=1, host="h", site="s", cpus=1, memory_bytes=1))
        world.give(ForceNode(node=f"ghost{number}", do="exclude"))
        world.job(f"job{number}", JobPhase.CANCELLED)
    assert len(world.core.state.nodes) == 20
    assert world.core.state.nodes["a"].alive
    assert len(world.core.state.forced) <= 256
    assert len(world.core.state.ended) <= 256


def test_woken_again_sets_the_end_of_a_quarantine_again(world: World) -> None:
    world.fleet("a", "b", "c", "d")
    world.start()
    world.rounds(3, missing=("d",))
    world.reborn(remembers=True)
    world.run(31)
    assert world.last(NodeReleased).node == "d"
    assert world.now > START
    assert world.give(Woken(incarnation=3, resumed=True, at=world.now)) == []
