"""The commands against a real server with a small desk: output, JSON, errors in a line, exit codes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_story import told
from toy_desk import PATIENCE, ServerBeside
from typer.testing import CliRunner

from runners.cli.app import app
from runners.jobs.names import model_name, report_name
from runners.report import build_report
from schemas.decisions import NodeJoined, NodeQuarantined, NodeReleased
from schemas.jobs import JobPhase, JobRefused, JobState, ReportReady
from schemas.nodes import NodeHeartbeat, WorkFailed, WorkPrinted
from schemas.training import RoundClosed
from schemas.wire import Message

ROOT = Path(__file__).parents[2]
STORY = sorted(told(), key=lambda message: message.at)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty directory, with nobody's environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("SHOAL_SERVER", "SHOAL_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def told_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerBeside]:
    """A server that has seen a whole job; only read by tests."""
    with ServerBeside(tmp_path_factory.mktemp("told") / "store") as fleet:
        desk = fleet.open_desk()
        fleet.call(desk.tell(STORY))
        fleet.call(desk.bus.put_object(model_name("demo"), b"model"))
        fleet.call(desk.bus.put_object(report_name("demo"), msgspec.json.encode(build_report("demo", STORY))))
        fleet.call(desk.say(ReportReady(job="demo", name=report_name("demo"), size=1, digest=""), "recorder"))
        fleet.call(desk.say(WorkPrinted(node="ada", job="demo", lines=("epoch [1]", "done")), "node/ada"))
        why = ("ValueError: x",)
        failed = WorkFailed(
            node="eve", job="demo", attempt=1, kind="raised", code=1, last_lines=why, retry=True, reason="raises"
        )
        fleet.call(desk.say(failed, "node/eve"))
        yield fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[ServerBeside]:
    """A server of the test's own in the default store, without a desk."""
    with ServerBeside(tmp_path / ".shoal") as fleet:
        yield fleet


def shoal(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def one_line(result: Any, code: int = 1) -> str:
    """The only line of a failed command's standard error."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("shoal: ")
    return str(line)


def job_file(tmp_path: Path, **other: object) -> str:
    lines = {"kind": "train", "workload": "m:w", "rounds": 5} | other
    path = tmp_path / "job.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
    return str(path)


# Submitting and what becomes of it.


def test_submit_prints_the_job_or_json(fleet: ServerBeside, tmp_path: Path) -> None:
    fleet.open_desk()
    result = shoal("submit", job_file(tmp_path), "--id", "mine")
    assert (result.exit_code, result.stdout) == (0, "job mine is accepted\n")
    result = shoal("submit", job_file(tmp_path), "--rounds", "7", "--json")
    accepted = json.loads(result.stdout)
    assert accepted["queued"] is False
    jobs = json.loads(shoal("jobs", "--json").stdout)
    assert [(job["job"], job["rounds"]) for job in jobs] == [(accepted["job"], 7), ("mine", 5)]
    table = shoal("jobs").stdout
    assert "mine" in table
    assert "waiting for 2 nodes; none is there" in table
    assert shoal("cancel", "mine", "--reason", "enough").exit_code == 0
    assert "enough" in shoal("jobs").stdout


def test_a_refusal_is_one_line_or_json(fleet: ServerBeside, tmp_path: Path) -> None:
    fleet.open_desk()
    refused = one_line(shoal("submit", job_file(tmp_path, rounds=1000)))
    assert refused == "shoal: refused at $.rounds: at most 100"
    result = shoal("submit", job_file(tmp_path, rounds=1000), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"accepted": False, "field": "$.rounds", "reason": "at most 100"}
    assert "there is no job x" in one_line(shoal("cancel", "x"))


def test_without_a_desk_a_job_is_queued_and_jobs_still_lists(fleet: ServerBeside, tmp_path: Path) -> None:
    result = shoal("submit", job_file(tmp_path, id="later"))
    assert result.exit_code == 0
    assert result.stdout == "job later is queued\n"
    assert "shoal up" in result.stderr
    result = shoal("jobs", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    result = shoal("jobs")
    assert "no desk answers" in result.stderr
    assert "no jobs yet" in result.stdout


def test_waiting_for_a_queued_job_ends_with_its_refusal(fleet: ServerBeside, tmp_path: Path) -> None:
    desk = fleet.open_desk()
    fleet.call(desk.say(JobRefused(job="mine", field="$.resume", reason="no such job")))
    fleet.close_desk()
    result = shoal("submit", job_file(tmp_path, id="mine"), "--wait")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "shoal: refused at $.resume: no such job"


def test_waiting_ends_with_the_report_and_the_files(told_fleet: ServerBeside, tmp_path: Path) -> None:
    result = shoal("submit", job_file(tmp_path, id="demo", rounds=25), "--wait", "--store", str(told_fleet.store))
    assert result.exit_code == 0
    assert "25 of 25 rounds" in result.stdout
    assert "runs/demo/model.safetensors" in result.stdout
    assert (tmp_path / "runs" / "demo" / "loss.png").exists()


def test_waiting_for_a_job_that_fails_is_a_failure(told_fleet: ServerBeside, tmp_path: Path) -> None:
    desk = told_fleet.desk
    assert desk is not None
    told_fleet.call(desk.tell(m for m in failed_job() if m.id))
    call = ("submit", job_file(tmp_path, id="hopeless"), "--wait", "--store", str(told_fleet.store))
    result = shoal(*call)
    assert result.exit_code == 1
    assert "job hopeless failed: failed on every node" in result.stderr
    result = shoal(*call, "--json")
    assert (result.exit_code, json.loads(result.stdout)["state"]) == (1, "failed")


def failed_job() -> Iterator[JobState]:
    running = next(message for message in STORY if isinstance(message, JobState))
    for version, (phase, reason) in enumerate(((JobPhase.RUNNING, "on"), (JobPhase.FAILED, "failed on every node")), 1):
        yield msgspec.structs.replace(
            running, job="hopeless", id=f"hopeless-{version}", version=version, state=phase, reason=reason
        )


# Looking.


def test_fetch_brings_files_and_says_what_there_is_not(told_fleet: ServerBeside, tmp_path: Path) -> None:
    store = ("--store", str(told_fleet.store))
    fetched = json.loads(shoal("fetch", "demo", *store, "--out", "here", "--json").stdout)
    assert fetched["files"] == ["here/demo/model.safetensors", "here/demo/report.json", "here/demo/loss.png"]
    assert (tmp_path / "here/demo/model.safetensors").read_bytes() == b"model"
    assert "no such job" in one_line(shoal("fetch", "nobodys", *store))


def test_logs_are_lines_with_their_node(told_fleet: ServerBeside) -> None:
    store = ("--store", str(told_fleet.store))
    everything = shoal("logs", "demo", *store).stdout.splitlines()
    assert everything[-4:] == ["ada | epoch [1]", "ada | done", "eve ! raises", "eve ! ValueError: x"]
    assert shoal("logs", "demo", "--node", "ada", *store).stdout.splitlines() == ["ada | epoch [1]", "ada | done"]
    assert "there is no job nobodys" in one_line(shoal("logs", "nobodys", *store))
    quiet = shoal("logs", "demo", "--node", "bob", *store)
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    assert "has printed nothing" in quiet.stderr


def test_events_as_lines_and_as_json(told_fleet: ServerBeside) -> None:
    call = ("events", "shoal.training.demo.round.*.closed", "--stored", "--store", str(told_fleet.store))
    lines = shoal(*call).stdout.splitlines()
    assert len(lines) == 25
    assert 'shoal.training.demo.round.1.closed {"job":"demo","round":1' in lines[0]
    rows = [json.loads(line) for line in shoal(*call, "--json").stdout.splitlines()]
    assert [row["message"]["round"] for row in rows] == list(range(1, 26))
    assert {row["subject"] for row in rows} >= {"shoal.training.demo.round.25.closed"}
    assert len(shoal(*call, "--count", "3").stdout.splitlines()) == 3
    assert len(shoal("events", "--past", "-n", "5", "--store", str(told_fleet.store)).stdout.splitlines()) == 5


def test_why_walks_back_to_the_cause(told_fleet: ServerBeside) -> None:
    store = ("--store", str(told_fleet.store))
    lines = shoal("why", "cyd", "--last", "99", *store).stdout.splitlines()
    decided = next(number for number, line in enumerate(lines) if line.endswith("cyd's link is good again"))
    assert "Assignment by batch_controller" in lines[decided]
    assert "because" in lines[decided + 2]
    assert "LinkQualityChanged by network_monitor: round trips say good for 5 s" in lines[decided + 2]
    event = lines[decided + 1].strip()
    (chain,) = json.loads(shoal("why", event, "--json", *store).stdout)
    assert [link["subject"] for link in chain] == ["shoal.training.demo.assignment", "shoal.network.cyd.quality"]
    unknown = shoal("why", "nobody", *store)
    assert unknown.exit_code == 1
    assert "nothing is stored about 'nobody'" in unknown.stderr


def test_why_stops_at_the_round_and_says_nothing_twice(fleet: ServerBeside) -> None:
    desk = fleet.open_desk()
    closed = next(message for message in STORY if isinstance(message, RoundClosed))

    def say(message: Message, at: float, cause: Message | None = None) -> Message:
        return fleet.call(desk.say(message, "x", at, cause.id if cause else ""))

    before = say(NodeJoined(node="n", returned=False, reason="there"), 1.0)
    round_ = say(msgspec.structs.replace(closed), 2.0, before)
    say(NodeQuarantined(node="n", seconds=1.0, failures=3, reason="three times"), 3.0, round_)
    say(NodeReleased(node="n", reason="it is over"), 4.0, round_)
    said = shoal("why", "n").stdout.splitlines()
    assert said[0].endswith("NodeReleased by x: it is over")
    assert said[2].startswith("  because ")
    assert f"... and 1 more: shoal why {before.id}" in said[4]
    assert said[5].endswith("NodeQuarantined by x: three times")
    assert said[7].endswith("RoundClosed by x (see above)")
    assert len(shoal("why", before.id).stdout.splitlines()) == 2


@contextlib.contextmanager
def beating(fleet: ServerBeside, *nodes: str) -> Iterator[None]:
    """These nodes' hearts beat meanwhile."""
    desk = fleet.desk
    assert desk is not None
    over = threading.Event()

    async def beat() -> None:
        while not over.is_set():
            for node in nodes:
                await desk.say(NodeHeartbeat(node=node, sequence=1, interval=1.0, jobs=("demo",)), f"node/{node}")
            await desk.bus.round_trip(PATIENCE)

    task = threading.Thread(target=lambda: fleet.call(beat()))
    task.start()
    try:
        yield
    finally:
        over.set()
        task.join(PATIENCE)


def test_nodes_are_listed_with_what_is_emulated(told_fleet: ServerBeside) -> None:
    with beating(told_fleet, "ada", "bob", "cyd", "dan", "eve"):
        lines = shoal("nodes", "--store", str(told_fleet.store)).stdout.splitlines()
    assert lines[0].split() == ["node", "alive", "host", "device", "memory", "torch", "link", "score", "emulated", "jobs"]
    assert [line.split()[:2] for line in lines[1:]] == [[node, "yes"] for node in ("ada", "bob", "cyd", "dan", "eve")]
    assert " ".join(lines[5].split()[3:]) == "2 CPUs 8.6 GB good 80 unstable, 3x slower demo"


def test_nodes_whose_hearts_are_still_are_not_alive(told_fleet: ServerBeside) -> None:
    with beating(told_fleet, "ada"):
        rows = json.loads(shoal("nodes", "--json", "--store", str(told_fleet.store)).stdout)
    assert {row["node"]: row["alive"] for row in rows} == {
        node: node == "ada" for node in ("ada", "bob", "cyd", "dan", "eve")
    }


def test_the_schema_is_one_json_document() -> None:
    made = json.loads(shoal("schema").stdout)
    assert made["asyncapi"] == "3.0.0"
    assert set(json.loads(shoal("schema", "shoal.jobs.submit").stdout)["channels"]) == {"JobRequest", "JobAnswer"}


def test_the_doctor_looks_at_machine_and_fleet(told_fleet: ServerBeside) -> None:
    result = shoal("doctor", "--json", "--store", str(told_fleet.store))
    checks = {check["what"]: check for check in json.loads(result.stdout)}
    assert list(checks) == [
        "Python",
        "packages",
        "torch",
        "nats-server",
        "disk",
        "ports",
        "TCP",
        "confinement",
        "server",
        "desk",
        "clock",
        "load",
    ]
    bad = [check for check in checks.values() if check["state"] == "bad"]
    assert result.exit_code == (1 if bad else 0)
    assert checks["desk"]["state"] == checks["server"]["state"] == checks["torch"]["state"] == "good"


# What goes wrong.


@pytest.mark.parametrize(
    "arguments",
    [["jobs"], ["nodes"], ["events"], ["watch"], ["why", "x"], ["logs", "x"], ["fetch", "x"], ["cancel", "x"], ["node"]],
    ids=" ".join,
)
def test_without_a_server_every_command_says_how_to_get_one(arguments: list[str]) -> None:
    assert "shoal up" in one_line(shoal(*arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["jobs", "--server", "http://x:1"], "write nats://"),
        (["submit", "missing.toml"], "no file missing.toml"),
        (["agent", "nobody"], "there are job_desk"),
        (["node", "--link", "worse"], "there are perfect, good, average, poor, unstable"),
        (["node", "--cc", "reno"], "there are cubic and bbr"),
        (["up", "--server", "nats://x:1", "--listen", "0.0.0.0"], "leave out --server"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_calls_are_a_line_and_exit_with_2(arguments: list[str], expected: str) -> None:
    assert expected in one_line(shoal(*arguments), code=2)


def test_a_subject_that_nobody_uses_is_a_wrong_call(told_fleet: ServerBeside) -> None:
    call = ("events", "shoal.nobody", "--stored", "--store", str(told_fleet.store))
    assert "no message travels on 'shoal.nobody'" in one_line(shoal(*call), code=2)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("kind = train")
    assert "job.toml is no TOML" in one_line(shoal("submit", "job.toml"), code=2)


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    assert "no such address" in one_line(shoal("up", "--listen", "192.0.2.1"))
    assert (tmp_path / ".shoal" / "token").stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written_is_named(told_fleet: ServerBeside, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the directory should be")
    said = one_line(shoal("fetch", "demo", "--store", str(told_fleet.store)))
    assert "runs" in said


# As a process: what a runner in the same process can't show.


def start(*arguments: str, store: Path) -> "subprocess.Popen[str]":
    code = "from runners.cli import main; main()"
    call = [sys.executable, "-c", code, *arguments, "--store", str(store)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_ends_a_command_quietly_with_130(told_fleet: ServerBeside) -> None:
    process = start("events", "--past", store=told_fleet.store)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert (process.returncode, said) == (130, "")


def test_a_reader_that_leaves_ends_a_command_quietly(told_fleet: ServerBeside) -> None:
    process = start("events", "--past", "--json", store=told_fleet.store)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    desk = told_fleet.desk
    assert desk is not None
    for number in range(50):  # a pipe without a reader is only noticed by writing to it
        told_fleet.call(desk.say(WorkPrinted(node="ada", job="demo", lines=(f"more {number}",)), "node/ada"))
    assert process.stderr is not None
    said = process.stderr.read()
    assert (process.wait(PATIENCE), said) == (1, "")
