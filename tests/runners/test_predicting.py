"""What is learned from a recorded history: a model where it supports one, and in words why not elsewhere."""

import random
import sqlite3
from pathlib import Path

import pytest

from agents.predictor import PredictorSettings
from runners import history_schema, predicting
from schemas.nodes import NodeProfile, WorkFailed
from schemas.prediction import RiskKind
from schemas.wire import encode, subject_of

pytest.importorskip("sklearn")
SETTINGS = PredictorSettings()


def write(path: Path, rows: list[tuple[float, str, float]], faults: list[float]) -> None:
    """A history of one node."""
    connection = sqlite3.connect(path)
    connection.executescript(history_schema.TABLES)
    connection.executemany(
        "INSERT INTO metrics VALUES ('a', ?, ?, NULL, ?)", [(name, at, value) for at, name, value in rows]
    )
    failed = WorkFailed(
        node="a", job="j", attempt=1, kind="out_of_memory", code=5, last_lines=(), retry=True, reason="out of memory"
    )
    profile = NodeProfile(node="a", version=1, host="h", site="s", cpus=1, memory_bytes=1000)
    for number, (at, event) in enumerate([(0.0, profile), *((at, failed) for at in faults)]):
        row = (
            f"e{number}",
            at,
            subject_of(event),
            type(event).__name__,
            "node/a",
            "j",
            "a",
            None,
            "",
            "",
            encode(event).decode(),
        )
        connection.execute(history_schema.INSERT["events"], row)
    connection.commit()
    connection.close()


def leaks(count: int, rng: random.Random) -> tuple[list[tuple[float, str, float]], list[float]]:
    """Processes whose memory grows to 70 % of the machine's, where they die: which the trend alone would not expect."""
    rows, faults, at = [], [], 100.0
    for _ in range(count):
        used = 300.0
        while used < 700:
            rows.append((at, "memory_used_bytes", used + rng.uniform(-5, 5)))
            at, used = at + 5.0, used + rng.uniform(2, 6)
        faults.append(at)
        at += 300.0
        for _ in range(60):
            rows.append((at, "memory_used_bytes", 400 + rng.uniform(-5, 5)))
            at += 5.0
        at += 300.0
    return rows, faults


def of(kind: RiskKind, found: tuple[predicting.Fitted, ...]) -> predicting.Fitted:
    """One kind's."""
    return next(each for each in found if each.kind == kind)


def test_a_history_of_faults_teaches_a_model_that_beats_the_trend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, faults = leaks(30, random.Random(1))
    write(tmp_path / "history.sqlite", rows, faults)
    found = predicting.learn(tmp_path / "history.sqlite", SETTINGS)
    memory = of("memory", found)
    assert memory.model is not None
    assert memory.model.basis == "model"
    assert memory.faults > 30
    assert memory.loss_model is not None
    assert memory.loss_trend is not None
    assert memory.loss_model < memory.loss_trend
    assert of("heat", found).problem == "the history has 0 such faults, 10 are wanted: the trend stands in"
    assert predicting.main([str(tmp_path / "history.sqlite")]) == 0
    assert "model used" in capsys.readouterr().out


def test_what_history_does_not_support_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = leaks(3, random.Random(2))
    write(tmp_path / "history.sqlite", rows, [])
    memory = of("memory", predicting.learn(tmp_path / "history.sqlite", SETTINGS))
    assert memory.model is None
    assert "0 such faults" in memory.problem
    assert predicting.main([str(tmp_path / "nothing.sqlite")]) == 1
    assert "nothing.sqlite" in capsys.readouterr().err
