"""The laboratory of namespaces: links that delay, nodes that are cut off, machines that die."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.netlab import LabError, NetLab
from benchmarks.netlab.lab import require

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def lab() -> Iterator[NetLab]:
    try:
        require()
        made = NetLab(2, lab="test", congestion="cubic").up()
    except LabError as error:
        pytest.skip(str(error))
    try:
        made.set(0, rtt=(0, 0), loss=0)
        yield made
    finally:
        made.down()


def test_a_link_delays_and_counts(lab: NetLab) -> None:
    lab.set(1, "average", loss=0)
    before = lab.stats()[1]
    trips = lab.probe(0, 1, 0.5, "rtt")
    assert trips["loss_pct"] == 0
    assert trips["rtt_min"] >= 50  # a busy machine only makes it more
    assert lab.stats()[1]["rx_pkts"] - before["rx_pkts"] >= 25


def test_a_stream_uses_the_congestion_control_that_was_asked_for(lab: NetLab) -> None:
    lab.set(1, "perfect")
    figures = lab.probe(0, 1, 0.2, "tcp")
    assert figures["cc"] == "cubic"
    assert figures["tcp_mb"] > 0


def test_a_machine_that_crashes_takes_its_programs_along(lab: NetLab) -> None:
    program = lab.popen(1, ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b"there\n")
    program.stdin.flush()
    assert program.stdout.readline() == b"there\n"
    assert program.pid in lab.processes(1)
    lab.crash(1)
    assert program.wait() == -signal.SIGKILL
    assert lab.processes(1) == []


def test_orders_that_are_none_are_refused(lab: NetLab) -> None:
    with pytest.raises(LabError, match="no node '7'"):
        lab.cut(7)
    with pytest.raises(LabError, match="there are perfect, good"):
        lab.set(1, "splendid")


def test_what_a_laboratory_left_is_removed_by_the_next_of_its_name(lab: NetLab) -> None:
    with NetLab(1, lab="again") as first:
        sleeper = first.popen(0, ["cat"], stdin=subprocess.PIPE)
        with NetLab(1, lab="again") as second:
            assert sleeper.wait() == -signal.SIGKILL
            assert second.stats()[0]["tx_bytes"] >= 0
