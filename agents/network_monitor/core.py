"""What the network monitor does on which event."""

from typing import Literal

import msgspec

from agents.base import Effects, on
from agents.inputs import Woken
from agents.network_monitor import outlook, policy, words
from agents.network_monitor.estimate import observe, observe_retransmitted
from agents.network_monitor.foresight import Foresight
from agents.network_monitor.links import count_change, count_outage, faults, flapping, lost, score_of
from agents.network_monitor.state import Estimate, Link, Silence, SummaryDue
from schemas.bus import BusDisturbed
from schemas.decisions import NodeLost
from schemas.ids import NodeId
from schemas.network import GradeCount, LinkProbed, LinkQuality, LinkQualityChanged, NetworkAlert, NetworkSummary
from schemas.nodes import NodeLeaving, NodeProfile

AlertKind = Literal["latency_spike", "loss", "flapping", "offline", "recovered"]

ALIVE_WITHIN = 2.0
"""Seconds since a probe within which a verdict of death is taken for old: it needs a longer silence than that."""

RECONNECTION = 0.5
"""Of an outage: what a reconnection counts that was over before anyone missed the node."""

SPIKE_OVER_MS = 100.0
"""Above the round trip from before a spike, under which it is over: half of what began it at least."""

NEWS_KEPT = 64
"""Changes that wait for the next summary; it names only a few of them."""

_OF_NO_LINK = (SummaryDue, NetworkSummary)
"""Inputs after which all links are as they were."""


class NetworkMonitor(Foresight):
    """Grades every node's link by its probes, and says when a grade changes.

    The last word on each link is a standing document (`LinkQualityChanged`), which this agent alone writes. A monitor
    without memory adopts the ones it finds, so that versions go on growing.
    """

    # Probes

    @on(LinkProbed)
    def learn(self, event: LinkProbed, now: float) -> Effects:
        """A probe: better knowledge, and maybe another grade."""
        link, settings = self._link(event.node), self.settings
        if link.sequence is not None and 0 <= link.sequence - event.sequence <= settings.window:
            return  # a duplicate, or overtaken by a later one; a node that began anew says so by its profile
        missed = event.sequence - link.sequence - 1 if link.sequence is not None else 0
        link.sequence = event.sequence
        link.heard = self.state.heard = now
        if not link.watched:
            yield from self._watch(link, now)
        if missed:
            self._count_missed(link, missed, now)
        estimate = link.estimate
        before_ms = estimate.smoothed_ms
        jumped = observe(estimate, event.rtt_ms, settings.window)
        if event.retransmitted is not None:
            observe_retransmitted(estimate, event.retransmitted)
        link.outlook.probes += 1
        if now >= link.outlook.due:
            yield from self._look_ahead(link, now)
        if estimate.measured == 0 or len(estimate.history) < settings.warm_up:
            return
        score = score_of(link, settings, now)
        link.scores.append(score)
        if len(link.scores) > settings.trend_window:
            link.scores.pop(0)
        if event.rtt_ms is not None and (jumped or link.spike_from_ms is not None):
            yield from self._follow_spike(link, jumped, before_ms, event.rtt_ms, now)
        if link.lossy or estimate.silent_run or lost(link, settings) >= settings.loss_alert:
            yield from self._watch_loss(link, now)
        if policy.grade_of(score, settings) is link.quality:
            link.crossing = 0  # the usual case: no boundary near enough to look closer
        else:
            yield from self._grade(link, score, now)

    def _count_missed(self, link: Link, missed: int, now: float) -> None:
        """Probes that were never heard of were lost; too many of them in a row were one outage."""
        if missed > self.settings.resume_gap:
            count_outage(link, 1.0, self.settings, now)
            return
        link.outlook.probes += missed
        for _ in range(missed):
            observe(link.estimate, None, self.settings.window)

    def _grade(self, link: Link, score: float, now: float) -> Effects:
        """Another grade, if it lasts. Hysteresis: a boundary has to be crossed by a margin, for some probes in a row."""
        settings = self.settings
        present = link.quality
        if present is None or present is LinkQuality.OFFLINE:
            yield from self._change(link, policy.grade_of(score, settings), score, now)
            return
        noise = policy.noise(lost(link, settings), len(link.estimate.history), settings)
        target = policy.pull(score, present, max(settings.margin, noise), settings)
        step = policy.rank(present) - policy.rank(target)
        if step == 0:
            link.crossing = 0
            return
        link.crossing = max(1, link.crossing + 1) if step > 0 else min(-1, link.crossing - 1)
        dwell = settings.dwell_better * (settings.flap_dwell if flapping(link, settings, now) else 1)
        if link.crossing >= dwell or link.crossing <= -settings.dwell_worse:
            yield from self._change(link, target, score, now)

    def _change(self, link: Link, quality: LinkQuality, score: float, now: float) -> Effects:
        """Publish another grade that probes have shown."""
        previous, estimate, settings = link.quality, link.estimate, self.settings
        back_from = link.away_since if previous is LinkQuality.OFFLINE else None
        was_ms = link.published_ms if previous is not None and back_from is None else None
        figures = words.figures(estimate.smoothed_ms, was_ms, estimate.jitter_ms, lost(link, settings), score)
        yield from self._publish_grade(link, quality, score, f"{figures}, {words.change(previous, quality)}", now)
        if back_from is not None:
            link.away_since = None
            away = now - back_from
            text = f"{link.node} is back after {words.seconds(away)}: {figures}, {quality.value}"
            yield from self._alert(link, "recovered", round(away, 1), text, now, always=True)
        if flapping(link, settings, now):
            count = len(link.turns)
            text = (
                f"its grade turned {count} times within {words.seconds(settings.flap_seconds)}: slower to praise it again"
            )
            yield from self._alert(link, "flapping", float(count), text, now)

    def _publish_grade(self, link: Link, quality: LinkQuality, score: float, reason: str, now: float) -> Effects:
        previous, link.quality = link.quality, quality
        link.version += 1
        link.crossing = 0
        link.published_ms = link.estimate.smoothed_ms
        if previous is not None:
            count_change(link, previous, quality, self.settings, now)
        yield self.publish(
            LinkQualityChanged(
                node=link.node,
                version=link.version,
                quality=quality,
                previous=previous,
                score=round(score, 1),
                latency_ms=round(link.estimate.smoothed_ms, 2),
                jitter_ms=round(link.estimate.jitter_ms, 2),
                loss=round(lost(link, self.settings), 4),
                trend=policy.trend_of(link.scores, self.settings),
                reason=reason,
            )
        )
        yield from self._tell(link.node, words.change(previous, quality), now)

    # Alerts

    def _follow_spike(self, link: Link, jumped: bool, before_ms: float, rtt_ms: float, now: float) -> Effects:
        if jumped:
            yield from self._spike(link, before_ms, rtt_ms, now)
        if link.spike_from_ms is not None:
            yield from self._end_spike(link, link.spike_from_ms, rtt_ms, now)

    def _spike(self, link: Link, before_ms: float, rtt_ms: float, now: float) -> Effects:
        if link.spike_from_ms is None:
            link.spike_from_ms = before_ms
            link.spike_since = now
        text = f"round trip {words.milliseconds(rtt_ms)} again and again, usually {words.milliseconds(before_ms)}"
        yield from self._alert(link, "latency_spike", round(rtt_ms, 1), text, now)

    def _end_spike(self, link: Link, before_ms: float, rtt_ms: float, now: float) -> Effects:
        if max(rtt_ms, link.estimate.smoothed_ms) > before_ms + SPIKE_OVER_MS:
            return
        lasted = now - link.spike_since
        link.spike_from_ms = None
        text = (
            f"round trip back at {words.milliseconds(link.estimate.smoothed_ms)}, {words.seconds(lasted)} after it jumped"
        )
        yield from self._alert(link, "recovered", round(lasted, 1), text, now)

    def _watch_loss(self, link: Link, now: float) -> Effects:
        settings, run, share = self.settings, link.estimate.silent_run, lost(link, self.settings)
        if not link.lossy and (share >= settings.loss_alert or run >= settings.unanswered_alert):
            link.lossy = True
            text = f"loss {words.percent(share)} over the last {len(link.estimate.history)} probes"
            if run >= settings.unanswered_alert:
                text = f"{run} probes in a row without an answer"
            yield from self._alert(link, "loss", round(share, 4), text, now)
        elif link.lossy and share < settings.loss_alert / 2 and run == 0:
            link.lossy = False

    def _alert(self, link: Link, kind: AlertKind, value: float, reason: str, now: float, always: bool = False) -> Effects:
        last = link.alerted.get(kind)
        if last is None or always or now - last >= self.settings.alert_interval:
            link.alerted[kind] = now
            yield self.publish(NetworkAlert(node=link.node, kind=kind, value=value, reason=reason))

    # Silence

    def _watch(self, link: Link, now: float) -> Effects:
        """One timer a link, which looks when it last spoke: moving a timer with every probe would cost more."""
        link.watched = True
        yield self.set_timer(Silence(node=link.node), now + self.settings.offline_after)

    @on(Silence)
    def miss(self, timer: Silence, now: float) -> Effects:
        """A node may have been silent for too long."""
        link = self.state.links.get(timer.node)
        if link is None:
            return
        link.watched = False
        due = link.heard + self.settings.offline_after
        if now - self.state.heard >= self.settings.deaf_after:
            due = max(due, self.state.heard + self.settings.deaf_seconds)
        if now < due:
            link.watched = True
            yield self.set_timer(timer, due)
        else:
            why = f"no probe for {words.seconds(now - link.heard)}"
            yield from self._go_offline(link, why, now, fault=True)

    @on(NodeLeaving)
    def let_go(self, event: NodeLeaving, now: float) -> Effects:
        """A node said goodbye."""
        link = self.state.links.get(event.node)
        if link is not None:
            yield from self._go_offline(link, f"it said goodbye: {event.reason}", now, fault=False)

    @on(NodeLost)
    def bury(self, event: NodeLost, now: float) -> Effects:
        """The selector takes a node for dead; probes that still come know better."""
        link = self.state.links.get(event.node)
        if link is not None and now - link.heard >= ALIVE_WITHIN:
            yield from self._go_offline(link, event.reason, now, fault=True)

    def _go_offline(self, link: Link, why: str, now: float, *, fault: bool) -> Effects:
        """What a link was like before an outage says little of what it is like after it: its history ends here."""
        link.estimate = Estimate()
        link.outlook.probes = 0
        link.scores = []
        link.sequence = None
        link.spike_from_ms = None
        link.lossy = False
        if link.quality is LinkQuality.OFFLINE:
            return
        link.away_since = link.heard
        reason = f"{why}, {words.change(link.quality, LinkQuality.OFFLINE)}"
        yield from self._publish_grade(link, LinkQuality.OFFLINE, 0.0, reason, now)
        if fault:
            count_outage(link, 1.0, self.settings, now)
            yield from self._alert(link, "offline", round(now - link.heard, 1), why, now)

    @on(BusDisturbed)
    def count_reconnection(self, event: BusDisturbed, now: float) -> None:
        """A node that had to reconnect has a link that breaks."""
        kind, _, node = event.source.partition("/")
        if kind == "node" and event.kind == "reconnected" and node in self.state.links:
            count_outage(self.state.links[node], RECONNECTION, self.settings, now)

    # The fleet

    def _tell(self, node: NodeId, change: str, now: float) -> Effects:
        state = self.state
        state.news.pop(node, None)
        state.news[node] = change
        if len(state.news) > NEWS_KEPT:
            del state.news[next(iter(state.news))]
        if not state.summary_due:
            state.summary_due = True
            due = now + self.settings.summary_delay
            if state.summary_at is not None:
                due = max(due, state.summary_at + self.settings.summary_interval)
            yield self.set_timer(SummaryDue(), due)

    @on(SummaryDue)
    def summarise(self, timer: SummaryDue, now: float) -> Effects:
        """The fleet's links in one line, after changes."""
        state = self.state
        state.summary_due = False
        if not state.news:
            return
        graded = [(link.scores[-1] if link.scores else 0.0, node, link.quality) for node, link in state.links.items()]
        known = sorted((entry for entry in graded if entry[2] is not None), key=lambda entry: entry[:2])
        online = [score for score, _, quality in known if quality is not LinkQuality.OFFLINE]
        counts = {quality: sum(entry[2] is quality for entry in known) for quality in policy.ORDER}
        told = [f"{node} {change}" for node, change in list(state.news.items())[:3]]
        more = len(state.news) - len(told)
        state.news = {}
        state.summary_version += 1
        state.summary_at = now
        yield self.publish(
            NetworkSummary(
                version=state.summary_version,
                nodes=len(known),
                grades=tuple(GradeCount(quality=quality, nodes=n) for quality, n in counts.items() if n),
                mean_score=round(sum(online) / len(online), 1) if online else 0.0,
                worst=tuple(node for _, node, _ in known[:3]),
                reason="; ".join(told) + (f"; and {more} more" if more else ""),
            )
        )

    # Restarts

    @on(Woken)
    def wake(self, event: Woken, now: float) -> Effects:
        """After an absence of its own the monitor holds no silence against anyone."""
        self.state.heard = now
        for _, link in sorted(self.state.links.items()):
            link.sequence = None
            link.watched = False
            link.outlook.due = min(link.outlook.due, now + outlook.FINE.seconds)  # clocks are set back now and then
            if link.quality is not LinkQuality.OFFLINE:
                link.heard = now
                yield from self._watch(link, now)
        if self.state.summary_due:
            yield self.set_timer(SummaryDue(), now + self.settings.summary_delay)

    @on(NodeProfile)
    def begin_anew(self, event: NodeProfile, now: float) -> None:
        """A node has come up again, and counts its probes from the start."""
        link = self.state.links.get(event.node)
        if link is not None and event.version > link.profile_version:
            link.profile_version = event.version
            link.sequence = None

    @on(LinkQualityChanged)
    def adopt(self, event: LinkQualityChanged, now: float) -> Effects:
        """What is published of a link holds: an earlier life of this monitor knew more. (Its own words are no news.)"""
        link = self._link(event.node)
        if event.version <= link.version:
            return
        link.version = event.version
        link.quality = event.quality
        link.published_ms = event.latency_ms
        link.crossing = 0
        if event.quality is LinkQuality.OFFLINE:
            link.away_since = now
        elif not link.watched:
            link.heard = now
            yield from self._watch(link, now)

    @on(NetworkSummary)
    def adopt_summary(self, event: NetworkSummary, now: float) -> None:
        """The summary's versions go on growing."""
        self.state.summary_version = max(self.state.summary_version, event.version)

    def check(self) -> None:
        """Raises `BrokenInvariant` unless counters fit their histories and everything is bounded."""
        self._check_fleet()
        for node in self.state.links:
            self._check_link(node)

    def check_after(self, event: msgspec.Struct) -> None:
        """A word of one node, or on it, is of one link."""
        node = getattr(event, "node", None)
        if node is None and not isinstance(event, _OF_NO_LINK):
            self.check()
            return
        self._check_fleet()
        if node in self.state.links:
            self._check_link(node)

    def _check_fleet(self) -> None:
        state = self.state
        self.require(len(state.links) <= self.settings.links_kept, "more links than are to be kept")
        self.require(len(state.news) <= NEWS_KEPT, "more news than a summary takes")
        self.require(not state.news or state.summary_due, "news without a summary to come")

    def _check_link(self, node: NodeId) -> None:
        link = self.state.links[node]
        self.require(node == link.node, f"{link.node} is filed as {node}")
        wrong = [*faults(link, self.settings), *outlook.faults(link.outlook)]
        self.require(not wrong, f"{node}: {'; '.join(wrong)}")
