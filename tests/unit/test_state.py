"""``ledger.State``: conversion of what callers pass, time, options and look-ups; the rules have
tests of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ledger
from ledger import layout
from ledger.errors import RequestRefused
from ledger.state import records

SECOND = 1_000_000_000
PENDING = layout.flag_mask("TRANSFER", "pending")
HISTORY = layout.flag_mask("ACCOUNT", "history")
BOTH_SIDES = layout.flag_mask("ACCOUNT_FILTER", "debits", "credits")


def account(account_id: int, **fields: Any) -> dict[str, Any]:
    return {"id": account_id, "ledger": 1, "code": 1, **fields}


def transfer(transfer_id: int, amount: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": transfer_id,
        "debit_account_id": 1,
        "credit_account_id": 2,
        "amount": amount,
        "ledger": 1,
        "code": 1,
        **fields,
    }


@pytest.fixture
def state() -> ledger.State:
    state = ledger.State()
    results = state.create_accounts([account(1, flags=HISTORY), account(2)], 10)
    assert results["timestamp"].tolist() == [9, 10]
    return state


def names(kind: str, results: np.ndarray) -> list[str]:
    return [layout.STATUS_NAMES[kind][int(status)] for status in results["status"]]


def ints(column: np.ndarray) -> list[int]:
    return [layout.to_int(value) for value in column]


def test_events_happen_at_the_time_that_is_passed_in(state: ledger.State) -> None:
    results = state.create_transfers([transfer(7), transfer(8, code=0), transfer(9)], 103)
    assert results["timestamp"].tolist() == [101, 102, 103]
    assert names("TRANSFER", results) == ["created", "code_must_not_be_zero", "created"]
    assert state.lookup_transfers([9, 7])["timestamp"].tolist() == [103, 101]


def test_time_must_advance(state: ledger.State) -> None:
    state.create_transfers([transfer(7)], 100)
    with pytest.raises(RequestRefused, match="begin before the last one, 100 ns") as raised:
        state.create_transfers([transfer(8), transfer(9)], 101)
    assert raised.value.code == "timestamp_must_advance"
    assert names("TRANSFER", state.create_transfers([transfer(8), transfer(9)], 102)) == [
        "created",
        "created",
    ]
    with pytest.raises(RequestRefused):
        state.create_transfers([transfer(10)], 1 << 63)


@pytest.mark.parametrize(
    "kind",
    [
        "create_accounts",
        "create_transfers",
        "change_settings",
        "define",
        "move_business_date",
    ],
)
def test_empty_requests_answer_empty(state: ledger.State, kind: str) -> None:
    results = getattr(state, kind)([], 5)
    assert results.dtype == layout.RESULT
    assert len(results) == 0


def test_lookups_answer_what_exists_in_the_order_asked(state: ledger.State) -> None:
    state.create_transfers([transfer(7, 5)], 20)
    assert ints(state.lookup_accounts([2, 99, 1])["id"]) == [2, 1]
    assert ints(state.lookup_accounts(np.zeros(0, layout.U128))["id"]) == []
    assert ints(state.lookup_transfers([99, 7, 98])["amount"]) == [5]
    assert len(state.lookup_transfers([])) == 0


def test_burned_ids_are_no_transfers(state: ledger.State) -> None:
    results = state.create_transfers([transfer(7, debit_account_id=99)], 20)
    assert names("TRANSFER", results) == ["debit_account_not_found"]
    assert len(state.lookup_transfers([7])) == 0
    assert names("TRANSFER", state.create_transfers([transfer(7)], 21)) == ["id_already_failed"]


def test_filters_answer_from_history(state: ledger.State) -> None:
    state.create_transfers(
        [transfer(7, 5), transfer(8, 6, user_data_64=3), transfer(9, 7, flags=PENDING)], 30
    )
    mine = {"account_id": 1, "flags": BOTH_SIDES, "limit": 10}
    assert ints(state.get_account_transfers([mine])["id"]) == [7, 8, 9]
    assert ints(state.get_account_transfers([{**mine, "user_data_64": 3}])["id"]) == [8]
    balances = state.get_account_balances([mine])
    assert ints(balances["debits_posted"]) == [5, 11, 11]
    assert ints(balances["debits_pending"]) == [0, 0, 7]
    assert len(state.get_account_balances([{**mine, "account_id": 2}])) == 0
    assert ints(state.query_accounts([{"limit": 10}])["id"]) == [1, 2]
    assert ints(state.query_transfers([{"limit": 2}])["id"]) == [7, 8]
    events = state.get_change_events([{"limit": 10}])
    assert ints(events["debit_account_debits_posted"]) == [5, 11, 11]
    assert len(state.query_transfers([{"limit": 0}])) == 0


def test_sweep_expires_in_order_and_once(state: ledger.State) -> None:
    state.create_transfers(
        [transfer(7, flags=PENDING, timeout=2), transfer(8, flags=PENDING, timeout=1)], 30
    )
    assert state.expire(SECOND + 29) == 0
    assert state.expire(3 * SECOND) == 2
    assert state.expire(3 * SECOND) == 0
    events = state.get_change_events([{"limit": 10}])[2:]
    assert ints(events["transfer_id"]) == [8, 7]
    assert events["timestamp"].tolist() == [3 * SECOND - 1, 3 * SECOND]


def test_dry_run_leaves_nothing_not_even_the_time(state: ledger.State) -> None:
    results = state.create_transfers([transfer(7), transfer(8, code=0)], 50, dry_run=True)
    assert names("TRANSFER", results) == ["created", "code_must_not_be_zero"]
    assert len(state.lookup_transfers([7])) == 0
    assert names("TRANSFER", state.create_transfers([transfer(7)], 11)) == ["created"]


def test_refusals_are_explained(state: ledger.State) -> None:
    limited = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
    state.create_accounts([account(3, flags=limited)], 20)
    state.create_transfers([transfer(7, 5, debit_account_id=3)], 30, explain=True)
    assert [e["status"] for e in state.explanations] == ["exceeds_credits"]
    assert state.explanations[0]["needed"] == 5
    assert state.explanations[0]["available"] == 0


def test_metadata_counts_for_exists(state: ledger.State) -> None:
    state.create_transfers([transfer(7)], 20, metadata={0: b'{"text":"rent"}'})
    again = state.create_transfers([transfer(7)], 30, metadata={0: b'{"text":"rent"}'})
    assert names("TRANSFER", again) == ["exists"]
    other = state.create_transfers([transfer(7)], 40)
    assert names("TRANSFER", other) == ["exists_with_different_metadata"]


def test_settings_definitions_and_business_date_are_kept(state: ledger.State) -> None:
    results = state.change_settings(
        [
            {
                "id": 1,
                "account_id": 1,
                "flags": layout.flag_mask("ACCOUNT_SETTINGS", "debits_blocked"),
            }
        ],
        20,
    )
    assert names("ADMINISTRATIVE", results) == ["created"]
    assert names("TRANSFER", state.create_transfers([transfer(7)], 30)) == ["debits_blocked"]
    ledger_kind = layout.DEFINITION_KINDS["ledger"][0]
    results = state.define([{"id": 2, "kind": ledger_kind, "ledger": 1, "exponent": 2}], 40)
    assert names("ADMINISTRATIVE", results) == ["created"]
    results = state.move_business_date([{"id": 3, "date": 20260105}], 50)
    assert names("ADMINISTRATIVE", results) == ["created"]
    assert state.core.business_date == 20260105
    again = state.move_business_date([{"id": 3, "date": 20260105}], 60)
    assert names("ADMINISTRATIVE", again) == ["exists"]


def test_what_can_be_made_into_records() -> None:
    array = layout.record_array(layout.TRANSFER, [transfer(7), transfer(8)])
    for given in (array, array.tobytes(), [transfer(7), transfer(8)], list(array), array[::1]):
        assert records(layout.TRANSFER, given).tobytes() == array.tobytes()
    assert records(layout.TRANSFER, array[1]).tobytes() == array[1:].tobytes()
    spread = np.concatenate([array, array])[::2]
    assert records(layout.TRANSFER, spread).flags.c_contiguous
    aligned = np.zeros(1, np.dtype({"names": ["id", "code"], "formats": [layout.U128, "<u4"]}))
    aligned["id"]["lo"], aligned["code"] = 7, 3
    converted = records(layout.TRANSFER, aligned)
    assert (int(converted["id"]["lo"][0]), int(converted["code"][0])) == (7, 3)


@pytest.mark.parametrize(
    "given", [5, "text", [1, 2], np.zeros(3), np.zeros((2, 2), layout.ACCOUNT)]
)
def test_what_cannot_be_made_into_records(given: Any) -> None:
    with pytest.raises(TypeError):
        records(layout.TRANSFER, given)


def test_the_same_requests_give_the_same_bytes() -> None:
    states = [ledger.State(), ledger.State()]
    for state in states:
        state.create_accounts([account(1), account(2)], 10)
        state.create_transfers([transfer(i, i) for i in range(1, 50)], 100)
    blocks = [state._store.disk.blocks for state in states]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 2


def test_importing_the_layout_loads_no_compiled_module() -> None:
    script = "import sys, ledger.layout; sys.exit('ledger._core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
