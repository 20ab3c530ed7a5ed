"""The examples are what their job requests name, stay small, and learn."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from examples import stdlib_lm
from runners.jobs.local_steps import LocalTrainer
from runners.jobs.workload import load_workload
from schemas.jobs import JobRequest

ROOT = Path(__file__).parents[2]
NAMES = ["digits", "stdlib_lm", "vision", "finetune"]


@pytest.mark.parametrize("name", NAMES)
def test_the_job_request_is_one_and_names_its_workload(name: str) -> None:
    request = msgspec.convert(tomllib.loads((ROOT / "examples" / f"{name}.toml").read_text()), JobRequest)
    assert request.workload == f"examples.{name}:workload"
    assert load_workload(request.workload, ROOT).name == request.workload


@pytest.mark.parametrize("name", NAMES)
def test_it_is_short_enough_to_copy(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) < 120


def test_digits_are_learned() -> None:
    trainer = LocalTrainer(load_workload("examples.digits:workload", ROOT), seed=0, node="a", device=torch.device("cpu"))
    before = trainer.validate()
    for _ in range(120):
        trainer.step(32)
    assert before > 2.2
    assert trainer.validate() < 0.7


def test_the_language_model_learns_from_the_library() -> None:
    trainer = LocalTrainer(load_workload("examples.stdlib_lm:workload", ROOT), seed=0, node="a", device=torch.device("cpu"))
    before = trainer.validate()
    assert before == trainer.validate()
    for _ in range(25):
        trainer.step(4)
    assert before > 5.0
    assert trainer.validate() < 3.8  # the frequencies of single bytes alone give about 3.4


def test_the_language_model_has_the_size_it_says_and_sees_no_future() -> None:
    torch.manual_seed(0)
    model = stdlib_lm.GPT().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_058_400
    assert isinstance(model.head, nn.Linear)
    assert model.head.weight is model.token.weight
    one, other = torch.zeros(1, 20, dtype=torch.long), torch.zeros(1, 20, dtype=torch.long)
    other[0, 10:] = 65
    with torch.no_grad():
        first, second = model(one), model(other)
    assert torch.allclose(first[:, :10], second[:, :10], atol=1e-5)
    assert not torch.allclose(first[:, 10:], second[:, 10:], atol=1e-3)


def test_held_out_files_are_not_trained_on() -> None:
    train, held_out = stdlib_lm.read_library()
    assert 0.02 < len(held_out) / (len(train) + len(held_out)) < 0.1
    assert len(train) > 5_000_000
    for sentence in (held_out[:400], held_out[-400:], held_out[len(held_out) // 2 :][:400]):
        assert sentence not in train


def test_digits_without_scikit_learn_say_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.modules['sklearn'] = sys.modules['sklearn.datasets'] = None"
    )
    code = "from runners.jobs.workload import load_workload; load_workload('examples.digits:workload')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "pip install scikit-learn" in done.stderr.splitlines()[-1]
