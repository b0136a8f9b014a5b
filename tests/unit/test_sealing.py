"""Seals: every block that ends an interval says so, and no tail waits for traffic to be sealed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger._history import History
from ledger._pack import BlockView
from ledger.config import Config
from ledger.engine import Engine
from ledger.sealing import SEAL, Seals, is_seal_block
from ledger.storage import directory as data_directory
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.verify import verify
from tests.unit.test_engine import SECOND, START, Bench, account, eventually, transfer

INTERVAL_MS = 1000
KEY = b'{"vkey":"bank.example/1+80ba27c8+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"}'


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def started(*arguments: Any, **options: Any) -> Bench:
        bench = Bench(*arguments, **{"seal_interval_ms": INTERVAL_MS, **options})
        bench.told = []  # type: ignore[attr-defined]
        bench.engine.on_sealed.append(bench.told.append)  # type: ignore[attr-defined]
        benches.append(bench)
        bench.engine.start()
        return bench

    yield started
    for bench in benches:
        bench.engine.stop()
        bench.store.close()


def views(bench: Bench) -> list[Any]:
    return [BlockView(value, number=number) for number, value in enumerate(bench.disk.blocks)]


def sealed(bench: Bench) -> list[int]:
    return [view.number for view in views(bench) if view.flags & SEAL]


def settle() -> None:
    """Give the engine a few ticks in which it must not do anything."""
    time.sleep(0.2)


def test_the_first_block_is_sealed_and_then_one_in_each_interval(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    for number in range(1, 30):
        bench.clock.advance(0.15)
        bench.post("transfers", transfer(number))
    times = [view.last_timestamp for view in views(bench)]
    expected, last = [0], times[0]
    for number, timestamp in enumerate(times):
        if timestamp >= last + INTERVAL_MS * 1_000_000:
            expected.append(number)
            last = timestamp
    assert len(expected) >= 4
    assert sealed(bench) == expected
    eventually(lambda: bench.told == expected)  # type: ignore[attr-defined]
    assert bench.engine.sealed_block == expected[-1]
    assert bench.engine.counters()["sealed_blocks"] == len(expected)


def test_a_tail_without_traffic_is_sealed_once(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.clock.advance(0.5)
    bench.post("transfers", transfer(7))
    settle()
    assert sealed(bench) == [0]
    bench.clock.advance(0.5)
    eventually(lambda: len(bench.disk.blocks) == 3)
    assert sealed(bench) == [0, 2]
    block = views(bench)[2]
    assert is_seal_block(block)
    assert not is_seal_block(views(bench)[0])
    (entry,) = block.entries()
    record = layout.record_dict(entry["record"])
    assert entry["kind"] == layout.ENTRY_KINDS["administration"][0]
    assert record == {
        **dict.fromkeys(record, 0),
        "code": layout.ADMINISTRATIONS["seal"][0],
        "timestamp": bench.clock.wall_ns,
    }
    for _ in range(4):
        bench.clock.advance(5)
        settle()
    assert len(bench.disk.blocks) == 3
    eventually(lambda: bench.told == [0, 2])  # type: ignore[attr-defined]
    assert bench.engine.durable_position == layout.position(2, 0)
    assert bench.post("transfers", transfer(8)).position == layout.position(3, 0)


def test_the_last_seal_is_found_again_after_a_restart(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.clock.advance(0.4)
    bench.post("transfers", transfer(7))
    bench.engine.stop()
    bench.store.close()
    again = make(bench.disk, bench.clock)
    assert again.engine.sealed_block == 0
    again.clock.advance(0.3)
    again.post("transfers", transfer(8))
    assert sealed(again) == [0]
    again.clock.advance(0.3)
    again.post("transfers", transfer(9))
    assert sealed(again) == [0, 3]
    again.post("transfers", transfer(10))
    again.engine.stop()
    again.store.close()
    last = make(bench.disk, bench.clock)
    settle()
    assert sealed(last) == [0, 3]
    last.clock.advance(1)
    eventually(lambda: sealed(last) == [0, 3, 5])


def test_no_seal_is_made_while_the_clock_is_not_trusted_or_the_disk_is_full(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.post("transfers", transfer(7))
    bench.store.posting_allowed = lambda: False  # type: ignore[method-assign]
    bench.clock.advance(0.1)
    eventually(lambda: bool(bench.engine.reasons_not_ready()))
    bench.clock.advance(2)
    settle()
    assert len(bench.disk.blocks) == 2
    bench.store.posting_allowed = lambda: True  # type: ignore[method-assign]
    bench.clock.wall_ns += 3600 * SECOND
    settle()
    assert len(bench.disk.blocks) == 2
    bench.engine.confirm_clock()
    eventually(lambda: sealed(bench) == [0, 2])


def test_a_clock_behind_the_entries_does_not_hold_up_the_seals(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.clock.wall_ns += 3600 * SECOND
    bench.engine.confirm_clock()
    settle()
    bench.post("accounts", account(1), account(2))
    bench.clock.wall_ns -= 3600 * SECOND
    bench.engine.confirm_clock()
    settle()
    for number in range(1, 60):
        bench.clock.advance(0.1)
        bench.post("transfers", transfer(number))
    assert any(is_seal_block(view) for view in views(bench))
    times = [view.last_timestamp for view in views(bench)]
    assert times == sorted(times)
    assert times[-1] < START + 3601 * SECOND


def test_a_listener_that_fails_does_not_stop_the_ledger(make: Callable[..., Bench]) -> None:
    bench = make()

    def fail(number: int) -> None:
        raise RuntimeError(f"no use for block {number}")

    bench.engine.on_sealed.insert(0, fail)
    bench.post("accounts", account(1), account(2))
    eventually(lambda: bench.told == [0])  # type: ignore[attr-defined]
    assert bench.post("transfers", transfer(7)).position == layout.position(1, 0)


def test_a_block_with_a_signing_key_says_so(make: Callable[..., Bench]) -> None:
    bench = make()
    flag = layout.flag_mask("BLOCK", "announces_key")
    key = {"id": 1, "kind": layout.DEFINITION_KINDS["signing_key"][0]}
    code = {"id": 2, "kind": layout.DEFINITION_KINDS["code"][0], "code": 5}
    rows = layout.record_array(layout.DEFINITION, [code])
    bench.engine.submit("definitions", rows, metadata={0: b'{"name":"x"}'}).result(5)
    rows = layout.record_array(layout.DEFINITION, [key])
    bench.engine.submit("definitions", rows, metadata={0: KEY}, dry_run=True).result(5)
    bench.engine.submit("definitions", rows, metadata={0: KEY}).result(5)
    bench.engine.submit("definitions", rows, metadata={0: KEY}).result(5)  # exists: no entry
    assert [bool(view.flags & flag) for view in views(bench)] == [False, True]
    declared = bench.engine.read(lambda core: core.definitions()).result(5)
    assert declared[-1] == {
        "kind": 3, "ledger": 0, "code": 0, "exponent": 0, "flags": 0, "metadata": KEY,
    }  # fmt: skip


def test_everything_takes_a_ledger_with_seals(tmp_path: Path) -> None:
    """On disk: reads, recovery, the index of ids, verification, a rebuild."""
    directory = tmp_path / "data"
    data_directory.create(directory)
    config = Config(seal_interval_ms=10, write_ahead_bytes=0, disk_reserve_bytes=0)

    def serve(first: int) -> list[int]:
        store = LmdbStore(directory, config)
        engine = Engine(store, config)
        engine.start()
        sealed_blocks: list[int] = []
        engine.on_sealed.append(sealed_blocks.append)
        try:
            rows = layout.record_array(layout.ACCOUNT, [account(1), account(2)])
            engine.submit("accounts", rows).result(5)
            for number in range(first, first + 3):
                rows = layout.record_array(layout.TRANSFER, [transfer(number), transfer(999)])
                engine.submit("transfers", rows).result(5)
                rows = layout.record_array(
                    layout.BUSINESS_DATE, [{"id": number, "date": 20260100 + number}]
                )
                engine.submit("business_date", rows).result(5)
                time.sleep(0.12)
            with engine.reader() as (reader, last):
                positions, _ = engine.history.events_after(reader, None, 1000, last)
                made = [n for n in range(last + 1) if is_seal_block(reader.block(n))]
            assert len(made) >= 2
            at = {int(position) >> layout.INDEX_BITS for position in positions}
            assert set(made) <= at
            ids = np.array([layout.from_int(n) for n in (0, first, 999)], layout.U128)
            assert engine.find_transfers(ids).result(5)[1].tolist() == [False, True, True]
            assert isinstance(engine.history, History)
        finally:
            engine.stop()
            store.close()
        return sealed_blocks

    serve(10)
    serve(20)
    verdict = verify(directory, config)
    assert verdict.clean, verdict.differences
    for part in ("state", "ids"):
        (directory / part / "data.mdb").unlink()
    serve(30)
    assert verify(directory, config).clean


def test_seals_are_decided_by_timestamps_alone() -> None:
    seals = Seals(1000)
    assert seals.take(5, 0)
    assert [seals.take(t, 0) for t in (6, 1004, 1005, 1006, 5000, 5999, 6000)] == [
        False, False, True, False, True, False, True,
    ]  # fmt: skip
    assert not seals.due(10_000, idle=True, root_waits=False)
    assert seals.due(10_000, idle=True, root_waits=True)
    assert not seals.take(6001, 50)
    assert not seals.due(999, idle=True, root_waits=False)
    assert seals.due(1000, idle=True, root_waits=False)
    assert not seals.due(1000, idle=False, root_waits=False)
    assert seals.due(4000, idle=False, root_waits=False)
    assert seals.take(6002, 4000, made=True)
    assert not seals.due(9000, idle=True, root_waits=False)


def test_an_empty_journal_has_nothing_to_seal() -> None:
    class Empty:
        last_block = -1

    seals = Seals(1000)
    assert seals.recover(Empty(), 0) == -1
    assert not seals.due(10**12, idle=True, root_waits=False)
