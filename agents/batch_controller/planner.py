"""Everybody's share of a job, from all that is known: measurements, links, the request, and what is allowed to change."""

import math
from collections.abc import Iterable, Mapping

import msgspec

from agents.batch_controller import (
    deadlines,
    goodput,
    inside,
    learning,
    links,
    microbatch,
    rounds,
    shortening,
    transfers,
    travelling,
    trying,
    waiting,
    words,
)
from agents.batch_controller.foresight import as_foreseen
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Known, Node
from agents.batch_controller.yielding import at_present_speed
from schemas.ids import NodeId
from schemas.jobs import AdaptationPolicy, AverageEncoding, Encoding, JobRequest
from schemas.lengths import free_lengths
from schemas.training import Share


class Freedom(msgspec.Struct, frozen=True, kw_only=True):
    """What may change now."""

    adapt: bool
    """False: the shares of those who have one stay as they are."""
    factor: float
    """By which a microbatch or a number of steps may change at once; 1: only how tensors travel may."""
    cooldown: int
    """Rounds between two changes of a node's microbatch."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Shares for a roster, what they were made from, and the time of a round."""

    shares: dict[NodeId, Share]
    paces: dict[NodeId, Pace]
    average_encoding: AverageEncoding
    round_seconds: float
    deadline_seconds: float
    efficiency: float = 1.0
    """Of `Assignment`."""
    target: float = 0.0
    length: int = 0
    """Both of `Kept`."""
    why: dict[NodeId, str] = {}
    """Why a microbatch or an encoding changes, in words."""

    @property
    def told_length(self) -> int | None:
        """Of `Assignment`."""
        return 0 if self.target else self.length or None


# Before the optimizer speaks, a job's own wish holds: factor at once, and cooldowns between changes of a microbatch.
_FACTOR: dict[AdaptationPolicy, float] = {
    "off": 1.0,
    "conservative": 2.0,
    "reactive": 2.0,
    "proactive": 2.0,
    "aggressive": 4.0,
}
_COOLDOWNS: dict[AdaptationPolicy, float] = {
    "off": 1.0,
    "conservative": 2.0,
    "reactive": 1.0,
    "proactive": 1.0,
    "aggressive": 0.34,
}


def freedom(job: Job, request: JobRequest, settings: BatchControllerSettings) -> Freedom:
    """What the optimizer allows, or the request until it has spoken."""
    policy = job.policy or request.adaptation
    adapt = job.adapt if job.adapt is not None else policy != "off"
    factor = job.max_factor if job.adapt is not None else _FACTOR[policy]
    measured = any(known.steps for known in job.nodes.values())
    if job.round < job.hold_until or not (measured or job.current is None):
        factor = 1.0  # after a rollback; or a controller without memory, which has no better idea than what is in force
    cooldown = round(settings.microbatch_cooldown * _COOLDOWNS[policy])
    return Freedom(adapt=adapt, factor=factor, cooldown=cooldown)


class Planner:
    """One look at a job. Reads its state, changes nothing."""

    def __init__(
        self, job: Job, request: JobRequest, nodes: Mapping[NodeId, Node], settings: BatchControllerSettings
    ) -> None:
        self.job = job
        self.request = request
        self.settings = settings
        self.beside = request.sync == "overlap"
        self.steps_asked = request.local_steps
        self.free = freedom(job, request, settings)
        self.roster = tuple(sorted(job.roster))
        self.nodes = {name: nodes.get(name) or Node() for name in self.roster}
        self.known = {name: job.nodes.get(name) or Known() for name in self.roster}
        for foreseen in job.foreseen:
            name = foreseen.node
            if name in self.nodes:
                self.nodes[name], self.known[name] = as_foreseen(self.nodes[name], self.known[name], foreseen)
        self.present = dict(job.current.shares) if job.current is not None else {}
        self.low, self.high = microbatch.bounds(request.microbatch_min, request.microbatch_max)
        self.start = microbatch.first(request.microbatch, self.low, self.high)
        self.measured = any(known.steps for known in self.known.values())
        self.guess = learning.guess_scale(self.known, self.nodes, self.present, self.start)
        self.needed: list[NodeId] = []
        """Who is waited for, since it reduces a part of the rounds."""
        self.why: dict[NodeId, str] = {}
        self.target = job.current.target if job.current is not None else 0.0
        self.weighed = False
        """Whether another length was thought of."""
        self.length_why = ""
        """Why rounds get another length, in words."""
        self.length = job.current.length if job.current is not None else 0
        if self.length:
            self.steps_asked = min(self.steps_asked, self.length)

    def plan(self) -> Plan:
        """Shares for everybody in the roster."""
        if self.request.batch == "fixed":
            return self._fixed()
        average = self._average_encoding()
        drafts = {name: self._travel(name) for name in self.roster}
        paces = {name: self._pace(name, share, average) for name, share in drafts.items()}
        self._shorten(drafts, paces)
        seconds = self._round_time(drafts, paces)
        for name in self.roster:
            moved = self._microbatch(name, drafts[name], paces[name], seconds)
            if moved != drafts[name].microbatch:
                drafts[name] = msgspec.structs.replace(drafts[name], microbatch=moved)
                paces[name] = self._pace(name, drafts[name], average)
        seconds = self._round_time(drafts, paces)
        shares = {name: self._steps(name, share, paces[name], seconds) for name, share in drafts.items()}
        return self._timed(shares, paces, average)

    def timed(self, shares: dict[NodeId, Share], average: AverageEncoding) -> Plan:
        """A plan of given shares, but for a microbatch that is known not to fit."""
        for name, share in shares.items():
            ceiling = self.known[name].ceiling
            if ceiling is not None and share.microbatch > ceiling and self.request.batch != "fixed":
                shares = {**shares, name: msgspec.structs.replace(share, microbatch=ceiling)}
        paces = {name: self._pace(name, share, average) for name, share in shares.items()}
        return self._timed(shares, paces, average)

    def _timed(self, shares: dict[NodeId, Share], paces: dict[NodeId, Pace], average: AverageEncoding) -> Plan:
        shares = self._enough_regular(shares, paces)
        times = {name: paces[name].time(share.local_steps) for name, share in shares.items() if share.every == 1}
        prompt = self._prompt(times)
        seconds = max(times[name] for name in prompt) + self.job.overhead
        learned = self._deadline({name: times[name] for name in prompt})
        if self.request.batch == "fixed":
            learned = self.settings.start_deadline
        elif self.job.current is not None and not self.measured:
            learned = self.job.current.deadline_seconds
        return Plan(
            shares=shares,
            paces=paces,
            average_encoding=average,
            round_seconds=max(0.001, round(seconds, 3)),
            deadline_seconds=self.request.deadline_seconds or round(learned, 3),
            efficiency=self._efficiency(shares),
            length=self.length,
            why=self.why,
        )

    def _prompt(self, times: Mapping[NodeId, float]) -> Iterable[NodeId]:
        """Whom a round waits for."""
        return times

    def _efficiency(self, shares: Mapping[NodeId, Share]) -> float:
        """Of `Assignment`, where rounds may have fewer steps than were asked for."""
        if not free_lengths(self.request) or len(shares) < 2:
            return 1.0
        steps = [share.local_steps * share.microbatch / self.start for share in shares.values() if share.every == 1]
        apart = inside.apart(self.job.inside, self.roster, max(steps, default=1.0))
        return round(goodput.in_company(apart), 4)

    def _deadline(self, times: Mapping[NodeId, float]) -> float:
        """From the times of those whom a round waits for; generous while no step was measured."""
        learned = deadlines.deadline(times, self.known, self.job.quorum, self.settings)
        return learned if self.measured else max(self.settings.start_deadline, learned)

    def _enough_regular(self, shares: dict[NodeId, Share], paces: Mapping[NodeId, Pace]) -> dict[NodeId, Share]:
        """Rounds need a quorum: where too few contribute to each, the next fastest do too (all that are as fast). And who
        reduces a part of a round is waited for anyway."""
        for name in self.needed:
            if shares[name].every > 1:
                shares = {**shares, name: self._regular(name, shares[name])}
        regular = sum(share.every == 1 for share in shares.values())
        lacking = min(self.job.quorum, len(shares)) - regular
        if lacking <= 0:
            return shares
        rare = [name for name, share in shares.items() if share.every > 1]
        limit = sorted(paces[name].time(1) for name in rare)[lacking - 1]
        return {**shares, **{name: self._regular(name, shares[name]) for name in rare if paces[name].time(1) <= limit}}

    def _regular(self, name: NodeId, share: Share) -> Share:
        """The share with a contribution to each round: what it does now if it does so now, else as much work a round."""
        present, steps = self.present.get(name), math.ceil(share.local_steps / share.every)
        if present is not None and present.every == 1:
            steps = present.local_steps
        return msgspec.structs.replace(share, every=1, local_steps=min(self._asked(share.microbatch), steps))

    def _fixed(self) -> Plan:
        """Equal work for all, whatever is measured."""
        encoding = self._asked_encoding() or "float32"
        share = Share(microbatch=self.start, local_steps=self.steps_asked, encoding=encoding)
        return self.timed(dict.fromkeys(self.roster, share), links.average_as(encoding))

    # How tensors travel

    def _asked_encoding(self) -> Encoding | None:
        return self.request.encoding if self.request.encoding != "auto" else None

    def _average_encoding(self) -> AverageEncoding:
        if self.job.current is not None and not self.free.adapt:
            return self.job.current.average_encoding
        asked = self._asked_encoding()
        if asked is not None:
            return links.average_as(asked)
        usual = links.average_encoding_for([node.quality for node in self.nodes.values()])
        present = self.job.current.average_encoding if self.job.current is not None else None
        parts = travelling.download_shares(self.job, self.known, self.nodes)
        return travelling.average_encoding(present, usual, parts, self.settings)

    def _travel(self, name: NodeId) -> Share:
        """A node's share with the encoding and the connections that its link calls for, its work as it is."""
        share = self.present.get(name)
        node, known = self.nodes[name], self.known[name]
        if share is not None and not (self.free.adapt or (known.regraded and self.request.adaptation != "off")):
            return share  # how tensors travel follows the link at any time; how much work is done does not
        streams = links.streams_for(node.quality)
        encoding = self._asked_encoding()
        if encoding is None:
            parts = travelling.upload_share(self.job, known, node, streams)
            present = share.encoding if share is not None and (parts or not known.regraded) else None
            encoding = links.encoding_for(node.quality, present, parts, self.settings, regraded=known.regraded)
            if parts and present is not None and encoding != present:
                self._because(name, words.upload(present, parts[present], encoding, parts[encoding]))
        if share is None:
            return Share(microbatch=self.start, local_steps=self.steps_asked, encoding=encoding, streams=streams)
        return msgspec.structs.replace(share, encoding=encoding, streams=streams)

    # How long things take

    def _step(self, name: NodeId, size: int) -> float:
        measured = learning.step_seconds(self.known[name], size)
        guess = self.guess * learning.hinted_step(self.nodes[name], size, self.start)
        return max(1e-6, measured if measured is not None else guess)

    def _pace(self, name: NodeId, share: Share, average: Encoding) -> Pace:
        """Before anything was measured, only steps count: guesses of seconds and of rates don't add up to a round."""
        step = self._step(name, share.microbatch)
        if not self.measured:
            return Pace(step=step, up=0.0, down=0.0, beside=self.beside)
        known, node, size = self.known[name], self.nodes[name], self.job.exchanged
        sizes = ((known.up, size * links.BYTES[share.encoding]), (known.down, size * links.BYTES[average]))
        up, down = (transfers.seconds_for(moved, much, share, node) for moved, much in sizes)
        slowest = sum(transfers.slowest_seconds_for(moved, much, share, node) for moved, much in sizes)
        if known.reduces:  # nothing of its own travels
            up = down = slowest = 0.0
        return Pace(
            step=step,
            up=up,
            down=down,
            spread=slowest - up - down,
            misses=known.misses,
            beside=self.beside,
            parts=self.job.parts,
        )

    def _asked(self, size: int) -> int:
        """Steps of so many samples that make up a round: a larger microbatch means fewer steps, not a longer round."""
        return max(1, min(self.steps_asked, round(self.steps_asked * self.start / size)))

    def _shorten(self, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> None:
        """Fewer steps than were asked for, or more of them again, where the job may have that."""
        if len(self.roster) < 2:  # nobody to drift apart from
            self.steps_asked, self.length = self.request.local_steps, 0
            return
        free = self.free.adapt and self.free.factor > 1.0 and self.measured
        if not (free and free_lengths(self.request) and self.job.closed >= shortening.LEAST_ROUNDS):
            return
        sizes = {name: share.microbatch / self.start for name, share in drafts.items()}
        between, present = self.job.closing + self.job.pause, self.steps_asked
        values = {
            steps: shortening.done_a_second(
                steps,
                paces,
                sizes,
                between,
                self.job.quorum,
                self.settings,
                inside.apart(self.job.inside, self.roster, steps),
            )
            for steps in sorted({*shortening.ladder(self.request.local_steps), present})
        }
        self.steps_asked = self.length = shortening.choose(values, present)
        if self.length != present:
            gain = values[self.length] / max(1e-9, values[present]) - 1.0
            self.length_why = words.steps_between(self.length, present, gain)

    def _round_time(self, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> float:
        asked = {name: self._asked(share.microbatch) for name, share in drafts.items()}
        return self._waiting(paces, asked)

    def _waiting(self, paces: Mapping[NodeId, Pace], asked: Mapping[NodeId, int]) -> float:
        regular = [name for name, share in self.present.items() if share.every == 1]
        least = rounds.round_time(paces, asked, self.job.quorum)
        self.needed = waiting.needed(paces, least, self.job.reducing, self.settings)
        return waiting.round_time(paces, asked, least, self.settings, self.needed, regular)

    # How much work

    def _microbatch(self, name: NodeId, share: Share, pace: Pace, seconds: float) -> int:
        """One rung up or down the ladder (more, if a larger factor is allowed), unless it is too early for it."""
        known, size = self.known[name], share.microbatch
        if known.ceiling is not None and size > known.ceiling:
            return known.ceiling
        if name not in self.present or not self.free.adapt or self.free.factor < 2:
            return size
        room = rounds.room_for_steps(pace, seconds, 1)
        tight = room <= rounds.LEAST_ROOM * seconds
        if size > self.low and pace.step > room and not tight:
            self._because(name, f"one step of {size} samples takes longer than a round")
            return size // 2
        if self.job.round - known.changed < self.free.cooldown << known.turns:
            return size
        if tight:
            room = rounds.room_for_steps(pace, seconds, self.present[name].every)
        return self._climb(name, size, room)

    def _because(self, name: NodeId, why: str) -> None:
        self.why[name] = f"{self.why[name]}, {why}" if name in self.why else why

    def _climb(self, name: NodeId, size: int, room: float) -> int:
        known, latency_ms = self.known[name], self.nodes[name].latency_ms
        shared_by = self.steps_asked if self.request.batch == "hybrid" else 1
        high = min(self.high, known.ceiling or self.high)
        target = min(high, max(self.low, microbatch.latency_target(self.start, latency_ms / shared_by, self.settings)))
        alike = trying.of_a_kind(name, self.job.roster, self.present, self.nodes, self.known, self.start)
        measured = trying.samples_a_second(name, size, alike, self.known)
        start = size
        for _ in range(math.floor(math.log2(self.free.factor))):
            moved = microbatch.next_rung(self.request.batch, size, target, measured, (self.low, high), self.settings)
            if moved == size or (moved > size and self._step(name, moved) > room):
                break
            size = moved
        if size != start:
            by_latency = abs(math.log2(size / target)) < abs(math.log2(start / target))
            self._because(name, words.move(latency_ms, target, start, size, measured, by_latency=by_latency))
        return size

    def _steps(self, name: NodeId, share: Share, pace: Pace, seconds: float) -> Share:
        asked, present = self._asked(share.microbatch), self.present.get(name)
        if present is not None:
            present = at_present_speed(present, self.known[name])
        if present is not None and not (self.free.adapt and self.measured):
            return msgspec.structs.replace(share, local_steps=min(present.local_steps, asked * share.every))
        every = rounds.rounds_between(pace, seconds, present.every if present is not None else 1, asked, self.settings)
        ideal = rounds.ideal_steps(pace, seconds, every, self.settings)
        had = present.local_steps if present is not None else None
        steps = rounds.steps_for(ideal, asked * every, had, self.free.factor, self.settings)
        return msgspec.structs.replace(share, local_steps=steps, every=every)
