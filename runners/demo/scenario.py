"""The demo's fleet and its schedule of faults: what is emulated, and what happens in which round."""

from dataclasses import dataclass
from typing import Any, Literal

from schemas.jobs import SyncMode

# Milliseconds that a step of the starting microbatch takes on the fastest node. Several times what the step costs on one
# core, so that five emulated machines fit on two cores and each behaves like a machine of its own.
STEP_TIME_MS = 500.0


@dataclass(frozen=True, kw_only=True)
class DemoNode:
    """One emulated machine: a real process with a real job process, behind a shaped socket, with padded steps."""

    name: str
    link: str
    slowdown: float

    def arguments(self, congestion: str) -> tuple[str, ...]:
        """For the node's process."""
        shape = ("--name", self.name, "--link", self.link, "--cc", congestion)
        return (*shape, "--slowdown", str(self.slowdown), "--step-time", str(STEP_TIME_MS))


@dataclass(frozen=True, kw_only=True)
class DemoFault:
    """Something that is done to a node when a round begins."""

    round: int
    node: str
    do: Literal["spike", "profile", "kill", "return"]
    words: str
    profile: str = ""


NODES = (
    DemoNode(name="workstation", link="perfect", slowdown=1.0),
    DemoNode(name="desktop", link="good", slowdown=1.25),
    DemoNode(name="laptop", link="average", slowdown=1.6),
    DemoNode(name="attic", link="poor", slowdown=2.0),
    DemoNode(name="caravan", link="unstable", slowdown=3.0),
)

FAULTS = (
    DemoFault(round=10, node="laptop", do="spike", words="a latency spike of 800 ms for 8 s"),
    DemoFault(round=12, node="desktop", do="kill", words="killed with SIGKILL"),
    DemoFault(round=15, node="laptop", do="profile", profile="poor", words="the link degrades to poor"),
    DemoFault(round=17, node="desktop", do="return", words="the machine is switched on again"),
    DemoFault(round=20, node="laptop", do="profile", profile="good", words="the link improves to good"),
)

SPIKE_MS = 800.0
SPIKE_SECONDS = 8.0


def request(rounds: int, seed: int, job: str, sync: SyncMode = "round") -> dict[str, Any]:
    """The demo's job: a byte-level GPT on the standard library's own sources."""
    return {
        "kind": "train",
        "id": job,
        "workload": "examples.stdlib_lm:workload",
        "rounds": rounds,
        "min_nodes": len(NODES),
        "seed": seed,
        "microbatch": 4,
        "microbatch_min": 2,
        "microbatch_max": 8,
        "local_steps": 6,
        "sync": sync,
        # Steps of four samples are noisy: see "The algorithm" in docs/training.md. With gradients there is no outer step.
        "outer_lr": 1.0 if sync == "step" else 0.7,
        "checkpoint_every": 5,
    }


def fixed(body: dict[str, Any], job: str, target: float, deadline: float, rounds: int) -> dict[str, Any]:
    """The same job without adaptation: all nodes, equal work, float32, the same deadline."""
    return body | {
        "id": job,
        "batch": "fixed",
        "selection": "all",
        "adaptation": "off",
        "encoding": "float32",
        "deadline_seconds": deadline,
        "target_loss": target,
        "rounds": rounds,
    }


def alone(body: dict[str, Any], job: str, target: float, rounds: int) -> dict[str, Any]:
    """The same job on the fastest node alone, with the best link."""
    fastest = min(NODES, key=lambda node: node.slowdown)
    return body | {
        "id": job,
        "min_nodes": 1,
        "max_nodes": 1,
        "exclude": [node.name for node in NODES if node is not fastest],
        "target_loss": target,
        "rounds": rounds,
    }
