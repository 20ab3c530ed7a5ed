"""The command `shoal drill`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    LOOKS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    errors,
    example,
    fail,
    print_json,
    run_async,
)

if TYPE_CHECKING:
    from runners.drill.catalogue import Plan
    from runners.drill.results import DrillReport, Result
    from runners.drill.session import DrillOptions

INTERRUPTED = "interrupted: everything is put right"


def drill(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="This drill alone, or 'kill-*'; several times.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only say what would be done, and what can't be here.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before doing harm.")] = False,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", help="The job to go by; by default the newest that runs, or one of its own."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=1.0, max=300.0, help="How long things stand still.")
    ] = 8.0,
    skew: Annotated[
        float,
        typer.Option("--skew", metavar="S", min=-86_400.0, max=86_400.0, help="By how much a clock is put ahead."),
    ] = -3600.0,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the page of the results, such as docs/reliability.md."),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Only put right what a drill has left that was itself killed.")
    ] = False,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Kill, pause and cut off parts of the running fleet on purpose, and see that its job gets over it.

    It touches the processes of this store on this machine and no others, asks before it begins, does one thing at a time,
    and leaves everything as it was. Exit status 1: a goal was missed, or something was lost.
    """
    if report is not None and not report.parent.is_dir():
        fail(f"{report.parent} is no directory: make it, or give another --report", EXIT_USAGE)
    from runners.drill.session import DrillOptions  # no other command should wait for what drills need

    options = DrillOptions(
        store=store,
        server=server,
        job=job,
        seconds=seconds,
        skew=skew,
        command=_command(sys.argv),
        say=lambda line: errors.print(line, markup=False, soft_wrap=True),
    )
    names = tuple(only or ())
    if list_ or not (yes or undo):
        wanted, trains = run_async(_look(options, names))
        if list_:
            _list(wanted, as_json)
            return
        _ask(options, wanted, trains)
    try:
        found = run_async(_work(options, names, undo=undo))
    except asyncio.CancelledError:  # SIGTERM
        fail(INTERRUPTED, EXIT_INTERRUPTED)
    if found is not None:
        _finish(found, report, as_json)


async def _look(options: DrillOptions, only: tuple[str, ...]) -> tuple[tuple[Plan, ...], str | None]:
    """What would be done, and the job to go by."""
    from runners.drill import session
    from runners.drill.catalogue import chosen

    async with session.ground(options) as here:
        return chosen(here.plans, only), await session.job_of(here)


async def _work(options: DrillOptions, only: tuple[str, ...], *, undo: bool) -> DrillReport | None:
    """All that needs the fleet; None where nothing but what an earlier drill has left was to be put right."""
    from runners.drill import session
    from runners.drill.catalogue import chosen

    async with session.ground(options) as here:
        if undo:
            return None
        return await session.drill(here, chosen(here.plans, only), await session.job_of(here), _tell)


def _list(wanted: tuple[Plan, ...], as_json: bool) -> None:
    if as_json:
        print_json([{"name": p.name, "does": p.does, "goal": p.goal, "impossible": p.impossible} for p in wanted])
        return
    table = Table("drill", "does", "goal", box=None)
    for plan in wanted:
        words = escape(plan.goal) if not plan.impossible else f"[yellow]not here: {escape(plan.impossible)}[/yellow]"
        table.add_row(plan.name, escape(plan.does), words)
    console.print(table)


def _ask(options: DrillOptions, wanted: tuple[Plan, ...], job: str | None) -> None:
    """Go on only if a person says so."""
    can = [plan for plan in wanted if not plan.impossible]
    whose = f"job {job} trains on" if job else "no job runs on, so that one of its own is submitted"
    errors.print(f"{len(can)} drills on the fleet of {options.store}, which {whose}:", markup=False, soft_wrap=True)
    for plan in can:
        errors.print(f"  {plan.name}: {plan.does}", markup=False, soft_wrap=True)
    if not sys.stdin.isatty():
        fail("nobody to ask: --yes does it, --list only says what would be done", EXIT_USAGE)
    if not typer.confirm("Do all this now?", err=True):
        fail("nothing was done")


def _tell(result: Result) -> None:
    """A line on one that is done."""
    from runners.drill.page import loss_line, verdict

    if result.skipped:
        errors.print(f"   not done: {result.skipped}", markup=False, soft_wrap=True)
        return
    back = f"back after {result.back:.1f} s" if result.back is not None else "not back"
    errors.print(
        f"   {verdict(result)}: {result.does}; {back}, rounds stood still {result.gap:.1f} s of {result.gap_limit:.0f}, "
        f"{result.accepted} records accepted, {len(result.lost)} lost; loss {loss_line(result)}",
        markup=False,
        soft_wrap=True,
    )
    for line in (*result.missed, *result.lost):
        errors.print(f"   {line}", markup=False, soft_wrap=True)


def _finish(found: DrillReport, report: Path | None, as_json: bool) -> None:
    """Show what came of it; the exit status says whether all is well."""
    if report is not None:
        from runners.drill.page import page

        report.write_text(page(found))
        errors.print(f"written to {report}", markup=False)
    if as_json:
        print_json(found)
    else:
        _show(found)
    if not found.good:
        raise typer.Exit(EXIT_FAILED)


def _show(found: DrillReport) -> None:
    from runners.drill.page import loss_line, verdict

    table = Table("drill", "goals", "stood still", "back", "rounds", "lost", "loss before, worst, after", box=None)
    for result in found.results:
        if result.skipped:
            table.add_row(result.name, f"[yellow]not done[/yellow]: {escape(result.skipped)}")
            continue
        colour = "green" if result.good else "red"
        back = f"{result.back:.1f} s" if result.back is not None else "never"
        lost = escape("; ".join(result.lost)) or "nothing"
        word = f"[{colour}]{verdict(result)}[/{colour}]"
        table.add_row(result.name, word, f"{result.gap:.1f} s", back, str(result.rounds), lost, loss_line(result))
    console.print(table)
    for wrong in found.wrong:
        console.print(f"wrong: {wrong}", markup=False, soft_wrap=True)


def _command(argv: list[str]) -> str:
    """How it was called, without what is only of this machine."""
    words = ["shoal"]
    own = iter(argv[1:])
    for word in own:
        if word in ("--server", "--store"):
            next(own, None)
        elif not word.startswith(("--server=", "--store=")):
            words.append(word)
    return shlex.join(words)


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(
        rich_help_panel=LOOKS,
        epilog=example(
            "shoal drill --list",
            "shoal drill --only kill-reducer --only 'pause-*'",
            "shoal drill --yes --report docs/reliability.md",
        ),
    )(drill)
