# cython: language_level=3
"""The books: accounts, open holds, declarations and clocks, and what can be read from them."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ledger._accounts cimport (
    ROW_ERASED, ROW_FLAGS, SALT_BYTES, Accounts, account_row_t, extra_t, row_at, salt_at,
)
from ledger._holds cimport HOLD_OPEN, Holds
from ledger._index cimport hash_id
from ledger._layout cimport (
    LIMIT_NO_SLOT, LIMIT_QUERY_RECORDS_MAX, QUERY_FILTER_REVERSED, TIMESTAMP_MAX, account_t,
    entry_t, query_filter_t, u128_t,
)
from ledger._u128 cimport equal, is_zero

import json

import numpy as np

from ledger import layout
from ledger.errors import DataDamaged

cnp.import_array()

SMALL_STATE_VERSION = 2

cdef struct details_t:
    u128_t overdraft
    u128_t ceiling
    uint64_t entry_count
    uint64_t last_position
    uint32_t slot
    uint32_t settings

ACCOUNT_DETAILS = np.dtype([
    ("overdraft", layout.U128), ("ceiling", layout.U128), ("entry_count", "<u8"),
    ("last_position", "<u8"), ("slot", "<u4"), ("settings", "<u4"),
])
"""What a look-up does not show of an account, for many accounts: settings are flags."""
if ACCOUNT_DETAILS.itemsize != sizeof(details_t):
    raise ImportError("ACCOUNT_DETAILS is not details_t")


cdef void copy_account(const account_row_t* row, account_t* out) noexcept nogil:
    memset(out, 0, sizeof(account_t))
    out.id = row.id
    out.debits_pending = row.debits_pending
    out.debits_posted = row.debits_posted
    out.credits_pending = row.credits_pending
    out.credits_posted = row.credits_posted
    out.user_data_128 = row.user_data_128
    out.user_data_64 = row.user_data_64
    out.user_data_32 = row.user_data_32
    out.ledger = row.ledger
    out.code = row.code
    out.flags = row.flags & ROW_FLAGS
    out.timestamp = row.timestamp


cdef u128_t key_of(object id):
    cdef u128_t key
    key.lo, key.hi = layout.from_int(id)
    return key


cdef object integer(u128_t value):
    return int(value.lo) | int(value.hi) << 64


cdef class Books:
    """All accounts, open holds and clocks of one ledger, as they are after the last committed
    entry."""

    def __cinit__(self, *, uint32_t holds_max=1 << 22, uint64_t seed=0):
        self.accounts = Accounts(seed)
        self.holds = Holds(holds_max, seed)
        self.declared = {}
        self.block_number = -1

    # ---- one account ----

    @property
    def account_count(self):
        """Accounts opened so far."""
        return self.accounts.count

    @property
    def hold_count(self):
        """Open pending transfers."""
        return self.holds.count

    @property
    def next_expiry(self):
        """When the next open hold expires, in ns; 0 for none."""
        return self.holds.next_expiry_ns

    def slot_of(self, id):
        """Return the slot of the account with this id (an integer), or -1."""
        cdef u128_t key = key_of(id)
        return self.accounts.find(key, hash_id(key, self.accounts.seed))

    def lookup_accounts(self, ids):
        """Return (ACCOUNT array, bool array found) for a U128 array; rows not found are zeros."""
        cdef cnp.ndarray keys = np.ascontiguousarray(ids, layout.U128)
        cdef uint32_t count = <uint32_t>keys.shape[0], index
        cdef cnp.ndarray accounts = np.zeros(count, layout.ACCOUNT)
        cdef cnp.ndarray found = np.zeros(count, np.bool_)
        cdef const u128_t* key = <const u128_t*>cnp.PyArray_DATA(keys)
        cdef account_t* out = <account_t*>cnp.PyArray_DATA(accounts)
        cdef uint8_t* hit = <uint8_t*>cnp.PyArray_DATA(found)
        cdef int64_t slot
        with nogil:
            for index in range(count):
                slot = self.accounts.find(key[index], hash_id(key[index], self.accounts.seed))
                if slot >= 0:
                    copy_account(row_at(self.accounts, <uint32_t>slot), &out[index])
                    hit[index] = 1
        return accounts, found

    def lookup_details(self, ids):
        """Return the ACCOUNT_DETAILS of accounts (U128 array of ids); of ids not found zeros and
        NO_SLOT."""
        cdef cnp.ndarray keys = np.ascontiguousarray(ids, layout.U128)
        cdef uint32_t count = <uint32_t>keys.shape[0], index
        cdef cnp.ndarray details = np.zeros(count, ACCOUNT_DETAILS)
        cdef const u128_t* key = <const u128_t*>cnp.PyArray_DATA(keys)
        cdef details_t* out = <details_t*>cnp.PyArray_DATA(details)
        cdef account_row_t* row
        cdef extra_t* extra
        cdef int64_t slot
        for index in range(count):
            slot = self.accounts.find(key[index], hash_id(key[index], self.accounts.seed))
            if slot < 0:
                out[index].slot = LIMIT_NO_SLOT
                continue
            row = row_at(self.accounts, <uint32_t>slot)
            out[index].slot = <uint32_t>slot
            out[index].entry_count = row.entry_count
            out[index].last_position = row.last_position
            extra = self.accounts.extra_of(<uint32_t>slot)
            if extra != NULL:
                out[index].settings = extra.settings
                out[index].overdraft = extra.overdraft
                out[index].ceiling = extra.ceiling
        return details

    def account_details(self, id):
        """Return what a look-up does not show of an account (a dict), or None when there is no such
        account.

        slot, entry_count, last_position, ordinal, head (bytes), settings (flags), overdraft,
        ceiling.
        """
        cdef int64_t slot = self.slot_of(id)
        cdef account_row_t* row
        cdef extra_t* extra
        if slot < 0:
            return None
        row = row_at(self.accounts, <uint32_t>slot)
        extra = self.accounts.extra_of(<uint32_t>slot)
        return {
            "slot": slot,
            "entry_count": row.entry_count,
            "last_position": row.last_position,
            "ordinal": row.ordinal,
            "head": <bytes>row.head[:32],
            "settings": extra.settings if extra != NULL else 0,
            "overdraft": integer(extra.overdraft) if extra != NULL else 0,
            "ceiling": integer(extra.ceiling) if extra != NULL else 0,
        }

    def account_at(self, uint32_t slot):
        """Return the ACCOUNT record of a slot (an array of one)."""
        cdef cnp.ndarray out = np.zeros(1, layout.ACCOUNT)
        if slot >= self.accounts.count:
            raise IndexError(f"no account has slot {slot}")
        copy_account(row_at(self.accounts, slot), <account_t*>cnp.PyArray_DATA(out))
        return out

    def holds_of(self, uint32_t slot):
        """Return how many open holds touch the account in a slot."""
        cdef uint32_t place, found = 0
        for place in range(self.holds.used):
            found += self.holds.rows[place].state == HOLD_OPEN and (
                self.holds.rows[place].debit_slot == slot
                or self.holds.rows[place].credit_slot == slot)
        return found

    def accounts_at(self, slots):
        """Return the ACCOUNT records of a u32 array of slots; zeros where one is not open."""
        cdef cnp.ndarray asked = np.ascontiguousarray(slots, np.uint32)
        cdef uint32_t count = <uint32_t>asked.shape[0], index
        cdef cnp.ndarray accounts = np.zeros(count, layout.ACCOUNT)
        cdef const uint32_t* slot = <const uint32_t*>cnp.PyArray_DATA(asked)
        cdef account_t* out = <account_t*>cnp.PyArray_DATA(accounts)
        with nogil:
            for index in range(count):
                if slot[index] < self.accounts.count:
                    copy_account(row_at(self.accounts, slot[index]), &out[index])
        return accounts

    def fill_account_ids(self, entries):
        """Fill in the account ids of decoded ENTRY rows from their slots, in place.

        Safe on any thread for slots of durable blocks: rows never move and their ids never change.
        """
        cdef cnp.ndarray rows = entries
        cdef entry_t* row
        cdef uint32_t index, count = <uint32_t>rows.shape[0]
        if rows.dtype != layout.ENTRY or not rows.flags.c_contiguous:
            raise TypeError("fill_account_ids takes a contiguous ENTRY array")
        row = <entry_t*>cnp.PyArray_DATA(rows)
        for index in range(count):
            if row[index].debit_slot != LIMIT_NO_SLOT:
                if row[index].debit_slot >= self.accounts.count:
                    raise DataDamaged(f"an entry names slot {row[index].debit_slot}, not open")
                row[index].record.debit_account_id = row_at(
                    self.accounts, row[index].debit_slot).id
            if row[index].credit_slot != LIMIT_NO_SLOT:
                if row[index].credit_slot >= self.accounts.count:
                    raise DataDamaged(f"an entry names slot {row[index].credit_slot}, not open")
                row[index].record.credit_account_id = row_at(
                    self.accounts, row[index].credit_slot).id

    def identities(self, slots):
        """Return what an account's leaf needs and no entry tells: (ids U128 array, ``(n, 16)``
        array of state salts) of a u32 array of slots.

        Safe on any thread for slots of durable blocks, as ``fill_account_ids``. Raises IndexError
        for a slot that is not open.
        """
        cdef cnp.ndarray asked = np.ascontiguousarray(slots, np.uint32)
        cdef uint32_t count = <uint32_t>asked.shape[0], index
        cdef cnp.ndarray ids = np.empty(count, layout.U128)
        cdef cnp.ndarray salts = np.empty((count, SALT_BYTES), np.uint8)
        cdef const uint32_t* slot = <const uint32_t*>cnp.PyArray_DATA(asked)
        cdef u128_t* id = <u128_t*>cnp.PyArray_DATA(ids)
        cdef uint8_t* salt = <uint8_t*>cnp.PyArray_DATA(salts)
        for index in range(count):
            if slot[index] >= self.accounts.count:
                raise IndexError(f"no account has slot {slot[index]}")
        with nogil:
            for index in range(count):
                id[index] = row_at(self.accounts, slot[index]).id
                memcpy(salt + <size_t>SALT_BYTES * index, salt_at(self.accounts, slot[index]),
                       SALT_BYTES)
        return ids, salts

    # ---- many accounts ----

    def trial_balance(self):
        """Return the sums of every (ledger, code) with accounts, in that order: a list of dicts of
        integers."""
        names = ("ledger", "code", "account_count", "debits_pending", "debits_posted",
                 "credits_pending", "credits_posted")
        return [dict(zip(names, row, strict=True)) for row in self.accounts.group_rows()]

    def query_accounts(self, filter):
        """Return the accounts that match a QUERY_FILTER record, in order of creation, at most
        8190."""
        cdef cnp.ndarray one = np.array([filter], layout.QUERY_FILTER).reshape(-1)
        cdef query_filter_t* query = <query_filter_t*>cnp.PyArray_DATA(one)
        cdef uint64_t earliest = query.timestamp_min
        cdef uint64_t latest = query.timestamp_max if query.timestamp_max else TIMESTAMP_MAX
        cdef uint32_t limit = min(query.limit, <uint32_t>LIMIT_QUERY_RECORDS_MAX)
        cdef uint32_t first = 0, past, middle, high, seen, slot, found = 0
        cdef cnp.ndarray accounts
        cdef account_t* out
        cdef account_row_t* row
        cdef bint reversed_order = query.flags & QUERY_FILTER_REVERSED
        cdef bint valid = query.limit != 0 and query.flags & ~QUERY_FILTER_REVERSED == 0
        for seen in range(6):
            valid = valid and query.reserved[seen] == 0
        if (not valid or earliest > latest or earliest > TIMESTAMP_MAX or latest > TIMESTAMP_MAX):
            return np.zeros(0, layout.ACCOUNT)
        accounts = np.zeros(min(limit, self.accounts.count), layout.ACCOUNT)
        out = <account_t*>cnp.PyArray_DATA(accounts)
        with nogil:
            high = self.accounts.count
            while first < high:                     # the first account not before the range
                middle = first + (high - first) // 2
                if row_at(self.accounts, middle).timestamp < earliest:
                    first = middle + 1
                else:
                    high = middle
            past = first
            high = self.accounts.count
            while past < high:                      # the first account after it
                middle = past + (high - past) // 2
                if row_at(self.accounts, middle).timestamp <= latest:
                    past = middle + 1
                else:
                    high = middle
            for seen in range(past - first):
                if found == limit:
                    break
                slot = past - 1 - seen if reversed_order else first + seen
                row = row_at(self.accounts, slot)
                if (
                    not row.flags & ROW_ERASED
                    and (
                        is_zero(query.user_data_128)
                        or equal(query.user_data_128, row.user_data_128)
                    )
                    and (query.user_data_64 == 0 or query.user_data_64 == row.user_data_64)
                    and (query.user_data_32 == 0 or query.user_data_32 == row.user_data_32)
                    and (query.ledger == 0 or query.ledger == row.ledger)
                    and (query.code == 0 or query.code == row.code)
                ):
                    copy_account(row, &out[found])
                    found += 1
        return accounts[:found]

    def definitions(self):
        """Return all declared ledgers and codes: dicts with kind, ledger, code, exponent, flags,
        metadata (bytes)."""
        return [
            {"kind": kind, "ledger": ledger, "code": code, "exponent": exponent, "flags": flags,
             "metadata": metadata}
            for (kind, ledger, code), (exponent, flags, metadata) in sorted(self.declared.items())
        ]

    # ---- pages, for the snapshot ----

    @property
    def page_count(self):
        """Pages of accounts in use."""
        return self.accounts.page_count

    @property
    def hold_page_count(self):
        """Pages of holds in use."""
        return self.holds.page_count

    def dirty_pages(self, kind, uint32_t limit):
        """Return at most ``limit`` pages of a kind (accounts, holds) that changed; they count as
        taken."""
        return self.table(kind).dirty_pages(limit)

    def copy_page(self, kind, uint32_t page):
        """Return the bytes of one page; between blocks only."""
        return self.table(kind).copy_page(page)

    def load_page(self, kind, uint32_t page, data, uint64_t position):
        """Take a page that was copied after block ``position``; raise DataDamaged when it cannot be
        one."""
        if kind == "accounts":
            self.accounts.load_page(page, data, position)
        else:
            self.holds.load_page(page, data)

    def table(self, kind):
        """Return the table that pages of this kind belong to."""
        if kind == "accounts":
            return self.accounts
        if kind == "holds":
            return self.holds
        raise ValueError(f"no pages of kind {kind!r}")

    def small_state(self):
        """Return what is not in pages (the declarations) as bytes."""
        rows = [[*key, exponent, flags, metadata.decode()]
                for key, (exponent, flags, metadata) in sorted(self.declared.items())]
        return json.dumps({"version": SMALL_STATE_VERSION, "declared": rows},
                          ensure_ascii=False, separators=(",", ":")).encode()

    def load_small_state(self, data):
        """Take what ``small_state`` gave; raise DataDamaged when it is not that."""
        try:
            state = json.loads(bytes(data))
            if state["version"] != SMALL_STATE_VERSION:
                raise DataDamaged(f"small state of version {state['version']}")
            self.declared = {
                (kind, ledger, code): (exponent, flags, metadata.encode())
                for kind, ledger, code, exponent, flags, metadata in state["declared"]
            }
        except (ValueError, KeyError, TypeError) as error:
            raise DataDamaged(f"small state: {error}") from error
