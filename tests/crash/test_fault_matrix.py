"""Every durable step failed before and after it took effect, on the disk and on its twin in
memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger._core import Core
from ledger.storage import directory
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.memory import MemoryDisk, MemoryStore
from ledger.storage.rebuilt_roots import archive_differences, asked_by, captured_root
from ledger.storage.recovery import read_block
from ledger.storage.snapshot import Pace
from ledger.storage.store import Hook, no_hook
from tests.crash.driver import CONFIG, Bank, history, script

SCRIPT = script(7, 14)
IDS = [row["id"] for block in SCRIPT for _, rows, _ in block for row in rows]


class Cut(Exception):
    """Stands for the end of the process at a step."""


class Cutter:
    """A hook that counts the places where it is called, and ends the process at one of them."""

    def __init__(self, place: int | None = None) -> None:
        self.place = place
        self.calls: list[tuple[str, str]] = []

    def __call__(self, step: str, when: str) -> None:
        self.calls.append((step, when))
        if len(self.calls) - 1 == self.place:
            raise Cut(f"{when} {step}")


def ticking() -> Callable[[], float]:
    """Return a clock that lets a few pages through in each step, so that passes run over several
    blocks."""
    ticks = itertools.count()
    return lambda: next(ticks) * 0.03


SLOW = Pace(chunk_bytes=40_000, pass_interval_s=0.0, threaded=False)
Opener = Callable[[Hook], LmdbStore | MemoryStore]


def opener_of(kind: str, path: Path) -> Opener:
    """Return a function that opens a store on what is durable so far; every few blocks end a
    pass."""
    if kind == "memory":
        disk = MemoryDisk(bytes(range(16)))
        return lambda hook: MemoryStore(
            CONFIG, disk=disk, hook=hook, pace=SLOW, monotonic=ticking()
        )
    directory.create(path / "data", instance=bytes(range(16)))
    return lambda hook: LmdbStore(path / "data", CONFIG, hook=hook, pace=SLOW, monotonic=ticking())


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[object], list[object], list[bytes], list[object]]:
    """Books after each block, answers, and the end of the history, of a run in which nothing
    fails."""
    bank = Bank(MemoryStore(CONFIG, disk=MemoryDisk(bytes(range(16)))))
    books, answers = [bank.books()], []
    for number in range(len(SCRIPT)):
        answers.append(bank.run(SCRIPT[: number + 1], number)[0])
        books.append(bank.books())
    return books, answers, [bank.last_hash], history(bank, IDS)


def run_until_cut(open_store: Opener, hook: Hook) -> int:
    """Run the script on a new store until the hook ends it; return how many blocks were
    acknowledged."""
    store, acknowledged = open_store(hook), 0
    try:
        bank = Bank(store)
        for number in range(len(SCRIPT)):
            bank.run(SCRIPT[: number + 1], number)
            acknowledged = number + 1
    except Cut:
        pass
    finally:
        store.close()
    return acknowledged


def every_root_is_right(bank: Bank) -> None:
    """Compare every archived root, and every one that a header names, with the journal replayed."""
    core = Core(holds_max=CONFIG.holds)
    with bank.store.reader() as reader:
        named = asked_by(reader, 0, reader.last_block).named
        for number in range(reader.last_block + 1):
            block = read_block(reader, number)
            core.replay(block)
            core.hash_block(block, block.seed)
            if bank.store.roots.kept(number) is not None:
                core.number_accounts()
                state = captured_root(core)
                assert archive_differences(bank.store.roots, state) == []
                assert named.pop(number, state.root) == state.root
    assert named == {}, "a header names a root that is not archived"


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_every_step_fails_once(kind, tmp_path, undisturbed):
    books, answers, _, whole_history = undisturbed
    counter = Cutter()
    (tmp_path / "count").mkdir()
    assert run_until_cut(opener_of(kind, tmp_path / "count"), counter) == len(SCRIPT)
    steps = {step for step, _ in counter.calls}
    assert {"append", "pages", "floor", "root"} <= steps
    replayed = set()
    for place, (step, when) in enumerate(counter.calls):
        path = tmp_path / str(place)
        path.mkdir()
        open_store = opener_of(kind, path)
        cutter = Cutter(place)
        acknowledged = run_until_cut(open_store, cutter)
        assert cutter.calls[-1] == (step, when)
        bank = Bank(open_store(no_hook))
        found = bank.recovery.last_block + 1
        # The block under way may be there or not; the steps after a block's append do not touch it.
        # The root of a day's end is there as soon as the block is.
        expected = acknowledged + (step != "append" or when == "after")
        assert found == expected, (place, step, when)
        assert bank.books() == books[found], (place, step, when)
        every_root_is_right(bank)
        replayed.add((bank.recovery.replayed_blocks, found))
        for number in range(found, len(SCRIPT)):
            again = bank.run(SCRIPT[: number + 1], number)[0]
            for mine, expected_results in zip(again, answers[number], strict=True):
                assert mine.tobytes() == expected_results.tobytes()
        assert bank.books() == books[-1]
        assert history(bank, IDS) == whole_history
        bank.store.close()
    assert any(blocks < found for blocks, found in replayed), "no snapshot was used"
    assert any(blocks > 2 for blocks, _ in replayed), "no pass went over several blocks"


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_a_repeated_script_after_a_restart_is_known(kind, tmp_path, undisturbed):
    books, _, _, _ = undisturbed
    open_store = opener_of(kind, tmp_path)
    assert run_until_cut(open_store, no_hook) == len(SCRIPT)
    bank = Bank(open_store(no_hook))
    assert bank.books() == books[-1]
    later = 1000 * 10**9
    kinds = {"TRANSFER": {46, 68}, "ACCOUNT": {21}}
    for block in SCRIPT[:3]:
        for request in block:
            if request[0] not in kinds:
                continue
            later += 10**9
            (results,) = bank.post([request], later)
            # Nothing that was created before is created again: it exists, burned or differs by what
            # it inherited.
            assert 4294967295 not in results["status"]
            assert kinds[request[0]] & set(results["status"].tolist())
    bank.store.close()
