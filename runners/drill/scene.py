"""What a drill needs at hand: who is there, what is said, and how to do harm that is put right again."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil  # type: ignore[import-untyped]

from bus.nats_fill import Streams
from runners.client import Client
from runners.drill.marking import Marks
from runners.drill.parts import Parts, find_parts
from runners.drill.undo import Notebook
from runners.drill.watching import Watch
from schemas.errors import ShoalError
from schemas.nodes import NodeHeartbeat
from schemas.training import RoundOpened

PATIENCE = 90.0  # seconds for any one thing to happen
_RECENT = 5.0  # seconds within which every live node's heart has beaten


class CantDrill(ShoalError):
    """There is nothing to do it to just now."""


@dataclass
class Scene:
    """One fleet, one job, one drill after the other."""

    client: Client
    streams: Streams
    watch: Watch
    marks: Marks
    notebook: Notebook
    job: str
    seconds: float
    """How long things stand still or are cut off."""
    skew: float
    """By which a clock is put ahead."""
    clock: Callable[[], float] = time.monotonic
    nodes: tuple[str, ...] = ()
    """Who takes part in the job when all is well."""
    begun: float = 0.0
    """When the fault of this drill came."""
    details: list[str] = field(default_factory=list)
    """To whom it was done, and what was seen."""

    def parts(self) -> Parts:
        """This store's processes as they are now."""
        return find_parts(self.notebook.path.parent)

    async def begin(self, part: str, does: str) -> None:
        """Say what comes; the fault is to follow at once."""
        self.details.append(f"{part} {does}")
        await self.marks.say(part, does)
        self.begun = self.clock()

    async def kill(self, process: psutil.Process, part: str, does: str = "gets SIGKILL", *, gently: bool = False) -> None:
        """End a process. Raises `CantDrill` where it has ended by itself."""
        await self.begin(part, does)
        try:
            if gently:
                process.terminate()
            else:
                process.kill()
        except psutil.Error as error:
            raise CantDrill(f"{part} had ended already: {error}") from error

    async def stand_still(self, process: psutil.Process, part: str) -> None:
        """Pause a process for a while; it goes on whatever happens here."""
        await self.begin(part, f"gets SIGSTOP, and SIGCONT after {self.seconds:g} s")
        try:
            self.notebook.pause(process)
            await asyncio.sleep(self.seconds)
        except psutil.Error as error:
            raise CantDrill(f"{part} had ended already: {error}") from error
        finally:
            self.notebook.let_go()

    async def reducer(self) -> str:
        """Who has opened a round just now."""
        opened = await self.watch.first(
            RoundOpened, self.clock(), lambda m: m.job == self.job, what="a round is opened", within=PATIENCE
        )
        return opened.message.node

    async def contributes(self, *nodes: str, since: float | None = None) -> float:
        """When the work of all these counts again, of rounds opened after the fault, or after a later moment."""
        begun = self.begun if since is None else since
        return max([await self.watch.contributes(self.job, node, begun, PATIENCE) for node in nodes])

    def alone(self, node: str) -> bool:
        """Whether a node runs this job and no other, so that its job's process is this job's."""
        beats = self.watch.of(NodeHeartbeat, self.clock() - _RECENT, lambda m: m.node == node)
        return bool(beats) and beats[-1].message.jobs == (self.job,)

    def worker(self, parts: Parts, *, besides: str = "", only: str = "") -> tuple[str, psutil.Process]:
        """A node of this machine with its job's process. Raises `CantDrill` where there is none."""
        for node in self.nodes if not only else (only,):
            process = parts.job_process(node)
            if node != besides and process is not None and self.alone(node):
                return node, process
        who = f"{only}, which reduces just now," if only else "another node"
        raise CantDrill(f"{who} has no process on this machine that runs this job and no other")
