"""Verification: the whole journal replayed from nothing, every decision taken again, everything
stored compared.

Three states are held against each other: what the journal's entries lead to when they are decided
again, what is stored beside them (balances, roots, hashes, chains), and what a server would start
from (snapshot pages, index of ids).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger._core import Core
from ledger._merkle import block_hash
from ledger._verifier import Verifier
from ledger.config import Config
from ledger.errors import DataDamaged
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.rebuilt_roots import Asked, archive_differences, asked_by, captured_root
from ledger.storage.recovery import read_block
from ledger.storage.store import NO_HASH, Progress, no_progress

DIFFERENCES_MAX: Final = 100
"""Differences that are told in words; all are counted."""

_KINDS: Final = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
_NAMESPACES: Final = {name: number for name, (number, _) in layout.NAMESPACES.items()}
_WITH_ID: Final = {
    _NAMESPACES["transfer"]: (_KINDS["transfer"], _KINDS["burned_id"]),
    _NAMESPACES["administrative"]: (
        _KINDS["account_settings"],
        _KINDS["definition"],
        _KINDS["administration"],
    ),
}
"""The kinds of entries whose ids are in the index, by namespace."""
_SEAL_CODE: Final = layout.ADMINISTRATIONS["seal"][0]
_SEAL: Final = layout.flag_mask("BLOCK", "seal")
_ANNOUNCES_KEY: Final = layout.flag_mask("BLOCK", "announces_key")
_BLOCK_FLAGS: Final = _SEAL | _ANNOUNCES_KEY
_RESOLVING: Final = layout.flag_mask("TRANSFER", "post_pending_transfer", "void_pending_transfer")


@dataclass(slots=True)
class Verdict:
    """What was compared, and what was found."""

    blocks: int = 0
    entries: int = 0
    metadata: int = 0
    accounts: int = 0
    ids: int = 0
    pages: int = 0
    state_roots: int = 0
    last_hash: str = ""
    seconds: float = 0.0
    difference_count: int = 0
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What recovery found damaged and rebuilt from the journal: no loss, but a reason to look at
    the disk.
    """

    @property
    def clean(self) -> bool:
        """Whether everything agrees."""
        return self.difference_count == 0

    def differs(self, what: str) -> None:
        """Note a difference."""
        self.difference_count += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(what)


def verify(
    directory: Path,
    config: Config,
    progress: Progress = no_progress,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Replay a data directory's journal from nothing, decide every entry again, and compare all
    that is stored.

    Needs the directory for itself. Damage that cannot be read around ends the replay and is the
    last difference. Raises DirectoryInUse, ConfigurationError, FormatTooNew and DiskFailed.
    """
    began = monotonic()
    verdict = Verdict()
    store = LmdbStore(directory, config)
    try:
        recovered = Core(holds_max=config.holds)
        try:
            verdict.notes += store.recover(recovered, progress).notes
        except DataDamaged as error:
            verdict.differs(str(error))
            recovered = None
        replayed = Verifier(holds_max=config.holds)
        try:
            complete = _replay(store, replayed, verdict, progress, whole=recovered is not None)
        except DataDamaged as error:
            verdict.differs(str(error))
            complete = False
        if complete and recovered is not None:
            _compare_states(replayed, recovered, verdict, progress)
        verdict.accounts = replayed.account_count
    finally:
        store.close()
    verdict.seconds = monotonic() - began
    return verdict


def _replay(
    store: LmdbStore, core: Any, verdict: Verdict, progress: Progress, *, whole: bool
) -> bool:
    """Decide every block again; return whether all of them could be. ``whole``: the store was
    recovered, so there are an index of ids and an archive of state roots to compare."""
    previous_hash, first_entry = NO_HASH, 0
    with store.reader() as reader:
        last = reader.last_block
        asked = asked_by(reader, 0, last)
        rooted = set(asked.blocks)
        if whole:
            rooted.update(block for block, *_ in store.roots.blocks())
        for number in range(last + 1):
            progress("deciding again", number, last + 1)
            view, block = reader.block(number), read_block(reader, number)
            name = f"block {number}"
            if view.instance != store.instance:
                verdict.differs(f"{name}: it belongs to ledger {view.instance.hex()}")
            if view.previous_hash != previous_hash:
                verdict.differs(f"{name}: it does not name the hash of the block before it")
            if view.first_entry != first_entry:
                verdict.differs(f"{name}: its first entry is {view.first_entry}, not {first_entry}")
            if block_hash(view.header_bytes) != view.hash:
                verdict.differs(f"{name}: its hash is not that of its header")
            _check_flags(view, block, verdict)
            different = core.redecide(block)
            for what in different:
                verdict.differs(what if what.startswith("block") else f"{name}: {what}")
            core.hash_block(block, block.seed)
            if block.root != view.root:
                verdict.differs(f"{name}: its entries do not have the root in its header")
            if whole:
                _compare_ids(store, block, verdict)
            if number in rooted and not different:
                _compare_root(store, core, asked, verdict, whole=whole)
            verdict.blocks += 1
            verdict.entries += view.entry_count
            verdict.metadata += len(block.metadata)
            previous_hash, first_entry = view.hash, first_entry + view.entry_count
            if different:
                # The state is no longer that of the journal: all that follows would differ too.
                verdict.differs(f"{name}: the blocks after it were not decided again")
                return False
        progress("deciding again", last + 1, last + 1)
    core.forget_substitutes()
    verdict.last_hash = previous_hash.hex()
    return True


def _compare_root(
    store: LmdbStore, core: Any, asked: Asked, verdict: Verdict, *, whole: bool
) -> None:
    """Make the state root of the last block again; compare what a header says, and the archive."""
    state = captured_root(core)
    block = state.block
    if asked.named.get(block, state.root) != state.root:
        verdict.differs(
            f"block {asked.named_in[block]}: the state root that it names for block {block} is not"
            " that of the accounts"
        )
    if whole:
        for what in archive_differences(store.roots, state):
            verdict.differs(what)
        if block not in asked.blocks and block < asked.newest_named:
            verdict.differs(f"the archive has a state root of block {block} that is nobody's")
    verdict.state_roots += 1


def _check_flags(view: Any, block: Any, verdict: Verdict) -> None:
    """Hold what the header says of the entries against the entries."""
    if bool(view.flags & _ANNOUNCES_KEY) != block.announces_key:
        verdict.differs(f"block {view.number}: the flag announces_key in its header is wrong")
    if view.flags & ~_BLOCK_FLAGS:
        verdict.differs(f"block {view.number}: its header has flags that nobody knows")
    entry = block.entries[0]
    alone = entry["kind"] == _KINDS["administration"] and entry["record"]["code"] == _SEAL_CODE
    if alone and not view.flags & _SEAL:
        verdict.differs(f"block {view.number}: it was made to seal, and is not sealed")


def _compare_ids(store: LmdbStore, block: Any, verdict: Verdict) -> None:
    """Find every id of a block in the index, with the position that it has."""
    entries = block.entries
    kinds, records = entries["kind"], entries["record"]
    for namespace, with_id in _WITH_ID.items():
        has_id = (records["id"]["lo"] != 0) | (records["id"]["hi"] != 0)
        places = np.flatnonzero(np.isin(kinds, with_id) & has_id)
        _find(store, block.number, records["id"], places, namespace, False, verdict)
    resolving = (kinds == _KINDS["transfer"]) & (records["flags"] & _RESOLVING != 0)
    places = np.flatnonzero(resolving | (kinds == _KINDS["expiry"]))
    _find(store, block.number, records["pending_id"], places, 0, True, verdict)


def _find(
    store: LmdbStore,
    number: int,
    ids: np.ndarray[Any, Any],
    places: np.ndarray[Any, Any],
    namespace: int,
    resolved: bool,
    verdict: Verdict,
) -> None:
    if len(places) == 0:
        return
    candidates, hits = store.id_records(np.ascontiguousarray(ids[places]), namespace)
    here = hits[(hits["position"] >> layout.INDEX_BITS == number) & (hits["resolved"] == resolved)]
    index = (here["position"] & ((1 << layout.INDEX_BITS) - 1)).astype(np.int64)
    same = candidates["id"][here["candidate"].astype(np.int64)] == ids[index]
    found = np.zeros(len(ids), bool)
    found[index[same]] = True
    for place in places[~found[places]]:
        what = "the resolution of hold" if resolved else "id"
        verdict.differs(
            f"block {number}, entry {place}: {what} {layout.to_int(ids[place])} is not in the index"
        )
    verdict.ids += len(places)


def _compare_states(replayed: Any, recovered: Any, verdict: Verdict, progress: Progress) -> None:
    """Compare what the journal leads to with what a server would start from."""
    for name in (
        "block_number",
        "entry_number",
        "account_count",
        "hold_count",
        "last_timestamp",
        "last_account_timestamp",
        "last_transfer_timestamp",
        "business_date",
    ):
        journal, snapshot = getattr(replayed, name), getattr(recovered, name)
        if journal != snapshot:
            verdict.differs(f"{name}: {journal} from the journal, {snapshot} from the snapshot")
    if replayed.small_state() != recovered.small_state():
        verdict.differs("the definitions differ between journal and snapshot")
    if replayed.trial_balance() != recovered.trial_balance():
        verdict.differs("the trial balance differs between journal and snapshot")
    if _holds(replayed) != _holds(recovered):
        verdict.differs("the open holds differ between journal and snapshot")
    count = min(replayed.page_count, recovered.page_count)
    for page in range(count):
        progress("comparing pages", page, count)
        if replayed.copy_page("accounts", page) != recovered.copy_page("accounts", page):
            verdict.differs(f"page {page} of the accounts: journal and snapshot differ")
    progress("comparing pages", count, count)
    verdict.pages += count


def _holds(core: Any) -> list[bytes]:
    """Return the open holds' rows in an order of their own: their places depend on history."""
    rows = b"".join(core.copy_page("holds", page) for page in range(core.hold_page_count))
    size = len(rows) // core.hold_count if core.hold_count else 1
    return sorted(rows[start : start + size] for start in range(0, len(rows), size))
