"""The house's rules as tests: who may import whom, how long things get, and what nobody does.

Rules read the source as syntax trees, so that they cost nothing at run time and name the file and line that breaks them.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("schemas", "agents", "bus", "runners", "examples", "shoal", "tests", "benchmarks")

LAYERS: dict[str, frozenset[str]] = {
    "schemas": frozenset({"schemas"}),
    "agents": frozenset({"agents", "schemas"}),
    "bus": frozenset({"bus", "schemas"}),
    "runners": frozenset({"runners", "agents", "bus", "schemas", "shoal", "examples"}),
    "shoal": frozenset({"runners", "bus", "schemas"}),
    "examples": frozenset({"examples", "runners"}),
}
"""Which of our packages each layer may import."""

PURE = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "math",
    "msgspec",
    "operator",
    "random",
    "re",
    "statistics",
    "string",
    "types",
    "typing",
}
"""All that agents and schemas may import besides ours: nothing here reads a clock, waits, or does I/O."""

PURE_ENOUGH = {
    "schemas/asyncapi.py": {"importlib", "inspect"},  # writes documentation from the modules' own source
    "schemas/field_docs.py": {"ast", "inspect", "sys"},  # likewise
    "schemas/requests.py": {"difflib"},  # "did you mean `rounds`?"
    "agents/node/policy.py": {"signal"},  # the names of the signals that end processes
}
"""What single files may import besides, each for a reason."""

SHARED_BY_AGENTS = frozenset({"agents.base", "agents.effects", "agents.inputs"})
"""The modules of `agents` that belong to no agent."""

WORLDLY = frozenset({"open", "print", "input", "exec", "eval", "breakpoint", "__import__"})
"""Built-in functions that reach out of a pure core."""

MOST_LINES = 400
"""Of a file: more is about more than one thing."""

MOST_FUNCTION_LINES = 60
"""Of a function, its docstring included."""

LONGER_FILES: dict[str, int] = {}
"""Files that are longer for now, and how long: this only ever gets shorter."""

LONGER_FUNCTIONS: dict[str, int] = {}
"""Functions (`file:name`) that are longer for now, likewise."""


@cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(tree_of(path)))


def files_of(*packages: str) -> list[Path]:
    """All Python files of packages (or of a single module), in order."""
    found: list[Path] = []
    for package in packages:
        single = ROOT / f"{package}.py"
        found += [single] if single.exists() else sorted((ROOT / package).rglob("*.py"))
    return found


def where(path: Path, node: ast.AST | None = None) -> str:
    """`agents/base.py:12`"""
    name = path.relative_to(ROOT).as_posix()
    return f"{name}:{getattr(node, 'lineno', 1)}" if node is not None else name


def imports_of(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Every module that a file imports, wherever in it, with its full name."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node
            for alias in node.names:
                if (ROOT / Path(*module.split("."), f"{alias.name}.py")).exists():
                    yield f"{module}.{alias.name}", node


def told(found: list[str], rule: str) -> str:
    """An assertion's message: the rule, what breaks it."""
    return "\n".join([rule, *(f"  {line}" for line in found)])


CODE = files_of("schemas", "agents", "bus", "runners", "examples", "shoal")
TESTS = files_of("tests")
AGENTS = sorted(path for path in (ROOT / "agents").iterdir() if path.is_dir() and any(path.glob("*.py")))


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    found = [
        f"{where(path, node)} imports {module}"
        for path in files_of(layer)
        for module, node in imports_of(path)
        if module.split(".")[0] in OURS and module.split(".")[0] not in LAYERS[layer]
    ]
    allowed = ", ".join(sorted(LAYERS[layer]))
    assert not found, told(found, f"{layer} may import only {allowed}: move what is shared into a lower layer")


@pytest.mark.parametrize("layer", ["schemas", "agents"])
def test_the_pure_layers_import_nothing_that_reads_a_clock_waits_or_does_io(layer: str) -> None:
    found = [
        f"{where(path, node)} imports {module}"
        for path in files_of(layer)
        for module, node in imports_of(path)
        if module.split(".")[0] not in PURE | LAYERS[layer] | PURE_ENOUGH.get(where(path), set())
    ]
    rule = f"{layer} is pure: ask the host by an effect and take `now` as an argument, or say in PURE_ENOUGH why not"
    assert not found, told(found, rule)


def test_agents_use_random_only_by_the_generator_they_are_given() -> None:
    found = [
        f"{where(path, node)} uses random.{node.attr}"
        for path in files_of("agents")
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
        if node.attr != "Random"
    ]
    found += [
        f"{where(path, node)} imports from random"
        for path in files_of("agents")
        for node in nodes_of(path)
        if isinstance(node, ast.ImportFrom) and node.module == "random" and {a.name for a in node.names} != {"Random"}
    ]
    assert not found, told(found, "a core draws from `self.rng` alone: the same inputs must give the same effects")


def test_agents_and_schemas_reach_out_by_no_built_in_function() -> None:
    found = [
        f"{where(path, node)} calls {node.func.id}"
        for path in files_of("schemas", "agents")
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WORLDLY
    ]
    assert not found, told(found, "schemas and agents do no I/O: yield an effect instead")


def test_agents_do_not_iterate_over_sets() -> None:
    """The order of a set of strings depends on PYTHONHASHSEED, and effects would with it."""
    found = []
    for path in files_of("agents"):
        for node in nodes_of(path):
            loops = [node.iter] if isinstance(node, ast.For) else []
            if isinstance(node, ast.ListComp | ast.DictComp | ast.GeneratorExp):
                loops = [generator.iter for generator in node.generators]
            found += [f"{where(path, loop)} iterates over a set" for loop in loops if is_set(loop)]
    assert not found, told(found, "sort a set before iterating over it: `for node in sorted(...)`")


def is_set(node: ast.expr) -> bool:
    """A set by its looks: a display, a comprehension, a call of `set`, or an operation between such."""
    if isinstance(node, ast.BinOp):
        return is_set(node.left) or is_set(node.right)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Set | ast.SetComp)


@pytest.mark.parametrize("folder", AGENTS, ids=lambda path: path.name)
def test_each_agent_stands_alone_and_has_its_parts(folder: Path) -> None:
    missing = [part for part in ("__init__.py", "core.py", "settings.py") if not (folder / part).exists()]
    assert not missing, f"agents/{folder.name} lacks {', '.join(missing)}: a core, its settings, and what it exports"
    found = [
        f"{where(path, node)} imports {module}"
        for path in sorted(folder.rglob("*.py"))
        for module, node in imports_of(path)
        if module.startswith("agents.")
        if module not in SHARED_BY_AGENTS and module.split(".")[1] != folder.name
    ]
    assert not found, told(found, "agents know each other by their messages alone: move what they share into schemas")


@pytest.mark.parametrize("module", ["runners.host", "runners.agent_process", "bus.nats", "shoal"])
def test_agent_processes_never_load_torch(module: str) -> None:
    """It costs 200 MB and a second; only job processes need it."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"import {module} loads torch (or fails): import it where it is used. {done.stderr}"


def test_commands_load_only_what_they_need() -> None:
    """Every command would wait for what any of them imports at once."""
    heavy = ("runners.host", "agents.node", "runners.members.membership", "runners.replaying", "runners.simulation")
    code = f"import sys, runners.cli.app; print(*sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "", "import it in the command that uses it"


def test_files_are_about_one_thing() -> None:
    found = []
    for path in CODE:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= LONGER_FILES.get(where(path), MOST_LINES):
            found.append(f"{where(path)} has {lines} lines")
    assert not found, told(found, f"a file stays under {MOST_LINES} lines: find the second thing it is about")


def test_functions_fit_on_a_screen() -> None:
    found = []
    for path in CODE:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines >= LONGER_FUNCTIONS.get(f"{where(path)}:{node.name}", MOST_FUNCTION_LINES):
                    found.append(f"{where(path, node)} {node.name} has {lines} lines")
    assert not found, told(found, f"a function stays under {MOST_FUNCTION_LINES} lines: name its parts")


def test_the_exceptions_still_are_ones() -> None:
    done = [name for name in LONGER_FILES if len((ROOT / name).read_text(encoding="utf-8").splitlines()) < MOST_LINES]
    assert not done, f"short enough now, take them off LONGER_FILES: {', '.join(done)}"


def public(body: list[ast.stmt], methods: bool, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes and functions of a module, maybe methods too, that must say what they are."""
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        if any(decorator_name(d) in ("overload", "override") for d in node.decorator_list):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef) and methods:
            yield from public(node.body, methods, f"{node.name}.")


def decorator_name(node: ast.expr) -> str:
    """`override` for `@override` and `@typing.override`."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def test_everything_public_says_what_it_is() -> None:
    found = []
    for path in CODE:
        tree = tree_of(path)
        if tree.body and not ast.get_docstring(tree):
            found.append(f"{where(path)} has no docstring")
        workload = path.parent.name == "examples"  # short, to be copied; what its methods do is the protocol's matter
        for name, node in public(tree.body, methods=not workload):
            if not ast.get_docstring(node):  # type: ignore[arg-type]
                found.append(f"{where(path, node)} {name} has no docstring")
    assert not found, told(found, "a module, class or function that others see has a docstring")


def is_call(node: ast.AST, *names: str) -> bool:
    """Whether a node calls a function or a method of one of these names."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in names


def test_tests_never_sleep() -> None:
    """A sleep is a race that is lost on a busy machine, and time that is lost on an idle one. `sleep(0)` gives way."""
    found = [
        f"{where(path, node)} sleeps"
        for path in TESTS
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and is_call(node, "sleep")
        if not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]
    assert not found, told(found, "wait for an event or a condition with a timeout, or use virtual time")


def test_nobody_loads_a_pickle() -> None:
    """A pickle is a program; weights come as safetensors and messages as JSON."""
    found = []
    for path in [*CODE, *TESTS, *files_of("benchmarks")]:
        modules = [(module, node) for module, node in imports_of(path)]
        found += [
            f"{where(path, node)} imports {module}"
            for module, node in modules
            if module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib")
        ]
        found += [
            f"{where(path, node)} calls torch.{node.func.attr}"
            for node in nodes_of(path)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if node.func.attr in ("load", "save")
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
        ]
    assert not found, told(found, "use safetensors for tensors and msgspec for everything else")


def test_no_code_is_left_for_later() -> None:
    found = [
        f"{where(path)}:{number} {line.strip()}"
        for path in CODE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(mark in line for mark in ("TODO", "FIXME", "XXX", "raise NotImplementedError"))
    ]
    assert not found, told(found, "finish it, or leave it out and say so in the documentation")
