"""Following one job until it ends: a progress bar on a terminal, and a line for what is worth one."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runners.cli.common import console
from runners.client import Client, Refused
from runners.view.lines import Lines
from schemas.jobs import JobRefused, JobState


async def follow_job(client: Client, job: str, *, quiet: bool = False) -> JobState:
    """Show a job's progress until it has ended; gives its last state.

    Raises:
        Refused: it had been queued, and the desk, once there, refused it.
    """
    lines = Lines(lambda line: None if quiet else console.print(line, markup=False, soft_wrap=True))
    if quiet or not sys.stdout.isatty():
        return await _follow(client, job, lines, None)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    with bar:
        return await _follow(client, job, lines, bar)


async def _follow(client: Client, job: str, lines: Lines, bar: Progress | None) -> JobState:
    task = bar.add_task(job, total=None) if bar is not None else None
    of_job = (
        "shoal.jobs.refused",
        f"shoal.jobs.{job}.>",
        f"shoal.training.{job}.>",
        "shoal.nodes.*.work_failed",
        "shoal.decisions.optimizer.*",
    )
    async for event in client.events(*of_job, past=True):
        if getattr(event, "job", None) != job:
            continue
        lines.see(event)
        if isinstance(event, JobRefused) and await client.state(job) is None:
            raise Refused(event.field, event.reason, event.retry_after)
        if not isinstance(event, JobState):
            continue
        if bar is not None and task is not None:
            bar.update(task, total=event.rounds, completed=event.round, description=f"{job} {event.state.value}")
        if event.state.ended:
            return event
    raise AssertionError("events end only with the connection")
