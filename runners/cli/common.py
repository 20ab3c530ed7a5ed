"""What the commands have in common: options, output, errors and exit codes."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
from rich.console import Console

from runners.address import STORE, BadServer
from runners.client import Client, NoSuchSubject, connect
from schemas.errors import ShoalError

T = TypeVar("T")

EXIT_FAILED = 1
"""What was asked for came to nothing."""
EXIT_USAGE = 2
"""The command was called wrongly."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="SHOAL_SERVER",
        help="nats://[TOKEN@]HOST:PORT; by default that of `shoal up` in this directory.",
        show_envvar=False,
    ),
]
StoreOption = Annotated[Path, typer.Option("--store", metavar="DIR", help="Shoal's directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]

DEFAULT_STORE = STORE

MACHINES, JOBS, LOOKS = "Machines", "Jobs", "What happens, and why"
"""Headings of the commands in `shoal --help`."""

PIPE_WIDTH = 200
"""Columns of tables that go to a file or a pipe: nobody wants lines broken there."""

console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, highlight=False)


def example(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  $ {line}" for line in lines)])


def fail(message: str, code: int = EXIT_FAILED) -> NoReturn:
    """Say what went wrong, in one line, and leave."""
    errors.print(f"shoal: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Errors of the block become one line on standard error and an exit code."""
    try:
        yield
    except (BadServer, NoSuchSubject) as error:
        fail(str(error), EXIT_USAGE)
    except ShoalError as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has left. What is still buffered for it must not be written when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_FAILED) from None
    except OSError as error:
        if error.filename is None:
            raise
        fail(f"{error.filename}: {error.strerror}: give another directory or file, or mend its permissions")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; see `told` for its errors."""
    with told():
        return asyncio.run(work)


async def joined(server: str | None, store: Path, name: str = "cli") -> Client:
    """A client for a command."""
    return await connect(server, store=store, name=name)


def print_json(value: Any) -> None:
    """One JSON document on standard output; paths are strings in it."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2).decode() + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def print_line(value: Any) -> None:
    """One JSON document on one line, for streams of them."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def print_now(line: str) -> None:
    """A line on standard output that whoever reads it gets at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_error(line: str) -> None:
    """A line on standard error."""
    errors.print(line, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
