"""What a node's process does for its agent: job processes are started, listened to and ended; the machine is looked at."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agents.effects import Work
from agents.inputs import Result, WorkExited
from agents.node.works import (
    EXIT_BUNDLE,
    EXIT_BUS,
    EXIT_DECLINED,
    EXIT_NOT_STARTED,
    OUT_OF_MEMORY_KILL,
    AbortWork,
    BundleArriving,
    MachineSampled,
    Measured,
    MeasuringWork,
    PaceJobs,
    SampleMachine,
    TrainingWork,
)
from bus import clock, processes
from bus.port import BusError
from runners.bounding import Bounding, make_scratch, remove_scratch
from runners.bundles.errors import BundleError, NotTaken
from runners.bundles.shelf import Held, Shelf
from runners.fork_client import ForkedProcess, ForkServer, ForkServerGone
from runners.jobs import bounds
from runners.jobs.devices import Machine, disk_used_part
from runners.jobs.pace import tell
from runners.jobs.spec import JobSpec
from runners.measuring import measured
from runners.owner_load import OwnerLoad
from runners.process_group import ProcessGroup
from runners.process_lines import ProcessLines
from schemas.errors import ShoalError
from schemas.ids import JobId, NodeId
from schemas.jobs import JobRequest

Post = Callable[[Result], None]

# Seconds between SIGTERM and SIGKILL: a job process has its last message to send over a bad link, and a whole `shoal up`
# must be gone within ten.
GRACE = 5.0
# Agents come before jobs on a small machine; 19 would starve a job beside any other program.
NICE = 10
# With what torch's optimizers import at their first step.
FORK_ARGV = (sys.executable, "-m", "runners.fork_server", "runners.jobs.training:take_part", "torch._dynamo")
NO_LANDLOCK = "if you trust it all the same, start the node with --confine off; Linux 5.13 with Landlock can confine it"
_VMSTAT = Path("/proc/vmstat")


class UnknownWork(ShoalError):
    """A node was asked for work that it can't do. Attribute: `work`."""

    def __init__(self, work: Work) -> None:
        super().__init__(f"a node can't do {type(work).__name__}: start it in the process that can")
        self.work = work


@dataclass(frozen=True, kw_only=True)
class NodeWorksConfig:
    """What all job processes of a node have in common."""

    node: NodeId
    server: str
    """As job processes reach it: the near end of the emulated link where there is one."""
    folder: Path
    """Where what processes are told is kept while they run."""
    token_file: Path | None = None
    app_dir: Path | None = None
    shelf: Shelf | None = None
    """Where the code of jobs that bring theirs is found."""
    slowdown: float = 1.0
    step_time_ms: float = 0.0
    device: str | None = None
    threads: int | None = 1
    """Threads that torch may use in one process; None leaves it to torch (a machine of its own, or with a GPU)."""
    argv: tuple[str, ...] = (sys.executable, "-m", "runners.jobs.training")
    """The program of a job's process; `--spec FILE` with a `JobSpec` as JSON is added."""
    fork_argv: tuple[str, ...] | None = FORK_ARGV if processes.ON_LINUX else None
    """The server that forks the processes of jobs instead, where the system can."""
    measuring_argv: tuple[str, ...] = (sys.executable, "-m", "runners.jobs.measuring")
    """The program that measures the node; `--spec FILE` with a `MeasuringSpec` is added."""
    grace: float = GRACE
    bounding: Bounding = field(default_factory=Bounding)
    """What job processes get of the machine."""


@dataclass(eq=False)
class _Running:
    """One job process, from its start to the end of its output."""

    post: Post
    process: ProcessGroup | None = None
    coming: asyncio.Task[Any] | None = None
    """Its code, or the process itself, is on the way."""
    stop_asked: bool = False
    refused: BundleError | None = None
    """Why its code is not run here, or not any more."""
    submitter: str = ""
    """Whose code it is; empty: this machine's own copy."""
    aborted: bool = False
    """It is printing its stacks: a SIGTERM would cut that short."""
    kill_timer: asyncio.TimerHandle | None = None
    oom_kills: int = field(default=0)
    """Of the kernel, before it started."""


class NodeWorks:
    """The work runner of a node's process. To be used from the main thread's loop alone."""

    def __init__(self, config: NodeWorksConfig, machine: Callable[[], Machine] = Machine) -> None:
        """Nothing runs yet. `machine` makes the reader of the machine's figures."""
        self._config = config
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._new_machine = machine
        self._machine: Machine | None = None
        self._owner = OwnerLoad()
        # One thread, always the same: what the CPU did is counted since the same thread's last look.
        self._eye = ThreadPoolExecutor(1, thread_name_prefix="machine")
        self._looking: set[str] = set()
        self._measuring: set[asyncio.Task[None]] = set()
        # In a folder of its own, which confined processes may read.
        self._pace = (config.folder / f"{config.node}.pace" / "share").resolve()
        self._pace.parent.mkdir(parents=True, exist_ok=True)
        self._pace.unlink(missing_ok=True)  # an earlier life's word
        self._forks: ForkServer | None = None
        if config.fork_argv is not None:
            # Whoever asks CUDA's runtime whether there is a GPU can't be forked any more: NVML is to be asked.
            environment = self._environment() | {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
            self._forks = ForkServer(config.fork_argv, environment, nice=NICE)

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin a piece of work; a key at work already is left alone.

        Raises:
            UnknownWork: it is of a kind that nodes can't do.
        """
        if isinstance(work, SampleMachine):
            if key not in self._looking:
                self._looking.add(key)
                self._spawn(self._look(key, work, post))
        elif isinstance(work, AbortWork):
            self._abort(work.target)
        elif isinstance(work, TrainingWork):
            if key not in self._running:
                self._running[key] = running = _Running(post)
                self._spawn(self._run(key, work, running))
        elif isinstance(work, PaceJobs):
            tell(self._pace, work.share)
        elif isinstance(work, MeasuringWork):
            self._spawn(self._measure(work, post))
        else:
            raise UnknownWork(work)

    def stop(self, key: str, reason: str) -> None:
        """End a job process: SIGTERM, and SIGKILL after the grace; `WorkExited` follows."""
        running = self._running.get(key)
        if running is None or running.stop_asked:
            return
        running.stop_asked = True
        if running.process is not None:
            self._terminate(running, running.process)
        elif running.coming is not None:
            running.coming.cancel()

    def review_trust(self) -> None:
        """Whom this node trusts has changed: end what it would not start now; `WorkExited` follows."""
        for key, running in self._running.items():
            if running.submitter and self._config.shelf is not None:
                try:
                    self._config.shelf.require_trust(running.submitter)
                except BundleError as error:
                    running.refused = running.refused or error
                    self.stop(key, str(error))

    async def close(self) -> None:
        """End all job processes and wait until they are gone."""
        for key in list(self._running):
            self.stop(key, "the node ends")
        for task in self._measuring:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._forks is not None:
            await self._forks.close()
        if self._machine is not None:
            await asyncio.get_running_loop().run_in_executor(self._eye, self._machine.close)
        self._eye.shutdown(wait=False)
        shutil.rmtree(self._pace.parent, ignore_errors=True)

    # The machine.

    async def _look(self, key: str, work: SampleMachine, post: Post) -> None:
        try:
            reading = await asyncio.get_running_loop().run_in_executor(self._eye, self._read, work.owner)
        finally:
            self._looking.discard(key)
        post(reading)

    def _read(self, owner: bool) -> MachineSampled:
        if self._machine is None:
            self._machine = self._new_machine()
        reading = self._machine.read()
        cpu = self._owner.percent() if owner else None
        return MachineSampled(
            cpu_percent=reading.cpu_percent,
            memory_used_bytes=reading.memory_used_bytes,
            accelerators=reading.accelerators,
            temperature_c=reading.temperature_c,
            disk_used_part=disk_used_part(self._config.folder),
            owner_cpu_percent=cpu,
            owner_gpu_percent=self._machine.gpu_percent_of_others(self._owner.own) if owner else None,
        )

    async def _measure(self, work: MeasuringWork, post: Post) -> None:
        job = self._spec("measuring", work.request, self._config.app_dir)
        task = asyncio.current_task()
        assert task is not None
        self._measuring.add(task)
        try:
            argv, folder = self._config.measuring_argv, self._config.folder
            found = await measured(argv, job, work, folder=folder, env=self._environment(), nice=NICE)
        finally:
            self._measuring.discard(task)
        post(Measured(found=found))

    # Job processes.

    async def _run(self, key: str, work: TrainingWork, running: _Running) -> None:
        lines = ProcessLines(key, running.post)
        running.oom_kills = _oom_kills()
        told = self._config.folder / f"{work.job}-{os.getpid()}-{work.attempt}.json"
        scratch = told.with_suffix(".scratch").resolve()
        held: Held | None = None
        try:
            held = await self._code_of(work, running)
            code = await self._live(running, lines, told, self._spec_of(work, held, scratch), bytecode=held is None)
        except asyncio.CancelledError:  # only `stop` cancels, and only what is still coming
            code = -signal.SIGTERM
        except BundleError as error:
            running.refused, code = error, EXIT_BUNDLE
        except BusError as error:
            code = EXIT_BUS
            lines.note(str(error))
        except OSError as error:
            code = EXIT_NOT_STARTED
            lines.note(f"{self._config.argv[0]}: {error}")
        finally:
            told.unlink(missing_ok=True)
            await remove_scratch(scratch)
            if held is not None:
                held.release()
        if isinstance(running.refused, NotTaken):
            code = EXIT_DECLINED
        if code == -signal.SIGKILL and not running.stop_asked and _oom_kills() > running.oom_kills:
            lines.note(OUT_OF_MEMORY_KILL)
        lines.close()
        del self._running[key]
        last = (str(running.refused),) if running.refused else lines.last
        running.post(WorkExited(key=key, code=code, last_lines=last))

    async def _code_of(self, work: TrainingWork, running: _Running) -> Held | None:
        """The job's own code, if it brings some. Raises as `Shelf.take`."""
        source, shelf = work.request.bundle, self._config.shelf
        if source is None:
            return None
        if shelf is None:
            raise BundleError("this node has no place for bundles", "start it with `shoal node`")
        running.submitter = source.submitter
        arrived = BundleArriving(job=work.job)
        fetching = shelf.take(work.request.workload, source, lambda: running.post(arrived))
        running.coming = task = asyncio.ensure_future(fetching)
        return await task

    def _spec_of(self, work: TrainingWork, held: Held | None, scratch: Path) -> JobSpec:
        """What its process is told; its own folder is made if it is to be confined."""
        code = held.folder if held else self._config.app_dir
        spec = self._spec(work.job, work.request, code)
        given = self._config.bounding.bounds(
            spec.server, scratch, code, brought=held is not None, also=(self._pace.parent,)
        )
        if given.confined:
            if not bounds.landlock_level():
                raise NotTaken("this machine can't keep other people's code from its files", NO_LANDLOCK)
            make_scratch(scratch)
        return msgspec.structs.replace(spec, bounds=given)

    async def _live(self, running: _Running, lines: ProcessLines, told: Path, spec: JobSpec, *, bytecode: bool) -> int:
        """One life of a process; gives its exit code once its output has ended too.

        A bundle's folder holds what was signed and nothing else: no `bytecode`.
        """
        told.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(spec))
        process = await self._process(running, told, bytecode=bytecode)
        assert process.stdout is not None
        running.process = group = ProcessGroup(process)
        if running.stop_asked:
            self._terminate(running, group)
        reading = asyncio.ensure_future(lines.read(process.stdout))
        await group.ended()
        group.kill()  # helpers that it left behind hold its output open
        await reading
        code = await process.wait()
        if running.kill_timer is not None:
            running.kill_timer.cancel()
        group.close()
        return code

    async def _process(self, running: _Running, told: Path, *, bytecode: bool) -> Process | ForkedProcess:
        """A process that has been told its job; `bytecode`: whether Python may keep what it compiles of the job's code."""
        if self._forks is not None and not running.stop_asked:
            with contextlib.suppress(ForkServerGone):  # a process that starts alone can say what is wrong
                running.coming = task = asyncio.ensure_future(self._forks.start(told, bytecode=bytecode))
                return await task
        running.coming = None
        return await processes.spawn(
            (*self._config.argv, "--spec", str(told)),
            env=self._environment() | ({} if bytecode else {"PYTHONDONTWRITEBYTECODE": "1"}),
            inherit=False,
            stdout=PIPE,
            stderr=STDOUT,
            nice=NICE,
            new_session=True,
        )

    def _spec(self, job: JobId, request: JobRequest, app_dir: Path | None) -> JobSpec:
        c = self._config
        return JobSpec(
            job=job,
            node=c.node,
            server=c.server,
            request=request,
            token_file=str(c.token_file) if c.token_file else None,
            app_dir=str(app_dir) if app_dir else None,
            slowdown=c.slowdown,
            step_time_ms=c.step_time_ms,
            clock_skew=clock.skewed_by(),
            pace_file=str(self._pace),
            device=c.device,
        )

    def _environment(self) -> dict[str, str]:
        """What all have; lines at once, stacks at SIGABRT, and no more threads than they may have."""
        environment = bounds.needed(os.environ) | {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
        if self._config.threads is not None:
            count = str(self._config.threads)
            environment |= {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        return environment

    def _terminate(self, running: _Running, group: ProcessGroup) -> None:
        if not running.aborted:
            group.signal(signal.SIGTERM)
        running.kill_timer = asyncio.get_running_loop().call_later(self._config.grace, group.kill)

    def _abort(self, key: str) -> None:
        """SIGABRT makes Python print the stacks of all threads, wherever they hang, and end."""
        running = self._running.get(key)
        if running is not None and running.process is not None:
            running.aborted = True
            running.process.signal(signal.SIGABRT)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _oom_kills() -> int:
    """Processes that the kernel has killed for memory since it started; 0 where it doesn't tell."""
    try:
        with _VMSTAT.open() as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
