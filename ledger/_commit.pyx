# cython: language_level=3
"""Commit: what was decided becomes the state, and can be taken back within a linked chain or a dry
run.

``commit`` cannot fail: every check was made before. Recovery, followers and restore run nothing
else.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cimport numpy as cnp

from ledger._accounts cimport (
    ROW_ERASED, ROW_HAS_METADATA, SALT_BYTES, account_row_t, extra_t, group_t, mark_dirty, row_at,
    salt_at, sum_add, sum_subtract,
)
from ledger._block cimport Block, BlockIds, has_id, namespace_of
from ledger._capture cimport Capture
from ledger._check cimport CHECK
from ledger._holds cimport HOLD_EXPIRED, HOLD_OPEN, HOLD_POSTED, HOLD_VOIDED, hold_t
from ledger._index cimport hash_id, index_entry_t, index_free, index_insert
from ledger._layout cimport *
from ledger._merkle cimport (
    KEY_NODE, merkle_bare_leaves, merkle_chain_ordered, merkle_leaves, merkle_root, merkle_salts,
)
from ledger._u128 cimport equal, is_zero, load, store, u128

import numpy as np

from ledger import _merkle, layout
from ledger.errors import DataDamaged

cnp.import_array()

cdef enum:
    UNDO_ROW = 1
    UNDO_ACCOUNT = 2
    UNDO_EXTRA = 3
    UNDO_HOLD_ADDED = 4
    UNDO_HOLD_STATE = 5

    DEBIT_COMMITTED = 1         # bits of entry_t.reserved, for the chains; never stored
    CREDIT_COMMITTED = 2
    RESOLVING = TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER
    CHAIN_BATCH = 1024          # links of account chains made together
    SALTS_ROOM = 16 * 64        # for the salts of one entry, in whole vectors


cdef class Committer(Books):
    """The books, and the only code that changes them."""

    def __cinit__(self):
        self.ids = BlockIds()
        self.capture = Capture(self.accounts)
        self.hashed_block = -1

    def __dealloc__(self):
        free(self.tombstones)
        free(self.resolved)
        index_free(&self.resolved_index)
        free(self.used_timestamps)
        free(self.undo)

    cdef found_t find_event(self, uint8_t namespace, u128_t id, uint64_t hash) noexcept nogil:
        """What an id stands for: in the open block, or in what storage resolved."""
        cdef found_t found
        cdef int64_t index
        cdef entry_t* entry
        cdef uint32_t place
        cdef index_entry_t candidate
        cdef resolved_t* row
        memset(&found, 0, sizeof(found))
        index = self.ids.find(self.block, namespace, id, hash)
        if index >= 0:
            entry = &self.block.rows[index]
            found.record = &entry.record
            found.kind = entry.kind
            found.outcome = (OUTCOME_BURNED if entry.kind == ENTRY_KIND_BURNED_ID
                             else OUTCOME_CREATED)
            if entry.metadata:
                found.digest = self.block.digests + <size_t>32 * (entry.metadata - 1)
            return found
        if self.resolved_count:
            place = <uint32_t>hash & self.resolved_index.mask
            while True:
                candidate = self.resolved_index.entries[place]
                if not candidate.value:
                    return found
                row = &self.resolved[candidate.value - 1]
                if (candidate.tag == <uint32_t>hash and equal(row.record.id, id)
                        and row.namespace == namespace):
                    found.record = &row.record
                    found.kind = row.kind
                    found.outcome = row.outcome
                    found.resolution = row.resolution
                    found.digest = row.metadata_digest
                    for place in range(32):
                        if row.metadata_digest[place]:
                            return found
                    found.digest = NULL
                    return found
                place = (place + 1) & self.resolved_index.mask
        return found

    # ------------------------------------------------------------------------------------------
    # Commit: what was decided becomes the state
    # ------------------------------------------------------------------------------------------

    cdef void commit(self, entry_t* entry) noexcept nogil:
        """Change the state as the entry says and fill in its sides."""
        cdef int64_t slot
        cdef extra_t* extra
        cdef account_t opening
        if entry.kind == ENTRY_KIND_TRANSFER or entry.kind == ENTRY_KIND_EXPIRY:
            self.commit_side(entry, entry.debit_slot, &entry.debit, False)
            self.commit_side(entry, entry.credit_slot, &entry.credit, True)
            if not is_zero(entry.record.pending_id) or entry.record.flags & TRANSFER_PENDING:
                self.commit_holds(entry)
        elif entry.kind == ENTRY_KIND_ACCOUNT:
            memset(&opening, 0, sizeof(opening))
            opening.id = entry.record.id
            opening.user_data_128 = entry.record.user_data_128
            opening.user_data_64 = entry.record.user_data_64
            opening.user_data_32 = entry.record.user_data_32
            opening.ledger = entry.record.ledger
            opening.code = entry.record.code
            opening.flags = entry.record.flags
            opening.timestamp = entry.record.timestamp
            if self.replaying:
                if self.side_is_current(entry.debit_slot):
                    return              # its page was copied after this entry
                slot = entry.debit_slot
                CHECK(self.accounts.open_at(
                    <uint32_t>slot, &opening, hash_id(opening.id, self.accounts.seed)),
                    "out of memory for accounts")
            else:
                slot = self.accounts.append(&opening, hash_id(opening.id, self.accounts.seed))
                CHECK(slot >= 0, "out of memory for accounts")
            if self.undoing:
                self.new_undo(UNDO_ACCOUNT, <uint32_t>slot)
            entry.debit_slot = <uint32_t>slot
            if self.event_digest != NULL:
                CHECK(self.accounts.make_extra(<uint32_t>slot), "out of memory for accounts")
                row_at(self.accounts, <uint32_t>slot).flags |= ROW_HAS_METADATA
                memcpy(self.accounts.extra_of(<uint32_t>slot).metadata_digest,
                       self.event_digest, 32)
            self.commit_side(entry, <uint32_t>slot, &entry.debit, False)
        elif entry.kind == ENTRY_KIND_ACCOUNT_SETTINGS:
            if self.replaying and self.side_is_current(entry.debit_slot):
                return
            self.commit_side(entry, entry.debit_slot, &entry.debit, False)
            CHECK(self.accounts.make_extra(entry.debit_slot), "out of memory for accounts")
            extra = self.accounts.extra_of(entry.debit_slot)
            if self.undoing:
                self.new_undo(UNDO_EXTRA, entry.debit_slot).extra = extra[0]
            extra.overdraft = entry.record.amount
            extra.ceiling = entry.record.pending_id
            extra.settings = entry.record.flags

    cdef void commit_side(
        self, entry_t* entry, uint32_t slot, side_t* side, bint is_credit
    ) noexcept nogil:
        """Change one account as the entry says."""
        cdef account_row_t* row = row_at(self.accounts, slot)
        cdef uint64_t here = self.block.number << LIMIT_INDEX_BITS | self.block.count
        cdef uint64_t number = row.entry_count
        cdef uint16_t flags = entry.record.flags
        cdef u128 amount, released
        cdef group_t* group
        if self.replaying and self.side_is_current(slot):
            return
        entry.reserved |= CREDIT_COMMITTED if is_credit else DEBIT_COMMITTED
        if slot < self.capture_end:
            self.capture.save(slot)
        if self.undoing:
            self.new_undo(UNDO_ROW, slot).row = row[0]
        side.previous = row.last_position
        side.number = number
        side.skip = NO_POSITION
        if number % LIMIT_SKIP_INTERVAL == 0:
            self.advance_skips(row, slot, side, number, here)
        row.entry_count = number + 1
        row.last_position = here

        if entry.kind == ENTRY_KIND_TRANSFER or entry.kind == ENTRY_KIND_EXPIRY:
            amount = load(entry.record.amount)
            released = load(entry.released)
            group = &self.accounts.groups[row.group]
            if flags & TRANSFER_PENDING and entry.kind == ENTRY_KIND_TRANSFER:
                if is_credit:
                    row.credits_pending = store(load(row.credits_pending) + amount)
                    sum_add(&group.credits_pending, entry.record.amount.lo, entry.record.amount.hi)
                    if flags & TRANSFER_CLOSING_CREDIT:
                        row.flags |= ACCOUNT_CLOSED
                else:
                    row.debits_pending = store(load(row.debits_pending) + amount)
                    sum_add(&group.debits_pending, entry.record.amount.lo, entry.record.amount.hi)
                    if flags & TRANSFER_CLOSING_DEBIT:
                        row.flags |= ACCOUNT_CLOSED
            else:
                if released:
                    if is_credit:
                        row.credits_pending = store(load(row.credits_pending) - released)
                        sum_subtract(&group.credits_pending, entry.released.lo, entry.released.hi)
                    else:
                        row.debits_pending = store(load(row.debits_pending) - released)
                        sum_subtract(&group.debits_pending, entry.released.lo, entry.released.hi)
                if entry.kind == ENTRY_KIND_TRANSFER and not flags & TRANSFER_VOID_PENDING_TRANSFER:
                    if is_credit:
                        row.credits_posted = store(load(row.credits_posted) + amount)
                        sum_add(&group.credits_posted, entry.record.amount.lo,
                                entry.record.amount.hi)
                    else:
                        row.debits_posted = store(load(row.debits_posted) + amount)
                        sum_add(&group.debits_posted, entry.record.amount.lo,
                                entry.record.amount.hi)
                if entry.flags & (ENTRY_REOPENS_CREDIT if is_credit else ENTRY_REOPENS_DEBIT):
                    row.flags &= ~ACCOUNT_CLOSED

        side.debits_pending = row.debits_pending
        side.debits_posted = row.debits_posted
        side.credits_pending = row.credits_pending
        side.credits_posted = row.credits_posted
        mark_dirty(self.accounts, slot)

    cdef void advance_skips(
        self, account_row_t* row, uint32_t slot, side_t* side, uint64_t number, uint64_t here
    ) noexcept nogil:
        """Give every 64th entry its skip pointer.

        Entry n points to n - 64^3, n - 64^2 or n - 64, the farthest that n is a multiple of; the
        first entry
        of a level, 64^2 and 64^3 itself, still uses the pointer of the level below.
        """
        cdef extra_t* extra
        cdef uint64_t level_two = <uint64_t>LIMIT_SKIP_INTERVAL * LIMIT_SKIP_INTERVAL
        cdef uint64_t level_three = level_two * LIMIT_SKIP_INTERVAL
        side.skip = row.skip_position
        row.skip_position = here
        if number == 0 or number % level_two:
            return
        CHECK(self.accounts.make_extra(slot), "out of memory for accounts")
        extra = self.accounts.extra_of(slot)
        if self.undoing:
            self.new_undo(UNDO_EXTRA, slot).extra = extra[0]
        if extra.skip_4096 != NO_POSITION:
            side.skip = extra.skip_4096
        extra.skip_4096 = here
        if number % level_three == 0:
            if extra.skip_262144 != NO_POSITION:
                side.skip = extra.skip_262144
            extra.skip_262144 = here

    cdef void commit_holds(self, entry_t* entry) noexcept nogil:
        """Add the hold of a pending transfer, or resolve the one that the entry names, unless that
        is done."""
        cdef hold_t hold
        cdef int64_t place
        cdef uint8_t state
        if entry.kind == ENTRY_KIND_TRANSFER and entry.record.flags & TRANSFER_PENDING:
            if self.holds.find(entry.record.id) >= 0:
                return                  # recovery: the page was copied after this entry
            memset(&hold, 0, sizeof(hold))
            hold.id = entry.record.id
            hold.amount = entry.record.amount
            hold.user_data_128 = entry.record.user_data_128
            hold.user_data_64 = entry.record.user_data_64
            hold.user_data_32 = entry.record.user_data_32
            hold.timestamp = entry.record.timestamp
            hold.timeout = entry.record.timeout
            if hold.timeout:
                hold.expires_at_ns = hold.timestamp + <uint64_t>hold.timeout * 1000000000
            hold.debit_slot = entry.debit_slot
            hold.credit_slot = entry.credit_slot
            hold.ledger = entry.record.ledger
            hold.code = entry.record.code
            hold.flags = entry.record.flags
            place = self.holds.add(&hold)
            CHECK(place >= 0, "out of memory for holds")
            if self.undoing:
                self.new_undo(UNDO_HOLD_ADDED, <uint32_t>place)
            return
        place = self.holds.find(entry.record.pending_id)
        if place < 0:
            return                      # recovery: the page was copied after this entry
        if entry.kind == ENTRY_KIND_EXPIRY:
            state = HOLD_EXPIRED
        elif entry.record.flags & TRANSFER_VOID_PENDING_TRANSFER:
            state = HOLD_VOIDED
        else:
            state = HOLD_POSTED
        self.holds.set_state(<uint32_t>place, state)
        if self.tombstone_count == self.tombstone_capacity:
            self.tombstone_capacity = self.tombstone_capacity * 2 + 64
            self.tombstones = <uint32_t*>realloc(
                self.tombstones, self.tombstone_capacity * sizeof(uint32_t))
            CHECK(self.tombstones != NULL, "out of memory for holds")
        self.tombstones[self.tombstone_count] = <uint32_t>place
        self.tombstone_count += 1
        if self.undoing:
            self.new_undo(UNDO_HOLD_STATE, <uint32_t>place)

    cdef void finish_entry(self, entry_t* entry, uint64_t hash) noexcept nogil:
        """Count the entry that stands at the end of the block, with its metadata and id."""
        if self.event_digest != NULL:
            CHECK(self.block.add_digest(self.event_digest), "out of memory for metadata")
            entry.metadata = self.block.metadata_count
        if has_id(entry):
            self.ids.insert(hash, self.block.count)
        self.block.count += 1

    # ------------------------------------------------------------------------------------------
    # Undo
    # ------------------------------------------------------------------------------------------

    cdef undo_t* new_undo(self, uint8_t kind, uint32_t place) noexcept nogil:
        cdef undo_t* record
        if self.undo_count == self.undo_capacity:
            self.undo_capacity = self.undo_capacity * 2 + 64
            self.undo = <undo_t*>realloc(self.undo, self.undo_capacity * sizeof(undo_t))
            CHECK(self.undo != NULL, "out of memory for a linked chain")
        record = &self.undo[self.undo_count]
        record.kind = kind
        record.place = place
        self.undo_count += 1
        return record

    cdef void roll_back(self, uint32_t undo_mark, uint32_t entry_mark) noexcept nogil:
        """Take back everything since the marks: state in reverse order, then the block's
        entries."""
        cdef undo_t* record
        cdef account_row_t* row
        cdef entry_t* entry
        while self.undo_count > undo_mark:
            self.undo_count -= 1
            record = &self.undo[self.undo_count]
            if record.kind == UNDO_ROW:
                row = row_at(self.accounts, record.place)
                self.accounts.move_group_sums(row, &record.row)
                if row.extra and not record.row.extra:
                    self.accounts.drop_last_extra(row.extra)
                row[0] = record.row
            elif record.kind == UNDO_ACCOUNT:
                self.accounts.pop()
            elif record.kind == UNDO_EXTRA:
                self.accounts.extra_of(record.place)[0] = record.extra
            elif record.kind == UNDO_HOLD_ADDED:
                self.holds.release(record.place)
            elif record.kind == UNDO_HOLD_STATE:
                self.holds.set_state(record.place, HOLD_OPEN)
                self.tombstone_count -= 1
        while self.block.count > entry_mark:
            self.block.count -= 1
            entry = &self.block.rows[self.block.count]
            if entry.metadata:
                self.block.metadata_count -= 1
            if has_id(entry):
                self.ids.remove_last(
                    hash_id(entry.record.id, namespace_of(entry.kind)), self.block.count)

    # ------------------------------------------------------------------------------------------
    # Blocks
    # ------------------------------------------------------------------------------------------

    def open_block(self, Block block, uint64_t number):
        """Begin block ``number``, the one after the last that had entries."""
        if self.block is not None:
            raise RuntimeError("a block is open already")
        if <int64_t>number != self.block_number + 1:
            raise ValueError(f"block {number} does not follow block {self.block_number}")
        block.reset()
        block.number = number
        block.first_entry = self.entry_number
        self.ids.clear()
        self.block = block

    def close_block(self):
        """End the open block: resolved holds go, and what storage resolved is forgotten."""
        cdef Block block = self.block
        cdef uint32_t place
        if block is None:
            raise RuntimeError("no block is open")
        for place in range(self.tombstone_count):
            self.holds.release(self.tombstones[place])
        self.tombstone_count = 0
        self.resolved_count = 0
        self.used_timestamp_count = 0
        index_free(&self.resolved_index)
        block.last_timestamp = self.last_timestamp
        block.last_account_timestamp = self.last_account_timestamp
        block.last_transfer_timestamp = self.last_transfer_timestamp
        block.business_date = self.business_date
        if block.count:
            self.block_number = <int64_t>block.number
            self.entry_number += block.count
        self.block = None

    def load_resolved(self, resolved):
        """Take what storage knows of ids of earlier blocks: RESOLVED rows, valid until
        ``close_block``."""
        cdef cnp.ndarray rows = np.ascontiguousarray(resolved, layout.RESOLVED)
        cdef uint32_t count = <uint32_t>rows.shape[0], place
        cdef resolved_t* grown
        if count == 0:
            return
        grown = <resolved_t*>realloc(
            self.resolved, (self.resolved_count + count) * sizeof(resolved_t))
        if grown == NULL:
            raise MemoryError
        self.resolved = grown
        memcpy(grown + self.resolved_count, cnp.PyArray_DATA(rows), count * sizeof(resolved_t))
        for place in range(self.resolved_count, self.resolved_count + count):
            if not index_insert(
                &self.resolved_index,
                <uint32_t>hash_id(grown[place].record.id, grown[place].namespace), place
            ):
                raise MemoryError
        self.resolved_count += count

    def load_used_timestamps(self, timestamps):
        """Take those of ``questioned_timestamps`` that a transfer or expiry of an earlier block
        has."""
        cdef uint32_t index
        values = {int(value) for value in timestamps}
        for index in range(self.used_timestamp_count):
            values.add(self.used_timestamps[index])
        ordered = sorted(values)
        self.used_timestamps = <uint64_t*>realloc(
            self.used_timestamps, max(1, len(ordered)) * sizeof(uint64_t))
        if self.used_timestamps == NULL:
            raise MemoryError
        self.used_timestamp_count = <uint32_t>len(ordered)
        for index in range(self.used_timestamp_count):
            self.used_timestamps[index] = ordered[index]

    def questioned_timestamps(self, events):
        """Return the timestamps of imported ACCOUNT events that a transfer may have; usually
        none."""
        imported = events["flags"] & ACCOUNT_IMPORTED != 0
        times = events["timestamp"][imported]
        return np.unique(times[times <= self.last_transfer_timestamp])

    def open_holds(self, transfers):
        """Return for each TRANSFER event whether it names an open hold in pending_id (bool
        array)."""
        cdef cnp.ndarray rows = transfers
        cdef const transfer_t* events = <const transfer_t*>cnp.PyArray_DATA(rows)
        cdef uint32_t count = <uint32_t>rows.shape[0], index
        cdef cnp.ndarray answer = np.zeros(count, np.bool_)
        cdef uint8_t* out = <uint8_t*>cnp.PyArray_DATA(answer)
        with nogil:
            for index in range(count):
                if events[index].flags & RESOLVING:
                    out[index] = self.holds.find(events[index].pending_id) >= 0
        return answer

    def open_hold(self, id):
        """Return whether the pending transfer of this id (an integer) is open."""
        cdef u128_t key
        key.lo, key.hi = layout.from_int(id)
        return self.holds.find(key) >= 0

    # ------------------------------------------------------------------------------------------
    # Hashing: the block's root, and the chain of every account it touched
    # ------------------------------------------------------------------------------------------

    def hash_block(self, Block block, seed):
        """Compute the root of a closed block and move the chain heads of its accounts on.

        ``seed`` is the 32 random bytes that the salts come from; a block with ``private``, from
        which something was erased, has its salts and bare hashes there. Blocks are hashed in
        order, each once.
        """
        cdef const uint8_t[::1] seed_bytes = seed
        cdef uint32_t count = block.count, index, queued = 0
        cdef uint8_t* leaves
        cdef uint8_t* digests = NULL
        cdef uint8_t root[32]
        cdef entry_t* entry
        cdef const uint8_t[::1] one
        cdef const uint8_t[:, ::1] every
        cdef const uint8_t[:, ::1] salts
        cdef const uint8_t[::1] bare_bytes
        cdef const bare_t* bare = NULL
        cdef size_t bare_count = 0, place
        cdef bint erased = block.private is not None
        cdef int side
        cdef uint16_t committed
        cdef uint32_t slot
        cdef account_row_t* row
        cdef uint8_t derived[SALTS_ROOM]
        cdef uint8_t* heads[CHAIN_BATCH]
        cdef const uint8_t* leaf_of[CHAIN_BATCH]
        if seed_bytes.shape[0] != 32:
            raise ValueError("a block's seed has 32 bytes")
        block.seed = bytes(seed)
        if count == 0:
            block.root = bytes(32)
            return
        leaves = <uint8_t*>malloc(<size_t>64 * count)
        if leaves == NULL:
            raise MemoryError
        try:
            if erased:
                if block.private.entry_count != count:
                    raise ValueError("the private part is that of another block")
                salts = block.private.salts
                bare_bytes = block.private.bare.view(np.uint8)
                bare = <const bare_t*>&bare_bytes[0]
                bare_count = len(block.private.bare)
                whole = block.private.ext_digests(block.metadata)
                if whole is not None:
                    every = whole
                    digests = <uint8_t*>malloc(<size_t>32 * count)
                    if digests == NULL:
                        raise MemoryError
                    memcpy(digests, &every[0, 0], <size_t>32 * count)
            elif block.metadata:
                digests = <uint8_t*>malloc(<size_t>32 * count)
                if digests == NULL:
                    raise MemoryError
                memset(digests, 0, <size_t>32 * count)
                for index in range(count):
                    if block.rows[index].metadata:
                        one = _merkle.ext_digest(
                            block.seed, index, block.metadata[block.rows[index].metadata - 1])
                        memcpy(digests + <size_t>32 * index, &one[0], 32)
            with nogil:
                if erased:
                    merkle_bare_leaves(
                        block.rows, count, &salts[0, 0], bare, bare_count, digests, leaves)
                else:
                    merkle_leaves(block.rows, count, &seed_bytes[0], digests, leaves)
                for index in range(count):
                    entry = &block.rows[index]
                    for side in range(2):
                        committed = DEBIT_COMMITTED if side == 0 else CREDIT_COMMITTED
                        if not entry.reserved & committed:
                            continue
                        slot = entry.debit_slot if side == 0 else entry.credit_slot
                        row = row_at(self.accounts, slot)
                        if (entry.debit.number if side == 0 else entry.credit.number) == 0:
                            memcpy(row.head, leaves + <size_t>32 * index, 32)
                            # The state salt of an account is its opening's unused credit salt.
                            if not erased:
                                merkle_salts(&seed_bytes[0], index, 1, derived)
                            memcpy(salt_at(self.accounts, slot),
                                   &salts[index, SALT_BYTES] if erased else &derived[SALT_BYTES],
                                   SALT_BYTES)
                            continue
                        if queued == CHAIN_BATCH:
                            merkle_chain_ordered(heads, leaf_of, queued)
                            queued = 0
                        heads[queued] = row.head
                        leaf_of[queued] = leaves + <size_t>32 * index
                        queued += 1
                merkle_chain_ordered(heads, leaf_of, queued)
                for place in range(bare_count):
                    # An erased account has its leaf A in the place of its head.
                    if bare[place].part < BARE_DEBIT_ACCOUNT:
                        continue
                    entry = &block.rows[bare[place].index]
                    if bare[place].part == BARE_DEBIT_ACCOUNT:
                        committed = DEBIT_COMMITTED
                        slot = entry.debit_slot
                    else:
                        committed = CREDIT_COMMITTED
                        slot = entry.credit_slot
                    if entry.reserved & committed:
                        row = row_at(self.accounts, slot)
                        memcpy(row.head, bare[place].digest, 32)
                merkle_root(KEY_NODE, leaves, count, leaves + <size_t>32 * count, root)
            block.root = <bytes>root[:32]
            self.hashed_block = <int64_t>block.number
        finally:
            free(leaves)
            free(digests)

    # ------------------------------------------------------------------------------------------
    # Capture: all accounts as they are after one block, copied while later blocks are committed
    # ------------------------------------------------------------------------------------------

    def begin_capture(self):
        """Begin to copy all accounts as they are now, after the last block that was hashed.

        Raises RuntimeError within a block, before its hashing, or when a capture is under way.
        """
        self.require_hashed()
        self.capture.begin(self.block_number)
        self.capture_end = self.capture.end

    def capture_step(self, uint32_t limit_rows, room=None):
        """Return the next accounts of the capture, in order of slots: a STATE_ROW array.

        At most ``limit_rows``, in whole pages of 256 slots, at least one. Empty at the end, which
        ends the capture. ``room``, a contiguous STATE_ROW array that is large enough, takes the
        rows: memory that was used before is several times as fast. Between blocks only, as
        ``begin_capture``.
        """
        self.require_hashed()
        rows = self.capture.step(limit_rows, room)
        if not self.capture.under_way:
            self.capture_end = 0
        return rows

    def cancel_capture(self):
        """End the capture, if there is one, and forget what was saved for it."""
        self.capture_end = 0
        self.capture.finish()

    @property
    def capturing(self):
        """Whether a capture is under way."""
        return self.capture.under_way

    @property
    def capture_block(self):
        """The block after which the accounts of the capture are; of the last one when it has
        ended."""
        return self.capture.block

    @property
    def capture_saved_bytes(self):
        """Memory that holds accounts which changed before they were copied."""
        return self.capture.saved_bytes

    cdef int require_hashed(self) except -1:
        if self.block is not None or self.hashed_block != self.block_number:
            raise RuntimeError("accounts are captured between blocks, after hash_block")
        return 0

    # ------------------------------------------------------------------------------------------
    # Recovery
    # ------------------------------------------------------------------------------------------

    cdef bint side_is_current(self, uint32_t slot) noexcept nogil:
        """Whether the account's page was copied at or after the block being replayed."""
        return (slot < self.accounts.count
                and self.accounts.loaded[slot >> 8] > self.block.number)

    def replay(self, Block block):
        """Commit the entries of a stored block, account ids filled in, to the sides that lack them.

        Raises DataDamaged when the entries do not fit: then balances, numbers or positions as they
        come out
        differ from those stored beside the entry.
        """
        cdef uint32_t index
        cdef entry_t* entry
        cdef entry_t stored
        cdef uint32_t count
        cdef str what
        if self.block is not None:
            raise RuntimeError("a block is open")
        self.block = block
        count = block.count
        block.count = 0
        self.replaying = True
        try:
            for index in range(count):
                entry = &block.rows[index]
                stored = entry[0]
                what = self.misfit(entry)
                if what:
                    raise DataDamaged(f"block {block.number}, entry {index}: {what}")
                if entry.debit_slot != LIMIT_NO_SLOT and entry.debit_slot < self.accounts.count:
                    entry.record.debit_account_id = row_at(self.accounts, entry.debit_slot).id
                if entry.credit_slot != LIMIT_NO_SLOT:
                    entry.record.credit_account_id = row_at(self.accounts, entry.credit_slot).id
                entry.reserved = 0
                self.event_digest = NULL
                if entry.metadata:
                    self.event_digest = block.digests + <size_t>32 * (entry.metadata - 1)
                self.commit(entry)
                block.count += 1
                if (
                    (entry.reserved & DEBIT_COMMITTED
                     and memcmp(&entry.debit, &stored.debit, sizeof(side_t)))
                    or (entry.reserved & CREDIT_COMMITTED
                        and memcmp(&entry.credit, &stored.credit, sizeof(side_t)))
                ):
                    raise DataDamaged(
                        f"block {block.number}, entry {index}: the stored balances, numbers or"
                        f" positions of its accounts are not those that come out")
                self.replay_declaration(block, entry)
            for index in range(self.tombstone_count):
                self.holds.release(self.tombstones[index])
        finally:
            block.count = count
            self.tombstone_count = 0
            self.replaying = False
            self.event_digest = NULL
            self.block = None
        self.block_number = <int64_t>block.number
        self.entry_number = block.first_entry + count
        self.last_timestamp = block.last_timestamp
        self.last_account_timestamp = block.last_account_timestamp
        self.last_transfer_timestamp = block.last_transfer_timestamp
        self.business_date = block.business_date

    cdef str misfit(self, const entry_t* entry):
        """Why a stored entry cannot be committed at all, or None."""
        cdef uint8_t kind = entry.kind
        cdef uint32_t opened = self.accounts.count
        cdef u128_t slot_id
        if kind == ENTRY_KIND_ACCOUNT:
            if entry.debit_slot > opened:
                return f"it opens slot {entry.debit_slot} where {opened} is next"
            if entry.debit_slot < opened:
                slot_id = row_at(self.accounts, entry.debit_slot).id
                if self.side_is_current(entry.debit_slot):
                    if not equal(slot_id, entry.record.id):
                        return f"slot {entry.debit_slot} belongs to another account"
                elif not is_zero(slot_id) or (
                    row_at(self.accounts, entry.debit_slot).flags & ROW_ERASED
                ):
                    return f"slot {entry.debit_slot} is open already"
        elif kind == ENTRY_KIND_TRANSFER or kind == ENTRY_KIND_EXPIRY:
            if entry.debit_slot >= opened or entry.credit_slot >= opened:
                return "it names an account that is not open"
            if entry.debit_slot == entry.credit_slot:
                return "it debits and credits one account"
        elif kind == ENTRY_KIND_ACCOUNT_SETTINGS:
            if entry.debit_slot >= opened:
                return "it names an account that is not open"
        elif kind not in (ENTRY_KIND_BURNED_ID, ENTRY_KIND_DEFINITION, ENTRY_KIND_ADMINISTRATION):
            return f"its kind {kind} is unknown"
        return None

    cdef void replay_declaration(self, Block block, const entry_t* entry) except *:
        if entry.kind == ENTRY_KIND_DEFINITION:
            self.declare(
                entry, block.metadata[entry.metadata - 1] if entry.metadata else b"")

    cdef void declare(self, const entry_t* entry, bytes metadata) except *:
        """Take a definition into the books."""
        self.declared[(entry.record.timeout, entry.record.ledger, entry.record.code)] = (
            entry.record.user_data_32, entry.record.flags, metadata)

    def finish_load(self):
        """After pages and small state were loaded: rebuild what is derived. Then ``replay`` may
        begin."""
        self.accounts.finish_load()

    def number_accounts(self):
        """Between replayed blocks, when no page is newer: number the accounts of each group, so
        that they can be captured."""
        self.accounts.rebuild_groups()

    def finish_replay(self):
        """After the last replayed block: add up the groups; nothing counts as loaded any more."""
        self.accounts.rebuild_groups()
        self.accounts.forget_loaded()
