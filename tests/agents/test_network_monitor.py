"""The network monitor's core, called directly with a virtual clock."""

import random
from collections.abc import Iterable

import msgspec
import pytest

from agents.base import BrokenInvariant
from agents.effects import Effect, Publish, SetTimer
from agents.inputs import Woken
from agents.network_monitor import NetworkMonitor, NetworkMonitorSettings, NetworkMonitorState
from agents.network_monitor.state import Silence, SummaryDue
from schemas.bus import BusDisturbed
from schemas.decisions import NodeLost
from schemas.network import LinkProbed, LinkQuality, LinkQualityChanged, NetworkAlert, NetworkSummary
from schemas.nodes import NodeLeaving, NodeProfile
from schemas.wire import Message


class Desk:
    """A monitor with its timers, one probe a second, and everything it said."""

    def __init__(self, state: NetworkMonitorState | None = None, **settings: float) -> None:
        self.core = NetworkMonitor(NetworkMonitorSettings(**settings), random.Random(0), state)  # type: ignore[arg-type]
        self.now = 1000.0
        self.sequence: dict[str, int] = {}
        self.timers: dict[msgspec.Struct, float] = {}
        self.said: list[tuple[float, Message]] = []

    def tell(self, event: msgspec.Struct) -> list[Effect]:
        effects = self.core.handle(event, self.now, cause="test:1:1")
        self.core.check()
        for effect in effects:
            if isinstance(effect, SetTimer):
                self.timers[effect.timer] = effect.at
            elif isinstance(effect, Publish):
                assert effect.cause == "test:1:1"
                self.said.append((self.now, effect.message))
        return effects

    def probe(self, rtt_ms: float | None, node: str = "n", retransmitted: float | None = None) -> None:
        self.sequence[node] = self.sequence.get(node, -1) + 1
        self.tell(LinkProbed(node=node, sequence=self.sequence[node], rtt_ms=rtt_ms, retransmitted=retransmitted))

    def wait(self, seconds: float) -> None:
        """Time goes by; timers come due in order."""
        end = self.now + seconds
        while due := [(at, i, timer) for i, (timer, at) in enumerate(self.timers.items()) if at <= end]:
            at, _, timer = min(due)
            self.now = max(self.now, at)
            del self.timers[timer]
            self.tell(timer)
        self.now = end

    def run(self, rtts: Iterable[float | None], node: str = "n") -> None:
        for rtt_ms in rtts:
            self.probe(rtt_ms, node)
            self.wait(1.0)

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for _, message in self.said if isinstance(message, kind)]

    @property
    def grades(self) -> list[LinkQuality]:
        return [message.quality for message in self.of(LinkQualityChanged) if isinstance(message, LinkQualityChanged)]

    @property
    def alerts(self) -> list[str]:
        return [message.kind for message in self.of(NetworkAlert) if isinstance(message, NetworkAlert)]


def test_a_first_grade_comes_after_the_warm_up_and_not_before() -> None:
    desk = Desk()
    desk.run([0.5] * 4)
    assert desk.grades == []
    desk.run([0.5])
    (grade,) = desk.of(LinkQualityChanged)
    assert isinstance(grade, LinkQualityChanged)
    assert (grade.quality, grade.previous, grade.version) == (LinkQuality.EXCELLENT, None, 1)
    assert grade.score > 95
    assert "graded excellent" in grade.reason


def test_a_lasting_spike_is_an_alert_at_once_and_another_grade_after_the_dwell() -> None:
    desk = Desk()
    desk.run([30.0] * 60)
    start = desk.now
    desk.run([830.0] * 5)
    alert = next((at, m) for at, m in desk.said if isinstance(m, NetworkAlert))
    assert alert[1].kind == "latency_spike"
    assert "830 ms" in alert[1].reason
    assert "usually 30 ms" in alert[1].reason
    assert alert[0] - start <= 2
    assert desk.grades == [LinkQuality.GOOD, LinkQuality.POOR]
    last = desk.of(LinkQualityChanged)[-1]
    assert isinstance(last, LinkQualityChanged)
    assert last.version == 2
    assert "(was 30 ms)" in last.reason
    assert last.reason.endswith("good -> poor")


def test_after_a_spike_the_grade_comes_back_and_the_recovery_is_told() -> None:
    desk = Desk()
    desk.run([30.0] * 60 + [830.0] * 5 + [30.0] * 60)
    assert desk.alerts == ["latency_spike", "recovered"]
    assert desk.grades[-1] is LinkQuality.GOOD
    assert desk.core.state.links["n"].spike_from_ms is None


def test_a_link_that_gets_better_at_once_is_never_graded_worse_on_the_way() -> None:
    desk = Desk()
    desk.run([220.0] * 60)
    assert desk.grades == [LinkQuality.FAIR]
    desk.run([20.0] * 60)
    assert desk.grades == [LinkQuality.FAIR, LinkQuality.GOOD]


def test_a_late_probe_alone_is_a_retransmission_and_no_sample_of_the_round_trip() -> None:
    desk = Desk()
    desk.run([30.0] * 60)
    before = desk.core.state.links["n"].estimate.smoothed_ms
    desk.run([290.0])
    desk.run([30.0])
    estimate = desk.core.state.links["n"].estimate
    assert estimate.smoothed_ms == pytest.approx(before, abs=0.01)
    assert estimate.sent_again == 1
    assert desk.alerts == []


def test_a_slower_answer_within_the_time_out_is_a_sample() -> None:
    desk = Desk()
    desk.run([30.0] * 60)
    desk.run([200.0])
    estimate = desk.core.state.links["n"].estimate
    assert estimate.sent_again == 0
    assert estimate.smoothed_ms == pytest.approx(30 + 170 / 8, abs=0.1)


def test_a_long_dip_below_a_boundary_but_within_the_margin_changes_nothing() -> None:
    rng = random.Random(3)
    desk = Desk()
    desk.run([30.0] * 60)
    boundary_ms = 63.0  # score 76, where `good` ends
    desk.run([boundary_ms + rng.uniform(-12, 12) for _ in range(1200)])
    assert len(desk.grades) <= 2


def test_a_boundary_must_be_crossed_for_some_probes_in_a_row() -> None:
    desk = Desk()
    desk.run([30.0] * 30)
    link, settings = desk.core.state.links["n"], desk.core.settings
    for _ in range(5):
        for _ in range(settings.dwell_worse - 1):
            assert list(desk.core._grade(link, 50.0, desk.now)) == []
        assert list(desk.core._grade(link, 80.0, desk.now)) == []
    assert desk.grades == [LinkQuality.GOOD]
    effects = [list(desk.core._grade(link, 50.0, desk.now)) for _ in range(settings.dwell_worse)]
    assert [bool(some) for some in effects] == [False] * (settings.dwell_worse - 1) + [True]


def test_unanswered_probes_raise_one_alert_however_long_they_last() -> None:
    desk = Desk()
    desk.run([30.0] * 60 + [None] * 80)
    assert desk.alerts.count("loss") == 1
    (alert,) = desk.of(NetworkAlert)
    assert isinstance(alert, NetworkAlert)
    assert "3 probes in a row" in alert.reason
    assert desk.grades[-1] is LinkQuality.CRITICAL


def test_the_kernels_retransmissions_count_as_loss() -> None:
    clean, lossy = Desk(), Desk()
    for _ in range(100):
        clean.probe(30.0, retransmitted=0.0)
        clean.wait(1.0)
        lossy.probe(30.0, retransmitted=0.08)
        lossy.wait(1.0)
    assert clean.grades == [LinkQuality.GOOD]
    assert lossy.grades[0] is LinkQuality.GOOD
    assert lossy.grades[-1] is LinkQuality.FAIR


def test_silence_makes_a_link_offline_and_a_return_is_told() -> None:
    desk = Desk()
    desk.run([30.0, 31.0] * 30)
    desk.run([1.0] * 10, "m")  # somebody else goes on, so the monitor's own ears are all right
    offline = [m for m in desk.of(LinkQualityChanged) if isinstance(m, LinkQualityChanged) and m.node == "n"][-1]
    assert offline.quality is LinkQuality.OFFLINE
    assert offline.score == 0
    assert "no probe for" in offline.reason
    assert "offline" in desk.alerts
    for _ in range(10):
        desk.run([30.0])
        desk.probe(1.0, "m")
    back = [m for m in desk.of(LinkQualityChanged) if isinstance(m, LinkQualityChanged) and m.node == "n"][-1]
    assert (back.previous, back.quality) == (LinkQuality.OFFLINE, LinkQuality.GOOD)
    assert back.version == offline.version + 1
    assert desk.alerts[-1] == "recovered"
    assert desk.core.state.links["n"].outages > 0.9


def test_a_silence_of_everyone_is_first_taken_for_deafness() -> None:
    desk = Desk()
    for _ in range(10):
        desk.probe(5.0, "a")
        desk.run([5.0], "b")
    desk.wait(10.0)
    assert desk.grades == [LinkQuality.EXCELLENT] * 2
    desk.wait(10.0)
    assert desk.grades[2:] == [LinkQuality.OFFLINE] * 2


def test_a_goodbye_is_offline_at_once_and_no_fault_of_the_link() -> None:
    desk = Desk()
    desk.run([30.0] * 10)
    desk.tell(NodeLeaving(node="n", reason="shutting down"))
    assert desk.grades[-1] is LinkQuality.OFFLINE
    assert desk.alerts == []
    assert desk.core.state.links["n"].outages == 0
    desk.tell(NodeLeaving(node="stranger", reason="never seen"))
    assert "stranger" not in desk.core.state.links


def test_a_verdict_of_death_is_not_believed_while_probes_come() -> None:
    desk = Desk()
    desk.run([30.0] * 10)
    lost = NodeLost(node="n", silent_seconds=5.0, reason="5 heartbeats missed")
    desk.now -= 0.5
    desk.tell(lost)
    assert desk.grades == [LinkQuality.GOOD]
    desk.now += 3.0
    desk.tell(lost)
    assert desk.grades == [LinkQuality.GOOD, LinkQuality.OFFLINE]


def test_duplicates_and_overtaken_probes_are_ignored() -> None:
    desk = Desk()
    desk.run([30.0] * 10)
    before = msgspec.msgpack.encode(desk.core.state)
    for sequence in (9, 3):
        assert desk.tell(LinkProbed(node="n", sequence=sequence, rtt_ms=900.0)) == []
    assert msgspec.msgpack.encode(desk.core.state) == before


def test_probes_that_never_came_count_as_unanswered() -> None:
    desk = Desk()
    desk.run([30.0] * 20)
    desk.sequence["n"] += 4
    desk.run([30.0])
    assert desk.core.state.links["n"].estimate.unanswered == 4
    desk.sequence["n"] += 500
    desk.run([30.0])
    link = desk.core.state.links["n"]
    assert link.estimate.unanswered == 4
    assert link.outages > 0.9


def test_a_node_that_began_anew_counts_from_the_start() -> None:
    desk = Desk()
    desk.run([30.0] * 20)
    desk.tell(NodeProfile(node="n", version=2, host="h", site="h", cpus=1, memory_bytes=1))
    desk.sequence["n"] = -1
    desk.run([30.0] * 3)
    link = desk.core.state.links["n"]
    assert len(link.estimate.history) == 23
    assert link.estimate.unanswered == 0


def test_a_reconnection_costs_reliability_for_a_while() -> None:
    desk = Desk()
    desk.run([30.0] * 60)
    before = desk.core.state.links["n"].scores[-1]
    desk.core.handle(BusDisturbed(source="node/n", kind="reconnected", reason="link cut", seconds=1.0), desk.now)
    desk.run([30.0])
    assert desk.core.state.links["n"].scores[-1] < before - 2
    desk.run([30.0] * 1500)
    assert desk.core.state.links["n"].scores[-1] > before - 0.5


def test_a_flapping_link_is_called_so_and_praised_more_slowly() -> None:
    desk = Desk()
    desk.run([5.0] * 30)
    for _ in range(4):
        desk.run([400.0] * 12 + [5.0] * 30)
    assert "flapping" in desk.alerts
    assert desk.alerts.count("flapping") <= 4
    changes = len(desk.grades)
    desk.run([400.0] * 12 + [5.0] * 12)
    calm = Desk()
    calm.run([5.0] * 30 + [400.0] * 12 + [5.0] * 30)
    assert len(desk.grades) - changes <= 2
    assert calm.grades[-1] in (LinkQuality.EXCELLENT, LinkQuality.GOOD)


def test_the_summary_gathers_changes_and_is_rate_limited() -> None:
    desk = Desk()
    for _ in range(8):
        for node, rtt_ms in (("a", 0.5), ("b", 30.0), ("c", 220.0)):
            desk.probe(rtt_ms, node)
        desk.wait(1.0)
    (summary,) = desk.of(NetworkSummary)
    assert isinstance(summary, NetworkSummary)
    assert summary.nodes == 3
    assert {count.quality.value: count.nodes for count in summary.grades} == {"excellent": 1, "good": 1, "fair": 1}
    assert summary.worst == ("c", "b", "a")
    assert "a graded excellent" in summary.reason
    for _ in range(30):
        desk.probe(0.5, "a")
        desk.probe(30.0, "b")
        desk.probe(220.0, "c")
        desk.wait(1.0)
    assert len(desk.of(NetworkSummary)) == 1, "nothing changed"
    desk.tell(NodeLeaving(node="c", reason="bye"))
    desk.wait(2.0)
    last = desk.of(NetworkSummary)[-1]
    assert isinstance(last, NetworkSummary)
    assert (last.version, last.worst[0]) == (2, "c")
    desk.tell(NodeLeaving(node="b", reason="bye"))
    desk.wait(2.0)
    assert len(desk.of(NetworkSummary)) == 2, "too soon for another"
    desk.wait(10.0)
    assert len(desk.of(NetworkSummary)) == 3


def test_a_trend_shows_when_a_link_gets_slowly_worse() -> None:
    desk = Desk()
    desk.run([30.0] * 40)
    desk.run([30.0 + 4 * i for i in range(60)])
    last = desk.of(LinkQualityChanged)[-1]
    assert isinstance(last, LinkQualityChanged)
    assert last.trend == "degrading"


def test_a_monitor_without_memory_adopts_what_is_published() -> None:
    first = Desk()
    first.run([30.0] * 60 + [400.0] * 30)
    published = first.of(LinkQualityChanged)[-1]
    assert isinstance(published, LinkQualityChanged)
    second = Desk()
    second.tell(Woken(incarnation=2, resumed=False, at=0.0))
    second.tell(published)
    second.run([400.0] * 30)
    assert second.grades == [], "nothing new to say"
    second.run([5.0] * 150)
    again = second.of(LinkQualityChanged)[0]
    assert isinstance(again, LinkQualityChanged)
    assert again.version == published.version + 1
    assert again.previous is published.quality


def test_an_adopted_link_of_a_node_that_is_gone_goes_offline() -> None:
    desk = Desk()
    desk.tell(Woken(incarnation=2, resumed=False, at=0.0))
    desk.tell(
        LinkQualityChanged(
            node="ghost",
            version=7,
            quality=LinkQuality.GOOD,
            previous=None,
            score=80,
            latency_ms=30,
            jitter_ms=5,
            loss=0,
            trend="stable",
            reason="earlier",
        )
    )
    desk.wait(30.0)
    assert desk.grades == [LinkQuality.OFFLINE]
    last = desk.of(LinkQualityChanged)[-1]
    assert isinstance(last, LinkQualityChanged)
    assert last.version == 8


def test_a_restart_with_memory_holds_no_silence_against_anyone() -> None:
    desk = Desk()
    desk.run([30.0] * 60)
    memory = msgspec.msgpack.decode(msgspec.msgpack.encode(desk.core.state), type=NetworkMonitorState)
    again = Desk(memory)
    again.now = desk.now + 40.0
    again.tell(Woken(incarnation=2, resumed=True, at=0.0))
    assert Silence(node="n") in again.timers
    again.sequence["n"] = 100
    again.run([30.0] * 20)
    assert again.grades == []
    assert again.core.state.links["n"].estimate.unanswered == 0


def test_links_are_bounded_and_the_longest_absent_goes_first() -> None:
    desk = Desk(links_kept=16)
    for _ in range(5):
        for i in range(16):
            desk.probe(1.0, f"n{i}")
        desk.wait(1.0)
    desk.tell(NodeLeaving(node="n3", reason="bye"))
    desk.tell(NodeLeaving(node="n9", reason="bye"))
    desk.probe(1.0, "new")
    assert len(desk.core.state.links) == 16
    assert "n3" not in desk.core.state.links
    assert "n9" in desk.core.state.links


def test_a_forgotten_link_has_no_say_when_its_timer_comes() -> None:
    desk = Desk()
    assert desk.tell(Silence(node="nobody")) == []
    assert desk.tell(SummaryDue()) == []


def test_after_a_probe_its_link_is_checked_after_a_summary_none_and_after_anything_else_all() -> None:
    desk = Desk()
    desk.run([20.0] * 6, "a")
    desk.run([20.0] * 6, "b")
    desk.core.state.links["b"].estimate.unanswered += 1
    probed = LinkProbed(node="a", sequence=7, rtt_ms=20.0)
    desk.core.check_after(probed)
    desk.core.check_after(SummaryDue())
    woken = Woken(incarnation=2, resumed=True, at=0.0)
    with pytest.raises(BrokenInvariant, match="b: unanswered probes miscounted"):
        desk.core.check_after(woken)
    with pytest.raises(BrokenInvariant, match="b: unanswered probes miscounted"):
        desk.core.check_after(msgspec.structs.replace(probed, node="b"))
    desk.core.state.links["b"].estimate.unanswered -= 1
    desk.core.check_after(woken)
