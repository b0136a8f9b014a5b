"""The publisher over a real engine: what is sealed gets under checkpoints, whatever fails."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ledger import layout
from ledger.config import Config
from ledger.engine import Engine
from ledger.proof import publisher as publishing
from ledger.proof import signing, tree
from ledger.proof.interval import parse_record
from ledger.proof.notes import Checkpoint, VerifierKey, parse_checkpoint, parse_note
from ledger.proof.outer import OuterLog
from ledger.proof.policy import parse_policy
from ledger.proof.publisher import Publisher
from ledger.storage.memory import MemoryDisk, MemoryStore

NAME = "bank.example/ledger"
CONFIG = Config(seal_interval_ms=10, disk_reserve_bytes=0)


class Bank:
    """An engine on a memory disk, and the publisher of its log in a directory."""

    def __init__(self, directory: Path, disk: MemoryDisk | None = None, **options: Any) -> None:
        self.directory = directory
        self.key = directory / "signing-key"
        directory.mkdir(exist_ok=True)
        if not (directory / "signing-key.policy").exists():
            signing.create_key(self.key, name=NAME, passphrase=None)
        self.disk = disk or MemoryDisk(bytes(range(16)))
        self.store = MemoryStore(CONFIG, disk=self.disk)
        self.engine = Engine(self.store, CONFIG)
        self.publisher = Publisher(
            directory / "log",
            instance=self.store.instance,
            journal=self.engine.reader,
            key=self.key,
            **options,
        )
        self.log = self.publisher.log
        self.engine.on_sealed.append(self.publisher.sealed)
        self.engine.start()
        self.publisher.start()

    def post(self, kind: str, *rows: dict[str, Any], **options: Any) -> int:
        """Post events that must be created; return their block."""
        dtype = layout.ACCOUNT if kind == "accounts" else layout.DEFINITION
        reply = self.engine.submit(kind, layout.record_array(dtype, list(rows)), **options).result(
            9
        )
        assert (reply.results["status"] == layout.CREATED).all()
        return int(reply.position >> layout.INDEX_BITS)

    def open_accounts(self, first: int, count: int = 1, *, pause_s: float = 0.012) -> int:
        """Open accounts one by one, each with time for a seal; return the last block."""
        block = -1
        for number in range(first, first + count):
            block = self.post("accounts", {"id": number, "ledger": 1, "code": 1})
            time.sleep(pause_s)
        return block

    def published(self, block: int) -> Checkpoint:
        """Wait until a block is under the published checkpoint, check that, and return it."""
        assert self.publisher.wait_published(block, 10), self.publisher.warnings()
        note = parse_note(self.log.checkpoint() or "")
        checkpoint = parse_checkpoint(note.text)
        policy = signing.read_policy(self.key)
        assert policy.signing_log(note, checkpoint)
        leaves = [tree.leaf_hash(self.log.record(i).encode()) for i in range(checkpoint.size)]
        assert tree.root_of(leaves) == checkpoint.root
        index = self.log.interval_of_block(block)
        assert index is not None
        assert index < checkpoint.size
        record = parse_record(self.log.record(index))
        assert record.first_block <= block <= record.last_block
        assert (self.directory / "log/checkpoint").read_text() == str(note)
        return checkpoint

    def stop(self) -> None:
        self.engine.stop()
        self.publisher.stop()
        self.store.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bank]]:
    banks: list[Bank] = []

    def made(*arguments: Any, **options: Any) -> Bank:
        bank = Bank(tmp_path / "bank", *arguments, **options)
        banks.append(bank)
        return bank

    yield made
    for bank in banks:
        bank.stop()


def consistent(log: OuterLog, old: Checkpoint, new: Checkpoint) -> bool:
    return tree.consistency_holds(
        old=old.size,
        old_root=old.root,
        new=new.size,
        new_root=new.root,
        path=log.consistency(old.size, new.size),
    )


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_block_gets_under_a_checkpoint(make: Callable[..., Bank]) -> None:
    bank = make()
    seen: list[tuple[Checkpoint, int]] = []
    bank.publisher.on_published.append(lambda *published: seen.append(published))
    for first in range(1, 60, 6):
        bank.published(bank.open_accounts(first, 6, pause_s=0.005))
    bank.stop()
    checkpoints = [checkpoint for checkpoint, _ in seen]
    assert len(checkpoints) > 5
    for old, new in itertools.pairwise(checkpoints):
        assert old.size < new.size
        assert consistent(bank.log, old, new)
    with bank.engine.reader() as (reader, last):
        records = [parse_record(bank.log.record(i)) for i in range(bank.log.size)]
        assert records[-1].last_block == last == seen[-1][1]
        assert [r.first_block for r in records] == [0, *(r.last_block + 1 for r in records[:-1])]
        for record in records:
            assert record.last_hash == reader.block(record.last_block).hash
            assert record.instance == bank.store.instance
    assert bank.publisher.warnings() == []
    values = {name: samples for name, _, _, samples in bank.publisher.metrics()}
    assert values["sanyuan_checkpoint_size"] == [("", bank.log.size)]
    assert values["sanyuan_published_checkpoint_size"] == [("", bank.log.size)]
    assert values["sanyuan_checkpoint_age_seconds"] == [("", 0.0)]


def test_a_restart_goes_on(make: Callable[..., Bank]) -> None:
    bank = make()
    old = bank.published(bank.open_accounts(1, 5))
    bank.stop()
    again = make(bank.disk)
    assert again.published(again.open_accounts(100, 3)).size > old.size
    assert consistent(again.log, old, again.published(0))


def test_the_tiles_of_the_published_checkpoint_are_there_after_a_power_cut(
    make: Callable[..., Bank],
) -> None:
    """Partial tiles are not synced, and the checkpoint over them is: the start writes them again,
    also when the log has grown since.
    """
    bank = make()
    published = bank.published(bank.open_accounts(1, 6))
    note = bank.log.checkpoint()
    bank.published(bank.open_accounts(50, 6))
    bank.stop()
    shutil.rmtree(bank.directory / "log/tile")
    (bank.directory / "log/checkpoint").write_text(note or "")
    bank.key.chmod(0o644)  # so that nothing newer is signed
    again = make(bank.disk)
    width = published.size
    names = [f"log/tile/0/000.p/{width}", f"log/tile/entries/000.p/{width}"]
    until(lambda: all((again.directory / name).exists() for name in names))
    hashes = (again.directory / names[0]).read_bytes()
    leaves = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    assert tree.root_of(leaves) == published.root


@pytest.mark.parametrize(
    "damage", ["no tiles", "no log", "records", "last record", "last hash", "no checkpoint"]
)
def test_what_is_lost_is_made_again_from_the_journal(
    make: Callable[..., Bank], damage: str
) -> None:
    bank = make()
    old = bank.published(bank.open_accounts(1, 8))
    bank.stop()
    folder = bank.directory / "log"
    widest = max((folder / "tile/entries/000.p").iterdir(), key=lambda path: int(path.name))
    if damage == "no tiles":
        shutil.rmtree(folder / "tile")
    elif damage == "no log":
        shutil.rmtree(folder)
    elif damage == "records":
        data = bytearray(widest.read_bytes())
        data[data.index(b"time ") + 5] ^= 1
        widest.write_bytes(data)
    elif damage == "last record":
        widest.write_bytes(widest.read_bytes()[:-100])
    elif damage == "last hash":
        (folder / f"tile/0/000.p/{widest.name}").write_bytes(b"wrong")
    else:
        (folder / "checkpoint").write_text("half a checkp")
    again = make(bank.disk)
    new = again.published(again.open_accounts(100, 3))
    assert consistent(again.log, old, new)
    assert again.publisher.warnings() == []
    again.stop()
    fresh = OuterLog(again.directory / "log")
    assert fresh.root(new.size) == new.root
    for path in (again.directory / "log/tile/0/000.p").iterdir():
        assert path.stat().st_size == 32 * int(path.name)


def older(disk: MemoryDisk, blocks: int) -> MemoryDisk:
    """A disk as it was when it had fewer blocks: a backup."""
    backup = MemoryDisk(disk.instance)
    backup.blocks = disk.blocks[:blocks]
    backup.metadata = dict(disk.metadata)
    return backup


@pytest.mark.parametrize("kept", ["all", "key", "log"])
def test_after_an_old_backup_nothing_is_signed(make: Callable[..., Bank], kept: str) -> None:
    """The journal lost blocks that were signed: posting goes on, the log says so and stands still,
    also when it has as many records again.
    """
    bank = make()
    old = bank.published(bank.open_accounts(1, 12))
    bank.stop()
    blocks = parse_record(bank.log.record(old.size // 2)).last_block + 1
    if kept == "key":
        shutil.rmtree(bank.directory / "log")
    elif kept == "log":
        (bank.directory / "signing-key").chmod(0o644)
        (bank.directory / "signing-key.checkpoint").unlink()
    published = bank.log.checkpoint()
    again = make(older(bank.disk, blocks))
    for first in range(100, 140, 10):
        again.open_accounts(first, 10)
    until(lambda: again.publisher.warnings())
    (code, detail), *_ = again.publisher.warnings()
    assert code == "log_forked"
    assert "docs/keys.md" in detail
    assert again.engine.reasons_not_ready() == []
    assert again.log.checkpoint() == (None if kept == "key" else published)
    if kept != "log":
        note = signing.last_signed(again.key)
        assert note is not None
        assert parse_checkpoint(note.text) == old
    if kept != "key":
        assert again.log.root(old.size) == old.root


def test_the_log_of_another_ledger_or_name_is_left_alone(make: Callable[..., Bank]) -> None:
    bank = make()
    old = bank.published(bank.open_accounts(1, 3))
    bank.stop()
    again = make(MemoryDisk(bytes(16)))
    until(lambda: again.publisher.warnings())
    assert again.publisher.warnings()[0][0] == "log_forked"
    assert again.log.root(old.size) == old.root


def test_without_a_readable_key_posting_goes_on(
    make: Callable[..., Bank], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY_S", 0.05)
    monkeypatch.setattr(publishing, "LATE_S", 0.2)
    bank = make()
    first = bank.published(bank.open_accounts(1, 3))
    bank.stop()
    bank.key.chmod(0o640)
    again = make(bank.disk)
    block = again.open_accounts(100, 3)
    until(lambda: again.publisher.warnings())
    assert again.publisher.warnings()[0][0] == "signing_key_unreadable"
    assert again.engine.reasons_not_ready() == []
    until(lambda: again.log.interval_of_block(block) is not None)  # the records go on
    age = {name: samples for name, _, _, samples in again.publisher.metrics()}
    assert age["sanyuan_checkpoint_age_seconds"][0][1] > 0
    assert again.log.published() == first
    again.key.chmod(0o600)
    assert consistent(again.log, first, again.published(block))
    until(lambda: not again.publisher.warnings())


def test_a_full_disk_is_a_warning_and_tried_again(
    make: Callable[..., Bank], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY_S", 0.05)
    bank = make()
    first = bank.published(bank.open_accounts(1, 3))
    for blocked in ("signing-key.checkpoint.new", "log/checkpoint.new", "log/tile/entries"):
        path = bank.directory / blocked
        if path.is_dir():
            path.rename(path.with_name("away"))
            path.write_text("in the way")
        else:
            path.mkdir()
        block = bank.open_accounts(100 + bank.log.size, 2)
        until(lambda: bank.publisher.warnings())
        assert bank.publisher.warnings()[0][0] == "log_not_written"
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
            path.with_name("away").rename(path)
        second = bank.published(block)
        assert consistent(bank.log, first, second)
        first = second
    until(lambda: not bank.publisher.warnings())


def test_an_announced_key_is_in_the_record(make: Callable[..., Bank]) -> None:
    bank = make()
    bank.open_accounts(1, 3)
    following = signing.prepare_next(bank.key, name=NAME, passphrase=None)
    kind = layout.DEFINITION_KINDS["signing_key"][0]
    block = bank.post(
        "definitions",
        {"id": 77, "kind": kind},
        metadata={0: b'{"vkey":"%s"}' % str(following).encode()},
    )
    checkpoint = bank.published(block)
    bank.open_accounts(10, 3)
    index = bank.log.interval_of_block(block)
    assert index is not None
    assert parse_record(bank.log.record(index)).key == str(following)
    others = [parse_record(bank.log.record(i)).key for i in range(checkpoint.size) if i != index]
    assert set(others) <= {None}
    bank.stop()
    signing.switch_to_next(bank.key)
    again = make(bank.disk)
    note = parse_note(again.log.checkpoint() or "")
    assert note.signed_by(following) is None
    newer = again.published(again.open_accounts(50, 3))
    assert parse_note(again.log.checkpoint() or "").signed_by(following)
    assert consistent(again.log, checkpoint, newer)


def test_a_policy_without_our_key_is_noticed(make: Callable[..., Bank]) -> None:
    other = VerifierKey(NAME, 1, bytes(np.arange(32, dtype="u1")))
    bank = make(policy=parse_policy(f"log {other}\nquorum none\n".encode()))
    bank.published(bank.open_accounts(1, 2))
    assert [code for code, _ in bank.publisher.warnings()] == ["policy_refuses"]
