"""One reader given many inputs, in a process of its own: what it raised, how much memory it took, how long."""

import multiprocessing
import os
import random
import resource
import time
import traceback
import tracemalloc
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.target import Target

HEADROOM = 256 * 1024 * 1024
"""Bytes of memory that a reader's process may have over what it began with: an input that wants more is refused them,
which is a finding."""

TRACED = 8
"""Of one input in so many the memory is looked at, which takes twice as long."""

SLOW = 2.0
"""Seconds of processor time after which an input counts as one that hangs its reader: far over a mutation's worst."""

KEPT = 20
"""Findings that are told of each reader."""


class Finding(msgspec.Struct):
    """An input that a reader can't stand."""

    error: str
    where: str
    data: bytes
    count: int = 1


class Figures(msgspec.Struct):
    """What became of one reader's inputs."""

    name: str
    inputs: int = 0
    taken: int = 0
    """Read without an error."""
    refused: int = 0
    """Answered with a documented error."""
    seconds: float = 0.0
    """Of processor time, mutations included."""
    slowest: float = 0.0
    """Seconds of processor time of one input."""
    peak: int = 0
    """Bytes that one input took at most, by Python's own account, of those looked at."""
    grown: int = 0
    """Bytes by which the process had grown at the end."""
    findings: list[Finding] = []


class Judge:
    """Gives inputs to a reader and notes what comes of each."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.figures = Figures(target.name)
        self._found: dict[str, Finding] = {}

    def give(self, data: bytes) -> None:
        """One input."""
        figures = self.figures
        figures.inputs += 1
        traced = figures.inputs % TRACED == 0
        if traced:
            tracemalloc.start()
        began = time.process_time()
        try:
            self.target.read(data)
            figures.taken += 1
        except self.target.errors as error:
            figures.refused += 1
            if not str(error).strip():
                self._find(AssertionError("an error without words"), data)
        except Exception as error:
            self._find(error, data)
        spent = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        if traced:
            tracemalloc.stop()
        figures.slowest, figures.peak = max(figures.slowest, spent), max(figures.peak, peak)
        if peak > self.target.flat + self.target.memory * len(data):
            self._find(MemoryError(f"{peak} bytes for an input of {len(data)}"), data)
        if spent > SLOW:
            self._find(TimeoutError(f"{spent:.1f} s for an input of {len(data)} bytes"), data)

    def _find(self, error: Exception, data: bytes) -> None:
        frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
        where = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames[:-4:-1])
        key = f"{type(error).__name__} {where}"
        known = self._found.get(key)
        if known is not None:
            known.count += 1
            if len(data) < len(known.data):
                known.data = data
        elif len(self._found) < KEPT:
            self._found[key] = Finding(f"{type(error).__name__}: {error}"[:300], where, data)

    def result(self) -> Figures:
        """The figures, the shortest input found for each finding."""
        self.figures.findings = list(self._found.values())
        return self.figures


def fuzz(target: Target, inputs: int, seed: int) -> Figures:
    """Valid inputs first, then `inputs` made from them. In this process."""
    rng = random.Random(f"{seed}/{target.name}")
    corpus = target.corpus()
    judge = Judge(target)
    for data in corpus:
        judge.give(data)
    if judge.figures.taken < len(corpus) // 2:
        raise AssertionError(f"{target.name}: its own corpus is refused")
    used, began = _pages()[1], time.process_time()
    for _ in range(inputs):
        judge.give(mutated(corpus, rng))
    judge.figures.seconds = time.process_time() - began
    judge.figures.grown = max(0, _pages()[1] - used)
    return judge.result()


def fuzz_apart(target: Target, inputs: int, seed: int) -> Figures:
    """The same in a process with a bound on its memory; a process that dies is a finding."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, target, inputs, seed))
    process.start()
    theirs.close()
    try:
        figures = msgspec.msgpack.decode(ours.recv_bytes(), type=Figures)
    except EOFError:
        process.join()
        died = Finding(f"the process died with exit code {process.exitcode}", "", b"")
        figures = Figures(target.name, findings=[died])
    process.join()
    return figures


def _child(told: Connection, target: Target, inputs: int, seed: int) -> None:
    size = _pages()[0]
    resource.setrlimit(resource.RLIMIT_AS, (size + HEADROOM, size + HEADROOM))
    told.send_bytes(msgspec.msgpack.encode(fuzz(target, inputs, seed)))


def _pages() -> tuple[int, int]:
    """Bytes of this process's memory: asked for, and there."""
    asked, there, *_ = Path("/proc/self/statm").read_text().split()
    return int(asked) * resource.getpagesize(), int(there) * resource.getpagesize()
