"""How tensors travel, chosen from the measured link.

Expected goodput of one TCP stream with cubic, which nearly every kernel runs, up and down on links of each grade
(Mbit/s, measured on packet-level emulation of the five profiles), and what the line itself carries:

| grade     | one stream | line | connections | encoding |
|-----------|------------|------|-------------|----------|
| excellent | 800        | 1000 | 1           | float32  |
| good      | 33 to 54   | 200  | 4           | float16  |
| fair      | 3 to 4     | 50   | 16          | float16  |
| poor      | 0.4        | 20   | 32          | int8     |
| critical  | 0.3 to 0.4 | 10   | 32          | int8     |

Cubic halves its window at every loss, so that loss and not the line sets its pace, and each connection has a pace of its
own: n connections carry n times as much until the line is full. A clean link gains nothing by them. With BBR one would fill
the line once it knows it, and `bus/tensor_lanes.py` makes no more than spare it round trips until then
(`benchmarks/links.py` measures all of this).

int4 and topk are nobody's usual encoding: a node comes to them, one after the other, where its upload in the finer one
was measured to take too much of a round.
"""

from collections.abc import Mapping
from typing import Final

from agents.batch_controller.settings import BatchControllerSettings
from schemas.jobs import AverageEncoding, Encoding
from schemas.network import LinkQuality
from schemas.training import MOST_STREAMS

FINEST_FIRST: Final[tuple[Encoding, ...]] = ("float32", "float16", "int8", "int4", "topk")

BYTES: Final[dict[Encoding, float]] = {
    "float32": 4.0,
    "float16": 2.0,
    "int8": 1.0 + 4 / 256,
    "int4": 0.5 + 4 / 128,
    "topk": (2.0 + 4 / 256) / 32,
}
"""Bytes an element. int8 carries a float32 scale for every 256, int4 for every 128; topk sends one of 32 elements, its
place in a byte and its value in int8."""

FIRST_FLIGHT: Final = 14_600
"""Bytes that a connection may send before anything is acknowledged (ten segments: RFC 6928). They travel at once, and a
coarser encoding makes them no faster, however slow their rate looks with the round trip in it."""

UNKNOWN: Final = LinkQuality.GOOD
"""What a link is taken for before it has a grade."""

_ONE_STREAM: Final = {
    LinkQuality.EXCELLENT: 100e6,
    LinkQuality.GOOD: 5e6,
    LinkQuality.FAIR: 450e3,
    LinkQuality.POOR: 50e3,
    LinkQuality.CRITICAL: 45e3,
}
"""Bytes a second."""

_LINE: Final = {
    LinkQuality.EXCELLENT: 120e6,
    LinkQuality.GOOD: 24e6,
    LinkQuality.FAIR: 6e6,
    LinkQuality.POOR: 2.4e6,
    LinkQuality.CRITICAL: 1.2e6,
}
"""Bytes a second."""

_STREAMS: Final = {
    LinkQuality.EXCELLENT: 1,
    LinkQuality.GOOD: 4,
    LinkQuality.FAIR: 16,
    LinkQuality.POOR: MOST_STREAMS,
    LinkQuality.CRITICAL: MOST_STREAMS,
}
"""What fills the line at the pace of one, in powers of two."""

_ENCODING: Final[dict[LinkQuality, AverageEncoding]] = {
    LinkQuality.EXCELLENT: "float32",
    LinkQuality.GOOD: "float16",
    LinkQuality.FAIR: "float16",
    LinkQuality.POOR: "int8",
    LinkQuality.CRITICAL: "int8",
}


def expected_rate(quality: LinkQuality | None, streams: int) -> float:
    """Bytes a second that a link of this grade carries over so many connections."""
    grade = quality or UNKNOWN
    return min(_LINE[grade], streams * _ONE_STREAM[grade])


def streams_for(quality: LinkQuality | None) -> int:
    """Connections for a node's tensors."""
    return _STREAMS[quality or UNKNOWN]


def upload_shares(parameters: int, round_bytes: float) -> dict[Encoding, float]:
    """The part of a round that an upload takes in each encoding, on a link that carries `round_bytes` in one."""
    sizes = {encoding: parameters * size for encoding, size in BYTES.items()}
    return {encoding: size / round_bytes if size > FIRST_FLIGHT else 0.0 for encoding, size in sizes.items()}


def encoding_for(
    quality: LinkQuality | None,
    present: Encoding | None,
    upload_share: dict[Encoding, float],
    settings: BatchControllerSettings,
    *,
    regraded: bool = False,
) -> Encoding:
    """How a node sends its difference: by the link's grade, and coarser where the upload takes too long.

    Never finer than the grade says: a link that gets worse in mid-transfer would hold the node up for long, and error
    feedback makes up for what is lost. From `present` to a coarser one where the upload takes too much of a round
    (`most_of_a_round`; beyond int8 one level at a time), back to the finer one where it would take half of what may be. A
    rate has to double in between, and rates that vary by less move nothing. `upload_share` (of `upload_shares`) is empty
    where the link wasn't measured: then `present` stays, where there is one. With a grade that has just changed
    (`regraded`), `present` was chosen for another link: back at once to the finest that fits.
    """
    usual = FINEST_FIRST.index(_ENCODING[quality or UNKNOWN])
    level = FINEST_FIRST.index(present) if present is not None else usual
    if not upload_share or present is None or level < usual:
        return FINEST_FIRST[max(usual, level)]
    if regraded:
        finer = FINEST_FIRST[usual:level]
        fits = (encoding for encoding in finer if upload_share[encoding] <= most_of_a_round(encoding, settings))
        return next(fits, present)
    return FINEST_FIRST[step(level, usual, FINEST_FIRST.index(settings.coarsest), upload_share, settings)]


def most_of_a_round(encoding: Encoding, settings: BatchControllerSettings) -> float:
    """The part of a round that a transfer may take in an encoding before a coarser one is used."""
    return settings.spared_share if encoding in ("float32", "float16") else settings.slow_share


def step(level: int, finest: int, coarsest: int, share: Mapping[Encoding, float], settings: BatchControllerSettings) -> int:
    """From one level of `FINEST_FIRST` to the next, by the parts of a round that a transfer takes in each encoding: coarser
    where it takes too much (at once to int8), finer where it would take half of what may be."""

    def too_much(of: int, part: float = 1.0) -> bool:
        return share[FINEST_FIRST[of]] > part * most_of_a_round(FINEST_FIRST[of], settings)

    if too_much(level) and level < coarsest:
        level += 1
        while level < min(coarsest, FINEST_FIRST.index("int8")) and too_much(level):
            level += 1
        return level
    return level - 1 if level > finest and not too_much(level - 1, 0.5) else level


def average_as(encoding: Encoding) -> AverageEncoding:
    """How the average is sent where differences are sent so: everybody applies it, so int8 is as coarse as it gets."""
    match encoding:
        case "int4" | "topk":
            return "int8"
        case _:
            return encoding


def average_encoding_for(qualities: list[LinkQuality | None]) -> AverageEncoding:
    """How the average is sent, once and to all: as the worst link needs it, exact only where every link is excellent."""
    grades = [quality or UNKNOWN for quality in qualities]
    if any(grade in (LinkQuality.POOR, LinkQuality.CRITICAL) for grade in grades):
        return "int8"
    return "float32" if all(grade is LinkQuality.EXCELLENT for grade in grades) else "float16"
