"""All commands in one app."""

import importlib.metadata
from typing import Annotated

import typer

from runners.cli import demo, drill, fleet, healing, jobs, leaf, look, members, pausing, replaying, simulate, trust, why
from runners.cli.common import example

app = typer.Typer(
    name="shoal",
    help="PyTorch training on unequal, unreliable machines: start agents, submit jobs, watch them adapt.",
    epilog=example("shoal demo", "shoal up", "shoal submit examples/digits.toml --wait"),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shoal {importlib.metadata.version('shoal')}")
        raise typer.Exit


@app.callback()
def shoal(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PyTorch training on unequal, unreliable machines."""


def run() -> None:
    """Run the command that was asked for."""
    app()


for module in (demo, fleet, leaf, members, pausing, trust, jobs, look, why, healing, simulate, replaying, drill):
    module.add_to(app)
