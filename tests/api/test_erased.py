"""What is served after an account was erased: everyone else's as before, with account 0 in its
place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ledger.config import Config
from ledger.engine import Engine
from ledger.storage import directory as data_directory
from ledger.storage.erasure import erase
from ledger.storage.lmdb_store import LmdbStore
from tests.api.harness import Service, running

CONFIG = Config(recent_ids=1024, write_ahead_bytes=0, disk_reserve_bytes=0)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Service]:
    store = LmdbStore(path, CONFIG)
    try:
        async with running(engine=Engine(store, CONFIG), config=CONFIG) as service:
            yield service
    finally:
        store.close()


async def test_reads_show_account_0_in_the_place_of_an_erased_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    data_directory.create(path)
    async with served(path) as bank:
        await bank.bank()
        await bank.transfer(10, 1, 3, 100, metadata={"text": "for 王芳"})
        await bank.transfer(11, 3, 1, 60, flags=["pending"])
        await bank.transfer(12, 0, 0, 60, pending_id="11", flags=["post_pending_transfer"])
        await bank.transfer(13, 3, 1, 40)
        await bank.transfer(14, 1, 2, 5, metadata={"text": "kept"})
        await bank.created(
            "/v1/account-settings",
            {"id": "20", "account_id": "3", "flags": ["debits_blocked", "credits_blocked"]},
        )
        before = (await bank.get("/v1/accounts/1/transfers")).json
        events = (await bank.get("/v1/events")).lines
        sums = (await bank.get("/v1/trial-balance")).json
    assert erase(path, CONFIG, [3]).refusals == []
    async with served(path) as bank:
        statement = (await bank.get("/v1/accounts/1/transfers")).json
        sides = ("debit_account_id", "credit_account_id")
        for row in before["data"]:
            for side in sides:
                row[side] = "0" if row[side] == "3" else row[side]
            if row["id"] == "10":
                del row["metadata"]
        assert statement == before
        after = (await bank.get("/v1/events")).lines
        for event in events:
            for side in sides:
                event[side] = "0" if event[side] == "3" else event[side]
        assert after == events
        assert (await bank.get("/v1/trial-balance")).json == sums
        assert (await bank.get("/v1/accounts/3")).status == 404
        assert (await bank.get("/v1/accounts/0")).status in (400, 404)
        rows = (await bank.post("/v1/query", {"type": "accounts"})).json
        assert [row["id"] for row in rows["data"]] == ["1", "2"]
        transfer = (await bank.get("/v1/transfers/14")).json
        assert transfer["metadata"] == {"text": "kept"}
        assert (await bank.transfer(15, 1, 3, 1)).statuses == ["credit_account_not_found"]
        await bank.created("/v1/accounts", {"id": "3", "ledger": 156, "code": 20})
        assert (await bank.get("/v1/accounts/3")).json["credits_posted"] == "0"
        assert (await bank.get("/v1/accounts/3/transfers")).json["data"] == []
