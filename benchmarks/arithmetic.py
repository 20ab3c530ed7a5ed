"""How far gradients of the same parameters and samples lie apart, by the machine's way of computing.

    python -m benchmarks.arithmetic [--json] [--versions 8]

What a reducer compares (`agents/reducer/arithmetic.py`): every row computes the gradients that a job verifies, in a process
of its own, and is compared with the first. `flipped`: one exponent bit of one weight is flipped, in one matrix after the
other of the model; the deviations show what the tolerance finds.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from agents.reducer.arithmetic import deviation
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.verifying import verify
from runners.jobs.workload import load_workload
from schemas.jobs import Precision
from schemas.verification import GradientVerified

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("examples.stdlib_lm:workload", "examples.digits:workload")
EXPONENT_BIT = 1 << 25  # of float32: the third of its exponent, a factor of 16


class Way(msgspec.Struct, frozen=True):
    """A way of computing."""

    name: str
    environment: dict[str, str] = {}
    threads: int = 1
    precision: Precision = "float32"
    flip: bool = False


WAYS = (
    Way("as it is"),
    Way("again"),
    Way("plain vector instructions", {"ATEN_CPU_CAPABILITY": "default"}),
    Way("AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}),
    Way("two threads", threads=2),
    Way("bfloat16", precision="bfloat16"),
    Way("flipped", flip=True),
)


def reports(way: Way, workload: str, versions: int) -> list[GradientVerified]:
    """What this process gets."""
    torch.set_num_threads(way.threads)
    trainer = LocalTrainer(
        load_workload(workload, ROOT), seed=0, node="one", device=torch.device("cpu"), precision=way.precision
    )
    matrices = [
        parameter.data.view(torch.int32).reshape(-1) for parameter in trainer.model.parameters() if parameter.dim() == 2
    ]
    made = []
    for version in range(versions):
        flipped = matrices[version % len(matrices)][0:1] if way.flip else torch.zeros(1, dtype=torch.int32)
        flipped ^= EXPONENT_BIT
        got = verify(trainer, 0, version, 4)
        flipped ^= EXPONENT_BIT
        made.append(GradientVerified(job="bench", node="one", version=version, gradient=got))
    return made


def measured(way: Way, workload: str, versions: int) -> list[GradientVerified]:
    """The same from a process of its own."""
    job = msgspec.json.encode((way, workload, versions)).decode()
    argv = [sys.executable, "-m", "benchmarks.arithmetic", "--one", job]
    done = subprocess.run(argv, capture_output=True, check=True, env=os.environ | way.environment)
    return msgspec.json.decode(done.stdout, type=list[GradientVerified])


def table(versions: int) -> list[dict[str, Any]]:
    """A row for each way and workload."""
    rows: list[dict[str, Any]] = []
    for workload in WORKLOADS:
        usual = measured(WAYS[0], workload, versions)
        for way in WAYS[1:]:
            apart = [
                deviation(mine, [theirs]) for mine, theirs in zip(measured(way, workload, versions), usual, strict=True)
            ]
            rows.append({"workload": workload, "way": way.name, "least": min(apart), "most": max(apart)})
        seconds = sorted(report.gradient.seconds for report in usual)[len(usual) // 2]
        rows.append({"workload": workload, "way": "seconds each", "least": seconds, "most": seconds})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--versions", type=int, default=8, help="gradients compared in each row")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, workload, versions = msgspec.json.decode(options.one, type=tuple[Way, str, int])
        sys.stdout.buffer.write(msgspec.json.encode(reports(way, workload, versions)))
        return
    rows = table(options.versions)
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['workload']:30} {row['way']:26} {row['least']:.2g} to {row['most']:.2g}")


if __name__ == "__main__":
    main()
