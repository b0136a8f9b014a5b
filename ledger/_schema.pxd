# One table for each kind of JSON object: its fields, their types, and where their values lie in a
# record.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FIELDS_MAX = 48
    STATUS_NUMBERS = 1100

    TYPE_AMOUNT = 1
    TYPE_ID = 2
    TYPE_U64 = 3
    TYPE_NUMBER = 4
    TYPE_TIME = 5
    TYPE_FLAGS = 6
    TYPE_ENUM = 7
    TYPE_DATE = 8
    TYPE_RAW = 9

cdef struct name_t:
    const char* text
    uint32_t size
    uint32_t value

cdef struct field_t:
    const char* name
    uint32_t name_size
    const char* prefix
    uint32_t prefix_size
    const name_t* names
    uint32_t name_count
    uint16_t offset
    uint8_t type
    uint8_t width
    bint required
    # The name with its closing quote and colon in four words, and which bits of them count: how
    # the parser guesses.
    uint64_t words[4]
    uint64_t masks[4]
    uint32_t word_count
    uint32_t words_size

cdef struct schema_t:
    field_t fields[FIELDS_MAX]
    int field_count
    uint64_t required
    uint64_t required_unless_void
    int flags_field
    uint32_t item_size
    uint32_t text_size_max
    int timestamp_offset


cdef class Schema:
    cdef schema_t c
    cdef name_t names[256]
    cdef int names_used
    cdef list _keep
    cdef readonly str kind
    cdef readonly object dtype
    cdef readonly tuple fields
    cdef readonly tuple unwritten


cdef class StatusNames:
    cdef const char* text[STATUS_NUMBERS]
    cdef uint32_t size[STATUS_NUMBERS]
    cdef list keep
