"""State roots of a serving ledger: when they are made, that posting goes on, what restarts do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ledger import layout, state_roots
from ledger._core import Core
from ledger._pack import BlockView
from ledger._verifier import Verifier
from ledger.config import Config
from ledger.errors import DataDamaged, DiskFailed, DiskFull, Unavailable
from ledger.sealing import is_seal_block
from ledger.storage.memory import MemoryDisk, MemoryPages, MemoryStore
from ledger.storage.rebuilt_roots import archive_differences, asked_by, captured_root
from ledger.storage.recovery import read_block
from ledger.storage.snapshot import unpack_page
from ledger.storage.store import Recovery
from tests.unit.test_engine import Bench, account, eventually, transfer

Gate = Callable[[str, str], None]


class RootBench(Bench):
    """A bench whose roots a test can hold up or fail, and days that end."""

    def __init__(self, *arguments: Any, **knobs: int) -> None:
        super().__init__(*arguments, **{"seal_interval_ms": 1000, **knobs})
        self.days = 0
        self.steps: list[tuple[str, str]] = []
        self.on_step: Gate = lambda step, when: None
        gate = self.gate

        def hook(step: str, when: str) -> None:
            self.steps.append((step, when))
            gate(step, when)
            self.on_step(step, when)

        for part in (self.store._journal, self.store._pages, self.store._trees):
            part._hook = hook

    def end_day(self) -> Any:
        self.days += 1
        row = {"id": 1000 + self.days, "date": 20260100 + self.days}
        events = layout.record_array(layout.BUSINESS_DATE, [row])
        return self.engine.submit("business_date", events)

    def open_accounts(self, first: int, count: int) -> None:
        for start in range(first, first + count, 8000):
            rows = np.zeros(min(8000, first + count - start), layout.ACCOUNT)
            rows["id"]["lo"] = np.arange(start, start + len(rows))
            rows["ledger"], rows["code"] = 1, 1 + rows["id"]["lo"] % 3
            self.engine.submit("accounts", rows).result(20)

    def views(self) -> list[Any]:
        return [BlockView(value, number=number) for number, value in enumerate(self.disk.blocks)]

    def named(self) -> list[int]:
        """Blocks whose roots headers name, in the order of the headers."""
        return [view.state[0] for view in self.views() if view.state is not None]

    def until_named(self, count: int) -> None:
        """Let time pass until headers name so many roots."""
        for _ in range(100):
            if len(self.named()) >= count:
                return
            self.clock.advance(2)
            time.sleep(0.06)
        raise AssertionError(f"headers name {self.named()} of {self.kept()}")

    def kept(self) -> list[int]:
        return [block for block, *_ in self.engine.roots.blocks()]

    def stop(self) -> None:
        self.engine.stop()
        self.store.close()


@pytest.fixture
def make() -> Iterator[Callable[..., RootBench]]:
    benches: list[RootBench] = []

    def started(*arguments: Any, **options: Any) -> RootBench:
        bench = RootBench(*arguments, **options)
        benches.append(bench)
        bench.engine.start()
        return bench

    yield started
    for bench in benches:
        bench.gate.open.set()
        bench.stop()


def check(disk: MemoryDisk) -> set[int]:
    """Decide the whole journal again; every root that a header names, and every archived one, must
    come out, and every day's end must have one. Return the blocks with roots."""
    copy = MemoryDisk(disk.instance)
    copy.blocks, copy.metadata = list(disk.blocks), dict(disk.metadata)
    copy.roots = dict(disk.roots)
    store, core, verifier = MemoryStore(Config(), disk=copy), Core(), Verifier()
    before = {kept for kept, *_ in store.roots.blocks()}
    store.recover(core)
    with store.reader() as reader:
        asked = asked_by(reader, 0, reader.last_block)
        assert asked.blocks <= before, "the root of a day's end is lost"
        for number in range(reader.last_block + 1):
            block = read_block(reader, number)
            assert verifier.redecide(block) == []
            verifier.hash_block(block, block.seed)
            if number in before:
                root = captured_root(verifier)
                assert asked.named.get(number, root.root) == root.root
                assert archive_differences(store.roots, root) == []
    return before


def recovered(disk: MemoryDisk) -> tuple[MemoryStore, Recovery]:
    store = MemoryStore(Config(), disk=disk)
    return store, store.recover(Core())


def settle() -> None:
    time.sleep(0.2)


def test_a_day_ends_with_its_block_and_has_a_root_that_is_named(
    make: Callable[..., RootBench],
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    bench.gate.open.clear()
    bench.gate.reached.clear()
    first = bench.submit("transfers", transfer(1))
    assert bench.gate.reached.wait(5)
    before, ending = bench.submit("transfers", transfer(2)), bench.end_day()
    after = bench.submit("transfers", transfer(3))
    bench.gate.open.set()
    positions = [f.result(5).position >> layout.INDEX_BITS for f in (first, before, ending, after)]
    assert positions == [1, 2, 2, 3]
    eventually(lambda: bench.kept() == [2])
    bench.until_named(1)
    assert bench.named() == [2]
    kept = bench.engine.roots.kept(2)
    assert kept is not None
    assert (kept.timestamp, kept.business_date) == (bench.views()[2].last_timestamp, 20260101)
    assert [view.state for view in bench.views() if view.state] == [(2, kept.root)]
    bench.clock.advance(100)
    settle()
    count = len(bench.disk.blocks)
    bench.clock.advance(100)
    settle()
    assert len(bench.disk.blocks) == count  # nothing is left to name or to seal
    assert check(bench.disk) == {2}


def test_refused_and_dry_run_dates_end_no_day(make: Callable[..., RootBench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    events = layout.record_array(layout.BUSINESS_DATE, [{"id": 5, "date": 20260101}])
    bench.engine.submit("business_date", events, dry_run=True).result(5)
    bench.engine.submit("business_date", events).result(5)
    bench.engine.submit("business_date", events).result(5)  # exists
    wrong = layout.record_array(layout.BUSINESS_DATE, [{"id": 6, "date": 20251231}])
    bench.engine.submit("business_date", wrong).result(5)
    bench.post("transfers", transfer(1))
    eventually(lambda: bench.kept() == [1])
    settle()
    assert bench.kept() == [1]


def test_roots_are_made_at_intervals_when_something_was_posted(
    make: Callable[..., RootBench],
) -> None:
    bench = make(state_root_interval_s=100)
    bench.clock.advance(200)
    settle()
    assert bench.kept() == []
    bench.post("accounts", account(1), account(2))
    eventually(lambda: bench.kept() == [0])
    for _ in range(3):
        bench.clock.advance(200)
        settle()
    assert bench.kept() == [0]  # a block that was made to be sealed is nothing posted
    last = bench.post("transfers", transfer(1)).position >> layout.INDEX_BITS
    eventually(lambda: bench.kept() == [0, last])
    bench.post("transfers", transfer(2))
    bench.clock.advance(50)
    settle()
    assert bench.kept() == [0, last]
    bench.stop()
    again = make(bench.disk, bench.clock, state_root_interval_s=100)
    settle()
    assert len(again.kept()) == 2
    again.clock.advance(51)  # the time before the restart counts
    eventually(lambda: len(again.kept()) == 3)
    check(again.disk)


def test_a_root_on_request(make: Callable[..., RootBench]) -> None:
    bench = make(state_root_interval_s=0)
    with pytest.raises(Unavailable, match="nothing was posted"):
        bench.engine.request_state_root().result(5)
    bench.post("accounts", account(1), account(2))
    assert bench.engine.request_state_root().result(5) == 0
    assert bench.engine.request_state_root().result(5) == 0
    bench.clock.advance(2)
    eventually(lambda: len(bench.disk.blocks) == 2)
    assert bench.engine.request_state_root().result(5) == 0  # only a seal came since
    bench.post("transfers", transfer(1))
    both = [bench.engine.request_state_root() for _ in range(2)]
    assert [future.result(5) for future in both] == [2, 2]
    assert bench.kept() == [0, 2]
    bench.engine.stop()
    with pytest.raises(Unavailable):
        bench.engine.request_state_root()


def test_posting_goes_on_and_the_snapshot_waits_while_a_root_is_made(
    make: Callable[..., RootBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_roots, "STEP_ROWS", 256)
    monkeypatch.setattr(state_roots, "QUEUE_ROWS", 512)
    bench = make(snapshot_interval_ms=1)
    bench.open_accounts(1, 3000)
    reached, release = threading.Event(), threading.Event()
    page_blocks: list[int] = []

    def hold(step: str, when: str) -> None:
        if step == "root" and when == "before":
            reached.set()
            assert release.wait(10)
            for (kind, number), value in list(bench.disk.pages.items()):
                page = unpack_page(bench.disk.instance, kind, number, value)
                page_blocks.append(page.block)

    bench.on_step = hold
    ended = bench.end_day().result(5).position >> layout.INDEX_BITS
    assert reached.wait(5)
    for number in range(1, 60):
        bench.post("transfers", transfer(number, 1 + number))
    release.set()
    eventually(lambda: bench.kept() == [ended])
    assert max(page_blocks, default=0) <= ended
    assert bench.engine.durable_block >= ended + 59
    bench.engine.drain()
    floor = MemoryPages(bench.disk).read_floor()
    assert floor is not None
    assert (floor.kept_root, floor.block > ended) == (ended, True)
    assert check(bench.disk) == {ended}
    assert bench.engine.counters()["state_roots"] == 1


def test_days_that_end_while_a_root_is_made_have_roots_of_their_own(
    make: Callable[..., RootBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_roots, "STEP_ROWS", 256)
    monkeypatch.setattr(state_roots, "QUEUE_ROWS", 512)
    bench = make()
    bench.open_accounts(1, 3000)
    bench.engine.drain()
    held = bench.gate.open
    held.clear()
    bench.on_step = lambda step, when: step == "root" and held.wait(10)
    monkeypatch.setattr(bench, "gate", lambda step, when: None)
    for part in (bench.store._journal, bench.store._pages):
        part._hook = lambda step, when: None
    requested = bench.engine.request_state_root()
    ends = []
    for number in range(1, 6):
        for place in range(3):
            bench.post("transfers", transfer(number * 10 + place))
        ends.append(bench.end_day().result(5).position >> layout.INDEX_BITS)
    assert bench.kept() == []
    held.set()
    first = requested.result(5)
    eventually(lambda: bench.kept() == [first, *ends])
    bench.until_named(len(ends) + 1)
    assert bench.named() == [first, *ends]
    assert check(bench.disk) == {first, *ends}


def test_days_that_end_faster_than_roots_are_made_wait_before_memory_is_full(
    make: Callable[..., RootBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, days = 3000, 6
    monkeypatch.setattr(state_roots, "BACKLOG_ROWS", accounts + 1)
    bench = make()
    bench.open_accounts(1, accounts)
    bench.engine.drain()
    release = threading.Event()
    bench.on_step = lambda step, when: step == "root" and release.wait(10)
    requested = bench.engine.request_state_root()
    ended = [bench.end_day() for _ in range(days)]
    try:
        eventually(lambda: bench.engine._roots._waiting_rows > accounts)
        time.sleep(0.3)
        assert bench.engine._roots._waiting_rows <= 2 * accounts
    finally:
        release.set()
    ends = [future.result(10).position >> layout.INDEX_BITS for future in ended]
    eventually(lambda: bench.kept() == sorted({requested.result(5), *ends}))
    assert check(bench.disk) >= set(ends)


def test_a_full_disk_holds_up_the_root_and_nothing_else(make: Callable[..., RootBench]) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    full = [True]

    def no_room(step: str, when: str) -> None:
        if step == "root" and when == "before" and full[0]:
            raise DiskFull("no room for the archive")

    bench.on_step = no_room
    ended = bench.end_day().result(5).position >> layout.INDEX_BITS
    for number in range(1, 10):
        bench.post("transfers", transfer(number))
    assert bench.kept() == []
    eventually(lambda: ("state_roots_wait", True) in [(c["code"], True) for c in warned(bench)])
    full[0] = False
    eventually(lambda: bench.kept() == [ended])
    assert warned(bench) == []
    full[0] = True
    second = bench.end_day().result(5).position >> layout.INDEX_BITS
    bench.stop()  # does not wait for a disk that stays full
    store, _ = recovered(bench.disk)
    assert [block for block, *_ in store.roots.blocks()] == [ended, second]
    check(bench.disk)


def warned(bench: RootBench) -> list[dict[str, str]]:
    return bench.engine.warned()


def test_a_failed_archive_stops_the_engine_and_the_root_is_made_again(
    make: Callable[..., RootBench],
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))

    def fail(step: str, when: str) -> None:
        if step == "root" and when == "before":
            raise DiskFailed("the device is gone")

    bench.on_step = fail
    ended = bench.end_day().result(5).position >> layout.INDEX_BITS
    eventually(lambda: bool(bench.fatal))
    assert "state root" in str(bench.fatal[0])
    bench.stop()
    again = make(bench.disk, bench.clock)
    assert again.kept() == [ended]
    again.until_named(1)
    assert again.named() == [ended]
    check(again.disk)


def test_a_root_that_was_archived_and_not_named_is_named_after_a_restart(
    make: Callable[..., RootBench],
) -> None:
    bench = make()
    bench.post("accounts", account(1), account(2))
    assert bench.engine.request_state_root().result(5) == 0
    bench.stop()
    assert bench.named() == []
    again = make(bench.disk, bench.clock)
    again.until_named(1)
    assert again.named() == [0]
    assert is_seal_block(again.views()[-1])
    assert check(again.disk) == {0}


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_lost_archive_is_made_again_from_the_journal(
    make: Callable[..., RootBench], snapshot: bool
) -> None:
    bench = make()
    bench.open_accounts(1, 700)
    for number in range(1, 8):
        bench.post("transfers", transfer(number))
        if number % 3 == 0:
            bench.end_day().result(5)
        if number == 5:
            bench.engine.request_state_root().result(5)
    bench.until_named(3)
    if snapshot:
        bench.engine.drain()
    bench.stop()
    values, roots = dict(bench.disk.roots), MemoryStore(Config(), disk=bench.disk).roots.blocks()
    assert len(roots) == 3
    if not snapshot:
        bench.disk.pages.clear()
        bench.disk.floor = None
    bench.disk.roots.clear()
    store, found = recovered(bench.disk)
    assert store.roots.blocks() == roots
    assert bench.disk.roots == values
    assert found.replayed_blocks == len(bench.disk.blocks)
    if snapshot:
        assert "it and the snapshot were rebuilt" in found.notes[0]
    check(bench.disk)
    # What a backup holds is the journal alone.
    restored = MemoryDisk(bench.disk.instance)
    restored.blocks, restored.metadata = bench.disk.blocks, bench.disk.metadata
    recovered(restored)
    assert restored.roots == values


def test_an_archive_that_contradicts_the_journal(make: Callable[..., RootBench]) -> None:
    bench = make()
    bench.open_accounts(1, 300)
    bench.end_day().result(5)
    bench.until_named(1)
    bench.post("transfers", transfer(1))
    bench.engine.drain()
    bench.stop()
    good = dict(bench.disk.roots)
    other = make(MemoryDisk(bench.disk.instance), bench.clock)
    other.open_accounts(5001, 300)
    other.end_day().result(5)
    eventually(lambda: len(other.kept()) == 1)
    other.stop()
    bench.disk.roots.clear()
    bench.disk.roots.update(other.disk.roots)
    bench.disk.pages.clear()
    bench.disk.floor = None
    _, found = recovered(bench.disk)
    assert "is not the one that the journal names" in found.notes[0]
    assert bench.disk.roots == good
    del bench.disk.blocks[1:]
    with pytest.raises(DataDamaged, match="acknowledged blocks are missing"):
        recovered(bench.disk)


def test_a_root_of_many_accounts_is_made_in_turns_of_bounded_work(
    make: Callable[..., RootBench],
) -> None:
    """300,000 accounts: no turn copies more than its share, and blocks are decided in between."""
    bench = make(snapshot_bytes_per_second=1 << 34)
    bench.open_accounts(1, 300_000)
    roots = bench.engine._roots
    turns: list[list[int]] = []
    at_blocks = set()
    turn, copy = roots.turn, roots._copy

    def counted_turn(core: Core) -> None:
        turns.append([])
        turn(core)

    def counted_copy(core: Core) -> None:
        turns[-1].append(core.capture_saved_bytes)
        at_blocks.add(core.block_number)
        copy(core)

    roots.turn = counted_turn  # type: ignore[method-assign]
    roots._copy = counted_copy  # type: ignore[method-assign]
    requested = bench.engine.request_state_root()
    number = 0
    while not requested.done():
        number += 1
        bench.post("transfers", *(transfer(number * 100 + n) for n in range(50)))
    block = requested.result(5)
    for saved_bytes in filter(None, turns):
        steps = min(1 + saved_bytes[0] // state_roots.STEP_SAVED_BYTES, state_roots.STEPS_MAX)
        assert len(saved_bytes) <= steps
    assert sum(map(len, turns)) >= 300_000 // state_roots.STEP_ROWS
    assert len(turns) >= 300_000 // (state_roots.STEP_ROWS * state_roots.STEPS_MAX)
    assert len(at_blocks) > 3, "nothing was posted while the root was made"
    assert check(bench.disk) == {block}
