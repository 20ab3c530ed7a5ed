"""What is turned away when more comes than there is room for, and the telling of it: pure, but for a queue."""

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inputs import ProbeReturned, WorkLines
from agents.job_desk import admission
from agents.job_desk.state import Job
from bus.port import BusError, NoRoom, SubjectTaken
from runners import interpreter
from runners.event_inbox import EventInbox
from runners.interpreter import Interpreter
from runners.load import ASKED, INBOX, LATER, LINES, SOON, UNSENT, Load
from runners.view.words import said_by
from schemas.decisions import NodeReleased
from schemas.jobs import JobRequest, JobState
from schemas.nodes import NodeHeartbeat
from schemas.wire import Message


def test_telemetry_and_lines_are_dropped_and_told_once() -> None:
    carrier = 0
    load = Load(lambda: carrier, lambda: "")
    assert load.takes_telemetry(INBOX - 1)
    assert not load.takes_telemetry(INBOX)
    lines = WorkLines(key="w", lines=("a",))
    assert load.takes(lines, LINES - 1)
    assert not load.takes(lines, LINES)
    assert load.takes(ProbeReturned(sequence=1, rtt=None), INBOX), "what is no flood always comes in"
    load.unsent()
    carrier = 7
    told = load.news("node-laptop")
    assert told is not None
    assert (told.count, told.total, load.dropped) == (10, 10, 10)
    assert told.reason.startswith("7: the connection")
    assert load.news("node-laptop") is None
    assert "dropped 10 messages" in said(told)


def test_nothing_is_told_while_nothing_can_be_stored() -> None:
    full = "insufficient resources"
    load = Load(lambda: 0, lambda: full)
    load.unsent()
    assert load.news("a") is None
    full = ""
    assert load.news("a") is not None


def test_requests_are_refused_with_a_reason_and_a_time_to_come_back() -> None:
    full = ""
    load = Load(lambda: 0, lambda: full)
    assert load.refusal(ASKED - 1, stores=True) is None
    assert load.refusal(ASKED, stores=False) == (f"{ASKED} requests wait for an answer already", SOON)
    full = "no space left on device"
    assert load.refusal(0, stores=True) == ("nothing can be stored: no space left on device", LATER)
    assert load.refusal(0, stores=False) is None, "who only reads is answered"


def a_job(job: str, *, rounds: int = 10, done: int = 0, since: float | None = None) -> Job:
    request = JobRequest(kind="train", workload="a:b", rounds=rounds)
    return Job(id=job, request=request, submitted_at=0.0, order=1, round=done, running_since=since)


def test_when_there_may_be_room_for_another_job() -> None:
    full = (admission.FULL, "256 jobs are queued or running")
    assert admission.come_back(("$.rounds", "too many"), [], 0.0) is None, "what is wrong stays wrong"
    assert admission.come_back(full, [a_job("a")], 100.0) == 60.0
    running = [a_job("a", done=5, since=0.0), a_job("b", rounds=100, done=1, since=0.0)]
    assert admission.come_back(full, running, 100.0) == 100.0, "five rounds in 100 s, and five to go"
    assert admission.come_back(full, [a_job("a", done=10, since=0.0)], 100.0) == 5.0
    assert admission.come_back(full, [a_job("a", rounds=10_000, done=1, since=0.0)], 1e6) == 3600.0


class Note:
    """A receipt, and whether it was given back."""

    def __init__(self, sequence: int, redelivered: bool = False) -> None:
        self.sequence = sequence
        self.redelivered = redelivered
        self.acked = False

    def ack(self) -> None:
        self.acked = True


def said(message: Message) -> str:
    line = said_by(message)
    assert line is not None
    assert line.fault
    return line.text


def numbered(number: int) -> NodeReleased:
    return NodeReleased(node="n", reason=str(number))


async def drained(inbox: EventInbox, most: int) -> list[Message]:
    return [await inbox.get() for _ in range(min(most, inbox._waiting.qsize()))]


async def test_a_reader_who_stops_misses_telemetry_and_no_record() -> None:
    inbox = EventInbox(most=2)
    beat = NodeHeartbeat(node="n", sequence=1, interval=1.0)
    notes = [Note(number) for number in range(1, 5)]
    inbox.put(beat, None)
    inbox.put(numbered(1), notes[0])
    inbox.put(beat, None)
    inbox.put(numbered(2), notes[1])
    assert inbox.dropped == 1
    assert [note.acked for note in notes] == [True, False, False, False]
    assert "1 messages of telemetry" in said(await inbox.get())
    assert len(await drained(inbox, 9)) == 2
    inbox.put(numbered(3), notes[2])
    assert not notes[2].acked, "the second comes first"
    state = JobState(job="j", version=1, state="queued", reason="", round=0, rounds=1, submitted_at=0.0, request=None)  # type: ignore[arg-type]
    inbox.put(state, note := Note(9))
    assert note.acked, "another stream has an order of its own"
    inbox.put(numbered(2), notes[1])
    assert await drained(inbox, 9) == [state, numbered(2)]
    inbox.put(numbered(3), notes[2])
    assert await drained(inbox, 9) == [numbered(3)]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 5))
async def test_records_come_in_order_and_once_however_slowly_they_are_read(pauses: list[int], most: int) -> None:
    """The server: delivers in order, again what isn't acknowledged, and holds back at a bound."""
    inbox, read = EventInbox(most), list[Any]()
    notes = {number: Note(number) for number in range(1, len(pauses) + 1)}
    for number, pause in zip(notes, pauses, strict=True):
        inbox.put(numbered(number), notes[number])
        read += await drained(inbox, pause)
        assert inbox._waiting.qsize() <= most
    while not all(note.acked for note in notes.values()):
        for number, note in notes.items():
            if not note.acked:
                inbox.put(numbered(number), note)
        read += await drained(inbox, most)
    read += await drained(inbox, most)
    assert [int(message.reason) for message in read] == list(notes)


class Stuck:
    """A bus whose connection takes nothing: a publish of telemetry never returns."""

    source = "stuck"

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        await asyncio.Event().wait()


async def test_telemetry_that_cannot_leave_makes_room_for_newer() -> None:
    gone: list[None] = []
    carrying = Interpreter(
        cast(Any, Stuck()), "a", None, None, post=lambda result, cause: None, answer=lambda to, body: None,
        finished=lambda step: None, failed=lambda what, error, cause: None, unsent=lambda: gone.append(None),
    )  # fmt: skip
    for number in range(UNSENT + 100):
        carrying.send(NodeHeartbeat(node="n", sequence=number, interval=1.0))
    assert len(gone) == 100
    assert [carrying._telemetry[0].sequence, len(carrying._telemetry)] == [100, UNSENT]  # type: ignore[attr-defined]
    await carrying.close()


class Answers:
    """A bus that answers each publish with the next of these."""

    source = "answers"

    def __init__(self, *answers: Exception | None) -> None:
        self.left = list(answers)
        self.asked_again = asyncio.Event()

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        answer = self.left.pop(0)
        if len(self.left) == 1:
            self.asked_again.set()
        if answer is not None:
            raise answer


@pytest.mark.parametrize("last", [None, SubjectTaken("s"), BusError("never")])
async def test_room_is_there_again_with_the_first_answer_that_says_something_else(
    last: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "NO_ROOM_RETRY", 0.0)
    bus = Answers(NoRoom("s", "full"), NoRoom("s", "full"), last)
    failed: list[str] = []
    carrying = interpreter.Interpreter(
        cast(Any, bus), "a", None, None, post=lambda result, cause: None, answer=lambda to, body: None,
        finished=lambda step: None, failed=lambda what, error, cause: failed.append(what),
    )  # fmt: skip
    carrying.store(numbered(1))
    await bus.asked_again.wait()
    assert carrying.full == "full"
    await carrying.quiet()
    assert (carrying.full, bus.left) == ("", [])
    assert failed == (["Publish NodeReleased"] if type(last) is BusError else [])
