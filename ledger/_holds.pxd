"""The table of open pending transfers: found by id, ordered by expiry, written to disk by page."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ledger._index cimport index_t
from ledger._layout cimport u128_t

cdef enum:
    HOLD_FREE = 0
    HOLD_OPEN = 1
    HOLD_POSTED = 2             # resolved in the current block, and freed when it closes
    HOLD_VOIDED = 3
    HOLD_EXPIRED = 4

ctypedef struct hold_t:
    u128_t id
    u128_t amount
    u128_t user_data_128
    uint64_t user_data_64
    uint64_t timestamp
    uint64_t expires_at_ns      # 0 for never
    uint32_t user_data_32
    uint32_t timeout
    uint32_t debit_slot
    uint32_t credit_slot
    uint32_t ledger
    uint16_t code
    uint16_t flags
    uint8_t state
    uint8_t reserved[7]

ctypedef struct expiry_t:
    uint64_t expires_at_ns
    uint64_t timestamp
    uint32_t place


cdef class Holds:
    cdef hold_t* rows
    cdef readonly uint32_t used         # places ever used
    cdef uint32_t capacity
    cdef readonly uint32_t count        # rows that are not free
    cdef readonly uint32_t maximum
    cdef uint32_t* free_places
    cdef uint32_t free_count
    cdef uint32_t free_capacity
    cdef index_t index
    cdef expiry_t* heap
    cdef uint32_t heap_count
    cdef uint32_t heap_capacity
    cdef uint8_t* dirty
    cdef uint32_t page_capacity
    cdef uint32_t sweep_page
    cdef uint64_t seed

    cdef int64_t find(self, u128_t id) noexcept nogil
    cdef int64_t add(self, const hold_t* hold) noexcept nogil
    cdef void release(self, uint32_t place) noexcept nogil
    cdef void set_state(self, uint32_t place, uint8_t state) noexcept nogil
    cdef int64_t next_due(self, uint64_t timestamp) noexcept nogil
    cdef bint expiry_stale(self, const expiry_t* expiry) noexcept nogil
    cdef bint push_expiry(self, uint32_t place) noexcept nogil
    cdef void pop_expiry(self) noexcept nogil
    cdef void sift_up(self, uint32_t at) noexcept nogil
