"""What a drill has done and not yet put right, kept on file: who is killed in the midst of it leaves word for the next."""

import contextlib
import signal
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from bus.nats_fill import Limits, Streams
from bus.port import BusError
from runners.client import Client, Refused
from runners.drill.parts import find_parts, same_process

FILE = "drill.json"


class Paused(msgspec.Struct, frozen=True):
    """A process that stands still."""

    pid: int
    created: float
    """Seconds since the epoch, by which it is told from another of that number."""


class Owed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be put right."""

    paused: tuple[Paused, ...] = ()
    limits: Limits = {}
    """Of streams that are full."""
    skewed: tuple[str, ...] = ()
    """Nodes whose clocks are wrong until they start again."""
    job: str = ""
    """To be cancelled."""


class Notebook:
    """The file in a store."""

    def __init__(self, store: Path) -> None:
        self.path = store / FILE
        self.owed = Owed()
        with contextlib.suppress(OSError, msgspec.DecodeError):
            self.owed = msgspec.json.decode(self.path.read_bytes(), type=Owed)

    def note(self, **changes: object) -> None:
        """Write down what is owed from now on, before it is done, or after it was put right."""
        self.owed = msgspec.structs.replace(self.owed, **changes)
        if self.owed == Owed():
            self.path.unlink(missing_ok=True)
            return
        draft = self.path.with_suffix(".new")
        draft.write_bytes(msgspec.json.encode(self.owed))
        draft.replace(self.path)

    def pause(self, process: psutil.Process) -> None:
        """SIGSTOP, noted first."""
        self.note(paused=(*self.owed.paused, Paused(process.pid, process.create_time())))
        process.send_signal(signal.SIGSTOP)

    def let_go(self) -> list[str]:
        """Let all that stands still go on; gives what was done, in words."""
        done = []
        for paused in self.owed.paused:
            process = same_process(paused.pid, paused.created)
            if process is not None:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
                    done.append(f"process {paused.pid} goes on")
        self.note(paused=())
        return done


async def put_right(notebook: Notebook, client: Client, streams: Streams) -> list[str]:
    """Do all that is owed; gives what was done, in words. Whatever it can't do stays on file, and is raised.

    Raises:
        BusError: the server is away.
    """
    done = notebook.let_go()
    owed = notebook.owed
    if owed.limits:
        await streams.restore(owed.limits)
        notebook.note(limits={})
        done.append("the streams have their limits again")
    nodes = find_parts(notebook.path.parent).nodes
    for name in owed.skewed:
        (notebook.path.parent / "nodes" / f"{name}.skew").unlink(missing_ok=True)
        if name in nodes and nodes[name].watched:
            with contextlib.suppress(psutil.Error):
                nodes[name].process.send_signal(signal.SIGTERM)
                done.append(f"{name} starts again with the right time")
    notebook.note(skewed=())
    if owed.job:
        with contextlib.suppress(Refused):  # it has ended
            await client.cancel(owed.job, "the drill is over")
            done.append(f"job {owed.job} is cancelled")
        notebook.note(job="")
    return done


async def put_right_again(notebook: Notebook, client: Client, streams: Streams) -> list[str]:
    """As `put_right`, once more where the server is just coming back."""
    try:
        return await put_right(notebook, client, streams)
    except BusError:
        return await put_right(notebook, client, streams)
