"""The process in which a node is measured: `python -m runners.jobs.measuring --spec FILE`.

Transfers as its tensors would travel, then some steps of the job's workload as its trainer would take them. The result goes
into a file; what the workload prints goes where it may.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bus.link_speed import measure_link
from bus.port import BusError
from runners.jobs.spec import JobSpec
from schemas.measuring import Carried, NodeMeasured

if TYPE_CHECKING:
    from runners.jobs.local_steps import LocalTrainer

WARM_UP = 2  # steps: caches, memory, compiled code
STEPS = 30  # at most: a median of so many varies by little
STEPS_SECONDS = 4.0  # at most, but for the first steps
FEWEST = 3  # steps, however long they take
LINK_PART = 0.25  # of the whole limit for each direction of the link: torch's import takes the rest on a slow machine


class MeasuringSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured."""

    ticket: str
    job: JobSpec
    streams: int
    seconds: float
    result: str
    """The file for a `NodeMeasured` as JSON."""


def measure(spec: MeasuringSpec, keep: Callable[[NodeMeasured], None] = lambda found: None) -> NodeMeasured:
    """Measure; what can't be measured is told in `problem`, and the rest is there nevertheless.

    `keep` is told of each part as it is there: the link first, since torch takes its time to load.
    """
    found = NodeMeasured(node=spec.job.node, ticket=spec.ticket, streams=spec.streams)
    problems: list[str] = []
    try:
        found = _link(found, spec)
    except BusError as error:
        problems.append(str(error))
    keep(found)
    try:
        found = _steps(found, spec.job)
    except ImportError as error:
        missing = error.name or str(error)
        mend = "pip install 'torch>=2.9,<=2.13.0' there" if missing.split(".")[0] == "torch" else "install it there"
        problems.append(f"{missing} can't be imported: {mend}")
    except Exception as error:  # whatever the workload raises: its node is measured no further, and lives on
        problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
    found = msgspec.structs.replace(found, problem="; ".join(problems))
    keep(found)
    return found


def _steps(found: NodeMeasured, job: JobSpec) -> NodeMeasured:
    from runners.jobs.local_steps import trainer_for  # torch may be missing or broken, which is to be told

    trainer = trainer_for(job)
    return msgspec.structs.replace(
        found,
        device=str(trainer.device),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        microbatch=job.request.microbatch,
        step_seconds=tuple(_timed(trainer, job)),
    )


def _timed(trainer: "LocalTrainer", job: JobSpec) -> list[float]:
    """Seconds of single steps, as slow as the machine that this node plays."""
    padded, taken = job.step_time_ms / 1000, list[float]()
    for _ in range(WARM_UP):
        trainer.step(job.request.microbatch)
    until = time.monotonic() + STEPS_SECONDS
    while len(taken) < STEPS and (time.monotonic() < until or len(taken) < FEWEST):
        seconds = trainer.step(job.request.microbatch).seconds
        taken.append(max(seconds, padded) * job.slowdown)
    return taken


def _link(found: NodeMeasured, spec: MeasuringSpec) -> NodeMeasured:
    token = Path(spec.job.token_file) if spec.job.token_file else None
    limit = spec.seconds * LINK_PART
    speed = asyncio.run(measure_link(spec.job.server, node=spec.job.node, token=token, streams=spec.streams, seconds=limit))
    up, down = (tuple(Carried(bytes=m.bytes, seconds=m.seconds) for m in way) for way in (speed.up, speed.down))
    return msgspec.structs.replace(found, up=up, down=down)


def main() -> int:
    """Read the specification, measure, write the result."""
    parser = argparse.ArgumentParser(prog="python -m runners.jobs.measuring", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="a MeasuringSpec as JSON; removed once it is read")
    path = parser.parse_args().spec
    spec = msgspec.json.decode(path.read_bytes(), type=MeasuringSpec)
    path.unlink(missing_ok=True)
    result = Path(spec.result)
    written = result.with_suffix(".part")

    def keep(found: NodeMeasured) -> None:
        written.write_bytes(msgspec.json.encode(found))
        written.replace(result)  # whole or not at all: whoever gives up reads what is there

    measure(spec, keep)
    return 0


if __name__ == "__main__":
    sys.exit(main())
