"""Real node processes that yield: to a person's word, and to a program of their owner's."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_desk import ServerBeside
from typer.testing import CliRunner

from runners.cli.app import app
from runners.client import connect
from schemas.nodes import NodeProfile, NodeYielding
from schemas.wire import Message

# A fresh life of a node reads it: any other program that runs at all is the owner's need.
EAGER = "[node]\nowner_above_percent = 0.5\nowner_below_percent = 0.0\nyield_after_seconds = 0.0\n"
BUSY = "while True: pass"


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerBeside]:
    """A server in the default store."""
    monkeypatch.chdir(tmp_path)
    with ServerBeside(tmp_path / ".shoal") as made:
        yield made


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process, ended at the end."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def a_node(fleet: ServerBeside, name: str, *options: str) -> Iterator[None]:
    """A node, once it is up."""
    store = str(fleet.store)
    with running("-m", "runners.node_process", "--name", name, "--store", store, *options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"node {name} is up\n"
        yield


def first(fleet: ServerBeside, node: str, kind: type[Message]) -> Any:
    """The first message of a kind of a node that is stored or comes."""

    async def wait() -> Message:
        async with await connect(fleet.server.url) as client:
            async for event in client.events(f"shoal.nodes.{node}.*", past=True):
                if isinstance(event, kind):
                    return event
        raise AssertionError("the connection was closed")

    return fleet.call(wait())


def shoal(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_person_pauses_a_node_sees_it_and_lets_it_go_on(fleet: ServerBeside) -> None:
    with a_node(fleet, "attic"):
        first(fleet, "attic", NodeProfile)
        assert shoal("pause", "attic", "--reason", "a game").stdout == "attic yields: paused by hand: a game\n"
        (row,) = json.loads(shoal("nodes", "--json").stdout)
        assert (row["node"], row["yielding"]) == ("attic", "yields: paused by hand: a game")
        assert "yields: paused by hand: a game" in shoal("nodes").stdout
        said = shoal("why", "attic").stdout
        assert "NodeYielding by node/attic: yields: paused by hand: a game" in said
        assert "because" in said
        assert "PauseNode by cli: pause on request: a game" in said
    with a_node(fleet, "attic"):
        word = first(fleet, "attic", NodeYielding)
        assert word.yielding, "a pause outlives the node's process"
        assert shoal("resume", "attic").stdout == "attic goes on: its owner no longer needs it\n"
        (row,) = json.loads(shoal("nodes", "--json").stdout)
        assert row["yielding"] == ""


def test_a_node_that_isnt_there_cant_be_paused(fleet: ServerBeside) -> None:
    result = shoal("pause", "nobody")
    assert (result.exit_code, result.stderr) == (1, "shoal: no node is named nobody: `shoal nodes` lists them\n")
    assert shoal("pause", "No.Name").exit_code == 1


def test_a_node_yields_to_a_program_of_its_owner(fleet: ServerBeside, tmp_path: Path) -> None:
    (tmp_path / "shoal.toml").write_text(EAGER)
    with running("-c", BUSY), a_node(fleet, "owned", "--yield-to-owner", "--yield-share", "0.25"):
        word = first(fleet, "owned", NodeYielding)
    assert word.yielding
    assert word.reason.startswith("yields: its owner's programs use ")
    assert word.reason.endswith(" % of its CPU (limit 0.5 %); jobs go on at 25 % of their speed")
    assert word.share == 0.25
