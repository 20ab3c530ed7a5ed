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

TOLERANCE = 0.01
"""Deviation that float32 may show: hundreds of times its rounding, and a hundredth of what one flipped exponent does."""

COARSE_TOLERANCE = 0.25
"""The same where a node computes in 16 bits: several times what was measured."""

FAINT = 1e-3
"""Part of the whole gradient's mean block below which a block's own norm is no measure: what it has is rounding."""


def comparable(reports: Sequence[GradientVerified], with_: GradientVerified) -> list[GradientVerified]:
    """Those of the same version and samples, in as many blocks; or in none, where a gradient isn't finite."""
    same = [report for report in reports if (report.version, report.batch) == (with_.version, with_.batch)]
    forms = [_form(report) for report in same if report.loss is not None]
    return [report for report in same if report.loss is None or _form(report) == statistics.mode(forms)]


def tolerance(reports: Sequence[GradientVerified]) -> float:
    """What nodes may deviate: the coarsest arithmetic among them decides."""
    exact = all(report.precision == "float32" for report in reports)
    return TOLERANCE if exact else COARSE_TOLERANCE


def deviation(report: GradientVerified, among: Sequence[GradientVerified]) -> float:
    """The largest deviation of a block from the median over `among`, as a part of its norm; infinite: not finite."""
    sound = [other.gradient for other in among if other.loss is not None]
    if report.loss is None:
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
