"""What a live view shows, as a function of the events seen: no I/O, no clock, no drawing."""

from bisect import insort

import msgspec

from agents.appraiser import words as appraisal
from runners.view.words import emulation, said_by
from schemas.appraisal import NodesAppraised
from schemas.decisions import NodeJoined, NodeLost
from schemas.jobs import JobState
from schemas.network import LinkProbed, LinkQualityChanged
from schemas.nodes import NodeHeartbeat, NodeLeaving, NodeProfile, NodeYielding
from schemas.training import (
    Assignment,
    ContributionOffered,
    ContributionReceived,
    Roster,
    RoundClosed,
    RoundOpened,
    Share,
    TrainingProgress,
    Tuning,
    Validated,
)
from schemas.wire import Message

DECISIONS_KEPT = 40  # lines: what a tall terminal has room for
LOSSES_KEPT = 400  # points of the sparkline at most


class NodeView(msgspec.Struct):
    """One node."""

    name: str
    alive: bool = False
    lost: bool = False
    """It was there and has gone."""
    yielding: bool = False
    """It gives way to its owner."""
    emulated: str = ""
    """What is emulated about it: the link's profile, the slowdown, the step time; empty for a real machine."""
    quality: str = ""
    score: float | None = None
    rtt_ms: float | None = None
    share: Share | None = None
    doing: str = ""
    step: int = 0
    steps: int = 0
    samples: int = 0
    """Counted in closed rounds."""
    rounds: int = 0
    """Closed rounds that listed a contribution of it."""
    late: int = 0
    """Of these, late ones."""
    without: str = ""
    """Change of the job's speed if it were gone: `-30 %`, or `?` as long as that can't be said."""
    mark: str = ""
    """In the open round: `here`, `sending`, `expected`, `missing`, or nothing."""

    def forget_job(self) -> None:
        """Another job begins."""
        self.share, self.doing, self.mark, self.without = None, "", "", ""
        self.step = self.steps = self.samples = self.rounds = self.late = 0

    @property
    def worth_a_row(self) -> bool:
        """Whether it is there or has done something for this job; a fleet remembers nodes of long ago."""
        return self.alive or self.share is not None or self.rounds > 0


class DecisionView(msgspec.Struct):
    """One decision."""

    at: float
    """By its sender's clock."""
    round: int
    """The round that was open."""
    who: str
    reason: str
    fault: bool = False


class ViewState(msgspec.Struct):
    """A fleet and one job."""

    job: str = ""
    wanted: str | None = None
    state: str = ""
    state_reason: str = ""
    round: int = 0
    """The last that was closed."""
    open: int = 0
    """The one that is open."""
    rounds: int = 0
    workload: str = ""
    loss: float | None = None
    validation: float | None = None
    losses: list[float] = msgspec.field(default_factory=list)
    reducer: str = ""
    term: int = 0
    phase: str = ""
    round_seconds: float | None = None
    deadline: float | None = None
    began: float | None = None
    """Seconds since the epoch: when the job was submitted."""
    ended_at: float | None = None
    nodes: dict[str, NodeView] = msgspec.field(default_factory=dict)
    decisions: list[DecisionView] = msgspec.field(default_factory=list)
    """Oldest first."""
    said: dict[str, str] = msgspec.field(default_factory=dict)
    """The last reason by who spoke of what: the same again is no news."""

    def node(self, name: str) -> NodeView:
        """The view of a node."""
        if name not in self.nodes:
            self.nodes[name] = NodeView(name)
        return self.nodes[name]

    def see(self, event: Message) -> None:
        """Take one event in."""
        if isinstance(event, JobState):
            self._job(event)
            return
        if (getattr(event, "job", None) or self.job) != self.job:
            return
        match event:
            case NodeProfile() | NodeHeartbeat() | NodeJoined() | NodeLost() | NodeLeaving() | NodeYielding():
                self._life(event)
            case LinkQualityChanged():
                node = self.node(event.node)
                node.quality, node.score = event.quality.value, event.score
            case LinkProbed():
                self.node(event.node).rtt_ms = event.rtt_ms
            case NodesAppraised():
                for value in event.nodes:
                    self.node(value.node).without = appraisal.short(value)
            case _:
                self._training(event)
        self._note(event)

    def _job(self, event: JobState) -> None:
        if self.wanted is not None and event.job != self.wanted:
            return
        if event.job != self.job:
            if self.began is not None and event.submitted_at < self.began:
                return
            self._begin(event)
        if not event.round or (self.state and event.state.value != self.state):
            self._note(event)
        self.state, self.state_reason = event.state.value, event.reason
        self.round, self.rounds, self.workload = max(self.round, event.round), event.rounds, event.request.workload
        self.loss = event.loss if self.loss is None else self.loss
        if event.state.ended:
            self.ended_at = event.at
            for node in self.nodes.values():
                node.doing = node.mark = ""

    def _begin(self, event: JobState) -> None:
        """Another job: what was known of the last one's training no longer counts."""
        self.job, self.began = event.job, event.submitted_at
        self.state, self.reducer, self.phase = "", "", ""
        self.round = self.open = self.term = 0
        self.loss = self.validation = self.round_seconds = self.deadline = self.ended_at = None
        self.losses.clear()
        self.decisions.clear()
        self.said.clear()
        for node in self.nodes.values():
            node.forget_job()

    def _life(self, event: NodeProfile | NodeHeartbeat | NodeJoined | NodeLost | NodeLeaving | NodeYielding) -> None:
        node = self.node(event.node)
        if isinstance(event, NodeProfile):
            node.emulated = emulation(event.emulated_link, event.slowdown, event.step_time_ms)
            node.yielding = False
        elif isinstance(event, NodeYielding):
            node.yielding = event.yielding and not event.share  # one that only slows its jobs goes on with them
            node.doing = node.mark = ""
        elif isinstance(event, NodeHeartbeat | NodeJoined):
            node.alive, node.lost = True, False
        else:
            node.alive, node.lost, node.doing, node.mark = False, True, "", ""

    def _training(self, event: Message) -> None:
        match event:
            case Assignment():
                for name, share in event.shares.items():
                    self.node(name).share = share
                self.round_seconds, self.deadline = event.round_seconds, event.deadline_seconds
            case Roster():
                for node in self.nodes.values():
                    if node.name not in event.nodes:
                        node.share, node.mark = None, ""
            case Tuning():
                self.phase = event.phase
            case TrainingProgress():
                node = self.node(event.node)
                node.doing, node.step, node.steps = event.doing, event.step, event.steps
            case Validated():
                self.validation = event.loss
            case RoundOpened():
                self._opened(event)
            case ContributionOffered():
                self.node(event.node).mark = "sending"
            case ContributionReceived():
                self.node(event.contributor).mark = "here"
            case RoundClosed():
                self._closed(event)

    def _opened(self, event: RoundOpened) -> None:
        self.open, self.reducer = event.round, event.node
        for node in self.nodes.values():
            node.mark = "expected" if node.name in event.expected else ""
        if event.term > self.term:
            self._decide(event, event.node, f"reduces: {event.reason}", fault=True)
        self.term = max(self.term, event.term)

    def _closed(self, event: RoundClosed) -> None:
        self.round = max(self.round, event.round)
        self.loss = event.loss
        self.losses.append(event.loss)
        del self.losses[:-LOSSES_KEPT]
        for contribution in event.contributions:
            node = self.node(contribution.node)
            node.samples += contribution.samples
            node.rounds += 1
            node.late += contribution.late > 0
            if contribution.remark:
                self._decide(event, contribution.node, f"its difference: {contribution.remark}", fault=True)
        for name in event.missing:
            self.node(name).mark = "missing"
        if event.missing:
            self._decide(event, event.reducer, event.reason, fault=True)

    def _note(self, event: Message) -> None:
        said = said_by(event)
        if said is not None and not isinstance(event, Validated):  # its figure is in the header
            self._decide(event, said.who, said.text, fault=said.fault)

    def _decide(self, event: Message, who: str, reason: str, *, fault: bool) -> None:
        topic = f"{type(event).__name__}/{who}"
        if self.said.get(topic) != reason:
            self.said[topic] = reason
            round_ = getattr(event, "round", self.open)
            insort(self.decisions, DecisionView(event.at, round_, who, reason, fault), key=lambda decision: decision.at)
            del self.decisions[:-DECISIONS_KEPT]
