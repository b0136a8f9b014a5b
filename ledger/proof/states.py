"""Paths from accounts to state roots, made from the kept state roots and their archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from ledger import layout
from ledger._merkle import account_leaves, sum_parent, tree_path, tree_root
from ledger.errors import DataDamaged, RequestRefused
from ledger.proof.paths import Recent

TILE: Final = layout.PAGE_SLOTS
"""Ordinals in one tile."""
HASH_BYTES: Final = 32
CHILD_BYTES: Final = 92
"""A child of the sum tree without the zeros: hash and sums."""
LEVELS_CACHE_BYTES: Final = 16 << 20
ERASED: Final = layout.flag_mask("STATE_ROW", "erased")


class Group(Protocol):
    """The accounts of one kind, ledger and code under a state root."""

    @property
    def kind(self) -> int: ...
    @property
    def ledger(self) -> int: ...
    @property
    def code(self) -> int: ...
    @property
    def account_count(self) -> int: ...
    @property
    def fields(self) -> bytes: ...
    @property
    def head(self) -> bytes: ...


class KeptRoots(Protocol):
    """The kept state roots: ``storage.roots.KeptRoots``."""

    def blocks(self) -> Sequence[Any]: ...
    def groups(self, block: int) -> Sequence[Any]: ...
    def tile(self, block: int, group_place: int, tile: int) -> np.ndarray: ...
    def tile_sums(self, block: int, group_place: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class KeptRoot:
    """A state root that can still be proven."""

    block: int
    timestamp: int
    business_date: int
    root: bytes


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account under a state root, with its paths up to the head of its group."""

    block: int
    group: int
    leaf: bytes
    """The 192-byte message of A."""
    tile_path: bytes
    sums: bytes
    sum_path: bytes
    entry_count: int


@dataclass(frozen=True, slots=True)
class TileState:
    """The leaves of a tile under a state root, with the tile's path up to the head of its group."""

    block: int
    group: int
    tile: int
    leaves: list[bytes]
    """The messages of A; of an erased account A itself."""
    sums: bytes
    sum_path: bytes


class States:
    """Reads kept roots. For any thread."""

    def __init__(self, roots: KeptRoots) -> None:
        self._roots = roots
        self._levels: Recent[tuple[int, int]] = Recent(LEVELS_CACHE_BYTES)

    def kept(self) -> list[KeptRoot]:
        """Return all kept roots, oldest first."""
        return [KeptRoot(*root) for root in self._roots.blocks()]

    def groups(self, block: int) -> list[Group]:
        """Return the groups of a kept root, in order."""
        return list(self._roots.groups(block))

    def group_path(self, block: int, place: int) -> bytes:
        """Return the path of a group's head to the groups root."""
        heads = b"".join(group.head for group in self.groups(block))
        path: bytes = tree_path(_rows(heads, HASH_BYTES), place, "groups")
        return path

    def account(self, block: int, *, ledger: int, code: int, ordinal: int) -> AccountState | None:
        """Return an account of money under a kept root, None when it was opened later.

        Raises RequestRefused("account_not_found") when only its leaf is left.
        """
        groups = self.groups(block)
        keys = [(group.kind, group.ledger, group.code) for group in groups]
        if (0, ledger, code) not in keys:
            return None
        place = keys.index((0, ledger, code))
        if ordinal >= groups[place].account_count:
            return None
        tile, index = divmod(ordinal, TILE)
        rows = self._roots.tile(block, place, tile)
        leaves = row_leaves(rows)
        sums, sum_path = self._tile_path(block, place, tile, leaves)
        row = rows[index]
        if int(row["flags"]) & ERASED:
            raise RequestRefused("account_not_found", "the account was erased")
        message = np.frombuffer(row["message"].tobytes(), layout.ACCOUNT_LEAF)[0]
        return AccountState(
            block,
            place,
            row["message"].tobytes(),
            tree_path(leaves, index, "tile"),
            sums,
            sum_path,
            int(message["entry_count"]),
        )

    def tile(self, block: int, place: int, tile: int) -> TileState:
        """Return a tile of a group under a kept root; IndexError when there is none."""
        group = self.groups(block)[place]
        if not 0 <= tile < -(-group.account_count // TILE):
            raise IndexError(f"tile {tile} of a group of {group.account_count} accounts")
        rows = self._roots.tile(block, place, tile)
        sums, sum_path = self._tile_path(block, place, tile, row_leaves(rows))
        leaves = [
            row["message"].tobytes()[: HASH_BYTES if int(row["flags"]) & ERASED else None]
            for row in rows
        ]
        return TileState(block, place, tile, leaves, sums, sum_path)

    def messages(self, block: int) -> Iterator[bytes]:
        """Yield the full state of a kept root, 192 bytes an account, in order of groups and
        ordinals, a tile at a time; raise DataDamaged when a tile is not the one under the root."""
        for place, group in enumerate(self.groups(block)):
            tiles = self._roots.tile_sums(block, place)
            for tile in range(-(-group.account_count // TILE)):
                rows = self._roots.tile(block, place, tile)
                if tree_root(row_leaves(rows), "tile") != tiles[tile, :HASH_BYTES].tobytes():
                    raise DataDamaged(_wrong_tile(block, place, tile))
                yield np.ascontiguousarray(rows["message"]).tobytes()

    def _tile_path(
        self, block: int, place: int, tile: int, leaves: np.ndarray
    ) -> tuple[bytes, bytes]:
        """The sums of a tile, and its path to the top of its group."""
        nodes = self._levels.get((block, place), lambda: self._sum_levels(block, place))
        own = nodes[tile].tobytes()
        if tree_root(leaves, "tile") != own[:HASH_BYTES]:
            raise DataDamaged(_wrong_tile(block, place, tile))
        path, start, count, index = [], 0, self._tile_count(block, place), tile
        while count > 1:
            if index ^ 1 < count:
                path.append(nodes[start + (index ^ 1)].tobytes())
            start, count, index = start + count, (count + 1) // 2, index // 2
        return own[HASH_BYTES:], b"".join(path)

    def _tile_count(self, block: int, place: int) -> int:
        return -(-self.groups(block)[place].account_count // TILE)

    def _sum_levels(self, block: int, place: int) -> np.ndarray:
        """All nodes of a group's sum tree, level after level from the tiles upwards."""
        level = [node.tobytes() for node in self._roots.tile_sums(block, place)]
        if len(level) != self._tile_count(block, place):
            raise DataDamaged(f"the state root of block {block}: group {place} lacks tiles")
        nodes = list(level)
        while len(level) > 1:
            # A last node without a sibling goes up as it is: the shape of RFC 6962.
            odd = level[len(level) & ~1 :]
            level = [
                bytes(sum_parent(left, right))
                for left, right in zip(level[::2], level[1::2], strict=False)
            ] + odd
            nodes += level
        group = self.groups(block)[place]
        if nodes and nodes[-1] != group.fields[16:]:
            raise DataDamaged(f"the state root of block {block}: group {place} has another top")
        return _rows(b"".join(nodes), CHILD_BYTES)


def row_leaves(rows: np.ndarray) -> np.ndarray:
    """Return the leaves A of STATE_ROW rows, an (n, 32) u1 array."""
    messages = np.ascontiguousarray(rows["message"]).view(np.uint8).reshape(len(rows), -1)
    leaves: np.ndarray = account_leaves(messages)
    erased = (rows["flags"] & ERASED) != 0
    if erased.any():
        leaves[erased] = messages[erased, :HASH_BYTES]
    return leaves


def _rows(data: bytes, size: int) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, size)


def _wrong_tile(block: int, place: int, tile: int) -> str:
    return f"the state root of block {block}: tile {tile} of group {place} is not the one under it"
