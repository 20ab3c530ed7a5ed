"""What broke in a job, what was broken on purpose, and how long it took until training went on."""

from collections.abc import Iterator

from runners.report_schema import Fault
from runners.report_timeline import Timeline
from schemas.anchors import DigestMismatch
from schemas.bus import BusDisturbed
from schemas.decisions import AgentStarted, InputFailed, NodeJoined, NodeLost
from schemas.emulation import EmulatedLinkChanged
from schemas.nodes import NodeLeaving, WorkFailed
from schemas.training import ContributionRefused, Roster, RoundClosed, RoundOpened
from schemas.verification import ArithmeticDoubted
from schemas.wire import Message

SAME_OUTAGE = 10.0
"""Seconds within which what several participants say of the server is one outage: they reconnect at their own pace."""


def faults(timeline: Timeline) -> list[Fault]:
    """All of them, in order."""
    nodes = {node for roster in timeline.own(Roster) for node in roster.nodes}
    finder = _Finder(timeline, nodes)
    of_nodes = [*finder.of_nodes(), *finder.of_contributions(), *finder.of_reducers()]
    found = [*of_nodes, *finder.of_agents(), *finder.of_links(), *finder.of_server()]
    return sorted(found, key=lambda fault: fault.at)


class _Finder:
    def __init__(self, timeline: Timeline, nodes: set[str]) -> None:
        self._line = timeline
        self._nodes = nodes
        states = timeline.last_state
        self._end = states.at if states is not None and states.state.ended else float("inf")

    def _in_time(self, message: Message) -> bool:
        return self._line.begin <= message.at <= self._end

    def _fault(
        self,
        message: Message,
        what: str,
        *,
        began: float | None = None,
        node: str = "",
        back: bool = False,
        detail: str = "",
    ) -> Fault:
        """A fault that began at `began`; `back`: whether the node's return to the rounds is to be timed."""
        begin = message.at if began is None else began
        recovered = self._line.next_close(message.at)
        returned = self._line.next_contribution(node, message.at) if back else None
        return Fault(
            at_round=self._line.round_hit(begin),
            at=self._line.since(begin),
            what=what,
            node=node,
            emulated=isinstance(message, EmulatedLinkChanged),
            seconds_to_recover=None if recovered is None else round(recovered - begin, 3),
            seconds_until_back=None if returned is None else round(returned - begin, 3),
            detail=detail,
            id=message.id,
        )

    def of_nodes(self) -> Iterator[Fault]:
        """Nodes that died or left, job processes that failed."""
        goodbyes = {leaving.node: leaving for leaving in self._line.of(NodeLeaving)}
        for lost in self._line.of(NodeLost):
            if lost.node in self._nodes and self._in_time(lost):
                said = goodbyes.get(lost.node)
                what = "node left" if said is not None and abs(said.at - lost.at) < SAME_OUTAGE else "node lost"
                began = lost.at - lost.silent_seconds
                yield self._fault(lost, what, began=began, node=lost.node, back=True, detail=lost.reason)
        for joined in self._line.of(NodeJoined):
            if joined.node in self._nodes and joined.returned and self._in_time(joined):
                detail = f"away for {joined.absent_seconds:.1f} s; {joined.reason}"
                yield self._fault(joined, "node came back", node=joined.node, back=True, detail=detail)
        for failed in self._line.own(WorkFailed):
            last = failed.last_lines[-1] if failed.last_lines else ""
            detail = f"{failed.reason}{f'; {last}' if last else ''}"
            yield self._fault(failed, f"job process: {failed.kind}", node=failed.node, back=True, detail=detail)
        for mismatch in self._line.own(DigestMismatch):
            detail = f"version {mismatch.version}: {mismatch.found[:12]} instead of {mismatch.expected[:12]}"
            yield self._fault(mismatch, "another anchor", node=mismatch.suspect, back=True, detail=detail)
        for doubted in self._line.own(ArithmeticDoubted):
            yield self._fault(doubted, "arithmetic doubted", node=doubted.suspect, detail=doubted.reason)
        for refused in self._line.own(ContributionRefused):
            yield self._fault(refused, "contribution refused", node=refused.contributor, detail=refused.reason)

    def of_contributions(self) -> Iterator[Fault]:
        """Differences that were clipped, or stood apart from the others."""
        for closed in self._line.own(RoundClosed):
            for part in closed.contributions:
                if part.remark:
                    what = "contribution clipped" if 0.0 < part.scale < 1.0 else "contribution stands apart"
                    yield self._fault(closed, what, node=part.node, detail=f"round {part.round}: {part.remark}")

    def of_reducers(self) -> Iterator[Fault]:
        """Reducers that fell silent: a round opened again with a higher term."""
        last: dict[int, RoundOpened] = {}
        for opened in self._line.own(RoundOpened):
            before = last.get(opened.round)
            if before is None or opened.term > before.term:
                last[opened.round] = opened
            if before is not None and opened.term > before.term and opened.node != before.node:
                detail = f"{opened.node} took over; {opened.reason}"
                yield self._fault(opened, "reducer replaced", began=before.at, node=before.node, detail=detail)

    def of_agents(self) -> Iterator[Fault]:
        """Agents that were started again, and inputs on which they raised."""
        for started in self._line.of(AgentStarted):
            if not self._in_time(started) or not started.resumed:
                continue
            began = started.at - started.down_seconds
            yield Fault(
                at_round=self._line.round_hit(began),
                at=self._line.since(began),
                what=f"agent {started.agent} restarted",
                node="",
                emulated=False,
                seconds_to_recover=round(started.down_seconds, 3),
                detail=f"{started.replayed} inputs replayed",
                id=started.id,
            )
        for failed in self._line.of(InputFailed):
            if self._in_time(failed):
                detail = f"{failed.input}: {failed.reason}"
                yield self._fault(failed, f"agent {failed.agent} set an input aside", detail=detail)

    def of_links(self) -> Iterator[Fault]:
        """Emulated links that were told to change."""
        for changed in self._line.of(EmulatedLinkChanged):
            if changed.node in self._nodes and self._in_time(changed):
                what = f"link set to {changed.profile}" if changed.do == "profile" else f"link {changed.do}"
                yield self._fault(changed, what, node=changed.node, detail=changed.reason)

    def of_server(self) -> Iterator[Fault]:
        """The server out of reach: what several say of one outage is one fault."""
        group: list[BusDisturbed] = []
        for told in [t for t in self._line.of(BusDisturbed) if self._in_time(t) and t.kind == "reconnected"]:
            if group and told.at - group[0].at > SAME_OUTAGE:
                yield self._outage(group)
                group = []
            group.append(told)
        if group:
            yield self._outage(group)

    def _outage(self, group: list[BusDisturbed]) -> Fault:
        began = min(told.at - told.seconds for told in group)
        who = sorted({told.source for told in group})
        # Agents are where the server is; of a node or its jobs alone it was the link. Who hears of it is a matter of luck:
        # those that come back before the recorder does tell it nothing.
        alone = len(who) == 1 and "/" in who[0]
        what = f"server out of reach of {who[0]}" if alone else "server out of reach"
        longest = max(told.seconds for told in group)
        detail = f"for up to {longest:.1f} s, of {len(who)} participants"
        return self._fault(group[-1], what, began=began, detail=detail)
