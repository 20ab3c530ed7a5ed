"""Digests that a program of a test finds, under a choice of vector instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CAPABILITIES = ("default", "avx2")


# torch looks at the variable when it first computes something: one import is enough for both.
BOTH = """
import os, sys
import torch, torch._dynamo
for capability in sys.argv[2:]:
    if not os.fork():
        os.environ["ATEN_CPU_CAPABILITY"] = capability
        exec(compile(sys.argv[1], "program", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"failed under {capability}")
"""


def plain_and_vectors(program: str) -> tuple[dict[str, str], dict[str, str]]:
    """The `digests` that a program prints without vector instructions and with AVX2; skips where a CPU has none."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2 to compare with")
    paths = os.pathsep.join((str(ROOT), str(HERE)))  # a program may use what its test has, and that uses this
    done = subprocess.run(
        [sys.executable, "-c", BOTH, program, *CAPABILITIES],
        env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert tuple(each["capability"].lower() for each in said) == CAPABILITIES
    plain, vectors = (each["digests"] for each in said)
    return plain, vectors
