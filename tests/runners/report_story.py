"""A job as it might have gone, as messages: five nodes, 25 rounds, a spike, a killed node, a link worse and better."""

import math
from collections.abc import Iterator

from schemas.bus import BusDisturbed
from schemas.decisions import AdaptationCost, AgentStarted, NodeJoined, NodeLost, NodeQuarantined
from schemas.emulation import EmulatedLinkChanged
from schemas.jobs import JobPhase, JobRequest, JobState, ModelStored
from schemas.network import LinkQuality, LinkQualityChanged
from schemas.nodes import NodeProfile, WorkFailed
from schemas.training import (
    Assignment,
    Average,
    AverageOffered,
    Contribution,
    ContributionOffered,
    Roster,
    RoundClosed,
    RoundOpened,
    Share,
    Tuning,
    Validated,
)
from schemas.wire import Message, seal

BEGIN = 1_700_000_000.0
ROUNDS = 25
SECONDS = 4.0
"""Of a round."""
LINKS = {"ada": "", "bob": "good", "cyd": "average", "dan": "poor", "eve": "unstable"}
SIZE = 1_000_000
"""Bytes of a contribution."""
STEPS = 10


class Story:
    """Says messages with an envelope."""

    def __init__(self, job: str = "demo") -> None:
        self.job = job
        self.messages: list[Message] = []

    def say(self, at: float, source: str, message: Message, cause: str = "") -> str:
        """`at` in seconds since the submission. Gives the message's id."""
        number = len(self.messages) + 1
        seal(message, id=f"{source}:1:{number}", cause=cause, at=BEGIN + at, source=source)
        self.messages.append(message)
        return message.id


def opening(number: int) -> float:
    """When a round opens, in seconds since the submission."""
    return 1.0 + SECONDS * (number - 1)


def told(job: str = "demo", rounds: int = ROUNDS) -> list[Message]:
    """The whole story."""
    story = Story(job)
    request = JobRequest(kind="train", workload="examples.stdlib_lm:workload", id=job, rounds=rounds, min_nodes=2)
    _fleet(story)
    state = _state(story, 0.0, request, 1, JobPhase.QUEUED, "waiting for 2 nodes; none is there")
    roster = story.say(
        0.2,
        "node_selector",
        Roster(job=job, version=1, nodes=tuple(LINKS), reducers=("ada", "bob"), quorum=3, reason="all five are there"),
        state,
    )
    _state(story, 0.3, request, 2, JobPhase.RUNNING, "running on 5 nodes", cause=roster)
    story.say(0.4, "batch_controller", _assignment(job, 1, {}, "by measured speed"), roster)
    phases = ("initialisation", "off until there is something to measure"), ("adaptive", "warm-up is over")
    for version, (phase, reason) in enumerate(phases, 1):
        tuning = Tuning(
            job=job, version=version, phase=phase, policy="reactive", adapt=version > 1, max_factor=2.0, reason=reason
        )
        story.say(0.5 if version == 1 else opening(4) + 0.1, "optimizer", tuning)
    for number in range(1, rounds + 1):
        _round(story, number)
    _faults(story, request)
    end = opening(rounds) + SECONDS
    story.say(
        end + 0.5,
        "trainer/demo/ada",
        ModelStored(
            job=job, node="ada", round=rounds, name=f"{job}/model.safetensors", size=4 * SIZE, digest="m", final=True
        ),
    )
    cost = AdaptationCost(
        job=job, round=rounds, agent_seconds=1.0, run_seconds=end, share=0.0125, reason="measured by the agents"
    )
    story.say(end + 0.6, "optimizer", cost)
    _state(story, end + 1.0, request, 30, JobPhase.COMPLETED, f"{rounds} rounds; the model is stored", rounds)
    return story.messages


def _fleet(story: Story) -> None:
    for number, (node, link) in enumerate(LINKS.items()):
        profile = NodeProfile(
            node=node,
            version=1,
            host="box",
            site=node,
            cpus=2,
            memory_bytes=8 << 30,
            emulated_link=link,
            slowdown=1.0 + number / 2,
        )
        story.say(-30.0 + number, f"node/{node}", profile)
        _grade(story, -20.0 + number, node, 1, LinkQuality.GOOD, None)


def _grade(story: Story, at: float, node: str, version: int, new: LinkQuality, old: LinkQuality | None) -> str:
    change = LinkQualityChanged(
        node=node,
        version=version,
        quality=new,
        previous=old,
        score=80.0 if new is LinkQuality.GOOD else 30.0,
        latency_ms=40.0,
        jitter_ms=3.0,
        loss=0.01,
        trend="stable",
        reason=f"round trips say {new.value} for 5 s",
    )
    return story.say(at, "network_monitor", change)


def _state(
    story: Story, at: float, request: JobRequest, version: int, phase: JobPhase, reason: str, done: int = 0, cause: str = ""
) -> str:
    state = JobState(
        job=story.job,
        version=version,
        state=phase,
        reason=reason,
        round=done,
        rounds=request.rounds,
        request=request,
        submitted_at=BEGIN,
    )
    return story.say(at, "job_desk", state, cause)


def _assignment(job: str, version: int, other: dict[str, Share], reason: str) -> Assignment:
    shares = {node: Share(microbatch=8, local_steps=STEPS, encoding="float32") for node in LINKS} | other
    return Assignment(
        job=job,
        version=version,
        roster_version=1,
        shares=shares,
        average_encoding="int8",
        round_seconds=SECONDS,
        deadline_seconds=2 * SECONDS,
        strategy="hybrid",
        reason=reason,
    )


def _loss(number: int) -> float:
    return 5.5 * math.exp(-number / 12)


def _round(story: Story, number: int) -> None:
    """One round; `dan` is away in rounds 12 to 15, `eve` is late in round 7."""
    job, at = story.job, opening(number)
    there = [node for node in LINKS if not (node == "dan" and 12 <= number <= 15)]
    reducer = "bob" if number == 18 else "ada"
    opened = RoundOpened(
        job=job, node="ada", round=number, term=0, deadline_seconds=8.0, expected=tuple(LINKS), reason="the next round"
    )
    story.say(at, f"reducer/{job}/ada", opened)
    if number == 18:
        opened = RoundOpened(
            job=job, node="bob", round=18, term=1, deadline_seconds=8.0, expected=tuple(LINKS), reason="ada is silent"
        )
        story.say(at + 2.0, f"reducer/{job}/bob", opened)
    for node in there:
        offer = ContributionOffered(
            job=job,
            node=node,
            round=number,
            base_digest="b",
            samples=8 * STEPS,
            steps=STEPS,
            loss=_loss(number),
            compute_seconds=1.0,
            encoding="float32",
            key=str(number),
            size=SIZE,
            digest="d",
        )
        story.say(at + 1.5, f"trainer/{job}/{node}", offer)
    average = Average(key=f"{number}-0", size=SIZE // 4, digest="a", holders=(reducer,))
    offered = AverageOffered(job=job, node=reducer, round=number, term=int(number == 18), average=average)
    story.say(at + 3.0, f"reducer/{job}/{reducer}", offered)
    parts = tuple(
        Contribution(
            node=node,
            round=number - (node == "eve" and number == 7),
            late=int(node == "eve" and number == 7),
            samples=8 * STEPS,
            weight=1 / len(there),
            loss=_loss(number),
        )
        for node in there
    )
    closed = RoundClosed(
        job=job,
        round=number,
        term=int(number == 18),
        reducer=reducer,
        next_reducer="ada",
        contributions=parts,
        missing=("dan",) if number == 12 else (),
        average=average,
        samples=8 * STEPS * len(there),
        loss=_loss(number),
        seconds=SECONDS - 0.5,
        on_time=number != 12,
        reason="all are there",
    )
    story.say(at + SECONDS - 0.5, f"reducer/{job}/{reducer}", closed)
    if number % 2 == 1:
        test = Validated(job=job, node="ada", round=number, loss=_loss(number) + 0.15, seconds=0.2)
        story.say(at + SECONDS - 0.1, f"trainer/{job}/ada", test)


def _faults(story: Story, request: JobRequest) -> None:
    job = story.job
    spike = EmulatedLinkChanged(node="bob", do="spike", profile="good", reason="800 ms for 5 s, by order")
    story.say(opening(10) + 0.5, "node/bob", spike)
    lost = NodeLost(node="dan", silent_seconds=3.0, reason="no heartbeat for 3 s")
    cause = story.say(opening(12) + 3.2, "node_selector", lost)
    without = tuple(node for node in LINKS if node != "dan")
    out = Roster(job=job, version=2, nodes=without, reducers=("ada", "bob"), quorum=3, reason="dan is lost")
    story.say(opening(12) + 3.3, "node_selector", out, cause)
    back = NodeJoined(node="dan", returned=True, absent_seconds=13.0, reason="its heartbeats are back")
    cause = story.say(opening(15) + 1.0, "node_selector", back)
    again = Roster(job=job, version=3, nodes=tuple(LINKS), reducers=("ada", "bob"), quorum=3, reason="dan is back")
    story.say(opening(15) + 1.1, "node_selector", again, cause)
    worse = EmulatedLinkChanged(node="cyd", do="profile", profile="poor", reason="by order")
    story.say(opening(15) + 2.0, "node/cyd", worse)
    cause = _grade(story, opening(16), "cyd", 2, LinkQuality.POOR, LinkQuality.GOOD)
    smaller = {"cyd": Share(microbatch=8, local_steps=5, encoding="int8", streams=2)}
    story.say(opening(16) + 0.5, "batch_controller", _assignment(job, 2, smaller, "cyd's link is poor"), cause)
    better = EmulatedLinkChanged(node="cyd", do="profile", profile="average", reason="by order")
    story.say(opening(20) + 0.5, "node/cyd", better)
    cause = _grade(story, opening(21), "cyd", 3, LinkQuality.GOOD, LinkQuality.POOR)
    story.say(opening(21) + 0.5, "batch_controller", _assignment(job, 3, {}, "cyd's link is good again"), cause)
    restarted = AgentStarted(agent="optimizer", incarnation=2, resumed=True, replayed=312, down_seconds=0.4)
    story.say(opening(22), "optimizer", restarted)
    for number, node in enumerate(("ada", "bob", "eve")):
        told = BusDisturbed(kind="reconnected", reason="the server was out of reach", seconds=1.5 + number / 10)
        story.say(opening(23) + 2.0 + number / 10, f"node/{node}", told)
    raised = WorkFailed(
        node="eve",
        job=job,
        attempt=1,
        kind="out_of_memory",
        code=5,
        last_lines=("Traceback (most recent call last):", "MemoryError"),
        retry=True,
        reason="out of memory; starts again in 1 s",
    )
    story.say(opening(24) + 1.0, "node/eve", raised)
    story.say(opening(24) + 1.1, "node_selector", NodeQuarantined(node="eve", seconds=30, failures=3, reason="three times"))


def other_peoples(job: str = "other") -> Iterator[Message]:
    """What was said meanwhile and is none of this job's business."""
    story = Story(job)
    story.say(opening(3), "node_selector", NodeLost(node="zoe", silent_seconds=3.0, reason="silence"))
    failed = WorkFailed(node="ada", job=job, attempt=1, kind="raised", code=4, last_lines=(), retry=False, reason="r")
    story.say(opening(3), "node/ada", failed)
    story.say(opening(3), "node_selector", Roster(job=job, version=1, nodes=("zoe",), reducers=(), quorum=1, reason="r"))
    yield from story.messages
