"""Open-addressing tables from a 32-bit tag to a 32-bit value, as inline functions on a struct.

Linear probing, at most seven eighths full, removal by backward shift. The tag is a part of the
key's hash and decides the place, so a table grows without looking at the keys; who looks up
compares the key itself.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ledger._layout cimport u128_t
from ledger._u128 cimport multiply_fold

ctypedef struct index_entry_t:
    uint32_t tag
    uint32_t value      # the value plus one; 0 is an empty place

ctypedef struct index_t:
    index_entry_t* entries
    uint32_t mask       # places minus one; entries is NULL while there are none
    uint32_t count


cdef inline uint64_t hash_id(u128_t id, uint64_t seed) noexcept nogil:
    """A 64-bit hash of an id; the seed keeps clients from choosing ids that collide."""
    cdef uint64_t mixed = multiply_fold(id.lo ^ 0x9E3779B97F4A7C15ULL ^ seed,
                                        id.hi ^ 0xD1B54A32D192ED03ULL)
    return multiply_fold(mixed ^ id.hi, 0x8CB92BA72F3D8DD7ULL ^ id.lo)


cdef inline bint index_grow(index_t* index) noexcept nogil:
    """Double the table; False when memory is out, and then nothing has changed."""
    cdef uint32_t capacity = 16 if index.entries == NULL else (index.mask + 1) * 2
    cdef index_entry_t* grown = <index_entry_t*>calloc(capacity, sizeof(index_entry_t))
    cdef uint32_t place, old, mask = capacity - 1
    if grown == NULL:
        return False
    if index.entries != NULL:
        for old in range(index.mask + 1):
            if index.entries[old].value:
                place = index.entries[old].tag & mask
                while grown[place].value:
                    place = (place + 1) & mask
                grown[place] = index.entries[old]
        free(index.entries)
    index.entries = grown
    index.mask = mask
    return True


cdef inline bint index_insert(index_t* index, uint32_t tag, uint32_t value) noexcept nogil:
    """Add a pair; the caller knows that the key is new. False when memory is out."""
    cdef uint32_t place
    if index.entries == NULL or index.count >= index.mask - (index.mask >> 3):
        if not index_grow(index):
            return False
    place = tag & index.mask
    while index.entries[place].value:
        place = (place + 1) & index.mask
    index.entries[place].tag = tag
    index.entries[place].value = value + 1
    index.count += 1
    return True


cdef inline void index_remove(index_t* index, uint32_t tag, uint32_t value) noexcept nogil:
    """Remove a pair that is there."""
    cdef uint32_t place = tag & index.mask, next_place, home
    while index.entries[place].value != value + 1 or index.entries[place].tag != tag:
        place = (place + 1) & index.mask
    next_place = place
    while True:
        next_place = (next_place + 1) & index.mask
        if not index.entries[next_place].value:
            break
        home = index.entries[next_place].tag & index.mask
        if ((next_place - home) & index.mask) >= ((next_place - place) & index.mask):
            index.entries[place] = index.entries[next_place]
            place = next_place
    index.entries[place].value = 0
    index.count -= 1


cdef inline void index_free(index_t* index) noexcept nogil:
    free(index.entries)
    index.entries = NULL
    index.mask = 0
    index.count = 0
