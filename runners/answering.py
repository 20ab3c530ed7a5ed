"""Requests of clients on their way into a core, and its answers on their way back."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from bus.port import Responder
from schemas.errors import DecodeError
from schemas.requests import decode_request
from schemas.wire import Answer, Request, encode

# Seconds for a core to answer a request; clients give up after some 5.
ANSWER_WITHIN = 30.0


class TurnedAway(Protocol):
    """Whether a request must come again later."""

    def __call__(self, waiting: int, *, stores: bool) -> tuple[str, float] | None:
        """See `runners.load.Load.refusal`."""


class Answering:
    """The requests that wait for an answer.

    Args:
        refusal: what a request that doesn't decode is answered with (field, why).
        source: the agent's name, for people.
        asked: brings a request in; gives where its answer will come from.
        turned_away: why one more can't be taken while so many wait, and when to come back; None where it can.

    Attributes:
        rejected: requests that were none.
    """

    def __init__(
        self, refusal: Callable[[str, str], Answer], source: str, asked: Callable[[Request], str], turned_away: TurnedAway
    ) -> None:
        self.rejected = 0
        self._refusal = refusal
        self._source = source
        self._asked = asked
        self._turned_away = turned_away
        self._answers: dict[str, asyncio.Future[bytes]] = {}

    def responder(self, kind: type[Request]) -> Responder:
        """What answers requests of a kind."""

        async def respond(body: bytes) -> bytes:
            try:
                request = decode_request(kind, body)
            except DecodeError as error:
                self.rejected += 1
                return encode(self._refusal(error.field, error.why))
            no = self._turned_away(len(self._answers), stores=kind.stores)
            if no is not None:
                return encode(self._later(*no))
            answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            reply_to = self._asked(request)
            self._answers[reply_to] = answer
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    return await answer
            except TimeoutError:
                return encode(self._later(f"{self._source} is too busy to answer: try again", ANSWER_WITHIN))
            finally:
                del self._answers[reply_to]

        return respond

    def _later(self, why: str, seconds: float) -> Answer:
        """A refusal for now."""
        refusal = self._refusal("$", why)
        known = "retry_after" in refusal.__struct_fields__
        return msgspec.structs.replace(refusal, retry_after=seconds) if known else refusal

    def answer(self, to: str, body: bytes) -> None:
        """The core has answered."""
        answer = self._answers.get(to)
        if answer is not None and not answer.done():
            answer.set_result(body)

    def close(self) -> None:
        """Nobody will answer any more."""
        for answer in self._answers.values():
            answer.cancel()
