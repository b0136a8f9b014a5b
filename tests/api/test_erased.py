"""What is served after an account was erased: everyone else's as before, with account 0 in its
place."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ledger.config import Config
from ledger.engine import Engine
from ledger.storage import directory as data_directory
from ledger.storage.erasure import erase
from ledger.storage.lmdb_store import LmdbStore
from tests.api.auditor import mentions
from tests.api.harness import Service, running
from tests.api.test_proofs import CASH, LI, WANG, serving

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


async def test_proofs_of_everyone_else_hold(tmp_path: Path) -> None:
    erased = (WANG, WANG + 50)
    async with serving(tmp_path) as town:
        await town.accounts(CASH, code=10)
        await town.accounts(*erased, metadata={"name": "王芳"})
        await town.accounts(LI, metadata={"name": "李"})
        # Two erased ones, their neighbours and theirs, in the same blocks.
        await town.pay(700, 3, CASH, WANG, metadata={"text": "for 王芳"})
        await town.pay(710, 3, CASH, LI, metadata={"text": "for 李"})
        await town.pay(720, 3, WANG, erased[1])
        first = await town.make_root()
        await town.pay(730, 3, erased[1], WANG)
        await town.pay(740, 1, WANG, LI, flags=["pending"])
        await town.created(
            "/v1/transfers", {"id": "741", "pending_id": "740", "flags": ["void_pending_transfer"]}
        )
        await town.pay(750, 3, WANG, CASH)
        blocked = ["debits_blocked", "credits_blocked"]
        for number, account in enumerate(erased):
            await town.created(
                "/v1/account-settings",
                {"id": str(800 + number), "account_id": str(account), "flags": blocked},
            )
        last = await town.make_root()
        bundle_before = await town.proof(f"/v1/accounts/{CASH}/statement-proof")
        record = town.publisher.log.record(town.publisher.log.size - 1)
        _, start, count = record.splitlines()[4].split()
    assert erase(tmp_path / "ledger", CONFIG, erased).done
    async with serving(tmp_path) as town:

        async def proven(path: str, **parameters: str) -> bytes:
            body = await town.proof(path, **parameters)
            for account in erased:
                assert not mentions(body, account)
            assert "王芳".encode() not in body
            return body

        for transfer in (700, 711, 722, 731, 740, 741, 752):
            body = await proven(f"/v1/transfers/{transfer}/proof")
            (item,) = json.loads(body)["items"]
            if transfer == 711:
                assert item["debit"]["account"] == str(CASH)
                assert json.loads(item["ext"]["metadata"]) == {"text": "for 李"}
            else:
                assert isinstance(item["credit" if transfer == 700 else "debit"], str)
        for disclose in ("", "counterparties,metadata"):
            for account in (CASH, LI):
                body = await proven(f"/v1/accounts/{account}/statement-proof", disclose=disclose)
                town.auditor.accepts(body, "--account", str(account))
        statement = json.loads(body)["items"]
        assert {item["type"] for item in statement} == {"account", "statement"}
        for block in (first, last):
            await proven(f"/v1/accounts/{LI}/proof", at=str(block))
            await proven("/v1/trial-balance/proof", at=str(block))
        body = await proven("/v1/trial-balance/proof", tiles="156:20:0")
        town.auditor.accepts(body, pure=True)
        # A sample of as many entries as there were draws the erased openings too.
        body = await proven("/v1/audit/sample", count=str(int(start) + int(count)), seed="all")
        kinds = [item["type"] for item in json.loads(body)["items"]]
        assert 1 <= kinds.count("erased") <= len(erased)
        whole = await town.get("/v1/audit/export", account="all")
        assert whole.status == 200, whole.raw
        town.auditor.accepts(whole.raw)
        with zipfile.ZipFile(io.BytesIO(whole.raw)) as package:
            assert package.read("state.bin").count(b"erased" + bytes(42)) == len(erased)
        for path in ("proof", "statement-proof"):
            for account in (*erased, 0):
                assert (await town.get(f"/v1/accounts/{account}/{path}")).status == 404
        # What was handed out before still holds.
        town.auditor.accepts(bundle_before, "--account", str(CASH))
