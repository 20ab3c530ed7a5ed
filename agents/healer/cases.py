"""The life of a case: left to others at first, then remedies one after the other, each judged, until all stays well."""

from collections.abc import Iterator

from agents.base import Agent, CancelTimer, Effect, Effects, Timer, on
from agents.healer import budget, policy, words
from agents.healer.settings import HealerSettings
from agents.healer.state import Case, HealerState, Lesson
from schemas.healing import (
    AgentRestartOrdered,
    FaultKind,
    Healed,
    HealingFailed,
    HealingOrdered,
    HealingWithheld,
    Remedy,
)
from schemas.ids import JobId, NodeId

_BY_GRAVITY: tuple[FaultKind, ...] = (
    "foreseen", "slow", "reducer", "flapping", "stalled", "crashed", "out_of_memory", "given_up", "agent",
)  # fmt: skip
GRAVITY: dict[FaultKind, int] = {kind: place for place, kind in enumerate(_BY_GRAVITY)}
"""A case is of the gravest fault that its node has shown since."""


class CaseDue(Timer, frozen=True, kw_only=True):
    """The time of what is in force is over."""

    case: str


def name_of(node: NodeId, job: JobId = "") -> str:
    """What a case goes by: a node has one at a time in each job, whatever its fault, so that no two remedies meet."""
    return f"{node}/{job}"


class Cases(Agent[HealerState]):
    """Opens, treats and closes cases; which faults there are is up to the other parts."""

    name = "healer"
    settings: HealerSettings

    def _fault(
        self, fault: FaultKind, now: float, why: str, *, node: NodeId = "", job: JobId = "", usual: float = 0.0
    ) -> Iterator[Effect]:
        """A sign of a fault: a case begins, or what is in force has failed."""
        name = name_of(node, job)
        case = self.state.cases.get(name)
        round_ = self.state.jobs[job].round if job in self.state.jobs else 0
        if case is None:
            if len(self.state.cases) < self.settings.cases_kept:
                yield from self._open(name, fault, now, why, node=node, job=job, round_=round_, usual=usual)
            return
        case.cause, case.why, case.round, case.good = self._cause, why, round_, 0
        before, graver = case.phase, GRAVITY[fault] > GRAVITY[case.fault]
        if before in ("treated", "proving") and now - case.since >= self.settings.settle_seconds:
            yield from self._failed(name, case, now, again=why)
        if graver:
            case.fault, case.tried = fault, []
        if case.ended_at == now and name in self.state.cases:
            yield from self._treat(name, case, now)

    def _open(
        self, name: str, fault: FaultKind, now: float, why: str, *, node: NodeId, job: JobId, round_: int, usual: float
    ) -> Iterator[Effect]:
        level = budget.level_now(self.state.levels.pop(name, None), now, self.settings)
        case = Case(
            fault=fault, node=node, job=job, cause=self._cause, why=why, opened_at=now, since=now, due=0.0, level=level,
            round=round_, usual=usual, ended_at=now if level else None,
        )  # fmt: skip
        self.state.cases[name] = case
        s = self.settings
        yield from self._until(name, case, now + (s.foreseen_seconds if fault == "foreseen" else s.first_aid_seconds))

    @on(CaseDue)
    def look_after(self, timer: CaseDue, now: float) -> Effects:
        """The time of what was in force is over."""
        case = self.state.cases.get(timer.case)
        if case is None:
            return
        if now - case.due > self.settings.late_seconds:  # it stood still itself: what came meanwhile is heard first
            yield from self._until(timer.case, case, now + self.settings.late_seconds)
            return
        match case.phase:
            case "proving":
                yield from self._healed(timer.case, case, now)
            case "first_aid":
                self._learn_failure(case)
                yield from self._treat(timer.case, case, now)
            case "treated":
                yield from self._failed(timer.case, case, now)
                if timer.case in self.state.cases:
                    yield from self._treat(timer.case, case, now)
            case "resting":
                yield from self._treat(timer.case, case, now)

    # What is done about it.

    def _treat(self, name: str, case: Case, now: float) -> Iterator[Effect]:
        """The next remedy, if one may be ordered now; else when it may."""
        remedies = self._remedies(case)
        wait = 0.0
        if case.ended_at is not None:
            wait = case.ended_at + budget.back_off(case.level, self.settings) - now
            wait = wait if wait > budget.MOMENT else 0.0
        if not remedies or not self.settings.orders:
            yield from self._rest(name, case, now, max(wait, self.settings.judge_seconds))
            return
        if wait > 0:
            yield from self._rest(name, case, now, wait)
            return
        wait, whose = budget.wait_for(self.state, case.node, now, self.settings)
        if wait > 0:
            if not case.withheld:
                case.withheld = True
                yield self._say_withheld(case, wait, whose)
            yield from self._rest(name, case, now, wait)
            return
        remedy = policy.choose(case.fault, remedies, self.state.lessons, self.rng, self.settings)
        yield from self._order(name, case, remedy, now)

    def _remedies(self, case: Case) -> list[Remedy]:
        """Those that can be ordered against it now, the ones that haven't failed yet if there are such."""
        able = [remedy for remedy in policy.PRIORS[case.fault] if self._possible(case, remedy)]
        fresh = [remedy for remedy in able if remedy not in case.tried]
        if not fresh:
            case.tried = []
        return fresh or able

    def _possible(self, case: Case, remedy: Remedy) -> bool:
        """Whether a remedy makes sense here: nobody is taken out of a job that can't spare it."""
        job = self.state.jobs.get(case.job)
        if case.fault == "foreseen" and (case.risk is None or remedy not in policy.FORESEEN[case.risk]):
            return False
        if remedy == "demote":
            return job is None or (case.node in job.reducers and len(job.nodes) > 1)
        if remedy in ("move", "quarantine"):
            concerned = [job] if job is not None else list(self.state.jobs.values())
            return all(len(each.nodes) > max(each.min_nodes, 1) for each in concerned if case.node in each.nodes)
        return remedy != "restart" or job is None or len(job.nodes) > 1  # the last one holds what was learnt

    def _order(self, name: str, case: Case, remedy: Remedy, now: float) -> Iterator[Effect]:
        s, state = self.settings, self.state
        budget.spend(state, case.node, now, s)
        state.tickets += 1
        lesson = state.lessons.get(policy.key(case.fault, remedy))
        good, bad = policy.chance(lesson, case.fault, remedy, s)
        mean, tries = good / (good + bad), lesson.tries if lesson is not None else 0
        reason = words.ordered(case, remedy, mean, tries)
        self._cause = case.cause or self._cause
        yield self.publish(
            HealingOrdered(
                node=case.node,
                job=case.job or None,
                fault=case.fault,
                remedy=remedy,
                ticket=state.tickets,
                seconds=self._lasting(remedy),
                judged_after=s.judge_seconds,
                chance=mean,
                tries=tries,
                reason=reason,
            )
            if not case.agent
            else AgentRestartOrdered(
                target=case.agent, ticket=state.tickets, silent_seconds=now - case.opened_at, reason=reason
            )
        )
        case.orders, case.level = case.orders + 1, case.level + 1
        case.phase, case.remedy, case.since, case.good = "treated", remedy, now, 0
        yield from self._until(name, case, now + s.judge_seconds)

    def _lasting(self, remedy: Remedy) -> float:
        s = self.settings
        lasting: dict[Remedy, float] = {"move": s.move_seconds, "demote": s.demote_seconds}
        return lasting.get(remedy, 0.0)

    def _rest(self, name: str, case: Case, now: float, seconds: float) -> Iterator[Effect]:
        """No order now; what heals meanwhile has healed by itself."""
        case.phase, case.remedy, case.since = "resting", "wait", now
        yield from self._until(name, case, now + seconds)

    def _until(self, name: str, case: Case, due: float) -> Iterator[Effect]:
        case.due = due
        yield self.set_timer(CaseDue(case=name), due)

    # What comes of it.

    def _well(self, name: str, now: float) -> Iterator[Effect]:
        """A sign of health: it has to stay so for a while."""
        case = self.state.cases.get(name)
        if case is not None and case.phase != "proving":
            case.phase, case.well_at, case.cause = "proving", now, self._cause
            yield from self._until(name, case, now + self._steady(case.fault))

    def _steady(self, fault: FaultKind) -> float:
        """What comes and goes is well only after as long as it usually stays."""
        s = self.settings
        return s.flap_seconds / s.flaps if fault == "flapping" else s.steady_seconds

    def _healed(self, name: str, case: Case, now: float) -> Iterator[Effect]:
        lesson = self._lesson(case)
        taken = max(0.0, case.well_at - case.since)
        policy.succeed(lesson, taken, self.settings)
        seconds = case.well_at - case.opened_at
        self._cause = case.cause or self._cause
        yield self.publish(
            Healed(
                node=case.node or None,
                job=case.job or None,
                target=case.agent or None,
                fault=case.fault,
                remedy=case.remedy,
                orders=case.orders,
                seconds=seconds,
                remedy_seconds=taken,
                successes=lesson.successes,
                failures=lesson.failures,
                mean_seconds=lesson.mean,
                deviation_seconds=policy.deviation(lesson),
                reason=words.healed(case, seconds),
            )
        )
        yield from self._close(name, case, now)

    def _failed(self, name: str, case: Case, now: float, again: str = "") -> Iterator[Effect]:
        """What was ordered didn't help; or a fault is back that had gone by itself, which teaches nothing of orders."""
        lesson = self._learn_failure(case)
        case.ended_at = now
        if case.remedy == "wait":
            return
        case.tried.append(case.remedy)
        final = case.orders >= self.settings.most_orders or (bool(case.agent) and case.orders > 0)
        self._cause = case.cause or self._cause
        yield self.publish(
            HealingFailed(
                node=case.node or None,
                job=case.job or None,
                target=case.agent or None,
                fault=case.fault,
                remedy=case.remedy,
                orders=case.orders,
                seconds=now - case.opened_at,
                successes=lesson.successes,
                failures=lesson.failures,
                final=final,
                reason=words.failed(case, now - case.since, final, again),
            )
        )
        if final:
            yield from self._close(name, case, now)

    def _close(self, name: str, case: Case, now: float) -> Iterator[Effect]:
        budget.remember(self.state, name, case.level, now)
        del self.state.cases[name]
        yield CancelTimer(timer=CaseDue(case=name))

    def _void(self, name: str, now: float) -> Iterator[Effect]:
        """Nothing can be learned of this case any more: its job is over, its node gone, or taken out by others."""
        case = self.state.cases.get(name)
        if case is not None:
            yield from self._close(name, case, now)

    def _say_withheld(self, case: Case, wait: float, whose: str) -> Effect:
        return self.publish(
            HealingWithheld(
                node=case.node,
                job=case.job or None,
                fault=case.fault,
                seconds=wait,
                budget="node" if whose == "node" else "fleet",
                reason=words.withheld(wait, whose),
            )
        )

    def _lesson(self, case: Case) -> Lesson:
        return self.state.lessons.setdefault(policy.key(case.fault, case.remedy), Lesson())

    def _learn_failure(self, case: Case) -> Lesson:
        lesson = self._lesson(case)
        policy.fail(lesson, self.settings)
        return lesson
