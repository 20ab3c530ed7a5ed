"""How the tests are spread: a file goes to one worker, and all files that share a fleet of processes go to the same."""

import os
from pathlib import Path

import pytest

# The tests of tests/integration that use the session's fleet, which takes some ten seconds to be there.
SHARED_FLEET = frozenset({"fleet"})


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, since some tests wait for what other processes do; but no crowd."""
    return min((os.cpu_count() or 1) + 1, 5)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for xdist's `--dist loadgroup`."""
    for item in items:
        shares = SHARED_FLEET & set(getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("fleet" if shares else str(Path(item.path))))
