"""Where the server is, from whoever says so first."""

from pathlib import Path

import pytest

from bus.server_config import Ports, ensure_token, record
from runners.address import Address, BadServer, NoServer, find_server, parse_server


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_SERVER", "SHOAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which a server has noted where it listens."""
    record(tmp_path, listen="0.0.0.0", ports=Ports(nats=4333, websocket=4334), pid=1)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "url", "token"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222", None),
        ("nats://s3cret@10.0.0.7:4333", "nats://10.0.0.7:4333", "s3cret"),
        ("box.local", "nats://box.local:4222", None),
        ("box.local:99", "nats://box.local:99", None),
        ("tls://box.local", "tls://box.local:4222", None),
        ("nats://[::1]:4222", "nats://[::1]:4222", None),
    ],
)
def test_servers_are_understood(given: str, url: str, token: str | None) -> None:
    assert parse_server(given) == Address(url=url, token=token)


@pytest.mark.parametrize("given", ["http://x:1", "nats://", "nats://x:port", "nats://x:99999", "nats://user:word@x:1", ""])
def test_what_is_no_server_is_named(given: str) -> None:
    with pytest.raises(BadServer, match="write nats://") as caught:
        parse_server(given)
    assert caught.value.server == given


def test_host_and_port_of_an_address() -> None:
    address = parse_server("nats://[::1]:4333")
    assert (address.host, address.port) == ("::1", 4333)


def test_the_one_given_wins_then_the_environment_then_the_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_server(store=store).url == "nats://127.0.0.1:4333"
    monkeypatch.setenv("SHOAL_SERVER", "nats://10.0.0.1:1")
    assert find_server(store=store).url == "nats://10.0.0.1:1"
    assert find_server("nats://10.0.0.2:2", store=store).url == "nats://10.0.0.2:2"
    monkeypatch.setenv("SHOAL_SERVER", "")
    assert find_server(store=store).url == "nats://127.0.0.1:4333"


def test_the_stores_token_is_for_the_stores_server_alone(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ensure_token(store)
    assert find_server(store=store).token == kept
    assert find_server("nats://10.0.0.2:2", store=store).token is None
    assert find_server("nats://mine@10.0.0.2:2", store=store).token == "mine"
    assert find_server("nats://mine@10.0.0.2:2", token="other", store=store).token == "other"
    monkeypatch.setenv("SHOAL_TOKEN", "from-environment")
    assert find_server("nats://10.0.0.2:2", store=store).token == "from-environment"


def test_no_server_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NoServer, match="shoal up") as caught:
        find_server(store=tmp_path)
    assert caught.value.store == tmp_path
