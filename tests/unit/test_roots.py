"""The archive of state roots: what it gives back, what it finds damaged, what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger._state_tree import StateBuilder, StateRoot
from ledger.errors import DataDamaged, DiskFull
from ledger.storage import roots as archive
from ledger.storage.rebuilt_roots import archive_differences
from ledger.storage.roots import KeptRoots, LmdbTrees, MemoryTrees, Trees
from tests.unit.test_state_tree import made_up

INSTANCE = bytes(range(16))
SIZES = {(0, 1, 1): 700, (0, 1, 2): 300, (0, 7, 1): 1, (0, 7, 9): 256}
Opener = Callable[[], Trees]
Rows = np.ndarray[Any, Any]


@pytest.fixture(params=["memory", "lmdb"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same trees again and again; those that are open are closed before."""
    values: dict[tuple[str, bytes], bytes] = {}
    now_open: list[Trees] = []

    def open_trees() -> Trees:
        while now_open:
            now_open.pop().close()
        lmdb = request.param == "lmdb"
        now_open.append(LmdbTrees(tmp_path / "roots") if lmdb else MemoryTrees(values))
        return now_open[-1]

    yield open_trees
    for trees in now_open:
        trees.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full values after few others, and chunks of few tiles, so that all of it is reached."""
    monkeypatch.setattr(archive, "DEPTH_MAX", 3)
    monkeypatch.setattr(archive, "CHUNK_TILES", 2)


class Bank:
    """Accounts that are made up, and change; with the truth about each kept root."""

    def __init__(self, trees: Trees, seed: int, batch_bytes: int = 20_000) -> None:
        self.rng = np.random.default_rng(seed)
        self.all = made_up(SIZES, seed, erased=0.02)
        erased = self.all["flags"] != 0
        leaves = self.leaves(self.all)
        state = self.rng.integers(0, 16, len(leaves)).astype("<u2")
        state[self.rng.random(len(leaves)) < 0.7] = 0
        leaves["state"][~erased] = state[~erased]
        for name in ("overdraft", "ceiling"):
            leaves[name][~erased & (state & 3 == 0)] = (0, 0)
        self.identities = leaves["id"].copy(), leaves["state_salt"].copy()
        self.all["last_position"] = 1 << 62  # not opened yet
        self.count = 0
        self.truth: dict[int, Rows] = {}
        self.states: dict[int, StateRoot] = {}
        self.open(trees, batch_bytes)

    def open(self, trees: Trees, batch_bytes: int = 20_000) -> None:
        self.kept = KeptRoots(trees, INSTANCE, batch_bytes=batch_bytes)
        self.kept.identify = lambda slots: (self.identities[0][slots], self.identities[1][slots])

    @staticmethod
    def leaves(rows: Rows) -> Rows:
        return rows["message"].view(layout.ACCOUNT_LEAF).reshape(-1)

    def change(self, block: int, share: float) -> None:
        """Let accounts have entries in a block, and open more."""
        before, more = self.count, int(self.rng.integers(0, 200))
        self.count = min(len(self.all), before + more if before else 600)
        touched = (self.rng.random(len(self.all)) < share) & (self.all["flags"] == 0)
        leaves = self.leaves(self.all)
        leaves["entry_count"][touched] += 1
        leaves["debits_posted"]["lo"][touched] += 7
        leaves["head"][touched] = self.rng.integers(0, 256, (int(touched.sum()), 32))
        touched[before : self.count] = True
        self.all["last_position"][touched] = block << layout.INDEX_BITS

    def keep(self, block: int, *, until: Callable[[], bool] = lambda: False) -> bool:
        """Archive the state after a block; False when ``until`` said that a crash came."""
        rows = self.all[: self.count].copy()
        writer = self.kept.writer(block=block, timestamp=block * 10, business_date=20260101)
        builder = StateBuilder(self.kept.newest_block)
        for start in range(0, len(rows), 256):
            builder.add(rows[start : start + 256])
            writer.add(builder.take_changed())
            if writer.full:
                writer.flush()
                if until():
                    return False
        state = builder.finish(block)
        writer.finish(state)
        writer.flush()
        self.truth[block], self.states[block] = rows, state
        return True

    def check(self) -> None:
        """Compare everything that the archive has with the truth."""
        expected = [
            (block, block * 10, 20260101, self.states[block].root) for block in sorted(self.truth)
        ]
        assert self.kept.blocks() == expected
        for block, rows in self.truth.items():
            groups = self.kept.groups(block)
            assert [group.fields for group in groups] == [
                group.fields for group in self.states[block].groups
            ]
            assert [group.head for group in groups] == [
                group.head for group in self.states[block].groups
            ]
            found = np.concatenate(list(self.kept.rows(block)))
            order = np.lexsort((rows["ordinal"], rows["code"], rows["ledger"]))
            wanted = rows[order].copy()
            wanted["last_position"] = 0
            assert found.tobytes() == wanted.tobytes()
            for place, group in enumerate(self.states[block].groups):
                assert np.array_equal(self.kept.tile_sums(block, place), group.tiles)


@pytest.mark.parametrize("seed", range(3))
def test_every_tile_of_every_root_comes_back(opened: Opener, seed: int) -> None:
    bank = Bank(opened(), seed)
    for place, share in enumerate((1, 0.3, 0.01, 0, 0.002, 0.5, 0.003, 0.01, 0.002, 0.3, 0.01, 0)):
        block = 3 + place * 5
        bank.change(block, share)
        assert bank.keep(block)
    bank.check()
    bank.open(opened())
    bank.check()
    for state in bank.states.values():
        again = StateRoot(state.block, state.root, state.groups, [])
        assert archive_differences(bank.kept, again) == []
    newest = bank.kept.newest
    assert newest is not None
    assert (newest.block, newest.previous, newest.account_count) == (58, 53, bank.count)
    with pytest.raises(LookupError, match="block 4 "):
        bank.kept.groups(4)
    with pytest.raises(LookupError, match="no group 9"):
        bank.kept.tile_sums(3, 9)
    with pytest.raises(LookupError, match="no tile 3"):
        bank.kept.tile(58, 0, 3)


def test_what_did_not_change_takes_no_room(opened: Opener) -> None:
    bank = Bank(opened(), 5)
    bank.change(1, 1)
    bank.keep(1)
    values = bank.kept._trees
    assert isinstance(values, MemoryTrees | LmdbTrees)
    count = sum(1 for _ in every_value(bank))
    bank.count = len(bank.truth[1])
    bank.keep(2)
    assert sum(1 for _ in every_value(bank)) == count + 2  # the root and its groups
    bank.check()


def every_value(bank: Bank) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield every value that the archive reads to answer everything."""
    seen = set()
    trees = bank.kept._trees
    for key, value in list(trees.roots()):
        yield "roots", key, bytes(value)
    original = bank.kept._get

    def spy(get: Any, tree: str, key: bytes) -> memoryview:
        seen.add((tree, key))
        return original(get, tree, key)

    bank.kept._get = spy  # type: ignore[method-assign]
    bank.kept._groups.clear()
    read_all(bank.kept)
    bank.kept._get = original  # type: ignore[method-assign]
    with trees.reader() as get:
        for tree, key in sorted(seen):
            yield tree, key, bytes(get(tree, key))


def read_all(kept: KeptRoots) -> None:
    for block, *_ in kept.blocks():
        for _ in kept.rows(block):
            pass


def test_every_flipped_byte_is_found(opened: Opener) -> None:
    bank = Bank(opened(), 6)
    for block, share in ((1, 1), (2, 0.01), (3, 0.002)):
        bank.change(block, share)
        bank.keep(block)
    trees = bank.kept._trees
    for tree, key, value in list(every_value(bank)):
        for at in {0, 15, 16, len(value) // 2, len(value) - 1}:
            flipped = bytearray(value)
            flipped[at] ^= 1 << at % 8
            trees.write("test", [(tree, key, bytes(flipped))])
            bank.kept._groups.clear()
            with pytest.raises(DataDamaged, match="checksum"):
                read_all(KeptRoots(trees, INSTANCE) if tree == "roots" else bank.kept)
        trees.write("test", [(tree, key, value)])
    bank.kept._groups.clear()
    bank.check()
    with pytest.raises(DataDamaged, match="checksum"):
        KeptRoots(trees, bytes(16))  # of another ledger


def test_a_root_that_was_cut_off_does_not_count_and_goes(opened: Opener) -> None:
    bank = Bank(opened(), 7, batch_bytes=2000)
    bank.change(1, 1)
    bank.keep(1)
    bank.change(5, 0.6)
    assert not bank.keep(5, until=lambda: True)
    bank.open(opened(), 2000)
    bank.check()
    # The block of that number is another one after the crash, and fewer accounts changed in it.
    bank.change(5, 0.02)
    bank.keep(5)
    bank.check()
    with pytest.raises(ValueError, match="not after"):
        bank.kept.writer(block=5, timestamp=0, business_date=0)


def test_a_root_missing_among_others_is_found(opened: Opener) -> None:
    bank = Bank(opened(), 8)
    for block in (1, 2, 3):
        bank.change(block, 0.5)
        bank.keep(block)
    trees = bank.kept._trees
    _, _, (key, value) = [(bytes(k), bytes(v)) for k, v in trees.roots()]
    trees.clear()
    trees.write("test", [("roots", key, value)])
    with pytest.raises(DataDamaged, match="block 2 is missing"):
        KeptRoots(trees, INSTANCE)


def test_a_full_disk_is_tried_again(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = Bank(opened(), 9)
    bank.change(1, 1)
    rows = bank.all[: bank.count].copy()
    builder = StateBuilder()
    builder.add(rows)
    writer = bank.kept.writer(block=1, timestamp=10, business_date=20260101)
    state = builder.finish(1)
    writer.finish(state)
    write = bank.kept._trees.write
    failures = iter([True, True])

    def full(step: str, values: list[tuple[str, bytes, bytes]]) -> None:
        if next(failures, False):
            raise DiskFull("no room")
        write(step, values)

    monkeypatch.setattr(bank.kept._trees, "write", full)
    for _ in range(2):
        with pytest.raises(DiskFull):
            writer.flush()
        assert bank.kept.newest is None
    writer.flush()
    bank.truth[1], bank.states[1] = rows, state
    bank.check()
