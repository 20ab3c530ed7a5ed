"""Runs of several seeds put together: medians with their spread, the noise, and what is required."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.training.results import Result

Key = tuple[str, str, str]
"""Scenario, task, congestion control."""

UNDISTURBED: Key = ("perfect", "gpt", "bbr")
"""Where nothing is done to links or machines: seeds differ by chance alone."""


@dataclass(frozen=True)
class Goal:
    """Multiples of the ideal."""

    required: float | None
    aim: float | None
    peer: float | None = None
    """The best peer's; None where none got there."""


GOALS: dict[Key, Goal] = {
    ("perfect", "gpt", "bbr"): Goal(1.35, 1.2, 1.35),
    ("mixed", "gpt", "bbr"): Goal(2.5, 1.6, 4.1),
    ("mixed", "gpt", "cubic"): Goal(3.0, 2.0),
    ("slow", "gpt", "bbr"): Goal(1.4, 1.2, 2.7),
    ("kill", "gpt", "bbr"): Goal(1.6, 1.3, 1.9),
    ("changing", "gpt", "bbr"): Goal(None, None),
    ("changing", "gpt", "cubic"): Goal(None, None),
    ("mixed", "digits", "bbr"): Goal(None, None),
}
"""What is judged; for links that change nobody has set a figure, and digits are judged by seconds a round."""


@dataclass(frozen=True)
class Row:
    """One tool in one scenario."""

    key: Key
    tool: str
    runs: int
    reached: int
    """Runs that came down to the target."""
    median: float | None
    """Ratio to the ideal, of those; None where none did."""
    least: float | None
    most: float | None
    loss: float | None
    """Median of their last held-out losses."""
    load: float
    """The highest load of the machine in any of them."""


def summary(results: Iterable[Result]) -> list[Row]:
    """A row for each tool and scenario, in the order of their first runs; of a seed run again the newest counts."""
    newest: dict[tuple[Key, str], dict[int, Result]] = {}
    for result in results:
        key = (result.scenario, result.task, result.congestion)
        newest.setdefault((key, result.tool), {})[result.seed] = result
    return [_row(key, tool, list(seeds.values())) for (key, tool), seeds in newest.items()]


def _row(key: Key, tool: str, runs: list[Result]) -> Row:
    there = [run for run in runs if run.reached]
    ratios = [run.ratio for run in there]
    losses = [run.loss for run in there if run.loss is not None]
    return Row(
        key=key,
        tool=tool,
        runs=len(runs),
        reached=len(there),
        median=statistics.median(ratios) if ratios else None,
        least=min(ratios, default=None),
        most=max(ratios, default=None),
        loss=statistics.median(losses) if losses else None,
        load=max(run.load for run in runs),
    )


def words(row: Row) -> str:
    """A line of a table."""
    where = f"{row.tool:10} {' '.join(row.key):22}"
    goal = GOALS.get(row.key) if row.tool == "shoal" else None
    asked = f"; required {goal.required:g}, aim {goal.aim:g}" if goal is not None and goal.required and goal.aim else ""
    if row.median is None:
        return f"{where} none of {row.runs} got there{asked}"
    spread = f"{row.median:.2f}x ({row.least:.2f} to {row.most:.2f})"
    return f"{where} {spread}, {row.reached} of {row.runs} got there, load up to {row.load:.1f}{asked}"


def noise(results: Iterable[Result]) -> tuple[int, float, float] | None:
    """(seeds, range of the ratios, range of the last losses) of Shoal's undisturbed runs; None with fewer than two."""
    runs = {
        result.seed: result
        for result in results
        if result.tool == "shoal" and (result.scenario, result.task, result.congestion) == UNDISTURBED and result.reached
    }
    ratios = [run.ratio for run in runs.values()]
    losses = [run.loss for run in runs.values() if run.loss is not None]
    if len(ratios) < 2 or len(losses) < 2:
        return None
    return len(ratios), max(ratios) - min(ratios), max(losses) - min(losses)


def noise_words(results: Iterable[Result]) -> str:
    """The noise, in words."""
    found = noise(results)
    if found is None:
        return f"noise: unknown; it takes two seeds at least of {' '.join(UNDISTURBED)}"
    seeds, ratios, losses = found
    return f"noise, the range over {seeds} undisturbed seeds: {ratios:.2f} of the ideal, {losses:.4f} of the held-out loss"
