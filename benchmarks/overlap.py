"""What it brings and costs to compute while tensors travel: `sync = "overlap"` beside `"round"`, whole and in fragments.

    python -m benchmarks.overlap [--json] [--parts wall,loss,memory] [--links good,average] [--fragments 4]

`wall`: `shoal up` and nodes as processes, one with a perfect link that reduces and two behind emulated ones (cubic), the
demo's model with padded steps, the same work and so the same samples in all modes: seconds from the first round's opening
to the last one's closing, beside what the steps alone take, and the held-out loss that came of it. A node that is a round
ahead drifts for twice as long, a fragment for as many rounds as there are; so rounds of fewer steps are measured as well.

`loss`: held-out loss at equal samples without network or machines: sessions in this process, every average applied as late
as it can be, at the end of the next round's steps. An upper bound of what being a round ahead costs.

`memory`: the peak of a job's process with a model of 25 million parameters, less what model, optimizer and one step of it
take in a process of their own, in units of the parameters' bytes; of two nodes, the one that reduces and the other one.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))  # the same fleet as the tests'

from process_fleet import ProcessFleet
from story import following

from agents.reducer.works import Part
from benchmarks.idle import ROOT
from runners.client import connect
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from schemas.jobs import Encoding, JobPhase, JobRequest, JobState
from schemas.training import RoundClosed, RoundOpened, Validated

WORKLOAD = "examples.stdlib_lm:workload"
LARGE = "benchmarks.large_model:workload"
PATIENCE = 900.0  # seconds for a job


@dataclass(frozen=True)
class Mode:
    """One way to train on the same samples."""

    name: str
    fields: dict[str, Any]
    """Of the request."""
    divide: int = 1
    """So many times the rounds, of so many times fewer steps."""


def modes(fragments: int) -> list[Mode]:
    """What is compared."""
    whole, parts = {"sync": "overlap", "fragments": 1}, {"sync": "overlap", "fragments": fragments}
    return [
        Mode("round", {"sync": "round"}),
        Mode("round, half the steps", {"sync": "round"}, 2),
        Mode("overlap", whole),
        Mode("overlap, half the steps", whole, 2),
        Mode(f"overlap, {fragments} fragments, steps divided", parts, fragments),
    ]


@dataclass(frozen=True)
class Wall:
    """One job among processes."""

    link: str
    mode: str
    rounds: int
    seconds: float
    steps_alone: float
    """Seconds of the steps, if nothing else took any time."""
    late: int
    """Contributions that counted late."""
    samples: int
    loss: float


@dataclass(frozen=True)
class Loss:
    """One mode, at equal samples."""

    seed: int
    mode: str
    losses: tuple[float, ...]
    """After a third, two thirds and all of the rounds."""


@dataclass(frozen=True)
class Memory:
    """One mode; in units of the parameters' bytes."""

    mode: str
    reducer: float
    other: float


# Wall time, with processes and emulated links.


async def run_job(fleet: ProcessFleet, request: dict[str, Any]) -> tuple[list[RoundClosed], float, float]:
    """Trains; gives its closed rounds, the seconds between first opening and last closing, and its last held-out loss."""
    async with await connect(fleet.url) as client, following(client) as story:
        job = (await client.submit(request)).job
        state = await story.heard(JobState, lambda m: m.job == job and m.state.ended, timeout=PATIENCE)
        if state.state is not JobPhase.COMPLETED:
            raise SystemExit(f"{job} {state.state.value}: {state.reason}")
        opened = min(m.at for m in story.of(RoundOpened, lambda m: m.job == job))
        closed = sorted({m.round: m for m in story.of(RoundClosed, lambda m: m.job == job)}.values(), key=lambda m: m.round)
        last = max(story.of(Validated, lambda m: m.job == job), key=lambda m: m.round)
        return closed, closed[-1].at - opened, last.loss


def wall(links: list[str], fragments: int, rounds: int, steps: int, step_ms: float) -> Iterator[Wall]:
    """One fleet a link, all modes after each other in it."""
    for link in links:
        with tempfile.TemporaryDirectory() as home, ProcessFleet(Path(home)) as fleet:
            fleet.up()
            shape = ("--step-time", str(step_ms), "--app-dir", str(ROOT))
            fleet.node("near", "--link", "perfect", *shape)
            for name in ("far-1", "far-2"):
                fleet.node(name, "--link", link, "--cc", "cubic", *shape)
            for mode in modes(fragments):
                request = {
                    "kind": "train", "workload": WORKLOAD, "rounds": rounds * mode.divide, "min_nodes": 3, "microbatch": 4,
                    "local_steps": steps // mode.divide, "batch": "fixed", "selection": "all", "adaptation": "off",
                    "encoding": "int8", "deadline_seconds": 120.0, "checkpoint_every": 0, "validate_every": 0,
                }  # fmt: skip
                closed, seconds, loss = asyncio.run(run_job(fleet, request | mode.fields))
                parts = [part for each in closed for part in each.contributions]
                yield Wall(
                    link=link,
                    mode=mode.name,
                    rounds=len(closed),
                    seconds=seconds,
                    steps_alone=rounds * steps * step_ms / 1000,
                    late=sum(part.late > 0 for part in parts),
                    samples=sum(part.samples for part in parts),
                    loss=loss,
                )


# Loss, in this process.


def session(node: str, seed: int, rounds: int, mode: Mode) -> Session:
    """One node's tensors."""
    request = JobRequest(kind="train", workload=WORKLOAD, seed=seed, rounds=rounds, **mode.fields)
    return Session.load(JobSpec(job="j", node=node, server="", request=request, app_dir=str(ROOT), device="cpu"))


def average(sessions: list[Session], payloads: list[bytes], number: int) -> bytes:
    """What the first of them makes of a round."""
    parts = [Part(node=f"n{place}", round=number, weight=1 / len(payloads)) for place in range(len(payloads))]
    first = sessions[0]
    gathered = [(part, first.decoded(payload, number)) for part, payload in zip(parts, payloads, strict=True)]
    return first.average(gathered, "mean", "int8", number)[0]


def loss(seed: int, mode: Mode, nodes: int, rounds: int, steps: int, encoding: Encoding) -> Loss:
    """All rounds; with overlap each average comes at the end of the next round's steps. The loss is that of a version: of
    the samples up to its round."""
    rounds, steps = rounds * mode.divide, steps // mode.divide
    ahead = mode.fields["sync"] == "overlap"
    sessions = [session(f"node-{place}", seed, rounds, mode) for place in range(nodes)]
    looks = {round(rounds * part / 3) for part in (1, 2, 3)}
    losses, closed = [], b""
    for number in range(1, rounds + 1):
        payloads = []
        for each in sessions:
            each.begin_steps(number)
            for _ in range(steps):
                each.step(4)
            if closed and ahead:
                each.apply(number - 1, closed)
                if number - 1 in looks and each is sessions[0]:
                    losses.append(each.validate())
            payloads.append(each.difference(encoding, number))
        closed = average(sessions, payloads, number)
        if not ahead or number == rounds:
            for each in sessions:
                each.apply(number, closed)
            if number in looks:
                losses.append(sessions[0].validate())
    return Loss(seed=seed, mode=mode.name, losses=tuple(losses))


# Memory.

ALONE = """
import resource, torch
from runners.jobs import training
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.workload import load_workload
from pathlib import Path
torch.set_num_threads(1)
one = LocalTrainer(load_workload({workload!r}, Path({root!r})), seed=0, node="a", device=torch.device("cpu"))
for _ in range(3):
    one.step({microbatch})
print(sum(p.numel() for p in one.model.parameters()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def alone(microbatch: int) -> tuple[int, int]:
    """Parameters, and bytes at the peak of a process that takes local steps and nothing else."""
    code = ALONE.format(workload=LARGE, root=str(ROOT), microbatch=microbatch)
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    parameters, peak = said.split()
    return int(parameters), int(peak)


def peak_of(pid: int) -> int:
    """Bytes that a process had in memory at most, as Linux counts them."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


async def peaks(fleet: ProcessFleet, request: dict[str, Any], last: int) -> tuple[int, int]:
    """Peaks of the process that reduces and of the other one, when so many rounds are closed."""
    async with await connect(fleet.url) as client, following(client) as story:
        job = (await client.submit(request)).job
        closed = await story.heard(RoundClosed, lambda m: m.job == job and m.round >= last, timeout=PATIENCE)
        found = {name: peak_of(fleet.job(name)) for name in fleet.nodes}
        await client.cancel(job, "measured")
        return found.pop(closed.reducer), max(found.values())


def memory(fragments: int, microbatch: int = 2) -> Iterator[Memory]:
    """A fleet of two, all modes after each other in it."""
    parameters, base = alone(microbatch)
    with tempfile.TemporaryDirectory() as home, ProcessFleet(Path(home)) as fleet:
        fleet.up()
        for name in ("a", "b"):
            fleet.node(name, "--app-dir", str(ROOT))
        for mode in (mode for mode in modes(fragments) if mode.divide in (1, fragments)):
            request = {
                "kind": "train", "workload": LARGE, "rounds": 1000, "min_nodes": 2, "microbatch": microbatch,
                "local_steps": 4, "batch": "fixed", "selection": "all", "adaptation": "off", "encoding": "int8",
                "deadline_seconds": 300.0, "hang_seconds": 600.0, "checkpoint_every": 0, "validate_every": 1,
            }  # fmt: skip
            reducer, other = asyncio.run(peaks(fleet, request | mode.fields, 3 * fragments))
            yield Memory(mode.name, (reducer - base) / parameters / 4, (other - base) / parameters / 4)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--parts", default="wall,loss,memory")
    parser.add_argument("--links", default="good,average", help="emulated links of two of the three nodes")
    parser.add_argument("--fragments", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="local steps a round; divisible by the fragments")
    parser.add_argument(
        "--step-ms", type=float, default=500.0, help="an emulated step takes, so that machines fit on few cores"
    )
    parser.add_argument("--seeds", default="0,1,2", help="of the losses")
    parser.add_argument(
        "--encoding", default="int8", choices=get_args(Encoding), help="of differences, where losses are measured"
    )
    asked = parser.parse_args()
    parts, rows = asked.parts.split(","), []
    if "wall" in parts:
        for row in wall(asked.links.split(","), asked.fragments, asked.rounds, asked.steps, asked.step_ms):
            rows.append(_tell(row))
    if "loss" in parts:
        for seed in map(int, asked.seeds.split(",")):
            for mode in modes(asked.fragments):
                rows.append(_tell(loss(seed, mode, 3, asked.rounds, asked.steps, asked.encoding)))
    if "memory" in parts:
        for used in memory(asked.fragments):
            rows.append(_tell(used))
    if asked.json:
        print(json.dumps({"machine": platform.machine(), "cpus": os.cpu_count(), "rows": rows}, indent=2))


def _tell(row: Wall | Loss | Memory) -> dict[str, Any]:
    print("  ".join(f"{name} {value}" for name, value in asdict(row).items()), file=sys.stderr, flush=True)
    return {"measures": type(row).__name__.lower()} | asdict(row)


if __name__ == "__main__":
    main()
