"""What was adapted in a job, in words: each new version of a decision as its difference to the one before."""

from collections.abc import Iterator

from runners.report_schema import Adaptation
from runners.report_timeline import Timeline
from schemas.decisions import ForceNode, ForesightJudged, NodeQuarantined, NodeReleased, RolledBack
from schemas.healing import Healed, HealingFailed, HealingOrdered
from schemas.network import LinkQualityChanged
from schemas.training import Assignment, Roster, Share, Tuning
from schemas.wire import Message

SHOWN = 4
"""Nodes whose change is spelt out; of more, only how many."""


def adaptations(timeline: Timeline) -> list[Adaptation]:
    """All of them, in order."""
    tell = _Teller(timeline)
    found = []
    for message in timeline.messages:
        what = tell.what(message)
        if what:
            found.append(
                Adaptation(
                    round=timeline.round_at(message.at),
                    at=timeline.since(message.at),
                    what=what,
                    reason=getattr(message, "reason", ""),
                    cause=message.cause,
                    because=timeline.cause_in_words(message),
                    by=message.source,
                    id=message.id,
                )
            )
    return found


class _Teller:
    """Remembers the last version of each decision."""

    def __init__(self, timeline: Timeline) -> None:
        self._job = timeline.job
        self._begin = timeline.begin
        self._nodes = {node for roster in timeline.own(Roster) for node in roster.nodes}
        self._roster: Roster | None = None
        self._assignment: Assignment | None = None
        self._tuning: Tuning | None = None
        self._acting = True

    def what(self, message: Message) -> str:
        """What a message changed for the job; empty if nothing."""
        if (getattr(message, "job", None) or self._job) != self._job:
            return ""
        if isinstance(message, Roster):
            return self._of_roster(message)
        if isinstance(message, Assignment):
            return self._of_assignment(message)
        if isinstance(message, Tuning):
            return self._of_tuning(message)
        if isinstance(message, RolledBack):
            return f"back to assignment {message.to_version}"
        if isinstance(message, ForesightJudged):
            return self._of_foresight(message)
        return self._of_node(message) if getattr(message, "node", None) in self._nodes and self._in_time(message) else ""

    def _in_time(self, message: Message) -> bool:
        return message.at >= self._begin

    def _of_node(self, message: Message) -> str:
        if isinstance(message, LinkQualityChanged):
            before = f"{message.previous.value} -> " if message.previous else ""
            return f"link of {message.node}: {before}{message.quality.value} (score {message.score:.0f})"
        if isinstance(message, NodeQuarantined):
            return f"{message.node} left out for {message.seconds:.0f} s"
        if isinstance(message, NodeReleased):
            return f"{message.node} on probation"
        if isinstance(message, ForceNode):
            return f"{message.node}: {message.do} by order"
        return _of_healer(message)

    def _of_foresight(self, new: ForesightJudged) -> str:
        regret = f"regret of proactive {new.regret_seconds:+.1f} s in {new.rounds} rounds"
        before, self._acting = self._acting, new.acting
        if before == new.acting:
            return regret
        return f"{regret}; next, a turn of {'acting on forecasts' if new.acting else 'doing as reactive does'}"

    def _of_roster(self, new: Roster) -> str:
        old, self._roster = self._roster, new
        if old is None:
            return f"roster: {', '.join(new.nodes)}"
        if new.version <= old.version:
            self._roster = old
            return ""
        parts = [f"+ {node}" for node in new.nodes if node not in old.nodes]
        parts += [f"- {node}" for node in old.nodes if node not in new.nodes]
        if new.reducers != old.reducers:
            parts.append(f"reducers {', '.join(new.reducers) or 'none'}")
        if new.quorum != old.quorum:
            parts.append(f"quorum {old.quorum} -> {new.quorum}")
        return f"roster: {'; '.join(parts)}" if parts else ""

    def _of_assignment(self, new: Assignment) -> str:
        old, self._assignment = self._assignment, new
        if old is None:
            return f"shares: {_listed([f'{node} {_share(share)}' for node, share in sorted(new.shares.items())])}"
        if new.version <= old.version:
            self._assignment = old
            return ""
        parts = list(_changed_shares(old, new))
        if new.strategy != old.strategy:
            parts.append(f"strategy {old.strategy} -> {new.strategy}")
        if new.average_encoding != old.average_encoding:
            parts.append(f"average as {new.average_encoding}")
        if not parts and new.deadline_seconds != old.deadline_seconds:
            parts.append(f"deadline {old.deadline_seconds:.1f} -> {new.deadline_seconds:.1f} s")
        return _listed(parts)

    def _of_tuning(self, new: Tuning) -> str:
        old, self._tuning = self._tuning, new
        if old is None:
            return f"phase {new.phase}, policy {new.policy}"
        if new.version <= old.version:
            self._tuning = old
            return ""
        parts = [
            f"{name} {getattr(old, name)} -> {getattr(new, name)}"
            for name in ("phase", "policy", "max_factor")
            if getattr(old, name) != getattr(new, name)
        ]
        if new.adapt != old.adapt:
            parts.append("adaptation on" if new.adapt else "adaptation off")
        if new.rollback_to is not None and new.rollback_to != old.rollback_to:
            parts.append(f"back to assignment {new.rollback_to}")
        old_links, links = ({each.node: each for each in tuning.foreseen} for tuning in (old, new))
        parts += [
            f"link of {node} planned as {links[node].quality.value}" for node in links if links[node] != old_links.get(node)
        ]
        parts += [f"link of {node} planned as measured" for node in old_links if node not in links]
        return ", ".join(parts)


def _changed_shares(old: Assignment, new: Assignment) -> Iterator[str]:
    for node in sorted(set(old.shares) | set(new.shares)):
        before, after = old.shares.get(node), new.shares.get(node)
        if before is None and after is not None:
            yield f"{node} {_share(after)}"
        elif after is None:
            yield f"{node} has no share"
        elif before is not None and before != after:
            yield f"{node} {_share(before)} -> {_share(after)}"


def _share(share: Share) -> str:
    """`8 x 10 int8`: microbatch times local steps, and how the difference is sent."""
    text = f"{share.microbatch} x {share.local_steps} {share.encoding}"
    if share.streams > 1:
        text += f" over {share.streams} streams"
    return text + (f" every {share.every} rounds" if share.every > 1 else "")


def _listed(parts: list[str]) -> str:
    rest = len(parts) - SHOWN
    return "; ".join(parts[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _of_healer(message: Message) -> str:
    """A remedy, and what came of it."""
    if isinstance(message, HealingOrdered):
        return f"healer: {message.remedy} for {message.node}"
    if isinstance(message, Healed):
        return f"{message.node} healed after {message.seconds:.0f} s"
    if isinstance(message, HealingFailed):
        return f"healer: {message.remedy} for {message.node} was in vain"
    return ""
