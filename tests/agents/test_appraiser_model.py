"""A round without one of its nodes, and what that says of the node: by hand, and for any rounds."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.appraiser import Part, RoundSeen, appraise, appraise_possible, words
from agents.appraiser import rounds as model
from agents.appraiser.appraisal import MODEL_ERROR
from schemas.appraisal import NodeValue

NODES = ("ada", "bob", "cyd")


def part(node: str, arrived: float, samples: float = 100.0, late: int = 0, compute: float = 1.0, up: float = 0.1) -> Part:
    return Part(node=node, samples=samples, late=late, arrived=arrived, compute=compute, up=up, size=1000)


def seen(*parts: Part, seconds: float, number: int = 1, missing: tuple[str, ...] = (), **others: object) -> RoundSeen:
    prompt = tuple(p.node for p in parts if p.late == 0)
    fields = {
        "number": number,
        "seconds": seconds,
        "members": NODES,
        "parts": parts,
        "missing": missing,
        "waited_for": prompt + missing,
        "deadline": 10.0,
        "reducer": "ada",
        "heirs": ("bob",),
        "average_size": 1000,
    }
    return msgspec.convert(fields | others, RoundSeen)


def test_nobody_waits_for_a_node_that_is_not_there() -> None:
    round_ = seen(part("ada", 2.0, up=0.0), part("bob", 3.0), part("cyd", 6.0), seconds=7.0)
    assert model.without(round_, "cyd") == model.Without(seconds=4.0, samples=200.0, late=())
    assert model.without(round_, "bob") == model.Without(seconds=7.0, samples=200.0, late=())


def test_a_missed_deadline_is_saved() -> None:
    round_ = seen(part("ada", 2.0, up=0.0), part("bob", 3.0), seconds=11.0, missing=("cyd",))
    assert model.without(round_, "cyd").seconds == pytest.approx(4.0)
    assert model.without(round_, "bob").seconds == pytest.approx(11.0), "cyd is waited for with bob or without"


def test_a_deadline_waits_for_a_quorum() -> None:
    parts = (part("ada", 2.0, up=0.0), part("bob", 14.0))
    round_ = seen(*parts, seconds=15.0, missing=("cyd",), quorum=2, reducer="dan")
    assert model.without(round_, "ada").seconds == pytest.approx(15.0), "of two nodes one is a quorum, which comes after it"
    assert model.without(round_, "cyd").seconds == pytest.approx(11.0), "bob is late for a deadline that is enough then"
    assert model.without(round_, "bob").seconds == pytest.approx(11.0), "of two nodes one is a quorum, and it is there"


def test_the_next_to_most_sets_the_round_where_the_first_did() -> None:
    work = {"ada": 400.0, "bob": 200.0, "cyd": 100.0}
    assert model.stretch(work, 400.0) == {"ada": 2.0}
    assert model.stretch(work, 800.0) == {}, "nobody does all that is asked: the round's length comes from elsewhere"
    assert model.stretch({**work, "bob": 400.0}, 400.0) == {}, "bob does as much"
    assert model.stretch(work, 300.0) == {"ada": 1.5}, "rounds are longer than asked, and bob's needn't be"
    assert model.stretch(work, 150.0) == {}
    parts = (
        part("ada", 4.0, 400.0, compute=4.0, up=0.0),
        part("bob", 4.0, 200.0, compute=3.0),
        part("cyd", 4.0, compute=3.0),
    )
    round_ = seen(*parts, seconds=5.0, reducer="bob", heirs=(), stretch={"ada": 2.0})
    assert model.without(round_, "ada") == model.Without(seconds=8.0, samples=600.0, late=())


def test_who_waits_while_computing_beside_transfers_has_its_own_steps_to_do() -> None:
    parts = (part("ada", 0.1, compute=3.0, up=0.0), part("bob", 0.2, compute=3.5), part("cyd", 8.0, compute=9.0))
    round_ = seen(*parts, seconds=9.0)
    assert model.without(round_, "cyd").seconds == pytest.approx(3.5), "not 1.2, as the arrivals alone would have it"
    assert model.without(round_, "bob").seconds == pytest.approx(9.0)


def test_the_next_reducer_has_its_own_link() -> None:
    parts = (part("ada", 2.0, up=0.0), part("bob", 5.0, up=2.0), part("cyd", 3.0, up=0.5))
    gone = model.without(seen(*parts, seconds=5.5), "ada")
    assert gone.seconds == pytest.approx(4.5 + 2.0), "cyd's takes 2 s to bob, bob's own nothing; and the average 2 s"


def test_a_reducer_with_a_bad_link_is_in_all_transfers() -> None:
    slow = seen(part("ada", 2.0, up=0.0), part("bob", 8.0, up=6.0), part("cyd", 8.0, up=6.0), seconds=15.0)
    other = seen(part("ada", 8.0, up=6.0), part("bob", 2.0, up=0.0), part("cyd", 2.1, up=0.1), seconds=8.5, reducer="bob")
    known = model.elsewhere([(each, model.whole(each)) for each in (slow, other)], "ada")
    assert known.after == {"bob": pytest.approx(0.5)}
    assert known.pace == {"ada": pytest.approx(0.006), "cyd": pytest.approx(0.0001)}
    gone = model.without(slow, "ada", others=known)
    assert gone.seconds == pytest.approx(8.0 + 0.5), "bob's link is only known from ada's rounds: cyd's takes 6 s to it"
    fast = msgspec.structs.replace(known, pace={**known.pace, "bob": 0.0001})
    assert model.without(slow, "ada", others=fast).seconds == pytest.approx(2.1 + 0.5)


def test_a_silent_reducer_is_charged_with_what_it_cost() -> None:
    parts = (part("ada", 2.0, up=0.0), part("bob", 3.0))
    round_ = seen(*parts, seconds=24.0, lost=20.0, lost_by="cyd")
    assert model.without(round_, "cyd").seconds == pytest.approx(4.0)
    assert model.without(round_, "bob").seconds == pytest.approx(20.0 + 3.0)


def test_late_contributions_come_as_often_a_second_and_are_later() -> None:
    assert model.late_samples([(100.0, 1)], 1.0) == 50.0
    assert model.late_samples([(100.0, 1)], 2.0) == pytest.approx(100.0 / 3 / 2)


def test_what_was_left_out_of_the_average_is_no_use() -> None:
    round_ = seen(part("ada", 2.0), part("bob", 3.0, samples=0.0), part("cyd", 0.0, late=3), seconds=4.0)
    assert model.useful(round_) == 125.0


def rounds_of(slow: float, count: int = 30, seed: int = 1) -> list[RoundSeen]:
    """Two nodes of three seconds, and one of `slow`, which all wait for."""
    rng, made = random.Random(seed), []
    for number in range(1, count + 1):
        times = [3.0 * rng.uniform(0.9, 1.1), 3.0 * rng.uniform(0.9, 1.1), slow * rng.uniform(0.9, 1.1)]
        parts = [part(name, seconds, up=0.0) for name, seconds in zip(NODES, times, strict=True)]
        made.append(seen(*parts, seconds=max(times) + 0.5, number=number, deadline=100.0))
    return made


def test_who_helps_and_who_hinders() -> None:
    values = {value.node: value for value in appraise(rounds_of(9.0), random.Random(1)).nodes}
    assert (values["ada"].verdict, values["bob"].verdict, values["cyd"].verdict) == ("helps", "helps", "hinders")
    # 200 samples in 3.6 s instead of 300 in 9.5 s
    assert values["cyd"].without == pytest.approx(200 / 3.6 / (300 / 9.5) - 1, abs=0.05)
    assert values["cyd"].without_low < values["cyd"].without < values["cyd"].without_high
    assert values["cyd"].samples_per_second == pytest.approx(300 / 9.5 - 200 / 3.6, rel=0.05)


def test_what_makes_no_difference_is_not_decided() -> None:
    (value,) = [v for v in appraise(rounds_of(4.9), random.Random(1)).nodes if v.node == "cyd"]
    assert value.verdict == "unclear"
    assert "can't be told" in words.value(value)


def test_a_few_rounds_say_nothing() -> None:
    rounds = rounds_of(9.0, count=7)
    assert {value.verdict for value in appraise(rounds, random.Random(1)).nodes} == {"early"}
    assert {value.verdict for value in appraise(rounds, random.Random(1), least=7).nodes} == {"helps", "hinders"}
    newcomer = rounds + [msgspec.structs.replace(each, members=(*NODES, "dan")) for each in rounds]
    values = {value.node: value for value in appraise(newcomer, random.Random(1)).nodes}
    assert (values["dan"].verdict, values["dan"].rounds, values["cyd"].verdict) == ("early", 7, "hinders")
    assert appraise([], random.Random(1)).nodes == ()


def width_of(value: NodeValue) -> float:
    """Of the interval, what the rounds make of it."""
    return value.without_high - value.without_low - 2 * MODEL_ERROR


def test_more_rounds_narrow_the_interval() -> None:
    def width(count: int) -> float:
        (value,) = [v for v in appraise(rounds_of(9.0, count), random.Random(1)).nodes if v.node == "cyd"]
        return width_of(value)

    assert width(200) < 0.6 * width(20)


def test_possible_rounds_are_each_a_way_it_may_be() -> None:
    rounds = rounds_of(9.0, 100)
    (sure,) = [v for v in appraise(rounds, random.Random(1)).nodes if v.node == "cyd"]
    (open_,) = [v for v in appraise_possible(rounds, 1).nodes if v.node == "cyd"]
    assert open_.without == sure.without
    assert width_of(open_) > 3 * width_of(sure)
    (half,) = [v for v in appraise_possible(rounds, 10).nodes if v.node == "cyd"]
    assert width_of(half) < 0.7 * width_of(open_), "jobs of ten rounds differ by less than single rounds"


def test_words() -> None:
    value = NodeValue(node="n4", verdict="hinders", rounds=20, without=0.118, without_low=0.081, without_high=0.152)
    assert words.value(value) == "without n4 the job would be 12 % faster (8 to 15 %)"
    assert words.short(value) == "+12 %"
    helps = msgspec.structs.replace(value, verdict="helps", without=-0.3, without_low=-0.34, without_high=-0.25)
    assert words.value(helps) == "without n4 the job would be 30 % slower (25 to 34 %)"
    assert words.fleet([helps, value]) == words.value(value)
    assert words.fleet([helps]).startswith("every machine helps")
    early = NodeValue(node="n4", verdict="early", rounds=1)
    assert words.value(early) == "too early to say of n4: 1 round"
    assert words.short(early) == "?"
    assert "too early" in words.fleet([early])
    assert "no machine hinders; n4 may" in words.fleet([msgspec.structs.replace(value, verdict="unclear")])


# For any rounds.

PARTS = st.builds(
    Part,
    node=st.sampled_from(NODES),
    samples=st.floats(0, 1e4),
    late=st.integers(0, 3),
    arrived=st.floats(0, 20),
    compute=st.floats(0, 20),
    up=st.floats(0, 5),
    size=st.integers(0, 10**6),
)


@st.composite
def any_rounds(draw: st.DrawFn) -> RoundSeen:
    parts = draw(st.lists(PARTS, min_size=1, max_size=5, unique_by=lambda p: (p.node, p.late)))
    missing = tuple(n for n in NODES if draw(st.booleans()) and all(p.node != n or p.late for p in parts))
    return seen(
        *parts,
        seconds=draw(st.floats(0.1, 60)),
        missing=missing,
        quorum=draw(st.integers(1, 3)),
        reducer=draw(st.sampled_from(NODES)),
        heirs=tuple(draw(st.permutations(NODES))),
        stretch=draw(st.dictionaries(st.sampled_from(NODES), st.floats(1, 10))),
        average_size=draw(st.integers(0, 10**6)),
    )


@given(any_rounds())
def test_leaving_nobody_out_gives_the_round_as_it_was(round_: RoundSeen) -> None:
    same = model.without(round_, "nobody")
    assert same.seconds == pytest.approx(round_.seconds)
    assert same.samples + sum(s / (1 + late) for s, late in same.late) == pytest.approx(model.useful(round_))


@given(any_rounds(), st.sampled_from(NODES))
def test_without_a_node_there_is_nothing_of_its_samples_and_time_goes_on(round_: RoundSeen, node: str) -> None:
    gone = model.without(round_, node)
    others = sum(p.samples for p in round_.parts if p.node != node and p.late == 0)
    assert gone.seconds >= 0
    assert gone.samples == pytest.approx(others * round_.stretch.get(node, 1.0))


@given(any_rounds(), st.sampled_from(NODES))
def test_a_node_that_is_no_reducer_and_sizes_nothing_costs_time_if_anything(round_: RoundSeen, node: str) -> None:
    plain = msgspec.structs.replace(round_, stretch={}, reducer="dan", missing=(), deadline=20.0)
    prompt = tuple(part.node for part in plain.parts if part.late == 0)
    if set(prompt) - {node}:
        plain = msgspec.structs.replace(plain, waited_for=prompt)
        assert model.without(plain, node).seconds <= plain.seconds + 1e-9


@given(any_rounds(), st.sampled_from((*NODES, "dan")))
def test_what_is_spared_is_what_would_come_out(round_: RoundSeen, node: str) -> None:
    known = model.whole(round_)
    short, long = model.without(round_, node, known), model._worked_out(round_, node, known.collecting, model.Elsewhere())
    assert short.seconds == pytest.approx(long.seconds)
    assert short.samples == pytest.approx(long.samples)
    assert short.late == long.late


@settings(deadline=None, max_examples=15)  # it is a tenth of a second on a busy machine
@given(st.floats(0.5, 50), st.integers(1, 40), st.integers(0, 99))
def test_appraisals_are_ordered_bounded_and_the_same_again(slow: float, count: int, seed: int) -> None:
    rounds = rounds_of(slow, count, seed)
    found = appraise(rounds, random.Random(5), least=1)
    assert found == appraise(rounds, random.Random(5), least=1)
    assert found.low <= found.samples_per_second * 1.2
    for value in found.nodes:
        assert value.low <= value.high
        assert value.without_low <= value.without_high
        assert value.without >= -1.0
