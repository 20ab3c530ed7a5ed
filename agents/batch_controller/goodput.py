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

   at most 3/2, however many nodes there are: steps one after another count for more than samples side by side.
3. A round moves the average by the weighted mean of its nodes' steps. With weights w, H steps of b samples each, its
   noise is that of 1 / B = (sum w^2 H / b) / (sum w H), which is all for a quadratic loss, however long the round
   (Woodworth et al., ICML 2020, section 3). On others, what a node wanders off by itself does harm, which grows with the
   steps between two averages (Stich, arXiv 1805.09767; Wang and Joshi, arXiv 1810.08313, equation 16: in proportion to
   H - 1). It is bounded: at worst company gains nothing. So of the noise that averaging takes away, the part
   `WANDERING / (WANDERING + H - 1)` stays away.

What seldom averaging costs depends on model and rate, and nothing that a job measures tells how much. Averages of four
nodes made a step of digits worth 1.2 to 1.25, one of a small language model 2.0; ten steps between two cost digits 3 %,
language models 22 and 38 %, thirty the smaller one 63 %. Both constants lie in between: the lengths that follow from them
lose 5 % at most on digits and 7 % on the smaller language model, whatever the transfers; 14 % on the larger, if its cost
grows beyond ten steps as it did before (`benchmarks/worth.py`, `benchmarks/local_steps.py`). Plain SGD gains less by larger
microbatches than point 1 says, and loses less by smaller ones.
"""

import math
from collections.abc import Sequence

import msgspec

BOLDNESS = 2 / 3
"""Rate over the best one for the gradient's noise: 0.5 fits digits, about 1.1 language models; above 2/3 more samples would
make a step worse where there is little noise."""

WANDERING = 10.0
"""Steps after which half of what averaging gains is lost: digits keep two thirds of it however long rounds are, language
models lost half in 9."""


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


def staying(steps: float) -> float:
    """Of the noise that an average after so many steps takes away, the part that doesn't come back: 1 for one step."""
    return WANDERING / (WANDERING + max(0.0, steps - 1.0))


def in_company(steps: float) -> float:
    """What a step is worth among many nodes with much noise, over one where an average follows each step; 0 to 1."""
    return (2.0 - BOLDNESS * (1.0 - staying(steps))) / 2.0


def progress(parts: Sequence[Part], noise_scale: float, asked: int, apart: float = math.inf) -> float:
    """What a round is worth, in steps that a lone machine makes of `asked` samples each; weights are by samples.

    `apart`: steps between two averages at most, where nodes average in the midst of rounds, too.
    """
    samples = sum(part.samples for part in parts)
    if samples <= 0:
        return 0.0
    steps = sum(part.samples * part.steps for part in parts) / samples
    own = sum(part.samples * part.steps / part.microbatch for part in parts) / samples / steps
    together = sum(part.samples**2 * part.steps / part.microbatch for part in parts) / samples**2 / steps
    revived = (1.0 - staying(min(steps, apart))) * max(0.0, own - together)
    return steps * worth(noise_scale, asked, own, together + revived)


def efficiency(parts: Sequence[Part], noise_scale: float, asked: int, apart: float = math.inf) -> float:
    """Useful samples a sample: what one of the round's does, over one of a lone machine's steps of `asked` samples."""
    samples = sum(part.samples for part in parts)
    return progress(parts, noise_scale, asked, apart) * asked / samples if samples > 0 else 1.0
