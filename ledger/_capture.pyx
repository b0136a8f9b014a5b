# cython: language_level=3
"""A consistent copy of all accounts, made in steps while they go on changing.

A capture shows every account as it was after one block. Between later blocks ``step`` copies the
next pages; before an account that is not copied yet changes for the first time, ``save`` keeps it
as it was, and its page's copy takes that. So no block ever waits for a capture. What a change is:
``commit_side`` calls ``save`` before it, and the account's head moves later than that in the same
block, its settings too. Accounts opened since are behind the end and do not matter.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ledger._accounts cimport (
    ROW_ERASED, ROW_FLAGS, SALT_BYTES, Accounts, account_row_t, extra_t, row_at, salt_at,
)
from ledger._check cimport CHECK
from ledger._layout cimport (
    LIMIT_INDEX_BITS, LIMIT_PAGE_SLOTS, STATE_ROW_ERASED, account_leaf_t, state_row_t, u128_t,
)

import numpy as np

from ledger import layout

cnp.import_array()

cdef extern from *:
    """
    #define SANYUAN_PREFETCH_READ(address) __builtin_prefetch((address), 0, 3)
    """
    void prefetch "SANYUAN_PREFETCH_READ"(const void* address) noexcept nogil

cdef enum:
    POOLS_KEPT = 16             # of about 1 MiB, from one capture to the next
    LEAF_KIND = 0               # an account of money
    # Of an erased account's message.
    ERASED_WORD = 32
    ERASED_DEBITS = 80
    ERASED_CREDITS = 96


cdef void fill(
    uint32_t slot, const account_row_t* row, const saved_t* now, const u128_t* overdraft,
    const u128_t* ceiling, const uint8_t* salt, state_row_t* out
) noexcept nogil:
    """Write an account as it goes into a state root: ``row`` tells what never changes, ``now`` the
    rest."""
    cdef account_leaf_t* leaf = <account_leaf_t*>out.message
    out.last_position = now.last_position
    out.ordinal = row.ordinal
    out.slot = slot
    out.flags = 0
    out.ledger = row.ledger
    out.code = row.code
    out.kind = LEAF_KIND
    out.reserved = 0
    if now.flags & ROW_ERASED:
        # Its leaf stands where its head was; the balances are stated, and proven by nothing.
        out.flags = STATE_ROW_ERASED
        memset(out.message, 0, sizeof(out.message))
        memcpy(out.message, now.head, 32)
        memcpy(&out.message[ERASED_WORD], b"erased", 6)
        memcpy(&out.message[ERASED_DEBITS], &now.balances[1], 16)
        memcpy(&out.message[ERASED_CREDITS], &now.balances[3], 16)
        return
    leaf.id = row.id
    memcpy(&leaf.debits_pending, now.balances, sizeof(now.balances))
    leaf.overdraft = overdraft[0]
    leaf.ceiling = ceiling[0]
    memcpy(leaf.head, now.head, 32)
    leaf.entry_count = now.entry_count
    leaf.ordinal = row.ordinal
    leaf.ledger = row.ledger
    leaf.code = row.code
    leaf.flags = now.flags & ROW_FLAGS
    leaf.state = now.settings
    leaf.kind = LEAF_KIND
    memset(leaf.reserved, 0, sizeof(leaf.reserved))
    memcpy(leaf.state_salt, salt, SALT_BYTES)


cdef inline void keep(
    uint32_t slot, const account_row_t* row, const extra_t* extra, saved_t* out
) noexcept nogil:
    """Write what changes of an account, as it is now; ``extra`` may be NULL."""
    memcpy(out.balances, &row.debits_pending, sizeof(out.balances))
    memcpy(out.head, row.head, 32)
    out.entry_count = row.entry_count
    out.last_position = row.last_position
    out.limits = NULL
    out.flags = row.flags
    out.settings = extra.settings if extra != NULL else 0
    out.slot = slot


cdef class Capture:
    """The capture under way, if there is one; of one table of accounts, on its thread."""

    def __cinit__(self, Accounts accounts):
        self.accounts = accounts
        self.block = -1

    def __dealloc__(self):
        self.drop_pools(0)
        free(self.pages)
        free(self.saved_bits)

    def begin(self, int64_t block):
        """Begin a capture of the accounts as they are, after ``block``; raise RuntimeError when one
        is under way."""
        cdef uint32_t count = self.accounts.count
        if self.under_way:
            raise RuntimeError("a capture is under way")
        self.pages = <page_saved_t*>calloc(count // LIMIT_PAGE_SLOTS + 1, sizeof(page_saved_t))
        self.saved_bits = <uint8_t*>calloc(count // 8 + 1, 1)
        if self.pages == NULL or self.saved_bits == NULL:
            self.finish()
            raise MemoryError
        self.block = block
        self.next = 0
        self.end = count
        self.under_way = True

    def finish(self):
        """End the capture and forget what was saved; a little memory is kept for the next one."""
        self.drop_pools(POOLS_KEPT)
        free(self.pages)
        free(self.saved_bits)
        self.pages = NULL
        self.saved_bits = NULL
        self.next = 0
        self.end = 0
        self.under_way = False

    cdef void drop_pools(self, int kept) noexcept:
        """Count everything saved as forgotten, and free all pools but some."""
        cdef pool_t** link = &self.pools
        cdef pool_t* pool
        cdef limits_t* limits
        while link[0] != NULL and kept > 0:
            link = &link[0].next
            kept -= 1
        while link[0] != NULL:
            pool = link[0]
            link[0] = pool.next
            free(pool)
        while self.limits != NULL:
            limits = self.limits
            self.limits = limits.next
            free(limits)
        self.pool = self.pools
        self.pool_taken = 0
        self.free_groups = NULL
        self.group_count = 0
        self.limits_count = 0

    @property
    def saved_bytes(self):
        """Memory that saved accounts take."""
        return self.group_count * sizeof(saved_group_t) + self.limits_count * sizeof(limits_t)

    # ---- before an account changes ----

    cdef void save(self, uint32_t slot) noexcept nogil:
        """Keep an account below ``end``, which is about to change, unless it is copied or kept."""
        cdef account_row_t* row
        cdef extra_t* extra
        cdef page_saved_t* page
        cdef saved_group_t* taken
        cdef limits_t* limits
        cdef saved_t* saved
        if slot < self.next:
            return
        row = row_at(self.accounts, slot)
        if <int64_t>(row.last_position >> LIMIT_INDEX_BITS) > self.block:
            return                      # it changed since the capture began, so it is kept
        if self.saved_bits[slot >> 3] >> (slot & 7) & 1:
            return                      # it changed and was rolled back
        self.saved_bits[slot >> 3] |= <uint8_t>(1 << (slot & 7))
        page = &self.pages[slot // LIMIT_PAGE_SLOTS]
        if page.newest == NULL or page.count == GROUP_ROWS:
            taken = self.take_group()
            taken.next = page.newest
            page.newest = taken
            page.count = 0
        saved = &page.newest.rows[page.count]
        page.count += 1
        extra = self.accounts.extra_of(slot)
        keep(slot, row, extra, saved)
        if extra != NULL and extra.settings:
            limits = <limits_t*>malloc(sizeof(limits_t))
            CHECK(limits != NULL, "out of memory for a capture")
            limits.overdraft = extra.overdraft
            limits.ceiling = extra.ceiling
            limits.next = self.limits
            self.limits = limits
            self.limits_count += 1
            saved.limits = limits

    cdef saved_group_t* take_group(self) noexcept nogil:
        """A group for saved accounts, its contents undefined."""
        cdef saved_group_t* taken = self.free_groups
        cdef pool_t* pool
        self.group_count += 1
        if taken != NULL:
            self.free_groups = taken.next
            return taken
        if self.pool == NULL or self.pool_taken == POOL_GROUPS:
            if self.pool != NULL and self.pool.next != NULL:
                self.pool = self.pool.next
            else:
                pool = <pool_t*>malloc(sizeof(pool_t))
                CHECK(pool != NULL, "out of memory for a capture")
                pool.next = NULL
                if self.pool == NULL:
                    self.pools = pool
                else:
                    self.pool.next = pool
                self.pool = pool
            self.pool_taken = 0
        taken = &self.pool.groups[self.pool_taken]
        self.pool_taken += 1
        return taken

    # ---- copying ----

    def step(self, uint32_t limit_rows, room):
        """Copy the next accounts; see ``Committer.capture_step``."""
        cdef uint32_t size, page, done = 0, part
        cdef cnp.ndarray rows
        cdef state_row_t* out
        if not self.under_way:
            raise RuntimeError("no capture is under way")
        size = max(limit_rows // LIMIT_PAGE_SLOTS, <uint32_t>1) * <uint32_t>LIMIT_PAGE_SLOTS
        size = min(size, self.end - self.next)
        if room is None:
            rows = np.empty(size, layout.STATE_ROW)
        else:
            if room.dtype != layout.STATE_ROW or not room.flags.c_contiguous or len(room) < size:
                raise TypeError(f"room for {size} STATE_ROW rows is needed")
            rows = room[:size]
        if size == 0:
            self.finish()
            return rows
        out = <state_row_t*>cnp.PyArray_DATA(rows)
        page = self.next // LIMIT_PAGE_SLOTS
        with nogil:
            while done < size:
                part = min(<uint32_t>LIMIT_PAGE_SLOTS, size - done)
                self.copy_page(page, part, out + done)
                done += part
                page += 1
        self.next += size
        return rows

    cdef void copy_page(self, uint32_t page, uint32_t size, state_row_t* rows) noexcept nogil:
        """Write the accounts of a page, saved ones as they were, and give back their groups."""
        cdef const saved_t* saved_of[LIMIT_PAGE_SLOTS]
        cdef saved_group_t* group = self.pages[page].newest
        cdef saved_group_t* following
        cdef uint32_t first = page * LIMIT_PAGE_SLOTS, offset, slot
        cdef uint64_t place, count = self.pages[page].count
        cdef account_row_t* row
        cdef extra_t* extra
        cdef extra_t none
        cdef saved_t now
        memset(&none, 0, sizeof(none))
        memset(saved_of, 0, sizeof(saved_of))
        self.pages[page].newest = NULL
        while group != NULL:
            for place in range(count):
                prefetch(&group.rows[place])
                prefetch(<const uint8_t*>&group.rows[place] + 64)
                saved_of[group.rows[place].slot - first] = &group.rows[place]
            following = group.next
            # Given back already: nothing is saved before this page is written.
            group.next = self.free_groups
            self.free_groups = group
            self.group_count -= 1
            group = following
            count = GROUP_ROWS
        for offset in range(size):
            slot = first + offset
            row = row_at(self.accounts, slot)
            if saved_of[offset] == NULL:
                extra = &self.accounts.extras[row.extra] if row.extra else &none
                keep(slot, row, extra, &now)
                fill(slot, row, &now, &extra.overdraft, &extra.ceiling,
                     salt_at(self.accounts, slot), &rows[offset])
            elif saved_of[offset].limits == NULL:
                fill(slot, row, saved_of[offset], &none.overdraft, &none.ceiling,
                     salt_at(self.accounts, slot), &rows[offset])
            else:
                fill(slot, row, saved_of[offset], &saved_of[offset].limits.overdraft,
                     &saved_of[offset].limits.ceiling, salt_at(self.accounts, slot),
                     &rows[offset])
