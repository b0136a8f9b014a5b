"""The rules of opening accounts."""

from libc.stdint cimport uint32_t, uint64_t

from ledger._administration cimport Administration
from ledger._layout cimport account_t, result_t


cdef class Opening(Administration):
    cdef uint32_t decide_account(
        self, const account_t* event, uint64_t timestamp, uint64_t hash) noexcept nogil
    cdef bint transfer_timestamp_used(self, uint64_t timestamp) noexcept nogil
    cdef void run_accounts(
        self, const account_t* events, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain) noexcept nogil
