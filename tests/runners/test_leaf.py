"""A second site behind one outbound connection: its clients are the fleet's, it is cut off, and it comes back."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bus.nats import NatsBus
from bus.port import Interest, NoResponders, Receipt, Unreachable
from bus.server import EmbeddedServer
from bus.server_config import free_ports
from bus.shaping.profiles import profile_named
from bus.shaping.proxy import ShapingProxy
from bus.tensors import TensorBus
from runners.cli.app import app
from runners.leaf import LeafOptions, NoToken, leaf_server
from runners.servers import leaf_url, make_servers
from runners.up import UpOptions
from schemas.nodes import NodeLeaving
from schemas.wire import Message, seal

TOKEN = "let-me-in"
PATIENCE = 180.0  # seconds; only a failing test waits this long, and a starved machine may take most of it


@dataclass
class Sites:
    """A fleet, another site, and the line between."""

    fleet: EmbeddedServer
    site: EmbeddedServer
    leaves: int
    line: ShapingProxy

    async def cut(self) -> None:
        """The line is gone, with all that was under way on it."""
        await self.line.close()

    async def mend(self) -> None:
        """And there again."""
        port = self.line.port
        self.line = ShapingProxy("127.0.0.1", self.leaves, profile_named("perfect"))
        await self.line.start(port)


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    port = free_ports("127.0.0.1").nats
    options = UpOptions(store=tmp_path / "fleet", token=TOKEN, leaves=port)
    fleet = make_servers(options, None, lambda ended: None, lambda back: None)
    assert isinstance(fleet, EmbeddedServer)
    line = ShapingProxy("127.0.0.1", port, profile_named("perfect"))
    async with fleet:
        assert leaf_url(fleet, port) == f"nats://{TOKEN}@127.0.0.1:{port}"
        url = f"nats://{TOKEN}@127.0.0.1:{await line.start()}"
        async with leaf_server(LeafOptions(server=url, store=tmp_path / "site")) as site:
            made = Sites(fleet, site, port, line)
            yield made
            await made.line.close()


async def joined(server: EmbeddedServer, source: str, token: str | None = None) -> NatsBus:
    """A participant; a site's server may be there before its connection to the fleet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await NatsBus.connect(server.url, source=source, token=token, store_timeout=PATIENCE)
            except Unreachable:
                continue


def leaving(number: int) -> NodeLeaving:
    message = NodeLeaving(node="a", reason=str(number))
    seal(message, id=f"tester:1:{number}", cause="", at=0.0, source="tester")
    return message


class Heard:
    """What came, and when enough did."""

    def __init__(self, count: int) -> None:
        self.reasons: set[str] = set()
        self._count = count
        self._all = asyncio.Event()

    def __call__(self, message: Message, receipt: Receipt | None) -> None:
        assert isinstance(message, NodeLeaving)
        assert receipt is not None
        receipt.ack()
        self.reasons.add(message.reason)
        if len(self.reasons) == self._count:
            self._all.set()

    async def all(self) -> set[str]:
        async with asyncio.timeout(PATIENCE):
            await self._all.wait()
        return self.reasons


async def test_a_site_that_was_cut_off_misses_nothing_and_loses_nothing(sites: Sites) -> None:
    home, away = await joined(sites.fleet, "home", TOKEN), await joined(sites.site, "away")
    durable, plain, at_home = Heard(4), Heard(4), Heard(4)
    await away.subscribe([Interest(NodeLeaving)], durable, durable="away")
    await away.subscribe([Interest(NodeLeaving)], plain)
    await home.subscribe([Interest(NodeLeaving)], at_home)
    await home.publish(leaving(1))
    await away.publish(leaving(2))
    await away.put_object("model", b"x" * 300_000)
    assert len(await home.get_object("model")) == 300_000

    await sites.cut()
    waiting = asyncio.ensure_future(away.publish(leaving(3)))
    await home.publish(leaving(4))
    with pytest.raises(NoResponders):  # the site's server knows that nobody is there, and says so at once
        await away.request("shoal.jobs.list", b"{}", PATIENCE)
    assert not waiting.done()

    await sites.mend()
    await waiting
    for heard in (durable, plain, at_home):
        assert await heard.all() == {"1", "2", "3", "4"}
    stored = [message async for message in away.history([Interest(NodeLeaving)])]
    assert len(stored) == 4
    await home.close()
    await away.close()


async def test_tensors_cross_both_ways(sites: Sites) -> None:
    await (await joined(sites.site, "away")).close()  # the sites are connected
    home = await TensorBus.connect(sites.fleet.url, job="j", node="home", token=TOKEN)
    away = await TensorBus.connect(sites.site.url, job="j", node="away", streams=2)
    for giver, taker in ((home, away), (away, home)):
        data = os.urandom(2_000_000)
        held = giver.keep("average", "1", data)
        assert bytes(await taker.fetch(giver.node, "average", "1", held.size, held.digest, PATIENCE)) == data
    await home.close()
    await away.close()


def test_what_can_be_wrong_with_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoToken, match="--leaves"):
        leaf_server(LeafOptions(server="nats://127.0.0.1:1", store=tmp_path))
    said = CliRunner().invoke(app, ["leaf", "--server", "nats://127.0.0.1:1", "--store", str(tmp_path)])
    assert (said.exit_code, "--leaves PORT" in said.output) == (1, True)
    said = CliRunner().invoke(app, ["up", "--tls", "--leaves", "7422", "--store", str(tmp_path)])
    assert (said.exit_code, "with a token" in said.output) == (2, True)
