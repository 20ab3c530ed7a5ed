"""Commands that look: watch, events, schema."""

import time
from typing import Annotated

import typer

from runners.cli.common import (
    DEFAULT_STORE,
    LOOKS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    example,
    joined,
    print_json,
    print_line,
    run_async,
)
from runners.client import matches
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
    from runners.view.live import watch_fleet  # no other command should wait for what draws it

    async def work() -> None:
        async with await joined(server, store) as client:
            await watch_fleet(client, job)

    run_async(work())


def events(
    subject: SubjectArgument = "shoal.>",
    past: Annotated[bool, typer.Option("--past", help="What is stored first, then what comes.")] = False,
    until_now: Annotated[bool, typer.Option("--stored", help="Only what is stored; don't wait for more.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=0, help="End after N messages; 0: never.")] = 0,
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
    app.command(rich_help_panel=LOOKS, epilog=example("shoal schema > shoal.asyncapi.json"))(schema)
