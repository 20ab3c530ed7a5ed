"""Every reader of bytes from elsewhere takes them, or answers with the error that it documents, and nothing else.

A few inputs each; `python -m benchmarks.fuzz` gives them a million.
"""

import logging
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.__main__ import targets
from benchmarks.fuzz.mutate import mutated
from benchmarks.fuzz.run import Judge, fuzz
from benchmarks.fuzz.target import Target

TARGETS = {target.name: target for target in targets()}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is logged of each bad input tells nothing here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_what_is_valid_and_answers_anything_else(name: str) -> None:
    target = TARGETS[name]
    corpus = target.corpus()
    judge = Judge(target)
    for data in corpus[:20]:
        judge.give(data)
    assert judge.figures.taken * 2 >= judge.figures.inputs, "its own corpus is refused"

    @settings(max_examples=10, deadline=None, database=None)
    @given(st.binary(max_size=512), st.integers(0, 2**32))
    def give(data: bytes, seed: int) -> None:
        judge.give(data)
        judge.give(mutated(corpus, random.Random(seed)))
        assert not judge.result().findings

    give()


def _bad(data: bytes) -> None:
    if len(data) % 3 == 0:
        raise KeyError("what nobody documented")
    if len(data) % 5 == 0:
        raise ValueError("documented")


def test_an_error_that_is_not_documented_is_a_finding_with_its_shortest_input() -> None:
    found = fuzz(Target("bad", _bad, (ValueError,), lambda: [b"abcd", b"abcdefgh"]), 200, seed=1)
    assert [finding.error for finding in found.findings] == ["KeyError: 'what nobody documented'"]
    assert len(found.findings[0].data) % 3 == 0
    assert found.findings[0].count > 1
    assert found.taken + found.refused + found.findings[0].count == found.inputs


def test_an_input_that_takes_memory_out_of_proportion_is_a_finding() -> None:
    found = fuzz(Target("greedy", lambda data: bytearray(1 << 24), (), lambda: [b"abcd"]), 20, seed=1)
    assert [finding.error.partition(":")[0] for finding in found.findings] == ["MemoryError"]
