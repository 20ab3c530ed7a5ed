"""Fuzzing led by the coverage of Shoal's own Python code, with atheris (libFuzzer), which stops at the first finding.

    pip install -e '.[fuzz]'
    python -m benchmarks.fuzz.led "job files" [--inputs 100000] [--seed 1]

Give it one of the names that `python -m benchmarks.fuzz` prints. What a reader documents is no finding; everything else is,
and so is memory beyond two GiB or an input that takes a minute.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["agents", "bus", "runners", "schemas"]):
    from benchmarks.fuzz.__main__ import targets
    from benchmarks.fuzz.target import LONGEST, Target

MEMORY = 2048
"""MiB after which libFuzzer calls an input a finding; torch alone takes a quarter of it."""
PATIENCE = 60
"""Seconds after which it does so, too."""


def lead(target: Target, inputs: int, seed: int) -> None:
    """Give a reader `inputs` inputs, beginning with its corpus. It ends the process."""

    def read(data: bytes) -> None:
        try:
            target.read(data)
        except target.errors:
            return

    folder = Path(tempfile.mkdtemp(prefix="shoal-fuzz-corpus-"))
    for number, data in enumerate(target.corpus()):
        (folder / str(number)).write_bytes(data)
    limits = [f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY}", f"-timeout={PATIENCE}"]
    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-seed={seed}", *limits, str(folder)], read)
    atheris.Fuzz()


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz.led", description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    by_name = {target.name: target for target in targets()}
    if options.name not in by_name:
        parser.error(f"no reader is called {options.name!r}: there are {', '.join(by_name)}")
    lead(by_name[options.name], options.inputs, options.seed)


if __name__ == "__main__":
    main()
