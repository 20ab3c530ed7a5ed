"""Useful progress: what a round's steps are worth, by the samples of each and the noise that is left in their average.

The unit is a step that a lone machine makes of A samples, the microbatch asked for. N is the noise scale.

1. A step of b samples goes sqrt((1 + N / A) / (1 + N / b)) as far the right way. Adam and its kin divide by the
   root of the squared gradient, of which G^2 / (G^2 + S / b) is signal, and N is S / G^2 (McCandlish et al., arXiv
   1812.06162, section 2.2; Kingma and Ba's update). The rate is the workload's and isn't scaled with the batch; Pollux
   (Qiao et al., OSDI 2021), which scales it, has (N + A) / (N + b) a sample.
2. Averaging nodes takes noise away but makes nobody's step longer. With rate r, a step lowers the loss by
   r |G|^2 - r^2 (G'HG + tr(H S) / B) / 2 (McCandlish, equation 2.6), and with a rate that is the part `BOLDNESS` of the
   best, the noise of B samples instead of b is worth a factor of

       (2 - BOLDNESS (1 + N / B) / (1 + N / b)) / (2 - BOLDNESS)

   at most 4/3, however many nodes there are: steps one after another count for more than samples side by side.
3. A round moves the average by the weighted mean of its nodes' steps. With weights w, H steps of b samples each, its
   noise is that of 1 / B = (sum w^2 H / b) / (sum w H), which is all for a quadratic loss, however long the round
   (Woodworth et al., ICML 2020, section 3). On others, what a node wanders off by itself does harm: of the noise that
   averaging takes away, `REVIVED` comes back in long rounds, half of it after `WANDERING` steps; beyond that curvature
   holds it.

The three constants were fitted to digits in numpy (`benchmarks/worth.py`: 1 to 8 nodes, 2 to 32 samples, 1 to 64 steps),
with Adam and SGD. Plain SGD gains less by larger microbatches than point 1 says, and loses less by smaller ones.
"""

import math
from collections.abc import Sequence

import msgspec

BOLDNESS = 0.5
"""Rate over the best one for the gradient's noise: 0.4 to 0.6 fit alike."""

REVIVED = 0.35
"""Part of the noise."""

WANDERING = 5.0
"""Steps."""


class Part(msgspec.Struct, frozen=True):
    """A node's work in a round."""

    steps: float
    microbatch: int

    @property
    def samples(self) -> float:
        """How many it takes."""
        return self.steps * self.microbatch


def worth(noise_scale: float, asked: int, own: float, together: float) -> float:
    """What a step is worth in steps of `asked` samples; `own`: 1 / samples of a node's step, `together`: of the average."""
    signal = math.sqrt((1.0 + noise_scale / asked) / (1.0 + noise_scale * own))
    harm = BOLDNESS * (1.0 + noise_scale * together) / (1.0 + noise_scale * own)
    return signal * (2.0 - harm) / (2.0 - BOLDNESS)


def progress(parts: Sequence[Part], noise_scale: float, asked: int) -> float:
    """What a round is worth, in steps that a lone machine makes of `asked` samples each; weights are by samples."""
    samples = sum(part.samples for part in parts)
    if samples <= 0:
        return 0.0
    steps = sum(part.samples * part.steps for part in parts) / samples
    own = sum(part.samples * part.steps / part.microbatch for part in parts) / samples / steps
    together = sum(part.samples**2 * part.steps / part.microbatch for part in parts) / samples**2 / steps
    wandered = max(0.0, steps - 1.0)
    revived = REVIVED * wandered / (wandered + WANDERING) * max(0.0, own - together)
    return steps * worth(noise_scale, asked, own, together + revived)


def efficiency(parts: Sequence[Part], noise_scale: float, asked: int) -> float:
    """Useful samples a sample: what one of the round's does, over one of a lone machine's steps of `asked` samples."""
    samples = sum(part.samples for part in parts)
    return progress(parts, noise_scale, asked) * asked / samples if samples > 0 else 1.0
