"""Administrative events: account settings, definitions, the business date."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cimport numpy as cnp

from ledger._commit cimport Committer
from ledger._layout cimport entry_t, result_t, transfer_t, u128_t

ctypedef struct refusal_t:
    uint32_t index
    uint32_t status
    uint32_t slot               # the account that limits; NO_SLOT where none does
    u128_t needed
    u128_t available
    u128_t balances[4]


cdef class Administration(Committer):
    # The request being decided.
    cdef const uint8_t** event_digests          # one for each event; NULL when none has metadata
    cdef bytes event_metadata                   # the definition's, or None
    cdef uint64_t exists_timestamp
    cdef u128_t needed
    cdef u128_t available
    cdef uint32_t refused_slot
    cdef refusal_t* refusals
    cdef uint32_t refusal_count

    cdef void note_refusal(self, uint32_t index, uint32_t status) noexcept nogil
    cdef void run_administrative(
        self, kind, cnp.ndarray rows, uint32_t count, uint64_t timestamp, result_t* results,
        metadata, bint explain) except *
    cdef uint32_t decide_administrative(
        self, const transfer_t* event, entry_t* entry, uint64_t hash) except 0


cdef bint is_seal(const entry_t* entry) noexcept nogil


cdef inline bint same_digest(const uint8_t* a, const uint8_t* b) noexcept nogil:
    """Whether two metadata digests are equal; NULL is no metadata."""
    if a == NULL or b == NULL:
        return a == b
    return memcmp(a, b, 32) == 0
