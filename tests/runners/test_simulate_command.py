"""`shoal simulate`: a search that finds nothing, one that does, and a case that was kept."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runners.cli.app import app
from runners.simulation import safety

SMALL = ["simulate", "--nodes", "2", "--hours", "0.01", "--workers", "1"]
runner = CliRunner(env={"COLUMNS": "200"})


def test_a_seed_is_run_twice_and_compared() -> None:
    done = runner.invoke(app, [*SMALL, "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert "1 seeds of 2 nodes" in done.stdout
    assert "every run of a seed the same" in done.stdout
    assert "found      nothing" in done.stdout


def test_what_is_found_is_made_small_told_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(safety, "STATE_BASE", -1_000_000)  # no core is small enough
    done = runner.invoke(app, [*SMALL, "--seeds", "3-4", "--keep", str(tmp_path), "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert [run["result"]["seed"] for run in told["runs"]] == [3, 4]
    assert [len(failure["case"]["nodes"]) for failure in told["failures"]] == [1, 1]
    assert all(failure["case"]["schedule"] == [] for failure in told["failures"])
    assert "bytes, over" in told["failures"][0]["story"][-1]
    assert "seed 3 fails: " in done.stderr
    again = runner.invoke(app, ["simulate", "--case", str(tmp_path / "seed-3.json")])
    assert again.exit_code == 1
    assert "bytes, over" in again.stdout
    monkeypatch.undo()
    mended = runner.invoke(app, ["simulate", "--case", str(tmp_path / "seed-3.json")])
    assert mended.exit_code == 0
    assert "nothing is wrong with it" in mended.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--faults", "storms"], 1, "no set of faults is called 'storms'"),
        (["--seeds", "9-1"], 2, "the lower one first"),
        (["--case", "nowhere.json"], 1, "nowhere.json"),
    ],
)
def test_wrong_calls_say_what_is_wrong(arguments: list[str], code: int, words: str) -> None:
    done = runner.invoke(app, ["simulate", *arguments])
    assert done.exit_code == code
    assert words in done.stderr
