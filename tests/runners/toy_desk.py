"""A real server with a small desk on it: takes jobs of up to 100 rounds, for tests of clients."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from bus.nats import NatsBus
from bus.server import EmbeddedServer
from schemas.errors import DecodeError
from schemas.jobs import CancelRequest, JobAnswer, JobList, JobPhase, JobRequest, JobState, JobSummary
from schemas.requests import decode_request
from schemas.wire import Message, encode, seal

T = TypeVar("T")
MOST_ROUNDS = 100
PATIENCE = 20.0  # seconds: far more than anything here takes on a busy machine


class ToyDesk:
    """Answers as the desk does, and stores the state of what it accepts before it answers."""

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.states: dict[str, JobState] = {}
        self._number = 0

    @classmethod
    async def open(cls, url: str, token: str | None = None) -> Self:
        desk = cls(await NatsBus.connect(url, source="job_desk", token=token))
        await desk.bus.serve("shoal.jobs.submit", desk._submit)
        await desk.bus.serve("shoal.jobs.cancel", desk._cancel)
        await desk.bus.serve("shoal.jobs.list", desk._list)
        return desk

    async def close(self) -> None:
        await self.bus.close()

    async def say(self, message: Message, source: str = "job_desk", at: float = 0.0, cause: str = "") -> Message:
        """Publish something in anybody's name."""
        self._number += 1
        sealed = seal(message, id=f"{source}:1:{self._number}", cause=cause, at=at, source=source)
        await self.bus.publish(sealed)
        return sealed

    async def tell(self, messages: Iterable[Message]) -> None:
        """Publish messages that have their envelope."""
        for message in messages:
            if isinstance(message, JobState):
                self.states[message.job] = message
            await self.bus.publish(message)

    async def change(self, job: str, phase: JobPhase, reason: str, round_: int = 0) -> None:
        """A job gets on."""
        old = self.states[job]
        new = msgspec.structs.replace(
            old, id="", version=old.version + 1, state=phase, reason=reason, round=round_, source=""
        )
        self.states[job] = new
        await self.say(new)

    async def _submit(self, body: bytes) -> bytes:
        try:
            request = decode_request(JobRequest, body)
        except DecodeError as error:
            return encode(JobAnswer(accepted=False, field=error.field, reason=error.why))
        if request.rounds > MOST_ROUNDS:
            return encode(JobAnswer(accepted=False, field="$.rounds", reason=f"at most {MOST_ROUNDS}"))
        job = request.id or f"train-{len(self.states)}"
        if job in self.states:
            return encode(JobAnswer(accepted=True, job=job))
        state = JobState(
            job=job,
            version=1,
            state=JobPhase.QUEUED,
            reason="waiting for 2 nodes; none is there",
            round=0,
            rounds=request.rounds,
            request=request,
            submitted_at=float(len(self.states)),
        )
        self.states[job] = state
        await self.say(state)
        return encode(JobAnswer(accepted=True, job=job))

    async def _cancel(self, body: bytes) -> bytes:
        request = decode_request(CancelRequest, body)
        if request.job not in self.states:
            return encode(JobAnswer(accepted=False, field="$.job", reason=f"there is no job {request.job}"))
        await self.change(request.job, JobPhase.CANCELLED, request.reason)
        return encode(JobAnswer(accepted=True, job=request.job))

    async def _list(self, body: bytes) -> bytes:
        rows = [
            JobSummary(
                job=state.job,
                state=state.state,
                reason=state.reason,
                workload=state.request.workload,
                round=state.round,
                rounds=state.rounds,
                submitted_at=state.submitted_at,
            )
            for state in self.states.values()
        ]
        return encode(JobList(jobs=tuple(reversed(rows))))


class ServerBeside:
    """A server, and a desk if it is asked for, beside a test that is not async itself.

    Child processes are started from the main thread alone, so the server is; the desk answers from a thread.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.server = EmbeddedServer(store)
        self.desk: ToyDesk | None = None
        self._main = asyncio.new_event_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="desk")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the desk is."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def open_desk(self) -> ToyDesk:
        self.desk = self.call(ToyDesk.open(self.server.url))
        return self.desk

    def close_desk(self) -> None:
        if self.desk is not None:
            self.call(self.desk.close())
            self.desk = None

    def __enter__(self) -> Self:
        self._main.run_until_complete(self.server.start())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close_desk()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()
        self._main.run_until_complete(self.server.stop())
        self._main.close()
