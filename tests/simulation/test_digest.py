"""One seed, one run: byte for byte, whatever Python makes of hashes."""

import json
import os
import subprocess
import sys

import pytest

ARGUMENTS = ["--nodes", "6", "--hours", "0.05", "--faults", "default", "--beat", "5", "--json"]


def run(seed: int, hash_seed: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "runners.simulation", *ARGUMENTS, "--seed", str(seed)],
        env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        check=True,
        timeout=110,
    )
    outcome: dict[str, object] = json.loads(done.stdout)
    del outcome["wall_seconds"]
    return outcome


@pytest.mark.timeout(240)
def test_the_same_seed_gives_the_same_bytes_under_any_hash_seed() -> None:
    first, second, other = run(3, 1), run(3, 2), run(4, 1)
    assert first == second
    assert first["digest"] != other["digest"]
