"""A job that a plain NATS client submitted: its rounds, its model, its report, and every command that shows it."""

import sys
from pathlib import Path

import msgspec
import pytest
import torch
from process_fleet import APPS, ProcessFleet
from rules import must_have_run_well
from safetensors.torch import load_file

from runners.client import Client, connect
from schemas.jobs import ReportReady

REPORT_FIELDS = {
    "rounds", "loss_start", "loss_end", "nodes", "adaptations", "faults", "adaptation_share", "wall_seconds",
}  # fmt: skip


async def test_its_streams_keep_the_rules(client: Client, finished_job: str) -> None:
    rounds = await must_have_run_well(client, finished_job)
    assert len(rounds) == 5
    assert len({part.node for closed in rounds for part in closed.contributions}) >= 2
    assert rounds[-1].loss < rounds[0].loss


async def test_its_model_loads_in_plain_torch_wherever_it_is_fetched(
    fleet: ProcessFleet, finished_job: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await connect(fleet.url) as client:
        async for event in client.events("shoal.jobs.*.report", past=True):
            if isinstance(event, ReportReady) and event.job == finished_job:
                break
    said = await fleet.cli("fetch", finished_job, "--server", fleet.url, "--out", "models", "--json", cwd=elsewhere)
    assert said.code == 0, said.err
    folder = elsewhere / "models" / finished_job
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "report.json", "loss.png"}
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(sys, "path", [str(APPS), *sys.path])
    from points import workload  # type: ignore[import-not-found]

    model = workload.model()
    with torch.no_grad():
        untrained = workload.validate(model)
        model.load_state_dict(load_file(folder / "model.safetensors"))
        trained = workload.validate(model)
    assert trained < untrained
    report = msgspec.json.decode((folder / "report.json").read_bytes())
    assert set(report) >= REPORT_FIELDS
    assert report["rounds"] == 5
    assert report["loss_end"] < report["loss_start"]
    assert report["validation_end"] == pytest.approx(trained, rel=1e-4)
    assert {node["node"] for node in report["nodes"]} <= {"a", "b", "c"}
    assert all({"round", "what", "reason", "cause"} <= set(change) for change in report["adaptations"])
    assert report["adaptation_share"] >= 0


async def test_the_commands_show_it_to_scripts(fleet: ProcessFleet, finished_job: str) -> None:
    jobs = (await fleet.cli("jobs", "--json")).json()
    assert [(job["state"], job["round"]) for job in jobs if job["job"] == finished_job] == [("completed", 5)]
    nodes = (await fleet.cli("nodes", "--json")).json()
    assert [(node["node"], node["alive"]) for node in nodes if node["node"] in "abc"] == [
        ("a", True), ("b", True), ("c", True),
    ]  # fmt: skip
    said = await fleet.cli("events", f"shoal.training.{finished_job}.round.>", "--stored", "--json")
    closed = [msgspec.json.decode(line) for line in said.out.splitlines()]
    assert [event["message"]["round"] for event in closed] == [1, 2, 3, 4, 5]
    nothing = await fleet.cli("fetch", "no-such-job")
    assert nothing.code == 1
    assert "no such job" in nothing.err
    chains = (await fleet.cli("why", finished_job, "--json")).json()
    assert chains
    assert all(event["message"]["reason"] for chain in chains for event in chain[:1])
    checks = await fleet.cli("doctor", "--json")
    assert {check["what"]: check["state"] for check in checks.json()}["desk"] == "good"
    assert checks.code == (1 if any(check["state"] == "bad" for check in checks.json()) else 0)
