"""Every record, flag, status and limit of the ledger, as tables: the one source of truth.

From these tables come, at import, the numpy dtypes below; and, by ``tools/generate.py``, the
committed files
``ledger/_layout.pxd`` (C structs and enums), ``docs/records.md`` and the schemas of the OpenAPI
document.
A test compares the committed files with what the tables say, and ``ledger._core`` compares its C
structs
with the dtypes when it is imported, so drift cannot start.

All integers are unsigned and little-endian. numpy has no 128-bit integer: a ``u128`` field holds
``{lo, hi}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

U128_MAX: Final = (1 << 128) - 1
U64_MAX: Final = (1 << 64) - 1
TIMESTAMP_MAX: Final = (1 << 63) - 1
"""The highest bit of a timestamp is never set."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a record: its name, type (``u8 u16 u32 u64 u128``, ``bytesN`` or a record's
    name), doc and unit."""

    name: str
    type: str
    doc: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A fixed-width record: its name (the dtype's, in capitals), C name, doc and fields in
    order."""

    name: str
    c_name: str
    doc: str
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """One bit of a flags field."""

    name: str
    bit: int
    doc: str


@dataclass(frozen=True, slots=True)
class Status:
    """One outcome of an event: a sentence that names the broken rule, and its permanent number."""

    name: str
    number: int
    doc: str
    transient: bool = False
    """A transfer refused with a transient status burns its id for ever."""


# ----------------------------------------------------------------------------------------------
# Limits
# ----------------------------------------------------------------------------------------------

FORMAT_VERSION: Final = 0
RULES_VERSION: Final = 1

LIMITS: Final[dict[str, tuple[int, str]]] = {
    "REQUEST_EVENTS_MAX": (8190, "events in one request"),
    "BLOCK_ENTRIES_MAX": (65_536, "entries in one block"),
    "BLOCK_BYTES_MAX": (8 << 20, "encoded bytes of one block"),
    "METADATA_BYTES_MAX": (4096, "bytes of one metadata object in RFC 8785 canonical form"),
    "PAGE_SLOTS": (256, "accounts or holds in one page of the snapshot"),
    "SKIP_INTERVAL": (
        64,
        "entries of an account between two skip pointers; 64**2 and 64**3 are the higher levels",
    ),
    "INDEX_BITS": (
        20,
        "bits of a position that hold the index in the block; the block number is above them",
    ),
    "SLOTS_MAX": (0xFFFF_FFFE, "accounts in one ledger process"),
    "DEFINITIONS_MAX": (65_536, "declared ledgers and codes"),
    "QUERY_RECORDS_MAX": (8190, "records in one answer of the core's queries"),
    "NO_SLOT": (0xFFFF_FFFF, "the slot of a side that an entry does not have"),
}
REQUEST_EVENTS_MAX: Final = LIMITS["REQUEST_EVENTS_MAX"][0]
BLOCK_ENTRIES_MAX: Final = LIMITS["BLOCK_ENTRIES_MAX"][0]
BLOCK_BYTES_MAX: Final = LIMITS["BLOCK_BYTES_MAX"][0]
METADATA_BYTES_MAX: Final = LIMITS["METADATA_BYTES_MAX"][0]
PAGE_SLOTS: Final = LIMITS["PAGE_SLOTS"][0]
SKIP_INTERVAL: Final = LIMITS["SKIP_INTERVAL"][0]
INDEX_BITS: Final = LIMITS["INDEX_BITS"][0]
SLOTS_MAX: Final = LIMITS["SLOTS_MAX"][0]
DEFINITIONS_MAX: Final = LIMITS["DEFINITIONS_MAX"][0]
QUERY_RECORDS_MAX: Final = LIMITS["QUERY_RECORDS_MAX"][0]
NO_SLOT: Final = LIMITS["NO_SLOT"][0]
NO_POSITION: Final = U64_MAX
"""A position that does not exist (an account's first entry has no previous one)."""

# ----------------------------------------------------------------------------------------------
# Flags and enumerations
# ----------------------------------------------------------------------------------------------

ACCOUNT_FLAGS: Final = (
    Flag("linked", 0, "succeeds or fails together with the next event of the request"),
    Flag("debits_must_not_exceed_credits", 1, "refuse debits beyond the posted credits"),
    Flag("credits_must_not_exceed_debits", 2, "refuse credits beyond the posted debits"),
    Flag("history", 3, "answer get_account_balances for this account"),
    Flag("imported", 4, "the timestamp is the user's, in the past"),
    Flag("closed", 5, "refuses everything but the voiding of a pending transfer"),
)
TRANSFER_FLAGS: Final = (
    Flag("linked", 0, "succeeds or fails together with the next event of the request"),
    Flag("pending", 1, "reserve the amount, to be posted or voided later"),
    Flag(
        "post_pending_transfer",
        2,
        "post the pending transfer named by pending_id, in whole or in part",
    ),
    Flag("void_pending_transfer", 3, "void the pending transfer named by pending_id"),
    Flag("balancing_debit", 4, "at most what the debit account has available"),
    Flag("balancing_credit", 5, "at most what the credit account has available"),
    Flag("closing_debit", 6, "close the debit account (with pending)"),
    Flag("closing_credit", 7, "close the credit account (with pending)"),
    Flag("imported", 8, "the timestamp is the user's, in the past"),
)
ACCOUNT_SETTINGS_FLAGS: Final = (
    Flag(
        "overdraft",
        0,
        "the field overdraft is in force and replaces debits_must_not_exceed_credits",
    ),
    Flag("ceiling", 1, "the field ceiling is in force and replaces credits_must_not_exceed_debits"),
    Flag("debits_blocked", 2, "refuse every debit but the voiding of a pending transfer"),
    Flag("credits_blocked", 3, "refuse every credit but the voiding of a pending transfer"),
)
DEFINITION_FLAGS: Final = (
    Flag("normal_side_credit", 0, "balances under this code are shown as credits minus debits"),
)
ACCOUNT_FILTER_FLAGS: Final = (
    Flag("debits", 0, "transfers that debit the account"),
    Flag("credits", 1, "transfers that credit the account"),
    Flag("reversed", 2, "newest first"),
)
QUERY_FILTER_FLAGS: Final = (Flag("reversed", 0, "newest first"),)
ENTRY_FLAGS: Final = (
    Flag("has_metadata", 0, "a metadata object is stored beside the entry"),
    Flag("reopens_debit", 1, "the entry takes the closed flag from its debit account"),
    Flag("reopens_credit", 2, "the entry takes the closed flag from its credit account"),
)
BLOCK_FLAGS: Final = (
    Flag("seal", 0, "the block closes an interval of the outer log"),
    Flag("announces_key", 1, "the block declares a signing key of the outer log"),
)
STATE_ROW_FLAGS: Final = (
    Flag("erased", 0, "message begins with the leaf's hash; id, salt and most balances are gone"),
)

FLAGS: Final[dict[str, tuple[Flag, ...]]] = {
    "ACCOUNT": ACCOUNT_FLAGS,
    "TRANSFER": TRANSFER_FLAGS,
    "ACCOUNT_SETTINGS": ACCOUNT_SETTINGS_FLAGS,
    "DEFINITION": DEFINITION_FLAGS,
    "ACCOUNT_FILTER": ACCOUNT_FILTER_FLAGS,
    "QUERY_FILTER": QUERY_FILTER_FLAGS,
    "ENTRY": ENTRY_FLAGS,
    "BLOCK": BLOCK_FLAGS,
    "STATE_ROW": STATE_ROW_FLAGS,
}

ENTRY_KINDS: Final[dict[str, tuple[int, str]]] = {
    "account": (1, "an account was opened"),
    "transfer": (2, "a transfer was created"),
    "expiry": (3, "a pending transfer expired"),
    "burned_id": (4, "a transfer failed with a transient status; its id is burned"),
    "account_settings": (5, "an account's settings were replaced"),
    "definition": (6, "a ledger, a code or a signing key was declared"),
    "object_event": (7, "an event of an evidence or data object"),
    "administration": (8, "the business date moved, or the ledger made a block to seal"),
}
"""Kinds of journal entries; 0 to 31 are reserved for the ledger itself."""

DEFINITION_KINDS: Final[dict[str, tuple[int, str]]] = {
    "ledger": (1, "a ledger: currency and exponent"),
    "code": (2, "a code: name and normal side"),
    "signing_key": (3, "a signing key of the outer log: its vkey is in the metadata"),
}
ADMINISTRATIONS: Final[dict[str, tuple[int, str]]] = {
    "business_date": (0, "an event moved the business date"),
    "seal": (1, "the ledger's own entry, alone in a block that it makes to seal; id 0"),
}
"""What an entry of kind administration is, in its field code."""
CHANGE_EVENT_TYPES: Final[dict[str, tuple[int, str]]] = {
    "single_phase": (0, "a transfer in one step"),
    "two_phase_pending": (1, "an amount was reserved"),
    "two_phase_posted": (2, "a reserved amount was posted"),
    "two_phase_voided": (3, "a reserved amount was released"),
    "two_phase_expired": (4, "a reserved amount was released by time"),
}
OUTCOMES: Final[dict[str, tuple[int, str]]] = {
    "created": (1, "the id belongs to a stored event"),
    "burned": (2, "the id was burned"),
}
RESOLUTIONS: Final[dict[str, tuple[int, str]]] = {
    "open": (0, "not resolved, or not a pending transfer"),
    "posted": (1, "posted"),
    "voided": (2, "voided"),
    "expired": (3, "expired"),
}
BARE_PARTS: Final[dict[str, tuple[int, str]]] = {
    "debit_side": (1, "S of the debit side (an account's own side)"),
    "credit_side": (2, "S of the credit side"),
    "leaf": (3, "T of the entry"),
    "ext": (4, "ext of the entry"),
    "debit_account": (5, "A of the debit account (of the account itself) after the block"),
    "credit_account": (6, "A of the credit account after the block"),
}
"""What a stored block has as a bare hash since an account was erased."""
NAMESPACES: Final[dict[str, tuple[int, str]]] = {
    "transfer": (0, "ids of transfers"),
    "administrative": (1, "ids of account settings, definitions and business dates"),
}
ENUMS: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "ENTRY_KIND": ENTRY_KINDS,
    "DEFINITION_KIND": DEFINITION_KINDS,
    "ADMINISTRATION": ADMINISTRATIONS,
    "CHANGE_EVENT_TYPE": CHANGE_EVENT_TYPES,
    "OUTCOME": OUTCOMES,
    "RESOLUTION": RESOLUTIONS,
    "NAMESPACE": NAMESPACES,
    "BARE": BARE_PARTS,
}

# ----------------------------------------------------------------------------------------------
# Statuses, in order of precedence
# ----------------------------------------------------------------------------------------------

CREATED: Final = 4294967295
"""The status of an event that was created; 0 is undecided and never a success."""

ACCOUNT_STATUSES: Final = (
    Status("linked_event_failed", 1, "another event of the linked chain failed"),
    Status("linked_event_chain_open", 2, "the request ends inside a linked chain"),
    Status(
        "imported_event_expected", 22, "the request's first event is imported and this one is not"
    ),
    Status(
        "imported_event_not_expected",
        23,
        "the request's first event is not imported and this one is",
    ),
    Status("timestamp_must_be_zero", 3, "only imported events bring a timestamp"),
    Status(
        "imported_event_timestamp_out_of_range",
        24,
        "the imported timestamp is 0 or has its highest bit set",
    ),
    Status(
        "imported_event_timestamp_must_not_advance", 25, "the imported timestamp is not in the past"
    ),
    Status("reserved_field", 4, "a reserved field is not zero"),
    Status("reserved_flag", 5, "a reserved flag is set"),
    Status("id_must_not_be_zero", 6, "id is 0"),
    Status("id_must_not_be_int_max", 7, "id is 2^128-1"),
    Status("exists_with_different_flags", 15, "the id exists with other flags"),
    Status("exists_with_different_user_data_128", 16, "the id exists with another user_data_128"),
    Status("exists_with_different_user_data_64", 17, "the id exists with another user_data_64"),
    Status("exists_with_different_user_data_32", 18, "the id exists with another user_data_32"),
    Status("exists_with_different_ledger", 19, "the id exists with another ledger"),
    Status("exists_with_different_code", 20, "the id exists with another code"),
    Status("exists_with_different_metadata", 1000, "the id exists with other metadata"),
    Status("exists", 21, "the same account exists already"),
    Status("flags_are_mutually_exclusive", 8, "two flags exclude each other"),
    Status("debits_pending_must_be_zero", 9, "a new account has no balance"),
    Status("debits_posted_must_be_zero", 10, "a new account has no balance"),
    Status("credits_pending_must_be_zero", 11, "a new account has no balance"),
    Status("credits_posted_must_be_zero", 12, "a new account has no balance"),
    Status("ledger_must_not_be_zero", 13, "ledger is 0"),
    Status("code_must_not_be_zero", 14, "code is 0"),
    Status(
        "imported_event_timestamp_must_not_regress",
        26,
        "a later account or a transfer of that time exists",
    ),
)
TRANSFER_STATUSES: Final = (
    Status("linked_event_failed", 1, "another event of the linked chain failed"),
    Status("linked_event_chain_open", 2, "the request ends inside a linked chain"),
    Status(
        "imported_event_expected", 56, "the request's first event is imported and this one is not"
    ),
    Status(
        "imported_event_not_expected",
        57,
        "the request's first event is not imported and this one is",
    ),
    Status("timestamp_must_be_zero", 3, "only imported events bring a timestamp"),
    Status(
        "imported_event_timestamp_out_of_range",
        58,
        "the imported timestamp is 0 or has its highest bit set",
    ),
    Status(
        "imported_event_timestamp_must_not_advance", 59, "the imported timestamp is not in the past"
    ),
    Status("reserved_flag", 4, "a reserved flag is set"),
    Status("id_must_not_be_zero", 5, "id is 0"),
    Status("id_must_not_be_int_max", 6, "id is 2^128-1"),
    Status("exists_with_different_flags", 36, "the id exists with other flags"),
    Status("exists_with_different_pending_id", 40, "the id exists with another pending_id"),
    Status("exists_with_different_timeout", 44, "the id exists with another timeout"),
    Status(
        "exists_with_different_debit_account_id", 37, "the id exists with another debit account"
    ),
    Status(
        "exists_with_different_credit_account_id", 38, "the id exists with another credit account"
    ),
    Status("exists_with_different_amount", 39, "the id exists with another amount"),
    Status("exists_with_different_user_data_128", 41, "the id exists with another user_data_128"),
    Status("exists_with_different_user_data_64", 42, "the id exists with another user_data_64"),
    Status("exists_with_different_user_data_32", 43, "the id exists with another user_data_32"),
    Status("exists_with_different_ledger", 67, "the id exists with another ledger"),
    Status("exists_with_different_code", 45, "the id exists with another code"),
    Status("exists_with_different_metadata", 1000, "the id exists with other metadata"),
    Status("exists", 46, "the same transfer exists already"),
    Status("id_already_failed", 68, "the id was burned by an earlier failure"),
    Status("flags_are_mutually_exclusive", 7, "two flags exclude each other"),
    Status("debit_account_id_must_not_be_zero", 8, "debit_account_id is 0"),
    Status("debit_account_id_must_not_be_int_max", 9, "debit_account_id is 2^128-1"),
    Status("credit_account_id_must_not_be_zero", 10, "credit_account_id is 0"),
    Status("credit_account_id_must_not_be_int_max", 11, "credit_account_id is 2^128-1"),
    Status("accounts_must_be_different", 12, "debit and credit account are the same"),
    Status("pending_id_must_be_zero", 13, "pending_id belongs to posts and voids only"),
    Status("pending_id_must_not_be_zero", 14, "a post or void names no pending transfer"),
    Status("pending_id_must_not_be_int_max", 15, "pending_id is 2^128-1"),
    Status("pending_id_must_be_different", 16, "pending_id is the transfer's own id"),
    Status(
        "timeout_reserved_for_pending_transfer", 17, "timeout belongs to pending transfers only"
    ),
    Status("closing_transfer_must_be_pending", 64, "closing_debit and closing_credit need pending"),
    Status("ledger_must_not_be_zero", 19, "ledger is 0"),
    Status("code_must_not_be_zero", 20, "code is 0"),
    Status("debit_account_not_found", 21, "no such debit account", transient=True),
    Status("credit_account_not_found", 22, "no such credit account", transient=True),
    Status("accounts_must_have_the_same_ledger", 23, "the two accounts are on different ledgers"),
    Status(
        "transfer_must_have_the_same_ledger_as_accounts", 24, "ledger is not that of the accounts"
    ),
    Status("pending_transfer_not_found", 25, "no such pending transfer", transient=True),
    Status(
        "pending_transfer_not_pending", 26, "pending_id names a transfer that never was pending"
    ),
    Status(
        "pending_transfer_has_different_debit_account_id",
        27,
        "debit_account_id is not the pending transfer's",
    ),
    Status(
        "pending_transfer_has_different_credit_account_id",
        28,
        "credit_account_id is not the pending transfer's",
    ),
    Status("pending_transfer_has_different_ledger", 29, "ledger is not the pending transfer's"),
    Status("pending_transfer_has_different_code", 30, "code is not the pending transfer's"),
    Status("exceeds_pending_transfer_amount", 31, "more than was pending"),
    Status("pending_transfer_has_different_amount", 32, "a void names another amount"),
    Status("pending_transfer_already_posted", 33, "the pending transfer was posted"),
    Status("pending_transfer_already_voided", 34, "the pending transfer was voided"),
    Status("pending_transfer_expired", 35, "the pending transfer expired"),
    Status(
        "imported_event_timestamp_must_not_regress",
        60,
        "a later transfer or an account of that time exists",
    ),
    Status(
        "imported_event_timestamp_must_postdate_debit_account", 61, "the debit account is not older"
    ),
    Status(
        "imported_event_timestamp_must_postdate_credit_account",
        62,
        "the credit account is not older",
    ),
    Status("imported_event_timeout_must_be_zero", 63, "an imported transfer has no timeout"),
    Status("debit_account_already_closed", 65, "the debit account is closed", transient=True),
    Status("credit_account_already_closed", 66, "the credit account is closed", transient=True),
    Status("debits_blocked", 1003, "the debit account's debits are blocked", transient=True),
    Status("credits_blocked", 1004, "the credit account's credits are blocked", transient=True),
    Status("overflows_debits_pending", 47, "debits_pending would pass 2^128-1"),
    Status("overflows_credits_pending", 48, "credits_pending would pass 2^128-1"),
    Status("overflows_debits_posted", 49, "debits_posted would pass 2^128-1"),
    Status("overflows_credits_posted", 50, "credits_posted would pass 2^128-1"),
    Status("overflows_debits", 51, "debits_pending + debits_posted would pass 2^128-1"),
    Status("overflows_credits", 52, "credits_pending + credits_posted would pass 2^128-1"),
    Status("overflows_timeout", 53, "timestamp + timeout would pass 2^63-1"),
    Status("exceeds_credits", 54, "debits would exceed the posted credits", transient=True),
    Status("exceeds_debits", 55, "credits would exceed the posted debits", transient=True),
    Status(
        "exceeds_overdraft",
        1001,
        "debits would exceed the posted credits and the overdraft",
        transient=True,
    ),
    Status(
        "exceeds_ceiling",
        1002,
        "credits would exceed the posted debits and the ceiling",
        transient=True,
    ),
)
ADMINISTRATIVE_STATUSES: Final = (
    Status("timestamp_must_be_zero", 3, "the ledger gives the timestamp"),
    Status("reserved_field", 4, "a reserved field is not zero"),
    Status("reserved_flag", 5, "a reserved flag is set"),
    Status("id_must_not_be_zero", 6, "id is 0"),
    Status("id_must_not_be_int_max", 7, "id is 2^128-1"),
    Status("exists_with_different_content", 1005, "the id exists with other content"),
    Status("exists_with_different_metadata", 1000, "the id exists with other metadata"),
    Status("exists", 21, "the same event exists already"),
    Status("account_id_must_not_be_zero", 1006, "account_id is 0"),
    Status("account_id_must_not_be_int_max", 1007, "account_id is 2^128-1"),
    Status("overdraft_must_be_zero", 1008, "overdraft is given without its flag"),
    Status("ceiling_must_be_zero", 1009, "ceiling is given without its flag"),
    Status("account_not_found", 1010, "no such account"),
    Status("definition_kind_unknown", 1011, "kind is neither ledger, code nor signing key"),
    Status("ledger_must_not_be_zero", 13, "a ledger's definition names ledger 0"),
    Status("ledger_must_be_zero", 1012, "a code's or signing key's definition names a ledger"),
    Status("code_must_not_be_zero", 14, "a code's definition names code 0"),
    Status("code_must_be_zero", 1013, "a ledger's or signing key's definition names a code"),
    Status("exponent_out_of_range", 1014, "exponent is above 18, or given for no ledger"),
    Status(
        "signing_key_malformed",
        1018,
        'the metadata of a signing key is not {"vkey": ...} with an Ed25519 key under its own id',
    ),
    Status("definitions_full", 1015, "as many ledgers and codes are declared as the ledger holds"),
    Status("date_out_of_range", 1016, "date is no calendar day YYYYMMDD"),
    Status("date_must_advance", 1017, "date is not after the business date"),
)
STATUSES: Final[dict[str, tuple[Status, ...]]] = {
    "ACCOUNT": ACCOUNT_STATUSES,
    "TRANSFER": TRANSFER_STATUSES,
    "ADMINISTRATIVE": ADMINISTRATIVE_STATUSES,
}

# ----------------------------------------------------------------------------------------------
# Records
# ----------------------------------------------------------------------------------------------

_USER_DATA = (
    Field("user_data_128", "u128", "the user's, for a second id"),
    Field("user_data_64", "u64", "the user's"),
    Field("user_data_32", "u32", "the user's; by convention a value date YYYYMMDD"),
)
_BALANCES = (
    Field("debits_pending", "u128", "sum of pending debits", "minor units"),
    Field("debits_posted", "u128", "sum of posted debits", "minor units"),
    Field("credits_pending", "u128", "sum of pending credits", "minor units"),
    Field("credits_posted", "u128", "sum of posted credits", "minor units"),
)
_RANGE = (
    Field("timestamp_min", "u64", "from this time on, inclusive; 0 for no bound", "ns"),
    Field("timestamp_max", "u64", "up to this time, inclusive; 0 for no bound", "ns"),
    Field("limit", "u32", "at most so many records; not 0"),
)


def _account_of_event(side: str) -> tuple[Field, ...]:
    return (
        Field(f"{side}_account_id", "u128", f"the {side} account"),
        *(
            Field(f"{side}_account_{f.name}", f.type, f.doc + ", after the event", f.unit)
            for f in _BALANCES
        ),
        *(Field(f"{side}_account_{f.name}", f.type, f.doc) for f in _USER_DATA),
        Field(f"{side}_account_code", "u16", "the account's code"),
        Field(f"{side}_account_flags", "u16", "the account's flags after the event"),
    )


RECORDS: Final = (
    Record(
        "ACCOUNT",
        "account_t",
        "An account: an event when it is created, and what a look-up answers.",
        (
            Field("id", "u128", "not 0, not 2^128-1"),
            *_BALANCES,
            *_USER_DATA,
            Field("reserved", "u32", "0"),
            Field("ledger", "u32", "the ledger (currency, unit) it belongs to; not 0"),
            Field("code", "u16", "what kind of account; not 0"),
            Field("flags", "u16", "account flags"),
            Field("timestamp", "u64", "when it was created; 0 in an event unless imported", "ns"),
        ),
    ),
    Record(
        "TRANSFER",
        "transfer_t",
        "A transfer. Every journal entry, of whatever kind, is stored in this shape.",
        (
            Field("id", "u128", "not 0, not 2^128-1"),
            Field("debit_account_id", "u128", "the account that is debited"),
            Field("credit_account_id", "u128", "the account that is credited"),
            Field(
                "amount", "u128", "how much; 2^128-1 for all, where a flag allows it", "minor units"
            ),
            Field("pending_id", "u128", "the pending transfer that is posted or voided"),
            *_USER_DATA,
            Field(
                "timeout",
                "u32",
                "a pending transfer expires so long after its timestamp; 0 for never",
                "s",
            ),
            Field("ledger", "u32", "the ledger of both accounts"),
            Field("code", "u16", "what kind of transfer; not 0"),
            Field("flags", "u16", "transfer flags"),
            Field("timestamp", "u64", "when it was created; 0 in an event unless imported", "ns"),
        ),
    ),
    Record(
        "ACCOUNT_BALANCE",
        "account_balance_t",
        "The balances of an account after one of its entries.",
        (
            *_BALANCES,
            Field("timestamp", "u64", "the entry's timestamp", "ns"),
            Field("reserved", "bytes56", "0"),
        ),
    ),
    Record(
        "RESULT",
        "result_t",
        "The outcome of one event, in the order of the events.",
        (
            Field(
                "timestamp",
                "u64",
                "the object's own; the stored object's for exists; else the event's",
                "ns",
            ),
            Field("status", "u32", "4294967295 created, else the number of a status"),
            Field("reserved", "u32", "0"),
        ),
    ),
    Record(
        "ACCOUNT_FILTER",
        "account_filter_t",
        "Which transfers or balances of one account.",
        (
            Field("account_id", "u128", "the account"),
            *_USER_DATA,
            Field("code", "u16", "the transfer's code; 0 for any"),
            Field("reserved", "bytes58", "0"),
            *_RANGE,
            Field("flags", "u32", "account filter flags; at least one side"),
        ),
    ),
    Record(
        "QUERY_FILTER",
        "query_filter_t",
        "Which accounts or transfers; all given fields must match.",
        (
            *_USER_DATA,
            Field("ledger", "u32", "0 for any"),
            Field("code", "u16", "0 for any"),
            Field("reserved", "bytes6", "0"),
            *_RANGE,
            Field("flags", "u32", "query filter flags"),
        ),
    ),
    Record(
        "CHANGE_EVENTS_FILTER",
        "change_events_filter_t",
        "Which change events.",
        (*_RANGE, Field("reserved", "bytes44", "0")),
    ),
    Record(
        "CHANGE_EVENT",
        "change_event_t",
        "A transfer or an expiry with both accounts as they were after it.",
        (
            Field("transfer_id", "u128", "the transfer; of an expiry, the pending transfer"),
            Field("transfer_amount", "u128", "the amount", "minor units"),
            Field("transfer_pending_id", "u128", "the pending transfer that was posted or voided"),
            Field("transfer_user_data_128", "u128", "the user's"),
            Field("transfer_user_data_64", "u64", "the user's"),
            Field("transfer_user_data_32", "u32", "the user's"),
            Field("transfer_timeout", "u32", "the timeout", "s"),
            Field("transfer_code", "u16", "the code"),
            Field("transfer_flags", "u16", "transfer flags"),
            Field("ledger", "u32", "the ledger"),
            Field("type", "u8", "the kind of change"),
            Field("reserved", "bytes39", "0"),
            *_account_of_event("debit"),
            *_account_of_event("credit"),
            Field("timestamp", "u64", "when the change happened", "ns"),
            Field("transfer_timestamp", "u64", "the transfer's timestamp", "ns"),
            Field("debit_account_timestamp", "u64", "when the debit account was created", "ns"),
            Field("credit_account_timestamp", "u64", "when the credit account was created", "ns"),
        ),
    ),
    Record(
        "ACCOUNT_SETTINGS",
        "account_settings_t",
        "An event that replaces all settings of one account.",
        (
            Field("id", "u128", "the event's own permanent id"),
            Field("account_id", "u128", "the account"),
            Field("reserved_128", "u128", "0"),
            Field(
                "overdraft", "u128", "how far debits may exceed the posted credits", "minor units"
            ),
            Field("ceiling", "u128", "how far credits may exceed the posted debits", "minor units"),
            *_USER_DATA,
            Field("reserved_32", "u32", "0"),
            Field("ledger", "u32", "0 in an event; the account's when stored"),
            Field("code", "u16", "0 in an event; the account's when stored"),
            Field("flags", "u16", "account settings flags"),
            Field("timestamp", "u64", "0 in an event", "ns"),
        ),
    ),
    Record(
        "DEFINITION",
        "definition_t",
        "Declares a ledger, code or signing key, with metadata; a later one replaces it.",
        (
            Field("id", "u128", "the event's own permanent id"),
            Field("reserved_1", "u128", "0"),
            Field("reserved_2", "u128", "0"),
            Field("reserved_3", "u128", "0"),
            Field("reserved_4", "u128", "0"),
            Field("reserved_5", "u128", "0"),
            Field("reserved_64", "u64", "0"),
            Field("exponent", "u32", "decimal places of the unit, 0 to 18; for ledgers"),
            Field("kind", "u32", "definition kind"),
            Field("ledger", "u32", "the ledger that is declared"),
            Field("code", "u16", "the code that is declared"),
            Field("flags", "u16", "definition flags"),
            Field("timestamp", "u64", "0 in an event", "ns"),
        ),
    ),
    Record(
        "BUSINESS_DATE",
        "business_date_t",
        "An event that moves the business date forward.",
        (
            Field("id", "u128", "the event's own permanent id"),
            Field("reserved_1", "u128", "0"),
            Field("reserved_2", "u128", "0"),
            Field("reserved_3", "u128", "0"),
            Field("reserved_4", "u128", "0"),
            Field("reserved_5", "u128", "0"),
            Field("reserved_64", "u64", "0"),
            Field("date", "u32", "the new business date", "YYYYMMDD"),
            Field("reserved_32", "u32", "0"),
            Field("ledger", "u32", "0"),
            Field("code", "u16", "0"),
            Field("flags", "u16", "0"),
            Field("timestamp", "u64", "0 in an event", "ns"),
        ),
    ),
    Record(
        "SIDE",
        "side_t",
        "What an entry did to one of its accounts.",
        (
            Field("previous", "u64", "position of the account's previous entry; 2^64-1 for none"),
            Field("number", "u64", "entry number in the account: 0 is the opening"),
            Field(
                "skip", "u64", "every 64th entry: an earlier entry of the account; 2^64-1 for none"
            ),
            *_BALANCES,
        ),
    ),
    Record(
        "ENTRY",
        "entry_t",
        "A decided entry of the journal with its sides, as the core hands it to hashing, storage.",
        (
            Field("record", "TRANSFER", "the record in final form"),
            Field(
                "released",
                "u128",
                "the pending amount that a post, void or expiry releases",
                "minor units",
            ),
            Field(
                "debit_slot",
                "u32",
                "slot of the debit account (of the account itself, for openings and settings)",
            ),
            Field("credit_slot", "u32", "slot of the credit account"),
            Field(
                "metadata", "u32", "0 for none, else 1 + the place in the block's list of metadata"
            ),
            Field("kind", "u8", "entry kind"),
            Field("flags", "u8", "entry flags"),
            Field("reserved", "u16", "0"),
            Field("debit", "SIDE", "the debit side (the account's own, for openings and settings)"),
            Field("credit", "SIDE", "the credit side"),
        ),
    ),
    Record(
        "RESOLVED",
        "resolved_t",
        "What storage knows of an id that the core cannot hold.",
        (
            Field("record", "TRANSFER", "the stored record; of a burned id, its burning"),
            Field("metadata_digest", "bytes32", "BLAKE3 of the canonical metadata; zeros for none"),
            Field("namespace", "u8", "namespace of the id"),
            Field("outcome", "u8", "created or burned"),
            Field("resolution", "u8", "what became of a pending transfer"),
            Field("kind", "u8", "entry kind"),
            Field("reserved", "u32", "0"),
        ),
    ),
    Record(
        "CANDIDATE",
        "candidate_t",
        "An id that may exist in an earlier block and must be resolved before events are decided.",
        (
            Field("id", "u128", "the id"),
            Field("hash", "u64", "its keyed 64-bit hash"),
            Field("namespace", "u32", "namespace of the id"),
            Field("reserved", "u32", "0"),
        ),
    ),
    Record(
        "BARE",
        "bare_t",
        "A hash that stands in a stored block in place of what was erased.",
        (
            Field("index", "u32", "index of the entry"),
            Field("part", "u32", "which part of it"),
            Field("digest", "bytes32", "the hash"),
        ),
    ),
    Record(
        "BLOCK_HEADER",
        "block_header_t",
        "The head of a block; its keyed hash is the block hash.",
        (
            Field("magic", "bytes8", "SANYUAN and a zero byte"),
            Field("format", "u32", "version of the stored form"),
            Field("rules", "u32", "version of the rules that decided"),
            Field("instance", "bytes16", "16 random bytes, drawn with block 0"),
            Field("number", "u64", "number of the block, from 0"),
            Field("term", "u64", "term of the leader that wrote it"),
            Field("first_entry", "u64", "global number of its first entry"),
            Field("last_timestamp", "u64", "the last timestamp that was given out", "ns"),
            Field("last_account_timestamp", "u64", "the greatest timestamp of an account", "ns"),
            Field(
                "last_transfer_timestamp",
                "u64",
                "the greatest timestamp of a transfer or expiry",
                "ns",
            ),
            Field("state_block", "u64", "an earlier block with a state root, or 0"),
            Field("entry_count", "u32", "entries in the block"),
            Field("flags", "u32", "block flags"),
            Field("business_date", "u32", "the business date after the block", "YYYYMMDD"),
            Field("reserved_32", "u32", "0"),
            Field("previous_hash", "bytes32", "hash of the previous block; zeros in block 0"),
            Field("root", "bytes32", "root of the tree over the leaves of the entries"),
            Field("state_root", "bytes32", "the state root of state_block, or zeros"),
            Field("reserved", "bytes56", "0"),
        ),
    ),
    Record(
        "ACCOUNT_LEAF",
        "account_leaf_t",
        "The message whose keyed hash is an account's leaf in a state root.",
        (
            Field("id", "u128", "the account"),
            *_BALANCES,
            Field("overdraft", "u128", "of its settings; 0 when not in force", "minor units"),
            Field("ceiling", "u128", "of its settings; 0 when not in force", "minor units"),
            Field("head", "bytes32", "head of the chain of its entries"),
            Field("entry_count", "u64", "entries of the account, its opening among them"),
            Field("ordinal", "u64", "its place in the group of (kind, ledger, code)"),
            Field("ledger", "u32", "the ledger"),
            Field("code", "u16", "the code"),
            Field("flags", "u16", "account flags"),
            Field("state", "u16", "account settings flags"),
            Field("kind", "u8", "0: an account of money"),
            Field("reserved", "bytes5", "0"),
            Field("state_salt", "bytes16", "the salt that its opening's credit side does not use"),
        ),
    ),
    Record(
        "STATE_ROW",
        "state_row_t",
        "One account of a captured state, on its way into a state root and into the archive.",
        (
            Field(
                "message",
                "bytes192",
                "ACCOUNT_LEAF; erased: its hash, then what the full state of a bundle says",
            ),
            Field("last_position", "u64", "position of the account's last entry"),
            Field("ordinal", "u64", "as in ACCOUNT_LEAF"),
            Field("slot", "u32", "slot of the account"),
            Field("flags", "u32", "state row flags"),
            Field("ledger", "u32", "as in ACCOUNT_LEAF"),
            Field("code", "u16", "as in ACCOUNT_LEAF"),
            Field("kind", "u8", "as in ACCOUNT_LEAF"),
            Field("reserved", "u8", "0"),
        ),
    ),
    Record(
        "KEPT_ROOT",
        "kept_root_t",
        "A state root in the archive.",
        (
            Field("root", "bytes32", "the state root"),
            Field("previous", "u64", "block of the kept root before it; 2^64-1 for none"),
            Field("timestamp", "u64", "last timestamp of the block", "ns"),
            Field("account_count", "u64", "accounts in all groups"),
            Field("group_count", "u32", "groups"),
            Field("business_date", "u32", "the business date after the block", "YYYYMMDD"),
        ),
    ),
    Record(
        "KEPT_TILE",
        "kept_tile_t",
        "A tile of a kept state root.",
        (
            Field("digest", "bytes32", "its hash"),
            Field("sums", "bytes60", "its three sums"),
            Field("depth", "u32", "how many values of rows come before the newest one"),
            Field("rows_block", "u64", "the kept root with the newest rows of the tile"),
        ),
    ),
    Record(
        "KEPT_ROW",
        "kept_row_t",
        "An account in the archive, as it was at a kept root; id and salt are the account's.",
        (
            Field("slot", "u32", "slot of the account"),
            Field("flags", "u16", "account flags"),
            Field("state", "u16", "account settings flags; bit 15: erased, and head is its leaf"),
            Field("entry_count", "u64", "entries of the account"),
            *_BALANCES,
            Field("head", "bytes32", "head of the chain of its entries"),
        ),
    ),
    Record(
        "KEPT_LIMITS",
        "kept_limits_t",
        "Overdraft and ceiling of a kept account that has one of them.",
        (
            Field("overdraft", "u128", "of its settings", "minor units"),
            Field("ceiling", "u128", "of its settings", "minor units"),
        ),
    ),
)

U128: Final = np.dtype([("lo", "<u8"), ("hi", "<u8")])
_SCALARS: Final[dict[str, object]] = {
    "u8": "u1",
    "u16": "<u2",
    "u32": "<u4",
    "u64": "<u8",
    "u128": U128,
}


def _build_dtypes() -> dict[str, np.dtype]:
    dtypes: dict[str, np.dtype] = {}
    for record in RECORDS:
        fields: list[tuple[object, ...]] = []
        for field in record.fields:
            if field.type.startswith("bytes"):
                fields.append((field.name, "u1", (int(field.type[5:]),)))
            else:
                fields.append((field.name, _SCALARS.get(field.type) or dtypes[field.type]))
        dtypes[record.name] = np.dtype(fields)
    return dtypes


DTYPES: Final = _build_dtypes()
ACCOUNT: Final = DTYPES["ACCOUNT"]
TRANSFER: Final = DTYPES["TRANSFER"]
ACCOUNT_BALANCE: Final = DTYPES["ACCOUNT_BALANCE"]
RESULT: Final = DTYPES["RESULT"]
ACCOUNT_FILTER: Final = DTYPES["ACCOUNT_FILTER"]
QUERY_FILTER: Final = DTYPES["QUERY_FILTER"]
CHANGE_EVENTS_FILTER: Final = DTYPES["CHANGE_EVENTS_FILTER"]
CHANGE_EVENT: Final = DTYPES["CHANGE_EVENT"]
ACCOUNT_SETTINGS: Final = DTYPES["ACCOUNT_SETTINGS"]
DEFINITION: Final = DTYPES["DEFINITION"]
BUSINESS_DATE: Final = DTYPES["BUSINESS_DATE"]
SIDE: Final = DTYPES["SIDE"]
ENTRY: Final = DTYPES["ENTRY"]
RESOLVED: Final = DTYPES["RESOLVED"]
CANDIDATE: Final = DTYPES["CANDIDATE"]
BARE: Final = DTYPES["BARE"]
BLOCK_HEADER: Final = DTYPES["BLOCK_HEADER"]
KEPT_ROOT: Final = DTYPES["KEPT_ROOT"]
KEPT_TILE: Final = DTYPES["KEPT_TILE"]
KEPT_ROW: Final = DTYPES["KEPT_ROW"]
KEPT_LIMITS: Final = DTYPES["KEPT_LIMITS"]
ACCOUNT_LEAF: Final = DTYPES["ACCOUNT_LEAF"]
STATE_ROW: Final = DTYPES["STATE_ROW"]

# ----------------------------------------------------------------------------------------------
# Names to numbers and back
# ----------------------------------------------------------------------------------------------

STATUS_NAMES: Final[dict[str, dict[int, str]]] = {
    kind: {CREATED: "created", **{s.number: s.name for s in statuses}}
    for kind, statuses in STATUSES.items()
}
STATUS_NUMBERS: Final[dict[str, dict[str, int]]] = {
    kind: {name: number for number, name in names.items()} for kind, names in STATUS_NAMES.items()
}
TRANSIENT: Final = frozenset(s.number for s in TRANSFER_STATUSES if s.transient)


def flag_mask(kind: str, *names: str) -> int:
    """Return the bits of the named flags of a kind of ``FLAGS``; raise ``KeyError`` for an unknown
    name."""
    bits = {flag.name: 1 << flag.bit for flag in FLAGS[kind]}
    mask = 0
    for name in names:
        mask |= bits[name]
    return mask


def flag_names(kind: str, mask: int) -> list[str]:
    """Return the names of the bits set in ``mask``, in order of the bits."""
    return [flag.name for flag in FLAGS[kind] if mask >> flag.bit & 1]


def to_int(value: np.void) -> int:
    """Return a ``{lo, hi}`` record as an integer below 2^128."""
    return int(value["lo"]) | int(value["hi"]) << 64


def from_int(value: int) -> tuple[int, int]:
    """Return an integer as the tuple ``(lo, hi)`` that a u128 field takes; raise ``OverflowError``
    outside 0..2^128-1."""
    if not 0 <= value <= U128_MAX:
        raise OverflowError(f"{value} does not fit into 128 bits")
    return value & U64_MAX, value >> 64


def position(block: int, index: int) -> int:
    """Return the position of entry ``index`` of a block as one integer."""
    return block << INDEX_BITS | index


def record_array(dtype: np.dtype, rows: list[dict[str, object]]) -> np.ndarray:
    """Return a record array built by field name from dicts of ints and bytes; fields not named are
    zero."""
    array = np.zeros(len(rows), dtype)
    for index, row in enumerate(rows):
        for name, value in row.items():
            if dtype[name] == U128:
                array[index][name] = from_int(int(value))  # type: ignore[call-overload]
            elif isinstance(value, bytes):
                array[index][name] = np.frombuffer(value, "u1")
            else:
                array[index][name] = value
    return array


def record_dict(row: np.void) -> dict[str, int | bytes]:
    """Return a record as a dict of ints (and bytes for ``bytesN`` fields); nested records are not
    supported."""
    out: dict[str, int | bytes] = {}
    assert row.dtype.names is not None
    for name in row.dtype.names:
        value = row[name]
        if row.dtype[name] == U128:
            out[name] = to_int(value)
        elif isinstance(value, np.ndarray):
            out[name] = value.tobytes()
        else:
            out[name] = int(value)
    return out
