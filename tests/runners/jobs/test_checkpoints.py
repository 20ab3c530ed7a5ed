"""A job's files are enough to go on: on another machine in a job, and without Shoal in plain torch as the documents say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agents.reducer.works import Part
from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from runners.jobs.vectors import Vector
from schemas.jobs import JobRequest

ROOT = Path(__file__).parents[3]


def code_in(document: str, about: str) -> str:
    """The Python block of a document that has a certain text in it."""
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL) if about in b]
    return str(block)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the README's example of a workload."""
    (tmp_path / "my_model.py").write_text(code_in("README.md", "class Workload"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_model", raising=False)
    return tmp_path


def session(app: Path, node: str, checkpoint: bytes | None = None, **request: Any) -> Session:
    asked = JobRequest(kind="train", workload="my_model:workload", **request)
    spec = JobSpec(job="j", node=node, server="", request=asked, app_dir=str(app), device="cpu")
    return Session.load(spec, checkpoint)


def average(alone: Session, difference: Vector) -> bytes:
    """What a node that is alone averages."""
    return alone.average([(Part(node="a", round=1, weight=1.0), difference)], "mean", "float32")[0]


def trained(app: Path, **request: Any) -> Session:
    """A session after two rounds on a node that is alone."""
    alone = session(app, "a", **request)
    for number in (1, 2):
        alone.begin_steps()
        for _ in range(5):
            alone.step(32)
        assert alone.apply(number, average(alone, alone.decoded(alone.difference("float32"))))
    return alone


@pytest.mark.parametrize(
    "request_",
    [{}, {"outer": "nesterov", "outer_lr": 0.7}, {"precision": "bfloat16", "accumulate": 2}, {"sync": "step"}],
    ids=str,
)
def test_another_machine_resumes_from_a_checkpoint(app: Path, request_: dict[str, Any]) -> None:
    first = trained(app, **request_)
    second = session(app, "b", first.checkpoint(), **request_)
    assert (first.anchor.version, second.anchor.version) == (2, 0)
    assert torch.equal(second.anchor.values, first.anchor.values)
    assert second.validate() == first.validate() < session(app, "b").validate()
    difference = torch.ones(first.anchor.layout.count)
    payload = average(first, difference)
    assert first.apply(3, payload)
    assert second.apply(1, payload)
    assert torch.equal(second.anchor.values, first.anchor.values)  # the momentum came along, or the optimizer's state


PLAIN = """
print(float(nn.functional.mse_loss(model(x), y)))
assert not {"runners", "schemas", "shoal"} & set(sys.modules)
"""
# Each in a fork of its own: the import of torch is what takes time.
EACH = """
import os, runpy, sys, torch
for folder in sys.argv[1:]:
    if not os.fork():
        os.chdir(folder)
        sys.path.insert(0, folder)
        runpy.run_path("go_on.py")
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"failed in {folder}")
"""


def test_plain_torch_goes_on_from_either_file(app: Path) -> None:
    script = "import sys\nfrom torch import nn\n" + code_in("docs/training.md", "load_file")
    script += 'x, y = workload.samples("validation").tensors\n' + PLAIN
    losses: dict[Path, float] = {}
    for way, request in (("nesterov", {"outer": "nesterov", "outer_lr": 0.7}), ("step", {"sync": "step"})):
        alone = trained(app, **request)
        loss, model = alone.at_anchor()
        for which, data in (("checkpoint", alone.checkpoint()), ("model", model)):
            folder = app / f"{way}-{which}"
            folder.mkdir()
            (folder / "my_model.py").write_text((app / "my_model.py").read_text())
            (folder / "checkpoint.safetensors").write_bytes(data)
            (folder / "go_on.py").write_text(script)
            losses[folder] = loss
    done = subprocess.run(
        [sys.executable, "-c", EACH, *map(str, losses)], env={}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.splitlines()] == pytest.approx(list(losses.values()), rel=1e-5)


def test_a_compiled_model_is_stored_under_its_own_names(app: Path) -> None:
    compiled = session(app, "a", compile=True)
    assert compiled.trainer.passes.compiled
    assert list(compiled.trainer.model.state_dict()) == list(
        nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)).state_dict()
    )
    assert b"_orig_mod" not in compiled.checkpoint()
    assert compiled.anchor.layout == session(app, "b").anchor.layout


def test_a_momentum_that_nobody_uses_is_not_handed_on(app: Path) -> None:
    first = trained(app, outer="nesterov", outer_lr=0.7)
    plain = session(app, "b", first.checkpoint())
    assert first.anchor.momentum is not None
    assert plain.anchor.momentum is None
    assert plain.digest == session(app, "c", first.checkpoint()).digest
    assert b"shoal.momentum" not in plain.checkpoint()
