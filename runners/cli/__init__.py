"""The command line: `shoal COMMAND`."""

import sys


def main() -> None:
    """The entry point of `shoal`."""
    import agents

    if not hasattr(agents, "__shoal__"):
        where = getattr(agents, "__file__", None) or "another distribution"
        print(
            f"shoal: the package `agents` is not Shoal's but {where}: install Shoal in a virtual environment of its own "
            "(python3 -m venv .venv && .venv/bin/pip install -e .)",
            file=sys.stderr,
        )
        sys.exit(2)
    from runners.cli.app import run

    run()
