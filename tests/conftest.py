"""How the tests are spread: a file goes to one worker, and all files that share the fleet of processes go to the same."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

SHARED = "tests/integration/"
"""Its tests use one fleet a worker (`conftest.py` there), which takes some ten seconds to be there, ..."""
APART = frozenset({"test_namespaces.py", "test_no_desk.py", "test_up.py"})
"""... but these, which make their own."""


class Scheduling(LoadFileScheduling):
    """`--dist loadfile`, with the shared fleet's tests as if they were one file."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return SHARED if file.startswith(SHARED) and file.removeprefix(SHARED) not in APART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """For `--dist loadfile`, which is pyproject's."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, since some tests wait for what other processes do; but no crowd."""
    return min((os.cpu_count() or 1) + 1, 5)
