"""The gradient noise scale of a job, from the spread of its nodes' differences.

McCandlish et al. (arXiv 1812.06162, appendix A.1) estimate the squared length of the true gradient and the variance of a
sample's from the lengths of two averages of different size. Here one is a node's difference, after H local steps of b
samples each, and the other the round's average of them with weights w. Steps go the same way up to noise that is
independent from sample to sample and from node to node, so that

    E |difference|^2 = a H^2       + c H / b
    E |average|^2    = a (sum w H)^2 + c sum w^2 H / b

with a the squared length of a step without noise and c the variance of a step on one sample. The weighted mean of the first
over the nodes and the second are two equations for two unknowns, for nodes that are as unequal as they like; with equal
ones they are McCandlish's with batches of H b and of all samples. The noise scale is c / a: in samples, the batch at which
noise and signal are as long as each other.

Both are ratios to the round's own lengths and smoothed apart before one is divided by the other (likewise A.1): single
rounds say little, and may make either negative. What curvature does within a round counts as noise.
"""

from collections.abc import Sequence

import msgspec

from schemas.training import Contribution, RoundClosed

SMOOTHING = 0.15
"""Weight of the newest round: some dozen decide. The noise scale grows in the course of a training, by factors in hundreds
of rounds."""

LEAST_ROUNDS = 3
"""Before an estimate counts."""

ASKED_RANGE = 1024.0
"""Factor over and under the microbatch asked for that a noise scale may lie: published ones of real models span tens to
millions of samples, and outside this range nothing that is decided by it changes."""

LEAST_SIGNAL = 1e-6
"""Of a round's mean squared length: less can't be told from none."""


class Spread(msgspec.Struct, kw_only=True):
    """What is known of a job's gradient noise."""

    signal: float = 0.0
    """Smoothed a, over the mean squared length of a step."""
    noise: float = 0.0
    """Smoothed c, likewise; samples."""
    rounds: int = 0


def observe(spread: Spread, event: RoundClosed) -> None:
    """Learn from a round, if its average is a mean of differences as they came, of two nodes at least."""
    parts = _differences(event.contributions)
    whole = all(part.scale == 1.0 and part.norm > 0 and part.steps > 0 and part.samples > 0 for part in parts)
    total = sum(part.weight for part in parts)
    if event.aggregation not in ("mean", "clip") or not whole or event.average.norm <= 0 or total <= 0:
        return
    if len({part.through or part.node for part in parts}) < 2:
        return
    each = [(part.weight / total, float(part.steps), part.samples / part.steps, part.norm) for part in parts]
    alone = sum(w * norm**2 for w, _, _, norm in each)
    together = event.average.norm**2
    by_signal = sum(w * h**2 for w, h, _, _ in each), sum(w * h for w, h, _, _ in each) ** 2
    by_noise = sum(w * h / b for w, h, b, _ in each), sum(w**2 * h / b for w, h, b, _ in each)
    apart = by_signal[0] * by_noise[1] - by_signal[1] * by_noise[0]
    if apart == 0.0:
        return
    scale = apart * alone / by_signal[0]
    signal = (alone * by_noise[1] - together * by_noise[0]) / scale
    noise = (together * by_signal[0] - alone * by_signal[1]) / scale
    spread.rounds += 1
    gain = max(SMOOTHING, 1.0 / spread.rounds)
    spread.signal += gain * (signal - spread.signal)
    spread.noise += gain * (noise - spread.noise)


def _differences(parts: Sequence[Contribution]) -> list[Contribution]:
    """What was averaged: of a site's nodes one difference, their average, as calm as one of all their samples."""
    alone: dict[tuple[str, int], Contribution] = {}
    for part in parts:
        key = (part.through or part.node, part.round)
        before = alone.get(key)
        if before is None:
            alone[key] = part
        else:
            weight, samples = before.weight + part.weight, before.samples + part.samples
            alone[key] = msgspec.structs.replace(before, weight=weight, samples=samples)
    return list(alone.values())


def scale(spread: Spread, asked: int) -> float:
    """The noise scale in samples; while too little is known, the microbatch asked for: who chose it is trusted to have
    chosen one where more samples a step are about as good as more steps."""
    if spread.rounds < LEAST_ROUNDS:
        return float(asked)
    found = max(0.0, spread.noise) / max(LEAST_SIGNAL, spread.signal)
    return min(asked * ASKED_RANGE, max(asked / ASKED_RANGE, found))
