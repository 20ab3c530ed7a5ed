"""The desk by direct calls: what it takes in, how it follows a job, and that a job ends once."""

import random
from typing import Any

import msgspec
import pytest

from agents.base import Asked, CancelTimer, Effect, Publish, Purge, Reply, SetTimer
from agents.inputs import Woken
from agents.job_desk import DeskState, JobDesk, JobDeskSettings
from agents.job_desk.core import FinishingTooLong, RetentionOver, Settled
from schemas.decisions import NodeJoined, NodeLost
from schemas.jobs import (
    CancelRequest,
    JobAnswer,
    JobList,
    JobPhase,
    JobQueued,
    JobRefused,
    JobRequest,
    JobState,
    ListRequest,
    ModelStored,
)
from schemas.nodes import WorkFailed, WorkStarted
from schemas.training import Average, Contribution, Roster, RoundClosed, Validated
from schemas.wire import Message

NOW = 1_000.0


def a_desk(**settings: Any) -> JobDesk:
    return JobDesk(JobDeskSettings(**settings), random.Random(1), DeskState())


def a_request(**fields: Any) -> JobRequest:
    return JobRequest(**{"kind": "train", "workload": "examples.digits:workload", "rounds": 3, **fields})


def ask(desk: JobDesk, request: Any, now: float = NOW) -> tuple[Any, list[Effect]]:
    """The answer, and the effects before it."""
    effects = desk.handle(Asked(reply_to="inbox", request=request, at=now), now)
    desk.check()
    reply = effects[-1]
    assert isinstance(reply, Reply)
    assert reply.to == "inbox"
    assert not any(isinstance(effect, Reply) for effect in effects[:-1])
    return reply.answer, effects[:-1]


def tell(desk: JobDesk, event: Any, now: float = NOW) -> list[Effect]:
    effects = desk.handle(event, now)
    desk.check()
    return effects


def states(effects: list[Effect]) -> list[JobState]:
    return [e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, JobState)]


def the_state(effects: list[Effect]) -> JobState:
    (state,) = states(effects)
    return state


def published(effects: list[Effect], kind: type[Message]) -> list[Any]:
    return [e.message for e in effects if isinstance(e, Publish) and isinstance(e.message, kind)]


def joined(node: str) -> NodeJoined:
    return NodeJoined(node=node, returned=False, reason="heartbeats")


def a_roster(job: str, *nodes: str, version: int = 1) -> Roster:
    return Roster(job=job, version=version, nodes=nodes, reducers=nodes[:1], quorum=1, reason="all there are")


def a_round(job: str, number: int, *nodes: str, missing: tuple[str, ...] = ()) -> RoundClosed:
    parts = tuple(Contribution(node=n, round=number, late=0, samples=8, weight=0.5, loss=2.0) for n in nodes)
    return RoundClosed(
        id=f"reducer/{job}/a:1:{number}",
        job=job,
        round=number,
        term=0,
        reducer="a",
        next_reducer="a",
        contributions=parts,
        missing=missing,
        average=Average(key="k", size=1, digest="d", holders=("a",)),
        samples=16,
        loss=3.0 - number / 2,
        seconds=1.0,
        on_time=not missing,
        reason="all are there",
    )


def a_model(job: str, number: int, final: bool) -> ModelStored:
    return ModelStored(job=job, node="a", round=number, name=f"{job}/model.safetensors", size=9, digest="d", final=final)


def a_failure(job: str, node: str, *, retry: bool = False, lines: tuple[str, ...] = ()) -> WorkFailed:
    return WorkFailed(
        node=node, job=job, attempt=1, kind="raised", code=4, last_lines=lines, retry=retry, reason="exit code 4"
    )


def running(desk: JobDesk, job: str = "j", **fields: Any) -> None:
    ask(desk, a_request(id=job, **fields))
    tell(desk, a_roster(job, "a", "b"))


def test_a_job_goes_from_its_request_to_its_model() -> None:
    desk = a_desk()
    for node in ("a", "b"):
        tell(desk, joined(node))
    answer, effects = ask(desk, a_request(min_nodes=2))
    job = answer.job
    assert answer == JobAnswer(accepted=True, job=job)
    state = the_state(effects)
    assert (state.job, state.version, state.state, state.submitted_at) == (job, 1, JobPhase.QUEUED, NOW)
    assert state.request.min_nodes == 2
    state = the_state(tell(desk, a_roster(job, "a", "b")))
    assert (state.version, state.state) == (2, JobPhase.RUNNING)
    assert state.reason == "running on 2 nodes: a, b"
    state = the_state(tell(desk, a_round(job, 1, "a", missing=("b",))))
    assert (state.version, state.round, state.loss) == (3, 1, 2.5)
    assert state.reason == "round 1 of 3 closed with 1 node, without b"
    tell(desk, a_round(job, 2, "a", "b"))
    effects = tell(desk, a_round(job, 3, "a", "b"))
    assert (the_state(effects).state, the_state(effects).round) == (JobPhase.FINISHING, 3)
    assert SetTimer(timer=FinishingTooLong(job=job), at=NOW + 120, cause=f"reducer/{job}/a:1:3") in effects
    effects = tell(desk, a_model(job, 3, final=True))
    assert the_state(effects).state is JobPhase.COMPLETED
    assert "model.safetensors" in the_state(effects).reason
    assert CancelTimer(timer=FinishingTooLong(job=job)) in effects


def test_a_checkpoint_is_no_end() -> None:
    desk = a_desk()
    running(desk)
    assert states(tell(desk, a_model("j", 1, final=False))) == []


def test_the_reason_of_a_queued_job_counts_nodes() -> None:
    desk = a_desk()
    _, effects = ask(desk, a_request(id="j", min_nodes=2, exclude=("x",)))
    assert the_state(effects).reason == "waiting for 2 nodes; none is there"
    assert states(tell(desk, joined("x"))) == [], "an excluded node doesn't count"
    assert the_state(tell(desk, joined("a"))).reason == "waiting for 2 nodes; 1 is there"
    assert the_state(tell(desk, joined("b"))).reason == "enough nodes are there; waiting for the roster"
    assert states(tell(desk, joined("c"))) == [], "nothing new to say"
    running(desk, "other")
    _, effects = ask(desk, a_request(id="next"))
    assert the_state(effects).reason == "enough nodes are there; waiting for its share of them beside other"
    tell(desk, NodeLost(node="c", silent_seconds=3, reason="silence"))
    lost = tell(desk, NodeLost(node="b", silent_seconds=3, reason="silence"))
    assert the_state(lost).reason == "waiting for 2 nodes; 1 is there"
    assert the_state(lost).state is JobPhase.QUEUED


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"min_nodes": 3, "max_nodes": 2}, "$.max_nodes"),
        ({"microbatch": 12}, "$.microbatch"),
        ({"microbatch": 128}, "$.microbatch"),
        ({"microbatch": 2, "microbatch_min": 4}, "$.microbatch"),
        ({"microbatch_min": 3}, "$.microbatch_min"),
        ({"microbatch_max": 48}, "$.microbatch_max"),
        ({"microbatch_min": 32, "microbatch_max": 16}, "$.microbatch_min"),
        ({"include": ("a", "b"), "exclude": ("b",)}, "$.exclude"),
        ({"fragments": 4}, "$.fragments"),
        ({"fragments": 4, "sync": "step"}, "$.fragments"),
        ({"sync": "step", "outer": "nesterov"}, "$.outer"),
        ({"sync": "step", "outer_lr": 0.7}, "$.outer_lr"),
        ({"sync": "step", "aggregation": "median", "min_nodes": 3}, "$.aggregation"),
        ({"fragments": 4, "sync": "async"}, "$.fragments"),
        ({"sync": "async", "outer": "nesterov"}, "$.outer"),
        ({"sync": "async", "aggregation": "median", "min_nodes": 3}, "$.aggregation"),
        ({"sync": "async", "adaptation": "proactive"}, "$.adaptation"),
        ({"include": ("a", "b"), "max_nodes": 1}, "$.include"),
        ({"target_loss": 1.0, "validate_every": 0}, "$.validate_every"),
        ({"resume": "nobody"}, "$.resume"),
        ({"aggregation": "median", "min_nodes": 2}, "$.aggregation"),
        ({"aggregation": "trimmed"}, "$.aggregation"),
        ({"aggregation": "centered_clip", "min_nodes": 2}, "$.aggregation"),
        ({"aggregation": "krum", "min_nodes": 4}, "$.aggregation"),
    ],
)
def test_what_types_cant_say_is_refused_with_its_field(fields: dict[str, Any], at: str) -> None:
    desk = a_desk()
    answer, effects = ask(desk, a_request(**fields))
    assert (answer.accepted, answer.field, answer.job) == (False, at, None)
    assert answer.reason
    assert effects == []
    assert desk.state.jobs == {}


@pytest.mark.parametrize(("method", "nodes"), [("mean", 1), ("clip", 1), ("median", 3), ("trimmed", 3), ("krum", 5)])
def test_an_aggregation_is_taken_with_the_nodes_it_needs(method: str, nodes: int) -> None:
    answer, _ = ask(a_desk(), a_request(aggregation=method, min_nodes=nodes))
    assert answer.accepted


def test_an_aggregation_is_refused_with_what_would_do() -> None:
    answer, _ = ask(a_desk(), a_request(aggregation="krum", min_nodes=4))
    assert answer.reason == (
        "krum needs 5 nodes to tolerate a bad one, but min_nodes is 4: set min_nodes to 5 or more, or take clip"
    )


def test_resume_needs_a_checkpoint() -> None:
    desk = a_desk()
    running(desk)
    assert ask(desk, a_request(resume="j"))[0].field == "$.resume"
    tell(desk, a_model("j", 1, final=False))
    assert ask(desk, a_request(resume="j"))[0].accepted


def test_an_id_makes_a_request_idempotent() -> None:
    desk = a_desk()
    first, _ = ask(desk, a_request(id="mine"))
    again, effects = ask(desk, a_request(id="mine"))
    assert first == again == JobAnswer(accepted=True, job="mine")
    assert effects == []
    other, effects = ask(desk, a_request(id="mine", rounds=4))
    assert (other.accepted, other.field, effects) == (False, "$.id", [])


def test_without_an_id_every_request_is_a_job_of_its_own() -> None:
    desk = a_desk()
    jobs = {ask(desk, a_request())[0].job for _ in range(20)}
    assert len(jobs) == 20
    assert all(job.startswith("train-") and len(job) == 12 for job in jobs)


def test_the_queue_is_bounded() -> None:
    desk = a_desk(max_unfinished=2)
    ask(desk, a_request(id="one"))
    ask(desk, a_request(id="two"))
    answer, _ = ask(desk, a_request(id="three"))
    assert (answer.accepted, answer.field, answer.retry_after) == (False, "$", 60.0)
    assert ask(desk, a_request(id="two"))[0].accepted, "a repeated request is no further job"
    ask(desk, CancelRequest(job="one"))
    assert ask(desk, a_request(id="three"))[0].accepted


def test_what_doesnt_decode_is_answered_in_the_desks_terms() -> None:
    assert JobDesk.refusal("$.rounds", "Expected `int`") == JobAnswer(
        accepted=False, field="$.rounds", reason="Expected `int`"
    )


@pytest.mark.parametrize("phase", ["queued", "running"])
def test_cancel(phase: str) -> None:
    desk = a_desk()
    ask(desk, a_request(id="j"))
    if phase == "running":
        tell(desk, a_roster("j", "a"))
    answer, effects = ask(desk, CancelRequest(job="j", reason="changed my mind"))
    assert answer == JobAnswer(accepted=True, job="j")
    assert (the_state(effects).state, the_state(effects).reason) == (JobPhase.CANCELLED, "changed my mind")
    again, effects = ask(desk, CancelRequest(job="j"))
    assert (again.accepted, effects) == (True, [])
    assert states(tell(desk, a_roster("j", "a", version=2))) == [], "it doesn't start after its end"
    assert states(tell(desk, a_round("j", 3, "a"))) == []


def test_cancel_of_what_isnt_there_or_is_over() -> None:
    desk = a_desk()
    assert ask(desk, CancelRequest(job="j"))[0].field == "$.job"
    running(desk)
    tell(desk, a_model("j", 3, final=True))
    answer, _ = ask(desk, CancelRequest(job="j"))
    assert (answer.accepted, answer.field) == (False, "$.job")
    assert "completed" in answer.reason


def test_old_news_changes_nothing() -> None:
    desk = a_desk()
    running(desk)
    tell(desk, a_round("j", 2, "a"))
    before = desk.state.jobs["j"].version
    for event in (a_round("j", 2, "a"), a_round("j", 1, "a"), a_roster("j", "a", "b"), a_round("other", 1, "a")):
        assert tell(desk, event) == []
    assert desk.state.jobs["j"].version == before


def test_a_target_loss_ends_a_job_early() -> None:
    desk = a_desk()
    running(desk, target_loss=1.5)
    tell(desk, a_round("j", 1, "a"))
    assert tell(desk, Validated(job="j", node="a", round=1, loss=1.6, seconds=0.1)) == []
    state = the_state(tell(desk, Validated(job="j", node="a", round=1, loss=1.5, seconds=0.1)))
    assert (state.state, state.round) == (JobPhase.FINISHING, 1)
    assert "1.5" in state.reason
    assert states(tell(desk, Validated(job="j", node="b", round=1, loss=1.4, seconds=0.1))) == []


def test_a_model_that_nobody_stores_fails_the_job() -> None:
    desk = a_desk(finishing_seconds=30.0)
    running(desk, rounds=1)
    tell(desk, a_round("j", 1, "a"))
    state = the_state(tell(desk, FinishingTooLong(job="j"), NOW + 30))
    assert (state.state, state.reason) == (JobPhase.FAILED, "no node stored the model within 30 s after the last round")
    assert states(tell(desk, a_model("j", 1, final=True))) == [], "a model that comes later changes nothing"


def test_failing_on_every_node_of_the_roster_fails_the_job() -> None:
    desk = a_desk()
    for node in ("a", "b", "c"):
        tell(desk, joined(node))
    running(desk)
    assert states(tell(desk, a_failure("j", "a", retry=True))) == []
    lines = ("Traceback (most recent call last):", "ValueError: no such shape", "")
    assert states(tell(desk, a_failure("j", "a", lines=lines))) == []
    state = the_state(tell(desk, a_failure("j", "b", lines=lines)))
    assert state.state is JobPhase.FAILED
    assert "b: raised: ValueError: no such shape" in state.reason


def test_too_few_nodes_that_can_still_run_it_fail_the_job() -> None:
    desk = a_desk(return_seconds=100.0)
    for node in ("a", "b", "c"):
        tell(desk, joined(node))
    running(desk, min_nodes=2)
    tell(desk, NodeLost(node="c", silent_seconds=3, reason="silence"))
    assert states(tell(desk, a_failure("j", "a"))) == [], "c may come back"
    state = the_state(tell(desk, a_roster("j", "b", version=2), NOW + 101))
    assert state.state is JobPhase.FAILED
    assert "fewer than 2 nodes" in state.reason


def test_a_job_waits_where_nobody_lets_its_code_run_until_somebody_does() -> None:
    desk = a_desk()
    for node in ("a", "b"):
        tell(desk, joined(node))
    running(desk, min_nodes=2)
    for node in ("a", "b"):
        declined = msgspec.structs.replace(a_failure("j", node), kind="declined", reason="say `shoal trust KEY`")
        assert states(tell(desk, declined)) == []
    nobody = msgspec.structs.replace(a_roster("j", version=2), reason="nobody is left; waiting; b: say `shoal trust KEY`")
    state = the_state(tell(desk, nobody))
    assert state.state is JobPhase.RUNNING
    assert state.reason == "waiting for nodes: nobody is left; waiting; b: say `shoal trust KEY`"
    assert the_state(tell(desk, a_roster("j", "b", version=3))).reason == "running on 1 node: b"


def test_a_node_that_tries_again_has_not_failed() -> None:
    desk = a_desk()
    running(desk)
    tell(desk, a_failure("j", "a"))
    tell(desk, WorkStarted(node="a", job="j", attempt=1, reason="restarted"))
    assert states(tell(desk, a_failure("j", "b"))) == []


def test_a_job_that_lost_all_its_nodes_says_so() -> None:
    desk = a_desk()
    tell(desk, joined("a"))
    tell(desk, joined("b"))
    running(desk)
    assert states(tell(desk, NodeLost(node="a", silent_seconds=3, reason="silence"))) == []
    state = the_state(tell(desk, NodeLost(node="b", silent_seconds=3, reason="silence")))
    assert (state.state, state.reason) == (JobPhase.RUNNING, "waiting for nodes: a, b are lost")


def test_the_list_is_newest_first() -> None:
    desk = a_desk()
    for job in ("one", "two", "three"):
        ask(desk, a_request(id=job))
    tell(desk, a_roster("two", "a"))
    listed = ask(desk, ListRequest())[0]
    assert isinstance(listed, JobList)
    assert [row.job for row in listed.jobs] == ["three", "two", "one"]
    assert [row.job for row in ask(desk, ListRequest(states=("running",)))[0].jobs] == ["two"]
    assert ask(desk, ListRequest(states=("running", "runing")))[0].field == "$.states[1]"


def test_the_queue_is_admission_without_an_answer() -> None:
    desk = a_desk()
    assert the_state(tell(desk, JobQueued(id="cli:1:1", at=900.0, request=a_request(id="j")))).submitted_at == 900.0
    assert tell(desk, JobQueued(id="cli:1:2", request=a_request(id="j"))) == []
    (refused,) = published(tell(desk, JobQueued(id="cli:1:3", request=a_request(id="j", rounds=9))), JobRefused)
    assert (refused.job, refused.field) == ("j", "$.id")
    (refused,) = published(tell(desk, JobQueued(id="cli:1:4", request=a_request())), JobRefused)
    assert refused.field == "$.id"
    (refused,) = published(tell(desk, JobQueued(id="cli:1:5", request=a_request(id="k", microbatch=3))), JobRefused)
    assert (refused.job, refused.field) == ("k", "$.microbatch")


def test_after_an_end_what_the_streams_hold_goes() -> None:
    desk = a_desk(retention_seconds=50.0, keep_ended=2)
    ask(desk, a_request(id="one"))
    _, effects = ask(desk, CancelRequest(job="one"))
    assert SetTimer(timer=RetentionOver(job="one"), at=NOW + 50) in effects
    (purge,) = tell(desk, RetentionOver(job="one"), NOW + 50)
    assert isinstance(purge, Purge)
    assert purge.subjects == "shoal.training.one.>"
    for job in ("two", "three"):
        ask(desk, a_request(id=job))
        _, effects = ask(desk, CancelRequest(job=job))
    assert [e.subjects for e in effects if isinstance(e, Purge)] == ["shoal.training.one.>", "shoal.jobs.one.>"]
    assert sorted(desk.state.jobs) == ["three", "two"]


def test_a_desk_without_memory_adopts_what_it_said_before() -> None:
    earlier = a_desk()
    running(earlier)
    said = the_state(tell(earlier, a_round("j", 1, "a")))
    ended = a_desk()
    running(ended, "old")
    over = the_state(ask(ended, CancelRequest(job="old"))[1])

    desk = a_desk()
    woken = tell(desk, Woken(incarnation=2, resumed=False, at=NOW))
    assert SetTimer(timer=Settled(), at=NOW + 1.0) in woken
    again = JobQueued(id="cli:1:1", request=a_request(id="old"))
    assert tell(desk, again) == [], "it waits for the states of known jobs"
    assert tell(desk, said) == []
    tell(desk, over)
    assert tell(desk, Settled(), NOW + 1) == [], "`old` is known, and was not started again"
    state = the_state(tell(desk, a_round("j", 2, "a")))
    assert (state.version, state.round) == (said.version + 1, 2)
    assert ask(desk, a_request(id="j"))[0].accepted
    assert ask(desk, a_request(id="j", rounds=7))[0].field == "$.id"


def test_a_woken_desk_sets_its_deadlines_again() -> None:
    desk = a_desk()
    running(desk, rounds=1)
    tell(desk, a_round("j", 1, "a"))
    ask(desk, a_request(id="k"))
    ask(desk, CancelRequest(job="k"))
    woken = tell(desk, Woken(incarnation=2, resumed=True, at=NOW), NOW + 5)
    assert woken == [
        SetTimer(timer=FinishingTooLong(job="j"), at=NOW + 120),
        SetTimer(timer=RetentionOver(job="k"), at=NOW + 86_400),
    ]


def test_a_job_whose_nodes_all_yield_waits_says_so_and_goes_on() -> None:
    desk = a_desk()
    for node in ("a", "b"):
        tell(desk, joined(node))
    running(desk)
    tell(desk, a_roster("j", "a", version=2))
    reason = "nobody is left; waiting; a: yields: paused by hand: a game"
    empty = Roster(job="j", version=3, nodes=(), reducers=(), quorum=1, reason=reason)
    state = the_state(tell(desk, empty))
    assert (state.state, state.reason) == (JobPhase.RUNNING, f"waiting for nodes: {reason}")
    state = the_state(tell(desk, a_roster("j", "a", version=4)))
    assert (state.state, state.reason) == (JobPhase.RUNNING, "running on 1 node: a")


def test_what_empties_a_roster_by_death_is_said_once() -> None:
    desk = a_desk()
    tell(desk, joined("a"))
    running(desk)
    tell(desk, a_roster("j", "a", version=2))
    tell(desk, NodeLost(node="a", silent_seconds=3, reason="silence"))
    assert states(tell(desk, Roster(job="j", version=3, nodes=(), reducers=(), quorum=1, reason="nobody is left"))) == []


def test_a_lone_node_that_fails_for_good_doesnt_end_a_job_that_others_can_have() -> None:
    desk = a_desk()
    tell(desk, joined("b"))
    running(desk)
    tell(desk, a_roster("j", "a", version=2))
    assert states(tell(desk, a_failure("j", "a"))) == [], "the next roster has another node"
    tell(desk, a_roster("j", "b", version=3))
    assert the_state(tell(desk, a_failure("j", "b"))).state is JobPhase.FAILED
