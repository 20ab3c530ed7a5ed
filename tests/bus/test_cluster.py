"""Three real servers that keep everything together: what was accepted outlives any one of them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from bus.backoff import RestartPolicy
from bus.cluster import BadCluster, EmbeddedCluster, size_of
from bus.nats import NatsBus
from bus.nats_streams import JOURNAL, LATEST, RECORD
from bus.port import Interest, Receipt, Superseded
from bus.server_config import Ports, last_url, record
from bus.tensors import TensorBus
from schemas.nodes import NodeLeaving
from schemas.wire import Message, seal
from tests.bus.tensor_exchange import PATIENCE

NEVER = RestartPolicy(first=3600.0, limit=3600.0)  # seconds: a server that is killed stays away


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster(tmp_path, 3, policy=NEVER) as made:
        yield made


def leaving(number: int) -> NodeLeaving:
    message = NodeLeaving(node="a", reason=str(number))
    seal(message, id=f"tester:1:{number}", cause="", at=0.0, source="tester")
    return message


async def leader(client: Client, stream: str) -> int:
    """The place, from 0, of the server that leads a stream; all of its copies are there."""
    info = await client.jetstream(timeout=PATIENCE).stream_info(stream)
    assert info.cluster is not None
    assert info.cluster.leader is not None
    assert len(info.cluster.replicas or ()) == 2
    return int(info.cluster.leader.rpartition("-")[2]) - 1


async def test_nothing_accepted_is_lost_with_the_server_that_led(cluster: EmbeddedCluster) -> None:
    bus = await NatsBus.connect(cluster.url, source="tester", store_timeout=PATIENCE)
    await bus.prepare_objects()
    await bus.prepare_logs()
    heard: list[str] = []
    last_came = asyncio.Semaphore(0)

    def hear(message: Message, receipt: Receipt | None) -> None:
        assert isinstance(message, NodeLeaving)
        heard.append(message.reason)
        if message.reason == "39":
            last_came.release()
        if receipt is not None:
            receipt.ack()

    await bus.subscribe([Interest(NodeLeaving)], hear, durable="tester")
    await bus.subscribe([Interest(NodeLeaving)], hear)
    log = bus.log("agent")
    first = await log.append(b"before", after=0, name="1")
    await bus.put_object("model", b"x" * 300_000)
    for number in range(20):
        await bus.publish(leaving(number))
    client = await nats.connect(cluster.url.split(","))
    assert await leader(client, LATEST) in range(3)
    assert await leader(client, JOURNAL) in range(3)
    victim = cluster.servers[await leader(client, RECORD)]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)

    for number in range(20, 40):
        await bus.publish(leaving(number))
    second = await log.append(b"after", after=first, name="2")
    with pytest.raises(Superseded):
        await log.append(b"by who was cut off", after=first, name="3")
    assert second > first
    assert len(await bus.get_object("model")) == 300_000
    stored = [message.reason async for message in bus.history([Interest(NodeLeaving)]) if isinstance(message, NodeLeaving)]
    assert stored == [str(number) for number in range(40)]
    # Both subscribers have all; what was under way when the server died may have come again.
    async with asyncio.timeout(PATIENCE):
        await last_came.acquire()
        await last_came.acquire()
    assert all(heard.count(reason) >= 2 for reason in stored)
    await client.close()
    await bus.close()


async def test_tensors_cross_from_one_server_to_another(cluster: EmbeddedCluster, tmp_path: Path) -> None:
    assert last_url(tmp_path) == cluster.url  # where commands look
    first, second, _ = cluster.url.split(",")
    giver = await TensorBus.connect(first, job="j", node="giver")
    taker = await TensorBus.connect(second, job="j", node="taker")
    data = os.urandom(3_000_000)
    held = giver.keep("average", "1", data)
    assert bytes(await taker.fetch("giver", "average", "1", held.size, held.digest, PATIENCE)) == data
    await giver.close()
    await taker.close()


async def test_a_store_keeps_its_cluster(tmp_path: Path) -> None:
    for wrong in (1, 2, 4, 7):
        with pytest.raises(BadCluster, match="3 servers or 5"):
            EmbeddedCluster(tmp_path, wrong)
    assert size_of(tmp_path) == 0
    EmbeddedCluster(tmp_path, 3)
    EmbeddedCluster(tmp_path, 3)
    assert size_of(tmp_path) == 3
    with pytest.raises(BadCluster, match="--cluster 3"):
        EmbeddedCluster(tmp_path, 5)


def test_what_a_single_server_keeps_is_left_alone(tmp_path: Path) -> None:
    record(tmp_path, listen="127.0.0.1", ports=Ports(nats=4222, websocket=9222), pid=1)
    with pytest.raises(BadCluster, match="another --store"):
        EmbeddedCluster(tmp_path, 3)
    assert size_of(tmp_path) == 0
