"""`sync = "overlap"` with real tensors: what the working parameters are while differences travel, and what is sent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from waves import Load, close, loader, steps, working

from agents.reducer.works import Part
from runners.jobs.codecs import decode
from runners.jobs.fragments import Fragments
from runners.jobs.layout import Layout
from runners.jobs.live import Live
from runners.jobs.session import Session
from runners.jobs.vectors import whole
from schemas.fragments import WHOLE
from schemas.jobs import Encoding

ROUNDS = 7


@pytest.fixture
def load(tmp_path: Path) -> Load:
    layers = "nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 8)"
    return loader(tmp_path, "overlap_work", layers, 0.05, rounds=ROUNDS, sync="overlap", fragments=1)


def average(payloads: list[bytes], by: Session, round_: int) -> bytes:
    parts = [Part(node=f"n{i}", round=round_, weight=1 / len(payloads)) for i in range(len(payloads))]
    gathered = [(part, by.decoded(payload, round_)) for part, payload in zip(parts, payloads, strict=True)]
    return by.average(gathered, "mean", "float32", round_)[0]


@pytest.mark.parametrize("fragments", [1, 2, 3])
def test_a_node_alone_takes_the_steps_that_it_would_take_without_rounds(load: Load, fragments: int) -> None:
    alone, plain = load(fragments=fragments), load()
    steps(plain, 1, 3 * ROUNDS)
    sent: bytes | None = None
    for number in range(1, ROUNDS + 1):
        steps(alone, number)
        if sent is not None:
            assert alone.apply(number - 1, average([sent], alone, number - 1))
        sent = alone.difference("float32", number)
    assert sent is not None
    assert alone.apply(ROUNDS, average([sent], alone, ROUNDS))
    assert close(working(alone), working(plain))
    assert close(alone.anchor.values, working(plain)), "the last round brings everything into the anchor"


@pytest.mark.parametrize("fragments", [1, 3])
def test_the_own_difference_is_replaced_by_the_average_and_what_came_after_stays(load: Load, fragments: int) -> None:
    one, other = load("a", fragments=fragments), load("b", fragments=fragments)
    for session in (one, other):
        steps(session, 1)
    before = working(one)
    payloads = [session.difference("float32", 1) for session in (one, other)]
    steps(one, 2)
    since = working(one) - before
    closed = average(payloads, one, 1)
    assert one.apply(1, closed) == other.apply(1, closed)
    fragment = one.fragments.of(1)
    moved = fragment.of(working(one)) - fragment.of(one.anchor.values)
    assert close(moved, fragment.of(since)), "of the fragment, what was done since its difference was made"
    untouched = torch.ones_like(before, dtype=torch.bool)
    fragment.put(torch.zeros(fragment.layout.count, dtype=torch.bool), untouched)
    assert close(working(one)[untouched], (before + since)[untouched])
    assert (one.anchor.values != load("a").anchor.values).any()


@pytest.mark.parametrize("outer", [{"outer": "average"}, {"outer": "nesterov", "outer_lr": 0.7}], ids=str)
@pytest.mark.parametrize("fragments", [1, 3])
def test_anchors_have_the_same_bits_whoever_is_ahead(load: Load, fragments: int, outer: dict[str, Any]) -> None:
    """One node applies each average in the midst of its next steps, the other before them; a third catches up."""
    ahead, prompt = load("a", fragments=fragments, **outer), load("b", fragments=fragments, **outer)
    closed = b""
    for number in range(1, ROUNDS):
        steps(ahead, number)
        if closed:
            ahead.apply(number - 1, closed)
        steps(prompt, number, 2)
        payloads = [ahead.difference("int8", number), prompt.difference("float32", number)]
        closed = average(payloads, prompt, number)
        prompt.apply(number, closed)
    assert ahead.apply(ROUNDS - 1, closed) == prompt.digest
    third = load("c", fragments=fragments, **outer)
    assert third.replace(prompt.snapshot()[1]) == (ROUNDS - 1, prompt.digest)
    steps(third, ROUNDS)
    closed = average([third.difference("float32", ROUNDS)], third, ROUNDS)
    assert third.apply(ROUNDS, closed) == ahead.apply(ROUNDS, closed) == prompt.apply(ROUNDS, closed)


@pytest.mark.parametrize("encoding", ["int8", "int4", "topk"])
def test_what_was_sent_and_what_is_owed_make_up_what_was_done(load: Load, encoding: Encoding) -> None:
    session = load(fragments=3)
    done, sent = torch.zeros(session.anchor.layout.count), torch.zeros(session.anchor.layout.count)
    for number in range(1, ROUNDS + 1):
        steps(session, number)
        fragment = session.fragments.of(number)
        fragment.put(fragment.of(done + working(session) - session.anchor.values), done)
        payload = session.difference(encoding, number)
        fragment.put(fragment.of(sent) + decode(payload), sent)
        session.apply(number, average([payload], session, number))
    assert torch.count_nonzero(session.owed.residual) > 0
    assert close(sent + session.owed.residual, done)


@pytest.mark.parametrize("encoding", ["int8", "topk"])
def test_what_travels_is_in_the_working_parameters_as_the_others_decode_it(load: Load, encoding: Encoding) -> None:
    session = load(fragments=3)
    steps(session, 1)
    before, fragment = working(session), session.fragments.of(1)
    sent = decode(session.difference(encoding, 1))
    assert close(fragment.of(working(session) - session.anchor.values), sent)
    assert not close(fragment.of(before - session.anchor.values), sent)


def test_steps_after_a_refusal_begin_at_the_anchor(load: Load) -> None:
    session = load()
    steps(session, 1)
    session.apply(1, average([session.difference("float32", 1)], session, 1))
    steps(session, 2)
    session.difference("float32", 2)
    steps(session, 3)
    session.begin_steps(2)
    assert torch.equal(working(session), session.anchor.values)


@pytest.mark.parametrize("fragments", [1, 3])
def test_a_late_difference_is_sent_once(load: Load, fragments: int) -> None:
    """Its round is over when it is made: it travels, and neither stays in the working parameters nor is in the next one."""
    late, other = load("a", fragments=fragments), load("b", fragments=fragments)
    steps(late, 1)
    steps(other, 1)
    late.apply(1, average([other.difference("float32", 1)], other, 1))
    first = decode(late.difference("float32", 1))
    fragment = late.fragments.of(1)
    assert first.abs().max() > 0
    assert close(fragment.of(working(late)), fragment.of(late.anchor.values))


def test_a_snapshot_replaces_what_travels(load: Load) -> None:
    ahead, other = load("a", fragments=3), load("b", fragments=3)
    steps(ahead, 1)
    before = working(ahead)
    ahead.difference("float32", 1)
    for number in range(1, 4):
        steps(other, number)
        other.apply(number, average([other.difference("float32", number)], other, number))
    steps(ahead, 2)
    since = working(ahead) - before
    ahead.replace(other.snapshot()[1])
    fragment = ahead.fragments.of(1)
    assert close(fragment.of(working(ahead) - ahead.anchor.values), fragment.of(since))


def test_validation_leaves_the_working_parameters_alone(load: Load) -> None:
    session = load(fragments=2)
    steps(session, 1)
    session.difference("float32", 1)
    before = working(session)
    loss, _ = session.at_anchor()
    assert session.validate() == loss
    assert torch.equal(working(session), before)


def test_another_machine_resumes_from_a_checkpoint(load: Load) -> None:
    first = load(fragments=2, outer="nesterov")
    for number in (1, 2):
        steps(first, number)
        first.apply(number, average([first.difference("float32", number)], first, number))
    second = load("b", first.checkpoint(), fragments=2, outer="nesterov")
    assert torch.equal(second.anchor.values, first.anchor.values)
    assert second.anchor.momentum is not None
    assert second.validate() == first.validate()


@pytest.mark.parametrize("fragments", [2, 3, 5])
def test_fragments_share_all_elements_evenly(load: Load, fragments: int) -> None:
    session = load(fragments=fragments)
    layout, times = session.anchor.layout, torch.zeros(session.anchor.layout.count)
    sizes = []
    for number in range(1, fragments + 1):
        each = session.fragments.of(number)
        sizes.append(each.layout.count)
        assert session.fragments.of(number + fragments) is each or session.fragments.turn(number + fragments) == WHOLE
        each.put(each.of(times) + 1, times)
        flat = torch.arange(float(layout.count))
        live = Live(layout, session.trainer.model)
        assert torch.equal(whole(each.read(live)), each.of(layout.flatten(session.trainer.model)))
        assert each.of(flat)[: each.layout.parameters].max() < layout.parameters
    assert torch.equal(times, torch.ones(layout.count))
    assert max(sizes) - min(sizes) <= 2 * 16
    assert session.fragments.of(ROUNDS).layout is layout


def test_tensors_that_lie_otherwise_and_tied_ones_move_too() -> None:
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    model = nn.ModuleDict({"conv": conv, "one": nn.Linear(5, 5), "other": nn.Linear(5, 5)})
    model["other"].weight = model["one"].weight
    layout = Layout.of(model)
    before = layout.flatten(model)
    fragments = Fragments(layout, 3, rounds=9)
    shift = torch.randn(layout.count)
    for number in range(3):
        each = fragments.of(number)
        each.add(each.of(shift), layout, model)
    assert close(layout.flatten(model), before + shift)
    assert not conv.weight.is_contiguous()
