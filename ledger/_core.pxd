"""The state machine of the ledger; see _core.pyx."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport numpy as cnp

from ledger._block cimport Block
from ledger._commit cimport found_t
from ledger._holds cimport hold_t
from ledger._layout cimport entry_t, result_t, transfer_t, u128_t
from ledger._opening cimport Opening


cdef class Core(Opening):
    cdef uint32_t decide_transfer(
        self, const transfer_t* event, uint64_t timestamp, uint64_t hash, int64_t debit,
        int64_t credit, entry_t* entry) noexcept nogil
    cdef uint32_t decide_resolution(
        self, const transfer_t* event, uint64_t timestamp, entry_t* entry) noexcept nogil
    cdef uint32_t compare_transfer(
        self, const transfer_t* event, const found_t* found) noexcept nogil
    cdef bint find_pending(self, u128_t id, hold_t* out) noexcept nogil
    cdef void run_transfers(
        self, const transfer_t* events, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain) noexcept nogil
    cdef void burn(
        self, u128_t id, uint64_t hash, uint32_t status, uint64_t timestamp) noexcept nogil
    cdef void keep_metadata(self, Block block, dict metadata, uint32_t mark) except *
    cdef void check_hold_room(self, cnp.ndarray rows) except *
    cdef void run_accounts_of(
        self, cnp.ndarray rows, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain) except *
    cdef void run_transfers_of(
        self, cnp.ndarray rows, uint32_t count, uint64_t timestamp, result_t* results,
        bint explain) except *


cdef bint is_transient(uint32_t status) noexcept nogil
cdef uint8_t reopening(const hold_t* pending) noexcept nogil
