"""What healing and foreseeing say, where people look: the live view, `shoal why`, the report, `shoal healing`."""

import pytest
from typer.testing import CliRunner

from runners import known_past as past_module
from runners.causes import chains_about
from runners.cli import healing as command
from runners.cli.app import app
from runners.healing_table import remedies, risks
from runners.report import TYPES
from runners.report_adaptations import adaptations
from runners.report_timeline import Timeline
from runners.view.state import ViewState
from runners.view.words import said_by
from schemas.healing import AgentRestartOrdered, Healed, HealingFailed, HealingOrdered, HealingWithheld
from schemas.nodes import WorkFailed
from schemas.prediction import FaultForeseen, PredictionJudged, PredictorLearned
from schemas.training import Roster
from schemas.wire import Message, seal


def sealed(message: Message, number: int, cause: int = 0) -> Message:
    """With an envelope."""
    return seal(message, id=str(number), cause=str(cause) if cause else "", at=float(number), source="healer")


def healed(successes: float, failures: float) -> Healed:
    """By a restart."""
    return Healed(
        node="b", job="j", fault="stalled", remedy="restart", orders=2, seconds=90, remedy_seconds=12, successes=successes,
        failures=failures, mean_seconds=12, deviation_seconds=3, reason="well again",
    )  # fmt: skip


@pytest.fixture
def story() -> list[Message]:
    """A fault from its beginning to its end, and what is expected of another node."""
    order = {"node": "b", "job": "j", "fault": "stalled", "ticket": 1, "judged_after": 60, "chance": 0.5, "tries": 3}
    foreseen = {"kind": "memory", "threshold": 0.7, "horizon_seconds": 120, "figure": "memory_used_bytes", "basis": "trend"}
    failed = {"node": "b", "job": "j", "fault": "stalled", "orders": 1, "seconds": 60, "successes": 0.0, "failures": 1.0}
    return [
        sealed(Roster(job="j", version=1, nodes=("a", "b"), reducers=("a",), quorum=1, reason="r"), 1),
        sealed(
            WorkFailed(node="b", job="j", attempt=1, kind="hung", code=1, last_lines=(), retry=True, reason="it hung"), 2
        ),
        sealed(HealingOrdered(remedy="move", reason="its work goes to others", **order), 3, cause=2),  # type: ignore[arg-type]
        sealed(HealingFailed(remedy="move", reason="in vain", **failed), 4, cause=3),  # type: ignore[arg-type]
        sealed(HealingOrdered(remedy="restart", reason="its process is started anew", **order), 5, cause=4),  # type: ignore[arg-type]
        sealed(healed(1.0, 0.0), 6, cause=5),
        sealed(HealingWithheld(node="b", job="j", fault="stalled", seconds=9, budget="node", reason="spent"), 7),
        sealed(FaultForeseen(node="a", version=1, expected=True, chance=0.9, reason="it runs out", **foreseen), 8),  # type: ignore[arg-type]
        sealed(FaultForeseen(node="b", version=1, expected=True, chance=0.9, reason="it runs out", **foreseen), 9),  # type: ignore[arg-type]
        sealed(FaultForeseen(node="b", version=2, expected=False, chance=0.1, reason="no longer", **foreseen), 10),  # type: ignore[arg-type]
        sealed(
            PredictionJudged(
                kind="memory", threshold=0.65, precision=0.9, recall=0.5, outcomes=40, faults=6, basis="trend", reason="so"
            ),
            11,
        ),
        sealed(PredictorLearned(kind="heat", basis="trend", examples=9, faults=1, reason="too few"), 12),
    ]


def test_each_deserves_a_line(story: list[Message]) -> None:
    assert all(said_by(event) is not None for event in story)
    restart = AgentRestartOrdered(target="optimizer", ticket=1, silent_seconds=40, reason="silent")
    said = said_by(restart)
    assert said is not None
    assert (said.who, said.fault) == ("optimizer", True)


def test_the_live_view_shows_orders_of_all_jobs_too() -> None:
    view = ViewState(job="j")
    view.see(
        HealingOrdered(node="b", fault="flapping", remedy="quarantine", ticket=1, judged_after=60, chance=0.5, reason="why")
    )
    assert [decision.reason for decision in view.decisions] == ["why"]


def test_why_and_the_report_tell_what_was_ordered_and_what_came_of_it(story: list[Message]) -> None:
    chain = next(chain for chain in chains_about(story, "b", 20) if isinstance(chain[0], Healed))
    assert [type(event).__name__ for event in chain] == [
        "Healed", "HealingOrdered", "HealingFailed", "HealingOrdered", "WorkFailed",
    ]  # fmt: skip
    assert {Healed, HealingFailed, HealingOrdered} <= set(TYPES)
    told = [each.what for each in adaptations(Timeline("j", story))]
    assert told[1:] == [
        "healer: move for b",
        "healer: move for b was in vain",
        "healer: restart for b",
        "b healed after 90 s",
    ]


def test_what_was_learned_is_a_table(story: list[Message], monkeypatch: pytest.MonkeyPatch) -> None:
    restart, move = sorted(remedies([*story, sealed(healed(1.9, 0.0), 13)]), key=lambda row: row.remedy, reverse=True)
    assert (restart.remedy, restart.successes, restart.seconds, restart.seconds_deviation) == ("restart", 1.9, 12, 3)
    assert (move.failures, move.seconds) == (1.0, None)
    assert restart.chance > 0.7
    assert move.chance < 0.5
    heat, memory = risks(story)
    assert (memory.threshold, memory.precision, memory.expected_of) == (0.65, 0.9, ("a",))
    assert heat.learned == "too few"

    async def known(server: object, store: object) -> list[Message]:
        return story

    monkeypatch.setattr(command, "known_past", known)
    assert past_module.known_past is not known
    shown = CliRunner().invoke(app, ["healing"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "restart" in shown.output
    assert "90 %" in shown.output
    assert '"expected_of"' in CliRunner().invoke(app, ["healing", "--json"]).output
