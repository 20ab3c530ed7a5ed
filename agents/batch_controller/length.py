"""The strategy `goodput`: the length of a round and each node's microbatch, for the most useful progress a second.

A round that is twice as long has half as many transfers and closings a step, but a node's steps wander off by themselves
for longer, and what averaging takes away of their noise comes back in part (`goodput.progress`). A larger microbatch makes
better steps, and fewer of them. What a round is worth over what it takes decides both; speed and links say how many steps
each node makes in it, as with every strategy, so that all finish together.

Rounds get another length only where a target loss ends the job (`schemas.lengths`). Else a round has at least as many steps
and samples as were asked for, on the fastest node: a smaller microbatch means more steps, a larger one as many.
"""

import math
from collections.abc import Mapping
from functools import cached_property
from statistics import median

import msgspec

from agents.batch_controller import goodput, inside, learning, microbatch, noise, rounds, words
from agents.batch_controller.asynchronous import AsynchronousPlanner
from agents.batch_controller.goodput import Part
from agents.batch_controller.planner import Plan, Planner
from agents.batch_controller.rounds import Pace
from agents.batch_controller.settings import BatchControllerSettings
from agents.batch_controller.state import Job, Node
from agents.batch_controller.stepwise import GradientPlanner
from schemas.ids import NodeId
from schemas.jobs import AverageEncoding, JobRequest
from schemas.lengths import free_lengths
from schemas.training import Share

FINENESS = 4
"""Lengths that are weighed to each factor of two: 19 % apart, while what they gain is flat within some 30 % of the best."""


class GoodputPlanner(Planner):
    """A planner that also chooses how long rounds are, and goes by useful progress where others go by samples."""

    def _timed(self, shares: dict[NodeId, Share], paces: dict[NodeId, Pace], average: AverageEncoding) -> Plan:
        plan = super()._timed(shares, paces, average)
        parts = [Part(share.local_steps / share.every**2, share.microbatch) for share in plan.shares.values()]
        useful = round(goodput.efficiency(parts, self.noise, self.start, self._apart), 4)
        return msgspec.structs.replace(plan, efficiency=useful, target=self.target)

    @property
    def noise(self) -> float:
        """The job's noise scale, in samples."""
        return noise.scale(self.job.spread, self.start)

    def _known_enough(self) -> bool:
        """Whether rounds enough have shown what steps and transfers take, and how noisy gradients are."""
        return self.measured and self.job.closed >= noise.LEAST_ROUNDS

    # The length of a round

    @cached_property
    def _free(self) -> bool:
        """Whether rounds may have another length; a node alone has nobody to wait for and nobody to drift apart from."""
        return free_lengths(self.request) and len(self.roster) > 1

    def _asked(self, size: int) -> int:
        """Steps of so many samples in a round at most."""
        stretch = self.settings.stretch if self._free else 1.0
        return math.ceil(self.steps_asked * stretch * max(1.0, self.start / size))

    def _shorten(self, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> None:
        """Lengths are chosen by what rounds are worth."""

    def _round_time(self, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> float:
        """Seconds a round should take: as long as the present one, unless another length gains enough."""
        if not self._free:
            self.target = 0.0
            asked = {name: self._asked(share.microbatch) for name, share in drafts.items()}
            return rounds.round_time(paces, asked, self.job.quorum)
        if not self.target and not self._known_enough():
            return self._time_for(self.steps_asked, drafts, paces)
        shortest = self._time_for(1, drafts, paces)
        longest = self._time_for(self.settings.stretch * self.steps_asked, drafts, paces)
        present = min(longest, max(shortest, self.target or self._time_for(self.steps_asked, drafts, paces)))
        if not self.weighed and self.present and self.free.adapt and self.free.factor > 1.0 and self._known_enough():
            self.weighed = True
            lengths = ladder(present, shortest, longest)
            values = {seconds: self._progress_a_second(seconds, drafts, paces) for seconds in (present, *lengths)}
            best = self._best(values)
            if values[best] >= (1.0 + self.settings.length_gain) * values[present]:
                self.length_why = words.length(best, present, values[best] / max(1e-9, values[present]) - 1.0)
                present = min(present * self.free.factor, max(present / self.free.factor, best))
        self.target = round(present, 4)
        return present

    def _best(self, values: Mapping[float, float]) -> float:
        """The length with the largest value. What averages inside a site take away is why long rounds have a price: where
        there is none, they gain a little however long, and the shortest is taken that another doesn't beat by enough. For
        each is as long as whoever looks at anchors has to wait: validations, newcomers, checkpoints, the target."""
        most = max(values.values())
        if inside.covers(self.job.inside, self.roster):
            return min(seconds for seconds, value in values.items() if value * (1.0 + self.settings.length_gain) >= most)
        return max(values, key=lambda seconds: (values[seconds], -seconds))

    @property
    def _apart(self) -> float:
        """Steps between two averages at most, as far as the job's rounds have no say in it."""
        return inside.apart(self.job.inside, self.roster, math.inf)

    def _time_for(self, steps: float, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> float:
        """Seconds of a round with so many steps of the microbatch asked for on the fastest node."""
        asked = {name: max(1, round(steps * self.start / share.microbatch)) for name, share in drafts.items()}
        return self._waiting(paces, asked)

    def _progress_a_second(self, seconds: float, drafts: Mapping[NodeId, Share], paces: Mapping[NodeId, Pace]) -> float:
        parts = [self._part(name, drafts[name], paces[name], seconds) for name in self.roster]
        return goodput.progress(parts, self.noise, self.start, self._apart) / (seconds + self.job.closing + self.job.pause)

    def _part(self, name: NodeId, share: Share, pace: Pace, seconds: float) -> Part:
        """What a node adds to a round: all its steps, or what counts of them where it can't contribute to each."""
        present, asked = self.present.get(name), self._asked(share.microbatch)
        every = rounds.rounds_between(pace, seconds, present.every if present else 1, asked, self.settings)
        return Part(rounds.counted(pace, seconds, every, asked), share.microbatch)

    # The microbatch

    def _climb(self, name: NodeId, size: int, room: float) -> int:
        """The microbatch that makes most of the node's room: a rung up or down where its part of the progress gains."""
        if not self._known_enough():
            return size
        known = self.known[name]
        high = min(self.high, known.ceiling or self.high)
        here = self._worth(size, room / self._step(name, size))
        found, best = size, here
        for move in (size // 2, size * 2):
            if not self._least() <= move <= high:
                continue
            step = self._hoped(name, move, size)
            there = self._worth(move, room / step) if step <= room else 0.0
            if there > best:
                found, best = move, there
        if best < (1.0 + self.settings.gain) * here:
            return size
        self._because(name, words.worth(found, size, best / max(1e-9, here) - 1.0))
        return found

    def _step(self, name: NodeId, size: int) -> float:
        """Seconds of a step; where the node was measured at another size alone, as others like it depend on size."""
        steps, fixed = self.known[name].steps, self._fixed_parts.get(self.nodes[name].accelerated)
        if fixed is None or size in steps or len(steps) != 1:
            return super()._step(name, size)
        (measured,) = steps
        scaled = [fixed + (1.0 - fixed) * of / self.start for of in (size, measured)]
        return super()._step(name, measured) * scaled[0] / scaled[1]

    @cached_property
    def _fixed_parts(self) -> dict[bool, float]:
        """The part of a step of the microbatch asked for that doesn't depend on its size, in the median of the nodes that
        were measured at two sizes: of those with an accelerator and of those without."""
        found: dict[bool, list[float]] = {}
        for name, known in self.known.items():
            part = learning.fixed_part(known, self.start)
            if part is not None:
                found.setdefault(self.nodes[name].accelerated, []).append(part)
        return {kind: median(parts) for kind, parts in found.items()}

    def _hoped(self, name: NodeId, size: int, present: int) -> float:
        """Seconds of a step of another size. Where nobody knows, the first of a kind hopes that a larger one takes no
        longer and a smaller one less in proportion, and tries; the others wait for what that teaches."""
        kind = self.nodes[name].accelerated
        if size in self.known[name].steps or kind in self._fixed_parts:
            return self._step(name, size)
        alike = [n for n in self.job.roster if self.nodes[n].accelerated == kind and self.known[n].steps]
        regular = [n for n in alike if n in self.present and self.present[n].every == 1]
        first = next(iter(regular or alike), None)
        return self._step(name, present) * min(1.0, size / present) if name == first else math.inf

    def _least(self) -> int:
        """The smallest microbatch that goodput goes to: as many samples in all nodes' steps as were asked for in one's.

        How noisy the end of a training is, was the user's choice; the model looks at progress on the way there.
        """
        return max(self.low, microbatch.first(math.ceil(self.start / self._alike()) * 2 - 1, self.low, self.high))

    def _alike(self) -> int:
        return max(1, sum(share.every == 1 for share in self.present.values()))

    def _worth(self, size: int, steps: float) -> float:
        """Progress of a round if all nodes did the same: a node's microbatch is judged by its own times, not by theirs."""
        return goodput.progress([Part(steps, size)] * self._alike(), self.noise, self.start, self._apart)


class AsynchronousGoodputPlanner(AsynchronousPlanner, GoodputPlanner):
    """Intervals as without rounds, microbatches by useful progress: what is noise doesn't depend on who averages when."""


def ladder(present: float, shortest: float, longest: float) -> list[float]:
    """Lengths that may follow the present one, which is between the two others."""
    down, up = (math.floor(FINENESS * math.log2(max(1.0, of))) for of in (present / shortest, longest / present))
    return [present * 2 ** (rung / FINENESS) for rung in range(-down, up + 1) if rung]


def planner_for(job: Job, request: JobRequest, nodes: Mapping[NodeId, Node], settings: BatchControllerSettings) -> Planner:
    """The planner of a job's strategy. Where a round is a step, all cut work alike."""
    if request.sync == "step":
        return GradientPlanner(job, request, nodes, settings)
    useful = request.batch == "goodput"
    if request.sync == "async":
        return (AsynchronousGoodputPlanner if useful else AsynchronousPlanner)(job, request, nodes, settings)
    return (GoodputPlanner if useful else Planner)(job, request, nodes, settings)
