"""A real server whose streams are full on purpose."""

from pathlib import Path

import pytest

from bus.nats import NatsBus
from bus.nats_fill import Streams
from bus.nats_streams import LATEST, RECORD
from bus.port import BusError
from bus.server import EmbeddedServer
from schemas.decisions import ForceNode
from schemas.wire import seal


def word(number: int) -> ForceNode:
    return seal(ForceNode(node="a", do="include"), id=f"x:1:{number}", cause="", at=1.0, source="x")


async def test_a_full_stream_refuses_what_is_new_keeps_what_is_old_and_is_as_before_afterwards(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server, Streams(server.url, None) as streams:
        bus = await NatsBus.connect(server.url, source="x")
        await bus.publish(word(1))
        before = await streams.limits()
        assert {RECORD, LATEST} <= before.keys()
        assert (await streams.counts())[RECORD] == 1
        await streams.fill()
        with pytest.raises(BusError, match="maximum bytes exceeded"):
            await bus.publish(word(2))
        assert (await streams.counts())[RECORD] == 1
        await streams.restore(before | {"GONE": (1, "old")})
        assert await streams.limits() == before
        await bus.publish(word(2))
        assert (await streams.counts())[RECORD] == 2
        await bus.close()
