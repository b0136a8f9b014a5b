# cython: language_level=3
"""A block being decided: its entries, and the ids that they use."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ledger._index cimport hash_id
from ledger._layout cimport (
    DEFINITION_KIND_SIGNING_KEY, ENTRY_HAS_METADATA, ENTRY_KIND_ACCOUNT, ENTRY_KIND_BURNED_ID,
    ENTRY_KIND_DEFINITION, ENTRY_KIND_TRANSFER, NAMESPACE_ADMINISTRATIVE, NAMESPACE_TRANSFER,
    entry_t, u128_t,
)
from ledger._u128 cimport equal, is_zero

import numpy as np
from blake3 import blake3

from ledger import layout

cnp.import_array()


cdef uint8_t namespace_of(uint8_t kind) noexcept nogil:
    """The namespace of an entry's id."""
    if kind == ENTRY_KIND_TRANSFER or kind == ENTRY_KIND_BURNED_ID:
        return NAMESPACE_TRANSFER
    return NAMESPACE_ADMINISTRATIVE


cdef bint has_id(const entry_t* entry) noexcept nogil:
    """Whether an entry uses up an id of a namespace: accounts have a table of their own, and the
    ledger's own entries (expiries, seals) have id 0."""
    return entry.kind != ENTRY_KIND_ACCOUNT and not is_zero(entry.record.id)


cdef class Block:
    """Entries that become durable together, in order, with their metadata objects.

    Filled by ``Core`` between ``open_block`` and ``close_block``, then hashed, packed and stored;
    it may be
    opened again once it is durable. ``entries`` is a view that is valid until then.
    """

    def __cinit__(self):
        self.metadata = []
        self.seed = bytes(32)
        self.root = bytes(32)

    def __dealloc__(self):
        free(self.rows)
        free(self.digests)

    @staticmethod
    def of(view, entries, metadata=()):
        """Return a block of decoded entries; ``view`` has the header's fields, ``metadata`` is in
        order of entries."""
        cdef Block block = Block()
        cdef cnp.ndarray rows = np.ascontiguousarray(entries, layout.ENTRY)
        cdef uint32_t index, place = 0
        block.number = view.number
        block.first_entry = view.first_entry
        block.last_timestamp = view.last_timestamp
        block.last_account_timestamp = view.last_account_timestamp
        block.last_transfer_timestamp = view.last_transfer_timestamp
        block.business_date = view.business_date
        if getattr(view, "erased", False):
            block.private = view.private()
        else:
            block.seed = bytes(view.seed)
        if not block.reserve(rows.shape[0]):
            raise MemoryError
        block.count = rows.shape[0]
        memcpy(block.rows, cnp.PyArray_DATA(rows), block.count * sizeof(entry_t))
        block.metadata = [bytes(item) for item in metadata]
        for item in block.metadata:
            digest = blake3(item).digest()
            if not block.add_digest(digest):
                raise MemoryError
        for index in range(block.count):
            block.rows[index].metadata = 0
            if block.rows[index].flags & ENTRY_HAS_METADATA:
                place += 1
                block.rows[index].metadata = place
        if place != len(block.metadata):
            raise ValueError(
                f"block {block.number}: {place} entries have metadata,"
                f" {len(block.metadata)} given")
        return block

    @property
    def entries(self):
        """The entries so far: a view of ENTRY records, not to be changed."""
        cdef cnp.npy_intp size = self.count * sizeof(entry_t)
        cdef cnp.ndarray raw
        if self.count == 0:
            return np.zeros(0, layout.ENTRY)
        raw = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, self.rows)
        cnp.set_array_base(raw, self)
        view = raw.view(layout.ENTRY)
        return view

    @property
    def announces_key(self):
        """Whether an entry declares a signing key: the block's flag of that name."""
        cdef uint32_t index
        cdef entry_t* row
        if self.metadata_count == 0:            # a signing key is in metadata
            return False
        for index in range(self.count):
            row = &self.rows[index]
            if (row.kind == ENTRY_KIND_DEFINITION
                    and row.record.timeout == DEFINITION_KIND_SIGNING_KEY):
                return True
        return False

    cdef void reset(self) noexcept:
        self.count = 0
        self.metadata_count = 0
        self.metadata = []
        self.seed = bytes(32)
        self.private = None
        self.root = bytes(32)

    cdef bint reserve(self, uint32_t more) noexcept nogil:
        """Make room for so many more entries; False when memory is out."""
        cdef uint32_t capacity = self.capacity
        cdef void* grown
        if self.count + more <= capacity:
            return True
        if capacity == 0:
            capacity = 64
        while capacity < self.count + more:
            capacity *= 2
        grown = realloc(self.rows, capacity * sizeof(entry_t))
        if grown == NULL:
            return False
        self.rows = <entry_t*>grown
        self.capacity = capacity
        return True

    cdef bint add_digest(self, const uint8_t* digest) noexcept nogil:
        """Keep the digest of one more metadata object; False when memory is out."""
        cdef void* grown
        if self.metadata_count == self.digest_capacity:
            grown = realloc(self.digests, <size_t>32 * (self.digest_capacity * 2 + 16))
            if grown == NULL:
                return False
            self.digests = <uint8_t*>grown
            self.digest_capacity = self.digest_capacity * 2 + 16
        memcpy(self.digests + <size_t>32 * self.metadata_count, digest, 32)
        self.metadata_count += 1
        return True


cdef class BlockIds:
    """Which entry of the open block used an id. Entries leave in reverse order only."""

    def __dealloc__(self):
        free(self.places)

    cdef void clear(self) noexcept nogil:
        """Forget all ids, for the next block."""
        self.used = 0
        self.generation += 1
        if self.generation == 0 and self.places != NULL:
            memset(self.places, 0, (<size_t>self.mask + 1) * sizeof(block_id_t))
            self.generation = 1

    cdef bint reserve(self, Block block, uint32_t more) noexcept nogil:
        """Make room for so many more ids, at most half full; False when memory is out."""
        cdef uint32_t capacity = 0 if self.places == NULL else self.mask + 1
        cdef uint32_t index
        cdef block_id_t* places
        cdef entry_t* row
        if self.places != NULL and (self.used + more) * 2 <= capacity:
            return True
        if capacity == 0:
            capacity = 128
        while capacity < (self.used + more) * 2:
            capacity *= 2
        places = <block_id_t*>calloc(capacity, sizeof(block_id_t))
        if places == NULL:
            return False
        free(self.places)
        self.places = places
        self.mask = capacity - 1
        self.generation = 1
        self.used = 0
        for index in range(block.count):
            row = &block.rows[index]
            if has_id(row):
                self.insert(hash_id(row.record.id, namespace_of(row.kind)), index)
        return True

    cdef int64_t find(
        self, Block block, uint8_t namespace, u128_t id, uint64_t hash
    ) noexcept nogil:
        """The entry of the open block that used an id, or -1."""
        cdef uint32_t tag = <uint32_t>hash
        cdef uint32_t place
        cdef block_id_t found
        cdef entry_t* row
        if self.used == 0:
            return -1
        place = tag & self.mask
        while True:
            found = self.places[place]
            if found.generation != self.generation:
                return -1
            if found.tag == tag:
                row = &block.rows[found.entry]
                if equal(row.record.id, id) and namespace_of(row.kind) == namespace:
                    return found.entry
            place = (place + 1) & self.mask

    cdef void insert(self, uint64_t hash, uint32_t entry) noexcept nogil:
        cdef uint32_t place = <uint32_t>hash & self.mask
        while self.places[place].generation == self.generation:
            place = (place + 1) & self.mask
        self.places[place].generation = self.generation
        self.places[place].tag = <uint32_t>hash
        self.places[place].entry = entry
        self.used += 1

    cdef void remove_last(self, uint64_t hash, uint32_t entry) noexcept nogil:
        """Remove the id that was inserted last: nothing has been placed behind it."""
        cdef uint32_t place = <uint32_t>hash & self.mask
        while (self.places[place].generation != self.generation
               or self.places[place].entry != entry):
            place = (place + 1) & self.mask
        self.places[place].generation = self.generation - 1
        self.used -= 1
