"""The live view's state and picture, from events as a job says them."""

import io
import math

import msgspec
import pytest
from report_story import BEGIN, told
from rich.console import Console

from runners.view.render import draw, sparkline
from runners.view.state import ViewState
from runners.view.words import emulation, said_by
from schemas.decisions import NodeJoined, NodeLost
from schemas.jobs import JobPhase, JobState
from schemas.nodes import NodeHeartbeat, NodeProfile, NodeYielding
from schemas.training import ContributionOffered, ContributionReceived, RoundClosed, RoundOpened, TrainingProgress
from schemas.wire import Delivery, Message, subject_of, wire_of

NODES = ("ada", "bob", "cyd", "dan", "eve")


def in_time(messages: list[Message]) -> list[Message]:
    return sorted(messages, key=lambda message: message.at)


def seen(messages: list[Message], wanted: str | None = None) -> ViewState:
    state = ViewState(wanted=wanted)
    for message in messages:
        state.see(message)
    return state


def until(round_: int) -> list[Message]:
    """The story up to the closing of a round, with everybody's heart beating."""
    story = in_time(told())
    end = next(message.at for message in story if isinstance(message, RoundClosed) and message.round == round_)
    beats: list[Message] = [NodeHeartbeat(node=node, sequence=1, interval=1.0) for node in NODES]
    return beats + [message for message in story if message.at <= end]


def picture(state: ViewState, now: float = BEGIN + 60.0, width: int = 140, height: int = 40) -> str:
    """What a terminal shows."""
    console = Console(width=width, height=height, record=True, file=io.StringIO(), force_terminal=True)
    console.print(draw(state, now, width, height))
    text: str = console.export_text()
    return text


def row_of(text: str, node: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"{node} "))


def test_nothing_yet_says_what_to_do() -> None:
    assert "shoal submit" in picture(ViewState())
    assert "no job mine yet" in picture(ViewState(wanted="mine"))


def test_a_user_sees_the_job_its_progress_and_its_loss() -> None:
    text = picture(seen(until(14)), now=BEGIN + 60.0)
    assert "demo  examples.stdlib_lm:workload" in text
    assert "running  round 14/25  60 s" in text
    assert f"loss {5.5 * math.exp(-14 / 12):.4f}  held out {5.5 * math.exp(-13 / 12) + 0.15:.4f}" in text
    assert "█" in text
    assert "reducer ada  phase adaptive  round 4.0 s, deadline 8.0 s" in text


def test_a_user_sees_every_node_its_link_and_its_share() -> None:
    state = seen(until(17))
    state.see(TrainingProgress(job="demo", node="bob", round=18, doing="computing", step=4, steps=10))
    text = picture(state)
    cyd, bob = row_of(text, "cyd"), row_of(text, "bob")
    assert "poor 30" in cyd
    assert "int8 x2" in cyd
    assert cyd.split()[4:6] == ["8", "5"], "batch and local steps"
    assert "average, 2x slower" in cyd
    assert "good 80" in bob
    assert "float32" in bob
    assert "computing 4/10" in bob


def test_a_user_sees_who_is_in_the_round() -> None:
    state = seen(until(10))
    opened = RoundOpened(job="demo", node="ada", round=11, term=0, deadline_seconds=8.0, expected=NODES[:4], reason="r")
    state.see(opened)
    offer = next(message for message in told() if isinstance(message, ContributionOffered))
    state.see(msgspec.structs.replace(offer, node="ada", round=11))
    state.see(msgspec.structs.replace(offer, node="bob", round=11))
    state.see(ContributionReceived(job="demo", node="ada", contributor="bob", round=11, size=1, seconds=0.1))
    text = picture(state)
    assert "◐ sending" in row_of(text, "ada")
    assert "● here" in row_of(text, "bob")
    assert "○ awaited" in row_of(text, "cyd")
    assert not any(mark in row_of(text, "eve") for mark in ("here", "sending", "awaited")), "it is not expected"


def test_decisions_are_shown_with_round_speaker_and_reason() -> None:
    lines = picture(seen(until(18))).splitlines()
    for expected in (
        ("12", "dan", "no heartbeat for 3 s"),
        ("12", "node_selector", "dan is lost"),
        ("15", "dan", "its heartbeats are back"),
        ("15", "cyd", "emulated link, on order: by order (poor)"),
        ("16", "batch_controller", "cyd's link is poor"),
        ("18", "bob", "reduces: ada is silent"),
    ):
        assert any(all(part in line for part in expected) for line in lines), expected


def test_a_lost_node_is_shown_as_lost_until_it_is_back() -> None:
    assert "lost" in row_of(picture(seen(until(13))), "dan")
    assert "lost" not in row_of(picture(seen(until(16))), "dan")


def test_late_and_missed_contributions_are_counted() -> None:
    state = seen(until(12))
    assert state.nodes["eve"].late == 1
    assert state.nodes["ada"].late == 0
    assert "missed" in row_of(picture(state), "dan")
    assert state.nodes["ada"].samples == 12 * 80
    assert state.nodes["dan"].samples == 11 * 80


def test_an_ended_job_stands_still() -> None:
    state = seen(in_time(told()))
    text = picture(state, now=BEGIN + 10_000)
    assert "completed  round 25/25  102 s  25 rounds; the model is stored" in text
    assert "awaited" not in text


def stored(messages: list[Message]) -> list[Message]:
    """What the streams keep: everything, but of LAST_VALUE subjects the newest alone."""
    newest = {subject_of(message): message for message in messages}
    return [
        message
        for message in messages
        if wire_of(type(message)).delivery is not Delivery.LAST_VALUE or newest[subject_of(message)] is message
    ]


def test_starting_late_shows_the_same_as_watching_from_the_beginning() -> None:
    """A late starter gets the newest state of the job first, then the past in order of time."""
    story = in_time(told())
    state = [message for message in story if isinstance(message, JobState)][-1]
    late, early = seen([state, *stored(story)]), seen(story)
    assert len(late.losses) == 25
    assert late.losses == early.losses
    assert late.nodes == early.nodes
    assert picture(late).splitlines()[:10] == picture(early).splitlines()[:10]
    rounds = {(decision.who, decision.reason): decision.round for decision in early.decisions}
    for decision in late.decisions:
        assert rounds.get((decision.who, decision.reason), decision.round) == decision.round


def test_another_job_begins_afresh() -> None:
    state = seen(in_time(told()))
    request = next(message.request for message in told() if isinstance(message, JobState))
    another = JobState(
        job="next",
        version=1,
        state=JobPhase.QUEUED,
        reason="waiting for 9 nodes; 5 are there",
        round=0,
        rounds=7,
        request=request,
        submitted_at=BEGIN + 500,
        at=BEGIN + 500,
    )
    state.see(another)
    assert (state.job, state.round, state.losses, state.loss) == ("next", 0, [], None)
    assert all(node.samples == 0 and node.share is None for node in state.nodes.values())
    assert [decision.reason for decision in state.decisions] == ["next queued: waiting for 9 nodes; 5 are there"]
    assert "waiting for 9 nodes" in picture(state).splitlines()[1]
    opened = RoundOpened(job="next", node="bob", round=1, term=0, deadline_seconds=1.0, expected=(), reason="all are ready")
    state.see(opened)
    assert len(state.decisions) == 1, "a first reducer is no change of reducers"


def test_an_older_job_and_other_jobs_events_change_nothing() -> None:
    state = seen(until(5))
    before = msgspec.msgpack.encode(state)
    for message in told(job="older"):
        if isinstance(message, JobState):
            state.see(msgspec.structs.replace(message, submitted_at=BEGIN - 100))
        elif isinstance(message, RoundOpened | RoundClosed | ContributionOffered):
            state.see(message)
    assert msgspec.msgpack.encode(state) == before


def test_the_job_that_was_asked_for_stays() -> None:
    state = seen(in_time([*told(job="one"), *told(job="two")]), wanted="one")
    assert state.job == "one"
    assert len(state.losses) == 25


def test_nodes_of_long_ago_get_no_row() -> None:
    state = seen(until(3))
    state.see(NodeProfile(node="ghost", version=1, host="h", site="h", cpus=1, memory_bytes=1))
    assert "ghost" not in picture(state)
    state.see(NodeJoined(node="ghost", returned=False, reason="heartbeats began"))
    assert "ghost" in picture(state)
    state.see(NodeLost(node="ghost", silent_seconds=3.0, reason="silence"))
    assert not any(line.startswith("ghost") for line in picture(state).splitlines())


@pytest.mark.parametrize(("width", "height"), [(140, 40), (120, 40), (80, 24), (60, 15)])
def test_the_picture_fits_the_terminal(width: int, height: int) -> None:
    lines = picture(seen(until(20)), width=width, height=height).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < max(height, 16)
    for node in NODES:
        assert any(line.startswith(node) for line in lines)
    assert any("by order" in line or "cyd" in line for line in lines)


def test_a_clipped_difference_is_told_with_its_node() -> None:
    story = until(9)
    closed = next(m for m in story if isinstance(m, RoundClosed) and m.round == 9)
    parts = [msgspec.structs.replace(p, remark="clipped to 0.1 of its length") for p in closed.contributions[:1]]
    state = seen([*story[:-1], msgspec.structs.replace(closed, contributions=tuple(parts))])
    told_of = [(d.who, d.reason, d.fault) for d in state.decisions]
    assert (parts[0].node, "its difference: clipped to 0.1 of its length", True) in told_of


def test_emulated_things_are_labelled_and_real_ones_are_not() -> None:
    assert emulation("", 1.0, 0.0) == ""
    assert emulation("poor (cubic)", 2.5, 30.0) == "poor, 2.5x slower, 30 ms"
    text = picture(seen(until(3)))
    assert "emulated" in text.splitlines()[4]
    assert row_of(text, "ada").rstrip().endswith("80") or "slower" not in row_of(text, "ada")


def test_a_sparkline_spans_the_range_of_what_it_shows() -> None:
    assert sparkline([1.0, 2.0, 3.0], 10) == "▁▅█"
    assert sparkline([9.0, 1.0, 2.0], 2) == "▁█"
    assert sparkline([2.0, 2.0], 5) == "▁▁"
    assert sparkline([], 5) == ""


def test_every_fault_of_the_story_has_words() -> None:
    said = [line for message in told() if (line := said_by(message)) is not None]
    texts = " ".join(line.text for line in said if line.fault)
    for expected in ("no heartbeat for 3 s", "800 ms for 5 s", "out of memory", "three times", "runs again after 0.4 s"):
        assert expected in texts


def test_a_node_that_yields_is_shown_so_until_it_goes_on() -> None:
    state = seen(until(13))
    word = NodeYielding(node="ada", version=9, yielding=True, reason="yields: paused by hand: a game", at=1.0)
    state.see(word)
    assert "yields" in row_of(picture(state), "ada")
    assert "paused by hand: a game" in picture(state)
    state.see(NodeYielding(node="ada", version=10, yielding=False, reason="goes on", at=2.0))
    assert "yields" not in row_of(picture(state), "ada")
    state.see(word)
    state.see(NodeProfile(node="ada", version=11, host="h", site="s", cpus=1, memory_bytes=1))
    assert "yields" not in row_of(picture(state), "ada")
