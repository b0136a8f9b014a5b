"""The books: accounts, open holds, declarations and clocks, and what can be read from them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ledger._accounts cimport Accounts
from ledger._holds cimport Holds


cdef class Books:
    # What is true after the last committed entry.
    cdef readonly Accounts accounts
    cdef readonly Holds holds
    cdef readonly uint64_t last_timestamp
    cdef readonly uint64_t last_account_timestamp
    cdef readonly uint64_t last_transfer_timestamp
    cdef readonly uint32_t business_date
    cdef readonly int64_t block_number          # the last block with entries; -1 before the first
    cdef readonly uint64_t entry_number         # the next entry's
    cdef dict declared          # (kind, ledger, code) -> (exponent, flags, metadata)
