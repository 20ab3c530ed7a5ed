"""The recorder's heavy work: a report out of the history, into the object store."""

import asyncio
import hashlib
import sys
from collections.abc import Callable, Sequence

from agents.effects import Work
from agents.inputs import Result, WorkExited
from agents.recorder import ReportBuilt, ReportWork
from bus.port import Bus
from runners.history import EventRow, History
from runners.jobs.names import report_name
from runners.jobs.tasks import KeyedTasks
from runners.report import TYPES, as_json, build_report
from schemas.errors import ShoalError
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeProfile

Post = Callable[[Result], None]

_STANDING = (NodeProfile.__name__, LinkQualityChanged.__name__)
"""What was said before the job and holds in it."""


class UnknownWork(ShoalError):
    """The recorder was asked for work that it can't do. Attribute: `work`."""

    def __init__(self, work: Work) -> None:
        super().__init__(f"the recorder can't do {type(work).__name__}: start it in the process that can")
        self.work = work


class ReportWorks:
    """The work runner of the recorder's process."""

    def __init__(self, history: History, bus: Bus) -> None:
        self._history = history
        self._bus = bus
        self._tasks = KeyedTasks(lambda error: None)  # `_write` tells its errors itself

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin a report; a key at work already is left alone.

        Raises:
            UnknownWork: it is no `ReportWork`.
        """
        if not isinstance(work, ReportWork):
            raise UnknownWork(work)
        given_up = WorkExited(key=key, code=-1, last_lines=("the report was given up",))
        self._tasks.start(key, self._write(key, work.job, post), lambda: post(given_up))

    def stop(self, key: str, reason: str) -> None:
        """Give a report up."""
        self._tasks.stop(key)

    async def close(self) -> None:
        """Give all up: a later life of the recorder writes them."""
        await self._tasks.close()

    async def _write(self, key: str, job: str, post: Post) -> None:
        try:
            await self._history.flush()
            rows = await self._history.of_job(job, [kind.__name__ for kind in TYPES], _STANDING)
            data = await asyncio.to_thread(_report, job, rows)
            await self._bus.put_object(report_name(job), data)
        except Exception as error:  # whatever it is, the recorder lives on and tries again
            print(f"report of {job}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            post(WorkExited(key=key, code=1, last_lines=(f"{type(error).__name__}: {error}",)))
        else:
            digest = hashlib.sha256(data).hexdigest()
            post(ReportBuilt(job=job, name=report_name(job), size=len(data), digest=digest))


def _report(job: str, rows: Sequence[EventRow]) -> bytes:
    """In a thread of its own: a long job has tens of thousands of events."""
    return as_json(build_report(job, (message for row in rows if (message := row.message()) is not None)))
