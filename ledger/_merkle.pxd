from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ledger._layout cimport bare_t, entry_t

cdef enum:
    # Keys of the messages that have one key each, and of the trees.
    KEY_SIDE
    KEY_CHAIN
    KEY_NODE
    KEY_TILE
    KEY_GROUPS
    KEY_INTERVAL
    KEY_ACCOUNT
    KEY_SUM
    KEY_GROUP
    KEY_STATE
    KEY_COUNT
    # A child of the sum tree: hash, three sums of 20 bytes, zeros.
    SUM_BYTES = 20
    SUMS = 3
    CHILD_BYTES = 96
    ACCOUNT_LEAF_BYTES = 192
    GROUP_FIELDS_BYTES = 108


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
cdef void merkle_salts(
    const uint8_t* seed, uint32_t first, size_t count, uint8_t* salts
) noexcept nogil
cdef void merkle_root(
    int key, const uint8_t* leaves, size_t count, uint8_t* scratch, uint8_t* root
) noexcept nogil
cdef void merkle_account_leaves(
    const uint8_t* messages, size_t stride, size_t count, uint8_t* leaves
) noexcept nogil
cdef size_t merkle_sum_level(uint8_t* children, size_t count) noexcept nogil
cdef bint merkle_sum_parent(
    const uint8_t* left, const uint8_t* right, uint8_t* parent
) noexcept nogil
cdef void merkle_group_head(const uint8_t* fields, uint8_t* head) noexcept nogil
cdef void merkle_state_root(
    uint64_t block, uint64_t group_count, const uint8_t* groups_root, uint8_t* root
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
