"""`python -m bus.shaping`: one emulated link as a process of its own."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bus.credentials import Secret
from bus.processes import die_with_parent
from bus.shaping.congestion import CongestionControl
from bus.shaping.control import LinkControl
from bus.shaping.orders import OrderReader
from bus.shaping.profiles import PROFILES, profile_named
from bus.shaping.proxy import ShapingProxy
from bus.shaping.schedule import LinkChange, Playback, schedule_in
from schemas.errors import ShoalError
from schemas.ids import token

LONGEST_LINE = 64 * 1024
"""Bytes of one order; what a longer line has beyond them is dropped, so that memory stays bounded."""


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM, SIGINT or the parent's end. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent(os.getppid())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        (host, port), *others = (_address(one) for one in arguments.upstream.split(","))
        if arguments.node:
            token(arguments.node)
        changes = schedule_in(arguments.schedule.read_bytes()) if arguments.schedule else ()
        profile, control = profile_named(arguments.profile), CongestionControl(arguments.cc)
        proxy = ShapingProxy(host, port, profile, control, arguments.seed, others=others)
    except (ShoalError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(proxy, arguments, changes))
    return 0


async def _serve(proxy: ShapingProxy, arguments: argparse.Namespace, changes: tuple[LinkChange, ...]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, ended.set)
    _say(f"listening 127.0.0.1:{await proxy.start(arguments.port)}")
    control = LinkControl(proxy)

    def obey(line: bytes) -> None:
        _say(control.answer(line).decode())

    playback = Playback(control, changes)
    threading.Thread(target=_read_lines, args=(loop, obey), daemon=True).start()
    reader = asyncio.ensure_future(_follow_orders(control, arguments))
    await ended.wait()
    playback.cancel()
    await proxy.close()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


async def _follow_orders(control: LinkControl, arguments: argparse.Namespace) -> None:
    """Obey the bus too, where there is a node to go by."""
    if arguments.node:
        places = (_address(one) for one in arguments.upstream.split(","))
        url = ",".join(f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}" for host, port in places)
        await OrderReader(control, url, arguments.node, _secret()).run()


def _secret() -> Secret:
    path = os.environ.get("SHOAL_CREDENTIALS")
    return Path(path) if path else os.environ.get("SHOAL_TOKEN")


def _read_lines(loop: asyncio.AbstractEventLoop, obey: Callable[[bytes], None]) -> None:
    """Hand each line of standard input to the loop, until its end.

    A thread, since event loops can't watch a file or /dev/null; bare reads, since a thread that is inside a buffered one
    when the interpreter ends brings it down.
    """
    rest = b""
    while chunk := _read(0):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:LONGEST_LINE]
        for line in lines:
            if line.strip():
                try:
                    loop.call_soon_threadsafe(obey, line)
                except RuntimeError:  # the loop has ended
                    return


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, LONGEST_LINE)
    except OSError:  # closed, or a terminal that went away
        return b""


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # whoever started this reads no answers
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open for good


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise ShoalError(f"--upstream {text!r} is no address: write HOST:PORT, such as 127.0.0.1:4222")
    return host.strip("[]"), int(port)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on Windows
        return None
    return uvloop.new_event_loop


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bus.shaping",
        description="An emulated link: connect to the port it prints instead of to the upstream server. "
        "It takes orders as lines of JSON on standard input.",
        epilog="example: python -m bus.shaping --upstream 127.0.0.1:4222 --profile poor --cc bbr",
    )
    upstream = "the server at the link's other end; of several, with commas between, the first that listens"
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help=upstream)
    parser.add_argument("--profile", required=True, metavar="NAME", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--cc", choices=[c.value for c in CongestionControl], default="cubic", help="default: cubic")
    parser.add_argument(
        "--node",
        help="obey orders on shoal.emulation.NODE.order too; $SHOAL_TOKEN is the server's token, $SHOAL_CREDENTIALS a file",
    )
    parser.add_argument("--seed", type=int, default=0, help="of jitter and losses")
    parser.add_argument("--port", type=int, default=0, help="to listen on; by default a free one")
    parser.add_argument("--schedule", type=Path, metavar="FILE", help="changes at set times, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
