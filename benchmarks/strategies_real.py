"""Batch strategies on a real small fleet: seconds to a held-out loss of handwritten digits, with real processes and torch.

    python -m benchmarks.strategies_real [--json] [--strategies hybrid goodput] [--seed 0]

Three nodes on this machine behind emulated links (perfect, average, poor; cubic), each step padded to 60 ms a start
microbatch of 8, and 1, 1.5 and 2 times that. One job after another on the same fleet; the time is from the first round's
opening to the first validation at the target.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from benchmarks.idle import ROOT
from runners.client import Client, connect
from runners.up import Fleet, UpOptions
from schemas.jobs import BatchStrategy, JobState
from schemas.nodes import NodeHeartbeat
from schemas.training import Assignment, RoundClosed, RoundOpened, Validated

TARGET = 0.35
LIMIT = 240.0  # seconds a job, starts included
NODES_WITHIN = 120.0
NODES = (("near", "perfect", 1.0), ("middle", "average", 1.5), ("far", "poor", 2.0))
STEP_MS = 60.0


@dataclass(frozen=True)
class Run:
    """One job."""

    strategy: str
    seconds: float | None
    """None where the target wasn't reached in time."""
    rounds: int
    samples: int
    loss: float
    shares: dict[str, str]
    """Steps x samples of each node, in the end."""


async def train(client: Client, strategy: BatchStrategy, seed: int) -> Run:
    """One job to the target."""
    job = f"digits-{strategy}"
    began: float | None = None
    seconds, rounds, samples, loss, shares = None, 0, 0, float("nan"), dict[str, str]()
    body = {
        "kind": "train",
        "id": job,
        "workload": "examples.digits:workload",
        "rounds": 1000,
        "local_steps": 5,
        "microbatch": 8,
        "min_nodes": len(NODES),
        "seed": seed,
        "batch": strategy,
        "target_loss": TARGET,
        "checkpoint_every": 0,
    }
    watching = client.events("shoal.>")
    submitted = asyncio.ensure_future(client.submit(body))
    async for event in watching:
        if getattr(event, "job", None) != job:
            continue
        match event:
            case RoundOpened() if began is None:
                began = event.at
            case RoundClosed():
                rounds, samples = event.round, samples + event.samples
            case Assignment():
                shares = {name: f"{share.local_steps} x {share.microbatch}" for name, share in event.shares.items()}
            case Validated():
                loss = event.loss
                if loss <= TARGET and began is not None and seconds is None:
                    seconds = event.at - began
            case JobState() if event.state.ended:
                break
    await submitted
    return Run(strategy, seconds, rounds, samples, loss, shares)


async def alive(client: Client) -> None:
    """All nodes beat."""
    missing = {name for name, _, _ in NODES}
    async for event in client.events("shoal.nodes.*.heartbeat"):
        if isinstance(event, NodeHeartbeat):
            missing.discard(event.node)
        if not missing:
            return


async def race(fleet: Fleet, strategies: list[BatchStrategy], seed: int) -> list[Run]:
    """A fleet, and one job after another."""
    address = await fleet.start()
    async with await connect(address.url, name="strategies") as client:
        arrived = asyncio.ensure_future(alive(client))
        for name, link, slowdown in NODES:
            shape = ("--name", name, "--link", link, "--slowdown", str(slowdown), "--step-time", str(STEP_MS))
            await fleet.start_node(f"node {name}", (*shape, "--app-dir", str(ROOT)), nice=5)
        await asyncio.wait_for(arrived, NODES_WITHIN)
        runs = []
        for strategy in strategies:
            print(f"{strategy} ...", file=sys.stderr, flush=True)
            try:
                runs.append(await asyncio.wait_for(train(client, strategy, seed), LIMIT))
            except TimeoutError:
                await client.cancel(f"digits-{strategy}", "the time is up")
                runs.append(Run(strategy, None, 0, 0, float("nan"), {}))
        return runs


async def whole(strategies: list[BatchStrategy], seed: int) -> list[Run]:
    """Bring up, race, take down."""
    store = Path(tempfile.mkdtemp(prefix="shoal-strategies-"))
    fleet = Fleet(UpOptions(store=store, warn=lambda line: None))
    try:
        runs = await fleet.supervisor.run(race(fleet, strategies, seed))
    finally:
        shutil.rmtree(store, ignore_errors=True)
    return runs or []


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--strategies", nargs="+", choices=get_args(BatchStrategy), default=["hybrid", "goodput"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = asyncio.run(whole(options.strategies, options.seed))
    if options.json:
        print(json.dumps({"target": TARGET, "runs": [asdict(run) for run in runs]}, indent=2))
        return
    for run in runs:
        took = f"{run.seconds:.1f} s" if run.seconds is not None else "not reached"
        print(f"{run.strategy:10} {took}, {run.rounds} rounds, {run.samples} samples, {run.shares}")


if __name__ == "__main__":
    main()
