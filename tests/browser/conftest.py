"""One browser and one page for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Browser, Page, find

PAGE = Path(__file__).parents[2] / "ledger" / "proof" / "verify.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    with Browser(program) as one:
        yield one


@pytest.fixture(scope="session")
def page(browser: Browser) -> Page:
    """The verifier, loaded once as a user loads it, from its file; tests do not change it."""
    return browser.open(PAGE.as_uri())


@pytest.fixture
def fresh(browser: Browser) -> Iterator[Page]:
    """The verifier in a tab of its own."""
    one = browser.open(PAGE.as_uri())
    yield one
    one.close()
