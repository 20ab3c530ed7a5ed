"""How tensors travel, chosen from the measured link.

Expected goodput of one TCP stream with cubic, which nearly every kernel runs, up and down on links of each grade
(Mbit/s, measured on packet-level emulation of the five profiles), and what the line itself carries:

| grade     | one stream | line | connections | encoding |
|-----------|------------|------|-------------|----------|
| excellent | 800        | 1000 | 1           | float32  |
| good      | 33 to 54   | 200  | 1           | float16  |
| fair      | 3 to 4     | 50   | 4           | float16  |
| poor      | 0.4        | 20   | 8           | int8     |
| critical  | 0.3 to 0.4 | 10   | 8           | int8     |

Cubic halves its window at every loss, so that loss and not the line sets its pace, and each connection has a pace of its
own: n connections carry n times as much until the line is full. A clean link gains nothing by them.
"""

from typing import Final

from agents.batch_controller.settings import BatchControllerSettings
from schemas.jobs import Encoding
from schemas.network import LinkQuality

FINEST_FIRST: Final[tuple[Encoding, ...]] = ("float32", "float16", "int8")

BYTES: Final[dict[Encoding, float]] = {"float32": 4.0, "float16": 2.0, "int8": 1.0 + 4 / 256}
"""Bytes an element; int8 carries a float32 scale for every 256."""

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
    LinkQuality.GOOD: 1,
    LinkQuality.FAIR: 4,
    LinkQuality.POOR: 8,
    LinkQuality.CRITICAL: 8,
}

_ENCODING: Final[dict[LinkQuality, Encoding]] = {
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


def encoding_for(
    quality: LinkQuality | None,
    present: Encoding | None,
    upload_share: dict[Encoding, float],
    settings: BatchControllerSettings,
) -> Encoding:
    """How a node sends its difference: by the link's grade, and a level coarser where the upload takes too long.

    Never finer than the grade says: a link that gets worse in mid-transfer would hold the node up for long, and error
    feedback makes up for what is lost. `upload_share` is the part of a round that the upload takes in each encoding, empty
    where it wasn't measured. A coarser one stays until the usual one would take half of what is too much.
    """
    usual = FINEST_FIRST.index(_ENCODING[quality or UNKNOWN])
    if not upload_share or usual + 1 == len(FINEST_FIRST):
        return FINEST_FIRST[usual]
    coarser = present is not None and FINEST_FIRST.index(present) > usual
    limit = settings.slow_share / 2 if coarser else settings.slow_share
    return FINEST_FIRST[usual + (upload_share[FINEST_FIRST[usual]] > limit)]


def average_encoding_for(qualities: list[LinkQuality | None]) -> Encoding:
    """How the average is sent, once and to all: as the worst link needs it, exact only where every link is excellent."""
    grades = [quality or UNKNOWN for quality in qualities]
    if any(grade in (LinkQuality.POOR, LinkQuality.CRITICAL) for grade in grades):
        return "int8"
    return "float32" if all(grade is LinkQuality.EXCELLENT for grade in grades) else "float16"
