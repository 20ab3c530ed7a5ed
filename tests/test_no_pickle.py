"""Nothing that is received or read can run code: no pickle anywhere in our packages, nor anything that unpickles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "agents", "bus", "runners", "examples")
CODE = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))] + [ROOT / "shoal.py"]

# Modules that turn bytes into arbitrary objects, or code.
DANGEROUS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
# Functions of others that unpickle, unless they are told not to.
UNPICKLES = {
    "torch.load": "weights_only",
    "torch.save": None,
    "numpy.load": "allow_pickle",
    "np.load": "allow_pickle",
    "torch.package": None,
    "torch.jit.load": None,
    "dist.broadcast_object_list": None,
    "dist.all_gather_object": None,
    "dist.gather_object": None,
    "dist.scatter_object_list": None,
}
CALLS = {"eval", "exec", "compile"}
SAFE = {"weights_only": True, "allow_pickle": False}


def faults_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {name.name}" for name in node.names if name.name.split(".")[0] in DANGEROUS)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in DANGEROUS:
                yield f"imports from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _faults_of_call(node)
        elif isinstance(node, ast.Constant) and node.value in DANGEROUS:
            yield f"names {node.value}"  # importlib.import_module("pickle")


def _faults_of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in CALLS:
        yield f"calls {name}"
    for known, guard in UNPICKLES.items():
        if name == known or name.endswith("." + known):
            given = {word.arg: word.value for word in node.keywords}.get(guard or "")
            if not (isinstance(given, ast.Constant) and guard and given.value is SAFE[guard]):
                yield f"calls {name} without {guard}={SAFE[guard]}" if guard else f"calls {name}"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    assert list(faults_in(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import importlib; importlib.import_module('pickle')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "dist.all_gather_object(a, b)",
        "eval(text)",
    ],
)
def test_the_test_sees_what_it_looks_for(code: str) -> None:
    assert list(faults_in(ast.parse(code)))


def test_safe_ways_pass() -> None:
    assert not list(faults_in(ast.parse("torch.load(path, weights_only=True); np.load(path, allow_pickle=False)")))
