"""A long seeded run of the ledger against the oracle; it fails when a rule was never reached.

``SANYUAN_MODEL_REQUESTS`` (100,000) and ``SANYUAN_MODEL_SEED`` (1) say how long and which run.
The requests are spread over many ledgers: small ones, where everything collides, and large ones.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ledger import layout
from tests.model.adapter import StateLedger
from tests.model.administration import LEDGER
from tests.model.core_adapter import CoreLedger
from tests.model.generator import Generator
from tests.model.pair import FLAG_KINDS, STATUS_KINDS, Pair

REQUESTS = int(os.environ.get("SANYUAN_MODEL_REQUESTS", "100000"))
SEED = int(os.environ.get("SANYUAN_MODEL_SEED", "1"))
COMPARE_EVERY = 500  # requests: everything is compared
QUERY_CHANCE = 0.2  # of a query after a request
EVENT_KINDS = {*STATUS_KINDS.values(), "ACCOUNT_SETTINGS", "DEFINITION"}
REACHABLE = {
    *((kind, name) for kind, names in layout.STATUS_NUMBERS.items() for name in names),
    *((kind, flag.name) for kind in FLAG_KINDS.values() for flag in layout.FLAGS[kind]),
}


def drive(pair: Pair, rng: random.Random, count: int) -> None:
    """Send ``count`` requests to a pair, with sweeps and queries between."""
    generator = Generator(rng, pair.oracle, account_count=rng.choice((4, 12, 60)))
    for number in range(1, count + 1):
        if rng.random() < 0.15:
            room = len(pair.oracle.open_holds) + 1  # each expiry needs a time of its own
            pair.expire(generator.advance(room))
        request = generator.request()
        results = pair.request(
            request.method, request.events, request.timestamp_ns, request.metadata, request.dry_run
        )
        generator.note(request, results)
        if pair.history and rng.random() < QUERY_CHANCE:
            pair.query(*generator.query())
        if number % COMPARE_EVERY == 0 or number == count:
            pair.compare()


def fill_definitions(pair: Pair) -> None:
    """Declare as many ledgers as there is room for, and one more."""
    for first in range(1, layout.DEFINITIONS_MAX + 2, layout.REQUEST_EVENTS_MAX):
        last = min(first + layout.REQUEST_EVENTS_MAX, layout.DEFINITIONS_MAX + 2)
        events = [{"id": n, "kind": LEDGER, "ledger": n} for n in range(first, last)]
        pair.request("define", events, last * 10**9)
    pair.compare()


def run(
    make_ledger: Callable[[random.Random], Any],
    count: int,
    seed: int,
    *,
    history: bool,
    finish: Callable[[Pair], None] = lambda pair: None,
) -> Counter[tuple[str, str]]:
    """Spread ``count`` requests over many ledgers; return what was reached."""
    rng, reached = random.Random(seed), Counter[tuple[str, str]]()
    fill_definitions(Pair(make_ledger(rng), reached, history=history))
    while count > 0:
        size = min(count, rng.choice((20, 50, 200, 200, 1000, 5000)))
        epoch = rng.randrange(1 << 62)
        try:
            epoch_rng = random.Random(epoch)
            pair = Pair(make_ledger(epoch_rng), reached, history=history)
            drive(pair, epoch_rng, size)
            finish(pair)
        except Exception as error:
            error.add_note(f"ledger of {size} requests, seed {epoch}")
            raise
        count -= size
    return reached


def check_reached(reached: Counter[tuple[str, str]], kinds: set[str]) -> None:
    """Fail when a status was never answered or a flag never took effect."""
    assert {pair for pair in REACHABLE if pair[0] in kinds} - set(reached) == set()


def recovered_agrees(pair: Pair) -> None:
    """Replay the journal and decide it again; both must lead to the oracle's state."""
    again = Pair(pair.ledger.replayed(), history=False)
    again.oracle = pair.oracle
    again.compare()
    assert pair.ledger.differences() == []


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_state_agrees_with_the_oracle() -> None:
    reached = run(lambda rng: StateLedger(), REQUESTS, SEED, history=True)
    check_reached(reached, {kind for kind, _ in REACHABLE})


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_core_with_many_requests_in_a_block_agrees_and_is_recovered() -> None:
    reached = run(CoreLedger, REQUESTS // 2, SEED + 1, history=False, finish=recovered_agrees)
    check_reached(reached, EVENT_KINDS)
