"""How soon a dead node is known to be dead, and how often a living one is taken for dead: the failure detector and others.

    python -m benchmarks.detection [--json] [--hours 4] [--deaths 40] [--seed 1]

The same heartbeats go to time-outs of 2, 3, 5 and 10 s, to phi as Akka has it (normal; threshold 8, least deviation 0.1 s;
with its pause of 3 s and without) and as Cassandra has it (exponential; 8), and to the core of `agents.failure_detector`
with its default settings. `recorded`: real node processes over emulated links (`benchmarks.detection_record`), with a
spike, an outage that ends connections, and a busy machine. `simulated`: arrivals drawn here, by the links' figures: lost
segments sent again after time-outs that double, in order, machines that stall four times an hour, outages once an hour.

A node dies at random moments: `hangs` (its connection stands, nothing answers) or is `killed` (the server knows that its
connection has ended, which only the failure detector asks for). `false`: deaths of a living node, an hour of a node;
`cut off`: those in an outage, when it lives and nobody can reach it.
"""

import argparse
import heapq
import json
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise

import msgspec

from agents.base import Probe, Publish, Reach, SetTimer, Timer
from agents.failure_detector import FailureDetector, FailureDetectorSettings, FailureDetectorState
from agents.inputs import ProbeReturned, Reached, Woken
from benchmarks.detection_record import HERE, OUTAGE_AT, OUTAGE_SECONDS
from schemas.health import NodeHealth, Outcome
from schemas.network import LinkProbed
from schemas.nodes import NodeHeartbeat

# (round trip low and high, loss) of the emulator's profiles. Seconds, fraction.
LINKS = {
    "perfect": (0.0, 0.001, 0.0),
    "good": (0.010, 0.050, 0.001),
    "average": (0.050, 0.150, 0.01),
    "poor": (0.150, 0.300, 0.05),
    "unstable": (0.050, 0.500, 0.10),
}
RTO = 0.2  # seconds: Linux's least time-out of a retransmission
STALLS, STALL = 4.0, 1.5  # an hour, mean seconds: a machine that swaps, a disk that spins up
OUTAGES, OUTAGE = 1.0, 2.0  # an hour, mean seconds
RECONNECT = 0.3  # seconds after an outage until the server has the connection again
ASKED_RTT = 0.05  # seconds that an answer takes where nothing is held up
PROBES = 20  # of its link by the node, at the beginning: the mean is known by then
WARM_UP = 60.0  # seconds before the first death
START = 1_000_000.0  # of the core's clock
WINDOW = 1000  # gaps that phi is worked out from, in Akka and Cassandra
AKKA_Y = 5.23  # deviations above the mean at which Akka's logistic approximation gives phi 8


@dataclass(frozen=True)
class Heard:
    """A node's heartbeats as they came in, and when its connection was down."""

    source: str
    link: str
    arrivals: list[float]
    outages: list[tuple[float, float]] = field(default_factory=list)

    def is_cut_off(self, at: float) -> bool:
        """Whether a silence then is that of an outage."""
        last = max((time for time in self.arrivals if time <= at), default=0.0)
        return any(begin <= at and last <= over for begin, over in self.outages)

    @property
    def hours(self) -> float:
        """From the first to the last."""
        return (self.arrivals[-1] - self.arrivals[0]) / 3600


@dataclass(frozen=True)
class Row:
    """One detector on the heartbeats of one link."""

    source: str
    link: str
    detector: str
    false_per_hour: float
    cut_off_per_hour: float
    hangs_median: float
    hangs_95: float
    killed_median: float
    killed_95: float


# Heartbeats.


def recorded() -> list[Heard]:
    """What `benchmarks.detection_record` has kept."""
    outage = [(OUTAGE_AT, OUTAGE_AT + OUTAGE_SECONDS + RECONNECT)]
    return [Heard("recorded", link, times, outage) for link, times in json.loads(HERE.read_text()).items()]


def simulated(link: str, hours: float, rng: random.Random) -> Heard:
    """Arrivals over a link that loses segments, of a machine that stalls now and then."""
    low, high, loss = LINKS[link]
    end, sent, last = hours * 3600, 0.0, 0.0
    outages = list(_times(OUTAGES, OUTAGE, end, rng))
    stalls = list(_times(STALLS, STALL, end, rng))
    arrivals: list[float] = []
    while sent < end:
        sent += 1.0 + rng.expovariate(200.0)
        while stalls and stalls[0][0] < sent:
            sent = max(sent, stalls.pop(0)[1])
        delay, timeout = rng.uniform(low, high) / 2, RTO + high
        while rng.random() < loss:
            delay, timeout = delay + timeout, 2 * timeout
        if not any(begin <= sent <= over + RECONNECT for begin, over in outages):
            last = max(last, sent + delay)
            arrivals.append(last)
    return Heard("simulated", link, arrivals, [(begin, over + RECONNECT) for begin, over in outages])


def _times(per_hour: float, mean: float, end: float, rng: random.Random) -> Iterator[tuple[float, float]]:
    at = rng.expovariate(per_hour / 3600)
    while at < end:
        yield at, at + rng.expovariate(1 / mean)
        at += rng.expovariate(per_hour / 3600)


# Detectors that know arrivals alone: a silence's limit after each one.


def fixed(seconds: float) -> Callable[[list[float]], list[float]]:
    """The same limit always."""
    return lambda arrivals: [seconds] * len(arrivals)


def akka(pause: float) -> Callable[[list[float]], list[float]]:
    """Phi 8 of a normal distribution over the last thousand gaps, after a pause that is acceptable."""

    def limits(arrivals: list[float]) -> list[float]:
        # Akka begins with the expected interval and a quarter of it as deviation.
        window, found = deque([0.75, 1.25]), [1.0 + pause + AKKA_Y * 0.25]
        total, squares = sum(window), sum(gap * gap for gap in window)
        for one, other in pairwise(arrivals):
            window.append(other - one)
            total, squares = total + window[-1], squares + window[-1] ** 2
            if len(window) > WINDOW:
                old = window.popleft()
                total, squares = total - old, squares - old * old
            mean = total / len(window)
            deviation = math.sqrt(max(0.0, squares / len(window) - mean * mean))
            found.append(mean + pause + AKKA_Y * max(0.1, deviation))
        return found

    return limits


def cassandra(arrivals: list[float]) -> list[float]:
    """Phi 8 of an exponential distribution over the last thousand gaps."""
    found = [8 * math.log(10)]
    for number, at in enumerate(arrivals[1:], 1):
        first = max(0, number - WINDOW)
        found.append(8 * math.log(10) * (at - arrivals[first]) / (number - first))
    return found


def by_limits(heard: Heard, limits: list[float], deaths: list[float]) -> tuple[list[float], list[float], list[float]]:
    """When it was falsely dead, and seconds until deaths are known, the same whatever the node died of."""
    gaps = zip(pairwise(heard.arrivals), limits, strict=False)
    false = [one + limit for (one, other), limit in gaps if other - one > limit]
    found = []
    for death in deaths:
        last = max(i for i, at in enumerate(heard.arrivals) if at <= death)
        found.append(max(0.0, heard.arrivals[last] + limits[last] - death))
    return false, found, found


# The failure detector itself.


class Replayed:
    """The core of the failure detector, one node, and its heartbeats."""

    def __init__(self, heard: Heard, core: FailureDetector | None = None) -> None:
        self.heard = heard
        self.core = core or FailureDetector(FailureDetectorSettings(), random.Random(1))
        self.now = START
        self.timers: dict[Timer, float] = {}
        self.queue: list[tuple[float, int, msgspec.Struct]] = []
        self.count = 0
        self.next = 0
        """The heartbeat that comes next."""
        self.fate: Outcome | None = None
        """What asking the node gives since it died."""
        self.deaths: list[float] = []

    def later(self, at: float, event: msgspec.Struct) -> None:
        """Bring an input in then."""
        self.count += 1
        heapq.heappush(self.queue, (at, self.count, event))

    def run(self, until: float) -> None:
        """Everything up to a time of the recording."""
        end, arrivals = START + until, self.heard.arrivals
        while True:
            beat = START + arrivals[self.next] if self.fate is None and self.next < len(arrivals) else math.inf
            if min(beat, self.queue[0][0] if self.queue else math.inf) > end:
                break
            if self.queue and self.queue[0][0] < beat:
                at, _, event = heapq.heappop(self.queue)
                if isinstance(event, Timer) and self.timers.get(event) != at:
                    continue
            else:
                at, self.next = beat, self.next + 1
                event = NodeHeartbeat(id=f"node/n:1:{self.next}", node="n", sequence=self.next, interval=1.0)
            self.now = at
            self.give(event)
        self.now = end

    def give(self, event: msgspec.Struct) -> None:
        """One input."""
        for effect in self.core.handle(event, self.now):
            match effect:
                case SetTimer():
                    self.timers[effect.timer] = effect.at
                    self.later(effect.at, effect.timer)
                case Probe():
                    self.later(self.now + 0.001, ProbeReturned(sequence=effect.sequence, rtt=0.001))
                case Reach():
                    self._ask(effect)
                case Publish(message=NodeHealth(state="dead")):
                    self.deaths.append(self.now - START)

    def _ask(self, effect: Reach) -> None:
        """A living node's answer is held up by what holds its heartbeats up."""
        now = self.now - START
        outcome, after = self.fate, effect.timeout if self.fate == "silent" else ASKED_RTT
        if outcome is None and any(begin <= now <= over for begin, over in self.heard.outages):
            outcome, after = "absent", ASKED_RTT
        if outcome is None:
            coming = self.heard.arrivals[self.next] if self.next < len(self.heard.arrivals) else math.inf
            due = self.next > 0 and now > self.heard.arrivals[self.next - 1] + 1.0
            after = coming - now + ASKED_RTT if due else ASKED_RTT
            outcome = "answered" if after <= effect.timeout else "silent"
        rtt = ASKED_RTT if outcome == "answered" else None
        answer = Reached(node="n", ticket=effect.ticket, outcome=outcome, rtt=rtt)
        self.later(self.now + min(after, effect.timeout), answer)

    def died(self, fate: Outcome) -> float:
        """Seconds until a death here and now is known; this replay goes on as if nothing had happened."""
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.core.state), type=FailureDetectorState)
        other = Replayed(self.heard, FailureDetector(FailureDetectorSettings(), random.Random(1), state))
        other.now, other.timers, other.queue, other.count = self.now, dict(self.timers), list(self.queue), self.count
        other.next, other.fate = self.next, fate
        if self.core.state.nodes["n"].state == "dead":
            return 0.0
        other.run(self.now - START + 60.0)
        return other.deaths[0] - (self.now - START)


def by_core(heard: Heard, deaths: list[float]) -> tuple[list[float], list[float], list[float]]:
    """As `by_limits`, of the failure detector."""
    replay = Replayed(heard)
    replay.give(Woken(incarnation=1, resumed=False, at=START))
    replay.run(heard.arrivals[0])
    rtt_ms = 1000 * statistics.fmean(LINKS[heard.link][:2])
    for sequence in range(PROBES):
        replay.give(LinkProbed(node="n", sequence=sequence, rtt_ms=rtt_ms))
    hangs, killed = [], []
    for death in sorted(deaths):
        replay.run(death)
        hangs.append(replay.died("silent"))
        killed.append(replay.died("absent"))
    replay.run(heard.arrivals[-1])
    return replay.deaths, hangs, killed


# The table.

DETECTORS: dict[str, Callable[[Heard, list[float]], tuple[list[float], list[float], list[float]]]] = {
    **{f"{s} s": lambda h, d, s=s: by_limits(h, fixed(s)(h.arrivals), d) for s in (2, 3, 5, 10)},
    "phi, normal": lambda h, d: by_limits(h, akka(0.0)(h.arrivals), d),
    "phi, normal, 3 s pause": lambda h, d: by_limits(h, akka(3.0)(h.arrivals), d),
    "phi, exponential": lambda h, d: by_limits(h, cassandra(h.arrivals), d),
    "failure_detector": by_core,
}


def measure(heard: Heard, deaths: int, rng: random.Random) -> Iterator[Row]:
    """All detectors on one link's heartbeats."""
    first, last = heard.arrivals[0], heard.arrivals[-1]
    times = sorted(rng.uniform(first + WARM_UP, last - 1.0) for _ in range(deaths))
    for name, judge in DETECTORS.items():
        false, hangs, killed = judge(heard, times)
        h, k = statistics.quantiles(hangs, n=20), statistics.quantiles(killed, n=20)
        cut = sum(map(heard.is_cut_off, false))
        figures = (
            (len(false) - cut) / heard.hours,
            cut / heard.hours,
            statistics.median(hangs),
            h[18],
            statistics.median(killed),
            k[18],
        )
        yield Row(heard.source, heard.link, name, *(round(figure, 2) for figure in figures))


FIGURES = ("false_per_hour", "cut_off_per_hour", "hangs_median", "hangs_95", "killed_median", "killed_95")


def _together(rows: list[Row]) -> Iterator[Row]:
    """Each detector over all links of a source: the mean of its false deaths, the medians of its times."""
    for source in dict.fromkeys(row.source for row in rows):
        for detector in DETECTORS:
            some = [row for row in rows if (row.source, row.detector) == (source, detector)]
            columns = [[getattr(row, name) for row in some] for name in FIGURES]
            yield Row(source, "all", detector, *map(statistics.fmean, columns[:2]), *map(statistics.median, columns[2:]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hours", type=float, default=4.0, help="of simulated heartbeats, each link")
    parser.add_argument("--deaths", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    series = recorded() + [simulated(link, options.hours, rng) for link in LINKS]
    rows = [row for heard in series for row in measure(heard, options.deaths, rng)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"{'heartbeats':22}{'detector':24}{'false/h':>9}{'cut/h':>8}{'hangs':>8}{'95 %':>7}{'killed':>8}{'95 %':>7}")
    for row in [*rows, *_together(rows)]:
        figures = f"{row.hangs_median:8.1f}{row.hangs_95:7.1f}{row.killed_median:8.1f}{row.killed_95:7.1f}"
        false = f"{row.false_per_hour:9.1f}{row.cut_off_per_hour:8.1f}"
        print(f"{row.source + ' ' + row.link:22}{row.detector:24}{false}{figures}")


if __name__ == "__main__":
    main()
