"""The healer's orders on agents, over real processes: a hung one is ended, and the supervisor starts it again."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from bus.backoff import RestartPolicy
from runners.agent_restarts import AgentRestarts
from runners.supervisor import ChildRestarted, ChildSpec, Supervisor

PATIENCE = 60.0  # seconds; only a failing test waits this long
HANGS = (sys.executable, "-S", "-c", "import signal; signal.pause()")


async def test_a_stopped_agent_and_its_standby_are_ended_and_come_back(tmp_path: Path) -> None:
    back: asyncio.Queue[ChildRestarted] = asyncio.Queue()
    said: list[str] = []
    policy = RestartPolicy(first=0.01, limit=0.02, loop_after=3)
    async with Supervisor(tmp_path, policy=policy, grace=0.1, on_restart=back.put_nowait) as supervisor:
        for name in ("optimizer", "optimizer@2", "recorder"):
            await supervisor.start(ChildSpec(name=name, argv=HANGS))
        before = {name: supervisor.pid(name) for name in supervisor.names}
        assert before["optimizer"] is not None
        os.kill(before["optimizer"], signal.SIGSTOP)
        restarts = AgentRestarts(supervisor, said.append)
        restarts.restart("nobody", "r")
        assert not said
        restarts.restart("optimizer", "nothing was heard of it")
        names = {(await asyncio.wait_for(back.get(), PATIENCE)).name for _ in range(2)}
        assert names == {"optimizer", "optimizer@2"}
        assert supervisor.pid("optimizer") not in (None, before["optimizer"])
        assert supervisor.pid("recorder") == before["recorder"]
    assert all("nothing was heard of it" in line for line in said)
