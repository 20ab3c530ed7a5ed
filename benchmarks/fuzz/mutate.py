"""Inputs made from valid ones: a few cuts, flips and swaps each, with the values that parsers trip over."""

import random
from collections.abc import Sequence

from benchmarks.fuzz.target import LONGEST

_NUMBERS = (
    *(b"0", b"-1", b"1", b"127", b"255", b"65536", b"2147483648", b"4294967296", b"-9223372036854775809"),
    *(b"18446744073709551615", b"18446744073709551616", b"1e308", b"1e400", b"-0.0", b"0.5", b"NaN", b"Infinity"),
    *(b"inf", b"1_000", b"9" * 400, b"9" * 4400, "²".encode(), "٣".encode()),
)
_WORDS = (
    *(b"null", b"true", b"{}", b"[]", b'""', b'"\\ud800"', b'"\\u0000"', b"\x00", b"\r\n", b"\n", b".", b"*", b">", b":"),
    *(b"\xff", b"\xc3\x28", b"\xed\xa0\x80", "ﬁ".encode(), "é".encode(), b"../", b"/", b"=", b"#", b"'''", b'"', b"\\"),
    *(b"MSG ", b"HMSG ", b"INFO ", b"PING\r\n", b"-ERR ", b"ShT1", b"SHLT", b"shoal-join:", b"ed25519:", b"1979-05-27"),
)
_NESTED = (b"[", b'{"a":', b"\x91", b"\x81\xa1a", b"x.")
_SIZES = (1, 2, 4, 8)
_WHOLES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_DEEP = (8, 200, 20_000)  # levels: under, near and far beyond what an interpreter's stack takes


def mutated(corpus: Sequence[bytes], rng: random.Random) -> bytes:
    """One input: a member of `corpus` with one to six changes, at most `LONGEST` bytes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        _CHANGES[int(rng.random() * len(_CHANGES))](data, corpus, rng)
    return bytes(data[:LONGEST])


def _place(data: bytearray, rng: random.Random) -> int:
    """Often near the beginning, where headers are."""
    limit = len(data) if rng.random() < 0.6 else min(len(data), 48)
    return int(rng.random() * (limit + 1))


def _span(data: bytearray, rng: random.Random) -> slice:
    start = _place(data, rng)
    return slice(start, start + rng.choice((1, 1, 2, 4, 8, 16, 64, 1024)))


def _flip(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    span = _span(data, rng)
    data[span] = rng.randbytes(len(data[span]))


def _cut(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    del data[_span(data, rng)]


def _end(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _repeat(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    span = _span(data, rng)
    data[span.stop : span.stop] = bytes(data[span]) * rng.choice((1, 2, 50))


def _splice(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(corpus)
    start = int(rng.random() * (len(other) + 1))
    data[_place(data, rng) :] = other[start : start + 4096]


def _put_word(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    at = _place(data, rng)
    data[at : at + rng.choice((0, 1, 4))] = rng.choice(_WORDS)


def _put_number(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    """In the place of the next digits, if there are any."""
    at = _place(data, rng)
    while at < len(data) and not 48 <= data[at] <= 57:
        at += 1
    end = at
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[at:end] = rng.choice(_NUMBERS)


def _put_whole(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    size, at = rng.choice(_SIZES), _place(data, rng)
    value = (rng.choice(_WHOLES) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _nest(data: bytearray, corpus: Sequence[bytes], rng: random.Random) -> None:
    if rng.random() < 0.05:  # long ones take time
        at = _place(data, rng)
        data[at:at] = rng.choice(_NESTED) * rng.choice(_DEEP)


_CHANGES = (
    *(_flip, _flip, _overwrite, _cut, _end, _repeat, _splice, _nest, _put_whole),
    *(_put_word, _put_word, _put_number, _put_number),
)
