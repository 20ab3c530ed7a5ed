"""The simulated process of a job on one machine: the real trainer and reducer cores, torch and tensors played by delays.

The anchor's digest is a chain over the averages that were applied, so that a node that applies another average, or one out
of order, is found out as it would be by real bits.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agents.effects import Work
from agents.inputs import Result
from agents.node import TrainingWork
from agents.reducer import shard_works as sharding
from agents.reducer import works as reducing
from agents.trainer import works as training
from bus.simulated_endpoint import Endpoint
from runners.simulation.machines import LOADING, PARAMETERS, Machine, digest_of, tensor_bytes
from runners.simulation.played_shards import FETCH_TIMEOUT, OUTER_STEP, ImpossibleWork, PlayedShards
from schemas.fragments import WHOLE, parts_of, turn_of
from schemas.lengths import most_rounds
from schemas.training import Average
from schemas.verification import Fingerprint

if TYPE_CHECKING:
    from runners.simulation.fleet import Fleet

Post = Callable[[Result], None]
# Seconds between signs of life from local steps (the real ones come twice a second).
SIGN_OF_LIFE = 10.0
# Seconds on the fastest machine: a validation, putting the model into the store.
VALIDATION, STORING = 0.5, 2.0


class JobProcess:
    """What one machine holds of a job, and the works of its two cores. `exited` is told the code when the process ends."""

    def __init__(self, fleet: "Fleet", machine: Machine, work: TrainingWork, exited: Callable[[int], None]) -> None:
        self.fleet = fleet
        self.machine = machine
        self.job = work.job
        self.alive = True
        self.request = work.request
        self.version = 0
        self.digest = digest_of(self.job, work.request.seed)
        self.deltas: set[str] = set()
        self.averages: set[str] = set()
        self.collected: set[tuple[str, int]] = set()
        self.shards = PlayedShards(self)
        self.steps_taken = 0
        """The round whose steps were taken and whose difference was not, with `sync = "overlap"` or `"async"`."""
        self._exited = exited
        self._running: dict[str, int] = {}
        self._works = 0
        self.trainer = fleet.participant(machine, "trainer", self.job, _Works(self, self._trainer_work))
        self.reducer = fleet.participant(machine, "reducer", self.job, _Works(self, self._reducer_work))
        self.after(machine.rng.uniform(*LOADING), self._loaded)

    # The process.

    def _loaded(self) -> None:
        self.trainer.begin()
        self.reducer.begin()
        self.trainer.post(training.ModelBuilt(digest=self.digest, parameters=PARAMETERS, device="cpu", code="same"))

    def end(self, reason: str) -> None:
        """SIGTERM: last words, then gone."""
        if self.alive:
            self.trainer.stop(reason)
            self.reducer.stop(reason)
            self.after(0.2, lambda: self.kill(0))

    def kill(self, code: int) -> None:
        """Gone, without a word."""
        if self.alive:
            self.alive = False
            for each in (self.trainer, self.reducer):
                each.kill("nothing")
                self.fleet.forget(self.machine, each)
            self._exited(code)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something later, unless the process is gone by then. One that stands still does nothing."""

        def due(_: object) -> None:
            if not self.alive:
                return
            paused = max(self.trainer.endpoint.paused, self.reducer.endpoint.paused)
            if paused > self.fleet.network.now:
                self.fleet.network.at(paused, due)
            else:
                do()

        self.fleet.network.at(self.fleet.network.now + seconds, due)

    @property
    def endpoints(self) -> list[Endpoint]:
        """Its connections."""
        return [self.trainer.endpoint, self.reducer.endpoint]

    def reachable(self, now: float) -> bool:
        """Whether it can hand anything over, or fetch it."""
        return all(each.up_cut <= now and each.down_cut <= now and each.paused <= now for each in self.endpoints)

    # Works in general.

    def start(self, key: str, run: Callable[[Any, Callable[[float, Result], None]], None], work: Work, post: Post) -> None:
        """Begin a piece of work; a key at work is left alone."""
        if key in self._running:
            return
        self._works += 1
        token = self._running[key] = self._works

        def finish(seconds: float, result: Result | None) -> None:
            def over() -> None:
                if self._running.get(key) == token:
                    del self._running[key]
                    if isinstance(result, training.LocalRoundDone):
                        self.deltas.add(result.key)  # what was stopped leaves nothing behind
                    if result is not None:
                        post(result)

            self.after(seconds, over)

        run(work, finish)

    def stop(self, key: str) -> None:
        """End a piece of work: nothing comes back."""
        self._running.pop(key, None)

    # What the trainer asks for.

    def _trainer_work(self, work: Any, finish: Callable[[float, Result | None], None]) -> None:
        match work:
            case training.LocalRound():
                self._local_round(work, finish)
            case training.TakeDifference():
                self._take_difference(work.done, finish)
            case training.HoldAverage() | training.ApplyAverage():
                self._get_average(work, finish)
            case training.CatchUp():
                self._catch_up(work, finish)
            case training.Drop():
                self.deltas -= {tensor.partition("/")[2] for tensor in work.tensors}
                finish(0.0, None)
            case training.Validate():
                finish(VALIDATION, training.ValidationDone(round=work.round, loss=_loss(self.version), seconds=VALIDATION))
            case training.VerifyGradient():
                finish(VALIDATION, _verified(work.version))
            case training.StoreAnchor():
                self._store_anchor(work, finish)
            case training.Quit():
                self.after(0.0, lambda: self.kill(3))
            case _:
                finish(0.0, None)

    def _local_round(self, work: training.LocalRound, finish: Callable[[float, Result | None], None]) -> None:
        if work.round > self.version + (2 if work.going_on else 1):
            raise ImpossibleWork(f"{self.machine.name} was asked for round {work.round} at version {self.version}")
        base, seconds = self.digest, self.machine.compute_seconds(work.steps, work.microbatch)
        signs = int(seconds // SIGN_OF_LIFE)
        for sign in range(1, signs + 1):
            step = min(work.steps, int(work.steps * sign * SIGN_OF_LIFE / seconds))
            taken = training.StepTaken(round=work.round, step=step, steps=work.steps)
            self.after(sign * SIGN_OF_LIFE, lambda taken=taken: self.trainer.post(taken))  # type: ignore[misc]
        done = training.StepsDone(
            round=work.round,
            samples=work.steps * work.microbatch,
            steps=work.steps,
            microbatch=work.microbatch,
            loss=_loss(work.round),
            seconds=seconds,
            encoding=work.encoding,
        )
        if work.going_on:
            self.after(seconds, lambda: setattr(self, "steps_taken", work.round))
            finish(seconds, done)
        else:
            finish(seconds, self._difference(done, base))

    def _take_difference(self, done: training.StepsDone, finish: Callable[[float, Result | None], None]) -> None:
        renumbered = self.request.sync == "async" and done.round > self.steps_taken > 0
        if (done.round != self.steps_taken and not renumbered) or self.version < done.round - 1:
            what = f"the difference for round {done.round} at version {self.version}, with steps for {self.steps_taken}"
            raise ImpossibleWork(f"{self.machine.name} was asked for {what}")
        self.steps_taken = 0
        finish(OUTER_STEP, self._difference(done, self.digest))

    def _difference(self, done: training.StepsDone, base: str) -> training.LocalRoundDone:
        """What is kept for others once it is done."""
        key, digest = str(done.round), digest_of(self.job, self.machine.name, done.round, base)
        size = self.bytes_of(done.encoding, done.round)
        return training.LocalRoundDone(
            round=done.round,
            base_digest=base,
            samples=done.samples,
            steps=done.steps,
            microbatch=done.microbatch,
            loss=done.loss,
            seconds=done.seconds,
            encoding=done.encoding,
            key=key,
            size=size,
            digest=digest,
            pieces=self.shards.cut(digest, size),
        )

    def _get_average(
        self, work: training.HoldAverage | training.ApplyAverage, finish: Callable[[float, Result | None], None]
    ) -> None:
        average, name = work.average, work.average.digest
        seconds = 0.0
        for part in average.shards or (average,):
            if part.digest in self.averages:
                continue
            holder = self.holder(part.holders, lambda process, digest=part.digest: digest in process.averages)  # type: ignore[misc]
            if holder is None:
                kind = "apply" if isinstance(work, training.ApplyAverage) else "hold"
                finish(FETCH_TIMEOUT, training.FetchFailed(work=kind, round=work.round, reason="no holder answers"))
                return
            seconds = max(seconds, self.machine.transfer_seconds(part.size, holder.machine))
        if isinstance(work, training.ApplyAverage):
            self._apply_after(seconds, work, finish)
            return
        self.after(seconds, lambda: self.averages.add(name))
        finish(seconds, training.AverageHere(round=work.round, digest=name, bytes=average.size, seconds=seconds))

    def _apply_after(
        self, seconds: float, work: training.ApplyAverage, finish: Callable[[float, Result | None], None]
    ) -> None:
        round_, average = work.round, work.average

        def apply() -> None:
            self.averages |= {part.digest for part in average.shards or (average,)}
            if self.version != round_ - 1:
                reason = f"the anchor is at version {self.version}"
                finish(0.0, training.FetchFailed(work="apply", round=round_, reason=reason))
                return
            self.version, self.digest = round_, digest_of(self.digest, average.digest)
            self.fleet.applied(self)
            finish(0.0, training.Applied(version=round_, digest=self.digest, seconds=seconds + OUTER_STEP))

        self.after(seconds + OUTER_STEP, apply)

    def _catch_up(self, work: training.CatchUp, finish: Callable[[float, Result | None], None]) -> None:
        donor = self.holder(work.donors, lambda process: process.version >= work.version)
        if donor is None:
            self.after(FETCH_TIMEOUT, lambda: self._from_store(work, finish))
            return
        size = tensor_bytes("float32")
        seconds = self.machine.transfer_seconds(size, donor.machine)

        def replace() -> None:
            self.version, self.digest = donor.version, donor.digest
            finish(0.0, _fetched(self, donor.machine.name, size, seconds))

        self.after(seconds, replace)

    def _from_store(self, work: training.CatchUp, finish: Callable[[float, Result | None], None]) -> None:
        """Take the last checkpoint; where it is too old, under the number that is due if that loss is accepted."""
        stored, size = self.fleet.checkpoints.get(self.job), tensor_bytes("float32")
        seconds = size / self.machine.rate if stored is not None else 0.0

        def replace() -> None:
            if stored is not None and stored[0] >= self.version:
                self.version, self.digest = stored
            lost = max(0, work.version - self.version)
            if lost and work.accept_loss:
                self.fleet.renumbered.add(self.job)
                self.version, self.digest = work.version, digest_of("renumbered", self.digest, work.version)
            elif lost or stored is None:
                reason = f"no donor answers, and the last checkpoint is of version {stored and stored[0]}"
                finish(0.0, training.FetchFailed(work="catch_up", round=work.version, reason=reason))
                return
            finish(0.0, _fetched(self, "store", size, seconds, lost))

        self.after(seconds, replace)

    def _store_anchor(self, work: training.StoreAnchor, finish: Callable[[float, Result | None], None]) -> None:
        def stored() -> None:
            if not self.reachable(self.fleet.network.now):
                finish(0.0, training.StoreFailed(round=work.round, final=work.final, reason="the store does not answer"))
                return
            self.fleet.checkpoints[self.job] = (self.version, self.digest)
            size, name = tensor_bytes("float32"), f"{self.job}/{'model' if work.final else 'checkpoint'}.safetensors"
            loss = _loss(self.version) if work.final else None
            finish(
                0.0,
                training.AnchorStored(
                    round=work.round, final=work.final, name=name, size=size, digest=self.digest, loss=loss
                ),
            )

        self.after(STORING, stored)

    # What the reducer asks for.

    def _reducer_work(self, work: Any, finish: Callable[[float, Result | None], None]) -> None:
        match work:
            case reducing.Collect():
                self._collect(work, finish)
            case reducing.Reduce():
                self._reduce(work, finish)
            case sharding.CollectPieces() | sharding.Weigh() | sharding.ReduceShard():
                self.shards.carry_out(work, finish)
            case reducing.Release():
                self.collected -= set(work.parts)
                self.shards.release(work.parts)
                finish(0.0, None)
            case reducing.Follow():
                pass  # until it is stopped
            case _:
                finish(0.0, None)

    def _collect(self, work: reducing.Collect, finish: Callable[[float, Result | None], None]) -> None:
        who = (work.contributor, work.round)
        holder = self.holder((work.contributor,), lambda process: work.key in process.deltas)
        if holder is None:
            failed = reducing.CollectFailed(contributor=who[0], round=who[1], reason="its node doesn't answer")
            finish(FETCH_TIMEOUT, failed)
            return
        seconds = self.machine.transfer_seconds(work.size, holder.machine)
        self.after(seconds, lambda: self.collected.add(who))
        finish(seconds, reducing.Collected(contributor=who[0], round=who[1], size=work.size, seconds=seconds))

    def _reduce(self, work: reducing.Reduce, finish: Callable[[float, Result | None], None]) -> None:
        missing = [(part.node, part.round) for part in work.parts if (part.node, part.round) not in self.collected]
        if missing:
            raise ImpossibleWork(f"{self.machine.name} was asked to average what it hasn't collected: {missing}")
        turns = {self.turn(part.round) for part in work.parts} | {self.turn(work.round)}
        if len(turns) > 1:
            raise ImpossibleWork(f"{self.machine.name} was asked to average fragments {turns} in round {work.round}")
        digest = digest_of(self.job, work.round, work.term, self.machine.name, work.parts)
        self.averages.add(digest)
        size = self.bytes_of(work.encoding, work.round)
        average = Average(key=f"{work.round}-{work.term}", size=size, digest=digest, holders=(self.machine.name,))
        finish(OUTER_STEP, reducing.Reduced(round=work.round, term=work.term, average=average))

    def turn(self, round_: int) -> int:
        """The fragment that a round exchanges."""
        return turn_of(round_, parts_of(self.request, PARAMETERS), most_rounds(self.request))

    def bytes_of(self, encoding: str, round_: int) -> int:
        """Size of a round's difference or average."""
        parts = 1 if self.turn(round_) == WHOLE else parts_of(self.request, PARAMETERS)
        return tensor_bytes(encoding) // parts

    def holder(self, nodes: tuple[str, ...], holds: Callable[["JobProcess"], bool]) -> "JobProcess | None":
        """The first of these nodes whose process can hand something over now."""
        now = self.fleet.network.now
        if not self.reachable(now):
            return None
        for name in nodes:
            machine = self.fleet.machines.get(name)
            process = machine.jobs.get(self.job) if machine is not None else None
            if machine is not None and process is not None and process.alive and process.reachable(now) and holds(process):
                return process
        return None


class _Works:
    """The work runner of one core of a job's process; see `runners.interpreter.WorkRunner`."""

    def __init__(self, process: JobProcess, run: Callable[[Any, Any], None]) -> None:
        self._process = process
        self._run = run
        self._prefix = run.__name__

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin a piece of work."""
        self._process.start(f"{self._prefix}/{key}", self._run, work, post)

    def stop(self, key: str, reason: str) -> None:
        """End a piece of work."""
        self._process.stop(f"{self._prefix}/{key}")

    async def close(self) -> None:
        """Nothing outlives a simulation."""


def _fetched(process: JobProcess, donor: str, size: int, seconds: float, lost: int = 0) -> training.AnchorFetched:
    return training.AnchorFetched(
        version=process.version, digest=process.digest, donor=donor, bytes=size, seconds=seconds, lost=lost
    )


def _verified(version: int) -> training.GradientComputed:
    """What sound arithmetic makes of a version."""
    gradient = Fingerprint(
        batch="", precision="float32", loss=_loss(version), norms=(1.0, 1.0), signed=(0.5, -0.5), seconds=VALIDATION
    )
    return training.GradientComputed(version=version, gradient=gradient)


def _loss(version: int) -> float:
    """A loss that falls as training goes on."""
    return 5.5 / (1.0 + 0.05 * version)
