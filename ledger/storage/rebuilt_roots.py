"""Which state roots a journal asks for, and making those that the archive lacks.

Kept are the roots of the blocks that end a business day, and every root that a header names; so
the set follows from the journal. A root is archived before a header names it, and before any page
of the snapshot shows a later block: so what the archive lacks after a crash can be made when the
replay comes by.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger._merkle import account_leaves, tree_root
from ledger._state_tree import StateBuilder, StateRoot
from ledger.errors import DataDamaged
from ledger.storage.roots import KeptRoots
from ledger.storage.store import Floor, Reader

CAPTURE_ROWS: Final = 1 << 14
"""Rows captured at a time, where nobody waits."""
_ERASED: Final = layout.flag_mask("STATE_ROW", "erased")
ADVICE: Final = "restore the ledger from its latest backup with 'sanyuan restore'"


@dataclass(slots=True)
class Asked:
    """The state roots that the blocks of a range ask for."""

    named: dict[int, bytes] = field(default_factory=dict)
    """By block, what a header says that its root is."""
    named_in: dict[int, int] = field(default_factory=dict)
    """By block, the block whose header names it."""
    blocks: set[int] = field(default_factory=set)
    """All blocks that must have a kept root: those that end a day, and those that are named."""
    newest_named: int = -1


def asked_by(reader: Reader, first: int, last: int, newest_named: int = -1) -> Asked:
    """Return what the headers of blocks ``first`` to ``last`` ask for; ``newest_named`` is the
    newest block named before.

    Raises DataDamaged for a header that names a block out of order.
    """
    asked = Asked(newest_named=newest_named)
    date = reader.block(first - 1).business_date if first > 0 else 0
    for number in range(first, last + 1):
        view = reader.block(number)
        if view.business_date != date:
            asked.blocks.add(number)
            date = view.business_date
        if view.state is None:
            continue
        block, root = view.state
        if not asked.newest_named < block < number:
            raise DataDamaged(
                f"block {number}: it names the state root of block {block}, which is not after"
                f" block {asked.newest_named} and before it: {ADVICE}"
            )
        asked.named[block], asked.named_in[block] = root, number
        asked.blocks.add(block)
        asked.newest_named = block
    return asked


def misfit(asked: Asked, kept: KeptRoots, floor: Floor | None, newest_page: int) -> str | None:
    """Return why archive and snapshot do not do for what the journal asks, or None.

    ``newest_page`` is the newest block that a page of the snapshot shows.
    """
    if floor is not None and floor.kept_root >= 0 and kept.kept(floor.kept_root) is None:
        return f"it lacks that of block {floor.kept_root}"
    for block in sorted(asked.blocks):
        found = kept.kept(block)
        if found is None and (block < kept.newest_block or block < newest_page):
            return f"it lacks that of block {block}"
        if found is not None and asked.named.get(block, found.root) != found.root:
            return f"that of block {block} is not the one that the journal names"
    return None


def captured_root(core: Any) -> StateRoot:
    """Return the state root of the core's last block, made at once."""
    builder = StateBuilder(core.block_number)
    core.begin_capture()
    while len(rows := core.capture_step(CAPTURE_ROWS)):
        builder.add(rows)
    return builder.finish(core.block_number)


def archive_differences(kept: KeptRoots, state: StateRoot) -> list[str]:
    """Compare the archive of one root with the root itself, made of the accounts: what differs, one
    line each. Of the tiles those are put together that have rows under this root."""
    found, name = kept.kept(state.block), f"the archived state root of block {state.block}"
    if found is None:
        return [f"{name} is missing"]
    differences = [] if found.root == state.root else [f"{name} is not that of the accounts"]
    groups = kept.groups(state.block)
    if [group.fields for group in groups] != [group.fields for group in state.groups]:
        return [*differences, f"{name}: its groups are not those of the accounts"]
    for place, group in enumerate(state.groups):
        what = f"{name}, ledger {group.ledger}, code {group.code}"
        if kept.tile_sums(state.block, place).tobytes() != group.tiles.tobytes():
            differences.append(f"{what}: its tiles are not those of the accounts")
        for tile in kept.written_tiles(state.block, place):
            if tile_digest(kept.tile(state.block, place, tile)) != group.tiles[tile, :32].tobytes():
                differences.append(f"{what}: the accounts of tile {tile} do not have its hash")
    return differences


def tile_digest(rows: np.ndarray) -> bytes:
    """Return the hash of a tile from its STATE_ROW rows."""
    leaves: np.ndarray = account_leaves(np.ascontiguousarray(rows["message"]))
    erased = (rows["flags"] & _ERASED) != 0
    leaves[erased] = rows["message"][erased, :32]
    digest: bytes = tree_root(leaves, "tile")
    return digest


def keep_root(core: Any, kept: KeptRoots) -> StateRoot:
    """Make the state root of the core's last block at once, and archive it; raises DiskFull."""
    block = core.block_number
    writer = kept.writer(
        block=block, timestamp=core.last_timestamp, business_date=core.business_date
    )
    builder = StateBuilder(kept.newest_block)
    core.begin_capture()
    while len(rows := core.capture_step(CAPTURE_ROWS)):
        builder.add(rows)
        writer.add(builder.take_changed())
        if writer.full:
            writer.flush()
    root = builder.finish(block)
    writer.finish(root)
    writer.flush()
    return root


def keep_if_asked(core: Any, kept: KeptRoots, asked: Asked) -> None:
    """After a block was replayed and hashed: make its root if it must have one that is not kept.

    Raises DataDamaged when the root is not the one that a header names.
    """
    block = core.block_number
    if block <= kept.newest_block or block not in asked.blocks:
        return
    core.number_accounts()
    root = keep_root(core, kept).root
    if asked.named.get(block, root) != root:
        raise DataDamaged(
            f"block {asked.named_in[block]}: the state root that it names for block {block} is not"
            f" that of the accounts: {ADVICE}"
        )
