"""`shoal doctor --fleet` on a terminal: ask, wait, and say what the fleet would make of the job."""

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from agents.appraiser import words
from runners.cli.common import EXIT_FAILED, EXIT_USAGE, console, errors, fail, joined, print_json, run_async
from runners.doctor_fleet import Figures, FleetFigures, measure_fleet
from runners.fleet_forecast import Forecast
from runners.job_file import BadJobFile, read_job_file, request_in
from schemas.errors import DecodeError
from schemas.jobs import JobRequest

DEFAULT_WORKLOAD = "runners.jobs.default_workload:workload"
"""Part of Shoal, so that every node has it."""
DEFAULT = JobRequest(kind="train", workload=DEFAULT_WORKLOAD, microbatch=32, local_steps=50)
"""What a fleet is measured with where no job is named: rounds of some seconds on most machines."""


def doctor_fleet(server: str | None, store: Path, job: Path | None, seconds: float, as_json: bool) -> int:
    """Measure the fleet and print what came of it; gives the exit status."""
    request = _read(job) if job is not None else DEFAULT

    async def work() -> FleetFigures:
        async with await joined(server, store, "doctor") as client:
            say = (lambda line: None) if as_json else (lambda line: errors.print(line, markup=False, soft_wrap=True))
            return await measure_fleet(client, request, seconds, say)

    found = run_async(work())
    if as_json:
        print_json(found)
    else:
        _show(found)
    return 0 if any(not node.problem for node in found.nodes) else EXIT_FAILED


def _read(path: Path) -> JobRequest:
    try:
        return request_in(read_job_file(path))
    except BadJobFile as error:
        fail(str(error), EXIT_USAGE)
    except DecodeError as error:
        fail(f"{path}: {error}", EXIT_USAGE)


def _show(found: FleetFigures) -> None:
    if not found.nodes:
        console.print("no nodes yet: `shoal node` makes this machine one")
        return
    table = Table("node", "link", "device", "a step", "alone", "up Mbit/s", "down Mbit/s", "without it", box=None)
    for node in found.nodes:
        table.add_row(*(escape(cell) for cell in _row(node)))
    console.print(table)
    for node in found.nodes:
        if node.problem:
            console.print(f"{node.node}: {node.problem}", style="yellow", markup=False, soft_wrap=True)
    if found.forecast is not None:
        for line in told(found.forecast):
            console.print(line, markup=False, soft_wrap=True)
    elif any(not node.problem for node in found.nodes):
        console.print("one machine was measured: there is nothing to compare it with")


def _row(node: Figures) -> tuple[str, ...]:
    return (
        node.node,
        node.link or "?",
        node.device,
        f"{node.step_ms:.1f} ms" if node.step_ms is not None else "",
        f"{node.samples_per_second:.0f}/s" if node.samples_per_second is not None else "",
        f"{node.up_mbit_per_s:.1f}" if node.up_mbit_per_s is not None else "",
        f"{node.down_mbit_per_s:.1f}" if node.down_mbit_per_s is not None else "",
        words.short(node.value) if node.value is not None else "",
    )


def told(forecast: Forecast) -> list[str]:
    """A forecast in sentences."""
    gain, fleet = forecast.gain, forecast.fleet
    lines = [
        f"together: {fleet.value:.0f} useful samples/s ({fleet.low:.0f} to {fleet.high:.0f}), "
        f"in rounds of {forecast.round_seconds:.1f} s",
        f"{gain.value:.2f} times ({gain.low:.2f} to {gain.high:.2f}) what {forecast.best}, the fastest machine, makes "
        f"alone: {forecast.best_samples_per_second:.0f} samples/s",
    ]
    if gain.high < 1.0:
        lines.append(
            f"this fleet is no gain for this job: {forecast.best} alone is faster; longer rounds (local_steps) may help"
        )
    lines += [words.value(value) for value in forecast.appraisal.nodes]
    return lines
