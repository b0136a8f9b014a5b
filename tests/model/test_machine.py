"""A Hypothesis state machine that drives the oracle and the ledger and shrinks what differs.

Ids are 0 to 4 and 2^128-1, so that everything collides, but those of most transfers, which would
soon be used up; after every step everything is compared.
``test_long.py`` goes further; this one finds short stories.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger import layout
from tests.model.adapter import StateLedger
from tests.model.answers import Record
from tests.model.pair import Pair
from tests.model.reference import RESOLVES, A, T

MAX, SECOND = layout.U128_MAX, 10**9
EXAMPLES = int(os.environ.get("SANYUAN_MACHINE_EXAMPLES", "2000"))
IDS = st.sampled_from((*(1, 2, 3, 4) * 6, 0, MAX))
FRESH = -1  # stands for the next id that was never used
CHOICE = -2  # and so on down, for a pending transfer of the story
TRANSFER_IDS = st.sampled_from((*(FRESH,) * 20, 1, 2, 3, 4, 0, MAX))
PENDING_IDS = st.sampled_from((*(CHOICE, CHOICE - 1, CHOICE - 2) * 6, 1, 2, 3, 4, 0, MAX))
EDGES = (0, 1, 2, 3, 10, (1 << 64) - 1, 1 << 64, 1 << 127, MAX - 1, MAX)
AMOUNTS = st.one_of(st.integers(0, 12), st.sampled_from(EDGES))
SMALL = st.integers(0, 2)
METADATA = st.sampled_from((b'{"a":1}', b'{"a":2}'))
STEPS = st.sampled_from((0, 0, 1, 7, SECOND - 1, SECOND, 2 * SECOND))
PAST = st.one_of(st.integers(1, 40), st.sampled_from((0, 1 << 63, SECOND, 3 * SECOND)))
USER_DATA = {"user_data_128": SMALL, "user_data_64": SMALL, "user_data_32": SMALL}


def mostly(value: int, *others: int) -> st.SearchStrategy[int]:
    """A value, and sometimes another one."""
    return st.sampled_from((value,) * (15 * len(others)) + others)


def flags(kind: str, *, without: int = 0) -> st.SearchStrategy[int]:
    """Some flags of a kind, few at a time, seldom one that has no meaning."""
    bits = [1 << flag.bit for flag in layout.FLAGS[kind] if not 1 << flag.bit & without]
    few = st.lists(st.sampled_from(bits), max_size=2).map(lambda chosen: sum({*chosen}))
    return st.tuples(few, mostly(0, 0x8000)).map(sum)


def events(required: Record, optional: Record) -> st.SearchStrategy[list[Record]]:
    """One request's events; fields that are drawn absent are 0."""
    return st.lists(st.fixed_dictionaries(required, optional=optional), min_size=1, max_size=4)


ACCOUNTS = events(
    {
        "id": IDS,
        "flags": flags("ACCOUNT", without=A["imported"]),
        "ledger": mostly(1, 2, 0),
        "code": mostly(1, 2, 0),
        "reserved": mostly(0, 1),
        "debits_pending": mostly(0, 1),
        "credits_posted": mostly(0, 1),
        "timestamp": mostly(0, 1),
    },
    USER_DATA,
)
TRANSFERS = events(
    {
        "id": TRANSFER_IDS,
        "debit_account_id": IDS,
        "credit_account_id": IDS,
        "amount": AMOUNTS,
        "flags": flags("TRANSFER", without=T["imported"] | RESOLVES),
        "ledger": mostly(1, 2, 0),
        "code": mostly(1, 2, 0),
        "timeout": mostly(0, 1, 2),
        "pending_id": mostly(0, 1),
    },
    USER_DATA,
)
RESOLUTIONS = events(
    {
        "id": TRANSFER_IDS,
        "pending_id": PENDING_IDS,
        "amount": st.one_of(st.sampled_from((0, MAX)), AMOUNTS),
        "flags": st.sampled_from((T["post_pending_transfer"], T["void_pending_transfer"])),
        "debit_account_id": mostly(0, 1, 2),
        "ledger": mostly(0, 1, 2),
        "timeout": mostly(0, 1),
    },
    USER_DATA,
)
SETTINGS = events(
    {
        "id": TRANSFER_IDS,
        "account_id": IDS,
        "flags": flags("ACCOUNT_SETTINGS"),
        "reserved_128": mostly(0, 1),
        "pending_id": st.just(0),
    },
    {**USER_DATA, "overdraft": AMOUNTS, "ceiling": AMOUNTS},
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
        self.now, self.next_id = SECOND, 5

    @staticmethod
    def make_ledger() -> Any:
        """Return a new ledger to be compared with the oracle."""
        return StateLedger()

    def _complete(self, events: list[Record]) -> list[Record]:
        """Put ids in the place of the stand-ins."""
        pending = [
            row["id"] for row in self.pair.oracle.transfers.values() if row["flags"] & T["pending"]
        ]
        for event in events:
            if event["id"] == FRESH:
                event["id"], self.next_id = self.next_id, self.next_id + 1
            if event["pending_id"] <= CHOICE:
                ids = pending or [1]
                event["pending_id"] = ids[(CHOICE - event["pending_id"]) % len(ids)]
            if event["flags"] & T["pending"]:
                pending.insert(0, event["id"])
        return events

    def _send(self, method: str, events: list[Record], data: Any) -> None:
        self.now += len(events) + data.draw(STEPS, "step")
        places = st.integers(0, len(events) - 1)
        metadata = data.draw(
            st.one_of(st.just({}), st.dictionaries(places, METADATA, max_size=2)), "metadata"
        )
        dry_run = data.draw(st.sampled_from((False,) * 9 + (True,)), "dry run")
        self.pair.request(method, events, self.now, metadata, dry_run)

    def _maybe_imported(self, events: list[Record], flag: int, data: Any) -> None:
        if data.draw(st.integers(0, 3), "imported") == 0:
            for event in events:
                event["flags"] |= flag
                offsets = st.integers(-3, 3).map(lambda offset: self.now + offset)
                event["timestamp"] = data.draw(st.one_of(PAST, PAST, offsets), "timestamp")

    @initialize(chosen=st.lists(st.sampled_from(sorted(A.values())[1:4]), min_size=4, max_size=4))
    def some_accounts(self, chosen: list[int]) -> None:
        rows = [
            {"id": n, "ledger": 1, "code": 1, "flags": flags} for n, flags in enumerate(chosen, 1)
        ]
        self.pair.request("create_accounts", rows, self.now)

    @rule(events=ACCOUNTS, data=st.data())
    def accounts(self, events: list[Record], data: Any) -> None:
        self._maybe_imported(events, A["imported"], data)
        self._send("create_accounts", events, data)

    def _some_are_pending(self) -> bool:
        return bool(self.pair.oracle.resolutions)

    @precondition(_some_are_pending)
    @rule(events=RESOLUTIONS, data=st.data())
    def resolutions(self, events: list[Record], data: Any) -> None:
        self._send("create_transfers", self._complete(events), data)

    @rule(events=TRANSFERS, data=st.data())
    def transfers(self, events: list[Record], data: Any) -> None:
        self._complete(events)
        self._maybe_imported(events, T["imported"], data)
        self._send("create_transfers", events, data)

    @rule(
        first=TRANSFERS,
        second=RESOLUTIONS,
        data=st.data(),
    )
    def pending_and_resolution(self, first: list[Record], second: list[Record], data: Any) -> None:
        for event in first:
            event["flags"] |= T["pending"]
            if event["debit_account_id"] == event["credit_account_id"]:
                event["credit_account_id"] = event["debit_account_id"] % 4 + 1
            event["timeout"] = data.draw(st.integers(0, 2), "timeout")
        self._send("create_transfers", self._complete(first + second), data)

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
        for event in self._complete(events):
            del event["pending_id"]
            for bit, name in ((1, "overdraft"), (2, "ceiling")):
                if name in event and data.draw(st.integers(0, 5), "in force"):
                    event["flags"] |= bit
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
TestMachine.settings = _settings(100)


@pytest.mark.long
@pytest.mark.timeout(3600)
class TestMachineLong(Machine.TestCase):
    """The same, with more examples."""

    settings = _settings(EXAMPLES)
