"""Sessions of a small job that learns waves, and what tests ask of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runners.jobs.session import Session
from runners.jobs.spec import JobSpec
from schemas.jobs import JobRequest

WORK = """
import torch
from torch import nn

class Wave:
    def model(self):
        return nn.Sequential({layers})

    def samples(self, split):
        return [torch.tensor([i / 16, -i / 8, i % 5 - 2.0, i % 3 - 1.0]) for i in range(-32, 32)]

    def loss(self, model, batch):
        return (model(batch) - batch.repeat(1, 2).sin()).square().mean()

    def validate(self, model):
        return float(self.loss(model, torch.stack(self.samples("validation"))))

    def optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr={rate})

workload = Wave()
"""

Load = Callable[..., Session]


def loader(folder: Path, module: str, layers: str, rate: float, **asked: Any) -> Load:
    """Loads sessions by node, checkpoint and fields of the request, `asked` by default.

    `module` is the workload's, of which a process imports only one by that name; `layers` go from 4 to 8 numbers.
    """
    (folder / f"{module}.py").write_text(WORK.format(layers=layers, rate=rate))

    def load(node: str = "a", checkpoint: bytes | None = None, **request: Any) -> Session:
        job = JobRequest(kind="train", workload=f"{module}:workload", **asked | request)
        spec = JobSpec(job="j", node=node, server="", request=job, app_dir=str(folder), device="cpu")
        return Session.load(spec, checkpoint)

    return load


def steps(session: Session, round_: int, count: int = 3) -> None:
    session.begin_steps(round_)
    for _ in range(count):
        session.step(8)


def working(session: Session) -> Tensor:
    return session.anchor.layout.flatten(session.trainer.model)


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=2e-6)
