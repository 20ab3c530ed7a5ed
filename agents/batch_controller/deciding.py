"""How the batch controller comes to a decision: a look at a job, a plan, and a new assignment if that matters."""

import random

import msgspec

from agents.base import Agent, Effects, Publish, on
from agents.batch_controller import words
from agents.batch_controller.length import planner_for
from agents.batch_controller.planner import Plan, Planner
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import BatchControllerState, Before, Job, Kept, Known, Node, Reconsider
from schemas.ids import JobId, NodeId
from schemas.jobs import JobRequest
from schemas.training import Assignment


class Decider(Agent[BatchControllerState]):
    """What the batch controller knows, and the only way in which it speaks."""

    name = "batch_controller"

    def __init__(
        self, settings: BatchControllerSettings, rng: random.Random, state: BatchControllerState | None = None
    ) -> None:
        super().__init__(state if state is not None else BatchControllerState(), rng)
        self.settings = settings

    def _reconsider(self, job: Job, now: float) -> Effects:
        """Look soon, once for all events that come together; the first of them is the cause."""
        if not job.reconsider and job.current is not None:
            job.reconsider = True
            yield self.set_timer(Reconsider(job=job.job), now + self.settings.coalesce)

    @on(Reconsider)
    def reconsider(self, timer: Reconsider, now: float) -> Effects:
        """Something that shares depend on has changed."""
        job = self.state.jobs.get(timer.job)
        if job is not None and job.reconsider:
            job.reconsider = False
            yield from self._look(job, now)

    def _look(self, job: Job, now: float, else_why: str = "") -> Effects:
        """Plan anew, and publish it if it differs by enough to matter. `else_why`: for nodes without news of their own."""
        if job.request is None or not job.roster or now < self.state.silent_until:
            return
        planner = planner_for(job, job.request, self.state.nodes, self.settings)
        plan = planner.plan()
        reason = self._reason(job, planner, plan, else_why)
        for name, pace in plan.paces.items():
            known = self._known(job, name)
            known.planned_step, known.planned_transfer = pace.step, pace.up + pace.down
            known.regraded, known.news = False, ""
        if reason:
            yield self._decide(job, job.request, plan, reason)

    def _reason(self, job: Job, planner: Planner, plan: Plan, else_why: str) -> str:
        """What differs from the assignment in force, in words; empty where nothing does that matters."""
        current = job.current
        if current is None:
            return words.first_shares(plan.shares, planner.request.batch)
        whys = {}
        for name in plan.shares:
            known_and_meant = (self._known(job, name).news, plan.why.get(name, ""))
            whys[name] = ", ".join(text for text in known_and_meant if text)
        rest = else_why or planner.length_why or f"all finish together in about {words.seconds(plan.round_seconds)}"
        parts = [
            words.comings_and_goings(current.shares, plan.shares),
            words.differences(current.shares, plan.shares, whys, rest),
        ]
        if plan.average_encoding != current.average_encoding:
            why = "by the worst link and what its way takes of a round"
            parts.append(f"the average travels in {plan.average_encoding}, {why}")
        if planner.free.adapt and drifted(plan.deadline_seconds, current.deadline_seconds, self.settings.deadline_drift):
            was, then = words.seconds(current.deadline_seconds), words.seconds(plan.deadline_seconds)
            rounds = f"a round of about {words.seconds(plan.round_seconds)}, as the last ones went"
            parts.append(f"deadline {was} -> {then}: {rounds}")
        return "; ".join(part for part in parts if part)

    def _decide(self, job: Job, request: JobRequest, plan: Plan, reason: str) -> Publish:
        before = job.current.shares if job.current is not None else {}
        for name, share in plan.shares.items():
            self._known(job, name).slowed = 1.0
            if name in before and before[name].microbatch != share.microbatch:
                known, rises = self._known(job, name), share.microbatch > before[name].microbatch
                if known.rose is not None:
                    known.turns = min(known.turns + 1, self.settings.turns_counted) if rises != known.rose else 0
                known.rose, known.changed = rises, job.round
        kept = Kept(
            version=job.current.version + 1 if job.current is not None else 1,
            roster_version=job.roster_version,
            shares=plan.shares,
            average_encoding=plan.average_encoding,
            round_seconds=plan.round_seconds,
            deadline_seconds=plan.deadline_seconds,
            overhead=job.overhead,
            target=plan.target,
            length=plan.length,
        )
        self._keep(job, kept)
        return self.publish(
            Assignment(
                job=job.job,
                version=kept.version,
                roster_version=kept.roster_version,
                shares=dict(kept.shares),
                average_encoding=kept.average_encoding,
                round_seconds=kept.round_seconds,
                deadline_seconds=kept.deadline_seconds,
                strategy=request.batch,
                efficiency=plan.efficiency,
                length=plan.told_length,
                reason=reason,
            )
        )

    def _roll_back(self, job: Job, version: int, why: str) -> Effects:
        """Go back to an earlier assignment's shares, or say why not."""
        current, request = job.current, job.request
        if current is None or request is None:
            return
        kept = next((kept for kept in job.history if kept.version == version), None)
        shares, average = dict(current.shares), current.average_encoding
        if kept is None:
            there = f"only {job.history[0].version} to {current.version} are kept"
            reason = f"can't go back to assignment {version}: {there}; shares stay as they are"
        else:
            shares = {name: kept.shares.get(name, share) for name, share in shares.items()}
            average = kept.average_encoding
            changes = words.differences(current.shares, shares, {}, why) or "nothing differs"
            reason = f"back to assignment {version}: {changes}"
            job.hold_until = job.round + self.settings.rollback_hold
        plan = planner_for(job, request, self.state.nodes, self.settings).timed(shares, average)
        if kept is not None:
            plan = msgspec.structs.replace(plan, target=kept.target, length=kept.length)
        yield self._decide(job, request, plan, reason)

    def _as_before(self, job: Job, before: Before, why: str) -> Effects:
        """Forecasts are no longer acted upon: go on where that began, with nodes that are still there."""
        current, request = job.current, job.request
        for name, known in job.nodes.items():
            known.up, known.down = before.up.get(name, known.up), before.down.get(name, known.down)
        if current is None or request is None:
            return
        kept = before.kept
        shares = {name: kept.shares.get(name, share) for name, share in current.shares.items()}
        changes = words.differences(current.shares, shares, {}, why)
        if changes:
            plan = planner_for(job, request, self.state.nodes, self.settings).timed(shares, kept.average_encoding)
            plan = msgspec.structs.replace(plan, target=kept.target, length=kept.length)
            yield self._decide(job, request, plan, f"as before forecasts were acted upon: {changes}")

    def _keep(self, job: Job, kept: Kept) -> None:
        job.current = kept
        job.history.append(kept)
        del job.history[: -self.settings.assignments_kept]

    def _job(self, name: JobId) -> Job:
        jobs = self.state.jobs
        if name not in jobs:
            if len(jobs) >= self.settings.jobs_kept:
                unknown = [other for other, job in jobs.items() if job.request is None]
                del jobs[(unknown or list(jobs))[0]]
            jobs[name] = Job(job=name)
        return jobs[name]

    def _node(self, name: NodeId) -> Node:
        nodes = self.state.nodes
        if name not in nodes:
            if len(nodes) >= self.settings.nodes_kept:
                del nodes[next(iter(nodes))]
            nodes[name] = Node()
        return nodes[name]

    def _known(self, job: Job, name: NodeId) -> Known:
        return job.nodes.setdefault(name, Known())


def drifted(value: float, planned: float, factor: float) -> bool:
    """Whether two times differ by more than a factor."""
    return max(value, planned) > factor * min(value, planned)
