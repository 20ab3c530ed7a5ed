"""A simulated fleet: agents at the hub, machines with a node agent each, and the processes of jobs on them."""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agents.effects import Work
from agents.inputs import Result, WorkExited
from agents.node import AbortWork, MachineSampled, NodeAgent, NodeAgentSettings, PaceJobs, SampleMachine, TrainingWork
from agents.node.works import EXIT_DECLINED
from agents.reducer import Reducer, ReducerSettings
from agents.trainer import Trainer, TrainerSettings
from bus.port import Start
from bus.simulated_endpoint import Endpoint
from bus.simulated_faults import Faults
from bus.simulated_network import SimulatedNetwork
from bus.simulated_requests import SimulatedRequests
from runners.interpreter import WorkRunner
from runners.simulation.clocks import SkewedClock
from runners.simulation.cores import AGENTS, agent_factory
from runners.simulation.job_process import JobProcess
from runners.simulation.machines import Machine, build_machine
from runners.simulation.participant import Participant, Role
from schemas.errors import ShoalError

# Seconds one way between the server and the agents, which run beside it.
HUB_LATENCY = 0.0001
_KILLED = -9
_ABORTED = -6


class DigestsDiffer(ShoalError):
    """Two nodes hold anchors of one version with different bits: the promise that all else rests on is broken."""

    def __init__(self, job: str, version: int, node: str) -> None:
        super().__init__(f"the anchor of version {version} of {job} has other bits on {node} than elsewhere")
        self.job = job
        self.version = version
        self.node = node


class Fleet:
    """Everybody who takes part in a simulation.

    Attributes:
        agents: the participants at the hub, by name.
        machines: by node.
        nodes: the node agents, by node.
        checkpoints: what the object store holds: (version, digest) by job.
    """

    def __init__(
        self,
        network: SimulatedNetwork,
        *,
        seed: int,
        names: Iterable[str],
        faults: Faults,
        beat: float,
        probe: float,
        check: int,
        muted: frozenset[str] = frozenset(),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        machine: Callable[[str, random.Random, Faults], Machine] = build_machine,
        process: Callable[..., JobProcess] = JobProcess,
    ) -> None:
        self.network = network
        self.requests = SimulatedRequests(network)
        self.checkpoints: dict[str, tuple[int, str]] = {}
        self.processes = 0
        """Job processes that were started."""
        self.process = process
        """Makes a job's process, from `JobProcess`'s arguments."""
        self._seed = seed
        self._beat = beat
        self._probe = probe
        self._check = check
        self._anchors: dict[tuple[str, int], str] = {}
        self.renumbered: set[str] = set()
        """Jobs that went on from a checkpoint because nobody in reach held their anchor."""
        self._finished_inputs = 0
        chosen = settings or {}
        self.agents = {name: self._agent(name, chosen.get(name, {})) for name in AGENTS if name not in muted}
        self.machines = {name: machine(name, random.Random(f"{seed}/machine/{name}"), faults) for name in names}
        self.nodes = {name: self._node(made, chosen.get("node", {})) for name, made in self.machines.items()}

    def begin(self) -> None:
        """Start all processes, the nodes spread over some seconds."""
        for each in self.agents.values():
            each.begin()
        rng = random.Random(f"{self._seed}/begin")
        for node in self.nodes.values():
            self.network.at(self.network.now + rng.uniform(0.1, 5.0), _begin, node)

    def participants(self) -> Iterable[Participant]:
        """Everybody who is alive."""
        yield from (each for each in self.agents.values() if each.alive)
        for name, machine in self.machines.items():
            if self.nodes[name].alive:
                yield self.nodes[name]
            for process in machine.jobs.values():
                yield from (each for each in (process.trainer, process.reducer) if each.alive)

    @property
    def inputs(self) -> int:
        """Inputs that cores have handled."""
        hub = sum(each.inputs for each in (*self.agents.values(), *self.nodes.values()))
        jobs = sum(p.trainer.inputs + p.reducer.inputs for m in self.machines.values() for p in m.jobs.values())
        return hub + jobs + self._finished_inputs

    # Machines.

    def kill_machine(self, name: str) -> None:
        """A machine is gone with all that ran on it, without a word: first its node, which would tell of the others."""
        machine = self.machines[name]
        self.nodes[name].kill("nothing")
        for process in list(machine.jobs.values()):
            process.kill(_KILLED)
        machine.jobs.clear()
        machine.share = 1.0

    def participant(self, machine: Machine, kind: str, job: str, works: WorkRunner) -> Participant:
        """One of the two cores of a job's process."""
        source = f"{kind}/{job}/{machine.name}"
        rng_seed = f"{self._seed}/{source}"

        def make() -> Any:
            if kind == "trainer":
                return Trainer(TrainerSettings(), random.Random(rng_seed), job=job, node=machine.name)
            return Reducer(ReducerSettings(), random.Random(rng_seed), job=job, node=machine.name)

        role = Role(source=source, make=make, scope={"job": job}, start=Start.LAST, lasting=False)
        endpoint = machine.endpoint(source)
        return Participant(role, self.network, self.requests, endpoint, machine.clock, works=works, check=self._check)

    def forget(self, machine: Machine, participant: Participant) -> None:
        """A job's process has ended."""
        self._finished_inputs += participant.inputs
        participant.inputs = 0
        if participant.endpoint in machine.endpoints:
            machine.endpoints.remove(participant.endpoint)

    def applied(self, process: JobProcess) -> None:
        """An outer step was taken: its bits must be those of everybody else's. Raises `DigestsDiffer`.

        But for a job that went on from a checkpoint: whoever was cut off, not dead, still holds what the others lost until
        it is named for its digest and takes theirs.
        """
        known = self._anchors.setdefault((process.job, process.version), process.digest)
        if known != process.digest and process.job not in self.renumbered:
            raise DigestsDiffer(process.job, process.version, process.machine.name)

    def _agent(self, name: str, settings: Mapping[str, Any]) -> Participant:
        role = Role(source=name, make=agent_factory(name, self._seed, settings))
        endpoint = Endpoint(name, HUB_LATENCY, 0.0)
        return Participant(role, self.network, self.requests, endpoint, SkewedClock(), check=self._check)

    def _node(self, machine: Machine, chosen: Mapping[str, Any]) -> Participant:
        settings = NodeAgentSettings(
            node=machine.name,
            host=machine.name,
            site=machine.name,
            heartbeat_seconds=self._beat,
            probe_seconds=self._probe,
            **chosen,
        )
        source = f"node/{machine.name}"
        rng_seed = f"{self._seed}/{source}"
        role = Role(
            source=source,
            make=lambda: NodeAgent(settings, random.Random(rng_seed)),
            scope={"node": machine.name},
            start=Start.NEW,
            lasting=False,
        )
        works = _NodeWorks(self, machine)
        return Participant(
            role, self.network, self.requests, machine.endpoint(source), machine.clock, works=works, check=self._check
        )


class _NodeWorks:
    """The work runner of a node agent; see `runners.interpreter.WorkRunner`."""

    def __init__(self, fleet: Fleet, machine: Machine) -> None:
        self._fleet = fleet
        self._machine = machine

    def start(self, key: str, work: Work, post: Callable[[Result], None]) -> None:
        """Begin a piece of work."""
        if isinstance(work, SampleMachine):
            owner = self._machine.owner_percent if work.owner else None
            sampled = MachineSampled(cpu_percent=50.0, memory_used_bytes=1 << 30, owner_cpu_percent=owner)
            self._fleet.network.at(self._fleet.network.now + 0.001, lambda _: post(sampled))
        elif isinstance(work, PaceJobs):
            self._machine.share = work.share
        elif isinstance(work, AbortWork):
            self._end(work.target, lambda process: process.kill(_ABORTED))
        elif isinstance(work, TrainingWork) and work.request.bundle and not self._machine.trusting:
            refused = WorkExited(key=key, code=EXIT_DECLINED, last_lines=("it does not trust the submitter",))
            self._fleet.network.at(self._fleet.network.now + 0.001, lambda _: post(refused))
        elif isinstance(work, TrainingWork) and work.job not in self._machine.jobs:
            self._fleet.processes += 1

            def exited(code: int) -> None:
                self._machine.jobs.pop(work.job, None)
                post(WorkExited(key=key, code=code))

            self._machine.jobs[work.job] = self._fleet.process(self._fleet, self._machine, work, exited)

    def stop(self, key: str, reason: str) -> None:
        """End a piece of work."""
        self._end(key, lambda process: process.end(reason))

    async def close(self) -> None:
        """Nothing outlives a simulation."""

    def _end(self, key: str, how: Callable[[JobProcess], None]) -> None:
        process = self._machine.jobs.get(key.removeprefix("job/"))
        if process is not None:
            how(process)


def _begin(participant: Participant) -> None:
    if not participant.alive:
        participant.begin()
