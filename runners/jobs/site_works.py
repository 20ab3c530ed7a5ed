"""Carries out what a trainer asks for inside its site: being one group, averaging in it, spreading the round's average.

Each group has a thread of its own, in which all that waits for other nodes blocks, for its time at most; torch's thread and
the loop never do. Who leaves a group doesn't wait for that thread either.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from agents.inputs import Result
from agents.trainer import site_works as works
from agents.trainer.siting import average_key
from agents.trainer.works import Meetings
from bus.tensors import Data, TensorBus, TensorUnavailable
from runners.jobs.averages import Averages
from runners.jobs.codecs import CodecError, Decoded
from runners.jobs.error_feedback import ErrorFeedback
from runners.jobs.meeting import sign_of
from runners.jobs.session import Session
from runners.jobs.site_group import Given, Meeting, SiteError, SiteGroup, addresses, connect, listen
from runners.jobs.tasks import TorchThread
from runners.jobs.vectors import whole
from schemas.ids import NodeId
from schemas.shards import AverageShard
from schemas.sites import SiteMember
from schemas.training import Average

Post = Callable[[Result], None]
P = ParamSpec("P")
T = TypeVar("T")


class Left(Exception):
    """This node has left the group meanwhile: nobody asks any more."""


class Membership:
    """A group, its thread, and what is known of the round it averaged last."""

    def __init__(self, name: str, epoch: int, members: tuple[NodeId, ...], node: NodeId, post: Post) -> None:
        self.epoch = epoch
        self.members = members
        self.rank = members.index(node)
        self.post = post
        self.joined = False
        self.group = SiteGroup(name, members, self.rank)
        self.round = 0
        """Averaged last; its own average is to be spread, or has been."""
        self.spread_within = 0.0
        self.spread = False
        self._gone = asyncio.get_running_loop().create_future()
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"site-{epoch}", daemon=True).start()

    @property
    def speaks(self) -> bool:
        """Whether this node sends for the others."""
        return self.rank == 0

    @property
    def left(self) -> bool:
        """Whether it is over."""
        return self._gone.done()

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work`'s result, from the group's thread. Raises `Left` once the group is left, whatever the thread does."""
        made: Future[T] = Future()
        self._todo.put(partial(_settle, made, partial(work, *args, **kwargs)))
        result = asyncio.wrap_future(made)
        await asyncio.wait({result, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        if self._gone.done():
            result.cancel()
            raise Left
        return result.result()

    def leave(self) -> None:
        """Drop the connections, once the thread is done with what it does."""
        if not self._gone.done():
            self._gone.set_result(None)
            self._todo.put(self.group.close)
            self._todo.put(None)

    def _work(self) -> None:
        while (task := self._todo.get()) is not None:
            task()


class SiteWorks:
    """The part of a trainer's works that has to do with its site."""

    def __init__(self, session: Session, tensors: TensorBus, averages: Averages, torch_thread: TorchThread) -> None:
        self._node = session.spec.node
        self._job = session.spec.job
        self._tensors = tensors
        self._averages = averages
        self._torch = torch_thread
        self._session = session
        self._place: Membership | None = None
        self._spreading: set[asyncio.Task[None]] = set()
        averages.nearby = self

    @cached_property
    def _owed(self) -> ErrorFeedback:
        """What encoding the site's averages lost."""
        layout = self._session.anchor.layout
        return ErrorFeedback(layout.count, layout.count - layout.parameters)

    async def open(self, work: works.OpenSite, post: Post) -> None:
        """Be the speaker of a group."""
        place = self._begin(work, post)

        def told(meeting: Meeting) -> None:
            post(works.SiteListening(epoch=work.epoch, addresses=addresses(), port=meeting.store.port))

        await self._enter(place, lambda: listen(place.group.name, work.within), work, told)

    async def join(self, work: works.JoinSite, post: Post) -> None:
        """Be another node of a group."""
        place = self._begin(work, post)
        where = work.addresses, work.port, place.group.name, place.rank, work.within
        await self._enter(place, lambda: connect(*where), work, lambda meeting: None)

    def _begin(self, work: works.OpenSite | works.JoinSite, post: Post) -> Membership:
        if self._place is not None:
            self._place.leave()
        self._place = Membership(f"{self._job}/{work.epoch}", work.epoch, work.members, self._node, post)
        return self._place

    async def _enter(
        self,
        place: Membership,
        go: Callable[[], Meeting],
        work: works.OpenSite | works.JoinSite,
        told: Callable[[Meeting], None],
    ) -> None:
        try:
            meeting = await place.run(go)
            told(meeting)
            parts = work.parts if isinstance(work, works.OpenSite) else 1
            first, parts = await place.run(place.group.meet, meeting, work.round, parts, work.within)
        except (SiteError, Left) as error:
            await self._fail(place, error)
            return
        place.joined = True
        if not place.speaks:
            await self._tensors.unfollow("average")  # it comes from the speaker: the link is spared
        place.post(works.SiteJoined(epoch=place.epoch, first=first, parts=parts))

    async def leave(self, work: works.LeaveSite, post: Post) -> None:
        """Leave a group, if it is the present one."""
        if self._place is not None and self._place.epoch == work.epoch:
            await self._end(self._place)

    async def average(self, work: works.AverageInSite, post: Post) -> None:
        """Average a round's differences inside, and on the speaker make them one contribution."""
        place, done = self._place, work.done
        if place is None or place.epoch != work.epoch or place.left:
            return  # the core has left it meanwhile
        given = Given(done.samples, done.steps, done.loss, done.seconds, work.parts)
        try:
            payload = await self._tensors.fetch(self._node, "delta", done.key, done.size, done.digest, work.within)
            vector, each = await place.run(_average, place.group, payload, given, done.round, work.within)
            parts, seconds = each[0].parts, place.group.seconds
            # Before the round can be closed: all begin the next one knowing it.
            post(works.SitePlanned(epoch=place.epoch, round=done.round, parts=parts, seconds=seconds))
            if place.speaks:
                encoded = await self._torch.run(self._owed.encode, vector, done.encoding)
                held = self._tensors.keep("delta", average_key(done.round), encoded)
                members = tuple(_member(node, one) for node, one in zip(place.members, each, strict=True))
                post(
                    works.SiteAveraged(
                        epoch=place.epoch,
                        round=done.round,
                        members=members,
                        encoding=done.encoding,
                        key=held.name,
                        size=held.size,
                        digest=held.digest,
                    )
                )
            del vector
            await place.run(place.group.confirm, done.round, work.within)
        except (SiteError, Left, TensorUnavailable, CodecError) as error:
            await self._fail(place, error)
            return
        if not place.speaks:
            post(works.SiteGiven(epoch=place.epoch, round=done.round))
        place.round, place.spread, place.spread_within = done.round, False, work.spread_within
        early = self._averages.of_round(done.round)
        if early is not None:
            self.kept(f"{done.round}-", early)

    async def meet(self, meetings: Meetings, round_: int, number: int, samples: int) -> tuple[float, float] | None:
        """Average what the members' steps have added so far; gives the seconds that took and those waited for others.

        `number` counts a round's averages, `samples` those that this node has trained on in it. None, and the model as it
        was: it came to nothing, and there will be no more of them in this round.
        """
        place = self._place
        if place is None or place.epoch != meetings.epoch or place.left:
            return None
        begun = time.monotonic()
        try:
            digest, added = await self._torch.run(self._session.added)
            at = round_, number, *sign_of(digest)
            waited = await place.run(
                place.group.meet_midway, added, samples, at, meetings.within, meetings.averaging_within
            )
            await self._torch.run(self._session.adopt, digest, added)
        except (SiteError, Left) as error:
            await self._fail(place, error)
            return None
        return time.monotonic() - begun - waited, waited

    # The round's average; see `runners.jobs.averages.Nearby`.

    async def receive(self, average: Average | AverageShard) -> Data | None:
        """The bytes of a round's average from this site's speaker; None where it has to be fetched."""
        place, round_ = self._place, _round_of(average.key)
        if place is None or place.left or place.speaks or place.round != round_ or place.spread:
            return None
        place.spread = True
        return await self._receive(place, round_)

    def kept(self, name: str, payload: Data) -> None:
        """An average is here: the speaker spreads a round's first; a node that has it otherwise lets that pass."""
        place, round_ = self._place, _round_of(name)
        if place is None or place.left or place.round != round_ or place.spread:
            return
        place.spread = True
        doing = self._spread(place, payload) if place.speaks else self._let_pass(place, round_)
        task = asyncio.get_running_loop().create_task(doing)
        self._spreading.add(task)
        task.add_done_callback(self._spreading.discard)

    async def _spread(self, place: Membership, payload: Data) -> None:
        try:
            await place.run(place.group.spread, payload, place.round, place.spread_within)
        except (SiteError, Left) as error:
            await self._fail(place, error)

    async def _let_pass(self, place: Membership, round_: int) -> None:
        await self._receive(place, round_)

    async def _receive(self, place: Membership, round_: int) -> Data | None:
        try:
            return await place.run(place.group.receive, round_, place.spread_within)
        except (SiteError, Left) as error:
            await self._fail(place, error)
            return None

    # The end of a group.

    async def _fail(self, place: Membership, error: Exception) -> None:
        """Whatever went wrong ends the group; one that this node has left itself is no news."""
        if place.left:
            return
        print(f"the site's nodes go alone: {error}", flush=True)
        await self._end(place)
        place.post(works.SiteFailed(epoch=place.epoch, reason=str(error)))

    async def _end(self, place: Membership) -> None:
        was = place.joined and not place.left
        place.leave()
        if was and not place.speaks:
            await self._tensors.follow("average")

    async def close(self) -> None:
        """Leave, and give up what is being spread."""
        if self._place is not None:
            self._place.leave()
        for task in list(self._spreading):
            task.cancel()
        await asyncio.gather(*self._spreading, return_exceptions=True)


def _average(group: SiteGroup, payload: Data, given: Given, round_: int, within: float) -> tuple[Tensor, list[Given]]:
    """In the group's thread. What this node has kept is what it gives: alone or with the others, the same bytes."""
    difference, vector = Decoded(payload), None
    try:
        vector = whole(difference)
    except CodecError:
        group.average(None, difference.numel(), given, round_, within)  # tells the others, and raises
        raise
    return vector, group.average(vector, difference.numel(), given, round_, within)


def _member(node: NodeId, one: Given) -> SiteMember:
    return SiteMember(node=node, samples=one.samples, steps=one.steps, loss=one.loss, compute_seconds=one.seconds)


def _round_of(name: str) -> int:
    """The round that an average's name begins with."""
    return int(name.partition("-")[0])


def _settle(made: "Future[Any]", work: Callable[[], Any]) -> None:
    if not made.set_running_or_notify_cancel():
        return
    try:
        made.set_result(work())
    except BaseException as error:
        made.set_exception(error)
