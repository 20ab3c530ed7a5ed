"""Payloads round-trip within their bounds, lose nothing for good, and are refused when malformed."""

import contextlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runners.jobs.codecs import (
    BLOCK,
    ENCODINGS,
    CodecError,
    ErrorFeedback,
    decode,
    encode,
    encoded_size,
    inspect_payload,
)
from schemas.jobs import Encoding

FLOATS = st.floats(-1e6, 1e6, width=32)
TENSORS = hnp.arrays(np.float32, st.integers(0, 3 * BLOCK + 7), elements=FLOATS, fill=FLOATS).map(torch.from_numpy)


def pseudo_random(count: int, scale: float = 1e-3, seed: int = 3) -> torch.Tensor:
    integers = np.random.Generator(np.random.PCG64(seed)).integers(-(2**31), 2**31, count)
    return torch.from_numpy((integers / 2**31 * scale).astype(np.float32))


def blocks_of(flat: torch.Tensor) -> list[torch.Tensor]:
    return [flat[start : start + BLOCK] for start in range(0, flat.numel(), BLOCK)]


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


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 65_536, 200_001])
def test_size_and_count_are_known_beforehand(encoding: Encoding, count: int) -> None:
    payload = encode(pseudo_random(count), encoding)
    assert len(payload) == encoded_size(count, encoding)
    assert inspect_payload(payload) == (encoding, count)
    assert decode(payload).shape == (count,)


def test_a_long_int8_payload_is_right_in_every_chunk() -> None:
    flat = pseudo_random(200_001)
    assert float((decode(encode(flat, "int8")) - flat).abs().max()) <= 1e-3 / 127 * 0.501


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
    }
    assert encode(torch.tensor([1.0, -2.0, 0.5]), encoding).hex() == golden[encoding]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoding_gives_memory_of_its_own(encoding: Encoding) -> None:
    payload = encode(torch.ones(5), encoding)
    decode(payload).zero_()
    assert decode(memoryview(payload)).sum() == 5


@given(
    st.lists(TENSORS.filter(len), min_size=1, max_size=1).flatmap(lambda one: st.tuples(st.just(one[0]), st.integers(1, 9)))
)
@settings(max_examples=50)
def test_error_feedback_loses_nothing(case: tuple[torch.Tensor, int]) -> None:
    delta, rounds = case
    feedback = ErrorFeedback(delta.numel())
    sent = torch.zeros(delta.numel(), dtype=torch.float64)
    for index in range(rounds):
        sent += decode(feedback.encode(delta * (index + 1), "int8")).double()
    wanted = delta.double() * (rounds * (rounds + 1) // 2)
    # float32 rounds each sum of difference and residual once: 2^-24 of the largest magnitude, a round.
    slack = rounds * (rounds + 1) * float(delta.abs().max()) * 2.0**-23 + 2.0**-99
    assert float((sent + feedback.residual.double() - wanted).abs().max()) <= slack


def test_what_is_too_small_for_a_quantum_arrives_in_time() -> None:
    delta = torch.full((BLOCK,), 1e-6)
    delta[0] = 1e-2  # makes the quantum 79 times as large as the rest
    feedback = ErrorFeedback(BLOCK)
    arrived = sum(decode(feedback.encode(delta, "int8")) for _ in range(100))
    assert isinstance(arrived, torch.Tensor)
    assert float(arrived[1]) == pytest.approx(1e-4, abs=1e-2 / 127)
    assert float(decode(encode(delta, "int8"))[1]) == 0.0


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
    for bad in (torch.zeros(4), torch.tensor([1.0, float("nan"), 0.0])):
        with pytest.raises(CodecError):
            feedback.encode(bad, "int8")
    assert torch.equal(feedback.residual, owed)


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
    with pytest.raises(CodecError, match=r"'int3'.*float32, float16, int8"):
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


@pytest.mark.parametrize(("problem", "payload"), malformed())
def test_malformed_payloads_are_refused_with_the_reason(problem: str, payload: bytes) -> None:
    with pytest.raises(CodecError, match=problem):
        decode(payload)


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_a_codec_error(payload: bytes) -> None:
    with contextlib.suppress(CodecError):
        assert decode(b"SHLT" + payload).isfinite().all()
