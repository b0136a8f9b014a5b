from libc.stdint cimport uint8_t, uint64_t

from ledger._layout cimport bare_t, entry_t


cdef void merkle_leaves(
    const entry_t* entries,
    size_t count,
    const uint8_t* seed,
    const uint8_t* ext,
    uint8_t* leaves,
) noexcept nogil
cdef void merkle_bare_leaves(
    const entry_t* entries,
    size_t count,
    const uint8_t* salts,
    const bare_t* bare,
    size_t bare_count,
    const uint8_t* ext,
    uint8_t* leaves,
) noexcept nogil
cdef void merkle_root(
    const uint8_t* leaves, size_t count, uint8_t* scratch, uint8_t* root
) noexcept nogil
cdef void merkle_chain(uint8_t* head, const uint8_t* leaf) noexcept nogil
cdef void merkle_chain_many(
    uint8_t** heads, const uint8_t** leaves, size_t count
) noexcept nogil
cdef void merkle_chain_ordered(
    uint8_t** heads, const uint8_t** leaves, size_t count
) noexcept nogil
cdef void blake3_keyed(
    const uint8_t* key, const uint8_t* message, size_t size, uint8_t* out
) noexcept nogil
cdef void blake3_xof(const uint8_t* key, uint64_t index, uint8_t* out) noexcept nogil
