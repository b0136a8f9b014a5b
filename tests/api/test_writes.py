"""What is posted: JSON and binary, one and many, dry runs, explanations, preferences, positions."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger._codec import CONTENT_TYPES, decode_results_binary, encode_events
from tests.api.harness import EXAMPLES, WRITES, Service


def event(event_id: int, debit: int, credit: int, amount: int | str) -> dict[str, Any]:
    """A transfer in ledger 156."""
    accounts = {"debit_account_id": debit, "credit_account_id": credit}
    return {"id": event_id, **accounts, "amount": amount, "ledger": 156, "code": 1}


async def test_results_come_in_order_with_names_and_numbers(bank: Service) -> None:
    answer = await bank.post(
        "/v1/transfers",
        [
            event(7, 1, 2, 100),
            event(8, 2, 1, "101"),
            event(9, 2, 3, "40"),
        ],
    )
    assert [(r["index"], r["status"], r["code"]) for r in answer.results] == [
        (0, "created", layout.CREATED),
        (1, "exceeds_credits", 54),
        (2, "created", layout.CREATED),
    ]
    times = [int(result["timestamp"]) for result in answer.results]
    assert times == list(range(times[0], times[0] + 3))
    again = await bank.transfer(7, 1, 2, 100)
    assert again.results[0] | {"timestamp": ""} == {
        "index": 0,
        "status": "exists",
        "code": 46,
        "timestamp": "",
    }
    assert int(again.results[0]["timestamp"]) == times[0]
    assert (await bank.transfer(8, 2, 1, 10)).statuses == ["id_already_failed"]


async def test_binary_and_json_say_the_same(bank: Service) -> None:
    events = layout.record_array(
        layout.TRANSFER,
        [
            event(7, 1, 2, 5),
            event(8, 2, 3, 9),
        ],
    )
    binary, results = CONTENT_TYPES["transfers"], CONTENT_TYPES["results"]
    first = await bank.post(
        "/v1/transfers",
        raw=events.tobytes(),
        headers={"Content-Type": binary, "Accept": results},
    )
    assert first.headers["Content-Type"] == results
    decided = decode_results_binary(first.raw)
    assert decided["status"].tolist() == [layout.CREATED, 54]
    second = await bank.post(
        "/v1/transfers", raw=events.tobytes(), headers={"Content-Type": binary}
    )
    assert second.statuses == ["exists", "id_already_failed"]
    third = await bank.post(
        "/v1/transfers",
        raw=encode_events("transfers", events),
        headers={"Content-Type": "application/json; charset=UTF-8", "Accept": results},
    )
    assert decode_results_binary(third.raw)["status"].tolist() == [46, 68]
    accounts = layout.record_array(layout.ACCOUNT, [{"id": 50, "ledger": 156, "code": 3}])
    accounts["reserved"] = 1
    refused = await bank.post(
        "/v1/accounts", raw=accounts.tobytes(), headers={"Content-Type": CONTENT_TYPES["accounts"]}
    )
    assert refused.statuses == ["reserved_field"]


async def test_a_full_request_of_8190(bank: Service) -> None:
    events = np.zeros(layout.REQUEST_EVENTS_MAX, layout.TRANSFER)
    events["id"]["lo"] = np.arange(1000, 1000 + len(events))
    events["debit_account_id"]["lo"] = 1
    events["credit_account_id"]["lo"] = 2
    events["amount"]["lo"] = 1
    events["ledger"], events["code"] = 156, 1
    headers = {"Content-Type": "application/json"}
    body = encode_events("transfers", events)
    assert len(body) > 1 << 19  # decoded on another thread
    answer = await bank.post("/v1/transfers", raw=body, headers=headers)
    assert answer.statuses == ["created"] * len(events)
    refusals = await bank.post(
        "/v1/transfers", raw=body, headers={**headers, "Prefer": "return=minimal"}
    )
    assert len(refusals.results) == len(events)
    account = (await bank.get("/v1/accounts/2")).json
    assert account["credits_posted"] == str(len(events))


async def test_a_dry_run_answers_and_changes_nothing(bank: Service) -> None:
    before = (await bank.get("/v1/accounts/2")).json
    wanted = EXAMPLES["create_transfers"][2]
    dry = await bank.post("/v1/transfers", wanted, dry_run="true")
    assert dry.statuses == ["created"]
    refused = {**wanted, "debit_account_id": "2", "credit_account_id": "1"}
    assert (await bank.post("/v1/transfers", refused, dry_run="true")).statuses == [
        "exceeds_credits"
    ]
    assert (await bank.get("/v1/accounts/2")).json == before
    assert (await bank.post("/v1/transfers", wanted, dry_run="false")).statuses == ["created"]
    for name in WRITES:
        method, path, body = EXAMPLES[name]
        if name != "create_transfers":
            assert (await bank.call(method, path, body, dry_run="true")).statuses == ["created"]
            assert (await bank.call(method, path, body)).statuses == ["created"]
            assert (await bank.call(method, path, body, dry_run="true")).statuses == ["exists"]


async def test_an_explanation_names_rule_balance_needed_and_available(bank: Service) -> None:
    await bank.transfer(7, 1, 2, 100)
    answer = await bank.post(
        "/v1/transfers",
        [
            {**EXAMPLES["create_transfers"][2], "id": "8"},
            {
                **EXAMPLES["create_transfers"][2],
                "id": "9",
                "debit_account_id": "2",
                "credit_account_id": "1",
                "amount": str(2**100),
            },
        ],
        explain="true",
        dry_run="true",
    )
    assert "explanation" not in answer.results[0]
    why = answer.results[1]["explanation"]
    assert why["account_id"] == "2"
    assert why["needed"] == str(2**100)
    assert why["available"] == "105"
    assert why["balances"]["credits_posted"] == "105"
    assert why["rule"] == "debits would exceed the posted credits"


async def test_return_minimal_leaves_out_what_was_created(bank: Service) -> None:
    body = [
        {"id": "60", "ledger": 156, "code": 1},
        {"id": "0", "ledger": 156, "code": 1},
        {"id": "61", "ledger": 0, "code": 1},
    ]
    answer = await bank.post("/v1/accounts", body, headers={"Prefer": "return=minimal, wait=3"})
    assert [(r["index"], r["status"]) for r in answer.results] == [
        (1, "id_must_not_be_zero"),
        (2, "ledger_must_not_be_zero"),
    ]
    assert answer.headers["Preference-Applied"] == "return=minimal"


REFUSED = {
    "create_accounts": {"id": "0", "ledger": 156, "code": 1},
    "create_transfers": {**EXAMPLES["create_transfers"][2], "id": "77", "debit_account_id": "9"},
    "change_settings": {"id": "90", "account_id": "99"},
    "define": {"id": "90", "kind": "code", "code": 0},
    "move_business_date": {"id": "90", "date": "2026-02-30"},
}


@pytest.mark.parametrize("name", WRITES)
async def test_handling_strict_makes_a_refusal_an_error(bank: Service, name: str) -> None:
    method, path, good = EXAMPLES[name]
    strict = {"Prefer": 'handling="strict"'}
    lenient = await bank.call(method, path, REFUSED[name])
    assert lenient.status == 200
    assert lenient.statuses != ["created"]
    answer = await bank.call(method, path, [REFUSED[name]], headers=strict, explain="true")
    assert answer.status == 422
    assert answer.code == "event_refused"
    assert answer.json["event_code"] >= 1
    assert "explanation" in answer.json
    created = await bank.call(method, path, good, headers=strict)
    assert created.status == 200
    assert created.headers["Preference-Applied"] == "handling=strict"
    again = await bank.call(method, path, good, headers=strict)
    assert again.statuses == ["exists"]


async def test_positions_move_on_and_reads_wait_for_them(bank: Service) -> None:
    positions = []
    for number in range(3):
        answer = await bank.transfer(700 + number, 1, 2, 1)
        positions.append(tuple(map(int, answer.headers["Ledger-Position"].split(":"))))
    assert positions == sorted(set(positions))
    at = ":".join(map(str, positions[-1]))
    account = await bank.get("/v1/accounts/2", min_position=at)
    assert account.json["credits_posted"] == "3"
    whole = positions[-1][0] << layout.INDEX_BITS | positions[-1][1]
    assert (await bank.get("/v1/accounts/2", min_position=str(whole))).status == 200


async def test_many_requests_at_once_are_all_answered(bank: Service) -> None:
    answers = await asyncio.gather(*(bank.transfer(2000 + i, 1, 2, 1) for i in range(200)))
    assert {tuple(answer.statuses) for answer in answers} == {("created",)}
    assert (await bank.get("/v1/accounts/2")).json["credits_posted"] == "200"
    times = {answer.results[0]["timestamp"] for answer in answers}
    assert len(times) == 200


async def test_settings_definitions_and_the_business_date_show(bank: Service) -> None:
    await bank.created(
        "/v1/account-settings",
        {"id": "5", "account_id": "3", "overdraft": "1000", "flags": ["overdraft"]},
    )
    assert (await bank.transfer(7, 3, 1, 900)).statuses == ["created"]
    assert (await bank.transfer(8, 3, 1, 101)).statuses == ["exceeds_overdraft"]
    account = (await bank.get("/v1/accounts/3")).json
    assert (account["balance"], account["available"]) == ("-900", "100")
    assert (account["settings"], account["overdraft"]) == (["overdraft"], "1000")
    assert account["balance_text"] == "-9.00 CNY"
    assert (await bank.get("/v1/trial-balance")).json["business_date"] is None
    await bank.created("/v1/business-date", {"id": "6", "date": "2026-03-31"})
    assert (await bank.get("/v1/trial-balance")).json["business_date"] == "2026-03-31"
    answer = await bank.post("/v1/business-date", {"id": "7", "date": 20260331})
    assert answer.statuses == ["date_must_advance"]
    redeclared = {"id": "8", "kind": "ledger", "ledger": 156, "exponent": 3}
    await bank.created("/v1/definitions", redeclared)
    assert (await bank.get("/v1/accounts/3")).json["balance_text"] == "-0.900"


async def test_a_signing_key_is_announced_by_its_vkey(bank: Service) -> None:
    vkey = "bank.example/1+80ba27c8+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    key = {"id": "8", "kind": "signing_key", "metadata": {"vkey": vkey}}
    for metadata in ({}, {"vkey": vkey[:-1]}, {"vkey": vkey, "name": "key"}, {"vkey": [vkey]}):
        answer = await bank.post("/v1/definitions", {**key, "metadata": metadata})
        assert answer.statuses == ["signing_key_malformed"]
    await bank.created("/v1/definitions", key)
    assert (await bank.post("/v1/definitions", key)).statuses == ["exists"]
    assert (await bank.transfer(7, 1, 2, 900)).statuses == ["created"]
    assert (await bank.get("/v1/accounts/2")).json["balance_text"] == "9.00 CNY"


async def test_metadata_is_kept_in_canonical_form_and_compared(bank: Service) -> None:
    wanted = {**EXAMPLES["create_transfers"][2], "metadata": {"b": 1.50, "a": "工资"}}
    await bank.created("/v1/transfers", wanted)
    shown = await bank.get("/v1/transfers/90")
    assert shown.json["metadata"] == {"a": "工资", "b": 1.5}
    assert '"metadata":{"a":"工资","b":1.5}'.encode() in shown.raw
    assert (await bank.post("/v1/transfers", wanted)).statuses == ["exists"]
    other = {**wanted, "metadata": {"b": 1.5, "a": "奖金"}}
    assert (await bank.post("/v1/transfers", other)).statuses == ["exists_with_different_metadata"]
    assert (await bank.get("/v1/accounts/3")).json["metadata"] == {"name": "王芳"}
    assert "metadata" not in (await bank.get("/v1/accounts/2")).json


async def test_the_request_id_comes_back(bank: Service) -> None:
    answer = await bank.call("GET", "/livez", headers={"X-Request-Id": "a-b.c:9"})
    assert answer.headers["X-Request-Id"] == "a-b.c:9"
    for wrong in ("a b", "x" * 129, "é"):
        answer = await bank.call("GET", "/livez", headers={"X-Request-Id": wrong})
        assert answer.headers["X-Request-Id"] != wrong
