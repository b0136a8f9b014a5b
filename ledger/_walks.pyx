"""Walks along the entries of one account: to an entry number, to a time, either way from there.

An account's entries are a chain: each names the previous one's position, and entry n with
n % 64 == 0 also names an earlier one: n - 262144, n - 4096 or n - 64, the farthest whose distance
divides n (of 4096 and 262144 themselves, the next nearer), so that a number or a time is a few
hundred rows away. Order is the order of the log. Timestamps of transfers and expiries never
decrease along it; those of openings and settings follow the ledger's clock and may be later than
imported transfers that come after them, so time is compared for transfers and expiries only.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ledger._layout cimport (
    ENTRY_KIND_EXPIRY, LIMIT_INDEX_BITS, LIMIT_SKIP_INTERVAL, NO_POSITION, entry_t, transfer_t,
)
from ledger._rows cimport BlockView

from ledger.errors import DataDamaged

cdef enum:
    VIEWS_MAX = 128             # block views kept open by one call
    WINDOW = LIMIT_SKIP_INTERVAL
    FAR = LIMIT_SKIP_INTERVAL * LIMIT_SKIP_INTERVAL
    FARTHEST = FAR * LIMIT_SKIP_INTERVAL


cdef inline int judge(
    const criteria_t* criteria, const entry_t* entry, bint debit
) noexcept nogil:
    """What the filter says of an entry, seen from its debit or credit account."""
    cdef const transfer_t* record = &entry.record
    if criteria.all_kinds:
        return TAKEN
    if not moves(entry):
        return PASSED_OVER
    if record.timestamp < criteria.timestamp_min:
        return TOO_EARLY
    if record.timestamp > criteria.timestamp_max:
        return TOO_LATE
    if (
        (entry.kind == ENTRY_KIND_EXPIRY and not criteria.expiries)
        or not (criteria.debits if debit else criteria.credits)
        or (criteria.code and record.code != criteria.code)
        or (criteria.ledger and record.ledger != criteria.ledger)
        or (criteria.user_data_32 and record.user_data_32 != criteria.user_data_32)
        or (criteria.user_data_64 and record.user_data_64 != criteria.user_data_64)
        or not (
            is_zero(&criteria.user_data_128)
            or same(&criteria.user_data_128, &record.user_data_128)
        )
    ):
        return PASSED_OVER
    return TAKEN


cdef class Walk:
    """Moves along the entries of one account (``slot``), with the blocks on the way kept open."""

    def __cinit__(self, reader):
        self.reader = reader
        self.views = {}

    cdef BlockView view(self, uint64_t number):
        if self.last is not None and self.last.number == number:
            return self.last
        view = self.views.get(number)
        if view is None:
            if len(self.views) >= VIEWS_MAX:
                del self.views[next(iter(self.views))]
            view = self.reader.block(number)
            self.views[number] = view
        self.last = view
        return self.last

    cdef int load(self, uint64_t position, step_t* out) except -1:
        """Read the account's entry at a position; raise DataDamaged when it is another's."""
        cdef BlockView view = self.view(position >> LIMIT_INDEX_BITS)
        cdef uint64_t number
        view.row(<uint32_t> (position & ((<uint64_t> 1 << LIMIT_INDEX_BITS) - 1)), &out.entry)
        out.position = position
        out.debit = out.entry.debit_slot == self.slot
        if not out.debit and out.entry.credit_slot != self.slot:
            raise DataDamaged(
                f"block {view.number}: the entry at position {position} is not one of the account "
                f"in slot {self.slot}, whose chain leads to it"
            )
        if self.nodes is not None:
            number = side_of(out).number
            if number % WINDOW == 0:
                self.nodes[number] = position
        return 0

    cdef int follow(
        self, uint64_t position, uint64_t number, const step_t* come, step_t* out
    ) except -1:
        """Read the earlier entry that ``come`` points to, which must have this entry number."""
        if position >= come.position:
            raise DataDamaged(
                f"the entry at position {come.position} points to {position}, which is not earlier"
            )
        self.load(position, out)
        if side_of(out).number != number:
            raise DataDamaged(
                f"the entry at position {position} has number {side_of(out).number}, not {number}, "
                "in its account"
            )
        return 0

    cdef int previous(self, step_t* step) except -1:
        """Go to the account's previous entry; the step must not be at its opening."""
        cdef step_t come = step[0]
        return self.follow(side_of(&come).previous, side_of(&come).number - 1, &come, step)

    cdef uint64_t skip_number(self, const step_t* step) noexcept nogil:
        """The number of the entry that the step's skip pointer leads to; its own for no pointer."""
        cdef uint64_t number = side_of(step).number
        if side_of(step).skip == NO_POSITION or number == 0 or number % WINDOW:
            return number
        # The first of a level still uses the pointer of the level below.
        if number % FARTHEST == 0 and number > FARTHEST:
            return number - FARTHEST
        if number % FAR == 0 and number > FAR:
            return number - FAR
        return number - WINDOW

    cdef int seek_number(self, step_t* step, uint64_t number) except -1:
        """Go back to the entry with this number, which is not above the step's."""
        cdef step_t come
        cdef uint64_t target
        while side_of(step).number > number:
            target = self.skip_number(step)
            if number <= target < side_of(step).number:
                come = step[0]
                self.follow(side_of(&come).skip, target, &come, step)
            else:
                self.previous(step)
        return 0

    cdef bint is_after(self, const step_t* step, uint64_t timestamp) except -1:
        """Whether the account's last transfer or expiry up to the step is later than that time."""
        cdef step_t at = step[0]
        while not moves(&at.entry):
            if side_of(&at).number == 0:
                return False
            self.previous(&at)
        return at.entry.record.timestamp > timestamp

    cdef int seek_time(self, step_t* step, uint64_t timestamp) except -1:
        """Go back to the last transfer or expiry not later than that time, or to the opening."""
        cdef step_t probe
        cdef uint64_t target
        while side_of(step).number > 0:
            if moves(&step.entry) and step.entry.record.timestamp <= timestamp:
                break
            target = self.skip_number(step)
            if target < side_of(step).number:
                self.follow(side_of(step).skip, target, step, &probe)
                if self.is_after(&probe, timestamp):
                    step[0] = probe
                    continue
            self.previous(step)
        return 0

    cdef int seek_block(self, step_t* step, uint64_t block) except -1:
        """Go back to the last entry in blocks up to that one; 1 when there is none, else 0."""
        cdef step_t come
        cdef uint64_t target
        while step.position >> LIMIT_INDEX_BITS > block:
            if side_of(step).number == 0:
                return 1
            target = self.skip_number(step)
            if target < side_of(step).number and side_of(step).skip >> LIMIT_INDEX_BITS > block:
                come = step[0]
                self.follow(side_of(&come).skip, target, &come, step)
            else:
                self.previous(step)
        return 0

    cdef uint32_t descend(
        self, const criteria_t* criteria, step_t* step, uint64_t first, entry_t* out,
        uint64_t* positions, uint32_t limit
    ) except? 0xFFFFFFFF:
        """Collect matching entries from the step back to number ``first``; return their count."""
        cdef uint32_t count = 0
        cdef int verdict
        while count < limit and side_of(step).number >= first:
            verdict = judge(criteria, &step.entry, step.debit)
            if verdict == TOO_EARLY:
                break
            if verdict == TAKEN:
                out[count] = step.entry
                positions[count] = step.position
                count += 1
            if side_of(step).number == 0:
                break
            if count < limit and side_of(step).number > first:
                self.previous(step)
            else:
                break
        return count

    cdef uint32_t ascend(
        self, const criteria_t* criteria, const step_t* head, uint64_t first, uint64_t last,
        entry_t* out, uint64_t* positions, uint32_t limit
    ) except? 0xFFFFFFFF:
        """Collect matching entries from number ``first`` up to ``last``, not above the head's.

        The chain leads backwards only: 64 entries at a time are read from the top of their window.
        Multiples of 64 that were passed are remembered until they are behind, some 200 at most.
        """
        cdef step_t* window = <step_t*> malloc(WINDOW * sizeof(step_t))
        cdef step_t step
        cdef uint64_t number = first, top, nearest
        cdef uint32_t count = 0, held, i
        cdef int verdict
        if window == NULL:
            raise MemoryError
        try:
            while number <= last and count < limit:
                top = min(number - number % WINDOW + WINDOW - 1, last)
                nearest = min([n for n in self.nodes if n >= top], default=side_of(head).number)
                if nearest < side_of(head).number:
                    self.load(self.nodes[nearest], &step)
                else:
                    step = head[0]
                self.seek_number(&step, top)
                window[0] = step
                held = 1
                while side_of(&step).number > number:
                    self.previous(&step)
                    window[held] = step
                    held += 1
                for i in range(held):
                    verdict = judge(
                        criteria, &window[held - 1 - i].entry, window[held - 1 - i].debit
                    )
                    if verdict == TOO_LATE:
                        return count
                    if verdict == TAKEN:
                        out[count] = window[held - 1 - i].entry
                        positions[count] = window[held - 1 - i].position
                        count += 1
                        if count == limit:
                            return count
                number = top + 1
                for passed in [n for n in self.nodes if n < number]:
                    del self.nodes[passed]
            return count
        finally:
            free(window)
