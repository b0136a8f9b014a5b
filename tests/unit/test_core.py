"""The core without a disk: recovery from a fuzzy snapshot, undo, verification, and limits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._verifier import Verifier
from ledger.errors import DataDamaged, Unavailable

LINKED = layout.flag_mask("TRANSFER", "linked")
PENDING = layout.flag_mask("TRANSFER", "pending")
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")
CLOSING_DEBIT = layout.flag_mask("TRANSFER", "closing_debit")
SECOND = 1_000_000_000


class Ledger:
    """A core with the blocks it decided, as a journal would keep them."""

    def __init__(self) -> None:
        self.core = Core()
        self.blocks: list[Block] = []
        self.now = SECOND

    def block(self, *requests: tuple[str, list[dict]]) -> list[np.ndarray]:
        """Decide requests in one block; return their results."""
        block, answers = Block(), []
        self.core.open_block(block, self.core.block_number + 1)
        self.now += 1000
        self.core.expire(self.now, 1000)
        for kind, rows in requests:
            events = layout.record_array(layout.DTYPES[kind], rows)
            results = np.zeros(len(rows), layout.RESULT)
            self.now += len(rows) + 1000
            method = {
                "ACCOUNT": self.core.create_accounts,
                "TRANSFER": self.core.create_transfers,
                "ACCOUNT_SETTINGS": self.core.change_settings,
                "DEFINITION": self.core.define,
                "BUSINESS_DATE": self.core.move_business_date,
            }[kind]
            method(events, self.now, results, metadata={0: b'{"k":1}'} if len(rows) == 3 else None)
            answers.append(results)
        self.core.close_block()
        if block.count:
            self.core.hash_block(block, bytes([block.number % 251]) * 32)
            self.blocks.append(block)
        return answers

    def seal(self) -> None:
        """Decide a block that is only made to be sealed."""
        block = Block()
        self.core.open_block(block, self.core.block_number + 1)
        self.now += 1
        self.core.seal(self.now)
        self.core.close_block()
        self.core.hash_block(block, bytes([block.number % 251]) * 32)
        self.blocks.append(block)


def stored(block: Block) -> Block:
    """Return the block as it comes back from a journal: a copy without account ids."""
    entries = block.entries.copy()
    entries["metadata"] = 0
    entries["reserved"] = 0
    kept = entries["kind"] == layout.ENTRY_KINDS["account"][0]
    for name in ("debit_account_id", "credit_account_id"):
        entries["record"][name][~kept] = 0
    return Block.of(block, entries, block.metadata)


def fingerprint(core: Core) -> dict[str, object]:
    """Return everything that may be asked about the books."""
    accounts = [core.account_at(slot) for slot in range(core.account_count)]
    return {
        "accounts": b"".join(account.tobytes() for account in accounts),
        "details": [core.account_details(layout.to_int(account[0]["id"])) for account in accounts],
        "trial_balance": core.trial_balance(),
        "holds": core.hold_count,
        "next_expiry": core.next_expiry,
        "definitions": core.definitions(),
        "clocks": (
            core.last_timestamp,
            core.last_account_timestamp,
            core.last_transfer_timestamp,
            core.business_date,
            core.block_number,
            core.entry_number,
        ),
    }


def random_requests(rng: random.Random, serial: list[int]) -> list[tuple[str, list[dict]]]:
    def new_id() -> int:
        serial[0] += 1
        return serial[0]

    requests = []
    for _ in range(rng.randrange(1, 4)):
        kind = rng.choice(["ACCOUNT", "TRANSFER", "TRANSFER", "TRANSFER", "ACCOUNT_SETTINGS"])
        rows = []
        for _ in range(rng.randrange(1, 60)):
            if kind == "ACCOUNT":
                flags = rng.choice([0, 0, 2, 4, 1])
                rows.append(
                    {"id": new_id(), "ledger": 1, "code": rng.randrange(1, 4), "flags": flags}
                )
            elif kind == "ACCOUNT_SETTINGS":
                rows.append(
                    {
                        "id": new_id(),
                        "account_id": rng.randrange(1, 300),
                        "overdraft": 50,
                        "flags": rng.choice([1, 1, 5]),
                    }
                )
            else:
                flags = rng.choice([0, 0, 0, PENDING, PENDING, POST, VOID, LINKED])
                row = {
                    "id": new_id(),
                    "debit_account_id": rng.randrange(1, 300),
                    "credit_account_id": rng.randrange(1, 300),
                    "amount": rng.randrange(100),
                    "ledger": 1,
                    "code": 1,
                    "flags": flags,
                }
                if flags & PENDING:
                    row["timeout"] = rng.choice([0, 1])
                    if rng.random() < 0.05:
                        row["flags"] = PENDING | CLOSING_DEBIT
                if flags & (POST | VOID):
                    row |= {"debit_account_id": 0, "credit_account_id": 0, "ledger": 0, "code": 0}
                    row["amount"] = layout.U128_MAX if flags & POST else 0
                    row["pending_id"] = rng.randrange(max(1, serial[0] - 400), serial[0] + 1)
                rows.append(row)
        requests.append((kind, rows))
    return requests


@pytest.mark.parametrize("seed", range(8))
def test_fuzzy_snapshot_and_journal_lead_to_the_same_books(seed: int) -> None:
    rng = random.Random(seed)
    ledger, serial = Ledger(), [0]
    pages: dict[tuple[str, int], tuple[bytes, int]] = {}
    floor, small_state, pass_start = -1, ledger.core.small_state(), -1
    first = [{"id": 10_000 + i, "ledger": 1, "code": 1} for i in range(200)]
    ledger.block(("ACCOUNT", first))
    for number in range(60 + seed):
        ledger.block(*random_requests(rng, serial))
        if rng.random() < 0.3:
            ledger.now += SECOND
        if number % 5 == 3:
            ledger.seal()
        for kind in ("accounts", "holds"):
            for page in ledger.core.dirty_pages(kind, rng.randrange(3)):
                pages[kind, page] = (ledger.core.copy_page(kind, page), ledger.core.block_number)
        if (
            number % 20 == 19
        ):  # a pass ends: every page that was dirty at its start was copied since
            pass_start = ledger.core.block_number
            for kind in ("accounts", "holds"):
                for page in ledger.core.dirty_pages(kind, 1 << 30):
                    pages[kind, page] = (ledger.core.copy_page(kind, page), pass_start)
            floor, small_state = pass_start, ledger.core.small_state()
    assert ledger.core.hold_count > 0
    assert ledger.core.account_count > 256

    recovered = Core()
    for (kind, page), (data, position) in pages.items():
        recovered.load_page(kind, page, data, position)
    recovered.load_small_state(small_state)
    recovered.finish_load()
    # The clocks come from the last block's header, so that one is always replayed.
    for block in ledger.blocks[min(floor + 1, len(ledger.blocks) - 1) :]:
        again = stored(block)
        recovered.replay(again)
        recovered.hash_block(again, block.seed)
        assert again.root == block.root
    recovered.finish_replay()
    assert fingerprint(recovered) == fingerprint(ledger.core)


@pytest.mark.parametrize("seed", range(4))
def test_journal_alone_leads_to_the_same_books_and_is_decided_the_same_again(seed: int) -> None:
    rng = random.Random(100 + seed)
    ledger, serial = Ledger(), [0]
    for number in range(40):
        ledger.block(*random_requests(rng, serial))
        ledger.now += rng.choice([0, 0, SECOND])
        if number % 5 == 3:
            ledger.seal()
    replayed, decided = Core(), Verifier()
    for block in ledger.blocks:
        again = stored(block)
        replayed.replay(again)
        replayed.hash_block(again, block.seed)
        entries = block.entries.copy()
        entries["reserved"] = 0
        assert decided.redecide(Block.of(block, entries, block.metadata)) == []
    replayed.finish_replay()
    decided.finish_replay()
    assert fingerprint(replayed) == fingerprint(ledger.core)
    books = fingerprint(decided)
    for details in (*books["details"], *fingerprint(ledger.core)["details"]):
        details.pop("head")
    assert books["accounts"] == fingerprint(ledger.core)["accounts"]
    assert books["trial_balance"] == fingerprint(ledger.core)["trial_balance"]


def test_an_entry_that_breaks_a_rule_is_found_when_decided_again() -> None:
    ledger = Ledger()
    limit = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
    ledger.block(("ACCOUNT", [{"id": 1, "ledger": 1, "code": 1, "flags": limit}]))
    ledger.block(("ACCOUNT", [{"id": 2, "ledger": 1, "code": 1}]))
    move = {"debit_account_id": 2, "credit_account_id": 1, "ledger": 1, "code": 1, "amount": 5}
    ledger.block(("TRANSFER", [{"id": 3, **move}]))
    back = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, "amount": 5}
    ledger.block(("TRANSFER", [{"id": 4, **back}]))
    core = Verifier()
    for block in ledger.blocks[:3]:
        assert core.redecide(Block.of(block, block.entries, block.metadata)) == []
    forged = ledger.blocks[3].entries.copy()
    forged["record"]["amount"]["lo"] = 6
    assert core.redecide(Block.of(ledger.blocks[3], forged))


def test_a_seal_is_alone_bare_and_last() -> None:
    ledger = Ledger()
    ledger.block(("ACCOUNT", [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]))
    before = fingerprint(ledger.core)
    ledger.seal()
    after = fingerprint(ledger.core)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"clocks"}
    with pytest.raises(RuntimeError, match="open block"):
        ledger.core.seal(ledger.now + 1)
    block = Block()
    ledger.core.open_block(block, 2)
    with pytest.raises(ValueError, match="not after"):
        ledger.core.seal(ledger.now)
    rows = layout.record_array(layout.ACCOUNT, [{"id": 3, "ledger": 1, "code": 1}])
    ledger.core.create_accounts(rows, ledger.now + 10, np.zeros(1, layout.RESULT))
    with pytest.raises(RuntimeError, match="without entries"):
        ledger.core.seal(ledger.now + 20)
    ledger.core.close_block()
    opening, seal = ledger.blocks
    for change in ("amount", "user_data_32", "ledger", "flags", "id"):
        core = Verifier()
        assert core.redecide(Block.of(opening, opening.entries)) == []
        forged = seal.entries.copy()
        forged["record"][change] = (1, 0) if change in ("amount", "id") else 1
        assert "not alone, or not bare" in core.redecide(Block.of(seal, forged))[0]
    core = Verifier()
    assert core.redecide(Block.of(opening, opening.entries)) == []
    twice = Block.of(seal, np.concatenate([seal.entries, seal.entries]))
    assert "not alone" in core.redecide(twice)[0]


def test_holds_that_expire_at_one_moment_are_decided_the_same_again() -> None:
    ledger = Ledger()
    ledger.block(("ACCOUNT", [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]))
    move = {"debit_account_id": 2, "credit_account_id": 1, "ledger": 1, "code": 1, "amount": 5}
    hold = {**move, "flags": PENDING, "timeout": 1}
    ledger.block(("TRANSFER", [{"id": i, **hold} for i in (11, 12, 13, 14)]))
    created = ledger.blocks[-1].entries["record"]["timestamp"]
    ledger.now = int(created.max()) + SECOND - 1000  # the sweep happens at the very last expiry
    ledger.block()
    entries = ledger.blocks[-1].entries
    assert list(entries["kind"]) == [layout.ENTRY_KINDS["expiry"][0]] * 4
    assert int(entries["record"]["timestamp"].min()) < int(created.max()) + SECOND
    verifier = Verifier()
    for block in ledger.blocks:
        assert verifier.redecide(Block.of(block, block.entries, block.metadata)) == []


def test_stored_balances_that_do_not_come_out_are_refused() -> None:
    ledger = Ledger()
    ledger.block(("ACCOUNT", [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]))
    move = {"debit_account_id": 2, "credit_account_id": 1, "ledger": 1, "code": 1, "amount": 5}
    ledger.block(("TRANSFER", [{"id": 3, **move}]))
    core = Core()
    core.replay(stored(ledger.blocks[0]))
    forged = ledger.blocks[1].entries.copy()
    forged["credit"]["credits_posted"]["lo"] = 4
    with pytest.raises(DataDamaged, match="block 1, entry 0"):
        core.replay(Block.of(ledger.blocks[1], forged))


def test_dry_run_answers_the_same_and_changes_nothing() -> None:
    rng = random.Random(7)
    ledger, serial = Ledger(), [0]
    for _ in range(10):
        ledger.block(*random_requests(rng, serial))
    before = fingerprint(ledger.core)
    requests = [r for r in random_requests(rng, serial) if r[0] == "TRANSFER"] or [
        ("TRANSFER", [{"id": 10**6, "debit_account_id": 1, "credit_account_id": 2}])
    ]
    events = layout.record_array(layout.TRANSFER, requests[0][1])
    dry, real = (np.zeros(len(events), layout.RESULT) for _ in range(2))
    block = Block()
    ledger.core.open_block(block, ledger.core.block_number + 1)
    ledger.core.create_transfers(events, ledger.now + 10_000, dry, dry_run=True)
    assert block.count == 0
    ledger.core.close_block()
    assert fingerprint(ledger.core) == before
    ledger.core.open_block(block, ledger.core.block_number + 1)
    ledger.core.create_transfers(events, ledger.now + 10_000, real)
    ledger.core.close_block()
    assert dry.tobytes() == real.tobytes()


def test_a_failed_chain_leaves_only_the_burned_id() -> None:
    ledger = Ledger()
    limit = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
    ledger.block(("ACCOUNT", [{"id": 1, "ledger": 1, "code": 1, "flags": limit}]))
    ledger.block(("ACCOUNT", [{"id": 2, "ledger": 1, "code": 1}]))
    before = fingerprint(ledger.core)["accounts"]
    move = {"debit_account_id": 2, "credit_account_id": 1, "ledger": 1, "code": 1}
    back = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1}
    (results,) = ledger.block(
        (
            "TRANSFER",
            [
                {"id": 3, **move, "amount": 5, "flags": LINKED},
                {"id": 4, **back, "amount": 6},
            ],
        )
    )
    assert list(results["status"]) == [1, 54]
    assert fingerprint(ledger.core)["accounts"] == before
    entries = ledger.blocks[-1].entries
    assert list(entries["kind"]) == [layout.ENTRY_KINDS["burned_id"][0]]
    assert layout.to_int(entries[0]["record"]["id"]) == 4


def test_a_request_that_could_fill_the_holds_is_refused_whole() -> None:
    core = Core(holds_max=2)
    block = Block()
    core.open_block(block, 0)
    accounts = layout.record_array(
        layout.ACCOUNT, [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]
    )
    core.create_accounts(accounts, 100, np.zeros(2, layout.RESULT))
    row = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, "flags": PENDING}
    events = layout.record_array(layout.TRANSFER, [{"id": i, **row} for i in (1, 2, 3)])
    with pytest.raises(Unavailable, match="pending transfers are open"):
        core.create_transfers(events, 200, np.zeros(3, layout.RESULT))
    assert core.hold_count == 0
    results = np.zeros(2, layout.RESULT)
    core.create_transfers(events[:2], 200, results)
    assert (results["status"] == layout.CREATED).all()
    assert core.hold_count == 2


def test_explanations_name_the_rule_the_balance_and_what_was_available() -> None:
    ledger = Ledger()
    limit = layout.flag_mask("ACCOUNT", "debits_must_not_exceed_credits")
    ledger.block(("ACCOUNT", [{"id": 1, "ledger": 1, "code": 1, "flags": limit}]))
    ledger.block(("ACCOUNT", [{"id": 2, "ledger": 1, "code": 1}]))
    move = {"debit_account_id": 2, "credit_account_id": 1, "ledger": 1, "code": 1, "amount": 70}
    ledger.block(("TRANSFER", [{"id": 3, **move}]))
    back = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, "amount": 71}
    events = layout.record_array(layout.TRANSFER, [{"id": 4, **back}])
    ledger.core.open_block(Block(), ledger.core.block_number + 1)
    (explanation,) = ledger.core.create_transfers(
        events, ledger.now + 10, np.zeros(1, layout.RESULT), explain=True
    )
    ledger.core.close_block()
    assert explanation["status"] == "exceeds_credits"
    assert (explanation["account_id"], explanation["needed"], explanation["available"]) == (
        1,
        71,
        70,
    )
    assert explanation["balances"]["credits_posted"] == 70


def test_many_entries_of_one_account_carry_skip_pointers_of_three_levels() -> None:
    core, block = Core(), Block()
    core.open_block(block, 0)
    accounts = layout.record_array(
        layout.ACCOUNT, [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]
    )
    core.create_accounts(accounts, 100, np.zeros(2, layout.RESULT))
    events = np.zeros(8190, layout.TRANSFER)
    events["debit_account_id"]["lo"], events["credit_account_id"]["lo"] = 1, 2
    events["ledger"], events["code"] = 1, 1
    now, sides = 100, []
    for number in range(34):
        events["id"]["lo"] = np.arange(1, 8191) + 8190 * number
        now += 10_000
        core.create_transfers(events, now, np.zeros(8190, layout.RESULT))
    sides = block.entries["debit"][2:]
    by_number = dict(zip(sides["number"].tolist(), sides["skip"].tolist(), strict=True))
    position = {number: number + 1 for number in by_number} | {0: 0}
    assert all(skip == layout.NO_POSITION for n, skip in by_number.items() if n % 64)
    assert by_number[64] == position[0]
    assert by_number[4096] == position[4096 - 64]
    assert by_number[8192] == position[4096]
    assert by_number[8192 + 64] == position[8192]
    assert by_number[262144] == position[262144 - 4096]
