"""Commit: what was decided becomes the state, and can be taken back within a linked chain or a dry
run."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ledger._accounts cimport account_row_t, extra_t
from ledger._block cimport Block, BlockIds
from ledger._books cimport Books
from ledger._capture cimport Capture
from ledger._index cimport index_t
from ledger._layout cimport entry_t, resolved_t, side_t, transfer_t, u128_t

ctypedef struct undo_t:
    uint8_t kind
    uint32_t place              # slot, or place of a hold
    account_row_t row
    extra_t extra

ctypedef struct found_t:
    const transfer_t* record    # NULL when there is none
    uint8_t outcome
    uint8_t kind
    uint8_t resolution
    const uint8_t* digest       # 32 bytes; NULL for no metadata


cdef class Committer(Books):
    # The open block.
    cdef Block block
    cdef BlockIds ids
    cdef const uint8_t* event_digest            # of the event's metadata, or NULL
    cdef uint32_t* tombstones                   # holds resolved in this block
    cdef uint32_t tombstone_count
    cdef uint32_t tombstone_capacity
    cdef resolved_t* resolved
    cdef uint32_t resolved_count
    cdef index_t resolved_index
    cdef uint64_t* used_timestamps              # of transfers and expiries, sorted
    cdef uint32_t used_timestamp_count

    # The open undo scope: a linked chain or a dry run.
    cdef bint undoing
    cdef undo_t* undo
    cdef uint32_t undo_count
    cdef uint32_t undo_capacity

    # The capture under way: accounts below this slot are saved before they change, 0 for none.
    cdef uint32_t capture_end
    cdef Capture capture
    cdef int64_t hashed_block                   # the last block whose accounts have their heads

    # Recovery: sides on pages that were copied at or after this block are left alone.
    cdef bint replaying

    cdef found_t find_event(self, uint8_t namespace, u128_t id, uint64_t hash) noexcept nogil
    cdef void commit(self, entry_t* entry) noexcept nogil
    cdef void commit_side(
        self, entry_t* entry, uint32_t slot, side_t* side, bint is_credit) noexcept nogil
    cdef void advance_skips(
        self, account_row_t* row, uint32_t slot, side_t* side, uint64_t number,
        uint64_t here) noexcept nogil
    cdef void commit_holds(self, entry_t* entry) noexcept nogil
    cdef void finish_entry(self, entry_t* entry, uint64_t hash) noexcept nogil
    cdef undo_t* new_undo(self, uint8_t kind, uint32_t place) noexcept nogil
    cdef void roll_back(self, uint32_t undo_mark, uint32_t entry_mark) noexcept nogil
    cdef int require_hashed(self) except -1
    cdef bint side_is_current(self, uint32_t slot) noexcept nogil
    cdef str misfit(self, const entry_t* entry)
    cdef void replay_declaration(self, Block block, const entry_t* entry) except *
    cdef void declare(self, const entry_t* entry, bytes metadata) except *
