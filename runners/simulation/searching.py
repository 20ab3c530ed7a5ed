"""Many seeds over several processes: what each found, whether a seed run again is the same, and a failure made small."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from runners.simulation import story
from runners.simulation.cases import Case, Finding, Result, case_of, run, save
from runners.simulation.shrinking import Shrinking


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched."""

    seeds: tuple[int, ...]
    nodes: int = 50
    hours: float = 1.0
    faults: str = "all"
    runs: int = 1
    """Runs of each seed, whose digests are compared."""
    check: int = 1
    """See `World`."""

    def case(self, seed: int) -> Case:
        """The simulation of one of the seeds. Raises `UnknownFaults`."""
        return case_of(seed, self.nodes, self.hours, self.faults, check=self.check)


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a seed."""

    result: Result
    bytes_per_node: float
    """Resident memory that it added to its process, over its nodes; little where the process had run others before."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A seed that found something, made small."""

    finding: Finding
    """What the seed showed."""
    case: Case
    story: list[str]
    kept: str = ""
    """Where the case was written."""
    runs: int = 0
    """That making it small took."""


def runs_of(search: Search, workers: int) -> Iterator[Run]:
    """Run every seed as often as was asked for, as they end.

    Each of several workers is an interpreter of its own with hashes of its own, so that two runs of a seed that agree don't
    owe it to them. A single one is this process.
    """
    asked = [seed for seed in search.seeds for _ in range(search.runs)]
    if min(workers, len(asked)) == 1:
        yield from (_run(search, seed) for seed in asked)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(asked)), mp_context=context) as pool:
        for done in as_completed([pool.submit(_run, search, seed) for seed in asked]):
            yield done.result()


def _run(search: Search, seed: int) -> Run:
    before = psutil.Process().memory_info().rss
    added = 0

    def weigh(_: object) -> None:
        nonlocal added
        added = psutil.Process().memory_info().rss - before

    result = run(search.case(seed), weighing=weigh)
    return Run(result=result, bytes_per_node=max(0, added) / search.nodes)


def differing(runs: Sequence[Run]) -> list[int]:
    """Seeds whose runs are not the same byte for byte: what all else here rests on is broken."""
    digests: dict[int, set[str]] = {}
    for each in runs:
        digests.setdefault(each.result.seed, set()).add(each.result.outcome.digest)
    return sorted(seed for seed, found in digests.items() if len(found) > 1)


def made_small(
    case: Case, finding: Finding, keep: Path | None, most: int, tell: Callable[[str], None] = lambda line: None
) -> Failure:
    """Shrink a case that fails, tell it, and write it into the folder `keep` if there is one."""
    shrinking = Shrinking(case, finding, lambda smaller: run(smaller).finding, most, tell)
    small = shrinking.shrink() if most else case
    small = msgspec.structs.replace(small, found=shrinking.finding.what)
    path = keep / f"seed-{case.seed}.json" if keep is not None else None
    if path is not None:
        save(small, path)
    return Failure(
        finding=finding, case=small, story=story.tell(small), kept=str(path) if path else "", runs=shrinking.runs
    )
