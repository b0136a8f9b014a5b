"""The parts of the id index that touch every id: hashes, recent tables, filters, chunks of runs.

An id is known by a keyed 64-bit hash of (namespace, id). A *record* is a hash and a 64-bit
reference: the position of an entry (block number above, index in the block below), and in the
highest bit ``RESOLVED``, set when the entry resolved the hold of that id, clear when it created or
burned the id. One id may have two records, and two ids may share a hash: whoever looks up compares
with the journal.

A recent table has one writer and any number of readers at the same time: a slot's reference is
written before its hash, a table that must grow is copied, and readers keep the view that they
began with.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ledger._layout cimport (
    ENTRY_KIND_ACCOUNT_SETTINGS,
    ADMINISTRATION_SEAL,
    ENTRY_KIND_ADMINISTRATION,
    ENTRY_KIND_BURNED_ID,
    ENTRY_KIND_DEFINITION,
    ENTRY_KIND_EXPIRY,
    ENTRY_KIND_TRANSFER,
    LIMIT_INDEX_BITS,
    NAMESPACE_ADMINISTRATIVE,
    NAMESPACE_TRANSFER,
    TRANSFER_POST_PENDING_TRANSFER,
    TRANSFER_VOID_PENDING_TRANSFER,
    candidate_t,
    entry_t,
    transfer_t,
    u128_t,
)

import numpy as np

from ledger import layout


cdef extern from *:
    """
    #include <stdint.h>

    static inline uint64_t ids_fold(uint64_t a, uint64_t b)
    {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    /* hash * size / 2^64: the place of a hash among size places, in order of the hashes */
    static inline uint64_t ids_scale(uint64_t hash, uint64_t size)
    {
        return (uint64_t)((unsigned __int128)hash * size >> 64);
    }

    #define ids_prefetch(address) __builtin_prefetch(address)
    #define ids_load(address) __atomic_load_n(address, __ATOMIC_ACQUIRE)
    #define ids_store(address, value) __atomic_store_n(address, value, __ATOMIC_RELEASE)
    #define IDS_RESOLVED (1ull << 63)
    #define IDS_SPREAD 0x9E3779B97F4A7C15ull
    """
    uint64_t ids_fold(uint64_t a, uint64_t b) nogil
    uint64_t ids_scale(uint64_t hash, uint64_t size) nogil
    void ids_prefetch(const void* address) nogil
    uint64_t ids_load(const uint64_t* address) nogil
    void ids_store(uint64_t* address, uint64_t value) nogil
    const uint64_t IDS_RESOLVED
    const uint64_t IDS_SPREAD

cdef enum:
    INDEX_MASK = (1 << LIMIT_INDEX_BITS) - 1
    GROUP = 64  # ids looked for together, so that their cache misses overlap
    AHEAD = 24  # records between the prefetch of a slot and its use
    SLACK = 512  # slots after the last home slot of a table
    FILTER_WORDS = 8  # a filter block is one cache line: 8 words of 64 bits, one bit in each

RESOLVED = 1 << 63
"""The bit of a reference that says: this entry resolved the hold with that id."""

HIT = np.dtype([("candidate", "<u8"), ("position", "<u8"), ("resolved", "?")])
"""An answer of a look-up: which candidate, an entry's position, whether it resolved the hold."""


ctypedef struct table_t:
    uint64_t* slots  # hash and reference by turns; hash 0 is an empty slot
    uint64_t homes
    uint64_t size
    uint64_t count
    uint64_t sealed
    u128_t low
    u128_t high

ctypedef struct filter_t:
    const uint64_t* words
    uint64_t blocks
    u128_t low
    u128_t high


cdef inline bint less(u128_t a, u128_t b) noexcept nogil:
    return a.hi < b.hi or (a.hi == b.hi and a.lo < b.lo)


cdef inline object as_int(u128_t id):
    return <object>id.hi << 64 | id.lo


cdef inline bint outside(u128_t id, u128_t low, u128_t high) noexcept nogil:
    return less(id, low) or less(high, id)


cdef inline bint is_usable(u128_t id) noexcept nogil:
    return (id.lo | id.hi) != 0 and (id.lo & id.hi) != <uint64_t>-1


cdef inline uint64_t hash_of(const uint64_t* seeds, uint32_t namespace, u128_t id) noexcept nogil:
    """Fold 128 bits to 64 by two keyed multiplications; 0 means an empty slot and is left out."""
    cdef uint64_t first = ids_fold(id.lo ^ seeds[0], id.hi ^ seeds[1])
    cdef uint64_t hash = ids_fold(
        first ^ seeds[2], id.lo ^ (id.hi << 29 | id.hi >> 35) ^ seeds[3] ^ namespace * IDS_SPREAD
    )
    return hash if hash else 1


cdef inline bint table_has(const table_t* table, uint64_t hash) noexcept nogil:
    cdef uint64_t slot = ids_scale(hash, table.homes)
    cdef uint64_t found
    while slot < table.size:
        found = ids_load(&table.slots[2 * slot])
        if found == hash:
            return True
        if found == 0:
            return False
        slot += 1
    return False


cdef inline bint table_insert(table_t* table, uint64_t hash, uint64_t reference) noexcept nogil:
    """False when there is no slot left between the hash's home and the end of the table."""
    cdef uint64_t slot = ids_scale(hash, table.homes)
    while table.slots[2 * slot] != 0:
        slot += 1
        if slot == table.size:
            return False
    table.slots[2 * slot + 1] = reference
    ids_store(&table.slots[2 * slot], hash)
    table.count += 1
    return True


cdef inline bint filter_has(const filter_t* filter, uint64_t hash) noexcept nogil:
    cdef const uint64_t* words = filter.words + FILTER_WORDS * ids_scale(hash, filter.blocks)
    cdef uint64_t bits = hash * IDS_SPREAD
    cdef uint64_t all_set = 1
    cdef int word
    for word in range(FILTER_WORDS):
        all_set &= words[word] >> (bits >> (58 - 6 * word) & 63)
    return all_set & 1


def zeros(Py_ssize_t count):
    """Return an array of ``count`` words, each page of it touched, without holding the GIL."""
    array = np.empty(count, np.uint64)
    cdef uint64_t[::1] words = array
    if count:
        with nogil:
            memset(&words[0], 0, 8 * count)
    return array


cdef class RecentTable:
    """Records by hash, in memory: open addressing, home slots in order of the hashes."""

    cdef object memory
    cdef table_t table
    cdef readonly object first_block
    cdef readonly object last_block

    def __init__(self, uint64_t capacity):
        """Make a table that takes ``capacity`` records before it should grow."""
        self.table.homes = capacity + capacity // 2 + SLACK
        self.table.size = self.table.homes + SLACK
        # Touched at once: a page fault later would cost more than the insertion.
        self.memory = zeros(2 * self.table.size)
        cdef uint64_t[::1] slots = self.memory
        self.table.slots = &slots[0]
        self.table.low.lo = self.table.low.hi = <uint64_t>-1
        self.first_block = None
        self.last_block = None

    def __len__(self):
        return self.table.count

    @property
    def capacity(self) -> int:
        """Records that fit before the table should grow."""
        return (self.table.homes - SLACK) // 3 * 2

    @property
    def memory_bytes(self) -> int:
        return self.memory.nbytes

    @property
    def id_range(self) -> tuple[int, int]:
        """The least and the greatest id of a transfer that was inserted."""
        return as_int(self.table.low), as_int(self.table.high)

    def seal(self) -> None:
        """Say that nothing will be inserted any more: the range of ids is final."""
        ids_store(&self.table.sealed, 1)

    def grown(self, uint64_t capacity) -> RecentTable:
        """Return a copy with room for ``capacity`` records; the table itself stays as it is."""
        cdef RecentTable copy = RecentTable(capacity)
        cdef uint64_t slot
        cdef bint fits = True
        with nogil:
            for slot in range(self.table.size):
                if self.table.slots[2 * slot] == 0:
                    continue
                fits = table_insert(
                    &copy.table, self.table.slots[2 * slot], self.table.slots[2 * slot + 1]
                )
                if not fits:
                    break
        if not fits:
            return self.grown(2 * capacity)
        copy.table.low = self.table.low
        copy.table.high = self.table.high
        copy.first_block = self.first_block
        copy.last_block = self.last_block
        return copy

    def sorted_records(self):
        """Return all records, in order, as two arrays: hashes and references."""
        cdef uint64_t count = 0, slot, hash, reference, place
        hash_array = np.empty(self.table.count, np.uint64)
        reference_array = np.empty(self.table.count, np.uint64)
        cdef uint64_t[::1] hashes = hash_array
        cdef uint64_t[::1] references = reference_array
        with nogil:
            # Slots are nearly in order already: a record is only ever displaced within its cluster.
            for slot in range(self.table.size):
                hash = self.table.slots[2 * slot]
                if hash == 0:
                    continue
                reference = self.table.slots[2 * slot + 1]
                place = count
                while place and (
                    hashes[place - 1] > hash
                    or (hashes[place - 1] == hash and references[place - 1] > reference)
                ):
                    hashes[place] = hashes[place - 1]
                    references[place] = references[place - 1]
                    place -= 1
                hashes[place] = hash
                references[place] = reference
                count += 1
        return hash_array, reference_array


cdef class Filter:
    """A blocked Bloom filter over hashes: one cache line an id, eight bits in it."""

    cdef readonly object words
    cdef filter_t filter

    def __init__(self, words, *, low: int, high: int):
        """Take a u64 array of whole blocks; ids of transfers in it are from ``low`` to ``high``."""
        cdef const uint64_t[::1] view = words
        if view.shape[0] == 0 or view.shape[0] % FILTER_WORDS:
            raise ValueError(f"a filter of {view.shape[0]} words is not made of whole blocks")
        self.words = words
        self.filter.words = &view[0]
        self.filter.blocks = view.shape[0] // FILTER_WORDS
        self.filter.low.lo, self.filter.low.hi = layout.from_int(low)
        self.filter.high.lo, self.filter.high.hi = layout.from_int(high)

    @staticmethod
    def empty(*, count: int, bits_per_id: int, low: int, high: int) -> Filter:
        """Return a filter with room for ``count`` ids."""
        blocks = max(1, -(-count * bits_per_id // (64 * FILTER_WORDS)))
        return Filter(zeros(blocks * FILTER_WORDS), low=low, high=high)

    def add(self, const uint64_t[::1] hashes) -> None:
        """Add hashes; fastest in their order."""
        cdef uint64_t[::1] words = self.words
        cdef uint64_t blocks = self.filter.blocks, bits
        cdef uint64_t* block
        cdef Py_ssize_t index
        cdef int word
        if hashes.shape[0] == 0:
            return
        with nogil:
            for index in range(hashes.shape[0]):
                block = &words[0] + FILTER_WORDS * ids_scale(hashes[index], blocks)
                bits = hashes[index] * IDS_SPREAD
                for word in range(FILTER_WORDS):
                    block[word] |= <uint64_t>1 << (bits >> (58 - 6 * word) & 63)

    def select(self, candidates):
        """Return the indexes of those CANDIDATE rows whose ids may be here."""
        cdef Py_ssize_t count = len(candidates), index, kept = 0
        places = np.empty(count, np.int64)
        if count == 0:
            return places
        cdef const uint8_t[::1] rows = candidates.view(np.uint8)
        cdef const candidate_t* row = <const candidate_t*>&rows[0]
        cdef Py_ssize_t[::1] out = places
        with nogil:
            for index in range(count):
                if index + AHEAD < count:
                    ids_prefetch(
                        self.filter.words
                        + FILTER_WORDS * ids_scale(row[index + AHEAD].hash, self.filter.blocks)
                    )
                if row[index].namespace == NAMESPACE_TRANSFER and outside(
                    row[index].id, self.filter.low, self.filter.high
                ):
                    continue
                if filter_has(&self.filter, row[index].hash):
                    out[kept] = index
                    kept += 1
        return places[:kept]


cdef class IdView:
    """The recent tables and the filters of the runs at one moment; the lists are never changed."""

    cdef readonly tuple tables
    cdef readonly tuple runs
    cdef table_t** table_parts
    cdef filter_t** filter_parts
    cdef size_t table_count
    cdef size_t filter_count

    def __cinit__(self, tuple tables, tuple runs):
        """Take RecentTables, and runs: any objects with a ``filter``."""
        self.tables = tables
        self.runs = runs
        self.table_parts = <table_t**>malloc((len(tables) + 1) * sizeof(table_t*))
        self.filter_parts = <filter_t**>malloc((len(runs) + 1) * sizeof(filter_t*))
        if self.table_parts == NULL or self.filter_parts == NULL:
            raise MemoryError
        cdef RecentTable table
        cdef Filter filter
        for table in tables:
            self.table_parts[self.table_count] = &table.table
            self.table_count += 1
        for run in runs:
            filter = run.filter
            self.filter_parts[self.filter_count] = &filter.filter
            self.filter_count += 1

    def __dealloc__(self):
        free(self.table_parts)
        free(self.filter_parts)

    cdef void mark(
        self, const u128_t* ids, const uint64_t* hashes, size_t count, bint ranged, uint8_t* hit
    ) noexcept nogil:
        """Set ``hit[i]`` where id i may exist, for at most GROUP ids; ``ranged``: of transfers."""
        cdef size_t selected[GROUP]
        cdef size_t part, index, kept
        cdef table_t* table
        cdef filter_t* filter
        cdef bint ranged_table
        for index in range(count):
            hit[index] = 0
        for part in range(self.table_count):
            table = self.table_parts[part]
            ranged_table = ranged and ids_load(&table.sealed)
            kept = 0
            for index in range(count):
                if hit[index] or (ranged_table and outside(ids[index], table.low, table.high)):
                    continue
                ids_prefetch(table.slots + 2 * ids_scale(hashes[index], table.homes))
                selected[kept] = index
                kept += 1
            for index in range(kept):
                hit[selected[index]] = table_has(table, hashes[selected[index]])
        for part in range(self.filter_count):
            filter = self.filter_parts[part]
            kept = 0
            for index in range(count):
                if hit[index] or (ranged and outside(ids[index], filter.low, filter.high)):
                    continue
                ids_prefetch(filter.words + FILTER_WORDS * ids_scale(hashes[index], filter.blocks))
                selected[kept] = index
                kept += 1
            for index in range(kept):
                hit[selected[index]] = filter_has(filter, hashes[selected[index]])

    def recent_hits(self, candidates):
        """Return the HIT rows of CANDIDATE rows in the recent tables; any thread may call this."""
        cdef Py_ssize_t count = len(candidates), index
        cdef size_t part, room = 2 * count + 16, kept = 0
        cdef uint64_t slot, found, reference
        cdef table_t* table
        if count == 0:
            return np.empty(0, HIT)
        cdef const uint8_t[::1] rows = candidates.view(np.uint8)
        cdef const candidate_t* row = <const candidate_t*>&rows[0]
        pair_array = np.empty((room, 2), np.uint64)
        cdef uint64_t[:, ::1] pairs = pair_array
        for part in range(self.table_count):
            table = self.table_parts[part]
            for index in range(count):
                slot = ids_scale(row[index].hash, table.homes)
                while slot < table.size:
                    found = ids_load(&table.slots[2 * slot])
                    if found == 0:
                        break
                    if found == row[index].hash:
                        reference = table.slots[2 * slot + 1]
                        if kept == room:
                            room *= 2
                            pair_array = np.concatenate([pair_array, np.empty_like(pair_array)])
                            pairs = pair_array
                        pairs[kept, 0] = index
                        pairs[kept, 1] = reference
                        kept += 1
                    slot += 1
        return as_hits(pair_array[:kept, 0], pair_array[:kept, 1])


def as_hits(candidates, references):
    """Return HIT rows from indexes of candidates and references."""
    hits = np.empty(len(candidates), HIT)
    hits["candidate"] = candidates
    hits["position"] = references & np.uint64(RESOLVED - 1)
    hits["resolved"] = references >= np.uint64(RESOLVED)
    return hits


cdef class IdKeys:
    """The seeds of the hash, and what the engine thread needs to insert and to look for ids.

    ``gather``, ``insert`` and ``candidates`` belong to the engine thread; the others to any thread.
    """

    cdef uint64_t seeds[4]
    # Owned by the engine thread:
    cdef u128_t largest_id
    cdef object hash_scratch
    cdef object reference_scratch
    cdef u128_t low
    cdef u128_t high

    def __init__(self, bytes secret, *, largest: int = 0):
        """Take 32 secret bytes, and the largest id of a transfer that exists already."""
        if len(secret) != 32:
            raise ValueError(f"the secret of the id hash has {len(secret)} bytes, not 32")
        memcpy(self.seeds, <const char*>secret, 32)
        self.largest_id.lo, self.largest_id.hi = layout.from_int(largest)
        self.hash_scratch = np.empty(0, np.uint64)
        self.reference_scratch = np.empty(0, np.uint64)

    @property
    def largest(self) -> int:
        """The largest id of a transfer (created, burned or named by a post) that was gathered."""
        return as_int(self.largest_id)

    def gather(self, entries, uint64_t block) -> int:
        """Hash the ids of a block's entries, an ENTRY array; return the number of records."""
        cdef Py_ssize_t count = len(entries)
        if entries.dtype != layout.ENTRY:
            raise ValueError("entries must be an ENTRY array")
        if block >> (63 - layout.INDEX_BITS):
            raise ValueError(f"block number {block} is too large for a reference")
        if count == 0:
            return 0
        if len(self.hash_scratch) < 2 * count:
            self.hash_scratch = np.empty(2 * count, np.uint64)
            self.reference_scratch = np.empty(2 * count, np.uint64)
        cdef const uint8_t[::1] rows = entries.view(np.uint8)
        cdef uint64_t[::1] hashes = self.hash_scratch
        cdef uint64_t[::1] references = self.reference_scratch
        cdef size_t records
        with nogil:
            records = self.gather_rows(
                <const entry_t*>&rows[0], count, block << LIMIT_INDEX_BITS, &hashes[0],
                &references[0],
            )
        return records

    cdef size_t gather_rows(
        self, const entry_t* entries, size_t count, uint64_t position, uint64_t* hashes,
        uint64_t* references,
    ) noexcept nogil:
        cdef size_t index, records = 0
        cdef const entry_t* entry
        cdef uint8_t kind
        self.low.lo = self.low.hi = <uint64_t>-1
        self.high.lo = self.high.hi = 0
        for index in range(count):
            entry = entries + index
            kind = entry.kind
            if kind == ENTRY_KIND_TRANSFER or kind == ENTRY_KIND_BURNED_ID:
                hashes[records] = hash_of(self.seeds, NAMESPACE_TRANSFER, entry.record.id)
                references[records] = position | index
                records += 1
                self.widen(entry.record.id)
            elif (
                kind == ENTRY_KIND_ACCOUNT_SETTINGS
                or kind == ENTRY_KIND_DEFINITION
                or (
                    kind == ENTRY_KIND_ADMINISTRATION
                    and entry.record.code != ADMINISTRATION_SEAL
                )
            ):
                hashes[records] = hash_of(self.seeds, NAMESPACE_ADMINISTRATIVE, entry.record.id)
                references[records] = position | index
                records += 1
            if kind == ENTRY_KIND_EXPIRY or (
                kind == ENTRY_KIND_TRANSFER
                and entry.record.flags
                & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER)
            ):
                hashes[records] = hash_of(self.seeds, NAMESPACE_TRANSFER, entry.record.pending_id)
                references[records] = position | index | IDS_RESOLVED
                records += 1
                self.widen(entry.record.pending_id)
        if less(self.largest_id, self.high):
            self.largest_id = self.high
        return records

    cdef inline void widen(self, u128_t id) noexcept nogil:
        if less(id, self.low):
            self.low = id
        if less(self.high, id):
            self.high = id

    def insert(self, RecentTable table, uint64_t block, size_t start, size_t records) -> int:
        """Insert gathered records from ``start`` on until it is full; return how many are in."""
        cdef size_t index = start
        cdef const uint64_t[::1] hash_view
        cdef const uint64_t[::1] reference_view
        cdef const uint64_t* hashes
        cdef const uint64_t* references
        if less(self.low, table.table.low):
            table.table.low = self.low
        if less(table.table.high, self.high):
            table.table.high = self.high
        if table.first_block is None:
            table.first_block = block
        table.last_block = block
        if records == 0:
            return 0
        hash_view = self.hash_scratch
        reference_view = self.reference_scratch
        hashes = &hash_view[0]
        references = &reference_view[0]
        with nogil:
            while index < records:
                if index + AHEAD < records:
                    ids_prefetch(
                        table.table.slots
                        + 2 * ids_scale(hashes[index + AHEAD], table.table.homes)
                    )
                if not table_insert(&table.table, hashes[index], references[index]):
                    break
                index += 1
        return index

    def hashes_of(self, ids, uint32_t namespace):
        """Return the hashes of a U128 array of ids."""
        ids = np.ascontiguousarray(ids, layout.U128)
        cdef Py_ssize_t count = len(ids), index
        hashes = np.empty(count, np.uint64)
        if count == 0:
            return hashes
        cdef const uint8_t[::1] rows = ids.view(np.uint8)
        cdef const u128_t* row = <const u128_t*>&rows[0]
        cdef uint64_t[::1] out = hashes
        with nogil:
            for index in range(count):
                out[index] = hash_of(self.seeds, namespace, row[index])
        return hashes

    def candidates_of(self, IdView view, ids, uint32_t namespace):
        """Return a CANDIDATE row for each id of a U128 array that may exist, for any thread."""
        ids = np.ascontiguousarray(ids, layout.U128)
        cdef Py_ssize_t count = len(ids), index
        candidates = np.zeros(count, layout.CANDIDATE)
        if count == 0:
            return candidates
        cdef const uint8_t[::1] rows = ids.view(np.uint8)
        cdef const u128_t* row = <const u128_t*>&rows[0]
        cdef uint8_t[::1] out_bytes = candidates.view(np.uint8)
        cdef candidate_t* out = <candidate_t*>&out_bytes[0]
        cdef u128_t group[GROUP]
        cdef size_t size = 0, kept = 0
        with nogil:
            for index in range(count):
                if is_usable(row[index]):
                    group[size] = row[index]
                    size += 1
                if size == GROUP:
                    kept += self.emit(view, group, size, namespace, out + kept)
                    size = 0
            kept += self.emit(view, group, size, namespace, out + kept)
        return candidates[:kept]

    def candidates(self, IdView view, transfers, skip_pending=None):
        """Return a CANDIDATE row for each id of a TRANSFER array that may exist in the view.

        That is the ids of the events, and the pending ids of posts and voids but for those events
        whose ``skip_pending`` (an array of bools) is set. Ids above the largest known one do not
        exist.
        """
        cdef Py_ssize_t count = len(transfers), index
        if transfers.dtype != layout.TRANSFER:
            raise ValueError("transfers must be a TRANSFER array")
        candidates = np.zeros(2 * count, layout.CANDIDATE)
        if count == 0:
            return candidates
        cdef const uint8_t[::1] rows = np.ascontiguousarray(transfers).view(np.uint8)
        cdef const transfer_t* event
        cdef const uint8_t[::1] skip_view
        cdef const uint8_t* skip = NULL
        if skip_pending is not None:
            if len(skip_pending) != count:
                raise ValueError(f"skip_pending has {len(skip_pending)} rows, not {count}")
            skip_view = np.ascontiguousarray(skip_pending, np.bool_).view(np.uint8)
            skip = &skip_view[0]
        cdef uint8_t[::1] out_bytes = candidates.view(np.uint8)
        cdef candidate_t* out = <candidate_t*>&out_bytes[0]
        cdef u128_t group[GROUP]
        cdef size_t size = 0, kept = 0
        with nogil:
            for index in range(count):
                event = <const transfer_t*>&rows[0] + index
                if is_usable(event.id) and not less(self.largest_id, event.id):
                    group[size] = event.id
                    size += 1
                if (
                    event.flags & (TRANSFER_POST_PENDING_TRANSFER | TRANSFER_VOID_PENDING_TRANSFER)
                    and (skip == NULL or not skip[index])
                    and is_usable(event.pending_id)
                    and not less(self.largest_id, event.pending_id)
                ):
                    group[size] = event.pending_id
                    size += 1
                if size >= GROUP - 1:
                    kept += self.emit(view, group, size, NAMESPACE_TRANSFER, out + kept)
                    size = 0
            kept += self.emit(view, group, size, NAMESPACE_TRANSFER, out + kept)
        return candidates[:kept]

    # The ids of one group that may exist, as CANDIDATE rows.
    cdef size_t emit(
        self, IdView view, const u128_t* ids, size_t count, uint32_t namespace, candidate_t* out
    ) noexcept nogil:
        cdef uint64_t hashes[GROUP]
        cdef uint8_t hit[GROUP]
        cdef size_t index, kept = 0
        if count == 0:
            return 0
        hashes[0] = 0
        for index in range(count):
            hashes[index] = hash_of(self.seeds, namespace, ids[index])
        view.mark(ids, hashes, count, namespace == NAMESPACE_TRANSFER, hit)
        for index in range(count):
            if hit[index]:
                out[kept].id = ids[index]
                out[kept].hash = hashes[index]
                out[kept].namespace = namespace
                kept += 1
        return kept


# ----------------------------------------------------------------------------------------------
# Chunks of runs: all hashes in order, then all references in as few bytes as the run needs
# ----------------------------------------------------------------------------------------------

cdef inline uint64_t pack(uint64_t reference, uint64_t base_block, int index_bits) noexcept nogil:
    cdef uint64_t position = reference & ~IDS_RESOLVED
    cdef uint64_t index = position & INDEX_MASK
    cdef uint64_t block = (position >> LIMIT_INDEX_BITS) - base_block
    return block << (index_bits + 1) | index << 1 | reference >> 63


cdef inline uint64_t unpack(uint64_t packed, uint64_t base_block, int index_bits) noexcept nogil:
    cdef uint64_t index = packed >> 1 & ((<uint64_t>1 << index_bits) - 1)
    cdef uint64_t block = base_block + (packed >> (index_bits + 1))
    return block << LIMIT_INDEX_BITS | index | (packed & 1) << 63


cdef inline uint64_t read_packed(const uint8_t* at, int width) noexcept nogil:
    cdef uint64_t value = 0
    memcpy(&value, at, width)
    return value


def reference_width(uint64_t base_block, uint64_t last_block, int index_bits) -> int:
    """Return the bytes that a packed reference needs in a run over those blocks."""
    return max(1, (int(last_block - base_block).bit_length() + index_bits + 1 + 7) // 8)


def encode_chunk(
    const uint64_t[::1] hashes, const uint64_t[::1] references, *, uint64_t base_block,
    int index_bits, int width,
) -> bytes:
    """Return the stored form of sorted records, ``8 + width`` bytes each."""
    cdef Py_ssize_t count = hashes.shape[0], index
    cdef uint64_t packed
    body = np.empty(count * (8 + width), np.uint8)
    if count == 0:
        return b""
    cdef uint8_t[::1] out = body
    with nogil:
        memcpy(&out[0], &hashes[0], 8 * count)
        for index in range(count):
            packed = pack(references[index], base_block, index_bits)
            memcpy(&out[8 * count + width * index], &packed, width)
    return body.tobytes()


def decode_chunk(
    const uint8_t[::1] body, Py_ssize_t count, *, uint64_t base_block, int index_bits, int width
):
    """Return the hashes and the references of a chunk of ``count`` records as two arrays."""
    cdef Py_ssize_t index
    if body.shape[0] != count * (8 + width):
        raise ValueError(f"a chunk of {count} records has {body.shape[0]} bytes")
    hash_array = np.empty(count, np.uint64)
    reference_array = np.empty(count, np.uint64)
    if count == 0:
        return hash_array, reference_array
    cdef uint64_t[::1] hashes = hash_array
    cdef uint64_t[::1] references = reference_array
    with nogil:
        memcpy(&hashes[0], &body[0], 8 * count)
        for index in range(count):
            references[index] = unpack(
                read_packed(&body[8 * count + width * index], width), base_block, index_bits
            )
    return hash_array, reference_array


def search_chunk(
    const uint8_t[::1] body, Py_ssize_t count, const uint64_t[::1] wanted, *, uint64_t base_block,
    int index_bits, int width,
):
    """Return (index into ``wanted``, reference) of all records whose hash is wanted."""
    cdef Py_ssize_t index, low, high, middle
    cdef uint64_t hash, packed
    if body.shape[0] != count * (8 + width):
        raise ValueError(f"a chunk of {count} records has {body.shape[0]} bytes")
    found = []
    for index in range(wanted.shape[0]):
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            memcpy(&hash, &body[8 * middle], 8)
            if hash < wanted[index]:
                low = middle + 1
            else:
                high = middle
        while low < count:
            memcpy(&hash, &body[8 * low], 8)
            if hash != wanted[index]:
                break
            packed = read_packed(&body[8 * count + width * low], width)
            found.append((index, unpack(packed, base_block, index_bits)))
            low += 1
    return found


def merge_records(first, second):
    """Return two sorted pairs (hashes, references) as one."""
    cdef const uint64_t[::1] hashes_1 = first[0]
    cdef const uint64_t[::1] references_1 = first[1]
    cdef const uint64_t[::1] hashes_2 = second[0]
    cdef const uint64_t[::1] references_2 = second[1]
    cdef Py_ssize_t count_1 = hashes_1.shape[0], count_2 = hashes_2.shape[0], i = 0, j = 0
    hash_array = np.empty(count_1 + count_2, np.uint64)
    reference_array = np.empty(count_1 + count_2, np.uint64)
    cdef uint64_t[::1] hashes = hash_array
    cdef uint64_t[::1] references = reference_array
    cdef bint take_first
    with nogil:
        while i < count_1 or j < count_2:
            take_first = j == count_2 or (
                i < count_1
                and (
                    hashes_1[i] < hashes_2[j]
                    or (hashes_1[i] == hashes_2[j] and references_1[i] <= references_2[j])
                )
            )
            if take_first:
                hashes[i + j] = hashes_1[i]
                references[i + j] = references_1[i]
                i += 1
            else:
                hashes[i + j] = hashes_2[j]
                references[i + j] = references_2[j]
                j += 1
    return hash_array, reference_array


def index_bits_of(const uint64_t[::1] references) -> int:
    """Return how many bits the largest index of an entry in its block needs."""
    cdef uint64_t all_bits = 0
    cdef Py_ssize_t place
    with nogil:
        for place in range(references.shape[0]):
            all_bits |= references[place] & INDEX_MASK
    return int(all_bits).bit_length()
