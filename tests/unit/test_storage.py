"""The rooms of the store, each by itself: directory, file check, journal, space, snapshot, backup;
and a full disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import lmdb
import lmdb.verify
import numpy as np
import pytest

from ledger import _pack, layout
from ledger.config import Config
from ledger.errors import (
    ConfigurationError,
    DataDamaged,
    DirectoryInUse,
    DiskFailed,
    DiskFull,
    FormatTooNew,
)
from ledger.storage import backup, directory, pages, space
from ledger.storage.environment import MAP_BYTES, open_environment
from ledger.storage.ids import IdIndex
from ledger.storage.journal import LmdbJournal
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.snapshot import LmdbPages, Pace, Snapshot
from ledger.storage.store import Floor, Page
from tests.crash.driver import CONFIG, Bank, history, script

INSTANCE = bytes(range(16))
AT_ONCE = Pace(pass_interval_s=0.0, threaded=False)


def value_of(number: int, count: int = 3, **fields: object) -> bytes:
    """Return the stored form of a block of transfers that mean nothing."""
    entries = np.zeros(count, layout.ENTRY)
    entries["kind"] = layout.ENTRY_KINDS["transfer"][0]
    entries["record"]["id"]["lo"] = np.arange(count) + 1 + 1000 * number
    header = _pack.build_header(number=number, entry_count=count, instance=INSTANCE, **fields)
    return _pack.encode_block(entries, header, seed=bytes(32))


# ---- the directory ----


def test_a_directory_is_made_once_and_only_where_nothing_is(tmp_path):
    path = tmp_path / "deep" / "data"
    instance = directory.create(path)
    assert len(instance) == 16
    assert directory.read_format(path) == instance
    with pytest.raises(ConfigurationError, match="a data directory already"):
        directory.create(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match=r"letters\.txt"):
        directory.create(tmp_path / "other")
    with pytest.raises(ConfigurationError, match="sanyuan init"):
        directory.Directory(tmp_path / "other")


def test_a_creation_that_was_cut_off_is_done_again(tmp_path):
    path = tmp_path / "data"
    directory.create(path)
    # The journal gets its name last.
    (path / directory.JOURNAL).rename(path / (directory.JOURNAL + ".new"))
    with pytest.raises(ConfigurationError, match="repeat 'sanyuan init"):
        directory.Directory(path)
    assert len(directory.create(path)) == 16
    directory.Directory(path).close()
    (path / directory.FORMAT_FILE).unlink()
    with pytest.raises(ConfigurationError, match="not empty"):
        directory.create(path)


def test_a_second_process_is_told_who_has_the_directory(tmp_path):
    path = tmp_path / "data"
    directory.create(path)
    held = directory.Directory(path)
    code = (
        "import sys; from pathlib import Path; from ledger.storage.directory import Directory\n"
        "try: Directory(Path(sys.argv[1]))\n"
        "except Exception as error: sys.stdout.write(f'{type(error).__name__} {error}')"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("DirectoryInUse")
    assert f"process {os.getpid()}:" in said
    with pytest.raises(DirectoryInUse):
        directory.Directory(path)
    held.close()
    directory.Directory(path).close()


def test_later_formats_and_damaged_format_files_are_refused(tmp_path):
    path = tmp_path / "data"
    directory.create(path)
    file = path / directory.FORMAT_FILE
    content = json.loads(file.read_bytes())
    later = layout.FORMAT_VERSION + 1
    content["format"] = later
    file.write_text(json.dumps(content))
    with pytest.raises(DataDamaged, match="checksum"):
        directory.read_format(path)
    content["checksum"] = directory._checksum(later, bytes.fromhex(content["instance"]))
    file.write_text(json.dumps(content))
    with pytest.raises(FormatTooNew, match="newer version"):
        directory.read_format(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_directory_without_write_permission_is_named():
    # Not below pytest's own directory, which nobody else may enter.
    path = Path(tempfile.mkdtemp()) / "data"
    path.parent.chmod(0o755)
    directory.create(path)
    for name in (path, *path.rglob("*")):
        name.chmod(0o555 if name.is_dir() else 0o444)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            directory.Directory(path)
            said = "opened"
        except Exception as error:
            said = f"{type(error).__name__} {error}"
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    said = os.read(read_end, 4096).decode()
    os.close(read_end)
    shutil.rmtree(path.parent)
    assert said.startswith("ConfigurationError")
    assert "may write" in said


# ---- the check of LMDB's files ----


def random_environment(path: Path, seed: int) -> None:
    """Write an environment as ours are used: small and large values, overwritten, deleted, in many
    transactions."""
    rng = random.Random(seed)
    environment, trees = open_environment(path, trees=("grows", "changes"))
    for number in range(150):
        with environment.begin(write=True) as transaction:
            size = rng.choice([10, 700, 5000, 60_000])
            transaction.put(
                number.to_bytes(8, "big"), rng.randbytes(size), db=trees["grows"], append=True
            )
            for _ in range(rng.randrange(8)):
                key = b"%d" % rng.randrange(60)
                if rng.random() < 0.3:
                    transaction.delete(key, db=trees["changes"])
                else:
                    size = rng.choice([1, 30, 1900, 20_000])
                    transaction.put(key, rng.randbytes(size), db=trees["changes"])
    environment.close()


@pytest.mark.parametrize("seed", range(4))
def test_sound_files_pass_as_they_do_with_the_binding(tmp_path, seed):
    random_environment(tmp_path, seed)
    assert lmdb.verify.verify(str(tmp_path)) == []
    pages.check_file(tmp_path / "data.mdb", map_size=MAP_BYTES, newest_first="grows")
    pages.check_file(tmp_path / "data.mdb", map_size=MAP_BYTES, leaves_max=1)


def test_what_the_binding_finds_in_changed_files_is_found_here(tmp_path):
    random_environment(tmp_path, 9)
    file = tmp_path / "data.mdb"
    sound = file.read_bytes()
    rng = random.Random(2)
    found = 0
    page_count = len(sound) // 4096
    for _ in range(400):
        place = rng.randrange(page_count) * 4096 + rng.randrange(rng.choice([32, 160, 4096]))
        changed = bytearray(sound)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        try:
            wrong = bool(lmdb.verify.verify(str(tmp_path)))
        except (lmdb.verify.VerifyError, RecursionError, IndexError):
            wrong = True
        if not wrong:
            continue
        # A lost page is no danger; all else that is wrong in the structure is refused, by file and
        # page.
        problems = "" if place < 8192 else " ".join(lmdb.verify.verify(str(tmp_path)))
        if "leak" in problems and problems.count("page(s)") == 1 and problems.count("DB") == 1:
            continue
        found += 1
        with pytest.raises(DataDamaged, match=r"data\.mdb: page \d+: "):
            pages.check_file(file, map_size=MAP_BYTES, newest_first="grows")
    assert found > 40


def test_a_file_cut_short_is_refused_and_not_mapped(tmp_path):
    random_environment(tmp_path, 5)
    file = tmp_path / "data.mdb"
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DataDamaged, match="cut short"):
        open_environment(tmp_path, trees=("grows", "changes"))


def test_a_transaction_number_that_hides_the_last_commit_is_found(tmp_path):
    journal = LmdbJournal(tmp_path)
    for number in range(6):
        journal.append(number, value_of(number), [])
    journal.close()
    file = tmp_path / "data.mdb"
    sound = file.read_bytes()
    found = 0
    for page in (0, 4096):
        for bit in range(1, 64):
            changed = bytearray(sound)
            changed[page + 144 + bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            try:
                journal = LmdbJournal(tmp_path)
            except DataDamaged:
                found += 1
            else:
                assert journal.last_block == 5
                journal.close()
    assert found > 100


# ---- the journal ----


def test_blocks_and_metadata_come_back_and_views_are_consistent(tmp_path):
    journal = LmdbJournal(tmp_path)
    with journal.reader() as early:
        assert early.last_block == -1
        journal.append(0, value_of(0), [(layout.position(0, 1), b'{"a":1}')])
        journal.append(1, value_of(1), [])
        assert early.last_block == -1
        with pytest.raises(LookupError):
            early.block(0)
    with journal.reader() as reader:
        assert reader.last_block == 1
        assert reader.block(1).number == 1
        assert reader.value(0) == value_of(0)
        assert reader.metadata(layout.position(0, 1)) == b'{"a":1}'
        assert reader.metadata(layout.position(0, 0)) is None
    with pytest.raises(ValueError, match="does not follow"):
        journal.append(3, value_of(3), [])
    journal.close()
    again = LmdbJournal(tmp_path)
    assert again.last_block == 1
    again.close()


def test_metadata_that_is_changed_moved_or_missing_is_damage(tmp_path):
    entries = np.zeros(3, layout.ENTRY)
    entries["kind"], entries["flags"] = 2, 1
    header = _pack.build_header(number=0, entry_count=3)
    positions = [layout.position(0, index) for index in range(3)]
    journal = LmdbJournal(tmp_path)
    journal.append(
        0,
        _pack.encode_block(entries, header, seed=bytes(32)),
        [(positions[0], b'{"a":1}'), (positions[1], b'{"b":1}')],
    )
    tree = journal._metadata
    with journal._environment.begin(write=True) as transaction:
        value = transaction.get(positions[0].to_bytes(8, "big"), db=tree)
        transaction.put(positions[1].to_bytes(8, "big"), value, db=tree)
        transaction.put(positions[0].to_bytes(8, "big"), value[:-2] + b"2}", db=tree)
    with journal.reader() as reader:
        for position in positions:
            with pytest.raises(DataDamaged, match="block 0: the metadata of entry"):
                reader.metadata(position)
    journal.close()


def test_a_missing_block_is_damage(tmp_path):
    journal = LmdbJournal(tmp_path)
    for number in range(3):
        journal.append(number, value_of(number), [])
    with journal._environment.begin(write=True) as transaction:
        transaction.delete((1).to_bytes(8, "big"), db=journal._blocks)
    with journal.reader() as reader, pytest.raises(DataDamaged, match="block 1 is missing"):
        reader.block(1)
    journal.close()
    with pytest.raises(DataDamaged, match="2 blocks are stored where the last is 2"):
        LmdbJournal(tmp_path)


def test_closing_waits_for_readers(tmp_path):
    journal = LmdbJournal(tmp_path)
    journal.append(0, value_of(0), [])
    entered, seen = threading.Event(), []

    def read() -> None:
        with journal.reader() as reader:
            view = reader.block(0)
            entered.set()
            time.sleep(0.1)
            seen.append(view.entries()["record"]["id"]["lo"].tolist())

    thread = threading.Thread(target=read)
    thread.start()
    entered.wait()
    journal.close()
    assert seen == [[1, 2, 3]]
    thread.join()


def test_one_commit_is_two_syncs_and_lets_other_threads_run(tmp_path):
    journal = LmdbJournal(tmp_path)
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.wait(0.0005):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    value = value_of(0, 60_000)
    began = time.monotonic()
    for number in range(40):
        header = bytearray(value)
        journal.append(number, bytes(header), [])
    elapsed = time.monotonic() - began
    stop.set()
    thread.join()
    journal.close()
    # A commit that held the interpreter's lock would let a tick or two through each time, at most.
    assert ticks[0] > elapsed / 0.0005 / 20


# ---- space ----


def test_zeros_are_written_behind_the_fence_only(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "AHEAD_BYTES_MIN", 4 << 20)
    rng = random.Random(1)
    journal = LmdbJournal(tmp_path, write_ahead_bytes=8 << 20)
    values = {}
    for number in range(120):
        count = rng.choice([1, 3, 500, 20_000])
        values[number] = value_of(number, count)
        metadata = []
        if rng.random() < 0.1:
            metadata = [(layout.position(number, index), bytes(2000)) for index in range(300)]
        journal.append(number, values[number], metadata)
    journal.drain()
    assert journal.written_ahead_bytes > 3 << 20
    used = journal._used_bytes()
    journal.close()
    with open(tmp_path / "data.mdb", "rb") as file:
        file.seek(used)
        assert not any(file.read())
    pages.check_file(tmp_path / "data.mdb", map_size=MAP_BYTES, newest_first="blocks")
    journal = LmdbJournal(tmp_path, write_ahead_bytes=8 << 20)
    with journal.reader() as reader:
        for number, value in values.items():
            assert reader.value(number) == value
            reader.block(number).check()
    journal.close()


def test_nothing_is_written_ahead_into_the_reserve(tmp_path):
    journal = LmdbJournal(tmp_path, write_ahead_bytes=8 << 20, reserve_bytes=1 << 60)
    journal.append(0, value_of(0), [])
    journal.drain()
    assert (tmp_path / "data.mdb").stat().st_size < 1 << 20
    journal.close()


# ---- the snapshot ----


class Books:
    """Pages that say which block last changed them; what the snapshot needs of a core."""

    def __init__(self, page_count: int) -> None:
        self.block_number = -1
        self.page_count, self.hold_page_count = page_count, 0
        self.changed = [0] * page_count
        self.dirty: set[int] = set()

    def decide(self, number: int, touched: list[int]) -> None:
        self.block_number = number
        for page in touched:
            self.changed[page] = number
        self.dirty.update(touched)

    def dirty_pages(self, kind: str, limit: int) -> list[int]:
        taken = sorted(self.dirty)[:limit] if kind == "accounts" else []
        self.dirty.difference_update(taken)
        return taken

    def copy_page(self, kind: str, page: int) -> bytes:
        return self.changed[page].to_bytes(8, "little") * 512

    def small_state(self) -> bytes:
        return b"small %d" % self.block_number


class Recorded:
    """Pages that remember what was written, in order, and what was durable then."""

    def __init__(self) -> None:
        self.durable = -1
        self.stored: dict[int, Page] = {}
        self.floors: list[tuple[Floor, dict[int, Page]]] = []
        self.refuse: Exception | None = None

    def write(self, written: list[Page]) -> None:
        if self.refuse is not None:
            raise self.refuse
        assert max(page.block for page in written) <= self.durable, "ahead of the journal"
        self.stored |= {page.number: page for page in written}

    def write_floor(self, floor: Floor) -> None:
        assert floor.block <= self.durable
        self.floors.append((floor, dict(self.stored)))


def test_every_floor_has_pages_from_which_the_journal_leads_on():
    rng = random.Random(4)
    books, kept = Books(20), Recorded()
    touched_by: dict[int, list[int]] = {}
    clock = iter(range(1 << 30))
    snapshot = Snapshot(
        kept,  # type: ignore[arg-type]
        bytes_per_second=6000,
        pace=Pace(chunk_bytes=10_000, pass_interval_s=0.0, threaded=False),
        monotonic=lambda: next(clock),
    )
    for number in range(400):
        touched_by[number] = rng.sample(range(20), rng.randrange(1, 3))
        books.decide(number, touched_by[number])
        kept.durable = max(kept.durable, number - rng.randrange(4))
        snapshot.step(books, kept.durable)  # type: ignore[arg-type]
    assert len(kept.floors) > 10
    for floor, stored in kept.floors:
        assert floor.small_state == b"small %d" % floor.block
        for page in range(20):
            changes = [number for number in range(floor.block + 1) if page in touched_by[number]]
            if not changes:
                continue
            # Current to the floor: the page is newer, or nothing changed it since it was copied.
            assert stored[page].block >= changes[-1]
            value = int.from_bytes(stored[page].data[:8], "little")
            assert value == max(n for n in range(stored[page].block + 1) if page in touched_by[n])


def test_a_full_disk_is_waited_for_and_other_failures_stop(monkeypatch):
    monkeypatch.setattr("ledger.storage.snapshot.RETRY_FULL_S", 0.01)
    books, kept = Books(3), Recorded()
    snapshot = Snapshot(
        kept,  # type: ignore[arg-type]
        bytes_per_second=1 << 30,
        pace=Pace(pass_interval_s=0.0),
    )
    books.decide(0, [0, 1, 2])
    kept.durable, kept.refuse = 0, DiskFull("no room")
    time.sleep(0.01)
    snapshot.step(books, 0)  # type: ignore[arg-type]
    time.sleep(0.05)
    snapshot.step(books, 0)  # type: ignore[arg-type]
    assert kept.stored == {}
    kept.refuse = None
    snapshot.drain()
    assert sorted(kept.stored) == [0, 1, 2]
    books.decide(1, [1])
    kept.durable, kept.refuse = 1, DiskFailed("broken")
    with pytest.raises(DiskFailed, match="broken"):
        snapshot.copy_all(books, 1)  # type: ignore[arg-type]
    with pytest.raises(DiskFailed, match="broken"):
        snapshot.step(books, 1)  # type: ignore[arg-type]
    snapshot.close()


def test_pages_know_their_ledger_and_place(tmp_path):
    stored = LmdbPages(tmp_path, INSTANCE)
    stored.write([Page("accounts", number, 7, b"page %d" % number) for number in range(3)])
    stored.write_floor(Floor(7, 3, 0, b"small"))
    assert [page.data for page in stored.read("accounts", 3)] == [b"page 0", b"page 1", b"page 2"]
    with pytest.raises(DataDamaged, match="page 3 of the accounts is missing"):
        list(stored.read("accounts", 4))
    with stored._environment.begin(write=True) as transaction:
        tree = stored._trees["accounts"]
        moved = transaction.get((0).to_bytes(4, "big"), db=tree)
        transaction.put((1).to_bytes(4, "big"), moved, db=tree)
    with pytest.raises(DataDamaged, match="page 1 of the accounts"):
        list(stored.read("accounts", 3))
    stored.close()
    other = LmdbPages(tmp_path, bytes(16))
    with pytest.raises(DataDamaged, match="floor"):
        other.read_floor()
    other.clear()
    assert other.read_floor() is None
    other.close()


# ---- the store ----


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Path, dict[str, object], list[object]]:
    """A directory with ten blocks and a snapshot, the books, and the history."""
    path = tmp_path / "data"
    directory.create(path, instance=INSTANCE)
    bank = Bank(LmdbStore(path, CONFIG, pace=AT_ONCE))
    bank.run(SCRIPT[:6])
    bank.store.snapshot_all(bank.core, bank.durable, bank.named_root)
    bank.run(SCRIPT, 6)
    books, known = bank.books(), history(bank, IDS)
    bank.store.close()
    return path, books, known


SCRIPT = script(11, 10)
IDS = [row["id"] for block in SCRIPT for _, rows, _ in block for row in rows]


@pytest.mark.parametrize("part", ["state", "ids"])
@pytest.mark.parametrize("how", ["missing", "cut short", "other bytes"])
def test_a_damaged_part_is_rebuilt_and_said(filled, part, how):
    path, books, known = filled
    file = path / part / "data.mdb"
    if how == "missing":
        file.unlink()
    elif how == "cut short":
        os.truncate(file, 5000)
    else:
        file.write_bytes(bytes(file.stat().st_size))
    bank = Bank(LmdbStore(path, CONFIG, pace=AT_ONCE))
    assert bank.books() == books
    assert history(bank, IDS) == known
    if how != "missing":
        assert "rebuilt from the journal" in bank.recovery.notes[0]
    if part == "state":
        assert bank.recovery.replayed_blocks == 10
    bank.store.close()
    bank = Bank(LmdbStore(path, CONFIG, pace=AT_ONCE))
    assert bank.recovery.notes == ()
    assert bank.books() == books
    bank.store.close()


def test_a_page_with_a_changed_byte_is_rebuilt(filled):
    path, books, _ = filled
    environment, trees = open_environment(path / "state", trees=("accounts", "holds", "floor"))
    with environment.begin(write=True) as transaction:
        page = bytearray(transaction.get(bytes(4), db=trees["accounts"]))
        page[200] ^= 1
        transaction.put(bytes(4), bytes(page), db=trees["accounts"])
    environment.close()
    bank = Bank(LmdbStore(path, CONFIG, pace=AT_ONCE))
    assert "page 0 of the accounts" in bank.recovery.notes[0]
    assert bank.books() == books
    bank.store.close()


def test_a_journal_that_lost_its_end_is_not_accepted(filled):
    path, _, _ = filled
    journal = LmdbJournal(path / "journal")
    for number in range(9, 3, -1):
        with journal._environment.begin(write=True) as transaction:
            transaction.delete(number.to_bytes(8, "big"), db=journal._blocks)
    # As if the last commits had never happened: both meta pages agree.
    with journal._environment.begin(write=True) as transaction:
        transaction.delete(bytes(8), db=journal._metadata)
    journal.close()
    store = LmdbStore(path, CONFIG, pace=AT_ONCE)
    with pytest.raises(DataDamaged, match="acknowledged blocks are missing"):
        Bank(store)
    store.close()


def test_blocks_of_another_ledger_or_out_of_chain_are_not_accepted(filled):
    path, _, _ = filled
    last = LmdbJournal(path / "journal")
    with last.reader() as reader:
        view = reader.block(9)
        entries, seed, root = view.entries(), view.seed, view.root
        fields = {
            name: getattr(view, name)
            for name in ("first_entry", "last_timestamp", "last_account_timestamp")
        } | {"last_transfer_timestamp": view.last_transfer_timestamp, "number": 9}
        good = fields | {
            "previous_hash": view.previous_hash,
            "instance": INSTANCE,
            "root": root,
            "entry_count": view.entry_count,
        }
    last.close()
    for change, said in (
        ({"instance": bytes(16)}, "belongs to ledger"),
        ({"previous_hash": bytes(32)}, "hash of the block before"),
        ({"first_entry": 1}, "first entry"),
        ({"root": bytes(32)}, "root in its header"),
    ):
        header = _pack.build_header(**(good | change))
        environment, trees = open_environment(path / "journal", trees=("blocks", "metadata"))
        with environment.begin(write=True) as transaction:
            value = _pack.encode_block(entries, header, seed=seed)
            transaction.put((9).to_bytes(8, "big"), value, db=trees["blocks"])
        environment.close()
        store = LmdbStore(path, CONFIG, pace=AT_ONCE)
        with pytest.raises(DataDamaged, match=f"block 9: .*{said}"):
            Bank(store)
        store.close()


def test_a_clean_end_leaves_nothing_to_replay_but_the_last_block(filled):
    path, books, _ = filled
    bank = Bank(LmdbStore(path, CONFIG))
    bank.store.snapshot_all(bank.core, bank.durable, bank.named_root)
    bank.store.close()
    bank = Bank(LmdbStore(path, CONFIG))
    assert bank.recovery.replayed_blocks == 1
    assert bank.books() == books
    bank.store.close()


def test_backup_and_restore(filled, tmp_path):
    path, books, known = filled
    bank = Bank(LmdbStore(path, CONFIG))
    file = tmp_path / "ledger.backup"
    assert bank.store.backup(file) == 9
    with pytest.raises(ConfigurationError, match="exists"):
        bank.store.backup(file)
    bank.store.close()
    assert backup.restore(file, tmp_path / "again") == 9
    with pytest.raises(ConfigurationError, match="exists"):
        backup.restore(file, tmp_path / "again")
    bank = Bank(LmdbStore(tmp_path / "again", CONFIG))
    assert bank.store.instance == INSTANCE
    assert bank.books() == books
    assert history(bank, IDS) == known
    bank.store.close()
    whole = file.read_bytes()
    for name, data in (
        ("short", whole[:-1]),
        ("long", whole + b"x"),
        ("changed", whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:]),
        ("other", b"x" * 100),
    ):
        bad = tmp_path / name
        bad.write_bytes(data)
        with pytest.raises(DataDamaged):
            backup.restore(bad, tmp_path / "not")
        assert not (tmp_path / "not").exists()
        assert not list(tmp_path.glob("not*"))
    newer = whole[:8] + (layout.FORMAT_VERSION + 1).to_bytes(4, "little") + whole[12:]
    (tmp_path / "newer").write_bytes(newer)
    with pytest.raises(FormatTooNew):
        backup.restore(tmp_path / "newer", tmp_path / "not")


def test_ids_are_resolved_from_blocks_in_flight_as_from_the_journal(filled):
    path, _, _ = filled
    bank = Bank(LmdbStore(path, CONFIG))
    ids = np.array([layout.from_int(value) for value in IDS], layout.U128)
    stored = bank.store.resolve_ids(bank.core, ids, {})
    in_flight = {}
    with bank.store.reader() as reader:
        for number in range(3, 10):
            from ledger.storage.recovery import read_block

            block = read_block(reader, number)
            entries = block.entries
            bank.core.fill_account_ids(entries)
            in_flight[number] = block
    mixed = bank.store.resolve_ids(bank.core, ids, in_flight)
    assert len(stored) > 100
    assert mixed.tobytes() == stored.tobytes()
    resolutions = set(stored["resolution"].tolist())
    assert resolutions == {0, 1, 2, 3}
    assert set(stored["outcome"].tolist()) == {1, 2}
    assert np.any(stored["metadata_digest"])
    times = stored["record"]["timestamp"][stored["kind"] == 2]
    assert bank.store.used_timestamps(times[:20], {}) == times[:20].tolist()
    assert bank.store.used_timestamps(times[:20] + 1, in_flight) == [
        value for value in (times[:20] + 1).tolist() if value in times
    ]
    bank.store.close()


def test_a_run_of_ids_that_cannot_be_found_is_damage(tmp_path):
    environment, trees = open_environment(tmp_path, trees=IdIndex.TREES)
    index = IdIndex(INSTANCE, 1024, environment)
    entries = np.zeros(600, layout.ENTRY)
    entries["kind"] = layout.ENTRY_KINDS["transfer"][0]
    for number in range(3):
        entries["record"]["id"]["lo"] = np.arange(600) + 1 + 1000 * number
        index.insert_block(entries, number)
        index.maintain(number)
    index.drain()
    assert index.floor >= 0
    index.close()
    with environment.begin(write=True) as transaction:
        tree = trees[IdIndex.TREES[0]]
        cursor = transaction.cursor(db=tree)
        assert cursor.set_range(b"run")
        key, value = cursor.item()
        transaction.delete(key, db=tree)
        transaction.put(b"\xf2" + key[1:], value, db=tree)
    with pytest.raises(DataDamaged, match="no run has the ids"):
        IdIndex(INSTANCE, 1024, environment)
    environment.close()


# ---- a full disk ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk_loses_nothing_and_can_be_recovered_on(small_disk):
    path = small_disk / "data"
    directory.create(path)
    bank = Bank(LmdbStore(path, CONFIG, pace=AT_ONCE))
    bank.run(SCRIPT)
    books = bank.books()
    filler = open(small_disk / "filler", "wb", buffering=0)  # noqa: SIM115
    for size in (1 << 16, 512):
        with contextlib.suppress(OSError):
            while filler.write(bytes(size)):
                pass
    assert bank.store.free_bytes() == 0
    later = 10**12
    full = False
    while not full:
        later += 10**9
        new = [{"id": later + k, "ledger": 1, "code": 1} for k in range(500)]
        try:
            bank.post([("ACCOUNT", new, {})], later)
        except DiskFull:
            full = True
        else:
            books = bank.books()
    bank.store.close()
    guarded = dataclasses.replace(CONFIG, disk_reserve_bytes=1 << 20)
    bank = Bank(LmdbStore(path, guarded))
    assert bank.books() == books
    assert not bank.store.posting_allowed()
    history(bank, IDS)
    filler.close()
    (small_disk / "filler").unlink()
    assert bank.store.posting_allowed()
    bank.post([("ACCOUNT", [{"id": 5, "ledger": 1, "code": 1}], {})], later + 10**9)
    books = bank.books()
    bank.store.close()
    bank = Bank(LmdbStore(path, Config(write_ahead_bytes=1 << 20, disk_reserve_bytes=0)))
    assert bank.books() == books
    bank.store.close()
