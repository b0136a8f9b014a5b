"""A check of an LMDB data file that never hands the file to LMDB: a damaged page gives DataDamaged,
not a crash.

LMDB maps its file and follows page numbers and offsets in it; where one of them is wrong it may
read outside the file and the process dies. So the file is walked here with plain reads before it is
opened: both meta pages, every page of the B-trees (key order, offsets, depth, counters), runs of
overflow pages, and the list of free pages, which must be disjoint from the pages in use. What the
pages hold is not checked here: each value has a checksum of its own.

The format is that of LMDB 0.9 with 64-bit words and pages of 4 KiB, as on the machine that wrote
it; ``environment.py`` asks for that format by name. A page begins with its own number (8 bytes), a
pad (2), flags (2) and the bounds of its free space (2 + 2); a node is two halves of a size or page
number, flags, the size of the key, the key, and the data.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ledger.errors import DataDamaged

PAGE_BYTES: Final = 4096
HEADER_BYTES: Final = 16
MAGIC: Final = 0xBEEFC0DE
DATA_VERSION: Final = 1
NO_PAGE: Final = (1 << 64) - 1
DEPTH_MAX: Final = 32

BRANCH: Final = 0x01
LEAF: Final = 0x02
OVERFLOW: Final = 0x04
META: Final = 0x08

VALUE_IN_OVERFLOW: Final = 0x01
VALUE_IS_TREE: Final = 0x02

INTEGER_KEYS: Final = 0x08
"""The flag of the tree of free pages, and of no other."""

_PAGE: Final = struct.Struct("<QHHHH")
_NODE: Final = struct.Struct("<HHHH")
_TREE: Final = struct.Struct("<IHHQQQQQ")
_META: Final = struct.Struct("<IIQQ")
_WORD: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Tree:
    """The record of a B-tree: what the walk must find."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entry_count: int
    root: int


@dataclass(frozen=True, slots=True)
class Meta:
    """A meta page: one of the two last committed transactions."""

    page: int
    map_size: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


@dataclass(slots=True)
class _Walk:
    """What the walk of one tree has found so far."""

    name: str
    tree: Tree
    free_pages: bool
    branch_pages: int = 0
    leaf_pages: int = 0
    overflow_pages: int = 0
    entry_count: int = 0


def check_file(
    file: Path, *, map_size: int, newest_first: str | None = None, leaves_max: int | None = None
) -> None:
    """Raise DataDamaged, with the file's name and the page, unless every structure that LMDB
    follows is sound.

    ``newest_first`` names a tree with 8-byte big-endian keys that only ever grows: the committed
    meta page must show at least the last key that the other one shows, or else a damaged
    transaction number has hidden the last commit. Of a tree with more than ``leaves_max`` leaves
    only the branches are walked, and the leaves are left to LMDB's own checks.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _Check(descriptor, file, map_size, leaves_max).run(newest_first)
    finally:
        os.close(descriptor)


class _Check:
    def __init__(self, descriptor: int, file: Path, map_size: int, leaves_max: int | None) -> None:
        self.descriptor = descriptor
        self.file = file
        self.map_size = map_size
        self.leaves_max = leaves_max
        self.size = os.fstat(descriptor).st_size
        self.last_page = 1
        self.used_starts: list[int] = []
        self.used_counts: list[int] = []
        self.free_pages: list[np.ndarray] = []
        self.free_records: list[tuple[int, int, bytes]] = []
        self.partial = False

    def fail(self, page: int, what: str) -> DataDamaged:
        return DataDamaged(f"{self.file}: page {page}: {what}")

    # ---- reading ----

    def read(self, page: int, count: int = 1) -> bytes:
        data = os.pread(self.descriptor, count * PAGE_BYTES, page * PAGE_BYTES)
        if len(data) != count * PAGE_BYTES:
            raise self.fail(page, "the file ends before it")
        return data

    def read_tree_record(self, data: bytes, offset: int) -> Tree:
        return Tree(*_TREE.unpack_from(data, offset))

    def read_meta(self, page: int) -> Meta:
        data = self.read(page)
        number, _, flags, _, _ = _PAGE.unpack_from(data)
        magic, version, address, map_size = _META.unpack_from(data, HEADER_BYTES)
        if magic != MAGIC:
            raise self.fail(page, "a meta page without LMDB's magic number")
        if version != DATA_VERSION:
            raise self.fail(page, f"LMDB data version {version} where {DATA_VERSION} is written")
        if number != page or flags != META:
            raise self.fail(page, "not marked as the meta page that it is")
        free = self.read_tree_record(data, 40)
        main = self.read_tree_record(data, 88)
        last_page, transaction = struct.unpack_from("<QQ", data, 136)
        # The first field of the free tree's record holds the page size, the second the
        # environment's flags.
        if free.pad != PAGE_BYTES:
            raise self.fail(page, f"a page size of {free.pad} where {PAGE_BYTES} is written")
        if free.flags != INTEGER_KEYS or main.flags or main.pad or address:
            raise self.fail(page, "flags that are never set")
        if map_size != self.map_size:
            raise self.fail(page, f"a map size of {map_size} where {self.map_size} is written")
        if transaction % 2 != page and transaction:
            raise self.fail(page, f"transaction {transaction} does not belong on this page")
        if last_page < 1 or last_page >= map_size // PAGE_BYTES:
            raise self.fail(page, f"a last page of {last_page}")
        return Meta(page, map_size, free, main, last_page, transaction)

    # ---- the whole ----

    def run(self, newest_first: str | None) -> None:
        if self.size < 2 * PAGE_BYTES:
            raise self.fail(0, "the file is shorter than its two meta pages")
        first, second = self.read_meta(0), self.read_meta(1)
        older, newer = sorted((first, second), key=lambda meta: meta.transaction)
        if newer.transaction - older.transaction > 1:
            raise self.fail(
                newer.page,
                f"transactions {older.transaction} and {newer.transaction} do not follow on",
            )
        self.last_page = newer.last_page
        if (newer.last_page + 1) * PAGE_BYTES > self.size:
            raise self.fail(newer.last_page, "the file ends before its last page: it was cut short")
        self.walk_tree("free pages", newer.free, free_pages=True)
        self.walk_tree("main", newer.main, free_pages=False)
        for page, transaction, value in self.free_records:
            self.take_free_record(page, transaction, value, newer.transaction)
        self.check_cover()
        if newest_first is not None and older.transaction:
            self.last_page = max(newer.last_page, older.last_page)
            shown, hidden = (self.last_key(meta, newest_first) for meta in (newer, older))
            if hidden > shown:
                raise self.fail(
                    newer.page,
                    f"'{newest_first}' ends at {shown}, but the older meta page {older.page} shows"
                    f" {hidden}: a transaction number is damaged",
                )

    def check_cover(self) -> None:
        """No page may be used twice, or be both used and free."""
        starts = np.array(self.used_starts, np.uint64)
        counts = np.array(self.used_counts, np.uint64)
        order = np.argsort(starts, kind="stable")
        starts, ends = starts[order], starts[order] + counts[order]
        twice = np.flatnonzero(starts[1:] < ends[:-1])
        if twice.size:
            raise self.fail(int(starts[twice[0] + 1]), "used in two places")
        if not self.free_pages:
            return
        free = np.sort(np.concatenate(self.free_pages))
        if free.size == 0:
            return
        twice = np.flatnonzero(free[1:] == free[:-1])
        if twice.size:
            raise self.fail(int(free[twice[0]]), "in the list of free pages twice")
        if int(free[0]) < 2 or int(free[-1]) > self.last_page:
            raise self.fail(int(free[-1]), "a free page outside the file")
        if starts.size:
            place = np.searchsorted(starts, free, side="right")
            inside = (place > 0) & (free < ends[np.maximum(place, 1) - 1])
            if inside.any():
                raise self.fail(int(free[np.flatnonzero(inside)[0]]), "both used and free")

    def take_free_record(self, page: int, transaction: int, value: bytes, newest: int) -> None:
        if not 1 <= transaction <= newest:
            raise self.fail(page, f"pages freed by transaction {transaction}, which was not")
        if len(value) < 8 or len(value) % 8:
            raise self.fail(page, "a list of free pages of odd size")
        words = np.frombuffer(value, "<u8")
        count = int(words[0])
        if count > words.size - 1:
            raise self.fail(page, "a list of free pages longer than its value")
        pages = words[1 : count + 1]
        if np.any(pages[1:] >= pages[:-1]):
            raise self.fail(page, "a list of free pages out of order")
        self.free_pages.append(pages)

    # ---- trees ----

    def walk_tree(self, name: str, tree: Tree, *, free_pages: bool) -> None:
        walk = _Walk(name, tree, free_pages)
        subtrees: list[tuple[str, Tree]] = []
        if tree.root == NO_PAGE:
            if tree.depth or tree.entry_count or tree.branch_pages or tree.leaf_pages:
                raise self.fail(0, f"tree '{name}' has no root, and yet entries")
        else:
            if not 1 <= tree.depth <= DEPTH_MAX:
                raise self.fail(tree.root, f"tree '{name}' of depth {tree.depth}")
            skip_leaves = (
                self.leaves_max is not None and not free_pages and tree.leaf_pages > self.leaves_max
            )
            # A stack, newest last: page, level, smallest key allowed, first key not allowed.
            stack: list[tuple[int, int, bytes | None, bytes | None]] = [(tree.root, 1, None, None)]
            while stack:
                page, level, low, high = stack.pop()
                self.use(page, 1, name)
                if skip_leaves and level == tree.depth:
                    walk.leaf_pages += 1
                    continue
                data = self.read(page)
                number, _, flags, lower, upper = _PAGE.unpack_from(data)
                expected = LEAF if level == tree.depth else BRANCH
                if number != page or flags != expected:
                    raise self.fail(page, f"not the page of tree '{name}' that belongs here")
                offsets = self.node_offsets(page, data, lower, upper)
                if level == tree.depth:
                    walk.leaf_pages += 1
                    self.walk_leaf(walk, page, data, offsets, low, high, subtrees)
                else:
                    walk.branch_pages += 1
                    children = self.branch_children(walk, page, data, offsets, low, high)
                    stack.extend((child, level + 1, a, b) for child, a, b in reversed(children))
            self.compare(walk, partial=skip_leaves)
        for subtree_name, subtree in subtrees:
            if subtree.flags or subtree.pad:
                raise self.fail(tree.root, f"tree '{subtree_name}' has flags that are never set")
            self.walk_tree(subtree_name, subtree, free_pages=False)

    def compare(self, walk: _Walk, *, partial: bool) -> None:
        tree = walk.tree
        found = {"branch pages": (walk.branch_pages, tree.branch_pages)}
        found["leaf pages"] = (walk.leaf_pages, tree.leaf_pages)
        if not partial:
            found["overflow pages"] = (walk.overflow_pages, tree.overflow_pages)
            found["entries"] = (walk.entry_count, tree.entry_count)
        for what, (counted, recorded) in found.items():
            if counted != recorded:
                raise self.fail(
                    tree.root,
                    f"tree '{walk.name}' has {counted} {what} where its record says {recorded}",
                )

    def use(self, page: int, count: int, name: str) -> None:
        if page < 2 or page + count - 1 > self.last_page:
            raise self.fail(page, f"tree '{name}' leads outside the file")
        if len(self.used_starts) > self.last_page:
            raise self.fail(page, f"tree '{name}' runs in a circle")
        self.used_starts.append(page)
        self.used_counts.append(count)

    def node_offsets(self, page: int, data: bytes, lower: int, upper: int) -> list[int]:
        if lower < HEADER_BYTES or lower > upper or upper > PAGE_BYTES or lower % 2:
            raise self.fail(page, "impossible bounds of the free space")
        count = (lower - HEADER_BYTES) // 2
        if count == 0:
            raise self.fail(page, "a page of a tree without entries")
        offsets = list(struct.unpack_from(f"<{count}H", data, HEADER_BYTES))
        if min(offsets) < upper or max(offsets) > PAGE_BYTES - _NODE.size:
            raise self.fail(page, "an entry outside the page")
        if len(set(offsets)) != count:
            raise self.fail(page, "two entries in one place")
        return offsets

    def branch_children(
        self,
        walk: _Walk,
        page: int,
        data: bytes,
        offsets: list[int],
        low: bytes | None,
        high: bytes | None,
    ) -> list[tuple[int, bytes | None, bytes | None]]:
        children: list[int] = []
        keys: list[bytes | None] = []
        for place, offset in enumerate(offsets):
            low_half, high_half, top, key_size = _NODE.unpack_from(data, offset)
            if offset + _NODE.size + key_size > PAGE_BYTES:
                raise self.fail(page, "a key outside the page")
            children.append(low_half | high_half << 16 | top << 32)
            # The first key of a branch is never compared: it stands for everything below the
            # second.
            keys.append(data[offset + 8 : offset + 8 + key_size] if place else low)
        self.check_keys(walk, page, [key for key in keys[1:] if key is not None], low, high)
        return [
            (child, keys[place], keys[place + 1] if place + 1 < len(keys) else high)
            for place, child in enumerate(children)
        ]

    def walk_leaf(
        self,
        walk: _Walk,
        page: int,
        data: bytes,
        offsets: list[int],
        low: bytes | None,
        high: bytes | None,
        subtrees: list[tuple[str, Tree]],
    ) -> None:
        keys: list[bytes] = []
        occupied = 0
        for offset in offsets:
            low_half, high_half, flags, key_size = _NODE.unpack_from(data, offset)
            size = low_half | high_half << 16
            start = offset + _NODE.size + key_size
            stored = 8 if flags & VALUE_IN_OVERFLOW else size
            if start + stored > PAGE_BYTES:
                raise self.fail(page, "a value outside the page")
            key = data[offset + 8 : start]
            keys.append(key)
            occupied += (_NODE.size + key_size + stored + 1) & ~1
            walk.entry_count += 1
            value: bytes | None = None
            if flags == VALUE_IN_OVERFLOW:
                value = self.take_overflow(walk, page, _WORD.unpack_from(data, start)[0], size)
            elif flags == VALUE_IS_TREE:
                if walk.name != "main" or size != _TREE.size:
                    raise self.fail(page, "a tree where none belongs")
                name = key.decode("ascii", "backslashreplace")
                subtrees.append((name, self.read_tree_record(data, start)))
            elif flags == 0:
                if walk.name == "main":
                    raise self.fail(page, "a value among the names of the trees")
                value = data[start : start + size]
            else:
                raise self.fail(page, f"an entry with flags {flags:#x}")
            if walk.free_pages:
                if len(key) != 8 or value is None:
                    raise self.fail(page, "a list of free pages without a transaction")
                self.free_records.append((page, _WORD.unpack(key)[0], value))
        if occupied > PAGE_BYTES - min(offsets):
            raise self.fail(page, "entries that overlap")
        self.check_keys(walk, page, keys, low, high)

    def take_overflow(self, walk: _Walk, page: int, first: int, size: int) -> bytes | None:
        """Count a run of overflow pages; its bytes when they list free pages, which are read here
        only."""
        count = (HEADER_BYTES - 1 + size) // PAGE_BYTES + 1
        self.use(first, count, walk.name)
        walk.overflow_pages += count
        # The header of a run is followed only when the run is freed or its pages are listed, so the
        # journal's many large values, which are never freed, need no read each.
        if walk.name == "blocks":
            return None
        data = self.read(first, count if walk.free_pages else 1)
        number, _, flags, _, _ = _PAGE.unpack_from(data)
        if number != first or flags != OVERFLOW:
            raise self.fail(first, f"not the overflow page that page {page} leads to")
        if struct.unpack_from("<I", data, 12)[0] != count:
            raise self.fail(first, f"a run of overflow pages that should have {count}")
        return data[HEADER_BYTES : HEADER_BYTES + size] if walk.free_pages else None

    def check_keys(
        self, walk: _Walk, page: int, keys: list[bytes], low: bytes | None, high: bytes | None
    ) -> None:
        bounded = [*([low] if low is not None else []), *keys]
        if walk.free_pages:
            # Transaction numbers in the machine's own byte order.
            bounded = [key[::-1] for key in bounded]
            high = None if high is None else high[::-1]
        first_may_repeat = low is not None
        for place in range(len(bounded) - 1):
            if bounded[place] > bounded[place + 1] or (
                bounded[place] == bounded[place + 1] and not (place == 0 and first_may_repeat)
            ):
                raise self.fail(page, f"keys of tree '{walk.name}' out of order")
        if high is not None and bounded and bounded[-1] >= high:
            raise self.fail(page, f"a key of tree '{walk.name}' that belongs behind this page")

    # ---- the newest key of a growing tree ----

    def last_key(self, meta: Meta, name: str) -> int:
        """The last key of a tree as a meta page shows it; -1 when there is none."""
        tree: Tree | None = meta.main
        path = self.last_leaf(meta.main, name.encode())
        tree = path[1] if path is not None else None
        if tree is None:
            return -1
        leaf = self.last_leaf(tree, None)
        return -1 if leaf is None else int.from_bytes(leaf[0], "big")

    def last_leaf(self, tree: Tree, wanted: bytes | None) -> tuple[bytes, Tree | None] | None:
        """The last entry of a tree, or the one with the key ``wanted`` (in a tree of one leaf)."""
        if tree.root == NO_PAGE:
            return None
        page = tree.root
        for level in range(1, tree.depth + 1):
            if not 2 <= page <= self.last_page:
                raise self.fail(page, "a meta page leads outside the file")
            data = self.read(page)
            number, _, flags, lower, upper = _PAGE.unpack_from(data)
            if number != page or flags != (LEAF if level == tree.depth else BRANCH):
                raise self.fail(page, "not the page that a meta page leads to")
            offsets = self.node_offsets(page, data, lower, upper)
            if level < tree.depth:
                low_half, high_half, top, _ = _NODE.unpack_from(data, offsets[-1])
                page = low_half | high_half << 16 | top << 32
                continue
            for offset in reversed(offsets):
                _, _, flags, key_size = _NODE.unpack_from(data, offset)
                key = data[offset + 8 : offset + 8 + key_size]
                if wanted is None or key == wanted:
                    start = offset + 8 + key_size
                    is_tree = flags == VALUE_IS_TREE and start + _TREE.size <= PAGE_BYTES
                    return key, self.read_tree_record(data, start) if is_tree else None
        return None
