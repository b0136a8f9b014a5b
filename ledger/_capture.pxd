"""A consistent copy of all accounts, made in steps while they go on changing."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ledger._accounts cimport Accounts, account_row_t
from ledger._layout cimport state_row_t, u128_t

ctypedef struct saved_t:
    # An account as it was before it changed, until its page is copied.
    account_row_t row
    u128_t overdraft
    u128_t ceiling
    saved_t* next               # of the same page, or the next free one
    uint32_t slot
    uint32_t settings


cdef class Capture:
    cdef Accounts accounts
    cdef readonly bint under_way
    cdef readonly int64_t block         # the capture shows the accounts after this block
    cdef uint32_t next                  # the first slot that is not copied yet
    cdef readonly uint32_t end          # accounts there were when it began
    cdef saved_t** pages                # the saved accounts of each page, in no order
    cdef uint8_t* saved_bits            # one for each slot
    cdef saved_t* free_saved
    cdef saved_t* pools                 # the memory of all of them, linked by its first one
    cdef uint64_t saved_count

    cdef void save(self, uint32_t slot) noexcept nogil
    cdef saved_t* take_free(self) noexcept nogil
    cdef void copy_page(self, uint32_t page, uint32_t size, state_row_t* rows) noexcept nogil
