"""The client against a real server behind a proxy that breaks connections, loses answers and
says 5xx.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from ledger import layout
from ledger.cli.process import ServerProcess
from ledger.client import (
    Client,
    NotFound,
    NotTaken,
    OutcomeUnknown,
    Refused,
    Result,
    Unreachable,
)
from ledger.storage import directory as data_directory

LEDGER, CODE = 7, 10
EXISTS = layout.STATUS_NUMBERS["TRANSFER"]["exists"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    path = tmp_path_factory.mktemp("client") / "data"
    data_directory.create(path)
    with ServerProcess(path) as running:
        yield running


@pytest.fixture
def numbers() -> Iterator[int]:
    """Ids that no other test has."""
    return iter(range(uuid.uuid4().int >> 8, layout.U128_MAX))


class Proxy:
    """Hands requests on to a server; what goes wrong with the next ones is in ``faults``, in order.

    lose_request: the connection breaks before the server sees anything. lose_answer: it breaks
    after the server has answered. cut_answer: half of the answer arrives. 500, 502: the server did
    it, the answer says otherwise. 503, 429: turned away before the server, with Retry-After. slow:
    the answer takes longer than the client waits.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[str] = []
        self.seen: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(f"{request.method} {request.path}")
        fault = self.faults.pop(0) if self.faults else "none"
        assert request.transport is not None
        if fault == "lose_request":
            request.transport.abort()
            return web.Response()
        if fault in ("503", "429"):
            return web.Response(
                status=int(fault),
                text='{"title": "not now", "status": 503, "code": "queue_full"}',
                content_type="application/problem+json",
                headers={"Retry-After": "1"},
            )
        headers = {k: v for k, v in request.headers.items() if k not in ("Host", "Content-Length")}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self.upstream + str(request.rel_url), data=body, headers=headers
            ) as answer,
        ):
            data = await answer.read()
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k in ("Content-Type", "Ledger-Position", "Link")
            }
            if fault == "lose_answer":
                request.transport.abort()
                return web.Response()
            if fault in ("500", "502"):
                return web.Response(status=int(fault), text="<html>bad gateway</html>")
            if fault == "slow":
                await asyncio.sleep(0.8)
            if fault == "cut_answer":
                response = web.StreamResponse(status=answer.status, headers=kept)
                response.content_length = len(data)
                await response.prepare(request)
                await response.write(data[: len(data) // 2])
                request.transport.abort()
                return response
            return web.Response(status=answer.status, body=data, headers=kept)


@asynccontextmanager
async def proxied(server: ServerProcess, *faults: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(server.url)
    proxy.faults += faults
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        await runner.cleanup()


async def two_accounts(client: Client, numbers: Iterator[int]) -> tuple[int, int]:
    one, other = next(numbers), next(numbers)
    results = await client.create_accounts(
        [{"id": one, "ledger": LEDGER, "code": CODE}, {"id": other, "ledger": LEDGER, "code": CODE}]
    )
    assert [result.status for result in results] == ["created", "created"]
    return one, other


def payment(id: int, debit: int, credit: int, amount: int = 5, **more: object) -> dict[str, object]:
    return {
        "id": id, "debit_account_id": debit, "credit_account_id": credit, "amount": amount,
        "ledger": LEDGER, "code": CODE, **more,
    }  # fmt: skip


def record(id: int, debit: int, credit: int, amount: int = 5, flags: int = 0) -> dict[str, object]:
    return payment(id, debit, credit, amount, flags=flags)


FAULTS = ["lose_request", "lose_answer", "cut_answer", "500", "502", "503", "429", "slow"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
async def test_a_transfer_takes_effect_once_whatever_happens_to_the_answer(
    server: ServerProcess, numbers: Iterator[int], fault: str, binary: bool
) -> None:
    async with proxied(server) as proxy, Client(proxy.url, timeout_s=0.4) as client:
        one, other = await two_accounts(client, numbers)
        id = next(numbers)
        proxy.faults = [fault, fault]
        proxy.seen.clear()
        if binary:
            results = await client.create_transfers(
                layout.record_array(layout.TRANSFER, [record(id, one, other)])
            )
            assert results["status"].tolist() == [layout.CREATED]
            timestamp = int(results["timestamp"][0])
        else:
            (result,) = await client.create_transfers(payment(id, one, other))
            assert result.created
            timestamp = result.timestamp
        assert len(proxy.seen) >= 3
        stored = await client.transfer(id)
        assert (stored.amount, stored.timestamp) == (5, timestamp)
        assert (await client.account(one)).debits_posted == 5


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
async def test_a_repeated_chain_counts_as_created_with_its_timestamps(
    server: ServerProcess, numbers: Iterator[int], binary: bool
) -> None:
    async with proxied(server) as proxy, Client(proxy.url) as client:
        one, other = await two_accounts(client, numbers)
        ids = [next(numbers) for _ in range(4)]
        proxy.faults = ["lose_answer"]
        if binary:
            results = await client.create_transfers(
                layout.record_array(
                    layout.TRANSFER, [record(i, one, other, flags=i != ids[2]) for i in ids[:3]]
                )
            )
            assert results["status"].tolist() == [layout.CREATED] * 3
            times = results["timestamp"].tolist()
        else:
            chain = [payment(i, one, other) for i in ids[:3]]
            for event in chain[:-1]:
                event["flags"] = ["linked"]
            outcomes = await client.create_transfers(chain)
            assert all(outcome.created for outcome in outcomes)
            times = [outcome.timestamp for outcome in outcomes]
        stored = await client.lookup_transfers(ids)
        assert stored[3] is None
        assert [t.timestamp for t in stored if t] == times
        assert (await client.account(one)).debits_posted == 15


async def test_a_refused_chain_stays_refused_after_a_retry(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with proxied(server) as proxy, Client(proxy.url) as client:
        one, other = await two_accounts(client, numbers)
        first, second = next(numbers), next(numbers)
        proxy.faults = ["lose_answer"]
        results = await client.create_transfers(
            [payment(first, one, other, flags=["linked"]), payment(second, one, 0xDEAD)]
        )
        assert results[0].status == "linked_event_failed"
        assert results[1].status == "id_already_failed"
        assert (await client.account(one)).debits_posted == 0


@pytest.mark.parametrize(
    ("policy", "first", "again"),
    [("never", "created", "exists"), ("always", "created", "created"),
     ("after_retry", "created", "exists")],
)  # fmt: skip
async def test_exists_without_a_retry_is_reported_by_policy(
    server: ServerProcess, numbers: Iterator[int], policy: str, first: str, again: str
) -> None:
    async with Client(server.url, exists=policy) as client:  # type: ignore[arg-type]
        one, other = await two_accounts(client, numbers)
        event = payment(next(numbers), one, other)
        (once,) = await client.create_transfers(event)
        (twice,) = await client.create_transfers(event)
        assert (once.status, twice.status) == (first, again)
        assert once.timestamp == twice.timestamp


async def test_never_reports_exists_even_after_a_retry(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with proxied(server) as proxy, Client(proxy.url, exists="never") as client:
        one, other = await two_accounts(client, numbers)
        proxy.faults = ["lose_answer"]
        events = layout.record_array(layout.TRANSFER, [record(next(numbers), one, other)])
        results = await client.create_transfers(events)
        assert results["status"].tolist() == [EXISTS]


async def test_retry_after_is_waited_for(server: ServerProcess, numbers: Iterator[int]) -> None:
    async with proxied(server) as proxy, Client(proxy.url) as client:
        proxy.faults = ["503"]
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.create_accounts({"id": next(numbers), "ledger": LEDGER, "code": CODE})
        assert loop.time() - began >= 1.0


async def test_what_a_client_raises_when_it_gives_up(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    event = {"id": next(numbers), "ledger": LEDGER, "code": CODE}
    async with proxied(server) as proxy, Client(proxy.url, give_up_after_s=0.3) as client:
        proxy.faults = ["503"] * 100
        with pytest.raises(NotTaken) as turned_away:
            await client.create_accounts(event)
        assert (turned_away.value.status, turned_away.value.code) == (503, "queue_full")
        proxy.faults = ["lose_answer"] * 100
        with pytest.raises(OutcomeUnknown):
            await client.create_accounts(event)
        proxy.faults = ["502"] * 100
        with pytest.raises(OutcomeUnknown):
            await client.create_accounts(event)
        proxy.faults = ["lose_request"] * 100
        with pytest.raises(Unreachable):
            await client.account(1)
        # Turned away at last, but an earlier try may have done it.
        proxy.faults = ["lose_answer"] + ["503"] * 100
        with pytest.raises(OutcomeUnknown):
            await client.create_accounts(event)
        proxy.faults = []
        assert (await client.create_accounts(event))[0].status == "exists"


async def test_nothing_listens() -> None:
    async with Client("http://127.0.0.1:9", give_up_after_s=0.1) as client:
        with pytest.raises(Unreachable):
            await client.create_transfers(payment(1, 2, 3))
        with pytest.raises(Unreachable):
            await client.ready()


async def test_refusals_carry_the_problem(server: ServerProcess) -> None:
    async with Client(server.url) as client:
        with pytest.raises(Refused) as unknown_field:
            await client.create_accounts({"id": 1, "ledger": 1, "code": 1, "colour": "red"})
        assert unknown_field.value.status == 400
        assert unknown_field.value.code == "unknown_field"
        assert "colour" in str(unknown_field.value)
        with pytest.raises(NotFound):
            await client.account(0xDEAD)
        with pytest.raises(NotFound):
            await client.transfer(0xDEAD)


async def test_wide_numbers_and_ids_of_every_form(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with Client(server.url) as client:
        identity, other = uuid.uuid4(), next(numbers)
        await client.create_accounts(
            [{"id": identity, "ledger": LEDGER, "code": CODE,
              "user_data_128": layout.U128_MAX, "user_data_64": layout.U64_MAX},
             {"id": str(other), "ledger": LEDGER, "code": CODE}]
        )  # fmt: skip
        account = await client.account(identity)
        assert account.id == identity.int
        assert (account.user_data_128, account.user_data_64) == (layout.U128_MAX, layout.U64_MAX)
        large = layout.U128_MAX - 10
        (result,) = await client.create_transfers(
            payment(next(numbers), identity.int, other, large, metadata={"text": "äö 三元"})
        )
        assert result.created
        stored = [line async for line in client.statement(other)]
        assert [line.amount for line in stored] == [large]
        assert stored[0].metadata == {"text": "äö 三元"}
        assert (await client.account(other)).credits_posted == large


async def test_statement_pages_and_balances_at_a_time(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with Client(server.url) as client:
        one, other = await two_accounts(client, numbers)
        results: list[Result] = []
        for amount in range(1, 8):
            results += await client.create_transfers(payment(next(numbers), one, other, amount))
        lines = [line async for line in client.statement(other, page_size=2)]
        assert [line.amount for line in lines] == list(range(1, 8))
        backwards = [line async for line in client.statement(other, page_size=3, reversed=True)]
        assert backwards == lines[::-1]
        assert [line.timestamp for line in lines] == [result.timestamp for result in results]
        middle = await client.balance_at(other, results[3].timestamp)
        assert middle.credits_posted == 1 + 2 + 3 + 4
        before = await client.balance_at(other, results[0].timestamp - 1)
        assert before.credits_posted == 0


async def test_queries_trial_balance_and_look_ups(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with Client(server.url) as client:
        one, other = await two_accounts(client, numbers)
        mark = next(numbers)
        ids = [next(numbers) for _ in range(5)]
        await client.create_transfers(
            [payment(id, one, other, 10, user_data_128=mark) for id in ids]
        )
        found = [t.id async for t in client.query_transfers(user_data_128=mark, page_size=2)]
        assert found == ids
        newest = [t.id async for t in client.query_transfers(user_data_128=mark, reversed=True)]
        assert newest == ids[::-1]
        accounts = {a.id async for a in client.query_accounts(ledger=LEDGER, page_size=3)}
        assert {one, other} <= accounts
        looked_up = await client.lookup_accounts([one, 0xDEAD, other])
        assert [a.id if a else None for a in looked_up] == [one, None, other]
        lines = await client.trial_balance(ledger=LEDGER)
        assert sum(line.debits_posted - line.credits_posted for line in lines) == 0
        assert sum(line.debits_posted for line in lines) >= 50


async def test_events_are_fed_once_each_over_broken_connections(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with Client(server.url) as client:
        one, other = await two_accounts(client, numbers)
        ids = [next(numbers) for _ in range(30)]
        await client.create_transfers([payment(id, one, other) for id in ids])
    async with proxied(server) as proxy, Client(proxy.url) as client:
        proxy.faults = ["cut_answer", "lose_request", "cut_answer"]
        fed = [event.transfer_id async for event in client.events()]
        assert [id for id in fed if id in set(ids)] == ids
        assert len(fed) == len(set(fed))


async def test_settings_definitions_and_business_date(
    server: ServerProcess, numbers: Iterator[int]
) -> None:
    async with Client(server.url) as client:
        one, other = await two_accounts(client, numbers)
        (changed,) = await client.change_settings(
            {"id": next(numbers), "account_id": one, "flags": ["debits_blocked"]}
        )
        assert changed.created
        (refused,) = await client.create_transfers(payment(next(numbers), one, other), explain=True)
        assert refused.status == "debits_blocked"
        (defined,) = await client.define(
            {"id": next(numbers), "kind": "ledger", "ledger": LEDGER, "exponent": 2,
             "metadata": {"currency": "XTS"}}
        )  # fmt: skip
        assert defined.created
        moved = await client.move_business_date(
            {"id": next(numbers), "date": datetime(2026, 1, 5, tzinfo=UTC).date()}
        )
        assert moved.created
        (dry,) = await client.create_transfers(
            payment(id := next(numbers), other, one), dry_run=True
        )
        assert dry.created
        with pytest.raises(NotFound):
            await client.transfer(id)
        assert (await client.ready()).ready


async def test_a_full_binary_request(server: ServerProcess, numbers: Iterator[int]) -> None:
    async with Client(server.url) as client:
        one, other = await two_accounts(client, numbers)
        events = np.zeros(layout.REQUEST_EVENTS_MAX, layout.TRANSFER)
        events["id"]["lo"] = np.arange(1, len(events) + 1)
        events["id"]["hi"] = next(numbers) >> 64
        for side, account in (("debit", one), ("credit", other)):
            events[f"{side}_account_id"]["lo"] = account & layout.U64_MAX
            events[f"{side}_account_id"]["hi"] = account >> 64
        events["amount"]["lo"] = 1
        events["ledger"], events["code"] = LEDGER, CODE
        results = await client.create_transfers(events)
        assert (results["status"] == layout.CREATED).all()
        assert (await client.account(other)).credits_posted == len(events)
