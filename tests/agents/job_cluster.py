"""A job of several nodes in virtual time: the real trainer and reducer cores, with torch and tensors played by delays."""

import hashlib
import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import pytest

from agents.base import Agent, CancelTimer, Publish, SetTimer, StartWork, StopWork
from agents.inputs import Result, Woken
from agents.reducer import Reducer, ReducerSettings
from agents.reducer import shard_works as sharding
from agents.reducer import works as reducing
from agents.trainer import Trainer, TrainerSettings
from agents.trainer import works as training
from schemas.anchors import DigestMismatch
from schemas.decisions import NodeLost
from schemas.jobs import JobPhase, JobRequest, JobState, ModelStored
from schemas.shards import OrderedPart, Piece, PieceHere, pieces_of
from schemas.training import Assignment, Average, Roster, RoundClosed, RoundOpened, Share
from schemas.wire import Message, decode, encode, seal

JOB = "j"
HOP = 0.01  # seconds that a message takes


@dataclass
class Node:
    """One node's two cores and what its works pretend to hold."""

    name: str
    step_seconds: float = 0.1
    transfer_seconds: float = 0.2
    alive: bool = True
    muted: bool = False
    version: int = 0
    cores: dict[str, Agent[Any]] = field(default_factory=dict)
    timers: dict[tuple[str, msgspec.Struct], tuple[int, str]] = field(default_factory=dict)
    averages: set[str] = field(default_factory=set)
    """Digests of averages, or shards of them, that its process holds."""
    pieces: dict[tuple[str, int, str], set[int]] = field(default_factory=dict)
    """Of contributions, as its works have collected them: by contributor, round and digest."""
    deaf: bool = False
    """Nothing of anybody's tensors arrives."""
    garbage: bool = False
    """Its differences arrive and can't be counted."""
    too_long: bool = False
    """Its differences are clipped where several nodes reduce."""
    tries: int = 0
    """Local rounds so far: no two differences are alike."""
    begun: list[tuple[int, int]] = field(default_factory=list)
    """Local rounds: the round they were for, and the version that the node had."""
    halts: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """How often works were stopped, by core and key: what was under way then comes to nothing."""
    storeless: bool = False
    """The object store can't be reached."""
    salt: str = ""
    """Makes its anchors differ from everybody's."""

    def collected(self, work: reducing.Collect) -> Result:
        """What comes of fetching one of its differences."""
        if self.garbage:
            return reducing.CollectFailed(contributor=work.contributor, round=work.round, reason="not finite", unsound=True)
        return reducing.Collected(contributor=work.contributor, round=work.round, size=100, seconds=0.1)


class JobCluster:
    """Runs a job until nothing is left to do or a time is over. `check` runs after every input."""

    def __init__(
        self,
        nodes: list[Node],
        *,
        rounds: int = 5,
        local_steps: int = 10,
        seed: int = 0,
        hang_seconds: float = 120.0,
        parameters: int = 10,
        **asked: Any,
    ) -> None:
        self.rng = random.Random(seed)
        self.nodes = {node.name: node for node in nodes}
        self.rounds = rounds
        self.now = 1000.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count = self.current = 0
        self.log: list[Message] = []
        self.closed: dict[int, RoundClosed] = {}
        self.ids: defaultdict[str, int] = defaultdict(int)
        names = tuple(self.nodes)
        limits = {"rounds": rounds, "checkpoint_every": 0, "hang_seconds": hang_seconds}
        request = JobRequest(kind="train", workload="m:w", **limits | asked)
        self.parameters, self.cut = parameters, pieces_of(request, parameters)
        self.applied: dict[tuple[str, int], Average] = {}
        self.present: list[Message] = [
            self.state(JobPhase.RUNNING, request),
            Roster(
                job=JOB,
                version=1,
                nodes=names,
                reducers=names[:3],
                helpers=names,
                quorum=len(names) // 2 + 1,
                reason="start",
            ),
            Assignment(
                job=JOB,
                version=1,
                roster_version=1,
                shares={n: Share(microbatch=4, local_steps=local_steps, encoding="float32") for n in names},
                average_encoding="float32",
                round_seconds=2.0,
                deadline_seconds=4.0,
                strategy="fixed",
                reason="start",
            ),
        ]
        for node in nodes:
            self.boot(node)

    def state(self, phase: JobPhase, request: JobRequest) -> JobState:
        return JobState(
            job=JOB, version=1, state=phase, reason="", round=0, rounds=self.rounds, request=request, submitted_at=0.0
        )

    # Nodes come and go.

    def boot(self, node: Node) -> None:
        """Start a node's job process; it hears what is stored, then loads the model."""
        node.alive, node.version, node.averages, node.pieces = True, 0, set(), {}
        node.cores = {
            "trainer": Trainer(TrainerSettings(), random.Random(1), job=JOB, node=node.name),
            "reducer": Reducer(ReducerSettings(), random.Random(1), job=JOB, node=node.name),
        }
        for core in list(node.cores):
            self.later(0.0, partial(self.give, node, core, Woken(incarnation=1, resumed=False, at=self.now)))
            for message in [*self.present, *self.closed.values()]:
                self.later(HOP, partial(self.give, node, core, message))
        built = training.ModelBuilt(digest=self.digest(node, 0), parameters=self.parameters, device="cpu")
        self.later(1.0, lambda: self.give(node, "trainer", built))

    def kill(self, name: str, *, told: bool = True) -> None:
        """SIGKILL; with `told` the selector notices after three seconds."""
        node = self.nodes[name]
        node.alive, node.timers, node.cores = False, {}, {}
        if told:
            self.later(3.0, lambda: self.publish(NodeLost(node=name, silent_seconds=3.0, reason="silent"), "selector"))

    def kill_for_a_while(self, index: int, *, told: bool, seconds: float) -> None:
        """Kill a node by its place, unless it is dead already, and boot it that much later."""
        node = list(self.nodes.values())[index % len(self.nodes)]
        if node.alive:
            self.kill(node.name, told=told)
            self.later(seconds, lambda: self.boot(node))

    def enroll(self, *names: str, version: int) -> None:
        """Another roster."""
        roster = Roster(
            job=JOB, version=version, nodes=names, reducers=names[:3], helpers=names, quorum=1, reason="another"
        )
        self.present[1] = roster
        self.publish(roster, "selector")

    def digest(self, node: Node, version: int) -> str:
        return f"anchor-{version}{node.salt}"

    # The world.

    def later(self, delay: float, do: Callable[[], None]) -> int:
        self.count += 1
        heapq.heappush(self.heap, (self.now + delay, self.count, do))
        return self.count

    def run(self, seconds: float = 120.0, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end and not until():
            self.now, self.current, do = heapq.heappop(self.heap)
            do()

    def publish(self, message: Message, source: str) -> None:
        self.ids[source] += 1
        seal(message, id=f"{source}:1:{self.ids[source]}", cause="", at=self.now, source=source)
        message = decode(type(message), encode(message))
        self.log.append(message)
        if isinstance(message, RoundClosed):
            self.closed[message.round] = message
        for node in self.nodes.values():
            if not node.muted:
                self.later(HOP * self.rng.uniform(0.5, 1.5), partial(self.give_both, node, message))

    def give_both(self, node: Node, message: Message) -> None:
        for core in list(node.cores):
            self.give(node, core, message)

    def give(self, node: Node, core: str, event: msgspec.Struct, cause: str = "") -> None:
        if not node.alive or core not in node.cores:
            return
        agent = node.cores[core]
        effects = agent.handle(event, self.now, cause)
        agent.check()
        for effect in effects:
            self.carry_out(node, core, effect)

    def carry_out(self, node: Node, core: str, effect: Any) -> None:
        if isinstance(effect, Publish):
            taken = isinstance(effect.message, RoundClosed) and effect.message.round in self.closed
            if not node.muted and not (effect.first and taken):
                self.publish(effect.message, f"{core}/{node.name}")
        elif isinstance(effect, SetTimer):
            number = self.later(max(0.0, effect.at - self.now), lambda: self.fire(node, core, effect.timer))
            node.timers[core, effect.timer] = (number, effect.cause)
        elif isinstance(effect, CancelTimer):
            node.timers.pop((core, effect.timer), None)
        elif isinstance(effect, StartWork):
            self.work(node, core, effect)
        else:
            assert isinstance(effect, StopWork)
            node.halts[core, effect.key] += 1

    def fire(self, node: Node, core: str, timer: msgspec.Struct) -> None:
        number, cause = node.timers.get((core, timer), (0, ""))
        if number == self.current:
            del node.timers[core, timer]
            self.give(node, core, timer, cause)

    # What torch and the network would do.

    def work(self, node: Node, core: str, effect: StartWork) -> None:
        if isinstance(effect.work, training.Stream):
            assert bool(effect.work.pieces) == (self.cut > 1), "a difference that is cut isn't kept in whole"
        delay, result = self.outcome(node, effect.work)
        if result is not None:
            cores, halts = node.cores, node.halts[core, effect.key]

            def over() -> None:
                if node.cores is cores and node.halts[core, effect.key] == halts:
                    self.give(node, core, result)

            self.later(delay, over)

    def outcome(self, node: Node, work: Any) -> tuple[float, Result | None]:
        match work:
            case training.LocalRound():
                seconds = work.steps * node.step_seconds
                node.begun.append((work.round, node.version))
                done = training.StepsDone(
                    round=work.round,
                    samples=work.steps * work.microbatch,
                    steps=work.steps,
                    microbatch=work.microbatch,
                    loss=1.0 / work.round,
                    seconds=seconds,
                    encoding=work.encoding,
                )
                return seconds, done if work.going_on else self.difference(node, done)
            case training.TakeDifference():
                assert node.version >= work.done.round - 1, "a difference to an anchor that isn't here"
                return 0.01, self.difference(node, work.done)
            case training.HoldAverage() | training.ApplyAverage():
                return self.getting(node, work)
            case training.CatchUp():
                return self.catching_up(node, work)
            case training.Validate():
                return 0.1, training.ValidationDone(round=work.round, loss=1.0, seconds=0.1)
            case training.StoreAnchor() if node.storeless:
                return 0.5, training.StoreFailed(round=work.round, final=work.final, reason="no answer")
            case training.StoreAnchor():
                stored = training.AnchorStored(round=work.round, final=work.final, name="m", size=1, digest="d", loss=1.0)
                return 0.5, stored
            case reducing.Collect() | reducing.Reduce():
                return self.averaging(node, work)
            case reducing.Release():
                for part in work.parts:
                    for key in [key for key in node.pieces if key[:2] == part]:
                        del node.pieces[key]
            case sharding.CollectPieces() | sharding.Weigh() | sharding.ReduceShard():
                return self.sharing(node, work)
        return 0.0, None

    def getting(self, node: Node, work: training.HoldAverage | training.ApplyAverage) -> tuple[float, Result]:
        match work:
            case training.HoldAverage():
                if node.deaf or not self.had(node, work.average.digest):
                    return 2.0, training.FetchFailed(work="hold", round=work.round, reason="nobody holds it")
                here = training.AverageHere(round=work.round, digest=work.average.digest, bytes=100, seconds=0.1)
                node.averages.add(work.average.digest)
                return node.transfer_seconds, here
            case training.ApplyAverage():
                parts = [shard.digest for shard in work.average.shards] or [work.average.digest]
                if node.deaf or not all(self.had(node, part) for part in parts):
                    return 0.5, training.FetchFailed(work="apply", round=work.round, reason="nobody holds it")
                node.version = work.round
                node.averages.update(parts)
                self.applied[node.name, work.round] = work.average
                return 0.05, training.Applied(version=work.round, digest=self.digest(node, work.round), seconds=0.05)

    def catching_up(self, node: Node, work: training.CatchUp) -> tuple[float, Result]:
        donors = [self.nodes[d] for d in work.donors if self.nodes[d].alive and self.nodes[d].version >= work.version]
        if not donors and work.accept_loss:
            lost, node.version = work.version - node.version, work.version
            digest = self.digest(node, node.version)
            return 1.0, training.AnchorFetched(
                version=node.version, digest=digest, donor="store", bytes=1, seconds=1, lost=lost
            )
        if not donors:
            return 1.0, training.FetchFailed(work="catch_up", round=work.version, reason="nobody")
        node.version, node.salt = max(donor.version for donor in donors), donors[0].salt
        digest = self.digest(node, node.version)
        fetched = training.AnchorFetched(version=node.version, digest=digest, donor=donors[0].name, bytes=1, seconds=1)
        return 1.0, fetched

    def had(self, node: Node, digest: str) -> bool:
        """Whether an average can be had, from the node itself or from anybody who is there."""
        return any(
            other.alive and not (other.deaf and other is not node) and digest in other.averages
            for other in self.nodes.values()
        )

    def averaging(self, node: Node, work: reducing.Collect | reducing.Reduce) -> tuple[float, Result]:
        name = node.name
        match work:
            case reducing.Collect():
                there = self.nodes[work.contributor]
                if not there.alive:
                    gone = reducing.CollectFailed(contributor=work.contributor, round=work.round, reason="gone")
                    return 0.2, gone
                return there.transfer_seconds, there.collected(work)
            case reducing.Reduce():
                average = Average(key="k", size=9, digest=f"avg-{work.round}-{work.term}-{name}", holders=(name,))
                node.averages.add(average.digest)
                return 0.1, reducing.Reduced(round=work.round, term=work.term, average=average)

    def sharing(self, node: Node, work: Any) -> tuple[float, Result]:
        match work:
            case sharding.CollectPieces():
                there = self.nodes[work.contributor]
                if not there.alive or ((there.deaf or node.deaf) and there is not node):
                    gone = reducing.CollectFailed(contributor=work.contributor, round=work.round, reason="gone")
                    return 2.0, gone
                whole = there.collected(
                    reducing.Collect(contributor=there.name, round=work.round, key="", size=1, digest="")
                )
                if isinstance(whole, reducing.CollectFailed):
                    return there.transfer_seconds, whole
                wanted = {piece.piece for piece in work.pieces}
                node.pieces.setdefault((work.contributor, work.round, work.digest), set()).update(wanted)
                here = tuple(PieceHere(piece=piece, trained=4.0 / self.cut, anchor=1.0) for piece in sorted(wanted))
                collected = sharding.PiecesCollected(
                    contributor=work.contributor, round=work.round, digest=work.digest, pieces=here
                )
                return there.transfer_seconds if there is not node else 0.01, collected
            case sharding.Weigh():
                assert all(trained == pytest.approx(4.0) for trained, _ in work.squares), "squares of all pieces, once each"
                parts = tuple(
                    OrderedPart(
                        node=part.node,
                        round=part.round,
                        digest=digest,
                        weight=part.weight,
                        scale=0.5 if self.nodes[part.node].too_long else 1.0,
                    )
                    for part, digest in zip(work.parts, work.digests, strict=True)
                )
                told = tuple(reducing.Treated(node=p.node, round=p.round, weight=p.weight, norm=2.0) for p in parts)
                return 0.01, sharding.Weighed(
                    round=work.round, term=work.term, parts=parts, treated=told, aggregation=work.aggregation
                )
        assert isinstance(work, sharding.ReduceShard)
        for part in work.parts:
            assert set(work.pieces) <= node.pieces[part.node, part.round, part.digest], "averaging what isn't here"
        name = shard_name(work.round, work.term, node.name, work.parts)
        node.averages.add(name)
        average = Average(key=name, size=9, digest=name, holders=(node.name,), norm=1.0)
        return 0.1, sharding.ShardReduced(
            round=work.round, term=work.term, average=average, pieces=work.pieces, ahead=work.ahead
        )

    def difference(self, node: Node, done: training.StepsDone) -> training.LocalRoundDone:
        node.tries += 1
        pieces = tuple(Piece(size=9, digest=f"{node.name}-{done.round}-{piece}") for piece in range(self.cut))
        return training.LocalRoundDone(
            pieces=pieces if self.cut > 1 else (),
            base_digest=self.digest(node, node.version),
            key=str(done.round),
            size=100,
            digest=f"{node.name}-{done.round}-{node.tries}",
            **msgspec.structs.asdict(done),
        )

    # What tests ask.

    def said(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.log if isinstance(message, kind)]

    @property
    def finished(self) -> bool:
        return any(stored.final for stored in self.said(ModelStored))

    @property
    def openings(self) -> list[RoundOpened]:
        return self.said(RoundOpened)

    @property
    def mismatches(self) -> list[DigestMismatch]:
        return self.said(DigestMismatch)


def shard_name(round_: int, term: int, node: str, parts: tuple[OrderedPart, ...]) -> str:
    """The digest of a shard of an average: another one for other contributions, or for what they count."""
    return f"{round_}-{term}-{node}-{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:8]}"
