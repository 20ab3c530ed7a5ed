"""Runs the demo: brings up a fleet of its own, submits the job, injects the faults, shows it, collects what it left."""

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runners.client import Client, connect
from runners.demo.compare import Comparison, compare
from runners.demo.faults import FaultScript, Injected, child_name
from runners.demo.scenario import NODES, request
from runners.fetching import Fetched, fetch_job
from runners.up import Fleet, UpOptions
from runners.view.live import watch_fleet
from schemas.errors import ShoalError
from schemas.jobs import JobPhase, ReportReady, SyncMode
from schemas.nodes import NodeHeartbeat

# Seconds for all five nodes to be there: five Python starts on two cores take about five.
NODES_WITHIN = 60.0
# Seconds for the recorder to write the report after the job's end.
REPORT_WITHIN = 30.0


class DemoFailed(ShoalError):
    """The demo's job didn't complete. Attribute: `store` (logs are there)."""

    def __init__(self, why: str, store: Path) -> None:
        super().__init__(f"{why}; the logs are in {store / 'logs'}")
        self.store = store


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What `shoal demo` was asked for."""

    rounds: int = 25
    seed: int = 0
    congestion: str = "cubic"
    sync: SyncMode = "round"
    compare: bool = False
    out: Path = Path("runs")
    store: Path | None = None
    """Where server and agents keep their files, which then stay; by default a temporary directory."""
    say: Callable[[str], None] = print


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo left."""

    job: str
    fetched: Fetched
    comparison: Comparison | None


async def run_demo(options: DemoOptions) -> DemoResult | None:
    """The whole demo; None if a signal ended it.

    Raises:
        DemoFailed: the job failed.
        ShoalError: something could not be started.
    """
    store = options.store or Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    fleet = Fleet(UpOptions(store=store, warn=lambda line: None))
    result: DemoResult | None = None
    try:
        result = await fleet.supervisor.run(_demo(options, fleet, store))
    finally:
        if options.store is None and (result is not None or fleet.supervisor.signalled is not None):
            shutil.rmtree(store, ignore_errors=True)
    return result


async def _demo(options: DemoOptions, fleet: Fleet, store: Path) -> DemoResult:
    options.say("starting a NATS server, six agents and five nodes (links and speeds are emulated; all else is real)")
    address = await fleet.start()
    options.say(f"watch it from elsewhere: shoal watch --server {address.url}")
    async with await connect(address.url, name="demo") as client:
        arrived = asyncio.ensure_future(_all_alive(client))
        for node in NODES:
            argv = (*node.arguments(options.congestion), "--app-dir", str(_examples()))
            await fleet.start_node(child_name(node.name), argv, nice=5)
        try:
            await asyncio.wait_for(arrived, NODES_WITHIN)
        except TimeoutError:
            raise DemoFailed(f"not all nodes were there after {NODES_WITHIN:.0f} s", store) from None
        script = FaultScript(client, fleet.supervisor)
        job = f"demo-{time.strftime('%H%M%S')}"
        injected = Injected()
        body = request(options.rounds, options.seed, job, options.sync)
        await client.submit(body)
        async with _beside(script.by_round(job, injected)):
            await watch_fleet(client, job, until_ended=True)
        state = await client.state(job)
        if state is None or state.state is not JobPhase.COMPLETED:
            raise DemoFailed(f"the job {state.state.value}: {state.reason}" if state else "the job is gone", store)
        fetched = await _fetch(client, job, options.out)
        comparison = None
        if options.compare:
            comparison = await compare(client, script, injected, body, options.say)
        return DemoResult(job=job, fetched=fetched, comparison=comparison)


async def _all_alive(client: Client) -> None:
    missing = {node.name for node in NODES}
    async for event in client.events("shoal.nodes.*.heartbeat"):
        if isinstance(event, NodeHeartbeat):
            missing.discard(event.node)
        if not missing:
            return


async def _fetch(client: Client, job: str, out: Path) -> Fetched:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REPORT_WITHIN):
            async for event in client.events(f"shoal.jobs.{job}.report", past=True):
                if isinstance(event, ReportReady):
                    break
    return await fetch_job(client, job, out)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a coroutine beside the block, and end it with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _examples() -> Path:
    """The directory that `examples` is in: the clone's, wherever the command is called from."""
    if (Path.cwd() / "examples" / "stdlib_lm.py").exists():
        return Path.cwd()
    here = Path(__file__).resolve().parents[2]
    if (here / "examples" / "stdlib_lm.py").exists():
        return here
    spec = importlib.util.find_spec("examples.stdlib_lm")
    if spec is None or spec.origin is None:
        raise DemoFailed("the examples are not here: run the demo from Shoal's clone", Path(sys.prefix))
    return Path(spec.origin).parents[1]
