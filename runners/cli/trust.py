"""The command by which a machine's owner says whose code it runs: trust."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from runners.bundles.keys import own_signer
from runners.bundles.trust import Trusted, distrust, tell_nodes, trusted
from runners.bundles.trust import trust as add
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_USAGE,
    MACHINES,
    JsonOption,
    StoreOption,
    console,
    example,
    fail,
    print_json,
    told,
)

OWN = "this store's own: what is submitted from here"


def trust(
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="A submitter's key, `ed25519:...`; with --remove a name, too."),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call them.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="No longer run their code; what runs of it is ended.")] = False,
    everybody: Annotated[bool, typer.Option("--list", help="Show whose code this machine runs (so without KEY).")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Run the code that a submitter sends along with a job on this machine's nodes.

    A node runs what `shoal submit --bundle` brings only if it is signed by a key that it trusts: those named here, those
    after `shoal node --trust`, and the key of its own store.
    """
    if key is not None and everybody:
        fail("--list shows all keys: leave out KEY", EXIT_USAGE)
    if key is None and (remove or name):
        fail("whose? `shoal trust --list` shows the keys", EXIT_USAGE)
    with told():
        if key is not None:
            if remove and not distrust(store, key):
                fail(f"{key} is not trusted here: `shoal trust --list` shows who is")
            if not remove:
                add(store, key, name)
            nodes = tell_nodes(store)
            if not as_json:
                console.print(f"{'no longer trusted' if remove else 'trusted'}: {_known_to(nodes)}", markup=False)
                return
        rows = [Trusted(key=own_signer(store).public, name=OWN), *trusted(store)]
    if as_json:
        print_json(rows)
        return
    table = Table("key", "who", box=None)
    for row in rows:
        table.add_row(row.key, escape(row.name))
    console.print(table)


def _known_to(nodes: list[str]) -> str:
    return f"{', '.join(nodes)} know{'s' if len(nodes) == 1 else ''} at once" if nodes else "nodes know once they start"


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    lines = ("shoal trust ed25519:6_Xz...9Ts --name anna", "shoal trust --list", "shoal trust --remove anna")
    app.command(rich_help_panel=MACHINES, epilog=example(*lines))(trust)
