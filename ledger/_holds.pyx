# cython: language_level=3
"""The table of open pending transfers: found by id, ordered by expiry, written to disk by page.

A hold keeps its place as long as it is open, so that a fuzzy snapshot of pages plus the entries
after it
always leads to the same set. A hold resolved in the current block stays, with its state, until the
block
closes: later events of the block still see what became of it, and a chain that fails can open it
again.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from ledger._index cimport hash_id, index_entry_t, index_free, index_insert, index_remove
from ledger._layout cimport LIMIT_PAGE_SLOTS, u128_t
from ledger._u128 cimport equal

from ledger.errors import DataDamaged


cdef inline bint sooner(const expiry_t* a, const expiry_t* b) noexcept nogil:
    """The order of the sweep: (expires_at, creation)."""
    if a.expires_at_ns != b.expires_at_ns:
        return a.expires_at_ns < b.expires_at_ns
    return a.timestamp < b.timestamp


cdef class Holds:
    """Open pending transfers, at most ``maximum``."""

    def __cinit__(self, uint32_t maximum, uint64_t seed=0):
        self.maximum = maximum
        self.seed = seed

    def __dealloc__(self):
        free(self.rows)
        free(self.free_places)
        free(self.heap)
        free(self.dirty)
        index_free(&self.index)

    cdef int64_t find(self, u128_t id) noexcept nogil:
        """The place of an id that is open or was resolved in this block, or -1."""
        cdef uint32_t tag, place
        cdef index_entry_t entry
        if self.index.entries == NULL:
            return -1
        tag = <uint32_t>hash_id(id, self.seed)
        place = tag & self.index.mask
        while True:
            entry = self.index.entries[place]
            if not entry.value:
                return -1
            if entry.tag == tag and equal(self.rows[entry.value - 1].id, id):
                return entry.value - 1
            place = (place + 1) & self.index.mask

    cdef int64_t add(self, const hold_t* hold) noexcept nogil:
        """Add an open hold; its place, or -1 when memory is out (the caller watches
        ``maximum``)."""
        cdef uint32_t place, capacity
        cdef void* grown
        if self.free_count:
            place = self.free_places[self.free_count - 1]
        else:
            place = self.used
            if place == self.capacity:
                capacity = 256 if self.capacity == 0 else self.capacity * 2
                grown = realloc(self.rows, capacity * sizeof(hold_t))
                if grown == NULL:
                    return -1
                self.rows = <hold_t*>grown
                memset(self.rows + self.capacity, 0, (capacity - self.capacity) * sizeof(hold_t))
                grown = realloc(self.free_places, capacity * sizeof(uint32_t))
                if grown == NULL:
                    return -1
                self.free_places = <uint32_t*>grown
                grown = realloc(self.dirty, capacity // LIMIT_PAGE_SLOTS)
                if grown == NULL:
                    return -1
                self.dirty = <uint8_t*>grown
                memset(self.dirty + self.page_capacity, 0,
                       capacity // LIMIT_PAGE_SLOTS - self.page_capacity)
                self.page_capacity = capacity // LIMIT_PAGE_SLOTS
                self.capacity = capacity
        if not index_insert(&self.index, <uint32_t>hash_id(hold.id, self.seed), place):
            return -1
        self.rows[place] = hold[0]
        self.rows[place].state = HOLD_OPEN
        if hold.expires_at_ns and not self.push_expiry(place):
            index_remove(&self.index, <uint32_t>hash_id(hold.id, self.seed), place)
            self.rows[place].state = HOLD_FREE
            return -1
        if self.free_count:
            self.free_count -= 1
        else:
            self.used += 1
        self.count += 1
        self.dirty[place >> 8] = 1
        return place

    cdef void release(self, uint32_t place) noexcept nogil:
        """Free a place; its expiry in the heap becomes stale by itself."""
        index_remove(&self.index, <uint32_t>hash_id(self.rows[place].id, self.seed), place)
        memset(&self.rows[place], 0, sizeof(hold_t))
        self.free_places[self.free_count] = place
        self.free_count += 1
        self.count -= 1
        self.dirty[place >> 8] = 1

    cdef void set_state(self, uint32_t place, uint8_t state) noexcept nogil:
        self.rows[place].state = state
        self.dirty[place >> 8] = 1

    # ---- the order of expiry: a binary heap, from which resolved holds are taken out when they
    # come up ----

    cdef bint expiry_stale(self, const expiry_t* expiry) noexcept nogil:
        cdef hold_t* hold = &self.rows[expiry.place]
        return (hold.state != HOLD_OPEN or hold.timestamp != expiry.timestamp
                or hold.expires_at_ns != expiry.expires_at_ns)

    cdef bint push_expiry(self, uint32_t place) noexcept nogil:
        cdef uint32_t at, kept, capacity
        cdef expiry_t moving
        cdef void* grown
        if self.heap_count == self.heap_capacity:
            if self.heap_count > 1024 and self.heap_count > 2 * self.count:
                # Most are stale: keep the others. What is sorted is a heap, and so is any prefix
                # order kept
                # by pushing them again.
                kept = self.heap_count
                self.heap_count = 0
                for at in range(kept):
                    moving = self.heap[at]
                    if not self.expiry_stale(&moving):
                        self.heap[self.heap_count] = moving
                        self.heap_count += 1
                        self.sift_up(self.heap_count - 1)
            else:
                capacity = 256 if self.heap_capacity == 0 else self.heap_capacity * 2
                grown = realloc(self.heap, capacity * sizeof(expiry_t))
                if grown == NULL:
                    return False
                self.heap = <expiry_t*>grown
                self.heap_capacity = capacity
        self.heap[self.heap_count].expires_at_ns = self.rows[place].expires_at_ns
        self.heap[self.heap_count].timestamp = self.rows[place].timestamp
        self.heap[self.heap_count].place = place
        self.heap_count += 1
        self.sift_up(self.heap_count - 1)
        return True

    cdef void sift_up(self, uint32_t at) noexcept nogil:
        cdef expiry_t moving = self.heap[at]
        cdef uint32_t above
        while at:
            above = (at - 1) // 2
            if not sooner(&moving, &self.heap[above]):
                break
            self.heap[at] = self.heap[above]
            at = above
        self.heap[at] = moving

    cdef void pop_expiry(self) noexcept nogil:
        cdef expiry_t moving
        cdef uint32_t at = 0, below
        self.heap_count -= 1
        if self.heap_count == 0:
            return
        moving = self.heap[self.heap_count]
        while True:
            below = 2 * at + 1
            if below >= self.heap_count:
                break
            if below + 1 < self.heap_count and sooner(&self.heap[below + 1], &self.heap[below]):
                below += 1
            if not sooner(&self.heap[below], &moving):
                break
            self.heap[at] = self.heap[below]
            at = below
        self.heap[at] = moving

    cdef int64_t next_due(self, uint64_t timestamp) noexcept nogil:
        """Take the next open hold that is due at ``timestamp`` out of the heap; its place, or
        -1."""
        cdef uint32_t place
        while self.heap_count:
            if self.expiry_stale(&self.heap[0]):
                self.pop_expiry()
                continue
            if self.heap[0].expires_at_ns > timestamp:
                return -1
            place = self.heap[0].place
            self.pop_expiry()
            return place
        return -1

    @property
    def next_expiry_ns(self):
        """When the next open hold expires, or 0."""
        while self.heap_count and self.expiry_stale(&self.heap[0]):
            self.pop_expiry()
        return self.heap[0].expires_at_ns if self.heap_count else 0

    # ---- pages ----

    @property
    def page_count(self):
        """Pages of 256 places in use."""
        return (self.used + LIMIT_PAGE_SLOTS - 1) // LIMIT_PAGE_SLOTS

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
        """Return the open holds of a page, one row after the other."""
        cdef uint32_t first = page * LIMIT_PAGE_SLOTS, place
        if first >= self.used:
            raise IndexError(f"hold page {page} is not in use")
        return b"".join([
            (<uint8_t*>&self.rows[place])[:sizeof(hold_t)]
            for place in range(first, min(first + <uint32_t>LIMIT_PAGE_SLOTS, self.used))
            if self.rows[place].state == HOLD_OPEN
        ])

    def load_page(self, uint32_t page, const uint8_t[::1] data):
        """Add the holds of a page as ``copy_page`` gave it, but those that are open already."""
        cdef hold_t hold
        cdef size_t at
        if data.shape[0] % sizeof(hold_t):
            raise DataDamaged(f"hold page {page}: wrong size")
        for at in range(0, <size_t>data.shape[0], sizeof(hold_t)):
            memcpy(&hold, &data[at], sizeof(hold_t))
            if self.find(hold.id) < 0 and self.add(&hold) < 0:
                raise MemoryError
