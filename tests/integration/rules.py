"""What must hold of every job that has run, read from the streams alone."""

from collections import defaultdict

import pytest
from story import told

from runners.client import Client
from schemas.anchors import DigestMismatch
from schemas.decisions import InputFailed
from schemas.fragments import turns_late
from schemas.jobs import JobPhase, JobState, ModelStored
from schemas.training import ContributionRefused, RoundApplied, RoundClosed, RoundOpened


async def must_have_run_well(client: Client, job: str) -> list[RoundClosed]:
    """Raises AssertionError where a rule is broken; gives the closed rounds in order."""
    events = await told(client, f"shoal.training.{job}.>")
    state = (await told(client, f"shoal.jobs.{job}.state"))[-1]
    assert isinstance(state, JobState)
    assert state.state is JobPhase.COMPLETED, f"{state.state}: {state.reason}"
    rounds = sorted((e for e in events if isinstance(e, RoundClosed)), key=lambda e: e.round)
    assert [r.round for r in rounds] == list(range(1, len(rounds) + 1)), "each round is closed once"
    assert len(rounds) == state.round
    for closed in rounds:
        _must_be_sound(closed, state.request.fragments or 1)
    _must_count_once(rounds)
    _must_agree([e for e in events if isinstance(e, RoundApplied)], len(rounds))
    assert not [e for e in events if isinstance(e, DigestMismatch)]
    refused = [e for e in events if isinstance(e, ContributionRefused) and not e.late]
    # A process that was killed and is back at once may make a difference again that was counted before.
    bad = [e for e in refused if "rounds late" not in e.reason and "was counted for round" not in e.reason]
    assert not bad, bad
    opened = {(e.round, e.term) for e in events if isinstance(e, RoundOpened)}
    assert all((r.round, r.term) in opened for r in rounds), "a round is closed under a term that was opened"
    stored = [m for m in await told(client, f"shoal.jobs.{job}.model") if isinstance(m, ModelStored)]
    assert stored[-1].final
    assert stored[-1].round == len(rounds)
    assert not [m for m in await told(client, "shoal.decisions.*.failed") if isinstance(m, InputFailed)]
    return rounds


def _must_be_sound(closed: RoundClosed, fragments: int) -> None:
    parts = closed.contributions
    assert parts
    assert sum(part.weight for part in parts) == pytest.approx(1.0)
    counting = [part.samples / (1 + turns_late(part.round, closed.round, fragments)) for part in parts]
    for part, counts in zip(parts, counting, strict=True):
        assert part.late == closed.round - part.round >= 0
        assert part.weight == pytest.approx(counts / sum(counting))
    assert closed.samples == sum(part.samples for part in parts)
    on_time = {part.node for part in parts if part.late == 0}
    assert not on_time & set(closed.missing)
    assert closed.on_time is not bool(closed.missing)


def _must_count_once(rounds: list[RoundClosed]) -> None:
    counted = [(part.node, part.round) for closed in rounds for part in closed.contributions]
    assert len(counted) == len(set(counted)), "a contribution counts once"


def _must_agree(applied: list[RoundApplied], last: int) -> None:
    digests: dict[int, dict[str, str]] = defaultdict(dict)
    for event in applied:
        digests[event.version].setdefault(event.node, event.digest)
    for version, by_node in digests.items():
        assert len(set(by_node.values())) == 1, f"anchors of version {version} differ: {by_node}"
    assert last in digests, "nobody applied the last round"
