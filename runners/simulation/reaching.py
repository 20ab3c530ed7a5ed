"""What a participant measures of the network: a round trip to the server, and whether a node is there."""

from collections.abc import Callable

from agents.effects import Probe, Reach
from agents.inputs import ProbeReturned, Reached, Result
from bus.port import BusError, NoResponders
from bus.simulated_endpoint import Endpoint
from bus.simulated_network import SimulatedNetwork
from bus.simulated_requests import SimulatedRequests
from schemas.health import Outcome, ReachNode
from schemas.wire import encode, subject_of

Post = Callable[[Result], None]


def probe(network: SimulatedNetwork, endpoint: Endpoint, effect: Probe, post: Post) -> None:
    """Measure a round trip; the result is this life's alone."""
    epoch, sequence = endpoint.epoch, effect.sequence

    def measured(rtt: float | None) -> None:
        if endpoint.epoch == epoch:
            post(ProbeReturned(sequence=sequence, rtt=rtt))

    network.round_trip(endpoint, effect.timeout, measured)


def reach(network: SimulatedNetwork, requests: SimulatedRequests, endpoint: Endpoint, effect: Reach, post: Post) -> None:
    """Ask a node whether it is there; the result is this life's alone."""
    epoch, begun, asked = endpoint.epoch, network.now, ReachNode(node=effect.node)

    def heard(answer: bytes | BusError) -> None:
        if endpoint.epoch == epoch:
            absent = isinstance(answer, NoResponders)
            outcome: Outcome = "absent" if absent else "silent" if isinstance(answer, BusError) else "answered"
            rtt = network.now - begun if outcome == "answered" else None
            post(Reached(node=effect.node, ticket=effect.ticket, outcome=outcome, rtt=rtt))

    requests.ask(endpoint, subject_of(asked), encode(asked), effect.timeout, heard)
