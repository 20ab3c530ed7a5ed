"""The loss curve of a job as a picture: by round and by time, with the faults on it."""

from pathlib import Path
from typing import Any

from runners.report import from_json
from runners.report_schema import Fault, Report
from runners.report_text import fault_line

# Okabe and Ito's colours ("Color Universal Design", 2008), which colour-blind people tell apart too.
TRAINING = "#0072B2"  # blue
VALIDATION = "#D55E00"  # vermilion
REAL = "#000000"
EMULATED = "#A3447B"  # reddish purple, darker than theirs so that small text is read
LISTED = 20  # faults that are listed below the curves; more would leave no room for them
LINE = 0.18  # inches of one of them


def draw_loss(report: Path, picture: Path) -> Path:
    """Draw the loss of a `report.json` into a PNG; gives the picture's path.

    Raises:
        msgspec.DecodeError: `report` is no report.
        OSError: a file can't be read or written.
    """
    draw(from_json(report.read_bytes()), picture)
    return picture


def draw(report: Report, picture: Path) -> None:
    """Draw a report's loss into a PNG."""
    from matplotlib.figure import Figure  # slow to import, and not needed for anything else

    listed = report.faults[:LISTED]
    legend = LINE * ((len(listed) + 1) // 2 + 0.5) if listed else 0.0
    figure = Figure(figsize=(11, 4.6 + legend), dpi=110)
    by_round, by_time = figure.subplots(1, 2, sharey=True)
    _curves(by_round, report, by_time=False)
    _curves(by_time, report, by_time=True)
    by_round.set_xlabel("round")
    by_round.set_ylabel("loss")
    by_time.set_xlabel("seconds since submission")
    _mark(by_round, listed, by_time=False)
    _mark(by_time, listed, by_time=True)
    if report.by_round or report.validation:
        by_round.legend(loc="upper right", framealpha=1.0, edgecolor="none")
    title = f"{report.job}: {report.workload}, {report.rounds} rounds on {len(report.nodes)} nodes, {report.state}"
    if report.emulated:
        title += f" (emulated: {len(report.emulated)} of {len(report.nodes)} nodes' links or speeds)"
    figure.suptitle(title, fontsize=11)
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(left=0.07, right=0.98, top=1 - 0.62 / height, bottom=(0.5 + legend) / height, wspace=0.06)
    _list(figure, report, listed, height)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, format="png")


def _curves(axes: Any, report: Report, *, by_time: bool) -> None:
    if report.by_round:
        x = [one.at if by_time else one.round for one in report.by_round]
        axes.plot(x, [one.loss for one in report.by_round], color=TRAINING, label="training", linewidth=1.6)
    if report.validation:
        x = [one.at if by_time else one.round for one in report.validation]
        y = [one.loss for one in report.validation]
        axes.plot(x, y, color=VALIDATION, label="held out", linewidth=1.6, linestyle="--", marker="o", markersize=3)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _mark(axes: Any, faults: list[Fault], *, by_time: bool) -> None:
    """A line at each fault, with its number on top; numbers of one place stand above each other."""
    left, right = axes.get_xlim()
    near = (right - left) / 45  # the width of a number
    taken: list[tuple[float, int]] = []
    for number, fault in enumerate(faults, 1):
        x = fault.at if by_time else fault.at_round
        level = 0
        while any(abs(x - other) < near and level == at for other, at in taken):
            level += 1
        taken.append((x, level))
        colour = _colour(fault)
        axes.axvline(x, color=colour, linewidth=0.9, linestyle=":" if fault.emulated else "-", alpha=0.55)
        text = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom", "fontsize": 7.5}
        axes.annotate(str(number), (x, 1.005 + 0.035 * level), color=colour, **text)


def _list(figure: Any, report: Report, faults: list[Fault], height: float) -> None:
    """What the numbers mean, in two columns below the curves."""
    rows = (len(faults) + 1) // 2
    for index, fault in enumerate(faults):
        column, row = divmod(index, rows)
        place = (0.03 + 0.485 * column, (LINE * (rows - row) - 0.02) / height)
        figure.text(*place, f"{index + 1}  {fault_line(fault)}", fontsize=7.5, color=_colour(fault))
    if len(report.faults) > LISTED:
        figure.text(0.03, 0.03 / height, f"and {len(report.faults) - LISTED} more, in report.json", fontsize=7.5)


def _colour(fault: Fault) -> str:
    return EMULATED if fault.emulated else REAL
