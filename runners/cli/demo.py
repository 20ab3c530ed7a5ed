"""The command `shoal demo`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from runners.cli.common import EXIT_INTERRUPTED, JsonOption, console, errors, example, fail, print_json
from schemas.errors import ShoalError
from schemas.jobs import SyncMode

if TYPE_CHECKING:
    from runners.demo.compare import Comparison
    from runners.demo.run import DemoResult


def demo(
    compare: Annotated[
        bool, typer.Option("--compare", help="Then train the same without adaptation, and on the fastest node alone.")
    ] = False,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Faults come in rounds 10, 12, 15 and 20.")] = 25,
    seed: Annotated[int, typer.Option("--seed", help="Of the model and the data's order.")] = 0,
    congestion: Annotated[str, typer.Option("--cc", help="TCP on the emulated links: cubic or bbr.")] = "cubic",
    sync: Annotated[
        SyncMode, typer.Option("--sync", help="What is averaged, and when: the request's field `sync`.")
    ] = "round",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the report, plot and model go.")] = Path("runs"),
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the server's and the agents' files here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small GPT on five emulated machines with bad links, faults included, in two to three minutes.

    Server, agents, nodes, sockets, training and the kill are real; the links' quality and the machines' speed are emulated.
    """
    from runners.demo.run import DemoOptions, run_demo  # brings most of Shoal: no other command should wait for it

    say = errors.print if as_json else console.print
    options = DemoOptions(
        rounds=rounds,
        seed=seed,
        congestion=congestion,
        sync=sync,
        compare=compare,
        out=out,
        store=store,
        say=lambda line: say(line, markup=False, soft_wrap=True),
    )
    try:
        result = asyncio.run(run_demo(options))
    except ShoalError as error:
        fail(str(error))
    if result is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print_json({"job": result.job, "files": result.fetched.files, "comparison": result.comparison})
    else:
        _print_result(result)


def _print_result(result: DemoResult) -> None:
    report_file = next((file for file in result.fetched.files if file.name == "report.json"), None)
    if report_file is not None:
        report = json.loads(report_file.read_text())
        console.print(
            f"{report['rounds']} rounds in {report['wall_seconds']:.0f} s: loss {report['loss_start']:.3f} -> "
            f"{report['loss_end']:.3f}; {len(report['adaptations'])} adaptations, {len(report['faults'])} faults; "
            f"adaptation cost {100 * report['adaptation_share']:.1f} % of the run"
        )
    for file in result.fetched.files:
        console.print(f"  {file}", markup=False)
    if result.comparison is not None:
        _print_comparison(result.comparison)


def _print_comparison(comparison: Comparison) -> None:
    table = Table("way", f"seconds to held-out loss {comparison.target:.4f}", "rounds", "held-out loss", box=None)
    for arrival in comparison.arrivals:
        seconds = f"{arrival.seconds:.1f}" if arrival.seconds is not None else "not reached"
        table.add_row(arrival.way, seconds, str(arrival.rounds), f"{arrival.loss:.4f}")
    console.print(table)
    console.print(comparison.verdict, markup=False)


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog=example("shoal demo", "shoal demo --compare"))(demo)
