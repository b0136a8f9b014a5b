"""Erasure: what goes is on no page of the files; everything else is as it was, hash for hash."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import _merkle, layout
from ledger._core import Core
from ledger._history import History
from ledger._state_tree import StateBuilder
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import DiskFull
from ledger.storage import backup as backup_file
from ledger.storage import directory as data_directory
from ledger.storage import space
from ledger.storage.erasure import Erasure, erase
from ledger.storage.live import live_reader
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.recovery import read_block
from ledger.storage.snapshot import Pace
from ledger.storage.verify import verify
from tests.crash.driver import CONFIG, SECOND, Bank, script, time_of
from tests.unit.test_cli import sanyuan

PENDING = layout.flag_mask("TRANSFER", "pending")
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")
CLOSING_DEBIT = layout.flag_mask("TRANSFER", "closing_debit")
BLOCKED = layout.flag_mask("ACCOUNT_SETTINGS", "debits_blocked", "credits_blocked")
FAST = Pace(pass_interval_s=0.0, threaded=False)

ANNA = 0xA11A_0000_5EC2_E7A1_B0B0_CAFE_1234_5678
BERTA = 0xBE27_0000_5EC2_E7A1_B0B0_CAFE_8765_4321
CARL = 0xCA21_0000_5EC2_E7A1_B0B0_CAFE_0F0F_0F0F
SHOP = 77
DORA = 78
ANNAS_DATA = {
    "user_data_128": 0xA11A_DA7A_0000_0000_DEAD_BEEF_0BAD_F00D,
    "user_data_64": 0xA11A_DA7A_0042_4242,
    "user_data_32": 0xA11A_DA7A,
}
ANNAS_WORDS = (b"Anna Lindqvist", b"rent of Anna", b"Anna moved")


def filler() -> list[list[Any]]:
    """Return blocks with holds, settings and metadata of other accounts."""
    return script(11, 12, account_count=120)


def blocks() -> list[list[Any]]:
    """Return a script in which Anna does everything, and then has nothing left."""
    transfers = {"ledger": 1, "code": 1}
    opening = [
        {"id": ANNA, "ledger": 1, "code": 1, **ANNAS_DATA},
        {"id": SHOP, "ledger": 1, "code": 2, "user_data_64": 5},
        {"id": BERTA, "ledger": 1, "code": 1, "user_data_32": 9},
        {"id": CARL, "ledger": 1, "code": 3},
        {"id": DORA, "ledger": 1, "code": 3},
    ]
    between = filler()
    serial = iter(range(1 << 70, 1 << 71))

    def transfer(debit: int, credit: int, amount: int, **other: int) -> dict[str, Any]:
        row = {"id": next(serial), "debit_account_id": debit, "credit_account_id": credit}
        return row | transfers | {"amount": amount} | other

    held = transfer(ANNA, SHOP, 40, flags=PENDING)
    voided = transfer(CARL, ANNA, 7, flags=PENDING)
    expiring = transfer(ANNA, BERTA, 9, flags=PENDING, timeout=1)
    closing = transfer(CARL, SHOP, 0, flags=PENDING | CLOSING_DEBIT)
    own = [
        [
            ("ACCOUNT", opening, {0: b'{"name":"Anna Lindqvist"}', 1: b'{"name":"Shop"}'}),
            (
                "TRANSFER",
                [
                    transfer(SHOP, ANNA, 100),
                    transfer(ANNA, BERTA, 30, user_data_64=3),
                    transfer(SHOP, BERTA, 10),
                    held,
                ],
                {1: b'{"text":"rent of Anna"}', 2: b'{"text":"salary of Berta"}'},
            ),
        ],
        [
            (
                "ACCOUNT_SETTINGS",
                [
                    {"id": next(serial), "account_id": ANNA, "overdraft": 50, "flags": 1},
                    {"id": next(serial), "account_id": ANNA, "flags": 0, **ANNAS_DATA},
                    {"id": next(serial), "account_id": BERTA, "flags": 0},
                ],
                {0: b'{"why":"Anna moved"}', 2: b'{"why":"Berta too"}'},
            ),
            (
                "TRANSFER",
                [
                    {
                        "id": next(serial),
                        "pending_id": held["id"],
                        "flags": POST,
                        "amount": layout.U128_MAX,
                    },
                    voided,
                    expiring,
                ],
                {},
            ),
        ],
        [("TRANSFER", [{"id": next(serial), "pending_id": voided["id"], "flags": VOID}], {})],
        [
            (
                "TRANSFER",
                [transfer(ANNA, SHOP, 30), transfer(BERTA, SHOP, 40), transfer(SHOP, CARL, 5)],
                {},
            )
        ],
        [
            (
                "ACCOUNT_SETTINGS",
                [
                    {"id": next(serial), "account_id": ANNA, "flags": BLOCKED},
                    {"id": next(serial), "account_id": BERTA, "flags": BLOCKED},
                ],
                {},
            ),
            ("TRANSFER", [transfer(CARL, SHOP, 5), transfer(SHOP, DORA, 11)], {}),
        ],
        [("TRANSFER", [closing], {})],
    ]
    mixed = []
    for place in range(max(len(own), len(between))):
        requests = list(between[place]) if place < len(between) else []
        if place < len(own):
            requests = own[place] + requests if place % 2 else requests + own[place]
        mixed.append(requests)
    return mixed


@contextmanager
def opened(path: Path) -> Iterator[Bank]:
    store = LmdbStore(path, CONFIG, pace=FAST)
    try:
        bank = Bank(store)
        yield bank
        if bank.core.block_number >= 0:
            store.snapshot_all(bank.core, bank.durable, bank.named_root)
        store.drain()
    finally:
        store.close()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a ledger in which Anna and Berta may be erased."""
    path = tmp_path_factory.mktemp("erasure") / "data"
    data_directory.create(path, instance=bytes(range(16)))
    with opened(path) as bank:
        for answers in bank.run(blocks()):
            assert answers
        details = bank.core.account_details(ANNA)
        # Opening, 3 settings, 2 incoming, 2 outgoing, held, posted, pending, voided, expired.
        assert details["entry_count"] == 13, details
    return path


@pytest.fixture
def directory(ledger: Path, tmp_path: Path) -> Path:
    shutil.copytree(ledger, tmp_path / "data")
    return tmp_path / "data"


def state(core: Any) -> tuple[bytes, dict[int, bytes]]:
    """Return the state root of the books as they are, and the head of each account by slot."""
    builder, rows = StateBuilder(), []
    core.begin_capture()
    while len(step := core.capture_step(256)):
        builder.add(step)
        rows.append(step)
    leaves = np.concatenate(rows)
    heads = {
        int(row["slot"]): b"" if row["flags"] & 1 else row["message"][112:144].tobytes()
        for row in leaves
    }
    return builder.finish(core.block_number).root, heads


def leaves_of(path: Path) -> list[tuple[bytes, bytes]]:
    """Return header and leaves of every stored block, computed from what is stored."""
    found = []
    with opened(path) as bank, bank.store.reader() as reader:
        for number in range(reader.last_block + 1):
            block, view = read_block(reader, number), reader.block(number)
            entries = view.entries()
            bank.core.fill_account_ids(entries)
            private = view.private()
            ext = private.ext_digests(block.metadata)
            leaves = _merkle.block_leaves(entries, private, ext)
            assert _merkle.tree_root(leaves) == view.root
            found.append((view.header_bytes, leaves.tobytes()))
    return found


def statement(path: Path, account_id: int) -> tuple[list[int], np.ndarray]:
    with opened(path) as bank, bank.store.reader() as reader:
        details = bank.core.account_details(account_id)
        positions, entries = History(bank.core).account_entries(
            reader, details["slot"], details["last_position"]
        )
        assert len(entries) == details["entry_count"]
        return [int(position) for position in positions], entries


def secrets(path: Path, account_id: int) -> list[bytes]:
    """Return the bytes that must be on no page after an account is erased: its id, in all forms,
    and every salt of its sides, its metadata and its state."""
    found = [
        account_id.to_bytes(16, "little"),
        account_id.to_bytes(16, "big"),
        str(account_id).encode(),
    ]
    with opened(path) as bank, bank.store.reader() as reader:
        slot = bank.core.slot_of(account_id)
        ids, salts = bank.core.identities(np.array([slot], np.uint32))
        assert layout.to_int(ids[0]) == account_id
        found.append(salts.tobytes())
        for number in range(reader.last_block + 1):
            view = reader.block(number)
            private, entries = view.private(), view.entries()
            for side, place in (("debit", 0), ("credit", 16)):
                for index in np.flatnonzero(entries[f"{side}_slot"] == slot):
                    found.append(private.side_salts(int(index))[place : place + 16])
                    if entries["flags"][index] & 1:
                        found.append(private.ext_salt(int(index)))
                    if private.seed is not None:
                        found.append(private.seed)
    return [needle for needle in set(found) if needle.strip(b"\0")]


def found_in(path: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    """Return which of these bytes are in which file."""
    hits = []
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            hits += [
                (str(file.relative_to(path)), needle) for needle in needles if needle in content
            ]
    return hits


def annas_secrets(path: Path) -> list[bytes]:
    data = [
        ANNAS_DATA["user_data_128"].to_bytes(16, "little"),
        ANNAS_DATA["user_data_64"].to_bytes(8, "little"),
        str(ANNAS_DATA["user_data_128"]).encode(),
    ]
    return [*secrets(path, ANNA), *ANNAS_WORDS, *data]


def done(path: Path, *ids: int) -> Erasure:
    erasure = erase(path, CONFIG, ids)
    assert erasure.refusals == []
    return erasure


# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account_id", "reason"),
    [
        (123_456, "there is no such account"),
        (DORA, "debits_posted 0 and credits_posted 11 differ"),
        (SHOP, "it is open"),
        (CARL, "pending transfers are open: 1"),
    ],
)
def test_an_account_that_may_still_move_is_refused(
    directory: Path, account_id: int, reason: str
) -> None:
    before = {file: file.stat().st_mtime_ns for file in directory.glob("*/data.mdb")}
    erasure = erase(directory, CONFIG, [ANNA, account_id])
    assert any(
        line.startswith(f"account {account_id}: ") and reason in line for line in erasure.refusals
    )
    assert not any(line.startswith(f"account {ANNA}") for line in erasure.refusals)
    assert {file: file.stat().st_mtime_ns for file in directory.glob("*/data.mdb")} == before
    with opened(directory) as bank:
        assert bank.core.slot_of(ANNA) >= 0
        # Carl is square, closed and has nothing pending; what is open is a hold of no amount.
        assert bank.core.account_at(bank.core.slot_of(CARL))["debits_pending"]["lo"] == 0


def test_no_hash_changes_and_everyone_else_is_as_before(directory: Path) -> None:
    before = leaves_of(directory)
    with opened(directory) as bank:
        root_before, heads_before = state(bank.core)
        slot = bank.core.slot_of(ANNA)
        balances = bank.core.account_at(slot)
        sums = bank.core.trial_balance()
    positions, entries = statement(directory, SHOP)
    erasure = done(directory, ANNA)
    assert (erasure.entries, erasure.metadata) == (13, 3)
    assert leaves_of(directory) == before
    with opened(directory) as bank:
        root, heads = state(bank.core)
        assert root == root_before
        assert heads.pop(slot) == b""
        del heads_before[slot]
        assert heads == heads_before
        assert bank.core.trial_balance() == sums
        after = bank.core.account_at(slot)
        for name in ("debits_posted", "credits_posted", "ledger", "code", "flags", "timestamp"):
            assert after[name] == balances[name]
        assert layout.to_int(after["id"][0]) == 0
        assert bank.core.slot_of(ANNA) == -1
        assert bank.core.slot_of(0) == -1
        rows = bank.core.query_accounts(
            layout.record_array(layout.QUERY_FILTER, [{"limit": 8190}])[0]
        )
        assert 0 not in [layout.to_int(row["id"]) for row in rows]
    # The shop's statement: the same entries, with account 0 in Anna's place.
    positions_after, entries_after = statement(directory, SHOP)
    assert positions_after == positions
    for side in ("debit_account_id", "credit_account_id"):
        annas = np.array([layout.to_int(row) == ANNA for row in entries["record"][side]])
        assert annas.any()
        entries["record"][side][annas] = (0, 0)
    annas_metadata = entries_after["flags"] != entries["flags"]
    assert annas_metadata.sum() <= 1
    entries["flags"][annas_metadata] &= 0xFE
    assert entries_after.tobytes() == entries.tobytes()


def test_what_was_erased_is_on_no_page_of_the_files(directory: Path) -> None:
    needles = annas_secrets(directory)
    where = {name.split("/")[0] for name, _ in found_in(directory, needles)}
    assert {"journal", "state"} <= where
    assert len({needle for _, needle in found_in(directory, needles)}) > 10
    done(directory, ANNA)
    assert found_in(directory, needles) == []
    assert sorted(entry.name for entry in directory.iterdir()) == sorted(
        [*data_directory.PARTS, "format.json", "lock"]
    )
    # And it does not come back.
    with opened(directory) as bank:
        bank.run(blocks() + filler()[:2], len(blocks()))
    assert found_in(directory, needles) == []


def test_verification_recovery_backup_and_restore_still_work(
    directory: Path, tmp_path: Path
) -> None:
    done(directory, ANNA)
    with opened(directory) as bank:
        books, root = bank.books(), state(bank.core)
    verdict = verify(directory, CONFIG)
    assert verdict.clean, verdict.differences
    # As after the loss of all that can be made again from the journal.
    for part in data_directory.PARTS:
        if part != data_directory.JOURNAL:
            shutil.rmtree(directory / part)
    with opened(directory) as bank:
        assert bank.books() == books
        assert state(bank.core) == root
        bank.run(blocks() + filler()[:3], len(blocks()))
        books, root = bank.books(), state(bank.core)
    with live_reader(directory) as reader:
        backup_file.write(tmp_path / "backup", data_directory.read_format(directory), reader)
    backup_file.restore(tmp_path / "backup", tmp_path / "restored")
    verdict = verify(tmp_path / "restored", CONFIG)
    assert verdict.clean, verdict.differences
    with opened(tmp_path / "restored") as bank:
        assert bank.books() == books
        assert state(bank.core) == root
    assert found_in(tmp_path / "restored", [*ANNAS_WORDS, ANNA.to_bytes(16, "little")]) == []


def test_both_accounts_of_one_transfer_can_be_erased_at_once_or_one_after_the_other(
    directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(directory, tmp_path / "other")
    before, needles = leaves_of(directory), secrets(directory, BERTA) + annas_secrets(directory)
    with opened(directory) as bank:
        root = state(bank.core)[0]
    done(directory, ANNA, BERTA)
    done(tmp_path / "other", ANNA)
    done(tmp_path / "other", BERTA)
    for path in (directory, tmp_path / "other"):
        assert leaves_of(path) == before
        assert found_in(path, needles) == []
        with opened(path) as bank:
            assert state(bank.core)[0] == root
        verdict = verify(path, CONFIG)
        assert verdict.clean, verdict.differences
    with live_reader(directory) as one, live_reader(tmp_path / "other") as other:
        for number in range(one.last_block + 1):
            assert one.value(number) == other.value(number)


def test_leaves_for_every_block_are_those_that_state_roots_were_made_of(directory: Path) -> None:
    """Roots of past blocks come out the same when the journal is replayed after the erasure."""

    before = roots_by_block(directory)
    done(directory, ANNA)
    assert roots_by_block(directory) == before
    done(directory, BERTA)
    assert roots_by_block(directory) == before


Row = dict[str, Any]


class Served:
    """An engine on a data directory, which makes state roots and names them in headers."""

    def __init__(self, path: Path) -> None:
        config = Config(
            recent_ids=1024, write_ahead_bytes=0, disk_reserve_bytes=0, seal_interval_ms=10
        )
        self.store = LmdbStore(path, config)
        self.engine = Engine(self.store, config)
        self.engine.start()
        self.serial = time.time_ns()

    def post(self, kind: str, *rows: Row, metadata: dict[int, bytes] | None = None) -> None:
        dtype = {"accounts": "ACCOUNT", "transfers": "TRANSFER", "settings": "ACCOUNT_SETTINGS"}
        events = layout.record_array(layout.DTYPES[dtype[kind]], list(rows))
        reply = self.engine.submit(kind, events, metadata=metadata).result(10)
        assert set(reply.results["status"]) == {layout.CREATED}

    def move(self, debit: int, credit: int, amount: int) -> None:
        self.serial += 1
        row = {"id": self.serial, "debit_account_id": debit, "credit_account_id": credit}
        self.post("transfers", row | {"amount": amount, "ledger": 1, "code": 1})

    def named_root(self, others: int) -> int:
        """Make a state root; return its block when a header names it."""
        block = self.engine.request_state_root().result(10)
        for _ in range(1000):
            with self.engine.reader() as (reader, last):
                states = [reader.block(number).state for number in range(block + 1, last + 1)]
                if any(state is not None and state[0] == block for state in states):
                    return block
            self.move(others, others + 1, 1)
            time.sleep(0.005)
        raise AssertionError("no header names the root")

    def close(self) -> None:
        self.engine.stop()
        self.store.close()


Kept = tuple[list[Any], dict[tuple[int, int, int], bytes]]


def kept_roots(path: Path) -> Kept:
    """Return every root of the archive, and the hash of each of its tiles' leaves: each leaf made
    of what the archive has, and the tiles compared with those of the root."""
    tiles = {}
    with opened(path) as bank:
        kept = bank.store.roots
        for block, *_ in kept.blocks():
            for place, group in enumerate(kept.groups(block)):
                sums = kept.tile_sums(block, place)
                for tile in range(group.tile_count):
                    rows = kept.tile(block, place, tile)
                    leaves = _merkle.account_leaves(np.ascontiguousarray(rows["message"]))
                    erased = rows["flags"] & 1 != 0
                    leaves[erased] = rows["message"][erased][:, :32]
                    root = _merkle.tree_root(leaves, "tile")
                    assert root == sums[tile][:32].tobytes()
                    tiles[block, place, tile] = root
        return kept.blocks(), tiles


def test_every_kept_root_can_be_opened_as_before(tmp_path: Path) -> None:
    path = tmp_path / "data"
    data_directory.create(path)
    served = Served(path)
    accounts = [{"id": 1000 + n, "ledger": 1, "code": 1 + n // 300} for n in range(600)]
    served.post("accounts", *accounts, metadata={4: b'{"name":"four"}'})
    served.post("accounts", {"id": ANNA, "ledger": 1, "code": 1, **ANNAS_DATA})
    for step in range(4):
        served.move(1000 + step, ANNA, 10)
        served.move(1100, 1200, 1)
        if step != 2:
            served.named_root(1300)
    served.move(ANNA, 1500, 40)
    served.post("settings", {"id": 5, "account_id": ANNA, "flags": BLOCKED})
    served.named_root(1300)
    served.move(1300, 1400, 1)
    served.named_root(1300)
    served.close()
    before, needles = kept_roots(path), annas_secrets(path)
    assert len(before[0]) == 5
    done(path, ANNA)
    assert kept_roots(path) == before
    assert found_in(path, needles) == []
    verdict = verify(path, CONFIG)
    assert verdict.clean, verdict.differences
    shutil.rmtree(path / "roots")
    assert kept_roots(path) == before
    # The server goes on, names roots in which the erased account is, and another one goes.
    served = Served(path)
    served.post("accounts", {"id": ANNA, "ledger": 1, "code": 1})
    served.move(1500, 1501, 1)
    served.named_root(1300)
    served.post("settings", {"id": 6, "account_id": 1599, "flags": BLOCKED})
    served.named_root(1300)
    served.close()
    later = kept_roots(path)
    assert later[0][:5] == before[0]
    done(path, 1599)
    assert kept_roots(path) == later
    verdict = verify(path, CONFIG)
    assert verdict.clean, verdict.differences


def test_the_id_can_be_opened_again_as_a_new_account(directory: Path) -> None:
    done(directory, ANNA)
    number = len(blocks())
    with opened(directory) as bank:
        old = bank.core.account_count
        answers = bank.post(
            [
                ("ACCOUNT", [{"id": ANNA, "ledger": 1, "code": 1}], {}),
                (
                    "TRANSFER",
                    [
                        {
                            "id": 1 << 80,
                            "debit_account_id": ANNA,
                            "credit_account_id": SHOP,
                            "amount": 1,
                            "ledger": 1,
                            "code": 1,
                        }
                    ],
                    {},
                ),
            ],
            time_of(number),
        )
        assert [int(answer["status"][0]) for answer in answers] == [layout.CREATED] * 2
        assert bank.core.slot_of(ANNA) == old
        assert bank.core.account_details(ANNA)["entry_count"] == 2
    verdict = verify(directory, CONFIG)
    assert verdict.clean, verdict.differences


def test_events_about_resolved_transfers_of_an_erased_account_are_refused(directory: Path) -> None:
    held = next(
        row["id"]
        for requests in blocks()
        for kind, rows, _ in requests
        if kind == "TRANSFER"
        for row in rows
        if row.get("debit_account_id") == ANNA and row.get("flags") == PENDING
    )
    repeat = next(
        row
        for requests in blocks()
        for kind, rows, _ in requests
        if kind == "TRANSFER"
        for row in rows
        if row.get("credit_account_id") == ANNA and "flags" not in row
    )
    done(directory, ANNA)
    rows = [
        {"id": 1 << 90, "pending_id": held, "flags": POST, "amount": layout.U128_MAX},
        {"id": 2 << 90, "pending_id": held, "flags": VOID},
        {"id": 3 << 90, "pending_id": held, "flags": POST, "debit_account_id": ANNA},
        {"id": 4 << 90, "pending_id": held, "flags": POST, "amount": 41},
        repeat,
    ]
    with opened(directory) as bank:
        (results,) = bank.post([("TRANSFER", rows, {})], time_of(len(blocks())))
    names = [layout.STATUS_NAMES["TRANSFER"][int(status)] for status in results["status"]]
    assert names == [
        "pending_transfer_already_posted",
        "pending_transfer_already_posted",
        "pending_transfer_has_different_debit_account_id",
        "exceeds_pending_transfer_amount",
        "exists_with_different_credit_account_id",
    ]


def test_the_command_asks_says_why_not_and_erases(directory: Path) -> None:
    refused = sanyuan("erase", directory, SHOP, 5, "--yes")
    assert refused.returncode == 1
    assert "account 5: there is no such account" in refused.stderr
    assert "Nothing was erased" in refused.stderr
    tried = sanyuan("erase", directory, ANNA, "--dry-run")
    assert tried.returncode == 0
    assert "13 entries can be erased" in tried.stdout
    unsure = sanyuan("erase", directory, ANNA, stdin="n\n")
    assert unsure.returncode == 1
    with opened(directory) as bank:
        assert bank.core.slot_of(ANNA) >= 0
    finished = sanyuan("erase", directory, ANNA, "--yes", "--json")
    assert finished.returncode == 0, finished.stderr
    document = json.loads(finished.stdout)
    assert document["done"]
    assert document["entries"] == 13
    again = sanyuan("erase", directory, ANNA, "--yes", "--json")
    assert again.returncode == 1
    assert not json.loads(again.stdout)["done"]
    assert sanyuan("verify", directory).returncode == 0
    assert sanyuan("erase", directory).returncode == 2
    assert sanyuan("erase", directory, "anna").returncode == 2


def test_a_server_that_has_the_directory_refuses_the_command(directory: Path) -> None:
    with opened(directory):
        assert sanyuan("erase", directory, ANNA, "--yes").returncode == 3


def roots_by_block(path: Path) -> list[bytes]:
    """Return the state root after every block, from a replay of the journal."""
    found, core = [], Core(holds_max=CONFIG.holds)
    with live_reader(path) as reader:
        for number in range(reader.last_block + 1):
            block = read_block(reader, number)
            core.replay(block)
            core.hash_block(block, block.seed)
            core.finish_replay()
            found.append(state(core)[0])
    return found


def check_random_erasures(path: Path, seed: int) -> None:
    """Erase random accounts of a random ledger, in two rounds, and compare every hash."""
    rng, requests = random.Random(seed), script(seed, 14, account_count=60)
    data_directory.create(path, instance=bytes(range(16)))
    with opened(path) as bank:
        bank.run(requests)
        accounts = [
            row["id"]
            for block in requests
            for kind, rows, _ in block
            if kind == "ACCOUNT"
            for row in rows
        ]
        held = [
            row["id"]
            for block in requests
            for kind, rows, _ in block
            if kind == "TRANSFER"
            for row in rows
            if row.get("flags") == PENDING
        ]
        now, serial = time_of(len(requests)), 1 << 100
        voids = [{"id": serial + n, "pending_id": id, "flags": VOID} for n, id in enumerate(held)]
        bank.post(
            [("ACCOUNT", [{"id": SHOP, "ledger": 1, "code": 1}], {}), ("TRANSFER", voids, {})], now
        )
        chosen = rng.sample(accounts, 8)
        square, block = [], []
        for place, account_id in enumerate(chosen):
            row = bank.core.account_at(bank.core.slot_of(account_id))[0]
            net = layout.to_int(row["credits_posted"]) - layout.to_int(row["debits_posted"])
            debit, credit = (account_id, SHOP) if net > 0 else (SHOP, account_id)
            square.append(
                {
                    "id": (2 << 100) + place,
                    "debit_account_id": debit,
                    "amount": abs(net),
                    "credit_account_id": credit,
                    "ledger": 1,
                    "code": 1,
                }
            )
            block.append({"id": (3 << 100) + place, "account_id": account_id, "flags": BLOCKED})
        answers = bank.post(
            [("TRANSFER", square, {0: b'{"why":"squared"}'}), ("ACCOUNT_SETTINGS", block, {})],
            now + SECOND,
        )
        assert {int(s) for answer in answers for s in answer["status"]} == {layout.CREATED}
    before, roots = leaves_of(path), roots_by_block(path)
    done(path, *chosen[:4])
    assert (leaves_of(path), roots_by_block(path)) == (before, roots)
    done(path, *chosen[4:])
    assert (leaves_of(path), roots_by_block(path)) == (before, roots)
    verdict = verify(path, CONFIG)
    assert verdict.clean, verdict.differences


@pytest.mark.parametrize("seed", [1, 2])
def test_random_accounts_of_a_random_ledger(tmp_path: Path, seed: int) -> None:
    check_random_erasures(tmp_path / "data", seed)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 160))
def test_random_accounts_of_many_random_ledgers(tmp_path: Path, seed: int) -> None:
    check_random_erasures(tmp_path / "data", seed)


def test_without_room_for_a_second_copy_nothing_is_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda path: 100_000)
    with pytest.raises(DiskFull, match="100,000 are"):
        erase(directory, CONFIG, [ANNA])
    assert not (directory / data_directory.ERASING).exists()
    with opened(directory) as bank:
        assert bank.core.slot_of(ANNA) >= 0
