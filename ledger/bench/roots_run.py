"""What making a state root costs those who post: an engine under full load, while roots are made.

Transfers are posted without a pause, with eight requests in flight. After some of them a state
root is asked for, and when it is archived the next one. Latencies are told apart by whether a root
was being made when a request was answered.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ledger import layout
from ledger.bench import measure
from ledger.bench.engine_run import Posting, Progress, Workload, post_all
from ledger.config import Config
from ledger.engine import Engine
from ledger.storage.directory import create
from ledger.storage.lmdb_store import LmdbStore


def run(
    workload: Workload, directory: Path, config: Config, roots: int, progress: Progress
) -> dict[str, Any]:
    """Post a workload, then go on while so many state roots are made; return the figures."""
    measure.real_disk(directory.parent)
    generator = workload.generator()
    create(directory)
    store = LmdbStore(directory, config)
    engine = Engine(store, config)
    try:
        engine.start()
        accounts = Posting(engine, "accounts", layout.ACCOUNT, layout.REQUEST_EVENTS_MAX)
        post_all(
            accounts,
            workload.accounts,
            layout.REQUEST_EVENTS_MAX,
            generator.accounts,
            lambda done: progress("accounts", done, workload.accounts),
        )
        engine.drain()
        posting = Posting(engine, "transfers", layout.TRANSFER, workload.batch)
        before_bytes = engine.counters()["block_bytes"]
        started = time.perf_counter()
        post_all(
            posting,
            workload.transfers,
            workload.batch,
            lambda events, done: generator.transfers(events),
            lambda done: progress("transfers", done, workload.transfers),
        )
        without_s = time.perf_counter() - started
        undisturbed = np.array(posting.latencies)
        made = []
        for number in range(roots):
            made.append(_one_root(workload, generator, engine))
            progress("state roots", number + 1, roots)
        after = engine.counters()
        journal_bytes = after["block_bytes"] - before_bytes
        return {
            "scenario": "roots",
            "accounts": workload.accounts,
            "transfers": workload.transfers,
            "distribution": workload.distribution,
            "batch": workload.batch,
            "without_roots": {
                "transfers_per_second": round(workload.transfers / without_s),
                **measure.Latencies(undisturbed).milliseconds(),
            },
            "roots": made,
            "longest_step_ms": round(after["state_root_longest_step_ns"] / 1e6, 2),
            "longest_step_cpu_ms": round(after["state_root_longest_step_cpu_ns"] / 1e6, 2),
            "journal_bytes": journal_bytes,
            "machine": measure.machine(directory),
        }
    finally:
        engine.stop()
        store.close()


def _one_root(workload: Workload, generator: Any, engine: Engine) -> dict[str, Any]:
    posting = Posting(engine, "transfers", layout.TRANSFER, workload.batch)
    before = engine.counters()
    started = time.perf_counter()
    root = engine.request_state_root()
    posted = 0
    while not root.done():
        buffer = posting.buffer()
        generator.transfers(buffer)
        posting.post(buffer, len(buffer))
        posted += len(buffer)
    posting.finish()
    seconds = time.perf_counter() - started
    root.result()
    after = engine.counters()
    archive = after["state_root_archive_bytes"] - before["state_root_archive_bytes"]
    return {
        "capture_s": round(after["state_root_last_capture_ns"] / 1e9, 3),
        "archived_after_s": round(after["state_root_last_made_ns"] / 1e9, 3),
        "copying_s": round(
            (after["state_root_copying_ns"] - before["state_root_copying_ns"]) / 1e9, 3
        ),
        "most_saved_bytes": after["state_root_most_saved_bytes"],
        "archive_bytes": archive,
        "transfers_per_second": round(posted / seconds),
        **measure.Latencies(np.array(posting.latencies)).milliseconds(),
    }
