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


def plain_and_vectors(program: str) -> tuple[dict[str, str], dict[str, str]]:
    """The `digests` that a program prints without vector instructions and with AVX2; skips where a CPU has none."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2 to compare with")
    return _bits_under("default", program), _bits_under("avx2", program)


def _bits_under(capability: str, program: str) -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT), str(HERE)))  # a program may use what its test has, and that uses this
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=100
    )
    said = json.loads(done.stdout)
    assert said["capability"].lower() == capability
    digests: dict[str, str] = said["digests"]
    return digests
