"""What is read: accounts, statements, balances in the past, look-ups, queries, sums."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.harness import Service


async def test_an_account_shows_where_it_stands(bank: Service) -> None:
    await bank.transfer(7, 1, 2, 1234)
    await bank.transfer(8, 2, 3, 34, flags=["pending"])
    account = (await bank.get("/v1/accounts/2")).json
    assert account["credits_posted"] == "1234"
    assert account["debits_pending"] == "34"
    assert (account["normal_side"], account["balance"], account["available"]) == (
        "credit",
        "1234",
        "1200",
    )
    assert account["balance_text"] == "12.34 CNY"
    assert account["entry_count"] == "3"
    assert account["user_data_64"] == "77"
    cash = (await bank.get("/v1/accounts/00000000-0000-0000-0000-000000000001")).json
    assert (cash["normal_side"], cash["balance"], cash["available"]) == ("debit", "1234", None)
    missing = await bank.get("/v1/accounts/99")
    assert (missing.status, missing.code) == (404, "account_not_found")


async def test_transfers_by_id(bank: Service) -> None:
    await bank.transfer(7, 1, 2, 5)
    found = (await bank.get("/v1/transfers/7")).json
    assert (found["id"], found["amount"], found["debit_account_id"]) == ("7", "5", "1")
    assert found["time"].endswith("Z")
    missing = await bank.get("/v1/transfers/8")
    assert (missing.status, missing.code) == (404, "transfer_not_found")


async def test_look_ups_keep_the_order_and_say_null(bank: Service) -> None:
    await bank.transfer(7, 1, 2, 5)
    accounts = (await bank.post("/v1/accounts/lookup", ["3", "99", 1, "3"])).json["data"]
    assert [one and one["id"] for one in accounts] == ["3", None, "1", "3"]
    assert accounts[2]["balance"] == "5"
    transfers = (await bank.post("/v1/transfers/lookup", {"ids": ["9", "7"]})).json["data"]
    assert [one and one["id"] for one in transfers] == [None, "7"]


async def month(bank: Service) -> list[dict[str, Any]]:
    """Twenty-five transfers of account 2, in and out, and what each did."""
    done = []
    for number in range(25):
        amount, outgoing = 10 + number, number % 3 == 2
        more: dict[str, Any] = {"user_data_32": number % 2, "code": 1 + number % 5}
        if number == 7:
            more["metadata"] = {"text": "Miete"}
        sides = (2, 3) if outgoing else (1, 2)
        answer = await bank.transfer(100 + number, *sides, amount, **more)
        assert answer.statuses == ["created"]
        done.append(
            {
                "id": str(100 + number),
                "delta": -amount if outgoing else amount,
                "timestamp": answer.results[0]["timestamp"],
                **more,
            }
        )
    return done


async def pages(bank: Service, path: str, **parameters: Any) -> list[Any]:
    found = []
    while True:
        page = (await bank.get(path, **parameters)).json
        found.append(page)
        if page["next"] is None:
            return found
        parameters["cursor"] = page["next"]


@pytest.mark.parametrize("limit", [1, 4, 5, 25, 1000])
@pytest.mark.parametrize("backwards", [False, True])
async def test_a_statement_runs_from_opening_to_closing(
    bank: Service, limit: int, backwards: bool
) -> None:
    done = await month(bank)
    path = "/v1/accounts/2/transfers"
    parameters = {"limit": str(limit), "reversed": "true" if backwards else "false"}
    found = await pages(bank, path, **parameters)
    assert len(found) == -(-25 // limit)
    lines = [line for page in found for line in page["data"]]
    lines = lines[::-1] if backwards else lines
    assert [line["id"] for line in lines] == [one["id"] for one in done]
    balance = 0
    for line, one in zip(lines, done, strict=True):
        balance += one["delta"]
        assert line["balance"] == str(balance)
        assert line["balance_text"] == f"{balance / 100:.2f} CNY"
        assert line["amount_text"] == f"{one['delta'] / 100:.2f} CNY"
        assert line["side"] == ("debit" if one["delta"] < 0 else "credit")
        assert int(line["credits_posted"]) - int(line["debits_posted"]) == balance
        assert line.get("metadata") == one.get("metadata")
    assert {page["opening"]["balance"] for page in found} == {"0"}
    assert {page["closing"]["balance"] for page in found} == {str(balance)}
    assert [int(line["entry_number"]) for line in lines] == list(range(1, 26))


async def test_a_statement_that_has_begun_does_not_move(bank: Service) -> None:
    done = await month(bank)
    path = "/v1/accounts/2/transfers"
    first = (await bank.get(path, limit="20")).json
    await bank.transfer(500, 1, 2, 1)
    second = (await bank.get(path, limit="20", cursor=first["next"])).json
    assert len(second["data"]) == 5
    assert second["closing"] == first["closing"]
    assert second["next"] is None
    link = (await bank.get(path, limit="20")).headers["Link"]
    assert link.endswith('; rel="next"')
    assert link.startswith("</v1/accounts/2/transfers?limit=20&cursor=")
    followed = await bank.session.get(bank.server.url + link[1 : link.index(">")])
    assert len((await followed.json())["data"]) == 6
    assert len(done) == 25


async def test_a_statement_of_a_time_and_of_one_side(bank: Service) -> None:
    done = await month(bank)
    path = "/v1/accounts/2/transfers"
    low, high = done[5]["timestamp"], done[14]["timestamp"]
    page = (await bank.get(path, timestamp_min=low, timestamp_max=high)).json
    assert [line["id"] for line in page["data"]] == [one["id"] for one in done[5:15]]
    opening, closing = (sum(one["delta"] for one in done[:n]) for n in (5, 15))
    assert page["opening"]["balance"] == str(opening)
    assert page["closing"]["balance"] == str(closing)
    debits = (await bank.get(path, side="debit")).json["data"]
    assert [line["id"] for line in debits] == [one["id"] for one in done if one["delta"] < 0]
    some = (await bank.get(path, user_data_32="1", code="2")).json["data"]
    assert [line["id"] for line in some] == [
        one["id"] for one in done if one["user_data_32"] == 1 and one["code"] == 2
    ]
    before = (await bank.get(path, timestamp_max="5")).json
    assert (before["data"], before["closing"]["balance"]) == ([], "0")


async def test_an_undeclared_ledger_has_no_texts(service: Service) -> None:
    await service.created(
        "/v1/accounts", [{"id": "1", "ledger": 9, "code": 1}, {"id": "2", "ledger": 9, "code": 1}]
    )
    event = {"id": 7, "debit_account_id": 1, "credit_account_id": 2, "amount": 5, "ledger": 9}
    await service.created("/v1/transfers", {**event, "code": 1})
    page = (await service.get("/v1/accounts/2/transfers")).json
    assert "currency" not in page
    assert "amount_text" not in page["data"][0]
    assert page["closing"]["balance"] == "-5"
    assert "balance_text" not in (await service.get("/v1/accounts/2")).json


async def test_an_empty_statement_and_a_missing_account(bank: Service) -> None:
    page = (await bank.get("/v1/accounts/3/transfers")).json
    assert (page["data"], page["next"]) == ([], None)
    assert page["opening"] == page["closing"]
    for path in ("/v1/accounts/99/transfers", "/v1/accounts/99/balance"):
        assert (await bank.get(path)).code == "account_not_found"


async def test_the_balance_at_every_time(bank: Service) -> None:
    done = await month(bank)
    balance = 0
    for one in done:
        at = int(one["timestamp"])
        before = (await bank.get("/v1/accounts/2/balance", at=str(at - 1))).json
        assert before["balance"] == str(balance)
        balance += one["delta"]
        after = (await bank.get("/v1/accounts/2/balance", at=str(at))).json
        assert after["balance"] == str(balance)
        assert after["timestamp"] == str(at)
        same = (await bank.get("/v1/accounts/2/balance", at=after["time"])).json
        assert same == after
    now = (await bank.get("/v1/accounts/2/balance")).json
    assert now["balance"] == str(balance)
    early = await bank.get("/v1/accounts/2/balance", at="1")
    assert (early.status, early.code) == (404, "account_not_found")
    ahead = await bank.get("/v1/accounts/2/balance", at="2200-01-01T00:00:00Z")
    assert (ahead.status, ahead.code) == (409, "time_ahead")


@pytest.mark.parametrize("backwards", [False, True])
async def test_queries_page_by_page(bank: Service, backwards: bool) -> None:
    done = await month(bank)

    async def ask(**query: Any) -> list[dict[str, Any]]:
        if backwards:
            query["flags"] = ["reversed"]
        rows: list[dict[str, Any]] = []
        while True:
            page = (await bank.post("/v1/query", query)).json
            assert len(page["data"]) <= query["limit"]
            rows += page["data"]
            if page["next"] is None:
                return rows[::-1] if backwards else rows
            query["cursor"] = page["next"]

    ids = [one["id"] for one in done]
    assert [row["id"] for row in await ask(type="transfers", limit=4)] == ids
    assert [row["id"] for row in await ask(type="transfers", limit=1000)] == ids
    some = await ask(type="transfers", limit=3, code=2, ledger=156)
    assert [row["id"] for row in some] == [one["id"] for one in done if one["code"] == 2]
    middle = await ask(
        type="transfers",
        limit=2,
        timestamp_min=done[3]["timestamp"],
        timestamp_max=done[8]["timestamp"],
    )
    assert [row["id"] for row in middle] == ids[3:9]
    assert [row["id"] for row in await ask(type="accounts", limit=2)] == ["1", "2", "3"]
    assert [row["id"] for row in await ask(type="accounts", limit=2, code=20)] == ["2", "3"]
    assert await ask(type="accounts", limit=2, user_data_64="1") == []


async def test_change_events_as_a_query(bank: Service) -> None:
    done = await month(bank)
    query: dict[str, Any] = {"type": "change_events", "limit": 10}
    rows = []
    while True:
        page = (await bank.post("/v1/query", query)).json
        rows += page["data"]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert [row["transfer_id"] for row in rows] == [one["id"] for one in done]
    assert rows[0]["type"] == "single_phase"
    assert rows[0]["credit_account_credits_posted"] == "10"


async def test_the_trial_balance_cancels(bank: Service) -> None:
    await month(bank)
    await bank.created("/v1/accounts", {"id": "70", "ledger": 840, "code": 5})
    await bank.transfer(900, 1, 3, 500, flags=["pending"])
    page = (await bank.get("/v1/trial-balance")).json
    assert [(line["ledger"], line["code"], line["account_count"]) for line in page["data"]] == [
        (156, 10, 1),
        (156, 20, 2),
        (840, 5, 1),
    ]
    assert page["data"][0]["ledger_name"] == "人民币"
    assert page["data"][1]["code_name"] == "Deposits"
    for total in page["totals"]:
        assert total["debits_posted"] == total["credits_posted"]
        assert total["debits_pending"] == total["credits_pending"]
    assert page["totals"][0]["debits_pending"] == "500"
    one = (await bank.get("/v1/trial-balance", ledger="840")).json
    assert [line["code"] for line in one["data"]] == [5]
