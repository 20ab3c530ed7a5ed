"""The command `shoal why`."""

import time
from typing import Annotated

import typer

from runners.causes import chain_of, chains_about
from runners.cli.common import (
    DEFAULT_STORE,
    LOOKS,
    JsonOption,
    ServerOption,
    StoreOption,
    console,
    example,
    fail,
    print_json,
    run_async,
)
from runners.known_past import known_past
from runners.view.words import said_by
from schemas.asyncapi import summary
from schemas.training import RoundClosed
from schemas.wire import Message, subject_of

MOST_SHOWN = 6  # events of a chain, unless it was asked for by its event's id


def why(
    what: Annotated[str, typer.Argument(metavar="JOB|NODE|EVENT", help="A job's id, a node's name or an event's id.")],
    last: Annotated[
        int, typer.Option("--last", "-n", metavar="N", min=1, help="How many decisions about a job or a node.")
    ] = 5,
    server: ServerOption = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Why something was decided: each decision's reason, and the chain of causes that led to it.

    On the machine of `shoal up` it also knows superseded decisions, and those of a fleet that is down.
    """
    past = run_async(known_past(server, store))
    asked_for = chain_of(past, what)
    chains = [asked_for] if asked_for else chains_about(past, what, last)
    if not chains:
        fail(f"nothing is stored about {what!r}: `shoal jobs`, `shoal nodes` and `shoal events --stored` list names")
    if as_json:
        print_json([[{"subject": subject_of(event), "message": event} for event in chain] for chain in chains])
        return
    shown: set[str] = set()
    for chain in chains:
        _print_chain(chain, len(chain) if asked_for else _telling(chain), shown)


def _telling(chain: list[Message]) -> int:
    """So many events of a chain tell a person why: to the closing of a round, which has the rounds before it as causes."""
    closed = next((place for place, event in enumerate(chain) if isinstance(event, RoundClosed)), len(chain))
    return min(closed + 1, MOST_SHOWN)


def _print_chain(chain: list[Message], most: int, shown: set[str]) -> None:
    """A decision, and under it, indented, what led to it; not again what another chain has shown."""
    for level, event in enumerate(chain):
        indent = "  " * level
        if level == most:
            more = f"{indent}... and {len(chain) - most} more: shoal why {event.id}"
            console.print(more, style="dim", markup=False, soft_wrap=True)
            return
        clock = time.strftime("%H:%M:%S", time.localtime(event.at))
        line = f"{indent}{'because ' if level else ''}{clock} {type(event).__name__} by {event.source or 'a client'}"
        if level and event.id in shown:
            console.print(f"{line} (see above)", markup=False, soft_wrap=True)
            return
        shown.add(event.id)
        console.print(f"{line}: {_words(event)}", markup=False, soft_wrap=True)
        console.print(f"{indent}  {event.id}", style="dim", markup=False, soft_wrap=True)


def _words(event: Message) -> str:
    """The event's own reason, else what its type means."""
    said = said_by(event)
    if said is not None:
        return said.text
    return getattr(event, "reason", "") or summary(type(event))


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(rich_help_panel=LOOKS, epilog=example("shoal why train-7f3k2q", "shoal why laptop --last 3"))(why)
