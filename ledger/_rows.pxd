# The rows of a stored block, for readers that decode them in C. docs/storage.md has the bytes.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ledger._layout cimport entry_t

cdef enum:
    # Columns, in the order of the directory; the last twelve of each side follow SIDE_COLUMNS.
    COLUMN_KIND
    COLUMN_ENTRY_FLAGS
    COLUMN_ID_LO
    COLUMN_ID_HI
    COLUMN_DEBIT_SLOT
    COLUMN_CREDIT_SLOT
    COLUMN_AMOUNT_LO
    COLUMN_AMOUNT_HI
    COLUMN_RELEASED_LO
    COLUMN_RELEASED_HI
    COLUMN_PENDING_ID_LO
    COLUMN_PENDING_ID_HI
    COLUMN_USER_DATA_128_LO
    COLUMN_USER_DATA_128_HI
    COLUMN_USER_DATA_64
    COLUMN_USER_DATA_32
    COLUMN_TIMEOUT
    COLUMN_LEDGER
    COLUMN_CODE
    COLUMN_FLAGS
    COLUMN_TIMESTAMP
    COLUMN_DEBIT
    COLUMN_CREDIT = COLUMN_DEBIT + 12
    COLUMN_COUNT = COLUMN_CREDIT + 12

cdef enum:
    # Answers of the nogil readers of BlockView; 0 and above is the number of a damaged chunk.
    INTACT = -1
    INCONSISTENT = -2

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t load64(const void *from) { uint64_t v; memcpy(&v, from, 8); return v; }
    static inline uint32_t load32(const void *from) { uint32_t v; memcpy(&v, from, 4); return v; }
    static inline uint16_t load16(const void *from) { uint16_t v; memcpy(&v, from, 2); return v; }
    #define bit_count(v) __builtin_popcountll(v)
    """
    uint64_t load64(const void* place) noexcept nogil
    uint32_t load32(const void* place) noexcept nogil
    uint16_t load16(const void* place) noexcept nogil
    uint32_t bit_count(uint64_t value) noexcept nogil

cdef enum:
    HEADER_SIZE = 256
    DIRECTORY_HEAD_SIZE = 12
    DIRECTORY_SIZE_MAX = 1024
    CHUNK_SIZE = 4096
    CHUNK_BITS = 12
    SEED_SIZE = 32
    BARE_SIZE = 40
    SALTS_SIZE = 32             # of one entry, where there is no seed: debit 16, credit 16
    EXT_SALT_SIZE = 32
    GROUP_ROWS = 64             # rows of a sparse column's cell: 64 presence bits, 16-bit rank
    CELL_SIZE = 10
    RUN_SIZE = 10
    FINGERPRINTS_MAX = 24       # up to so many distinct values a filter is a list of 16-bit hashes
    LINE_SIZE = 32              # beyond it, lines of 256 bits, in one of which each value sets six
    LINE_VALUE_BITS = 10

cdef extern from *:
    """
    #define METADATA_COUNT_ERASED 0x80000000u
    """
    # Bit of the count of metadata: the private part has salts and bare hashes instead of a seed.
    const uint32_t METADATA_COUNT_ERASED

cdef enum:
    # Forms of a column: the low four bits of its descriptor.
    FORM_CONSTANT = 0
    FORM_DENSE = 1
    FORM_SPARSE = 2
    FORM_RUNS = 3

cdef enum:
    # Forms of a filter.
    FILTER_EMPTY = 0
    FILTER_FINGERPRINTS = 1
    FILTER_LINES = 2

ctypedef struct column_t:
    uint64_t base
    uint64_t mask
    uint64_t place      # dense: byte in the row; sparse, runs: byte in the value
    uint64_t packed     # sparse, runs: byte in the value where the values begin
    uint32_t count      # sparse: values; runs: runs
    uint32_t shift
    uint32_t width
    uint32_t form

ctypedef struct filter_t:
    uint64_t place
    uint32_t count
    uint32_t form

cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    value = (value ^ (value >> 32)) * <uint64_t> 0x9E3779B97F4A7C15
    value = (value ^ (value >> 29)) * <uint64_t> 0xD6E8FEB86659FD93
    return value ^ (value >> 32)


cdef inline uint64_t mixed_pair(uint64_t lo, uint64_t hi) noexcept nogil:
    return mixed(lo ^ mixed(hi))


cdef inline uint64_t filter_size(uint32_t form, uint32_t count) noexcept nogil:
    return 2 * count if form == FILTER_FINGERPRINTS else LINE_SIZE * <uint64_t> count


cdef class BlockView:
    cdef Py_buffer buffer
    cdef const uint8_t* data
    cdef uint64_t size
    cdef readonly uint64_t number
    cdef readonly uint64_t first_entry
    cdef readonly uint64_t last_timestamp
    cdef readonly uint64_t last_account_timestamp
    cdef readonly uint64_t last_transfer_timestamp
    cdef readonly uint32_t entry_count
    cdef readonly uint32_t business_date
    cdef readonly uint32_t flags
    cdef readonly uint32_t row_size_bytes
    cdef uint64_t table
    cdef uint64_t body
    cdef uint64_t private_part
    cdef uint64_t checksums
    cdef uint32_t metadata_count
    cdef readonly bint erased
    cdef uint32_t varying_count
    cdef uint8_t varying[COLUMN_COUNT]
    cdef uint8_t* verified
    cdef object _hash
    cdef object _private
    cdef column_t columns[COLUMN_COUNT]
    cdef uint64_t constants[COLUMN_COUNT]
    cdef filter_t filters[3]
    cdef uint64_t bitmaps[2]

    cdef int _open(self) except -1
    cdef int64_t verify(self, uint64_t start, uint64_t size) noexcept nogil
    cdef int64_t value(self, int column, uint32_t index, uint64_t* out) noexcept nogil
    cdef int64_t decode(self, uint32_t index, entry_t* out) noexcept nogil
    cdef int row(self, uint32_t index, entry_t* out) except -1
    cdef int raise_damaged(self, int64_t answer) except -1
    cdef bint _read_directory(self) noexcept nogil
    cdef int64_t _may_hold(self, int place, uint64_t hashed) noexcept nogil
    cdef bint may_match_values(
        self, uint64_t user_data_128_lo, uint64_t user_data_128_hi, uint64_t user_data_64,
        uint32_t user_data_32, uint32_t ledger, uint16_t code
    ) except? False
