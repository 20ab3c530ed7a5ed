"""Replicas of one agent: one leads, the others stand by, each with the very state that the leader has.

A standby handles every input that the leader has put on their log, in its order and at its times, so that it comes to the
same state; what that leads to is left to the leader until it falls silent. Then the standby writes itself into the log as
the next leader, carries out what its predecessor had taken in and not finished, under the same names, and goes on. The log
takes the page of one of several that try, and no more pages of who was replaced: there is no moment with two leaders.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

from agents.base import Agent
from bus.port import Bus, BusError, Responder, Subscription, Superseded
from runners.host import Host
from runners.journal import Done, Entry, JournalUnreadable, Snapshot, frames_in
from runners.journaled import JournaledCore, Recovery, settings_of
from runners.shared_journal import RETRY, Page, SharedJournal, decode_page
from runners.steps import Step, lasting
from schemas.errors import FAULTS
from schemas.wire import Message

# Seconds without a page after which a leader counts as gone: four beats; with the takeover itself (some 0.2 s) the standby
# acts within 2 s. A leader that is merely slow loses nothing but the lead.
SILENCE = 1.2

Helpers = Callable[[], AbstractAsyncContextManager[dict[str, Any]]]
"""What a leader's host needs besides its core (`history`, `works`); opened by leaders alone."""


class FollowedCore(JournaledCore):
    """A core that does as its leader did, until it leads."""

    def __init__(self, agent: Agent[Any], source: str, journal: SharedJournal) -> None:
        super().__init__(agent, source, 0, journal)
        self.unfinished: dict[int, Step] = {}
        """Steps of the leader whose lasting effects are not known to be carried out."""
        self.followed = 0
        self._shared = journal

    def follow(self, record: object) -> None:
        """Do what a record of the log says. Raises `JournalUnreadable`."""
        if isinstance(record, Done):
            for number in record.numbers:
                self.unfinished.pop(number, None)
        elif isinstance(record, Entry):
            step = self.again(record)
            self.followed += 1
            if step is not None and any(map(lasting, step.effects)):
                self.unfinished[record.number] = step

    def begin_with(self, snapshot: Snapshot) -> None:
        """Follow on from a snapshot."""
        self.restore(snapshot)
        self.unfinished.clear()

    def recover(self, now: float) -> Recovery:
        """Lead: what was followed is the earlier life."""
        self._open.update(self.unfinished)
        self._sequence = 0
        self.incarnation = self._shared.incarnation
        self._shared.begin(settings_of(self.agent))
        resumed = self._number > 0
        unfinished = list(self.unfinished.values())
        return Recovery(resumed=resumed, inputs=self.followed, now=self._now if resumed else now, unfinished=unfinished)


class LeadersBus:
    """The bus as a leader uses it: after a time without a page it makes sure that it leads before it says anything."""

    def __init__(self, bus: Bus, journal: SharedJournal, group: str) -> None:
        self._bus = bus
        self._journal = journal
        self._group = group
        self.replaced: Callable[[Exception], None] = lambda error: None
        """Told once that a standby leads."""

    async def publish(self, message: Message, *, dedup: str = "", first: bool = False) -> None:
        """See `bus.port.Bus.publish`. Where a standby leads now it never returns."""
        try:
            await self._journal.assure()
        except Superseded as error:
            self.replaced(error)
            await asyncio.Future()
        await self._bus.publish(message, dedup=dedup, first=first)

    async def serve(self, subject: str, responder: Responder) -> Subscription:
        """Answer in a group of its own: a leader that stands still must not be given every second request."""
        return await self._bus.serve(subject, responder, group=self._group)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


class Replica:
    """One process of an agent that has several.

    Args:
        make: gives the core as it is at a first start.
        bus: its own connection.
        source: the agent's name, which all its replicas share.
        number: which of them it is, from 1.
        folder: for this machine's copy of the journal; None for none.
        helpers: what a leader needs besides.
        clock: seconds, monotonic.
        say: gets a line when it begins to stand by, to lead, or finds that it was replaced.
        options: for the host.
    """

    def __init__(
        self,
        make: Callable[[], Agent[Any]],
        bus: Bus,
        *,
        source: str,
        number: int,
        folder: Path | None,
        helpers: Helpers | None = None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> None:
        self.source = source
        self.number = number
        self.host: Host | None = None
        """While it leads."""
        self.fenced = 0
        """Times that it was replaced while it took itself for the leader."""
        self._make = make
        self._bus = bus
        self._folder = folder
        self._helpers = helpers or _none
        self._clock = clock
        self._say = say
        self._options = options
        self._stopping = ""
        self._changed = asyncio.Event()

    def stop(self, reason: str) -> None:
        """Ask it to end: a leader says its last words, and the next one takes over at once."""
        self._stopping = self._stopping or reason
        self._changed.set()
        if self.host is not None:
            self.host.stop(reason)

    async def run(self) -> None:
        """Follow, and lead where nobody does, until `stop`.

        Raises:
            JournalUnreadable: what was kept is of another version of the program.
            Unreachable: no server there, from the start.
        """
        while not self._stopping:
            folder = self._folder or Path(self.source)
            journal = SharedJournal(self.source, self.number, self._bus, folder, copied=self._folder is not None)
            try:
                core = await self._follow(journal)
                if core is not None:
                    await self._lead(core, journal)
            except Superseded:
                self.fenced += 1
                self._say(f"{self.source}: replica {self.number} was replaced while it stood still or was cut off")
            finally:
                self.host = None
                journal.leave()

    # Standing by.

    async def _follow(self, journal: SharedJournal) -> FollowedCore | None:
        """Follow until this replica leads; None where it is asked to end, or has to begin from a snapshot again."""
        core = FollowedCore(self._make(), self.source, journal)
        kept = await journal.newest()
        if kept is not None:
            core.begin_with(kept.snapshot)
            journal.index, journal.after = kept.index, kept.after
        else:
            earlier = journal.load()
            if earlier is not None:
                core.unfinished = {step.number: step for step in core.replay(earlier).unfinished}
        journal.copy_from(core.snapshot(0.0))
        # The first of a new fleet needn't wait, and only it may have a journal from a time without standbys.
        patience = 0.0 if kept is None and self.number == 1 else SILENCE
        reader = _Reader(core, journal, self._changed, self._clock() - SILENCE + patience, self._clock)
        following = await self._bus.log(self.source).follow(reader.page)
        try:
            told = False
            while not self._stopping and not reader.lost:
                if reader.pages and not told:
                    told = True
                    self._say(f"{self.source}: replica {self.number} stands by")
                if reader.error is not None:
                    raise reader.error
                self._changed.clear()
                due = reader.heard_at + SILENCE - self._clock()
                if due > 0 and not reader.ended:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(due):
                            await self._changed.wait()
                elif await self._take_over(core, journal, reader):
                    return core
            if reader.lost:
                await asyncio.sleep(RETRY)  # the snapshot that the log goes on after is being put
            return None
        finally:
            reader.open = False
            await following.stop()

    async def _take_over(self, core: FollowedCore, journal: SharedJournal, reader: "_Reader") -> bool:
        """Write this replica into the log as the next leader; whether the log took it."""
        pages, reader.ended = reader.pages, False
        if await self._bus.round_trip(SILENCE) is None:
            reader.heard_at = self._clock()  # it is the server that is silent: the leader may speak first when it is back
            return False
        if reader.pages != pages or reader.lost:
            return False
        try:
            await journal.lead(max(int(time.time() * 1000), core.incarnation + 1))
            if reader.pages > pages + 1 or reader.lost:
                raise Superseded(self.source)  # more than the page just written has come: it was replaced at once
            reader.open = False
            if not journal.founded:
                await journal.found(core.snapshot(0.0))
        except BusError:
            reader.heard_at = self._clock()
            return False
        return True

    # Leading.

    async def _lead(self, core: FollowedCore, journal: SharedJournal) -> None:
        self._say(f"{self.source}: replica {self.number} leads, incarnation {journal.incarnation}")
        bus = LeadersBus(self._bus, journal, f"{self.source}-{self.number}-{journal.incarnation}")
        async with self._helpers() as helpers:
            self.host = host = Host(
                core.agent, cast("Bus", bus), source=self.source, core=core, commit=journal.commit, clock=self._clock,
                **self._options, **helpers,
            )  # fmt: skip
            bus.replaced = host.fail
            beating = asyncio.ensure_future(_beat(journal, host))
            if self._stopping:
                host.stop(self._stopping)
            try:
                await host.run()
            finally:
                beating.cancel()
        with contextlib.suppress(BusError, TimeoutError):  # the next one waits a second longer
            async with asyncio.timeout(SILENCE):
                await journal.end()


class _Reader:
    """Takes the pages of the log in."""

    def __init__(
        self,
        core: FollowedCore,
        journal: SharedJournal,
        changed: asyncio.Event,
        heard_at: float,
        clock: Callable[[], float],
    ) -> None:
        self.heard_at = heard_at
        self.ended = False
        self.lost = False
        """A page is missing, or can't be used: begin again from a snapshot."""
        self.open = True
        self.pages = 0
        self.error: JournalUnreadable | None = None
        self._core = core
        self._journal = journal
        self._changed = changed
        self._clock = clock

    def page(self, sequence: int, data: bytes) -> None:
        """A page has come. It must not raise."""
        journal = self._journal
        if not self.open or self.lost:
            return
        self.heard_at = self._clock()
        self._changed.set()
        try:
            page: Page = decode_page(data)
            if page.index > journal.index:
                self._take(page, sequence)
        except FAULTS as error:
            self.error = JournalUnreadable(journal.folder, f"page {sequence} of its log is no page: {error}")
        except JournalUnreadable as error:
            self.error = error

    def _take(self, page: Page, sequence: int) -> None:
        journal, core = self._journal, self._core
        if page.index != journal.index + 1 or (page.frames and not journal.founded):
            self.lost = True
            return
        for record, _ in frames_in(page.frames):
            core.follow(record)
        core.incarnation = max(core.incarnation, page.incarnation)
        journal.copy(page.frames)
        journal.index, journal.after = page.index, sequence
        self.ended = page.ended
        self.pages += 1
        if journal.copy_full:
            journal.copy_from(core.snapshot(0.0))


async def _beat(journal: SharedJournal, host: Host) -> None:
    try:
        await journal.beat()
    except BusError as error:
        host.fail(error)


@contextlib.asynccontextmanager
async def _none() -> AsyncIterator[dict[str, Any]]:
    yield {}
