"""What an encoding costs in quality: held-out loss after the same rounds of local steps, with each encoding.

    python -m benchmarks.encodings [--json] [--encodings float32,int8,int4,topk] [--nodes 2] [--rounds 18] [--steps 5]

The nodes are in this process and take turns, each with its own walk over the data, its optimizer and its error
feedback; the average goes out as a job's does, in int8 where differences are coarser. Everything but the encoding is the
same: model, parameters at the start, samples, rounds. Losses are the workload's held-out one: nats a byte for the demo's.
"""

import argparse
import json
import platform
from dataclasses import asdict, dataclass

import torch

from agents.batch_controller.links import average_as
from benchmarks.idle import ROOT
from runners.jobs.anchor import weighted_average
from runners.jobs.codecs import ENCODINGS, decode, encoded_size
from runners.jobs.error_feedback import ErrorFeedback
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.moving import outer_step
from runners.jobs.workload import load_workload
from schemas.jobs import Encoding


@dataclass(frozen=True)
class Row:
    """One encoding."""

    encoding: Encoding
    payload_bytes: int
    """Of one node's difference."""
    losses: tuple[float, ...]
    """After a third, two thirds and all of the rounds."""


@dataclass(frozen=True)
class Plan:
    """The same for every encoding."""

    workload: str
    nodes: int
    rounds: int
    steps: int
    microbatch: int
    seed: int

    def looks(self) -> set[int]:
        """Rounds after which the loss is measured."""
        return {round(self.rounds * part / 3) for part in (1, 2, 3)}


def measure(encoding: Encoding, plan: Plan) -> Row:
    """All rounds with one encoding."""
    workload = load_workload(plan.workload, ROOT)
    device = torch.device("cpu")
    trainers = [LocalTrainer(workload, seed=plan.seed, node=f"node-{i}", device=device) for i in range(plan.nodes)]
    anchor = trainers[0].anchor(0)
    count, statistics = anchor.layout.count, anchor.layout.count - anchor.layout.parameters
    owed = [ErrorFeedback(count, statistics) for _ in trainers]
    owed_average = ErrorFeedback(count)
    losses = []
    for number in range(1, plan.rounds + 1):
        deltas = []
        for trainer, feedback in zip(trainers, owed, strict=True):
            trainer.load(anchor)
            for _ in range(plan.steps):
                trainer.step(plan.microbatch)
            deltas.append((1.0, decode(feedback.encode(trainer.delta(anchor), encoding))))
        anchor = outer_step(anchor, decode(owed_average.encode(weighted_average(deltas), average_as(encoding))))
        if number in plan.looks():
            trainers[0].load(anchor)
            losses.append(trainers[0].validate())
    return Row(encoding, encoded_size(count, encoding, statistics), tuple(losses))


def main() -> None:
    """Measures and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--encodings", default="float32,int8,int4,topk", help=f"of {', '.join(ENCODINGS)}")
    parser.add_argument("--workload", default="examples.stdlib_lm:workload")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=18)
    parser.add_argument("--steps", type=int, default=5, help="local steps a round")
    parser.add_argument("--microbatch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    encodings = [encoding for encoding in ENCODINGS if encoding in asked.encodings.split(",")]
    torch.set_num_threads(1)
    plan = Plan(asked.workload, asked.nodes, asked.rounds, asked.steps, asked.microbatch, asked.seed)
    rows = [measure(encoding, plan) for encoding in encodings]
    if asked.json:
        about = {"machine": platform.machine(), "torch": torch.__version__, "plan": asdict(plan)}
        print(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(f"{'encoding':<9}{'bytes':>12}   held-out loss after {', '.join(map(str, sorted(plan.looks())))} rounds")
    for row in rows:
        print(f"{row.encoding:<9}{row.payload_bytes:>12,}   {'  '.join(f'{loss:.4f}' for loss in row.losses)}")


if __name__ == "__main__":
    main()
