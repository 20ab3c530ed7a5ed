"""Locks between real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.locks import AlreadyLocked, FileLock, claim_node_name
from bus.processes import wait_gone
from schemas.ids import BadIdentifier, sanitised, token

PATIENCE = 20.0  # seconds; only a failing test waits this long
HOLDER = """
import signal, sys
from pathlib import Path
from bus.locks import FileLock, claim_node_name
if sys.argv[1] == "lock":
    lock = FileLock(Path(sys.argv[2])); lock.acquire(); print("held", flush=True)
else:
    name = claim_node_name(Path(sys.argv[2])); print(name.name, flush=True)
signal.pause()
"""


def hold(what: str, path: Path) -> tuple["subprocess.Popen[str]", str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, what, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def test_one_at_a_time_and_the_error_says_who(tmp_path: Path) -> None:
    path = tmp_path / "store" / "server.lock"
    with FileLock(path) as first:
        assert first.held
        first.acquire()  # taking it again is no harm
        with pytest.raises(AlreadyLocked, match="give another --store") as refused:
            FileLock(path, mend="give another --store").acquire()
        assert refused.value.holder == os.getpid()
        assert refused.value.path == path
    assert not first.held
    with FileLock(path):
        pass


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    holder, said = hold("lock", path)
    assert said == "held"
    with pytest.raises(AlreadyLocked) as refused:
        FileLock(path).acquire()
    assert refused.value.holder == holder.pid
    end(holder)
    with FileLock(path) as lock:
        assert lock.holder() == os.getpid()


def test_a_child_that_inherits_the_lock_holds_it_too(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    lock = FileLock(path)
    lock.acquire()
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"],
        pass_fds=(lock.fileno(),),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    lock.release()
    with pytest.raises(AlreadyLocked):
        FileLock(path).acquire()
    end(child)
    with FileLock(path):
        pass


def test_an_unlocked_lock_has_no_descriptor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not locked"):
        FileLock(tmp_path / "a.lock").fileno()


def test_names_are_the_hosts_then_numbered_and_the_lowest_is_taken_again(tmp_path: Path) -> None:
    first, host = hold("name", tmp_path)
    second, numbered = hold("name", tmp_path)
    mine = claim_node_name(tmp_path)
    try:
        assert token(host) == host == sanitised(host)
        assert (numbered, mine.name) == (f"{host}-2", f"{host}-3")
        end(second)
        assert wait_gone(second.pid, PATIENCE)
        again, name = hold("name", tmp_path)
        end(again)
        assert name == f"{host}-2"
    finally:
        end(first)
        mine.release()
    restarted = claim_node_name(tmp_path)
    restarted.release()
    assert restarted.name == host


def test_a_wanted_name_is_that_name_or_an_error(tmp_path: Path) -> None:
    garage = claim_node_name(tmp_path, "garage")
    assert garage.name == "garage"
    with pytest.raises(AlreadyLocked, match="--name"):
        claim_node_name(tmp_path, "garage")
    garage.release()
    claim_node_name(tmp_path, "garage").release()
    with pytest.raises(BadIdentifier):
        claim_node_name(tmp_path, "a.b")


def test_the_hosts_name_is_made_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Ana's MacBook " + "x" * 80 + ".local")
    names = [claim_node_name(tmp_path) for _ in range(2)]
    assert names[0].name.startswith("ana-s-macbook-xxx")
    assert names[1].name == f"{names[0].name}-2"
    assert all(token(each.name) == each.name for each in names)
    for each in names:
        each.release()
