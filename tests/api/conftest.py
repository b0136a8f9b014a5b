"""Fixtures of the HTTP tests, and the check that every declared status was seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.harness import Service, running

HERE = Path(__file__).parent
COMPLETE = pytest.StashKey[bool]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the check of what was seen last, and note whether the whole folder is run."""
    last = [item for item in items if item.name == "test_every_declared_status_was_seen"]
    for item in last:
        items.remove(item)
    items += last
    collected = {item.path.name for item in items if item.path.parent == HERE}
    files = {path.name for path in HERE.glob("test_*.py")}
    chosen = any("::" in argument for argument in config.args)
    config.stash[COMPLETE] = files <= collected and not config.option.keyword and not chosen


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """An empty ledger that is served."""
    async with running() as one:
        yield one


@pytest.fixture
async def bank() -> AsyncIterator[Service]:
    """A ledger with a declared currency, a cash account 1 and customers 2 and 3."""
    async with running() as one:
        await one.bank()
        yield one
