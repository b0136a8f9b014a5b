"""State roots against a plain recomputation, and captures made while accounts go on changing."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import _merkle, layout
from ledger._block import Block
from ledger._core import Core
from ledger._state_tree import TILE_ACCOUNTS, StateBuilder, StateRoot
from ledger._verifier import Verifier
from tests.unit.test_core import CLOSING_DEBIT, LINKED, PENDING, POST, SECOND, VOID, Ledger, stored

ERASED = layout.flag_mask("STATE_ROW", "erased")

# ----------------------------------------------------------------------------------------------
# docs/proofs.md, read plainly
# ----------------------------------------------------------------------------------------------


def keyed(name: str, message: bytes) -> bytes:
    key = blake3(b"", derive_key_context=f"sanyuan 2026 v1 {name}").digest()
    return blake3(message, key=key).digest()


def plain_tree(name: str, leaves: list[bytes]) -> bytes:
    if len(leaves) < 2:
        return leaves[0] if leaves else bytes(32)
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = plain_tree(name, leaves[:split]), plain_tree(name, leaves[split:])
    return keyed(name, left + right)


def plain_sum_tree(children: list[tuple[bytes, list[int]]]) -> tuple[bytes, list[int]]:
    if len(children) == 1:
        return children[0]
    split = 1 << (len(children) - 1).bit_length() - 1
    sides = plain_sum_tree(children[:split]), plain_sum_tree(children[split:])
    message = b"".join(
        digest + b"".join(amount.to_bytes(20, "little") for amount in sums) + bytes(4)
        for digest, sums in sides
    )
    return keyed("sum", message), [a + b for a, b in zip(sides[0][1], sides[1][1], strict=True)]


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def plain_group(name: tuple[int, int, int], accounts: list[bytes]) -> tuple[bytes, bytes]:
    """The fields and the head of a group, from its accounts' messages in order; a message that says
    so is an erased account's."""
    tiles = []
    for start in range(0, len(accounts), 256):
        leaves, sums = [], [0, 0, 0]
        for message in accounts[start : start + 256]:
            erased = message[32:38] == b"erased"
            debits = number(message[80:96] if erased else message[32:48])
            credits = number(message[96:112] if erased else message[64:80])
            sums = [sums[0] + debits, sums[1] + credits, sums[2] + max(credits - debits, 0)]
            leaves.append(message[:32] if erased else keyed("account_state", message))
        tiles.append((plain_tree("tile", leaves), sums))
    digest, sums = plain_sum_tree(tiles)
    kind, ledger, code = name
    fields = (
        bytes([kind, 0])
        + code.to_bytes(2, "little")
        + ledger.to_bytes(4, "little")
        + len(accounts).to_bytes(8, "little")
        + digest
        + b"".join(amount.to_bytes(20, "little") for amount in sums)
    )
    return fields, keyed("group", fields + bytes(20))


def plain_state_root(block: int, groups: dict[tuple[int, int, int], list[bytes]]) -> bytes:
    heads = [plain_group(name, groups[name])[1] for name in sorted(groups)]
    message = block.to_bytes(8, "little") + len(heads).to_bytes(8, "little")
    return keyed("state", message + plain_tree("groups", heads) + bytes(16))


def grouped(rows: np.ndarray) -> dict[tuple[int, int, int], list[bytes]]:
    groups = defaultdict(list)
    for row in rows:
        name = int(row["kind"]), int(row["ledger"]), int(row["code"])
        groups[name].append(row["message"].tobytes())
    return groups


# ----------------------------------------------------------------------------------------------
# Roots of rows that are made up
# ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 4, 8, 16])
def lanes(request: pytest.FixtureRequest) -> Iterator[int]:
    """Runs the test with each kernel, and puts back the one that was chosen."""
    chosen = _merkle.lane_count()
    if request.param > chosen:
        pytest.skip(f"this processor has no kernel of {request.param} lanes")
    _merkle.choose_lanes(request.param)
    yield request.param
    _merkle.choose_lanes(chosen)


def made_up(sizes: dict[tuple[int, int, int], int], seed: int, erased: float = 0.0) -> np.ndarray:
    """Return rows of accounts with random contents, the groups mixed, huge balances among them."""
    rng = np.random.default_rng(seed)
    names = [name for name, size in sizes.items() for _ in range(size)]
    order = rng.permutation(len(names))
    rows = np.zeros(len(names), layout.STATE_ROW)
    leaves = np.frombuffer(
        rng.bytes(len(names) * layout.ACCOUNT_LEAF.itemsize), layout.ACCOUNT_LEAF
    ).copy()
    leaves["reserved"] = 0
    ordinals: dict[tuple[int, int, int], int] = defaultdict(int)
    for slot, place in enumerate(order):
        name = names[place]
        for record in (rows, leaves):
            record["kind"][slot], record["ledger"][slot], record["code"][slot] = name
            record["ordinal"][slot] = ordinals[name]
        ordinals[name] += 1
    small = rng.random(len(names)) < 0.5
    leaves["credits_posted"][small] = 0
    rows["message"] = leaves.view("u1").reshape(-1, 192)
    rows["slot"] = np.arange(len(names))
    rows["last_position"] = rng.integers(0, 100, len(names)).astype("<u8") << layout.INDEX_BITS
    for slot in np.flatnonzero(rng.random(len(names)) < erased):
        message = bytearray(192)
        message[:32] = keyed("account_state", rows["message"][slot].tobytes())
        message[32:38] = b"erased"
        message[80:96] = rows["message"][slot][32:48].tobytes()
        message[96:112] = rows["message"][slot][64:80].tobytes()
        rows["message"][slot] = np.frombuffer(bytes(message), "u1")
        rows["flags"][slot] = ERASED
    return rows


def build(rows: np.ndarray, block: int, *, step: int = 100, previous_block: int = -1) -> StateRoot:
    builder = StateBuilder(previous_block)
    for start in range(0, len(rows), step):
        builder.add(rows[start : start + step])
    return builder.finish(block)


def assert_is_plain(state: StateRoot, rows: np.ndarray, block: int) -> None:
    groups = grouped(rows)
    assert [(g.kind, g.ledger, g.code) for g in state.groups] == sorted(groups)
    for group in state.groups:
        messages = groups[group.kind, group.ledger, group.code]
        assert group.account_count == len(messages)
        assert (group.fields, group.head) == plain_group(
            (group.kind, group.ledger, group.code), messages
        )
        assert group.tiles.shape == (-(-len(messages) // TILE_ACCOUNTS), 92)
        for tile, row in enumerate(group.tiles):
            part = messages[tile * TILE_ACCOUNTS : (tile + 1) * TILE_ACCOUNTS]
            name = group.kind, group.ledger, group.code
            assert row.tobytes() == plain_group(name, part)[0][16:]
    assert state.root == plain_state_root(block, groups)


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 511, 512, 513, 769, 1300])
def test_root_of_one_group(lanes: int, count: int) -> None:
    rows = made_up({(0, 1, 1): count} if count else {}, seed=count)
    assert_is_plain(build(rows, count), rows, count)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.dictionaries(
        st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1)),
        st.sampled_from([1, 2, 3, 17, 255, 256, 257, 512, 513]),
        max_size=5,
    ),
    seed=st.integers(0, 1000),
    step=st.sampled_from([1, 63, 64, 65, 256, 1000]),
)
def test_root_of_mixed_groups(sizes: dict[tuple[int, int, int], int], seed: int, step: int) -> None:
    rows = made_up(sizes, seed, erased=0.1)
    assert_is_plain(build(rows, 7, step=step), rows, 7)


def test_many_small_groups() -> None:
    sizes = {(0, ledger, code): 1 + code % 3 for ledger in range(40) for code in range(1, 20)}
    rows = made_up(sizes, seed=1)
    assert_is_plain(build(rows, 1), rows, 1)


def test_sums_of_the_greatest_balances_are_exact() -> None:
    rows = made_up({(0, 1, 1): 700}, seed=2)
    leaves = rows["message"].copy().view(layout.ACCOUNT_LEAF).reshape(-1)
    for name in ("debits_posted", "credits_posted"):
        leaves[name] = layout.from_int(layout.U128_MAX)
    leaves["debits_posted"][:3] = (0, 0)
    rows["message"] = leaves.view("u1").reshape(-1, 192)
    state = build(rows, 3)
    sums = [number(state.groups[0].fields[at : at + 20]) for at in (48, 68, 88)]
    assert sums == [697 * layout.U128_MAX, 700 * layout.U128_MAX, 3 * layout.U128_MAX]
    assert_is_plain(state, rows, 3)


def test_changed_rows_come_by_group_and_tile() -> None:
    rows = made_up({(0, 1, 1): 900, (0, 1, 2): 3, (0, 0, 9): 300}, seed=3)
    after = 40
    wanted = rows[rows["last_position"] >> layout.INDEX_BITS > after]
    builder, taken = StateBuilder(after), []
    for start in range(0, len(rows), 100):
        builder.add(rows[start : start + 100])
        if start < 1000:
            taken += builder.take_changed()
    rest = builder.finish(1).changed
    assert taken
    assert rest
    places = [(c.kind, c.ledger, c.code, c.tile) for c in rest]
    assert places == sorted(places)
    seen = set()
    for changed in [*taken, *rest]:
        name = changed.kind, changed.ledger, changed.code
        assert (*name, changed.tile) not in seen
        seen.add((*name, changed.tile))
        mine = wanted[
            (wanted["ledger"] == changed.ledger)
            & (wanted["code"] == changed.code)
            & (wanted["ordinal"] // TILE_ACCOUNTS == changed.tile)
        ]
        assert changed.rows.tobytes() == mine.tobytes()
    assert sum(len(c.rows) for c in [*taken, *rest]) == len(wanted)


def test_rows_out_of_order_are_refused() -> None:
    rows = made_up({(0, 1, 1): 300}, seed=4)
    for wrong in (rows[1:], rows[[0, 2]], rows[[0, 0]]):
        with pytest.raises(ValueError, match="ordinals"):
            StateBuilder().add(wrong)
    other = rows.copy()
    other["ledger"] = 2  # not what the messages say
    with pytest.raises(ValueError, match="ordinals"):
        StateBuilder().add(other)
    with pytest.raises(TypeError):
        StateBuilder().add(rows["message"])
    builder = StateBuilder()
    builder.add(rows)
    builder.finish(1)
    for call in (lambda: builder.add(rows), lambda: builder.finish(1)):
        with pytest.raises(RuntimeError):
            call()


# ----------------------------------------------------------------------------------------------
# Captures
# ----------------------------------------------------------------------------------------------


def plain_rows(core: Core, blocks: list[Block]) -> list[bytes]:
    """Every account's message now, from the core's queries and from the blocks' seeds."""
    salts = {}
    for block in blocks:
        for index, entry in enumerate(block.entries):
            if entry["kind"] == layout.ENTRY_KINDS["account"][0]:
                stream = blake3(b"", key=block.seed).digest(length=16, seek=64 * index + 16)
                salts[int(entry["debit_slot"])] = stream
    messages = []
    for slot in range(core.account_count):
        account = core.account_at(slot)[0]
        details = core.account_details(layout.to_int(account["id"]))
        assert details is not None
        balances = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
        messages.append(
            account["id"].tobytes()
            + b"".join(account[name].tobytes() for name in balances)
            + details["overdraft"].to_bytes(16, "little")
            + details["ceiling"].to_bytes(16, "little")
            + details["head"]
            + details["entry_count"].to_bytes(8, "little")
            + details["ordinal"].to_bytes(8, "little")
            + account["ledger"].tobytes()
            + account["code"].tobytes()
            + account["flags"].tobytes()
            + details["settings"].to_bytes(2, "little")
            + bytes(6)
            + salts[slot]
        )
    return messages


def whole_capture(core: Core) -> np.ndarray:
    core.begin_capture()
    parts = []
    while len(part := core.capture_step(1 << 20)):
        parts.append(part)
    return np.concatenate([np.zeros(0, layout.STATE_ROW), *parts])


class Bank:
    """A ledger with four groups of accounts, and random requests of every kind for it."""

    def __init__(self, seed: int, accounts: int) -> None:
        self.rng = random.Random(seed)
        self.ledger = Ledger()
        self.serial = 1_000_000
        self.opened = 0
        self.open_accounts(accounts)

    def new_id(self) -> int:
        self.serial += 1
        return self.serial

    def opening(self) -> dict[str, int]:
        self.opened += 1
        ledger = self.rng.choice([1, 1, 1, 2])
        return {"id": self.opened, "ledger": ledger, "code": self.rng.choice([1, 1, 7])}

    def open_accounts(self, count: int) -> None:
        while count:
            size = min(count, 500)
            self.ledger.block(("ACCOUNT", [self.opening() for _ in range(size)]))
            count -= size

    def transfer(self) -> dict[str, int]:
        flags = self.rng.choice([0, 0, 0, LINKED, PENDING, PENDING | CLOSING_DEBIT, POST, VOID])
        row = {"id": self.new_id(), "amount": self.rng.randrange(100), "flags": flags}
        if flags & (POST | VOID):
            row["pending_id"] = self.rng.randrange(max(1_000_000, self.serial - 200), self.serial)
            row["amount"] = layout.U128_MAX if flags & POST else 0
            return row
        row |= {"ledger": 1, "code": 1, "timeout": self.rng.choice([0, 1]) if flags else 0}
        if flags == LINKED:
            row["timeout"] = 0
        for side in ("debit_account_id", "credit_account_id"):
            row[side] = self.rng.randrange(1, self.opened + 1)
        return row

    def setting(self) -> dict[str, int]:
        flags = self.rng.choice([0, 1, 2, 3, 4, 8])
        return {
            "id": self.new_id(),
            "account_id": self.rng.randrange(1, self.opened + 1),
            "overdraft": self.rng.randrange(1000) if flags & 1 else 0,
            "ceiling": self.rng.randrange(1000) if flags & 2 else 0,
            "flags": flags,
        }

    def post(self) -> None:
        """Decide one block of several random requests; some holds expire."""
        requests = []
        for _ in range(self.rng.randrange(1, 5)):
            kind = self.rng.choice(["TRANSFER"] * 3 + ["ACCOUNT", "ACCOUNT_SETTINGS"])
            make = {
                "TRANSFER": self.transfer,
                "ACCOUNT": self.opening,
                "ACCOUNT_SETTINGS": self.setting,
            }[kind]
            count = self.rng.randrange(1, 80) if kind == "TRANSFER" else self.rng.randrange(1, 10)
            requests.append((kind, [make() for _ in range(count)]))
        if self.rng.random() < 0.2:
            self.ledger.now += SECOND
        self.ledger.block(*requests)
        if self.rng.random() < 0.2:
            self.dry_run()

    def dry_run(self) -> None:
        """Decide a request for nothing, in a block that remains empty."""
        core, rows = self.ledger.core, [self.transfer() for _ in range(20)]
        core.open_block(Block(), core.block_number + 1)
        self.ledger.now += 1000
        events = layout.record_array(layout.TRANSFER, rows)
        results = np.zeros(len(rows), layout.RESULT)
        core.create_transfers(events, self.ledger.now, results, dry_run=True)
        core.close_block()


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    accounts=st.sampled_from([1, 256, 257, 1500]),
    pages=st.integers(1, 3),
)
def test_capture_beside_posting_is_the_state_of_its_block(
    seed: int, accounts: int, pages: int
) -> None:
    bank = Bank(seed, accounts)
    core = bank.ledger.core
    for _ in range(5):
        bank.post()
    for _ in range(3):  # one capture after the other, over the same accounts
        wanted, block = plain_rows(core, bank.ledger.blocks), core.block_number
        positions = whole_capture(core)["last_position"].tolist()
        core.begin_capture()
        assert core.capturing
        builder, messages, seen = StateBuilder(), [], []
        while True:
            for _ in range(bank.rng.randrange(3)):
                bank.post()
            rows = core.capture_step(256 * pages + bank.rng.randrange(256))
            if not len(rows):
                break
            assert len(rows) % 256 == 0 or len(rows) + len(messages) == len(wanted)
            messages += [row.tobytes() for row in rows["message"]]
            seen += rows["last_position"].tolist()
            assert list(rows["slot"]) == list(range(len(messages) - len(rows), len(messages)))
            builder.add(rows)
        assert messages == wanted
        assert seen == positions
        assert not core.capturing
        assert core.capture_saved_bytes == 0
        assert core.capture_block == block
        groups = defaultdict(list)
        for message in wanted:
            name = message[170], number(message[160:164]), number(message[164:166])
            groups[name].append(message)
        assert builder.finish(block).root == plain_state_root(block, groups)


def test_state_of_a_ledger_without_accounts() -> None:
    core = Core()
    core.begin_capture()
    assert len(core.capture_step(100)) == 0
    assert not core.capturing
    assert StateBuilder().finish(0).root == plain_state_root(0, {})


def test_saved_accounts_are_bounded_and_given_back() -> None:
    bank = Bank(5, 1000)
    core = bank.ledger.core
    core.begin_capture()
    for _ in range(20):
        bank.post()
    saved = core.capture_saved_bytes
    assert 0 < saved <= 1000 * 512
    assert len(core.capture_step(512)) == 512
    assert core.capture_saved_bytes < saved
    core.cancel_capture()
    assert core.capture_saved_bytes == 0
    assert not core.capturing
    with pytest.raises(RuntimeError):
        core.capture_step(1)
    bank.post()
    rows = whole_capture(core)
    assert [row.tobytes() for row in rows["message"]] == plain_rows(core, bank.ledger.blocks)


def test_a_chain_that_is_rolled_back_again_and_again_saves_an_account_once() -> None:
    bank = Bank(6, 300)
    core = bank.ledger.core
    core.begin_capture()
    move = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, "amount": 1}
    sizes = set()
    for _ in range(9):
        first = {"id": bank.new_id(), **move, "flags": LINKED}
        bank.ledger.block(
            ("TRANSFER", [first, {"id": bank.new_id(), **move, "amount": 0, "code": 0}])
        )
        sizes.add(core.capture_saved_bytes)
    assert len(sizes) == 1
    assert 0 not in sizes
    core.cancel_capture()


def test_captures_are_made_between_hashed_blocks_one_at_a_time() -> None:
    ledger = Ledger()
    ledger.block(("ACCOUNT", [{"id": i, "ledger": 1, "code": 1} for i in (1, 2)]))
    core, block = ledger.core, Block()
    core.begin_capture()
    with pytest.raises(RuntimeError, match="under way"):
        core.begin_capture()
    core.open_block(block, 1)
    for call in (core.begin_capture, lambda: core.capture_step(1)):
        with pytest.raises(RuntimeError, match="between blocks"):
            call()
    move = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 1, "code": 1, "amount": 1}
    events = layout.record_array(layout.TRANSFER, [{"id": 9, **move}])
    core.create_transfers(events, ledger.now + 10, np.zeros(1, layout.RESULT))
    core.close_block()
    with pytest.raises(RuntimeError, match="between blocks"):  # the heads are not moved on yet
        core.capture_step(1)
    core.hash_block(block, bytes(32))
    assert len(core.capture_step(1)) == 2


# ----------------------------------------------------------------------------------------------
# State salts, recovery
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_recovery_leads_to_the_same_state(lanes: int, seed: int) -> None:
    bank = Bank(seed, 700)
    core = bank.ledger.core
    pages: dict[tuple[str, int], tuple[bytes, int]] = {}
    floor = 0
    for turn in range(20):
        bank.post()
        # Fuzzy, as a snapshot is: some pages are copied late, all that are dirty halfway.
        limit = 1 << 30 if turn == 10 else bank.rng.randrange(2)
        if turn == 10:
            floor = core.block_number
        for kind in ("accounts", "holds"):
            for page in core.dirty_pages(kind, limit):
                pages[kind, page] = (core.copy_page(kind, page), core.block_number)
    wanted = whole_capture(core)
    recovered, replayed, verified = Core(), Core(), Verifier()
    for (kind, page), (data, position) in pages.items():
        recovered.load_page(kind, page, data, position)
    recovered.finish_load()
    for block in bank.ledger.blocks:
        for other in (recovered, replayed) if block.number > floor else (replayed,):
            again = stored(block)
            other.replay(again)
            other.hash_block(again, block.seed)
        entries = block.entries.copy()
        entries["reserved"] = 0
        again = Block.of(block, entries, block.metadata)
        assert verified.redecide(again) == []
        verified.hash_block(again, block.seed)
    for other in (recovered, replayed, verified):
        other.finish_replay()
        rows = whole_capture(other)
        assert rows.tobytes() == wanted.tobytes()
        root = build(rows, other.block_number, step=4096).root
        assert root == build(wanted, core.block_number, step=999).root


def test_identities() -> None:
    bank = Bank(9, 300)
    core = bank.ledger.core
    slots = np.array([299, 0, 17, 17], "<u4")
    ids, salts = core.identities(slots)
    messages = plain_rows(core, bank.ledger.blocks)
    for slot, identifier, salt in zip(slots, ids, salts, strict=True):
        assert messages[slot][:16] == identifier.tobytes()
        assert messages[slot][176:] == salt.tobytes()
    assert len(core.identities(np.zeros(0, "<u4"))[0]) == 0
    with pytest.raises(IndexError, match="300"):
        core.identities(np.array([0, 300], "<u4"))


def test_an_erased_account_keeps_its_leaf_and_its_share_in_the_sums() -> None:
    bank = Bank(11, 600)
    core = bank.ledger.core
    for _ in range(5):
        bank.post()
    before = whole_capture(core)
    gone = [0, 17, 300]
    leaves = _merkle.account_leaves(before["message"])
    row_bytes, head, identifier, flags = 192, slice(80, 112), slice(64, 80), 126
    recovered = Core()
    for page in range(core.page_count):
        data = bytearray(core.copy_page("accounts", page))
        for slot in gone:
            if slot // 256 == page:  # as erasure leaves a row: no id, the leaf in the head's place
                at = 4 + slot % 256 * row_bytes
                row = memoryview(data)[at : at + row_bytes]
                row[identifier], row[head] = bytes(16), leaves[slot].tobytes()
                row[flags + 1] |= 0x80
        recovered.load_page("accounts", page, bytes(data), core.block_number)
    recovered.finish_load()
    recovered.finish_replay()
    rows = whole_capture(recovered)
    assert np.flatnonzero(rows["flags"] == ERASED).tolist() == gone
    for slot in gone:
        old, new = before["message"][slot].tobytes(), rows["message"][slot].tobytes()
        assert new[:80] == leaves[slot].tobytes() + b"erased" + bytes(42)
        assert new[80:] == old[32:48] + old[64:80] + bytes(80)
    kept = np.setdiff1d(np.arange(len(rows)), gone)
    assert rows[kept].tobytes() == before[kept].tobytes()
    assert build(rows, 5).root == build(before, 5).root
