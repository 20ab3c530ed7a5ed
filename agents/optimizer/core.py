"""The optimizer: how much adaptation a job is allowed, what is taken back, and what it all costs."""

import random
from collections.abc import Generator
from math import isfinite
from typing import ClassVar, TypeVar

from agents.base import Agent, Effect, Effects, on
from agents.optimizer import blocks, cost, foresight, trial, turns
from agents.optimizer.invariants import broken
from agents.optimizer.policy import next_phase, permission
from agents.optimizer.settings import OptimizerSettings
from agents.optimizer.state import LinkSeen, LookAhead, OptimizerState, Phase, RoundSeen, Run, Said
from schemas.decisions import AgentUsage, NodeLost, RolledBack
from schemas.ids import JobId, NodeId
from schemas.jobs import JobPhase, JobState
from schemas.network import LinkForecast, LinkQuality, LinkQualityChanged
from schemas.nodes import NodeYielding
from schemas.training import Assignment, ContributionReceived, RoundClosed, Tuning, Validated

# Jobs that ended and words on jobs not heard of yet that are kept: more than a day's jobs of a busy fleet.
KEPT = 256
# Links whose version is remembered: a bound on what a stranger's messages can do.
LINKS_KEPT = 16_384

V = TypeVar("V")


class Optimizer(Agent[OptimizerState]):
    """Owner of every job's `Tuning`: its phase, and how far others may adapt. Takes back what made a job worse
    (`RolledBack`), and accounts for adaptation's own cost (`AdaptationCost`)."""

    name: ClassVar[str] = "optimizer"

    def __init__(self, settings: OptimizerSettings, rng: random.Random, state: OptimizerState | None = None) -> None:
        super().__init__(state if state is not None else OptimizerState(), rng)
        self.settings = settings

    @on(JobState)
    def follow(self, event: JobState, now: float) -> Effects:
        """A job begins with no adaptation, runs, and ends with an account."""
        run = self.state.runs.get(event.job)
        if event.job in self.state.ended or (run is not None and event.version <= run.state_version):
            return
        if run is None:
            run = self._meet(event)
        run.state_version, run.state = event.version, event.state
        if event.state is JobPhase.RUNNING and run.began_at is None:
            cost.begin(run, self.state, now)
        done = event.state is JobPhase.FINISHING or event.state.ended
        if done and run.phase != "completed":
            run.phase, run.rollback_to = "completed", None
            account = cost.assess(event.job, run, self.state, now, self.settings)
            if account is not None:
                yield self.publish(account)
            if run.plans.judged > run.plans.told:
                yield self.publish(foresight.judgement(event.job, run, self.settings))
        yield from self._say(event.job, run, event.reason if done else "")
        if event.state.ended:
            self.state.runs.pop(event.job, None)
            self.state.unclaimed.pop(event.job, None)
            _keep(self.state.ended, event.job, event.version, KEPT)

    def _meet(self, event: JobState) -> Run:
        run = Run(
            policy=event.request.adaptation,
            sync=event.request.sync,
            phase="initialisation",
            state=event.state,
            state_version=event.version,
            rounds=event.rounds,
            first_round=event.round,
            round=event.round,
            since=event.round,
        )
        self.state.runs[event.job] = run
        earlier = self.state.unclaimed.pop(event.job, None)
        if earlier is not None:
            _take_over(run, earlier)
        return run

    @on(Tuning)
    def recall(self, event: Tuning, now: float) -> Effects:
        """Its own word, told by the stream: news only to an optimizer that lost its memory, which then goes on from it."""
        run = self.state.runs.get(event.job)
        if run is None:
            if event.job not in self.state.ended:
                _keep(self.state.unclaimed, event.job, event, KEPT)
            return
        if event.version < run.version or (event.version == run.version and _gist(event) == run.said):
            return
        spoken = run.version > 0
        _take_over(run, event)
        if spoken:
            run.said = None  # what was said since has a lower version: whoever starts late would keep to that
        yield from self._say(event.job, run, f"goes on from version {event.version}")

    @on(RoundClosed)
    def weigh_round(self, event: RoundClosed, now: float) -> Effects:
        """The occasion for the phase, for verdicts on changes, and for the account."""
        run = self.state.runs.get(event.job)
        if run is None or event.round <= run.round:
            return
        run.round = event.round
        seen = blocks.measure(run, event)
        if seen is not None:
            trial.remember(run.seen, seen)
        words = self._enter(run, next_phase(run, self.settings))
        if run.policy != "off" and run.phase in ("adaptive", "convergence"):
            words = (yield from self._look_back(event.job, run)) or words
        if run.round - run.looked_round >= self.settings.cost_every:
            account = cost.assess(event.job, run, self.state, now, self.settings)
            if account is not None:
                yield self.publish(account)
        if run.policy == "proactive":
            yield from self._compare_plans(run, event, now)
        yield from self._say(event.job, run, words)

    def _compare_plans(self, run: Run, event: RoundClosed, now: float) -> Effects:
        """Acting on forecasts against not acting, after a round; the next plan is made within the one that is open."""
        acting = run.plans.acting
        judged = foresight.settle(event.job, run, self.state.seen, event, now, self.settings)
        if judged is not None:
            yield self.publish(judged)
            if judged.acting is not acting:
                trial.disturb(run, judged.reason.partition(":")[0], self.settings)
        seconds = foresight.round_seconds(run)
        if seconds > 0 and run.phase != "completed":
            yield self.set_timer(LookAhead(job=event.job), now + foresight.LOOK_AT * seconds)

    @on(LookAhead)
    def look_ahead(self, timer: LookAhead, now: float) -> Effects:
        """Plan the next round with links as they are about to be, before it opens."""
        run = self.state.runs.get(timer.job)
        if run is None or run.phase == "completed":
            return
        found = foresight.look_ahead(run, self.state.seen, now)
        new = next((each.node for each in found if each not in run.plans.foreseen), None)
        words = foresight.replaced(run, found)
        if words:
            trial.disturb(run, words, self.settings)
            self._cause = self.state.seen[new].event if new is not None else self._cause  # the forecast, not the timer's
        yield from self._say(timer.job, run, "")

    @on(LinkForecast)
    def note_forecast(self, event: LinkForecast, now: float) -> None:
        """What a link will be like."""
        foresight.hear(self._seen(event.node), event, now)

    @on(ContributionReceived)
    def note_upload(self, event: ContributionReceived, now: float) -> None:
        """What a link carried. A reducer's own difference doesn't travel."""
        run = self.state.runs.get(event.job)
        if run is None or run.policy != "proactive" or not event.carried or event.seconds <= 0:
            return
        foresight.measure(self._seen(event.contributor), event, now)

    def _seen(self, node: NodeId) -> LinkSeen:
        seen = self.state.seen.get(node) or LinkSeen()
        _keep(self.state.seen, node, seen, LINKS_KEPT)
        return seen

    def _enter(self, run: Run, phase: Phase) -> str:
        if phase == run.phase:
            return ""
        before, run.phase = run.phase, phase
        if before == "warm_up" and phase == "adaptive":
            trial.open_window(run, "the warm-up has shown what nodes and links can do", self.settings)
        run.flat_rounds = 0
        return f"{before} is over after round {run.round}".replace("_", "-")

    def _look_back(self, job: JobId, run: Run) -> Generator[Effect, None, str]:
        """Has the last change made things worse? Have they become worse without one? Gives the finding in words."""
        if run.round >= run.cooling_until:
            run.rollback_to = None
        verdict = trial.judge(run, self.settings)
        if verdict is not None:
            version, why = verdict
            words = f"back to assignment {version}: {why}"
            yield self.publish(RolledBack(job=job, round=run.round, to_version=version, reason=words))
            return words
        slower = trial.drift(run, self.settings)
        if slower:
            trial.open_window(run, f"the job became worse: {slower}", self.settings)
        return ""

    @on(Assignment)
    def note_assignment(self, event: Assignment, now: float) -> Effects:
        """Another configuration: forced by nodes that come or go, or a choice to be watched."""
        run = self.state.runs.get(event.job)
        if run is None or event.version <= run.assignment:
            return
        previous, before = run.assignment, run.shares
        run.assignment, run.shares, run.efficiency = event.version, event.shares, event.efficiency
        if previous < 0 or before == event.shares:
            return
        if before.keys() != event.shares.keys():
            trial.disturb(run, "other nodes take part", self.settings)
        elif run.phase in ("adaptive", "convergence") and run.round >= run.cooling_until and run.policy != "off":
            trial.begin(run, previous, self.settings)
        yield from self._say(event.job, run, "")

    @on(Validated)
    def note_validation(self, event: Validated, now: float) -> None:
        """A held-out loss: what convergence is judged by, where there are enough of them."""
        run = self.state.runs.get(event.job)
        if run is not None and isfinite(event.loss) and (not run.validated or event.round > run.validated[-1].round):
            trial.remember(run.validated, RoundSeen(event.round, 0.0, event.loss, event.seconds))

    @on(LinkQualityChanged)
    def note_link(self, event: LinkQualityChanged, now: float) -> Effects:
        """A link of another grade: what follows is the network's doing."""
        if event.version <= self.state.links.get(event.node, -1):
            return
        _keep(self.state.links, event.node, event.version, LINKS_KEPT)
        if event.quality is not LinkQuality.OFFLINE:
            foresight.regrade(self._seen(event.node), event.quality)
        if event.previous is not None and event.previous is not event.quality:
            words = f"the link of {event.node} went from {event.previous.value} to {event.quality.value}"
            yield from self._disturbed(event.node, words)

    @on(NodeLost)
    def note_loss(self, event: NodeLost, now: float) -> Effects:
        """A node died: what follows is not the configuration's doing."""
        yield from self._disturbed(event.node, f"{event.node} was lost")

    @on(NodeYielding)
    def note_owner(self, event: NodeYielding, now: float) -> Effects:
        """A node slows down for its owner, or goes on: neither is the configuration's doing."""
        yield from self._disturbed(event.node, f"{event.node} {event.reason}")

    def _disturbed(self, node: str, words: str) -> Effects:
        for name, run in self.state.runs.items():
            if node in run.shares and run.phase != "completed":
                trial.disturb(run, words, self.settings)
                yield from self._say(name, run, "")

    @on(AgentUsage)
    def count_cost(self, event: AgentUsage, now: float) -> None:
        """CPU time of an agent."""
        cost.count(self.state, event)

    def _say(self, job: JobId, run: Run, because: str) -> Effects:
        """Publish what is allowed, where it differs from what was said last."""
        allowed = permission(run, self.settings)
        planned = run.plans.foreseen if run.plans.acting and run.phase != "completed" else ()
        ahead = run.phase != "completed" and turns.acts_now(run.plans)
        said = Said(run.phase, run.policy, allowed.adapt, allowed.factor, run.rollback_to, planned, ahead)
        if said == run.said:
            return
        run.said, run.version = said, run.version + 1
        yield self.publish(
            Tuning(
                job=job,
                version=run.version,
                phase=said.phase,
                policy=said.policy,
                adapt=said.adapt,
                max_factor=said.factor,
                rollback_to=said.rollback_to,
                foreseen=said.foreseen,
                ahead=said.ahead,
                reason="; ".join(words for words in (because, allowed.reason) if words),
            )
        )

    def check(self) -> None:
        """Raises `BrokenInvariant` where the state is not what it must always be."""
        for what in broken(self.state, KEPT, LINKS_KEPT):
            self.require(False, what)


def _gist(tuning: Tuning) -> Said:
    allowed = tuning.adapt, tuning.max_factor, tuning.rollback_to
    return Said(tuning.phase, tuning.policy, *allowed, tuning.foreseen, tuning.ahead)


def _take_over(run: Run, tuning: Tuning) -> None:
    run.version, run.said = tuning.version, _gist(tuning)
    if run.phase != "completed" and tuning.phase not in ("initialisation", "completed"):
        run.phase = tuning.phase


def _keep(table: dict[str, V], key: str, value: V, most: int) -> None:
    """Put an entry in as the newest; the oldest gives way."""
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]
