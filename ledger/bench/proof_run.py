"""The benchmark of proofs: from blocks of two sizes in this process, and of a server over HTTP.

In process: leaf and path of one entry, from a block that was not used before (it is hashed whole)
and from one that was. Over HTTP: bundles of transfers drawn from all, one request after the other,
right after they were posted; a statement of 1,000 entries; and what verify.py takes for it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

import ledger.proof
from ledger import layout
from ledger.bench import measure
from ledger.bench.engine_run import Progress, require_created
from ledger.cli.process import ServerProcess
from ledger.client import Client
from ledger.proof import signing
from ledger.proof.entries import read_entry
from ledger.proof.paths import Paths
from ledger.state import State
from ledger.storage.directory import create

ACCOUNTS: Final = 10_000
BLOCK_SIZES: Final = (layout.REQUEST_EVENTS_MAX, layout.BLOCK_ENTRIES_MAX)
COLD_REPEATS: Final = 40
STATEMENT_ENTRIES: Final = 1000
FRESH: Final = 20
"""Transfers whose proof is asked for at once when they are posted."""
_FIRST_ID: Final = 1 << 64
_STATEMENT_ACCOUNT: Final = ACCOUNTS + 1
_VERIFIER: Final = Path(ledger.proof.__file__).with_name("verify.py")


def _accounts(count: int) -> np.ndarray:
    accounts = np.zeros(count, layout.ACCOUNT)
    accounts["id"]["lo"] = np.arange(1, count + 1)
    accounts["ledger"], accounts["code"] = 156, 10
    return accounts


def _transfers(random: np.random.Generator, first: int, count: int) -> np.ndarray:
    transfers = np.zeros(count, layout.TRANSFER)
    transfers["id"]["lo"] = np.arange(first, first + count)
    transfers["id"]["hi"] = 1
    debit = random.integers(1, ACCOUNTS + 1, count)
    transfers["debit_account_id"]["lo"] = debit
    credit = (debit + random.integers(0, ACCOUNTS - 1, count)) % ACCOUNTS + 1
    transfers["credit_account_id"]["lo"] = np.where(credit == debit, debit % ACCOUNTS + 1, credit)
    transfers["amount"]["lo"] = random.integers(1, 10_000, count)
    transfers["ledger"], transfers["code"] = 156, 1
    transfers["user_data_64"] = random.integers(0, 1 << 62, count)
    return transfers


def _in_process(requests: int, progress: Progress) -> dict[str, dict[str, float]]:
    """Return latencies in ms by block size, from blocks not used before and used before."""
    random, figures = np.random.default_rng(1), {}
    for size in BLOCK_SIZES:
        state = State()
        state.create_accounts(_accounts(ACCOUNTS), 10**18)
        results = state.create_transfers(_transfers(random, 1, size), 2 * 10**18)
        require_created("transfers", results)
        core = state.core
        positions = [
            layout.position(1, int(place)) for place in random.integers(size, size=requests)
        ]
        with state._store.reader() as reader:
            cold = [
                _time_ns(reader, Paths(core.fill_account_ids), position)
                for position in positions[:COLD_REPEATS]
            ]
            paths = Paths(core.fill_account_ids)
            _time_ns(reader, paths, positions[0])
            warm = []
            for number, position in enumerate(positions):
                warm.append(_time_ns(reader, paths, position))
                if number % 100 == 99:
                    progress(f"blocks of {size}", number + 1, requests)
        for name, times in (("first_use", cold), ("used", warm)):
            elapsed, processor = np.array(times).T
            figures[f"block_{size}_{name}_ms"] = measure.Latencies(elapsed).milliseconds()
            figures[f"block_{size}_{name}_cpu_ms"] = measure.Latencies(processor).milliseconds()
    return figures


def _time_ns(reader: Any, paths: Paths, position: int) -> tuple[int, int]:
    """Return how long leaf and path of one entry take, and the processor time of it."""
    began, cpu = time.perf_counter_ns(), time.thread_time_ns()
    read_entry(reader, position, paths.row(reader, position))
    paths.in_block(reader, position)
    return time.perf_counter_ns() - began, time.thread_time_ns() - cpu


async def _post(client: Client, url: str, transfers: int, progress: Progress) -> None:
    """Post on eight connections at once, so that blocks grow as they do under load."""
    random, posted = np.random.default_rng(2), 0
    require_created("accounts", await client.create_accounts(_accounts(8000)))
    require_created("accounts", await client.create_accounts(_accounts(ACCOUNTS + 1)[8000:]))

    async def connection() -> None:
        nonlocal posted
        while posted < transfers:
            count = min(layout.REQUEST_EVENTS_MAX, transfers - posted)
            events = _transfers(random, posted, count)
            posted += count
            require_created("transfers", await client.create_transfers(events))
            progress("transfers", posted, transfers)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(connection())
    events = _transfers(random, transfers + 1_000_000, STATEMENT_ENTRIES - 1)
    events["credit_account_id"]["lo"] = _STATEMENT_ACCOUNT
    require_created("transfers", await client.create_transfers(events))


async def _over_http(
    server: ServerProcess, transfers: int, requests: int, progress: Progress
) -> tuple[dict[str, Any], bytes]:
    """Return figures, and the bundle of the statement."""
    random, url = np.random.default_rng(3), server.url
    times: list[int] = []
    sizes: list[int] = []
    fresh: list[int] = []
    async with Client(url) as client:
        await _post(client, url, transfers, progress)
        block = await client.proofs.make_state_root()
        # When this one is provable, all are.
        await client.proofs.transfer(_FIRST_ID + transfers + 1_000_000)
        while not [r for r in await client.proofs.state_roots() if r.block >= block]:
            await asyncio.sleep(0.05)
        served = measure.process_cpu_seconds(server.process.pid)
        async with aiohttp.ClientSession() as session:
            for number in range(requests):
                wanted = _FIRST_ID + int(random.integers(transfers))
                began = time.perf_counter_ns()
                async with session.get(f"{url}/v1/transfers/{wanted}/proof") as answer:
                    body = await answer.read()
                    assert answer.status == 200, body
                times.append(time.perf_counter_ns() - began)
                sizes.append(len(body))
                if number % 100 == 99:
                    progress("proofs", number + 1, requests)
        served = measure.process_cpu_seconds(server.process.pid) - served
        for number in range(FRESH):
            event = _transfers(random, transfers + 2_000_000 + number, 1)
            require_created("transfers", await client.create_transfers(event))
            began = time.perf_counter_ns()
            await client.proofs.transfer(_FIRST_ID + transfers + 2_000_000 + number)
            fresh.append(time.perf_counter_ns() - began)
        started = time.perf_counter()
        statement = await client.proofs.statement(_STATEMENT_ACCOUNT)
        seconds = time.perf_counter() - started
    figures = {
        "http_transfer_ms": measure.Latencies(np.array(times)).milliseconds(),
        "http_transfer_server_cpu_ms": round(1e3 * served / requests, 3),
        "transfer_bundle_bytes": int(np.median(sizes)),
        "just_posted_ms": measure.Latencies(np.array(fresh)).milliseconds(),
        "statement_seconds": round(seconds, 3),
        "statement_bundle_bytes": len(statement),
    }
    return figures, statement


def _verified(statement: bytes, policy: bytes) -> dict[str, float]:
    """Return how long verify.py takes for the statement, with packages and without."""
    figures = {}
    with tempfile.TemporaryDirectory(prefix="sanyuan-bench-") as folder:
        bundle, trusted = Path(folder) / "bundle.json", Path(folder) / "policy.txt"
        bundle.write_bytes(statement)
        trusted.write_bytes(policy)
        for name, options in (("packages", []), ("standard_library", ["--pure"])):
            command = [sys.executable, "-I", str(_VERIFIER), str(bundle), "--json", *options]
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "--policy", str(trusted)], capture_output=True, check=True
            )
            figures[f"verify_{name}_seconds"] = round(time.perf_counter() - began, 3)
            assert json.loads(done.stdout)["verdict"] == "accepted"
    return figures


def run(transfers: int, requests: int, directory: Path, progress: Progress) -> dict[str, Any]:
    """Return all figures. Raises RunFailed and LedgerError."""
    measure.real_disk(directory.parent)
    figures: dict[str, Any] = {"scenario": "proofs", "transfers": transfers, "requests": requests}
    figures |= _in_process(requests, progress)
    create(directory)
    key = directory / signing.DEFAULT_NAME
    signing.create_key(key, name="bench.example/ledger", passphrase=None)
    with ServerProcess(directory) as server:
        served, statement = asyncio.run(_over_http(server, transfers, requests, progress))
        figures |= served
        server.stop(120)
    figures |= _verified(statement, bytes(signing.read_policy(key)))
    figures["machine"] = measure.machine(directory)
    return figures
