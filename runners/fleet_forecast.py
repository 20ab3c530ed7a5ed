"""What a fleet would make of a job, from what its machines measured of themselves: rounds as they would be, appraised.

Shares, encodings and the deadline are the batch controller's own: its core is told of the measurements as it would hear of
them in a job, for as many rounds as it takes to settle. Then jobs are drawn, with speeds and links from what was measured,
and appraised like real ones (`agents.appraiser`): as a whole, and without a node. What isn't in it: moods that the
measurement didn't see, missed deadlines, nodes that fail, larger microbatches, and a controller that takes long to settle.
"""

import random
from collections.abc import Mapping
from statistics import fmean, median

import msgspec

from agents.appraiser import Appraisal, Part, RoundSeen, appraise_possible
from agents.appraiser.rounds import asked_of, stretch
from agents.base import Effect, Publish, SetTimer
from agents.batch_controller import BatchController, BatchControllerSettings
from agents.batch_controller.links import BYTES
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.measuring import Carried, NodeMeasured
from schemas.network import LinkQualityChanged
from schemas.nodes import NodeProfile
from schemas.training import (
    Assignment,
    Average,
    Contribution,
    ContributionReceived,
    Roster,
    RoundClosed,
    Share,
    StepTimed,
    TrainerReady,
    TransferTimed,
    Tuning,
)
from schemas.wire import Message

JOB = "forecast"
SETTLING = 12  # rounds: a microbatch or a number of steps has found its place by then
DRAWS = 100  # fleets that might be: the 5 % and 95 % points are then good to some tenth of the interval
JOB_ROUNDS = 10  # of each: their mean is then near that of a long job
FORECAST_ERROR = 0.1  # added to intervals at either end: what forecasts were off by, where links and speeds held
TAIL = 0.05  # on either side of the interval
CLOSING = 0.05  # seconds: averaging and the words that close a round, on a small model


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A node with what is known of it."""

    measured: NodeMeasured
    profile: NodeProfile
    link: LinkQualityChanged | None = None

    @property
    def samples_per_second(self) -> float:
        """By itself, without any network."""
        return self.measured.microbatch / fmean(self.measured.step_seconds)

    @property
    def latency(self) -> float:
        """Seconds of a round trip; 0 before its link has a grade."""
        return self.link.latency_ms / 1e3 if self.link is not None else 0.0


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with its 90 % interval."""

    value: float
    low: float
    high: float


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet would make of a job."""

    best: str
    """The machine that is fastest by itself."""
    best_samples_per_second: float
    fleet: Interval
    """Useful samples a second."""
    gain: Interval
    """Of the fleet over the best machine alone: 1.7: 1.7 times as many useful samples a second."""
    round_seconds: float
    appraisal: Appraisal
    shares: dict[str, Share]


def forecast(machines: Mapping[str, Machine], request: JobRequest, rng: random.Random) -> Forecast:
    """What these machines would make of a job, all of them measured in whole."""
    plan = _planned(machines, request)
    asked = asked_of(request, plan.length)
    rounds, gains = [], []
    for _ in range(DRAWS):
        fleet = {name: _as_it_may_be(machine, rng) for name, machine in machines.items()}
        job = [
            _round([_drawn(one, plan, name, rng) for name, one in fleet.items()], plan, asked) for _ in range(JOB_ROUNDS)
        ]
        useful = sum(part.samples / (1 + part.late) for each in job for part in each.parts)
        alone = max(one.samples_per_second for one in fleet.values())
        gains.append(useful / sum(each.seconds for each in job) / alone)
        rounds += job
    gains.sort()
    appraisal = appraise_possible(rounds, JOB_ROUNDS)
    best = max(machines, key=lambda name: machines[name].samples_per_second)
    return Forecast(
        best=best,
        best_samples_per_second=machines[best].samples_per_second,
        fleet=_interval(appraisal.samples_per_second, appraisal.low, appraisal.high),
        gain=_interval(median(gains), gains[round(TAIL * (DRAWS - 1))], gains[round((1 - TAIL) * (DRAWS - 1))]),
        round_seconds=fmean(each.seconds for each in rounds),
        appraisal=appraisal,
        shares=dict(plan.shares),
    )


def _interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low * (1 - FORECAST_ERROR), high=high * (1 + FORECAST_ERROR))


# A round that might be.


class _Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A node in a round."""

    name: str
    compute: float
    """Seconds of its share."""
    up: float
    down: float
    """Seconds of its difference, and of the average."""
    average_up: float
    """Seconds of the average if it reduces."""
    size: int


def _as_it_may_be(machine: Machine, rng: random.Random) -> Machine:
    """A machine of which the same might have been measured: its steps drawn anew, and one transfer of each direction."""
    measured = machine.measured
    again = msgspec.structs.replace(
        measured,
        step_seconds=tuple(rng.choices(measured.step_seconds, k=len(measured.step_seconds))),
        up=(rng.choice(_steady(measured.up)),),
        down=(rng.choice(_steady(measured.down)),),
    )
    return msgspec.structs.replace(machine, measured=again)


def _drawn(machine: Machine, plan: Assignment, name: str, rng: random.Random) -> _Drawn:
    """A round of it. All its steps take as long as one of those measured: what slows a machine lasts longer than a step."""
    measured, share = machine.measured, plan.shares[name]
    up, down = rng.choice(_steady(measured.up)), rng.choice(_steady(measured.down))
    latency = machine.latency
    size, average = (measured.parameters * BYTES[encoding] for encoding in (share.encoding, plan.average_encoding))
    return _Drawn(
        name=name,
        compute=rng.choice(measured.step_seconds) / measured.microbatch * share.microbatch * share.local_steps,
        up=_seconds(up, size, latency),
        down=_seconds(down, average, latency),
        average_up=_seconds(up, average, latency),
        size=round(size),
    )


def _steady(transfers: tuple[Carried, ...]) -> list[Carried]:
    """The largest transfers: small ones are mostly round trips."""
    largest = max(each.bytes for each in transfers)
    return [each for each in transfers if each.bytes == largest]


def _seconds(transfer: Carried, size: float, latency: float) -> float:
    """For `size` bytes on a link that has just carried a transfer: a round trip, and the rest by the bytes."""
    moving = max(transfer.seconds - latency, transfer.seconds / 10)
    return latency + size * moving / transfer.bytes


def _round(nodes: list[_Drawn], plan: Assignment, asked: float) -> RoundSeen:
    order = sorted(nodes, key=lambda node: (node.average_up, node.name))
    reducer = order[0]
    holders = [node.down for node in nodes if node is not reducer]
    parts, waited_for = [], []
    for node in nodes:
        share = plan.shares[node.name]
        up = 0.0 if node is reducer else max(node.up, node.size * reducer.down / max(1, reducer.size))
        samples = share.microbatch * share.local_steps / share.every
        begins = 0.0 if node is reducer else node.down
        arrived = begins + node.compute + up if share.every == 1 else 0.0
        parts.append(
            Part(
                node=node.name,
                samples=samples,
                late=share.every - 1,
                arrived=arrived,
                compute=node.compute,
                up=up,
                size=node.size,
            )
        )
        if share.every == 1:
            waited_for.append(node.name)
    collected = max((part.arrived for part in parts if part.late == 0), default=0.0)
    handed = CLOSING + (reducer.average_up + min(holders) if holders else 0.0)
    regular = {name: float(s.microbatch * s.local_steps) for name, s in plan.shares.items() if s.every == 1}
    return RoundSeen(
        number=1,
        seconds=min(collected, plan.deadline_seconds) + handed,
        members=tuple(sorted(node.name for node in nodes)),
        parts=tuple(parts),
        waited_for=tuple(waited_for),
        deadline=plan.deadline_seconds,
        quorum=len(nodes) // 3 + 1,
        reducer=reducer.name,
        heirs=tuple(node.name for node in order[1:]),
        average_size=reducer.size,
        stretch=stretch(regular, asked),
    )


# What the batch controller would do.


def _planned(machines: Mapping[str, Machine], request: JobRequest) -> Assignment:
    """The assignment that the batch controller settles on. The microbatch stays as it was measured."""
    size = request.microbatch
    request = msgspec.structs.replace(request, microbatch_min=min(size, request.microbatch_min), microbatch_max=size)
    driver = _Driver(machines, request)
    for number in range(1, SETTLING + 1):
        driver.round(number)
    return driver.assignment


class _Driver:
    """Plays a job's rounds to a batch controller, on the measured figures' medians."""

    def __init__(self, machines: Mapping[str, Machine], request: JobRequest) -> None:
        self._machines = machines
        self._core = BatchController(BatchControllerSettings(), random.Random(0))
        self._now = 0.0
        self._rng = random.Random(0)
        self._told: Assignment | None = None
        names = tuple(sorted(machines))
        order = sorted(names, key=lambda name: machines[name].latency)
        self._reducer = order[0]
        for machine in machines.values():
            self._tell(machine.profile)
            if machine.link is not None:
                self._tell(machine.link)
        self._tell(
            JobState(
                job=JOB,
                version=1,
                state=JobPhase.RUNNING,
                reason="a forecast",
                round=0,
                rounds=SETTLING,
                request=request,
                submitted_at=0.0,
            )
        )
        quorum = len(names) // 3 + 1
        self._tell(Roster(job=JOB, version=1, nodes=names, reducers=tuple(order[:3]), quorum=quorum, reason="a forecast"))
        for name in names:
            count = machines[name].measured.parameters
            self._tell(TrainerReady(job=JOB, node=name, version=0, digest="", parameters=count, device=""))
        self._tell(
            Tuning(
                job=JOB,
                version=1,
                phase="adaptive",
                policy=request.adaptation,
                adapt=request.adaptation != "off",
                max_factor=64.0,
                reason="a forecast",
            )
        )

    @property
    def assignment(self) -> Assignment:
        """The present one."""
        assert self._told is not None
        return self._told

    def round(self, number: int) -> None:
        """A round of everybody's share; who contributes every few rounds does so in all of them here."""
        plan, took, counted = self.assignment, 0.0, []
        for name, machine in self._machines.items():
            drawn, share = _drawn(machine, plan, name, self._rng), plan.shares[name]
            samples = share.microbatch * share.local_steps
            self._tell(
                StepTimed(
                    job=JOB,
                    node=name,
                    round=number,
                    steps=share.local_steps,
                    samples=samples,
                    seconds=drawn.compute,
                    microbatch=share.microbatch,
                    loss=1.0,
                )
            )
            if name != self._reducer:
                average = round(machine.measured.parameters * BYTES[plan.average_encoding])
                self._tell(
                    ContributionReceived(
                        job=JOB, node=self._reducer, contributor=name, round=number, size=drawn.size, seconds=drawn.up
                    )
                )
                self._tell(
                    TransferTimed(
                        job=JOB, node=name, direction="down", bytes=average, seconds=drawn.down, streams=share.streams
                    )
                )
            if share.every == 1:
                took = max(took, drawn.compute + (0.0 if name == self._reducer else drawn.up + drawn.down))
            counted.append(Contribution(node=name, round=number, late=0, samples=samples, weight=1.0, loss=1.0))
        self._now += took
        self._tell(
            RoundClosed(
                job=JOB,
                round=number,
                term=0,
                reducer=self._reducer,
                next_reducer=self._reducer,
                contributions=tuple(counted),
                missing=(),
                average=Average(key="", size=0, digest="", holders=()),
                samples=sum(part.samples for part in counted),
                loss=1.0,
                seconds=took + CLOSING,
                on_time=True,
                reason="a forecast",
            )
        )

    def _tell(self, event: Message) -> None:
        self._carry_out(self._core.handle(event, self._now, event.id or "forecast"))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish) and isinstance(effect.message, Assignment):
                self._told = effect.message
            elif isinstance(effect, SetTimer):
                self._now = max(self._now, effect.at)
                self._carry_out(self._core.handle(effect.timer, self._now, "forecast"))
