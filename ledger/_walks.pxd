# Walks along the entries of one account, for ledger._history.

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ledger._layout cimport ENTRY_KIND_EXPIRY, ENTRY_KIND_TRANSFER, entry_t, side_t, u128_t
from ledger._rows cimport BlockView

cdef enum:
    # What a filter says of one entry.
    PASSED_OVER
    TAKEN
    TOO_EARLY                   # and so is every earlier entry
    TOO_LATE                    # and so is every later entry

ctypedef struct step_t:
    entry_t entry
    uint64_t position
    bint debit                  # the account is the entry's debit side

ctypedef struct criteria_t:
    u128_t user_data_128
    uint64_t user_data_64
    uint64_t timestamp_min
    uint64_t timestamp_max
    uint32_t user_data_32
    uint32_t ledger
    uint16_t code
    bint debits
    bint credits
    bint all_kinds
    bint expiries


cdef inline const side_t* side_of(const step_t* step) noexcept nogil:
    return &step.entry.debit if step.debit else &step.entry.credit


cdef inline bint moves(const entry_t* entry) noexcept nogil:
    """A transfer or an expiry: the entries whose timestamps never decrease."""
    return entry.kind == ENTRY_KIND_TRANSFER or entry.kind == ENTRY_KIND_EXPIRY


cdef inline bint same(const u128_t* a, const u128_t* b) noexcept nogil:
    return a.lo == b.lo and a.hi == b.hi


cdef inline bint is_zero(const u128_t* value) noexcept nogil:
    return (value.lo | value.hi) == 0


cdef class Walk:
    cdef object reader
    cdef dict views
    cdef BlockView last
    cdef uint32_t slot
    cdef dict nodes             # entry number -> position of the multiples of 64 passed; or None

    cdef BlockView view(self, uint64_t number)
    cdef int load(self, uint64_t position, step_t* out) except -1
    cdef int follow(
        self, uint64_t position, uint64_t number, const step_t* come, step_t* out
    ) except -1
    cdef int previous(self, step_t* step) except -1
    cdef uint64_t skip_number(self, const step_t* step) noexcept nogil
    cdef int seek_number(self, step_t* step, uint64_t number) except -1
    cdef bint is_after(self, const step_t* step, uint64_t timestamp) except -1
    cdef int seek_time(self, step_t* step, uint64_t timestamp) except -1
    cdef int seek_block(self, step_t* step, uint64_t block) except -1
    cdef uint32_t descend(
        self, const criteria_t* criteria, step_t* step, uint64_t first, entry_t* out,
        uint64_t* positions, uint32_t limit
    ) except? 0xFFFFFFFF
    cdef uint32_t ascend(
        self, const criteria_t* criteria, const step_t* head, uint64_t first, uint64_t last,
        entry_t* out, uint64_t* positions, uint32_t limit
    ) except? 0xFFFFFFFF
