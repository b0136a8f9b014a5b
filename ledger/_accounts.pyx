# cython: language_level=3
"""The table of accounts: rows by slot, found by id, grouped by (ledger, code), written to disk by
page.

Slots are given in order of opening and never change. Rows live in chunks that never move, so that a
reader on another thread may look at what never changes in them: id, ledger, code, user data,
timestamp. So do the state salts, which are apart because no transfer needs them.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from ledger._index cimport hash_id, index_entry_t, index_free, index_insert, index_remove, index_t
from ledger._layout cimport (
    LIMIT_PAGE_SLOTS, LIMIT_SLOTS_MAX, NO_POSITION, account_t, u128_t,
)
from ledger._u128 cimport equal, is_zero

from ledger.errors import DataDamaged

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <stdint.h>
    /* Zeroed memory on 2 MiB borders, so that the kernel may back it with huge pages. */
    static void *sanyuan_map(size_t size) {
        const size_t huge = (size_t)2 << 20;
        uint8_t *base = mmap(NULL, size + huge, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) return NULL;
        uint8_t *aligned = (uint8_t *)(((uintptr_t)base + huge - 1) & ~(uintptr_t)(huge - 1));
        if (aligned > base) munmap(base, (size_t)(aligned - base));
        if (aligned - base < (ptrdiff_t)huge)
            munmap(aligned + size, huge - (size_t)(aligned - base));
        return aligned;
    }
    static void sanyuan_unmap(void *base, size_t size) { munmap(base, size); }
    static void sanyuan_huge(void *base, size_t size) { madvise(base, size, MADV_HUGEPAGE); }
    """
    void* map_memory "sanyuan_map"(size_t size) noexcept nogil
    void unmap_memory "sanyuan_unmap"(void* base, size_t size) noexcept nogil
    void use_huge_pages "sanyuan_huge"(void* base, size_t size) noexcept nogil

cdef enum:
    CHUNK_TABLE = 1 << 16
    HUGE_FROM_CHUNK = 1         # a small ledger stays small: the first chunk uses ordinary pages


cdef class Accounts:
    """Rows of accounts; only the engine thread changes them."""

    def __cinit__(self, uint64_t seed=0):
        self.seed = seed
        self.chunks = <account_row_t**>calloc(CHUNK_TABLE, sizeof(account_row_t*))
        self.salts = <uint8_t**>calloc(CHUNK_TABLE, sizeof(uint8_t*))
        self.extra_capacity = 16
        self.extras = <extra_t*>calloc(self.extra_capacity, sizeof(extra_t))
        self.extra_count = 1                        # place 0 means none
        self.group_capacity = 16
        self.groups = <group_t*>calloc(self.group_capacity, sizeof(group_t))
        if (self.chunks == NULL or self.salts == NULL or self.extras == NULL
                or self.groups == NULL):
            raise MemoryError

    def __dealloc__(self):
        cdef int number
        if self.chunks != NULL and self.salts != NULL:
            for number in range(CHUNK_TABLE):
                if self.chunks[number] == NULL:
                    break
                unmap_memory(self.chunks[number], CHUNK_SLOTS * sizeof(account_row_t))
                free(self.salts[number])
        free(self.chunks)
        free(self.salts)
        for number in range(SHARDS):
            index_free(&self.shards[number])
        index_free(&self.group_index)
        free(self.extras)
        free(self.groups)
        free(self.dirty)
        free(self.loaded)

    # ---- finding ----

    cdef int64_t find(self, u128_t id, uint64_t hash) noexcept nogil:
        """The slot of an id, or -1."""
        cdef index_t* shard = &self.shards[hash >> 56]
        cdef uint32_t tag = <uint32_t>hash
        cdef uint32_t place
        cdef index_entry_t entry
        if shard.entries == NULL:
            return -1
        place = tag & shard.mask
        while True:
            entry = shard.entries[place]
            if not entry.value:
                return -1
            if entry.tag == tag and equal(row_at(self, entry.value - 1).id, id):
                return entry.value - 1
            place = (place + 1) & shard.mask

    cdef bint timestamp_used(self, uint64_t timestamp) noexcept nogil:
        """Whether an account has this timestamp; timestamps rise with the slots."""
        cdef uint32_t low = 0, high = self.count, middle
        while low < high:
            middle = low + (high - low) // 2
            if row_at(self, middle).timestamp < timestamp:
                low = middle + 1
            else:
                high = middle
        return low < self.count and row_at(self, low).timestamp == timestamp

    # ---- changing ----

    cdef bint reserve_slot(self, uint32_t slot) noexcept nogil:
        """Make room for a slot and its page; False when memory is out."""
        cdef uint32_t chunk = slot >> CHUNK_BITS, page = slot >> 8, capacity
        cdef uint8_t* dirty
        cdef uint64_t* loaded
        if self.salts[chunk] == NULL:
            self.salts[chunk] = <uint8_t*>calloc(CHUNK_SLOTS, SALT_BYTES)
            if self.salts[chunk] == NULL:
                return False
        if self.chunks[chunk] == NULL:
            self.chunks[chunk] = <account_row_t*>map_memory(CHUNK_SLOTS * sizeof(account_row_t))
            if self.chunks[chunk] == NULL:
                return False
            if chunk >= HUGE_FROM_CHUNK:
                use_huge_pages(self.chunks[chunk], CHUNK_SLOTS * sizeof(account_row_t))
        if page >= self.page_capacity:
            capacity = 256 if self.page_capacity == 0 else self.page_capacity * 2
            while capacity <= page:
                capacity *= 2
            dirty = <uint8_t*>realloc(self.dirty, capacity)
            if dirty == NULL:
                return False
            self.dirty = dirty
            loaded = <uint64_t*>realloc(self.loaded, capacity * sizeof(uint64_t))
            if loaded == NULL:
                return False
            self.loaded = loaded
            memset(dirty + self.page_capacity, 0, capacity - self.page_capacity)
            memset(loaded + self.page_capacity, 0,
                   (capacity - self.page_capacity) * sizeof(uint64_t))
            self.page_capacity = capacity
        return True

    cdef int64_t find_group(self, uint32_t ledger, uint16_t code) noexcept nogil:
        """The group of (ledger, code), made when it is new; -1 when memory is out."""
        cdef u128_t key
        cdef uint32_t tag, place
        cdef index_t* index = &self.group_index
        cdef group_t* grown
        key.lo = ledger
        key.hi = code
        tag = <uint32_t>hash_id(key, self.seed)
        if index.entries != NULL:
            place = tag & index.mask
            while index.entries[place].value:
                if index.entries[place].tag == tag:
                    grown = &self.groups[index.entries[place].value - 1]
                    if grown.ledger == ledger and grown.code == code:
                        return index.entries[place].value - 1
                place = (place + 1) & index.mask
        if self.group_count == self.group_capacity:
            grown = <group_t*>realloc(self.groups, self.group_capacity * 2 * sizeof(group_t))
            if grown == NULL:
                return -1
            self.groups = grown
            self.group_capacity *= 2
        if not index_insert(index, tag, self.group_count):
            return -1
        memset(&self.groups[self.group_count], 0, sizeof(group_t))
        self.groups[self.group_count].ledger = ledger
        self.groups[self.group_count].code = code
        self.group_count += 1
        return self.group_count - 1

    cdef int64_t append(self, const account_t* record, uint64_t hash) noexcept nogil:
        """Open an account with zero balances; its slot, or -1 when memory or slots are out."""
        cdef uint32_t slot = self.count
        if slot >= LIMIT_SLOTS_MAX or not self.open_at(slot, record, hash):
            return -1
        return slot

    cdef bint open_at(self, uint32_t slot, const account_t* record, uint64_t hash) noexcept nogil:
        """Open an account in an empty slot, below ``count`` only in recovery; False when memory is
        out. The account of id 0 was erased, and is found by no id."""
        cdef int64_t group
        cdef account_row_t* row
        if not self.reserve_slot(slot):
            return False
        group = self.find_group(record.ledger, record.code)
        if group < 0:
            return False
        if not is_zero(record.id) and not index_insert(
            &self.shards[hash >> 56], <uint32_t>hash, slot
        ):
            return False
        row = row_at(self, slot)
        memset(row, 0, sizeof(account_row_t))
        row.id = record.id
        row.ledger = record.ledger
        row.code = record.code
        row.flags = record.flags & ROW_FLAGS
        if is_zero(record.id):
            row.flags |= ROW_ERASED
        row.user_data_128 = record.user_data_128
        row.user_data_64 = record.user_data_64
        row.user_data_32 = record.user_data_32
        row.timestamp = record.timestamp
        row.last_position = NO_POSITION
        row.skip_position = NO_POSITION
        row.group = <uint32_t>group
        row.ordinal = self.groups[group].account_count
        self.groups[group].account_count += 1
        if slot >= self.count:
            self.count = slot + 1
        mark_dirty(self, slot)
        return True

    cdef void pop(self) noexcept nogil:
        """Undo the last append; the account has no balances."""
        cdef uint32_t slot = self.count - 1
        cdef account_row_t* row = row_at(self, slot)
        cdef uint64_t hash = hash_id(row.id, self.seed)
        index_remove(&self.shards[hash >> 56], <uint32_t>hash, slot)
        self.groups[row.group].account_count -= 1
        if row.extra:
            self.drop_last_extra(row.extra)
        memset(row, 0, sizeof(account_row_t))
        memset(salt_at(self, slot), 0, SALT_BYTES)
        self.count -= 1

    cdef extra_t* extra_of(self, uint32_t slot) noexcept nogil:
        """The account's extras, or NULL."""
        cdef account_row_t* row = row_at(self, slot)
        return &self.extras[row.extra] if row.extra else NULL

    cdef bint make_extra(self, uint32_t slot) noexcept nogil:
        """Give the account extras when it has none; False when memory is out."""
        cdef account_row_t* row = row_at(self, slot)
        cdef extra_t* grown
        if row.extra:
            return True
        if self.extra_count == self.extra_capacity:
            grown = <extra_t*>realloc(self.extras, self.extra_capacity * 2 * sizeof(extra_t))
            if grown == NULL:
                return False
            self.extras = grown
            self.extra_capacity *= 2
        memset(&self.extras[self.extra_count], 0, sizeof(extra_t))
        self.extras[self.extra_count].slot = slot
        self.extras[self.extra_count].skip_4096 = NO_POSITION
        self.extras[self.extra_count].skip_262144 = NO_POSITION
        row.extra = self.extra_count
        self.extra_count += 1
        return True

    cdef void drop_last_extra(self, uint32_t place) noexcept nogil:
        """Undo ``make_extra``; undoing goes backwards, so this is the one made last."""
        if place == self.extra_count - 1:
            self.extra_count -= 1

    cdef void move_group_sums(
        self, const account_row_t* before, const account_row_t* after
    ) noexcept nogil:
        """Replace one account's share in the sums of its group."""
        cdef group_t* group = &self.groups[after.group]
        sum_subtract(&group.debits_pending, before.debits_pending.lo, before.debits_pending.hi)
        sum_subtract(&group.debits_posted, before.debits_posted.lo, before.debits_posted.hi)
        sum_subtract(&group.credits_pending, before.credits_pending.lo, before.credits_pending.hi)
        sum_subtract(&group.credits_posted, before.credits_posted.lo, before.credits_posted.hi)
        sum_add(&group.debits_pending, after.debits_pending.lo, after.debits_pending.hi)
        sum_add(&group.debits_posted, after.debits_posted.lo, after.debits_posted.hi)
        sum_add(&group.credits_pending, after.credits_pending.lo, after.credits_pending.hi)
        sum_add(&group.credits_posted, after.credits_posted.lo, after.credits_posted.hi)

    # ---- pages ----

    @property
    def page_count(self):
        """Pages of 256 slots in use."""
        return (self.count + LIMIT_PAGE_SLOTS - 1) // LIMIT_PAGE_SLOTS

    def dirty_pages(self, uint32_t limit):
        """Return at most ``limit`` pages changed since they were last taken, in turn; they count as
        taken."""
        cdef uint32_t pages = self.page_count, seen = 0
        found = []
        while seen < pages and len(found) < limit:
            if self.sweep_page >= pages:
                self.sweep_page = 0
            if self.dirty[self.sweep_page]:
                self.dirty[self.sweep_page] = 0
                found.append(self.sweep_page)
            self.sweep_page += 1
            seen += 1
        return found

    def copy_page(self, uint32_t page):
        """Return the bytes of a page: a count, that many rows, as many state salts, then each extra
        with its place in the page."""
        cdef uint32_t first = page * LIMIT_PAGE_SLOTS
        cdef uint32_t rows, offset
        cdef account_row_t* row
        if first >= self.count:
            raise IndexError(f"page {page} is not in use")
        rows = min(<uint32_t>LIMIT_PAGE_SLOTS, self.count - first)
        copied = bytearray((<uint8_t*>row_at(self, first))[:rows * sizeof(account_row_t)])
        cdef uint8_t[::1] copy = copied
        # The slots of a page lie in one chunk.
        salts = (<uint8_t*>salt_at(self, first))[:rows * SALT_BYTES]
        parts = [rows.to_bytes(4, "little"), copied, salts]
        for offset in range(rows):
            row = row_at(self, first + offset)
            if row.extra:
                # Where the extra lies is this process's own; that there is one is the account's.
                (<account_row_t*>&copy[offset * sizeof(account_row_t)]).extra = 1
                parts.append((<uint8_t*>&self.extras[row.extra])[:sizeof(extra_t)])
        return b"".join(parts)

    def load_page(self, uint32_t page, const uint8_t[::1] data, uint64_t block):
        """Take a page as ``copy_page`` gave it, current up to ``block``; raise DataDamaged when it
        cannot be one."""
        cdef uint32_t first = page * LIMIT_PAGE_SLOTS
        cdef uint32_t rows, offset, extra
        cdef size_t size = data.shape[0], at
        cdef account_row_t* row
        if size < 4:
            raise DataDamaged(f"account page {page}: too short")
        memcpy(&rows, &data[0], 4)
        if rows == 0 or rows > LIMIT_PAGE_SLOTS or (
            size < 4 + rows * (sizeof(account_row_t) + SALT_BYTES)
        ):
            raise DataDamaged(f"account page {page}: wrong number of rows")
        at = 4 + rows * sizeof(account_row_t)
        if not self.reserve_slot(first):
            raise MemoryError
        memcpy(salt_at(self, first), &data[at], rows * SALT_BYTES)
        at += rows * SALT_BYTES
        for offset in range(rows):
            if not self.reserve_slot(first + offset):
                raise MemoryError
            row = row_at(self, first + offset)
            memcpy(row, &data[4 + offset * sizeof(account_row_t)], sizeof(account_row_t))
            if row.extra:
                if at + sizeof(extra_t) > size:
                    raise DataDamaged(f"account page {page}: extras are missing")
                row.extra = 0
                if not self.make_extra(first + offset):
                    raise MemoryError
                extra = row.extra
                memcpy(&self.extras[extra], &data[at], sizeof(extra_t))
                at += sizeof(extra_t)
        if at != size:
            raise DataDamaged(f"account page {page}: trailing bytes")
        self.loaded[page] = block + 1
        self.count = max(self.count, first + rows)

    def finish_load(self):
        """Rebuild the index after pages were loaded; raise DataDamaged on a repeated id.

        A page copied early may lack accounts opened later, though a page behind it was copied after
        that:
        those slots are empty until their openings are replayed.
        """
        cdef uint32_t slot
        cdef account_row_t* row
        cdef uint64_t hash
        cdef int64_t group
        for slot in range(self.count):
            if not self.reserve_slot(slot):
                raise MemoryError
            row = row_at(self, slot)
            if not row.flags & ROW_ERASED:
                if is_zero(row.id):
                    continue
                hash = hash_id(row.id, self.seed)
                if self.find(row.id, hash) >= 0:
                    raise DataDamaged(
                        f"account page {slot // LIMIT_PAGE_SLOTS}: an id stands twice")
                if not index_insert(&self.shards[hash >> 56], <uint32_t>hash, slot):
                    raise MemoryError
            group = self.find_group(row.ledger, row.code)
            if group < 0:
                raise MemoryError
            row.group = <uint32_t>group

    def forget_loaded(self):
        """Forget up to which block pages were loaded; what is committed from now on counts for
        every page."""
        if self.page_capacity:
            memset(self.loaded, 0, self.page_capacity * sizeof(uint64_t))

    def rebuild_groups(self):
        """Count and add up the groups anew from every row, and number their members in order of
        slots.

        Raises DataDamaged when a slot is still empty.
        """
        cdef uint32_t slot, number
        cdef account_row_t* row
        cdef account_row_t nothing
        cdef group_t* group
        memset(&nothing, 0, sizeof(nothing))
        for number in range(self.group_count):
            memset(&self.groups[number].debits_pending, 0, 4 * sizeof(sum_t))
            self.groups[number].account_count = 0
        for slot in range(self.count):
            row = row_at(self, slot)
            if is_zero(row.id) and not row.flags & ROW_ERASED:
                raise DataDamaged(f"account page {slot // LIMIT_PAGE_SLOTS} is missing")
            group = &self.groups[row.group]
            row.ordinal = group.account_count
            group.account_count += 1
            self.move_group_sums(&nothing, row)

    def group_rows(self):
        """Return (ledger, code, account_count, debits_pending, debits_posted, credits_pending,
        credits_posted)
        of every group with accounts, in order of (ledger, code)."""
        cdef uint32_t number
        cdef group_t* group
        rows = []
        for number in range(self.group_count):
            group = &self.groups[number]
            if group.account_count:
                rows.append((group.ledger, group.code, group.account_count,
                             sum_value(&group.debits_pending), sum_value(&group.debits_posted),
                             sum_value(&group.credits_pending), sum_value(&group.credits_posted)))
        rows.sort()
        return rows


cdef object sum_value(const sum_t* total):
    return int(total.words[0]) | int(total.words[1]) << 64 | int(total.words[2]) << 128
