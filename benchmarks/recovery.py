"""How long a running job stands still when a part of it is killed, and what it does while an agent is mute.

    python -m benchmarks.recovery [--json] [--step-time 20] [--mute 8]

`shoal up` and three nodes as processes, one job of small steps. In turn, with a pause of some rounds between: a job's
process, the job's process that reduces, a node, each agent and nats-server get SIGKILL (a node is started again once it
is given up; the others come back by themselves). Then each agent, a node's process and the job's process that
reduces are stopped with SIGSTOP for `--mute` seconds and until five rounds are closed.

`longest gap`: the longest time between two closed rounds from the signal on, until rounds go on with all that is back.
`back`: until the part itself is at work again: a contribution of the node is counted, the agent has found its state; of
the server, a contribution of every node. The aim is a gap under 10 s and one deadline, while rounds go on in any case.
All times are of the events themselves, on one machine's clock.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))  # the same fleet as the tests'

from process_fleet import ProcessFleet, left_over
from rules import must_have_run_well
from story import Story, following

from runners.client import connect
from runners.up import AGENTS
from schemas.decisions import AgentStarted, NodeLost
from schemas.training import Assignment, RoundClosed, RoundOpened

NODES = ("a", "b", "c")
PATIENCE = 180.0  # seconds for any one event
BETWEEN = 8  # rounds between two faults: adaptation and enrolment settle
AIM = 10.0  # seconds, and one deadline
FLAG = "POINTS_ARE_GOOD_ENOUGH"
REQUEST = {
    "kind": "train", "workload": "points_until_told:workload", "rounds": 1_000_000, "min_nodes": 3, "target_loss": 100.0,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One fault. Seconds; `back` is None where nothing has to come back."""

    fault: str
    part: str
    usual: float
    """Median between two closed rounds before it."""
    gap: float
    """The longest time between two closed rounds after it."""
    back: float | None
    deadline: float
    rounds: int
    """Closed while it was away, or mute."""

    @property
    def good(self) -> bool:
        """Whether the aim is met."""
        return self.gap <= AIM + self.deadline


class Drill:
    """One fleet, one job, one fault after the other."""

    def __init__(self, fleet: ProcessFleet, story: Story, job: str, step_time: str) -> None:
        self.fleet = fleet
        self.story = story
        self.job = job
        self.step_time = step_time
        self.rows: list[Row] = []

    def closed(self, since: int = 0) -> list[RoundClosed]:
        """Rounds closed, each once."""
        found = {m.round: m for m in self.story.of(RoundClosed, lambda m: m.job == self.job, since=since)}
        return [found[number] for number in sorted(found)]

    async def settle(self) -> None:
        """Some rounds in peace, with all nodes in them."""
        await self.story.rounds(self.job, BETWEEN, self.story.mark)
        for node in NODES:
            await self.contributes(node, time.time())

    async def contributes(self, node: str, after: float) -> float:
        """When a round closed that counts a node's work of a round opened after a moment."""
        mark = max(0, self.story.mark - 200)
        opened = await self.story.heard(
            RoundOpened, lambda m: m.job == self.job and m.at > after, since=mark, timeout=PATIENCE
        )

        def counts(m: RoundClosed) -> bool:
            return m.job == self.job and any(p.node == node and p.round >= opened.round for p in m.contributions)

        return (await self.story.heard(RoundClosed, counts, since=mark, timeout=PATIENCE)).at

    async def reducer(self) -> str:
        """Who has opened a round just now."""
        return (await self.story.heard(RoundOpened, lambda m: m.job == self.job, since=self.story.mark)).node

    def deadline(self) -> float:
        """Of rounds, now."""
        return self.story.of(Assignment, lambda m: m.job == self.job)[-1].deadline_seconds

    async def fault(self, what: str, part: str, do: Callable[[float], Awaitable[float | None]]) -> None:
        """Break something, wait until it is mended, and note how long the rounds stood still."""
        await self.settle()
        before = [m.at for m in self.closed()][-BETWEEN:]
        deadline = self.deadline()
        begun = time.time()
        back_at = await do(begun)
        until = max(begun, back_at or begun)
        await self.story.heard(RoundClosed, lambda m: m.job == self.job and m.at > until, timeout=PATIENCE)
        after = [m.at for m in self.closed() if m.at > begun]
        gaps = [later - earlier for earlier, later in itertools.pairwise([begun, *after])]
        row = Row(
            fault=what,
            part=part,
            usual=statistics.median(later - earlier for earlier, later in itertools.pairwise(before)),
            gap=max(gaps),
            back=None if back_at is None else back_at - begun,
            deadline=deadline,
            rounds=sum(at <= until for at in after),
        )
        self.rows.append(row)
        print(line(row), file=sys.stderr, flush=True)

    # Kills.

    async def kill_job(self, node: str) -> None:
        """SIGKILL to a job's process; its node starts it again."""

        async def do(begun: float) -> float:
            os.kill(self.fleet.job(node), signal.SIGKILL)
            return await self.contributes(node, begun)

        reduces = node == await self.reducer()
        await self.fault("SIGKILL", "job's process that reduces" if reduces else "job's process", do)

    async def kill_node(self, node: str) -> None:
        """SIGKILL to a node's process; started again once the others have noticed."""

        async def do(begun: float) -> float:
            since = self.story.mark
            self.fleet.nodes[node].send(signal.SIGKILL)
            self.fleet.nodes[node].ended()
            await self.story.heard(NodeLost, lambda m: m.node == node, since=since)
            self.fleet.node(node, "--step-time", self.step_time)
            return await self.contributes(node, begun)

        await self.fault("SIGKILL", "node", do)

    async def kill_agent(self, name: str) -> None:
        """SIGKILL to an agent; `shoal up` starts it again."""

        async def do(begun: float) -> float:
            os.kill(self.fleet.agent(name), signal.SIGKILL)
            return (await self.story.heard(AgentStarted, lambda m: m.agent == name and m.at > begun)).at

        await self.fault("SIGKILL", name, do)

    async def kill_server(self) -> None:
        """SIGKILL to nats-server; `shoal up` starts it again."""

        async def do(begun: float) -> float:
            pid = self.fleet.server()
            os.kill(pid, signal.SIGKILL)
            left_over([pid])
            return max([await self.contributes(node, begun) for node in NODES])

        await self.fault("SIGKILL", "nats-server", do)

    # Mutes.

    async def mute(self, part: str, pid: int, seconds: float) -> None:
        """SIGSTOP for so many seconds and until five rounds are closed."""

        async def do(begun: float) -> float:
            os.kill(pid, signal.SIGSTOP)
            try:
                await self.story.rounds(self.job, 5, self.story.mark)
                await self.story.heard(
                    RoundClosed, lambda m: m.job == self.job and m.at > begun + seconds, timeout=PATIENCE
                )
            finally:
                os.kill(pid, signal.SIGCONT)
            return time.time()

        await self.fault("SIGSTOP", part, do)


async def drill(step_time: str, mute: float, home: Path) -> list[Row]:
    """All faults, in one job, which must complete."""
    flag = home / "may-end"
    with ProcessFleet(home, {FLAG: str(flag)}) as fleet:
        fleet.up()
        for node in NODES:
            fleet.node(node, "--step-time", step_time)
        async with await connect(fleet.url) as client, following(client) as story:
            job = (await client.submit(REQUEST)).job
            made = Drill(fleet, story, job, step_time)
            first = await made.reducer()
            await made.kill_job(next(node for node in NODES if node != first))
            await made.kill_job(await made.reducer())
            idle = [node for node in NODES if node != await made.reducer()]
            await made.kill_node(idle[-1])
            for agent in AGENTS:
                await made.kill_agent(agent)
            await made.kill_server()
            for agent in AGENTS:
                await made.mute(agent, fleet.agent(agent), mute)
            await made.mute("node's agent", fleet.nodes[idle[0]].pid, mute)
            await made.mute("job's process that reduces", fleet.job(await made.reducer()), mute)
            await made.settle()
            flag.touch()
            await story.ended(job)
            await must_have_run_well(client, job)
            return made.rows


HEADING = f"{'fault':<8} {'part':<27} {'usual':>7} {'longest gap':>12} {'back':>8} {'deadline':>9} {'rounds meanwhile':>17}"


def line(row: Row) -> str:
    """A row of the table."""
    back = "-" if row.back is None else f"{row.back:.1f} s"
    aim = "" if row.good else "  over the aim"
    return (
        f"{row.fault:<8} {row.part:<27} {row.usual:>5.2f} s {row.gap:>10.2f} s {back:>8} {row.deadline:>7.1f} s "
        f"{row.rounds:>17}{aim}"
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step-time", default="20", metavar="MS", help="of an emulated step")
    parser.add_argument("--mute", type=float, default=8.0, metavar="S", help="how long agents are mute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        rows = asyncio.run(drill(arguments.step_time, arguments.mute, Path(home)))
    if arguments.json:
        facts = {"machine": platform.machine(), "cpus": os.cpu_count(), "step_time_ms": float(arguments.step_time)}
        print(json.dumps(facts | {"rows": [asdict(row) | {"good": row.good} for row in rows]}))
        return
    print(HEADING)
    for row in rows:
        print(line(row))


if __name__ == "__main__":
    main()
