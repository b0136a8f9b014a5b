"""The oracle against cases worked out by hand, independently of the tables."""

from __future__ import annotations

from typing import Any

from ledger import layout
from tests.model.reference import Reference

CREATED = layout.CREATED
STATUS = layout.STATUS_NUMBERS["TRANSFER"]


def _flags(*names: str) -> int:
    return layout.flag_mask("TRANSFER", *names)


def _ledger(*account_flags: int) -> Reference:
    reference = Reference()
    events: list[dict[str, Any]] = [
        {"id": number, "ledger": 1, "code": 1, "flags": flags}
        for number, flags in enumerate(account_flags, 1)
    ]
    results = reference.create_accounts(events, 1000)
    assert [status for status, _ in results] == [CREATED] * len(events)
    return reference


def _transfer(identifier: int, amount: int, flags: int = 0, **fields: int) -> dict[str, int]:
    row = {"id": identifier, "debit_account_id": 1, "credit_account_id": 2}
    return {**row, "amount": amount, "ledger": 1, "code": 1, "flags": flags, **fields}


def test_times_of_a_request_end_at_its_timestamp() -> None:
    reference = _ledger(0, 0)
    assert [a["timestamp"] for a in reference.lookup_accounts([1, 2])] == [999, 1000]


def test_debits_equal_credits_after_every_kind_of_transfer() -> None:
    reference = _ledger(0, 0)
    pending, post = _flags("pending"), _flags("post_pending_transfer")
    events = [
        _transfer(1, 70),
        _transfer(2, 30, pending, timeout=1),
        _transfer(3, 20, pending),
        {"id": 4, "pending_id": 3, "amount": 5, "flags": post},
    ]
    results = reference.create_transfers(events, 2000)
    assert results == [(CREATED, 1997), (CREATED, 1998), (CREATED, 1999), (CREATED, 2000)]
    debit, credit = reference.lookup_accounts([1, 2])
    assert (debit["debits_pending"], debit["debits_posted"]) == (30, 75)
    assert (credit["credits_pending"], credit["credits_posted"]) == (30, 75)
    assert reference.expire(1998 + 10**9 - 1) == 0
    assert reference.expire(1998 + 10**9) == 1
    assert reference.lookup_accounts([1])[0]["debits_pending"] == 0


def test_a_broken_chain_and_a_dry_run_leave_no_trace() -> None:
    reference = _ledger(0, 0)
    before = repr(vars(reference))
    linked = _flags("linked")
    events = [_transfer(1, 5, linked), _transfer(2, 5, linked | _flags("pending")), _transfer(0, 5)]
    statuses = [status for status, _ in reference.create_transfers(events, 2000)]
    failed = STATUS["linked_event_failed"]
    assert statuses == [failed, failed, STATUS["id_must_not_be_zero"]]
    assert repr(vars(reference)) == before
    burning = [_transfer(1, 5), _transfer(2, 5, credit_account_id=9)]
    dry = reference.create_transfers(burning, 3000, None, True)
    assert repr(vars(reference)) == before
    assert reference.create_transfers(burning, 3000) == dry
    assert list(reference.burned) == [2]


def test_a_burned_id_survives_its_chain() -> None:
    reference = _ledger(0, 0)
    events = [_transfer(1, 5, _flags("linked")), _transfer(2, 5, credit_account_id=9)]
    reference.create_transfers(events, 2000)
    assert (list(reference.transfers), list(reference.burned)) == ([], [2])


def test_amounts_are_exact_at_128_bits() -> None:
    reference = _ledger(0, 0)
    half = 1 << 127
    events = [_transfer(1, half), _transfer(2, half - 1), _transfer(3, 1)]
    statuses = [status for status, _ in reference.create_transfers(events, 2000)]
    assert statuses == [CREATED, CREATED, STATUS["overflows_debits_posted"]]
    assert reference.lookup_accounts([1])[0]["debits_posted"] == layout.U128_MAX
