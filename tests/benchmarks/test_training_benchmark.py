"""The arithmetic of the training benchmark: ideals, where time went, who is fastest, what is said where it can't run."""

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.netlab import PROFILES, LabError, NetLab
from benchmarks.netlab.lab import require
from benchmarks.training import __main__ as command_line
from benchmarks.training.peer_race import PEERS
from benchmarks.training.plots import draw_all, draw_goals
from benchmarks.training.race import Setting, request_of, stall
from benchmarks.training.results import Result, cached, fastest, keep, kept
from benchmarks.training.scenarios import SCENARIOS, Scenario
from benchmarks.training.summary import GOALS, noise, noise_words, summary, words
from benchmarks.training.tasks import TASKS, WORKERS
from benchmarks.training.where import NODE_PARTS, ROUND_PARTS, told, where
from benchmarks.training.workloads import TaskWorkload
from schemas.jobs import JobRequest
from schemas.requests import decode_request

GPT = TASKS["gpt"]
STEPS = 4 * 160


@pytest.mark.parametrize(
    ("scenario", "seconds"),
    [
        ("perfect", 32.0),
        ("mixed", 32.0),  # links cost nothing in an ideal world
        ("slow", 38.4),  # 3 1/3 workers
        ("kill", 35.75),  # three of four for 15 s: 75 steps later, by all four
    ],
)
def test_the_ideal_is_what_the_machines_that_are_there_can_compute(scenario: str, seconds: float) -> None:
    assert SCENARIOS[scenario].ideal_seconds(STEPS, GPT) == pytest.approx(seconds)


def test_a_run_that_ends_before_a_kill_is_not_touched_by_it() -> None:
    assert SCENARIOS["kill"].ideal_seconds(4 * 10, GPT) == pytest.approx(2.0)


def test_every_scenario_uses_links_that_there_are_and_returns_what_it_kills() -> None:
    for scenario in SCENARIOS.values():
        changed = [event.profile for event in scenario.events if event.do == "link"]
        assert {*scenario.links, *changed} <= set(PROFILES)
        killed = {event.worker: event.at for event in scenario.events if event.do == "kill"}
        back = {event.worker: event.at for event in scenario.events if event.do == "return"}
        assert killed.keys() == back.keys()
        assert all(back[worker] > at for worker, at in killed.items())


@pytest.mark.parametrize("task", TASKS)
def test_shoal_is_asked_for_a_job_that_its_desk_takes(task: str) -> None:
    request = decode_request(JobRequest, json.dumps(request_of(Setting(SCENARIOS["perfect"], task=task))).encode())
    assert (request.microbatch, request.target_loss) == (TASKS[task].batch, TASKS[task].target)


def test_shoal_starts_from_the_peers_parameters_and_takes_the_peers_steps() -> None:
    workload, task = TaskWorkload(TASKS["digits"]), TASKS["digits"]
    torch.manual_seed(3)
    ours = workload.model()
    torch.manual_seed(3)
    theirs = task.model()
    batch = workload.collate([5, 9, 1])
    optimizers = workload.optimizer(ours.parameters()), task.optimizer(theirs.parameters())
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        torch.autograd.backward(workload.loss(model, batch))
        optimizer.step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def event(kind: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "at": at, **fields}


def story() -> list[dict[str, Any]]:
    """Two nodes, two rounds of two seconds of steps: `a` reduces, `b` is a second late with everything."""
    events: list[dict[str, Any]] = []
    for number, at in ((1, 0.0), (2, 6.0)):
        events.append(event("RoundOpened", at, node="a", round=number, deadline_seconds=9.0))
        for node, late in (("a", 0.0), ("b", 1.0)):
            begun, done = at + late, at + late + 2
            events += [
                event("TrainingProgress", begun, node=node, doing="computing", step=0),
                event("ContributionOffered", done, node=node, round=number),
                event("StepTimed", done, node=node, round=number, steps=5, samples=40, microbatch=8, seconds=2.0),
            ]
        events += [
            event("ContributionReceived", at + 2, node="a", contributor="a", round=number),
            event("ContributionReceived", at + 4, node="a", contributor="b", round=number),
            event("AverageOffered", at + 4.5, node="a", round=number),
        ]
        listed = [{"node": n, "round": number, "late": 0, "samples": 40, "weight": 0.5} for n in "ab"]
        events.append(event("RoundClosed", at + 5, round=number, contributions=listed, missing=[]))
        events += [event("RoundApplied", at + 5.25 + late / 4, node=n, version=number) for n, late in (("a", 0), ("b", 1))]
    return sorted(events, key=lambda one: float(one["at"]))


def test_where_the_time_of_a_round_went() -> None:
    found = where(story(), 0.0, 12.0, 4)
    assert (found.rounds, found.round_seconds, found.counted, found.deadlines_missed) == (2, 6.0, 160, 0)
    # Of the first round: there is no opening after the second.
    assert found.parts == pytest.approx(dict(zip(ROUND_PARTS, (3.0, 1.0, 0.5, 0.5, 1.0), strict=True)))


def test_where_the_time_of_a_node_went() -> None:
    a, b = where(story(), 0.0, 12.0, 4).nodes
    assert a.seconds == pytest.approx(dict(zip(NODE_PARTS, (4.0, 0.0, 6.0, 0.5, 1.5), strict=True)))
    assert b.seconds == pytest.approx(dict(zip(NODE_PARTS, (4.0, 2.0, 2.0, 1.0, 2.0), strict=True)))
    assert (b.steps, b.samples, b.counted, b.contributions, b.weight) == (10, 80, 80, 2, 0.5)
    assert b.step_seconds == pytest.approx(0.2)  # of four samples


def test_steps_that_no_round_counted_are_computed_but_not_counted() -> None:
    events = [one for one in story() if not (one["type"] == "RoundClosed" and one["round"] == 2)]
    found = where(events, 0.0, 12.0, 4)
    assert found.counted == 80
    assert [node.samples for node in found.nodes] == [80, 80]
    assert found.longest_gap == pytest.approx(5.0)


def test_a_stall_is_what_a_gap_after_a_kill_exceeds_the_usual_by() -> None:
    closed = [*(float(second) for second in range(1, 15)), 18.5, *(18.5 + n for n in range(1, 30))]
    events = [event("RoundClosed", 100 + at, round=n) for n, at in enumerate(closed, 1)]
    assert stall(events, 100.0, SCENARIOS["kill"]) == pytest.approx(3.5)
    assert stall(events, 100.0, SCENARIOS["perfect"]) is None


def result(tool: str, seconds: float, **changes: Any) -> Result:
    made = Result(
        tool=tool, scenario="mixed", task="gpt", congestion="bbr", seed=0, reached=True, seconds=seconds, ideal=32.0,
        ideal_undisturbed=32.0, loss=2.6, rounds=9, sent_mb=(1.0, 2.0), load=0.5, date="2026-01-01", command="",
        curve=[(1.0, 3.0)],
    )  # fmt: skip
    return replace(made, **changes)


def test_results_come_back_as_they_were_kept(tmp_path: Path) -> None:
    keep(result("shoal", 64.0), tmp_path)
    keep(result("ddp", 170.0, reached=False, loss=3.1), tmp_path)
    assert kept(tmp_path) == [result("shoal", 64.0), result("ddp", 170.0, reached=False, loss=3.1)]
    assert kept(tmp_path)[0].ratio == 2.0


def test_the_fastest_are_those_measured_here_and_the_cached_that_got_there() -> None:
    assert fastest([], "mixed", "gpt", "bbr") == ["local-sgd", "torchft"]
    assert fastest([], "mixed", "gpt", "cubic") == []
    runs = [result("shoal", 64.0), result("torchft", 60.0), result("local-sgd", 20.0, reached=False)]
    assert fastest(runs, "mixed", "gpt", "bbr") == ["torchft", "shoal", "local-sgd"]


def test_cached_figures_are_of_scenarios_and_peers_that_there_are() -> None:
    figures = cached()
    assert figures["date"]
    assert figures["command"].startswith("python -m benchmarks.training ")
    for row in figures["figures"]:
        assert row["scenario"] in SCENARIOS
        assert row["task"] in TASKS
        assert row["tool"] in PEERS
        assert row["seconds"] or row["words"]


def test_a_run_of_shoal_is_told_with_where_its_time_went() -> None:
    details = {"where": asdict(where(story(), 0.0, 12.0, 4)), "capacity_used": 0.5, "samples_of_ideal": 1.25, "stall": 3.0}
    details["steps_overran"] = 1.05
    text = "\n".join(told(result("shoal", 64.0, details=details)))
    assert "50% of the machines' steps were counted, and it took 1.25 times the ideal's samples" in text
    assert "stand still for 3.0 s longer" in text


def test_without_root_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["training", "average", "shoal", "--out", str(tmp_path)])
    assert command_line.main() == 1
    assert "need root" in capsys.readouterr().err


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "gcc" else program)
    with pytest.raises(LabError, match="gcc is missing: install it"):
        require()


def test_a_peer_that_is_not_installed_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.training.peer_race.CACHE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", "flower", "perfect", "--out", str(tmp_path)])
    assert command_line.main() == 1
    assert "install.sh flwr" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "Lab", "nine-long", "../etc"])
def test_a_laboratory_has_a_plain_name(name: str) -> None:
    with pytest.raises(LabError, match="no name"):
        NetLab(2, lab=name)


@pytest.mark.skipif(sys.platform != "linux", reason="its router listens at an abstract address")
def test_orders_to_a_laboratory_that_is_not_up_name_the_command() -> None:
    with pytest.raises(LabError, match=r"python -m benchmarks\.netlab --lab nowhere up"):
        NetLab(2, lab="nowhere").stats()


def test_fields_are_json_where_they_can_be() -> None:
    assert command_line.fields(["local_steps=20", "batch=fixed", "a=null"]) == {
        "local_steps": 20,
        "batch": "fixed",
        "a": None,
    }


def test_all_workers_have_a_link_and_a_speed() -> None:
    for scenario in (*SCENARIOS.values(), Scenario("", "")):
        assert len(scenario.links) == len(scenario.slowdown) == WORKERS


def test_a_comparison_runs_both_by_turns_and_tells_their_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran: list[tuple[str, int]] = []

    def run(tool: str, asked: Any, seed: int) -> Result:
        ran.append((tool, seed))
        return result(tool, 64.0 if tool == "torchft" else 48.0 + 16 * seed, seed=seed)

    monkeypatch.setattr(command_line, "run", run)
    monkeypatch.setattr(sys, "argv", ["training", "compare", "mixed", "--seeds", "0,1,2", "--out", str(tmp_path)])
    assert command_line.main() == 0
    assert ran == [(tool, seed) for seed in range(3) for tool in ("local-sgd", "torchft")]
    said = capsys.readouterr().out
    assert "local-sgd: 2.00x (1.50 to 2.50), 3 of 3 got there" in said
    assert "torchft: 2.00x (2.00 to 2.00)" in said


def test_results_are_drawn_as_pictures(tmp_path: Path) -> None:
    drawn = draw_all([result("shoal", 64.0), result("ddp", 170.0, reached=False)], tmp_path)
    assert [path.name for path in drawn] == ["loss-mixed-gpt-bbr.png", "ratios.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert draw_all([], tmp_path) == []


def test_seeds_become_a_median_with_its_spread_and_a_seed_run_again_counts_once() -> None:
    runs = [result("shoal", 32.0 * ratio, seed=seed) for seed, ratio in enumerate((9.0, 2.0, 3.0))]
    runs += [result("shoal", 170.0, seed=3, reached=False), result("shoal", 32.0 * 2.2, seed=0)]
    (row,) = summary(runs)
    assert (row.runs, row.reached, row.least, row.median, row.most) == (4, 3, 2.0, 2.2, 3.0)
    assert "2.20x (2.00 to 3.00), 3 of 4 got there" in words(row)
    assert "required 2.5, aim 1.6" in words(row)
    (lost,) = summary([result("ddp", 170.0, reached=False)])
    assert "none of 1 got there" in words(lost)


def test_the_noise_is_the_range_of_undisturbed_seeds() -> None:
    runs = [result("shoal", 32.0 + seed, scenario="perfect", seed=seed, loss=2.6 + seed / 100) for seed in range(5)]
    found = noise([*runs, result("shoal", 320.0), result("ddp", 99.0, scenario="perfect")])
    assert found is not None
    assert found == (5, pytest.approx(4 / 32), pytest.approx(0.04))
    assert "over 5 undisturbed seeds: 0.12 of the ideal" in noise_words(runs)
    assert "two seeds" in noise_words(runs[:1])


def test_ratios_are_drawn_against_their_goals_whether_or_not_they_were_run(tmp_path: Path) -> None:
    assert all(scenario in SCENARIOS and task in TASKS for scenario, task, _ in GOALS)
    runs = [result("shoal", 64.0), result("shoal", 170.0, congestion="cubic", reached=False)]
    for results in (runs, []):
        path = draw_goals(results, tmp_path / "docs" / "goals.png")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_table_and_plots_tell_the_spread(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for seed in range(2):
        keep(result("shoal", 40.0 + seed, scenario="perfect", seed=seed), tmp_path)
    monkeypatch.setattr(sys, "argv", ["training", "table", "--out", str(tmp_path)])
    assert command_line.main() == 0
    said = capsys.readouterr().out
    assert "(1.25 to 1.28), 2 of 2 got there" in said
    assert "noise, the range over 2 undisturbed seeds" in said
    monkeypatch.setattr(sys, "argv", ["training", "plots", "--out", str(tmp_path), "--goals", str(tmp_path / "goals.png")])
    assert command_line.main() == 0
    assert (tmp_path / "goals.png").exists()
