"""The process of one agent: `python -m runners.agent_process NAME`. Lean: no torch, no command-line libraries."""

import argparse
import asyncio
import contextlib
import importlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.credentials import Secret
from bus.locks import FileLock
from bus.nats import NatsBus
from bus.port import Start
from runners.address import STORE, find_server
from runners.host import Host
from runners.journal import Journal
from runners.loop import run
from runners.settings import load_settings
from runners.shared_journal import forget
from runners.standby import Replica
from schemas.errors import ShoalError


@dataclass(frozen=True)
class Kind:
    """Where an agent's core and settings are."""

    core: str
    module: str

    def make(self, name: str, store: Path) -> Any:
        """The core, with its settings from `shoal.toml`."""
        module = importlib.import_module(self.module)
        settings = load_settings(getattr(module, f"{self.core}Settings"), name, store)
        return getattr(module, self.core)(settings, random.Random(f"{name}/{time.time_ns()}"))


KINDS = {
    "job_desk": Kind("JobDesk", "agents.job_desk"),
    "node_selector": Kind("NodeSelector", "agents.node_selector"),
    "batch_controller": Kind("BatchController", "agents.batch_controller"),
    "network_monitor": Kind("NetworkMonitor", "agents.network_monitor"),
    "optimizer": Kind("Optimizer", "agents.optimizer"),
    "failure_detector": Kind("FailureDetector", "agents.failure_detector"),
    "healer": Kind("Healer", "agents.healer"),
    "predictor": Kind("Predictor", "agents.predictor"),
    "appraiser": Kind("Appraiser", "agents.appraiser"),
    "recorder": Kind("Recorder", "agents.recorder"),
}


class UnknownAgent(ShoalError):
    """No agent has this name. Attribute: `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no agent is named {name!r}: there are {', '.join(KINDS)}")
        self.name = name


async def run_agent(name: str, server: str | None, store: Path, token: Secret = None, replica: int = 0) -> None:
    """Be an agent until SIGINT or SIGTERM; `replica` is its number where it has standbys, else 0.

    Raises:
        UnknownAgent: there is none of this name.
        Unreachable: no server there.
        BadSettings, JournalUnreadable, HistoryUnreadable: a file of its own can't be used.
    """
    if name not in KINDS:
        raise UnknownAgent(name)
    kind = KINDS[name]
    core = kind.make(name, store)
    address = find_server(server, token=token, store=store)
    bus = await NatsBus.connect(address.url, source=name, token=address.token)
    # Two processes on one journal would damage it.
    folder = store / "agents" / (name if replica < 2 else f"{name}@{replica}")
    lock = FileLock(folder / "lock", mend=f"an agent {name} runs on this store: stop it, or use another")
    lock.acquire()
    try:
        if replica:
            await _until_asked(
                Replica(
                    lambda: kind.make(name, store), bus, source=name, number=replica, folder=folder,
                    helpers=lambda: _helpers(name, bus, store, core.settings), say=_say,
                )
            )  # fmt: skip
        else:
            await _alone(core, name, bus, folder, store)
    finally:
        lock.release()
        await bus.close()


async def _alone(core: Any, name: str, bus: NatsBus, folder: Path, store: Path) -> None:
    """The agent has no standby: its journal is on this machine."""
    await forget(name, bus)
    journal = Journal(folder)
    try:
        async with _helpers(name, bus, store, core.settings) as helpers:
            await _until_asked(Host(core, bus, source=name, journal=journal, start=Start.ALL, **helpers))
    finally:
        journal.close()


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


async def _until_asked(agent: Host | Replica) -> None:
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, agent.stop, "the agent was asked to end")
    await agent.run()


@contextlib.asynccontextmanager
async def _helpers(name: str, bus: NatsBus, store: Path, settings: Any) -> AsyncIterator[dict[str, Any]]:
    """What carries out the effects that not every agent has: the recorder's history and reports, the predictor's fits."""
    if name == "predictor":
        from runners.predicting import LearningWorks

        yield {"works": LearningWorks(store / "history.sqlite")}
        return
    if name != "recorder":
        yield {}
        return
    from runners.history import opened
    from runners.report_work import ReportWorks

    bounds = {"days": settings.history_days, "megabytes": settings.history_megabytes}
    async with opened(store / "history.sqlite", **bounds) as history:
        yield {"history": history, "works": ReportWorks(history, bus)}


def main(argv: list[str] | None = None) -> int:
    """The way in for `shoal up` and `shoal agent`."""
    parser = argparse.ArgumentParser(prog="python -m runners.agent_process", description=__doc__)
    parser.add_argument("name", help=f"one of {', '.join(KINDS)}")
    parser.add_argument("--server", help="nats://[TOKEN@]HOST:PORT; by default that of `shoal up` on this store")
    parser.add_argument("--store", type=Path, default=STORE, help="Shoal's directory")
    parser.add_argument("--replica", type=int, default=0, help="its number, where the agent has several processes")
    parser.add_argument("--token-file", type=Path, help="a file with the server's token, or with the agent's credentials")
    options = parser.parse_args(argv)
    token = options.token_file
    try:
        run(run_agent(options.name, options.server, options.store, token, options.replica))
    except ShoalError as error:
        print(f"shoal agent {options.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
