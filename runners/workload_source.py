"""Finds and hashes a workload's source without running it, so that processes without torch can announce it.

Two nodes train the same model only if they run the same code. The hash covers the workload's module, the packages
around it, and the modules of the user's own (same top-level package, or same directory) that they import, found in
their syntax trees. What they import from elsewhere is compared by version (torch, Shoal), not by source.
"""

import ast
import difflib
import hashlib
import importlib
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from schemas.errors import ShoalError


class WorkloadError(ShoalError):
    """A workload that can't be used. Attributes: `workload` (as the job names it), `problem`, `mend`."""

    def __init__(self, workload: str, problem: str, mend: str) -> None:
        super().__init__(f"workload {workload!r}: {problem}: {mend}")
        self.workload = workload
        self.problem = problem
        self.mend = mend


def split_name(workload: str) -> tuple[str, str]:
    """Module and attribute of `module:attribute`.

    Raises:
        WorkloadError: it has another form.
    """
    module, colon, attribute = workload.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        example = f"{module.removesuffix('.py').replace('/', '.')}:workload" if module else "my_model:workload"
        raise WorkloadError(workload, "not of the form module:attribute", f"write it like {example}")
    return module, attribute


def app_root(app_dir: Path | None) -> Path:
    """Where a user's modules are looked for first: `--app-dir`, else the working directory."""
    return (app_dir or Path.cwd()).resolve()


def source_hash(workload: str, app_dir: Path | None = None) -> str:
    """SHA-256 in hex over names and sources of a workload's modules; nothing is imported or run.

    Line ends are counted as newlines, so that a checkout on Windows is the same source.

    Raises:
        WorkloadError: not of the form module:attribute, or no such module.
    """
    module, _ = split_name(workload)
    root = app_root(app_dir)
    importlib.invalidate_caches()  # a module written a moment ago counts
    if find_module(module, root, sys.path) is None:
        raise not_found(workload, root)
    sources: dict[str, bytes] = {}
    pending = [module]
    own = module.partition(".")[0]
    while pending:
        name = pending.pop()
        if name in sources:
            continue
        # The user's other modules count if they lie in the app directory; of installed packages only the workload's.
        spec = find_module(name, root, sys.path if name.partition(".")[0] == own else [])
        if spec is None:
            continue
        source = _source(spec)
        sources[name] = source
        if "." in name:
            pending.append(name.rpartition(".")[0])
        pending.extend(imported_names(source, name, spec.submodule_search_locations is not None))
    sha = hashlib.sha256()
    for name in sorted(sources):
        sha.update(f"{name} {len(sources[name])}\n".encode())
        sha.update(sources[name])
    return sha.hexdigest()


def not_found(workload: str, root: Path) -> WorkloadError:
    """The error for a module that isn't there, with the nearest name that is."""
    module, attribute = split_name(workload)
    close = difflib.get_close_matches(module, list(_modules_in(root)), n=1, cutoff=0.6)
    mend = (
        f"did you mean {close[0]}:{attribute}?"
        if close
        else "start from its directory, name that with --app-dir, or send it along: submit --bundle"
    )
    return WorkloadError(workload, f"no module {module!r} in {root} or on Python's path", mend)


def _modules_in(root: Path) -> Iterator[str]:
    """Names of modules in a directory and in the packages directly in it."""
    for path in (*root.glob("*.py"), *root.glob("*/*.py")):
        name = path.stem if path.parent == root else f"{path.parent.name}.{path.stem}"
        if path.stem != "__init__":
            yield name


def find_module(module: str, root: Path, path: list[str]) -> ModuleSpec | None:
    """The spec of a module, by search alone: `importlib.util.find_spec` would run the packages around it."""
    places: list[str] | None = [str(root), *path]
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(len(parts)):
        if places is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), places)
        if spec is None:
            return None
        places = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return spec


def _source(spec: ModuleSpec) -> bytes:
    if spec.origin is None or not Path(spec.origin).is_file():
        return b""  # a package without __init__.py
    content = Path(spec.origin).read_bytes()
    return content.replace(b"\r\n", b"\n") if spec.origin.endswith(".py") else content


def imported_names(source: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Names that a module's imports may refer to; `from a import b` gives `a` and `a.b`, since b may be a module."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # compiled, or broken: then loading it will say so
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
