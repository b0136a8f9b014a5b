"""A Hypothesis state machine that drives the oracle and the ledger and shrinks what differs.

Ids are 0 to 4 and 2^128-1, so that everything collides; after every step everything is compared.
``test_long.py`` goes further; this one finds short stories.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger import layout
from tests.model.adapter import StateLedger
from tests.model.answers import Record
from tests.model.pair import Pair
from tests.model.reference import A, T

MAX, SECOND = layout.U128_MAX, 10**9
EXAMPLES = int(os.environ.get("SANYUAN_MACHINE_EXAMPLES", "2000"))
IDS = st.sampled_from((1, 2, 3, 4, 1, 2, 3, 4, 0, MAX))
EDGES = (0, 1, 2, 3, 10, (1 << 64) - 1, 1 << 64, 1 << 127, MAX - 1, MAX)
AMOUNTS = st.one_of(st.integers(0, 12), st.sampled_from(EDGES))
SMALL = st.integers(0, 2)
METADATA = st.sampled_from((b'{"a":1}', b'{"a":2}'))
STEPS = st.sampled_from((0, 0, 1, 7, SECOND - 1, SECOND, 2 * SECOND))
PAST = st.one_of(st.integers(1, 40), st.sampled_from((0, 1 << 63, SECOND, 3 * SECOND)))
USER_DATA = {"user_data_128": SMALL, "user_data_64": SMALL, "user_data_32": SMALL}


def flags(kind: str, *, without: int = 0) -> st.SearchStrategy[int]:
    """Some flags of a kind, few at a time, seldom one that has no meaning."""
    bits = [1 << flag.bit for flag in layout.FLAGS[kind] if not 1 << flag.bit & without]
    few = st.lists(st.sampled_from(bits), max_size=2).map(lambda chosen: sum({*chosen}))
    return st.one_of(st.just(0), few, few, st.just(0x8000) if not without else few)


def events(required: Record, optional: Record) -> st.SearchStrategy[list[Record]]:
    """One request's events; fields that are drawn absent are 0."""
    return st.lists(st.fixed_dictionaries(required, optional=optional), min_size=1, max_size=5)


ACCOUNTS = events(
    {"id": IDS, "flags": flags("ACCOUNT", without=A["imported"])},
    {**USER_DATA, "ledger": SMALL, "code": SMALL, "reserved": SMALL, "timestamp": SMALL}
    | {"debits_pending": SMALL, "credits_posted": SMALL},
)
TRANSFERS = events(
    {
        "id": IDS,
        "debit_account_id": IDS,
        "credit_account_id": IDS,
        "amount": AMOUNTS,
        "flags": flags("TRANSFER", without=T["imported"]),
        "ledger": st.sampled_from((1, 1, 1, 1, 2, 0)),
        "code": st.sampled_from((1, 1, 1, 2, 0)),
    },
    {**USER_DATA, "timeout": st.sampled_from((0, 1, 2, 0xFFFF_FFFF)), "pending_id": IDS},
)
RESOLUTIONS = events(
    {
        "id": IDS,
        "pending_id": IDS,
        "amount": AMOUNTS,
        "flags": st.sampled_from((T["post_pending_transfer"], T["void_pending_transfer"])),
    },
    {**USER_DATA, "debit_account_id": IDS, "credit_account_id": IDS, "ledger": SMALL}
    | {"code": SMALL, "timeout": SMALL},
)
SETTINGS = events(
    {"id": IDS, "account_id": IDS, "flags": flags("ACCOUNT_SETTINGS")},
    {**USER_DATA, "overdraft": AMOUNTS, "ceiling": AMOUNTS, "reserved_128": SMALL, "code": SMALL},
)
DEFINITIONS = events(
    {"id": IDS, "kind": st.integers(0, 3), "flags": SMALL},
    {
        "ledger": SMALL,
        "code": SMALL,
        "exponent": st.sampled_from((0, 18, 19)),
        "reserved_64": SMALL,
    },
)
DATES = events(
    {"id": IDS, "date": st.sampled_from((0, 20230229, 20240228, 20240229, 20240301, 99991231))},
    {"timestamp": SMALL, "code": SMALL, "flags": SMALL},
)
RANGE = {"timestamp_min": PAST, "timestamp_max": PAST}
LIMITS = st.sampled_from((0, 1, 2, 100))


class Machine(RuleBasedStateMachine):
    """The pair under test and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(self.make_ledger())
        self.now = SECOND

    @staticmethod
    def make_ledger() -> Any:
        """Return a new ledger to be compared with the oracle."""
        return StateLedger()

    def _send(self, method: str, events: list[Record], data: Any) -> None:
        self.now += len(events) + data.draw(STEPS, "step")
        places = st.integers(0, len(events) - 1)
        metadata = data.draw(
            st.one_of(st.just({}), st.dictionaries(places, METADATA, max_size=2)), "metadata"
        )
        dry_run = data.draw(st.sampled_from((False,) * 5 + (True,)), "dry run")
        self.pair.request(method, events, self.now, metadata, dry_run)

    def _maybe_imported(self, events: list[Record], flag: int, data: Any) -> None:
        if data.draw(st.integers(0, 3), "imported") == 0:
            for event in events:
                event["flags"] |= flag
                offsets = st.integers(-3, 3).map(lambda offset: self.now + offset)
                event["timestamp"] = data.draw(st.one_of(PAST, PAST, offsets), "timestamp")

    @initialize(count=st.integers(0, 4))
    def some_accounts(self, count: int) -> None:
        if count:
            rows = [
                {"id": n, "ledger": 1, "code": 1, "flags": A["history"]}
                for n in range(1, count + 1)
            ]
            self.pair.request("create_accounts", rows, self.now)

    @rule(events=ACCOUNTS, data=st.data())
    def accounts(self, events: list[Record], data: Any) -> None:
        self._maybe_imported(events, A["imported"], data)
        self._send("create_accounts", events, data)

    @rule(events=st.one_of(TRANSFERS, TRANSFERS, RESOLUTIONS), data=st.data())
    def transfers(self, events: list[Record], data: Any) -> None:
        self._maybe_imported(events, T["imported"], data)
        self._send("create_transfers", events, data)

    @rule(
        first=TRANSFERS,
        second=RESOLUTIONS,
        data=st.data(),
    )
    def pending_and_resolution(self, first: list[Record], second: list[Record], data: Any) -> None:
        for event in first:
            event["flags"] = (event["flags"] | T["pending"]) & 0xF3 | T["pending"]
            event["pending_id"] = 0
        self._send("create_transfers", first + second, data)

    @rule(choice=st.integers(0, 100), data=st.data())
    def repeat(self, choice: int, data: Any) -> None:
        transfers = list(self.pair.oracle.transfers.values())
        if transfers:
            event = {**transfers[choice % len(transfers)], "timestamp": 0}
            field = data.draw(st.sampled_from(sorted(event)), "field")
            if field not in ("flags", "timestamp"):
                event[field] = data.draw(SMALL, "value")
            self._send("create_transfers", [event], data)

    @rule(events=SETTINGS, data=st.data())
    def settings(self, events: list[Record], data: Any) -> None:
        self._send("change_settings", events, data)

    @rule(events=DEFINITIONS, data=st.data())
    def definitions(self, events: list[Record], data: Any) -> None:
        self._send("define", events, data)

    @rule(events=DATES, data=st.data())
    def business_dates(self, events: list[Record], data: Any) -> None:
        self._send("move_business_date", events, data)

    @rule(step=STEPS)
    def expire(self, step: int) -> None:
        self.now += step + len(self.pair.oracle.open_holds) + 1  # a time for each expiry
        self.pair.expire(self.now)

    @rule(
        method=st.sampled_from(("get_account_transfers", "get_account_balances")),
        given=st.fixed_dictionaries(
            {"account_id": IDS, "flags": st.integers(0, 8), "limit": LIMITS},
            optional={**USER_DATA, **RANGE, "code": SMALL},
        ),
    )
    def query_account(self, method: str, given: Record) -> None:
        self.pair.query(method, given)

    @rule(
        method=st.sampled_from(("query_accounts", "query_transfers")),
        given=st.fixed_dictionaries(
            {"flags": SMALL, "limit": LIMITS},
            optional={**USER_DATA, **RANGE, "ledger": SMALL, "code": SMALL},
        ),
    )
    def query(self, method: str, given: Record) -> None:
        self.pair.query(method, given)

    @rule(given=st.fixed_dictionaries({"limit": LIMITS}, optional=RANGE))
    def change_events(self, given: Record) -> None:
        self.pair.query("get_change_events", given)

    @invariant()
    def everything_agrees(self) -> None:
        self.pair.compare()


def _settings(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )


TestMachine = Machine.TestCase
TestMachine.settings = _settings(40)


@pytest.mark.long
@pytest.mark.timeout(3600)
class TestMachineLong(Machine.TestCase):
    """The same, with more examples."""

    settings = _settings(EXAMPLES)
