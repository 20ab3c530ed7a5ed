"""The live view: redrawn while events come, at most a few times a second; lines where there is no terminal."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.live import Live

from runners.client import Client
from runners.view.lines import Lines
from runners.view.render import draw
from runners.view.state import ViewState
from schemas.jobs import JobState
from schemas.wire import Message

# Redraws a second: smooth enough for people, under a percent of a core.
REDRAWS = 4.0


async def watch_fleet(client: Client, job: str | None, *, until_ended: bool = False) -> ViewState:
    """Show a fleet and a job until Ctrl-C, or with `until_ended` until the job has ended."""
    state = ViewState(wanted=job)
    async for event in client.history(f"shoal.jobs.{job or '*'}.state"):
        state.see(event)  # which job it is about must be known before the job's own past is read
    events = client.events(past=True)
    if sys.stdout.isatty():
        await _draw(state, events, until_ended)
    else:
        lines = Lines(_print)
        async for event in events:
            state.see(event)
            shown = job or state.job
            if not shown or getattr(event, "job", shown) == shown:
                lines.see(event)
            if until_ended and _ended(state, event):
                break
    return state


async def _draw(state: ViewState, events: AsyncIterator[Message], until_ended: bool) -> None:
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        changed = asyncio.Event()

        async def read() -> None:
            async for event in events:
                state.see(event)
                changed.set()
                if until_ended and _ended(state, event):
                    return

        reading = asyncio.ensure_future(read())
        reading.add_done_callback(lambda _: changed.set())
        try:
            while not reading.done():
                await changed.wait()
                changed.clear()
                live.update(draw(state, time.time(), console.width, console.height), refresh=True)
                await asyncio.wait({reading}, timeout=1 / REDRAWS)
            live.update(draw(state, time.time(), console.width, console.height), refresh=True)
            reading.result()
        finally:
            reading.cancel()


def _ended(state: ViewState, event: Message) -> bool:
    return isinstance(event, JobState) and event.job == state.job and event.state.ended


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
