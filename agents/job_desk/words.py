"""Where a job stands, in the words that users read."""

from collections.abc import Collection

from agents.job_desk.state import Job
from schemas.ids import JobId, NodeId
from schemas.lengths import most_rounds
from schemas.nodes import WorkFailed
from schemas.training import RoundClosed

NAMES_SHOWN = 4  # nodes named in a reason; more would not fit a line


def count(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def names(nodes: Collection[NodeId]) -> str:
    """`a, b, c, d and 3 more`."""
    shown = sorted(nodes)[:NAMES_SHOWN]
    rest = len(nodes) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def waiting(job: Job, alive: Collection[NodeId], others: Collection[JobId] = ()) -> str:
    """Why a job is queued; `others`: those that are under way."""
    there = sum(node not in job.request.exclude for node in alive)
    if there >= job.request.min_nodes:
        what = f"its share of them beside {names(others)}" if others else "the roster"
        return f"enough nodes are there; waiting for {what}"
    is_there = f"{there or 'none'} is there" if there < 2 else f"{there} are there"
    return f"waiting for {count(job.request.min_nodes, 'node')}; {is_there}"


def closed(job: Job, event: RoundClosed) -> str:
    """What a closed round came to."""
    by = len({part.node for part in event.contributions})
    without = f", without {names(event.missing)}" if event.missing else ""
    most = most_rounds(job.request)
    limit = f"at most {most}" if most > job.request.rounds else str(most)
    return f"round {event.round} of {limit} closed with {count(by, 'node')}{without}"


def failure(event: WorkFailed) -> str:
    """How a job failed on a node: the kind and the last line that its process printed."""
    last = next((line.strip() for line in reversed(event.last_lines) if line.strip()), event.reason)
    return f"{event.kind}: {last}"
