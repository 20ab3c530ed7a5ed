"""What a live view shows, as a function of the events seen: no I/O, no clock, no drawing."""

from collections import deque

import msgspec

from schemas.decisions import NodeJoined, NodeLost, NodeQuarantined, NodeReleased, RolledBack
from schemas.emulation import EmulatedLinkChanged
from schemas.jobs import JobState
from schemas.network import LinkProbed, LinkQualityChanged, NetworkAlert
from schemas.nodes import NodeHeartbeat, NodeLeaving, NodeProfile, WorkFailed
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

DECISIONS_SHOWN = 12  # lines: what fits under the tables of a terminal of 40
LOSSES_KEPT = 400  # points of the sparkline at most


class NodeView(msgspec.Struct):
    """One node."""

    name: str
    alive: bool = False
    device: str = ""
    emulated: str = ""
    """What is emulated about it, in words."""
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
    mark: str = ""
    """In the open round: `here`, `sending`, `expected`, or nothing."""


class DecisionView(msgspec.Struct):
    """One decision."""

    at: float
    round: int
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
    ended: bool = False
    nodes: dict[str, NodeView] = msgspec.field(default_factory=dict)
    decisions: deque[DecisionView] = msgspec.field(default_factory=lambda: deque(maxlen=DECISIONS_SHOWN))
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
        elif getattr(event, "job", self.job) != self.job and not isinstance(event, WorkFailed):
            return
        elif isinstance(event, NodeProfile | NodeHeartbeat | NodeJoined | NodeLost | NodeLeaving):
            self._life(event)
        elif isinstance(event, LinkQualityChanged | LinkProbed | NetworkAlert | EmulatedLinkChanged):
            self._link(event)
        else:
            self._training(event)

    def _job(self, event: JobState) -> None:
        if self.wanted is not None and event.job != self.wanted:
            return
        if event.job != self.job:
            if self.job and self.wanted is None and event.submitted_at < (self.began or 0.0):
                return
            self.job, self.losses, self.loss, self.validation = event.job, [], None, None
            self.began, self.reducer, self.phase, self.ended = event.submitted_at, "", "", False
        if event.state.value != self.state:
            self._decide(event, "job_desk", f"{event.state.value}: {event.reason}")
        self.state, self.state_reason = event.state.value, event.reason
        self.round, self.rounds, self.workload = event.round, event.rounds, event.request.workload
        self.ended = event.state.ended

    def _life(self, event: Message) -> None:
        if isinstance(event, NodeProfile):
            node = self.node(event.node)
            node.device = ", ".join(a.name for a in event.accelerators) or f"{event.cpus} CPUs"
            node.emulated = ", ".join(
                part
                for part in (
                    f"link {event.emulated_link}" if event.emulated_link else "",
                    f"{event.slowdown:g}x slower" if event.slowdown != 1 else "",
                    f"steps of {event.step_time_ms:g} ms" if event.step_time_ms else "",
                )
                if part
            )
        elif isinstance(event, NodeHeartbeat):
            self.node(event.node).alive = True
        elif isinstance(event, NodeJoined):
            self.node(event.node).alive = True
            self._decide(event, event.node, event.reason)
        elif isinstance(event, NodeLost | NodeLeaving):
            node = self.node(event.node)
            node.alive, node.doing, node.mark = False, "", ""
            self._decide(event, event.node, event.reason, fault=isinstance(event, NodeLost))

    def _link(self, event: Message) -> None:
        if isinstance(event, LinkQualityChanged):
            node = self.node(event.node)
            node.quality, node.score = event.quality.value, event.score
            self._decide(event, event.node, event.reason)
        elif isinstance(event, LinkProbed):
            self.node(event.node).rtt_ms = event.rtt_ms
        elif isinstance(event, NetworkAlert):
            self._decide(event, event.node, event.reason, fault=event.kind != "recovered")
        elif isinstance(event, EmulatedLinkChanged):
            self._decide(event, event.node, f"emulated on order: {event.reason or event.do} ({event.profile})", fault=True)

    def _training(self, event: Message) -> None:
        if isinstance(event, Assignment):
            for name, share in event.shares.items():
                self.node(name).share = share
            self.round_seconds, self.deadline = event.round_seconds, event.deadline_seconds
            self._decide(event, "batch_controller", event.reason)
        elif isinstance(event, Roster):
            for node in self.nodes.values():
                if node.name not in event.nodes:
                    node.share, node.mark = None, ""
            self._decide(event, "node_selector", event.reason)
        elif isinstance(event, Tuning):
            self.phase = event.phase
            self._decide(event, "optimizer", event.reason)
        elif isinstance(event, TrainingProgress):
            node = self.node(event.node)
            node.doing, node.step, node.steps = event.doing, event.step, event.steps
        elif isinstance(event, Validated):
            self.validation = event.loss
        elif isinstance(event, NodeQuarantined | NodeReleased):
            self._decide(event, event.node, event.reason, fault=isinstance(event, NodeQuarantined))
        elif isinstance(event, RolledBack):
            self._decide(event, "optimizer", event.reason)
        elif isinstance(event, WorkFailed):
            self._decide(event, event.node, event.reason, fault=True)
        else:
            self._rounds(event)

    def _rounds(self, event: Message) -> None:
        if isinstance(event, RoundOpened):
            self.reducer = event.node
            for node in self.nodes.values():
                node.mark = "expected" if node.name in event.expected else ""
            if event.term > self.term:
                self._decide(event, event.node, f"reduces from now on: {event.reason}", fault=True)
            self.term = event.term
        elif isinstance(event, ContributionOffered):
            self.node(event.node).mark = "sending"
        elif isinstance(event, ContributionReceived):
            self.node(event.contributor).mark = "here"
        elif isinstance(event, RoundClosed):
            self._closed(event)

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
        for name in event.missing:
            self.node(name).mark = "missing"
        if event.missing:
            self._decide(event, event.reducer, event.reason, fault=True)

    def _decide(self, event: Message, who: str, reason: str, *, fault: bool = False) -> None:
        topic = f"{type(event).__name__}/{who}"
        if self.said.get(topic) != reason:
            self.said[topic] = reason
            self.decisions.append(DecisionView(event.at, self.round, who, reason, fault))
