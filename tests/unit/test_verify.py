"""What verification finds: a clean ledger is clean, and each kind of lie in stored data is told,
also one whose checksums, roots and hashes are all right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import _merkle, _pack, layout
from ledger._block import Block
from ledger._core import Core
from ledger.storage import directory as data_directory
from ledger.storage.journal import LmdbJournal
from ledger.storage.live import live_reader, owner
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.recovery import read_block
from ledger.storage.roots import _PLACE, KeptRoots, LmdbTrees
from ledger.storage.snapshot import Pace
from ledger.storage.store import NO_HASH, metadata_of
from ledger.storage.verify import verify
from tests.crash.driver import CONFIG, Bank, script

BLOCKS = 30
Records = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a ledger that was snapshotted while it ran, and stopped."""
    path = tmp_path_factory.mktemp("verify") / "data"
    data_directory.create(path)
    store = LmdbStore(path, CONFIG, pace=Pace(pass_interval_s=0.0, threaded=False))
    running = Bank(store)
    running.run(script(5, BLOCKS))
    store.drain()
    store.close()
    return path


@pytest.fixture
def directory(bank: Path, tmp_path: Path) -> Path:
    shutil.copytree(bank, tmp_path / "data")
    return tmp_path / "data"


Change = Callable[[Records, int], Records]


def rewrite(
    directory: Path,
    change: Change,
    *,
    keep: tuple[str, ...] = (),
    change_header: Callable[[dict[str, Any]], None] = lambda header: None,
) -> None:
    """Write the journal anew with every root, hash and checksum right, after ``change(entries,
    number)`` has altered the entries of each block, and ``change_header`` the fields of its header;
    of snapshot, ids and state roots only what is in ``keep`` stays."""
    original = directory.with_name("original")
    directory.rename(original)
    data_directory.create(directory, instance=data_directory.read_format(original))
    for part in keep:
        shutil.copytree(original / part, directory / part, dirs_exist_ok=True)
    old, new = LmdbJournal(original / "journal"), LmdbJournal(directory / "journal")
    previous, first_entry, core = NO_HASH, 0, Core(holds_max=CONFIG.holds)
    try:
        with old.reader() as reader:
            for number in range(reader.last_block + 1):
                view, block = reader.block(number), read_block(reader, number)
                core.replay(block)
                changed = Block.of(view, change(block.entries.copy(), number), block.metadata)
                fields = dict(
                    instance=view.instance,
                    number=number,
                    first_entry=first_entry,
                    last_timestamp=view.last_timestamp,
                    last_account_timestamp=view.last_account_timestamp,
                    last_transfer_timestamp=view.last_transfer_timestamp,
                    entry_count=changed.count,
                    business_date=view.business_date,
                    previous_hash=previous,
                    root=root_of(changed, view.seed),
                    flags=view.flags,
                    **named_in(view),
                )
                change_header(fields)
                header = _pack.build_header(**fields)
                value = _pack.encode_block(changed, header, seed=view.seed)
                new.append(number, value, metadata_of(changed))
                previous = _pack.BlockView(value).hash
                first_entry += changed.count
    finally:
        old.close()
        new.close()


def named_in(view: Any) -> dict[str, Any]:
    """What a header says of an earlier block's state root."""
    return {} if view.state is None else {"state_block": view.state[0], "state_root": view.state[1]}


def root_of(block: Block, seed: bytes) -> bytes:
    """The root of a block's entries, by the functions that do not touch a core."""
    digests = np.zeros((block.count, 32), np.uint8)
    for index, place in enumerate(block.entries["metadata"].tolist()):
        if place:
            digest = _merkle.ext_digest(seed, index, block.metadata[place - 1])
            digests[index] = np.frombuffer(digest, np.uint8)
    return bytes(_merkle.tree_root(_merkle.block_leaves(block.entries, seed, digests)))


def one_of(kind: str, *, at_least: int = 1) -> Callable[[Records], int | None]:
    """Return what finds the first entry of a kind in a block with an amount of at least so much."""
    number = layout.ENTRY_KINDS[kind][0]

    def find(entries: Records) -> int | None:
        right = (entries["kind"] == number) & (entries["metadata"] == 0)
        if kind == "transfer":
            right &= (entries["record"]["amount"]["lo"] >= at_least) & (
                entries["record"]["flags"] == 0
            )
        places = np.flatnonzero(right)
        return int(places[0]) if len(places) else None

    return find


def once(
    find: Callable[[Records], int | None], alter: Callable[[Records, int], Records | None]
) -> Change:
    """Return a change that alters the first entry found, and no other."""
    done = False

    def change(entries: Records, number: int) -> Records:
        nonlocal done
        place = None if done else find(entries)
        if place is None:
            return entries
        done = True
        altered = alter(entries, place)
        return entries if altered is None else altered

    return change


def test_an_unchanged_rewrite_is_clean(directory: Path) -> None:
    rewrite(directory, lambda entries, number: entries, keep=("state", "ids", "roots"))
    verdict = verify(directory, CONFIG)
    assert (verdict.differences, verdict.notes) == ([], [])


def test_a_clean_ledger_is_clean(directory: Path) -> None:
    verdict = verify(directory, CONFIG)
    assert verdict.clean
    assert (verdict.differences, verdict.notes) == ([], [])
    assert verdict.blocks == BLOCKS
    with live_reader(directory) as reader:
        last = reader.block(reader.last_block)
        assert verdict.entries == last.first_entry + last.entry_count
        assert verdict.last_hash == last.hash.hex()
    assert verdict.ids > 300
    assert verdict.pages >= 2
    assert verdict.metadata > 5
    assert owner(directory) is None


def test_an_empty_ledger_is_clean(tmp_path: Path) -> None:
    data_directory.create(tmp_path / "data")
    verdict = verify(tmp_path / "data", CONFIG)
    assert (verdict.clean, verdict.blocks, verdict.entries) == (True, 0, 0)


def test_an_amount_altered_beside_its_balances(directory: Path) -> None:
    def alter(entries: Records, place: int) -> None:
        entries["record"]["amount"]["lo"][place] -= 1

    rewrite(directory, once(one_of("transfer"), alter))
    verdict = verify(directory, CONFIG)
    assert not verdict.clean
    assert any("balances" in difference for difference in verdict.differences)


def test_a_balance_altered_beside_its_entry(directory: Path) -> None:
    def alter(entries: Records, place: int) -> None:
        entries["credit"]["credits_posted"]["lo"][place] += 1

    rewrite(directory, once(one_of("transfer"), alter))
    assert not verify(directory, CONFIG).clean


def test_a_decision_that_the_rules_do_not_allow(directory: Path) -> None:
    """All balances add up, but an account with a limit went beyond it."""
    limited = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
    opening = layout.ENTRY_KINDS["account"][0]

    def limit_all(entries: Records, number: int) -> Records:
        records = entries["record"]
        free = (entries["kind"] == opening) & (records["flags"] == 0)
        records["flags"][free] = limited
        return entries

    rewrite(directory, limit_all)
    verdict = verify(directory, CONFIG)
    assert any("exceeds_credits" in difference for difference in verdict.differences)


def test_a_transfer_left_out(directory: Path) -> None:
    def leave_out(entries: Records, place: int) -> Records:
        return np.delete(entries, place)

    rewrite(directory, once(one_of("transfer"), leave_out))
    assert not verify(directory, CONFIG).clean


def test_a_released_amount_altered(directory: Path) -> None:
    def find(entries: Records) -> int | None:
        places = np.flatnonzero(entries["released"]["lo"] > 0)
        return int(places[0]) if len(places) else None

    def alter(entries: Records, place: int) -> None:
        entries["released"]["lo"][place] -= 1

    rewrite(directory, once(find, alter))
    assert not verify(directory, CONFIG).clean


def test_a_snapshot_that_is_not_the_journals(directory: Path) -> None:
    """The account's user_data is in no balance: only the page tells the journal's from the
    snapshot's.
    """

    def alter(entries: Records, place: int) -> None:
        entries["record"]["user_data_64"][place] += 1

    rewrite(directory, once(one_of("account"), alter), keep=("state", "ids", "roots"))
    verdict = verify(directory, CONFIG)
    assert any("page 0 of the accounts" in difference for difference in verdict.differences)


def test_an_index_of_ids_that_is_not_the_journals(directory: Path) -> None:
    new_id = 987_654_321 << 64

    def alter(entries: Records, place: int) -> None:
        entries["record"]["id"][place] = layout.from_int(new_id)

    rewrite(directory, once(one_of("transfer"), alter), keep=("state", "ids", "roots"))
    verdict = verify(directory, CONFIG)
    assert any(f"id {new_id} is not in the index" in line for line in verdict.differences)


def test_a_state_root_that_is_not_that_of_the_accounts(directory: Path) -> None:
    def lie(header: dict[str, Any]) -> None:
        if "state_root" in header:
            header["state_root"] = bytes(31) + b"\1"

    rewrite(directory, lambda entries, number: entries, change_header=lie)
    recovering, *replaying = verify(directory, CONFIG).differences
    assert "restore the ledger" in recovering  # no start either
    assert len(replaying) == BLOCKS // 5
    for difference in (recovering, *replaying):
        assert "the state root that it names for block" in difference


def test_a_state_root_named_out_of_order(directory: Path) -> None:
    def lie(header: dict[str, Any]) -> None:
        if "state_root" in header:
            header["state_block"] = header["number"]

    rewrite(directory, lambda entries, number: entries, change_header=lie)
    assert "it names the state root of block" in verify(directory, CONFIG).differences[0]


def test_an_archive_that_is_not_the_journals(directory: Path) -> None:
    """Right in itself, checksums and all, but with another account's balance."""
    trees = LmdbTrees(directory / "roots")
    kept = KeptRoots(trees, data_directory.read_format(directory))
    kept.identify = lambda slots: (np.zeros(len(slots), layout.U128), np.zeros((len(slots), 16)))
    block = kept.blocks()[1][0]
    group = kept.groups(block)[0]
    key = _PLACE.pack(block, group.kind, group.ledger, group.code, 0)
    with trees.reader() as get:
        content = bytearray(kept._get(get, "rows", key))
    content[8 + 32 + 20] ^= 1
    trees.write("test", [kept._seal("rows", key, bytes(content))])
    trees.close()
    verdict = verify(directory, CONFIG)
    assert f"state root of block {block}" in verdict.differences[0]
    assert "the accounts of tile 0 do not have its hash" in verdict.differences[0]
    assert verdict.state_roots == BLOCKS // 5


def test_a_flag_of_a_block_that_its_entries_do_not_bear_out(directory: Path) -> None:
    def lie(header: dict[str, Any]) -> None:
        if header["number"] == 7:
            header["flags"] = 2
        if header["number"] == 9:
            header["flags"] = 8

    rewrite(directory, lambda entries, number: entries, change_header=lie)
    first, second = verify(directory, CONFIG).differences
    assert "block 7: the flag announces_key in its header is wrong" in first
    assert "block 9: its header has flags that nobody knows" in second


def test_a_journal_older_than_its_snapshot(directory: Path, tmp_path: Path) -> None:
    data_directory.create(tmp_path / "short", instance=data_directory.read_format(directory))
    for part in ("state", "ids"):
        shutil.copytree(directory / part, tmp_path / "short" / part, dirs_exist_ok=True)
    old, new = LmdbJournal(directory / "journal"), LmdbJournal(tmp_path / "short" / "journal")
    with old.reader() as reader:
        for number in range(BLOCKS // 2):
            block = read_block(reader, number)
            new.append(number, bytes(reader.value(number)), metadata_of(block))
    old.close()
    new.close()
    verdict = verify(tmp_path / "short", CONFIG)
    assert any("acknowledged blocks are missing" in line for line in verdict.differences)


def test_progress_reaches_its_end(directory: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    verify(directory, CONFIG, lambda stage, done, total: seen.__setitem__(stage, (done, total)))
    assert seen["deciding again"] == (BLOCKS, BLOCKS)
    assert all(done == total for done, total in seen.values())
