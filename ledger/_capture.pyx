# cython: language_level=3
"""A consistent copy of all accounts, made in steps while they go on changing.

A capture shows every account as it was after one block. Between later blocks ``step`` copies the
next pages; before an account that is not copied yet changes for the first time, ``save`` keeps it
as it was, and its page's copy takes that. So no block ever waits for a capture. What a change is:
``commit_side`` calls ``save`` before it, and the account's head moves later than that in the same
block, its settings too. Accounts opened since are behind the end and do not matter.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
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

cdef enum:
    POOL_ROWS = 4096            # saved accounts allocated together
    LEAF_KIND = 0               # an account of money
    # Of an erased account's message.
    ERASED_WORD = 32
    ERASED_DEBITS = 80
    ERASED_CREDITS = 96


cdef void fill(
    uint32_t slot, const account_row_t* row, const u128_t* overdraft, const u128_t* ceiling,
    uint32_t settings, const uint8_t* salt, state_row_t* out
) noexcept nogil:
    """Write an account as it goes into a state root."""
    cdef account_leaf_t* leaf = <account_leaf_t*>out.message
    out.last_position = row.last_position
    out.ordinal = row.ordinal
    out.slot = slot
    out.flags = 0
    out.ledger = row.ledger
    out.code = row.code
    out.kind = LEAF_KIND
    out.reserved = 0
    if row.flags & ROW_ERASED:
        # Its leaf stands where its head was; the balances are stated, and proven by nothing.
        out.flags = STATE_ROW_ERASED
        memset(out.message, 0, sizeof(out.message))
        memcpy(out.message, row.head, 32)
        memcpy(&out.message[ERASED_WORD], b"erased", 6)
        memcpy(&out.message[ERASED_DEBITS], &row.debits_posted, 16)
        memcpy(&out.message[ERASED_CREDITS], &row.credits_posted, 16)
        return
    leaf.id = row.id
    leaf.debits_pending = row.debits_pending
    leaf.debits_posted = row.debits_posted
    leaf.credits_pending = row.credits_pending
    leaf.credits_posted = row.credits_posted
    leaf.overdraft = overdraft[0]
    leaf.ceiling = ceiling[0]
    memcpy(leaf.head, row.head, 32)
    leaf.entry_count = row.entry_count
    leaf.ordinal = row.ordinal
    leaf.ledger = row.ledger
    leaf.code = row.code
    leaf.flags = row.flags & ROW_FLAGS
    leaf.state = <uint16_t>settings
    leaf.kind = LEAF_KIND
    memset(leaf.reserved, 0, sizeof(leaf.reserved))
    memcpy(leaf.state_salt, salt, SALT_BYTES)


cdef class Capture:
    """The capture under way, if there is one; of one table of accounts, on its thread."""

    def __cinit__(self, Accounts accounts):
        self.accounts = accounts
        self.block = -1

    def __dealloc__(self):
        self.finish()

    def begin(self, int64_t block):
        """Begin a capture of the accounts as they are, after ``block``; raise RuntimeError when one
        is under way."""
        cdef uint32_t count = self.accounts.count
        if self.under_way:
            raise RuntimeError("a capture is under way")
        self.pages = <saved_t**>calloc(count // LIMIT_PAGE_SLOTS + 1, sizeof(saved_t*))
        self.saved_bits = <uint8_t*>calloc(count // 8 + 1, 1)
        if self.pages == NULL or self.saved_bits == NULL:
            self.finish()
            raise MemoryError
        self.block = block
        self.next = 0
        self.end = count
        self.under_way = True

    def finish(self):
        """End the capture and forget what was saved."""
        cdef saved_t* pool
        while self.pools != NULL:
            pool = self.pools
            self.pools = pool.next
            free(pool)
        free(self.pages)
        free(self.saved_bits)
        self.pages = NULL
        self.saved_bits = NULL
        self.free_saved = NULL
        self.saved_count = 0
        self.next = 0
        self.end = 0
        self.under_way = False

    @property
    def saved_bytes(self):
        """Memory that saved accounts take."""
        return self.saved_count * sizeof(saved_t)

    # ---- before an account changes ----

    cdef void save(self, uint32_t slot) noexcept nogil:
        """Keep an account below ``end``, which is about to change, unless it is copied or kept."""
        cdef account_row_t* row
        cdef extra_t* extra
        cdef saved_t* saved
        if slot < self.next:
            return
        row = row_at(self.accounts, slot)
        if <int64_t>(row.last_position >> LIMIT_INDEX_BITS) > self.block:
            return                      # it changed since the capture began, so it is kept
        if self.saved_bits[slot >> 3] >> (slot & 7) & 1:
            return                      # it changed and was rolled back
        self.saved_bits[slot >> 3] |= <uint8_t>(1 << (slot & 7))
        saved = self.take_free()
        saved.row = row[0]
        memset(&saved.overdraft, 0, sizeof(u128_t))
        memset(&saved.ceiling, 0, sizeof(u128_t))
        saved.settings = 0
        extra = self.accounts.extra_of(slot)
        if extra != NULL:
            saved.overdraft = extra.overdraft
            saved.ceiling = extra.ceiling
            saved.settings = extra.settings
        saved.slot = slot
        saved.next = self.pages[slot // LIMIT_PAGE_SLOTS]
        self.pages[slot // LIMIT_PAGE_SLOTS] = saved
        self.saved_count += 1

    cdef saved_t* take_free(self) noexcept nogil:
        """A place for a saved account."""
        cdef saved_t* pool
        cdef saved_t* taken
        cdef int place
        if self.free_saved == NULL:
            pool = <saved_t*>malloc((POOL_ROWS + 1) * sizeof(saved_t))
            CHECK(pool != NULL, "out of memory for a capture")
            pool.next = self.pools
            self.pools = pool
            for place in range(1, POOL_ROWS):
                pool[place].next = &pool[place + 1]
            pool[POOL_ROWS].next = NULL
            self.free_saved = &pool[1]
        taken = self.free_saved
        self.free_saved = taken.next
        return taken

    # ---- copying ----

    def step(self, uint32_t limit_rows):
        """Copy the next accounts; see ``Committer.capture_step``."""
        cdef uint32_t size, page, done = 0, part
        cdef cnp.ndarray rows
        cdef state_row_t* out
        if not self.under_way:
            raise RuntimeError("no capture is under way")
        size = max(limit_rows // LIMIT_PAGE_SLOTS, <uint32_t>1) * <uint32_t>LIMIT_PAGE_SLOTS
        size = min(size, self.end - self.next)
        rows = np.empty(size, layout.STATE_ROW)
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
        """Write the accounts of a page, saved ones as they were, and give back their places."""
        cdef saved_t* saved_of[LIMIT_PAGE_SLOTS]
        cdef saved_t* saved = self.pages[page]
        cdef saved_t* following
        cdef uint32_t first = page * LIMIT_PAGE_SLOTS, offset, slot
        cdef account_row_t* row
        cdef extra_t* extra
        cdef extra_t none
        memset(&none, 0, sizeof(none))
        memset(saved_of, 0, sizeof(saved_of))
        while saved != NULL:
            saved_of[saved.slot - first] = saved
            saved = saved.next
        for offset in range(size):
            slot = first + offset
            saved = saved_of[offset]
            if saved != NULL:
                fill(slot, &saved.row, &saved.overdraft, &saved.ceiling, saved.settings,
                     salt_at(self.accounts, slot), &rows[offset])
                continue
            row = row_at(self.accounts, slot)
            extra = &self.accounts.extras[row.extra] if row.extra else &none
            fill(slot, row, &extra.overdraft, &extra.ceiling, extra.settings,
                 salt_at(self.accounts, slot), &rows[offset])
        saved = self.pages[page]
        while saved != NULL:
            following = saved.next
            saved.next = self.free_saved
            self.free_saved = saved
            self.saved_count -= 1
            saved = following
        self.pages[page] = NULL
