"""A stored block read in place: any row alone, each chunk checked before its first use.

A value is header, directory, row table, sparse columns, filters, private part and checksums;
docs/storage.md describes each byte, and ``ledger._pack`` writes it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ledger._checksum cimport crc32c_update
from ledger._layout cimport (
    ENTRY_HAS_METADATA, ENTRY_KIND_ACCOUNT, LIMIT_BLOCK_ENTRIES_MAX, LIMIT_INDEX_BITS,
    NO_POSITION, block_header_t, entry_t, side_t,
)

cimport numpy as cnp

import numpy as np

from ledger import layout
from ledger.errors import DataDamaged, FormatTooNew

cnp.import_array()
cdef object ENTRY = layout.ENTRY
if (sizeof(entry_t), sizeof(block_header_t)) != (layout.ENTRY.itemsize, HEADER_SIZE):
    raise ImportError("ledger._rows was built with another layout; build again")


cdef inline void assemble_side(
    const uint64_t* values, uint64_t number, side_t* side
) noexcept nogil:
    if values[0] == 0:
        side.previous = NO_POSITION
    else:
        side.previous = ((number - (values[0] - 1)) << LIMIT_INDEX_BITS) | values[1]
    side.number = values[2]
    side.skip = ~values[3]
    side.debits_pending.lo = values[4]
    side.debits_pending.hi = values[5]
    side.debits_posted.lo = values[6]
    side.debits_posted.hi = values[7]
    side.credits_pending.lo = values[8]
    side.credits_pending.hi = values[9]
    side.credits_posted.lo = values[10]
    side.credits_posted.hi = values[11]


cdef inline void assemble(const uint64_t* values, uint64_t number, entry_t* out) noexcept nogil:
    """An entry from the numbers of its columns; the opposite of read_column."""
    out.record.id.lo = values[COLUMN_ID_LO]
    out.record.id.hi = values[COLUMN_ID_HI]
    out.record.debit_account_id.lo = 0
    out.record.debit_account_id.hi = 0
    out.record.credit_account_id.lo = 0
    out.record.credit_account_id.hi = 0
    out.record.amount.lo = values[COLUMN_AMOUNT_LO]
    out.record.amount.hi = values[COLUMN_AMOUNT_HI]
    out.record.pending_id.lo = values[COLUMN_PENDING_ID_LO]
    out.record.pending_id.hi = values[COLUMN_PENDING_ID_HI]
    out.record.user_data_128.lo = values[COLUMN_USER_DATA_128_LO]
    out.record.user_data_128.hi = values[COLUMN_USER_DATA_128_HI]
    out.record.user_data_64 = values[COLUMN_USER_DATA_64]
    out.record.user_data_32 = <uint32_t> values[COLUMN_USER_DATA_32]
    out.record.timeout = <uint32_t> values[COLUMN_TIMEOUT]
    out.record.ledger = <uint32_t> values[COLUMN_LEDGER]
    out.record.code = <uint16_t> values[COLUMN_CODE]
    out.record.flags = <uint16_t> values[COLUMN_FLAGS]
    out.record.timestamp = values[COLUMN_TIMESTAMP]
    out.released.lo = values[COLUMN_RELEASED_LO]
    out.released.hi = values[COLUMN_RELEASED_HI]
    out.debit_slot = <uint32_t> (values[COLUMN_DEBIT_SLOT] - 1)
    out.credit_slot = <uint32_t> (values[COLUMN_CREDIT_SLOT] - 1)
    out.metadata = 0
    out.kind = <uint8_t> values[COLUMN_KIND]
    out.flags = <uint8_t> values[COLUMN_ENTRY_FLAGS]
    out.reserved = 0
    if out.kind == ENTRY_KIND_ACCOUNT:
        out.record.debit_account_id = out.record.id
    assemble_side(values + COLUMN_DEBIT, number, &out.debit)
    assemble_side(values + COLUMN_CREDIT, number, &out.credit)


cdef inline bint has_line(const uint8_t* line, uint64_t hashed) noexcept nogil:
    cdef uint64_t bits = mixed(hashed)
    cdef int _i
    for _i in range(6):
        if not line[(bits >> 3) & 31] >> (bits & 7) & 1:
            return False
        bits >>= 8
    return True


cdef inline uint64_t bits_at(
    const uint8_t* place, uint32_t shift, uint32_t width, uint64_t mask
) noexcept nogil:
    cdef uint64_t value = load64(place) >> shift
    if shift + width > 64:
        value |= <uint64_t> place[8] << (64 - shift)
    return value & mask


cdef class BlockView:
    """A stored block, read in place: the value is not copied, and must outlive the view.

    Header and directory are checked at once, every other chunk of 4 KiB before its first use.
    Raises DataDamaged (FormatTooNew for a later format) that names the block and what is wrong
    with it. ``number`` says which block is expected.
    """

    def __cinit__(self, buffer, *, number=None):
        PyObject_GetBuffer(buffer, &self.buffer, PyBUF_SIMPLE)
        self.data = <const uint8_t*> self.buffer.buf
        self.size = self.buffer.len
        self._open()
        if number is not None and self.number != <uint64_t> number:
            raise DataDamaged(f"block {number}: the header is that of block {self.number}")

    def __dealloc__(self):
        free(self.verified)
        if self.data != NULL:
            PyBuffer_Release(&self.buffer)

    cdef int _open(self) except -1:
        cdef block_header_t header          # a copy: a stored value may lie at any address
        cdef uint64_t chunks
        cdef uint32_t directory_size
        if self.size < HEADER_SIZE + DIRECTORY_HEAD_SIZE + COLUMN_COUNT + 3 + 4 + SEED_SIZE + 4:
            raise DataDamaged(f"a block of {self.size} bytes: shorter than any block")
        if self.data[:8] != b"SANYUAN\0":
            raise DataDamaged("a block that does not begin with SANYUAN")
        memcpy(&header, self.data, HEADER_SIZE)
        self.number = header.number
        if header.format > <uint32_t> layout.FORMAT_VERSION:
            raise FormatTooNew(
                f"block {self.number}: format {header.format} is newer than this program"
            )
        directory_size = load32(self.data + HEADER_SIZE)
        if not (
            DIRECTORY_HEAD_SIZE + COLUMN_COUNT + 3 + 4 <= directory_size <= DIRECTORY_SIZE_MAX
            and HEADER_SIZE + directory_size + SEED_SIZE + 4 <= self.size
        ):
            self._refuse("the directory's size is impossible")
        self.body = HEADER_SIZE + directory_size
        if crc32c_update(0, self.data, self.body - 4) != load32(self.data + self.body - 4):
            self._refuse("header or directory do not have their checksum")
        if load32(self.data + HEADER_SIZE + 4) != self.size:
            self._refuse(f"{self.size} bytes where the directory says "
                         f"{load32(self.data + HEADER_SIZE + 4)}")
        self.metadata_count = load32(self.data + HEADER_SIZE + 8)
        self.erased = self.metadata_count & METADATA_COUNT_ERASED != 0
        self.metadata_count &= ~METADATA_COUNT_ERASED
        self.entry_count = header.entry_count
        self.first_entry = header.first_entry
        self.last_timestamp = header.last_timestamp
        self.last_account_timestamp = header.last_account_timestamp
        self.last_transfer_timestamp = header.last_transfer_timestamp
        self.business_date = header.business_date
        self.flags = header.flags
        # Whoever can write the bytes can write a checksum: every size is checked before it is used.
        if self.entry_count > LIMIT_BLOCK_ENTRIES_MAX or self.metadata_count > self.entry_count:
            self._refuse("more entries than a block can hold")
        if not self._read_directory():
            self._refuse("the directory contradicts itself")
        chunks = (self.checksums - self.body + CHUNK_SIZE - 1) >> CHUNK_BITS
        if self.checksums + 4 * chunks != self.size:
            self._refuse("the sections do not fill the value")
        self.verified = <uint8_t*> calloc(chunks // 8 + 1, 1)
        if self.verified == NULL:
            raise MemoryError
        return 0

    def _refuse(self, what):
        raise DataDamaged(f"block {self.number}: {what}")

    cdef bint _read_directory(self) noexcept nogil:
        """Read the descriptors and lay the sections out; False when that is impossible."""
        cdef const uint8_t* cursor = self.data + HEADER_SIZE + DIRECTORY_HEAD_SIZE
        cdef const uint8_t* end = self.data + self.body - 4
        cdef uint64_t cells = (self.entry_count + GROUP_ROWS - 1) // GROUP_ROWS
        cdef uint64_t section
        cdef uint32_t base_size, bits = 0, k
        cdef column_t* c
        cdef int column
        self.varying_count = 0
        for column in range(COLUMN_COUNT):
            if cursor + 1 > end:
                return False
            c = &self.columns[column]
            c.form = cursor[0] & 15
            base_size = cursor[0] >> 4
            cursor += 1
            if c.form > FORM_RUNS or base_size > 8 or cursor + 1 > end:
                return False
            c.width = 0
            c.count = 0
            if c.form == FORM_DENSE or c.form == FORM_SPARSE:
                c.width = cursor[0]
                cursor += 1
                if c.width > 64 or (c.form == FORM_DENSE and c.width == 0):
                    return False
            if c.form == FORM_SPARSE or c.form == FORM_RUNS:
                if cursor + 4 > end:
                    return False
                c.count = load32(cursor)
                cursor += 4
                if c.count > self.entry_count or c.count == 0:
                    return False
            if c.form == FORM_RUNS and column != COLUMN_TIMESTAMP:
                return False
            if cursor + base_size > end:
                return False
            c.base = 0
            for k in range(base_size):
                c.base |= <uint64_t> cursor[k] << (8 * k)
            cursor += base_size
            c.mask = <uint64_t> -1 >> (64 - c.width) if c.width else 0
            self.constants[column] = c.base
            if c.form == FORM_DENSE:
                c.place = bits >> 3
                c.shift = bits & 7
                bits += c.width
            if c.form != FORM_CONSTANT:
                self.varying[self.varying_count] = column
                self.varying_count += 1
                if column == COLUMN_LEDGER or column == COLUMN_CODE:
                    if cursor + 8 > end:
                        return False
                    self.bitmaps[column - COLUMN_LEDGER] = load64(cursor)
                    cursor += 8
        for k in range(3):
            if cursor + 1 > end:
                return False
            self.filters[k].form = cursor[0]
            cursor += 1
            self.filters[k].count = 0
            if self.filters[k].form > FILTER_LINES:
                return False
            if self.filters[k].form != FILTER_EMPTY:
                if cursor + 4 > end:
                    return False
                self.filters[k].count = load32(cursor)
                cursor += 4
                if self.filters[k].count == 0 or self.filters[k].count > LIMIT_BLOCK_ENTRIES_MAX:
                    return False
        if cursor != end:
            return False
        self.row_size_bytes = (bits + 7) // 8
        self.table = self.body
        section = self.table + <uint64_t> self.row_size_bytes * self.entry_count
        for column in range(COLUMN_COUNT):
            c = &self.columns[column]
            if c.form == FORM_SPARSE:
                c.place = section
                c.packed = section + CELL_SIZE * cells
                section = c.packed + (<uint64_t> c.width * c.count + 7) // 8
            elif c.form == FORM_RUNS:
                c.place = section
                c.packed = section + 2 * <uint64_t> c.count
                section = c.packed + 8 * <uint64_t> c.count
        for k in range(3):
            self.filters[k].place = section
            section += filter_size(self.filters[k].form, self.filters[k].count)
        self.private_part = section
        if self.erased:
            if section + 4 > self.size or load32(self.data + section) == 0:
                return False
            section += 4 + BARE_SIZE * <uint64_t> load32(self.data + section)
            section += SALTS_SIZE * <uint64_t> self.entry_count
            section += EXT_SALT_SIZE * <uint64_t> self.metadata_count
        else:
            section += SEED_SIZE
        self.checksums = section + 2 * <uint64_t> self.metadata_count
        # Reads of a word at the end of a section reach into the private part at most: it has 32
        # bytes at least.
        return self.checksums <= self.size

    cdef int64_t verify(self, uint64_t start, uint64_t size) noexcept nogil:
        """Compare the chunks under ``size`` bytes with their checksums, each only once."""
        cdef uint64_t chunk = (start - self.body) >> CHUNK_BITS
        cdef uint64_t last = (start - self.body + size - (size > 0)) >> CHUNK_BITS
        cdef uint64_t place
        while chunk <= last:
            if not self.verified[chunk >> 3] >> (chunk & 7) & 1:
                place = self.body + (chunk << CHUNK_BITS)
                if crc32c_update(
                    0, self.data + place, min(<uint64_t> CHUNK_SIZE, self.checksums - place)
                ) != load32(self.data + self.checksums + 4 * chunk):
                    return <int64_t> chunk
                self.verified[chunk >> 3] |= 1 << (chunk & 7)
            chunk += 1
        return INTACT

    cdef int64_t value(self, int column, uint32_t index, uint64_t* out) noexcept nogil:
        """The number of one column in one row, in the form in which it is stored."""
        cdef const column_t* c = &self.columns[column]
        cdef uint64_t place, present, rank, bit
        cdef uint32_t low, high, middle
        cdef int64_t answer
        if c.form == FORM_CONSTANT:
            out[0] = c.base
            return INTACT
        if c.form == FORM_DENSE:
            place = self.table + <uint64_t> index * self.row_size_bytes
            answer = self.verify(place, self.row_size_bytes)
            if answer != INTACT:
                return answer
            out[0] = c.base + bits_at(self.data + place + c.place, c.shift, c.width, c.mask)
            return INTACT
        if c.form == FORM_SPARSE:
            place = c.place + CELL_SIZE * <uint64_t> (index // GROUP_ROWS)
            answer = self.verify(place, CELL_SIZE)
            if answer != INTACT:
                return answer
            present = load64(self.data + place)
            out[0] = 0
            if not present >> (index % GROUP_ROWS) & 1:
                return INTACT
            rank = load16(self.data + place + 8)
            rank += bit_count(present & ((<uint64_t> 1 << (index % GROUP_ROWS)) - 1))
            if rank >= c.count:
                return INCONSISTENT
            bit = rank * c.width
            place = c.packed + (bit >> 3)
            answer = self.verify(place, ((bit & 7) + c.width + 7) >> 3)
            if answer != INTACT:
                return answer
            out[0] = c.base + bits_at(self.data + place, bit & 7, c.width, c.mask)
            return INTACT
        answer = self.verify(c.place, RUN_SIZE * <uint64_t> c.count)
        if answer != INTACT:
            return answer
        low = 0
        high = c.count
        while high - low > 1:
            middle = (low + high) // 2
            if load16(self.data + c.place + 2 * <uint64_t> middle) <= index:
                low = middle
            else:
                high = middle
        out[0] = load64(self.data + c.packed + 8 * <uint64_t> low) + index
        out[0] -= load16(self.data + c.place + 2 * <uint64_t> low)
        return INTACT

    cdef int64_t decode(self, uint32_t index, entry_t* out) noexcept nogil:
        """Decode row ``index`` below entry_count; INTACT, INCONSISTENT or the damaged chunk."""
        cdef uint64_t values[COLUMN_COUNT]
        cdef uint64_t place = self.table + <uint64_t> index * self.row_size_bytes
        cdef int64_t answer
        cdef const column_t* c
        cdef uint32_t i
        answer = self.verify(place, self.row_size_bytes)
        if answer != INTACT:
            return answer
        memcpy(values, self.constants, sizeof(values))
        for i in range(self.varying_count):
            c = &self.columns[self.varying[i]]
            if c.form == FORM_DENSE:
                values[self.varying[i]] = c.base + bits_at(
                    self.data + place + c.place, c.shift, c.width, c.mask
                )
            else:
                answer = self.value(self.varying[i], index, &values[self.varying[i]])
                if answer != INTACT:
                    return answer
        assemble(values, self.number, out)
        return INTACT

    cdef int row(self, uint32_t index, entry_t* out) except -1:
        """Decode row ``index``; raise DataDamaged when it is missing or damaged."""
        if index >= self.entry_count:
            raise DataDamaged(f"block {self.number}: has no entry {index}")
        cdef int64_t answer = self.decode(index, out)
        if answer != INTACT:
            self.raise_damaged(answer)
        return 0

    cdef int raise_damaged(self, int64_t answer) except -1:
        if answer == INCONSISTENT:
            raise DataDamaged(f"block {self.number}: a sparse column contradicts itself")
        raise DataDamaged(
            f"block {self.number}: bytes from {self.body + (answer << CHUNK_BITS)} do not have "
            "their checksum"
        )

    cdef int64_t _may_hold(self, int place, uint64_t hashed) noexcept nogil:
        """1 when the filter may hold the value, 0 when it does not, else -2 - the damaged chunk."""
        cdef const filter_t* f = &self.filters[place]
        cdef uint64_t line
        cdef int64_t answer
        cdef uint32_t i
        if f.form == FILTER_EMPTY:
            return 0
        if f.form == FILTER_FINGERPRINTS:
            answer = self.verify(f.place, 2 * <uint64_t> f.count)
            if answer != INTACT:
                return -2 - answer
            for i in range(f.count):
                if load16(self.data + f.place + 2 * <uint64_t> i) == hashed >> 48:
                    return 1
            return 0
        line = f.place + LINE_SIZE * (((hashed >> 32) * f.count) >> 32)
        answer = self.verify(line, LINE_SIZE)
        if answer != INTACT:
            return -2 - answer
        return has_line(self.data + line, hashed)

    cdef bint may_match_values(
        self, uint64_t user_data_128_lo, uint64_t user_data_128_hi, uint64_t user_data_64,
        uint32_t user_data_32, uint32_t ledger, uint16_t code
    ) except? False:
        cdef uint64_t wanted[2]
        cdef uint64_t hashed[3]
        cdef bint given[3]
        cdef const column_t* c
        cdef int64_t answer
        cdef int i
        wanted[0] = ledger
        wanted[1] = code
        for i in range(2):
            c = &self.columns[COLUMN_LEDGER + i]
            if wanted[i] == 0:
                continue
            if c.form == FORM_CONSTANT:
                if c.base != wanted[i]:
                    return False
            elif wanted[i] - c.base > c.mask or not self.bitmaps[i] >> (wanted[i] & 63) & 1:
                return False
        given[0] = (user_data_128_lo | user_data_128_hi) != 0
        given[1] = user_data_64 != 0
        given[2] = user_data_32 != 0
        hashed[0] = mixed_pair(user_data_128_lo, user_data_128_hi)
        hashed[1] = mixed(user_data_64)
        hashed[2] = mixed(user_data_32)
        for i in range(3):
            if given[i]:
                answer = self._may_hold(i, hashed[i])
                if answer == 0:
                    return False
                if answer < 0:
                    self.raise_damaged(-2 - answer)
        return True

    def may_match(self, *, user_data_128=0, user_data_64=0, user_data_32=0, ledger=0, code=0):
        """Return False when no entry has all the given values; 0 stands for any value."""
        return self.may_match_values(
            user_data_128 & layout.U64_MAX, user_data_128 >> 64, user_data_64, user_data_32,
            ledger, code,
        )

    def entries(self, start=0, stop=None):
        """Return rows ``start`` to ``stop`` as an ENTRY array.

        Account ids are 0 but in openings, and ``metadata`` is 0.
        Raises IndexError for rows that the block does not have, DataDamaged for damaged bytes.
        """
        cdef int64_t first = start
        cdef int64_t last = self.entry_count if stop is None else stop
        if not 0 <= first <= last <= self.entry_count:
            raise IndexError(f"rows {first} to {last} of a block of {self.entry_count}")
        cdef cnp.ndarray array = np.empty(last - first, ENTRY)
        if first == last:
            return array
        cdef entry_t* out = <entry_t*> cnp.PyArray_DATA(array)
        cdef int64_t answer = INTACT
        cdef int64_t index
        with nogil:
            for index in range(first, last):
                answer = self.decode(<uint32_t> index, out + (index - first))
                if answer != INTACT:
                    break
        if answer != INTACT:
            self.raise_damaged(answer)
        return array

    def check(self):
        """Verify every byte and every redundancy of the value; raise DataDamaged at the first."""
        cdef int64_t answer
        cdef uint64_t rank, place, flagged = 0, flags = 0
        cdef uint32_t i, k, cell
        cdef int column
        cdef const column_t* c
        with nogil:
            answer = self.verify(self.body, self.checksums - self.body)
        if answer != INTACT:
            self.raise_damaged(answer)
        for column in range(COLUMN_COUNT):
            c = &self.columns[column]
            if c.form == FORM_SPARSE:
                rank = 0
                for cell in range(<uint32_t> ((self.entry_count + GROUP_ROWS - 1) // GROUP_ROWS)):
                    place = c.place + CELL_SIZE * <uint64_t> cell
                    if load16(self.data + place + 8) != <uint16_t> rank:
                        self.raise_damaged(INCONSISTENT)
                    rank += bit_count(load64(self.data + place))
                if rank != c.count:
                    self.raise_damaged(INCONSISTENT)
            elif c.form == FORM_RUNS:
                for k in range(c.count):
                    place = c.place + 2 * <uint64_t> k
                    if (
                        load16(self.data + place) != 0 if k == 0
                        else load16(self.data + place) <= load16(self.data + place - 2)
                    ):
                        self._refuse("the runs of timestamps are out of order")
        place = self.checksums - 2 * <uint64_t> self.metadata_count
        for i in range(self.entry_count):
            answer = self.value(COLUMN_ENTRY_FLAGS, i, &flags)
            if answer != INTACT:
                self.raise_damaged(answer)
            if flags & ENTRY_HAS_METADATA:
                if flagged >= self.metadata_count or load16(self.data + place + 2 * flagged) != i:
                    self._refuse("the list of metadata is not that of the entries")
                flagged += 1
        if flagged != self.metadata_count:
            self._refuse("the list of metadata is not that of the entries")
        if self.erased:
            self.private()

    @property
    def size_bytes(self):
        """Bytes of the stored value."""
        return self.size

    @property
    def header_bytes(self):
        """The 256 bytes of the header."""
        return self.data[:HEADER_SIZE]

    @property
    def previous_hash(self):
        """Hash of the previous block, 32 bytes."""
        cdef block_header_t header
        memcpy(&header, self.data, HEADER_SIZE)
        return header.previous_hash[:32]

    @property
    def root(self):
        """Root of the tree over the leaves of the entries, 32 bytes."""
        cdef block_header_t header
        memcpy(&header, self.data, HEADER_SIZE)
        return header.root[:32]

    @property
    def state(self):
        """(block, state root) of the earlier block that the header names, or None."""
        cdef block_header_t header
        memcpy(&header, self.data, HEADER_SIZE)
        root = <bytes>header.state_root[:32]
        return (header.state_block, root) if any(root) else None

    @property
    def instance(self):
        """The ledger's 16 random bytes."""
        cdef block_header_t header
        memcpy(&header, self.data, HEADER_SIZE)
        return header.instance[:16]

    @property
    def hash(self):
        """The block hash, 32 bytes."""
        if self._hash is None:
            from ledger._merkle import block_hash

            self._hash = block_hash(self.header_bytes)
        return self._hash

    @property
    def seed(self):
        """The random seed of the salts, 32 bytes; None since something was erased."""
        if self.erased:
            return None
        cdef int64_t answer = self.verify(self.private_part, SEED_SIZE)
        if answer != INTACT:
            self.raise_damaged(answer)
        return self.data[self.private_part:self.private_part + SEED_SIZE]

    @property
    def metadata_indexes(self):
        """Indexes of the entries with metadata, ascending: a u4 array."""
        cdef uint64_t start = self.checksums - 2 * <uint64_t> self.metadata_count
        cdef int64_t answer = self.verify(start, self.checksums - start)
        if answer != INTACT:
            self.raise_damaged(answer)
        return np.frombuffer(self.data[start:self.checksums], "<u2").astype("<u4")

    def private(self):
        """The private part as a ``ledger._private.Private``: salts, and what stands bare."""
        if self._private is None:
            self._private = self._read_private()
        return self._private

    def _read_private(self):
        from ledger._private import Private

        cdef uint64_t place = self.private_part
        cdef uint64_t past
        cdef int64_t answer = self.verify(place, self.checksums - place)
        if answer != INTACT:
            self.raise_damaged(answer)
        indexes = self.metadata_indexes
        if not self.erased:
            return Private(self.entry_count, seed=self.seed, metadata_indexes=indexes)
        past = place + 4 + BARE_SIZE * <uint64_t> load32(self.data + place)
        bare = np.frombuffer(self.data[place + 4:past], layout.BARE)
        place = past
        past += SALTS_SIZE * <uint64_t> self.entry_count
        salts = np.frombuffer(self.data[place:past], np.uint8).reshape(-1, SALTS_SIZE)
        place = past
        past += EXT_SALT_SIZE * <uint64_t> self.metadata_count
        ext_salts = np.frombuffer(self.data[place:past], np.uint8).reshape(-1, EXT_SALT_SIZE)
        try:
            return Private(
                self.entry_count, salts=salts, metadata_indexes=indexes, ext_salts=ext_salts,
                bare=bare,
            )
        except ValueError as error:
            self._refuse(f"its private part contradicts itself: {error}")
