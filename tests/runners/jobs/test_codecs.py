"""Payloads round-trip within their bounds, lose nothing for good, and are refused when malformed."""

import contextlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.batch_controller import links
from runners.jobs.codec_blocks import INT4_BLOCK
from runners.jobs.codec_blocks import INT8_BLOCK as BLOCK
from runners.jobs.codec_topk import CHUNK, KEPT, kept_of
from runners.jobs.codecs import ENCODINGS, CodecError, decode, encode, encoded_size, inspect_payload
from runners.jobs.error_feedback import ErrorFeedback
from runners.simulation.machines import PARAMETERS, tensor_bytes
from schemas.jobs import Encoding

FLOATS = st.floats(-1e6, 1e6, width=32)
TENSORS = hnp.arrays(np.float32, st.integers(0, 3 * BLOCK + 7), elements=FLOATS, fill=FLOATS).map(torch.from_numpy)


def pseudo_random(count: int, scale: float = 1e-3, seed: int = 3) -> torch.Tensor:
    integers = np.random.Generator(np.random.PCG64(seed)).integers(-(2**31), 2**31, count)
    return torch.from_numpy((integers / 2**31 * scale).astype(np.float32))


def blocks_of(flat: torch.Tensor, block: int = BLOCK) -> list[torch.Tensor]:
    return [flat[start : start + block] for start in range(0, flat.numel(), block)]


@given(TENSORS)
def test_float32_is_exact(flat: torch.Tensor) -> None:
    assert torch.equal(decode(encode(flat, "float32")), flat)


@given(TENSORS)
def test_float16_is_off_by_half_a_unit_in_the_last_place_at_most(flat: torch.Tensor) -> None:
    inside = flat.clamp(-65504.0, 65504.0)
    bound = inside.abs() * 2.0**-11 + 2.0**-25
    assert bool(((decode(encode(flat, "float16")) - inside).abs() <= bound).all())


@given(TENSORS)
def test_int8_is_off_by_half_a_quantum_of_its_block_at_most(flat: torch.Tensor) -> None:
    for before, after in zip(blocks_of(flat), blocks_of(decode(encode(flat, "int8"))), strict=True):
        quantum = float(before.abs().max()) / 127
        # 0.001 quanta for the roundings of the scale and of the product; blocks under 2^-100 become zeros.
        assert float((after - before).abs().max()) <= quantum * 0.501 + 2.0**-100


@given(TENSORS)
def test_int4_is_off_by_half_a_quantum_of_its_block_at_most(flat: torch.Tensor) -> None:
    after = decode(encode(flat, "int4"))
    for old, new in zip(blocks_of(flat, INT4_BLOCK), blocks_of(after, INT4_BLOCK), strict=True):
        assert float((new - old).abs().max()) <= float(old.abs().max()) / 7 * 0.501 + 2.0**-100


@given(TENSORS, st.integers(0, 40))
def test_topk_gives_the_largest_of_each_chunk_and_zeros(flat: torch.Tensor, statistics: int) -> None:
    body = flat[: max(0, flat.numel() - statistics)]
    statistics = flat.numel() - body.numel()
    after = decode(encode(flat, "topk", statistics))
    # The values sent, and the statistics, are in int8: off by half a quantum of the largest of all at most.
    quantum = float(flat.abs().max()) / 127 * 0.501 + 2.0**-100 if flat.numel() else 0.0
    if statistics:
        assert float((after[-statistics:] - flat[-statistics:]).abs().max()) <= quantum
    for old, new in zip(blocks_of(body, CHUNK), blocks_of(after[: body.numel()], CHUNK), strict=True):
        kept = kept_of(old.numel())
        assert int((new != 0).sum()) <= kept == -(-old.numel() * KEPT // CHUNK)
        assert float((new - old)[new != 0].abs().max()) <= quantum if new.any() else True
        least = float(old.abs().sort(descending=True).values[kept - 1])
        left_out = old[new == 0].abs()
        # Magnitudes count as equal within 2^-15; one that is chosen may become zero in its block.
        assert left_out.numel() == 0 or float(left_out.max()) <= max(least * (1 + 2.0**-14), quantum)


def test_topk_sends_exactly_the_largest() -> None:
    generator = np.random.Generator(np.random.PCG64(5))
    ranks = generator.permuted(np.tile(np.arange(1, CHUNK + 1), (700, 1)), axis=1) * generator.choice([-1, 1], (700, CHUNK))
    flat = torch.from_numpy((ranks * 1e-3 / CHUNK).astype(np.float32)).flatten()[: 698 * CHUNK + 77]
    after = decode(encode(flat, "topk"))
    for old, new in zip(blocks_of(flat, CHUNK), blocks_of(after, CHUNK), strict=True):
        wanted = old.abs().topk(kept_of(old.numel())).indices.sort().values
        assert torch.equal(new.nonzero().flatten(), wanted)
        assert torch.allclose(new[wanted], old[wanted], rtol=0, atol=1e-3 / 127 * 0.501)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 65_536, 200_001])
@pytest.mark.parametrize("statistics", [0, 1, 300])
def test_size_and_count_are_known_beforehand(encoding: Encoding, count: int, statistics: int) -> None:
    statistics = min(count, statistics)
    payload = encode(pseudo_random(count), encoding, statistics)
    assert len(payload) == encoded_size(count, encoding, statistics)
    assert inspect_payload(payload) == (encoding, count)
    assert decode(payload).shape == (count,)


def test_the_agents_reckon_with_these_sizes() -> None:
    for encoding in ENCODINGS:
        assert encoded_size(10_000_000, encoding) == pytest.approx(links.BYTES[encoding] * 10_000_000, rel=1e-4)
        assert encoded_size(PARAMETERS, encoding) == pytest.approx(tensor_bytes(encoding), rel=2e-3)


@pytest.mark.parametrize(("encoding", "levels"), [("int8", 127), ("int4", 7)])
def test_a_long_payload_is_right_in_every_chunk(encoding: Encoding, levels: int) -> None:
    flat = pseudo_random(200_001)
    assert float((decode(encode(flat, encoding)) - flat).abs().max()) <= 1e-3 / levels * 0.501


def test_blocks_of_different_magnitude_keep_their_own_precision() -> None:
    flat = torch.cat([pseudo_random(BLOCK, 1e4), pseudo_random(BLOCK, 1e-7)])
    error = (decode(encode(flat, "int8"))[BLOCK:] - flat[BLOCK:]).abs().max()
    assert float(error) <= 1e-7 / 127 * 0.501


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_payloads_of_the_wire_format_do_not_change(encoding: Encoding) -> None:
    golden = {
        "float32": "53484c540001000003000000000000000000803f000000c00000003f",
        "float16": "53484c54010100000300000000000000003c00c00038",
        "int8": "53484c540201000103000000000000000402813c408120",
        "int4": "53484c540301800003000000000000002549923eac81",
        "topk": "53484c5404010001030000000000000000000000000000000402813c8101",
    }
    assert encode(torch.tensor([1.0, -2.0, 0.5]), encoding).hex() == golden[encoding]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding_gives_memory_of_its_own(encoding: Encoding) -> None:
    payload = encode(torch.ones(5), encoding)
    decode(payload).zero_()
    assert decode(memoryview(payload)).sum() == (5 if encoding != "topk" else 1)


@given(
    st.lists(TENSORS.filter(len), min_size=1, max_size=1).flatmap(lambda one: st.tuples(st.just(one[0]), st.integers(1, 9)))
)
@pytest.mark.parametrize("encoding", ["int8", "int4", "topk"])
@settings(max_examples=50)
def test_error_feedback_loses_nothing(encoding: Encoding, case: tuple[torch.Tensor, int]) -> None:
    delta, rounds = case
    feedback = ErrorFeedback(delta.numel())
    sent = torch.zeros(delta.numel(), dtype=torch.float64)
    for index in range(rounds):
        sent += decode(feedback.encode(delta * (index + 1), encoding)).double()
    wanted = delta.double() * (rounds * (rounds + 1) // 2)
    # float32 rounds each sum of difference and residual once: 2^-24 of the largest magnitude, a round.
    # What topk leaves out for several rounds adds up to the whole of the sum.
    slack = rounds**2 * (rounds + 1) * float(delta.abs().max()) * 2.0**-23 + 2.0**-99
    assert float((sent + feedback.residual.double() - wanted).abs().max()) <= slack


def test_what_is_too_small_for_a_quantum_arrives_in_time() -> None:
    delta = torch.full((BLOCK,), 1e-6)
    delta[0] = 1e-2  # makes the quantum 79 times as large as the rest
    feedback = ErrorFeedback(BLOCK)
    arrived = sum(decode(feedback.encode(delta, "int8")) for _ in range(100))
    assert isinstance(arrived, torch.Tensor)
    assert float(arrived[1]) == pytest.approx(1e-4, abs=1e-2 / 127)
    assert float(decode(encode(delta, "int8"))[1]) == 0.0


def test_with_topk_every_element_gets_its_turn() -> None:
    delta = torch.linspace(1.0, 2.0, 2 * CHUNK)
    feedback = ErrorFeedback(2 * CHUNK)
    rounds = 3 * CHUNK // KEPT
    arrived = torch.zeros(2 * CHUNK)
    for _ in range(rounds):
        arrived += decode(feedback.encode(delta, "topk"))
    # None waits much longer than it takes to send them all once, the smallest twice as long as the largest.
    assert bool((arrived > delta * (rounds - 3 * CHUNK / KEPT * 0.7)).all())


def test_statistics_are_sent_whole_and_never_owed_more_than_once() -> None:
    sums, statistics = torch.full((CHUNK,), 5.0), torch.linspace(0.5, 1.0, 100)
    feedback = ErrorFeedback(CHUNK + 100, statistics=100)
    at = torch.zeros(100)
    for _ in range(5):  # a mean or a variance: what is missing each time is the way that is left
        at += decode(feedback.encode(torch.cat((sums, statistics - at)), "topk"))[CHUNK:]
    assert torch.allclose(at, statistics, rtol=0, atol=0.01)


def test_changing_to_float32_pays_the_residual_back() -> None:
    feedback = ErrorFeedback(3)
    first = decode(feedback.encode(torch.tensor([1.0, 0.001, 0.002]), "int8"))
    second = decode(feedback.encode(torch.zeros(3), "float32"))
    assert torch.allclose(first + second, torch.tensor([1.0, 0.001, 0.002]), rtol=0, atol=1e-7)
    assert not feedback.residual.any()


def test_feedback_refuses_another_length_and_stays_as_it_was() -> None:
    feedback = ErrorFeedback(3)
    feedback.encode(torch.tensor([1.0, 0.001, 0.002]), "int8")
    owed = feedback.residual.clone()
    with pytest.raises(CodecError, match="4 elements, not 3"):
        feedback.encode(torch.zeros(4), "int8")
    assert torch.equal(feedback.residual, owed)
    with pytest.raises(CodecError, match="diverged"):
        feedback.encode(torch.tensor([1.0, float("nan"), 0.0]), "int8")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
@pytest.mark.parametrize("place", [0, 299])
def test_wild_numbers_are_not_sent(encoding: Encoding, bad: float, place: int) -> None:
    flat = torch.zeros(300)
    flat[place] = bad
    with pytest.raises(CodecError, match="learning rate"):
        encode(flat, encoding)


@pytest.mark.parametrize("flat", [torch.zeros(2, 2), torch.zeros(2, dtype=torch.float64)])
def test_only_flat_float32_is_encoded(flat: torch.Tensor) -> None:
    with pytest.raises(CodecError, match="flatten"):
        encode(flat, "float32")


def test_an_unknown_encoding_is_named_with_those_there_are() -> None:
    with pytest.raises(CodecError, match=r"'int3'.*float32, float16, int8, int4, topk"):
        encode(torch.zeros(2), "int3")  # type: ignore[arg-type]


def malformed() -> list[tuple[str, bytes]]:
    good = encode(pseudo_random(300), "int8")
    scale_at = 16
    return [
        ("too few", good[:15]),
        ("no tensor we know", b"SHLX" + good[4:]),
        ("no tensor we know", good[:5] + b"\x02" + good[6:]),
        ("unknown codec 9", good[:4] + b"\x09" + good[5:]),
        ("blocks of 128", good[:6] + struct.pack("<H", 128) + good[8:]),
        ("bytes where", good[:-1]),
        ("bytes where", good + b"\0"),
        ("bytes where", good[:8] + struct.pack("<Q", 2**60) + good[16:]),
        ("scale", good[:scale_at] + struct.pack("<f", float("nan")) + good[scale_at + 4 :]),
        ("scale", good[:scale_at] + struct.pack("<f", float("inf")) + good[scale_at + 4 :]),
        ("scale", good[:scale_at] + struct.pack("<f", -1.0) + good[scale_at + 4 :]),
        ("NaN", encode(torch.zeros(2), "float32")[:-4] + struct.pack("<f", float("nan"))),
        ("NaN", encode(torch.zeros(2), "float16")[:-2] + b"\x00\x7c"),
    ]


def put(payload: bytes, at: int, new: bytes) -> bytes:
    return payload[:at] + new + payload[at + len(new) :]


def malformed_int4() -> list[tuple[str, bytes]]:
    good = encode(pseudo_random(301), "int4")
    pairs = 16 + 4 * 3
    return [
        ("blocks of 256", put(good, 6, struct.pack("<H", 256))),
        ("bytes where", good[:-1]),
        ("bytes where", good + b"\x88"),
        ("bytes where", put(good, 8, struct.pack("<Q", 303))),
        ("scale", put(good, 16, struct.pack("<f", float("nan")))),
        ("scale", put(good, 24, struct.pack("<f", -1.0))),
        ("scale", put(good, 16, struct.pack("<f", 2.0**126))),
        ("nibble", put(good, pairs, b"\x80")),  # in a whole block, low and high
        ("nibble", put(good, pairs + 3, b"\x08")),
        ("nibble", put(good, pairs + 130, b"\x80")),  # in the short one
        ("padding", put(good, len(good) - 1, b"\x98")),
        ("padding", put(good, len(good) - 1, b"\x08")),
    ]


def malformed_topk() -> list[tuple[str, bytes]]:
    good = encode(pseudo_random(CHUNK + 70 + 9), "topk", statistics=9)  # 8 chosen of a whole chunk, 3 of 70
    scales = 24
    quanta = scales + 2 * 4
    places = quanta + 11 + 9
    assert len(good) == places + 11
    first, second = good[places], good[places + 1]
    return [
        ("blocks of 128", put(good, 6, struct.pack("<H", 128))),
        ("too few", good[:20]),
        ("bytes where", good[:-1]),
        ("bytes where", good + b"\0"),
        ("bytes where", put(good, 8, struct.pack("<Q", 2**63))),
        ("bytes where", put(good, 16, struct.pack("<Q", 8))),
        ("statistics among", put(good, 16, struct.pack("<Q", CHUNK + 80))),
        ("statistics among", put(good, 16, struct.pack("<Q", 2**64 - 1))),
        ("scale", put(good, scales, struct.pack("<f", float("inf")))),
        ("scale", put(good, scales + 4, struct.pack("<f", -1.0))),
        ("places", put(good, places + 1, bytes([first]))),  # twice
        ("places", put(good, places, bytes([second, first]))),  # falling
        ("places", put(good, len(good) - 1, good[-2:-1])),
        ("places", put(good, len(good) - 1, bytes([70]))),  # outside
    ]


@pytest.mark.parametrize(("problem", "payload"), malformed() + malformed_int4() + malformed_topk())
def test_malformed_payloads_are_refused_with_the_reason(problem: str, payload: bytes) -> None:
    with pytest.raises(CodecError, match=problem):
        decode(payload)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_codec_error(payload: bytes) -> None:
    with contextlib.suppress(CodecError):
        assert decode(b"SHLT" + payload).isfinite().all()


@given(st.sampled_from(ENCODINGS), st.integers(1, 700), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=4))))
def test_no_change_of_a_payload_does_worse_than_a_codec_error(
    encoding: Encoding, count: int, changes: list[tuple[int, bytes]]
) -> None:
    payload = encode(pseudo_random(count), encoding, count // 9)
    for place, new in changes:
        payload = put(payload, place % len(payload), new)
    with contextlib.suppress(CodecError):
        assert decode(payload).isfinite().all()
