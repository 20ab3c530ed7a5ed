"""Orders to an emulated link: lines, schedules, messages; and the program that obeys them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import processes
from bus.nats import NatsBus
from bus.port import Interest, Receipt
from bus.server import EmbeddedServer
from bus.shaping import PROFILES, ShapingProxy, UnknownProfile
from bus.shaping.control import BadOrder, Become, Disconnect, Done, Heal, LinkControl, Spike, order_in, order_of
from bus.shaping.schedule import BadSchedule, LinkChange, Playback, schedule_in
from schemas.bus import MessageRejected
from schemas.emulation import EmulatedLinkChanged, LinkOrder
from schemas.wire import Message, seal

PATIENCE = 20.0  # seconds; only a failing test waits this long
ROOT = Path(__file__).resolve().parents[2]
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "bus.shaping", "--upstream", "127.0.0.1:1", "--profile", "good"],
                         stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def emulator(*options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bus.shaping", *options]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ordered(process: subprocess.Popen[str], line: str) -> dict[str, object]:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer: dict[str, object] = json.loads(said(process))
    return answer


def test_lines_become_orders() -> None:
    assert order_in(b'{"do": "profile", "name": "poor"}') == Become("poor")
    assert order_in(b'{"do": "spike", "ms": 800, "seconds": 5}') == Spike(800, 5)
    assert order_in(b'{"do": "disconnect", "seconds": 3}') == Disconnect(3)
    assert order_in(b'{"do": "heal"}') == Heal()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"heal",
        b"[]",
        b"\xff\xfe",
        b'{"do": "explode"}',
        b'{"do": "heal", "now": true}',
        b'{"do": "spike", "ms": 800}',
        b'{"do": "spike", "ms": -1, "seconds": 5}',
        b'{"do": "spike", "ms": "much", "seconds": 5}',
        b'{"do": "disconnect", "seconds": 1e9}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_order_is_refused_with_examples(line: bytes) -> None:
    with pytest.raises(BadOrder) as caught:
        order_in(line)
    assert '"do": "heal"' in str(caught.value)


def test_an_order_for_an_unknown_profile_names_the_known() -> None:
    with pytest.raises(UnknownProfile, match="unstable"):
        order_in(b'{"do": "profile", "name": "nix"}')


def test_messages_become_orders() -> None:
    assert order_of(LinkOrder(node="n", do="profile", profile="good")) == Become("good")
    assert order_of(LinkOrder(node="n", do="spike", extra_ms=300, seconds=2)) == Spike(300, 2)
    assert order_of(LinkOrder(node="n", do="disconnect", seconds=2)) == Disconnect(2)
    assert order_of(LinkOrder(node="n", do="heal")) == Heal()
    with pytest.raises(BadOrder):
        order_of(LinkOrder(node="n", do="spike", extra_ms=-5))
    with pytest.raises(UnknownProfile):
        order_of(LinkOrder(node="n", do="profile"))


def unlinked() -> ShapingProxy:
    """A proxy that listens to nobody yet: orders change it all the same."""
    return ShapingProxy("127.0.0.1", 1, PROFILES["good"])


async def test_orders_change_the_link_and_are_announced() -> None:
    proxy, done = unlinked(), list[Done]()
    control = LinkControl(proxy)
    control.announce = done.append
    assert control.carry_out(Become("poor"), reason="round 15", cause="a:1:1").profile == "poor"
    assert proxy.profile is PROFILES["poor"]
    assert control.carry_out(Spike(800, 60)).spike_ms == 800
    assert control.carry_out(Disconnect(60)).disconnected
    healed = control.carry_out(Heal())
    assert (healed.spike_ms, healed.disconnected, healed.profile) == (0, False, "poor")
    assert [d.do for d in done] == ["profile", "spike", "disconnect", "heal"]
    assert done[0] == Done(do="profile", profile="poor", reason="round 15", cause="a:1:1")


@given(st.binary(max_size=200))
def test_any_line_gets_an_answer(line: bytes) -> None:
    answer = json.loads(LinkControl(unlinked()).answer(line))
    assert answer["ok"] is False
    assert answer["error"]


def test_schedules_are_read_and_faults_are_named() -> None:
    poor, heal = '{"do": "profile", "name": "poor"}', '{"do": "heal"}'
    text = f'[{{"after_seconds": 10, "order": {poor}}}, {{"after_seconds": 12.5, "order": {heal}}}]'.encode()
    assert schedule_in(text) == (LinkChange(10, Become("poor")), LinkChange(12.5, Heal()))
    with pytest.raises(BadSchedule, match="after_seconds"):
        schedule_in(b'[{"after_seconds": -1, "order": {"do": "heal"}}]')
    with pytest.raises(UnknownProfile):
        schedule_in(b'[{"after_seconds": 1, "order": {"do": "profile", "name": "nix"}}]')


async def test_a_schedule_is_played_in_order_of_time_and_can_be_stopped() -> None:
    proxy, over = unlinked(), asyncio.Event()
    seen: list[str] = []

    def announce(done: Done) -> None:
        seen.append(f"{done.do} {done.profile}")
        assert "scheduled" in done.reason
        if done.profile == "unstable":
            over.set()

    control = LinkControl(proxy)
    control.announce = announce
    Playback(
        control, [LinkChange(0.04, Become("unstable")), LinkChange(0.02, Spike(100, 60)), LinkChange(0, Become("poor"))]
    )
    stopped = Playback(control, [LinkChange(0.03, Become("perfect"))])
    stopped.cancel()
    await asyncio.wait_for(over.wait(), PATIENCE)
    assert seen == ["profile poor", "spike poor", "profile unstable"]
    proxy.heal()


def test_the_program_says_where_it_listens_obeys_and_ends() -> None:
    with emulator("--upstream", "127.0.0.1:1", "--profile", "poor", "--cc", "bbr") as process:
        first = said(process)
        assert first.startswith("listening 127.0.0.1:")
        assert int(first.rpartition(":")[2]) > 0
        assert ordered(process, '{"do": "profile", "name": "good"}')["profile"] == "good"
        assert ordered(process, '{"do": "spike", "ms": 800, "seconds": 5}')["spike_ms"] == 800
        refused = ordered(process, '{"do": "spike"}')
        assert refused["ok"] is False
        assert "seconds" in str(refused["error"])
        assert ordered(process, "x" * 200_000)["ok"] is False
        assert ordered(process, '{"do": "disconnect", "seconds": 3}')["disconnected"] is True
        assert ordered(process, '{"do": "heal"}')["disconnected"] is False
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_the_program_outlives_its_standard_input_and_ends_at_sigint() -> None:
    with emulator("--upstream", "127.0.0.1:1", "--profile", "poor") as process:
        said(process)
        assert process.stdin is not None
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--upstream", "127.0.0.1:1", "--profile", "nix"], "unstable"),
        (["--upstream", "nowhere", "--profile", "good"], "HOST:PORT"),
        (["--upstream", "127.0.0.1:1", "--profile", "good", "--node", "a.b"], "name of a node"),
        (["--upstream", "127.0.0.1:1", "--profile", "good", "--schedule", "/nonexistent"], "/nonexistent"),
    ],
)
def test_the_program_refuses_what_makes_no_sense_in_one_line(options: list[str], told: str) -> None:
    with emulator(*options) as process:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 2
        assert told in errors
        assert len(errors.strip().splitlines()) == 1


def test_the_program_plays_a_schedule(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('[{"after_seconds": 0, "order": {"do": "profile", "name": "unstable"}}]')
    with emulator("--upstream", "127.0.0.1:1", "--profile", "good", "--schedule", str(plan)) as process:
        said(process)
        # The change is due at once, but so is the first order.
        assert any(ordered(process, '{"do": "heal"}')["profile"] == "unstable" for _ in range(100))


@pytest.mark.skipif(not processes.ON_LINUX, reason="only Linux ends a child with its parent")
def test_the_program_dies_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        pid = int(said(parent))
        assert processes.is_alive(pid)
        parent.kill()
        parent.wait()
        assert processes.wait_gone(pid, PATIENCE)


@contextlib.asynccontextmanager
async def ordering(url: str, heard: asyncio.Queue[Message]) -> AsyncIterator[NatsBus]:
    """A client that orders changes and hears what comes of them."""

    def hear(message: Message, receipt: Receipt | None) -> None:
        heard.put_nowait(message)
        if receipt is not None:
            receipt.ack()

    bus = await NatsBus.connect(url, source="client")
    await bus.subscribe([Interest(EmulatedLinkChanged), Interest(MessageRejected)], hear)
    try:
        yield bus
    finally:
        await bus.close()


async def test_the_program_obeys_the_bus(tmp_path: Path) -> None:
    heard: asyncio.Queue[Message] = asyncio.Queue()

    async def order(bus: NatsBus, change: LinkOrder, number: int) -> Message:
        await bus.publish(seal(change, id=f"client:1:{number}", cause="", at=time.time(), source="client"))
        return await asyncio.wait_for(heard.get(), PATIENCE)

    async with EmbeddedServer(tmp_path) as server:
        argv = [sys.executable, "-m", "bus.shaping", "--upstream", server.url.removeprefix("nats://")]
        process = await processes.spawn(
            [*argv, "--profile", "perfect", "--node", "n1"], cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            address = (await process.stdout.readline()).decode().split()[1]
            async with ordering(server.url, heard) as bus, ordering(f"nats://{address}", asyncio.Queue()) as node:
                assert await node.round_trip(PATIENCE) is not None
                # Telemetry: an order given before the emulator listens is lost, so the first is repeated until obeyed.
                first = None
                for attempt in range(100):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            first = await order(bus, LinkOrder(node="n1", do="heal", reason="ready?"), attempt)
                            break
                assert isinstance(first, EmulatedLinkChanged)
                assert (first.do, first.node, first.reason) == ("heal", "n1", "ready?")

                spiked = await order(bus, LinkOrder(node="n1", do="spike", extra_ms=100, seconds=60), 200)
                assert isinstance(spiked, EmulatedLinkChanged)
                assert (spiked.do, spiked.profile, spiked.cause) == ("spike", "perfect", "client:1:200")
                assert "client" in spiked.reason
                round_trip = await node.round_trip(PATIENCE)
                assert round_trip is not None
                assert round_trip >= 0.098

                refused = await order(bus, LinkOrder(node="n1", do="profile", profile="nix"), 201)
                assert isinstance(refused, MessageRejected)
                assert "unstable" in refused.reason
        finally:
            assert await processes.end(process, PATIENCE) == 0
