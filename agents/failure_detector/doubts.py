"""From a late heartbeat to a verdict: a node is asked itself, then others are asked for it, then it is dead.

The order is SWIM's (Das, Gupta and Motivala, DSN 2002): a direct probe, indirect ones through other members, suspicion.
Here all share a server, which knows more than a ring does: it says at once if nobody is connected who would answer for a
node.
"""

from collections.abc import Iterator

from agents.base import Agent, Effect, Effects, Reach, SetTimer, Timer, on
from agents.failure_detector import ears, policy, words
from agents.failure_detector.settings import FailureDetectorSettings
from agents.failure_detector.state import Doubt, FailureDetectorState, Watched
from agents.inputs import Reached
from schemas.health import Life, NodeHealth, ReachAsked, ReachTold
from schemas.ids import NodeId

SLOT = 0.05
"""Seconds, for each second between a node's heartbeats, by which its deadlines are rounded up: all nodes of one slot have
one timer, twenty of which an interval are nothing."""


def slot_after(due: float, interval: float) -> int:
    """The slot in which a node is looked at whose deadline is `due`: the first whole twentieth of its interval after it."""
    grain = round(interval) or 1
    return (int(due / SLOT) // grain + 1) * grain


def is_in_time(slot: int, due: float, interval: float) -> bool:
    """Whether a node that is filed there is looked at as soon after its deadline as `slot_after` has it."""
    return slot * SLOT <= due + 1.01 * SLOT * (round(interval) or 1)


class Look(Timer, frozen=True, kw_only=True):
    """The nodes of a slot are to be looked at."""

    slot: int


class Doubting(Agent[FailureDetectorState]):
    """The part of the failure detector that looks into silences."""

    name = "failure_detector"
    settings: FailureDetectorSettings

    # Deadlines.

    def _file(self, name: NodeId, node: Watched, due: float) -> Iterator[Effect]:
        """Look at a node then, or sooner; its heartbeats move `due` alone, and it is filed anew when it is looked at."""
        if self._is_filed(node, due):
            return
        slot = node.slot = slot_after(due, node.interval)
        nodes = self.state.slots.get(slot)
        if nodes is None:
            self.state.slots[slot] = [name]
            yield SetTimer(timer=Look(slot=slot), at=slot * SLOT)
        else:
            nodes.append(name)

    def _is_filed(self, node: Watched, due: float) -> bool:
        """Note when to look at a node next; whether it is looked at by then anyway."""
        node.due = due
        return 0 < node.slot * SLOT <= due or 0 < node.slot <= slot_after(due, node.interval)

    @on(Look)
    def look(self, timer: Look, now: float) -> Effects:
        """Who of them has been silent for too long?"""
        ears.stood_still(self.state.ears, now, self.settings)
        for name in self.state.slots.pop(timer.slot, ()):
            node = self.state.nodes.get(name)
            if node is None or node.slot != timer.slot:
                continue  # it was filed for an earlier slot since
            node.slot = 0
            if node.due > now:
                yield from self._file(name, node, node.due)
            else:
                self._cause = node.last
                yield from self._look_into(name, node, now)

    def _since(self, node: Watched) -> float:
        """When its silence began, as far as the detector can tell."""
        return max(node.sign_at, self.state.ears.since)

    def _look_into(self, name: NodeId, node: Watched, now: float) -> Effects:
        """A deadline of a living node has passed."""
        doubt, began, hearing, s = node.doubt, self._since(node), self.state.ears, self.settings
        silent, sure = now - began, doubt is not None and ears.sure(hearing, doubt.began)
        deadly = policy.deadly(node, hearing, s)
        if doubt is not None and doubt.absent_at is not None and not (sure and silent >= deadly):
            yield self._ask(name, doubt)
            due = now + s.reach_timeout_seconds
        elif silent < policy.doubtful(node, s):
            due = began + policy.doubtful(node, s)
        elif doubt is None:
            self.state.tickets += 1
            node.doubt = Doubt(began=now, ticket=self.state.tickets)
            self.state.doubts[name] = None
            yield self._ask(name, node.doubt)
            due = began + policy.suspicious(node, hearing, s)
        elif silent < policy.suspicious(node, hearing, s):
            due = began + policy.suspicious(node, hearing, s)
        elif not sure:
            due = now + s.pulse_seconds
        elif node.state == "alive":
            yield from self._suspect(name, node, doubt, silent, now)
            due = began + deadly
        elif silent < deadly:
            due = began + deadly
        elif doubt.helpers and not doubt.told and not doubt.waited and silent < s.most_beats * node.interval:
            doubt.waited = True  # none of them could say anything: is it the detector that nobody hears?
            ears.burden(hearing, 1)
            due = now + node.interval
        else:
            why = words.silent(silent, policy.phi(node.gaps, silent), doubt.told)
            yield from self._bury(name, node, "dead", why, now)
            return
        yield from self._file(name, node, max(due, now + SLOT))

    def _ask(self, name: NodeId, doubt: Doubt) -> Effect:
        return Reach(node=name, ticket=doubt.ticket, timeout=self.settings.reach_timeout_seconds)

    def _suspect(self, name: NodeId, node: Watched, doubt: Doubt, silent: float, now: float) -> Effects:
        """Ask others for it, and say so."""
        doubt.helpers = self._helpers(name)
        yield self._say(name, node, "suspect", words.late(silent, node.gaps.mean, len(doubt.helpers)), now)
        wait = self.settings.reach_timeout_seconds
        yield self._ask(name, doubt)
        for helper in doubt.helpers:
            yield self.publish(ReachAsked(node=helper, suspect=name, ticket=doubt.ticket, seconds=wait))

    def _helpers(self, suspect: NodeId) -> tuple[NodeId, ...]:
        """Nodes beyond doubt that can try to reach another, by chance."""
        fit = [name for name, node in self.state.nodes.items() if node.state == "alive" and node.doubt is None]
        return tuple(self.rng.sample(fit, min(len(fit), self.settings.helpers)))

    # What comes of it.

    @on(Reached)
    def heed_answer(self, event: Reached, now: float) -> Effects:
        """What came of asking a node."""
        node = self.state.nodes.get(event.node)
        if node is None or node.state not in ("alive", "suspect"):
            return
        doubt = node.doubt
        if event.outcome == "answered":
            node.serves = True
            if doubt is not None:
                yield from self._trust(event.node, node, "it answered a request", now)
        elif event.outcome == "absent" and doubt is not None and event.ticket == doubt.ticket:
            yield from self._cut_off(event.node, node, doubt, now)
        elif event.outcome == "silent" and doubt is not None and event.ticket == doubt.ticket and doubt.absent_at is None:
            yield self._ask(event.node, doubt)  # its connection may have ended since

    @on(ReachTold)
    def heed_helper(self, event: ReachTold, now: float) -> Effects:
        """What came of another node's attempt: if it was heard there, it is the detector that is hard of hearing."""
        node = self.state.nodes.get(event.suspect)
        if node is None or node.doubt is None or event.ticket != node.doubt.ticket or event.node not in node.doubt.helpers:
            return
        if event.outcome == "answered":
            ears.burden(self.state.ears, 1)
            yield from self._trust(event.suspect, node, f"{event.node} reaches it", now)
        elif event.outcome == "absent":
            yield from self._cut_off(event.suspect, node, node.doubt, now)
        else:
            node.doubt.told += 1

    def _cut_off(self, name: NodeId, node: Watched, doubt: Doubt, now: float) -> Effects:
        """The server has nobody connected who would answer for it: dead, unless it comes back in the time it takes."""
        if not node.serves:
            return  # of a version that doesn't answer
        silent = now - self._since(node)
        wait = policy.reconnecting(node, self.settings, shaken=self._shaken(now))
        if doubt.absent_at is None:
            doubt.absent_at = now
            yield self._say(name, node, "suspect", words.cut(silent, wait), now)
        elif now - doubt.absent_at >= wait:
            yield from self._bury(name, node, "dead", words.gone(silent, now - doubt.absent_at), now)
            return
        yield from self._file(name, node, doubt.absent_at + wait)

    def _shaken(self, now: float) -> bool:
        """Whether many lost their connections at once, the detector perhaps too: a server was away, not the nodes."""
        nodes = self.state.nodes
        cut = sum((doubt := nodes[name].doubt) is not None and doubt.absent_at is not None for name in self.state.doubts)
        alive = len(nodes) - len(self.state.gone)
        return cut > max(1, alive // 3) or now - self.state.ears.since < self.settings.reconnect_settle_seconds

    def _trust(self, name: NodeId, node: Watched, how: str, now: float) -> Effects:
        """A sign of life of a node that isn't dead."""
        silent, doubt = now - node.sign_at, node.doubt
        node.sign_at = now
        if doubt is not None:
            node.doubt, node.present_since = None, now
            self.state.doubts.pop(name, None)
            if doubt.absent_at is not None:
                node.away = max(node.away, now - doubt.absent_at)
        if node.state != "alive":
            yield self._say(name, node, "alive", words.back(silent, how), now)
        yield from self._file(name, node, now + policy.doubtful(node, self.settings))

    def _bury(self, name: NodeId, node: Watched, state: Life, why: str, now: float) -> Effects:
        """It is dead, or has left."""
        yield self._say(name, node, state, why, now)
        node.doubt, node.slot = None, 0
        node.paces.clear()
        node.figures.clear()
        self.state.doubts.pop(name, None)
        self.state.gone[name] = None

    def _say(self, name: NodeId, node: Watched, state: Life, why: str, now: float) -> Effect:
        node.state = state
        self._cause = self._cause or node.last  # what is decided in its silence was caused by its last word
        node.version = max(node.version + 1, int(now * 1000))
        silent = max(0.0, now - self._since(node))
        return self.publish(
            NodeHealth(
                node=name,
                version=node.version,
                state=state,
                life=node.life,
                beat=node.beat,
                phi=policy.phi(node.gaps, silent),
                silent_seconds=silent,
                reason=why,
            )
        )
