"""Logs of the simulated carrier: what `bus.nats_log` does, over links that fail."""

import asyncio
from collections.abc import Callable

from bus.port import Superseded, Unreachable
from bus.simulated_endpoint import Endpoint
from bus.simulated_network import SimulatedNetwork


class LogData:
    """What the server keeps of one log, and who follows it."""

    def __init__(self, resend: float) -> None:
        self.resend = resend
        self.entries: list[tuple[int, bytes]] = []
        self.last = 0
        self.end = 0
        """What an append must know: `last`, or 0 where all was forgotten."""
        self.names: dict[str, int] = {}
        self.followers: list[Follower] = []

    def append(self, data: bytes, after: int, name: str) -> int | None:
        """The sequence; None where the log has grown by another hand."""
        if name in self.names:
            return self.names[name]
        if self.end != after:
            return None
        self.last += 1
        self.names[name] = self.end = self.last
        self.entries.append((self.last, data))
        for follower in self.followers:
            follower.pump()
        return self.last


class Follower:
    """Somebody who reads a log; see `bus.port.Subscription`."""

    def __init__(
        self, data: LogData, network: SimulatedNetwork, endpoint: Endpoint, handler: Callable[[int, bytes], None]
    ) -> None:
        self._data = data
        self._network = network
        self._endpoint = endpoint
        self._epoch = endpoint.epoch
        self._handler = handler
        self._position = 0

    def pump(self, _: object = None) -> None:
        """Send what was not sent, again until it is there."""
        network, endpoint = self._network, self._endpoint
        if self not in self._data.followers or endpoint.epoch != self._epoch or self._data.last <= self._position:
            return
        if not network.up or network.lost_coming(endpoint):
            network.at(network.now + self._data.resend, self.pump)
        else:
            network.at(network.hop_down(endpoint), self._arrive, self._data.last)

    def _arrive(self, upto: int) -> None:
        if self._endpoint.paused > self._network.now:
            self._network.at(self._endpoint.paused, self._arrive, upto)
            return
        for sequence, data in list(self._data.entries):
            if self._position < sequence <= upto and self in self._data.followers and self._endpoint.epoch == self._epoch:
                self._position = sequence
                self._handler(sequence, data)

    async def stop(self) -> None:
        """Deliver no more."""
        if self in self._data.followers:
            self._data.followers.remove(self)


class SimulatedLog:
    """See `bus.port.Log`."""

    def __init__(
        self,
        name: str,
        data: LogData,
        network: SimulatedNetwork,
        endpoint: Endpoint,
        *,
        synchronise: Callable[[], None],
        kick: Callable[[], None],
        timeout: float,
    ) -> None:
        self.name = name
        self._data = data
        self._network = network
        self._endpoint = endpoint
        self._synchronise = synchronise
        self._kick = kick
        self._timeout = timeout

    async def append(self, data: bytes, *, after: int, name: str) -> int:
        """See `bus.port.Log.append`."""
        self._synchronise()
        network, endpoint = self._network, self._endpoint
        stored: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        epoch = endpoint.epoch

        def send(_: object) -> None:
            if stored.done() or endpoint.epoch != epoch:
                return
            if network.lost(endpoint):
                network.at(network.now + self._data.resend, send)
            else:
                network.at(network.hop_up(endpoint), reach)

        def reach(_: object) -> None:
            if not network.up:
                network.at(network.now + self._data.resend, send)
                return
            sequence = self._data.append(data, after, name)
            if network.lost_coming(endpoint):
                network.at(network.now + self._data.resend, send)
            else:
                network.at(network.hop_down(endpoint), back, sequence)

        def back(sequence: int | None) -> None:
            if endpoint.paused > network.now:
                network.at(endpoint.paused, back, sequence)
            elif not stored.done() and endpoint.epoch == epoch:
                stored.set_result(sequence)

        def give_up(_: object) -> None:
            if not stored.done():
                stored.set_exception(Unreachable(f"{self.name}: the simulated server did not store it in time"))

        send(None)
        network.at(network.now + self._timeout, give_up)
        self._kick()
        sequence = await stored
        if sequence is None:
            raise Superseded(self.name)
        return sequence

    async def follow(self, handler: Callable[[int, bytes], None]) -> Follower:
        """See `bus.port.Log.follow`."""
        self._synchronise()
        follower = Follower(self._data, self._network, self._endpoint, handler)
        self._data.followers.append(follower)
        follower.pump()
        self._kick()
        return follower

    async def trim(self, before: int | None) -> None:
        """See `bus.port.Log.trim`."""
        if before is None:
            self._data.entries, self._data.end = [], 0
            return
        self._data.entries = [each for each in self._data.entries if each[0] >= min(before, self._data.last)]
