"""RFC 6962 trees with SHA-256: hashes, the shape of paths, and their verification. No I/O.

Paths list hashes from the leaf upwards, as RFC 6962 does in sections 2.1.1 and 2.1.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

HashOf = Callable[[int, int], bytes]
"""The hash of the tree over the leaves from a start to an end."""

EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two below a size of at least 2."""
    return 1 << (size - 1).bit_length() - 1


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    level = list(leaves)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        paired = [node_hash(*pair) for pair in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(level) & ~1 :]
    return level[0]


# ----------------------------------------------------------------------------------------------
# Making paths
# ----------------------------------------------------------------------------------------------


def inclusion_path(index: int, size: int, hash_of: HashOf) -> list[bytes]:
    """Return the path of leaf ``index`` in the tree of ``size`` leaves."""
    if not 0 <= index < size:
        raise ValueError(f"no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + split(end - start)
        if index < middle:
            path.append(hash_of(middle, end))
            end = middle
        else:
            path.append(hash_of(start, middle))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int, hash_of: HashOf) -> list[bytes]:
    """Return the proof that the tree of ``new`` leaves begins with that of ``old``; nothing to
    prove, and an empty path, for an old size of 0 or the same.
    """
    if not 0 <= old <= new:
        raise ValueError(f"no consistency from size {old} to {new}")
    if old in (0, new):
        return []
    path: list[bytes] = []
    start, end, whole = 0, new, True
    """Whether the old tree is still the subtree's own, complete beginning."""
    while end != old:
        middle = start + split(end - start)
        if old <= middle:
            path.append(hash_of(middle, end))
            end = middle
        else:
            path.append(hash_of(start, middle))
            start, whole = middle, False
    if not whole:
        path.append(hash_of(start, end))
    return path[::-1]


# ----------------------------------------------------------------------------------------------
# Verifying them
# ----------------------------------------------------------------------------------------------


def inclusion_holds(
    leaf: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Tell whether a path leads from a leaf's hash at an index to the root of a tree of a size."""
    if not 0 <= index < size or len(leaf) != 32 or any(len(one) != 32 for one in path):
        return False
    node, last = index, size - 1
    """Place of the node that is known, and of the last node of its level."""
    at = leaf
    for sibling in path:
        if last == 0:
            return False
        if node & 1 or node == last:
            at = node_hash(sibling, at)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            at = node_hash(at, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and at == root


def consistency_holds(
    *, old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]
) -> bool:
    """Tell whether a path proves that the tree of ``new`` leaves begins with that of ``old``."""
    if not 0 <= old <= new or any(len(one) != 32 for one in path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old == 0:
        return not path and old_root == EMPTY_ROOT
    node, last = old - 1, new - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    hashes = list(path)
    # A complete old tree is a node of the new one, and its root is not repeated in the path.
    seed = hashes.pop(0) if node and hashes else old_root
    if node and not path:
        return False
    old_at = new_at = seed
    for sibling in hashes:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_at = node_hash(sibling, old_at)
            new_at = node_hash(sibling, new_at)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_at = node_hash(new_at, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and old_at == old_root and new_at == new_root
