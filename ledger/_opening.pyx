# cython: language_level=3
"""The rules of opening accounts."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uint8_t
from libc.string cimport memset

from ledger._accounts cimport ROW_FLAGS, ROW_HAS_METADATA, account_row_t, row_at
from ledger._administration cimport same_digest
from ledger._index cimport hash_id
from ledger._layout cimport *
from ledger._u128 cimport equal, is_max, is_zero

cdef enum:
    ACCOUNT_FLAGS_KNOWN = ROW_FLAGS


cdef class Opening(Administration):
    """The books with the rules of accounts; transfers come on top of it."""

    cdef uint32_t decide_account(
        self, const account_t* event, uint64_t timestamp, uint64_t hash
    ) noexcept nogil:
        """The status of an account's creation; STATUS_CREATED when it can be committed."""
        cdef int64_t slot
        cdef account_row_t* row
        cdef const uint8_t* digest
        cdef uint16_t limits
        if event.reserved != 0:
            return ACCOUNT_STATUS_RESERVED_FIELD
        if event.flags & ~ACCOUNT_FLAGS_KNOWN:
            return ACCOUNT_STATUS_RESERVED_FLAG
        if is_zero(event.id):
            return ACCOUNT_STATUS_ID_MUST_NOT_BE_ZERO
        if is_max(event.id):
            return ACCOUNT_STATUS_ID_MUST_NOT_BE_INT_MAX
        slot = self.accounts.find(event.id, hash)
        if slot >= 0:
            row = row_at(self.accounts, <uint32_t>slot)
            self.exists_timestamp = row.timestamp
            if event.flags != (row.flags & ROW_FLAGS):
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_FLAGS
            if not equal(event.user_data_128, row.user_data_128):
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_128
            if event.user_data_64 != row.user_data_64:
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_64
            if event.user_data_32 != row.user_data_32:
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_USER_DATA_32
            if event.ledger != row.ledger:
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_LEDGER
            if event.code != row.code:
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_CODE
            digest = NULL
            if row.flags & ROW_HAS_METADATA:
                digest = self.accounts.extras[row.extra].metadata_digest
            if not same_digest(digest, self.event_digest):
                return ACCOUNT_STATUS_EXISTS_WITH_DIFFERENT_METADATA
            return ACCOUNT_STATUS_EXISTS
        limits = (ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS
                  | ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS)
        if event.flags & limits == limits:
            return ACCOUNT_STATUS_FLAGS_ARE_MUTUALLY_EXCLUSIVE
        if not is_zero(event.debits_pending):
            return ACCOUNT_STATUS_DEBITS_PENDING_MUST_BE_ZERO
        if not is_zero(event.debits_posted):
            return ACCOUNT_STATUS_DEBITS_POSTED_MUST_BE_ZERO
        if not is_zero(event.credits_pending):
            return ACCOUNT_STATUS_CREDITS_PENDING_MUST_BE_ZERO
        if not is_zero(event.credits_posted):
            return ACCOUNT_STATUS_CREDITS_POSTED_MUST_BE_ZERO
        if event.ledger == 0:
            return ACCOUNT_STATUS_LEDGER_MUST_NOT_BE_ZERO
        if event.code == 0:
            return ACCOUNT_STATUS_CODE_MUST_NOT_BE_ZERO
        if event.flags & ACCOUNT_IMPORTED and (
            event.timestamp <= self.last_account_timestamp
            or self.transfer_timestamp_used(event.timestamp)
        ):
            return ACCOUNT_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_REGRESS
        return STATUS_CREATED

    cdef bint transfer_timestamp_used(self, uint64_t timestamp) noexcept nogil:
        """Whether a transfer or an expiry has this timestamp, as far as the request asked
        beforehand."""
        cdef uint32_t low = 0, high = self.used_timestamp_count, middle
        while low < high:
            middle = low + (high - low) // 2
            if self.used_timestamps[middle] < timestamp:
                low = middle + 1
            else:
                high = middle
        return low < self.used_timestamp_count and self.used_timestamps[low] == timestamp

    cdef void run_accounts(
        self, const account_t* events, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain
    ) noexcept nogil:
        """Decide and commit the events of a request in order."""
        cdef uint32_t index, status, earlier, undo_mark = 0, entry_mark = 0
        cdef int64_t chain_start = -1
        cdef bint chain_broken = False, was_undoing = self.undoing
        cdef uint16_t imported = events[0].flags & ACCOUNT_IMPORTED if count else 0
        cdef uint64_t event_timestamp, hash, saved_last = 0
        cdef const account_t* event
        cdef entry_t* entry
        for index in range(count):
            event = &events[index]
            event_timestamp = timestamp - count + index + 1
            status = STATUS_UNDECIDED
            results[index].timestamp = event_timestamp
            results[index].reserved = 0
            if event.flags & ACCOUNT_LINKED:
                if chain_start < 0:
                    chain_start = index
                    chain_broken = False
                    undo_mark = self.undo_count
                    entry_mark = self.block.count
                    saved_last = self.last_account_timestamp
                    self.undoing = True
                if index == count - 1:
                    status = ACCOUNT_STATUS_LINKED_EVENT_CHAIN_OPEN
            if status == STATUS_UNDECIDED and chain_broken:
                status = ACCOUNT_STATUS_LINKED_EVENT_FAILED
            if status == STATUS_UNDECIDED and event.flags & ACCOUNT_IMPORTED != imported:
                status = (ACCOUNT_STATUS_IMPORTED_EVENT_EXPECTED if imported
                          else ACCOUNT_STATUS_IMPORTED_EVENT_NOT_EXPECTED)
            if status == STATUS_UNDECIDED:
                if not imported:
                    if event.timestamp != 0:
                        status = ACCOUNT_STATUS_TIMESTAMP_MUST_BE_ZERO
                elif event.timestamp == 0 or event.timestamp > TIMESTAMP_MAX:
                    status = ACCOUNT_STATUS_IMPORTED_EVENT_TIMESTAMP_OUT_OF_RANGE
                elif event.timestamp >= event_timestamp:
                    status = ACCOUNT_STATUS_IMPORTED_EVENT_TIMESTAMP_MUST_NOT_ADVANCE
            if status == STATUS_UNDECIDED:
                self.event_digest = (
                    NULL if self.event_digests == NULL else self.event_digests[index])
                self.exists_timestamp = 0
                hash = hash_id(event.id, self.accounts.seed)
                status = self.decide_account(event, event_timestamp, hash)
                if self.exists_timestamp and status == ACCOUNT_STATUS_EXISTS:
                    results[index].timestamp = self.exists_timestamp
                if status == STATUS_CREATED:
                    # From here on the account must be created.
                    entry = &self.block.rows[self.block.count]
                    memset(entry, 0, sizeof(entry_t))
                    entry.kind = ENTRY_KIND_ACCOUNT
                    entry.credit_slot = LIMIT_NO_SLOT
                    entry.record.id = event.id
                    entry.record.debit_account_id = event.id
                    entry.record.user_data_128 = event.user_data_128
                    entry.record.user_data_64 = event.user_data_64
                    entry.record.user_data_32 = event.user_data_32
                    entry.record.ledger = event.ledger
                    entry.record.code = event.code
                    entry.record.flags = event.flags
                    entry.record.timestamp = event.timestamp if imported else event_timestamp
                    if self.event_digest != NULL:
                        entry.flags = ENTRY_HAS_METADATA
                    self.commit(entry)
                    self.finish_entry(entry, hash)
                    self.last_account_timestamp = entry.record.timestamp
                    results[index].timestamp = entry.record.timestamp
            results[index].status = status
            if status != STATUS_CREATED:
                if explain:
                    self.note_refusal(index, status)
                if chain_start >= 0 and not chain_broken:
                    chain_broken = True
                    self.roll_back(undo_mark, entry_mark)
                    self.last_account_timestamp = saved_last
                    for earlier in range(<uint32_t>chain_start, index):
                        results[earlier].status = ACCOUNT_STATUS_LINKED_EVENT_FAILED
                        results[earlier].timestamp = timestamp - count + earlier + 1
            if chain_start >= 0 and (
                not event.flags & ACCOUNT_LINKED
                or status == ACCOUNT_STATUS_LINKED_EVENT_CHAIN_OPEN
            ):
                chain_start = -1
                chain_broken = False
                self.undoing = was_undoing
                if not was_undoing:
                    self.undo_count = 0
