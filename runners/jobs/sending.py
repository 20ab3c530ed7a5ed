"""Pieces of a difference on their way while the next ones are made."""

import asyncio

from bus.tensors import TensorBus


class Sending:
    """Streams pieces; those that are under way, or were sent, are not sent again."""

    def __init__(self, tensors: TensorBus) -> None:
        self._tensors = tensors
        self._streams: dict[tuple[str, str], asyncio.Task[bool]] = {}

    def begin(self, kind: str, name: str) -> None:
        """Send a tensor that is held here, beside all else; one of that name that is still under way is another by now."""
        self.forget(kind, name)
        self._streams[kind, name] = asyncio.get_running_loop().create_task(self._tensors.stream(kind, name))

    async def finish(self, kind: str, name: str) -> None:
        """Returns once a tensor was sent, by `begin` perhaps; as `TensorBus.stream`."""
        begun = self._streams.pop((kind, name), None)
        if begun is None or not await self._ended(begun):
            await self._tensors.stream(kind, name)

    async def _ended(self, stream: "asyncio.Task[bool]") -> bool:
        """Whether somebody has all that was begun to be sent. Who gives up the wait gives up the sending."""
        try:
            return await stream
        finally:
            stream.cancel()

    def forget(self, kind: str, name: str) -> None:
        """Nobody needs a tensor any more."""
        begun = self._streams.pop((kind, name), None)
        if begun is not None:
            begun.cancel()

    async def close(self) -> None:
        """Send no more."""
        begun, self._streams = list(self._streams.values()), {}
        for stream in begun:
            stream.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
