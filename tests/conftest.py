"""How the tests are spread: a file goes to one worker, and all files that share the fleet of processes go to the same."""

import compileall
import gc
import os
import sys
from pathlib import Path
from typing import Any

# Also where the environment says that Python shall keep no bytecode: pytest rewrites hypothesis and every test, and a
# hundred processes import what they test. Each would spend seconds on it, anew. Before hypothesis, which is a part of that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
from xdist.scheduler import LoadFileScheduling  # noqa: E402

CODE = ("schemas", "agents", "bus", "runners")
SHARED = "tests/integration/"
"""Its tests use one fleet a worker (`conftest.py` there), which takes some ten seconds to be there, ..."""
APART = frozenset({"test_namespaces.py", "test_no_desk.py", "test_up.py"})
"""... but these, which make their own."""
LONG_FIRST = (SHARED, "tests/simulation/", "tests/runners/jobs/", "tests/bus/")


class Scheduling(LoadFileScheduling):
    """`--dist loadfile`, with the shared fleet's tests as if they were one file."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return SHARED if file.startswith(SHARED) and file.removeprefix(SHARED) not in APART else file


# No example has to be ready in a fifth of a second: on a crowded machine that says nothing of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the code once: tests start a hundred processes, and where Python may keep nothing, each compiles it anew."""
    if not hasattr(config, "workerinput"):
        for folder in CODE:
            compileall.compile_dir(Path(__file__).parents[1] / folder, quiet=1)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """For `--dist loadfile`, which is pyproject's."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is there by now, torch and three thousand tests, is there to stay: the collector needn't look at it again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In xdist's workers, what takes longest in one piece comes first: the last to end should be something small."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: next((i for i, long in enumerate(LONG_FIRST) if item.nodeid.startswith(long)), 9))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, since some tests wait for what other processes do; but no crowd."""
    return min((os.cpu_count() or 1) + 1, 5)
