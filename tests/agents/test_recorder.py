"""The recorder by direct calls: what becomes history, what the figures say, and when a report is due."""

import math
import random
import statistics as exact
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from agents.base import CancelTimer, Effect, Publish, SetTimer, StartWork, Store
from agents.inputs import Woken, WorkExited
from agents.recorder import Recorder, RecorderSettings, RecorderState, ReportBuilt, ReportWork
from agents.recorder.core import ReportDue
from agents.recorder.statistics import Series, Window, together
from schemas.decisions import InputFailed, NodeLost
from schemas.emulation import EmulatedLinkChanged
from schemas.jobs import JobPhase, JobRequest, JobState, ReportReady
from schemas.network import LinkProbed
from schemas.nodes import Accelerator, NodeHeartbeat
from schemas.training import StepTimed, TransferTimed
from schemas.wire import Delivery, decode, registered

NOW = 1_000.0


def a_recorder(**settings: Any) -> Recorder:
    return Recorder(RecorderSettings(**settings), random.Random(1))


def tell(recorder: Recorder, event: Any, now: float = NOW, cause: str = "") -> list[Effect]:
    effects = recorder.handle(event, now, cause)
    recorder.check()
    return effects


def rows(effects: list[Effect], table: str) -> list[dict[str, Any]]:
    return [e.row for e in effects if isinstance(e, Store) and e.table == table]


def ended(job: str = "j", phase: JobPhase = JobPhase.COMPLETED, at: float = 900.0) -> JobState:
    request = JobRequest(kind="train", workload="m:w")
    return JobState(
        id=f"job_desk:1:{job}",
        job=job,
        version=9,
        state=phase,
        reason="r",
        round=10,
        rounds=10,
        request=request,
        submitted_at=at,
    )


def test_every_record_and_every_state_becomes_history() -> None:
    handled = set(Recorder.handlers)
    kept = {wire.type for wire in registered() if wire.delivery in (Delivery.RECORD, Delivery.LAST_VALUE)}
    assert kept <= handled
    assert len(kept) > 30
    assert {kind.__name__ for kind in Recorder.listens_to()} >= {"LinkProbed", "NodeHeartbeat", "StepTimed"}


def test_an_event_becomes_a_row() -> None:
    event = NodeLost(
        id="s:1:4", cause="n:1:2", at=999.0, source="node_selector", node="a", silent_seconds=3, reason="silence"
    )
    (effect,) = tell(a_recorder(), event)
    assert isinstance(effect, Store)
    row = effect.row
    assert decode(NodeLost, row.pop("body").encode()) == event
    assert row == {
        "id": "s:1:4",
        "at": 999.0,
        "subject": "shoal.decisions.node_selector.node_lost",
        "type": "NodeLost",
        "source": "node_selector",
        "job": None,
        "node": "a",
        "round": None,
        "cause": "n:1:2",
        "reason": "silence",
    }


def test_a_message_without_an_envelope_goes_by_its_place() -> None:
    event = EmulatedLinkChanged(node="a", do="spike", profile="good", reason="a test")
    (row,) = rows(tell(a_recorder(), event, cause="client:record:7"), "events")
    assert (row["id"], row["at"]) == ("client:record:7", NOW)


def test_figures_of_nodes() -> None:
    recorder = a_recorder()
    gpu = Accelerator(name="g", memory_bytes=9, memory_used_bytes=4, utilisation_percent=50.0)
    beat = NodeHeartbeat(
        at=5.0, node="a", sequence=1, interval=1, cpu_percent=7.0, memory_used_bytes=8, accelerators=(gpu,)
    )
    (row,) = rows(tell(recorder, beat), "metrics")
    assert (row["node"], row["at"], row["job"]) == ("a", 5.0, None)
    assert row["values"]["cpu_percent"] == 7.0
    assert row["values"]["gpu0_percent"] == 50.0
    (row,) = rows(tell(recorder, LinkProbed(node="a", sequence=1, rtt_ms=12.5)), "metrics")
    assert row["values"] == {"rtt_ms": 12.5, "probe_lost": 0.0}
    (row,) = rows(tell(recorder, LinkProbed(node="a", sequence=2, rtt_ms=None)), "metrics")
    assert row["values"] == {"probe_lost": 1.0}
    steps = StepTimed(job="j", node="a", round=1, steps=10, samples=80, seconds=2.0, microbatch=8, loss=1.0)
    (row,) = rows(tell(recorder, steps), "metrics")
    assert (row["job"], row["values"]) == ("j", {"step_ms": 200.0, "samples_per_s": 40.0})
    assert tell(recorder, msgspec.structs.replace(steps, seconds=0.0)) == []
    transfer = TransferTimed(job="j", node="a", direction="up", bytes=1_000_000, seconds=2.0, streams=1)
    assert rows(tell(recorder, transfer), "metrics")[0]["values"] == {"up_mbit_per_s": 4.0}


def test_a_window_that_is_over_becomes_a_row_of_statistics() -> None:
    recorder = a_recorder(window_seconds=60.0)
    values = [float(n) for n in range(60)]
    for n, value in enumerate(values):
        effects = tell(recorder, LinkProbed(node="a", sequence=n, rtt_ms=value), NOW + n)
        assert rows(effects, "statistics") == []
    found = rows(tell(recorder, LinkProbed(node="a", sequence=60, rtt_ms=5.0), NOW + 60), "statistics")
    (row,) = [row for row in found if row["name"] == "rtt_ms"]
    assert (row["start"], row["end"], row["count"], row["low"], row["high"]) == (NOW, NOW + 60, 60, 0.0, 59.0)
    assert row["mean"] == pytest.approx(exact.mean(values))
    assert row["deviation"] == pytest.approx(exact.stdev(values))


def test_the_node_that_was_silent_longest_makes_room() -> None:
    recorder = a_recorder(max_nodes=2)
    for node in ("a", "b", "a", "c"):
        tell(recorder, LinkProbed(node=node, sequence=1, rtt_ms=1.0))
    assert list(recorder.state.series) == ["a", "c"]


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=50), st.integers(0, 50))
@limits(max_examples=100, deadline=None)
def test_windows_put_together_are_those_of_all_figures(values: list[float], cut: int) -> None:
    one, two = Window(start=0.0), Window(start=1.0)
    for n, value in enumerate(values):
        (one if n < cut else two).add(value)
    whole = together(one, two)
    assert whole.count == len(values)
    assert whole.mean == pytest.approx(exact.fmean(values), abs=1e-3)
    assert whole.deviation == pytest.approx(exact.stdev(values), rel=1e-6, abs=1e-3)
    assert (whole.low, whole.high) == (min(values), max(values))


def test_a_small_spread_around_a_large_mean_isnt_lost() -> None:
    window = Window(start=0.0)
    for value in (1e9 + 1, 1e9 + 2, 1e9 + 3):
        window.add(value)
    assert window.deviation == pytest.approx(1.0)


def test_the_weighted_average_forgets_by_age() -> None:
    series = Series.begin(10.0, 0.0)
    series.add(0.0, 30.0, 1000.0, 30.0)
    assert series.average == pytest.approx(10 / math.e)
    series.add(0.0, 30.0, 1000.0, 30.0)
    assert series.average == pytest.approx(10 / math.e), "no time has passed"


def test_recent_stands_for_one_to_two_windows() -> None:
    series = Series.begin(1.0, 0.0)
    for n in range(1, 25):
        series.add(1.0, float(n), 10.0, 30.0)
    assert series.recent().count == 15
    series.add(1.0, 100.0, 10.0, 30.0)
    assert series.recent().count == 1, "what is long past is no part of it"


# Reports.


def test_a_report_follows_a_jobs_end() -> None:
    recorder = a_recorder()
    effects = tell(recorder, ended())
    assert SetTimer(timer=ReportDue(job="j"), at=NOW + 2, cause="job_desk:1:j") in effects
    (start,) = tell(recorder, ReportDue(job="j"), NOW + 2, "job_desk:1:j")
    assert start == StartWork(key="report/j", work=ReportWork(job="j"), reason="the job has ended", cause="job_desk:1:j")
    built = ReportBuilt(job="j", name="j/report.json", size=9, digest="d")
    (said,) = tell(recorder, built, NOW + 3, "job_desk:1:j")
    assert said == Publish(message=ReportReady(job="j", name="j/report.json", size=9, digest="d"), cause="job_desk:1:j")
    assert tell(recorder, built, NOW + 3) == []
    assert [e for e in tell(recorder, ended()) if not isinstance(e, Store)] == [], "once is enough"


def test_a_job_that_goes_on_has_no_report() -> None:
    assert [e for e in tell(a_recorder(), ended(phase=JobPhase.RUNNING)) if not isinstance(e, Store)] == []


@pytest.mark.parametrize("ready_first", [False, True])
def test_a_report_that_is_there_isnt_written_again(ready_first: bool) -> None:
    recorder = a_recorder()
    ready = ReportReady(id="r:1:1", at=950.0, job="j", name="n", size=1, digest="d")
    if ready_first:
        tell(recorder, ready)
        effects = tell(recorder, ended())
        assert not any(isinstance(e, SetTimer) for e in effects)
    else:
        tell(recorder, ended())
        assert CancelTimer(timer=ReportDue(job="j")) in tell(recorder, ready)
    assert tell(recorder, ReportDue(job="j"), NOW + 2) == []
    again = tell(recorder, ended(at=960.0))
    assert any(isinstance(e, SetTimer) for e in again), "a later job of the same id has a report of its own"


def test_a_report_that_cant_be_written_is_tried_again_and_then_told() -> None:
    recorder = a_recorder(report_attempts=2)
    tell(recorder, ended())
    tell(recorder, ReportDue(job="j"), NOW + 2)
    failed = WorkExited(key="report/j", code=1, last_lines=("the disk is full",))
    assert tell(recorder, failed, NOW + 3) == [SetTimer(timer=ReportDue(job="j"), at=NOW + 13)]
    assert len(tell(recorder, ReportDue(job="j"), NOW + 13)) == 1
    (said,) = tell(recorder, failed, NOW + 14)
    assert isinstance(said, Publish)
    assert isinstance(said.message, InputFailed)
    assert "the disk is full" in said.message.reason
    assert tell(recorder, failed, NOW + 14) == []


def test_a_woken_recorder_goes_on_with_its_reports() -> None:
    recorder = a_recorder()
    tell(recorder, ended())
    kept = msgspec.msgpack.encode(recorder.state)
    again = Recorder(RecorderSettings(), random.Random(1), msgspec.msgpack.decode(kept, type=RecorderState))
    effects = tell(again, Woken(incarnation=2, resumed=True, at=NOW), NOW + 60)
    assert effects == [SetTimer(timer=ReportDue(job="j"), at=NOW + 62)]
