"""Encoding and decoding of differences: GB of float32 a second, on one thread.

    python -m benchmarks.codecs [--json]

Each call makes its result in new memory, as in a job process. Best of several runs, since other work on
the machine only ever slows one down.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from runners.jobs.codecs import ENCODINGS, decode, encode, encoded_size
from runners.jobs.error_feedback import ErrorFeedback

# The demo's GPT, and a model whose difference is far larger than any cache.
SIZES = (1_058_400, 25_000_000)
# How long each figure is measured.
SECONDS = 0.5


@dataclass(frozen=True)
class Row:
    """One encoding at one size; rates in GB of float32 a second."""

    encoding: str
    elements: int
    payload_bytes: int
    encode_gb_s: float
    decode_gb_s: float
    feedback_gb_s: float
    """Encoding with error feedback, which also decodes."""


def best_seconds(work: Callable[[], object]) -> float:
    """The fastest of as many runs as fit into SECONDS, three at least, after one to warm up."""
    work()
    best, runs = float("inf"), 0
    end = time.perf_counter() + SECONDS
    while runs < 3 or time.perf_counter() < end:
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
        runs += 1
    return best


def measure() -> list[Row]:
    """A row for each size and encoding."""
    rows = []
    for elements in SIZES:
        flat = torch.randn(elements, generator=torch.Generator().manual_seed(0)) * 1e-3
        for encoding in ENCODINGS:
            payload = encode(flat, encoding)
            feedback = ErrorFeedback(elements)
            works = (partial(encode, flat, encoding), partial(decode, payload), partial(feedback.encode, flat, encoding))
            rates = (4 * elements / best_seconds(work) / 1e9 for work in works)
            rows.append(Row(encoding, elements, encoded_size(elements, encoding), *rates))
    return rows


def main() -> None:
    """Measures and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description="GB/s of encoding and decoding differences, on one thread.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    as_json = parser.parse_args().json
    torch.set_num_threads(1)
    rows = measure()
    if as_json:
        about = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "machine": platform.machine()}
        print(json.dumps({"unit": "GB of float32 per second", **about, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(f"{'encoding':<9}{'elements':>12}{'bytes':>13}{'encode GB/s':>13}{'decode GB/s':>13}{'feedback GB/s':>15}")
    for row in rows:
        rates = f"{row.encode_gb_s:>13.2f}{row.decode_gb_s:>13.2f}{row.feedback_gb_s:>15.2f}"
        print(f"{row.encoding:<9}{row.elements:>12,}{row.payload_bytes:>13,}{rates}")


if __name__ == "__main__":
    main()
