"""The process of a training job on one node: two cores, trainer and reducer, and the torch they ask for.

`python -m runners.jobs.training --spec FILE` reads a `JobSpec` and removes the file. Its node starts it, watches it, and
ends it with SIGTERM. What happens in it comes back as events on the bus; what it prints becomes `shoal logs JOB`.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import msgspec

from agents.node.works import EXIT_IMPORT, EXIT_MEMORY, EXIT_RAISED
from agents.reducer import Reducer, ReducerSettings
from agents.trainer import Trainer, TrainerSettings, works
from bus import clock
from bus.credentials import Secret, read_secret
from bus.nats import NatsBus
from bus.port import BusError, Start
from bus.tensors import TensorBus
from runners import loop
from runners.host import Host
from runners.jobs import bounds
from runners.jobs.averages import Averages
from runners.jobs.names import checkpoint_name
from runners.jobs.passes import is_out_of_memory
from runners.jobs.reducer_works import ReducerWorks
from runners.jobs.same_bits import InexactOptimizer
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.tasks import TorchThread
from runners.jobs.trainer_works import OtherCode, TrainerWorks
from runners.jobs.workload import WorkloadError
from schemas.errors import ShoalError

EXIT_DONE = 0
CONFINED = (
    "this node keeps the code that jobs bring from its files: its owner may allow more, by `shoal node --allow-read PATH` "
    "or --confine off"
)
EXIT_BUS = 6  # the server can't be reached or refused the credentials


class Failure:
    """The first thing that went wrong in a work, which ends the process."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._raised = asyncio.Event()

    def __call__(self, error: BaseException) -> None:
        """Note it; later ones are its consequences."""
        if self.error is None:
            self.error = error
        self._raised.set()

    async def wait(self) -> None:
        """Until something has gone wrong."""
        await self._raised.wait()


async def run(spec: JobSpec, secret: Secret) -> int:
    """Take part in a job until the node says stop; gives the exit code. `secret`: what lets it into the server."""
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    bus = await NatsBus.connect(spec.server, source=f"trainer/{spec.job}/{spec.node}", token=secret)
    tensors = await TensorBus.connect(spec.server, job=spec.job, node=spec.node, token=secret)
    try:
        return await _take_part(spec, bus, tensors, stop)
    finally:
        await tensors.close()
        await bus.close()


async def _take_part(spec: JobSpec, bus: NatsBus, tensors: TensorBus, stop: asyncio.Event) -> int:
    torch_thread, failure = TorchThread(), Failure()
    averages = Averages(tensors, spec.node)
    checkpoint = await _checkpoint(spec, bus)
    loading = asyncio.ensure_future(torch_thread.run(Session.load, spec, checkpoint))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        return EXIT_DONE
    session = loading.result()

    async def provide(kind: str) -> tuple[str, bytes] | None:
        if kind != "anchor":
            return None
        version, data = await torch_thread.run(session.snapshot)
        return str(version), data

    tensors.provide(provide)
    await tensors.follow("average")
    incarnation = int(time.time() * 1000)
    scope = {"job": spec.job}
    trainer = Host(
        Trainer(TrainerSettings(), random.Random(f"{spec.request.seed}/{spec.node}"), job=spec.job, node=spec.node),
        bus,
        source=f"trainer/{spec.job}/{spec.node}",
        scope=scope,
        works=TrainerWorks(session, bus, tensors, averages, torch_thread, failure),
        incarnation=incarnation,
        durable=False,
        start=Start.LAST,
        announce=False,
    )
    reducer = Host(
        Reducer(ReducerSettings(), random.Random(0), job=spec.job, node=spec.node),
        bus,
        source=f"reducer/{spec.job}/{spec.node}",
        scope=scope,
        works=ReducerWorks(session, tensors, averages, torch_thread, failure),
        incarnation=incarnation,
        durable=False,
        start=Start.LAST,
        announce=False,
    )
    hosts = [asyncio.ensure_future(trainer.run()), asyncio.ensure_future(reducer.run())]
    code = await torch_thread.run(lambda: session.code)
    count, device = session.anchor.layout.parameters, str(session.trainer.device)
    if (dtype := session.trainer.passes.dtype) is not None:
        print(f"computing in {str(dtype).removeprefix('torch.')} on {device}; parameters stay as they are")
    trainer.post(works.ModelBuilt(digest=session.digest, parameters=count, device=device, code=code))
    failing = asyncio.ensure_future(failure.wait())
    await asyncio.wait({stopping, failing, *hosts}, return_when=asyncio.FIRST_COMPLETED)
    for host in (trainer, reducer):
        host.stop("the node ends the job's process")
    await asyncio.gather(*hosts)
    await averages.close()
    failing.cancel()
    if failure.error is not None:
        raise failure.error
    return EXIT_DONE


async def _checkpoint(spec: JobSpec, bus: NatsBus) -> bytes | None:
    """The parameters that the job goes on from, if it resumes another."""
    if spec.request.resume is None:
        return None
    try:
        return await bus.get_object(checkpoint_name(spec.request.resume))
    except KeyError:
        raise MissingCheckpoint(spec.request.resume) from None


class MissingCheckpoint(ShoalError):
    """A job to resume that left no checkpoint. Attribute: `job`."""

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job} left no checkpoint to resume: name another, or leave `resume` out")
        self.job = job


def exit_code(error: BaseException) -> int:
    """What a failure means to the node."""
    if is_out_of_memory(error):
        return EXIT_MEMORY
    if isinstance(error, WorkloadError | MissingCheckpoint | OtherCode | InexactOptimizer):
        return EXIT_IMPORT
    return EXIT_BUS if isinstance(error, BusError) else EXIT_RAISED


def take_part(path: Path) -> int:
    """Take part as a file's `JobSpec` says, which is removed once it is read; print what went wrong, its last line last."""
    spec = msgspec.json.decode(path.read_bytes(), type=JobSpec)
    path.unlink(missing_ok=True)
    try:
        secret: Secret = Path(spec.token_file) if spec.token_file else None
        if spec.bounds.confined and isinstance(secret, Path):
            secret = read_secret(secret)  # the last time that it can; one that has to be renewed comes with a new process
        bounds.apply(spec.bounds)
        clock.skew(spec.clock_skew)
        return loop.run(run(spec, secret))
    except ShoalError as error:
        if not isinstance(error, BusError):
            traceback.print_exc()
        print(f"{type(error).__name__}: {error}{_hint(spec, error)}", file=sys.stderr, flush=True)
        return exit_code(error)
    except BaseException as error:
        traceback.print_exc()
        if hint := _hint(spec, error):
            print(f"{type(error).__name__}: {error}{hint}", file=sys.stderr, flush=True)
        return exit_code(error)


def _hint(spec: JobSpec, error: BaseException) -> str:
    """What to add where a confined process was denied something, whatever came of that."""
    cause: BaseException | None = error
    while cause is not None:
        if spec.bounds.confined and isinstance(cause, PermissionError):
            return f" ({CONFINED})"
        cause = cause.__cause__ or cause.__context__
    return ""


def main() -> int:
    """What a node starts where it can't fork."""
    parser = argparse.ArgumentParser(prog="python -m runners.jobs.training", description="A job's process on one node.")
    parser.add_argument("--spec", type=Path, required=True, help="a JobSpec as JSON; removed once it is read")
    return take_part(parser.parse_args().spec)


if __name__ == "__main__":
    sys.exit(main())
