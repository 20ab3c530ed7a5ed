"""A job's report: what it says of a story that is known, however the story is told."""

import json
import random
from pathlib import Path

import msgspec
import pytest
from report_story import LINKS, ROUNDS, SECONDS, SIZE, STEPS, opening, other_peoples, told

from runners.plots import draw_loss
from runners.report import TYPES, NothingKnown, as_json, build_report, from_json
from runners.report_schema import Adaptation, Fault, NodeReport, Report
from runners.report_text import summary
from schemas.jobs import JobState
from schemas.training import RoundClosed

JOB = "demo"


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(JOB, told())


def the_node(report: Report, name: str) -> NodeReport:
    (node,) = [node for node in report.nodes if node.node == name]
    return node


def the_fault(report: Report, what: str, node: str = "") -> Fault:
    (fault,) = [fault for fault in report.faults if fault.what == what and node in ("", fault.node)]
    return fault


def the_adaptation(report: Report, what: str) -> Adaptation:
    (adaptation,) = [adaptation for adaptation in report.adaptations if what in adaptation.what]
    return adaptation


def test_the_job_as_a_whole(report: Report) -> None:
    assert (report.job, report.workload, report.state) == (JOB, "examples.stdlib_lm:workload", "completed")
    assert (report.rounds, report.rounds_asked) == (ROUNDS, ROUNDS)
    first, last = report.by_round[0], report.by_round[-1]
    assert report.loss_start == first.loss == pytest.approx(5.06, abs=0.01)
    assert report.loss_end == last.loss == pytest.approx(0.685, abs=0.01)
    assert report.validation_start == pytest.approx(first.loss + 0.15)
    assert [point.round for point in report.validation] == list(range(1, ROUNDS + 1, 2))
    assert report.wall_seconds == opening(ROUNDS) + SECONDS + 1.0
    assert report.training_seconds == ROUNDS * SECONDS - 0.5
    assert report.seconds_per_round == pytest.approx(SECONDS, abs=0.05)
    assert report.adaptation_share == 0.0125
    assert (report.model, report.model_digest) == ("demo/model.safetensors", "m")


def test_nodes(report: Report) -> None:
    assert [node.node for node in report.nodes] == sorted(LINKS)
    dan, eve, ada = the_node(report, "dan"), the_node(report, "eve"), the_node(report, "ada")
    assert (dan.rounds, dan.missed, dan.samples) == (ROUNDS - 4, 1, (ROUNDS - 4) * 8 * STEPS)
    assert (eve.rounds, eve.late, eve.failures) == (ROUNDS, 1, 1)
    assert report.samples == sum(node.samples for node in report.nodes)
    assert dan.bytes_up == (ROUNDS - 4) * SIZE
    assert ada.bytes_up == ROUNDS * SIZE + (ROUNDS - 1) * SIZE // 4, "a reducer sends averages too"
    assert ada.mean_step_ms == 100.0


def test_what_is_emulated_says_so(report: Report) -> None:
    assert "dan: link poor, 2.5 times slower" in report.emulated
    assert not any(line.startswith("ada") for line in report.emulated), "nothing of ada's is"
    assert the_node(report, "dan").emulated_link == "poor"


def test_grades_over_time(report: Report) -> None:
    grades = the_node(report, "cyd").quality
    assert [(grade.round, grade.quality) for grade in grades] == [(0, "good"), (16, "poor"), (21, "good")]
    assert grades[0].at < 0, "what held at the beginning was said before"


def test_adaptations_come_with_round_reason_and_cause(report: Report) -> None:
    first = report.adaptations[0]
    assert (first.round, first.what) == (0, "roster: ada, bob, cyd, dan, eve")
    share = the_adaptation(report, "-> 8 x 5 int8")
    assert share.what == "cyd 8 x 10 float32 -> 8 x 5 int8 over 2 streams"
    assert (share.round, share.reason, share.by) == (16, "cyd's link is poor", "batch_controller")
    assert share.because == "LinkQualityChanged of cyd: round trips say poor for 5 s"
    link = the_adaptation(report, "link of cyd: good -> poor")
    assert share.cause == link.id
    assert the_adaptation(report, "roster: - dan").round == 12
    assert the_adaptation(report, "roster: + dan").because == "NodeJoined of dan: its heartbeats are back"
    assert the_adaptation(report, "phase initialisation -> adaptive, adaptation on").round == 4
    assert the_adaptation(report, "eve left out for 30 s").round == 24
    assert [a.at for a in report.adaptations] == sorted(a.at for a in report.adaptations)


def test_faults_say_how_long_they_took(report: Report) -> None:
    lost = the_fault(report, "node lost")
    assert (lost.node, lost.at_round, lost.emulated) == ("dan", 12, False)
    assert lost.at == opening(12) + 0.2, "its silence began before it was noticed"
    assert lost.seconds_to_recover == pytest.approx(3.3)
    assert lost.seconds_until_back == pytest.approx(opening(16) + 3.5 - lost.at)
    back = the_fault(report, "node came back")
    assert back.detail.startswith("away for 13.0 s")
    reducer = the_fault(report, "reducer replaced")
    assert (reducer.node, reducer.at_round) == ("ada", 18)
    assert reducer.seconds_to_recover == pytest.approx(3.5), "counted from the opening that came to nothing"
    assert "bob took over" in reducer.detail
    agent = the_fault(report, "agent optimizer restarted")
    assert (agent.seconds_to_recover, agent.detail) == (0.4, "312 inputs replayed")
    failed = the_fault(report, "job process: out_of_memory")
    assert (failed.node, failed.at_round) == ("eve", 24)
    assert failed.detail.endswith("MemoryError")


def test_injected_faults_are_labelled(report: Report) -> None:
    emulated = [(fault.what, fault.node, fault.at_round) for fault in report.faults if fault.emulated]
    assert emulated == [("link spike", "bob", 10), ("link set to poor", "cyd", 15), ("link set to average", "cyd", 20)]


def test_one_outage_of_the_server_is_one_fault(report: Report) -> None:
    outage = the_fault(report, "server out of reach")
    assert outage.at_round == 23
    assert outage.detail == "for up to 1.7 s, of 3 participants"
    assert outage.seconds_to_recover == pytest.approx(3.5 - 2.0 + 1.5)


def test_the_order_of_telling_and_duplicates_change_nothing(report: Report) -> None:
    messages = told() * 2
    random.Random(3).shuffle(messages)
    assert as_json(build_report(JOB, messages)) == as_json(report)


def test_what_is_no_business_of_the_job_stays_out(report: Report) -> None:
    assert as_json(build_report(JOB, [*told(), *other_peoples()])) == as_json(report)


def test_everything_a_report_is_made_of_is_asked_for() -> None:
    assert {type(message) for message in told()} <= set(TYPES)


def test_a_job_that_failed_before_its_first_round() -> None:
    messages = [message for message in told() if isinstance(message, JobState)][:1]
    report = build_report(JOB, messages)
    assert (report.rounds, report.loss_start, report.loss_end, report.seconds_per_round) == (0, None, None, 0.0)
    assert report.nodes == report.faults == report.by_round == []
    assert "0 of 25 rounds" in summary(report)


def test_a_fault_at_the_end_has_no_recovery() -> None:
    messages = [m for m in told() if not (isinstance(m, RoundClosed) and m.round >= 12)]
    lost = the_fault(build_report(JOB, messages), "node lost")
    assert (lost.seconds_to_recover, lost.seconds_until_back) == (None, None)


def test_what_was_clipped_is_told_with_its_round() -> None:
    messages = told()
    (at,) = [i for i, m in enumerate(messages) if isinstance(m, RoundClosed) and m.round == 9]
    closed = messages[at]
    assert isinstance(closed, RoundClosed)
    odd = msgspec.structs.replace(closed.contributions[0], norm=50.0, scale=0.1, remark="clipped to 0.1 of its length")
    messages[at] = msgspec.structs.replace(closed, contributions=(odd, *closed.contributions[1:]))
    fault = the_fault(build_report(JOB, messages), "contribution clipped")
    assert (fault.node, fault.at_round, fault.detail) == (odd.node, 9, "round 9: clipped to 0.1 of its length")


def test_a_job_that_nobody_knows() -> None:
    with pytest.raises(NothingKnown):
        build_report("nobody", told())


def test_the_file_is_what_scripts_expect(report: Report) -> None:
    data = json.loads(as_json(report))
    expected = {"rounds", "loss_start", "loss_end", "nodes", "adaptations", "faults", "adaptation_share"}
    assert expected <= set(data)
    assert {"round", "what", "reason", "cause"} <= set(data["adaptations"][0])
    assert from_json(as_json(report)) == report
    with pytest.raises(msgspec.ValidationError):
        from_json(b'{"job": 1}')


def test_the_summary_says_what_matters(report: Report) -> None:
    text = summary(report)
    assert "25 of 25 rounds" in text
    assert "training loss 5.06" in text
    assert "adaptation cost 1.25 % of the run" in text
    assert "round 10: bob: link spike (emulated), a round closed 3.0 s later" in text
    assert "round 22: agent optimizer restarted, down for 0.4 s" in text, "between two rounds it befalls the next"
    assert max(len(line) for line in text.splitlines()) < 160


def _pixels(picture: Path, colour: tuple[int, int, int]) -> int:
    """How many are of exactly this colour."""
    from matplotlib.image import imread

    image = (imread(picture)[:, :, :3] * 255).round().astype(int)
    return int((image == colour).all(axis=2).sum())


BLUE, VERMILION, PURPLE = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0xA3, 0x44, 0x7B)


def test_the_picture_shows_both_losses_and_the_faults(report: Report, tmp_path: Path) -> None:
    file, picture = tmp_path / "report.json", tmp_path / "deep" / "loss.png"
    file.write_bytes(as_json(report))
    assert draw_loss(file, picture) == picture
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(_pixels(picture, colour) > 100 for colour in (BLUE, VERMILION)), "both curves"
    assert _pixels(picture, PURPLE) > 10, "emulated faults in a colour of their own"
    without = msgspec.structs.replace(report, faults=[])
    file.write_bytes(as_json(without))
    draw_loss(file, picture)
    assert _pixels(picture, PURPLE) == 0


def test_a_picture_of_nothing_and_of_very_much(report: Report, tmp_path: Path) -> None:
    for name, odd in (
        ("nothing", build_report(JOB, [message for message in told() if isinstance(message, JobState)][:1])),
        ("much", msgspec.structs.replace(report, faults=report.faults * 10)),
    ):
        file, picture = tmp_path / f"{name}.json", tmp_path / f"{name}.png"
        file.write_bytes(as_json(odd))
        assert draw_loss(file, picture).stat().st_size > 1000
