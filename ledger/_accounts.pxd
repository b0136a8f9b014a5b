"""The table of accounts: rows by slot, found by id, grouped by (ledger, code), written to disk by
page."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ledger._index cimport index_t
from ledger._layout cimport account_t, u128_t

cdef enum:
    # Bits of account_row_t.flags above those of the record.
    ROW_HAS_METADATA = 1 << 14
    ROW_ERASED = 1 << 15        # id, user data and salt are gone; head is the account's leaf A
    ROW_FLAGS = 0x3F
    CHUNK_BITS = 16
    CHUNK_SLOTS = 1 << CHUNK_BITS
    SALT_BYTES = 16
    SHARDS = 256

ctypedef struct account_row_t:
    # First cache line: what a transfer changes.
    u128_t debits_pending
    u128_t debits_posted
    u128_t credits_pending
    u128_t credits_posted
    # Second line: what identifies the account, and its chain.
    u128_t id
    uint8_t head[32]
    uint64_t entry_count
    uint32_t ledger
    uint16_t code
    uint16_t flags
    # Third line: the rest.
    u128_t user_data_128
    uint64_t user_data_64
    uint64_t timestamp
    uint64_t last_position
    uint64_t skip_position      # the latest entry whose number is a multiple of 64
    uint32_t user_data_32
    uint32_t ordinal
    uint32_t group
    uint32_t extra              # place in the table of extras; 0 for none

ctypedef struct extra_t:
    # What few accounts have: settings, and the higher skip levels of those with many entries.
    u128_t overdraft
    u128_t ceiling
    uint64_t skip_4096          # NO_POSITION until there is such an entry
    uint64_t skip_262144
    uint32_t slot
    uint16_t settings           # account settings flags
    uint16_t reserved
    uint8_t metadata_digest[32]

ctypedef struct sum_t:
    uint64_t words[3]           # 192 bits: no number of accounts overflows it

ctypedef struct group_t:
    uint32_t ledger
    uint16_t code
    uint16_t reserved
    uint32_t account_count
    uint32_t reserved_32
    sum_t debits_pending
    sum_t debits_posted
    sum_t credits_pending
    sum_t credits_posted


cdef class Accounts:
    cdef account_row_t** chunks
    cdef uint8_t** salts        # state salts by slot, in chunks like the rows
    cdef readonly uint32_t count
    cdef uint64_t seed
    cdef index_t shards[SHARDS]
    cdef extra_t* extras
    cdef uint32_t extra_count
    cdef uint32_t extra_capacity
    cdef group_t* groups
    cdef uint32_t group_count
    cdef uint32_t group_capacity
    cdef index_t group_index
    cdef uint8_t* dirty         # one byte a page
    cdef uint64_t* loaded       # 1 + block up to which a loaded page is current; 0 if not loaded
    cdef uint32_t page_capacity
    cdef uint32_t sweep_page    # where the next search for dirty pages starts

    cdef int64_t find(self, u128_t id, uint64_t hash) noexcept nogil
    cdef int64_t append(self, const account_t* record, uint64_t hash) noexcept nogil
    cdef bint open_at(self, uint32_t slot, const account_t* record, uint64_t hash) noexcept nogil
    cdef void pop(self) noexcept nogil
    cdef extra_t* extra_of(self, uint32_t slot) noexcept nogil
    cdef bint make_extra(self, uint32_t slot) noexcept nogil
    cdef void drop_last_extra(self, uint32_t place) noexcept nogil
    cdef bint reserve_slot(self, uint32_t slot) noexcept nogil
    cdef int64_t find_group(self, uint32_t ledger, uint16_t code) noexcept nogil
    cdef bint timestamp_used(self, uint64_t timestamp) noexcept nogil
    cdef void move_group_sums(
        self, const account_row_t* before, const account_row_t* after) noexcept nogil


cdef inline account_row_t* row_at(Accounts accounts, uint32_t slot) noexcept nogil:
    return accounts.chunks[slot >> CHUNK_BITS] + (slot & (CHUNK_SLOTS - 1))


cdef inline uint8_t* salt_at(Accounts accounts, uint32_t slot) noexcept nogil:
    return accounts.salts[slot >> CHUNK_BITS] + <size_t>SALT_BYTES * (slot & (CHUNK_SLOTS - 1))


cdef inline void mark_dirty(Accounts accounts, uint32_t slot) noexcept nogil:
    accounts.dirty[slot >> 8] = 1


cdef inline void sum_add(sum_t* total, uint64_t lo, uint64_t hi) noexcept nogil:
    cdef uint64_t carry
    total.words[0] += lo
    carry = total.words[0] < lo
    total.words[1] += carry
    carry = total.words[1] < carry
    total.words[1] += hi
    carry += total.words[1] < hi
    total.words[2] += carry


cdef inline void sum_subtract(sum_t* total, uint64_t lo, uint64_t hi) noexcept nogil:
    cdef uint64_t borrow = total.words[0] < lo
    cdef uint64_t second
    total.words[0] -= lo
    second = total.words[1] < borrow
    total.words[1] -= borrow
    second += total.words[1] < hi
    total.words[1] -= hi
    total.words[2] -= second
