"""What the server stores, encrypted where there is a key."""

import stat
from pathlib import Path

import pytest

from bus.nats import NatsBus
from bus.server import EmbeddedServer
from bus.server_config import storage_key

MARK = b"a sentence that is nowhere else"


async def put(store: Path, key: str) -> None:
    async with EmbeddedServer(store, storage_key=key) as server:
        bus = await NatsBus.connect(server.url, source="a")
        await bus.put_object("thing", MARK)
        await bus.close()


async def got(store: Path, key: str) -> bytes:
    async with EmbeddedServer(store, storage_key=key) as server:
        bus = await NatsBus.connect(server.url, source="a")
        try:
            return await bus.get_object("thing")
        finally:
            await bus.close()


def on_disk(store: Path) -> bool:
    return any(MARK in path.read_bytes() for path in (store / "jetstream").rglob("*") if path.is_file())


async def test_with_a_key_nothing_stored_can_be_read_from_the_disk(tmp_path: Path) -> None:
    assert storage_key(tmp_path, make=False) == ""
    key = storage_key(tmp_path, make=True)
    assert stat.S_IMODE((tmp_path / "storage.key").stat().st_mode) == 0o600
    assert storage_key(tmp_path, make=False) == key
    await put(tmp_path, key)
    assert not on_disk(tmp_path)
    assert await got(tmp_path, key) == MARK


async def test_what_was_stored_without_a_key_is_read_with_one(tmp_path: Path) -> None:
    await put(tmp_path, "")
    assert on_disk(tmp_path)
    assert await got(tmp_path, storage_key(tmp_path, make=True)) == MARK


async def test_another_key_reads_nothing(tmp_path: Path) -> None:
    await put(tmp_path, "one-key")
    with pytest.raises(Exception):  # noqa: B017 - the server may refuse to start, or to have the stream
        await got(tmp_path, "another-key")
