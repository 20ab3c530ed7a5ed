"""Carries out what the trainer core asks for: local steps, outer steps, fetching, validating, storing."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from agents.effects import Work
from agents.inputs import Result
from agents.trainer import site_works, works
from bus.port import Bus, BusError
from bus.tensors import Data, TensorBus, TensorUnavailable
from runners.jobs.averages import Averages
from runners.jobs.coming import Coming
from runners.jobs.heap import free_unused
from runners.jobs.layout import LayoutMismatch
from runners.jobs.names import checkpoint_name, model_name
from runners.jobs.pace import Pace, steps_left
from runners.jobs.sending import Sending
from runners.jobs.session import Session
from runners.jobs.site_meetings import SiteMeetings
from runners.jobs.site_works import SiteWorks
from runners.jobs.snapshots import SnapshotError
from runners.jobs.tasks import KeyedTasks, TorchThread
from schemas.errors import ShoalError
from schemas.jobs import Encoding
from schemas.shards import AverageShard, Piece, digest_of

Post = Callable[[Result], None]

# Seconds between signs of life from local steps.
SIGN_OF_LIFE = 0.5
# Seconds for one donor to hand over a snapshot: 4 MB over an unstable link take some 100.
CATCH_UP_SECONDS = 180.0


class OtherCode(ShoalError):
    """This node runs other code than the job's reducer."""

    def __init__(self, reason: str) -> None:
        mend = "send the source along (`shoal submit --bundle`) or copy it, install the same versions, then submit again"
        super().__init__(f"{reason}; {mend}")


class TrainerWorks:
    """The work runner of a trainer's host."""

    def __init__(
        self,
        session: Session,
        bus: Bus,
        tensors: TensorBus,
        averages: Averages,
        torch_thread: TorchThread,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._session = session
        self._bus = bus
        self._tensors = tensors
        self._averages = averages
        self._torch = torch_thread
        self._tasks = KeyedTasks(failed)
        self._coming = Coming()
        self._sending = Sending(tensors)
        self._sites = SiteWorks(session, tensors, averages, torch_thread)
        self._pace = Pace(Path(session.spec.pace_file) if session.spec.pace_file else None)

    def start(self, key: str, work: Work, post: Post) -> None:
        """Begin a piece of work."""
        run: dict[type[Work], Callable[[Any, Post], Coroutine[Any, Any, None]]] = {
            works.LocalRound: self._local_round,
            works.TakeDifference: self._take_difference,
            works.Stream: self._stream,
            works.Drop: self._drop,
            works.HoldAverage: self._hold,
            works.ApplyAverage: self._apply,
            works.CatchUp: self._catch_up,
            works.Validate: self._validate,
            works.VerifyGradient: self._verify,
            works.StoreAnchor: self._store,
            works.FreeMemory: self._free,
            works.Quit: self._quit,
            site_works.OpenSite: self._sites.open,
            site_works.JoinSite: self._sites.join,
            site_works.AverageInSite: self._sites.average,
            site_works.LeaveSite: self._sites.leave,
        }
        self._tasks.start(key, run[type(work)](work, post))

    def stop(self, key: str, reason: str) -> None:
        """End a piece of work."""
        self._tasks.stop(key)

    async def close(self) -> None:
        """End all work."""
        await self._tasks.close()
        await self._sending.close()
        await self._sites.close()

    async def _local_round(self, work: works.LocalRound, post: Post) -> None:
        session = self._session
        # Beside the steps: connecting takes several round trips, and tensors travel afterwards.
        self._tasks.start("streams", self._tensors.set_streams(work.streams))
        base = await self._torch.run(session.begin_steps, work.round)
        samples, loss, seconds, said = 0, 0.0, 0.0, time.monotonic()
        number, steps, share = 0, work.steps, self._pace.share()
        meetings = SiteMeetings(self._sites, work.meetings, work.round)
        while number < steps:
            begun, number = time.monotonic(), number + 1
            step = await self._torch.run(session.step, work.microbatch)
            await self._pad(step.seconds, work.microbatch, begun)
            async for now in self._rest(begun):
                if now - said > SIGN_OF_LIFE:
                    said = now
                    post(works.StepTaken(round=work.round, step=number, steps=steps))
            seconds += time.monotonic() - begun
            samples += step.samples
            loss += step.loss * step.samples
            slower = self._pace.share()
            if slower < share:
                steps, share = steps_left(steps, number, share, slower), slower
            await meetings.after(number, steps, samples)
        done = works.StepsDone(
            round=work.round,
            samples=samples,
            steps=steps,
            microbatch=work.microbatch,
            loss=loss / max(1, samples),
            seconds=seconds,
            encoding=work.encoding,
            met=meetings.met,
        )
        post(done if work.going_on else await self._difference(done, base, work.ahead))

    async def _take_difference(self, work: works.TakeDifference, post: Post) -> None:
        post(await self._difference(work.done, self._session.digest, work.ahead))

    async def _difference(self, done: works.StepsDone, base: str, ahead: tuple[int, ...]) -> works.LocalRoundDone:
        pieces: tuple[Piece, ...] = ()
        if self._session.cut > 1:
            pieces = await self._in_pieces(done, ahead)
            size = sum(piece.size for piece in pieces)
            digest = digest_of(piece.digest for piece in pieces)
        else:
            (payload,) = await self._encoded(self._whole_difference, done)
            whole = self._tensors.keep("delta", str(done.round), payload)
            size, digest = whole.size, whole.digest
        return works.LocalRoundDone(
            round=done.round,
            base_digest=base,
            samples=done.samples,
            steps=done.steps,
            microbatch=done.microbatch,
            loss=done.loss,
            seconds=done.seconds,
            encoding=done.encoding,
            key=str(done.round),
            size=size,
            digest=digest,
            pieces=pieces,
            met=done.met,
        )

    async def _in_pieces(self, done: works.StepsDone, ahead: tuple[int, ...]) -> tuple[Piece, ...]:
        """Make a difference piece by piece, each kept, and sent if it is one of `ahead`, while the next one is encoded."""
        loop, kept = asyncio.get_running_loop(), dict[int, Piece]()
        name, given_up = str(done.round), False

        def keep(piece: int, payload: bytes) -> None:
            if given_up:
                return
            held = self._tensors.keep(f"delta{piece}", name, payload)
            kept[piece] = Piece(size=held.size, digest=held.digest)
            if piece in ahead:
                self._sending.begin(held.kind, held.name)

        def made(piece: int, payload: bytes) -> None:  # in torch's thread
            loop.call_soon_threadsafe(keep, piece, payload)

        def encode(encoding: Encoding, round_: int) -> list[bytes]:
            return self._session.difference_in_pieces(encoding, round_, ahead, made)

        try:
            await self._encoded(encode, done)
        except asyncio.CancelledError:
            given_up = True
            for piece in kept:
                self._forget(f"delta{piece}", name)
            raise
        return tuple(piece for _, piece in sorted(kept.items()))

    def _whole_difference(self, encoding: Encoding, round_: int) -> list[bytes]:
        return [self._session.difference(encoding, round_)]

    async def _encoded(self, encode: Callable[[Encoding, int], list[bytes]], done: works.StepsDone) -> list[bytes]:
        """The payloads of a difference. If it is given up meanwhile, which stops no thread, they are owed again."""
        encoding = asyncio.ensure_future(self._torch.run(encode, done.encoding, done.round))
        try:
            return await asyncio.shield(encoding)
        except asyncio.CancelledError:
            encoding.add_done_callback(lambda made: self._take_back(made, done.round))
            raise

    def _take_back(self, made: "asyncio.Future[list[bytes]]", round_: int) -> None:
        if not made.cancelled() and made.exception() is None:
            self._tasks.start(f"owe/{round_}", self._torch.run(self._session.take_back, made.result(), round_))

    async def _pad(self, took: float, microbatch: int, begun: float) -> None:
        """Emulated speed: wait until the step has taken as long as it would on the machine that this node plays."""
        spec = self._session.spec
        nominal = spec.step_time_ms / 1000 * microbatch / spec.request.microbatch
        until = begun + max(took, nominal) * spec.slowdown
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _rest(self, begun: float) -> AsyncIterator[float]:
        """Let others have the machine for their part of the time since a step began; gives the time now and then."""
        now = time.monotonic()
        computed = now - begun
        yield now
        while (left := begun + computed / self._pace.share() - now) > 0:
            await asyncio.sleep(min(left, SIGN_OF_LIFE))
            now = time.monotonic()
            yield now

    async def _stream(self, work: works.Stream, post: Post) -> None:
        kinds = [f"{work.kind}{piece}" for piece in work.pieces] if work.pieces else [work.kind]
        await asyncio.gather(*(self._sending.finish(kind, work.name) for kind in kinds))

    async def _drop(self, work: works.Drop, post: Post) -> None:
        for tensor in work.tensors:
            kind, _, name = tensor.partition("/")
            self._forget(kind, name)

    def _forget(self, kind: str, name: str) -> None:
        self._sending.forget(kind, name)
        self._tensors.drop(kind, name)

    async def _hold(self, work: works.HoldAverage, post: Post) -> None:
        digest, came = work.average.digest, 0
        begun, whole = self._averages.arrived(work.average)
        self._coming.begin(begun)
        try:
            payload = await self._averages.get(work.average)
            came = 0 if self._averages.came_from_nearby(digest) else len(payload)
        except TensorUnavailable as error:
            post(works.FetchFailed(work="hold", round=work.round, reason=str(error)))
            return
        finally:
            carried, seconds = self._coming.end(came, whole or time.monotonic())
        post(works.AverageHere(round=work.round, digest=digest, bytes=carried, seconds=seconds))

    async def _apply(self, work: works.ApplyAverage, post: Post) -> None:
        begun = time.monotonic()
        payload: Data | list[tuple[AverageShard, Data]]
        try:
            if work.average.shards:
                payload = await self._averages.shards(work.average)
            else:
                payload = await self._averages.get(work.average)
        except TensorUnavailable as error:
            post(works.FetchFailed(work="apply", round=work.round, reason=str(error)))
            return
        digest = await self._torch.run(self._session.apply, work.round, payload)
        if digest is None:
            reason = f"the anchor is at version {self._session.anchor.version}"
            post(works.FetchFailed(work="apply", round=work.round, reason=reason))
            return
        post(works.Applied(version=work.round, digest=digest, seconds=time.monotonic() - begun))

    async def _catch_up(self, work: works.CatchUp, post: Post) -> None:
        begun = time.monotonic()
        reasons: list[str] = []
        data: Data = b""
        for donor in work.donors:
            try:
                _, data = await self._tensors.fetch_latest(donor, "anchor", CATCH_UP_SECONDS)
                version, digest = await self._torch.run(self._session.replace, data)
            except (TensorUnavailable, SnapshotError, LayoutMismatch) as error:
                reasons.append(f"{donor}: {error}")
                continue
            if version < work.version:
                reasons.append(f"{donor} is at version {version} itself")
                continue
            post(_fetched(version, digest, donor, len(data), begun))
            return
        try:
            data = await self._bus.get_object(checkpoint_name(self._session.spec.job))
            version, digest = await self._torch.run(self._session.replace, data)
        except (KeyError, BusError, SnapshotError, LayoutMismatch) as error:
            data, version, digest = b"", self._session.anchor.version, self._session.digest
            reasons.append(f"no checkpoint in the store ({error})")
        if version < work.version and work.accept_loss:
            lost = work.version - version
            digest = await self._torch.run(self._session.renumber, work.version)
            post(_fetched(work.version, digest, "store", len(data), begun, lost))
        elif version >= work.version and data:
            post(_fetched(version, digest, "store", len(data), begun))
        else:
            reasons.append(f"the last checkpoint is of version {version}" if data else "")
            post(works.FetchFailed(work="catch_up", round=work.version, reason="; ".join(filter(None, reasons))))

    async def _verify(self, work: works.VerifyGradient, post: Post) -> None:
        gradient = await self._torch.run(self._session.verify, work.version)
        if gradient is not None:
            post(works.GradientComputed(version=work.version, gradient=gradient))

    async def _free(self, work: works.FreeMemory, post: Post) -> None:
        before = psutil.Process().memory_info().rss
        await self._torch.run(free_unused)
        given = (before - psutil.Process().memory_info().rss) / 1e6
        print(f"gave back {max(0.0, given):.0f} MB of memory, as the healer ordered", flush=True)

    async def _quit(self, work: works.Quit, post: Post) -> None:
        raise OtherCode(work.reason)

    async def _validate(self, work: works.Validate, post: Post) -> None:
        def timed() -> tuple[float, float]:  # in torch's thread: waiting for it is no cost of a validation
            begun = time.monotonic()
            return self._session.validate(), time.monotonic() - begun

        loss, seconds = await self._torch.run(timed)
        post(works.ValidationDone(round=work.round, loss=loss, seconds=seconds))

    async def _store(self, work: works.StoreAnchor, post: Post) -> None:
        job = self._session.spec.job
        try:
            data = await self._torch.run(self._session.checkpoint)
            await self._bus.put_object(checkpoint_name(job), data)
            name, loss = checkpoint_name(job), None
            if work.final:
                data = b""  # its room is for the model
                loss, data = await self._torch.run(self._session.at_anchor)
                name = model_name(job)
                await self._bus.put_object(name, data)
        except BusError as error:
            post(works.StoreFailed(round=work.round, final=work.final, reason=str(error)))
            return
        digest = hashlib.sha256(data).hexdigest()
        post(works.AnchorStored(round=work.round, final=work.final, name=name, size=len(data), digest=digest, loss=loss))


def _fetched(version: int, digest: str, donor: str, size: int, begun: float, lost: int = 0) -> works.AnchorFetched:
    return works.AnchorFetched(
        version=version, digest=digest, donor=donor, bytes=size, seconds=time.monotonic() - begun, lost=lost
    )
