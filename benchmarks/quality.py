"""How good the demo's model is: its held-out loss against one process that trains on the same samples.

    python -m benchmarks.quality [--json] [--seeds 0,1,2] [--out runs/quality]
    python -m benchmarks.quality --seeds 0,1 --reports runs/demo-101500/report.json runs/demo-102000/report.json

The first form runs `shoal demo` once a seed, faults included; the second takes finished runs, in the order of the seeds.
The fleet's loss is measured here, on the `model.safetensors` beside the report.

One process starts from the same parameters and takes the very samples that each node contributed, with the same
optimizer, in two ways. `synchronous`: as many steps as the node with most steps took, each on what all nodes together had
for such a step: data parallelism with a network that costs nothing. `sequential`: steps of the job's starting microbatch,
one after another, so several times as many: the best that one machine can make of the samples, in several times the time.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file

from benchmarks.idle import ROOT, SHOAL
from runners.demo.scenario import request
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.sampling import Sampler
from runners.jobs.workload import load_workload
from runners.report_schema import Report

GOAL = 0.03  # of the loss


@dataclass(frozen=True)
class Row:
    """One seed; losses in nats a byte, on the held-out text."""

    seed: int
    samples: int
    fleet: float
    synchronous_steps: int
    synchronous: float
    sequential_steps: int
    sequential: float

    @property
    def behind_synchronous(self) -> float:
        """Part by which the fleet's loss is the higher."""
        return self.fleet / self.synchronous - 1

    @property
    def behind_sequential(self) -> float:
        """Part by which the fleet's loss is the higher."""
        return self.fleet / self.sequential - 1


def run_demo(seed: int, out: Path) -> Path:
    """A demo of this seed; gives its report's path. What it says goes to standard error."""
    folder = out / f"seed-{seed}"
    known = set(folder.glob("*/report.json"))
    command = [sys.executable, "-c", SHOAL, "demo", "--seed", str(seed), "--out", str(folder.resolve())]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    (report,) = set(folder.glob("*/report.json")) - known
    return report


def trainer(seed: int) -> LocalTrainer:
    """The demo's workload on one thread of this process."""
    workload = load_workload(str(request(1, seed, "-")["workload"]), ROOT)
    return LocalTrainer(workload, seed=seed, node="one", device=torch.device("cpu"))


def loss_of(model: Path, seed: int) -> float:
    """Held-out loss of stored parameters."""
    one = trainer(seed)
    one.model.load_state_dict(load_file(model))
    return one.validate()


def one_process(samples: dict[str, int], seed: int, steps: int) -> float:
    """Held-out loss after as many steps on what the nodes contributed: in each step an equal part of each node's walk."""
    one = trainer(seed)
    walks = [Sampler(len(one.dataset), seed, node).next_indices(count) for node, count in sorted(samples.items())]
    for step in range(steps):
        parts = (walk[len(walk) * step // steps : len(walk) * (step + 1) // steps] for walk in walks)
        batch = one.workload.collate([one.dataset[index] for part in parts for index in part])
        loss = one.workload.loss(one.model, batch)
        one.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        one.optimizer.step()
    return one.validate()


def measure(seed: int, path: Path) -> Row:
    """One finished run against one process."""
    report = msgspec.json.decode(path.read_bytes(), type=Report)
    samples = {node.node: node.samples for node in report.nodes if node.samples}
    synchronous = max(node.steps for node in report.nodes)
    sequential = round(report.samples / int(request(1, seed, "-")["microbatch"]))
    return Row(
        seed=seed,
        samples=report.samples,
        fleet=loss_of(path.with_name("model.safetensors"), seed),
        synchronous_steps=synchronous,
        synchronous=one_process(samples, seed, synchronous),
        sequential_steps=sequential,
        sequential=one_process(samples, seed, sequential),
    )


def summary(values: list[float]) -> str:
    """Mean and range of parts, as percentages."""
    return f"{statistics.mean(values):+.1%} ({min(values):+.1%} to {max(values):+.1%})"


def print_table(rows: list[Row]) -> None:
    """For people."""
    print(f"{'seed':>4} {'samples':>8} {'fleet':>7} {'synchronous':>24} {'sequential':>24}")
    for row in rows:
        synchronous = f"{row.synchronous:.4f} {row.synchronous_steps:>5} steps {row.behind_synchronous:+6.1%}"
        sequential = f"{row.sequential:.4f} {row.sequential_steps:>5} steps {row.behind_sequential:+6.1%}"
        print(f"{row.seed:>4} {row.samples:>8} {row.fleet:>7.4f} {synchronous:>24} {sequential:>24}")
    for name, behind in (
        ("synchronous", [row.behind_synchronous for row in rows]),
        ("sequential", [row.behind_sequential for row in rows]),
    ):
        verdict = "met" if statistics.mean(behind) <= GOAL else "MISSED"
        print(f"the fleet's loss against {name} training: {summary(behind)}; the goal of {GOAL:.0%} is {verdict}")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", default="0,1,2", help="one a run")
    parser.add_argument("--reports", type=Path, nargs="*", default=[], help="of finished demos, one a seed")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="where demos leave their files")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if arguments.reports and len(arguments.reports) != len(seeds):
        parser.error(f"{len(arguments.reports)} reports for {len(seeds)} seeds: say with --seeds which run had which")
    torch.set_num_threads(1)
    reports = arguments.reports or [run_demo(seed, arguments.out) for seed in seeds]
    rows = [measure(seed, path) for seed, path in zip(seeds, reports, strict=True)]
    if arguments.json:
        about = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        made = [
            asdict(row) | {"behind_synchronous": row.behind_synchronous, "behind_sequential": row.behind_sequential}
            for row in rows
        ]
        print(json.dumps(about | {"goal": GOAL, "rows": made}, indent=2))
    else:
        print_table(rows)


if __name__ == "__main__":
    main()
