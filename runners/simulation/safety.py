"""What must hold whatever goes wrong: looked at in the order in which the streams stored it."""

from collections.abc import Callable
from typing import Any

import msgspec

from bus.simulated_streams import Stored
from runners.simulation.fleet import Fleet
from schemas.errors import ShoalError
from schemas.jobs import JobPhase, JobRequest, JobState
from schemas.training import Assignment, Roster, RoundClosed

# Weights of a round sum to 1 within what 1,000 additions of doubles lose.
ROUNDING = 1e-9
# Bytes of state that a core may have: a fixed part, and one for every node and job it knows. Some three times what the
# largest, a network monitor with full windows, has.
STATE_BASE, STATE_EACH = 50_000, 6_000
# Effects of a core that may wait to be stored: what comes together while the server is out of reach.
WAITING_BASE, WAITING_EACH = 1_000, 100


class Unsafe(ShoalError):
    """Something happened that must not. Attributes: `what`; `event`, the id of the message that shows it."""

    def __init__(self, what: str, at: float) -> None:
        super().__init__(f"at {at:.3f} s: {what}")
        self.what = what
        self.at = at
        self.event = ""


class Safety:
    """Invariants over the streams, and bounds on every core's state."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._versions: dict[str, int] = {}
        self._phases: dict[str, JobPhase] = {}
        self._finishing: set[str] = set()
        self._requests: dict[str, JobRequest] = {}
        self._counted: dict[str, set[tuple[str, int]]] = {}
        self._closed: dict[str, int] = {}
        self._looks: dict[type, Callable[[Any], None]] = {
            JobState: self._job,
            Roster: self._roster,
            Assignment: self._assignment,
            RoundClosed: self._round,
        }
        self.rounds = 0

    def stored(self, stored: Stored) -> None:
        """A message has come into its stream. Raises `Unsafe`."""
        look = self._looks.get(stored.wire.type)
        if look is not None:
            message = stored.wire.decode_bytes(stored.data)
            try:
                look(message)
            except Unsafe as unsafe:
                unsafe.event = message.id
                raise

    def bounded(self) -> None:
        """Every core's state is within bounds. Raises `Unsafe`."""
        known = len(self._fleet.machines) + len(self._phases)
        for participant in self._fleet.participants():
            size = len(msgspec.msgpack.encode(participant.agent.state))
            limit = STATE_BASE + STATE_EACH * known
            self._require(size <= limit, f"the state of {participant.role.source} has {size} bytes, over {limit}")
            waiting, most = participant.waiting, WAITING_BASE + WAITING_EACH * known
            self._require(waiting <= most, f"{participant.role.source} has {waiting} effects to store, over {most}")

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise Unsafe(what, self._fleet.network.now)

    def _rising(self, what: str, version: int, by: str) -> None:
        """Versions rise. Only who lost what it knew may repeat one, which readers ignore until it has heard itself."""
        before = self._versions.get(what, -1)
        writer = self._fleet.agents.get(by)
        forgot = writer is not None and writer.forgot
        self._require(version > before or forgot, f"{what} went from version {before} to {version}")
        self._versions[what] = max(version, before)

    def _job(self, state: JobState) -> None:
        self._rising(f"the state of {state.job}", state.version, state.source)
        before = self._phases.get(state.job)
        ended = before is not None and before.ended
        self._require(not ended, f"{state.job} had ended ({before}) and is {state.state.value} now")
        self._require(0 <= state.round <= state.rounds, f"{state.job} is at round {state.round} of {state.rounds}")
        if state.state is JobPhase.FINISHING:
            self._finishing.add(state.job)
        if state.state is JobPhase.COMPLETED:
            closed, due = self._closed.get(state.job, 0), state.job in self._finishing
            self._require(due or closed >= state.rounds, f"{state.job} is completed with {closed} of {state.rounds} rounds")
        self._phases[state.job] = state.state
        self._requests[state.job] = state.request

    def _roster(self, roster: Roster) -> None:
        self._rising(f"the roster of {roster.job}", roster.version, roster.source)
        nodes = set(roster.nodes)
        self._require(len(nodes) == len(roster.nodes), f"a node is twice in roster {roster.version} of {roster.job}")
        self._require(set(roster.reducers) <= nodes, f"a reducer is not in roster {roster.version} of {roster.job}")
        fits = 1 <= roster.quorum <= max(1, len(nodes))
        self._require(fits, f"the quorum is {roster.quorum} of {len(nodes)} nodes in {roster.job}")
        out = {exclusion.node for exclusion in roster.excluded}
        self._require(not out & nodes, f"{sorted(out & nodes)} both in and out of {roster.job}")
        request = self._requests.get(roster.job)
        if request is not None and request.max_nodes is not None:
            self._require(len(nodes) <= request.max_nodes, f"{len(nodes)} nodes in {roster.job}")

    def _assignment(self, assignment: Assignment) -> None:
        self._rising(f"the assignment of {assignment.job}", assignment.version, assignment.source)
        request = self._requests.get(assignment.job)
        sound = assignment.deadline_seconds > 0 and assignment.round_seconds >= 0
        self._require(sound, f"assignment {assignment.version} of {assignment.job} has no time")
        for node, share in assignment.shares.items():
            size, steps = share.microbatch, share.local_steps
            self._require(size > 0 and size & (size - 1) == 0, f"{node} is to take microbatches of {size}")
            self._require(steps >= 1 and share.every >= 1, f"{node} is to take {steps} steps every {share.every} rounds")
            if request is not None:
                low, high = request.microbatch_min, request.microbatch_max
                self._require(low <= size <= high, f"{node}: {size} is not between {low} and {high}")

    def _round(self, closed: RoundClosed) -> None:
        self.rounds += 1
        job = closed.job
        before = self._closed.get(job, 0)
        self._require(closed.round == before + 1, f"round {closed.round} of {job} closed after round {before}")
        self._closed[job] = closed.round
        counted = self._counted.setdefault(job, set())
        for contribution in closed.contributions:
            key = contribution.node, contribution.round
            self._require(key not in counted, f"the contribution {key} of {job} counts a second time in {closed.round}")
            self._require(contribution.round <= closed.round, f"{key} of {job} is from the future")
            counted.add(key)
        total = sum(contribution.weight for contribution in closed.contributions)
        pieces = sorted(piece for shard in closed.average.shards for piece in shard.pieces)
        whole = pieces == list(range(len(pieces)))
        self._require(whole, f"round {closed.round} of {job} closed with an average of the pieces {pieces}")
        self._require(bool(closed.contributions), f"round {closed.round} of {job} closed with nothing")
        self._require(abs(total - 1.0) < ROUNDING, f"the weights of round {closed.round} of {job} sum to {total}")
