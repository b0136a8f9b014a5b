"""Recovery: the last complete snapshot, and the journal's entries after it, through the core's own
commit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ledger import layout
from ledger._block import Block as CoreBlock
from ledger.errors import DataDamaged
from ledger.storage.rebuilt_roots import Asked, asked_by, keep_if_asked, misfit
from ledger.storage.roots import KeptRoots
from ledger.storage.snapshot import read_all
from ledger.storage.store import NO_HASH, Core, Floor, Journal, Pages, Progress, Reader, Recovery

BLOCKS_AHEAD = 3
ADVICE = "restore the ledger from its latest backup with 'sanyuan restore'"


def read_block(reader: Reader, number: int) -> Any:
    """Return a block of the journal as the core takes it, all its bytes and metadata checked."""
    return _read(reader, number)[1]


def _read(reader: Reader, number: int) -> tuple[Any, Any]:
    view = reader.block(number)
    view.check()
    metadata = []
    for index in view.metadata_indexes:
        data = reader.metadata(layout.position(number, int(index)))
        if data is None:
            raise DataDamaged(f"block {number}: the metadata of entry {index} is missing: {ADVICE}")
        metadata.append(data)
    return view, CoreBlock.of(view, view.entries(), metadata)


def _blocks_ahead(reader: Reader, start: int, last: int) -> Iterator[tuple[Any, Any]]:
    """Yield views and blocks; a thread, the only one to use the reader meanwhile, reads ahead."""
    with ThreadPoolExecutor(1, "read-ahead") as thread:
        waiting = deque(
            thread.submit(_read, reader, number)
            for number in range(start, min(last, start + BLOCKS_AHEAD - 1) + 1)
        )
        try:
            for number in range(start + BLOCKS_AHEAD, last + 1 + BLOCKS_AHEAD):
                yield waiting.popleft().result()
                if number <= last:
                    waiting.append(thread.submit(_read, reader, number))
        finally:
            for future in waiting:
                future.cancel()


def recover(
    core: Any,
    *,
    journal: Journal,
    pages: Pages,
    ids: Any,
    roots: KeptRoots,
    instance: bytes,
    notes: list[str],
    progress: Progress,
    may_write: Callable[[], bool] = lambda: False,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[Recovery, Floor | None]:
    """Bring an empty core and the index of ids to the state after the last durable block.

    Returns what was found, and the floor that was used. While ``may_write`` says so, runs of ids
    are written on the way; without, the ids wait in memory. ``notes`` may hold sentences already.
    State roots that the journal asks for and the archive lacks are made on the way, and written.
    Raises DataDamaged, with the block and what to do, when the journal cannot be read or
    contradicts itself, DiskFull when there is no room for a state root.
    """
    began = monotonic()
    with journal.reader() as reader:
        last = reader.last_block
        floor, newest_page = _usable_floor(pages, last, notes)
        floor, asked = _fitting_roots(reader, pages, roots, floor, newest_page, notes)
        roots.identify = core.identities
        floor_block = -1
        if floor is not None:
            _load(core, pages, floor, progress)
            floor_block = floor.block
        ids_floor = int(ids.floor)
        if ids_floor > last:
            raise DataDamaged(
                f"the index of ids knows block {ids_floor}, but the journal ends at block {last}:"
                f" acknowledged blocks are missing; {ADVICE}"
            )
        # The clocks are in the last block's header, so that one is always replayed; its sides and
        # holds are in the pages.
        replay_from = min(floor_block + 1, last)
        start = max(0, min(replay_from, ids_floor + 1))
        previous_hash, entry_count = NO_HASH, 0
        if start > 0:
            before = reader.block(start - 1)
            previous_hash, entry_count = before.hash, before.first_entry + before.entry_count
        replayed_blocks = replayed_entries = 0
        for number, (view, block) in enumerate(_blocks_ahead(reader, start, last), start):
            progress("journal", number - start, last + 1 - start)
            _check_chain(view, instance, previous_hash, entry_count)
            if number >= replay_from:
                core.replay(block)
                core.hash_block(block, block.seed)
                if block.root != view.root:
                    raise DataDamaged(
                        f"block {number}: its entries do not have the root in its header: {ADVICE}"
                    )
                keep_if_asked(core, roots, asked)
                replayed_blocks += 1
                replayed_entries += view.entry_count
            if number > ids_floor:
                ids.insert_block(block)
                if may_write():
                    ids.maintain(number)
            previous_hash = view.hash
            entry_count = view.first_entry + view.entry_count
        progress("journal", last + 1 - start, last + 1 - start)
        core.finish_replay()
    found = Recovery(
        last_block=last,
        last_hash=previous_hash,
        instance=instance,
        entry_count=entry_count,
        replayed_blocks=replayed_blocks,
        replayed_entries=replayed_entries,
        seconds=monotonic() - began,
        notes=tuple(notes),
        named_root=asked.newest_named,
    )
    return found, floor


def _fitting_roots(
    reader: Reader,
    pages: Pages,
    roots: KeptRoots,
    floor: Floor | None,
    newest_page: int,
    notes: list[str],
) -> tuple[Floor | None, Asked]:
    """The floor to start from, and the state roots that the blocks after it ask for.

    Where the archive lacks a root that cannot be made from the snapshot, both are forgotten.
    """
    last = reader.last_block
    if roots.newest_block > last:
        raise DataDamaged(
            f"the archive of state roots knows block {roots.newest_block}, but the journal ends at"
            f" block {last}: acknowledged blocks are missing; {ADVICE}"
        )
    if floor is not None:
        asked = asked_by(reader, floor.block + 1, last, floor.named_root)
    else:
        asked = asked_by(reader, 0, last)
    wrong = misfit(asked, roots, floor, newest_page)
    if wrong is None:
        return floor, asked
    lost = "it was" if floor is None else "it and the snapshot were"
    notes.append(f"the archive of state roots does not do ({wrong}); {lost} rebuilt")
    roots.clear()
    pages.clear()
    return None, asked if floor is None else asked_by(reader, 0, last)


def _check_chain(view: Any, instance: bytes, previous_hash: bytes, first_entry: int) -> None:
    if view.instance != instance:
        raise DataDamaged(
            f"block {view.number}: it belongs to ledger {view.instance.hex()}, and the directory to"
            f" {instance.hex()}: {ADVICE}"
        )
    if view.previous_hash != previous_hash:
        raise DataDamaged(
            f"block {view.number}: it does not name the hash of the block before it: {ADVICE}"
        )
    if view.first_entry != first_entry:
        raise DataDamaged(
            f"block {view.number}: its first entry is {view.first_entry}, not {first_entry}:"
            f" {ADVICE}"
        )


def _usable_floor(pages: Pages, last: int, notes: list[str]) -> tuple[Floor | None, int]:
    """The floor whose pages are all there and sound, and the newest block that they show; None, and
    the pages forgotten, when there is none.

    All checksums are compared before the first page goes into the core, which could not give it
    back.
    """
    try:
        floor = pages.read_floor()
        newest = -1 if floor is None else floor.block
        if floor is not None:
            for page in read_all(pages, floor):
                newest = max(newest, page.block)
    except DataDamaged as error:
        notes.append(f"the snapshot is damaged ({error}); it was rebuilt from the journal")
        pages.clear()
        return None, -1
    if newest > last:
        raise DataDamaged(
            f"the snapshot knows block {newest}, but the journal ends at block {last}: acknowledged"
            f" blocks are missing; {ADVICE}"
        )
    return floor, newest if floor is not None else -1


def _load(core: Core, pages: Pages, floor: Floor, progress: Progress) -> None:
    total = floor.account_pages + floor.hold_pages
    core.load_small_state(floor.small_state)
    for done, page in enumerate(read_all(pages, floor)):
        progress("snapshot", done, total)
        core.load_page(page.kind, page.number, page.data, page.block)
    core.finish_load()
    progress("snapshot", total, total)
