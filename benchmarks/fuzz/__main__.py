"""Fuzzing of everything that reads bytes from elsewhere: no crash, no unbounded memory, a clear error.

    python -m benchmarks.fuzz [--inputs 1000000] [--only NAME] [--seed 1] [--json]

Inputs are valid ones with a few changes (benchmarks/fuzz/mutate.py), shared out evenly among the readers, but for those
that take long. Each reader has a process of its own, whose memory is bounded; each input's time is looked at, and of one in
eight its memory, too. Any error but the documented ones is a finding, told with the shortest input that shows it. Exit code
1 if there is one.

Inputs led by the coverage of Python code: `python -m benchmarks.fuzz.led`.
"""

import argparse
import json
import logging
import math
import sys
from collections.abc import Iterator

import msgspec

from benchmarks.fuzz import kept, said, tensors
from benchmarks.fuzz.run import Figures, fuzz_apart
from benchmarks.fuzz.target import Target

SHOWN = 120
"""Bytes of an input that are printed."""


def targets() -> Iterator[Target]:
    """Every reader."""
    yield from said.targets()
    yield from tensors.targets()
    yield from kept.targets()


def main() -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all readers together")
    parser.add_argument("--only", default="", help="readers whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # a warning for each of a million inputs tells nothing
    chosen = [target for target in targets() if options.only in target.name]
    shares = sum(target.share for target in chosen)
    found = []
    for target in chosen:
        found.append(fuzz_apart(target, math.ceil(options.inputs * target.share / shares), options.seed))
        if not options.json:
            _tell(found[-1])
    if options.json:
        print(json.dumps([msgspec.to_builtins(each) for each in found], indent=1))
    else:
        print(f"{sum(each.inputs for each in found)} inputs, {sum(len(each.findings) for each in found)} findings")
    return 1 if any(each.findings for each in found) else 0


def _tell(one: Figures) -> None:
    counts = f"{one.inputs:8d} inputs: {one.taken:7d} taken, {one.refused:7d} refused"
    costs = (
        f"{one.seconds:6.1f} s, slowest {one.slowest * 1e3:.0f} ms, {one.peak / 1e6:.1f} MB, grown {one.grown / 1e6:.1f} MB"
    )
    print(f"{one.name:32s} {counts}; {costs}", flush=True)
    for finding in one.findings:
        print(f"  {finding.count} times {finding.error}\n    at {finding.where}\n    {finding.data[:SHOWN]!r}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
