"""A report as a few lines for a terminal."""

from collections.abc import Iterator

from agents.appraiser import words as appraisal
from runners.report_schema import Fault, NodeReport, Report

AGENT = "agent "
"""How what befell an agent begins: no round waits for it."""
SHOWN = 12
"""Adaptations and faults that are listed; the others are in the file."""


def summary(report: Report) -> str:
    """The report in lines of text, without colours."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    yield f"job {report.job} ({report.workload}): {report.state}, {report.reason}"
    yield (
        f"{report.rounds} of {report.rounds_asked} rounds in {report.wall_seconds:.1f} s"
        f" ({report.seconds_per_round:.1f} s a round), {report.samples} samples"
    )
    if report.loss_start is not None and report.loss_end is not None:
        line = f"training loss {report.loss_start:.4f} -> {report.loss_end:.4f}"
        if report.validation_start is not None and report.validation_end is not None:
            line += f", held-out loss {report.validation_start:.4f} -> {report.validation_end:.4f}"
        yield line
    yield f"adaptation cost {100 * report.adaptation_share:.2f} % of the run"
    for text in report.emulated:
        yield f"emulated: {text}"
    yield "nodes:"
    for node in report.nodes:
        yield f"  {_node(node)}"
    values = [node.value for node in report.nodes if node.value is not None]
    if values:
        yield "does each machine help? (useful samples a second, 90 % interval)"
        yield from (f"  {appraisal.value(value)}" for value in values)
    yield f"adaptations: {len(report.adaptations)}"
    for adaptation in report.adaptations[-SHOWN:]:
        yield f"  round {adaptation.round}: {adaptation.what}: {adaptation.reason}"
    yield f"faults: {len(report.faults) or 'none'}"
    for fault in report.faults[-SHOWN:]:
        yield f"  {fault_line(fault)}"


def _node(node: NodeReport) -> str:
    grades = [grade.quality for grade in node.quality]
    link = f", link {' -> '.join(grades)}" if grades else ""
    late = f", {node.late} late" if node.late else ""
    missed = f", missed {node.missed}" if node.missed else ""
    failed = f", failures {node.failures}" if node.failures else ""
    return (
        f"{node.node}: {node.rounds} rounds{late}{missed}, {node.samples} samples, {node.mean_step_ms:.1f} ms a step,"
        f" {node.bytes_up / 1e6:.1f} MB up{link}{failed}"
    )


def fault_line(fault: Fault) -> str:
    """A fault in one line: when, whom, what, whether on purpose, and how long it took."""
    whom = f"{fault.node}: " if fault.node else ""
    emulated = " (emulated)" if fault.emulated else ""
    if fault.seconds_to_recover is None:
        took = "no round closed after it"
    elif fault.what.startswith(AGENT):
        took = f"down for {fault.seconds_to_recover:.1f} s"
    else:
        took = f"a round closed {fault.seconds_to_recover:.1f} s later"
    back = f", back in one after {fault.seconds_until_back:.1f} s" if fault.seconds_until_back is not None else ""
    return f"round {fault.at_round}: {whom}{fault.what}{emulated}, {took}{back}"
