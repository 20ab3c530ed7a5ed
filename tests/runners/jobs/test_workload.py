"""Workloads are found by name, checked, and hashed; every mistake is named with its mend."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from runners.jobs.workload import WorkloadError, bind, load_workload
from runners.workload_source import source_hash

ROOT = Path(__file__).parents[3]

GOOD = """
import torch
from torch import nn

class Line:
    def model(self):
        return nn.Linear(1, 1)
    def samples(self, split):
        return [torch.tensor([x, 2 * x]) for x in (1.0, 2.0)]
    def loss(self, model, batch):
        return ((model(batch[:, :1]) - batch[:, 1:]) ** 2).mean()
    def validate(self, model):
        return 0.5

workload = Line()

def make():
    return workload

def needs(argument):
    return workload
"""

FUNCTIONS = """
from torch import nn
def model(): return nn.Linear(1, 1)
def samples(split): return [1]
def loss(model, batch): return model(batch).sum()
def validate(model): return 1.0
def collate(samples): return len(samples)
def optimizer(parameters): return "mine"
"""


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Path]:
    """A directory of its own, and no trace left in this process of what was imported from it."""
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(app: Path, name: str, text: str) -> None:
    path = app / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("attribute", ["workload", "Line", "make"])
def test_an_object_a_class_and_a_function_will_do(app: Path, attribute: str) -> None:
    write(app, "line_job.py", GOOD)
    workload = load_workload(f"line_job:{attribute}", app)
    assert isinstance(workload.model(), nn.Linear)
    assert workload.validate(nn.Linear(1, 1)) == 0.5
    assert workload.name == f"line_job:{attribute}"


def test_a_module_will_do_and_may_bring_its_own_optimizer_and_collate(app: Path) -> None:
    write(app, "job_package/__init__.py", "from . import functions")
    write(app, "job_package/functions.py", FUNCTIONS)
    workload = load_workload("job_package:functions", app)
    assert workload.collate([1, 2, 3]) == 3
    assert workload.optimizer([]) == "mine"  # type: ignore[comparison-overlap]


def test_what_is_left_out_is_adamw_and_torchs_collate(app: Path) -> None:
    write(app, "line_job.py", GOOD)
    workload = load_workload("line_job:workload", app)
    optimizer = workload.optimizer(workload.model().parameters())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["weight_decay"] == 0.01
    assert workload.collate(list(workload.samples("train"))).shape == (2, 2)  # type: ignore[call-overload]


def test_the_working_directory_is_searched(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(app, "here_job.py", GOOD)
    monkeypatch.chdir(app)
    assert load_workload("here_job:workload").name == "here_job:workload"
    assert source_hash("here_job:workload") == source_hash("here_job:workload", app)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("line_job", "write it like line_job:workload"),
        ("jobs/line_job.py", "write it like jobs.line_job:workload"),
        (":workload", "module:attribute"),
        ("line job:workload", "module:attribute"),
        ("line_jop:workload", "did you mean line_job:workload"),
        ("nothing_like_it:workload", "--app-dir"),
        ("line_job.deeper:workload", "no module 'line_job.deeper'"),
        ("line_job:worklaod", "did you mean 'workload'"),
        ("line_job:qqq", "module 'line_job' has no 'qqq'"),
        ("line_job:needs", "must need no arguments"),
        ("line_job:torch", "has no model, samples, loss or validate"),
        ("broken_job:workload", "importing it raised SyntaxError"),
        ("raising_job:workload", "importing it raised ZeroDivisionError: division by zero"),
        ("missing_job:workload", "imports 'surely_not_installed', which is not installed here"),
        ("half_job:Half", "has no loss or validate"),
        ("odd_job:odd", "optimizer can't be called"),
    ],
)
def test_mistakes_are_named_with_the_mend(app: Path, name: str, problem: str) -> None:
    write(app, "line_job.py", GOOD)
    write(app, "broken_job.py", "def f(:")
    write(app, "raising_job.py", "1 / 0")
    write(app, "missing_job.py", "import surely_not_installed")
    write(app, "half_job.py", "class Half:\n    def model(self): ...\n    def samples(self, split): ...\n    loss = 1\n")
    write(app, "odd_job.py", GOOD + "\nodd = Line()\nodd.optimizer = 'adam'\n")
    with pytest.raises(WorkloadError) as caught:
        load_workload(name, app)
    assert problem in str(caught.value)
    assert caught.value.workload == name
    assert caught.value.mend in str(caught.value)


def test_an_object_can_be_bound_directly() -> None:
    with pytest.raises(WorkloadError, match="a dict has no model, samples, loss or validate"):
        bind({}, "mine")


def test_the_hash_follows_the_users_own_sources_and_nothing_else(app: Path) -> None:
    write(app, "pack/__init__.py", "")
    write(app, "pack/job.py", "import json\nfrom . import layers\nfrom pack.data import load\nimport beside\n" + GOOD)
    write(app, "pack/layers.py", "width = 1\n")
    write(app, "pack/data.py", "from .deep.deeper import load\n")
    write(app, "pack/deep/__init__.py", "")
    write(app, "pack/deep/deeper.py", "def load(): ...\n")
    write(app, "pack/unrelated.py", "x = 1\n")
    write(app, "beside.py", "y = 1\n")
    before = source_hash("pack.job:workload", app)
    write(app, "pack/unrelated.py", "x = 2\n")
    write(app, "pack/layers.py", "width = 1\r\n")
    assert source_hash("pack.job:workload", app) == before
    hashes = {before}
    for changed in (
        "pack/__init__.py",
        "pack/job.py",
        "pack/layers.py",
        "pack/data.py",
        "pack/deep/deeper.py",
        "beside.py",
    ):
        with (app / changed).open("a") as file:
            file.write("# changed\n")
        hashes.add(source_hash("pack.job:workload", app))
    assert len(hashes) == 7


def test_hashing_runs_nothing(app: Path) -> None:
    write(app, "loud/__init__.py", "raise SystemExit('the package was run')")
    write(app, "loud/job.py", "raise SystemExit('the module was run')")
    assert len(source_hash("loud.job:workload", app)) == 64


def test_hashing_what_is_not_there_says_so(app: Path) -> None:
    write(app, "line_job.py", GOOD)
    for name in ("line_jop:workload", "line_job.inner:workload", "nowhere.at_all:x"):
        with pytest.raises(WorkloadError, match="no module"):
            source_hash(name, app)


@pytest.mark.parametrize("module", ["runners.workload_source", "runners.jobs.devices"])
def test_what_node_agents_import_has_no_torch_in_it(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0
