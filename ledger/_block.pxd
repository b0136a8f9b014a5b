"""A block being decided: its entries, and the ids that they use."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ledger._layout cimport entry_t, u128_t

ctypedef struct block_id_t:
    uint32_t generation         # of the block that wrote it; another one's is an empty place
    uint32_t tag
    uint32_t entry


cdef class Block:
    cdef entry_t* rows
    cdef readonly uint32_t count
    cdef uint32_t capacity
    cdef uint8_t* digests                   # 32 bytes for each metadata object
    cdef uint32_t metadata_count
    cdef uint32_t digest_capacity
    cdef public list metadata
    cdef public uint64_t number
    cdef public uint64_t first_entry
    cdef public uint64_t last_timestamp
    cdef public uint64_t last_account_timestamp
    cdef public uint64_t last_transfer_timestamp
    cdef public uint32_t business_date
    cdef public bytes seed
    cdef public object private              # a Private in the form without a seed, else None
    cdef public bytes root

    cdef void reset(self) noexcept
    cdef bint reserve(self, uint32_t more) noexcept nogil
    cdef bint add_digest(self, const uint8_t* digest) noexcept nogil


cdef class BlockIds:
    cdef block_id_t* places
    cdef uint32_t mask
    cdef uint32_t generation
    cdef uint32_t used

    cdef void clear(self) noexcept nogil
    cdef bint reserve(self, Block block, uint32_t more) noexcept nogil
    cdef int64_t find(self, Block block, uint8_t namespace, u128_t id, uint64_t hash) noexcept nogil
    cdef void insert(self, uint64_t hash, uint32_t entry) noexcept nogil
    cdef void remove_last(self, uint64_t hash, uint32_t entry) noexcept nogil


cdef uint8_t namespace_of(uint8_t kind) noexcept nogil
cdef bint has_id(const entry_t* entry) noexcept nogil
