"""Requests and answers on the simulated carrier."""

from collections.abc import Callable

from bus.port import BusError, NoResponders, TimedOut
from bus.simulated_endpoint import Endpoint
from bus.simulated_network import SimulatedNetwork

Answered = Callable[[bytes | BusError], None]
Answerer = Callable[[bytes, Callable[[bytes], None]], None]
"""Gets a request and a function to call with the answer, then or later."""


class SimulatedRequests:
    """Who answers which subject, and the requests under way."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self._network = network
        self._servers: dict[str, list[tuple[Endpoint, Answerer, str]]] = {}
        self._turn = 0

    def serve(self, endpoint: Endpoint, subject: str, answerer: Answerer, group: str = "") -> Callable[[], None]:
        """Answer a subject's requests; of each group one gets each. Gives what ends it."""
        entry = (endpoint, answerer, group)
        self._servers.setdefault(subject, []).append(entry)

        def stop() -> None:
            servers = self._servers.get(subject, [])
            if entry in servers:
                servers.remove(entry)

        return stop

    def ask(self, endpoint: Endpoint, subject: str, body: bytes, timeout: float, answered: Answered) -> None:
        """Send a request; `answered` is called once: with the answer, `NoResponders` or `TimedOut`."""
        network = self._network
        asking = _Asking(endpoint, subject, body, answered)
        network.at(network.now + timeout, self._give_up, asking)
        if network.up and endpoint.up_cut <= network.now:
            network.at(network.hop_up(endpoint), self._reach_server, asking)

    def _reach_server(self, asking: "_Asking") -> None:
        network = self._network
        servers = self._servers.get(asking.subject)
        if not servers:
            network.at(network.hop_down(asking.endpoint), asking.finish, NoResponders(asking.subject))
            return
        self._turn += 1
        for group in dict.fromkeys(server[2] for server in servers):
            members = [server for server in servers if server[2] == group]
            self._hand_over(asking, *members[self._turn % len(members)][:2])

    def _hand_over(self, asking: "_Asking", endpoint: Endpoint, answerer: Answerer) -> None:
        network = self._network
        if endpoint.down_cut > network.now:
            return
        epoch = endpoint.epoch

        def reply(body: bytes) -> None:
            if network.up and endpoint.epoch == epoch and endpoint.up_cut <= network.now:
                network.at(network.hop_up(endpoint), back, body)

        def back(body: bytes) -> None:
            if asking.endpoint.down_cut <= network.now:
                network.at(network.hop_down(asking.endpoint), asking.finish, body)

        def arrive(_: object) -> None:
            if endpoint.paused > network.now:
                network.at(endpoint.paused, arrive)
            elif endpoint.epoch == epoch:
                answerer(asking.body, reply)

        network.at(network.hop_down(endpoint), arrive)

    def _give_up(self, asking: "_Asking") -> None:
        asking.finish(TimedOut(f"no answer on {asking.subject}: is the one who answers busy? try again"))


class _Asking:
    """A request under way."""

    __slots__ = ("_answered", "body", "endpoint", "subject")

    def __init__(self, endpoint: Endpoint, subject: str, body: bytes, answered: Answered) -> None:
        self.endpoint = endpoint
        self.subject = subject
        self.body = body
        self._answered: Answered | None = answered

    def finish(self, result: bytes | BusError) -> None:
        """The first result counts."""
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(result)
