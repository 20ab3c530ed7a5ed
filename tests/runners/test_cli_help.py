"""Every command explains itself: help, an example that parses, and usage errors."""

import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from runners.cli.app import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PROMISED = {
    *(
        "demo",
        "up",
        "node",
        "pause",
        "resume",
        "trust",
        "agent",
        "nodes",
        "submit",
        "jobs",
        "cancel",
        "logs",
        "fetch",
        "watch",
        "events",
        "why",
    ),
    *("schema", "doctor", "simulate", "replay", "drill"),
}
WITH_JSON = ("nodes", "trust", "submit", "jobs", "fetch", "events", "why", "doctor", "demo", "simulate", "replay", "drill")
runner = CliRunner(env={"COLUMNS": "160"})  # wide enough to break no line


def examples(command: Any) -> list[list[str]]:
    """The calls that a command's help shows."""
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.startswith("$ ")]


def test_all_commands_are_there_and_the_overview_names_them() -> None:
    assert set(COMMANDS) >= PROMISED
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f" {name} " in result.output
    assert "$ shoal demo" in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_says_what_it_does_with_an_example(name: str) -> None:
    result = runner.invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert result.stderr == ""
    command = COMMANDS[name]
    assert command.help.split("\n")[0] in result.output
    assert f"$ shoal {name}" in result.output
    assert all(parameter.help for parameter in command.params if parameter.name != "help"), "an option without help"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_examples_are_calls_that_the_command_takes(name: str) -> None:
    command = COMMANDS[name]
    assert examples(command)
    for shell, called, *arguments in examples(command):
        assert (shell, called) == ("shoal", name)
        if ">" in arguments:
            del arguments[arguments.index(">") :]
        context = command.make_context(name, arguments)  # raises for what it doesn't know
        assert context.command is command


@pytest.mark.parametrize("name", WITH_JSON)
def test_scripts_get_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


def test_without_a_command_there_is_help() -> None:
    result = runner.invoke(app, [])
    assert "Usage" in result.output
    assert "submit" in result.output


def test_the_version_is_told() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("shoal ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["submit"],
        ["submit", "a.toml", "--rounds", "many"],
        ["up", "--port", "70000"],
        ["node", "--slowdown", "0.5"],
        ["why"],
        ["jobs", "--colour"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr
