"""What a job's process gets of its machine, tried by processes that put themselves within bounds."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agents.node.limits import JobLimits
from runners.bounding import Bounding, make_scratch
from runners.jobs.bounds import Bounds, NoConfinement, landlock_level, needed

BOUND = """
import json, sys
import msgspec
from runners.jobs import bounds
bounds.apply(msgspec.json.decode(sys.argv[1], type=bounds.Bounds))
found = {}
def tried(name, do):
    try:
        found[name] = do() or "done"
    except BaseException as error:
        found[name] = type(error).__name__
"""
SAY = "\nprint(json.dumps(found))"
confining = pytest.mark.skipif(landlock_level() < 6, reason="this kernel's Landlock doesn't bound files, ports and signals")


def bound(bounds: Bounds, script: str, *arguments: str) -> dict[str, str]:
    argv = [sys.executable, "-c", BOUND + script + SAY, msgspec.json.encode(bounds).decode(), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


@confining
def test_a_confined_process_sees_its_code_its_data_and_its_own_folder(tmp_path: Path) -> None:
    for folder in ("code", "data", "home"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    (tmp_path / "code" / "way_out").symlink_to(tmp_path / "home" / "x.txt")
    given = Bounding(limits=JobLimits(read=(str(tmp_path / "data"),))).bounds(
        "nats://127.0.0.1:4222", tmp_path / "scratch", tmp_path / "code", brought=True
    )
    make_scratch(tmp_path / "scratch")
    script = """
import os, signal, tempfile
from pathlib import Path
root, parent = Path(sys.argv[2]), int(sys.argv[3])
for name in ("code", "data", "home", "code/way_out"):
    path = root / name / "x.txt" if "way" not in name else root / name
    tried(f"read {name}", path.read_text)
tried("write code", lambda: (root / "code" / "y.txt").write_text("y"))
tried("shadow", lambda: open("/etc/shadow").read())
tried("import", lambda: __import__("graphlib").__name__)
def own():
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"mine")
        return str(Path(file.name).is_relative_to(root / "scratch") and Path.home() == root / "scratch")
tried("own", own)
tried("signal", lambda: os.kill(parent, 0))
tried("environ of others", lambda: open(f"/proc/{parent}/environ").read(1))
"""
    found = bound(given, script, str(tmp_path), str(os.getpid()))
    assert found == {
        "read code": "code",
        "read data": "data",
        "read home": "PermissionError",
        "read code/way_out": "PermissionError",
        "write code": "PermissionError",
        "shadow": "PermissionError",
        "import": "graphlib",
        "own": "True",
        "signal": "PermissionError",
        "environ of others": "PermissionError",
    }


@confining
def test_a_confined_process_reaches_the_server_and_no_other_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        port, closed = (listening.getsockname()[1] for listening in (server, other))
        given = Bounding().bounds(f"nats://127.0.0.1:{port}", tmp_path, None, brought=True)
        script = """
import socket
for name, port in (("server", sys.argv[2]), ("other", sys.argv[3])):
    tried(name, lambda: socket.create_connection(("127.0.0.1", int(port))).close())
tried("listen", lambda: socket.create_server(("127.0.0.1", 0)).close())
"""
        found = bound(given, script, str(port), str(closed))
    assert found == {"server": "done", "other": "PermissionError", "listen": "PermissionError"}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is mapped on Linux only")
def test_memory_and_files_have_bounds(tmp_path: Path) -> None:
    limits = JobLimits(memory_gb=0.5, file_gb=1e-6, confine="off")
    given = Bounding(limits=limits).bounds("nats://h", tmp_path, None, brought=True)
    assert not given.confined
    script = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tried("much", lambda: str(len(bytearray(600_000_000))))
tried("some", lambda: str(len(bytearray(60_000_000))))
tried("file", lambda: open(sys.argv[2], "wb", 0).write(bytes(1000)) and open(sys.argv[2], "ab", 0).write(b"x"))
"""
    found = bound(given, script, str(tmp_path / "file"))
    assert found == {"much": "MemoryError", "some": "60000000", "file": "OSError"}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_CPU ends a process elsewhere, too, but not by this code")
def test_a_process_that_uses_up_its_processor_time_is_ended() -> None:
    bounds = msgspec.json.encode(Bounds(cpu_seconds=1)).decode()
    done = subprocess.run([sys.executable, "-c", BOUND + "while True: pass", bounds], check=False)
    assert -done.returncode in (9, 24)  # SIGXCPU; SIGKILL where both limits are reached at once


def test_whose_code_is_confined_is_the_owner_s_word(tmp_path: Path) -> None:
    for confine, expected in (("bundles", (True, False)), ("all", (True, True)), ("off", (False, False))):
        bounding = Bounding(limits=msgspec.convert({"confine": confine}, JobLimits))
        assert tuple(bounding.bounds("nats://h", tmp_path, None, brought=b).confined for b in (True, False)) == expected


def test_neighbours_of_a_site_may_meet_on_any_port(tmp_path: Path) -> None:
    bounds = Bounding(in_site=True).bounds("nats://h:1,nats://i", tmp_path, None, brought=True)
    assert (bounds.ports, bounds.shared_memory) == (None, True)
    assert Bounding().bounds("nats://h:1,nats://i", tmp_path, None, brought=True).ports == (1, 4222)


def test_where_nothing_can_be_confined_other_people_s_code_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from runners.jobs import bounds

    monkeypatch.setattr(bounds, "landlock_level", lambda: 0)
    with pytest.raises(NoConfinement, match="--confine off"):
        bounds.apply(Bounds(confined=True))


def test_other_people_s_code_gets_no_secrets_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"PATH": "/bin", "HF_TOKEN": "h", "OMP_NUM_THREADS": "1", "AWS_SECRET_ACCESS_KEY": "a", "DATA": "x"}
    assert needed(own) == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}
    for name, value in {**own, "SHOAL_TOKEN": "s"}.items():
        monkeypatch.setenv(name, value)
    bounding = Bounding(limits=JobLimits(environment=("DATA", "NOT_SET")))
    assert bounding.bounds("nats://h", tmp_path, None, brought=True).environment == {"DATA": "x"}
    mine = bounding.bounds("nats://h", tmp_path, None, brought=False).environment
    assert own.items() <= mine.items(), "the owner's own code finds what it was started with"
    assert "SHOAL_TOKEN" not in mine
