"""The command `shoal simulate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    EXIT_USAGE,
    LOOKS,
    JsonOption,
    console,
    errors,
    example,
    fail,
    print_json,
    size,
    told,
)

if TYPE_CHECKING:
    from runners.simulation.cases import Finding
    from runners.simulation.searching import Failure, Run, Search

# Failures of one search that are made small: more of them tell of the same bug, mostly.
MADE_SMALL = 3


def simulate(
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", min=1, help="Machines.")] = 50,
    hours: Annotated[float, typer.Option("--hours", metavar="H", min=0.0, help="Virtual hours with faults.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="Of all chance.")] = 0,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="A-B", help="Many seeds, instead of one.")] = None,
    faults: Annotated[
        str,
        typer.Option("--faults", metavar="PROFILE", help="What goes wrong: none, light, default, heavy, forgetful or all."),
    ] = "all",
    runs: Annotated[
        int | None,
        typer.Option("--runs", metavar="N", min=1, help="Runs of each seed, compared; one seed has two, many have one."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes; one a core.")] = None,
    check: Annotated[
        int,
        typer.Option("--check", metavar="N", min=0, help="Look at cores after every N-th heartbeat and probe; 0: never."),
    ] = 1,
    shrink: Annotated[
        int, typer.Option("--shrink", metavar="N", min=0, help="Runs to make a failure small with, at most.")
    ] = 300,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Folder for failing cases.")] = None,
    case: Annotated[Path | None, typer.Option("--case", metavar="FILE", help="Run a case that was kept.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run whole fleets in virtual time, with the real agents, and search them for what must not happen.

    What every core knows is checked after every event while faults last; then all must come right. A seed that fails is
    reduced to the shortest schedule of faults found, told with its causes, and kept as a file.
    """
    from runners.simulation import searching  # no other command should wait for all agents' cores

    with told():
        if case is not None:
            raise typer.Exit(_replay(case, as_json))
        chosen = _seeds(seeds, seed)
        search = searching.Search(
            seeds=chosen,
            nodes=nodes,
            hours=hours,
            faults=faults,
            runs=runs or (2 if len(chosen) == 1 else 1),
            check=check,
        )
        search.case(chosen[0])  # an unknown profile is told here, not by every worker
        done = _run_all(search, workers or os.cpu_count() or 1)
        differing = searching.differing(done)
        failed = {run.result.seed: finding for run in done if (finding := run.result.finding) is not None}
        failures = _made_small(search, failed, keep if keep is not None else DEFAULT_STORE / "simulations", shrink)
    if as_json:
        print_json({"runs": done, "differing": differing, "failures": failures})
    else:
        _show(search, done, differing, failures)
    if failed or differing:
        raise typer.Exit(EXIT_FAILED)


def _seeds(seeds: str | None, seed: int) -> tuple[int, ...]:
    from runners.simulation.cases import seeds_of

    try:
        return tuple(seeds_of(seeds)) if seeds is not None else (seed,)
    except ValueError:
        fail(f"--seeds {seeds}: write two numbers with a hyphen between, the lower one first, as 0-99", EXIT_USAGE)


def _run_all(search: "Search", workers: int) -> "list[Run]":
    from runners.simulation import searching

    done = []
    asked = len(search.seeds) * search.runs
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(f"{search.nodes} nodes, {search.hours:g} h", total=asked)
        for run in searching.runs_of(search, workers):
            done.append(run)
            progress.advance(task)
            if not errors.is_terminal and len(done) % max(1, asked // 10) == 0:
                errors.print(f"{len(done)} of {asked} runs", markup=False)
    return done


def _made_small(search: "Search", failed: "dict[int, Finding]", folder: Path, most: int) -> "list[Failure]":
    """The first of the failures, told as they get smaller."""
    from runners.simulation.searching import made_small

    failures = []
    for seed in sorted(failed)[:MADE_SMALL]:
        errors.print(f"seed {seed} fails: {failed[seed].what}", markup=False, soft_wrap=True)
        say = lambda line: errors.print(f"  {line}", markup=False, soft_wrap=True)  # noqa: E731
        failures.append(made_small(search.case(seed), failed[seed], folder, most, say))
    return failures


def _replay(path: Path, as_json: bool) -> int:
    """Run a case that was kept, and tell it; the exit status says whether it still fails."""
    from runners.simulation import cases, story

    case = cases.load(path)
    recording = story.Recording()
    result = cases.run(case, recording.attach)
    if as_json:
        print_json(result)
    else:
        for line in story.told(case, result, recording):
            console.print(line, markup=False, soft_wrap=True)
    return EXIT_FAILED if result.finding is not None else 0


def _show(search: "Search", done: "list[Run]", differing: list[int], failures: "list[Failure]") -> None:
    """A search for people; simulated figures are called so."""
    outcomes = [run.result.outcome for run in done]
    cpu = sum(run.result.cpu_seconds for run in done) / len(done)
    inputs = sum(outcome.inputs for outcome in outcomes) / len(done)
    events = sum(outcome.events for outcome in outcomes) / len(done)
    lines = [
        f"simulated  {len(search.seeds)} seeds of {search.nodes} nodes, {search.hours:g} h of faults ({search.faults})",
        f"faults     {_added([outcome.faults for outcome in outcomes])}",
        f"jobs       {_added([outcome.jobs for outcome in outcomes])}; {sum(o.rounds for o in outcomes)} rounds closed",
        f"a run      {events:,.0f} events, {inputs:,.0f} inputs of agents; {cpu:.1f} s of processor time, "
        f"{1e3 * cpu / search.nodes:.0f} ms and {size(max(run.bytes_per_node for run in done))} a node",
    ]
    if search.runs > 1:
        which = ", ".join(map(str, differing))
        same = f"seeds {which} DIFFER from run to run" if differing else "every run of a seed the same"
        lines.append(f"digests    {same}; {outcomes[0].digest}")
    failing = sorted({run.result.seed for run in done if run.result.finding is not None})
    lines.append(f"found      {'seeds ' + ', '.join(map(str, failing)) if failing else 'nothing'}")
    for failure in failures:
        kept = f"; shoal simulate --case {failure.kept}" if failure.kept else ""
        lines += ["", f"made small in {failure.runs} runs{kept}", *(f"  {line}" for line in failure.story)]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _added(counts: list[dict[str, int]]) -> str:
    total: dict[str, int] = {}
    for each in counts:
        for what, count in each.items():
            total[what] = total.get(what, 0) + count
    return ", ".join(f"{count} {what}" for what, count in sorted(total.items())) or "none"


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(
        rich_help_panel=LOOKS,
        epilog=example(
            "shoal simulate --nodes 50 --seed 7",
            "shoal simulate --seeds 0-99 --hours 0.5 --json",
            "shoal simulate --case .shoal/simulations/seed-7.json",
        ),
    )(simulate)
