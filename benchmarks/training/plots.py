"""Results as pictures: loss over time in each scenario, and everybody's time as a multiple of the ideal."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.training.results import Result, cached
from benchmarks.training.summary import GOALS, summary
from benchmarks.training.tasks import TASKS

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind people tell apart."""
HIGHEST = 8.0  # multiples of the ideal: the bars of what is slower end there, with their figure


def draw_all(results: Iterable[Result], out: Path) -> list[Path]:
    """A picture for each scenario, task and congestion control, and one of all ratios; gives the files."""
    latest: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        latest.setdefault((result.scenario, result.task, result.congestion), {})[result.tool] = result
    out.mkdir(parents=True, exist_ok=True)
    paths = [_curves(list(tools.values()), out / f"loss-{'-'.join(key)}.png") for key, tools in latest.items()]
    return [*paths, _ratios(latest, out / "ratios.png")] if latest else []


def _curves(results: list[Result], path: Path) -> Path:
    from matplotlib.figure import Figure  # slow to import

    one = results[0]
    figure = Figure(figsize=(7, 4.2), dpi=110)
    axes = figure.subplots()
    for colour, result in zip(COLOURS, results, strict=False):
        label = (
            f"{result.tool} ({result.seconds:.0f} s)"
            if result.reached
            else f"{result.tool} (not in {result.seconds:.0f} s)"
        )
        times, losses = [at for at, _ in result.curve], [loss for _, loss in result.curve]
        axes.plot(times, losses, color=colour, label=label, marker="o", markersize=2.5, linewidth=1.4)
    axes.axhline(TASKS[one.task].target, color="grey", linewidth=0.8, linestyle=":")
    axes.axvline(one.ideal, color="grey", linewidth=0.8, linestyle="--", label=f"ideal ({one.ideal:.0f} s)")
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("held-out loss")
    axes.set_title(f"{one.scenario}, {one.task}, {one.congestion}", fontsize=11)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, format="png")
    return path


def _ratios(latest: dict[tuple[str, str, str], dict[str, Result]], path: Path) -> Path:
    from matplotlib.figure import Figure

    rows: list[tuple[str, float, str]] = []
    for key, tools in latest.items():
        own = [(tool, r.ratio, "" if r.reached else "over ") for tool, r in tools.items()]
        told = [
            (f"{row['tool']}, cached", row["ratio"], "")
            for row in cached()["figures"]
            if (row["scenario"], row["task"], row["congestion"]) == key and row["ratio"] and row["tool"] not in tools
        ]
        for tool, ratio, prefix in sorted([*own, *told], key=lambda row: row[1]):
            rows.append((f"{' '.join(key)}: {tool}", ratio, f"{prefix}{ratio:.2f}"))
    figure = Figure(figsize=(8, 0.9 + 0.26 * len(rows)), dpi=110)
    axes = figure.subplots()
    for place, (name, ratio, words) in enumerate(reversed(rows)):
        axes.barh(place, min(ratio, HIGHEST), color=COLOURS[0] if name.endswith(": shoal") else "#999999")
        axes.annotate(words, (min(ratio, HIGHEST), place), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)], fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("time to the target, as a multiple of the ideal")
    figure.tight_layout()
    figure.savefig(path, format="png")
    return path


def draw_goals(results: Iterable[Result], path: Path) -> Path:
    """Shoal's ratios in what is judged: median, least and most of the seeds, beside required, aim and best peer.

    A bar that ends at the highest multiple stands for runs that didn't get there; a row without a bar was not run.
    """
    from matplotlib.figure import Figure

    found = {row.key: row for row in summary(results) if row.tool == "shoal"}
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(GOALS)), dpi=110)
    axes = figure.subplots()
    for place, (key, goal) in enumerate(reversed(GOALS.items())):
        row = found.get(key)
        if row is not None:
            reached = row.median is not None and row.reached == row.runs
            middle = min(row.median, HIGHEST) if row.median is not None else HIGHEST
            low, high = (min(edge, HIGHEST) for edge in (row.least or middle, (row.most if reached else None) or HIGHEST))
            axes.barh(place, middle, color=COLOURS[0], height=0.55)
            axes.errorbar(middle, place, xerr=[[middle - low], [high - middle]], color="black", capsize=3, linewidth=1.0)
        marks = {
            "required": (goal.required, COLOURS[1]),
            "aim": (goal.aim, COLOURS[2]),
            "best peer": (goal.peer, "#666666"),
        }
        for name, (at, colour) in marks.items():
            if at is not None:
                label = name if place == len(GOALS) - 1 else None
                axes.plot([at, at], [place - 0.4, place + 0.4], color=colour, linewidth=2.2, label=label)
    axes.set_yticks(range(len(GOALS)), [" ".join(key) for key in reversed(GOALS)], fontsize=8)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlim(0, HIGHEST)
    axes.set_xlabel("time to the target, as a multiple of the ideal: median, least and most of the seeds")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
    return path
