"""Fuzzing led by the coverage of Python code, with atheris (libFuzzer). It ends the process itself."""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fuzz.target import LONGEST, Target

MEMORY = 2048
"""MiB after which libFuzzer calls an input a finding; torch alone takes a quarter of it."""


def fuzz_led(target: Target, inputs: int, seed: int) -> int:
    """Give a reader `inputs` inputs, beginning with its corpus. It ends the process; 2: no atheris."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError:
        print("atheris isn't installed: pip install atheris", file=sys.stderr)
        return 2

    def read(data: bytes) -> None:
        try:
            target.read(data)
        except target.errors:
            return

    folder = Path(tempfile.mkdtemp(prefix="shoal-fuzz-corpus-"))
    for number, data in enumerate(target.corpus()):
        (folder / str(number)).write_bytes(data)
    options = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY}", str(folder)]
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *options], read)
    atheris.Fuzz()
    return 0
