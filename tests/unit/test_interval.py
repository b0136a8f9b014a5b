"""Interval records: made from block headers, read back strictly."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json

import numpy as np
import pytest

from ledger import layout
from ledger._merkle import block_hash, derive_key, keyed_hash
from ledger.errors import DataDamaged
from ledger.proof.interval import (
    ORIGIN_BYTES_MAX,
    RECORD_BYTES_MAX,
    Intervals,
    Record,
    State,
    announced_key,
    interval_root,
    parse_record,
)
from ledger.proof.notes import COSIGNATURE, ED25519, VerifierKey

ORIGIN = "bank.example/ledger"
VKEY = str(VerifierKey(ORIGIN, ED25519, bytes(range(32))))
INSTANCE = bytes(range(16))
RECORD = Record(
    ORIGIN, INSTANCE, 7, 9, 70, 30, 1_767_225_600_000_000_000, 20260101,
    hashlib.sha256(b"root").digest(), hashlib.sha256(b"last").digest(),
    State(5, 1_767_225_500_000_000_000, 20251230, 20251231, hashlib.sha256(b"state").digest()),
    None,
)  # fmt: skip
KEYED = derive_key("sanyuan 2026 v1 interval")


class Block:
    """A block of which only the header matters."""

    def __init__(self, header: bytes) -> None:
        self.header_bytes = header


class Chain:
    """Headers in order, and the view of them that storage gives."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []

    def add(self, *, seal: bool = False, count: int = 3, state: tuple[int, bytes] | None = None):
        row = np.zeros(1, layout.BLOCK_HEADER)
        number = len(self.blocks)
        row["instance"][0] = np.frombuffer(INSTANCE, "u1")
        row["number"], row["entry_count"], row["flags"] = number, count, int(seal)
        if number:
            last = np.frombuffer(self.blocks[-1].header_bytes, layout.BLOCK_HEADER)[0]
            row["first_entry"] = last["first_entry"] + last["entry_count"]
            digest = block_hash(self.blocks[-1].header_bytes)
            row["previous_hash"][0] = np.frombuffer(digest, "u1")
        row["last_timestamp"], row["business_date"] = 1000 + number, 20260101 + number
        row["root"][0] = number
        if state is not None:
            row["state_block"] = state[0]
            row["state_root"][0] = np.frombuffer(state[1], "u1")
        self.blocks.append(Block(row.tobytes()))

    def block(self, number: int) -> Block:
        return self.blocks[number]

    def metadata(self, position: int) -> bytes | None:
        return None

    def records(self, *steps: int) -> list[Record]:
        intervals = Intervals(ORIGIN, INSTANCE)
        return [
            record
            for last in (*steps, len(self.blocks) - 1)
            for record in intervals.read(self, last)
        ]


def root_by_halves(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return keyed_hash(KEYED, root_by_halves(hashes[:k]) + root_by_halves(hashes[k:]))


def test_root_of_an_interval() -> None:
    hashes = [hashlib.sha256(bytes([i])).digest() for i in range(40)]
    for count in range(1, 41):
        assert interval_root(hashes[:count]) == root_by_halves(hashes[:count])


def test_records_follow_from_the_headers_however_they_are_read() -> None:
    chain = Chain()
    state = hashlib.sha256(b"state").digest()
    for number in range(12):
        chain.add(
            seal=number in (0, 4, 5, 10),
            count=number + 1,
            state=(2, state) if number in (4, 6) else (8, state[::-1]) if number == 10 else None,
        )
    records = chain.records()
    assert [(r.first_block, r.last_block) for r in records] == [(0, 0), (1, 4), (5, 5), (6, 10)]
    assert [(r.first_entry, r.entry_count) for r in records] == [(0, 1), (1, 14), (15, 6), (21, 45)]
    assert [r.timestamp for r in records] == [1000, 1004, 1005, 1010]
    assert [r.business_date for r in records] == [20260101, 20260105, 20260106, 20260111]
    second = State(2, 1002, 20260102, 20260103, state)
    assert [r.state for r in records] == [
        None,
        second,
        second,
        State(8, 1008, 20260108, 20260109, state[::-1]),
    ]
    hashes = [block_hash(one.header_bytes) for one in chain.blocks]
    for record in records:
        own = hashes[record.first_block : record.last_block + 1]
        assert record.root == root_by_halves(own)
        assert record.last_hash == own[-1]
        assert parse_record(record.text()) == record
    for steps in ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (3, 3, 9), (11, 11)):
        assert chain.records(*steps) == records
    for place, record in enumerate(records):
        later = Intervals(ORIGIN, INSTANCE, record)
        assert list(later.read(chain, 11)) == records[place + 1 :]
        assert (later.next_block, later.open_blocks) == (12, 1)


def test_a_failed_read_is_made_good_later() -> None:
    chain = Chain()
    for number in range(9):
        chain.add(seal=number % 3 == 2)
    whole = chain.records()
    hidden, chain.blocks = chain.blocks, chain.blocks[:4]
    intervals = Intervals(ORIGIN, INSTANCE)
    got = []
    reading = intervals.read(chain, 8)
    got.append(next(reading))
    with pytest.raises(IndexError):
        next(reading)
    chain.blocks = hidden
    got += list(intervals.read(chain, 8))
    assert got == whole


def test_a_block_that_does_not_follow_is_refused() -> None:
    for change in ("previous_hash", "instance", "number", "state_block"):
        chain = Chain()
        chain.add()
        chain.add(seal=True, state=(0, bytes(31) + b"\1"))
        header = np.frombuffer(chain.blocks[1].header_bytes, layout.BLOCK_HEADER).copy()
        header[change] += 1
        chain.blocks[1] = Block(header.tobytes())
        with pytest.raises(DataDamaged):
            chain.records()
    chain = Chain()
    chain.add(seal=True)
    record = dataclasses.replace(chain.records()[0], last_hash=bytes(32))
    chain.add(seal=True)
    with pytest.raises(DataDamaged, match="does not follow"):
        list(Intervals(ORIGIN, INSTANCE, record).read(chain, 1))


def test_the_text_is_that_of_the_contract() -> None:
    keyed = dataclasses.replace(RECORD, key=VKEY)
    assert keyed.text() == (
        "sanyuan interval v1\n"
        "origin bank.example/ledger\n"
        "instance 000102030405060708090a0b0c0d0e0f\n"
        "blocks 7 9\n"
        "entries 70 30\n"
        "time 1767225600000000000\n"
        "date 20260101\n"
        f"root {encoded(RECORD.root)}\n"
        f"last {encoded(RECORD.last_hash)}\n"
        f"state 5 1767225500000000000 20251230 20251231 {encoded(RECORD.state.root)}\n"
        f"key {VKEY}\n"
    )
    without = dataclasses.replace(RECORD, state=None, business_date=0)
    assert "\nstate none\n" in without.text()
    assert "\ndate 0\n" in without.text()
    for record in (keyed, without, RECORD):
        assert parse_record(record.text()) == record


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_the_longest_record_is_within_the_limit() -> None:
    origin = "x" * ORIGIN_BYTES_MAX
    most = (1 << 63) - 1
    record = Record(
        origin, INSTANCE, most - 1, most, most, 1 << 62, 1 << 63, 99991231,
        b"\xff" * 32, b"\xff" * 32, State(most - 1, 1 << 63, 99991231, 99991231, b"\xff" * 32),
        str(VerifierKey(origin, ED25519, b"\xff" * 32)),
    )  # fmt: skip
    assert len(record.text()) <= RECORD_BYTES_MAX
    assert parse_record(record.text()) == record
    with pytest.raises(ValueError, match="origin"):
        Intervals(origin + "x", INSTANCE)


LINES = dataclasses.replace(RECORD, key=VKEY).text().splitlines(keepends=True)


def with_line(start: str, line: str) -> str:
    return "".join(line if one.startswith(start) else one for one in LINES)


@pytest.mark.parametrize(
    "text",
    {
        "empty": "",
        "no line end": "".join(LINES)[:-1],
        "another line end": "".join(LINES).replace("\n", "\r\n"),
        "trailing line": "".join(LINES) + "x\n",
        "empty line at the end": "".join(LINES) + "\n",
        "version": with_line("sanyuan", "sanyuan interval v2\n"),
        "swapped lines": "".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
        "missing line": "".join(LINES[:5] + LINES[6:]),
        "two spaces": with_line("blocks", "blocks 7  9\n"),
        "leading zero": with_line("blocks", "blocks 07 9\n"),
        "a sign": with_line("blocks", "blocks +7 9\n"),
        "not a digit of ASCII": with_line("blocks", "blocks ٧ 9\n"),
        "reversed blocks": with_line("blocks", "blocks 9 7\n"),
        "fewer entries than blocks": with_line("entries", "entries 70 2\n"),
        "number above u64": with_line("entries", "entries 70 18446744073709551616\n"),
        "time above u64": with_line("time", "time 18446744073709551616\n"),
        "date of 7 digits": with_line("date", "date 2026010\n"),
        "capital hex": with_line("instance", "instance 000102030405060708090A0B0C0D0E0F\n"),
        "short instance": with_line("instance", "instance 0001\n"),
        "origin with a plus": with_line("origin", "origin a+b\n"),
        "empty origin": with_line("origin", "origin \n"),
        "root not canonical": with_line("root", f"root {'A' * 42}B=\n"),
        "root without padding": with_line("root", f"root {'A' * 43}\n"),
        "short root": with_line("root", "root AAAA\n"),
        "state of a later block": with_line(
            "state", f"state 9 1 20260101 20260101 {encoded(bytes(32))}\n"
        ),
        "state of a later time": with_line(
            "state", f"state 5 1767225600000000001 20260101 20260101 {encoded(bytes(32))}\n"
        ),
        "state without a root": with_line("state", "state 5 1 20260101 20260101\n"),
        "key of another origin": with_line(
            "key", f"key {VerifierKey('other.example', ED25519, bytes(32))}\n"
        ),
        "key of a witness": with_line(
            "key", f"key {VerifierKey(ORIGIN, COSIGNATURE, bytes(32))}\n"
        ),
        "key with a wrong id": with_line("key", f"key {VKEY.replace('+', '+0')[:-1]}\n"),
        "too long": with_line("origin", f"origin {'x' * 1024}\n"),
    }.items(),
    ids=lambda item: item[0],
)
def test_other_texts_are_refused(text: tuple[str, str]) -> None:
    assert text[1] != "".join(LINES)
    with pytest.raises(DataDamaged):
        parse_record(text[1])


def test_every_changed_byte_is_another_record_or_none() -> None:
    whole = "".join(LINES)
    for place in range(len(whole)):
        for flipped in (1, 2, 16, 32):
            changed = whole[:place] + chr(ord(whole[place]) ^ flipped) + whole[place + 1 :]
            try:
                record = parse_record(changed)
            except DataDamaged:
                continue
            assert record.text() == changed


def test_announced_keys() -> None:
    assert announced_key(json.dumps({"vkey": VKEY}).encode(), ORIGIN) == VKEY
    for metadata in (
        b"", b"{}", b"[]", b"null", b'"x"', b'{"vkey":1}', b'{"vkey":"x"}', b"\xff",
        json.dumps({"vkey": VKEY + " "}).encode(),
        json.dumps({"vkey": str(VerifierKey(ORIGIN, COSIGNATURE, bytes(32)))}).encode(),
    ):  # fmt: skip
        assert announced_key(metadata, ORIGIN) is None
    assert announced_key(json.dumps({"vkey": VKEY}).encode(), "other.example") is None
