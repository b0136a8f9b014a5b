# cython: language_level=3
"""Administrative events: account settings, definitions, the business date; and the seal.

They are few, so they are decided one by one with the interpreter's help. They are never linked.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cimport numpy as cnp

from ledger._accounts cimport account_row_t, row_at
from ledger._block cimport Block
from ledger._commit cimport found_t
from ledger._index cimport hash_id
from ledger._layout cimport *
from ledger._u128 cimport is_max, is_zero

import base64
import datetime
import hashlib
import json
import re

from ledger import layout

cnp.import_array()

cdef enum:
    SETTINGS_FLAGS_KNOWN = 0xF
    EXPONENT_MAX = 18

VKEY = re.compile(r"([!-*,-~]{1,200})\+([0-9a-f]{8})\+([0-9A-Za-z+/]{44})")
"""Name, key id and key (33 bytes) of a C2SP vkey; 200 keeps the record of an interval below 1 kB.
"""
ED25519_KEY = 0x01
"""The type byte of a key that signs notes with Ed25519."""


cdef class Administration(Committer):
    """The books with the rules of administrative events, and what every request has in common."""

    def __cinit__(self):
        self.refused_slot = LIMIT_NO_SLOT

    cdef void note_refusal(self, uint32_t index, uint32_t status) noexcept nogil:
        """Keep why an event was refused, with the balances of that moment."""
        cdef refusal_t* refusal = &self.refusals[self.refusal_count]
        cdef account_row_t* row
        memset(refusal, 0, sizeof(refusal_t))
        refusal.index = index
        refusal.status = status
        refusal.slot = self.refused_slot
        if self.refused_slot != LIMIT_NO_SLOT:
            row = row_at(self.accounts, self.refused_slot)
            refusal.needed = self.needed
            refusal.available = self.available
            memcpy(refusal.balances, row, sizeof(refusal.balances))
        self.refused_slot = LIMIT_NO_SLOT
        self.refusal_count += 1

    def explain_refusals(self, kind):
        """Return why the last request's events were refused: a list of dicts."""
        cdef uint32_t number, place
        cdef refusal_t* refusal
        statuses = "ADMINISTRATIVE" if kind not in ("ACCOUNT", "TRANSFER") else kind
        rules = {status.number: status for status in layout.STATUSES[statuses]}
        names = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
        explanations = []
        for number in range(self.refusal_count):
            refusal = &self.refusals[number]
            rule = rules[refusal.status]
            explanation = {"index": refusal.index, "status": rule.name, "rule": rule.doc}
            if refusal.slot != LIMIT_NO_SLOT:
                explanation["account_id"] = as_int(row_at(self.accounts, refusal.slot).id)
                explanation["needed"] = as_int(refusal.needed)
                explanation["available"] = as_int(refusal.available)
                explanation["balances"] = {
                    names[place]: as_int(refusal.balances[place]) for place in range(4)
                }
            explanations.append(explanation)
        return explanations

    # ------------------------------------------------------------------------------------------
    # Administrative events: few, so they are decided one by one
    # ------------------------------------------------------------------------------------------

    cdef void run_administrative(
        self, kind, cnp.ndarray rows, uint32_t count, uint64_t timestamp, result_t* results,
        metadata, bint explain
    ) except *:
        # All three kinds have a transfer's offsets.
        cdef const transfer_t* events = <const transfer_t*>cnp.PyArray_DATA(rows)
        cdef const transfer_t* event
        cdef entry_t* entry
        cdef uint32_t index, status
        cdef uint8_t entry_kind = {
            "ACCOUNT_SETTINGS": ENTRY_KIND_ACCOUNT_SETTINGS,
            "DEFINITION": ENTRY_KIND_DEFINITION,
            "BUSINESS_DATE": ENTRY_KIND_ADMINISTRATION,
        }[kind]
        cdef uint64_t hash
        for index in range(count):
            event = &events[index]
            hash = hash_id(event.id, NAMESPACE_ADMINISTRATIVE)
            results[index].timestamp = timestamp - count + index + 1
            results[index].reserved = 0
            self.event_digest = NULL if self.event_digests == NULL else self.event_digests[index]
            self.event_metadata = (
                None if self.event_digest == NULL else bytes(metadata[index]))
            self.exists_timestamp = 0
            self.refused_slot = LIMIT_NO_SLOT
            entry = &self.block.rows[self.block.count]
            memset(entry, 0, sizeof(entry_t))
            entry.kind = entry_kind
            entry.record = event[0]
            entry.record.timestamp = timestamp - count + index + 1
            entry.debit_slot = LIMIT_NO_SLOT
            entry.credit_slot = LIMIT_NO_SLOT
            status = self.decide_administrative(event, entry, hash)
            if self.exists_timestamp:
                results[index].timestamp = self.exists_timestamp
            results[index].status = status
            if status != STATUS_CREATED:
                if explain:
                    self.note_refusal(index, status)
                continue
            # From here on the event must succeed.
            if self.event_digest != NULL:
                entry.flags |= ENTRY_HAS_METADATA
            self.commit(entry)
            if entry_kind == ENTRY_KIND_DEFINITION:
                self.declare(entry, self.event_metadata or b"")
            elif entry_kind == ENTRY_KIND_ADMINISTRATION:
                self.business_date = entry.record.user_data_32
            self.finish_entry(entry, hash)

    cdef uint32_t decide_administrative(
        self, const transfer_t* event, entry_t* entry, uint64_t hash
    ) except 0:
        """The status of a settings, definition or business date event; ``entry`` is completed from
        the account."""
        cdef found_t found
        cdef transfer_t stored
        cdef int64_t slot
        cdef uint8_t kind = entry.kind
        cdef bint reserved_field, reserved_flag
        if kind == ENTRY_KIND_ACCOUNT_SETTINGS:
            reserved_field = (not is_zero(event.credit_account_id) or event.timeout != 0
                              or event.ledger != 0 or event.code != 0)
            reserved_flag = event.flags & ~SETTINGS_FLAGS_KNOWN != 0
        else:
            reserved_field = (
                not is_zero(event.debit_account_id) or not is_zero(event.credit_account_id)
                or not is_zero(event.amount) or not is_zero(event.pending_id)
                or not is_zero(event.user_data_128) or event.user_data_64 != 0)
            reserved_flag = event.flags & ~DEFINITION_NORMAL_SIDE_CREDIT != 0
            if kind == ENTRY_KIND_ADMINISTRATION:
                reserved_field = (reserved_field or event.timeout != 0 or event.ledger != 0
                                  or event.code != 0)
                reserved_flag = event.flags != 0
            elif (event.timeout == DEFINITION_KIND_LEDGER
                    or event.timeout == DEFINITION_KIND_SIGNING_KEY):
                reserved_flag = event.flags != 0
        if event.timestamp != 0:
            return ADMINISTRATIVE_STATUS_TIMESTAMP_MUST_BE_ZERO
        if reserved_field:
            return ADMINISTRATIVE_STATUS_RESERVED_FIELD
        if reserved_flag:
            return ADMINISTRATIVE_STATUS_RESERVED_FLAG
        if is_zero(event.id):
            return ADMINISTRATIVE_STATUS_ID_MUST_NOT_BE_ZERO
        if is_max(event.id):
            return ADMINISTRATIVE_STATUS_ID_MUST_NOT_BE_INT_MAX
        found = self.find_event(NAMESPACE_ADMINISTRATIVE, event.id, hash)
        if found.record != NULL:
            stored = found.record[0]
            self.exists_timestamp = stored.timestamp
            stored.timestamp = 0
            if kind == ENTRY_KIND_ACCOUNT_SETTINGS:
                stored.ledger = 0
                stored.code = 0
            if found.kind != kind or memcmp(&stored, event, sizeof(transfer_t)):
                self.exists_timestamp = 0
                return ADMINISTRATIVE_STATUS_EXISTS_WITH_DIFFERENT_CONTENT
            if not same_digest(self.event_digest, found.digest):
                self.exists_timestamp = 0
                return ADMINISTRATIVE_STATUS_EXISTS_WITH_DIFFERENT_METADATA
            return ADMINISTRATIVE_STATUS_EXISTS
        if kind == ENTRY_KIND_ACCOUNT_SETTINGS:
            if is_zero(event.debit_account_id):
                return ADMINISTRATIVE_STATUS_ACCOUNT_ID_MUST_NOT_BE_ZERO
            if is_max(event.debit_account_id):
                return ADMINISTRATIVE_STATUS_ACCOUNT_ID_MUST_NOT_BE_INT_MAX
            if not event.flags & ACCOUNT_SETTINGS_OVERDRAFT and not is_zero(event.amount):
                return ADMINISTRATIVE_STATUS_OVERDRAFT_MUST_BE_ZERO
            if not event.flags & ACCOUNT_SETTINGS_CEILING and not is_zero(event.pending_id):
                return ADMINISTRATIVE_STATUS_CEILING_MUST_BE_ZERO
            slot = self.accounts.find(
                event.debit_account_id, hash_id(event.debit_account_id, self.accounts.seed))
            if slot < 0:
                return ADMINISTRATIVE_STATUS_ACCOUNT_NOT_FOUND
            entry.debit_slot = <uint32_t>slot
            entry.record.ledger = row_at(self.accounts, <uint32_t>slot).ledger
            entry.record.code = row_at(self.accounts, <uint32_t>slot).code
        elif kind == ENTRY_KIND_DEFINITION:
            if event.timeout == DEFINITION_KIND_LEDGER:
                if event.ledger == 0:
                    return ADMINISTRATIVE_STATUS_LEDGER_MUST_NOT_BE_ZERO
                if event.code != 0:
                    return ADMINISTRATIVE_STATUS_CODE_MUST_BE_ZERO
                if event.user_data_32 > EXPONENT_MAX:
                    return ADMINISTRATIVE_STATUS_EXPONENT_OUT_OF_RANGE
            elif event.timeout == DEFINITION_KIND_CODE:
                if event.ledger != 0:
                    return ADMINISTRATIVE_STATUS_LEDGER_MUST_BE_ZERO
                if event.code == 0:
                    return ADMINISTRATIVE_STATUS_CODE_MUST_NOT_BE_ZERO
                if event.user_data_32 != 0:
                    return ADMINISTRATIVE_STATUS_EXPONENT_OUT_OF_RANGE
            elif event.timeout == DEFINITION_KIND_SIGNING_KEY:
                if event.ledger != 0:
                    return ADMINISTRATIVE_STATUS_LEDGER_MUST_BE_ZERO
                if event.code != 0:
                    return ADMINISTRATIVE_STATUS_CODE_MUST_BE_ZERO
                if event.user_data_32 != 0:
                    return ADMINISTRATIVE_STATUS_EXPONENT_OUT_OF_RANGE
                if not names_a_key(self.event_metadata):
                    return ADMINISTRATIVE_STATUS_SIGNING_KEY_MALFORMED
            else:
                return ADMINISTRATIVE_STATUS_DEFINITION_KIND_UNKNOWN
            if (len(self.declared) >= LIMIT_DEFINITIONS_MAX
                    and (event.timeout, event.ledger, event.code) not in self.declared):
                return ADMINISTRATIVE_STATUS_DEFINITIONS_FULL
        else:
            if not is_calendar_day(event.user_data_32):
                return ADMINISTRATIVE_STATUS_DATE_OUT_OF_RANGE
            if event.user_data_32 <= self.business_date:
                return ADMINISTRATIVE_STATUS_DATE_MUST_ADVANCE
        return STATUS_CREATED

    def seal(self, uint64_t timestamp):
        """Fill the open block, which must be empty, with the ledger's own entry of a block that is
        only made to be sealed. It changes nothing but the last timestamp."""
        cdef Block block = self.block
        cdef entry_t* entry
        if block is None or block.count:
            raise RuntimeError("a seal needs an open block without entries")
        if timestamp > TIMESTAMP_MAX or timestamp <= self.last_timestamp:
            raise ValueError(f"timestamp {timestamp} is not after {self.last_timestamp}")
        if not block.reserve(1):
            raise MemoryError
        entry = &block.rows[0]
        memset(entry, 0, sizeof(entry_t))
        entry.kind = ENTRY_KIND_ADMINISTRATION
        entry.record.code = ADMINISTRATION_SEAL
        entry.record.timestamp = timestamp
        entry.debit_slot = LIMIT_NO_SLOT
        entry.credit_slot = LIMIT_NO_SLOT
        self.event_digest = NULL
        self.finish_entry(entry, 0)
        self.last_timestamp = timestamp


cdef bint is_seal(const entry_t* entry) noexcept nogil:
    """Whether an entry is the ledger's own of a seal block, in its one form."""
    cdef transfer_t only
    memset(&only, 0, sizeof(only))
    only.code = ADMINISTRATION_SEAL
    only.timestamp = entry.record.timestamp
    return (entry.kind == ENTRY_KIND_ADMINISTRATION and entry.flags == 0 and entry.metadata == 0
            and entry.debit_slot == LIMIT_NO_SLOT and entry.credit_slot == LIMIT_NO_SLOT
            and is_zero(entry.released) and memcmp(&entry.record, &only, sizeof(only)) == 0)


cdef bint names_a_key(bytes metadata):
    """Whether metadata is {"vkey": ...} of an Ed25519 key whose id is that of its name and key."""
    if metadata is None:
        return False
    try:
        content = json.loads(metadata)
    except ValueError:
        return False
    if not isinstance(content, dict) or list(content) != ["vkey"]:
        return False
    parts = VKEY.fullmatch(content["vkey"]) if isinstance(content["vkey"], str) else None
    if parts is None:
        return False
    name, key_id, text = parts.groups()
    key = base64.b64decode(text)
    digest = hashlib.sha256(name.encode() + b"\n" + key).digest()
    return key[0] == ED25519_KEY and digest[:4].hex() == key_id


cdef object as_int(u128_t value):
    return int(value.lo) | int(value.hi) << 64


cdef bint is_calendar_day(uint32_t date):
    """Whether YYYYMMDD is a day of the calendar."""
    try:
        datetime.date(date // 10000, date // 100 % 100, date % 100)
    except ValueError:
        return False
    return True
