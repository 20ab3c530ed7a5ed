"""The healer: remedies for faults that last, chosen by what worked before, within budgets.

It comes second: nodes start their processes again, the batch controller halves microbatches, the selector replaces and
confines, reducers take over from each other, and the supervisor starts agents that ended, all of them at once and without
it. What isn't well after that is its business. Its orders are carried out by those same agents.
"""

import random

from agents.base import Effects, Timer, on
from agents.healer.cases import CaseDue, name_of
from agents.healer.faults import KEPT, Faults
from agents.healer.settings import HealerSettings
from agents.healer.state import AgentSeen, Case, HealerState
from agents.inputs import Woken
from schemas.bus import BusDisturbed
from schemas.decisions import AgentStarted, AgentUsage
from schemas.ids import AgentName

_AGENTS_KEPT = 256
"""Agents that are followed: some times more than there are."""
_MOST_SILENT = 0.5
"""Part of all agents that may be silent at once before the silence is taken for the server's, or for the healer's own."""


class AgentDue(Timer, frozen=True, kw_only=True):
    """An agent should have been heard by now."""

    agent: AgentName


class Healer(Faults):
    """Owner of `HealingOrdered`, `AgentRestartOrdered`, `Healed`, `HealingFailed` and `HealingWithheld`."""

    def __init__(self, settings: HealerSettings, rng: random.Random, state: HealerState | None = None) -> None:
        super().__init__(state or HealerState(), rng)
        self.settings = settings

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """It was deaf itself: nobody has been silent, and nothing is judged before what came meanwhile is heard."""
        self.state.hearing_since = now
        for name, case in self.state.cases.items():
            case.due = max(case.due, now + self.settings.late_seconds)
            yield self.set_timer(CaseDue(case=name), case.due)
        for name in self.state.agents:
            yield self.set_timer(AgentDue(agent=name), now + self.settings.agent_silent_seconds)

    @on(BusDisturbed)
    def heed_reconnection(self, event: BusDisturbed, now: float) -> None:
        """Its own connection was made anew: what agents said meanwhile is lost."""
        if event.kind == "reconnected" and event.source == self.name:
            self.state.hearing_since = now

    # Agents.

    @on(AgentUsage)
    def hear_usage(self, event: AgentUsage, now: float) -> Effects:
        """An agent lives."""
        yield from self._heard(event.agent, event.id, now)

    @on(AgentStarted)
    def hear_start(self, event: AgentStarted, now: float) -> Effects:
        """An agent lives, anew."""
        yield from self._heard(event.agent, event.id, now)

    def _heard(self, agent: AgentName, id: str, now: float) -> Effects:
        if agent == self.name:
            return
        seen = self.state.agents.get(agent)
        if seen is None:
            if len(self.state.agents) >= _AGENTS_KEPT:
                return
            self.state.agents[agent] = AgentSeen(heard_at=now, last=id)
            yield self.set_timer(AgentDue(agent=agent), now + self.settings.agent_silent_seconds)
            return
        seen.heard_at, seen.last = now, id
        if seen.told:
            seen.told = False
            yield self.set_timer(AgentDue(agent=agent), now + self.settings.agent_silent_seconds)
            yield from self._well(_of_agent(agent), now)

    @on(AgentDue)
    def miss_agent(self, timer: AgentDue, now: float) -> Effects:
        """Silent for too long: one order, and no other until it has been heard again."""
        seen, s = self.state.agents.get(timer.agent), self.settings
        if seen is None or seen.told:
            return
        due = max(seen.heard_at, self.state.hearing_since) + s.agent_silent_seconds
        if now > due + s.late_seconds:  # the healer stood still itself
            self.state.hearing_since = now
            due = now + s.agent_silent_seconds
        elif now >= due and self._mostly_silent(now):
            due = now + s.agent_silent_seconds
        if now < due:
            yield self.set_timer(timer, due)
            return
        seen.told = True
        self._cause = seen.last
        silent = now - seen.heard_at
        case = Case(
            fault="agent", agent=timer.agent, cause=seen.last, opened_at=now - silent, since=now, due=now,
            why=f"nothing was heard of it for {silent:.0f} s",
        )  # fmt: skip
        self.state.cases[_of_agent(timer.agent)] = case
        yield from self._treat(_of_agent(timer.agent), case, now)

    def _mostly_silent(self, now: float) -> bool:
        late = [seen for seen in self.state.agents.values() if now - seen.heard_at >= self.settings.agent_silent_seconds]
        return len(self.state.agents) > 1 and len(late) > _MOST_SILENT * len(self.state.agents)

    def check(self) -> None:
        """Budgets aren't overdrawn, orders are within bounds, everything is bounded."""
        state, s = self.state, self.settings
        buckets = [(each, s.node_burst) for each in state.budgets.values()]
        buckets += [(state.fleet, s.fleet_burst)] if state.fleet is not None else []
        for bucket, burst in buckets:
            self.require(-1e-3 <= bucket.tokens <= burst, f"a budget of {burst} holds {bucket.tokens}")
        for name, case in state.cases.items():
            of = _of_agent(case.agent) if case.agent else name_of(case.node, case.job)
            self.require(name == of, f"the case {name} is of {of}")
            self.require(case.orders <= s.most_orders, f"{name}: {case.orders} orders")
            self.require(case.phase != "treated" or (case.orders > 0 and case.remedy != "wait"), f"{name}: no order")
            self.require(case.phase != "resting" or case.remedy == "wait", f"{name}: rests under {case.remedy}")
            self.require(not case.job or case.job in state.jobs, f"{name}: its job is over")
        self.require(len(state.cases) <= s.cases_kept + _AGENTS_KEPT, "too many cases")
        self.require(max(len(state.jobs), len(state.ended), len(state.losses)) <= KEPT, "too much is remembered")


def _of_agent(agent: AgentName) -> str:
    """What an agent's case goes by; no node's has its form."""
    return f"agent:{agent}"
