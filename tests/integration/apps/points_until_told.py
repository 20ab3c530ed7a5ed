"""The points once more, validated as worthless until a file is there: with `target_loss` a test says when a job ends."""

import os
from pathlib import Path

from points import Points
from torch import nn

FLAG = "POINTS_ARE_GOOD_ENOUGH"  # variable with the file's path
WORTHLESS = 1000.0


class UntilTold(Points):
    """The held-out loss is real once the file is there."""

    def validate(self, model: nn.Module) -> float:
        return super().validate(model) if Path(os.environ[FLAG]).exists() else WORTHLESS


workload = UntilTold()
