"""Where the time of a run of Shoal went, from the events that it published.

A node's time: computing; `upload`, from its steps' end until the reducer has its difference; `waiting` for others, until
the round is closed; `download`, until it has applied the average; `idle`, until its next steps begin. A round's time, from
opening to opening: `steps`, until the last difference that came in time was made; `upload`, until the last of these was
there; `closing` (the rest of a deadline, and averaging), until the average is offered; `handover`, until a second node
holds it and the round is closed; `opening` of the next.
"""

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.training.results import Result

Event = dict[str, Any]

NODE_PARTS = ("computing", "upload", "waiting", "download", "idle")
ROUND_PARTS = ("steps", "upload", "closing", "handover", "opening")


@dataclass(frozen=True)
class NodeTime:
    """One node's seconds between the first round's opening and the end."""

    node: str
    seconds: dict[str, float]
    """By `NODE_PARTS`."""
    steps: int
    samples: int
    """Computed."""
    counted: int
    """Samples in closed rounds, late ones whole."""
    contributions: int
    late: float
    """Mean rounds that its contributions were late."""
    weight: float
    """Its part of all averages, 0 to 1."""
    step_seconds: float
    """Mean of a step of the starting microbatch; above what it is padded to where the machine had no core for it."""
    shares: str
    """The last share: microbatch x steps, encoding, streams, every."""


@dataclass(frozen=True)
class Where:
    """The whole run."""

    seconds: float
    nodes: tuple[NodeTime, ...]
    rounds: int
    round_seconds: float
    """Median from opening to opening."""
    parts: dict[str, float]
    """Mean seconds of a round by `ROUND_PARTS`."""
    deadlines_missed: int
    """Rounds that closed at their deadline, without somebody they waited for."""
    deadline: float
    """The last round's."""
    counted: int
    """Samples in closed rounds."""
    longest_gap: float
    """Between two closed rounds."""
    gap_at: float
    """When that began."""
    microbatches: list[int] = field(default_factory=list)
    """All that were used."""


def where(events: Sequence[Event], start: float, end: float, batch: int) -> Where:
    """Take a run apart; `start` and `end` in seconds since the epoch, `batch`: the starting microbatch."""
    inside = [e for e in events if start <= e.get("at", 0.0) <= end]
    closed = _first_of(inside, "RoundClosed", "round")
    names = sorted({e["node"] for e in inside if e["type"] == "StepTimed"})
    opened = sorted(_first_of(inside, "RoundOpened", "round").items())
    periods = [later["at"] - earlier["at"] for (_, earlier), (_, later) in itertools.pairwise(opened)]
    times = sorted([start, *(e["at"] for e in closed.values())])
    gaps = [(later - earlier, earlier - start) for earlier, later in itertools.pairwise(times)]
    longest = max(gaps, default=(0.0, 0.0))
    steps = [e for e in inside if e["type"] == "StepTimed"]
    return Where(
        seconds=end - start,
        nodes=tuple(_node(name, inside, closed, end, batch) for name in names),
        rounds=len(closed),
        round_seconds=statistics.median(periods) if periods else end - start,
        parts=_round_parts(inside, closed, dict(opened)),
        deadlines_missed=sum(bool(e["missing"]) for e in closed.values()),
        deadline=opened[-1][1]["deadline_seconds"] if opened else 0.0,
        counted=sum(c["samples"] for e in closed.values() for c in e["contributions"]),
        longest_gap=longest[0],
        gap_at=longest[1],
        microbatches=sorted({e["microbatch"] for e in steps}),
    )


def _first_of(events: Iterable[Event], kind: str, key: str) -> dict[int, Event]:
    found: dict[int, Event] = {}
    for event in events:
        if event["type"] == kind:
            found.setdefault(event[key], event)
    return found


def _node(name: str, events: Sequence[Event], closed: dict[int, Event], end: float, batch: int) -> NodeTime:
    own = [e for e in events if e.get("node") == name]
    received = [e["at"] for e in events if e["type"] == "ContributionReceived" and e["contributor"] == name]
    applied = [e["at"] for e in own if e["type"] == "RoundApplied"]
    closings = sorted(e["at"] for e in closed.values())
    seconds = dict.fromkeys(NODE_PARTS, 0.0)
    spans = _spans(own, end)
    for begun, done, following in spans:
        seconds["computing"] += done - begun
        since = done
        marks = [_first_after(times, done, following) for times in (received, closings, applied)]
        for part, stop in zip(NODE_PARTS[1:], [*marks, following], strict=True):
            if stop is not None and stop > since:
                seconds[part] += stop - since
                since = stop
    counted = [c for e in closed.values() for c in e["contributions"] if c["node"] == name]
    steps = [e for e in own if e["type"] == "StepTimed"]
    return NodeTime(
        node=name,
        seconds=seconds,
        steps=sum(e["steps"] for e in steps),
        samples=sum(e["samples"] for e in steps),
        counted=sum(c["samples"] for c in counted),
        contributions=len(counted),
        late=statistics.mean(c["late"] for c in counted) if counted else 0.0,
        weight=sum(c["weight"] for c in counted) / max(1, len(closed)),
        step_seconds=sum(e["seconds"] for e in steps) / max(1, sum(e["samples"] for e in steps)) * batch,
        shares=_last_share(name, events),
    )


def _spans(own: Sequence[Event], end: float) -> list[tuple[float, float, float]]:
    """Of each local round: its beginning, its end, and the beginning of the next."""
    begun: float | None = None
    spans: list[tuple[float, float, float]] = []
    for event in own:
        if event["type"] == "TrainingProgress" and event["doing"] == "computing" and event["step"] == 0:
            if spans and spans[-1][2] == end:
                spans[-1] = (*spans[-1][:2], event["at"])
            begun = event["at"]
        elif event["type"] == "StepTimed" and begun is not None:
            spans.append((begun, event["at"], end))
            begun = None
    if begun is not None:
        spans.append((begun, end, end))
    return spans


def _first_after(times: Sequence[float], after: float, before: float) -> float | None:
    return min((t for t in times if after <= t <= before), default=None)


def _last_share(name: str, events: Sequence[Event]) -> str:
    shares = [e["shares"][name] for e in events if e["type"] == "Assignment" and name in e["shares"]]
    if not shares:
        return ""
    s = shares[-1]
    words = f"{s['microbatch']}x{s['local_steps']} {s['encoding']}"
    words += f" {s['streams']} streams" if s.get("streams", 1) > 1 else ""
    return words + (f" every {s['every']}" if s.get("every", 1) > 1 else "")


def _round_parts(events: Sequence[Event], closed: dict[int, Event], opened: dict[int, Event]) -> dict[str, float]:
    """Mean seconds of the parts of a round, over the rounds whose events are all there."""
    offered = {(e["node"], e["round"]): e["at"] for e in events if e["type"] == "ContributionOffered"}
    received = {(e["contributor"], e["round"]): e["at"] for e in events if e["type"] == "ContributionReceived"}
    averaged = _first_of(events, "AverageOffered", "round")
    rows = []
    for number, closing in closed.items():
        if number not in opened or number + 1 not in opened or number not in averaged:
            continue
        prompt = [(c["node"], c["round"]) for c in closing["contributions"] if not c["late"]]
        at = opened[number]["at"]
        made = max((offered[one] for one in prompt if one in offered), default=at)
        here = max((received[one] for one in prompt if one in received), default=made)
        marks = [at, made, here, averaged[number]["at"], closing["at"], opened[number + 1]["at"]]
        ordered = list(itertools.accumulate(marks, max))
        rows.append([later - earlier for earlier, later in itertools.pairwise(ordered)])
    means = [statistics.mean(column) for column in zip(*rows, strict=True)] if rows else [0.0] * len(ROUND_PARTS)
    return dict(zip(ROUND_PARTS, means, strict=True))


def told(result: Result) -> list[str]:
    """The figures of a run of Shoal as lines for people."""
    found = result.details["where"]
    parts = " + ".join(f"{part} {seconds:.2f}" for part, seconds in found["parts"].items())
    used, samples = result.details["capacity_used"], result.details["samples_of_ideal"]
    lines = [
        f"{used:.0%} of the machines' steps were counted, and it took {samples:.2f} times the ideal's samples",
        f"steps took {result.details['steps_overran']:.2f} of what they are padded to (above 1: the machine was too busy)",
        f"{found['rounds']} rounds, {found['round_seconds']:.2f} s each (median); mean {parts}",
        f"{found['deadlines_missed']} closed at the deadline (the last one {found['deadline']:.1f} s); longest time "
        f"without a closed round {found['longest_gap']:.1f} s, from {found['gap_at']:.1f} s on",
    ]
    if used := result.details.get("processor_seconds"):
        most = sorted(used.items(), key=lambda one: -one[1])
        lines.append(
            "seconds of a processor: " + ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in most if seconds >= 0.1)
        )
    if result.details["stall"] is not None:
        lines.append(f"the kill made rounds stand still for {result.details['stall']:.1f} s longer than usual")
    lines.append(
        f"{'node':10}"
        + "".join(f"{part:>11}" for part in NODE_PARTS)
        + "   steps  samples  counted  weight  late   step  share"
    )
    for node in found["nodes"]:
        whole = "".join(f"{node['seconds'][part] / found['seconds']:>11.0%}" for part in NODE_PARTS)
        figures = f"{node['steps']:>8}{node['samples']:>9}{node['counted']:>9}{node['weight']:>8.0%}{node['late']:>6.1f}"
        lines.append(f"{node['node']:10}{whole}{figures}{node['step_seconds']:>7.3f}  {node['shares']}")
    return lines
