"""What `shoal doctor` finds on this machine, with a real server, and with none."""

import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from toy_desk import ToyDesk

from bus.nats import NatsBus
from bus.server import EmbeddedServer
from runners.doctor import LATELY, Check, congestion, examine_fleet
from schemas.decisions import MessagesDropped
from schemas.wire import seal


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_SERVER", "SHOAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "store") as server:
        yield server


def by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.what: check for check in checks}
    assert len(found) == len(checks)
    assert all(check.mend for check in checks if check.state != "good"), "what is not good has a mend"
    return found


async def test_all_is_well_with_a_server_and_a_desk(server: EmbeddedServer) -> None:
    desk = await ToyDesk.open(server.url)
    checks = by_name(await examine_fleet(None, server.store))
    assert list(checks) == ["server", "desk", "clock", "load"]
    assert {check.state for check in checks.values()} == {"good"}
    assert server.url in checks["server"].found
    assert "round trip" in checks["server"].found
    await desk.close()


async def test_no_server_known_is_a_note(tmp_path: Path) -> None:
    checks = by_name(await examine_fleet(None, tmp_path))
    assert checks["server"].state == "warning"
    assert "shoal up" in checks["server"].mend
    assert list(checks) == ["server"]


async def test_a_server_that_is_not_there_is_bad(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"nats://127.0.0.1:{taken.getsockname()[1]}"
    checks = by_name(await examine_fleet(url, tmp_path))
    assert checks["server"].state == "bad"
    assert url in checks["server"].found
    assert "shoal up" in checks["server"].mend


async def test_a_server_without_a_desk_is_bad(server: EmbeddedServer) -> None:
    checks = by_name(await examine_fleet(server.url, server.store))
    assert (checks["server"].state, checks["desk"].state) == ("good", "bad")
    assert "shoal up" in checks["desk"].mend


async def test_what_was_dropped_lately_is_told(server: EmbeddedServer) -> None:
    bus = await NatsBus.connect(server.url, source="recorder")
    for number, age in enumerate((10.0, 20.0, 2 * LATELY)):
        told = MessagesDropped(agent="recorder", count=5, total=15, reason="5: too fast")
        await bus.publish(seal(told, id=f"recorder:1:{number}", cause="", at=time.time() - age, source="recorder"))
    await bus.close()
    load = by_name(await examine_fleet(server.url, server.store))["load"]
    assert (load.state, load.found) == ("warning", "messages dropped in the last hour: recorder 10")
    assert "5: too fast" in load.mend


async def test_clocks_that_differ_are_noted(server: EmbeddedServer) -> None:
    def slow_clock() -> float:
        return time.time() - 60

    checks = by_name(await examine_fleet(server.url, server.store, slow_clock))
    assert checks["clock"].state == "warning"
    assert float(checks["clock"].found.split()[0]) == pytest.approx(60, abs=20)
    assert "NTP" in checks["clock"].mend
    assert by_name(await examine_fleet(server.url, server.store))["clock"].state == "good"


@pytest.mark.parametrize(
    ("default", "allowed", "state", "word"),
    [
        ("bbr", True, "good", "BBR"),
        ("cubic", True, "good", "ask for BBR themselves"),
        ("cubic", False, "warning", "may not ask"),
        (None, None, "good", "can't be told"),
    ],
)
def test_what_tcp_makes_of_lossy_links(default: str | None, allowed: bool | None, state: str, word: str) -> None:
    check = congestion(default, allowed)
    assert (check.state, word in check.found, bool(check.mend)) == (state, True, state != "good")
