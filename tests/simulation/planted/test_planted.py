"""Each kind of bug, planted: the search finds it, makes it small, and the case that is kept shows it, and only with it."""

from pathlib import Path

import pytest
from plants import PLANTS

from runners.simulation import cases, searching
from runners.simulation.cases import Case, Finding

CASES = sorted((Path(__file__).parents[1] / "cases").glob("*.json"))
# Seeds within which each must be found, and the fleet that is searched: a bug of a protocol shows among few nodes, too.
SEEDS, NODES, HOURS = 200, 8, 0.5
# Seeds that a kept case is looked for in where it shows nothing any more: whatever changes what fleets say changes which
# message is lost. A bug that took the search seven seeds is missed by so many once in a hundred times.
NEARBY = 30
LONG = {"split-brain": pytest.mark.search, "lost-update": pytest.mark.search}
"""Cases that are looked for in several seeds, since they show nothing at their own: 54 and 8 s with a suite beside them."""


def kept() -> list[tuple[str, Case]]:
    """The cases that the search made of planted bugs, and of real ones since mended."""
    return [(path.stem, cases.load(path)) for path in CASES]


def shown(case: Case) -> Finding | None:
    """What a case shows, or else the first of the seeds from its own on that shows the like."""
    nearby = (cases.case_of(case.seed + more, NODES, HOURS, case.faults, plant=case.plant) for more in range(NEARBY))
    for each in (case, *nearby):
        finding = cases.run(each).finding
        if finding is not None:
            return finding
    return None


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(*each, id=each[0], marks=LONG.get(each[0], ())) for each in kept()]
)
def test_a_kept_case_shows_its_bug_and_nothing_without_it(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cases.run(case).finding is None, "the code as it is"
    if case.plant:
        PLANTS[case.plant](monkeypatch)
        assert shown(case) is not None, f"neither the case nor {NEARBY} seeds from its own on"


def test_there_is_a_case_of_every_plant() -> None:
    assert {case.plant for _, case in kept()} >= set(PLANTS)


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
