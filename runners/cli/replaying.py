"""The command `shoal replay`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runners.cli.common import EXIT_FAILED, LOOKS, JsonOption, console, example, fail, print_json, told

if TYPE_CHECKING:
    from runners.replaying import Difference, Outcome, Taken


def replay_run(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The directory of `shoal up` (--store), or one agent's journal in it.")
    ] = Path(".shoal"),
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only this agent.")] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="KEY=VALUE", help="What would the batch controller have decided by it? Repeatable."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put what the agents of a run took in through the same cores again: they must decide the same, byte for byte.

    Journals are bounded, so a replay begins at the oldest snapshot that is kept. Ends with status 1 at a difference. The
    run may be going on; nothing of it is touched.

    --policy supposes another `batch` (fixed, latency, throughput, hybrid, goodput), another `encoding`, or a setting of the
    batch controller, and predicts what that would have made of each job's time, with a 90 % interval.
    """
    if policy:
        from runners.cli.supposing import show

        with told():
            show(run, agent, policy, as_json)
        return
    from runners.replaying import journals_in, maker, replay  # no other command should wait for all agents

    with told():
        outcomes = [replay(name, path, maker(name, run)) for name, path in journals_in(run, agent).items()]
    if as_json:
        print_json(outcomes)
    else:
        for outcome in outcomes:
            _print(outcome)
    if any(outcome.difference for outcome in outcomes):
        fail("a core came to something else than it had: a set's order, a clock, or a changed program", EXIT_FAILED)


def _print(outcome: "Outcome") -> None:
    span = f"from input {outcome.first} ({_clock(outcome.since)}) to {_clock(outcome.until)}"
    unknown = outcome.inputs - outcome.compared
    how = "the same decisions" if outcome.difference is None else "NOT the same decisions"
    also = f", {outcome.snapshots} snapshots' states" if outcome.snapshots else ""
    older = f"; {unknown} of an older program, which kept nothing to compare with" if unknown else ""
    line = f"{outcome.agent}: {how}: {outcome.compared} inputs{also}, {span}{older}"
    console.print(line, markup=False, soft_wrap=True)
    if outcome.difference is not None:
        _print_difference(outcome.difference)


def _print_difference(difference: "Difference") -> None:
    lines = [f"  {difference.what}", *(f"  before  {_line(each)}" for each in difference.before)]
    if difference.input is not None:
        lines.append(f"  input   {_line(difference.input)}")
        lines += [f"  leads to {_json(effect)}" for effect in difference.decided] or ["  leads to nothing"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _line(taken: "Taken") -> str:
    return f"{taken.number} {_clock(taken.at)} {taken.kind} {_json(taken.input)}"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(
        "replay",
        rich_help_panel=LOOKS,
        epilog=example(
            "shoal replay",
            "shoal replay .shoal --agent node_selector",
            "shoal replay .shoal --policy batch=latency --policy encoding=int8",
        ),
    )(replay_run)
