"""Dividing nodes among jobs, by direct calls: fair, in whole nodes, steady."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agents.node_selector.sharing import Claim, Table, Terms, divide

ONE = Terms()


def alike(count: int) -> dict[str, float]:
    """So many nodes of one speed."""
    return {f"n{place}": 1 / count for place in range(count)}


def claim(job: str, rates: dict[str, float], **fields: object) -> Claim:
    return Claim(job=job, rates=rates, **fields)  # type: ignore[arg-type]


def holding(rates: dict[str, float], *jobs: str, **fields: object) -> list[Claim]:
    """The first job has everything, the others come."""
    first, *rest = jobs
    return [claim(first, rates, held=tuple(rates)), *(claim(job, rates, waits=True, **fields) for job in rest)]


def counts(table: Table) -> dict[str, int]:
    return {job: len(nodes) for job, nodes in table.has.items()}


def shares(table: Table) -> dict[str, object]:
    return {job: pytest.approx(table.share(job)) for job in table.has}


def test_a_job_alone_has_everything() -> None:
    assert counts(divide(holding(alike(5), "a"), ONE)) == {"a": 5}


@pytest.mark.parametrize(("nodes", "jobs", "expected"), [(5, "ab", [3, 2]), (6, "abc", [2, 2, 2]), (100, "ab", [50, 50])])
def test_equal_nodes_are_divided_evenly(nodes: int, jobs: str, expected: list[int]) -> None:
    assert list(counts(divide(holding(alike(nodes), *jobs), ONE)).values()) == expected


def test_who_was_there_first_keeps_what_it_can() -> None:
    table = divide([claim("a", alike(6), held=("n3", "n5", "n0")), claim("b", alike(6), held=("n1", "n2", "n4"))], ONE)
    assert set(table.has["a"]) == {"n0", "n3", "n5"}


def test_shares_follow_weights() -> None:
    assert counts(divide(holding(alike(8), "a", "b", weight=3.0), ONE)) == {"a": 2, "b": 6}


def test_speed_is_shared_not_the_number_of_nodes() -> None:
    rates = {"fast": 0.5, "s1": 0.125, "s2": 0.125, "s3": 0.125, "s4": 0.125}
    table = divide(holding(rates, "a", "b"), ONE)
    assert sorted(counts(table).values()) == [1, 4]
    assert shares(table) == {"a": 0.5, "b": 0.5}


def test_each_job_goes_by_its_own_measure() -> None:
    gpu, cpu = {"g": 0.8, "c": 0.2}, {"g": 0.5, "c": 0.5}  # only the first gains from the GPU
    table = divide([claim("a", gpu), claim("b", cpu)], ONE)
    assert (set(table.has["a"]), set(table.has["b"])) == ({"g"}, {"c"})
    table = divide([claim("b", cpu, held=("g",)), claim("a", gpu, held=("c",))], ONE)
    assert (set(table.has["a"]), set(table.has["b"])) == ({"g"}, {"c"}), "they change places"


def test_a_small_gain_moves_nobody() -> None:
    rates = {"n0": 0.27, "n1": 0.27, "n2": 0.23, "n3": 0.23}
    before = [claim("a", rates, held=("n0", "n1")), claim("b", rates, held=("n2", "n3"))]
    assert set(divide(before, ONE).has["a"]) == {"n0", "n1"}
    assert set(divide(before, Terms(margin=0.05)).has["a"]) != {"n0", "n1"}


def test_jobs_never_just_change_roles() -> None:
    rates = {f"n{place}": 0.111 + 0.0001 * place for place in range(9)}  # five of nine are 55 %, whoever has them
    before = [claim("a", rates, held=("n0", "n1", "n2", "n3", "n4")), claim("b", rates, held=("n5", "n6", "n7", "n8"))]
    assert set(divide(before, ONE).has["a"]) == {"n0", "n1", "n2", "n3", "n4"}
    before = [claim("a", rates, held=("n4", "n5", "n6", "n7", "n8")), claim("b", rates, held=("n0", "n1", "n2", "n3"))]
    assert set(divide(before, ONE).has["b"]) == {"n0", "n1", "n2", "n3"}


def test_soon_after_a_change_only_free_nodes_are_given() -> None:
    before = [claim("a", alike(5), held=("n0", "n1", "n2")), claim("b", alike(5), held=("n3",))]
    assert counts(divide(before, ONE, settled=True)) == {"a": 3, "b": 2}
    before = [claim("a", alike(5), held=("n0", "n1", "n2", "n4")), claim("b", alike(5), held=("n3",))]
    assert counts(divide(before, ONE, settled=True)) == {"a": 4, "b": 1}
    assert counts(divide(before, ONE)) == {"a": 3, "b": 2}


def test_what_a_job_needs_at_least_comes_first() -> None:
    table = divide(holding(alike(5), "a", "b", least=4), ONE)
    assert counts(table)["b"] == 4
    assert shares(table) == {"a": 0.4, "b": 0.6}, "and where it can't give a node up, the other job is beside it"
    assert counts(divide(holding(alike(3), "a", "b", least=2), ONE)) == {"a": 1, "b": 2}, "whole nodes are fair enough"


def test_more_jobs_than_nodes_meet_on_them() -> None:
    table = divide(holding(alike(2), "a", "b", "c"), ONE)
    assert counts(table) == {"a": 1, "b": 1, "c": 1}
    assert sorted(len(jobs) for jobs in table.tenants.values()) == [1, 2]


def test_a_node_that_is_nearly_all_of_the_fleet_is_shared() -> None:
    table = divide(holding({"gpu": 0.9, "c1": 0.05, "c2": 0.05}, "a", "b"), ONE)
    assert sorted(table.tenants["gpu"]) == ["a", "b"]
    assert min(table.share(job) for job in "ab") >= 0.45


def test_jobs_that_meet_part_as_soon_as_there_is_room() -> None:
    table = divide([claim("a", alike(2), held=("n0",)), claim("c", alike(2), held=("n0",))], ONE)
    assert sorted(len(jobs) for jobs in table.tenants.values()) == [1, 1]


def test_parting_needs_no_gain_beyond_itself() -> None:
    rates = {"n0": 0.36, "n1": 0.3, "n2": 0.34}
    held = [claim("a", rates, held=("n0", "n1")), claim("b", rates, held=("n0", "n2"))]
    for settled in (False, True):
        table = divide(held, Terms(margin=0.9), settled=settled)
        assert all(len(jobs) == 1 for jobs in table.tenants.values())


def test_beyond_the_limit_jobs_wait_in_their_order() -> None:
    table = divide([claim(job, alike(1), waits=True) for job in "abcde"], Terms(crowd=2))
    assert list(table.has) == ["a", "b"]
    small = divide([claim("a", alike(2), least=2), claim("b", alike(2), least=3, waits=True)], ONE)
    assert list(small.has) == ["a"], "it needs more than there is: the first goes on"


def test_a_limited_job_leaves_the_rest_to_others() -> None:
    table = divide([claim("a", alike(6), most=1), claim("b", alike(6))], ONE)
    assert counts(table) == {"a": 1, "b": 5}


def test_who_may_have_few_nodes_gets_its_share_of_those() -> None:
    few = {"n0": 0.2, "n1": 0.2}
    table = divide([claim("a", alike(5), held=tuple(alike(5))), claim("b", few, waits=True)], ONE)
    assert set(table.has["b"]) == {"n0", "n1"}


def test_pinned_nodes_stay_with_those_who_need_them() -> None:
    everything = frozenset(alike(2))
    table = divide([claim("a", alike(2), pinned=everything), claim("b", alike(2), pinned=everything)], ONE)
    assert counts(table) == {"a": 2, "b": 2}


def test_cores_let_jobs_meet_at_no_cost() -> None:
    roomy = Terms(together=2, cores=dict.fromkeys(alike(3), 8))
    assert shares(divide(holding(alike(3), "a", "b"), roomy)) == {"a": 1.0, "b": 1.0}
    table = divide([claim(job, alike(1)) for job in "abc"], Terms(together=2))
    assert sum(table.speed.values()) == pytest.approx(1.0), "one core has one core's speed"


@st.composite
def wishes(draw: st.DrawFn) -> tuple[list[Claim], Terms]:
    """Some jobs with any wishes, on some nodes of any speeds."""
    nodes = [f"n{place}" for place in range(draw(st.integers(1, 7)))]
    jobs = [f"j{place}" for place in range(draw(st.integers(1, 4)))]
    made = []
    for job in jobs:
        own = draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
        raw = {node: draw(st.sampled_from([1.0, 1.0, 2.0, 10.0])) for node in nodes if node in own}
        whole = sum(raw.values())
        least = draw(st.integers(1, 3))
        most = draw(st.none() | st.integers(least, least + 2))
        held = draw(st.lists(st.sampled_from(own), unique=True, max_size=most))
        fields = {"weight": draw(st.sampled_from([0.5, 1.0, 3.0])), "least": least, "most": most, "held": tuple(held)}
        made.append(claim(job, {node: rate / whole for node, rate in raw.items()}, **fields, waits=draw(st.booleans())))
    return made, Terms(crowd=draw(st.integers(1, 4)), together=1)


@settings(max_examples=60, deadline=None)
@given(wish=wishes())
def test_whatever_is_asked_for(wish: tuple[list[Claim], Terms]) -> None:
    claims, terms = wish
    table = divide(claims, terms)
    tenants: dict[str, int] = {}
    for one in claims:
        has = table.has.get(one.job, {})
        assert set(has) <= set(one.rates), "only what it may have"
        assert one.most is None or len(has) <= one.most
        if one.waits and has:
            assert len(has) >= one.least, "what it needs, or nothing"
        if len(claims) <= terms.crowd and len(one.rates) >= one.least:
            assert len(has) >= one.least, "nobody starves, nobody waits"
        for node in has:
            tenants[node] = tenants.get(node, 0) + 1
        room = one.job in table.has and not table.full(one.job)
        assert not (room and table.open_to(one.job, terms.together)), "nothing lies idle"
        assert table.speed.get(one.job, 0.0) == pytest.approx(
            sum(one.rates[node] / len(table.tenants[node]) for node in has)
        )
    held = {node: sum(node in one.held and not one.waits for one in claims) for node in table.tenants}
    assert all(count <= max(terms.crowd, held[node]) for node, count in tenants.items())


@settings(max_examples=40, deadline=None)
@given(wish=wishes(), seed=st.integers(0, 3))
def test_it_is_the_same_again_and_under_other_names(wish: tuple[list[Claim], Terms], seed: int) -> None:
    claims, terms = wish
    table = divide(claims, terms)
    again = [Claim(**{f: getattr(one, f) for f in one.__struct_fields__} | _now(one, table)) for one in claims]
    assert {job: set(nodes) for job, nodes in divide(again, terms).has.items()} == {
        job: set(nodes) for job, nodes in table.has.items()
    }, "a division that was just made stands"
    names = [f"n{place}" for place in range(7)]
    other = dict(zip(names, random.Random(seed).sample("qwertyu", 7), strict=True))
    renamed = [
        Claim(
            **{f: getattr(one, f) for f in one.__struct_fields__}
            | {"rates": {other[n]: r for n, r in one.rates.items()}, "held": tuple(other[n] for n in one.held)}
        )
        for one in claims
    ]
    found = divide(renamed, terms)
    assert {job: [other[n] for n in nodes] for job, nodes in table.has.items()} == {
        job: list(nodes) for job, nodes in found.has.items()
    }


def _now(one: Claim, table: Table) -> dict[str, object]:
    has = tuple(table.has.get(one.job, ()))
    return {"held": has, "waits": one.waits and not has}


@settings(max_examples=60, deadline=None)
@given(nodes=st.integers(1, 12), jobs=st.integers(1, 5), first=st.booleans())
def test_alike_jobs_on_alike_nodes_differ_by_a_node_at_most(nodes: int, jobs: int, first: bool) -> None:
    assume(jobs <= nodes)
    names = [f"j{place}" for place in range(jobs)]
    claims = holding(alike(nodes), *names) if first else [claim(name, alike(nodes)) for name in names]
    found = counts(divide(claims, ONE)).values()
    assert max(found) - min(found) <= 1
    assert sum(found) == nodes, "each node has one job"
