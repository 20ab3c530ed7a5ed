"""The command of another site's server: leaf."""

from typing import Annotated

import typer

from bus.server_config import ensure_token, is_loopback
from runners.cli.common import (
    DEFAULT_STORE,
    EXIT_INTERRUPTED,
    MACHINES,
    StoreOption,
    example,
    print_error,
    print_now,
    run_async,
    told,
)
from runners.leaf import LeafOptions, run_leaf


def leaf(
    server: Annotated[
        str,
        typer.Option(
            "--server",
            metavar="URL",
            envvar="SHOAL_SERVER",
            show_envvar=False,
            help="As `shoal up --leaves PORT` printed it: nats://TOKEN@HOST:PORT.",
        ),
    ],
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDR", help="Let this site's other machines in; makes a token.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 for the last one or a free one.")
    ] = 0,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Bring a whole site into a fleet by one outbound connection; end it with Ctrl-C.

    Starts a server for this site's nodes and commands, which find it as they find one of `shoal up`. It keeps nothing: what
    is stored is with the fleet. The first line on standard output is `ready nats://127.0.0.1:PORT`, once the fleet answers.
    """
    with told():
        token = ensure_token(store) if listen is not None and not is_loopback(listen) else None
    options = LeafOptions(
        server=server,
        store=store,
        listen=listen or "127.0.0.1",
        port=port,
        token=token,
        say=print_now,
        warn=print_error,
    )
    if run_async(run_leaf(options)) == "SIGINT":
        raise typer.Exit(EXIT_INTERRUPTED)


def add_to(app: typer.Typer) -> None:
    """Add this command to the app."""
    lines = ("shoal leaf --server nats://TOKEN@203.0.113.5:7422", "shoal leaf --server URL --listen 192.168.7.1")
    app.command(rich_help_panel=MACHINES, epilog=example(*lines))(leaf)
