"""`shoal up`: what it says first, how it ends, and what is left when it is killed."""

import contextlib
import os
import pty
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import psutil
import pytest
from process_fleet import APPS, END_WITHIN, PATIENCE, SHOAL, ProcessFleet, family, left_over, variables
from story import following

from runners.bundles.keys import own_signer
from runners.client import connect
from schemas.nodes import NodeProfile
from schemas.training import RoundClosed

LONG = {"kind": "train", "workload": "points:workload", "rounds": 1_000_000, "microbatch": 8}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[ProcessFleet]:
    """A place for a fleet of the test's own; commands run where the workloads are."""
    (tmp_path / "home").mkdir()
    with ProcessFleet(tmp_path / "home", cwd=APPS) as made:
        yield made


async def at_work(up: int, url: str) -> list[int]:
    """A job on the node that `up` started is under way; gives all processes."""
    async with await connect(url) as client, following(client, past=False) as story:
        job = (await client.submit(LONG)).job
        await story.heard(RoundClosed, lambda m: m.job == job)
    found = family(up)
    names = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in found)
    assert all(part in names for part in ("nats-server", "job_desk", "node_process", "fork_server"))
    return found


def accepts(url: str) -> bool:
    """Whether somebody listens at this port."""
    port = int(url.rpartition(":")[2])
    return any(
        connection.laddr.port == port for connection in psutil.net_connections("tcp") if connection.status == "LISTEN"
    )


@contextlib.contextmanager
def on_a_terminal(store: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`shoal up --nodes 1` as somebody at a keyboard runs it, and the line that it prints first."""
    ours, theirs = pty.openpty()
    command = [SHOAL, "up", "--nodes", "1", "--store", store]
    process = subprocess.Popen(
        command, cwd=APPS, env=variables(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        said = b""
        while not said.endswith(b"\n"):
            said += os.read(ours, 1)
        yield process, said.decode().strip()
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours)


async def test_killed_it_leaves_nothing_but_its_store_and_interrupted_on_a_terminal_neither(home: ProcessFleet) -> None:
    upper = home.up("--nodes", "1")
    assert "nats://" not in upper.log.read_text()
    pids = await at_work(upper.pid, home.url)
    refused = home.start("up")
    assert refused.ended() == 1
    assert refused.line() == ""
    said = refused.log.read_text().splitlines()
    assert len(said) == 1
    assert "stop that `shoal up` or give another --store" in said[0]
    refused.close()

    upper.send(signal.SIGKILL)
    assert left_over(pids, END_WITHIN) == []
    assert not accepts(home.url)
    with on_a_terminal(home.store) as (process, line):
        assert line == f"ready {home.url}", "a store keeps its port"
        async with await connect(home.url) as client, following(client, past=False) as story:
            (job,) = await client.jobs()
            again = await story.heard(RoundClosed, lambda m: m.job == job.job)
            assert again.round > 1, "what was under way goes on"
        pids = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        assert left_over(pids, END_WITHIN) == []
        assert process.wait(PATIENCE) == 130
        assert not accepts(home.url)


async def test_ended_one_by_one_everything_ends(home: ProcessFleet) -> None:
    upper = home.up("--nodes", "1")
    async with await connect(home.url) as client, following(client) as story:
        await story.heard(NodeProfile)
    pids = family(upper.pid)
    for pid in reversed(pids):  # children first
        os.kill(pid, signal.SIGTERM)
    assert left_over(pids, END_WITHIN) == []
    assert upper.ended() == 0
    assert not accepts(home.url)


async def test_other_machines_come_in_with_the_token_alone(home: ProcessFleet, elsewhere: Path) -> None:
    upper = home.up("--listen", "0.0.0.0")
    paste = upper.line()
    token_file = home.store / "token"
    token = token_file.read_text().strip()
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert len(token) >= 20
    assert "nats://" not in upper.log.read_text()
    command = paste[paste.index("shoal node") :].split()
    assert command[:3] == ["shoal", "node", "--server"]
    assert f"nats://{token}@" in command[3]
    assert command[4:] == ["--trust", own_signer(home.store).public]
    with pytest.raises(nats.errors.Error):
        await nats.connect(home.url, allow_reconnect=False, connect_timeout=5)
    refused = await home.cli("jobs", "--server", home.url, cwd=elsewhere)
    assert refused.code == 1
    assert "refused the token" in refused.err
    port = home.url.rpartition(":")[2]
    taken_in = await home.cli("jobs", "--server", f"nats://{token}@127.0.0.1:{port}", "--json", cwd=elsewhere)
    assert (taken_in.code, taken_in.json()) == (0, [])
