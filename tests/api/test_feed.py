"""The change feed: everything once, in order, from any place on, while it happens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from ledger.api import feed
from tests.api.harness import COMPONENTS, Service
from tests.api.schema import faults


async def busy(bank: Service, count: int) -> list[str]:
    """Transfers between entries of other kinds; their ids."""
    ids = []
    for number in range(count):
        assert (await bank.transfer(300 + number, 1, 2, 5)).statuses == ["created"]
        ids.append(str(300 + number))
        if number % 3 == 0:
            await bank.created("/v1/accounts", {"id": str(800 + number), "ledger": 1, "code": 1})
            assert (await bank.transfer(600 + number, 2, 9, 5)).statuses == [
                "credit_account_not_found"
            ]
    return ids


async def test_the_feed_gives_every_event_and_resumes_anywhere(bank: Service) -> None:
    ids = await busy(bank, 10)
    lines = (await bank.get("/v1/events")).lines
    assert [line["transfer_id"] for line in lines] == ids
    assert [line["credit_account_credits_posted"] for line in lines] == [
        str(5 * n) for n in range(1, 11)
    ]
    for index, line in enumerate(lines):
        rest = (await bank.get("/v1/events", after=line["position"])).lines
        assert rest == lines[index + 1 :]
        some = (await bank.get("/v1/events", after=line["position"], limit="3")).lines
        assert some == lines[index + 1 : index + 4]
    assert (await bank.get("/v1/events", after="0")).lines == lines


async def test_steps_of_the_feed_are_not_seen(
    bank: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await busy(bank, 12)
    monkeypatch.setattr(feed, "FEED_ENTRIES", 3)
    assert [line["transfer_id"] for line in (await bank.get("/v1/events")).lines] == ids


async def test_all_five_types(bank: Service) -> None:
    await bank.transfer(1, 1, 3, 100)
    for number, more in (
        (2, {}),
        (3, {}),
        (4, {"timeout": 1}),
    ):
        await bank.transfer(number, 1, 2, 50, flags=["pending"], **more)
    await bank.created(
        "/v1/transfers",
        [
            {"id": "5", "pending_id": "2", "amount": "30", "flags": ["post_pending_transfer"]},
            {"id": "6", "pending_id": "3", "flags": ["void_pending_transfer"]},
        ],
    )
    lines: list[Any] = []
    for _ in range(60):
        lines = (await bank.get("/v1/events")).lines
        if len(lines) == 7:
            break
        await asyncio.sleep(0.05)
    assert [(line["type"], line["transfer_id"]) for line in lines] == [
        ("single_phase", "1"),
        ("two_phase_pending", "2"),
        ("two_phase_pending", "3"),
        ("two_phase_pending", "4"),
        ("two_phase_posted", "5"),
        ("two_phase_voided", "6"),
        ("two_phase_expired", "4"),
    ]
    assert lines[-1]["credit_account_credits_pending"] == "0"
    assert lines[-1]["credit_account_credits_posted"] == "30"


async def test_waiting_for_the_first_event(bank: Service) -> None:
    empty = asyncio.create_task(bank.get("/v1/events", wait="30"))
    await asyncio.sleep(0.05)
    assert not empty.done()
    await bank.transfer(7, 1, 2, 5)
    assert [line["transfer_id"] for line in (await empty).lines] == ["7"]
    last = (await bank.get("/v1/events")).lines[-1]["position"]
    nothing = await bank.get("/v1/events", after=last, wait="1")
    assert nothing.lines == []


async def follow(bank: Service, count: int, after: str | None = None) -> list[Any]:
    """The first events of a connection that stays open, empty lines among them."""
    parameters = {"follow": "true"} | ({"after": after} if after else {})
    found: list[Any] = []
    async with bank.session.get(bank.server.url + "/v1/events", params=parameters) as response:
        assert response.status == 200
        async for line in response.content:
            found.append(json.loads(line) if line.strip() else None)
            if found[-1] is not None:
                assert faults(found[-1], COMPONENTS["ChangeEvent"], COMPONENTS) == []
            if len([one for one in found if one is not None]) == count:
                break
    return found


async def test_following_sees_what_happens_later(
    bank: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "HEARTBEAT_S", 0.02)
    await bank.transfer(7, 1, 2, 5)
    followers = [asyncio.create_task(follow(bank, 4)) for _ in range(3)]
    await asyncio.sleep(0.1)
    for number in (8, 9, 10):
        await bank.transfer(number, 1, 2, 5)
        await asyncio.sleep(0.01)
    for found in await asyncio.gather(*followers):
        assert [one["transfer_id"] for one in found if one] == ["7", "8", "9", "10"]
        assert None in found  # a heartbeat


async def test_a_follower_keeps_up_with_a_flood(bank: Service) -> None:
    follower = asyncio.create_task(follow(bank, 600))
    await asyncio.gather(*(bank.transfer(1000 + n, 1, 2, 1) for n in range(600)))
    found = await follower
    assert [int(one["credit_account_credits_posted"]) for one in found if one] == list(
        range(1, 601)
    )


async def test_a_stop_lets_followers_go(bank: Service) -> None:
    await bank.transfer(7, 1, 2, 5)
    follower = asyncio.create_task(follow(bank, 99))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await bank.server.stop()
        assert [one["transfer_id"] for one in await follower if one] == ["7"]


async def test_a_position_of_another_ledger_is_refused(
    bank: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = await bank.get("/v1/events", after="77:0")
    assert (answer.status, answer.code) == (409, "position_ahead")


async def test_damage_breaks_the_feed_instead_of_skipping(
    bank: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await busy(bank, 12)
    monkeypatch.setattr(feed, "FEED_ENTRIES", 4)
    whole, calls = bank.context.reads.events, 0

    def fails_later(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError("the disk")
        return whole(*arguments)

    monkeypatch.setattr(type(bank.context.reads), "events", staticmethod(fails_later))
    async with bank.session.get(bank.server.url + "/v1/events") as response:
        with pytest.raises(Exception, match=r".*") as caught:
            await response.read()
    assert "aiohttp" in type(caught.value).__module__
