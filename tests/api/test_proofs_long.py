"""Proofs of a large ledger: a million accounts, ten million transfers, three witnesses. For hours
when nobody waits; what it measures is printed (-s) and stands in docs/performance.md.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger.cli.process import ServerProcess
from ledger.client import Client
from ledger.proof import signing
from ledger.storage.directory import create
from tests.api.auditor import Auditor
from tests.witnesses import WitnessProcess

pytestmark = pytest.mark.long

NAME = "bank.example/ledger"
ACCOUNTS = int(os.environ.get("SANYUAN_LONG_ACCOUNTS", 1_000_000))
TRANSFERS = int(os.environ.get("SANYUAN_LONG_TRANSFERS", 10_000_000))
STATEMENT = 1000
CUSTOMER = ACCOUNTS + 1


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def own_bytes(pid: int) -> int:
    """The memory that a process has of its own, without files that are mapped."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def random_transfers(random: np.random.Generator, first: int, count: int) -> np.ndarray:
    transfers = np.zeros(count, layout.TRANSFER)
    transfers["id"]["lo"] = np.arange(first, first + count)
    transfers["id"]["hi"] = 1
    debit = random.integers(1, ACCOUNTS + 1, count)
    transfers["debit_account_id"]["lo"] = debit
    transfers["credit_account_id"]["lo"] = debit % ACCOUNTS + 1
    transfers["amount"]["lo"] = random.integers(1, 10_000, count)
    transfers["ledger"], transfers["code"] = 156, 1
    return transfers


class Bank:
    """A served bank with many accounts, and its auditor."""

    def __init__(self, client: Client, auditor: Auditor) -> None:
        self.client, self.auditor = client, auditor
        self.random = np.random.default_rng(1)
        self.next_id = 1
        self.figures: dict[str, Any] = {}

    async def open_accounts(self) -> None:
        # The customer is in the midst of them, where paths are longest.
        ids = np.insert(np.arange(1, ACCOUNTS + 1), ACCOUNTS // 3, CUSTOMER)
        for first in range(0, len(ids), layout.REQUEST_EVENTS_MAX):
            part = ids[first : first + layout.REQUEST_EVENTS_MAX]
            accounts = np.zeros(len(part), layout.ACCOUNT)
            accounts["id"]["lo"] = part
            accounts["ledger"], accounts["code"] = 156, 20
            results = await self.client.create_accounts(accounts)
            assert (results["status"] == layout.CREATED).all()

    async def pay(self, count: int) -> None:
        """Post random transfers on eight connections at once."""
        end = self.next_id + count

        async def connection() -> None:
            while self.next_id < end:
                size = min(layout.REQUEST_EVENTS_MAX, end - self.next_id)
                events = random_transfers(self.random, self.next_id, size)
                self.next_id += size
                results = await self.client.create_transfers(events)
                assert (results["status"] == layout.CREATED).all()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(connection())

    async def pay_customer(self) -> None:
        events = random_transfers(self.random, self.next_id, STATEMENT)
        self.next_id += STATEMENT
        events["credit_account_id"]["lo"] = CUSTOMER
        results = await self.client.create_transfers(events)
        assert (results["status"] == layout.CREATED).all()

    async def move_to(self, day: int) -> None:
        """Begin a business day, and wait for the state root of the end of the one before."""
        date = f"2026-03-{day:02}"
        await self.client.move_business_date({"id": 9000 + day, "date": date})
        while True:
            roots = await self.client.proofs.state_roots()
            if roots and str(roots[-1].business_date) == date and roots[-1].interval is not None:
                return
            await asyncio.sleep(0.1)

    async def statement(self, day: int) -> bytes:
        date = f"2026-03-{day:02}"
        began = time.perf_counter()
        body = await self.client.proofs.statement(CUSTOMER, start=date, end=date)
        self.figures[f"statement_of_day_{day}_seconds"] = round(time.perf_counter() - began, 3)
        self.auditor.accepts(body, "--account", str(CUSTOMER), "--from", date, "--to", date)
        (item,) = (one for one in json.loads(body)["items"] if one["type"] == "statement")
        assert len(item["entries"]) == STATEMENT
        return body


def measured_verify(auditor: Auditor, package: Path) -> dict[str, Any]:
    """Run verify.py on a package; return its verdict, its seconds and its memory at most."""
    began = time.perf_counter()
    command = [sys.executable, "-I", str(auditor.verifier), str(package), "--json"]
    process = subprocess.Popen(
        [*command, "--policy", str(auditor.policy)], stdout=subprocess.PIPE, env={}
    )
    assert process.stdout is not None
    verdict = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    return {"verdict": verdict, "seconds": seconds, "memory_bytes": usage.ru_maxrss * 1024}


def test_a_large_ledger_is_proven_as_well_as_a_small_one(tmp_path: Path, stack: ExitStack) -> None:
    directory = tmp_path / "ledger"
    create(directory)
    vkey = signing.create_key(directory / signing.DEFAULT_NAME, name=NAME, passphrase=None)
    witnesses = [
        stack.enter_context(WitnessProcess(tmp_path / f"w{n}", str(vkey))) for n in range(3)
    ]
    lines = "\n".join(one.policy_line for one in witnesses)
    names = " ".join(one.key.name for one in witnesses)
    policy = f"log {vkey}\n{lines}\ngroup all all {names}\nquorum all\n".encode()
    (tmp_path / "policy.txt").write_bytes(policy)
    auditor = Auditor(tmp_path / "auditor", policy)
    server = stack.enter_context(
        ServerProcess(directory, arguments=("--policy", str(tmp_path / "policy.txt")))
    )
    package = tmp_path / "all.zip"

    async def scenario() -> Bank:
        async with Client(server.url, timeout_s=300, give_up_after_s=600) as client:
            bank = Bank(client, auditor)
            await bank.open_accounts()
            await bank.move_to(1)
            await bank.pay_customer()
            await bank.move_to(2)
            began = time.perf_counter()
            await bank.pay(TRANSFERS)
            bank.figures["transfers_per_second"] = round(TRANSFERS / (time.perf_counter() - began))
            await bank.pay_customer()
            await bank.move_to(3)
            await bank.pay_customer()
            await bank.move_to(4)

            # The older day end is ten million transfers back; the others are those of yesterday.
            old = await bank.statement(1)
            new = await bank.statement(3)
            assert 0.8 < len(old) / len(new) < 1.25
            transfer = await client.proofs.transfer((1 << 64) + bank.next_id // 2)
            balance = await client.proofs.account(CUSTOMER)
            for body in (transfer, balance):
                auditor.accepts(body)
            entries = json.loads(new)["items"][-1]["entries"]
            each = sum(len(entry) + 3 for entry in entries) / STATEMENT
            sizes = {
                "transfer": len(transfer),
                "balance": len(balance),
                "history": len(new) - each * STATEMENT,
                "entry": each,
            }
            bank.figures["bundle_bytes"] = sizes

            before = most = own_bytes(server.process.pid)

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, own_bytes(server.process.pid))
                    await asyncio.sleep(0.02)

            began, watching = time.perf_counter(), asyncio.create_task(watch())
            with package.open("wb") as out:
                await client.proofs.export("all", out.write)
            watching.cancel()
            bank.figures["export_seconds"] = round(time.perf_counter() - began, 1)
            bank.figures["export_memory_bytes"] = most - before
            bank.figures["balances"] = [
                (line.ledger, line.code, line.account_count, line.debits_posted)
                for line in await client.trial_balance()
            ]
            return bank

    bank = asyncio.run(scenario())
    figures = bank.figures
    verified = measured_verify(auditor, package)
    assert verified["verdict"]["verdict"] == "accepted", verified
    figures["verify_seconds"] = round(verified["seconds"], 1)
    figures["verify_memory_bytes"] = verified["memory_bytes"]
    with zipfile.ZipFile(package) as opened:
        assert opened.getinfo("state.bin").file_size == 192 * CUSTOMER
        table = list(csv.reader(io.StringIO(opened.read("trial-balance.csv").decode())))
    # What was recomputed from every account is what the ledger itself says it has.
    assert [tuple(map(int, row[:4])) for row in table[1:]] == figures.pop("balances")
    assert server.stop(300) == 0
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")

    told = {"transfer": 2900, "balance": 3700, "history": 8000, "entry": 210}
    for name, size in figures["bundle_bytes"].items():
        assert 0.75 * told[name] <= size <= 1.25 * told[name], figures
    # state.bin has 192 MB; it is never in memory as a whole.
    assert figures["export_memory_bytes"] < 100e6
