"""Anchors and shared optimizers have the same bits with and without vector instructions, and gradients all but."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from test_gradient_steps import RECIPES
from test_verifying import EXACT, apart, session, verified
from vector_instructions import CAPABILITIES, OUTER_STEPS

from runners.jobs.codecs import ENCODINGS
from schemas.verification import Fingerprint

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def both() -> tuple[dict[str, Any], dict[str, Any]]:
    """What was found without vector instructions and with AVX2; skips where a CPU has none."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2 to compare with")
    done = subprocess.run(
        [sys.executable, HERE / "vector_instructions.py"], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    plain, vectors = (json.loads(line) for line in done.stdout.splitlines())
    assert (plain["capability"].lower(), vectors["capability"].lower()) == CAPABILITIES
    return plain, vectors


def test_anchors_have_the_same_bits(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plain, vectors = (each["anchors"] for each in both)
    assert plain == vectors
    assert len(set(plain.values())) == len(plain) == len(ENCODINGS) * len(OUTER_STEPS) == 10


def test_shared_optimizers_give_the_same_bits(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    plain, vectors = (each["optimizers"] for each in both)
    assert plain == vectors
    assert len(set(plain.values())) == len(RECIPES)


def test_gradients_are_within_the_tolerance(both: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    here = verified(session(tmp_path, "a"))
    for found in both:
        assert apart(msgspec.json.decode(found["gradient"], type=Fingerprint), here) < EXACT / 10
