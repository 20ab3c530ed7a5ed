"""What must not be lost by a drill: pure arithmetic over what was accepted and what is stored."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from schemas.jobs import JobPhase
from schemas.training import RoundApplied, RoundClosed


def marks_lost(accepted: Collection[int], stored: Iterable[int]) -> list[str]:
    """Marks that the server had acknowledged and doesn't have, or has twice."""
    there = Counter(stored)
    gone = sorted(set(accepted) - there.keys())
    twice = sorted(number for number, times in there.items() if times > 1)
    found = []
    if gone:
        found.append(f"{len(gone)} of {len(accepted)} acknowledged records are gone, the first is number {gone[0]}")
    if twice:
        found.append(f"{len(twice)} records are stored twice, the first is number {twice[0]}")
    return found


def rounds_lost(stored: Sequence[RoundClosed], heard: Iterable[RoundClosed]) -> list[str]:
    """Rounds that were closed and aren't there, were closed twice, or count a contribution twice."""
    numbers = Counter(closed.round for closed in stored)
    found = []
    if numbers:
        missing = sorted(set(range(min(numbers), max(numbers) + 1)) - numbers.keys())
        if missing:
            found.append(f"{len(missing)} rounds are gone, the first is {missing[0]}")
    twice = sorted(number for number, times in numbers.items() if times > 1)
    if twice:
        found.append(f"rounds {_some(twice)} are closed twice")
    ids = {closed.id for closed in stored}
    others = sorted({closed.round for closed in heard if closed.id not in ids})
    if others:
        found.append(f"rounds {_some(others)} were closed otherwise than they are stored")
    counted = Counter((part.node, part.round) for closed in stored for part in closed.contributions)
    again = sorted(who for who, times in counted.items() if times > 1)
    if again:
        node, number = again[0]
        found.append(f"{len(again)} contributions count twice, the first is {node}'s for round {number}")
    return found


def anchors_differ(applied: Iterable[RoundApplied]) -> list[str]:
    """Versions of the model of which two nodes have different ones."""
    digests: dict[int, set[str]] = defaultdict(set)
    for event in applied:
        digests[event.version].add(event.digest)
    differing = sorted(version for version, several in digests.items() if len(several) > 1)
    return [f"the nodes' models differ in versions {_some(differing)}"] if differing else []


def jobs_lost(before: Mapping[str, JobPhase], after: Mapping[str, JobPhase]) -> list[str]:
    """Jobs that the desk had accepted and doesn't know any more, or that had ended and go on."""
    found = [f"the desk has forgotten job {job}" for job in sorted(before.keys() - after.keys())]
    for job in sorted(before.keys() & after.keys()):
        if before[job].ended and after[job] is not before[job]:
            found.append(f"job {job} had {before[job].value} and is {after[job].value} now")
    return found


def _some(numbers: Sequence[int]) -> str:
    most = 5
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
