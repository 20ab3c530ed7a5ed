"""Which events are faults of nodes and of jobs' processes, and which are signs that all is well again."""

from agents.base import Effects, on
from agents.healer.cases import Cases, name_of
from agents.healer.state import Case, Job
from schemas.decisions import NodeJoined, NodeLost
from schemas.health import FigureChanged, WorkStalled
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobState
from schemas.nodes import NodeLeaving, NodeProfile, NodeYielding, WorkFailed
from schemas.prediction import FaultForeseen
from schemas.training import Roster, RoundClosed, RoundOpened, StepTimed

KEPT = 1024
"""Jobs, and nodes' losses, that are remembered: more than a fleet has at a time."""
OF_PROCESSES = ("stalled", "crashed", "out_of_memory", "given_up")
HOPELESS = ("import", "bundle", "declined")
"""Failures that no remedy mends but a person's: the code is missing, or not wanted there."""
SPEED = "samples_per_s"
"""The figure whose fall is slowness: steps may take longer because they are larger."""
SOUND, GOOD = 2 / 3, 3
"""Part of the usual speed that is sound again, and how often in a row: the failure detector calls half of it odd."""


class Faults(Cases):
    """Hears what others say of nodes and jobs."""

    # Jobs.

    @on(JobState)
    def follow_job(self, event: JobState, now: float) -> Effects:
        """A job goes on, or is over."""
        job = self._job(event.job)
        if job is None or event.version <= job.version:
            return
        job.version, job.running = event.version, event.state is JobPhase.RUNNING
        job.min_nodes, job.round = event.request.min_nodes, max(job.round, event.round)
        if event.state.ended:
            del self.state.jobs[event.job]
            self.state.ended[event.job] = None
            while len(self.state.ended) > KEPT:
                del self.state.ended[next(iter(self.state.ended))]
            for name in self._names(job=event.job):
                yield from self._void(name, now)

    @on(Roster)
    def follow_roster(self, event: Roster, now: float) -> Effects:
        """Who takes part. Whoever was taken out by others is no case of the healer's any more."""
        job = self._job(event.job)
        if job is None or event.version <= job.roster_version:
            return
        job.roster_version, job.nodes, job.reducers = event.version, event.nodes, event.reducers
        job.falls = {node: rounds for node, rounds in job.falls.items() if node in event.nodes}
        for name in self._names(job=event.job):
            case = self.state.cases[name]
            if case.node not in event.nodes and case.fault != "given_up" and not _taken_out(case):
                yield from self._void(name, now)

    @on(RoundOpened)
    def see_takeover(self, event: RoundOpened, now: float) -> Effects:
        """A round that is opened again by another node: its reducer fell silent."""
        job = self._job(event.job)
        if job is None or event.round < job.opened or (event.round == job.opened and event.term <= job.term):
            return
        fell = job.reducer if event.round == job.opened and event.node != job.reducer else ""
        job.opened, job.term, job.reducer = event.round, event.term, event.node
        if not fell or fell not in job.nodes:
            return
        recent = [round_ for round_ in job.falls.get(fell, []) if round_ > event.round - self.settings.reducer_window]
        job.falls[fell] = recent = [*recent, event.round][-self.settings.reducer_falls :]
        if len(recent) >= self.settings.reducer_falls:
            why = f"others took over from it in {len(recent)} rounds, the last time in round {event.round}"
            yield from self._fault("reducer", now, why, node=fell, job=event.job)

    @on(RoundClosed)
    def see_round(self, event: RoundClosed, now: float) -> Effects:
        """What counts was made since; or the job goes on without the node, as was ordered."""
        job = self._job(event.job)
        if job is None or event.round <= job.round:
            return
        job.round = event.round
        made = {part.node: part.round for part in event.contributions}
        for name in self._names(job=event.job):
            case = self.state.cases[name]
            if self._is_well(case, job, event, made.get(case.node, -1)):
                yield from self._well(name, now)

    def _is_well(self, case: Case, job: Job, event: RoundClosed, made: int) -> bool:
        """By the closing of a round; `made`: the round for which the node's counted contribution was made.

        That of the round under way at the fault may have been made before it.
        """
        since = case.round + 1
        if _taken_out(case) and case.node not in job.nodes:
            return event.round > since
        if case.fault in OF_PROCESSES:
            return made > since
        return case.fault == "reducer" and event.round > since and event.round not in job.falls.get(case.node, [])

    # Processes.

    @on(WorkStalled)
    def see_stall(self, event: WorkStalled, now: float) -> Effects:
        """Its node ends it and starts it again, if it has seen no progress either."""
        if self._concerns(event.node, event.job):
            yield from self._fault("stalled", now, event.reason, node=event.node, job=event.job)

    @on(WorkFailed)
    def see_failure(self, event: WorkFailed, now: float) -> Effects:
        """Its node starts it again, or has given up."""
        if event.kind in HOPELESS or not self._concerns(event.node, event.job):
            return
        kind = "out_of_memory" if event.kind == "out_of_memory" else "stalled" if event.kind == "hung" else "crashed"
        fault = kind if event.retry else "given_up"
        yield from self._fault(fault, now, event.reason, node=event.node, job=event.job)  # type: ignore[arg-type]

    @on(FigureChanged)
    def see_figure(self, event: FigureChanged, now: float) -> Effects:
        """A node has become slow in the one job that it has; or as fast as usual again."""
        if event.figure != SPEED:
            return
        jobs = [name for name, job in self.state.jobs.items() if job.running and event.node in job.nodes]
        if len(jobs) != 1:
            return
        if event.kind in ("low", "falling"):
            if event.node not in self.state.yielding:
                yield from self._fault("slow", now, event.reason, node=event.node, job=jobs[0], usual=event.usual)
        elif event.kind == "usual":
            case = self.state.cases.get(name_of(event.node, jobs[0]))
            if case is not None and case.fault == "slow":
                yield from self._well(name_of(event.node, jobs[0]), now)

    @on(StepTimed)
    def see_speed(self, event: StepTimed, now: float) -> Effects:
        """How fast a slow node is now: its detector starts anew with each process."""
        name = name_of(event.node, event.job)
        case = self.state.cases.get(name)
        if case is None or case.fault != "slow" or event.seconds <= 0 or event.samples <= 0 or case.usual <= 0:
            return
        case.good = case.good + 1 if event.samples / event.seconds >= SOUND * case.usual else 0
        if case.phase == "proving" and case.good == 0:
            yield from self._fault("slow", now, case.why, node=case.node, job=case.job)
        elif case.good >= GOOD:
            yield from self._well(name, now)

    # Nodes.

    @on(FaultForeseen)
    def foresee(self, event: FaultForeseen, now: float) -> Effects:
        """A fault that is expected: the node is spared in good order, unless it is part of the experiment."""
        known = f"{event.node}/{event.kind}"
        if event.version <= self.state.foreseen.get(known, -1):
            return
        self.state.foreseen.pop(known, None)
        self.state.foreseen[known] = event.version
        if len(self.state.foreseen) > KEPT:
            del self.state.foreseen[next(iter(self.state.foreseen))]
        name = name_of(event.node)
        case = self.state.cases.get(name)
        if event.expected and not event.held_out and case is None:
            if any(event.node in job.nodes for job in self.state.jobs.values()):
                yield from self._fault("foreseen", now, event.reason, node=event.node)
                self.state.cases[name].risk = event.kind
        elif not event.expected and case is not None and (case.fault, case.risk) == ("foreseen", event.kind):
            yield from self._well(name, now)

    @on(NodeLost)
    def see_loss(self, event: NodeLost, now: float) -> Effects:
        """A machine that is away can't be healed; one that comes and goes can be spared."""
        for name in self._names(node=event.node):
            if self.state.cases[name].fault != "flapping":
                yield from self._void(name, now)
        if event.cause and event.cause == self.state.goodbyes.pop(event.node, ""):
            return
        losses, s = self.state.losses, self.settings
        recent = [at for at in losses.pop(event.node, []) if at > now - s.flap_seconds]
        losses[event.node] = recent = [*recent, now][-s.flaps :]
        if len(losses) > KEPT:
            del losses[next(iter(losses))]
        if len(recent) >= s.flaps:
            why = f"lost {len(recent)} times within {(now - recent[0]) / 60:.0f} min, the last time: {event.reason}"
            yield from self._fault("flapping", now, why, node=event.node)

    @on(NodeLeaving)
    def note_goodbye(self, event: NodeLeaving, now: float) -> None:
        """The loss that follows is no fault."""
        self.state.goodbyes.pop(event.node, None)
        self.state.goodbyes[event.node] = event.id
        if len(self.state.goodbyes) > KEPT:
            del self.state.goodbyes[next(iter(self.state.goodbyes))]

    @on(NodeJoined)
    def see_return(self, event: NodeJoined, now: float) -> Effects:
        """It is back; for how long is to be seen."""
        case = self.state.cases.get(name_of(event.node))
        if case is not None and case.fault == "flapping":
            yield from self._well(name_of(event.node), now)

    @on(NodeYielding)
    def give_way(self, event: NodeYielding, now: float) -> Effects:
        """Its owner comes first: what is slow or at rest there is no fault."""
        if not event.yielding:
            self.state.yielding.pop(event.node, None)
            return
        self.state.yielding[event.node] = event.version
        for name in self._names(node=event.node):
            if not event.share or self.state.cases[name].fault == "slow":
                yield from self._void(name, now)

    @on(NodeProfile)
    def meet(self, event: NodeProfile, now: float) -> None:
        """A new life gives way to nobody as yet."""
        if event.version > self.state.yielding.get(event.node, event.version):
            del self.state.yielding[event.node]

    def _concerns(self, node: NodeId, job: JobId) -> bool:
        """Whether a process's fault is one: its job goes on with this node, or was just given up there."""
        known = self.state.jobs.get(job)
        return known is not None and known.running and (node in known.nodes or name_of(node, job) in self.state.cases)

    def _names(self, *, node: NodeId | None = None, job: JobId | None = None) -> list[str]:
        """Cases of a node, or of a job."""
        return [
            name
            for name, case in self.state.cases.items()
            if (node is None or case.node == node) and (job is None or case.job == job)
        ]

    def _job(self, name: JobId) -> Job | None:
        """A job that isn't known to be over."""
        if name in self.state.ended:
            return None
        jobs = self.state.jobs
        if name not in jobs and len(jobs) >= KEPT:
            nameless = next((known for known, job in jobs.items() if job.version < 0), None)
            if nameless is None:
                return None
            del jobs[nameless]
        return jobs.setdefault(name, Job())


def _taken_out(case: Case) -> bool:
    """Whether the node is out of the job, or of all, by the healer's own order."""
    return case.remedy in ("move", "quarantine") and case.phase in ("treated", "proving")
