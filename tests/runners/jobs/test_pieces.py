"""Vectors in pieces come to the bits that they have whole: encoded, measured, averaged by shards, put together."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.reducer.works import Part
from runners.jobs.aggregating import Aggregator
from runners.jobs.codecs import decode, encode
from runners.jobs.error_feedback import ErrorFeedback
from runners.jobs.fragments import Fragment, Fragments
from runners.jobs.layout import Layout, Slot
from runners.jobs.pieces import Averaging, Pieces, WrongShape
from runners.jobs.vectors import Joined, whole
from schemas.aggregation import Aggregation
from schemas.jobs import Encoding, JobRequest
from schemas.shards import ALIGNMENT, AverageShard, OrderedPart, cuts_of, pieces_of

TRAINED, COUNT, CUT = 40_000, 40_300, 4
LAYOUT = Layout((Slot("weight", (TRAINED,), 0, False), Slot("running_var", (300,), TRAINED, True)), TRAINED, COUNT)
WHOLE = Fragment(((0, COUNT),), LAYOUT)


def noise(seed: int, count: int = COUNT) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 3_000_000), st.integers(0, 5_000), st.integers(1, 16))
@settings(max_examples=100, deadline=None)
def test_cuts_make_up_the_vector_and_none_is_empty(parameters: int, buffers: int, reducers: int) -> None:
    request = JobRequest(kind="train", workload="m:w", reducers=reducers)
    cuts = cuts_of(parameters, parameters + buffers, pieces_of(request, parameters))
    assert cuts[0] == 0
    assert cuts[-1] == parameters + buffers
    assert all(begin < end and begin % ALIGNMENT == 0 for begin, end in pairwise(cuts))
    assert cuts[-2] < parameters, "every piece has parameters; buffers follow those of the last"


def test_how_many_pieces_follows_from_the_request_and_the_size() -> None:
    def cut(parameters: int, **asked: Any) -> int:
        return pieces_of(JobRequest(kind="train", workload="m:w", **({"reducers": 0} | asked)), parameters)

    assert pieces_of(JobRequest(kind="train", workload="m:w"), 50_000_000) == 1, "unless it is asked for"
    assert cut(1_000_000) == 1
    assert cut(2_000_000) == 4
    assert cut(50_000_000) == 8
    assert cut(50_000_000, reducers=1) == 1
    assert cut(100_000, reducers=3) == 3
    assert cut(50_000_000, reducers=12) == 12
    assert cut(10_000, reducers=3) == 1, "too small for two aligned pieces"
    assert cut(0, reducers=3) == 1, "its size is not known yet"
    assert cut(50_000_000, sync="step") == 1
    assert cut(50_000_000, aggregation="krum") == 1
    assert cut(8_000_000, sync="overlap", fragments=8) == 1, "a fragment is what travels"


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "int4", "topk"])
def test_a_difference_in_pieces_decodes_to_the_same_bits_and_owes_the_same(encoding: Encoding) -> None:
    pieces = Pieces(WHOLE, CUT)
    cut, one = ErrorFeedback(COUNT, 300), ErrorFeedback(COUNT, 300)
    for round_ in range(2):  # what the first one lost comes with the second
        payloads = pieces.encode(noise(round_), encoding, cut)
        together = whole(Joined([pieces.decoded(payload, piece) for piece, payload in enumerate(payloads)]))
        assert torch.equal(together, decode(one.encode(noise(round_), encoding)))
        assert torch.equal(cut.residual, one.residual)


def test_pieces_are_told_as_they_are_made_in_any_order_and_are_the_same() -> None:
    pieces, told = Pieces(WHOLE, CUT), list[tuple[int, bytes]]()
    owed, same = ErrorFeedback(COUNT, 300), ErrorFeedback(COUNT, 300)
    payloads = pieces.encode(noise(3), "int8", owed, (2, 1), lambda piece, payload: told.append((piece, payload)))
    assert payloads == pieces.encode(noise(3), "int8", same)
    assert [piece for piece, _ in told] == [2, 1, *(piece for piece in range(CUT) if piece not in (1, 2))]
    assert dict(told) == dict(enumerate(payloads))
    assert torch.equal(owed.residual, same.residual)


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8", "int4", "topk"])
def test_what_is_encoded_and_not_sent_is_owed_again(encoding: Encoding) -> None:
    for fragment, count in ((WHOLE, CUT), (Fragments(LAYOUT, 2, rounds=10).of(1), 2)):
        pieces, owed = Pieces(fragment, count), ErrorFeedback(COUNT, 300)
        before, given_up = noise(1, fragment.layout.count), noise(2, fragment.layout.count)
        sent = pieces.encode(before, encoding, owed)
        pieces.take_back(pieces.encode(given_up, encoding, owed), owed)
        arrived = whole(Joined([pieces.decoded(payload, piece) for piece, payload in enumerate(sent)]))
        torch.testing.assert_close(arrived + fragment.of(owed.residual), before + given_up, rtol=1e-5, atol=1e-5)


def test_a_fragment_is_cut_and_owes_where_it_lies() -> None:
    fragments = Fragments(LAYOUT, 2, rounds=10)
    fragment = fragments.of(1)
    owed, same = ErrorFeedback(COUNT, 300), ErrorFeedback(COUNT, 300)
    delta = noise(5, fragment.layout.count)
    pieces = Pieces(fragment, 2)
    payloads = pieces.encode(delta, "int8", owed)
    uncut = decode(same.encode_part(delta, "int8", fragment))
    assert torch.equal(torch.cat([decode(payload) for payload in payloads]), uncut)
    assert torch.equal(owed.residual, same.residual)
    assert float(fragments.of(2).of(owed.residual).abs().max()) == 0.0, "the other fragment owes nothing"


def test_a_piece_of_another_length_is_refused() -> None:
    with pytest.raises(WrongShape, match="piece 1 of 77 elements"):
        Pieces(WHOLE, CUT).decoded(encode(torch.zeros(77), "float32"), 1)


def sharded(deltas: Sequence[torch.Tensor], method: Aggregation, owners: Sequence[Sequence[int]]) -> torch.Tensor:
    """The average that so many nodes make, each of its pieces, by what was measured of all."""
    pieces = Pieces(WHOLE, CUT)
    cut = [
        [pieces.decoded(p, n) for n, p in enumerate(pieces.encode(delta, "float32", ErrorFeedback(COUNT)))]
        for delta in deltas
    ]
    here = [[pieces.measure(values, n, torch.zeros(COUNT)) for n, values in enumerate(each)] for each in cut]
    norms = [[sum(p.trained for p in each) ** 0.5 for each in here], [sum(p.buffers for p in each) ** 0.5 for each in here]]
    parts = [Part(node=name, round=1, weight=1 / len(deltas), samples=8, steps=2) for name in "abcde"[: len(deltas)]]
    if method in ("mean", "clip"):
        scales, _ = Aggregator(TRAINED, COUNT).judge(parts, norms, clip=method == "clip")
    else:
        scales = [[1.0] * len(parts)] * 2
    ordered = [
        OrderedPart(node=p.node, round=1, digest="", weight=p.weight, scale=scale, buffer_scale=buffer_scale)
        for p, scale, buffer_scale in zip(parts, *scales, strict=True)
    ]
    shards = []
    for mine in owners:
        gathered = [(part, [each[piece] for piece in mine]) for part, each in zip(ordered, cut, strict=True)]
        made = pieces.average(gathered, mine, Averaging(method, "int8"), ErrorFeedback(COUNT))
        shard = AverageShard(pieces=tuple(mine), key="", size=len(made.payload), digest="", holders=())
        shards.append((shard, made.payload))
    return whole(pieces.together(shards))


@pytest.mark.parametrize("method", ["mean", "clip", "trimmed", "median"])
@pytest.mark.parametrize("wild", [False, True], ids=["honest", "one is wild"])
def test_shards_make_up_the_average_that_one_reducer_makes(method: Aggregation, wild: bool) -> None:
    deltas = [noise(seed) for seed in range(5)]
    if wild:
        deltas[2] = torch.cat((deltas[2][: COUNT // 2], deltas[2][COUNT // 2 :] * 1e6))  # in some pieces alone
    parts = [Part(node=name, round=1, weight=0.2, samples=8, steps=2) for name in "abcde"]
    average, treated = Aggregator(TRAINED, COUNT).aggregate(list(zip(parts, deltas, strict=True)), method)
    assert (method == "clip" and wild) == any(each.scale < 1.0 for each in treated)
    expected = decode(encode(whole(average), "int8"))
    for owners in ([range(CUT)], [[0, 3], [1, 2]], [[n] for n in range(CUT)]):
        found = sharded(deltas, method, owners)
        if method == "clip" and wild:  # its scale comes of a sum of squares in another order
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=float(expected.abs().max()) / 100)
        else:
            assert torch.equal(found, expected)


def test_half_an_average_is_none() -> None:
    pieces = Pieces(WHOLE, CUT)
    half = AverageShard(pieces=(0, 1), key="", size=1, digest="", holders=())
    with pytest.raises(ValueError, match=r"shards of the pieces \[0, 1\], where there are 4"):
        pieces.together([(half, encode(torch.zeros(20_480), "float32"))])


@pytest.mark.parametrize("owners", [[[0, 3], [1, 2]], [[0, 1, 2, 3]]], ids=str)
def test_shards_go_as_far_as_their_order_says(owners: Sequence[Sequence[int]]) -> None:
    """Not all of an asynchronous version's average: the anchor goes by a part of it, to the bits that one reducer makes."""
    pieces, cuts, delta = Pieces(WHOLE, CUT), cuts_of(TRAINED, COUNT, CUT), noise(0)
    part = OrderedPart(node="a", round=1, digest="", weight=1.0)
    owed, one, shards = [ErrorFeedback(COUNT) for _ in owners], ErrorFeedback(COUNT), []
    for mine, residual in zip(owners, owed, strict=True):
        gathered = [(part, [delta[cuts[piece] : cuts[piece + 1]] for piece in mine])]
        made = pieces.average(gathered, mine, Averaging("mean", "int8", 0.25), residual)
        assert made.norm == pytest.approx(
            float(torch.cat([delta[cuts[n] : min(TRAINED, cuts[n + 1])] for n in mine]).norm()), rel=1e-5
        )
        shard = AverageShard(pieces=tuple(mine), key="", size=len(made.payload), digest="", holders=())
        shards.append((shard, made.payload))
    assert torch.equal(whole(pieces.together(shards)), decode(one.encode(delta * 0.25, "int8")))
    assert torch.equal(torch.stack([each.residual for each in owed]).sum(0), one.residual)


def test_votes_of_shards_say_together_who_stands_apart() -> None:
    pieces, deltas = Pieces(WHOLE, CUT), [noise(0) for _ in range(4)] + [noise(0) + 3.0]
    ordered = [OrderedPart(node=name, round=1, digest="", weight=0.2) for name in "abcde"]
    cuts = cuts_of(TRAINED, COUNT, CUT)
    apart: dict[str, float] = dict.fromkeys("abcde", 0.0)
    for piece in range(CUT):
        gathered = [(part, [delta[cuts[piece] : cuts[piece + 1]]]) for part, delta in zip(ordered, deltas, strict=True)]
        made = pieces.average(gathered, [piece], Averaging("median", "float32"), ErrorFeedback(COUNT))
        apart = {node: square + made.apart[node] for node, square in apart.items()}
    assert apart["e"] == pytest.approx(9.0 * TRAINED, rel=1e-3)
    assert apart["a"] == 0.0
