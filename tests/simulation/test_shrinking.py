"""A failing simulation is made small, told, kept and run again."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_schedule import NAMES

from bus.simulated_faults import ALL
from runners.simulation import cases, searching, story
from runners.simulation.cases import Case, Finding
from runners.simulation.schedule import FaultEvent, drawn
from runners.simulation.shrinking import Shrinking, ddmin
from schemas.decisions import NodeLost
from schemas.nodes import NodeHeartbeat
from schemas.wire import seal


@settings(max_examples=25)
@given(st.sets(st.integers(0, 40), max_size=6), st.integers(1, 41))
def test_what_is_left_is_what_it_takes(needed: set[int], count: int) -> None:
    items = list(range(count))
    needed &= set(items)
    asked = 0

    def fails(part: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return needed <= set(part)

    assert ddmin(items, fails) == sorted(needed)
    assert asked <= count * count + 3 * count + 3, "as the paper has it"


@settings(max_examples=25)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_nothing_more_can_be_left_out_however_it_fails(marks: list[bool], data: st.DataObject) -> None:
    salt = data.draw(st.integers(0, 1000))
    items = list(range(len(marks)))
    fails = lambda part: part == items or hash((salt, tuple(part))) % 3 == 0  # noqa: E731
    left = ddmin(items, fails)
    assert fails(left)
    if len(left) > 1:
        assert not any(fails(left[:place] + left[place + 1 :]) for place in range(len(left)))


def examined(case: Case) -> Finding | None:
    """Fails where n003 stands still while the desk is down in bad weather, both within ten minutes: at that moment."""
    for pause in case.schedule:
        if pause.kind != "pause" or pause.who != "n003" or pause.at > case.hours * 3600.0:
            continue
        storm = any(each.kind == "weather" and each.at <= pause.at < each.until for each in case.schedule)
        crash = any(each.who == "job_desk" and each.kind == "crash" and each.at < pause.at for each in case.schedule)
        if storm and crash and "n003" in case.nodes:
            return Finding(kind="Unsafe", what=f"at {pause.at} s: too bad", at=pause.at)
    return Finding(kind="Unsafe", what="something else", at=1.0) if len(case.nodes) == 2 else None


def test_schedules_nodes_and_hours_become_few() -> None:
    schedule = tuple(drawn(ALL, 3, ("job_desk",), NAMES, 7200.0))
    case = Case(seed=3, nodes=tuple(NAMES), hours=2.0, schedule=schedule)
    finding = examined(case)
    assert finding is not None
    lines: list[str] = []
    shrinking = Shrinking(case, finding, examined, told=lines.append)
    small = shrinking.shrink()
    assert small.nodes == ("n003",)
    assert sorted(event.kind for event in small.schedule) == ["crash", "pause", "weather"]
    pause = next(event for event in small.schedule if event.kind == "pause")
    assert small.hours == pytest.approx((pause.at + 60.0) / 3600.0)
    (weather,) = [event for event in small.schedule if event.kind == "weather"]
    assert weather.seconds < 10.0, "cut in two again and again"
    assert not small.calm
    assert len(lines) < shrinking.runs < 200


def test_a_search_that_may_not_run_any_more_keeps_what_it_has() -> None:
    case = Case(seed=3, nodes=tuple(NAMES), hours=2.0, schedule=tuple(drawn(ALL, 3, ("job_desk",), NAMES, 7200.0)))
    finding = examined(case)
    assert finding is not None
    shrinking = Shrinking(case, finding, examined, most=5)
    assert examined(shrinking.shrink()) is not None
    assert shrinking.runs == 5


def test_seeds_are_written_as_ranges() -> None:
    assert list(cases.seeds_of("3-5")) == [3, 4, 5]
    assert list(cases.seeds_of("7")) == [7]
    for wrong in ("5-3", "a-b", ""):
        with pytest.raises(ValueError):
            list(cases.seeds_of(wrong))


def test_a_case_is_kept_and_read_again(tmp_path: Path) -> None:
    case = Case(
        seed=1, nodes=("a", "b"), hours=0.1, schedule=(FaultEvent(at=1.0, kind="cut", who="a", way="up"),), found="x"
    )
    cases.save(case, tmp_path / "deep" / "case.json")
    assert cases.load(tmp_path / "deep" / "case.json") == case
    (tmp_path / "no.json").write_text('{"seed": 1, "odes": []}')
    with pytest.raises(cases.BadCase, match="odes"):
        cases.load(tmp_path / "no.json")


def test_numbers_make_no_difference_between_two_findings() -> None:
    one = Finding(kind="Unsafe", what="at 12.5 s: round 3 of job1 is at bits 0a1b2c3d4e", at=12.5)
    other = msgspec.structs.replace(one, what="at 7.25 s: round 12 of job7 is at bits ffeeddccbb", at=7.25)
    assert one.signature == other.signature
    assert one.signature != msgspec.structs.replace(one, kind="NotLive").signature


def test_seeds_that_differ_from_run_to_run_are_named() -> None:
    same = cases.run(Case(seed=1, nodes=("a",), hours=0.001, calm=False))
    other = msgspec.structs.replace(same, outcome=msgspec.structs.replace(same.outcome, digest="other"))
    of = lambda seed, result: searching.Run(  # noqa: E731
        result=msgspec.structs.replace(result, seed=seed), bytes_per_node=0.0
    )
    assert searching.differing([of(1, same), of(2, same), of(1, same), of(2, other)]) == [2]
    assert story.told(Case(seed=1, nodes=("a",), hours=0.001), same, story.Recording())[-1] == "nothing is wrong with it"


def test_a_story_has_the_faults_and_the_chain_of_causes() -> None:
    cut = FaultEvent(at=3.0, kind="cut", who="a", seconds=9.0, way="up")
    case = Case(seed=7, nodes=("a", "b"), hours=0.5, schedule=(cut,))
    recording = story.Recording()
    recording.faults = [cut]
    words = [
        seal(NodeHeartbeat(node="a", sequence=1, interval=1.0), id="node/a:1:1", cause="", at=0.0, source="node/a"),
        seal(NodeHeartbeat(node="b", sequence=1, interval=1.0), id="node/b:1:1", cause="", at=0.0, source="node/b"),
        seal(
            NodeLost(node="a", silent_seconds=6.0, reason="it fell silent"),
            id="selector:1:1", cause="node/a:1:1", at=0.0, source="selector",
        ),
    ]  # fmt: skip
    recording.messages.extend((float(at), message) for at, message in enumerate(words))
    empty = cases.run(Case(seed=7, nodes=("a",), hours=0.001, calm=False))
    for event, heading in (("selector:1:1", "what led to it:"), ("", "the last words on it:")):
        finding = Finding(kind="Unsafe", what="a is gone", at=12.0, event=event)
        lines = story.told(case, msgspec.structs.replace(empty, finding=finding), recording)
        assert lines[0] == "seed 7, 2 nodes, 0.5 h, 1 faults"
        assert lines[2] == "     3.000 s  a isn't heard any more, for 9.0 s"
        chain = lines[lines.index(heading) + 1 : -1]
        speakers = [line.split(" says ")[0].split()[-1] for line in chain]
        assert speakers == (["node/a", "selector"] if event else ["selector"])
        assert "NodeLost" in chain[-1]
        assert lines[-1] == "    12.000 s  Unsafe: a is gone"
