"""A block's stored form, written: columns, rows packed bit by bit, filters, checksums.

``encode_block`` makes the value and ``BlockView`` (of ``ledger._rows``) reads it; docs/storage.md
describes each byte.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from ledger._checksum cimport crc32c_update
from ledger._layout cimport (
    ENTRY_HAS_METADATA, ENTRY_KIND_ACCOUNT, LIMIT_BLOCK_ENTRIES_MAX, LIMIT_INDEX_BITS,
    NO_POSITION, block_header_t, entry_t, side_t,
)
from ledger._rows cimport (
    CELL_SIZE, CHUNK_BITS, CHUNK_SIZE, COLUMN_AMOUNT_HI, COLUMN_AMOUNT_LO, COLUMN_CODE,
    COLUMN_COUNT, COLUMN_CREDIT, COLUMN_CREDIT_SLOT, COLUMN_DEBIT, COLUMN_DEBIT_SLOT,
    COLUMN_ENTRY_FLAGS, COLUMN_FLAGS, COLUMN_ID_HI, COLUMN_ID_LO, COLUMN_KIND, COLUMN_LEDGER,
    COLUMN_PENDING_ID_HI, COLUMN_PENDING_ID_LO, COLUMN_RELEASED_HI, COLUMN_RELEASED_LO,
    COLUMN_TIMEOUT, COLUMN_TIMESTAMP, COLUMN_USER_DATA_128_HI, COLUMN_USER_DATA_128_LO,
    COLUMN_USER_DATA_32, COLUMN_USER_DATA_64, DIRECTORY_HEAD_SIZE, FILTER_EMPTY,
    FILTER_FINGERPRINTS, FILTER_LINES, FINGERPRINTS_MAX, FORM_CONSTANT, FORM_DENSE, FORM_RUNS,
    FORM_SPARSE, GROUP_ROWS, HEADER_SIZE, LINE_SIZE, LINE_VALUE_BITS, METADATA_COUNT_ERASED,
    RUN_SIZE, filter_size, mixed, mixed_pair,
)

import numpy as np

from ledger import layout
from ledger._checksum import crc32c
from ledger._private import Private
from ledger._rows import BlockView

__all__ = ["BlockView", "build_header", "crc32c", "encode_block"]

cdef extern from *:
    """
    static inline void store64(void *to, uint64_t v) { memcpy(to, &v, 8); }
    static inline void store32(void *to, uint32_t v) { memcpy(to, &v, 4); }
    static inline void store16(void *to, uint16_t v) { memcpy(to, &v, 2); }
    #define bit_width(v) ((v) ? 64 - __builtin_clzll(v) : 0)
    """
    void store64(void* place, uint64_t value) noexcept nogil
    void store32(void* place, uint32_t value) noexcept nogil
    void store16(void* place, uint16_t value) noexcept nogil
    uint32_t bit_width(uint64_t value) noexcept nogil

cdef enum:
    STRIDE = GROUP_ROWS + 1     # from one column to the next: no power of two, for the cache

ctypedef struct summary_t:
    uint64_t least_less_one     # of the values that are not 0
    uint64_t greatest
    uint64_t present            # values that are not 0

ctypedef struct plan_t:
    uint64_t base
    uint32_t form
    uint32_t width
    uint32_t count

ctypedef struct gathered_t:
    uint64_t* hashes
    uint32_t count
    uint32_t distinct           # at most the number of distinct values
    uint32_t form
    uint32_t size               # fingerprints or lines
    uint16_t fingerprints[FINGERPRINTS_MAX]

cdef uint64_t POSITION_BLOCKS = (<uint64_t> 1 << (64 - LIMIT_INDEX_BITS)) - 1
cdef uint64_t POSITION_INDEXES = (<uint64_t> 1 << LIMIT_INDEX_BITS) - 1


# ----------------------------------------------------------------------------------------------
# Columns
# ----------------------------------------------------------------------------------------------

cdef inline void spread_side(
    const side_t* side, uint64_t number, uint64_t* out
) noexcept nogil:
    cdef bint first = side.previous == NO_POSITION
    out[0 * STRIDE] = 0 if first else (
        ((number - (side.previous >> LIMIT_INDEX_BITS)) & POSITION_BLOCKS) + 1
    )
    out[1 * STRIDE] = 0 if first else side.previous & POSITION_INDEXES
    out[2 * STRIDE] = side.number
    out[3 * STRIDE] = ~side.skip
    out[4 * STRIDE] = side.debits_pending.lo
    out[5 * STRIDE] = side.debits_pending.hi
    out[6 * STRIDE] = side.debits_posted.lo
    out[7 * STRIDE] = side.debits_posted.hi
    out[8 * STRIDE] = side.credits_pending.lo
    out[9 * STRIDE] = side.credits_pending.hi
    out[10 * STRIDE] = side.credits_posted.lo
    out[11 * STRIDE] = side.credits_posted.hi


cdef void spread(
    const entry_t* entries, uint32_t count, uint64_t number, uint64_t* values
) noexcept nogil:
    """Up to 64 entries as columns of numbers in which "none" is 0; ledger._rows reverses it.

    A slot is stored plus one, a previous position as blocks back plus one and index, a skip with
    all bits flipped.
    """
    cdef const entry_t* entry
    cdef uint64_t* out
    cdef uint32_t row
    for row in range(count):
        entry = entries + row
        out = values + row
        out[COLUMN_KIND * STRIDE] = entry.kind
        out[COLUMN_ENTRY_FLAGS * STRIDE] = entry.flags
        out[COLUMN_ID_LO * STRIDE] = entry.record.id.lo
        out[COLUMN_ID_HI * STRIDE] = entry.record.id.hi
        out[COLUMN_DEBIT_SLOT * STRIDE] = <uint32_t> (entry.debit_slot + 1)
        out[COLUMN_CREDIT_SLOT * STRIDE] = <uint32_t> (entry.credit_slot + 1)
        out[COLUMN_AMOUNT_LO * STRIDE] = entry.record.amount.lo
        out[COLUMN_AMOUNT_HI * STRIDE] = entry.record.amount.hi
        out[COLUMN_RELEASED_LO * STRIDE] = entry.released.lo
        out[COLUMN_RELEASED_HI * STRIDE] = entry.released.hi
        out[COLUMN_PENDING_ID_LO * STRIDE] = entry.record.pending_id.lo
        out[COLUMN_PENDING_ID_HI * STRIDE] = entry.record.pending_id.hi
        out[COLUMN_USER_DATA_128_LO * STRIDE] = entry.record.user_data_128.lo
        out[COLUMN_USER_DATA_128_HI * STRIDE] = entry.record.user_data_128.hi
        out[COLUMN_USER_DATA_64 * STRIDE] = entry.record.user_data_64
        out[COLUMN_USER_DATA_32 * STRIDE] = entry.record.user_data_32
        out[COLUMN_TIMEOUT * STRIDE] = entry.record.timeout
        out[COLUMN_LEDGER * STRIDE] = entry.record.ledger
        out[COLUMN_CODE * STRIDE] = entry.record.code
        out[COLUMN_FLAGS * STRIDE] = entry.record.flags
        out[COLUMN_TIMESTAMP * STRIDE] = entry.record.timestamp
        spread_side(&entry.debit, number, out + COLUMN_DEBIT * STRIDE)
        spread_side(&entry.credit, number, out + COLUMN_CREDIT * STRIDE)


# ----------------------------------------------------------------------------------------------
# Filters
# ----------------------------------------------------------------------------------------------

cdef inline void set_line(uint8_t* lines, uint32_t count, uint64_t hashed) noexcept nogil:
    cdef uint8_t* line = lines + LINE_SIZE * (((hashed >> 32) * count) >> 32)
    cdef uint64_t bits = mixed(hashed)
    cdef int _i
    for _i in range(6):
        line[(bits >> 3) & 31] |= 1 << (bits & 7)
        bits >>= 8


cdef void gather(
    gathered_t* into, const uint64_t* lo, const uint64_t* hi, uint32_t count, uint8_t* seen,
    uint64_t seen_mask
) noexcept nogil:
    """Hash the values that are not 0; count the distinct ones with eight bits for each row."""
    cdef uint64_t hashed, bit
    cdef uint32_t i
    for i in range(count):
        if hi == NULL:
            if lo[i] == 0:
                continue
            hashed = mixed(lo[i])
        else:
            if lo[i] == 0 and hi[i] == 0:
                continue
            hashed = mixed_pair(lo[i], hi[i])
        if into.count and into.hashes[into.count - 1] == hashed:
            continue
        into.hashes[into.count] = hashed
        into.count += 1
        bit = hashed & seen_mask
        into.distinct += not (seen[bit >> 3] >> (bit & 7)) & 1
        seen[bit >> 3] |= 1 << (bit & 7)


cdef void choose_filter(gathered_t* gathered) noexcept nogil:
    """A list of fingerprints for few distinct values, lines for many."""
    cdef uint32_t i, k
    cdef uint16_t fingerprint
    gathered.form = FILTER_EMPTY
    gathered.size = 0
    if gathered.count == 0:
        return
    if gathered.distinct <= FINGERPRINTS_MAX:
        gathered.form = FILTER_FINGERPRINTS
        for i in range(gathered.count):
            fingerprint = gathered.hashes[i] >> 48
            for k in range(gathered.size):
                if gathered.fingerprints[k] == fingerprint:
                    break
            else:
                if gathered.size == FINGERPRINTS_MAX:
                    gathered.form = FILTER_LINES
                    break
                gathered.fingerprints[gathered.size] = fingerprint
                gathered.size += 1
        if gathered.form == FILTER_FINGERPRINTS:
            return
    gathered.form = FILTER_LINES
    gathered.size = (gathered.distinct * LINE_VALUE_BITS + 8 * LINE_SIZE - 1) // (8 * LINE_SIZE)


# ----------------------------------------------------------------------------------------------
# Encoding
# ----------------------------------------------------------------------------------------------

cdef class Encoder:
    """Two passes over the rows of one block: what each column needs, then the bits."""

    cdef const entry_t* entries
    cdef uint32_t count
    cdef uint64_t number
    cdef summary_t summaries[COLUMN_COUNT]
    cdef plan_t plans[COLUMN_COUNT]
    cdef uint64_t bitmaps[2]
    cdef gathered_t gathered[3]
    cdef uint64_t* hashes
    cdef uint8_t* seen
    cdef uint64_t seen_size
    cdef uint32_t runs
    cdef uint32_t metadata_count
    cdef uint32_t erased_bit
    cdef uint64_t private_size      # without the indexes of metadata
    cdef uint32_t row_size
    cdef uint32_t directory_size
    cdef uint64_t body_size

    def __dealloc__(self):
        free(self.hashes)
        free(self.seen)

    cdef int prepare(self, const entry_t* entries, uint32_t count, uint64_t number) except -1:
        cdef int i
        self.entries = entries
        self.count = count
        self.number = number
        self.seen_size = 64
        while self.seen_size < count:
            self.seen_size *= 2
        self.hashes = <uint64_t*> malloc(3 * 8 * (<size_t> count + 1))
        self.seen = <uint8_t*> calloc(3, self.seen_size)
        if self.hashes == NULL or self.seen == NULL:
            raise MemoryError
        for i in range(3):
            self.gathered[i].hashes = self.hashes + i * (<size_t> count + 1)
        return 0

    cdef int survey(self) noexcept nogil:
        """The first pass; 0, or -1 for an opening whose debit account is not the account itself."""
        cdef uint64_t values[COLUMN_COUNT][STRIDE]
        cdef uint64_t least, greatest, present, value, expected = 0
        cdef uint64_t seen_mask = 8 * self.seen_size - 1
        cdef const entry_t* entry
        cdef uint32_t group, start, count, i
        cdef int column
        for column in range(COLUMN_COUNT):
            self.summaries[column].least_less_one = <uint64_t> -1
        for group in range((self.count + GROUP_ROWS - 1) // GROUP_ROWS):
            start = group * GROUP_ROWS
            count = min(<uint32_t> GROUP_ROWS, self.count - start)
            spread(self.entries + start, count, self.number, values[0])
            for column in range(COLUMN_COUNT):
                least = self.summaries[column].least_less_one
                greatest = self.summaries[column].greatest
                present = self.summaries[column].present
                for i in range(count):
                    value = values[column][i]
                    present += value != 0
                    greatest = value if value > greatest else greatest
                    least = value - 1 if value - 1 < least else least
                self.summaries[column].least_less_one = least
                self.summaries[column].greatest = greatest
                self.summaries[column].present = present
            gather(
                &self.gathered[0], values[COLUMN_USER_DATA_128_LO],
                values[COLUMN_USER_DATA_128_HI], count, self.seen, seen_mask
            )
            gather(
                &self.gathered[1], values[COLUMN_USER_DATA_64], NULL, count,
                self.seen + self.seen_size, seen_mask
            )
            gather(
                &self.gathered[2], values[COLUMN_USER_DATA_32], NULL, count,
                self.seen + 2 * self.seen_size, seen_mask
            )
            for i in range(count):
                self.runs += values[COLUMN_TIMESTAMP][i] != expected or start + i == 0
                expected = values[COLUMN_TIMESTAMP][i] + 1
                self.bitmaps[0] |= <uint64_t> 1 << (values[COLUMN_LEDGER][i] & 63)
                self.bitmaps[1] |= <uint64_t> 1 << (values[COLUMN_CODE][i] & 63)
                self.metadata_count += values[COLUMN_ENTRY_FLAGS][i] & ENTRY_HAS_METADATA
                if values[COLUMN_KIND][i] == ENTRY_KIND_ACCOUNT:
                    entry = self.entries + start + i
                    if (
                        entry.record.id.lo != entry.record.debit_account_id.lo
                        or entry.record.id.hi != entry.record.debit_account_id.hi
                    ):
                        return -1
        self.choose()
        return 0

    cdef void choose(self) noexcept nogil:
        """The cheapest form of each column and filter, and the sizes that follow."""
        cdef uint64_t least, dense_bits, sparse_bits, cells
        cdef uint32_t dense_width, sparse_width, bits = 0, count = self.count
        cdef summary_t* summary
        cdef plan_t* plan
        cdef int column
        cells = (count + GROUP_ROWS - 1) // GROUP_ROWS
        self.body_size = self.private_size + 2 * <uint64_t> self.metadata_count
        self.directory_size = DIRECTORY_HEAD_SIZE + 4
        for column in range(COLUMN_COUNT):
            summary = &self.summaries[column]
            plan = &self.plans[column]
            least = summary.least_less_one + 1 if summary.present == count else 0
            dense_width = bit_width(summary.greatest - least)
            plan.form = FORM_CONSTANT if dense_width == 0 else FORM_DENSE
            plan.base = least
            plan.width = dense_width
            if dense_width:
                dense_bits = <uint64_t> dense_width * count
                sparse_width = bit_width(summary.greatest - summary.least_less_one - 1)
                sparse_bits = sparse_width * summary.present + 8 * CELL_SIZE * cells + 32
                if (
                    column == COLUMN_TIMESTAMP
                    and 8 * RUN_SIZE * <uint64_t> self.runs < dense_bits
                ):
                    plan.form = FORM_RUNS
                    plan.base = 0
                    plan.width = 0
                    plan.count = self.runs
                    self.body_size += RUN_SIZE * <uint64_t> self.runs
                    self.directory_size += 4
                elif sparse_bits < dense_bits - dense_bits // 8:
                    plan.form = FORM_SPARSE
                    plan.base = summary.least_less_one + 1
                    plan.width = sparse_width
                    plan.count = <uint32_t> summary.present
                    self.body_size += CELL_SIZE * cells
                    self.body_size += (plan.width * summary.present + 7) // 8
                    self.directory_size += 5
                else:
                    self.directory_size += 1
                if column == COLUMN_LEDGER or column == COLUMN_CODE:
                    self.directory_size += 8
                if plan.form == FORM_DENSE:
                    bits += plan.width
            self.directory_size += 1 + (bit_width(plan.base) + 7) // 8
        self.row_size = (bits + 7) // 8
        self.body_size += <uint64_t> self.row_size * count
        for column in range(3):
            choose_filter(&self.gathered[column])
            self.body_size += filter_size(self.gathered[column].form, self.gathered[column].size)
            self.directory_size += 1 if self.gathered[column].form == FILTER_EMPTY else 5

    cdef uint64_t value_size(self) noexcept nogil:
        cdef uint64_t chunks = (self.body_size + CHUNK_SIZE - 1) >> CHUNK_BITS
        return HEADER_SIZE + self.directory_size + self.body_size + 4 * chunks

    cdef void write(self, uint8_t* value, const uint8_t* private_part) noexcept nogil:
        """The second pass; ``value`` has value_size() bytes and begins with the header."""
        cdef uint8_t* body = value + HEADER_SIZE + self.directory_size
        cdef uint8_t* cursor = body
        cdef uint64_t done = 0, chunk, size
        cdef uint32_t i, k
        cdef uint8_t* sums
        self.write_directory(value + HEADER_SIZE)
        cursor = self.write_rows(body)
        for i in range(3):
            size = filter_size(self.gathered[i].form, self.gathered[i].size)
            if self.gathered[i].form == FILTER_FINGERPRINTS:
                memcpy(cursor, self.gathered[i].fingerprints, size)
            elif self.gathered[i].form == FILTER_LINES:
                memset(cursor, 0, size)
                for k in range(self.gathered[i].count):
                    set_line(cursor, self.gathered[i].size, self.gathered[i].hashes[k])
            cursor += size
        memcpy(cursor, private_part, self.private_size)
        cursor += self.private_size
        if self.metadata_count:
            for i in range(self.count):
                if self.entries[i].flags & ENTRY_HAS_METADATA:
                    store16(cursor, <uint16_t> i)
                    cursor += 2
        store32(
            body - 4,
            crc32c_update(0, value, HEADER_SIZE + self.directory_size - 4),
        )
        sums = cursor
        while done < self.body_size:
            chunk = min(<uint64_t> CHUNK_SIZE, self.body_size - done)
            store32(sums, crc32c_update(0, body + done, chunk))
            sums += 4
            done += chunk

    cdef void write_directory(self, uint8_t* cursor) noexcept nogil:
        cdef uint32_t base_size
        cdef plan_t* plan
        cdef int column, k
        store32(cursor, self.directory_size)
        store32(cursor + 4, <uint32_t> self.value_size())
        store32(cursor + 8, self.metadata_count | self.erased_bit)
        cursor += DIRECTORY_HEAD_SIZE
        for column in range(COLUMN_COUNT):
            plan = &self.plans[column]
            base_size = (bit_width(plan.base) + 7) // 8
            cursor[0] = plan.form | base_size << 4
            cursor += 1
            if plan.form == FORM_DENSE or plan.form == FORM_SPARSE:
                cursor[0] = plan.width
                cursor += 1
            if plan.form == FORM_SPARSE or plan.form == FORM_RUNS:
                store32(cursor, plan.count)
                cursor += 4
            for k in range(<int> base_size):
                cursor[k] = plan.base >> (8 * k) & 255
            cursor += base_size
            if plan.form != FORM_CONSTANT and (column == COLUMN_LEDGER or column == COLUMN_CODE):
                store64(cursor, self.bitmaps[column - COLUMN_LEDGER])
                cursor += 8
        for k in range(3):
            cursor[0] = self.gathered[k].form
            cursor += 1
            if self.gathered[k].form != FILTER_EMPTY:
                store32(cursor, self.gathered[k].size)
                cursor += 4

    cdef uint8_t* write_rows(self, uint8_t* body) noexcept nogil:
        """Write the table, then the sparse columns and the runs; return the end."""
        cdef uint64_t values[COLUMN_COUNT][STRIDE]
        cdef uint8_t widths[COLUMN_COUNT]
        cdef uint64_t pending[COLUMN_COUNT]
        cdef uint32_t fill[COLUMN_COUNT]
        cdef uint32_t written[COLUMN_COUNT]
        cdef uint8_t* cells[COLUMN_COUNT]
        cdef uint8_t* packed[COLUMN_COUNT]
        cdef uint8_t* table_end = body + <uint64_t> self.row_size * self.count
        cdef uint8_t* cursor = table_end
        cdef uint64_t cell_count = (self.count + GROUP_ROWS - 1) // GROUP_ROWS
        cdef uint64_t word, present, value, expected = 0
        cdef uint32_t group, start, count, i, width, dense
        cdef plan_t* plan
        cdef int column
        for column in range(COLUMN_COUNT):
            plan = &self.plans[column]
            pending[column] = 0
            fill[column] = 0
            written[column] = 0
            cells[column] = cursor
            if plan.form == FORM_SPARSE:
                packed[column] = cursor + CELL_SIZE * cell_count
                cursor = packed[column] + (<uint64_t> plan.width * plan.count + 7) // 8
            elif plan.form == FORM_RUNS:
                packed[column] = cursor + 2 * <uint64_t> plan.count
                cursor = packed[column] + 8 * <uint64_t> plan.count
        for group in range((self.count + GROUP_ROWS - 1) // GROUP_ROWS):
            start = group * GROUP_ROWS
            count = min(<uint32_t> GROUP_ROWS, self.count - start)
            dense = 0
            spread(self.entries + start, count, self.number, values[0])
            for column in range(COLUMN_COUNT):
                plan = &self.plans[column]
                if plan.form == FORM_CONSTANT:
                    continue
                if plan.form == FORM_DENSE:
                    for i in range(count):
                        values[dense][i] = values[column][i] - plan.base
                    widths[dense] = plan.width
                    dense += 1
                elif plan.form == FORM_SPARSE:
                    present = 0
                    store16(cells[column] + 8, <uint16_t> written[column])
                    width = plan.width
                    for i in range(count):
                        value = values[column][i]
                        if value == 0:
                            continue
                        present |= <uint64_t> 1 << i
                        written[column] += 1
                        value -= plan.base
                        word = pending[column] | value << fill[column]
                        fill[column] += width
                        if fill[column] >= 64:
                            store64(packed[column], word)
                            packed[column] += 8
                            fill[column] -= 64
                            # The bits that found no room begin the next word.
                            word = value >> (width - fill[column]) if fill[column] else 0
                        pending[column] = word
                    store64(cells[column], present)
                    cells[column] += CELL_SIZE
                else:
                    for i in range(count):
                        value = values[column][i]
                        if value != expected or start + i == 0:
                            store16(cells[column] + 2 * written[column], <uint16_t> (start + i))
                            store64(packed[column] + 8 * written[column], value)
                            written[column] += 1
                        expected = value + 1
            if dense:
                pack_rows(
                    values[0], widths, dense, count, body + <uint64_t> start * self.row_size,
                    self.row_size, table_end
                )
        for column in range(COLUMN_COUNT):
            if self.plans[column].form == FORM_SPARSE:
                word = pending[column]
                i = 0
                while i < fill[column]:
                    packed[column][i // 8] = word >> i & 255
                    i += 8
        return cursor


cdef void pack_rows(
    const uint64_t* values, const uint8_t* widths, uint32_t columns, uint32_t count, uint8_t* out,
    uint32_t row_size, const uint8_t* end
) noexcept nogil:
    """Put up to 64 rows of ``columns`` numbers, given column by column, one after another."""
    cdef uint64_t word, value
    cdef uint32_t row, column, width, fill
    cdef uint8_t* cursor
    for row in range(count):
        cursor = out + row * row_size
        word = 0
        fill = 0
        for column in range(columns):
            value = values[column * STRIDE + row]
            width = widths[column]
            word |= value << fill
            fill += width
            if fill >= 64:
                store64(cursor, word)
                cursor += 8
                fill -= 64
                word = value >> (width - fill) if fill else 0
        if cursor + 8 <= end:
            # Beyond this row it writes into the next one, which comes later.
            store64(cursor, word)
        else:
            while fill:
                cursor[0] = word & 255
                cursor += 1
                word >>= 8
                fill = fill - 8 if fill > 8 else 0


def build_header(**fields):
    """Return the 256 bytes of a BLOCK_HEADER.

    magic, format and rules have defaults; other fields not named are zero.

    Raises ValueError for an unknown name or bytes of another length, OverflowError for a number
    too large.
    """
    values = {
        "magic": b"SANYUAN\0", "format": layout.FORMAT_VERSION, "rules": layout.RULES_VERSION,
        **fields,
    }
    header = np.zeros(1, layout.BLOCK_HEADER)
    for name, value in values.items():
        if name not in layout.BLOCK_HEADER.fields:
            raise ValueError(f"a block header has no field {name}")
        if layout.BLOCK_HEADER[name].shape:
            value = np.frombuffer(value, np.uint8)
            if value.shape != layout.BLOCK_HEADER[name].shape:
                raise ValueError(f"{name} has {len(value)} bytes")
        header[name][0] = value
    return header.tobytes()


def encode_block(block, bytes header, *, seed=None):
    """Return the stored value of a block: its ``header`` and its entries in packed form.

    ``block`` has ``entries`` (and ``seed`` or ``private``), or is itself a one-dimensional ENTRY
    array; ``seed`` is 32 bytes, or the ``Private`` of the block. Account ids (but those of
    openings), ``metadata`` and ``reserved`` are not stored.
    Raises ValueError when header, entries and seed do not fit together.
    """
    entries = np.ascontiguousarray(getattr(block, "entries", block))
    if entries.dtype != layout.ENTRY or entries.ndim != 1:
        raise ValueError("entries must be a one-dimensional ENTRY array")
    if seed is None:
        seed = block.seed if getattr(block, "private", None) is None else block.private
    if not isinstance(seed, Private):
        seed = Private(len(entries), seed=bytes(seed))
    if seed.entry_count != len(entries):
        raise ValueError(f"salts of {seed.entry_count} entries for {len(entries)}")
    cdef bytes private_part = seed.tobytes()
    if len(header) != HEADER_SIZE or header[:8] != b"SANYUAN\0":
        raise ValueError("not a block header")
    cdef const block_header_t* head = <const block_header_t*> PyBytes_AS_STRING(header)
    if head.entry_count != <size_t> len(entries) or len(entries) > LIMIT_BLOCK_ENTRIES_MAX:
        raise ValueError(f"the header says {head.entry_count} entries, there are {len(entries)}")
    cdef const uint8_t[::1] rows = entries.view(np.uint8)
    cdef const entry_t* place = <const entry_t*> &rows[0] if len(entries) else NULL
    cdef Encoder encoder = Encoder()
    cdef const uint8_t* private_place = <const uint8_t*> PyBytes_AS_STRING(private_part)
    cdef uint8_t* out
    cdef int answer
    encoder.prepare(place, <uint32_t> len(entries), head.number)
    encoder.private_size = len(private_part)
    encoder.erased_bit = METADATA_COUNT_ERASED if seed.erased else 0
    with nogil:
        answer = encoder.survey()
    if answer:
        raise ValueError("an opening whose debit account is not the account itself")
    if seed.erased and len(seed.metadata_indexes) != encoder.metadata_count:
        raise ValueError(
            f"salts of {len(seed.metadata_indexes)} metadata objects for {encoder.metadata_count}")
    cdef bytes value = PyBytes_FromStringAndSize(NULL, encoder.value_size())
    out = <uint8_t*> PyBytes_AS_STRING(value)
    memcpy(out, PyBytes_AS_STRING(header), HEADER_SIZE)
    with nogil:
        encoder.write(out, private_place)
    return value
