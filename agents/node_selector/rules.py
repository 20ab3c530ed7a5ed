"""A job's policy by name: how it scores nodes, and on what terms it leaves some out."""

from collections.abc import Mapping
from statistics import median

import msgspec

from agents.node_selector import useful
from agents.node_selector.policy import (
    UNKNOWN,
    adaptive_threshold,
    contribution,
    outlier_threshold,
    reliability,
    standing,
)
from agents.node_selector.selection import Rule
from agents.node_selector.settings import NodeSelectorSettings
from agents.node_selector.state import Job, Member, NodeRecord
from schemas.ids import NodeId
from schemas.jobs import JobRequest

NOBODY = Member()


def limit_of(request: JobRequest, settings: NodeSelectorSettings) -> int | None:
    """The most nodes that a job takes, or None."""
    cap = request.max_nodes
    if cap is None and request.selection == "top_n":
        cap = settings.top_n
    return None if cap is None else max(cap, request.min_nodes)


def relative_speeds(job: Job, nodes: Mapping[NodeId, NodeRecord]) -> dict[NodeId, float]:
    """Each node's samples a second over the fastest's; a node not measured yet gets the median."""
    measured = {node: job.members.get(node, NOBODY).speed for node in nodes}
    known = [speed for speed in measured.values() if speed is not None]
    fastest = max(known, default=0.0)
    if fastest <= 0:
        return dict.fromkeys(nodes, UNKNOWN)
    typical = median(known)
    return {node: (typical if speed is None else speed) / fastest for node, speed in measured.items()}


def scores(job: Job, nodes: Mapping[NodeId, NodeRecord], settings: NodeSelectorSettings) -> dict[NodeId, float | None]:
    """Each node's score under the job's policy, 0 to 1 (`useful`: from -1 on); None where nothing speaks for or against."""
    strategy = job.request.selection
    if strategy == "contribution":
        return _contributions(job, nodes, settings)
    if strategy == "useful":
        return useful.scores(job, nodes, settings)
    if strategy in ("quality", "adaptive"):
        return {node: None if record.link is None else record.link / 100 for node, record in nodes.items()}
    speeds = relative_speeds(job, nodes)
    return {
        node: standing(UNKNOWN if record.link is None else record.link / 100, speeds[node])
        for node, record in nodes.items()
    }


def _contributions(
    job: Job, nodes: Mapping[NodeId, NodeRecord], settings: NodeSelectorSettings
) -> dict[NodeId, float | None]:
    """50 % efficiency and 50 % reliability; a node without an efficiency of its own is given the median."""
    efficient = {node: job.members.get(node, NOBODY).efficiency for node in nodes}
    known = [value for value in efficient.values() if value is not None]
    typical = median(known) if known else UNKNOWN
    found: dict[NodeId, float | None] = {}
    for node, record in nodes.items():
        value = efficient[node]
        reliable = reliability(record.conduct.successes, record.conduct.attempts, settings)
        found[node] = contribution(typical if value is None else value, reliable)
    return found


def rule_for(job: Job, found: Mapping[NodeId, float | None], floor: int, settings: NodeSelectorSettings) -> Rule:
    """The terms of the job's policy, given everybody's scores; choice leaves at least `floor` nodes."""
    known = [score for score in found.values() if score is not None]
    terms = _Terms(floor, limit_of(job.request, settings), settings)
    match job.request.selection:
        case "quality":
            threshold = settings.quality_threshold / 100
            return terms.rule("link", threshold, "the least that the job's policy asks for", at_entry=True, turns=False)
        case "adaptive":
            threshold_now = adaptive_threshold(known, settings)
            return terms.rule("link", threshold_now, "well below the mean of the fleet", at_entry=True)
        case "contribution":
            return terms.rule("contribution", outlier_threshold(known, settings), "well below the others")
        case "useful":
            rule = terms.rule("use", 0.0, "waiting for it costs more than it brings")
            places = rule.cap or len(found)
            return msgspec.structs.replace(rule, explore=useful.places_to_explore(job, places, settings))
        case "all" | "top_n":
            return terms.rule("speed and link", None, "")


class _Terms:
    """What the rules of all policies have in common."""

    def __init__(self, floor: int, cap: int | None, settings: NodeSelectorSettings) -> None:
        self.floor = floor
        self.cap = cap
        self.settings = settings

    def rule(
        self, measure: str, threshold: float | None, words: str, *, at_entry: bool = False, turns: bool = True
    ) -> Rule:
        """The rule of one policy."""
        return Rule(
            measure=measure,
            threshold=threshold,
            words=words,
            band=self.settings.quality_band / 100,
            at_entry=at_entry,
            turns=turns,
            floor=self.floor,
            cap=self.cap,
            patience=self.settings.patience,
            margin=self.settings.rank_margin,
        )
