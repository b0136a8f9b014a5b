"""Proofs of a real server, judged by the verifier in a process of its own, and by the oracle."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ledger.api import proofs
from ledger.config import Config
from ledger.engine import Engine
from ledger.proof import export, prover, signing
from ledger.proof.cosigners import Cosigners
from ledger.proof.policy import parse_policy
from ledger.proof.publisher import Publisher
from ledger.storage.directory import create
from ledger.storage.erasure import erase
from ledger.storage.lmdb_store import LmdbStore
from tests.api.auditor import Auditor, mentions
from tests.api.harness import Service, running
from tests.api.mirror import Mirror
from tests.model import proofs as oracle
from tests.witnesses import WitnessProcess

NAME = "bank.example/ledger"
CONFIG = Config(seal_interval_ms=50, disk_reserve_bytes=0)
CASH, WANG, LI = (0x1111_2222_3333_4444_5555_6666_7777_0001 + place for place in range(3))
"""Ids that nothing else could look like."""
FAR = "2026-12-31"


class Bank(Service):
    """A served bank on a disk, with an auditor of it."""

    auditor: Auditor
    publisher: Publisher

    async def accounts(self, *ids: int, code: int = 20, **more: Any) -> None:
        await self.created(
            "/v1/accounts", [{"id": str(i), "ledger": 156, "code": code, **more} for i in ids]
        )

    async def pay(self, first: int, count: int, debit: int, credit: int, **more: Any) -> None:
        """Transfers with ids from ``first`` on, of 1, 2, ... minor units."""
        events = [
            {
                "id": str(first + place),
                "debit_account_id": str(debit),
                "credit_account_id": str(credit),
                "amount": str(1 + place),
                "ledger": 156,
                "code": 1,
                **more,
            }
            for place in range(count)
        ]
        await self.created("/v1/transfers", events)

    async def day(self, number: int, date: str) -> int:
        """Move the business date; return the block of the state root at the end of the day before,
        when it can be proven."""
        await self.created("/v1/business-date", {"id": str(9000 + number), "date": date})
        return await self.root(date=date)

    async def root(self, *, date: str | None = None, block: int | None = None) -> int:
        """Wait until the newest state root is provable; return its block."""
        for _ in range(500):
            roots = (await self.get("/v1/state-roots")).json["data"]
            if (
                roots
                and roots[-1]["interval"] is not None
                and (date is None or roots[-1]["business_date"] == date)
                and (block is None or roots[-1]["block"] >= block)
                and self.published(roots[-1]["interval"])
            ):
                return int(roots[-1]["block"])
            await asyncio.sleep(0.02)
        raise AssertionError(f"no state root: {roots}")

    def published(self, interval: int) -> bool:
        shown = self.publisher.log.published()
        return shown is not None and shown.size > interval

    async def make_root(self) -> int:
        made = await self.post("/v1/state-roots")
        assert made.status == 200, made.raw
        return await self.root(block=made.json["block"])

    async def proof(self, path: str, **parameters: Any) -> bytes:
        """A bundle, which the auditor accepts."""
        answer = await self.get(path, wait="20", **parameters)
        assert answer.status == 200, answer.raw
        self.auditor.accepts(answer.raw)
        return answer.raw

    def mirror(self) -> Mirror:
        """The oracle's view of the whole journal."""
        kept = [block for block, *_ in self.engine.roots.blocks()]
        with self.engine.reader() as (reader, _):
            return Mirror(reader, self.engine.core, self.publisher.log, kept)


@asynccontextmanager
async def serving(
    folder: Path, *, witnesses: list[WitnessProcess] | None = None
) -> AsyncIterator[Bank]:
    """A bank in a folder, with a log that these witnesses cosign; it may have been there before."""
    if not (folder / "ledger").exists():
        create(folder / "ledger")
    store = LmdbStore(folder / "ledger", CONFIG)
    engine = Engine(store, CONFIG)
    key = folder / "signing-key"
    if not key.exists():
        signing.create_key(key, name=NAME, passphrase=None)
    text = signing.read_policy(key)
    policy = bytes(text)
    options: dict[str, Any] = {}
    if witnesses:
        lines = "\n".join(one.policy_line for one in witnesses)
        names = " ".join(one.key.name for one in witnesses)
        head = policy.decode().replace("quorum none\n", "")
        policy = f"{head}{lines}\ngroup all all {names}\nquorum all\n".encode()
        parsed = parse_policy(policy)
        options = {"policy": parsed, "cosigners": Cosigners(parsed, timeout_s=10.0)}
    publisher = Publisher(
        folder / "log", instance=store.instance, journal=engine.reader, key=key, **options
    )
    engine.on_sealed.append(publisher.sealed)
    try:
        async with running(engine=engine, config=CONFIG, publisher=publisher) as service:
            publisher.start()
            bank = Bank(service.server, service.session)
            bank.publisher = publisher
            bank.auditor = Auditor(folder / "auditor", policy)
            yield bank
    finally:
        publisher.stop()
        store.close()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Bank]:
    """A bank with the accounts of cash, of Wang and of Li."""
    async with serving(tmp_path) as one:
        await one.accounts(CASH, code=10)
        await one.accounts(WANG, LI)
        yield one


# ----------------------------------------------------------------------------------------------
# Transfers
# ----------------------------------------------------------------------------------------------


async def test_a_transfer_that_was_just_posted_is_provable(town: Bank) -> None:
    await town.pay(700, 5, CASH, WANG, metadata={"text": '工资 \u0007 "x"'})
    body = await town.proof("/v1/transfers/702/proof")
    town.auditor.accepts(body, pure=True)
    (item,) = json.loads(body)["items"]
    assert item["debit"]["account"] == str(CASH)
    assert json.loads(item["ext"]["metadata"]) == {"text": '工资 \u0007 "x"'}
    mirror = town.mirror()
    number = next(
        entry.number for block in mirror.blocks for entry in block.entries if entry.id == 702
    )
    expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
    expected.add_entry(number)
    assert body.decode() == expected.text()


async def test_what_is_hidden_is_not_there(town: Bank) -> None:
    await town.pay(700, 3, CASH, WANG, metadata={"to": "Wang"})
    await town.pay(710, 1, WANG, LI, flags=["pending"])
    post = {"id": "711", "pending_id": "710", "amount": "1", "flags": ["post_pending_transfer"]}
    await town.created("/v1/transfers", post)
    mirror = None
    for transfer in (701, 711):
        sides = (
            {"debit": CASH, "credit": WANG} if transfer == 701 else {"debit": WANG, "credit": LI}
        )
        for hide in ("debit", "credit", "metadata", "debit,credit", "debit,credit,metadata"):
            body = await town.proof(f"/v1/transfers/{transfer}/proof", hide=hide)
            for side, account in sides.items():
                assert mentions(body, account) == (side not in hide)
            assert (b"Wang" in body) == (transfer == 701 and "metadata" not in hide)
            mirror = mirror or town.mirror()
            mirror.records = [town.publisher.log.record(i) for i in range(town.publisher.log.size)]
            number = next(e.number for b in mirror.blocks for e in b.entries if e.id == transfer)
            expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
            expected.add_entry(number, hide=hide.split(","), hide_ext="metadata" in hide)
            assert body.decode() == expected.text()


async def test_what_is_not_covered_yet_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as town:
        await town.accounts(CASH, WANG)
        await town.pay(700, 1, CASH, WANG)
        await town.proof("/v1/transfers/700/proof")
        sign, held = town.publisher._sign, []

        def hold(signer: Any) -> None:
            held.append(signer)

        town.publisher._sign = hold  # type: ignore[method-assign]
        await town.pay(701, 1, CASH, WANG)
        answer = await town.get("/v1/transfers/701/proof", wait="0")
        assert (answer.status, answer.code) == (503, "not_provable_yet")
        assert answer.headers["Retry-After"] == "1"
        waiting = asyncio.create_task(town.get("/v1/transfers/701/proof", wait="20"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        town.publisher._sign = sign  # type: ignore[method-assign]
        await town.pay(702, 1, CASH, WANG)
        answer = await waiting
        assert answer.status == 200
        town.auditor.accepts(answer.raw)


async def test_without_a_signing_key_nothing_is_provable() -> None:
    async with running(publisher=None) as service:
        await service.created(
            "/v1/accounts", [{"id": str(i), "ledger": 156, "code": 10} for i in (1, 2)]
        )
        await service.transfer(90, 1, 2, 5)
        for path in ("/v1/transfers/90/proof", "/v1/accounts/1/proof", "/v1/trial-balance/proof"):
            answer = await service.get(path, wait="0")
            assert (answer.status, answer.code) == (503, "not_provable_yet")
            assert "signing key" in answer.json["detail"]


# ----------------------------------------------------------------------------------------------
# Balances, statements, totals
# ----------------------------------------------------------------------------------------------


async def test_a_balance_at_each_state_root(town: Bank) -> None:
    await town.pay(700, 10, CASH, WANG)
    first = await town.make_root()
    await town.pay(720, 10, CASH, WANG)
    second = await town.make_root()
    await town.pay(740, 10, CASH, WANG)
    path = f"/v1/accounts/{WANG}/proof"
    for at, block, newest in (
        (None, second, True),
        (str(second), second, True),
        (str(second - 1), first, False),
        (str(first), first, False),
        (FAR, second, True),
    ):
        body = await town.proof(path, **({"at": at} if at else {}))
        mirror = town.mirror()
        mirror.size = int(json.loads(body)["checkpoint"].split("\n")[1])
        expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
        expected.add_account(WANG, block, newest=newest)
        assert body.decode() == expected.text()
        assert not mentions(body, LI)
        assert not mentions(body, CASH)
        town.auditor.accepts(body, "--account", str(WANG), *(["--newest"] if newest else []))
        if not newest:
            assert town.auditor.refuses(body, "--newest") == "not_newest"
        assert town.auditor.refuses(body, "--account", str(LI)) == "wrong_account"


async def test_a_statement_between_two_days_with_much_after_them(town: Bank) -> None:
    await town.day(1, "2026-03-01")
    await town.pay(700, 30, CASH, WANG)
    await town.day(2, "2026-03-02")
    await town.pay(800, 40, WANG, LI, metadata={"note": "rent"})
    await town.created(
        "/v1/account-settings",
        {"id": "51", "account_id": str(WANG), "overdraft": "500", "flags": ["overdraft"]},
    )
    await town.pay(850, 2, WANG, LI, flags=["pending"], timeout=1)
    await town.day(3, "2026-03-03")
    await town.pay(900, 50, CASH, WANG)
    await town.day(4, "2026-03-04")
    for start in range(1000, 4000, 500):
        await town.pay(start, 500, CASH, WANG)
    await town.make_root()
    path = f"/v1/accounts/{WANG}/statement-proof"
    body = await town.proof(path, **{"from": "2026-03-02", "to": "2026-03-02"})
    period = ("--from", "2026-03-02", "--to", "2026-03-02")
    town.auditor.accepts(body, "--account", str(WANG), *period)
    assert town.auditor.refuses(body, "--from", "2026-03-01", "--to", "2026-03-02") == (
        "wrong_period"
    )
    assert town.auditor.refuses(body, "--from", "2026-03-02", "--to", "2026-03-03") == (
        "wrong_period"
    )
    items = json.loads(body)["items"]
    assert [item["type"] for item in items] == ["account", "account", "statement"]
    assert len(items[2]["entries"]) == 43
    for other in (CASH, LI):
        assert not mentions(body, other)
    assert b"rent" not in body

    mirror = town.mirror()
    roots = {
        root["business_date"]: root["block"]
        for root in reversed((await town.get("/v1/state-roots")).json["data"])
    }
    for disclose in ("", "counterparties", "metadata", "counterparties,metadata"):
        body = await town.proof(
            path, **{"from": "2026-03-02", "to": "2026-03-02"}, disclose=disclose
        )
        assert mentions(body, LI) == ("counterparties" in disclose)
        mirror.records = [town.publisher.log.record(i) for i in range(town.publisher.log.size)]
        mirror.size = int(json.loads(body)["checkpoint"].split("\n")[1])
        expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
        expected.add_statement(
            WANG,
            roots["2026-03-02"],
            roots["2026-03-03"],
            disclose="counterparties" in disclose,
            hide_ext="metadata" not in disclose,
        )
        assert body.decode() == expected.text()


async def test_a_statement_from_the_opening_on(town: Bank) -> None:
    """An account opened within the period has no opening state, and all its entries."""
    await town.day(1, "2026-03-01")
    late = LI + 100
    await town.accounts(late, metadata={"name": "late"})
    await town.pay(700, 5, CASH, late)
    await town.day(2, "2026-03-02")
    for parameters in ({}, {"from": "2026-03-01"}, {"from": "2026-03-01", "to": "2026-03-01"}):
        body = await town.proof(f"/v1/accounts/{late}/statement-proof", **parameters)
        items = json.loads(body)["items"]
        assert items[-1]["opening"] is None
        assert len(items[-1]["entries"]) == 6
    answer = await town.get(f"/v1/accounts/{late}/proof", at="2026-02-28")
    assert (answer.status, answer.code) == (409, "no_state_root")
    early = await town.get(f"/v1/accounts/{late}/statement-proof", to="0")
    assert (early.status, early.code) == (404, "account_not_found")


async def test_dates_that_no_state_root_answers(town: Bank) -> None:
    await town.day(1, "2026-03-01")
    await town.pay(700, 1, CASH, WANG)
    path = f"/v1/accounts/{WANG}/statement-proof"
    answer = await town.get(path, to="2026-03-01", wait="0")
    assert (answer.status, answer.code) == (409, "no_state_root")
    await town.day(2, "2026-03-02")
    assert (await town.get(path, to="2026-03-01")).status == 200
    answer = await town.get(path, **{"from": "2026-03-02", "to": "2026-02-01"})
    assert (answer.status, answer.code) == (400, "invalid_filter")
    for name, value in (("from", "yesterday"), ("to", "2026-3-1"), ("wait", "61"), ("wait", "x")):
        answer = await town.get(path, **{name: value})
        assert (answer.status, answer.code) == (400, "invalid_parameter")
    for path in ("accounts/5/proof", "accounts/5/statement-proof", "transfers/5/proof"):
        assert (await town.get(f"/v1/{path}")).status == 404
    answer = await town.get("/v1/transfers/700/proof", hide="everything")
    assert (answer.status, answer.code) == (400, "invalid_parameter")


async def test_the_trial_balance_and_its_tiles(town: Bank) -> None:
    many = [LI + 1 + place for place in range(600)]
    for start in range(0, 600, 200):
        await town.accounts(*many[start : start + 200])
    await town.pay(700, 300, CASH, many[77])
    await town.pay(2000, 300, CASH, many[599])
    block = await town.make_root()
    body = await town.proof("/v1/trial-balance/proof", tiles="156:20:2,156:10:0,156:20:0")
    mirror = town.mirror()
    mirror.size = int(json.loads(body)["checkpoint"].split("\n")[1])
    expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
    expected.add_trial_balance(block)
    # Under a state with all groups, tiles use it too.
    expected.state = lambda number, group=None: expected.__class__.state(expected, number)  # type: ignore[method-assign]
    for group, tile in ((1, 2), (0, 0), (1, 0)):
        expected.add_tile(block, group, tile)
    assert body.decode() == expected.text()
    for tiles in ("156:20:3", "156:21:0", "157:20:0"):
        answer = await town.get("/v1/trial-balance/proof", tiles=tiles)
        assert (answer.status, answer.code) == (400, "invalid_filter")
    for tiles in ("156:20", "x", ",".join(["156:20:0"] * 17)):
        answer = await town.get("/v1/trial-balance/proof", tiles=tiles)
        assert (answer.status, answer.code) == (400, "invalid_parameter")


# ----------------------------------------------------------------------------------------------
# The log, samples
# ----------------------------------------------------------------------------------------------


async def test_the_log_only_grew(town: Bank) -> None:
    await town.pay(700, 1, CASH, WANG)
    old = json.loads(await town.proof("/v1/transfers/700/proof"))["checkpoint"]
    size = int(old.split("\n")[1])
    await asyncio.sleep(0.06)
    await town.pay(710, 1, CASH, WANG)
    await town.proof("/v1/transfers/710/proof")
    answer = await town.post("/v1/consistency-proof", {"checkpoint": old})
    assert answer.status == 200
    town.auditor.accepts(answer.raw)
    assert json.loads(answer.raw)["items"][0]["old"] == old
    path = await town.get("/v1/consistency-proof", **{"from": str(size)})
    shown = json.loads(answer.raw)
    if path.json["size"] == int(shown["checkpoint"].split("\n")[1]):
        assert path.json["path"] == shown["items"][0]["path"]
    answer = await town.get("/v1/consistency-proof", **{"from": "1000000"})
    assert (answer.status, answer.code) == (409, "checkpoint_ahead")
    answer = await town.get("/v1/consistency-proof")
    assert (answer.status, answer.code) == (400, "invalid_parameter")
    for body in (
        {"checkpoint": "nonsense"},
        {"checkpoint": old.replace(NAME, "other.example/log")},
        {"note": old},
        [old],
    ):
        answer = await town.call(
            "POST",
            "/v1/consistency-proof",
            raw=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert (answer.status, answer.code) == (400, "invalid_checkpoint")


async def test_a_sample_by_a_text(town: Bank) -> None:
    await town.pay(700, 200, CASH, WANG, metadata={"note": "x"})
    await town.proof("/v1/transfers/899/proof")
    body = await town.proof("/v1/audit/sample", count="60", seed="2026 审计")
    items = json.loads(body)["items"]
    assert len(items) == 61
    assert items[-1]["count"] == 60
    mirror = town.mirror()
    mirror.size = int(json.loads(body)["checkpoint"].split("\n")[1])
    expected = oracle.Bundle(mirror, json.loads(body)["checkpoint"])
    numbers = expected.drawn_entries(60, seed="2026 审计", witness=None)
    places = [expected.add_entry(number) for number in numbers]
    expected.interval(mirror.size - 1)
    expected._add(
        {"type": "sample", "count": 60, "seed": "2026 审计", "witness": None, "items": places}
    )
    assert body.decode() == expected.text()
    for parameters in ({"count": "0", "seed": "x"}, {"count": "100000", "seed": "x"}):
        answer = await town.get("/v1/audit/sample", **parameters)
        assert (answer.status, answer.code) == (400, "invalid_sample")
    answer = await town.get("/v1/audit/sample", count="1", witness="nobody")
    assert (answer.status, answer.code) == (400, "invalid_sample")
    for parameters in ({"count": "1"}, {"seed": "x"}, {"count": "1", "seed": "x", "witness": "y"}):
        answer = await town.get("/v1/audit/sample", **parameters)
        assert (answer.status, answer.code) == (400, "invalid_parameter")


async def test_witnesses_draw_the_sample_and_proofs_are_no_larger_than_told(
    tmp_path: Path,
) -> None:
    """docs/proofs.md tells what proofs weigh in a large ledger with three witnesses."""
    vkey = signing.create_key(tmp_path / "signing-key", name=NAME, passphrase=None)
    with ExitStack() as stack:
        witnesses = [
            stack.enter_context(WitnessProcess(tmp_path / f"w{n}", str(vkey))) for n in range(3)
        ]
        async with serving(tmp_path, witnesses=witnesses) as town:
            await town.accounts(CASH, code=10)
            await town.accounts(WANG, LI)
            for start in range(0, 1500, 500):
                await town.accounts(*(LI + 1 + start + place for place in range(500)))
            for start in range(10_000, 14_000, 1000):
                await town.pay(start, 1000, CASH, WANG)
            await town.day(1, "2026-03-01")
            for start in range(20_000, 28_000, 1000):
                await town.pay(start, 1000, CASH, LI)
            await town.pay(30_000, 1000, CASH, WANG)
            await town.day(2, "2026-03-02")
            name = witnesses[1].key.name
            body = await town.proof("/v1/audit/sample", count="5", witness=name)
            assert json.loads(body)["items"][-1]["witness"] == name
            transfer = len(await town.proof("/v1/transfers/30500/proof"))
            balance = len(await town.proof(f"/v1/accounts/{WANG}/proof"))
            body = await town.proof(
                f"/v1/accounts/{WANG}/statement-proof", **{"from": "2026-03-01"}
            )
            entries = json.loads(body)["items"][-1]["entries"]
            assert len(entries) == 1000
            each = sum(len(entry) + 3 for entry in entries) / 1000
            rest = len(body) - 1000 * each
    sizes = {"transfer": transfer, "balance": balance, "history": rest, "entry": each}
    told = {"transfer": 2900, "balance": 3700, "history": 8000, "entry": 210}
    for name, size in sizes.items():
        # In a ledger this small paths are shorter; the long test has the true sizes.
        assert 0.5 * told[name] <= size <= 1.25 * told[name], sizes


# ----------------------------------------------------------------------------------------------
# Packages
# ----------------------------------------------------------------------------------------------


async def test_the_package_of_one_account(town: Bank) -> None:
    await town.day(1, "2026-03-01")
    await town.pay(700, 20, CASH, WANG)
    await town.pay(800, 5, WANG, LI, flags=["pending"])
    void = {"id": "900", "pending_id": "800", "flags": ["void_pending_transfer"]}
    await town.created("/v1/transfers", void)
    await town.day(2, "2026-03-02")
    answer = await town.get("/v1/audit/export", account=str(WANG), **{"from": "2026-03-01"})
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) == len(answer.raw)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="sanyuan-{WANG}.zip"'
    town.auditor.accepts(answer.raw, "--account", str(WANG), "--from", "2026-03-01")
    with zipfile.ZipFile(io.BytesIO(answer.raw)) as package:
        files = {name: package.read(name) for name in package.namelist()}
    bundle = json.loads(files["bundle.json"])
    assert set(files) == {
        *("manifest.json", "README.txt", "bundle.json", "checkpoint", "policy.txt"),
        *("verify.py", "verify.html", f"statement-{WANG}.csv"),
        *(f"interval-{one['index']}.tlog-proof" for one in bundle["intervals"]),
    }
    assert files["policy.txt"] == town.auditor.policy.read_bytes()
    for name, content in files.items():
        for other in (CASH, LI):
            assert not mentions(content, other), name
    # The whole zip, as the oracle makes it of the same parts.
    mirror = town.mirror()
    mirror.size = int(bundle["checkpoint"].split("\n")[1])
    roots = [root["block"] for root in (await town.get("/v1/state-roots")).json["data"]]
    expected = oracle.Bundle(mirror, bundle["checkpoint"])
    expected.add_statement(WANG, roots[0], roots[1], newest=True, hide_ext=True)
    given = {
        name.replace(".", "_", 1): files[name]
        for name in ("README.txt", "policy.txt", "verify.py", "verify.html")
    }
    assert answer.raw == oracle.zip_bytes(oracle.export(expected, **given))
    lines = files[f"statement-{WANG}.csv"].decode().splitlines()
    assert len(lines) == 2 + 20 + 5 + 1

    shown = await town.get("/v1/audit/export", account=str(WANG), disclose="counterparties")
    town.auditor.accepts(shown.raw, "--account", str(WANG))
    with zipfile.ZipFile(io.BytesIO(shown.raw)) as package:
        assert str(CASH).encode() in package.read(f"statement-{WANG}.csv")


async def test_the_package_of_a_list_and_of_all(town: Bank) -> None:
    await town.accounts(*(LI + 1 + place for place in range(300)))
    await town.pay(700, 50, CASH, WANG)
    await town.pay(800, 50, CASH, LI + 300)
    block = await town.make_root()
    answer = await town.get("/v1/audit/export", account=f"{WANG},{LI},{WANG}")
    town.auditor.accepts(answer.raw, "--account", str(WANG), "--account", str(LI))
    whole = await town.get("/v1/audit/export", account="all")
    assert whole.headers["Content-Disposition"] == 'attachment; filename="sanyuan-all.zip"'
    town.auditor.accepts(whole.raw)
    mirror = town.mirror()
    with zipfile.ZipFile(io.BytesIO(whole.raw)) as package:
        assert package.read("state.bin") == mirror.states[block].file()
        assert package.read("trial-balance.csv") == oracle.trial_balance_csv(mirror.states[block])
        kinds = [item["type"] for item in json.loads(package.read("bundle.json"))["items"]]
    assert kinds == ["trial_balance", "full_state"]
    # Made again, it is the same but for the checkpoint that it is under.
    for account in ("", "x", f"{WANG},"):
        answer = await town.get("/v1/audit/export", account=account)
        assert (answer.status, answer.code) == (400, "invalid_parameter")
    many = ",".join(str(LI + place) for place in range(101))
    assert (await town.get("/v1/audit/export", account=many)).status == 400
    assert (await town.get("/v1/audit/export", account="5")).status == 404


# ----------------------------------------------------------------------------------------------
# Over a restart, under load
# ----------------------------------------------------------------------------------------------


async def test_proofs_go_on_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as town:
        await town.accounts(CASH, WANG)
        await town.pay(700, 20, CASH, WANG)
        await town.day(1, "2026-03-01")
        before = await town.proof(f"/v1/accounts/{WANG}/statement-proof")
        old = json.loads(before)["checkpoint"]
    async with serving(tmp_path) as town:
        await town.pay(800, 20, CASH, WANG)
        await town.proof("/v1/transfers/705/proof")
        await town.proof("/v1/transfers/805/proof")
        await town.day(2, "2026-03-02")
        body = await town.proof(
            f"/v1/accounts/{WANG}/statement-proof", **{"from": "2026-03-01", "to": "2026-03-01"}
        )
        assert len(json.loads(body)["items"][-1]["entries"]) == 20
        answer = await town.post("/v1/consistency-proof", {"checkpoint": old})
        town.auditor.accepts(answer.raw)


async def test_what_was_erased_is_missing_from_no_proof_of_others(tmp_path: Path) -> None:
    async with serving(tmp_path) as town:
        await town.accounts(CASH, code=10)
        await town.accounts(WANG, metadata={"name": "Wang"})
        await town.accounts(LI, metadata={"name": "Li Wei"})
        await town.day(1, "2026-03-01")
        await town.pay(700, 20, CASH, LI, metadata={"to": "Li Wei"})
        await town.pay(800, 20, LI, WANG, metadata={"from": "Li Wei"})
        await town.day(2, "2026-03-02")
        blocked = ["debits_blocked", "credits_blocked"]
        await town.created(
            "/v1/account-settings",
            {"id": "51", "account_id": str(LI), "flags": blocked, "user_data_64": "77"},
        )
        await town.pay(900, 20, CASH, WANG)
        await town.day(3, "2026-03-03")
        whole = await town.get("/v1/audit/export", account=f"{WANG},{LI}")
        town.auditor.accepts(whole.raw)
    before = json.loads(town_bundle(whole.raw))
    erasure = erase(tmp_path / "ledger", CONFIG, [LI])
    assert erasure.done, erasure.refusals
    async with serving(tmp_path) as town:
        await town.pay(1000, 1, CASH, WANG)
        await town.make_root()
        for path in (f"/v1/accounts/{LI}/proof", f"/v1/accounts/{LI}/statement-proof"):
            assert (await town.get(path)).status == 404
        bodies = [
            await town.proof(path, **parameters)
            for path, parameters in (
                ("/v1/transfers/805/proof", {}),
                ("/v1/transfers/905/proof", {}),
                (f"/v1/accounts/{WANG}/proof", {}),
                (f"/v1/accounts/{WANG}/statement-proof", {"disclose": "counterparties,metadata"}),
                ("/v1/trial-balance/proof", {"tiles": "156:20:0"}),
                ("/v1/audit/sample", {"count": "60", "seed": "x"}),
            )
        ]
        record = town.publisher.log.last_record()
        total = record.first_entry + record.entry_count
        everything = await town.proof("/v1/audit/sample", count=str(total), seed="all of them")
        kinds = [item["type"] for item in json.loads(everything)["items"]]
        assert kinds.count("erased") == 2  # the opening and the settings
        for body in (*bodies, everything):
            assert not mentions(body, LI)
            assert b"Li Wei" not in body
        package = await town.get("/v1/audit/export", account="all")
        town.auditor.accepts(package.raw)
        statement = await town.get("/v1/audit/export", account=str(WANG), to="2026-03-02")
        town.auditor.accepts(statement.raw)
        # The lines of the counterparty are those of before, hash by hash.
        items = [json.loads(town_bundle(statement.raw)), before]
        lines = [
            next(i for i in one["items"] if i["type"] == "statement" and i["account"] == str(WANG))
            for one in items
        ]
        assert lines[0]["entries"][1:21] == lines[1]["entries"][1:21]


def town_bundle(package: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(package)) as opened:
        return opened.read("bundle.json")


async def test_proofs_while_much_is_posted(town: Bank) -> None:
    """Whatever is asked while blocks and state roots are made, the answer holds."""
    await town.pay(700, 10, CASH, WANG)
    await town.make_root()
    done = asyncio.Event()

    async def post() -> None:
        start = 10_000
        while not done.is_set():
            await town.pay(start, 200, CASH, WANG)
            start += 200
            if start % 2000 == 0:
                await town.post("/v1/state-roots")

    posting = asyncio.create_task(post())
    bodies = []
    try:
        for number in range(15):
            for path in (
                f"/v1/transfers/{700 + number % 10}/proof",
                f"/v1/accounts/{WANG}/proof",
                f"/v1/accounts/{WANG}/statement-proof",
                "/v1/trial-balance/proof",
            ):
                answer = await town.get(path, wait="20")
                assert answer.status == 200, answer.raw
                bodies.append(answer.raw)
    finally:
        done.set()
        await posting
    for body in bodies[::4] + bodies[1::7] + bodies[2::7] + bodies[3::7]:
        town.auditor.accepts(body)


def test_the_search_for_ids_finds_them() -> None:
    """mentions() is what the tests above rely on."""
    raw = WANG.to_bytes(16, "little")
    for shift in range(5):
        for tail in range(3):
            text = base64.b64encode(b"\xa5" * shift + raw + b"\x5a" * tail)
            assert mentions(b"xx" + text + b"yy", WANG)
            assert mentions(json.dumps({"a": [text.decode()]}).encode(), WANG)
            assert not mentions(text, LI)
    for text in (str(WANG), f"{WANG:032x}", raw.hex()):
        assert mentions(f"<{text}>".encode(), WANG)
    assert mentions(WANG.to_bytes(16, "big"), WANG)


async def test_large_proofs_leave_the_threads_of_other_reads_alone(
    town: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for long statements again and again keeps nobody from reading."""
    await town.day(1, "2026-03-01")
    for first in range(0, proofs.LARGE_ENTRIES, 1000):
        await town.pay(10_000 + first, 1000, CASH, WANG)
    await town.make_root()
    go_on = threading.Event()
    made = town.context.proofs.statement

    def slowly(*asked: Any) -> bytes:
        go_on.wait(30)
        return made(*asked)

    monkeypatch.setattr(town.context.proofs, "statement", slowly)
    path = f"/v1/accounts/{WANG}/statement-proof"
    most = town.context.limits.large_proofs
    asked = [asyncio.create_task(town.get(path)) for _ in range(most)]
    try:
        while town.context.metrics.large_proofs < most:
            await asyncio.sleep(0.01)
        assert (await town.get(path)).code == "too_many_requests"
        assert (await town.get("/v1/audit/export", account=str(WANG))).code == "too_many_requests"
        assert (await town.get(f"/v1/accounts/{LI}")).status == 200
        town.auditor.accepts((await town.get(f"/v1/accounts/{LI}/proof")).raw)
    finally:
        go_on.set()
        answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers} == {200}
    assert town.context.metrics.large_proofs == 0


async def test_what_one_bundle_may_hold_counts_for_all_its_statements(
    town: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await town.pay(700, 6, CASH, WANG)
    await town.pay(800, 6, CASH, LI)
    await town.make_root()
    monkeypatch.setattr(prover, "STATEMENT_ENTRIES_MAX", 10)
    for accounts, status in ((f"{WANG}", 200), (f"{LI}", 200), (f"{WANG},{LI}", 409)):
        answer = await town.get("/v1/audit/export", account=accounts)
        assert answer.status == status, answer.raw
    assert answer.code == "proof_too_large"


@pytest.mark.parametrize("how", ["nobody takes it", "it breaks", "the client goes"])
async def test_a_package_that_is_not_taken_is_let_go(
    town: Bank, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The connection breaks, so that nobody takes a part for the whole; its files are closed."""
    await town.pay(700, 1, CASH, WANG)
    await town.make_root()
    closed = threading.Event()
    made = town.context.proofs.export

    def large(*asked: Any) -> export.Package:
        package = made(*asked)
        close, size = package.close, package.size

        def pieces() -> Iterator[bytes]:
            for _ in range(64):
                yield bytes(1 << 20)
            if how == "it breaks":
                raise OSError("the disk is gone")

        monkeypatch.setattr(package, "size", size + (128 << 20))
        monkeypatch.setattr(package, "pieces", pieces)
        monkeypatch.setattr(package, "close", lambda: (close(), closed.set()))
        return package

    monkeypatch.setattr(town.context.proofs, "export", large)
    monkeypatch.setattr(proofs, "SEND_PIECE_S", 0.3)
    host, port = town.server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/audit/export?account={WANG} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    if how == "the client goes":
        writer.transport.abort()
    elif how == "it breaks":
        body = await asyncio.wait_for(reader.read(), 20)  # up to the end of the connection
        assert b"problem" not in body
    for _ in range(500):
        if closed.is_set() and not town.context.metrics.large_proofs:
            break
        await asyncio.sleep(0.02)
    assert closed.is_set()
    assert town.context.metrics.large_proofs == 0
    writer.close()
    assert (await town.get("/readyz")).status == 200
