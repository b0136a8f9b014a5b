"""Makes the vectors of proofs: one case a file in tests/vectors/proofs, named after what is wrong.

    python -m tests.vectors.make

A case has one fault. The forger is assumed to make good all that he can: digests, manifests,
tables, and, where the bank itself forges, everything up to the cosigned checkpoint; so that only
the check that the case is named after can find it.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.model import proofs
from tests.model.bank import (
    ALICE,
    BOB,
    CASH,
    DAY_NS,
    FRIDAY,
    MEI,
    MONDAY,
    NEWER,
    NEWEST,
    OLDER,
    ORIGIN,
    TUESDAY,
    WITNESSES,
    bank,
    begin,
    end,
    policy,
    small,
)
from tests.model.proofs import (
    IMPORTED,
    PENDING,
    Bundle,
    Ledger,
    Side,
    Signer,
    b64,
    canonical,
    export,
    in_order,
    keyed,
    little,
    manifest,
    number_at,
    sealed,
    zip_bytes,
)

FOLDER = Path(__file__).parent / "proofs"
NORTH, SOUTH, COURT = WITNESSES["north"], WITNESSES["south"], WITNESSES["court"]
LOG = Signer(ORIGIN, 1)
POLICY = policy(LOG)
SMALL_POLICY = policy(Signer("small.example", 1), quorum="none", witnesses={})


@dataclass
class Case:
    """What is handed to a verifier."""

    files: dict[str, bytes] = field(default_factory=dict)
    zip: bytes | None = None
    policy: str | None = POLICY
    arguments: dict[str, object] = field(default_factory=dict)


CASES: dict[str, tuple[str | None, str, Callable[[], Case]]] = {}
"""By name: refusal code (None: accepted), what it is about, and how it is made."""


def case(code: str | None, what: str) -> Callable[[Callable[[], Case]], Callable[[], Case]]:
    def add(make: Callable[[], Case]) -> Callable[[], Case]:
        name = make.__name__.replace("_", "-")
        assert name not in CASES, name
        CASES[name] = (code, what, make)
        return make

    return add


def accepted(what: str) -> Callable:
    return case(None, what)


def refused(code: str, what: str) -> Callable:
    return case(code, what)


# ----------------------------------------------------------------------------------------------
# What cases are made of
# ----------------------------------------------------------------------------------------------


def lone(bundle: Bundle | dict, policy: str | None = POLICY, **arguments: object) -> Case:
    """A lone bundle.json; its digest is made good."""
    value = bundle.value() if isinstance(bundle, Bundle) else sealed(bundle)
    return raw(canonical(value), policy, **arguments)


def raw(text: str | bytes, policy: str | None = POLICY, **arguments: object) -> Case:
    data = text.encode() if isinstance(text, str) else text
    return Case({"bundle.json": data}, None, policy, arguments)


def zipped(files: dict[str, bytes], policy: str | None = POLICY, **arguments: object) -> Case:
    """A zip of these files; the manifest is made good."""
    files = {**files, "manifest.json": manifest(files, origin_of(files))}
    return Case({}, zip_bytes(in_order(files)), policy, arguments)


def foldered(files: dict[str, bytes], policy: str | None = POLICY, **arguments: object) -> Case:
    files = {**files, "manifest.json": manifest(files, origin_of(files))}
    return Case(in_order(files), None, policy, arguments)


def origin_of(files: dict[str, bytes]) -> str:
    return json.loads(files["bundle.json"])["origin"]


def made(ledger: Ledger, *fill: Callable[[Bundle], object], note: str | None = None) -> Bundle:
    bundle = Bundle(ledger, note or ledger.checkpoint([NORTH, COURT]))
    for add in fill:
        add(bundle)
    return bundle


def small_bundle(*fill: Callable[[Bundle], object]) -> Bundle:
    return made(
        small(), *(fill or [lambda b: b.add_entry(3, hide=["credit"])]), note=small().checkpoint()
    )


def forged(bundle: Bundle, *changes: Callable[[dict], object]) -> dict:
    value = copy.deepcopy(bundle.value())
    for change in changes:
        change(value)
    return value


def item(value: dict, type: str, nth: int = 0) -> dict:
    return [one for one in value["items"] if one["type"] == type][nth]


def changed(text: str, at: int, data: bytes) -> str:
    """Base64 with other bytes from a place on."""
    old = bytearray(base64.b64decode(text))
    old[at : at + len(data)] = data
    return b64(bytes(old))


def flipped(text: str, at: int = 0) -> str:
    return changed(text, at, bytes([base64.b64decode(text)[at] ^ 1]))


def shortened(text: str, by: int = 32) -> str:
    return b64(base64.b64decode(text)[:-by])


def lengthened(text: str, by: int = 32) -> str:
    return b64(base64.b64decode(text) + bytes(range(by)))


def set_in(part: dict, **values: object) -> None:
    for name, value in values.items():
        assert name in part, name
        part[name] = value


def statement(b: Bundle) -> int:
    return b.add_statement(ALICE, OLDER, NEWER)


def balance(b: Bundle) -> int:
    return b.add_account(ALICE, NEWER)


def newest_balance(b: Bundle) -> int:
    return b.add_account(ALICE, NEWEST, newest=True)


def one_entry(b: Bundle) -> int:
    return b.add_entry(entry_of(20_006), hide=["credit"])


def entry_of(id: int) -> int:
    return bank().transfers[id].number if id in bank().transfers else by_id(id)


def by_id(id: int) -> int:
    return next(e.number for block in bank().blocks for e in block.entries if e.id == id)


def consistency(size: int) -> Callable[[Bundle], int]:
    return lambda b: b.add_consistency(b.ledger.checkpoint(size=size))


@cache
def export_of_all() -> dict[str, bytes]:
    """An export with a statement, a trial balance and all that may lie beside them."""
    bundle = made(
        bank(),
        lambda b: b.add_statement(ALICE, OLDER, NEWER, disclose=True, whole=True),
        lambda b: b.add_trial_balance(NEWER),
    )
    return export(bundle, policy_txt=POLICY.encode())


@cache
def small_export(full: bool = True) -> dict[str, bytes]:
    if not full:
        return export(small_bundle())
    bundle = small_bundle(lambda b: b.add_full_state(1), lambda b: b.add_trial_balance(1))
    return export(bundle, state_bin=small().states[1].file())


# -- A ledger whose bank forges ----------------------------------------------------------------


@dataclass
class Forger:
    """What a bank does to its own books before witnesses sign them; None is honest."""

    first_state: Callable | None = None
    first_sums: dict | None = None
    second_state: Callable | None = None
    second_sums: dict | None = None
    headers: dict[int, Callable[[bytearray], None]] = field(default_factory=dict)
    records: dict[int, Callable[[str], str]] = field(default_factory=dict)
    tuesday: Callable[[Ledger], object] | None = None
    before_states: Callable[[Ledger], object] | None = None

    def ledger(self) -> Ledger:
        """Two kept states (blocks 1 and 3), four intervals (blocks 0, 1-2, 3-4 and 5)."""
        ledger = Ledger(ORIGIN)

        def close(seal: bool = False) -> None:
            header = self.headers.get(len(ledger.blocks))
            record = self.records.get(len(ledger.records), str)
            ledger.close_block(seal=seal, forge_header=header, forge_record=record)

        ledger.move_date(1, FRIDAY)
        ledger.open(CASH, ledger=156, code=10)
        for id in (ALICE, BOB, 503, 504):
            ledger.open(id, ledger=156, code=100)
        ledger.open(9100, ledger=840, code=10)
        ledger.open(MEI, ledger=840, code=100)
        close(seal=True)
        ledger.transfer(11, CASH, ALICE, 1000)
        ledger.transfer(12, CASH, BOB, 2000)
        ledger.transfer(13, 9100, MEI, 70)
        ledger.move_date(2, MONDAY)
        close()
        ledger.keep_state(self.first_state, self.first_sums)
        ledger.transfer(21, ALICE, BOB, 300, flags=PENDING)
        ledger.transfer(22, BOB, ALICE, 40)
        close(seal=True)
        ledger.post(31, 21, 250)
        ledger.transfer(32, ALICE, BOB, 10)
        if self.tuesday:
            self.tuesday(ledger)
        ledger.move_date(3, TUESDAY)
        close()
        if self.before_states:
            self.before_states(ledger)
        ledger.keep_state(self.second_state, self.second_sums)
        ledger.transfer(41, CASH, BOB, 1)
        close(seal=True)
        ledger.transfer(51, CASH, BOB, 1)
        close(seal=True)
        return ledger

    def statement(self, *more: Callable[[Bundle], object]) -> Bundle:
        return made(self.ledger(), lambda b: b.add_statement(ALICE, 1, 3, disclose=True), *more)

    def made(self, *fill: Callable[[Bundle], object]) -> Bundle:
        return made(self.ledger(), *fill)


def of_group(code: int, ledger: int = 156) -> tuple[int, int]:
    return (ledger, code)


def put(message: bytes, at: int, data: bytes) -> bytes:
    return message[:at] + data + message[at + len(data) :]


def in_header(at: int, data: bytes) -> Callable[[bytearray], None]:
    def change(header: bytearray) -> None:
        header[at : at + len(data)] = data

    return change


def in_record(old: str, new: str) -> Callable[[str], str]:
    def change(record: str) -> str:
        assert record.count(old) == 1, (old, record)
        return record.replace(old, new)

    return change


def in_group(code: int, change: Callable[[list[bytes]], object], ledger: int = 156) -> Callable:
    return lambda messages: change(messages[ledger, code])


# ----------------------------------------------------------------------------------------------
# Accepted
# ----------------------------------------------------------------------------------------------


@accepted("one entry with one side opened")
def entry_with_one_side() -> Case:
    return lone(made(bank(), one_entry))


@accepted("one entry of which nothing but the record is shown")
def entry_with_hidden_sides() -> Case:
    hide = ["debit", "credit"]
    return lone(made(bank(), lambda b: b.add_entry(entry_of(10_700), hide=hide, hide_ext=True)))


@accepted("an entry of each kind, posts, voids and expiries among them")
def entries_of_every_kind() -> Case:
    ids = (1, 2, 8_888, 10_700, 10_701, 20_001, 20_004, 20_006, 20_007, 20_008)
    bundle = made(bank(), *(lambda b, i=i: b.add_entry(entry_of(i)) for i in ids))
    bundle.add_entry(next(e.number for e in bank().blocks[5].entries if e.kind == "expiry"))
    return lone(bundle)


@accepted("a balance under a kept state")
def account_balance() -> Case:
    return lone(made(bank(), balance), account=[str(ALICE)])


@accepted("a balance, the newest under the checkpoint")
def account_newest() -> Case:
    return lone(made(bank(), newest_balance), newest=True)


@accepted("a complete statement between two kept states, counterparties hidden")
def statement_between_states() -> Case:
    return lone(
        made(bank(), statement),
        **{"account": [str(ALICE)], "from": "2026-01-05", "to": "2026-01-05", "origin": ORIGIN},
    )


@accepted("a complete statement from the opening on, counterparties and metadata opened")
def statement_from_opening() -> Case:
    return lone(made(bank(), lambda b: b.add_statement(ALICE, None, NEWEST, disclose=True)))


@accepted("a complete statement whose metadata are hidden")
def statement_with_hidden_metadata() -> Case:
    return lone(made(bank(), lambda b: b.add_statement(ALICE, None, NEWER, hide_ext=True)))


@accepted("a statement without entries: the account was not touched")
def statement_without_entries() -> Case:
    return lone(made(bank(), lambda b: b.add_statement(MEI, OLDER, NEWEST, newest=True)))


@accepted("an account that a closing transfer closed within the statement")
def statement_of_a_closed_account() -> Case:
    return lone(made(bank(), lambda b: b.add_statement(BOB, OLDER, NEWEST)))


@accepted("statements of two accounts")
def two_statements() -> Case:
    both = [lambda b, a=a: b.add_statement(a, OLDER, NEWER, disclose=True) for a in (ALICE, BOB)]
    return lone(made(bank(), *both), account=[str(BOB), str(ALICE)])


@accepted("all group heads: per ledger debits equal credits")
def trial_balance() -> Case:
    return lone(made(bank(), lambda b: b.add_trial_balance(NEWEST)))


@accepted("the last tile of a group of three, opened")
def tile_opened() -> Case:
    return lone(made(bank(), lambda b: b.add_tile(NEWEST, 3, 2)))


@accepted("a tile of which one account was erased")
def tile_with_an_erased_account() -> Case:
    return lone(Forger().made(lambda b: b.add_tile(3, 1, 0, erased=[503])))


@accepted("a full state: every account recomputed")
def full_state() -> Case:
    return zipped(small_export(), SMALL_POLICY)


@accepted("a full state with an erased account")
def full_state_with_an_erased_account() -> Case:
    files = {**small_export(), "state.bin": small().states[1].file(erased=[1])}
    return zipped(files, SMALL_POLICY)


@accepted("a full state of a group of three tiles")
def full_state_of_three_tiles() -> Case:
    bundle = made(bank(), lambda b: b.add_full_state(NEWEST))
    return zipped(export(bundle, state_bin=bank().states[NEWEST].file()))


@accepted("the log only grew, from each of its sizes on")
def consistency_from_all_sizes() -> Case:
    sizes = range(len(bank().records) + 1)
    return lone(made(bank(), *(consistency(size) for size in sizes)))


@accepted("a sample drawn by a text")
def sample_by_seed() -> Case:
    return lone(made(bank(), lambda b: b.add_sample(5, seed="dice of 2026-01-09: 4 4 1 6")))


@accepted("a sample drawn by a witness's signature")
def sample_by_witness() -> Case:
    return lone(made(bank(), lambda b: b.add_sample(4, witness=COURT.name)))


@accepted("a sample that draws an entry that was erased")
def sample_with_an_erased_entry() -> Case:
    bundle = made(bank())
    erased = bundle.drawn_entries(3, seed="abc", witness=None)[1:2]
    bundle.add_sample(3, seed="abc", erased=erased)
    return lone(bundle)


@accepted("every entry is drawn")
def sample_of_everything() -> Case:
    return lone(small_bundle(lambda b: b.add_sample(4, seed="")), SMALL_POLICY)


@accepted("an export as a zip")
def export_as_zip() -> Case:
    return zipped(export_of_all(), account=[str(ALICE)])


@accepted("an export as a folder")
def export_as_folder() -> Case:
    return foldered(export_of_all())


@accepted("the keys are the bundle's own, because the auditor says so")
def bundled_policy_trusted() -> Case:
    files = {**small_export(False), "policy.txt": SMALL_POLICY.encode()}
    return zipped(files, None, **{"trust-bundled-policy": True})


@accepted("a note with a signature by a key that nobody knows")
def unknown_signature_line() -> Case:
    note = bank().checkpoint([NORTH, Signer("witness.nobody.example", 4), COURT])
    return lone(made(bank(), balance, note=note))


@accepted("groups of witnesses within groups")
def nested_quorum() -> Case:
    text = policy(LOG).replace("group two 2", "group two any").replace("quorum two\n", "")
    far = Signer("witness.far.example", 4)
    text += f"witness far {far.vkey} https://far.example/\ngroup both all two far\nquorum both\n"
    return lone(made(bank(), balance, note=bank().checkpoint([SOUTH, far])), text)


def ranged(log: Signer, first: int, last: int | str) -> str:
    return f"# sanyuan-range {log.name}+{log.id.hex()} {first} {last}\n"


SECOND_LOG = Signer(ORIGIN, 1, "second")
RANGES = ranged(LOG, 0, 5) + ranged(SECOND_LOG, 6, "-")


@accepted("the signing key was replaced: the new key signs, the old one signed before")
def replaced_key() -> Case:
    old = bank().checkpoint(size=5)
    note = bank().checkpoint([NORTH, COURT], signers=[SECOND_LOG])
    return lone(
        made(bank(), lambda b: b.add_consistency(old), note=note),
        policy(LOG, SECOND_LOG, more=RANGES),
    )


@accepted("no witness is asked for")
def quorum_none() -> Case:
    return lone(small_bundle(), SMALL_POLICY)


@accepted("a policy with comments, tabs and spare spaces")
def policy_with_spare_spaces() -> Case:
    text = SMALL_POLICY.replace("log ", "\t log\t ").replace("quorum ", "\n  # none\n  quorum  ")
    return lone(small_bundle(), text + " \t\n")


# ----------------------------------------------------------------------------------------------
# Refused: statements
# ----------------------------------------------------------------------------------------------


def of_statement(*changes: Callable[[list[str]], object], **arguments: object) -> Case:
    """The disclosed statement of Alice with changed entries."""
    bundle = made(bank(), lambda b: b.add_statement(ALICE, OLDER, NEWER, disclose=True))

    def change(value: dict) -> None:
        for one in changes:
            one(item(value, "statement")["entries"])

    return lone(forged(bundle, change), **arguments)


AMOUNT, TIME, RELEASED = 3 + 16, 3 + 88, 115
"""Where they are in an entry of a statement."""


def add_to(entries: list[str], index: int, at: int, delta: int) -> None:
    data = base64.b64decode(entries[index])
    entries[index] = changed(entries[index], at, little(number_at(data, at, 16) + delta, 16))


@refused("bad_statement", "one entry left out")
def entry_omitted() -> Case:
    return of_statement(lambda entries: entries.pop(4))


@refused("bad_statement", "one entry left out and another doubled, so that their number is right")
def entry_omitted_and_another_doubled() -> Case:
    def double(entries: list[str]) -> None:
        time = base64.b64decode(entries[10])[TIME : TIME + 8]
        entries[10] = changed(entries[9], TIME, time)

    return of_statement(double)


@refused("bad_statement", "the last entry left out")
def last_entry_omitted() -> Case:
    return of_statement(lambda entries: entries.pop())


@refused("bad_account", "one entry left out, the closing leaf's count and balances made to fit")
def entry_omitted_and_leaf_repaired() -> Case:
    bundle = made(bank(), statement)

    def change(value: dict) -> None:
        item(value, "statement")["entries"].pop()
        leaf = item(value, "account", 1)
        count = number_at(base64.b64decode(leaf["leaf"]), 144, 8)
        leaf["leaf"] = changed(leaf["leaf"], 144, little(count - 1, 8))

    return lone(forged(bundle, change))


@refused("bad_statement", "two entries swapped that leave the balances as they are")
def entries_swapped() -> Case:
    def swap(entries: list[str]) -> None:
        times = [base64.b64decode(one)[TIME : TIME + 8] for one in entries[:2]]
        entries[0], entries[1] = changed(entries[1], TIME, times[0]), entries[0]
        entries[1] = changed(entries[1], TIME, times[1])

    return of_statement(swap)


@refused("bad_statement", "an amount altered, and another the other way, so that balances agree")
def amount_altered() -> Case:
    def alter(entries: list[str]) -> None:
        add_to(entries, 4, AMOUNT, 5)
        add_to(entries, 10, AMOUNT, -5)

    return of_statement(alter)


@refused("bad_statement", "an amount altered, and nothing else")
def amount_altered_alone() -> Case:
    return of_statement(lambda entries: add_to(entries, 10, AMOUNT, 1))


@refused("bad_statement", "a released amount altered, and what was reserved before too")
def released_amount_altered() -> Case:
    def alter(entries: list[str]) -> None:
        add_to(entries, 1, AMOUNT, 1)
        add_to(entries, 5, RELEASED, 1)

    return of_statement(alter)


@refused("bad_statement", "the counterparty named in a statement is another one")
def counterparty_altered() -> Case:
    def alter(entries: list[str]) -> None:
        entries[10] = changed(entries[10], 115, little(BOB, 16))

    return of_statement(alter)


@refused("bad_statement", "debit and credit exchanged")
def side_altered() -> Case:
    def alter(entries: list[str]) -> None:
        entries[4] = changed(entries[4], 1, b"\2")

    return of_statement(alter)


@refused("bad_statement", "metadata altered")
def metadata_altered() -> Case:
    def alter(entries: list[str]) -> None:
        entries[4] = flipped(entries[4], len(base64.b64decode(entries[4])) - 4)

    return of_statement(alter)


@refused("bad_statement", "an entry's kind altered to one without sides")
def kind_altered() -> Case:
    def alter(entries: list[str]) -> None:
        entries[3] = changed(entries[3], 0, b"\6")

    return of_statement(alter)


@refused("malformed", "an entry with a byte too many")
def entry_with_a_byte_too_many() -> Case:
    def alter(entries: list[str]) -> None:
        entries[3] = lengthened(entries[3], 1)

    return of_statement(alter)


@refused("malformed", "an entry cut short")
def entry_cut_short() -> Case:
    def alter(entries: list[str]) -> None:
        entries[3] = shortened(entries[3], 100)

    return of_statement(alter)


@refused("malformed", "a counterparty both hidden and opened")
def entry_with_impossible_bits() -> Case:
    def alter(entries: list[str]) -> None:
        entries[10] = changed(lengthened(entries[10]), 2, b"\6")

    return of_statement(alter)


@refused("malformed", "a released amount of zero written out")
def released_zero_written() -> Case:
    def alter(entries: list[str]) -> None:
        data = base64.b64decode(entries[10])
        entries[10] = b64(data[:2] + bytes([data[2] | 1]) + data[3:115] + bytes(16) + data[115:])

    return of_statement(alter)


@refused("bad_statement", "the entries of another account")
def entries_of_another_account() -> Case:
    bundle = made(bank(), lambda b: b.add_statement(2, None, NEWER))
    other = made(bank(), lambda b: b.add_statement(300, None, NEWER))
    entries = item(other.value(), "statement")["entries"]
    return lone(forged(bundle, lambda v: set_in(item(v, "statement"), entries=entries)))


@refused("bad_statement", "the opening state is of another account")
def opening_of_another_account() -> Case:
    bundle = made(
        bank(), lambda b: b.add_account(BOB, OLDER), lambda b: b.add_statement(ALICE, OLDER, NEWER)
    )
    return lone(forged(bundle, lambda v: set_in(item(v, "statement"), opening=0)))


@refused("bad_statement", "opening and closing state exchanged")
def states_exchanged() -> Case:
    bundle = made(bank(), lambda b: b.add_statement(MEI, OLDER, NEWER))
    return lone(forged(bundle, lambda v: set_in(item(v, "statement"), opening=1, closing=0)))


@refused("bad_statement", "the statement is said to be of another account")
def statement_under_another_number() -> Case:
    bundle = made(bank(), statement)
    return lone(forged(bundle, lambda v: set_in(item(v, "statement"), account=str(BOB))))


@refused("bad_statement", "a statement from a state on that claims to begin with the opening")
def beginning_left_out() -> Case:
    bundle = made(bank(), balance, statement)

    def change(value: dict) -> None:
        set_in(item(value, "statement"), opening=None)

    return lone(forged(bundle, change))


@refused("bad_statement", "two statements of one account")
def statement_twice() -> Case:
    bundle = made(bank(), statement)
    twice = forged(bundle, lambda v: v["items"].append(copy.deepcopy(item(v, "statement"))))
    return lone(twice)


@refused("malformed", "a statement whose closing place is no account")
def closing_is_no_account() -> Case:
    bundle = made(bank(), statement)
    return lone(forged(bundle, lambda v: set_in(item(v, "statement"), closing=2)))


# -- By the bank itself ------------------------------------------------------------------------


@refused("bad_statement", "the bank changed the balances of the closing state")
def balances_changed_by_the_bank() -> Case:
    def change(group: list[bytes]) -> None:
        for at, delta in ((0, 5), (1, -5)):
            posted = number_at(group[at], 64, 16)
            group[at] = put(group[at], 64, little(posted + delta, 16))

    return lone(Forger(second_state=in_group(100, change)).statement())


@refused("bad_statement", "the bank changed an overdraft without an entry")
def settings_without_an_entry() -> Case:
    def change(group: list[bytes]) -> None:
        group[0] = put(group[0], 80, little(500, 16))

    return lone(Forger(second_state=in_group(100, change)).statement())


@refused("bad_statement", "the bank changed an account's flags")
def flags_changed_by_the_bank() -> Case:
    def change(group: list[bytes]) -> None:
        group[0] = put(group[0], 166, little(2, 2))

    return lone(Forger(second_state=in_group(100, change)).statement())


@refused("bad_statement", "an entry with a time before the opening state, not imported")
def back_dated_entry() -> Case:
    def tuesday(ledger: Ledger) -> None:
        ledger.transfer(33, ALICE, BOB, 1, timestamp=ledger.blocks[1].time)

    return lone(Forger(tuesday=tuesday).statement())


@accepted("the same, but imported")
def back_dated_entry_imported() -> Case:
    def tuesday(ledger: Ledger) -> None:
        time = ledger.blocks[1].time
        ledger.transfer(33, ALICE, BOB, 1, timestamp=time, flags=IMPORTED)

    return lone(Forger(tuesday=tuesday).statement())


@refused("bad_statement", "an entry later than the closing state")
def entry_from_the_future() -> Case:
    def tuesday(ledger: Ledger) -> None:
        ledger.transfer(33, ALICE, BOB, 1, timestamp=ledger.time + 10**12)

    return lone(Forger(tuesday=tuesday).statement())


@refused("bad_statement", "more was released than was reserved: a balance below zero")
def balance_below_zero() -> Case:
    def tuesday(ledger: Ledger) -> None:
        ledger.transfers[21].amount = 1000  # the void releases this, the hold reserved 300
        ledger.transfer(33, ALICE, BOB, 0, flags=PENDING)
        ledger.void(34, 21)
        ledger.transfers[21].amount = 300
        for id, at in ((ALICE, 0), (BOB, 2)):
            ledger.accounts[id].balances[at] = 0

    return lone(Forger(tuesday=tuesday).statement())


@refused("bad_statement", "a post of more than was reserved")
def posted_more_than_reserved() -> Case:
    def tuesday(ledger: Ledger) -> None:
        ledger.transfer(33, ALICE, BOB, 5, flags=PENDING)
        ledger.post(34, 33, 6)

    return lone(Forger(tuesday=tuesday).statement())


@refused("bad_statement", "a plain transfer that releases something")
def release_by_a_plain_transfer() -> Case:
    def tuesday(ledger: Ledger) -> None:
        ledger.transfer(33, ALICE, BOB, 5, flags=PENDING)
        ledger.transfer(34, ALICE, BOB, 5).released = 5
        ledger.accounts[ALICE].balances[0] -= 5
        ledger.accounts[BOB].balances[2] -= 5

    return lone(Forger(tuesday=tuesday).statement())


@refused("bad_statement", "an entry of another ledger in the account's chain")
def entry_of_another_ledger() -> Case:
    return lone(Forger(tuesday=lambda x: x.transfer(33, ALICE, BOB, 1, ledger=840)).statement())


@refused("contradiction", "two entries with one number: one in the block, another in the chain")
def duplicate_entry_number() -> Case:
    def change(ledger: Ledger) -> None:
        account = ledger.accounts[ALICE]
        entry, _ = account.entries[-1]
        other = copy.deepcopy(entry)
        other.amount += 1
        account.entries[-1] = (other, other.sides[0])
        account.balances[1] += 1

    forger = Forger(before_states=change)
    number = 15  # the transfer 32 in its block
    return lone(forger.statement(lambda b: b.add_entry(number, hide=["credit"])))


@refused("contradiction", "two statements that name one entry of a third account differently")
def duplicate_number_at_a_counterparty() -> Case:
    def change(ledger: Ledger) -> None:
        entry, _ = ledger.accounts[BOB].entries[-1]
        other = copy.deepcopy(entry)
        other.sides[0] = Side(1, 503, other.sides[0].number, other.sides[0].salt)
        other.sides[0].account, other.sides[0].number = ALICE, entry.sides[0].number
        other.user_data = (9, 9, 9)
        ledger.accounts[BOB].entries[-1] = (other, other.sides[1])

    forger = Forger(before_states=change)
    return lone(forger.statement(lambda b: b.add_statement(BOB, 1, 3, disclose=True)))


@refused("contradiction", "two leaves of one account under one state")
def two_leaves_of_one_account() -> Case:
    def change(group: list[bytes]) -> None:
        group.append(put(put(group[0], 152, little(len(group), 8)), 32, little(0, 16)))

    forger = Forger(second_state=in_group(100, change))
    bundle = forger.made(lambda b: b.add_account(ALICE, 3))
    group = bundle.ledger.states[3].groups[1]
    second = {
        "leaf": b64(group.messages[4]),
        "tile_path": b64(b"".join(group.tile_path(4))),
    }
    return lone(forged(bundle, lambda v: v["items"].append({**item(v, "account"), **second})))


# ----------------------------------------------------------------------------------------------
# Refused: balances and totals
# ----------------------------------------------------------------------------------------------


def of_account(*changes: Callable[[dict], object]) -> Case:
    bundle = made(bank(), balance)
    return lone(forged(bundle, *(lambda v, c=c: c(item(v, "account")) for c in changes)))


@refused("bad_account", "a balance altered")
def balance_altered() -> Case:
    return of_account(lambda i: set_in(i, leaf=flipped(i["leaf"], 64)))


@refused("bad_account", "a balance altered, and the sums of the tile with it")
def balance_and_sums_altered() -> Case:
    def change(i: dict) -> None:
        i["leaf"] = flipped(i["leaf"], 64)
        i["sums"] = flipped(i["sums"], 20)

    return of_account(change)


@refused("bad_account", "the sums of a tile altered, and a sibling's the other way")
def sums_altered() -> Case:
    def change(i: dict) -> None:
        sums = base64.b64decode(i["sums"])
        siblings = base64.b64decode(i["sum_path"])
        i["sums"] = changed(i["sums"], 20, little(number_at(sums, 20, 20) + 9, 20))
        there = number_at(siblings, 32 + 20, 20)
        i["sum_path"] = changed(i["sum_path"], 32 + 20, little(there - 9, 20))

    return of_account(change)


@refused("bad_account", "a sibling's sum altered")
def sibling_sum_altered() -> Case:
    return of_account(lambda i: set_in(i, sum_path=flipped(i["sum_path"], 32)))


@refused("bad_account", "the sums of the only tile of a group altered")
def sums_of_the_only_tile_altered() -> Case:
    bundle = made(bank(), lambda b: b.add_account(MEI, NEWER))

    def change(value: dict) -> None:
        one = item(value, "account")
        one["sums"] = changed(one["sums"], 1, b"\1")

    return lone(forged(bundle, change))


@refused("bad_account", "the path in the tile lacks a hash")
def truncated_tile_path() -> Case:
    return of_account(lambda i: set_in(i, tile_path=shortened(i["tile_path"])))


@refused("bad_account", "the path in the tile has a hash too many")
def lengthened_tile_path() -> Case:
    return of_account(lambda i: set_in(i, tile_path=lengthened(i["tile_path"])))


@refused("bad_account", "the path of the tile in the sum tree lacks a node")
def truncated_sum_path() -> Case:
    return of_account(lambda i: set_in(i, sum_path=shortened(i["sum_path"], 92)))


@refused("bad_account", "the leaf's ordinal is another, with the path for that one")
def account_under_another_ordinal() -> Case:
    group = bank().states[NEWER].groups[2]

    def change(i: dict) -> None:
        i["leaf"] = changed(i["leaf"], 152, little(7, 8))
        i["tile_path"] = b64(b"".join(group.tile_path(7)))

    return of_account(change)


@refused("not_newest", "a stale balance presented as the newest, with the log's last record")
def stale_state_as_newest() -> Case:
    last = len(bank().records) - 1
    bundle = made(bank(), balance, lambda b: b.interval(last))
    return lone(forged(bundle, lambda v: set_in(item(v, "account"), newest=True)))


@refused("not_newest", "a balance claimed to be the newest without the log's last record")
def newest_without_the_last_record() -> Case:
    bundle = made(bank(), lambda b: b.add_account(ALICE, NEWEST))
    return lone(forged(bundle, lambda v: set_in(item(v, "account"), newest=True)))


@refused("not_newest", "the newest was asked for, and the bundle does not claim it")
def newest_not_claimed() -> Case:
    return lone(made(bank(), statement), newest=True)


@refused("bad_account", "bytes of an account that must be zero are not")
def leaf_with_hidden_bytes() -> Case:
    def change(group: list[bytes]) -> None:
        group[0] = put(group[0], 171, b"\1")

    return lone(Forger(second_state=in_group(100, change)).made(lambda b: b.add_account(ALICE, 3)))


@refused("bad_account", "an account of another ledger in a group")
def account_in_the_wrong_group() -> Case:
    def change(group: list[bytes]) -> None:
        group[1] = put(group[1], 160, little(840, 4))

    return lone(Forger(second_state=in_group(100, change)).made(lambda b: b.add_account(BOB, 3)))


@refused("bad_account", "an ordinal that is not the place in the group")
def ordinal_that_is_not_the_place() -> Case:
    def change(group: list[bytes]) -> None:
        group[1] = put(group[1], 152, little(3, 8))

    return lone(Forger(second_state=in_group(100, change)).made(lambda b: b.add_account(BOB, 3)))


@refused("bad_account", "an account with more than the stated sums of its tile")
def account_above_its_tile() -> Case:
    forger = Forger(second_sums={of_group(100): {0: (0, 0, 0)}})
    return lone(forger.made(lambda b: b.add_account(ALICE, 3)))


@refused("bad_state", "a group head altered")
def group_head_altered() -> Case:
    bundle = made(bank(), balance)

    def change(value: dict) -> None:
        value["states"][0]["group"] = flipped(value["states"][0]["group"], 60)

    return lone(forged(bundle, change))


def of_trial_balance(change: Callable[[list[str]], object]) -> Case:
    bundle = made(bank(), lambda b: b.add_trial_balance(NEWEST))
    return lone(forged(bundle, lambda v: change(v["states"][0]["groups"])))


@refused("bad_state", "a group left out of a trial balance: a ledger with both its groups")
def group_head_left_out() -> Case:
    return of_trial_balance(lambda groups: groups.__delitem__(slice(4, 6)))


@refused("bad_state", "a group added to a trial balance, in its place, with no amounts")
def group_head_added() -> Case:
    def change(groups: list[str]) -> None:
        new = changed(changed(groups[5], 2, little(101, 2)), 48, bytes(60))
        groups.append(new)

    return of_trial_balance(change)


@refused("bad_state", "sums of two groups altered, so that debits equal credits")
def group_sums_altered() -> Case:
    def change(groups: list[str]) -> None:
        groups[4] = flipped(groups[4], 48)
        groups[5] = flipped(groups[5], 68)

    return of_trial_balance(change)


@refused("bad_state", "two groups swapped")
def groups_swapped() -> Case:
    return of_trial_balance(lambda groups: groups.reverse())


@refused("bad_state", "the bank signed groups that are not in order")
def groups_out_of_order_by_the_bank() -> Case:
    def change(messages: dict) -> None:
        # The two groups of 840 pretend to be one key each of another order.
        a, b = messages[840, 10], messages[840, 100]
        messages[840, 10], messages[840, 100] = b, a

    forger = Forger(second_state=change)
    return lone(forger.made(lambda b: b.add_trial_balance(3)))


@refused("bad_trial_balance", "the bank signed a state whose debits are not its credits")
def unbalanced_by_the_bank() -> Case:
    def change(group: list[bytes]) -> None:
        group[0] = put(group[0], 64, little(71, 16))

    forger = Forger(second_state=in_group(100, change, 840))
    return lone(forger.made(lambda b: b.add_trial_balance(3)))


@refused("bad_sums", "the bank signed tile sums that are not those of the accounts")
def tile_sums_not_of_the_leaves() -> Case:
    forger = Forger(second_sums={of_group(100): {0: (9_999, 9_999, 0)}})
    return lone(forger.made(lambda b: b.add_tile(3, 1, 0)))


@refused("bad_sums", "the same, with an erased account that cannot make up for it")
def tile_sums_below_the_leaves() -> Case:
    forger = Forger(second_sums={of_group(100): {0: (1, 1, 0)}})
    return lone(forger.made(lambda b: b.add_tile(3, 1, 0, erased=[503])))


def of_tile(*changes: Callable[[dict], object]) -> Case:
    bundle = Forger().made(lambda b: b.add_tile(3, 1, 0))
    return lone(forged(bundle, *(lambda v, c=c: c(item(v, "tile")) for c in changes)))


@refused("bad_sums", "an account left out of an opened tile")
def tile_with_an_account_left_out() -> Case:
    return of_tile(lambda i: i["leaves"].pop())


@refused("bad_sums", "two accounts of an opened tile swapped")
def tile_with_accounts_swapped() -> Case:
    return of_tile(lambda i: i["leaves"].reverse())


@refused("bad_sums", "an account of an opened tile altered, and its sums with it")
def tile_with_an_account_altered() -> Case:
    def change(i: dict) -> None:
        leaf = base64.b64decode(i["leaves"][2])
        i["leaves"][2] = changed(i["leaves"][2], 32, little(number_at(leaf, 32, 16) + 1, 16))
        i["sums"] = changed(
            i["sums"], 0, little(number_at(base64.b64decode(i["sums"]), 0, 20) + 1, 20)
        )

    return of_tile(change)


@refused("bad_sums", "a tile said to be another")
def tile_under_another_number() -> Case:
    bundle = made(bank(), lambda b: b.add_tile(NEWEST, 3, 2))
    return lone(forged(bundle, lambda v: set_in(item(v, "tile"), tile=1)))


@refused("contradiction", "one account twice in an opened tile")
def tile_with_an_account_twice() -> Case:
    def change(group: list[bytes]) -> None:
        group.append(put(group[0], 152, little(len(group), 8)))

    forger = Forger(second_state=in_group(100, change))
    return lone(forger.made(lambda b: b.add_tile(3, 1, 0)))


def full(forger: Forger) -> Case:
    bundle = forger.made(lambda b: b.add_full_state(3))
    return zipped(export(bundle, state_bin=bundle.ledger.states[3].file()))


@refused("contradiction", "one account twice in a full export")
def repeated_account_in_a_full_export() -> Case:
    def change(group: list[bytes]) -> None:
        group.append(put(group[0], 152, little(len(group), 8)))

    return full(Forger(second_state=in_group(100, change)))


@refused("bad_sums", "a full export whose signed sums are not those of its accounts")
def full_state_with_other_sums() -> Case:
    return full(Forger(second_sums={of_group(100): {0: (9_999, 9_999, 0)}}))


def of_full_state(change: Callable[[bytes], bytes]) -> Case:
    files = {**small_export()}
    files["state.bin"] = change(files["state.bin"])
    return zipped(files, SMALL_POLICY)


@refused("bad_sums", "a balance in a full export altered, and another the other way")
def full_state_altered() -> Case:
    return of_full_state(lambda d: put(put(d, 32, little(99, 16)), 192 + 32, little(1, 16)))


@refused("bad_sums", "two accounts of a full export swapped")
def full_state_swapped() -> Case:
    return of_full_state(lambda d: d[192:384] + d[:192] + d[384:])


@refused("bad_sums", "an account left out of a full export")
def full_state_without_an_account() -> Case:
    return of_full_state(lambda d: d[:-192])


@refused("bad_sums", "an account added to a full export")
def full_state_with_an_account_more() -> Case:
    return of_full_state(lambda d: d + d[-192:])


@refused("bad_sums", "an erased account stated with another balance")
def full_state_with_a_false_erased_account() -> Case:
    data = small().states[1].file(erased=[2])
    return of_full_state(lambda d: put(data, 192 + 96, little(101, 16)))


@refused("bad_manifest", "a full state without its file")
def full_state_without_its_file() -> Case:
    files = {name: data for name, data in small_export().items() if name != "state.bin"}
    return zipped(files, SMALL_POLICY)


# ----------------------------------------------------------------------------------------------
# Refused: entries, samples
# ----------------------------------------------------------------------------------------------


def of_entry(*changes: Callable[[dict], object]) -> Case:
    bundle = made(bank(), one_entry)
    return lone(forged(bundle, *(lambda v, c=c: c(item(v, "entry")) for c in changes)))


@refused("bad_entry", "the amount of an entry altered")
def entry_altered() -> Case:
    return of_entry(lambda i: set_in(i, record=flipped(i["record"], 16)))


@refused("bad_entry", "the account of an opened side altered")
def entry_of_another_account() -> Case:
    return of_entry(lambda i: set_in(i["debit"], account=str(BOB)))


@refused("bad_entry", "the released amount of an entry altered")
def entry_released_altered() -> Case:
    return of_entry(lambda i: set_in(i, released="701"))


@refused("bad_entry", "an entry said to be of another kind")
def entry_of_another_kind() -> Case:
    return of_entry(lambda i: set_in(i, kind=3))


@refused("bad_entry", "a kind that this version does not know")
def entry_of_an_unknown_kind() -> Case:
    return of_entry(lambda i: set_in(i, kind=7))


@refused("bad_entry", "the path of an entry lacks a hash")
def truncated_path() -> Case:
    return of_entry(lambda i: set_in(i, path=shortened(i["path"])))


@refused("bad_entry", "the path of an entry has a hash too many")
def lengthened_path() -> Case:
    return of_entry(lambda i: set_in(i, path=lengthened(i["path"])))


@refused("bad_entry", "the path of another index")
def path_of_another_index() -> Case:
    return of_entry(lambda i: set_in(i, index=i["index"] + 1))


@refused("bad_entry", "an index beyond the block")
def index_beyond_the_block() -> Case:
    return of_entry(lambda i: set_in(i, index=5))


@refused("bad_entry", "metadata shown that are not those of the entry")
def entry_metadata_altered() -> Case:
    bundle = made(bank(), lambda b: b.add_entry(entry_of(10_700)))
    text = '{"for":"rent 房屋"}'
    return lone(forged(bundle, lambda v: set_in(item(v, "entry")["ext"], metadata=text)))


@refused("bad_entry", "a released amount that nothing confirms, both sides being hidden")
def released_without_a_side() -> Case:
    bundle = made(bank(), lambda b: b.add_entry(entry_of(20_006), hide=["debit", "credit"]))
    return lone(forged(bundle, lambda v: set_in(item(v, "entry"), released="700")))


@refused("bad_entry", "a transfer with a side left out")
def side_left_out() -> Case:
    return of_entry(lambda i: set_in(i, credit=None))


@refused("bad_entry", "an opening shown as that of another account")
def opening_under_another_id() -> Case:
    bundle = made(bank(), lambda b: b.add_entry(entry_of(8_888)))
    return lone(forged(bundle, lambda v: set_in(item(v, "entry")["debit"], account="8889")))


@refused("bad_entry", "an inner node of the tree passed off as an erased entry")
def node_as_an_erased_entry() -> Case:
    bundle = made(bank())
    numbers = bundle.drawn_entries(2, seed="x", witness=None)
    bundle.add_sample(2, seed="x", erased=numbers)

    def change(value: dict) -> None:
        one = item(value, "erased")
        path = base64.b64decode(one["path"])
        leaf = base64.b64decode(one["leaf"])
        even = one["index"] % 2 == 0
        pair = leaf + path[:32] if even else path[:32] + leaf
        one["leaf"], one["path"] = b64(keyed("node", pair)), b64(path[32:])

    return lone(forged(bundle, change))


@refused("unused_part", "an erased entry that no sample has drawn")
def erased_entry_without_a_sample() -> Case:
    return lone(made(bank(), lambda b: b.add_erased(entry_of(10_700))))


def of_sample(change: Callable[[dict], object]) -> Case:
    bundle = made(bank(), lambda b: b.add_sample(3, seed="a word"))
    return lone(forged(bundle, change))


@refused("bad_sample", "an entry of the sample replaced by another")
def sample_with_another_entry() -> Case:
    bundle = made(bank())
    chosen = bundle.drawn_entries(3, seed="a word", witness=None)
    places = [bundle.add_entry(n, hide=["debit", "credit"]) for n in [*chosen[:2], chosen[2] + 1]]
    bundle.interval(bundle.size - 1)
    bundle.items.append(
        {"type": "sample", "count": 3, "seed": "a word", "witness": None, "items": places}
    )
    return lone(bundle)


@refused("bad_sample", "a sample in another order")
def sample_in_another_order() -> Case:
    return of_sample(lambda v: item(v, "sample")["items"].reverse())


@refused("bad_sample", "a sample of fewer entries than it says")
def sample_of_fewer_entries() -> Case:
    return of_sample(lambda v: set_in(item(v, "sample"), count=4))


@refused("bad_sample", "another seed than the one that drew")
def sample_with_another_seed() -> Case:
    return of_sample(lambda v: set_in(item(v, "sample"), seed="another word"))


@refused("bad_sample", "a sample by a witness that has not signed")
def sample_by_a_silent_witness() -> Case:
    return of_sample(lambda v: set_in(item(v, "sample"), seed=None, witness=SOUTH.name))


@refused("malformed", "a sample with a seed and a witness")
def sample_with_two_seeds() -> Case:
    return of_sample(lambda v: set_in(item(v, "sample"), witness=COURT.name))


@refused("bad_sample", "a sample of more entries than there are")
def sample_of_too_many() -> Case:
    bundle = small_bundle(lambda b: b.add_sample(4, seed=""))

    def change(value: dict) -> None:
        one = item(value, "sample")
        one["items"] = [*one["items"], 0]
        one["count"] = 5

    return lone(forged(bundle, change), SMALL_POLICY)


@refused("bad_sample", "a sample without the log's last record")
def sample_without_the_last_record() -> Case:
    bundle = made(bank())
    chosen = bundle.drawn_entries(1, seed="b", witness=None)
    places = [bundle.add_entry(n, hide=["debit", "credit"]) for n in chosen]
    bundle.items.append(
        {"type": "sample", "count": 1, "seed": "b", "witness": None, "items": places}
    )
    return lone(bundle)


# ----------------------------------------------------------------------------------------------
# Refused: log, records, blocks
# ----------------------------------------------------------------------------------------------


@cache
def fork() -> Ledger:
    """The same bank with another history from the second interval on."""
    return Forger(tuesday=lambda x: x.transfer(39, ALICE, BOB, 1)).ledger()


@refused("bad_consistency", "a forked history: the older checkpoint is of another branch")
def forked_history() -> Case:
    old = Forger().ledger().checkpoint(size=3)
    return lone(made(fork(), lambda b: b.add_consistency(old)))


@refused("quorum_not_met", "a forked history that the log signed and no witness")
def forked_history_without_witnesses() -> Case:
    return lone(made(fork(), lambda b: b.add_account(ALICE, 3), note=fork().checkpoint()))


@refused("bad_signature", "a forked history with the cosignatures of the true one")
def forked_history_with_borrowed_cosignatures() -> Case:
    true, false = Forger().ledger().checkpoint([NORTH, COURT]), fork().checkpoint()
    note = false + "".join(f"{line}\n" for line in true.split("\n")[5:-1])
    return lone(made(fork(), lambda b: b.add_account(ALICE, 3), note=note))


@refused("bad_consistency", "the older checkpoint is larger")
def older_checkpoint_is_larger() -> Case:
    old = Forger().ledger().checkpoint(size=4)
    bundle = made(
        Forger().ledger(), consistency(2), note=Forger().ledger().checkpoint([NORTH, COURT], size=3)
    )
    return lone(forged(bundle, lambda v: set_in(item(v, "consistency"), old=old)))


@refused("bad_consistency", "one size and two roots")
def same_size_other_root() -> Case:
    old = Forger().ledger().checkpoint()
    return lone(made(fork(), lambda b: b.add_consistency(old)))


@refused("bad_consistency", "the consistency path lacks a hash")
def truncated_consistency_path() -> Case:
    bundle = made(bank(), consistency(3))
    change = lambda v: set_in(  # noqa: E731
        item(v, "consistency"), path=shortened(item(v, "consistency")["path"])
    )
    return lone(forged(bundle, change))


@refused("bad_signature", "the older checkpoint was not signed by the log")
def older_checkpoint_unsigned() -> Case:
    old = bank().checkpoint(size=3, signers=[Signer(ORIGIN, 1, "thief")])
    return lone(made(bank(), lambda b: b.add_consistency(old)))


@refused("wrong_log", "the older checkpoint is of another log of the policy")
def older_checkpoint_of_another_log() -> Case:
    other = Signer("other.example", 1)
    old = small().checkpoint().replace("small.example", "other.example")
    text = old.split("\n\n")[0] + "\n"
    bundle = made(bank(), lambda b: b.add_consistency(text + "\n" + other.line(text)))
    return lone(bundle, policy(LOG, other))


@refused("bad_inclusion", "the path of a record lacks a hash")
def truncated_interval_path() -> Case:
    bundle = made(bank(), balance)
    change = lambda v: set_in(v["intervals"][0], path=shortened(v["intervals"][0]["path"]))  # noqa: E731
    return lone(forged(bundle, change))


@refused("bad_inclusion", "a record at another index")
def record_at_another_index() -> Case:
    bundle = made(bank(), balance)
    return lone(forged(bundle, lambda v: set_in(v["intervals"][0], index=3)))


@refused("bad_inclusion", "an index beyond the log")
def index_beyond_the_log() -> Case:
    bundle = made(bank(), balance)
    return lone(forged(bundle, lambda v: set_in(v["intervals"][0], index=8)))


@refused("bad_inclusion", "the state root in a record altered, all below made to fit")
def record_altered() -> Case:
    def change(group: list[bytes]) -> None:
        group[0] = put(group[0], 64, little(10**9, 16))

    true = Forger().made(lambda b: b.add_account(ALICE, 3))
    false = Forger(second_state=in_group(100, change)).made(lambda b: b.add_account(ALICE, 3))
    value = {**false.value(), "checkpoint": true.note}
    return lone(value)


def of_record(interval: int, old: str, new: str, block: int = 1) -> Case:
    """A forged record, and an entry in its interval."""
    forger = Forger(records={interval: in_record(old, new)})
    bundle = forger.made(lambda b: b.add_entry(b.ledger.blocks[block].first_entry))
    return lone(bundle)


@refused("bad_record", "a number with a leading zero")
def record_with_a_leading_zero() -> Case:
    return of_record(1, "blocks 1 2", "blocks 01 2")


@refused("bad_record", "a record with a line too many")
def record_with_a_line_too_many() -> Case:
    return of_record(1, "sanyuan interval v1\n", "sanyuan interval v1\nnote nothing\n")


@refused("bad_record", "an interval that ends before it begins")
def record_that_ends_before_it_begins() -> Case:
    return of_record(1, "blocks 1 2", "blocks 3 2")


@refused("bad_record", "a state of the interval's own last block")
def record_with_a_state_of_its_last_block() -> Case:
    return of_record(1, "\nstate 1 ", "\nstate 2 ")


@refused("bad_record", "a second interval that begins with block 0")
def record_that_begins_again() -> Case:
    return of_record(1, "blocks 1 2", "blocks 0 2")


@refused("too_large", "a record of more than 1024 bytes")
def record_too_large() -> Case:
    forger = Forger(records={1: lambda record: record + f"key {'k' * 1000}\n"})
    return lone(forger.made(lambda b: b.add_entry(8)))


@refused("wrong_log", "a record of another instance under the same log")
def record_of_another_instance() -> Case:
    instance = Ledger(ORIGIN).instance.hex()
    return of_record(1, f"instance {instance}", f"instance {'00' * 16}")


@refused("wrong_log", "a record of another origin under the same log")
def record_of_another_origin() -> Case:
    return of_record(1, f"origin {ORIGIN}\n", "origin bank.example/other\n")


@refused("wrong_log", "the bundle names another instance than its records")
def bundle_of_another_instance() -> Case:
    bundle = made(bank(), balance)
    return lone(forged(bundle, lambda v: set_in(v, instance="00" * 16)))


def of_header(block: int, at: int, data: bytes, *more: Callable[[Bundle], object]) -> Case:
    """A forged block header, and an entry in its block."""
    forger = Forger(headers={block: in_header(at, data)})
    bundle = forger.made(lambda b: b.add_entry(b.ledger.blocks[block].first_entry), *more)
    return lone(bundle)


@refused("bad_block", "an entry of another instance")
def entry_of_another_instance() -> Case:
    return of_header(1, 16, bytes(16))


@refused("bad_block", "what is no header")
def header_without_its_magic() -> Case:
    return of_header(1, 0, b"SANYUEN\0")


@refused("bad_block", "a header whose entries begin before its interval")
def header_with_entries_of_others() -> Case:
    return of_header(1, 48, little(3, 8))


@refused("bad_block", "a last block with other times than its record")
def header_with_another_time() -> Case:
    return of_header(2, 56, little(5, 8))


@refused("bad_block", "a seal within an interval")
def seal_within_an_interval() -> Case:
    return of_header(1, 92, little(1, 4))


@refused("bad_block", "a last block without a seal")
def last_block_without_a_seal() -> Case:
    return of_header(2, 92, little(0, 4))


@refused("bad_block", "a header altered")
def header_altered() -> Case:
    bundle = made(bank(), one_entry)
    change = lambda v: set_in(v["blocks"][0], header=flipped(v["blocks"][0]["header"], 210))  # noqa: E731
    return lone(forged(bundle, change))


@refused("bad_block", "the path of a block lacks a hash")
def truncated_block_path() -> Case:
    bundle = made(bank(), one_entry)
    change = lambda v: set_in(v["blocks"][0], path=shortened(v["blocks"][0]["path"]))  # noqa: E731
    return lone(forged(bundle, change))


@refused("bad_block", "a block said to be in another interval")
def block_of_another_interval() -> Case:
    bundle = made(bank(), one_entry, lambda b: b.add_entry(entry_of(30_001)))
    change = lambda v: set_in(v["blocks"][0], interval=1)  # noqa: E731
    return lone(forged(bundle, change))


@refused("bad_state", "a state that its interval's record does not name")
def state_of_another_interval() -> Case:
    bundle = made(bank(), balance, lambda b: b.add_account(BOB, NEWEST))
    return lone(forged(bundle, lambda v: set_in(v["states"][0], interval=1)))


@refused("bad_state", "the path of a group lacks a hash")
def truncated_group_path() -> Case:
    bundle = made(bank(), balance)
    change = lambda v: set_in(v["states"][0], path=shortened(v["states"][0]["path"]))  # noqa: E731
    return lone(forged(bundle, change))


@refused("bad_state", "the path of another group")
def group_under_another_index() -> Case:
    bundle = made(bank(), balance)

    def change(value: dict) -> None:
        value["states"][0]["index"] = item(value, "account")["group"] = 1

    return lone(forged(bundle, change))


def of_two(forger: Forger) -> Case:
    """Entries in blocks 2 and 3, of two intervals that follow each other."""
    numbers = [12, 14]
    return lone(forger.made(*(lambda b, n=n: b.add_entry(n) for n in numbers)))


@accepted("entries in two blocks that follow each other, in two intervals")
def neighbouring_blocks() -> Case:
    return of_two(Forger())


@refused("contradiction", "two intervals that both have a block")
def overlapping_intervals() -> Case:
    # The second interval says that it ends with block 3, where the third begins.
    def change(record: str) -> str:
        return record.replace("blocks 1 2", "blocks 1 3")

    forger = Forger(records={1: change})
    ledger = forger.ledger()
    fill = [lambda b: b.add_account(ALICE, 1), lambda b: b.add_account(ALICE, 3)]
    return lone(made(ledger, *fill))


@refused("contradiction", "a block that does not follow the one before it")
def block_that_does_not_follow() -> Case:
    return of_two(Forger(headers={3: in_header(104, bytes(range(32)))}))


@refused("contradiction", "a block whose entries do not follow those of the block before it")
def entries_that_do_not_follow() -> Case:
    # Block 3 has three entries and says four; the first one's path is the same in both trees.
    forger = Forger(headers={3: in_header(88, little(4, 4))})
    return lone(forger.made(lambda b: b.add_entry(14), lambda b: b.add_entry(17)))


@refused("contradiction", "a state said to be of a later date than its block is")
def state_of_a_later_date() -> Case:
    def change(record: str) -> str:
        return record.replace(f" {TUESDAY} ", f" {TUESDAY + 1} ").replace(
            f"date {TUESDAY}", f"date {TUESDAY + 1}"
        )

    forger = Forger(records={2: change}, headers={4: in_header(96, little(TUESDAY + 1, 4))})
    return lone(forger.made(lambda b: b.add_account(ALICE, 3), lambda b: b.add_entry(14)))


def of_four_blocks(headers: dict[int, Callable[[bytearray], None]], *blocks: int) -> Case:
    """The first entry of some of the blocks 1 to 4 of one interval, whose blocks have two each."""
    ledger = Ledger(ORIGIN)
    for id in (CASH, ALICE):
        ledger.open(id, ledger=156, code=10)
    ledger.close_block(seal=True)
    for number in range(1, 5):
        for id in (10 * number, 10 * number + 1):
            ledger.transfer(id, CASH, ALICE, 1)
        ledger.close_block(seal=number == 4, forge_header=headers.get(number))
    return lone(made(ledger, *(lambda b, n=n: b.add_entry(2 * n) for n in blocks)))


@accepted("entries in blocks of one interval")
def entries_of_one_interval() -> Case:
    return of_four_blocks({}, 1, 2, 3, 4)


@refused("contradiction", "a block whose first entry is not the one after the block before it")
def first_entry_that_does_not_follow() -> Case:
    return of_four_blocks({2: in_header(48, little(5, 8))}, 1, 2)


@refused("contradiction", "two blocks that both have the entry of one number, others between them")
def blocks_with_the_same_entries() -> Case:
    return of_four_blocks({3: in_header(48, little(3, 8))}, 1, 3)


@refused("contradiction", "time that runs backwards within an interval")
def time_that_runs_backwards_in_an_interval() -> Case:
    return of_four_blocks({3: in_header(56, little(1, 8))}, 1, 3)


@refused("contradiction", "one entry of an account twice in the journal, so that it counts twice")
def entry_at_two_places() -> Case:
    def again(ledger: Ledger) -> None:
        ledger.waiting.append(ledger.blocks[2].entries[0])

    forger = Forger(tuesday=again)
    return lone(forger.made(lambda b: b.add_entry(12), lambda b: b.add_entry(16)))


@refused("contradiction", "time that runs backwards from one interval to the next")
def time_that_runs_backwards() -> Case:
    def change(record: str) -> str:
        lines = record.split("\n")
        lines[5] = f"time {10**19}"
        return "\n".join(lines)

    forger = Forger(records={1: change})
    fill = [lambda b: b.add_account(ALICE, 1), lambda b: b.add_account(ALICE, 3)]
    return lone(made(forger.ledger(), *fill))


def with_another_date_before(record: str) -> str:
    assert f" {MONDAY} {TUESDAY} " in record
    return record.replace(f" {MONDAY} {TUESDAY} ", f" {FRIDAY} {TUESDAY} ")


@refused("contradiction", "a state said to end another day than the block before it was of")
def state_that_ends_another_day() -> Case:
    forger = Forger(records={2: with_another_date_before})
    return lone(forger.made(lambda b: b.add_account(ALICE, 3), lambda b: b.add_entry(12)))


@refused("contradiction", "a state that ends one day in one record, and another in the next")
def state_that_ends_two_days() -> Case:
    ledger = Forger(records={3: with_another_date_before}).ledger()
    fill = [lambda b: b.add_account(ALICE, 3), lambda b: b.add_entry(b.ledger.entry_count - 1)]
    return lone(made(ledger, *fill))


@refused("contradiction", "two state roots for one block, in two records")
def two_roots_of_one_state() -> Case:
    def change(record: str) -> str:
        return re.sub(r"\nstate 3 \d+ ", "\nstate 3 1 ", record)  # another time

    forger = Forger(records={3: change})
    fill = [lambda b: b.add_account(ALICE, 3), lambda b: b.add_entry(b.ledger.entry_count - 1)]
    return lone(made(forger.ledger(), *fill))


# ----------------------------------------------------------------------------------------------
# Refused: checkpoint, witnesses, policy
# ----------------------------------------------------------------------------------------------


def with_note(note: str, policy: str = POLICY) -> Case:
    return lone(made(bank(), balance, note=note), policy)


@refused("quorum_not_met", "the witnesses' lines stripped")
def witnesses_stripped() -> Case:
    return with_note(bank().checkpoint())


@refused("quorum_not_met", "one witness where two are asked for")
def one_witness_of_two() -> Case:
    return with_note(bank().checkpoint([SOUTH]))


@refused("quorum_not_met", "one witness that signed twice where two are asked for")
def one_witness_twice() -> Case:
    return with_note(bank().checkpoint([SOUTH, SOUTH]))


@refused("quorum_not_met", "two witnesses, but not of the group that the quorum names")
def wrong_quorum_group() -> Case:
    far = Signer("witness.far.example", 4)
    near = Signer("witness.near.example", 4)
    text = POLICY.replace("quorum two\n", "")
    text += f"witness far {far.vkey}\nwitness near {near.vkey}\ngroup others 2 far near\n"
    return with_note(bank().checkpoint([NORTH, COURT, far]), text + "quorum others\n")


@refused("quorum_not_met", "a cosignature by a key of the right name that nobody knows")
def witness_with_another_key() -> Case:
    return with_note(bank().checkpoint([NORTH, Signer(COURT.name, 4, "thief")]))


@refused("bad_signature", "a witness's signature of another checkpoint")
def cosignature_of_another_checkpoint() -> Case:
    text = proofs.checkpoint_text(ORIGIN, bank().records[:5])
    return with_note(bank().checkpoint([NORTH]) + COURT.line(text, 5))


@refused("bad_signature", "the time of a cosignature altered")
def cosignature_with_another_time() -> Case:
    note = bank().checkpoint([NORTH, COURT])
    *head, last, end = note.split("\n")
    dash, name, data = last.split(" ")
    return with_note("\n".join([*head, f"{dash} {name} {flipped(data, 11)}", end]))


@refused("bad_signature", "the checkpoint is not signed by the log")
def log_signature_stripped() -> Case:
    return with_note(bank().checkpoint([NORTH, COURT], signers=[]))


@refused("bad_signature", "the checkpoint is signed by a thief with the log's name")
def log_signature_by_another_key() -> Case:
    thief = Signer(ORIGIN, 1, "thief")
    return with_note(bank().checkpoint([NORTH, COURT], signers=[thief]))


@refused("bad_signature", "a thief's signature under the log's key id")
def log_signature_under_a_borrowed_id() -> Case:
    thief = Signer(ORIGIN, 1, "thief")
    thief.id = LOG.id
    return with_note(bank().checkpoint([NORTH, COURT], signers=[thief]))


@refused("bad_signature", "one right signature of the log, and one wrong by another known key")
def second_signature_wrong() -> Case:
    borrowed = Signer(ORIGIN, 1, "thief")
    borrowed.id = SECOND_LOG.id
    note = bank().checkpoint([NORTH, COURT], signers=[LOG, borrowed])
    return with_note(note, policy(LOG, SECOND_LOG))


@refused("bad_signature", "S of a signature replaced by S + L, which lax verifiers take")
def signature_with_a_large_s() -> Case:
    order = 2**252 + 27742317777372353535851937790883648493
    note = bank().checkpoint([NORTH, COURT])
    lines = note.split("\n")
    dash, name, data = lines[4].split(" ")
    s = number_at(base64.b64decode(data), 36, 32)
    lines[4] = f"{dash} {name} {changed(data, 36, little(s + order, 32))}"
    return with_note("\n".join(lines))


@refused("bad_signature", "a replaced key that signs after its range")
def replaced_key_that_goes_on_signing() -> Case:
    return with_note(bank().checkpoint([NORTH, COURT]), policy(LOG, SECOND_LOG, more=RANGES))


@refused("bad_signature", "a new key that signs before its range")
def new_key_before_its_range() -> Case:
    old = bank().checkpoint(size=5, signers=[SECOND_LOG])
    note = bank().checkpoint([NORTH, COURT], signers=[SECOND_LOG])
    bundle = made(bank(), lambda b: b.add_consistency(old), note=note)
    return lone(bundle, policy(LOG, SECOND_LOG, more=RANGES))


@refused("wrong_log", "a checkpoint of another log that the policy trusts too")
def checkpoint_of_another_log() -> Case:
    other = Signer("other.example", 1)
    text = bank().checkpoint().split("\n\n")[0].replace(ORIGIN, "other.example") + "\n"
    note = text + "\n" + other.line(text) + NORTH.line(text, 1) + COURT.line(text, 2)
    return with_note(note, policy(LOG, other))


@refused("wrong_log", "a log that the policy does not name")
def log_that_nobody_trusts() -> Case:
    return lone(small_bundle(), POLICY)


@refused("wrong_log", "another log than the one asked for")
def origin_that_was_not_asked_for() -> Case:
    return lone(made(bank(), balance), origin="bank.example/other")


@refused("malformed", "a checkpoint with an extension line, signed by all")
def checkpoint_with_an_extension() -> Case:
    text = bank().checkpoint().split("\n\n")[0] + "\nextension\n"
    note = text + "\n" + LOG.line(text) + NORTH.line(text, 1) + COURT.line(text, 2)
    return with_note(note)


@refused("malformed", "a checkpoint without an empty line before its signatures")
def checkpoint_without_an_empty_line() -> Case:
    return with_note(bank().checkpoint([NORTH, COURT]).replace("\n\n", "\n"))


@refused("malformed", "a signature that is not canonical base64")
def signature_not_canonical() -> Case:
    note = bank().checkpoint([NORTH, COURT])
    return with_note(note[:-2] + ("B" if note[-2] == "A" else "A") + "=\n")


@refused("malformed", "a size with a leading zero")
def checkpoint_size_with_a_leading_zero() -> Case:
    text = bank().checkpoint().split("\n\n")[0] + "\n"
    text = text.replace("\n8\n", "\n08\n")
    return with_note(text + "\n" + LOG.line(text) + NORTH.line(text, 1) + COURT.line(text, 2))


@refused("policy_not_trusted", "the only policy is the bundle's own")
def bundled_policy() -> Case:
    files = {**small_export(False), "policy.txt": SMALL_POLICY.encode()}
    return zipped(files, None)


def under(text: str) -> Case:
    return lone(small_bundle(), text)


@refused("bad_policy", "an empty policy")
def policy_empty() -> Case:
    return under("")


@refused("bad_policy", "a policy that names no log")
def policy_without_a_log() -> Case:
    return under("".join(line + "\n" for line in POLICY.split("\n")[:-1] if line[:3] != "log"))


@refused("bad_policy", "a policy without a quorum")
def policy_without_a_quorum() -> Case:
    return under(SMALL_POLICY.replace("quorum none\n", ""))


@refused("bad_policy", "a policy with two quorums")
def policy_with_two_quorums() -> Case:
    return under(SMALL_POLICY + "quorum none\n")


@refused("bad_policy", "a quorum that is defined after it")
def policy_with_a_late_definition() -> Case:
    return under(SMALL_POLICY.replace("none", "north") + f"witness north {NORTH.vkey}\n")


@refused("bad_policy", "a witness key where a log key must be")
def policy_with_a_witness_key_as_log() -> Case:
    key = Signer("small.example", 4)
    return under(f"log {key.vkey}\nquorum none\n")


@refused("bad_policy", "a log key where a witness key must be")
def policy_with_a_log_key_as_witness() -> Case:
    return under(SMALL_POLICY + f"witness north {Signer('north.example', 1).vkey}\n")


@refused("bad_policy", "a key whose id is not its own")
def policy_with_a_wrong_key_id() -> Case:
    key = Signer("small.example", 1)
    return under(SMALL_POLICY.replace(key.id.hex(), "00000000"))


def vkey_of(name: str, type: int, public: bytes) -> str:
    key = Signer(name, type)
    key.public = public
    key.id = proofs.hashlib.sha256(f"{name}\n".encode() + bytes([type]) + public).digest()[:4]
    return key.vkey


@refused("bad_policy", "a witness key of small order, under which anyone can sign")
def policy_with_a_key_of_small_order() -> Case:
    return under(SMALL_POLICY + f"witness w {vkey_of('w.example', 4, little(1, 32))}\n")


@refused("bad_policy", "a witness key that is no canonical encoding")
def policy_with_a_key_not_canonical() -> Case:
    public = little(2**255 - 19 + 3, 32)
    return under(SMALL_POLICY + f"witness w {vkey_of('w.example', 4, public)}\n")


@refused("bad_policy", "a witness key that is no point")
def policy_with_a_key_that_is_no_point() -> Case:
    return under(SMALL_POLICY + f"witness w {vkey_of('w.example', 4, little(2, 32))}\n")


@refused("bad_policy", "a policy cut off in its last line")
def policy_cut_off() -> Case:
    return under(SMALL_POLICY + "# the auditor")


@refused("bad_policy", "a log that is its own witness")
def policy_with_the_log_as_its_witness() -> Case:
    key = Signer("self.example", 4, "small.example")
    return under(SMALL_POLICY + f"witness self {key.vkey}\n")


@refused("bad_policy", "a range that ends before it begins")
def policy_with_a_range_backwards() -> Case:
    return under(SMALL_POLICY + ranged(Signer("small.example", 1), 5, 4))


@refused("bad_policy", "one key under two names")
def policy_with_one_witness_twice() -> Case:
    again = Signer("again.example", 4, COURT.name)
    return under(POLICY.replace("log", "witness again " + again.vkey + "\nlog"))


@refused("bad_policy", "a witness that counts in two groups")
def policy_with_a_witness_in_two_groups() -> Case:
    return under(POLICY.replace("quorum two", "group more 1 north\nquorum more"))


@refused("bad_policy", "a threshold of zero")
def policy_with_threshold_zero() -> Case:
    return under(POLICY.replace("group two 2", "group two 0"))


@refused("bad_policy", "a threshold above the number of members")
def policy_with_a_threshold_too_high() -> Case:
    return under(POLICY.replace("group two 2", "group two 4"))


@refused("bad_policy", "a member that is not defined")
def policy_with_an_unknown_member() -> Case:
    return under(POLICY.replace("group two 2 ", "group two 2 west "))


@refused("bad_policy", "a line of no known kind")
def policy_with_an_unknown_line() -> Case:
    return under(SMALL_POLICY + "trust everybody\n")


@refused("bad_policy", "a control character")
def policy_with_a_control_character() -> Case:
    return under(SMALL_POLICY.replace("\n", "\r\n"))


@refused("bad_policy", "a range that is none")
def policy_with_a_malformed_range() -> Case:
    key = Signer("small.example", 1)
    return under(SMALL_POLICY + f"# sanyuan-range {key.name}+{key.id.hex()} 0\n")


@refused("bad_policy", "a range of a key that is no log key")
def policy_with_a_range_of_an_unknown_key() -> Case:
    return under(SMALL_POLICY + ranged(LOG, 0, "-"))


# ----------------------------------------------------------------------------------------------
# Refused: another bundle than asked for
# ----------------------------------------------------------------------------------------------


@refused("wrong_account", "a valid statement of another account than asked for")
def statement_of_another_account() -> Case:
    return lone(made(bank(), statement), account=[str(BOB)])


@refused("wrong_account", "one of two accounts that were asked for")
def one_account_of_two() -> Case:
    return lone(made(bank(), statement), account=[str(ALICE), str(BOB)])


@refused("wrong_account", "an account more than was asked for")
def one_account_too_many() -> Case:
    return lone(made(bank(), statement, lambda b: b.add_account(BOB, NEWER)), account=[str(ALICE)])


@refused("wrong_period", "a valid statement that begins too late")
def period_that_begins_too_late() -> Case:
    return lone(made(bank(), statement), **{"from": "2026-01-02"})


@refused("wrong_period", "a statement that begins within the first day asked for")
def period_that_begins_within_the_day() -> Case:
    ledger = begin()
    ledger.transfer(19_001, CASH, ALICE, 17)
    ledger.close_block(seal=True)
    ledger.keep_state()
    within = ledger.blocks[-1].number
    ledger.transfer(19_002, CASH, ALICE, 18)
    ledger.time += DAY_NS
    ledger.move_date(4, TUESDAY)
    ledger.close_block(seal=True)
    ledger.keep_state()
    after = ledger.blocks[-1].number
    end(ledger)
    return lone(
        made(ledger, lambda b: b.add_statement(ALICE, within, after)),
        **{"from": "2026-01-05", "to": "2026-01-05"},
    )


@refused("wrong_period", "a valid statement that ends too early")
def period_that_ends_too_early() -> Case:
    return lone(made(bank(), statement), to="2026-01-06")


@refused("wrong_period", "a statement of one of two accounts, and of the other a balance alone")
def period_of_one_account_of_two() -> Case:
    fill = [statement, lambda b: b.add_account(BOB, NEWER)]
    return lone(made(bank(), *fill), account=[str(ALICE), str(BOB)], to="2026-01-05")


@refused("wrong_period", "a balance where a period was asked for")
def period_of_a_balance() -> Case:
    return lone(made(bank(), balance), to="2026-01-05")


# ----------------------------------------------------------------------------------------------
# Refused: parts of the bundle
# ----------------------------------------------------------------------------------------------


@refused("unused_part", "a record that nothing uses")
def unused_interval() -> Case:
    return lone(made(bank(), balance, lambda b: b.interval(0)))


@refused("unused_part", "a block header that nothing uses")
def unused_block() -> Case:
    return lone(made(bank(), one_entry, lambda b: b.block(6)))


@refused("unused_part", "a state that nothing uses")
def unused_state() -> Case:
    return lone(made(bank(), balance, lambda b: b.state(NEWER, 0)))


@refused("unused_part", "one record twice")
def interval_twice() -> Case:
    bundle = made(bank(), balance, lambda b: b.add_account(BOB, NEWER, whole=True))

    def change(value: dict) -> None:
        value["intervals"].append(value["intervals"][0])
        value["states"][1]["interval"] = 1

    return lone(forged(bundle, change))


@refused("unused_part", "one state twice")
def state_twice() -> Case:
    bundle = made(bank(), balance, lambda b: b.add_account(BOB, NEWER))

    def change(value: dict) -> None:
        value["states"].append(value["states"][0])
        item(value, "account", 1)["state"] = 1

    return lone(forged(bundle, change))


@refused("unused_part", "states in another order than that of their first use")
def parts_out_of_order() -> Case:
    bundle = made(bank(), balance, lambda b: b.add_account(BOB, NEWEST))
    return lone(forged(bundle, lambda v: v["items"].reverse()))


# -- The form of bundle.json -------------------------------------------------------------------


SMALL_TEXT = small_bundle().text()


@refused("bad_digest", "the digest of another bundle")
def digest_of_another_bundle() -> Case:
    return raw(canonical({**small_bundle().value(), "sha256": "00" * 32}), SMALL_POLICY)


def rewritten(old: str, new: str) -> Case:
    assert SMALL_TEXT.count(old) >= 1
    return raw(SMALL_TEXT.replace(old, new, 1), SMALL_POLICY)


@refused("not_canonical", "a space that need not be there")
def json_with_a_space() -> Case:
    return rewritten('{"blocks":', '{"blocks": ')


@refused("not_canonical", "a field twice")
def json_with_a_field_twice() -> Case:
    return rewritten('"index":0', '"index":1,"index":0')


@refused("not_canonical", "fields in another order")
def json_in_another_order() -> Case:
    value = small_bundle().value()
    order = sorted(value, reverse=True)
    text = json.dumps({k: value[k] for k in order}, separators=(",", ":"), ensure_ascii=False)
    return raw(text + "\n", SMALL_POLICY)


@refused("not_canonical", "a number with a fraction")
def json_with_a_fraction() -> Case:
    return rewritten('"index":0', '"index":0.0')


@refused("not_canonical", "NaN")
def json_with_nan() -> Case:
    return rewritten('"index":0', '"index":NaN')


@refused("not_canonical", "a negative number")
def json_with_a_negative_number() -> Case:
    return rewritten('"index":0', '"index":-1')


@refused("not_canonical", "2^53")
def json_with_a_large_number() -> Case:
    return rewritten('"index":0', f'"index":{2**53}')


@refused("not_canonical", "a number of 5,000 digits")
def json_with_a_huge_number() -> Case:
    return rewritten('"index":0', '"index":' + "9" * 5000)


@refused("not_canonical", "a letter written as an escape")
def json_with_a_needless_escape() -> Case:
    return rewritten('"small.example"', '"\\u0073mall.example"')


@refused("not_canonical", "half of a surrogate pair")
def json_with_a_lone_surrogate() -> Case:
    return rewritten('"small.example"', '"\\ud800mall.example"')


@refused("not_canonical", "a byte order mark")
def json_with_a_byte_order_mark() -> Case:
    return raw("\ufeff" + SMALL_TEXT, SMALL_POLICY)


@refused("not_canonical", "no line end at the end")
def json_without_a_line_end() -> Case:
    return raw(SMALL_TEXT[:-1], SMALL_POLICY)


@refused("not_canonical", "bytes that are not UTF-8")
def json_that_is_not_utf_8() -> Case:
    return Case({}, None, SMALL_POLICY, {"latin-1": True})


@refused("not_canonical", "an empty file")
def json_empty() -> Case:
    return raw("", SMALL_POLICY)


@refused("not_canonical", "a bundle cut in half")
def json_cut_in_half() -> Case:
    return raw(SMALL_TEXT[: len(SMALL_TEXT) // 2], SMALL_POLICY)


@refused("trailing_bytes", "a line after the bundle")
def json_with_trailing_bytes() -> Case:
    return raw(SMALL_TEXT + "\n", SMALL_POLICY)


@refused("trailing_bytes", "a second bundle after the bundle")
def json_twice() -> Case:
    return raw(SMALL_TEXT + SMALL_TEXT, SMALL_POLICY)


@refused("too_large", "nested deeper than eight")
def json_too_deep() -> Case:
    value = small_bundle().value()
    for _ in range(9):
        value["items"] = [value["items"]]
    return raw(canonical(sealed(value)), SMALL_POLICY)


@refused("too_large", "nested five thousand deep")
def json_far_too_deep() -> Case:
    return raw("[" * 5_000 + "]" * 5_000 + "\n", SMALL_POLICY)


@refused("malformed", "a list where the bundle must be")
def json_that_is_no_object() -> Case:
    return raw("[]\n", SMALL_POLICY)


def reshaped(change: Callable[[dict], object]) -> Case:
    return lone(forged(small_bundle(), change), SMALL_POLICY)


@refused("malformed", "a field that is not known")
def unknown_field() -> Case:
    return reshaped(lambda v: v["items"][0].update(comment="trust me"))


@refused("malformed", "a field of the bundle that is not known")
def unknown_field_of_the_bundle() -> Case:
    return reshaped(lambda v: v.update(note="trust me"))


@refused("malformed", "a field missing")
def missing_field() -> Case:
    return reshaped(lambda v: v["items"][0].pop("released"))


@refused("malformed", "another format")
def another_format() -> Case:
    return reshaped(lambda v: v.update(format="sanyuan bundle v2"))


@refused("malformed", "an item of no known type")
def unknown_item() -> Case:
    return reshaped(lambda v: v["items"][0].update(type="promise"))


@refused("malformed", "no items")
def no_items() -> Case:
    return reshaped(lambda v: v.update(items=[], blocks=[], intervals=[]))


@refused("malformed", "a truth value where a number must be")
def truth_value_as_number() -> Case:
    return reshaped(lambda v: v["items"][0].update(index=False))


@refused("malformed", "a number where text must be")
def number_as_text() -> Case:
    return reshaped(lambda v: v["items"][0].update(released=0))


@refused("malformed", "a decimal with a leading zero")
def decimal_with_a_leading_zero() -> Case:
    return reshaped(lambda v: v["items"][0]["debit"].update(account="01"))


@refused("malformed", "a decimal above 2^128 - 1")
def decimal_too_large() -> Case:
    return reshaped(lambda v: v["items"][0]["debit"].update(account=str(2**128)))


@refused("malformed", "digits that are not ASCII")
def decimal_in_other_digits() -> Case:
    return reshaped(lambda v: v["items"][0]["debit"].update(account="१"))


@refused("malformed", "base64 whose spare bits are not zero")
def base64_not_canonical() -> Case:
    return reshaped(
        lambda v: v["items"][0]["debit"].update(salt=v["items"][0]["debit"]["salt"][:-3] + "B==")
    )


@refused("malformed", "base64 with a line end in it")
def base64_with_a_line_end() -> Case:
    return reshaped(lambda v: v["items"][0].update(record=v["items"][0]["record"] + "\n"))


@refused("malformed", "a path that is no whole number of hashes")
def path_of_a_broken_length() -> Case:
    return reshaped(lambda v: v["blocks"][0].update(path=shortened(v["blocks"][0]["path"], 1)))


@refused("malformed", "a place that is not in the bundle")
def place_out_of_range() -> Case:
    return reshaped(lambda v: v["items"][0].update(block=1))


@refused("malformed", "an instance in capitals")
def instance_in_capitals() -> Case:
    return reshaped(lambda v: v.update(instance="AB" * 16))


@refused("malformed", "a trial balance of a state of which one group is there")
def trial_balance_of_one_group() -> Case:
    bundle = made(bank(), balance)

    def change(value: dict) -> None:
        value["items"].append({"type": "trial_balance", "state": 0})

    return lone(forged(bundle, change))


# ----------------------------------------------------------------------------------------------
# Refused: files beside the bundle
# ----------------------------------------------------------------------------------------------


def beside(name: str, change: Callable[[bytes], bytes], make: Callable = zipped) -> Case:
    files = {**export_of_all()}
    files[name] = change(files[name])
    return make(files)


STATEMENT = f"statement-{ALICE}.csv"


@refused("bad_csv", "an amount in the statement altered, the manifest made to fit")
def statement_csv_altered() -> Case:
    return beside(STATEMENT, lambda data: data.replace(b",90000,", b",90001,"))


@refused("bad_csv", "a line of the statement left out, the manifest made to fit")
def statement_csv_with_a_line_left_out() -> Case:
    return beside(STATEMENT, lambda data: b"\n".join(data.split(b"\n")[:-2]) + b"\n")


@refused("bad_csv", "line ends of another kind in the statement")
def statement_csv_with_other_line_ends() -> Case:
    return beside(STATEMENT, lambda data: data.replace(b"\n", b"\r\n"), foldered)


@refused("bad_csv", "a statement in the bundle without its table")
def statement_csv_missing() -> Case:
    files = {name: data for name, data in export_of_all().items() if name != STATEMENT}
    return zipped(files)


@refused("bad_csv", "the trial balance altered, the manifest made to fit")
def trial_balance_csv_altered() -> Case:
    return beside("trial-balance.csv", lambda data: data.replace(b"156,100,520,", b"156,100,519,"))


@refused("unused_part", "a statement of an account that the bundle does not prove")
def statement_csv_without_a_proof() -> Case:
    files = {**export_of_all(), f"statement-{BOB}.csv": export_of_all()[STATEMENT]}
    return zipped(files)


@refused("unused_part", "a file that belongs to nothing")
def file_that_belongs_to_nothing() -> Case:
    return zipped({**export_of_all(), "invoice.pdf": b"%PDF"})


@refused("bad_manifest", "a checkpoint beside the bundle that is not the bundle's")
def checkpoint_file_altered() -> Case:
    note = bank().checkpoint([NORTH, COURT], size=5)
    return beside("checkpoint", lambda data: note.encode())


@refused("bad_manifest", "a tlog-proof that is not that of the bundle")
def tlog_proof_altered() -> Case:
    name = next(n for n in export_of_all() if n.endswith(".tlog-proof"))
    return beside(name, lambda data: data.replace(b"index ", b"extra AAAA\nindex ", 1))


def zipped_as_is(files: dict[str, bytes], policy: str = POLICY) -> Case:
    return Case({}, zip_bytes(in_order(files)), policy)


@refused("bad_manifest", "a table altered, the manifest as it was")
def manifest_not_of_the_files() -> Case:
    files = {**export_of_all(), STATEMENT: export_of_all()[STATEMENT].replace(b"9", b"8")}
    return zipped_as_is(files)


@refused("bad_manifest", "a file that the manifest does not name")
def file_not_in_the_manifest() -> Case:
    return zipped_as_is({**export_of_all(), "verify.py": b"print('ACCEPTED')\n"})


@refused("bad_manifest", "a file that only the manifest knows")
def file_only_in_the_manifest() -> Case:
    files = {name: data for name, data in export_of_all().items() if name != "policy.txt"}
    return zipped_as_is(files)


@refused("bad_manifest", "a manifest of another origin")
def manifest_of_another_origin() -> Case:
    files = dict(small_export(False))
    files["manifest.json"] = manifest(files, "other.example")
    return zipped_as_is(files, SMALL_POLICY)


@refused("bad_manifest", "a manifest that is not canonical")
def manifest_not_canonical() -> Case:
    files = dict(small_export(False))
    files["manifest.json"] = manifest(files, "small.example").replace(b'":', b'": ', 1)
    return zipped_as_is(files, SMALL_POLICY)


@refused("bad_manifest", "a folder without a manifest")
def folder_without_a_manifest() -> Case:
    files = {n: data for n, data in small_export(False).items() if n != "manifest.json"}
    return Case(files, None, SMALL_POLICY)


# -- The form of the zip -----------------------------------------------------------------------


def of_zip(change: Callable[[bytes], bytes], files: dict[str, bytes] | None = None) -> Case:
    return Case({}, change(zip_bytes(files or small_export(False))), SMALL_POLICY)


def put_both(data: bytes, local: int, central: int, value: bytes) -> bytes:
    """Change a field of the first file in its local header and in the directory."""
    directory = data.index(b"PK\1\2")
    return put(put(data, local, value), directory + central, value)


@refused("trailing_bytes", "bytes after the end of the zip")
def zip_with_trailing_bytes() -> Case:
    return of_zip(lambda data: data + b"\0")


@refused("bad_zip", "a zip cut off")
def zip_cut_off() -> Case:
    return of_zip(lambda data: data[:-1])


@refused("bad_zip", "a zip cut off within a file")
def zip_cut_off_in_a_file() -> Case:
    return of_zip(lambda data: data[:200])


@refused("bad_zip", "a compressed file")
def zip_with_a_compressed_file() -> Case:
    files = small_export(False)
    name, content = "manifest.json", small_export(False)["manifest.json"]
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    plain = zip_bytes({**files, name: packed})
    crc = little(zlib.crc32(content), 4)
    for at, value in ((14, crc), (22, little(len(content), 4)), (8, little(8, 2))):
        plain = put_both(plain, at, at + 2, value)
    return Case({}, plain, SMALL_POLICY)


@refused("bad_zip", "a file said to be a gigabyte: a bomb, were it compressed")
def zip_with_a_huge_size() -> Case:
    return of_zip(lambda data: put_both(data, 18, 20, little(1 << 30, 4) * 2))


@refused("bad_zip", "a checksum that is not the file's")
def zip_with_a_wrong_checksum() -> Case:
    return of_zip(lambda data: put_both(data, 14, 16, bytes(4)))


@refused("bad_zip", "a time of the day in a header")
def zip_with_a_time() -> Case:
    return of_zip(lambda data: put_both(data, 10, 12, b"\1\0"))


@refused("bad_zip", "an encrypted file")
def zip_with_an_encrypted_file() -> Case:
    return of_zip(lambda data: put_both(data, 6, 8, b"\1\x08"))


@refused("bad_zip", "a data descriptor")
def zip_with_a_data_descriptor() -> Case:
    return of_zip(lambda data: put_both(data, 6, 8, b"\x08\x08"))


@refused("bad_zip", "permissions in the directory")
def zip_with_attributes() -> Case:
    return of_zip(lambda data: put(data, data.index(b"PK\1\2") + 38, b"\0\0\xa4\x81"))


@refused("bad_zip", "a comment")
def zip_with_a_comment() -> Case:
    return of_zip(lambda data: data[:-2] + struct.pack("<H", 3) + b"hey")


@refused("bad_zip", "a directory that lacks a file")
def zip_with_a_file_not_in_its_directory() -> Case:
    def change(data: bytes) -> bytes:
        last = data.rindex(b"PK\1\2")
        end = data.rindex(b"PK\5\6")
        directory = data[data.index(b"PK\1\2") : last]
        start = data.index(b"PK\1\2")
        counts = struct.pack("<HHHHIIH", 0, 0, 3, 3, len(directory), start, 0)
        assert data[end:]
        return data[:start] + directory + b"PK\5\6" + counts

    return of_zip(change)


@refused("bad_zip", "a name with .. in it")
def zip_with_a_name_that_climbs() -> Case:
    return Case({}, zip_bytes({**small_export(False), "../verify.py": b""}), SMALL_POLICY)


@refused("bad_zip", "a name with a folder in it")
def zip_with_a_folder() -> Case:
    return Case({}, zip_bytes({**small_export(False), "a/b": b""}), SMALL_POLICY)


@refused("bad_zip", "a hidden file")
def zip_with_a_hidden_file() -> Case:
    return Case({}, zip_bytes({**small_export(False), ".profile": b""}), SMALL_POLICY)


@refused("bad_zip", "one name twice")
def zip_with_a_name_twice() -> Case:
    def change(data: bytes) -> bytes:
        start, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
        twin = zip_bytes({"bundle.json": b"{}\n"})
        local, rest = twin[: twin.index(b"PK\1\2")], twin[twin.index(b"PK\1\2") : -22]
        rest = put(rest, 42, little(start, 4))
        directory = data[start:end] + rest
        count = struct.unpack_from("<H", data, end + 8)[0] + 1
        counts = struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), start + len(local), 0)
        return data[:start] + local + directory + b"PK\5\6" + counts

    return of_zip(change)


@refused("bad_zip", "files in another order")
def zip_in_another_order() -> Case:
    files = small_export(False)
    order = ["README.txt", "manifest.json", "bundle.json", *list(files)[3:]]
    return Case({}, zip_bytes({name: files[name] for name in order}), SMALL_POLICY)


@refused("bad_zip", "an empty zip")
def zip_empty() -> Case:
    return Case({}, zip_bytes({}), SMALL_POLICY)


# ----------------------------------------------------------------------------------------------


def render(name: str) -> str:
    """The file of a case."""
    code, what, make = CASES[name]
    made_case = make()
    if made_case.arguments.pop("latin-1", False):
        data = SMALL_TEXT.encode().replace(b"small", b"sm\xe4ll")
        files: dict[str, str] = {"bundle.json:base64": b64(data)}
    elif made_case.zip is not None:
        files = {"zip": b64(made_case.zip)}
    else:
        files = {}
        for file_name, data in made_case.files.items():
            files[file_name] = data.decode()
    value = {
        "name": name,
        "what": what,
        "accept": code is None,
        "code": code,
        "policy": made_case.policy,
        "arguments": made_case.arguments,
        "files": files,
    }
    return json.dumps(value, ensure_ascii=True, indent=1) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.stem not in CASES:
            path.unlink()
    for name in CASES:
        (FOLDER / f"{name}.json").write_text(render(name))


if __name__ == "__main__":
    main()
