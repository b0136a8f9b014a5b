"""Erasure: an account's identity leaves every file of a data directory, and no hash changes.

The journal is written anew, block by block: in blocks where the account has a side, that side, the
account's own entries and the metadata become bare hashes, and the seed the surviving salts. From
the new journal, recovery then makes snapshot, index of ids and archive, and so proves every block
root and state root before anything is replaced. docs/erasure.md says what is erased and what not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger import _merkle, layout
from ledger._core import Core
from ledger._pack import BlockView, encode_block
from ledger._private import Private
from ledger.config import Config
from ledger.errors import DataDamaged, DiskFull
from ledger.storage import directory as data_directory
from ledger.storage import space
from ledger.storage.journal import LmdbJournal
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.store import Hook, Progress, Reader, no_hook, no_progress

BATCH_BYTES: Final = 32 << 20
"""Blocks of so many bytes are copied in one transaction."""

SALTS_BYTES: Final = 32
"""An entry's salts, in a block without a seed."""

Records = np.ndarray[Any, Any]
_KIND: Final = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
_PART: Final = {name: number for name, (number, _) in layout.BARE_PARTS.items()}
_OWN: Final = (_KIND["account"], _KIND["account_settings"])
_HAS_METADATA: Final = layout.flag_mask("ENTRY", "has_metadata")
_CLOSED: Final = layout.flag_mask("ACCOUNT", "closed")
_PENDING: Final = layout.flag_mask("TRANSFER", "pending")
_BLOCKED: Final = layout.flag_mask("ACCOUNT_SETTINGS", "debits_blocked", "credits_blocked")
_BALANCES: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_USER_DATA: Final = ("user_data_128", "user_data_64", "user_data_32")


@dataclass(slots=True)
class Erasure:
    """What was erased, or would be."""

    accounts: list[int]
    refusals: list[str]
    """One line for each reason why an account cannot be erased; then nothing was."""
    blocks: int = 0
    """Stored blocks that changed."""
    entries: int = 0
    """Entries that had a side of an erased account."""
    metadata: int = 0
    """Metadata objects that are gone."""
    done: bool = False
    """Whether the accounts are gone; not when they were refused, or it was only asked."""
    seconds: float = 0.0


@dataclass(slots=True)
class _Account:
    """An account on the way through the journal: its leaf after each of its entries."""

    id: int
    slot: int
    ordinal: int
    leaf: Records = field(default_factory=lambda: np.zeros(1, layout.ACCOUNT_LEAF))

    def open(self, entry: np.void, state_salt: bytes) -> None:
        record, leaf = entry["record"], self.leaf
        leaf["id"] = record["id"]
        leaf["ordinal"] = self.ordinal
        for name in ("ledger", "code", "flags"):
            leaf[name] = record[name]
        leaf["state_salt"] = np.frombuffer(state_salt, np.uint8)

    def advance(self, entry: np.void, side: str, digest: bytes) -> None:
        """Take one of its entries, ``digest`` its leaf T: as ``Committer.commit_side`` does."""
        record, leaf, kind = entry["record"], self.leaf, entry["kind"]
        number = int(entry[side]["number"])
        if number != int(leaf["entry_count"][0]):
            raise DataDamaged(f"account {self.id}: entry {number} where another one is next")
        head = digest if number == 0 else _merkle.chain(leaf["head"].tobytes(), digest)
        leaf["head"] = np.frombuffer(head, np.uint8)
        leaf["entry_count"] = number + 1
        for name in _BALANCES:
            leaf[name] = entry[side][name]
        flags = int(leaf["flags"][0])
        if kind == _KIND["account_settings"]:
            leaf["overdraft"], leaf["ceiling"] = record["amount"], record["pending_id"]
            leaf["state"] = record["flags"]
        elif kind == _KIND["transfer"] and record["flags"] & _PENDING:
            if record["flags"] & layout.flag_mask("TRANSFER", f"closing_{side}"):
                flags |= _CLOSED
        elif entry["flags"] & layout.flag_mask("ENTRY", f"reopens_{side}"):
            flags &= ~_CLOSED
        leaf["flags"] = flags

    def digest(self) -> bytes:
        """Return A, the account's leaf in a state tree, as the account is now."""
        leaves: Records = _merkle.account_leaves(self.leaf.view(np.uint8).reshape(1, -1))
        return bytes(leaves[0])


def refusals(core: Any, ids: Sequence[int]) -> list[str]:
    """Return why these accounts cannot be erased, one line for each reason; none when they can."""
    lines = []
    for place, account_id in enumerate(ids):
        name = f"account {account_id}"
        details = core.account_details(account_id)
        if details is None:
            lines.append(f"{name}: there is no such account")
            continue
        if account_id in ids[:place]:
            lines.append(f"{name}: named twice")
            continue
        account = core.account_at(details["slot"])[0]
        balances = {field: layout.to_int(account[field]) for field in _BALANCES}
        holds = core.holds_of(details["slot"])
        if holds:
            lines.append(f"{name}: pending transfers are open: {holds}; post or void them first")
        if not holds and (balances["debits_pending"] or balances["credits_pending"]):
            lines.append(f"{name}: amounts are pending")
        debits, credits = balances["debits_posted"], balances["credits_posted"]
        if debits != credits:
            lines.append(
                f"{name}: debits_posted {debits} and credits_posted {credits} differ: transfer the"
                " balance away first"
            )
        if not account["flags"] & _CLOSED and details["settings"] & _BLOCKED != _BLOCKED:
            lines.append(
                f"{name}: it is open: close it, or block its debits and its credits by settings"
            )
    return lines


def erase(
    directory: Path,
    config: Config,
    ids: Sequence[int],
    *,
    dry_run: bool = False,
    confirm: Callable[[Erasure], bool] = lambda erasure: True,
    hook: Hook = no_hook,
    progress: Progress = no_progress,
    monotonic: Callable[[], float] = time.monotonic,
) -> Erasure:
    """Erase accounts from every file of a data directory, which no server may have; return what
    was done.

    All of them, or, when one cannot be erased, none: see ``refusals``. ``confirm`` is asked before
    anything is written. Until the last rename the directory is as it was; after it, the next start
    finishes what a crash has left undone. Needs as much free space again as the ledger takes.
    Raises DirectoryInUse, ConfigurationError, DataDamaged, DiskFailed and DiskFull.
    """
    began = monotonic()
    store = LmdbStore(directory, config)
    try:
        old = Core(holds_max=config.holds)
        store.recover(old, progress)
        erasure = Erasure(list(ids), refusals(old, ids))
        if erasure.refusals:
            return erasure
        accounts = {}
        for account_id in ids:
            details = old.account_details(account_id)
            account = _Account(account_id, details["slot"], details["ordinal"])
            accounts[account.slot] = account
            erasure.entries += details["entry_count"]
        if dry_run or not confirm(erasure):
            return erasure
        _require_room(directory, config, old.entry_number)
        new = data_directory.begin_erasure(directory, store.instance)
        erasure.entries = 0
        try:
            with store.reader() as reader:
                rewritten = _rewritten(reader, old, accounts, erasure, progress)
                _write_journal(new / data_directory.JOURNAL, rewritten, hook)
            for account in accounts.values():
                _compare_account(account, old)
            _make_the_rest(new, config, old, progress)
            hook("erase commit", "before")
        except BaseException:
            data_directory.abandon_erasure(directory)
            raise
        data_directory.commit_erasure(directory)
        hook("erase commit", "after")
    finally:
        store.close()
    data_directory.Directory(directory, hook=hook).close()
    erasure.done = True
    erasure.seconds = monotonic() - began
    return erasure


# ----------------------------------------------------------------------------------------------
# The new journal
# ----------------------------------------------------------------------------------------------


def _rewritten(
    reader: Reader, core: Any, accounts: dict[int, _Account], erasure: Erasure, progress: Progress
) -> Iterator[tuple[int, bytes, list[tuple[int, bytes]]]]:
    """Yield number, value and metadata of every block as it is to be stored."""
    slots = np.array(sorted(accounts), np.uint32)
    last = reader.last_block
    for number in range(last + 1):
        progress("writing the journal anew", number, last + 1)
        view = reader.block(number)
        view.check()
        metadata = {}
        for index in view.metadata_indexes:
            data = reader.metadata(layout.position(number, int(index)))
            if data is None:
                raise DataDamaged(f"block {number}: the metadata of entry {index} is missing")
            metadata[int(index)] = data
        entries = view.entries()
        touched = np.isin(entries["debit_slot"], slots) | np.isin(entries["credit_slot"], slots)
        if touched.any():
            before = len(metadata)
            value = _rewritten_block(view, entries, touched, metadata, core, accounts)
            erasure.blocks += 1
            erasure.entries += int(touched.sum())
            erasure.metadata += before - len(metadata)
        else:
            value = reader.value(number)
        yield (
            number,
            value,
            [(layout.position(number, index), data) for index, data in metadata.items()],
        )
    progress("writing the journal anew", last + 1, last + 1)


def _rewritten_block(
    view: Any,
    entries: Records,
    touched: Records,
    metadata: dict[int, bytes],
    core: Any,
    accounts: dict[int, _Account],
) -> bytes:
    """Return a block's value without the accounts; ``metadata`` loses what goes."""
    name = f"block {view.number}"
    private = view.private()
    leaves = _leaves(core, entries, private, list(metadata.values()))
    if _merkle.tree_root(leaves) != view.root:
        raise DataDamaged(f"{name}: its entries do not have the root in its header")
    salts, ext_salts, bare = private.explicit()
    bare_hashes = {(int(row["index"]), int(row["part"])): row["digest"].tobytes() for row in bare}
    last: dict[int, tuple[int, str]] = {}
    entries = entries.copy()
    for index in map(int, np.flatnonzero(touched)):
        entry, digest = entries[index], leaves[index].tobytes()
        kind, own = int(entry["kind"]), int(entry["kind"]) in _OWN
        if own and (kind == _KIND["account"] or any(_filled(entry, f) for f in _USER_DATA)):
            # Of what the customer gave, nothing is left to make the leaf of.
            account = accounts[int(entry["debit_slot"])]
            if kind == _KIND["account"]:
                account.open(entry, salts[index, 16:].tobytes())
            account.advance(entry, "debit", digest)
            last[account.slot] = (index, "debit")
            bare_hashes[index, _PART["leaf"]] = digest
            salts[index] = 0
            if kind == _KIND["account"]:
                entry["record"]["id"] = entry["record"]["debit_account_id"] = (0, 0)
            for user_data in _USER_DATA:
                entry["record"][user_data] = np.zeros((), entry["record"].dtype[user_data])
        else:
            for side, number, place in (("debit", 1, 0), ("credit", 2, 16)):
                side_account = accounts.get(int(entry[f"{side}_slot"]))
                if side_account is None:
                    continue
                salt = salts[index, place : place + 16]
                bare_hashes[index, _PART[f"{side}_side"]] = _merkle.side_digest(
                    side_account.id,
                    int(entry[side]["number"]),
                    layout.to_int(entry["released"]),
                    3 if own else number,
                    kind,
                    salt.tobytes(),
                )
                salt[:] = 0
                side_account.advance(entry, side, digest)
                last[side_account.slot] = (index, side)
            if index in metadata:
                bare_hashes[index, _PART["ext"]] = private.ext(index, metadata[index])
        if index in metadata:
            del metadata[index]
            entry["flags"] &= ~np.uint8(_HAS_METADATA)
    for slot, (index, side) in last.items():
        bare_hashes[index, _PART[f"{side}_account"]] = accounts[slot].digest()
    kept = np.isin(private.metadata_indexes, list(metadata))
    rows = np.zeros(len(bare_hashes), layout.BARE)
    for row, (key, digest) in zip(rows, sorted(bare_hashes.items()), strict=True):
        row["index"], row["part"] = key
        row["digest"] = np.frombuffer(digest, np.uint8)
    after = Private(
        len(entries),
        salts=salts,
        metadata_indexes=private.metadata_indexes[kept],
        ext_salts=ext_salts[kept],
        bare=rows,
    )
    value: bytes = encode_block(entries, view.header_bytes, seed=after)
    stored = BlockView(value, number=view.number)
    stored.check()
    again = _leaves(core, stored.entries(), stored.private(), list(metadata.values()))
    if again.tobytes() != leaves.tobytes():
        raise DataDamaged(f"{name}: its leaves would change: this is a fault of the program")
    return value


def _filled(entry: np.void, name: str) -> bool:
    return bool(entry["record"][name].tobytes().strip(b"\0"))


def _leaves(core: Any, entries: Records, private: Any, metadata: list[bytes]) -> Records:
    named = entries.copy()
    core.fill_account_ids(named)
    leaves: Records = _merkle.block_leaves(named, private, private.ext_digests(metadata))
    return leaves


def _write_journal(
    path: Path, blocks: Iterator[tuple[int, bytes, list[tuple[int, bytes]]]], hook: Hook
) -> None:
    """Append all blocks to an empty journal, many in one transaction."""
    journal = LmdbJournal(path, hook=hook)
    try:
        batch, size = [], 0
        for number, value, metadata in blocks:
            batch.append((number, value, metadata))
            size += len(value) + sum(len(data) for _, data in metadata)
            if size >= BATCH_BYTES:
                journal.append_all(batch)
                batch, size = [], 0
        if batch:
            journal.append_all(batch)
    finally:
        journal.close()


def _compare_account(account: _Account, core: Any) -> None:
    """Compare what the journal led to with the books: the frozen leaf must be the account's own."""
    row, details = core.account_at(account.slot)[0], core.account_details(account.id)
    leaf = account.leaf[0]
    same = (
        all(leaf[name].tobytes() == row[name].tobytes() for name in ("id", "flags", *_BALANCES))
        and leaf["head"].tobytes() == details["head"]
        and int(leaf["entry_count"]) == details["entry_count"]
        and layout.to_int(leaf["overdraft"]) == details["overdraft"]
        and layout.to_int(leaf["ceiling"]) == details["ceiling"]
        and int(leaf["state"]) == details["settings"]
    )
    _, salts = core.identities(np.array([account.slot], np.uint32))
    if not same or salts.tobytes() != leaf["state_salt"].tobytes():
        raise DataDamaged(f"account {account.id}: its entries do not lead to its balances")


# ----------------------------------------------------------------------------------------------
# Everything else
# ----------------------------------------------------------------------------------------------


def _require_room(directory: Path, config: Config, entry_count: int) -> None:
    # Where an account had entries, every entry of the block has its salts one by one.
    needed = SALTS_BYTES * entry_count + sum(
        file.stat().st_blocks * 512
        for part in data_directory.PARTS
        for file in (directory / part).glob("*")
    )
    free = space.free_bytes(directory) - config.disk_reserve_bytes
    if free < needed:
        raise DiskFull(
            f"{directory}: erasing writes everything anew and needs {needed:,} bytes free, and"
            f" {max(0, free):,} are"
        )


def _make_the_rest(new: Path, config: Config, old: Any, progress: Progress) -> None:
    """Recover the new directory from its journal alone, write its snapshot, and compare the
    books."""
    store = LmdbStore(new, config)
    try:
        core = Core(holds_max=config.holds)
        found = store.recover(core, progress)
        for name in ("block_number", "entry_number", "account_count", "hold_count", "next_expiry"):
            if getattr(core, name) != getattr(old, name):
                raise DataDamaged(f"the new journal does not lead to the same books: {name}")
        if core.trial_balance() != old.trial_balance() or core.small_state() != old.small_state():
            raise DataDamaged("the new journal does not lead to the same books")
        store.snapshot_all(core, core.block_number, found.named_root)
        store.drain()
    finally:
        store.close()
