"""Every test that takes `carrier` runs once on each carrier of `carriers.CARRIERS`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from carriers import CARRIERS, SLOW, Carrier, load

_MARKED = [pytest.param(name, marks=[pytest.mark.search] if name in SLOW else []) for name in sorted(CARRIERS)]


@pytest.fixture(params=_MARKED)
async def carrier(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Carrier]:
    """A carrier with an empty store; its participants are closed at the end."""
    async with load(request.param, tmp_path) as made:
        yield made
