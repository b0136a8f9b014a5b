"""BLAKE3 and every hashed form: sides, leaves, block roots, account chains, parts of state roots.

The forms are in docs/proofs.md. Messages are hashed many at a time, one in each lane of a vector;
the kernel is in ``_blake3.h``. All functions are pure, and the ``cdef`` ones neither allocate nor
fail.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ledger._check cimport CHECK
from ledger._layout cimport (
    BARE_CREDIT_SIDE,
    BARE_DEBIT_SIDE,
    BARE_LEAF,
    ENTRY_KIND_ACCOUNT,
    ENTRY_KIND_ACCOUNT_SETTINGS,
    ENTRY_KIND_EXPIRY,
    ENTRY_KIND_TRANSFER,
    bare_t,
    entry_t,
    side_t,
    u128_t,
)

import numpy as np

from ledger import layout


cdef extern from "_blake3.h" nogil:
    const uint32_t B3_KEYED
    void b3_any(
        const uint32_t* key, uint32_t flags, const uint8_t* message, size_t size, uint64_t index,
        uint8_t* out,
    )
    void b3_derive(const uint8_t* context, size_t size, uint8_t* out)
    int b3_widest()
    void b3_choose(int width)
    int b3_width
    void b3_many(
        const uint8_t* messages, size_t stride, size_t count, int blocks, const uint32_t** keys,
        int step, uint8_t* out,
    )
    void b3_salts(const uint32_t* key, uint32_t first, size_t count, uint8_t* out)

cdef uint64_t SPREAD = 0x9E3779B97F4A7C15

cdef enum:
    # Entries hashed together: the messages of a group stay in the first-level cache.
    GROUP = 32
    LANES_MAX = 16
    KINDS = 32
    # Jobs of account chains put in order together.
    WINDOW = 1024
    PLACE_BITS = 11
    PLACES = 1 << PLACE_BITS
    SIDE_DEBIT = 1
    SIDE_CREDIT = 2
    SIDE_OWN = 3
    NODE_BYTES = 92             # of the sum tree: a child without its zeros

KEYS = {}
"""The key of each tree and of each kind of leaf: ``derive_key("sanyuan 2026 v1 <name>", "")``."""

TREES = {"node": KEY_NODE, "tile": KEY_TILE, "groups": KEY_GROUPS, "interval": KEY_INTERVAL}
"""The trees of RFC 6962's shape over 32-byte leaves, by the name of their key."""

cdef uint32_t kind_keys[KINDS][8]
cdef uint32_t words_of[KEY_COUNT][8]
# The same key for every lane of the widest vector.
cdef const uint32_t* lanes_of[KEY_COUNT][LANES_MAX]


cdef inline void hash_many(
    int key, const uint8_t* messages, size_t stride, size_t count, int blocks, uint8_t* out
) noexcept nogil:
    b3_many(messages, stride, count, blocks, lanes_of[key], 0, out)


# ----------------------------------------------------------------------------------------------
# Entries
# ----------------------------------------------------------------------------------------------

cdef void merkle_salts(
    const uint8_t* seed, uint32_t first, size_t count, uint8_t* salts
) noexcept nogil:
    """Write the salts of entries ``first`` to ``first + count - 1``, 64 bytes each: debit or own
    16, credit 16 (of an opening: the account's state salt), ext 32.

    ``salts`` has room for whole vectors: count rounded up to 16 entries. All salts come from here.
    """
    cdef uint32_t key[8]
    memcpy(key, seed, 32)
    b3_salts(key, first, count, salts)


cdef inline void write_side(
    uint8_t* message, const u128_t* account_id, const side_t* side, const entry_t* entry,
    uint8_t which, const uint8_t* salt,
) noexcept nogil:
    memcpy(message, account_id, 16)
    memcpy(message + 16, &side.number, 8)
    memcpy(message + 24, &entry.released, 16)
    memset(message + 40, 0, 8)
    message[40] = which
    message[41] = entry.kind
    memcpy(message + 48, salt, 16)


cdef void merkle_leaves(
    const entry_t* entries,
    size_t count,
    const uint8_t* seed,
    const uint8_t* ext,
    uint8_t* leaves,
) noexcept nogil:
    """Write the leaf of entry i to ``leaves + 32 i``; ``ext`` has a digest an entry, or is NULL."""
    leaves_of(entries, count, seed, NULL, NULL, 0, ext, leaves)


cdef void merkle_bare_leaves(
    const entry_t* entries,
    size_t count,
    const uint8_t* salts,
    const bare_t* bare,
    size_t bare_count,
    const uint8_t* ext,
    uint8_t* leaves,
) noexcept nogil:
    """As ``merkle_leaves``, of a block from which something was erased.

    ``salts`` are two of 16 bytes an entry; ``bare`` are the hashes that stand for what is gone, in
    order of index and part.
    """
    leaves_of(entries, count, NULL, salts, bare, bare_count, ext, leaves)


cdef void leaves_of(
    const entry_t* entries,
    size_t count,
    const uint8_t* seed,
    const uint8_t* given_salts,
    const bare_t* bare,
    size_t bare_count,
    const uint8_t* ext,
    uint8_t* leaves,
) noexcept nogil:
    cdef uint8_t salts[(GROUP + LANES_MAX) * 64]
    cdef uint8_t messages[2 * GROUP * 64]
    cdef uint8_t sides[2 * GROUP * 32]
    cdef uint8_t rows[GROUP * 192]
    cdef const uint32_t* keys[GROUP]
    cdef int debit_job[GROUP]
    cdef int credit_job[GROUP]
    cdef size_t first = 0, size, index, place = 0, group_place
    cdef size_t salt_step = 64 if given_salts == NULL else 32
    cdef int jobs
    cdef const entry_t* entry
    cdef const uint8_t* record
    cdef const uint8_t* salt
    cdef const uint8_t* salts_start = <const uint8_t*>salts
    cdef uint8_t* row
    if given_salts != NULL:
        salts_start = given_salts
    while first < count:
        size = count - first
        if size > GROUP:
            size = GROUP
        if given_salts == NULL:
            merkle_salts(seed, <uint32_t>first, size, salts)
        jobs = 0
        for index in range(size):
            entry = entries + first + index
            salt = salts_start + salt_step * (index if given_salts == NULL else first + index)
            keys[index] = kind_keys[entry.kind % KINDS]
            debit_job[index] = -1
            credit_job[index] = -1
            if entry.kind == ENTRY_KIND_TRANSFER or entry.kind == ENTRY_KIND_EXPIRY:
                write_side(
                    messages + 64 * jobs, &entry.record.debit_account_id, &entry.debit, entry,
                    SIDE_DEBIT, salt,
                )
                write_side(
                    messages + 64 * (jobs + 1), &entry.record.credit_account_id, &entry.credit,
                    entry, SIDE_CREDIT, salt + 16,
                )
                debit_job[index] = jobs
                credit_job[index] = jobs + 1
                jobs += 2
            elif entry.kind == ENTRY_KIND_ACCOUNT or entry.kind == ENTRY_KIND_ACCOUNT_SETTINGS:
                write_side(
                    messages + 64 * jobs, &entry.record.debit_account_id, &entry.debit, entry,
                    SIDE_OWN, salt,
                )
                debit_job[index] = jobs
                jobs += 1
        hash_many(KEY_SIDE, messages, 64, jobs, 1, sides)
        for index in range(size):
            record = <const uint8_t*>&entries[first + index].record
            row = rows + 192 * index
            memcpy(row, record, 16)
            memcpy(row + 16, record + 48, 80)
            if debit_job[index] >= 0:
                memcpy(row + 96, sides + 32 * debit_job[index], 32)
            else:
                memset(row + 96, 0, 32)
            if credit_job[index] >= 0:
                memcpy(row + 128, sides + 32 * credit_job[index], 32)
            else:
                memset(row + 128, 0, 32)
            if ext != NULL:
                memcpy(row + 160, ext + 32 * (first + index), 32)
            else:
                memset(row + 160, 0, 32)
        group_place = place
        while place < bare_count and bare[place].index < first + size:
            row = rows + 192 * (bare[place].index - first)
            if bare[place].part == BARE_DEBIT_SIDE:
                memcpy(row + 96, bare[place].digest, 32)
            elif bare[place].part == BARE_CREDIT_SIDE:
                memcpy(row + 128, bare[place].digest, 32)
            place += 1
        b3_many(rows, 192, size, 3, keys, 1, leaves + 32 * first)
        for group_place in range(group_place, place):
            if bare[group_place].part == BARE_LEAF:
                memcpy(leaves + 32 * bare[group_place].index, bare[group_place].digest, 32)
        first += size


# ----------------------------------------------------------------------------------------------
# Trees and chains
# ----------------------------------------------------------------------------------------------

cdef size_t tree_level(
    int key, const uint8_t* level, size_t count, uint8_t* above
) noexcept nogil:
    """Write the level above, which may be the same memory; return its size.

    Neighbours are joined and a last one without a partner moves up as it is, which gives the same
    tree as splitting at the largest power of two.
    """
    cdef size_t pairs = count // 2
    hash_many(key, level, 64, pairs, 1, above)
    if count % 2:
        memcpy(above + 32 * pairs, level + 32 * (count - 1), 32)
    return count - pairs


cdef void merkle_root(
    int key, const uint8_t* leaves, size_t count, uint8_t* scratch, uint8_t* root
) noexcept nogil:
    """Write the root of the RFC 6962 tree over the leaves; ``scratch`` has room for all of them."""
    cdef const uint8_t* level = leaves
    if count == 0:
        memset(root, 0, 32)
        return
    while count > 1:
        count = tree_level(key, level, count, scratch)
        level = scratch
    memcpy(root, level, 32)


cdef void merkle_chain(uint8_t* head, const uint8_t* leaf) noexcept nogil:
    """Replace ``head`` by ``keyed(K_chain, head, leaf)``."""
    cdef uint8_t message[64]
    memcpy(message, head, 32)
    memcpy(message + 32, leaf, 32)
    hash_many(KEY_CHAIN, message, 64, 1, 1, head)


cdef void merkle_chain_many(
    uint8_t** heads, const uint8_t** leaves, size_t count
) noexcept nogil:
    """Do ``merkle_chain(heads[i], leaves[i])`` for all i at once; all heads must be different."""
    cdef uint8_t messages[GROUP * 64]
    cdef uint8_t digests[GROUP * 32]
    cdef size_t first = 0, size, index
    while first < count:
        size = count - first
        if size > GROUP:
            size = GROUP
        for index in range(size):
            memcpy(messages + 64 * index, heads[first + index], 32)
            memcpy(messages + 64 * index + 32, leaves[first + index], 32)
        hash_many(KEY_CHAIN, messages, 64, size, 1, digests)
        for index in range(size):
            memcpy(heads[first + index], digests + 32 * index, 32)
        first += size


cdef void merkle_chain_ordered(
    uint8_t** heads, const uint8_t** leaves, size_t count
) noexcept nogil:
    """Do ``merkle_chain(heads[i], leaves[i])`` in order of i; a head may come any number of times.

    The n-th jobs of all heads do not depend on each other, so they are done together: one account
    in every transfer holds up only itself.
    """
    cdef uint16_t last_of[PLACES]  # 1 + the last job of the head at that place
    cdef uint16_t level_of[WINDOW]
    cdef uint16_t ends[WINDOW + 1]
    cdef uint8_t* sorted_heads[WINDOW]
    cdef const uint8_t* sorted_leaves[WINDOW]
    cdef size_t first = 0, size, index, place, level, levels
    while first < count:
        size = count - first
        if size > WINDOW:
            size = WINDOW
        memset(last_of, 0, sizeof(last_of))
        levels = 0
        for index in range(size):
            # Open addressing by the head's address; the table is at most half full.
            place = <size_t>(<uint64_t>heads[first + index] * SPREAD >> (64 - PLACE_BITS))
            while last_of[place] and (
                heads[first + last_of[place] - 1] != heads[first + index]
            ):
                place = (place + 1) & (PLACES - 1)
            level = level_of[last_of[place] - 1] + 1 if last_of[place] else 0
            level_of[index] = <uint16_t>level
            last_of[place] = <uint16_t>(index + 1)
            if level == levels:
                ends[level] = 0
                levels += 1
            ends[level] += 1
        # Counting sort by level; afterwards ends[level] is the end of that level's jobs.
        place = 0
        for level in range(levels):
            place += ends[level]
            ends[level] = <uint16_t>(place - ends[level])
        for index in range(size):
            place = ends[level_of[index]]
            ends[level_of[index]] += 1
            sorted_heads[place] = heads[first + index]
            sorted_leaves[place] = leaves[first + index]
        place = 0
        for level in range(levels):
            merkle_chain_many(sorted_heads + place, sorted_leaves + place, ends[level] - place)
            place = ends[level]
        first += size


# ----------------------------------------------------------------------------------------------
# State roots
# ----------------------------------------------------------------------------------------------

cdef void merkle_account_leaves(
    const uint8_t* messages, size_t stride, size_t count, uint8_t* leaves
) noexcept nogil:
    """Write the leaf of the ACCOUNT_LEAF at ``messages + stride i`` to ``leaves + 32 i``."""
    hash_many(KEY_ACCOUNT, messages, stride, count, ACCOUNT_LEAF_BYTES // 64, leaves)


cdef inline bint add_sum(const uint8_t* a, const uint8_t* b, uint8_t* out) noexcept nogil:
    """Add two numbers of 160 bits; False when the sum has more."""
    cdef uint64_t left[3]
    cdef uint64_t right[3]
    cdef uint64_t carry
    left[2] = 0
    right[2] = 0
    memcpy(left, a, SUM_BYTES)
    memcpy(right, b, SUM_BYTES)
    left[0] += right[0]
    carry = left[0] < right[0]
    left[1] += carry
    carry = left[1] < carry
    left[1] += right[1]
    carry += left[1] < right[1]
    left[2] += right[2] + carry
    memcpy(out, left, SUM_BYTES)
    return left[2] >> 32 == 0


cdef inline bint add_sums(
    const uint8_t* left, const uint8_t* right, uint8_t* parent
) noexcept nogil:
    """Write the sums of a parent of two children; ``parent`` may be one of them."""
    cdef bint fits = True
    cdef int which
    for which in range(SUMS):
        fits = add_sum(
            left + 32 + SUM_BYTES * which, right + 32 + SUM_BYTES * which,
            parent + 32 + SUM_BYTES * which,
        ) and fits
    memset(parent + 32 + SUMS * SUM_BYTES, 0, CHILD_BYTES - 32 - SUMS * SUM_BYTES)
    return fits


cdef size_t merkle_sum_level(uint8_t* children, size_t count) noexcept nogil:
    """Replace a level of the sum tree by the one above; return its size."""
    cdef uint8_t digests[GROUP * 32]
    cdef size_t pairs = count // 2, first = 0, size, index
    while first < pairs:
        size = pairs - first
        if size > GROUP:
            size = GROUP
        hash_many(
            KEY_SUM, children + 2 * CHILD_BYTES * first, 2 * CHILD_BYTES, size, 3, digests)
        for index in range(first, first + size):
            CHECK(
                add_sums(
                    children + 2 * CHILD_BYTES * index, children + 2 * CHILD_BYTES * index
                    + CHILD_BYTES, children + CHILD_BYTES * index),
                "the sums of a group have more than 160 bits",
            )
            memcpy(children + CHILD_BYTES * index, digests + 32 * (index - first), 32)
        first += size
    if count % 2:
        memcpy(children + CHILD_BYTES * pairs, children + CHILD_BYTES * (count - 1), CHILD_BYTES)
    return count - pairs


cdef bint merkle_sum_parent(
    const uint8_t* left, const uint8_t* right, uint8_t* parent
) noexcept nogil:
    """Write the parent of two children of the sum tree; False when a sum has more than 160 bits."""
    cdef uint8_t message[2 * CHILD_BYTES]
    memcpy(message, left, CHILD_BYTES)
    memcpy(message + CHILD_BYTES, right, CHILD_BYTES)
    hash_many(KEY_SUM, message, 2 * CHILD_BYTES, 1, 3, parent)
    return add_sums(message, message + CHILD_BYTES, parent)


cdef void merkle_group_head(const uint8_t* fields, uint8_t* head) noexcept nogil:
    """Write the head of a group from its 108 bytes of fields."""
    cdef uint8_t message[128]
    memset(message, 0, 128)
    memcpy(message, fields, GROUP_FIELDS_BYTES)
    hash_many(KEY_GROUP, message, 128, 1, 2, head)


cdef void merkle_state_root(
    uint64_t block, uint64_t group_count, const uint8_t* groups_root, uint8_t* root
) noexcept nogil:
    """Write the state root of a block from the root over its group heads."""
    cdef uint8_t message[64]
    memset(message, 0, 64)
    memcpy(message, &block, 8)
    memcpy(message + 8, &group_count, 8)
    memcpy(message + 16, groups_root, 32)
    hash_many(KEY_STATE, message, 64, 1, 1, root)


# ----------------------------------------------------------------------------------------------
# Messages of any size
# ----------------------------------------------------------------------------------------------

cdef void blake3_keyed(
    const uint8_t* key, const uint8_t* message, size_t size, uint8_t* out
) noexcept nogil:
    """Write the 32-byte keyed hash of a message of any size."""
    cdef uint32_t words[8]
    cdef uint8_t whole[64]
    memcpy(words, key, 32)
    b3_any(words, B3_KEYED, message, size, 0, whole)
    memcpy(out, whole, 32)


cdef void blake3_xof(const uint8_t* key, uint64_t index, uint8_t* out) noexcept nogil:
    """Write bytes ``[64 index, 64 index + 64)`` of the keyed output of the empty message."""
    cdef uint32_t words[8]
    memcpy(words, key, 32)
    b3_any(words, B3_KEYED, <const uint8_t*>b"", 0, index, out)


# ----------------------------------------------------------------------------------------------
# Python
# ----------------------------------------------------------------------------------------------

cdef inline const uint8_t* start(const uint8_t[::1] data) noexcept nogil:
    # Never read when there is nothing to read, but a valid address.
    return &data[0] if data.shape[0] else <const uint8_t*>kind_keys


def _sized(data, Py_ssize_t size, str what):
    if len(data) != size:
        raise ValueError(f"{what} has {len(data)} bytes, not {size}")
    return data


def keyed_hash(key, const uint8_t[::1] data) -> bytes:
    """Return the 32-byte keyed BLAKE3 of ``data``.

    Raises ``ValueError`` unless ``key`` has 32 bytes.
    """
    cdef const uint8_t[::1] key_bytes = _sized(key, 32, "a key")
    cdef uint8_t out[32]
    with nogil:
        blake3_keyed(&key_bytes[0], start(data), data.shape[0], out)
    return (<char*>out)[:32]


def derive_key(str context) -> bytes:
    """Return the 32-byte key that BLAKE3 derives for a context from no key material."""
    cdef bytes text = context.encode()
    cdef uint8_t out[32]
    b3_derive(text, len(text), out)
    return (<char*>out)[:32]


def xof(key, uint64_t index) -> bytes:
    """Return bytes ``[64 index, 64 index + 64)`` of the keyed output of the empty message."""
    cdef const uint8_t[::1] key_bytes = _sized(key, 32, "a key")
    cdef uint8_t out[64]
    blake3_xof(&key_bytes[0], index, out)
    return (<char*>out)[:64]


def block_leaves(entries, seed, ext=None):
    """Return the leaves of a block's entries as an ``(n, 32)`` array of bytes.

    ``entries`` is a contiguous ENTRY array with account ids, ``seed`` the block's 32 bytes or the
    ``Private`` of a stored block, ``ext`` an ``(n, 32)`` array of extension digests, or None where
    no entry has metadata. Raises ``ValueError`` for other shapes.
    """
    if entries.dtype != layout.ENTRY or entries.ndim != 1:
        raise ValueError("entries must be a one-dimensional ENTRY array")
    cdef size_t count = len(entries)
    erased = getattr(seed, "erased", False)
    plain = getattr(seed, "seed", seed)
    cdef const uint8_t[::1] seed_bytes = _sized(bytes(32) if erased else plain, 32, "a seed")
    cdef const uint8_t[:, ::1] salts
    cdef const uint8_t[::1] bare
    cdef size_t bare_count
    cdef const uint8_t[::1] ext_bytes
    cdef const uint8_t* ext_start = NULL
    leaves = np.zeros((count, 32), np.uint8)
    if count == 0:
        return leaves
    cdef const uint8_t[::1] rows = entries.view(np.uint8)
    cdef uint8_t[:, ::1] out = leaves
    if ext is not None:
        if ext.shape != (count, 32):
            raise ValueError(f"ext has the shape {ext.shape}, not {(count, 32)}")
        ext_bytes = np.ascontiguousarray(ext, np.uint8).reshape(-1)
        ext_start = &ext_bytes[0]
    if erased:
        if seed.entry_count != count:
            raise ValueError(f"salts of {seed.entry_count} entries for {count}")
        salts = seed.salts
        bare = seed.bare.view(np.uint8)
        bare_count = len(seed.bare)
        with nogil:
            merkle_bare_leaves(
                <const entry_t*>&rows[0], count, &salts[0, 0], <const bare_t*>&bare[0],
                bare_count, ext_start, &out[0, 0]
            )
        return leaves
    with nogil:
        merkle_leaves(<const entry_t*>&rows[0], count, &seed_bytes[0], ext_start, &out[0, 0])
    return leaves


def block_salts(seed, size_t count, uint32_t first=0):
    """Return the salts of ``count`` entries of a block from index ``first`` on, an ``(n, 64)``
    array: debit (or own) 16, credit 16 (an opening's state salt), ext 32."""
    cdef const uint8_t[::1] key = _sized(seed, 32, "a seed")
    # The kernel may write whole lanes beyond the last entry.
    salts = np.empty((count + LANES_MAX, 64), np.uint8)
    cdef uint8_t[:, ::1] out = salts
    merkle_salts(&key[0], first, count, &out[0, 0])
    return salts[:count]


def side_digest(account_id, number, released, side, kind, salt) -> bytes:
    """Return S of one side: ids, numbers and amounts are integers, ``salt`` 16 bytes."""
    return keyed_hash(
        KEYS["side"],
        int(account_id).to_bytes(16, "little") + int(number).to_bytes(8, "little")
        + int(released).to_bytes(16, "little") + bytes([side, kind]) + bytes(6)
        + bytes(_sized(salt, 16, "a side's salt")),
    )


def _tree(leaves, str name):
    """The leaves of a tree as contiguous bytes, and the tree's key."""
    if leaves.ndim != 2 or leaves.shape[1] != 32:
        raise ValueError(f"leaves have the shape {leaves.shape}, not (n, 32)")
    if name not in TREES:
        raise ValueError(f"there is no tree {name!r}, only {', '.join(TREES)}")
    return np.ascontiguousarray(leaves, np.uint8).reshape(-1), TREES[name]


def tree_root(leaves, str name="node") -> bytes:
    """Return the root over an ``(n, 32)`` array of leaves: zeros for none, for one the leaf itself.

    ``name`` is one of ``TREES``. Raises ``ValueError`` for another shape or name.
    """
    cdef const uint8_t[::1] rows
    cdef int key
    rows, key = _tree(leaves, name)
    cdef size_t count = rows.shape[0] // 32
    if count == 0:
        return bytes(32)
    cdef uint8_t[::1] scratch = np.empty(32 * count, np.uint8)
    cdef uint8_t out[32]
    with nogil:
        merkle_root(key, &rows[0], count, &scratch[0], out)
    return (<char*>out)[:32]


def tree_path(leaves, Py_ssize_t index, str name="node") -> bytes:
    """Return the siblings of leaf ``index`` from the leaf upwards, 32 bytes each, in one string.

    ``leaves`` and ``name`` as in ``tree_root``. Raises ``IndexError`` for a leaf that is not there.
    """
    cdef const uint8_t[::1] rows
    cdef int key
    rows, key = _tree(leaves, name)
    cdef size_t count = rows.shape[0] // 32, steps = 0
    if not 0 <= index < <Py_ssize_t>count:
        raise IndexError(f"there is no leaf {index} among {count}")
    cdef uint8_t[::1] scratch = np.empty(32 * count, np.uint8)
    cdef uint8_t path[64 * 32]
    cdef const uint8_t* level = &rows[0]
    cdef size_t place = index
    with nogil:
        while count > 1:
            if place ^ 1 < count:
                memcpy(path + 32 * steps, level + 32 * (place ^ 1), 32)
                steps += 1
            count = tree_level(key, level, count, &scratch[0])
            level = &scratch[0]
            place //= 2
    return (<char*>path)[:32 * steps]


def account_leaves(messages):
    """Return the leaves of accounts as an ``(n, 32)`` array of bytes.

    ``messages`` is an ``(n, 192)`` array of bytes, the messages of ACCOUNT_LEAF; the bytes of one
    must be beside each other. Raises ``ValueError`` for other shapes.
    """
    if messages.ndim != 2 or messages.shape[1] != ACCOUNT_LEAF_BYTES or (
        messages.dtype != np.uint8
    ):
        raise ValueError(
            f"messages are {messages.dtype} of the shape {messages.shape}, not u1 (n, 192)")
    cdef size_t count = len(messages)
    leaves = np.empty((count, 32), np.uint8)
    if count == 0:
        return leaves
    if messages.strides[1] != 1 or messages.strides[0] < ACCOUNT_LEAF_BYTES:
        messages = np.ascontiguousarray(messages)
    cdef const uint8_t[:, :] rows = messages
    cdef uint8_t[:, ::1] out = leaves
    with nogil:
        merkle_account_leaves(&rows[0, 0], rows.strides[0], count, &out[0, 0])
    return leaves


def sum_parent(left, right) -> bytes:
    """Return the parent of two nodes of a sum tree, each hash 32 and sums 60 in 92 bytes.

    Raises ``ValueError`` for other sizes and for sums above 160 bits.
    """
    cdef bytes left_child = bytes(_sized(left, NODE_BYTES, "a node")) + bytes(4)
    cdef bytes right_child = bytes(_sized(right, NODE_BYTES, "a node")) + bytes(4)
    cdef uint8_t out[CHILD_BYTES]
    if not merkle_sum_parent(left_child, right_child, out):
        raise ValueError("a sum has more than 160 bits")
    return (<char*>out)[:NODE_BYTES]


def group_head(fields) -> bytes:
    """Return the head of a group from its 108 bytes: kind, zero, code, ledger, account count, hash
    and sums of the top. Raises ``ValueError`` for another size."""
    cdef const uint8_t[::1] given = _sized(fields, GROUP_FIELDS_BYTES, "the fields of a group")
    cdef uint8_t out[32]
    merkle_group_head(&given[0], out)
    return (<char*>out)[:32]


def state_root(uint64_t block, heads) -> bytes:
    """Return the state root after a block, from the heads of its groups: an ``(n, 32)`` array or
    a sequence of 32 bytes each, in order of (kind, ledger, code)."""
    if not isinstance(heads, np.ndarray):
        heads = np.frombuffer(
            b"".join(_sized(head, 32, "a head") for head in heads), np.uint8).reshape(-1, 32)
    cdef const uint8_t[::1] groups_root = tree_root(heads, "groups")
    cdef uint8_t out[32]
    merkle_state_root(block, len(heads), &groups_root[0], out)
    return (<char*>out)[:32]


def chain(head, leaf) -> bytes:
    """Return the head of an account's chain after a leaf.

    Raises ``ValueError`` unless both have 32 bytes.
    """
    cdef const uint8_t[::1] head_bytes = _sized(head, 32, "a head")
    cdef const uint8_t[::1] leaf_bytes = _sized(leaf, 32, "a leaf")
    cdef uint8_t out[32]
    memcpy(out, &head_bytes[0], 32)
    merkle_chain(out, &leaf_bytes[0])
    return (<char*>out)[:32]


def chain_heads(heads, leaves, which) -> None:
    """Chain leaf i, a row of an ``(n, 32)`` array, to the row ``which[i]`` of ``heads``, in order.

    ``heads``, an ``(m, 32)`` array of bytes, is changed in place. Raises ``ValueError`` for other
    shapes and ``IndexError`` for a row that is not there.
    """
    if len(which) != len(leaves) or heads.shape[1:] != (32,) or leaves.shape[1:] != (32,):
        raise ValueError(f"heads {heads.shape}, leaves {leaves.shape}, {len(which)} places")
    cdef uint8_t[:, ::1] head_rows = heads
    cdef const uint8_t[:, ::1] leaf_rows = leaves
    cdef uint8_t* head_starts[WINDOW]
    cdef const uint8_t* leaf_starts[WINDOW]
    cdef Py_ssize_t count = len(which), first = 0, size, index, place
    while first < count:
        size = min(count - first, <Py_ssize_t>WINDOW)
        for index in range(size):
            place = which[first + index]
            if not 0 <= place < head_rows.shape[0]:
                raise IndexError(f"there is no head {place}")
            head_starts[index] = &head_rows[place, 0]
            leaf_starts[index] = &leaf_rows[first + index, 0]
        merkle_chain_ordered(head_starts, leaf_starts, size)
        first += size


def block_hash(header) -> bytes:
    """Return the hash of a 256-byte block header."""
    return keyed_hash(KEYS["block"], _sized(header, 256, "a block header"))


def ext_digest(seed, uint64_t index, metadata) -> bytes:
    """Return the salted digest of entry ``index``'s metadata, given in canonical form."""
    return keyed_hash(KEYS["ext"], xof(seed, index)[32:] + bytes(metadata))


def lane_count() -> int:
    """Return how many messages are hashed at once: 1, 4, 8 or 16."""
    return b3_width


def widest_lanes() -> int:
    """Return the most messages that this processor can hash at once: 1, 4, 8 or 16."""
    return b3_widest()


def choose_lanes(int count) -> None:
    """Use another kernel from now on, for tests and measurements.

    Raises ``ValueError`` where this processor has no such kernel.
    """
    if count not in (1, 4, 8, 16) or count > b3_widest():
        raise ValueError(f"no kernel of {count} lanes on this processor")
    b3_choose(count)


cdef void load_key(uint32_t* words, str name) except *:
    key = derive_key(f"sanyuan 2026 v1 {name}")
    KEYS[name] = key
    memcpy(words, <const char*>(<bytes>key), 32)


def _load_keys() -> None:
    cdef uint32_t unused[8]
    cdef int lane, key
    for name, key in (
        ("side", KEY_SIDE), ("chain", KEY_CHAIN), ("account_state", KEY_ACCOUNT),
        ("sum", KEY_SUM), ("group", KEY_GROUP), ("state", KEY_STATE), *TREES.items(),
    ):
        load_key(words_of[key], name)
        for lane in range(LANES_MAX):
            lanes_of[key][lane] = words_of[key]
    for name in ("block", "ext"):
        load_key(unused, name)
    for name, (number, _) in layout.ENTRY_KINDS.items():
        load_key(kind_keys[number], name)


_load_keys()
b3_choose(b3_widest())
