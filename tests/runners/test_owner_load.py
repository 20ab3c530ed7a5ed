"""What programs that aren't Shoal's use of this machine: the arithmetic, and real processes."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from runners.owner_load import Look, OwnerLoad, descendants, percent_of_others

FOREIGN = "print(flush=True)\nwhile True: pass"
# As `python -m runners.node_process` looks from outside, with a child that has another name.
NODE = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {FOREIGN!r}])"


def look(busy: float, total: float, **own: float) -> Look:
    return Look(busy=busy, total=total, own={int(name[1:]): used for name, used in own.items()})


@pytest.mark.parametrize(
    ("before", "after", "percent"),
    [
        (look(10, 100), look(16, 110), 60.0),
        (look(10, 100, p1=3.0), look(16, 110, p1=5.0), 40.0),
        (look(10, 100), look(16, 110, p1=4.0), 20.0),  # it has come since
        (look(10, 100, p1=3.0), look(16, 110), 60.0),  # it has gone since
        (look(10, 100, p1=50.0), look(16, 110, p1=1.0), 60.0),  # another has its number now
        (look(10, 100, p1=0.0), look(16, 110, p1=6.1), 0.0),  # two clocks that don't quite agree
        (look(10, 100), look(10, 100), None),
    ],
)
def test_the_share_of_others_is_what_is_busy_less_ones_own(before: Look, after: Look, percent: float | None) -> None:
    assert percent_of_others(before, after) == (None if percent is None else pytest.approx(percent))


def test_descendants_are_found_wherever_they_stand() -> None:
    parents = {1: 0, 5: 1, 9: 5, 3: 9, 7: 1, 8: 7}
    assert descendants({5, 77}, parents) == {5, 9, 3}
    assert descendants({1}, parents) == set(parents)
    assert descendants({4}, {4: 4}) == {4}


@contextlib.contextmanager
def busy(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process (and its children) that keeps a core busy, once it does."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        for child in [*psutil.Process(process.pid).children(), process]:
            child.kill()
        process.wait()
        process.stdout.close()


def test_only_what_descends_from_shoals_programs_is_shoals() -> None:
    load = OwnerLoad()
    assert load.percent() is None
    # The marker is an argument of its own, as `-m` has it.
    with busy("-c", NODE, "runners.node_process") as node, busy("-c", FOREIGN) as foreign:
        (child,) = psutil.Process(node.pid).children()
        while (percent := load.percent()) is None:  # the kernel counts in hundredths of a second
            pass
        assert {os.getpid(), node.pid, child.pid, foreign.pid} <= load.own, "all descend from this process"
        assert 0 <= percent <= 100
        strangers = OwnerLoad(me=child.pid)
        strangers.percent()
        assert {node.pid, child.pid} <= strangers.own
        assert foreign.pid not in strangers.own
        assert os.getpid() not in strangers.own


def test_what_shoal_uses_is_not_the_owners() -> None:
    with busy("-c", FOREIGN) as mine:
        process, load = psutil.Process(mine.pid), OwnerLoad(me=mine.pid)
        before = load.look()
        begun = process.cpu_times().user
        while process.cpu_times().user < begun + 0.2:
            pass
        after = load.look()
    assert after.own[mine.pid] >= before.own[mine.pid] + 0.2
    as_owners = percent_of_others(msgspec.structs.replace(before, own={}), msgspec.structs.replace(after, own={}))
    as_shoals = percent_of_others(before, after)
    assert as_owners is not None
    assert as_shoals is not None
    assert as_owners > as_shoals
