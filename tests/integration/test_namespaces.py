"""Two machines: network namespaces that only a cable joins, and the line that `shoal up --listen` prints to paste."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from process_fleet import APPS, PATIENCE, SHOAL, Program, variables

from runners.address import parse_server
from schemas.jobs import JobPhase

HERE, THERE = "10.77.31.1", "10.77.31.2"
pytestmark = [pytest.mark.netns, pytest.mark.search]  # a fleet of its own behind real interfaces: in CI alone


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def why_not() -> str | None:
    """Why namespaces can't be had here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2's `ip`"
    name = f"shoal-{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
        ip("netns", "delete", name)
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return None


@dataclass(frozen=True)
class Machines:
    """Names of the two namespaces."""

    here: str
    there: str

    @staticmethod
    def on(name: str) -> list[str]:
        """What to put before a command."""
        return ["ip", "netns", "exec", name]


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two namespaces and a cable."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    tag = secrets.token_hex(3)
    made = Machines(f"shoal-{tag}-a", f"shoal-{tag}-b")
    try:
        for name in (made.here, made.there):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", f"sh{tag}a", "netns", made.here, "type", "veth", "peer", f"sh{tag}b", "netns", made.there)
        for name, end, address in ((made.here, f"sh{tag}a", HERE), (made.there, f"sh{tag}b", THERE)):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield made
    finally:
        for name in (made.here, made.there):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def command(machine: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*Machines.on(machine), str(SHOAL), *arguments],
        cwd=cwd, env=variables(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


def test_a_node_joins_by_the_pasted_line(machines: Machines, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "job.toml").write_text(
        'kind = "train"\nworkload = "points:workload"\nrounds = 4\nmin_nodes = 2\nid = "across"\n'
    )
    programs: list[Program] = []

    def start(machine: str, cwd: Path, log: str, *arguments: str) -> Program:
        programs.append(Program(arguments, cwd=cwd, env={}, log=tmp_path / log, before=Machines.on(machine)))
        return programs[-1]

    try:
        upper = start(machines.here, here, "up.log", "up", "--listen", HERE)
        assert upper.line().startswith(f"ready nats://{HERE}:")
        paste = upper.line()
        line = paste[paste.index("shoal node") :].split()[1:]
        server = line[line.index("--server") + 1]
        stranger = command(machines.there, there, "jobs", "--server", parse_server(server).url)
        assert stranger.returncode == 1
        assert "refused the token" in stranger.stderr
        start(machines.here, here, "node-a.log", "node", "--name", "a")
        start(machines.there, there, "node-b.log", *line, "--name", "b")
        code = ("--bundle", "--app-dir", str(APPS))  # which neither node has
        done = command(machines.here, here, "submit", "job.toml", *code, "--wait", "--json")
        assert done.returncode == 0, done.stderr
        assert msgspec.json.decode(done.stdout)["state"] == JobPhase.COMPLETED.value
        # From the other machine, with nothing but the line's address.
        fetched = command(machines.there, there, "fetch", "across", "--server", server, "--json")
        assert fetched.returncode == 0, fetched.stderr
        report = msgspec.json.decode((there / "runs" / "across" / "report.json").read_bytes())
        assert {node["node"] for node in report["nodes"] if node["rounds"]} == {"a", "b"}
    finally:
        for program in reversed(programs):
            program.close()
