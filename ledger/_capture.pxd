"""A consistent copy of all accounts, made in steps while they go on changing."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ledger._accounts cimport Accounts
from ledger._layout cimport state_row_t, u128_t

cdef enum:
    GROUP_ROWS = 8              # saved accounts of one page that lie together
    POOL_GROUPS = 1024          # groups allocated together

ctypedef struct limits_t:
    # Settings of a saved account that has some.
    u128_t overdraft
    u128_t ceiling
    limits_t* next

ctypedef struct saved_t:
    # What changes of an account, as it was before it changed.
    u128_t balances[4]
    uint8_t head[32]
    uint64_t entry_count
    uint64_t last_position
    limits_t* limits            # NULL: no settings
    uint16_t flags
    uint16_t settings
    uint32_t slot

ctypedef struct saved_group_t:
    saved_t rows[GROUP_ROWS]
    saved_group_t* next         # of the same page, or the next free one

ctypedef struct page_saved_t:
    saved_group_t* newest       # only this group of the page's may have room
    uint64_t count              # accounts in it

ctypedef struct pool_t:
    saved_group_t groups[POOL_GROUPS]
    pool_t* next


cdef class Capture:
    cdef Accounts accounts
    cdef readonly bint under_way
    cdef readonly int64_t block         # the capture shows the accounts after this block
    cdef uint32_t next                  # the first slot that is not copied yet
    cdef readonly uint32_t end          # accounts there were when it began
    cdef page_saved_t* pages            # the saved accounts of each page
    cdef uint8_t* saved_bits            # one for each slot
    cdef saved_group_t* free_groups     # given back
    cdef pool_t* pools
    cdef pool_t* pool                   # groups are taken from this one, those before are used up
    cdef uint32_t pool_taken
    cdef limits_t* limits               # all that were made
    cdef uint64_t group_count           # groups in use
    cdef uint64_t limits_count

    cdef void drop_pools(self, int kept) noexcept
    cdef void save(self, uint32_t slot) noexcept nogil
    cdef saved_group_t* take_group(self) noexcept nogil
    cdef void copy_page(self, uint32_t page, uint32_t size, state_row_t* rows) noexcept nogil
