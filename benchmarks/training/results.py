"""What a run gives, whoever ran: one form for Shoal and its peers, kept as lines of JSON."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CACHED = Path(__file__).with_name("cached.json")


@dataclass(frozen=True)
class Result:
    """One run."""

    tool: str
    """`shoal`, or a peer's name."""
    scenario: str
    task: str
    congestion: str
    seed: int
    reached: bool
    """Whether the held-out loss came down to the target."""
    seconds: float
    """From the start of training until then, or until the run was given up."""
    ideal: float
    """Seconds that the same samples' steps take if nothing is ever waited for, with the machines that are there."""
    ideal_undisturbed: float
    """The same with all workers there and equally fast."""
    loss: float | None
    """The last held-out loss."""
    rounds: int | None
    sent_mb: tuple[float, ...]
    """By each worker and, last, the coordinator's node; headers, acknowledgements and what was sent again included."""
    load: float
    """Of the machine, over the last minute of the run: above its cores, figures are worse than they should be."""
    date: str
    command: str
    curve: list[tuple[float, float]] = field(default_factory=list)
    """Seconds and held-out loss."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """To the ideal; of a run that didn't get there, a lower bound."""
        return self.seconds / self.ideal


def keep(result: Result, folder: Path) -> None:
    """Add a result to a folder's file."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.jsonl").open("a") as file:
        file.write(json.dumps(asdict(result) | {"ratio": result.ratio}) + "\n")


def kept(folder: Path) -> list[Result]:
    """All results of a folder, oldest first."""
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row.pop("ratio")
        row["curve"] = [tuple(point) for point in row["curve"]]
        row["sent_mb"] = tuple(row["sent_mb"])
    return [Result(**row) for row in rows]


def line(result: Result) -> str:
    """A row of a table."""
    time = f"{result.seconds:.1f} s" if result.reached else f"not within {result.seconds:.0f} s (loss {result.loss})"
    where = f"{result.tool} {result.scenario} {result.task} {result.congestion} seed {result.seed}"
    ratio = f"{result.ratio:.2f}x" if result.reached else f"over {result.ratio:.1f}x"
    sent = " ".join(f"{mb:.1f}" for mb in result.sent_mb)
    return f"{where}: {time}, {ratio} of {result.ideal:.1f} s; sent MB {sent}; load {result.load:.1f}"


def megabytes(before: Sequence[Mapping[str, int]], after: Sequence[Mapping[str, int]], counter: str) -> list[float]:
    """What each node's counter of bytes (see `NetLab.stats`) went up by."""
    return [round((late[counter] - early[counter]) / 1e6, 2) for early, late in zip(before, after, strict=True)]


def cached() -> dict[str, Any]:
    """The peers' figures as they were measured once."""
    figures: dict[str, Any] = json.loads(CACHED.read_text())
    return figures


def fastest(results: Iterable[Result], scenario: str, task: str, congestion: str) -> list[str]:
    """Tools by their time in a scenario, best first: of runs here, else as cached; those that got there alone."""
    best: dict[str, float] = {}
    for row in cached()["figures"]:
        if (row["scenario"], row["task"], row["congestion"]) == (scenario, task, congestion) and row["seconds"]:
            best[row["tool"]] = row["seconds"]
    own: dict[str, float] = {}
    for result in results:
        if (result.scenario, result.task, result.congestion) == (scenario, task, congestion) and result.reached:
            own[result.tool] = min(own.get(result.tool, result.seconds), result.seconds)
    best |= own
    return sorted(best, key=lambda tool: best[tool])
