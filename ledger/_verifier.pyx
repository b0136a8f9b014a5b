# cython: language_level=3
"""Verification: decide stored entries again."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ledger._accounts cimport ROW_ERASED, account_row_t, row_at
from ledger._administration cimport is_seal
from ledger._block cimport Block
from ledger._core cimport Core, is_transient, reopening
from ledger._check cimport CHECK
from ledger._index cimport hash_id, index_insert, index_remove
from ledger._layout cimport *
from ledger._u128 cimport equal, is_zero

from ledger import layout


cdef class Verifier(Core):
    """A core that is led through a journal from its first block and decides every entry again."""

    def redecide(self, Block block):
        """Decide every entry of a stored block again and commit it; return what differs, one line
        each.

        The state must be that before the block. Balances, numbers and positions are compared as in
        ``replay``;
        afterwards the state is that after the block as long as nothing differed.
        """
        cdef uint32_t index, count, status
        cdef entry_t* stored
        cdef entry_t decided
        cdef transfer_t event
        cdef account_t opening
        cdef uint64_t timestamp
        cdef int64_t debit, credit, place
        cdef bint opens_erased
        cdef Block scratch = Block()
        differences = []
        scratch.number = block.number
        if not scratch.reserve(1):
            raise MemoryError
        self.ids.clear()
        if not self.ids.reserve(scratch, 1):
            raise MemoryError
        count = block.count
        for index in range(count):
            stored = &block.rows[index]
            # Stored entries name their accounts by slot; only the books say whose slot it is.
            if stored.debit_slot < self.accounts.count:
                stored.record.debit_account_id = row_at(self.accounts, stored.debit_slot).id
            if stored.credit_slot < self.accounts.count:
                stored.record.credit_account_id = row_at(self.accounts, stored.credit_slot).id
            opens_erased = stored.kind == ENTRY_KIND_ACCOUNT and is_zero(stored.record.id)
            if opens_erased:
                stored.record.id = self.substitute(self.accounts.count)
                stored.record.debit_account_id = stored.record.id
            elif stored.kind == ENTRY_KIND_ACCOUNT:
                self.make_way(stored.record.id)
            event = stored.record
            timestamp = event.timestamp
            self.block = scratch
            self.event_digest = NULL
            self.refused_slot = LIMIT_NO_SLOT
            self.exists_timestamp = 0
            self.event_metadata = None
            if stored.metadata:
                self.event_metadata = block.metadata[stored.metadata - 1]
                self.event_digest = block.digests + <size_t>32 * (stored.metadata - 1)
            status = STATUS_CREATED
            memset(&decided, 0, sizeof(decided))
            if stored.kind == ENTRY_KIND_ACCOUNT:
                memset(&opening, 0, sizeof(opening))
                opening.id = event.id
                opening.user_data_128 = event.user_data_128
                opening.user_data_64 = event.user_data_64
                opening.user_data_32 = event.user_data_32
                opening.ledger = event.ledger
                opening.code = event.code
                opening.flags = event.flags
                opening.timestamp = event.timestamp
                status = self.decide_account(
                    &opening, timestamp, hash_id(event.id, self.accounts.seed))
            elif stored.kind == ENTRY_KIND_TRANSFER:
                if not event.flags & TRANSFER_IMPORTED:
                    event.timestamp = 0
                else:
                    # When it was decided is not stored; the earliest that it can have been.
                    timestamp = self.last_timestamp + 1
                debit = self.accounts.find(
                    event.debit_account_id, hash_id(event.debit_account_id, self.accounts.seed))
                credit = self.accounts.find(
                    event.credit_account_id, hash_id(event.credit_account_id, self.accounts.seed))
                status = self.decide_transfer(
                    &event, timestamp, hash_id(event.id, NAMESPACE_TRANSFER), debit, credit,
                    &decided)
                if status == STATUS_CREATED and (
                    memcmp(&decided.record, &stored.record, sizeof(transfer_t))
                    or not equal(decided.released, stored.released)
                    or decided.debit_slot != stored.debit_slot
                    or decided.credit_slot != stored.credit_slot
                    or decided.flags != stored.flags & ~ENTRY_HAS_METADATA
                ):
                    differences.append(f"block {block.number}, entry {index}: decided differently")
            elif stored.kind == ENTRY_KIND_EXPIRY:
                place = self.holds.next_due(end_of_sweep(block, index))
                if place < 0 or not equal(self.holds.rows[place].id, event.pending_id):
                    differences.append(
                        f"block {block.number}, entry {index}: another hold was due to expire")
                elif (not equal(self.holds.rows[place].amount, stored.released)
                      or self.holds.rows[place].debit_slot != stored.debit_slot
                      or self.holds.rows[place].credit_slot != stored.credit_slot
                      or reopening(&self.holds.rows[place]) != stored.flags):
                    differences.append(
                        f"block {block.number}, entry {index}: the expiry is not that of its hold")
            elif stored.kind == ENTRY_KIND_BURNED_ID:
                if not is_transient(event.code):
                    differences.append(
                        f"block {block.number}, entry {index}: burned by a status that burns none")
            elif (stored.kind == ENTRY_KIND_ADMINISTRATION
                    and event.code == ADMINISTRATION_SEAL):
                if not is_seal(stored) or count != 1 or timestamp != block.last_timestamp:
                    differences.append(
                        f"block {block.number}, entry {index}: a seal is not alone, or not bare")
            else:
                event.timestamp = 0
                if stored.kind == ENTRY_KIND_ACCOUNT_SETTINGS:
                    event.ledger = 0
                    event.code = 0
                decided.kind = stored.kind
                decided.record = stored.record
                decided.debit_slot = LIMIT_NO_SLOT
                decided.credit_slot = LIMIT_NO_SLOT
                status = self.decide_administrative(
                    &event, &decided, hash_id(event.id, NAMESPACE_ADMINISTRATIVE))
                if status == STATUS_CREATED and (
                    decided.debit_slot != stored.debit_slot
                    or memcmp(&decided.record, &stored.record, sizeof(transfer_t))
                ):
                    differences.append(f"block {block.number}, entry {index}: decided differently")
                elif stored.kind == ENTRY_KIND_ADMINISTRATION:
                    self.business_date = event.user_data_32
                elif stored.kind == ENTRY_KIND_DEFINITION:
                    self.replay_declaration(block, stored)
            if status != STATUS_CREATED:
                kind = {ENTRY_KIND_ACCOUNT: "ACCOUNT", ENTRY_KIND_TRANSFER: "TRANSFER"}.get(
                    stored.kind, "ADMINISTRATIVE")
                name = layout.STATUS_NAMES[kind].get(status, status)
                differences.append(
                    f"block {block.number}, entry {index}: the rules refuse it: {name}")
            differences.extend(self.recommit(block, index))
            if opens_erased and not differences:
                row_at(self.accounts, stored.debit_slot).flags |= ROW_ERASED
            if stored.kind == ENTRY_KIND_ACCOUNT:
                self.last_account_timestamp = stored.record.timestamp
            elif stored.kind == ENTRY_KIND_TRANSFER or stored.kind == ENTRY_KIND_EXPIRY:
                self.last_transfer_timestamp = stored.record.timestamp
            if differences:
                break
        self.block = None
        self.event_digest = NULL
        for index in range(self.tombstone_count):
            self.holds.release(self.tombstones[index])
        self.tombstone_count = 0
        for name in ("last_account_timestamp", "last_transfer_timestamp", "business_date"):
            if not differences and getattr(self, name) != getattr(block, name):
                differences.append(f"block {block.number}: {name} in its header is wrong")
        self.last_timestamp = block.last_timestamp
        self.block_number = <int64_t>block.number
        self.entry_number = block.first_entry + count
        return differences

    cdef u128_t substitute(self, uint32_t slot) noexcept:
        """An id that no account has, for an erased one while its entries are decided again."""
        cdef u128_t id
        id.lo = slot
        id.hi = 0x9E3779B97F4A7C15ULL
        while self.accounts.find(id, hash_id(id, self.accounts.seed)) >= 0:
            id.hi += 1
        return id

    cdef void make_way(self, u128_t id) noexcept:
        """Give an erased account another substitute when an account is to be opened under its
        present one."""
        cdef int64_t slot = self.accounts.find(id, hash_id(id, self.accounts.seed))
        if slot >= 0 and row_at(self.accounts, <uint32_t>slot).flags & ROW_ERASED:
            self.rename(<uint32_t>slot, self.substitute(<uint32_t>slot))

    cdef void rename(self, uint32_t slot, u128_t id) noexcept:
        cdef account_row_t* row = row_at(self.accounts, slot)
        cdef uint64_t hash = hash_id(row.id, self.accounts.seed)
        index_remove(&self.accounts.shards[hash >> 56], <uint32_t>hash, slot)
        row.id = id
        if not is_zero(id):
            hash = hash_id(id, self.accounts.seed)
            CHECK(index_insert(&self.accounts.shards[hash >> 56], <uint32_t>hash, slot),
                  "out of memory for accounts")

    def forget_substitutes(self):
        """Take the substitute ids from erased accounts, after the last block; then the books are
        those that recovery makes."""
        cdef uint32_t slot
        cdef u128_t nothing
        memset(&nothing, 0, sizeof(nothing))
        for slot in range(self.accounts.count):
            if (row_at(self.accounts, slot).flags & ROW_ERASED
                    and not is_zero(row_at(self.accounts, slot).id)):
                self.rename(slot, nothing)

    cdef list recommit(self, Block block, uint32_t index):
        """Commit one stored entry in place and compare its sides; what differs, one line each."""
        cdef entry_t* entry = &block.rows[index]
        cdef entry_t stored = entry[0]
        cdef uint32_t count = block.count
        cdef str what = self.misfit(entry)
        if what:
            return [f"block {block.number}, entry {index}: {what}"]
        self.block = block
        block.count = index                     # the entry's own place, for its position
        entry.reserved = 0
        self.commit(entry)
        block.count = count
        if (memcmp(&entry.debit, &stored.debit, sizeof(side_t))
                or memcmp(&entry.credit, &stored.credit, sizeof(side_t))
                or entry.debit_slot != stored.debit_slot):
            return [f"block {block.number}, entry {index}: balances, numbers or positions differ"]
        return []


cdef uint64_t end_of_sweep(Block block, uint32_t index) noexcept:
    """The time of the sweep that an expiry belongs to: the last of its k timestamps."""
    while (index + 1 < block.count and block.rows[index + 1].kind == ENTRY_KIND_EXPIRY
           and block.rows[index + 1].record.timestamp == block.rows[index].record.timestamp + 1):
        index += 1
    return block.rows[index].record.timestamp
