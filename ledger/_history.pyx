"""What happened, over stored blocks: an account's transfers, its balances, queries, change events.

Accounts are read by ``ledger._walks``; queries open the blocks whose filters may match and compare
single columns of their rows.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from ledger._layout cimport (
    ACCOUNT_CLOSED, ACCOUNT_FILTER_CREDITS, ACCOUNT_FILTER_DEBITS, ACCOUNT_FILTER_REVERSED,
    ACCOUNT_HISTORY, CHANGE_EVENT_TYPE_SINGLE_PHASE, CHANGE_EVENT_TYPE_TWO_PHASE_EXPIRED,
    CHANGE_EVENT_TYPE_TWO_PHASE_PENDING, CHANGE_EVENT_TYPE_TWO_PHASE_POSTED,
    CHANGE_EVENT_TYPE_TWO_PHASE_VOIDED, ENTRY_KIND_ACCOUNT, ENTRY_KIND_EXPIRY,
    ENTRY_KIND_TRANSFER, ENTRY_REOPENS_CREDIT, ENTRY_REOPENS_DEBIT, LIMIT_INDEX_BITS,
    LIMIT_QUERY_RECORDS_MAX, NO_POSITION, QUERY_FILTER_REVERSED, TIMESTAMP_MAX,
    TRANSFER_CLOSING_CREDIT, TRANSFER_CLOSING_DEBIT, TRANSFER_PENDING,
    TRANSFER_POST_PENDING_TRANSFER, TRANSFER_VOID_PENDING_TRANSFER, account_balance_t,
    account_filter_t, account_t, change_event_t, change_events_filter_t, entry_t, query_filter_t,
    side_t, transfer_t, u128_t,
)
from ledger._rows cimport (
    BlockView, COLUMN_CODE, COLUMN_KIND, COLUMN_LEDGER, COLUMN_TIMESTAMP, COLUMN_USER_DATA_128_HI,
    COLUMN_USER_DATA_128_LO, COLUMN_USER_DATA_32, COLUMN_USER_DATA_64, INTACT,
)
from ledger._walks cimport (
    PASSED_OVER, TAKEN, TOO_EARLY, TOO_LATE, Walk, criteria_t, is_zero, moves, same, side_of,
    step_t,
)

import numpy as np

from ledger import layout
from ledger.errors import DataDamaged

cnp.import_array()

for _dtype, _size in (
    (layout.ENTRY, sizeof(entry_t)), (layout.CHANGE_EVENT, sizeof(change_event_t)),
    (layout.ACCOUNT_FILTER, sizeof(account_filter_t)),
    (layout.QUERY_FILTER, sizeof(query_filter_t)),
    (layout.CHANGE_EVENTS_FILTER, sizeof(change_events_filter_t)),
):
    if _dtype.itemsize != _size:
        raise ImportError("ledger._history was built with another layout; build again")


cdef inline bint is_id(const u128_t* value) noexcept nogil:
    return not is_zero(value) and (value.lo & value.hi) != <uint64_t> -1


cdef bint all_zeros(const uint8_t* data, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        if data[i]:
            return False
    return True


# ----------------------------------------------------------------------------------------------
# Scans
# ----------------------------------------------------------------------------------------------

cdef int64_t next_match(
    BlockView view, const criteria_t* criteria, int64_t* index, int64_t stop, int64_t way,
    int* verdict
) noexcept nogil:
    """Move ``index`` to the next row that is taken or ends the scan, or to ``stop``."""
    cdef uint64_t value = 0, kind = 0
    cdef int64_t answer
    cdef int i
    cdef int columns[6]
    cdef uint64_t wanted[6]
    cdef int count = 0
    # The most selective first: most rows end at the first comparison.
    if not is_zero(&criteria.user_data_128):
        columns[count] = COLUMN_USER_DATA_128_LO
        wanted[count] = criteria.user_data_128.lo
        columns[count + 1] = COLUMN_USER_DATA_128_HI
        wanted[count + 1] = criteria.user_data_128.hi
        count += 2
    if criteria.user_data_64:
        columns[count] = COLUMN_USER_DATA_64
        wanted[count] = criteria.user_data_64
        count += 1
    if criteria.user_data_32:
        columns[count] = COLUMN_USER_DATA_32
        wanted[count] = criteria.user_data_32
        count += 1
    if criteria.code:
        columns[count] = COLUMN_CODE
        wanted[count] = criteria.code
        count += 1
    if criteria.ledger:
        columns[count] = COLUMN_LEDGER
        wanted[count] = criteria.ledger
        count += 1
    verdict[0] = PASSED_OVER
    while index[0] != stop:
        for i in range(count):
            answer = view.value(columns[i], <uint32_t> index[0], &value)
            if answer != INTACT:
                return answer
            if value != wanted[i]:
                break
        else:
            answer = view.value(COLUMN_KIND, <uint32_t> index[0], &kind)
            if answer != INTACT:
                return answer
            if kind == ENTRY_KIND_TRANSFER or (kind == ENTRY_KIND_EXPIRY and criteria.expiries):
                answer = view.value(COLUMN_TIMESTAMP, <uint32_t> index[0], &value)
                if answer != INTACT:
                    return answer
                if value < criteria.timestamp_min:
                    verdict[0] = TOO_EARLY
                elif value > criteria.timestamp_max:
                    verdict[0] = TOO_LATE
                else:
                    verdict[0] = TAKEN
                    return INTACT
                # Rows that come later in this direction may only be further away.
                if (verdict[0] == TOO_EARLY) == (way < 0):
                    return INTACT
                verdict[0] = PASSED_OVER
        index[0] += way
    return INTACT


cdef int64_t first_block_reaching(Walk walk, uint64_t timestamp, int64_t last) except -2:
    """The first block with a transfer or expiry at or after that time, else ``last`` + 1."""
    cdef int64_t low = 0, high = last + 1, middle
    while low < high:
        middle = (low + high) // 2
        if walk.view(middle).last_transfer_timestamp < timestamp:
            low = middle + 1
        else:
            high = middle
    return low


cdef uint32_t scan(
    Walk walk, const criteria_t* criteria, bint reverse, int64_t last, entry_t* out,
    uint64_t* positions, uint32_t limit
) except? 0xFFFFFFFF:
    """Collect matching entries of blocks up to ``last``, either way; return their count."""
    cdef BlockView view
    cdef uint32_t count = 0
    cdef int64_t block, index, stop, answer, way = -1 if reverse else 1
    cdef int verdict
    block = first_block_reaching(
        walk, criteria.timestamp_max if reverse else criteria.timestamp_min, last
    )
    if reverse and block > last:
        block = last
    while 0 <= block <= last:
        view = walk.view(block)
        if reverse and view.last_transfer_timestamp < criteria.timestamp_min:
            break
        if view.entry_count and view.may_match_values(
            criteria.user_data_128.lo, criteria.user_data_128.hi, criteria.user_data_64,
            criteria.user_data_32, criteria.ledger, criteria.code
        ):
            index = view.entry_count - 1 if reverse else 0
            stop = -1 if reverse else view.entry_count
            while True:
                with nogil:
                    answer = next_match(view, criteria, &index, stop, way, &verdict)
                if answer != INTACT:
                    view.raise_damaged(answer)
                if index == stop:
                    break
                if verdict != TAKEN:
                    return count
                view.row(<uint32_t> index, &out[count])
                positions[count] = <uint64_t> block << LIMIT_INDEX_BITS | <uint64_t> index
                count += 1
                if count == limit:
                    return count
                index += way
                if index == stop:
                    break
        if not reverse and view.last_transfer_timestamp > criteria.timestamp_max:
            break
        block += way
    return count


# ----------------------------------------------------------------------------------------------
# Filters
# ----------------------------------------------------------------------------------------------

cdef bint read_range(
    criteria_t* criteria, uint64_t timestamp_min, uint64_t timestamp_max, uint32_t limit
) noexcept nogil:
    criteria.timestamp_min = timestamp_min
    criteria.timestamp_max = timestamp_max if timestamp_max else <uint64_t> -1
    return (
        limit != 0
        and timestamp_min <= criteria.timestamp_max
        and timestamp_min <= TIMESTAMP_MAX
        and timestamp_max <= TIMESTAMP_MAX
    )


cdef bint read_account_filter(
    const account_filter_t* given, criteria_t* criteria
) noexcept nogil:
    """Turn a filter into criteria; False when it is invalid."""
    cdef uint32_t sides = ACCOUNT_FILTER_DEBITS | ACCOUNT_FILTER_CREDITS
    memset(criteria, 0, sizeof(criteria_t))
    criteria.user_data_128 = given.user_data_128
    criteria.user_data_64 = given.user_data_64
    criteria.user_data_32 = given.user_data_32
    criteria.code = given.code
    criteria.debits = (given.flags & ACCOUNT_FILTER_DEBITS) != 0
    criteria.credits = (given.flags & ACCOUNT_FILTER_CREDITS) != 0
    return (
        read_range(criteria, given.timestamp_min, given.timestamp_max, given.limit)
        and is_id(&given.account_id)
        and (given.flags & sides) != 0
        and (given.flags & ~(sides | ACCOUNT_FILTER_REVERSED)) == 0
        and all_zeros(given.reserved, sizeof(given.reserved))
    )


cdef bint read_query_filter(const query_filter_t* given, criteria_t* criteria) noexcept nogil:
    """Turn a filter into criteria; False when it is invalid."""
    memset(criteria, 0, sizeof(criteria_t))
    criteria.user_data_128 = given.user_data_128
    criteria.user_data_64 = given.user_data_64
    criteria.user_data_32 = given.user_data_32
    criteria.ledger = given.ledger
    criteria.code = given.code
    criteria.debits = True
    criteria.credits = True
    return (
        read_range(criteria, given.timestamp_min, given.timestamp_max, given.limit)
        and (given.flags & ~<uint32_t> QUERY_FILTER_REVERSED) == 0
        and all_zeros(given.reserved, sizeof(given.reserved))
    )


cdef bytes record_bytes(value, dtype):
    """The bytes of one record, given as a record or an array of one."""
    array = np.asarray(value)
    if array.dtype != dtype or array.size != 1:
        raise TypeError("a filter is one record of its dtype")
    return array.tobytes()


# ----------------------------------------------------------------------------------------------
# Change events
# ----------------------------------------------------------------------------------------------

cdef int closed_after(Walk walk, const entry_t* entry, uint64_t position, bint debit) except -1:
    """Whether an account was closed after an entry of it.

    A closed account takes nothing but voids and expiries (and settings): the nearest entry of
    another kind, or one that reopened it, decides. Mostly that is the entry itself.
    """
    cdef step_t step
    step.entry = entry[0]
    step.position = position
    step.debit = debit
    walk.slot = entry.debit_slot if debit else entry.credit_slot
    while True:
        if step.entry.kind == ENTRY_KIND_ACCOUNT:
            return (step.entry.record.flags & ACCOUNT_CLOSED) != 0
        if step.entry.flags & (ENTRY_REOPENS_DEBIT if step.debit else ENTRY_REOPENS_CREDIT):
            return 0
        if (
            step.entry.kind == ENTRY_KIND_TRANSFER
            and not step.entry.record.flags & TRANSFER_VOID_PENDING_TRANSFER
        ):
            return (
                step.entry.record.flags
                & (TRANSFER_CLOSING_DEBIT if step.debit else TRANSFER_CLOSING_CREDIT)
            ) != 0
        walk.previous(&step)


cdef int pending_of(
    Walk walk, find, const entry_t* expiry, uint64_t position, transfer_t* out
) except -1:
    """The record of the pending transfer that expired."""
    cdef step_t steps[2]
    cdef int turn = 0, side
    cdef entry_t entry
    cdef BlockView view
    if find is not None:
        found = find(layout_int(&expiry.record.pending_id))
        if found is not None:
            view = walk.view(<uint64_t> found >> LIMIT_INDEX_BITS)
            view.row(<uint32_t> (<uint64_t> found & ((1 << LIMIT_INDEX_BITS) - 1)), &entry)
            if not same(&entry.record.id, &expiry.record.pending_id):
                raise DataDamaged(f"the transfer at position {found} is not the one looked for")
            out[0] = entry.record
            return 0
    # It is in both accounts' chains; go back in both by turns, since one of them may be busy.
    for side in range(2):
        steps[side].entry = expiry[0]
        steps[side].position = position
        steps[side].debit = side == 0
    while True:
        walk.slot = expiry.credit_slot if turn else expiry.debit_slot
        if side_of(&steps[turn]).number == 0:
            raise DataDamaged(
                f"the pending transfer of the expiry at position {position} is not in its account"
            )
        walk.previous(&steps[turn])
        if (
            steps[turn].entry.kind == ENTRY_KIND_TRANSFER
            and same(&steps[turn].entry.record.id, &expiry.record.pending_id)
        ):
            out[0] = steps[turn].entry.record
            return 0
        turn ^= 1


cdef object layout_int(const u128_t* value):
    return int(value.lo) | int(value.hi) << 64


cdef uint8_t type_of(const entry_t* entry) noexcept nogil:
    if entry.kind == ENTRY_KIND_EXPIRY:
        return CHANGE_EVENT_TYPE_TWO_PHASE_EXPIRED
    if entry.record.flags & TRANSFER_POST_PENDING_TRANSFER:
        return CHANGE_EVENT_TYPE_TWO_PHASE_POSTED
    if entry.record.flags & TRANSFER_VOID_PENDING_TRANSFER:
        return CHANGE_EVENT_TYPE_TWO_PHASE_VOIDED
    if entry.record.flags & TRANSFER_PENDING:
        return CHANGE_EVENT_TYPE_TWO_PHASE_PENDING
    return CHANGE_EVENT_TYPE_SINGLE_PHASE


cdef void fill_event(
    change_event_t* out, const entry_t* entry, const transfer_t* record, const account_t* debit,
    const account_t* credit, bint debit_closed, bint credit_closed
) noexcept nogil:
    memset(out, 0, sizeof(change_event_t))
    out.transfer_id = record.id
    out.transfer_amount = record.amount
    out.transfer_pending_id = record.pending_id
    out.transfer_user_data_128 = record.user_data_128
    out.transfer_user_data_64 = record.user_data_64
    out.transfer_user_data_32 = record.user_data_32
    out.transfer_timeout = record.timeout
    out.transfer_code = record.code
    out.transfer_flags = record.flags
    out.ledger = record.ledger
    out.type = type_of(entry)
    out.debit_account_id = entry.record.debit_account_id
    out.debit_account_debits_pending = entry.debit.debits_pending
    out.debit_account_debits_posted = entry.debit.debits_posted
    out.debit_account_credits_pending = entry.debit.credits_pending
    out.debit_account_credits_posted = entry.debit.credits_posted
    out.debit_account_user_data_128 = debit.user_data_128
    out.debit_account_user_data_64 = debit.user_data_64
    out.debit_account_user_data_32 = debit.user_data_32
    out.debit_account_code = debit.code
    out.debit_account_flags = (debit.flags & ~ACCOUNT_CLOSED) | ACCOUNT_CLOSED * debit_closed
    out.credit_account_id = entry.record.credit_account_id
    out.credit_account_debits_pending = entry.credit.debits_pending
    out.credit_account_debits_posted = entry.credit.debits_posted
    out.credit_account_credits_pending = entry.credit.credits_pending
    out.credit_account_credits_posted = entry.credit.credits_posted
    out.credit_account_user_data_128 = credit.user_data_128
    out.credit_account_user_data_64 = credit.user_data_64
    out.credit_account_user_data_32 = credit.user_data_32
    out.credit_account_code = credit.code
    out.credit_account_flags = (credit.flags & ~ACCOUNT_CLOSED) | ACCOUNT_CLOSED * credit_closed
    out.timestamp = entry.record.timestamp
    out.transfer_timestamp = record.timestamp
    out.debit_account_timestamp = debit.timestamp
    out.credit_account_timestamp = credit.timestamp


# ----------------------------------------------------------------------------------------------
# The interface
# ----------------------------------------------------------------------------------------------

cdef int64_t last_block_of(reader, limit_block):
    """The last block that may be read, -1 for none."""
    last = reader.last_block
    return last if limit_block is None else min(last, limit_block)


class History:
    """Reads what happened from a Reader's blocks, up to and including ``limit_block`` (None: all).

    ``core`` gives what is not in an entry: ``account_details(id)``, ``lookup_accounts(ids)``,
    ``accounts_at(slots)`` and ``fill_account_ids(entries)``. Where the caller's thread must not ask
    the core, the caller passes what it read there as ``account``: slot, last_position and flags, in
    a dict. ``find``, if given, is a function from a transfer's id to its position or None; without
    it an expiry's pending transfer is looked for along both accounts' entries, which costs two rows
    for each entry of the quieter one since then. Invalid filters answer empty; damaged blocks raise
    DataDamaged. An answer has at most QUERY_RECORDS_MAX records.
    """

    def __init__(self, core, find=None):
        self._core = core
        self._find = find

    def account_entries(
        self, reader, slot, start_position, *, first=0, last=None, reversed=False,
        limit=LIMIT_QUERY_RECORDS_MAX, limit_block=None, filter=None
    ):
        """Return (positions, ENTRY array) of an account's entries numbered ``first`` to ``last``.

        Both are inclusive. ``start_position`` is that of the account's newest entry (or of any not
        before ``last``). Account ids are filled in; ``debit_slot == slot`` tells the account's
        side, whose ``number`` is the cursor. With an ACCOUNT_FILTER record as ``filter`` only the
        transfers that it describes (its account, limit and direction are not used).
        """
        cdef account_filter_t given
        cdef criteria_t criteria
        memset(&criteria, 0, sizeof(criteria))
        criteria.all_kinds = True
        criteria.timestamp_max = <uint64_t> -1
        if filter is not None:
            packed = record_bytes(filter, layout.ACCOUNT_FILTER)
            memcpy(&given, <const char*> packed, sizeof(given))
            if not read_account_filter(&given, &criteria):
                return _no_entries()
        return _entries_of(
            self._core, reader, last_block_of(reader, limit_block), slot, start_position,
            first, layout.U64_MAX if last is None else last, reversed, limit, &criteria
        )

    def account_transfers(self, reader, filter, limit_block=None, *, account=None):
        """Return the TRANSFER records that an ACCOUNT_FILTER describes, in order of the log.

        ``account`` is what account_details says, when the core must not be asked here.
        """
        _, entries = self._filtered(reader, filter, limit_block, account)
        return np.ascontiguousarray(entries["record"])

    def account_balances(self, reader, filter, limit_block=None, *, account=None):
        """Return ACCOUNT_BALANCE records: the account after each of account_transfers' transfers.

        Empty for an account without the history flag.
        """
        cdef cnp.ndarray rows
        cdef cnp.ndarray out
        cdef const entry_t* entry
        cdef const side_t* side
        cdef account_balance_t* balance
        cdef account_filter_t given
        packed = record_bytes(filter, layout.ACCOUNT_FILTER)
        memcpy(&given, <const char*> packed, sizeof(given))
        if account is None or "flags" not in account:
            accounts, _ = self._core.lookup_accounts(
                np.frombuffer(packed, layout.ACCOUNT_FILTER)["account_id"]
            )
            flags = int(accounts["flags"][0])
        else:
            flags = account["flags"]
        if not flags & ACCOUNT_HISTORY:
            return np.zeros(0, layout.ACCOUNT_BALANCE)
        _, rows = self._filtered(reader, filter, limit_block, account)
        out = np.zeros(rows.shape[0], layout.ACCOUNT_BALANCE)
        entry = <const entry_t*> cnp.PyArray_DATA(rows)
        balance = <account_balance_t*> cnp.PyArray_DATA(out)
        for _i in range(rows.shape[0]):
            side = (
                &entry.debit if same(&entry.record.debit_account_id, &given.account_id)
                else &entry.credit
            )
            balance.debits_pending = side.debits_pending
            balance.debits_posted = side.debits_posted
            balance.credits_pending = side.credits_pending
            balance.credits_posted = side.credits_posted
            balance.timestamp = entry.record.timestamp
            entry += 1
            balance += 1
        return out

    def _filtered(self, reader, filter, limit_block, account):
        cdef account_filter_t given
        cdef criteria_t criteria
        packed = record_bytes(filter, layout.ACCOUNT_FILTER)
        memcpy(&given, <const char*> packed, sizeof(given))
        if not read_account_filter(&given, &criteria):
            return _no_entries()
        if account is None:
            account = self._core.account_details(layout_int(&given.account_id))
        if account is None:
            return _no_entries()
        return _entries_of(
            self._core, reader, last_block_of(reader, limit_block), account["slot"],
            account["last_position"], 0, layout.U64_MAX,
            (given.flags & ACCOUNT_FILTER_REVERSED) != 0, given.limit, &criteria
        )

    def balance_at(self, reader, slot, start_position, timestamp, limit_block=None):
        """Return the account's SIDE after its last transfer or expiry up to ``timestamp`` (ns).

        The opening's (zeros) when there was none; None when the account did not exist yet.
        """
        cdef Walk walk = Walk(reader)
        cdef step_t step
        cdef int64_t last = last_block_of(reader, limit_block)
        cdef uint64_t moment = min(timestamp, layout.U64_MAX)
        cdef side_t side
        if not _start(walk, &step, last, slot, start_position):
            return None
        walk.seek_time(&step, moment)
        if step.entry.record.timestamp > moment:
            return None
        out = np.zeros(1, layout.SIDE)
        side = side_of(&step)[0]
        memcpy(cnp.PyArray_DATA(out), &side, sizeof(side))
        return out[0]

    def query_transfers(self, reader, filter, limit_block=None):
        """Return the TRANSFER records that a QUERY_FILTER describes, in order of the log."""
        cdef query_filter_t given
        cdef criteria_t criteria
        packed = record_bytes(filter, layout.QUERY_FILTER)
        memcpy(&given, <const char*> packed, sizeof(given))
        if not read_query_filter(&given, &criteria):
            return np.zeros(0, layout.TRANSFER)
        _, entries = _scanned(
            self._core, reader, last_block_of(reader, limit_block), &criteria,
            (given.flags & QUERY_FILTER_REVERSED) != 0, given.limit
        )
        return np.ascontiguousarray(entries["record"])

    def change_events(self, reader, filter, limit_block=None):
        """Return the CHANGE_EVENT records of a CHANGE_EVENTS_FILTER, in order of the log."""
        cdef change_events_filter_t given
        cdef criteria_t criteria
        packed = record_bytes(filter, layout.CHANGE_EVENTS_FILTER)
        memcpy(&given, <const char*> packed, sizeof(given))
        memset(&criteria, 0, sizeof(criteria))
        criteria.debits = True
        criteria.expiries = True
        if not (
            read_range(&criteria, given.timestamp_min, given.timestamp_max, given.limit)
            and all_zeros(given.reserved, sizeof(given.reserved))
        ):
            return np.zeros(0, layout.CHANGE_EVENT)
        positions, entries = _scanned(
            self._core, reader, last_block_of(reader, limit_block), &criteria, False, given.limit
        )
        return self.describe_events(reader, positions, entries)

    def describe_events(self, reader, positions, entries):
        """Return a CHANGE_EVENT for each entry: transfers and expiries with account ids.

        Balances and the closed flag are those right after the event; the accounts' other fields
        never change. For an expiry the transfer's fields are the pending transfer's own.
        """
        cdef cnp.ndarray rows = np.ascontiguousarray(entries, layout.ENTRY)
        cdef cnp.ndarray places = np.ascontiguousarray(positions, np.uint64)
        cdef Py_ssize_t count = rows.shape[0], i
        cdef cnp.ndarray out = np.zeros(count, layout.CHANGE_EVENT)
        if places.shape[0] != count:
            raise ValueError("as many positions as entries")
        if count == 0:
            return out
        debits = self._core.accounts_at(np.ascontiguousarray(rows["debit_slot"]))
        credits = self._core.accounts_at(np.ascontiguousarray(rows["credit_slot"]))
        cdef cnp.ndarray debit_rows = np.ascontiguousarray(debits, layout.ACCOUNT)
        cdef cnp.ndarray credit_rows = np.ascontiguousarray(credits, layout.ACCOUNT)
        cdef const entry_t* entry = <const entry_t*> cnp.PyArray_DATA(rows)
        cdef const uint64_t* position = <const uint64_t*> cnp.PyArray_DATA(places)
        cdef const account_t* debit = <const account_t*> cnp.PyArray_DATA(debit_rows)
        cdef const account_t* credit = <const account_t*> cnp.PyArray_DATA(credit_rows)
        cdef change_event_t* event = <change_event_t*> cnp.PyArray_DATA(out)
        cdef Walk walk = Walk(reader)
        cdef transfer_t record
        for i in range(count):
            if not moves(&entry[i]):
                raise ValueError("only transfers and expiries are change events")
            record = entry[i].record
            if entry[i].kind == ENTRY_KIND_EXPIRY:
                pending_of(walk, self._find, &entry[i], position[i], &record)
            fill_event(
                &event[i], &entry[i], &record, &debit[i], &credit[i],
                closed_after(walk, &entry[i], position[i], True),
                closed_after(walk, &entry[i], position[i], False)
            )
        return out

    def events_after(self, reader, position, limit, limit_block=None):
        """Return (positions u64, ENTRY array) of entries of every kind after a position, in order.

        ``position`` None starts with the first; at most ``limit`` entries. The last position
        returned resumes the feed.
        """
        cdef int64_t last = last_block_of(reader, limit_block)
        cdef uint64_t after = 0 if position is None else position + 1
        cdef int64_t block = <int64_t> (after >> LIMIT_INDEX_BITS)
        cdef uint64_t index = after & ((<uint64_t> 1 << LIMIT_INDEX_BITS) - 1)
        positions, parts, wanted = [], [], limit
        while block <= last and wanted > 0:
            view = reader.block(block)
            if index < view.entry_count:
                part = view.entries(index, min(view.entry_count, index + wanted))
                parts.append(part)
                start = <uint64_t> block << LIMIT_INDEX_BITS | index
                positions.append(np.arange(start, start + len(part), dtype=np.uint64))
                wanted -= len(part)
            block += 1
            index = 0
        if not parts:
            return _no_entries()
        entries = np.concatenate(parts)
        self._core.fill_account_ids(entries)
        return np.concatenate(positions), entries


cdef object _no_entries():
    return np.zeros(0, np.uint64), np.zeros(0, layout.ENTRY)


cdef bint _start(
    Walk walk, step_t* step, int64_t last, slot, start_position
) except -1:
    """Go to the account's newest entry in blocks up to ``last``; False when there is none."""
    cdef uint64_t position = start_position
    if position == NO_POSITION or last < 0:
        return False
    if position >> LIMIT_INDEX_BITS > <uint64_t> walk.reader.last_block:
        raise ValueError(f"position {position} is not in the journal yet")
    walk.slot = slot
    walk.load(position, step)
    return walk.seek_block(step, <uint64_t> last) == 0


cdef object _entries_of(
    core, reader, int64_t last_block, slot, start_position, first, last, bint reverse, limit,
    criteria_t* criteria
):
    cdef Walk walk = Walk(reader)
    cdef step_t step, head
    cdef uint64_t low = first, high = last
    cdef uint32_t count, room = min(limit, LIMIT_QUERY_RECORDS_MAX)
    if room == 0 or not _start(walk, &step, last_block, slot, start_position):
        return _no_entries()
    cdef cnp.ndarray entries = np.empty(room, layout.ENTRY)
    cdef cnp.ndarray positions = np.empty(room, np.uint64)
    cdef entry_t* out = <entry_t*> cnp.PyArray_DATA(entries)
    cdef uint64_t* places = <uint64_t*> cnp.PyArray_DATA(positions)
    if not reverse:
        walk.nodes = {}
    if side_of(&step).number > high:
        walk.seek_number(&step, high)
    head = step
    if reverse:
        if criteria.timestamp_max != <uint64_t> -1:
            walk.seek_time(&step, criteria.timestamp_max)
        count = walk.descend(criteria, &step, low, out, places, room)
    else:
        if criteria.timestamp_min:
            walk.seek_time(&step, criteria.timestamp_min - 1)
            low = max(low, side_of(&step).number + 1)
        count = 0
        if low <= side_of(&head).number:
            count = walk.ascend(
                criteria, &head, low, side_of(&head).number, out, places, room
            )
    entries = entries[:count].copy()
    core.fill_account_ids(entries)
    return positions[:count].copy(), entries


cdef object _scanned(
    core, reader, int64_t last_block, criteria_t* criteria, bint reverse, limit
):
    cdef Walk walk = Walk(reader)
    cdef uint32_t count, room = min(limit, LIMIT_QUERY_RECORDS_MAX)
    cdef cnp.ndarray entries = np.empty(room, layout.ENTRY)
    cdef cnp.ndarray positions = np.empty(room, np.uint64)
    if last_block < 0:
        return _no_entries()
    count = scan(
        walk, criteria, reverse, last_block, <entry_t*> cnp.PyArray_DATA(entries),
        <uint64_t*> cnp.PyArray_DATA(positions), room
    )
    entries = entries[:count].copy()
    core.fill_account_ids(entries)
    return positions[:count].copy(), entries
