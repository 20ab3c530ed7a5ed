"""The predictor: faults that are about to come, from trends of each node's figures and models learned from history.

It orders nothing: what it expects leads the healer to have a node spared, and never to end anything.
"""

import random
from collections.abc import Iterator

from agents.base import Agent, Effect, Effects, StartWork, Timer, on
from agents.inputs import Woken, WorkExited
from agents.predictor import scores, tracks
from agents.predictor.settings import PredictorSettings
from agents.predictor.state import KINDS, Model, PredictorState, Score, Told, Track, Watched, Window
from agents.predictor.works import Learned, LearnFromHistory
from schemas import figures
from schemas.decisions import NodeLost
from schemas.figures import Figures
from schemas.ids import NodeId
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat, NodeProfile, WorkFailed, WorkStarted
from schemas.prediction import FaultForeseen, PredictionJudged, PredictorLearned, RiskKind
from schemas.training import StepTimed

TRACKS = 24
"""Figures of a node that are followed: four of the machine and two of each of ten accelerators."""
UNTREATED: frozenset[RiskKind] = frozenset({"speed"})
"""Nothing is done about: the batch controller gives a slow node less, which serves a job better than to spare it."""
_WORDS: dict[RiskKind, str] = {
    "memory": "its memory runs out",
    "heat": "it gets too hot",
    "disk": "its disk is full",
    "link": "its link breaks",
    "speed": "it trains at half its speed",
    "gpu": "an accelerator of it fails",
}


class LearnDue(Timer, frozen=True, kw_only=True):
    """Time to look at the history."""


class Predictor(Agent[PredictorState]):
    """Owner of `FaultForeseen`, `PredictionJudged` and `PredictorLearned`."""

    name = "predictor"

    def __init__(self, settings: PredictorSettings, rng: random.Random, state: PredictorState | None = None) -> None:
        super().__init__(state or PredictorState(), rng)
        self.settings = settings

    # Learning from history.

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """What was going to come of chances given before is not known: it was deaf."""
        for node in self.state.nodes.values():
            for track in node.tracks.values():
                track.window, track.count, track.total, track.blocks = None, 0, 0.0, []
        self.state.version = max(self.state.version, int(event.at * 1000))
        yield self.set_timer(LearnDue(), now + self.settings.learn_after_seconds)

    @on(LearnDue)
    def learn(self, timer: LearnDue, now: float) -> Effects:
        """In a process of its own."""
        yield StartWork(key="learn", work=LearnFromHistory(settings=self.settings), reason="history has grown")
        yield self.set_timer(timer, now + self.settings.learn_every_seconds)

    @on(Learned)
    def adopt(self, event: Learned, now: float) -> Effects:
        """Models where they are better than the trend, and the trend where there are none."""
        for fitted in event.fitted:
            if fitted.model is not None:
                self.state.models[fitted.kind] = fitted.model
            else:
                self.state.models.pop(fitted.kind, None)
            yield self.publish(
                PredictorLearned(
                    kind=fitted.kind,
                    basis="trend" if fitted.model is None else "model",
                    examples=fitted.examples,
                    faults=fitted.faults,
                    loss_model=fitted.loss_model,
                    loss_trend=fitted.loss_trend,
                    reason=fitted.problem or "a model fitted to the history foretells better than the trend",
                )
            )

    @on(WorkExited)
    def learn_later(self, event: WorkExited, now: float) -> Effects:
        """It can't be learned from now: the trend stands in, and it is tried again when it is time."""
        if event.code:
            why = event.last_lines[-1] if event.last_lines else f"exit code {event.code}"
            for kind in KINDS:
                if kind not in self.state.models:
                    yield self.publish(PredictorLearned(kind=kind, basis="trend", examples=0, faults=0, reason=why))

    # Figures.

    @on(NodeProfile)
    def meet(self, event: NodeProfile, now: float) -> None:
        """How much memory there is."""
        self._node(event.node).memory_bytes = event.memory_bytes

    @on(NodeHeartbeat)
    def see_machine(self, event: NodeHeartbeat, now: float) -> Effects:
        """Memory, temperature, disk, accelerators."""
        yield from self._follow(figures.of_heartbeat(event), now)
        if any(gpu.ecc_uncorrected for gpu in event.accelerators):
            yield from self._came(event.node, "gpu", now)

    @on(LinkProbed)
    def see_probe(self, event: LinkProbed, now: float) -> Effects:
        """Whether probes come back."""
        yield from self._follow(figures.of_probe(event), now)

    @on(StepTimed)
    def see_steps(self, event: StepTimed, now: float) -> Effects:
        """How fast it trains."""
        yield from self._follow(figures.of_steps(event), now)

    @on(WorkStarted)
    def begin_anew(self, event: WorkStarted, now: float) -> Effects:
        """Another process has another speed and another use of memory."""
        node = self.state.nodes.get(event.node)
        if node is not None:
            for figure in [name for name, track in node.tracks.items() if track.kind in ("speed", "memory")]:
                del node.tracks[figure]
            for kind in ("speed", "memory"):
                yield from self._relieve(event.node, node, kind, "its process begins anew")

    # Faults.

    @on(WorkFailed)
    def see_failure(self, event: WorkFailed, now: float) -> Effects:
        """Memory has run out."""
        if event.kind == "out_of_memory":
            yield from self._came(event.node, "memory", now)

    @on(NodeLost)
    def see_loss(self, event: NodeLost, now: float) -> Effects:
        """Its link has broken, or it has died, which from here is the same; of all else nothing will be known."""
        yield from self._came(event.node, "link", now)
        node = self.state.nodes.pop(event.node, None)
        for kind in list(node.told) if node is not None else ():
            assert node is not None
            yield from self._relieve(event.node, node, kind, "the node is gone")

    def _came(self, name: NodeId, kind: RiskKind, now: float) -> Iterator[Effect]:
        """The fault is there."""
        node = self.state.nodes.get(name)
        for track in list(node.tracks.values()) if node is not None else ():
            if track.kind == kind and track.window is not None:
                yield from self._outcome(track, True)

    # Chances.

    def _follow(self, found: Figures, now: float) -> Iterator[Effect]:
        for figure, value in found.values.items():
            kind = tracks.kind_of(figure)
            if kind is None:
                continue
            node = self._node(found.node)
            track = node.tracks.get(figure)
            if track is None:
                if len(node.tracks) >= TRACKS:
                    continue
                track = node.tracks[figure] = Track(kind=kind)
            level = tracks.level(track, value, node.memory_bytes, self.settings)
            if level is not None and tracks.take(track, level, now, self.settings):
                yield from self._weigh(found.node, node, figure, track, now)

    def _weigh(self, name: NodeId, node: Watched, figure: str, track: Track, now: float) -> Iterator[Effect]:
        """A block has ended: what came of the last chance, and what it is now."""
        kind, over = track.kind, track.blocks[-1] >= 1.0 and track.kind in tracks.CROSSING
        if track.window is not None and (over or now >= track.window.until):
            yield from self._outcome(track, over)
        found = tracks.features(track, self.settings)
        if found is None:
            return
        model = self.state.models.get(kind, tracks.PRIOR)
        chance = tracks.chance(model, found)
        told, threshold = node.told.get(kind), self._threshold(kind)
        near = found[0] >= self.settings.least_level and not over
        if told is None and chance >= threshold and near:
            held_out = kind in UNTREATED or self.rng.random() < self.settings.held_out
            told = node.told[kind] = Told(figure=figure, held_out=held_out)
            yield self._tell(name, kind, told, chance, True, self._why(kind, figure, found, chance, model))
        elif told is not None and told.figure == figure and chance < threshold * self.settings.relief:
            yield from self._relieve(name, node, kind, f"the chance is {100 * chance:.0f} % now", chance)
        if track.window is None and not over and (told is None or told.held_out):
            track.window = Window(chance=chance, until=now + self.settings.horizon_seconds)
        elif told is not None and not told.held_out:
            track.window = None  # something is done about it

    def _outcome(self, track: Track, came: bool) -> Iterator[Effect]:
        assert track.window is not None
        score = self.state.scores.setdefault(track.kind, scores.fresh())
        before = self._threshold(track.kind)
        scores.count(score, track.window.chance, came, self.settings)
        track.window = None
        after = self._threshold(track.kind)
        if after != before or score.outcomes % self.settings.judged_every == 0:
            yield self._judge(track.kind, score, before, after)

    def _threshold(self, kind: RiskKind) -> float:
        score = self.state.scores.get(kind)
        return score.threshold if score is not None and score.threshold is not None else self.settings.threshold

    def _relieve(self, name: NodeId, node: Watched, kind: RiskKind, why: str, chance: float = 0.0) -> Iterator[Effect]:
        told = node.told.pop(kind, None)
        if told is not None:
            yield self._tell(name, kind, told, chance, False, f"no longer expected that {_WORDS[kind]}: {why}")

    # Words.

    def _why(self, kind: RiskKind, figure: str, found: tuple[float, float, float], chance: float, model: Model) -> str:
        level, growth, _ = found
        ahead = f"{self.settings.horizon_seconds:.0f} s"
        basis = "a model learned from history" if model.basis == "model" else "its trend, no model being learned yet"
        return (
            f"with a chance of {100 * chance:.0f} % {_WORDS[kind]} within {ahead}, by {basis}: {figure} is at "
            f"{100 * level:.0f} % of what is too much, and would be at {100 * (level + growth):.0f} %"
        )

    def _tell(self, name: NodeId, kind: RiskKind, told: Told, chance: float, expected: bool, reason: str) -> Effect:
        self.state.version += 1
        model = self.state.models.get(kind, tracks.PRIOR)
        return self.publish(
            FaultForeseen(
                node=name,
                kind=kind,
                version=self.state.version,
                expected=expected,
                chance=chance,
                threshold=self._threshold(kind),
                horizon_seconds=self.settings.horizon_seconds,
                figure=told.figure,
                basis=model.basis,
                held_out=told.held_out,
                reason=reason,
            )
        )

    def _judge(self, kind: RiskKind, score: Score, before: float, after: float) -> Effect:
        precision, recall = scores.precision(score, after), scores.recall(score, after)
        shown = "; ".join(
            f"{name} {100 * part:.0f} %"
            for name, part in (("precision", precision), ("recall", recall))
            if part is not None
        )
        moved = f"told from {100 * after:.0f} % on" + (f" instead of {100 * before:.0f} %" if after != before else "")
        return self.publish(
            PredictionJudged(
                kind=kind,
                threshold=after,
                precision=precision,
                recall=recall,
                outcomes=score.outcomes,
                faults=score.faults,
                basis=self.state.models.get(kind, tracks.PRIOR).basis,
                reason=f"that {_WORDS[kind]} is {moved}: {shown or 'it never came'}, by {score.outcomes} outcomes",
            )
        )

    def _node(self, name: NodeId) -> Watched:
        """The record of a node; where there are too many, the one that came first gives way."""
        nodes = self.state.nodes
        if name not in nodes:
            if len(nodes) >= self.settings.nodes_kept:
                del nodes[next(iter(nodes))]
            nodes[name] = Watched()
        return nodes[name]

    def check(self) -> None:
        """Chances are chances, and everything is bounded."""
        self.require(len(self.state.nodes) <= self.settings.nodes_kept, "too many nodes")
        for name, node in self.state.nodes.items():
            self.require(len(node.tracks) <= TRACKS, f"{name}: too many figures")
            for figure, track in node.tracks.items():
                self.require(len(track.blocks) <= tracks.BLOCKS, f"{name}: too long a trend of {figure}")
                sure = track.window is None or 0 <= track.window.chance <= 1
                self.require(sure, f"{name}: no chance of {track.kind}")
        for kind, score in self.state.scores.items():
            self.require(score.faults <= score.outcomes, f"more faults than outcomes of {kind}")
