"""A drill's report as a page for people: Markdown, with the whole report as JSON at its end."""

import base64
import zlib
from collections.abc import Sequence

import msgspec

from runners.drill.results import DrillReport, LossPoint, Result

_BARS = "▁▂▃▄▅▆▇█"
_DATA = "<!-- shoal-drill-report:"
_LINE = 120  # characters of a line of data
_ABOUT = """A running fleet's own processes are killed, paused and cut off on purpose, one after the other, while a job
trains. Each drill begins with all nodes at work, and ends when they are again. What is compared with its goal:

- **stood still**: the longest time between two closed rounds, from the fault until all is back. The goal is 10 s and one
  deadline of a round; where the fault itself stops every round, and for as long as it lasts, that is added.
- **back**: until the part itself is at work again: a node's work counts in a round that was opened after the fault, an
  agent has found its state, of the server every node's work counts. The goal is 60 s after the fault is over,
  of standbys 2 s, where a node starts twice 120 s.
- **lost**: nothing that was accepted may be. A record is stored four times a second all the while, and each that the server
  acknowledged must be there afterwards, once; every round of the job must be there once, as it was heard; no contribution
  may count twice; the desk must know every job that it knew. What is refused is told to who said it, so it isn't lost.
- **loss**: the job's mean training loss, the median of six rounds before the fault, the worst until all was back, and the
  median of the six after. For reading, without a goal.
"""
_LIMITS = """## What these drills don't show

- All is on the machine that the drill runs on; nodes on others are watched, and never touched. A power cut is none of
  these: what the server has acknowledged in the last second is not on the disk yet.
- `fill-store` has the streams refuse what is new, by their own limits; the machine's disk stays as it is. A disk that is
  really full also stops journals, snapshots and logs, and nats-server then turns JetStream off until it is restarted.
- `skew-clock` changes what Python's `time.time()` tells a node and its job's process, from their start; the kernel's clock,
  by which certificates are checked, is right. Of agents with a journal no clock can be skewed and put right again: their
  time never runs backwards.
- `cut-link` is an emulated link's outage. Others are cut by `pause-server`, all at once: connections stand, and nothing
  goes through.
"""


def page(report: DrillReport) -> str:
    """The whole page."""
    where = report.where
    own = ", submitted for the drill and cancelled afterwards" if report.own_job else ""
    done = [result for result in report.results if not result.skipped]
    bad = [result for result in done if not result.good]
    standby = f"; up to {where.replicas} processes of an agent" if where.replicas > 1 else ""
    head = [
        "# Reliability: what `shoal drill` found",
        "",
        f"<!-- Made by `{report.command}`: run that again, don't change this page. -->",
        "",
        _ABOUT,
        f"**Result.** {len(done)} drills, {len(done) - len(bad)} met their goals"
        + (f"; not {', '.join(result.name for result in bad)}." if bad else "."),
        "",
        f"Made by `{report.command}` on {report.date}, in {report.seconds / 60:.0f} minutes. {where.machine}, "
        f"{where.cpus} CPUs, load {where.load_before} before and {where.load_after} after; Python {where.python}, "
        f"Shoal {where.shoal}, torch {where.torch}, nats-server {where.server}. Nodes: {', '.join(where.nodes)}{standby}. "
        f"Job {report.job}{own}.",
        "",
    ]
    return "\n".join(
        [*head, *_table(done), *_afterwards(report), *_each(done), *_skipped(report), _LIMITS, _data(report), ""]
    )


def report_in(text: str) -> DrillReport:
    """The report that a page was made of. Raises ValueError where it is no such page."""
    _, found, rest = text.partition(_DATA)
    if not found:
        raise ValueError("this page was not made by `shoal drill --report`")
    packed = base64.b64decode("".join(rest.partition("-->")[0].split()))
    return msgspec.json.decode(zlib.decompress(packed), type=DrillReport)


def verdict(result: Result) -> str:
    """A word on a result."""
    if result.skipped:
        return "not done"
    if result.lost:
        return "LOST"
    return "missed" if result.missed else "met"


def loss_line(result: Result) -> str:
    """What the loss did, short."""
    if result.loss_before is None or result.loss_after is None or result.loss_worst is None:
        return "?"
    return f"{result.loss_before:.4g}, {result.loss_worst:.4g}, {result.loss_after:.4g}"


def spark(curve: Sequence[LossPoint]) -> str:
    """The curve in one line, with a bar where the fault came."""
    if not curve:
        return ""
    low, high = min(point.loss for point in curve), max(point.loss for point in curve)
    drawn = []
    for point in curve:
        if point.at >= 0 and "|" not in drawn:
            drawn.append("|")
        level = (point.loss - low) / (high - low) if high > low else 0.0
        drawn.append(_BARS[round(level * (len(_BARS) - 1))])
    return "".join(drawn)


def _table(results: Sequence[Result]) -> list[str]:
    lines = [
        "| drill | goals | rounds stood still (goal) | back (goal) | rounds meanwhile | records accepted, refused, lost "
        "| loss before, worst, after |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        still = f"{result.gap:.1f} s ({result.gap_limit:.0f} s)" if result.gap_limit else "?"
        back = f"{result.back:.1f} s ({result.back_limit:.0f} s)" if result.back is not None else "never"
        lost = "; ".join(result.lost) or "0"
        lines.append(
            f"| `{result.name}` | {verdict(result)} | {still} | {back} | {result.rounds} "
            f"| {result.accepted}, {result.refused}, {lost} | {loss_line(result)} |"
        )
    return [*lines, ""]


def _afterwards(report: DrillReport) -> list[str]:
    looked = "; ".join(report.checked) or "nothing could be looked at"
    wrong = "; ".join(report.wrong)
    return [f"Afterwards: {looked}. {f'WRONG: {wrong}' if wrong else 'Nothing was wrong'}.", ""]


def _each(results: Sequence[Result]) -> list[str]:
    lines = ["## Each in turn", ""]
    for result in results:
        lines += [f"### {result.name}", "", f"{result.does}. Goal: {result.goal}.", ""]
        lines += [f"- Goal missed: {missed}." for missed in result.missed]
        lines += [f"- Lost: {lost}." for lost in result.lost]
        if result.curve:
            first, last = result.curve[0], result.curve[-1]
            lines.append(
                f"- Loss in rounds {first.round} to {last.round}, a round each {result.usual:.2f} s before: "
                f"`{spark(result.curve)}`"
            )
        lines.append(f"- Messages stored: {result.stored_before:,} before, {result.stored_after:,} after.")
        lines += [f"- {said}" for said in result.said]
        lines.append("")
    return lines


def _skipped(report: DrillReport) -> list[str]:
    skipped = [result for result in report.results if result.skipped]
    if not skipped:
        return []
    return ["## Not done", "", *(f"- `{result.name}`: {result.skipped}." for result in skipped), ""]


def _data(report: DrillReport) -> str:
    packed = base64.b64encode(zlib.compress(msgspec.json.encode(report), 9)).decode()
    lines = [packed[start : start + _LINE] for start in range(0, len(packed), _LINE)]
    return "\n".join([_DATA, *lines, "-->"])
