"""Each kind of bug, planted: the search finds it, makes it small, and the case that is kept shows it, and only with it."""

from pathlib import Path

import msgspec
import pytest
from plants import PLANTS

from runners.simulation import cases, searching, story
from runners.simulation.cases import Case

CASES = sorted((Path(__file__).parents[1] / "cases").glob("*.json"))
# Seeds within which each must be found, and the fleet that is searched: a bug of a protocol shows among few nodes, too.
SEEDS, NODES, HOURS = 200, 8, 0.5


def kept() -> list[tuple[str, Case]]:
    """The cases that the search made of planted bugs, and of real ones since mended."""
    return [(path.stem, cases.load(path)) for path in CASES]


@pytest.mark.parametrize(("name", "case"), kept(), ids=[name for name, _ in kept()])
def test_a_kept_case_shows_its_bug_and_nothing_without_it(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cases.run(case).finding is None, "the code as it is"
    if case.plant:
        PLANTS[case.plant](monkeypatch)
        finding = cases.run(case).finding
        assert finding is not None
        assert finding.signature == msgspec.structs.replace(finding, what=case.found).signature


def test_there_is_a_case_of_every_plant() -> None:
    assert {case.plant for _, case in kept()} >= set(PLANTS)


def test_a_case_is_told_with_its_faults_and_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = [case for _, case in kept() if case.plant == "stale_assignment"]
    PLANTS[case.plant](monkeypatch)
    lines = story.tell(case)
    assert len(case.schedule) > 2
    for event in case.schedule:
        assert any(event.told() in line for line in lines)
    heading = lines.index("what led to it:")
    chain = lines[heading + 1 : -1]
    assert "batch_controller says Assignment" in chain[-1]
    assert len(chain) >= 2
    assert lines[-1].endswith(f"CoreRaised: {case.found}")


@pytest.mark.search
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("plant", PLANTS)
def test_the_search_finds_it(plant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    PLANTS[plant](monkeypatch)
    for seed in range(SEEDS):
        case = cases.case_of(seed, NODES, HOURS, "all", plant=plant)
        finding = cases.run(case).finding
        if finding is not None:
            break
    assert finding is not None, f"not within {SEEDS} seeds"
    failure = searching.made_small(case, finding, tmp_path, 300, print)
    print(f"{plant}: seed {seed}", *failure.story, sep="\n")
    assert cases.run(failure.case).finding is not None
