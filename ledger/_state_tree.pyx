# cython: language_level=3
"""State roots: tiles of 256 accounts, a sum tree over the tiles of a group, the groups' heads.

The forms are in docs/proofs.md, "State root of a block". Rows come in order of slots, so the
ordinals of each group rise, and a group needs memory for one open tile only, and for 96 bytes of
each finished one. What became of the accounts that changed since an earlier root is handed out
tile by tile.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ledger._accounts cimport sum_add, sum_t
from ledger._index cimport index_free, index_insert, index_t
from ledger._layout cimport (
    LIMIT_INDEX_BITS, STATE_ROW_ERASED, account_leaf_t, state_row_t, u128_t,
)
from ledger._merkle cimport (
    CHILD_BYTES, GROUP_FIELDS_BYTES, KEY_GROUPS, KEY_TILE, SUM_BYTES, merkle_account_leaves,
    merkle_group_head, merkle_root, merkle_state_root, merkle_sum_level,
)
from ledger._u128 cimport load, multiply_fold, store, u128

from dataclasses import dataclass

import numpy as np

from ledger import layout

cnp.import_array()

cdef enum:
    TILE = 256                  # ordinals in a tile
    BATCH = 64                  # leaves hashed together
    NODE_BYTES = 92             # a child without its zeros
    OUT_OF_MEMORY = 1
    OUT_OF_ORDER = 2
    # Of an erased account's message: what it says of its balances.
    ERASED_DEBITS = 80
    ERASED_CREDITS = 96

cdef uint32_t NONE = 0xFFFFFFFF

TILE_ACCOUNTS = TILE
"""Accounts in a tile."""

ctypedef struct changed_t:
    # The rows of one tile that changed, until they are handed out.
    state_row_t* rows
    uint32_t count
    uint32_t capacity
    uint64_t tile
    uint32_t ledger
    uint16_t code
    uint8_t kind
    changed_t* next

ctypedef struct group_tree_t:
    uint32_t ledger
    uint16_t code
    uint8_t kind
    uint64_t count              # accounts so far; the next ordinal
    uint32_t open_count         # leaves of the open tile
    uint32_t open_capacity
    uint8_t* leaves             # of the open tile
    sum_t sums[3]               # of the open tile
    uint8_t* tiles              # finished: hash, sums, zeros
    uint64_t tile_count
    uint64_t tile_capacity
    changed_t* changed          # of the open tile; NULL while none changed
    uint8_t fields[GROUP_FIELDS_BYTES]
    uint8_t head[32]


@dataclass(frozen=True, slots=True)
class ChangedTile:
    """The accounts of one tile that changed after a block: STATE_ROW rows in order of ordinals."""

    kind: int
    ledger: int
    code: int
    tile: int
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class GroupRoot:
    """One group of a state root.

    ``fields``: the first 108 bytes of its head's message: kind, zero, code, ledger, account count,
    hash and sums of the top. ``tiles``: an ``(n, 92)`` array of bytes, each tile's hash 32 and its
    three sums of 20.
    """

    kind: int
    ledger: int
    code: int
    account_count: int
    fields: bytes
    head: bytes
    tiles: np.ndarray


@dataclass(frozen=True, slots=True)
class StateRoot:
    """The state root of a block, with what its proofs are made of.

    ``groups`` is in order of (kind, ledger, code); ``changed``, in order of (kind, ledger, code,
    tile), is what ``take_changed`` has not handed out before.
    """

    block: int
    root: bytes
    groups: list[GroupRoot]
    changed: list[ChangedTile]


cdef class StateBuilder:
    """Makes the state root of a block from a capture's rows; used by one thread at a time.

    Rows whose last entry is in a block after ``previous_block`` count as changed; -1: all.
    """

    cdef group_tree_t* groups
    cdef uint32_t group_count
    cdef uint32_t group_capacity
    cdef index_t index
    cdef uint32_t last_group    # of the row before; most rows are of the same one
    cdef changed_t* changed     # of finished tiles
    cdef int64_t previous_block
    cdef readonly uint64_t account_count
    cdef bint finished

    def __cinit__(self, int64_t previous_block=-1):
        self.previous_block = previous_block
        self.last_group = NONE

    def __dealloc__(self):
        cdef uint32_t number
        cdef changed_t* changed
        for number in range(self.group_count):
            free(self.groups[number].leaves)
            free(self.groups[number].tiles)
            drop_changed(self.groups[number].changed)
        free(self.groups)
        index_free(&self.index)
        while self.changed != NULL:
            changed = self.changed
            self.changed = changed.next
            drop_changed(changed)

    def add(self, rows):
        """Add the next rows of a capture (a contiguous STATE_ROW array); the GIL is released.

        Raises ValueError when a group's ordinals do not count up from 0; the builder is of no use
        then.
        """
        cdef cnp.ndarray given = rows
        if given.dtype != layout.STATE_ROW or given.ndim != 1 or not given.flags.c_contiguous:
            raise TypeError("add takes a contiguous one-dimensional STATE_ROW array")
        cdef const state_row_t* row = <const state_row_t*>cnp.PyArray_DATA(given)
        cdef size_t count = given.shape[0], first = 0, size, index
        cdef uint8_t leaves[BATCH * 32]
        cdef int problem = 0
        if self.finished:
            raise RuntimeError("the state root is made already")
        with nogil:
            while first < count and not problem:
                size = count - first
                if size > BATCH:
                    size = BATCH
                merkle_account_leaves(
                    <const uint8_t*>(row + first), sizeof(state_row_t), size, leaves)
                for index in range(size):
                    problem = self.add_one(row + first + index, leaves + 32 * index)
                    if problem:
                        break
                first += size
        if problem == OUT_OF_MEMORY:
            raise MemoryError
        if problem == OUT_OF_ORDER:
            raise ValueError("the ordinals of a group do not count up from 0 without gaps")
        self.account_count += count

    def take_changed(self):
        """Hand out the changed rows of the tiles that are finished by now: a list of ChangedTile,
        by group and tile. Their memory is the caller's."""
        cdef changed_t* changed
        taken = []
        while self.changed != NULL:
            changed = self.changed
            rows = np.empty(changed.count, layout.STATE_ROW)
            memcpy(cnp.PyArray_DATA(rows), changed.rows, changed.count * sizeof(state_row_t))
            taken.append(
                ChangedTile(changed.kind, changed.ledger, changed.code, changed.tile, rows))
            self.changed = changed.next
            drop_changed(changed)
        taken.sort(key=_place)
        return taken

    def finish(self, uint64_t block):
        """Return the StateRoot of ``block``; nothing can be added afterwards."""
        cdef uint32_t number
        cdef uint8_t root[32]
        cdef uint8_t groups_root[32]
        cdef bint enough = True
        cdef const uint8_t[::1] heads
        cdef uint8_t[::1] scratch
        if self.finished:
            raise RuntimeError("the state root is made already")
        self.finished = True
        with nogil:
            for number in range(self.group_count):
                enough = enough and self.finish_group(&self.groups[number])
        if not enough:
            raise MemoryError
        groups = sorted([self.group_root(number) for number in range(self.group_count)],
                        key=_place_of_group)
        # A byte more, so that there is an address where there are no groups.
        heads = b"".join([group.head for group in groups]) + b"\0"
        scratch = np.empty(len(heads), np.uint8)
        merkle_root(KEY_GROUPS, &heads[0], self.group_count, &scratch[0], groups_root)
        merkle_state_root(block, self.group_count, groups_root, root)
        return StateRoot(
            block=block, root=(<char*>root)[:32], groups=groups, changed=self.take_changed())

    # ---- groups ----

    cdef uint32_t find_group(self, uint8_t kind, uint32_t ledger, uint16_t code) noexcept nogil:
        """The group's number, made when it is new; NONE when memory is out."""
        cdef uint64_t name = <uint64_t>ledger << 32 | <uint64_t>code << 8 | kind
        cdef uint32_t tag = <uint32_t>multiply_fold(
            name ^ 0x9E3779B97F4A7C15ULL, 0xD1B54A32D192ED03ULL)
        cdef uint32_t place
        cdef group_tree_t* group
        if self.index.entries != NULL:
            place = tag & self.index.mask
            while self.index.entries[place].value:
                if self.index.entries[place].tag == tag:
                    group = &self.groups[self.index.entries[place].value - 1]
                    if group.ledger == ledger and group.code == code and group.kind == kind:
                        return self.index.entries[place].value - 1
                place = (place + 1) & self.index.mask
        if self.group_count == self.group_capacity:
            group = <group_tree_t*>realloc(
                self.groups, (self.group_capacity * 2 + 8) * sizeof(group_tree_t))
            if group == NULL:
                return NONE
            self.groups = group
            self.group_capacity = self.group_capacity * 2 + 8
        if not index_insert(&self.index, tag, self.group_count):
            return NONE
        group = &self.groups[self.group_count]
        memset(group, 0, sizeof(group_tree_t))
        group.kind = kind
        group.ledger = ledger
        group.code = code
        self.group_count += 1
        return self.group_count - 1

    cdef int add_one(self, const state_row_t* row, const uint8_t* leaf) noexcept nogil:
        """Add a row whose leaf is known; what is wrong, or 0."""
        cdef const account_leaf_t* message = <const account_leaf_t*>row.message
        cdef bint erased = row.flags & STATE_ROW_ERASED
        cdef group_tree_t* group
        cdef u128 debits, credits
        cdef u128_t more
        if self.last_group != NONE:
            group = &self.groups[self.last_group]
        if self.last_group == NONE or (
            group.ledger != row.ledger or group.code != row.code or group.kind != row.kind
        ):
            self.last_group = self.find_group(row.kind, row.ledger, row.code)
            if self.last_group == NONE:
                return OUT_OF_MEMORY
            group = &self.groups[self.last_group]
        if row.ordinal != group.count:
            return OUT_OF_ORDER
        if not erased and (
            message.ordinal != row.ordinal or message.ledger != row.ledger
            or message.code != row.code or message.kind != row.kind
        ):
            return OUT_OF_ORDER
        if group.open_count == group.open_capacity and not grow_leaves(group):
            return OUT_OF_MEMORY
        if erased:
            leaf = &row.message[0]
            debits = load((<const u128_t*>(row.message + ERASED_DEBITS))[0])
            credits = load((<const u128_t*>(row.message + ERASED_CREDITS))[0])
        else:
            debits = load(message.debits_posted)
            credits = load(message.credits_posted)
        memcpy(group.leaves + 32 * group.open_count, leaf, 32)
        more = store(debits)
        sum_add(&group.sums[0], more.lo, more.hi)
        more = store(credits)
        sum_add(&group.sums[1], more.lo, more.hi)
        if credits > debits:
            more = store(credits - debits)
            sum_add(&group.sums[2], more.lo, more.hi)
        if <int64_t>(row.last_position >> LIMIT_INDEX_BITS) > self.previous_block:
            if not keep_changed(group, row):
                return OUT_OF_MEMORY
        group.count += 1
        group.open_count += 1
        if group.open_count == TILE and not self.close_tile(group):
            return OUT_OF_MEMORY
        return 0

    cdef bint close_tile(self, group_tree_t* group) noexcept nogil:
        """Finish the open tile of a group; False when memory is out."""
        cdef uint64_t capacity
        cdef uint8_t* child
        cdef int which
        if group.tile_count == group.tile_capacity:
            capacity = group.tile_capacity * 2 + 1
            child = <uint8_t*>realloc(group.tiles, capacity * CHILD_BYTES)
            if child == NULL:
                return False
            group.tiles = child
            group.tile_capacity = capacity
        child = group.tiles + CHILD_BYTES * group.tile_count
        merkle_root(KEY_TILE, group.leaves, group.open_count, group.leaves, child)
        for which in range(3):
            memcpy(child + 32 + SUM_BYTES * which, &group.sums[which], SUM_BYTES)
        memset(child + NODE_BYTES, 0, CHILD_BYTES - NODE_BYTES)
        group.tile_count += 1
        group.open_count = 0
        memset(group.sums, 0, sizeof(group.sums))
        if group.changed != NULL:
            group.changed.next = self.changed
            self.changed = group.changed
            group.changed = NULL
        return True

    cdef bint finish_group(self, group_tree_t* group) noexcept nogil:
        """Make the fields and the head of a group; False when memory is out."""
        cdef size_t count
        cdef uint8_t* level
        if group.open_count and not self.close_tile(group):
            return False
        count = group.tile_count
        level = <uint8_t*>malloc(count * CHILD_BYTES)
        if level == NULL:
            return False
        memcpy(level, group.tiles, count * CHILD_BYTES)
        while count > 1:
            count = merkle_sum_level(level, count)
        memset(group.fields, 0, GROUP_FIELDS_BYTES)
        group.fields[0] = group.kind
        memcpy(&group.fields[2], &group.code, 2)
        memcpy(&group.fields[4], &group.ledger, 4)
        memcpy(&group.fields[8], &group.count, 8)
        memcpy(&group.fields[16], level, NODE_BYTES)
        merkle_group_head(group.fields, group.head)
        free(level)
        return True

    cdef object group_root(self, uint32_t number):
        """The GroupRoot of a finished group."""
        cdef group_tree_t* group = &self.groups[number]
        cdef size_t count = group.tile_count
        tiles = np.empty((count, NODE_BYTES), np.uint8)
        tiles[:] = np.asarray(<uint8_t[:count, :CHILD_BYTES]>group.tiles)[:, :NODE_BYTES]
        return GroupRoot(
            kind=group.kind, ledger=group.ledger, code=group.code, account_count=group.count,
            fields=(<char*>group.fields)[:GROUP_FIELDS_BYTES], head=(<char*>group.head)[:32],
            tiles=tiles)


# ----------------------------------------------------------------------------------------------
# One group's open tile
# ----------------------------------------------------------------------------------------------

cdef bint grow_leaves(group_tree_t* group) noexcept nogil:
    """Room for more leaves of the open tile: most groups of a ledger with many are small."""
    cdef uint32_t capacity = min(<uint32_t>TILE, group.open_capacity * 4 + 4)
    cdef uint8_t* grown = <uint8_t*>realloc(group.leaves, 32 * capacity)
    if grown == NULL:
        return False
    group.leaves = grown
    group.open_capacity = capacity
    return True


cdef bint keep_changed(group_tree_t* group, const state_row_t* row) noexcept nogil:
    """Keep a changed row of the open tile; False when memory is out."""
    cdef changed_t* changed = group.changed
    cdef state_row_t* grown
    cdef uint32_t capacity
    if changed == NULL:
        changed = <changed_t*>calloc(1, sizeof(changed_t))
        if changed == NULL:
            return False
        changed.tile = group.tile_count
        changed.kind = group.kind
        changed.ledger = group.ledger
        changed.code = group.code
        group.changed = changed
    if changed.count == changed.capacity:
        capacity = min(<uint32_t>TILE, changed.capacity * 4 + 4)
        grown = <state_row_t*>realloc(changed.rows, capacity * sizeof(state_row_t))
        if grown == NULL:
            return False
        changed.rows = grown
        changed.capacity = capacity
    changed.rows[changed.count] = row[0]
    changed.count += 1
    return True


cdef void drop_changed(changed_t* changed) noexcept nogil:
    if changed != NULL:
        free(changed.rows)
        free(changed)


def _place(changed):
    return (changed.kind, changed.ledger, changed.code, changed.tile)


def _place_of_group(group):
    return (group.kind, group.ledger, group.code)
