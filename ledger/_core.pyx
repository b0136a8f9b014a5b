# cython: language_level=3
"""The state machine: decides each event in order, and commits what was decided.

``decide_…`` looks and answers with a status and an entry; ``commit`` changes the state and cannot
fail.
Recovery, followers and restore call only ``commit``. Time, randomness and configuration come in as
numbers.
The rules are those of docs/semantics.md, in the same order.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp

from ledger._accounts cimport (
    Accounts, account_row_t, extra_t, row_at,
)
from ledger._block cimport Block
from ledger._check cimport CHECK
from ledger._administration cimport refusal_t, same_digest
from ledger._commit cimport found_t
from ledger._holds cimport HOLD_EXPIRED, HOLD_OPEN, HOLD_POSTED, HOLD_VOIDED, hold_t
from ledger._index cimport hash_id, index_entry_t, index_t
from ledger._layout cimport *
from ledger._opening cimport Opening
from ledger._u128 cimport U128_MAX, equal, is_max, is_zero, load, store, u128

import numpy as np
from blake3 import blake3

from ledger import _structs, layout
from ledger.errors import Unavailable

cnp.import_array()
_structs.check()

cdef extern from *:
    """
    #define SANYUAN_PREFETCH(address) __builtin_prefetch((address), 1, 3)
    """
    void prefetch "SANYUAN_PREFETCH"(const void* address) noexcept nogil

cdef enum:
    WINDOW = 128                # events whose accounts are fetched into the cache together
    TRANSFER_FLAGS_KNOWN = 0x1FF
    RESOLVING = TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER
    BALANCING = TRANSFER_BALANCING_DEBIT | TRANSFER_BALANCING_CREDIT
    CLOSING = TRANSFER_CLOSING_DEBIT | TRANSFER_CLOSING_CREDIT


cdef inline void prefetch_place(const index_t* index, uint64_t hash) noexcept nogil:
    if index.entries != NULL:
        prefetch(&index.entries[<uint32_t>hash & index.mask])


cdef inline int64_t likely_slot(Accounts accounts, uint64_t hash) noexcept nogil:
    """The first slot whose tag fits, its row on the way into the cache; -1 when there is certainly
    none."""
    cdef index_t* shard = &accounts.shards[hash >> 56]
    cdef uint32_t place
    cdef index_entry_t entry
    cdef account_row_t* row
    if shard.entries == NULL:
        return -1
    place = <uint32_t>hash & shard.mask
    while True:
        entry = shard.entries[place]
        if not entry.value:
            return -1
        if entry.tag == <uint32_t>hash:
            row = row_at(accounts, entry.value - 1)
            prefetch(row)
            prefetch(<const uint8_t*>row + 64)
            prefetch(<const uint8_t*>row + 128)
            return entry.value - 1
        place = (place + 1) & shard.mask


cdef bint is_transient(uint32_t status) noexcept nogil:
    """Whether a refusal depends on the moment, so that its id is burned."""
    return (
        status == TRANSFER_STATUS_DEBIT_ACCOUNT_NOT_FOUND
        or status == TRANSFER_STATUS_CREDIT_ACCOUNT_NOT_FOUND
        or status == TRANSFER_STATUS_PENDING_TRANSFER_NOT_FOUND
        or status == TRANSFER_STATUS_EXCEEDS_CREDITS
        or status == TRANSFER_STATUS_EXCEEDS_DEBITS
        or status == TRANSFER_STATUS_DEBIT_ACCOUNT_ALREADY_CLOSED
        or status == TRANSFER_STATUS_CREDIT_ACCOUNT_ALREADY_CLOSED
        or status == TRANSFER_STATUS_DEBITS_BLOCKED
        or status == TRANSFER_STATUS_CREDITS_BLOCKED
        or status == TRANSFER_STATUS_EXCEEDS_OVERDRAFT
        or status == TRANSFER_STATUS_EXCEEDS_CEILING
    )


cdef uint8_t reopening(const hold_t* pending) noexcept nogil:
    """The entry flags of what ends a closing transfer without posting it."""
    cdef uint8_t flags = 0
    if pending.flags & TRANSFER_CLOSING_DEBIT:
        flags |= ENTRY_REOPENS_DEBIT
    if pending.flags & TRANSFER_CLOSING_CREDIT:
        flags |= ENTRY_REOPENS_CREDIT
    return flags


cdef inline u128 sum_or_max(u128 a, u128 b) noexcept nogil:
    """a + b, or 2^128-1 when that is more: then it limits nothing."""
    return U128_MAX if a > U128_MAX - b else a + b


cdef class Core(Opening):
    """All accounts, open holds and clocks of one ledger. Not thread-safe: the engine thread owns
    it.

    ``holds_max`` bounds the open pending transfers; a request that could pass it raises
    Unavailable.
    ``seed`` keys the hash tables and has no influence on any result.
    """

    # ------------------------------------------------------------------------------------------
    # Transfers
    # ------------------------------------------------------------------------------------------

    cdef bint find_pending(self, u128_t id, hold_t* out) noexcept nogil:
        """Whether a transfer of this id exists, and what it is; ``out.state`` tells its
        resolution."""
        cdef int64_t place = self.holds.find(id)
        cdef found_t found
        if place >= 0:
            out[0] = self.holds.rows[place]
            return True
        found = self.find_event(NAMESPACE_TRANSFER, id, hash_id(id, NAMESPACE_TRANSFER))
        if found.record == NULL or found.outcome != OUTCOME_CREATED:
            return False
        memset(out, 0, sizeof(hold_t))
        out.id = found.record.id
        out.amount = found.record.amount
        out.user_data_128 = found.record.user_data_128
        out.user_data_64 = found.record.user_data_64
        out.user_data_32 = found.record.user_data_32
        out.timestamp = found.record.timestamp
        out.timeout = found.record.timeout
        if out.timeout:
            out.expires_at_ns = out.timestamp + <uint64_t>out.timeout * 1000000000
        out.ledger = found.record.ledger
        out.code = found.record.code
        out.flags = found.record.flags
        out.debit_slot = <uint32_t>self.accounts.find(
            found.record.debit_account_id,
            hash_id(found.record.debit_account_id, self.accounts.seed))
        out.credit_slot = <uint32_t>self.accounts.find(
            found.record.credit_account_id,
            hash_id(found.record.credit_account_id, self.accounts.seed))
        if found.resolution == RESOLUTION_POSTED:
            out.state = HOLD_POSTED
        elif found.resolution == RESOLUTION_VOIDED:
            out.state = HOLD_VOIDED
        elif found.resolution == RESOLUTION_EXPIRED:
            out.state = HOLD_EXPIRED
        else:
            out.state = HOLD_OPEN
        return True

    cdef uint32_t compare_transfer(
        self, const transfer_t* event, const found_t* found
    ) noexcept nogil:
        """The status of an event whose id was created before: exists, or how it differs."""
        cdef const transfer_t* stored = found.record
        cdef transfer_t as_sent = event[0]
        cdef hold_t pending
        if event.flags != stored.flags:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_FLAGS
        if not equal(event.pending_id, stored.pending_id):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_PENDING_ID
        if event.timeout != stored.timeout:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_TIMEOUT
        if event.flags & RESOLVING:
            # What was left open was inherited from the pending transfer.
            CHECK(self.find_pending(event.pending_id, &pending),
                  "a post or void is stored and its pending transfer is not")
            if is_zero(as_sent.debit_account_id):
                as_sent.debit_account_id = stored.debit_account_id
            if is_zero(as_sent.credit_account_id):
                as_sent.credit_account_id = stored.credit_account_id
            if is_zero(as_sent.user_data_128):
                as_sent.user_data_128 = pending.user_data_128
            if as_sent.user_data_64 == 0:
                as_sent.user_data_64 = pending.user_data_64
            if as_sent.user_data_32 == 0:
                as_sent.user_data_32 = pending.user_data_32
            if as_sent.ledger == 0:
                as_sent.ledger = stored.ledger
            if as_sent.code == 0:
                as_sent.code = stored.code
            if event.flags & TRANSFER_VOID_PENDING_TRANSFER:
                if is_zero(as_sent.amount):
                    as_sent.amount = pending.amount
            elif is_max(as_sent.amount):
                as_sent.amount = pending.amount
        if not equal(as_sent.debit_account_id, stored.debit_account_id):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT_ID
        if not equal(as_sent.credit_account_id, stored.credit_account_id):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT_ID
        if event.flags & BALANCING:
            if load(as_sent.amount) < load(stored.amount):
                return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_AMOUNT
        elif not equal(as_sent.amount, stored.amount):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_AMOUNT
        if not equal(as_sent.user_data_128, stored.user_data_128):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_128
        if as_sent.user_data_64 != stored.user_data_64:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_64
        if as_sent.user_data_32 != stored.user_data_32:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_32
        if as_sent.ledger != stored.ledger:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_LEDGER
        if as_sent.code != stored.code:
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_CODE
        if not same_digest(self.event_digest, found.digest):
            return TRANSFER_STATUS_EXISTS_WITH_DIFFERENT_METADATA
        self.exists_timestamp = stored.timestamp
        return TRANSFER_STATUS_EXISTS

    cdef uint32_t decide_transfer(
        self, const transfer_t* event, uint64_t timestamp, uint64_t hash, int64_t debit,
        int64_t credit, entry_t* entry
    ) noexcept nogil:
        """The status of a transfer; STATUS_CREATED when ``entry`` holds what is to be committed.

        ``debit`` and ``credit`` are the slots of the event's accounts, or -1.
        """
        cdef found_t found
        cdef uint16_t flags = event.flags
        cdef account_row_t* dr
        cdef account_row_t* cr
        cdef extra_t* extra
        cdef u128 amount, used, limit
        cdef uint16_t dr_settings = 0, cr_settings = 0
        if flags & ~TRANSFER_FLAGS_KNOWN:
            return TRANSFER_STATUS_RESERVED_FLAG
        if is_zero(event.id):
            return TRANSFER_STATUS_ID_MUST_NOT_BE_ZERO
        if is_max(event.id):
            return TRANSFER_STATUS_ID_MUST_NOT_BE_INT_MAX
        if self.ids.used or self.resolved_count:
            found = self.find_event(NAMESPACE_TRANSFER, event.id, hash)
            if found.record != NULL:
                if found.outcome == OUTCOME_BURNED:
                    return TRANSFER_STATUS_ID_ALREADY_FAILED
                return self.compare_transfer(event, &found)
        if flags & RESOLVING:
            return self.decide_resolution(event, timestamp, entry)
        if is_zero(event.debit_account_id):
            return TRANSFER_STATUS_DEBIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if is_max(event.debit_account_id):
            return TRANSFER_STATUS_DEBIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
        if is_zero(event.credit_account_id):
            return TRANSFER_STATUS_CREDIT_ACCOUNT_ID_MUST_NOT_BE_ZERO
        if is_max(event.credit_account_id):
            return TRANSFER_STATUS_CREDIT_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
        if equal(event.debit_account_id, event.credit_account_id):
            return TRANSFER_STATUS_ACCOUNTS_MUST_BE_DIFFERENT
        if not is_zero(event.pending_id):
            return TRANSFER_STATUS_PENDING_ID_MUST_BE_ZERO
        if not flags & TRANSFER_PENDING:
            if event.timeout != 0:
                return TRANSFER_STATUS_TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
            if flags & CLOSING:
                return TRANSFER_STATUS_CLOSING_TRANSFER_MUST_BE_PENDING
        if event.ledger == 0:
            return TRANSFER_STATUS_LEDGER_MUST_NOT_BE_ZERO
        if event.code == 0:
            return TRANSFER_STATUS_CODE_MUST_NOT_BE_ZERO
        if debit < 0:
            return TRANSFER_STATUS_DEBIT_ACCOUNT_NOT_FOUND
        if credit < 0:
            return TRANSFER_STATUS_CREDIT_ACCOUNT_NOT_FOUND
        dr = row_at(self.accounts, <uint32_t>debit)
        cr = row_at(self.accounts, <uint32_t>credit)
        if dr.ledger != cr.ledger:
            return TRANSFER_STATUS_ACCOUNTS_MUST_HAVE_THE_SAME_LEDGER
        if event.ledger != dr.ledger:
            return TRANSFER_STATUS_TRANSFER_MUST_HAVE_THE_SAME_LEDGER_AS_ACCOUNTS
        if flags & TRANSFER_IMPORTED:
            if (event.timestamp <= self.last_transfer_timestamp
                    or self.accounts.timestamp_used(event.timestamp)):
                return TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
            if event.timestamp <= dr.timestamp:
                return TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_DEBIT_ACCOUNT
            if event.timestamp <= cr.timestamp:
                return TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_POSTDATE_CREDIT_ACCOUNT
            if event.timeout != 0:
                return TRANSFER_STATUS_IMPORTED_EVENT_TIMEOUT_MUST_BE_ZERO
        if dr.flags & ACCOUNT_CLOSED:
            return TRANSFER_STATUS_DEBIT_ACCOUNT_ALREADY_CLOSED
        if cr.flags & ACCOUNT_CLOSED:
            return TRANSFER_STATUS_CREDIT_ACCOUNT_ALREADY_CLOSED
        if dr.extra:
            dr_settings = self.accounts.extras[dr.extra].settings
            if dr_settings & ACCOUNT_SETTINGS_DEBITS_BLOCKED:
                return TRANSFER_STATUS_DEBITS_BLOCKED
        if cr.extra:
            cr_settings = self.accounts.extras[cr.extra].settings
            if cr_settings & ACCOUNT_SETTINGS_CREDITS_BLOCKED:
                return TRANSFER_STATUS_CREDITS_BLOCKED

        amount = load(event.amount)
        if flags & TRANSFER_BALANCING_DEBIT:
            used = load(dr.debits_posted) + load(dr.debits_pending)
            limit = load(dr.credits_posted)
            limit = limit - used if limit > used else 0
            if amount > limit:
                amount = limit
        if flags & TRANSFER_BALANCING_CREDIT:
            used = load(cr.credits_posted) + load(cr.credits_pending)
            limit = load(cr.debits_posted)
            limit = limit - used if limit > used else 0
            if amount > limit:
                amount = limit

        if flags & TRANSFER_PENDING:
            if amount > U128_MAX - load(dr.debits_pending):
                return TRANSFER_STATUS_OVERFLOWS_DEBITS_PENDING
            if amount > U128_MAX - load(cr.credits_pending):
                return TRANSFER_STATUS_OVERFLOWS_CREDITS_PENDING
        if amount > U128_MAX - load(dr.debits_posted):
            return TRANSFER_STATUS_OVERFLOWS_DEBITS_POSTED
        if amount > U128_MAX - load(cr.credits_posted):
            return TRANSFER_STATUS_OVERFLOWS_CREDITS_POSTED
        # Pending and posted together never pass 2^128-1, so neither these sums nor a later post
        # overflow.
        if amount > U128_MAX - (load(dr.debits_pending) + load(dr.debits_posted)):
            return TRANSFER_STATUS_OVERFLOWS_DEBITS
        if amount > U128_MAX - (load(cr.credits_pending) + load(cr.credits_posted)):
            return TRANSFER_STATUS_OVERFLOWS_CREDITS
        if event.timeout and timestamp + <uint64_t>event.timeout * 1000000000 > TIMESTAMP_MAX:
            return TRANSFER_STATUS_OVERFLOWS_TIMEOUT

        used = load(dr.debits_pending) + load(dr.debits_posted)
        if (dr.flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
                and not dr_settings & ACCOUNT_SETTINGS_OVERDRAFT):
            limit = load(dr.credits_posted)
            if used + amount > limit:
                self.refused_slot = <uint32_t>debit
                self.needed = store(amount)
                self.available = store(limit - used if limit > used else 0)
                return TRANSFER_STATUS_EXCEEDS_CREDITS
        if (cr.flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS
                and not cr_settings & ACCOUNT_SETTINGS_CEILING):
            used = load(cr.credits_pending) + load(cr.credits_posted)
            limit = load(cr.debits_posted)
            if used + amount > limit:
                self.refused_slot = <uint32_t>credit
                self.needed = store(amount)
                self.available = store(limit - used if limit > used else 0)
                return TRANSFER_STATUS_EXCEEDS_DEBITS
        if dr_settings & ACCOUNT_SETTINGS_OVERDRAFT:
            extra = &self.accounts.extras[dr.extra]
            used = load(dr.debits_pending) + load(dr.debits_posted)
            limit = sum_or_max(load(dr.credits_posted), load(extra.overdraft))
            if used + amount > limit:
                self.refused_slot = <uint32_t>debit
                self.needed = store(amount)
                self.available = store(limit - used if limit > used else 0)
                return TRANSFER_STATUS_EXCEEDS_OVERDRAFT
        if cr_settings & ACCOUNT_SETTINGS_CEILING:
            extra = &self.accounts.extras[cr.extra]
            used = load(cr.credits_pending) + load(cr.credits_posted)
            limit = sum_or_max(load(cr.debits_posted), load(extra.ceiling))
            if used + amount > limit:
                self.refused_slot = <uint32_t>credit
                self.needed = store(amount)
                self.available = store(limit - used if limit > used else 0)
                return TRANSFER_STATUS_EXCEEDS_CEILING

        # From here on the transfer must succeed.
        memset(entry, 0, sizeof(entry_t))
        entry.record = event[0]
        entry.record.amount = store(amount)
        if not flags & TRANSFER_IMPORTED:
            entry.record.timestamp = timestamp
        entry.debit_slot = <uint32_t>debit
        entry.credit_slot = <uint32_t>credit
        entry.kind = ENTRY_KIND_TRANSFER
        return STATUS_CREATED

    cdef uint32_t decide_resolution(
        self, const transfer_t* event, uint64_t timestamp, entry_t* entry
    ) noexcept nogil:
        """The status of a post or void; STATUS_CREATED when ``entry`` holds what is to be
        committed."""
        cdef uint16_t flags = event.flags
        cdef bint is_void = flags & TRANSFER_VOID_PENDING_TRANSFER != 0
        cdef hold_t pending
        cdef account_row_t* dr
        cdef account_row_t* cr
        cdef u128 amount
        if flags & RESOLVING == RESOLVING or flags & (TRANSFER_PENDING | BALANCING | CLOSING):
            return TRANSFER_STATUS_FLAGS_ARE_MUTUALLY_EXCLUSIVE
        if is_zero(event.pending_id):
            return TRANSFER_STATUS_PENDING_ID_MUST_NOT_BE_ZERO
        if is_max(event.pending_id):
            return TRANSFER_STATUS_PENDING_ID_MUST_NOT_BE_INT_MAX
        if equal(event.pending_id, event.id):
            return TRANSFER_STATUS_PENDING_ID_MUST_BE_DIFFERENT
        if event.timeout != 0:
            return TRANSFER_STATUS_TIMEOUT_RESERVED_FOR_PENDING_TRANSFER
        if not self.find_pending(event.pending_id, &pending):
            return TRANSFER_STATUS_PENDING_TRANSFER_NOT_FOUND
        if not pending.flags & TRANSFER_PENDING:
            return TRANSFER_STATUS_PENDING_TRANSFER_NOT_PENDING
        # An account that was erased has no open holds, so the pending transfer was resolved then.
        dr = (NULL if pending.debit_slot == LIMIT_NO_SLOT
              else row_at(self.accounts, pending.debit_slot))
        cr = (NULL if pending.credit_slot == LIMIT_NO_SLOT
              else row_at(self.accounts, pending.credit_slot))
        if not is_zero(event.debit_account_id) and (
            dr == NULL or not equal(event.debit_account_id, dr.id)
        ):
            return TRANSFER_STATUS_PENDING_TRANSFER_HAS_DIFFERENT_DEBIT_ACCOUNT_ID
        if not is_zero(event.credit_account_id) and (
            cr == NULL or not equal(event.credit_account_id, cr.id)
        ):
            return TRANSFER_STATUS_PENDING_TRANSFER_HAS_DIFFERENT_CREDIT_ACCOUNT_ID
        if event.ledger and event.ledger != pending.ledger:
            return TRANSFER_STATUS_PENDING_TRANSFER_HAS_DIFFERENT_LEDGER
        if event.code and event.code != pending.code:
            return TRANSFER_STATUS_PENDING_TRANSFER_HAS_DIFFERENT_CODE
        amount = load(event.amount)
        if is_void:
            if amount == 0:
                amount = load(pending.amount)
        elif is_max(event.amount):
            amount = load(pending.amount)
        if amount > load(pending.amount):
            self.refused_slot = pending.debit_slot
            self.needed = store(amount)
            self.available = pending.amount
            return TRANSFER_STATUS_EXCEEDS_PENDING_TRANSFER_AMOUNT
        if is_void and amount < load(pending.amount):
            return TRANSFER_STATUS_PENDING_TRANSFER_HAS_DIFFERENT_AMOUNT
        if pending.state == HOLD_POSTED:
            return TRANSFER_STATUS_PENDING_TRANSFER_ALREADY_POSTED
        if pending.state == HOLD_VOIDED:
            return TRANSFER_STATUS_PENDING_TRANSFER_ALREADY_VOIDED
        if pending.state == HOLD_EXPIRED or (
            pending.expires_at_ns and pending.expires_at_ns <= timestamp
        ):
            return TRANSFER_STATUS_PENDING_TRANSFER_EXPIRED
        CHECK(dr != NULL and cr != NULL, "an open hold of an account that is not there")
        if flags & TRANSFER_IMPORTED and (
            event.timestamp <= self.last_transfer_timestamp
            or self.accounts.timestamp_used(event.timestamp)
        ):
            return TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
        if not is_void:
            if dr.flags & ACCOUNT_CLOSED:
                return TRANSFER_STATUS_DEBIT_ACCOUNT_ALREADY_CLOSED
            if cr.flags & ACCOUNT_CLOSED:
                return TRANSFER_STATUS_CREDIT_ACCOUNT_ALREADY_CLOSED
            if (dr.extra and self.accounts.extras[dr.extra].settings
                    & ACCOUNT_SETTINGS_DEBITS_BLOCKED):
                return TRANSFER_STATUS_DEBITS_BLOCKED
            if (cr.extra and self.accounts.extras[cr.extra].settings
                    & ACCOUNT_SETTINGS_CREDITS_BLOCKED):
                return TRANSFER_STATUS_CREDITS_BLOCKED

        # From here on the transfer must succeed.
        memset(entry, 0, sizeof(entry_t))
        entry.record = event[0]
        entry.record.debit_account_id = dr.id
        entry.record.credit_account_id = cr.id
        entry.record.amount = store(amount)
        if is_zero(event.user_data_128):
            entry.record.user_data_128 = pending.user_data_128
        if event.user_data_64 == 0:
            entry.record.user_data_64 = pending.user_data_64
        if event.user_data_32 == 0:
            entry.record.user_data_32 = pending.user_data_32
        entry.record.ledger = pending.ledger
        entry.record.code = pending.code
        if not flags & TRANSFER_IMPORTED:
            entry.record.timestamp = timestamp
        entry.released = pending.amount
        entry.debit_slot = pending.debit_slot
        entry.credit_slot = pending.credit_slot
        entry.kind = ENTRY_KIND_TRANSFER
        if is_void:
            entry.flags = reopening(&pending)
        return STATUS_CREATED

    cdef void run_transfers(
        self, const transfer_t* events, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain
    ) noexcept nogil:
        """Decide and commit the events of a request in order, their accounts fetched a window
        ahead."""
        cdef uint32_t index, base, size, offset, status, earlier, undo_mark = 0, entry_mark = 0
        cdef int64_t chain_start = -1
        cdef bint chain_broken = False, was_undoing = self.undoing
        cdef uint16_t imported = events[0].flags & TRANSFER_IMPORTED if count else 0
        cdef uint64_t event_timestamp, saved_last = 0
        cdef const transfer_t* event
        cdef entry_t* entry
        cdef uint64_t debit_hashes[WINDOW]
        cdef uint64_t credit_hashes[WINDOW]
        cdef uint64_t hashes[WINDOW]
        cdef int64_t debits[WINDOW]
        cdef int64_t credits[WINDOW]
        base = 0
        while base < count:
            size = min(<uint32_t>WINDOW, count - base)
            for offset in range(size):
                event = &events[base + offset]
                debit_hashes[offset] = hash_id(event.debit_account_id, self.accounts.seed)
                credit_hashes[offset] = hash_id(event.credit_account_id, self.accounts.seed)
                hashes[offset] = hash_id(event.id, NAMESPACE_TRANSFER)
                prefetch_place(&self.accounts.shards[debit_hashes[offset] >> 56],
                               debit_hashes[offset])
                prefetch_place(&self.accounts.shards[credit_hashes[offset] >> 56],
                               credit_hashes[offset])
                prefetch(&self.ids.places[<uint32_t>hashes[offset] & self.ids.mask])
            for offset in range(size):
                debits[offset] = likely_slot(self.accounts, debit_hashes[offset])
                credits[offset] = likely_slot(self.accounts, credit_hashes[offset])
            for offset in range(size):
                index = base + offset
                event = &events[index]
                event_timestamp = timestamp - count + index + 1
                status = STATUS_UNDECIDED
                results[index].timestamp = event_timestamp
                results[index].reserved = 0
                if event.flags & TRANSFER_LINKED:
                    if chain_start < 0:
                        chain_start = index
                        chain_broken = False
                        undo_mark = self.undo_count
                        entry_mark = self.block.count
                        saved_last = self.last_transfer_timestamp
                        self.undoing = True
                    if index == count - 1:
                        status = TRANSFER_STATUS_LINKED_EVENT_CHAIN_OPEN
                if status == STATUS_UNDECIDED and chain_broken:
                    status = TRANSFER_STATUS_LINKED_EVENT_FAILED
                if status == STATUS_UNDECIDED and event.flags & TRANSFER_IMPORTED != imported:
                    status = (TRANSFER_STATUS_IMPORTED_EVENT_EXPECTED if imported
                              else TRANSFER_STATUS_IMPORTED_EVENT_NOT_EXPECTED)
                if status == STATUS_UNDECIDED:
                    if not imported:
                        if event.timestamp != 0:
                            status = TRANSFER_STATUS_TIMESTAMP_MUST_BE_ZERO
                    elif event.timestamp == 0 or event.timestamp > TIMESTAMP_MAX:
                        status = TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE
                    elif event.timestamp >= event_timestamp:
                        status = TRANSFER_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE
                if status == STATUS_UNDECIDED:
                    self.event_digest = (
                        NULL if self.event_digests == NULL else self.event_digests[index])
                    self.exists_timestamp = 0
                    self.refused_slot = LIMIT_NO_SLOT
                    if debits[offset] >= 0 and not equal(
                        row_at(self.accounts, <uint32_t>debits[offset]).id, event.debit_account_id
                    ):
                        debits[offset] = self.accounts.find(
                            event.debit_account_id, debit_hashes[offset])
                    if credits[offset] >= 0 and not equal(
                        row_at(self.accounts, <uint32_t>credits[offset]).id,
                        event.credit_account_id
                    ):
                        credits[offset] = self.accounts.find(
                            event.credit_account_id, credit_hashes[offset])
                    entry = &self.block.rows[self.block.count]
                    status = self.decide_transfer(
                        event, event_timestamp, hashes[offset], debits[offset], credits[offset],
                        entry)
                    if self.exists_timestamp:
                        results[index].timestamp = self.exists_timestamp
                    if status == STATUS_CREATED:
                        if self.event_digest != NULL:
                            entry.flags |= ENTRY_HAS_METADATA
                        self.commit(entry)
                        self.finish_entry(entry, hashes[offset])
                        self.last_transfer_timestamp = entry.record.timestamp
                        results[index].timestamp = entry.record.timestamp
                results[index].status = status
                if status != STATUS_CREATED:
                    if explain:
                        self.note_refusal(index, status)
                    if chain_start >= 0 and not chain_broken:
                        chain_broken = True
                        self.roll_back(undo_mark, entry_mark)
                        self.last_transfer_timestamp = saved_last
                        for earlier in range(<uint32_t>chain_start, index):
                            results[earlier].status = TRANSFER_STATUS_LINKED_EVENT_FAILED
                            results[earlier].timestamp = timestamp - count + earlier + 1
                    if is_transient(status):
                        self.burn(event.id, hashes[offset], status, event_timestamp)
                if chain_start >= 0 and (
                    not event.flags & TRANSFER_LINKED
                    or status == TRANSFER_STATUS_LINKED_EVENT_CHAIN_OPEN
                ):
                    chain_start = -1
                    chain_broken = False
                    self.undoing = was_undoing
                    if not was_undoing:
                        self.undo_count = 0
            base += size

    cdef void burn(
        self, u128_t id, uint64_t hash, uint32_t status, uint64_t timestamp
    ) noexcept nogil:
        """Add the entry that burns an id."""
        cdef entry_t* entry = &self.block.rows[self.block.count]
        memset(entry, 0, sizeof(entry_t))
        entry.kind = ENTRY_KIND_BURNED_ID
        entry.debit_slot = LIMIT_NO_SLOT
        entry.credit_slot = LIMIT_NO_SLOT
        entry.record.id = id
        entry.record.code = <uint16_t>status
        entry.record.timestamp = timestamp
        self.event_digest = NULL
        self.finish_entry(entry, hash)

    # ------------------------------------------------------------------------------------------
    # Requests: event i of n gets timestamp - n + i + 1
    # ------------------------------------------------------------------------------------------

    def create_accounts(self, events, uint64_t timestamp, results, *, metadata=None,
                        bint dry_run=False, bint explain=False):
        """Create accounts (ACCOUNT array) and fill ``results``; return explanations of refusals
        when asked for.

        ``metadata`` maps event indexes to canonical JSON. A dry run answers the same and changes
        nothing.
        """
        return self.request("ACCOUNT", events, timestamp, results, metadata, dry_run, explain)

    def create_transfers(self, events, uint64_t timestamp, results, *, metadata=None,
                         bint dry_run=False, bint explain=False):
        """Create transfers (TRANSFER array); as ``create_accounts``. Raises Unavailable when holds
        could run out."""
        return self.request("TRANSFER", events, timestamp, results, metadata, dry_run, explain)

    def change_settings(self, events, uint64_t timestamp, results, *, metadata=None,
                        bint dry_run=False, bint explain=False):
        """Replace settings of accounts (ACCOUNT_SETTINGS array); as ``create_accounts``."""
        return self.request(
            "ACCOUNT_SETTINGS", events, timestamp, results, metadata, dry_run, explain)

    def define(self, events, uint64_t timestamp, results, *, metadata=None,
               bint dry_run=False, bint explain=False):
        """Declare ledgers and codes (DEFINITION array); as ``create_accounts``."""
        return self.request("DEFINITION", events, timestamp, results, metadata, dry_run, explain)

    def move_business_date(self, events, uint64_t timestamp, results, *, metadata=None,
                           bint dry_run=False, bint explain=False):
        """Move the business date forward (BUSINESS_DATE array); as ``create_accounts``."""
        return self.request(
            "BUSINESS_DATE", events, timestamp, results, metadata, dry_run, explain)

    def request(
        self, kind, events, uint64_t timestamp, results, metadata, bint dry_run, bint explain
    ):
        """Decide and commit one request of a kind of event; see the five methods above."""
        cdef cnp.ndarray rows = np.ascontiguousarray(events, layout.DTYPES[kind])
        cdef cnp.ndarray out = results
        cdef uint32_t count = <uint32_t>rows.shape[0], undo_mark, entry_mark, metadata_mark
        cdef uint64_t saved_account = self.last_account_timestamp
        cdef uint64_t saved_transfer = self.last_transfer_timestamp
        cdef result_t* answers
        cdef const uint8_t** digests = NULL
        cdef const uint8_t[::1] digest
        cdef Block block = self.block
        if block is None:
            raise RuntimeError("no block is open")
        if out.dtype != layout.RESULT or out.shape[0] != count or not out.flags.c_contiguous:
            raise TypeError("results must be a contiguous RESULT array, a row for each event")
        if count == 0:
            return [] if explain else None
        if (timestamp > TIMESTAMP_MAX or count > timestamp
                or timestamp - count < self.last_timestamp):
            raise ValueError(
                f"timestamp {timestamp} leaves no room for {count} events"
                f" after {self.last_timestamp}")
        if kind == "TRANSFER":
            self.check_hold_room(rows)
        if not block.reserve(count) or not self.ids.reserve(block, count):
            raise MemoryError
        answers = <result_t*>cnp.PyArray_DATA(out)
        undo_mark = self.undo_count
        entry_mark = block.count
        metadata_mark = block.metadata_count
        kept = []                       # keeps the digests alive while C points at them
        saved_date, saved_declared = self.business_date, None
        if dry_run:
            self.undoing = True
            saved_declared = dict(self.declared) if kind == "DEFINITION" else None
        try:
            if metadata:
                digests = <const uint8_t**>malloc(count * sizeof(uint8_t*))
                if digests == NULL:
                    raise MemoryError
                memset(digests, 0, count * sizeof(uint8_t*))
                for event_index, item in metadata.items():
                    digest = blake3(item).digest()
                    kept.append(digest)
                    if not 0 <= event_index < count:
                        raise IndexError(f"metadata for event {event_index} of {count}")
                    digests[event_index] = &digest[0]
            self.event_digests = digests
            self.event_digest = NULL
            self.refusal_count = 0
            if explain:
                self.refusals = <refusal_t*>malloc(count * sizeof(refusal_t))
                if self.refusals == NULL:
                    raise MemoryError
            if kind == "ACCOUNT":
                self.run_accounts_of(rows, count, timestamp, answers, explain)
            elif kind == "TRANSFER":
                self.run_transfers_of(rows, count, timestamp, answers, explain)
            else:
                self.run_administrative(kind, rows, count, timestamp, answers, metadata, explain)
            explanations = self.explain_refusals(kind) if explain else None
            if dry_run:
                self.roll_back(undo_mark, entry_mark)
                self.last_account_timestamp = saved_account
                self.last_transfer_timestamp = saved_transfer
                self.business_date = saved_date
                if saved_declared is not None:
                    self.declared = saved_declared
            else:
                self.last_timestamp = timestamp
                if block.metadata_count > metadata_mark:
                    self.keep_metadata(block, metadata, metadata_mark)
            return explanations
        finally:
            self.undoing = False
            self.undo_count = 0
            self.event_digests = NULL
            self.event_digest = NULL
            free(<void*>digests)
            free(self.refusals)
            self.refusals = NULL

    cdef void keep_metadata(self, Block block, dict metadata, uint32_t mark) except *:
        """Hand the metadata of the request's entries to the block, in the order of the entries."""
        cdef uint32_t place
        by_digest = {blake3(item).digest(): bytes(item) for item in metadata.values()}
        for place in range(mark, block.metadata_count):
            block.metadata.append(by_digest[<bytes>block.digests[32 * place:32 * place + 32]])

    cdef void check_hold_room(self, cnp.ndarray rows) except *:
        cdef const transfer_t* events = <const transfer_t*>cnp.PyArray_DATA(rows)
        cdef uint32_t index, pending = 0, count = <uint32_t>rows.shape[0]
        for index in range(count):
            pending += (events[index].flags & TRANSFER_PENDING) != 0
        if pending and pending + self.holds.count > self.holds.maximum:
            raise Unavailable(
                "holds_full",
                f"{self.holds.count} pending transfers are open, {self.holds.maximum} is the most")

    cdef void run_accounts_of(self, cnp.ndarray rows, uint32_t count, uint64_t timestamp,
                              result_t* results, bint explain) except *:
        cdef const account_t* events = <const account_t*>cnp.PyArray_DATA(rows)
        cdef uint32_t index
        if count and events[0].flags & ACCOUNT_IMPORTED:
            self.load_used_timestamps([
                self.block.rows[index].record.timestamp for index in range(self.block.count)
                if self.block.rows[index].kind in (ENTRY_KIND_TRANSFER, ENTRY_KIND_EXPIRY)
            ])
        with nogil:
            self.run_accounts(events, count, timestamp, results, explain)

    cdef void run_transfers_of(self, cnp.ndarray rows, uint32_t count, uint64_t timestamp,
                               result_t* results, bint explain) except *:
        cdef const transfer_t* events = <const transfer_t*>cnp.PyArray_DATA(rows)
        with nogil:
            self.run_transfers(events, count, timestamp, results, explain)

    # ------------------------------------------------------------------------------------------
    # Expiry
    # ------------------------------------------------------------------------------------------

    def expire(self, uint64_t timestamp, uint32_t limit):
        """Expire at most ``limit`` holds due at ``timestamp``, in order of (expires_at, creation).

        Expiry i of k takes the timestamp ``timestamp - k + i + 1``. Returns k.
        """
        cdef Block block = self.block
        cdef uint32_t count = 0, index
        cdef int64_t place
        cdef hold_t* hold
        cdef entry_t* entry
        if block is None:
            raise RuntimeError("no block is open")
        if timestamp > TIMESTAMP_MAX or timestamp < self.last_timestamp:
            raise ValueError(f"timestamp {timestamp} is before {self.last_timestamp}")
        if self.holds.next_expiry_ns == 0 or self.holds.next_expiry_ns > timestamp:
            return 0
        # Each needs a timestamp of its own after the last one.
        limit = <uint32_t>min(<uint64_t>limit, timestamp - self.last_timestamp)
        self.event_digest = NULL
        while count < limit:
            place = self.holds.next_due(timestamp)
            if place < 0:
                break
            if not block.reserve(1) or not self.ids.reserve(block, 1):
                raise MemoryError
            hold = &self.holds.rows[place]
            entry = &block.rows[block.count]
            memset(entry, 0, sizeof(entry_t))
            entry.kind = ENTRY_KIND_EXPIRY
            entry.record.pending_id = hold.id
            entry.record.debit_account_id = row_at(self.accounts, hold.debit_slot).id
            entry.record.credit_account_id = row_at(self.accounts, hold.credit_slot).id
            entry.record.ledger = hold.ledger
            entry.record.code = hold.code
            entry.released = hold.amount
            entry.debit_slot = hold.debit_slot
            entry.credit_slot = hold.credit_slot
            entry.flags = reopening(hold)
            self.commit(entry)
            self.finish_entry(entry, 0)
            count += 1
        for index in range(count):
            block.rows[block.count - count + index].record.timestamp = timestamp - count + index + 1
        if count:
            self.last_timestamp = timestamp
            self.last_transfer_timestamp = timestamp
        return count
