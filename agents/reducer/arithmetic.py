"""Whose arithmetic stands apart: gradients of the same parameters and samples, compared block by block.

Devices round differently, and a model passes differences of rounding on; the tolerances are well above what that came to
(`python -m benchmarks.arithmetic`, figures in docs/performance.md). A node that does this work right and lies elsewhere
isn't found: that is what robust averages are for.
"""

import math
import statistics
from collections.abc import Sequence

from schemas.verification import Fingerprint, GradientVerified

COMPARED = 3
"""Nodes from which a median tells who is wrong; of two nobody can say which."""

TOLERANCES = {"float32": 1e-4, "tf32": 0.02}
"""Deviation that a precision may show. float32: 300 times what other vector instructions or threads were seen to do. tf32,
what NVIDIA cards make of float32 convolutions: 2^-11 an operand instead of 2^-24, with like room; not measured."""

COARSE = 0.05
"""The same for 16 bits: ten times what bfloat16 was seen to do."""

FAINT = 1e-3
"""Part of the whole gradient's mean block below which a block's own norm is no measure: what it has is rounding."""


def comparable(reports: Sequence[GradientVerified], with_: GradientVerified) -> list[GradientVerified]:
    """Those of the same version and samples, in as many blocks; or in none, where a gradient isn't finite."""
    same = [
        report for report in reports if (report.version, report.gradient.batch) == (with_.version, with_.gradient.batch)
    ]
    forms = [_form(report) for report in same if report.gradient.loss is not None]
    return [report for report in same if report.gradient.loss is None or _form(report) == statistics.mode(forms)]


def tolerance(reports: Sequence[GradientVerified]) -> float:
    """What nodes may deviate: the coarsest arithmetic among them decides."""
    return max(TOLERANCES.get(report.gradient.precision, COARSE) for report in reports)


def deviation(report: GradientVerified, among: Sequence[GradientVerified]) -> float:
    """The largest deviation of a block from the median over `among`, as a part of its norm; infinite: not finite."""
    sound = [other.gradient for other in among if other.gradient.loss is not None]
    if report.gradient.loss is None:
        return math.inf
    norms = _medians([gradient.norms for gradient in sound])
    signed = _medians([gradient.signed for gradient in sound])
    floor = FAINT * math.sqrt(sum(norm * norm for norm in norms) / max(1, len(norms)))
    return _furthest(report.gradient, norms, signed, floor)


def _furthest(gradient: Fingerprint, norms: Sequence[float], signed: Sequence[float], floor: float) -> float:
    found = 0.0
    for norm, sign, usual, usual_sign in zip(gradient.norms, gradient.signed, norms, signed, strict=True):
        scale = max(usual, floor)
        apart = max(abs(norm - usual), abs(sign - usual_sign))
        found = max(found, apart / scale if scale else math.inf if apart else 0.0)
    return found


def _form(report: GradientVerified) -> tuple[int, int]:
    return len(report.gradient.norms), len(report.gradient.signed)


def _medians(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]
