"""Commands that look: watch, events, why, schema."""

import time
from typing import Annotated

import typer

from runners.causes import chain_of, chains_about
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_FAILED,
    LOOKS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    errors,
    example,
    joined,
    print_json,
    print_line,
    run_async,
)
from runners.client import matches
from runners.view.live import watch_fleet
from schemas.asyncapi import document
from schemas.wire import Message, encode, subject_of

SubjectArgument = Annotated[str, typer.Argument(metavar="SUBJECT", help="A NATS subject filter; * and > are wildcards.")]
ENVELOPE = ("id", "cause", "at", "source")


def watch(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this job; by default the newest.")] = None,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """A live view of nodes, links, rounds and decisions. Without a terminal: plain lines. Ctrl-C ends it."""

    async def work() -> None:
        async with await joined(server, store) as client:
            await watch_fleet(client, job)

    run_async(work())


def events(
    subject: SubjectArgument = "shoal.>",
    past: Annotated[bool, typer.Option("--past", help="What is stored first, then what comes.")] = False,
    until_now: Annotated[bool, typer.Option("--stored", help="Only what is stored; don't wait for more.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=0, help="End after so many; 0 for no end.")] = 0,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print messages as they come, one a line."""

    async def work() -> None:
        seen = 0
        async with await joined(server, store) as client:
            source = client.history(subject) if until_now else client.events(subject, past=past)
            async for event in source:
                _print_event(event, as_json)
                seen += 1
                if count and seen >= count:
                    return

    run_async(work())


def _print_event(event: Message, as_json: bool) -> None:
    if as_json:
        print_line({"subject": subject_of(event), "message": event})
        return
    clock = time.strftime("%H:%M:%S", time.localtime(event.at)) if event.at else "        "
    text = encode(event).decode()
    body = text[text.index('"source"') :].partition(",")[2] if '"source"' in text else text
    console.print(f"{clock} {subject_of(event)} {{{body}", markup=False, soft_wrap=True)


def why(
    what: Annotated[str, typer.Argument(metavar="JOB|NODE|EVENT", help="A job's id, a node's name or an event's id.")],
    last: Annotated[
        int, typer.Option("--last", "-n", metavar="N", min=1, help="So many decisions about a job or a node.")
    ] = 5,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Why something was decided: each decision's reason, and the chain of causes that led to it."""

    async def work() -> list[list[Message]]:
        async with await joined(server, store) as client:
            stored = [event async for event in client.history()]
        if any(event.id == what for event in stored):
            return [chain_of(stored, what)]
        return chains_about(stored, what, last)

    chains = run_async(work())
    if as_json:
        print_json([[{"subject": subject_of(event), "message": event} for event in chain] for chain in chains])
    elif chains:
        for chain in chains:
            _print_chain(chain)
    if not chains:
        errors.print(
            f"nothing is stored about {what!r}: `shoal jobs`, `shoal nodes` and `shoal events --stored` list names"
        )
        raise typer.Exit(EXIT_FAILED)


def _print_chain(chain: list[Message]) -> None:
    """A decision, and under it, indented, what led to it."""
    for depth, event in enumerate(chain):
        clock = time.strftime("%H:%M:%S", time.localtime(event.at))
        mark = "because " if depth else ""
        reason = getattr(event, "reason", "") or type(event).__name__
        console.print(
            f"{'  ' * depth}{mark}{clock} {type(event).__name__} by {event.source or 'a client'}: {reason}",
            markup=False,
            soft_wrap=True,
        )
        console.print(f"{'  ' * depth}  {event.id}", style="dim", markup=False, soft_wrap=True)


def schema(
    subject: SubjectArgument = ">",
) -> None:
    """Print every message as an AsyncAPI 3 document (JSON)."""
    print_json(document(lambda pattern: matches(subject, pattern)))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(rich_help_panel=LOOKS, epilog=example("shoal watch", "shoal watch train-7f3k2q"))(watch)
    app.command(
        rich_help_panel=LOOKS,
        epilog=example("shoal events 'shoal.decisions.>'", "shoal events 'shoal.jobs.*.state' --past --json"),
    )(events)
    app.command(rich_help_panel=LOOKS, epilog=example("shoal why train-7f3k2q", "shoal why laptop --last 3"))(why)
    app.command(rich_help_panel=LOOKS, epilog=example("shoal schema > shoal.asyncapi.json"))(schema)
