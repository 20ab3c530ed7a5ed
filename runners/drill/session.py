"""A whole run of `shoal drill`: finds the fleet and the job, does the drills, and leaves everything as it was."""

import asyncio
import contextlib
import os
import platform
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bus.locks import FileLock
from bus.nats_fill import Streams
from bus.server_config import find_binary
from runners.client import Client, connect
from runners.drill.catalogue import Plan, plans
from runners.drill.marking import Marks
from runners.drill.parts import Parts, find_parts
from runners.drill.results import DrillReport, Result, Surroundings
from runners.drill.run import Drills, JobEnded
from runners.drill.scene import PATIENCE, Scene
from runners.drill.undo import Notebook, put_right, put_right_again
from runners.drill.watching import NotHeard, watching
from runners.fleet_view import NodeRow, look_at_nodes
from schemas.errors import ShoalError
from schemas.jobs import JobPhase
from schemas.training import RoundClosed

SECONDS = 8.0
"""How long things stand still: longer than a node takes to be missed, shorter than a visitor's patience."""
SKEW = -3600.0
"""Seconds; behind, as machines are whose clock was never set. What a node says an hour ahead of time outlives the drill."""
OWN_JOB = {
    "kind": "train", "workload": "runners.jobs.default_workload:workload", "rounds": 1_000_000, "checkpoint_every": 20,
}  # fmt: skip
"""Where no job runs: a small network on random numbers, which every node has."""
MOST_NODES = 2
"""That its rounds wait for at the beginning, so that there is one to lose."""


class NoFleet(ShoalError):
    """There is nothing to drill."""


@dataclass(frozen=True, kw_only=True)
class DrillOptions:
    """What `shoal drill` was asked for."""

    store: Path
    server: str | None = None
    job: str | None = None
    seconds: float = SECONDS
    skew: float = SKEW
    command: str = "shoal drill"
    say: Callable[[str], None] = print


@dataclass
class Ground:
    """A fleet that is connected to."""

    options: DrillOptions
    client: Client
    streams: Streams
    notebook: Notebook
    nodes: list[NodeRow]
    parts: Parts
    plans: tuple[Plan, ...] = field(default=())


@contextlib.asynccontextmanager
async def ground(options: DrillOptions) -> AsyncIterator[Ground]:
    """Connect to the fleet of a store, alone, and put right what an earlier drill has left.

    Raises:
        NoFleet: nothing runs on this store, on this machine.
        AlreadyLocked: a drill goes on there.
        Unreachable: its server doesn't answer.
    """
    parts = find_parts(options.store)
    if parts.up is None and not parts.nodes:
        raise NoFleet(f"nothing of {options.store} runs on this machine: start a fleet with `shoal up --nodes 2`")
    with FileLock(options.store / "drill.lock", mend="wait until that drill is over"):
        async with (
            await connect(options.server, store=options.store, name="drill") as client,
            Streams(client.address.url, client.address.token) as streams,
        ):
            notebook = Notebook(options.store)
            for line in await put_right(notebook, client, streams):
                options.say(f"left by an earlier drill, and put right now: {line}")
            made = Ground(options, client, streams, notebook, await look_at_nodes(client), parts)
            links = [row.node for row in made.nodes if row.alive and row.emulated_link]
            made.plans = plans(parts, links, options.seconds, options.skew)
            yield made


async def job_of(here: Ground) -> str | None:
    """The job to go by: the one asked for, else the newest that runs; None where none does.

    Raises:
        NoFleet: the job asked for doesn't run.
    """
    running = [job.job for job in await here.client.jobs() if job.state is JobPhase.RUNNING]
    if here.options.job is not None and here.options.job not in running:
        raise NoFleet(f"job {here.options.job} does not run: running are {', '.join(running) or 'none'}")
    return here.options.job or next(iter(running), None)


async def drill(here: Ground, wanted: Sequence[Plan], job: str | None, done: Callable[[Result], None]) -> DrillReport:
    """Do these drills, one after the other; without a job on one of its own. `done` is told of each.

    However it ends, by a signal too, everything is put right; whatever can't be is on file for the next drill.

    Raises:
        NoFleet: no rounds are closed even in peace.
    """
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    assert me is not None
    loop.add_signal_handler(signal.SIGTERM, me.cancel)
    began, load = time.monotonic(), os.getloadavg()[0]
    marks = Marks(here.client)
    try:
        async with watching(here.client) as watch:
            own = job is None
            if job is None:
                job = await _submit(here, marks.drill)
            scene = Scene(
                client=here.client, streams=here.streams, watch=watch, marks=marks, notebook=here.notebook, job=job,
                seconds=here.options.seconds, skew=here.options.skew,
            )  # fmt: skip
            results, wrong, checked = await _all(here, scene, wanted, done)
        where = await _surroundings(here, load)
        return DrillReport(
            drill=marks.drill, command=here.options.command, date=time.strftime("%Y-%m-%d %H:%M %Z"), where=where, job=job,
            own_job=own, seconds=round(time.monotonic() - began, 1), results=tuple(results), wrong=wrong, checked=checked,
        )  # fmt: skip
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        await put_right_again(here.notebook, here.client, here.streams)


async def _all(
    here: Ground, scene: Scene, wanted: Sequence[Plan], done: Callable[[Result], None]
) -> tuple[list[Result], tuple[str, ...], tuple[str, ...]]:
    results: list[Result] = []
    drills = Drills(scene, here.options.say)

    def note(result: Result) -> None:
        results.append(result)
        done(result)

    async with scene.marks.counting():
        try:
            await drills.meet()
        except (NotHeard, JobEnded) as error:
            raise NoFleet(f"job {scene.job} closes no rounds, so that nothing can be seen by it: {error}") from error
        here.options.say(f"job {scene.job} on {', '.join(scene.nodes)}")
        for number, plan in enumerate(wanted, 1):
            try:
                note(await drills.run(plan, number, len(wanted)))
            except JobEnded as error:
                rest = wanted[number - 1 :]
                for left in rest:
                    note(Result(name=left.name, does=left.does, goal=left.goal, skipped=str(error)))
                break
        wrong, checked = await drills.whole_job()
    return results, tuple(wrong), tuple(checked)


async def _submit(here: Ground, name: str) -> str:
    """A job of the drill's own, to be cancelled whatever happens."""
    alive = sum(row.alive for row in here.nodes)
    if not alive:
        raise NoFleet("no node is alive: `shoal up --nodes 2`, or `shoal node` on other machines")
    here.notebook.note(job=name)
    here.options.say(f"no job runs: {name} is submitted for this, and cancelled afterwards")
    accepted = await here.client.submit(OWN_JOB | {"id": name, "min_nodes": min(MOST_NODES, alive)}, queue=False)
    async with asyncio.timeout(PATIENCE):
        async for event in here.client.events(f"shoal.training.{name}.round.*.closed"):
            if isinstance(event, RoundClosed):
                break
    return accepted.job


async def _surroundings(here: Ground, load: float) -> Surroundings:
    parts = find_parts(here.options.store)
    rows = here.nodes
    return Surroundings(
        machine=f"{platform.system()} {platform.machine()}",
        cpus=os.cpu_count() or 1,
        load_before=round(load, 1),
        load_after=round(os.getloadavg()[0], 1),
        python=platform.python_version(),
        shoal=_version("shoal"),
        torch=next((row.torch for row in rows if row.torch), ""),
        server=(await find_binary()).version,
        nodes=tuple(_described(row, parts) for row in rows if row.alive),
        replicas=max((len(replicas) for replicas in parts.agents.values()), default=1),
    )


def _described(row: NodeRow, parts: Parts) -> str:
    local = parts.nodes.get(row.node)
    where = "on another machine" if local is None else "of `shoal up`" if local.watched else "of `shoal node`"
    link = f", link emulated: {row.emulated_link}" if row.emulated_link else ""
    return f"{row.node} ({where}{link})"


def _version(distribution: str) -> str:
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return ""


def report_bytes(report: DrillReport) -> bytes:
    """The report as JSON."""
    return msgspec.json.encode(report)
