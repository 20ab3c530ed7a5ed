"""Which files a job's bundle holds: the user's own packages and modules that the workload needs, and what the job names."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

from runners.bundles.content import MAX_FILES
from runners.bundles.errors import BundleError
from runners.workload_source import WorkloadError, find_module, imported_names, not_found, split_name

LEFT_OUT: Final = (
    ".*",  # version control, tools' caches, editors' folders, and `.env` with somebody's passwords
    "__pycache__",
    "*.py[cod]",
    "*.egg-info",
    "node_modules",
    "*~",
    "*.swp",
    "Thumbs.db",
)
"""Files and folders that are never taken along with the folder that they lie in. Naming one in full takes it."""
VENV: Final = "pyvenv.cfg"
"""What a virtual environment has in it: each machine has its own. (`env` may be the name of a package.)"""
OURS: Final = ("agents", "bus", "runners", "schemas", "shoal")
"""Shoal's own packages: every node has them, and theirs must not be taken for others."""
_GLOB: Final = frozenset("*?[")


def choose(workload: str, root: Path, patterns: Sequence[str] = ()) -> dict[str, Path]:
    """Files by the names that they get in the bundle, which are their paths below `root`.

    The workload's top-level package whole, with the tables that lie in it, or its module; likewise what these import from
    `root`, as their syntax trees tell; then `patterns` in order: a path or glob below `root` adds files and folders, one
    that begins with `!` takes out what it matches, as in a `.gitignore`.

    Raises:
        BundleError: no such workload or file there, or a path that leads out of `root`.
    """
    found = _code(workload, root)
    for pattern in patterns:
        wanted = pattern.removeprefix("!").removeprefix("./")
        path = PurePosixPath(wanted)
        if not wanted or path.is_absolute() or ".." in path.parts:
            raise BundleError(f"the path {pattern!r} in files leads out of {root}", "name files below that directory")
        if pattern.startswith("!"):
            found = {name: at for name, at in found.items() if not _matches(name, wanted.rstrip("/"))}
        else:
            found.update(_named(wanted, root))
    return found


def _code(workload: str, root: Path) -> dict[str, Path]:
    """The workload's top-level package or module and all others in `root` that are imported, from any file of theirs."""
    try:
        module, _ = split_name(workload)
        importlib.invalidate_caches()
        if find_module(module, root, []) is None:
            raise not_found(workload, root)
    except WorkloadError as error:
        raise BundleError(f"workload {workload!r}: {error.problem}", error.mend) from error
    own = module.partition(".")[0]
    if own in OURS:
        raise BundleError(f"{own!r} is a package of Shoal itself, which nodes have", f"rename your {own}")
    found: dict[str, Path] = {}
    pending, seen = [own], set(OURS)
    while pending:
        top = pending.pop()
        if top in seen:
            continue
        seen.add(top)
        files = dict(_top_level(top, root))
        found.update(files)
        for name, path in files.items():
            if path.suffix == ".py":
                parts = name.removesuffix(".py").split("/")
                inside = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                imported = imported_names(path.read_bytes(), inside, parts[-1] == "__init__")
                pending.extend(sorted({each.partition(".")[0] for each in imported}))
    return found


def _top_level(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """A package of `root` with all that lies in it, or a module; nothing where Python would find another elsewhere."""
    spec = find_module(name, root, sys.path)
    if spec is None:
        return
    if spec.submodule_search_locations is not None:
        folder = root / name
        if any(Path(location) == folder for location in spec.submodule_search_locations):
            yield from _below(folder, root)
    elif spec.origin is not None and Path(spec.origin).parent == root:
        yield Path(spec.origin).name, Path(spec.origin)


def _named(pattern: str, root: Path) -> dict[str, Path]:
    """What a path or glob stands for."""
    plain = not _GLOB & set(pattern)
    paths = [root / pattern] if plain else sorted(root.glob(pattern))
    found: dict[str, Path] = {}
    for path in paths:
        if not plain and any(_left_out(part) for part in path.relative_to(root).parts):
            continue
        if path.is_dir():
            found.update(_below(path, root))
        elif path.is_file():
            found[path.relative_to(root).as_posix()] = path
    if not found:
        raise BundleError(f"no file in {root} is named {pattern!r}", "mend the name under files in the job file")
    return found


def _below(folder: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder. Links to files count as what they lead to; those to folders may lead in circles."""
    count = 0
    for at, folders, files in os.walk(folder):
        place = Path(at)
        folders[:] = sorted(name for name in folders if not _left_out(name) and not (place / name / VENV).exists())
        for name in folders:
            if (place / name).is_symlink():
                mend = "put the folder itself there, or take it out with files"
                raise BundleError(f"{(place / name).relative_to(root)} is a link to a folder", mend)
        for name in sorted(files):
            path = place / name
            if not _left_out(name) and path.is_file():
                count += 1
                if count > MAX_FILES:
                    mend = 'name a smaller folder, or take files out with files = ["!PATTERN"]'
                    raise BundleError(f"{folder.relative_to(root)} holds more than {MAX_FILES} files", mend)
                yield path.relative_to(root).as_posix(), path


def _left_out(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern takes a file out: by its path, by a folder that it lies in, or without a `/` by any part's name."""
    parts = name.split("/")
    if "/" not in pattern:
        return any(fnmatchcase(part, pattern) for part in parts)
    return any(fnmatchcase("/".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))
