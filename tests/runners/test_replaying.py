"""Replays: a journal's inputs lead to what they had led to, in any process; what doesn't is found, and shown."""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.inputs import Woken
from agents.network_monitor import NetworkMonitor, NetworkMonitorSettings
from runners.journal import Entry, Journal, Snapshot, frames
from runners.journal_past import chapters
from runners.journaled import JournaledCore
from runners.replaying import Difference, NothingToReplay, journals_in, maker, replay
from runners.steps import Input
from schemas.network import LinkProbed
from schemas.nodes import NodeLeaving
from schemas.wire import Message, seal

NAME = "network_monitor"


def life(folder: Path, start: int, probes: int, *, limit: int = 1 << 20, end: bool = False, **settings: Any) -> None:
    """A process that takes probes of three nodes and what its own timers bring, and ends well or badly."""
    core = JournaledCore(
        NetworkMonitor(NetworkMonitorSettings(**settings), random.Random(start)), NAME, start, Journal(folder, limit)
    )
    core.recover(float(start))
    now = float(start)
    core.take(Input(Woken(incarnation=core.incarnation, resumed=start > 1, at=now)), now)
    for number in range(start, start + probes):
        now += 0.7
        node = f"n{number % 3}"
        said: Message = LinkProbed(node=node, sequence=number, rtt_ms=20.0 if number % 40 < 20 else 400.0)
        if number % 7 == 0:
            said = NodeLeaving(node=node, reason="going")
        sealed = seal(said, id=f"node/{node}:1:{number}", cause="", at=now, source=f"node/{node}")
        steps = [core.take(Input(sealed, sealed.id), now)]
        while (fired := core.timers.pop_due(now)) is not None:
            steps.append(core.take(Input(*fired), now))
        for step in steps:
            assert step is not None
            core.finished(step)
        core.flush(now)
    if end:
        core.close(now)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a journal of three lives and several snapshots."""
    folder = tmp_path / ".shoal" / "agents" / NAME
    life(folder, 1, 60, limit=2500)
    life(folder, 100, 30, limit=2500, end=True)
    life(folder, 200, 20, limit=2500)
    return tmp_path / ".shoal"


def test_a_run_of_several_lives_takes_the_same_decisions_again(store: Path) -> None:
    folder = store / "agents" / NAME
    outcome = replay(NAME, folder, maker(NAME, store))
    assert outcome.difference is None
    assert outcome.inputs == outcome.compared >= 113
    assert outcome.lives == 3
    assert outcome.first == 1
    assert outcome.snapshots >= 3


def test_another_process_with_other_hashes_takes_them_too(store: Path) -> None:
    command = "from runners.cli.app import run; run()"
    told = subprocess.run(
        [sys.executable, "-c", command, "replay", str(store), "--json"], capture_output=True, text=True, check=True
    )
    (outcome,) = msgspec.json.decode(told.stdout)
    assert outcome["difference"] is None
    assert outcome["compared"] == outcome["inputs"] >= 113


def test_reading_changes_nothing(store: Path) -> None:
    folder = store / "agents" / NAME
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    replay(NAME, folder, maker(NAME, store))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_settings_are_those_of_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / NAME
    life(folder, 1, 30, dwell_better=1, dwell_worse=1)
    life(folder, 100, 30)
    outcome = replay(NAME, folder, maker(NAME, tmp_path))
    assert outcome.difference is None
    assert outcome.compared > 60


def difference_in(store: Path) -> Difference:
    found = replay(NAME, store / "agents" / NAME, maker(NAME, store)).difference
    assert found is not None
    return found


def _changed(folder: Path, number: int) -> None:
    """Write the journal anew with one input that came a little later than it did."""
    log = next(path for path in folder.glob("inputs-*"))
    records = [record for record, _ in frames(log)]
    log.unlink()
    journal = Journal(folder)
    journal.load()
    for record in records:
        if isinstance(record, Entry) and record.number == number:
            journal.append(msgspec.structs.replace(record, now=record.now + 0.25))
        else:
            journal._put(record)
    journal.close()


def test_the_first_difference_is_shown_with_what_came_before(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / NAME
    life(folder, 1, 30)
    number = next(number for number, kept in chapters(folder)[0].sums.items() if number > 5 and any(kept))
    _changed(folder, number)
    found = difference_in(tmp_path)
    assert found.input is not None
    assert found.input.number == number
    assert [each.number for each in found.before] == list(range(number - 5, number))
    assert found.decided


def test_a_snapshot_that_is_not_what_the_inputs_lead_to_is_found(store: Path) -> None:
    path = sorted((store / "agents" / NAME / "past").glob("snapshot-*"))[1]
    snapshot = next(record for record, _ in frames(path))
    assert isinstance(snapshot, Snapshot)
    journal = Journal(store / "forged")
    journal.folder.mkdir()
    journal.rotate(msgspec.structs.replace(snapshot, timers=snapshot.timers[:-1]))
    journal.close()
    shutil.copyfile(store / "forged" / "snapshot", path)
    assert f"after input {snapshot.number}" in difference_in(store).what


def test_what_is_kept_is_bounded_and_a_replay_says_where_it_begins(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / NAME
    life(folder, 1, 200, limit=1500)
    kept = sum(path.stat().st_size for path in (folder / "past").iterdir())
    journal = Journal(folder, past=kept // 3)
    assert journal.load() is not None
    core = JournaledCore(NetworkMonitor(NetworkMonitorSettings(), random.Random(1)), NAME, 1, None)
    core.restore(chapters(folder)[-1].snapshot)
    journal.rotate(msgspec.structs.replace(core.snapshot(1.0), number=10_000))
    assert sum(path.stat().st_size for path in (folder / "past").iterdir()) <= kept // 3


def test_a_missing_part_moves_the_beginning(store: Path) -> None:
    folder = store / "agents" / NAME
    second = sorted((folder / "past").glob("inputs-*"))[1]
    second.unlink()
    outcome = replay(NAME, folder, maker(NAME, store))
    assert outcome.difference is None
    assert outcome.first == chapters(folder)[0].snapshot.number + 1 > 20


def test_where_nothing_is_it_says_so(store: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingToReplay, match="give the directory"):
        journals_in(tmp_path / "elsewhere")
    with pytest.raises(NothingToReplay, match="no journal of optimizer"):
        journals_in(store, "optimizer")
    assert journals_in(store) == journals_in(store.parent) == journals_in(store / "agents" / NAME)
