"""The stored form of a block: what goes in comes out, every flipped bit is found."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import _checksum, layout
from ledger._pack import BlockView, build_header, crc32c, encode_block
from ledger.errors import DataDamaged, FormatTooNew

ACCOUNT = layout.ENTRY_KINDS["account"][0]
TRANSFER = layout.ENTRY_KINDS["transfer"][0]
HAS_METADATA = layout.flag_mask("ENTRY", "has_metadata")
SEED = bytes(range(32))
U64_EDGES = [0, 1, 63, 64, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]


def _leaves(dtype, prefix=()):
    """Yield the path and dtype of every number of a nested dtype."""
    for name in dtype.names:
        if dtype[name].names:
            yield from _leaves(dtype[name], (*prefix, name))
        else:
            yield (*prefix, name), dtype[name]


LEAVES = list(_leaves(layout.ENTRY))
NOT_STORED = {("metadata",), ("reserved",)}


def at(array, path):
    for name in path:
        array = array[name]
    return array


def entries_of(columns, count):
    """Build entries from {path: values}; account ids and metadata are what decoding gives."""
    entries = np.zeros(count, layout.ENTRY)
    for path, dtype in LEAVES:
        if path in NOT_STORED or path[:2] in {
            ("record", "debit_account_id"),
            ("record", "credit_account_id"),
        }:
            continue
        values = columns.get(path, 0)
        at(entries, path)[:] = np.array(values, np.uint64).astype(dtype)
    openings = entries["kind"] == ACCOUNT
    entries["record"]["debit_account_id"][openings] = entries["record"]["id"][openings]
    return entries


def header_of(entries, number=7, **fields):
    return build_header(number=number, entry_count=len(entries), **fields)


def encoded(entries, number=7):
    return encode_block(entries, header_of(entries, number), seed=SEED)


def random_entries(count, seed, number=5):
    """Every column in one of many shapes: constant, narrow, full, mostly absent, edges."""
    rng = np.random.default_rng(seed)
    columns = {}
    for path, dtype in LEAVES:
        size = 8 * dtype.itemsize
        top = 2**size - 1
        shape = rng.integers(0, 7)
        full = rng.integers(0, top, count, dtype=np.uint64, endpoint=True)
        if shape == 0:
            values = np.full(count, full[0] if count else 0)
        elif shape == 1:
            values = full
        elif shape == 2:
            values = np.uint64(top // 3) + (full & np.uint64(15))
        elif shape == 3:
            values = np.where(rng.random(count) < 0.02, full, np.uint64(0))
        elif shape == 4:
            values = np.where(rng.random(count) < 0.5, np.uint64(top), np.uint64(0))
        elif shape == 5:
            values = np.arange(count, dtype=np.uint64) + np.uint64(top // 2)
        else:
            values = rng.choice(np.array(U64_EDGES, np.uint64), count) & np.uint64(top)
        columns[path] = values
    columns["kind",] = rng.integers(0, 9, count).astype(np.uint64)
    for side in ("debit", "credit"):
        back = rng.integers(0, number + 1, count).astype(np.uint64)
        near = (np.uint64(number) - back) << np.uint64(20) | (full & np.uint64(8191))
        if rng.random() < 0.7:
            columns[side, "previous"] = np.where(
                rng.random(count) < 0.1, np.uint64(layout.NO_POSITION), near
            )
    return entries_of(columns, count)


@st.composite
def entry_arrays(draw):
    count = draw(st.integers(0, 130))
    entries = random_entries(count, draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(0, 6)) if count else 0):
        path, dtype = draw(st.sampled_from([leaf for leaf in LEAVES if leaf[0] not in NOT_STORED]))
        if path[:2] in {("record", "debit_account_id"), ("record", "credit_account_id")}:
            continue
        index = draw(st.integers(0, count - 1))
        number = draw(st.sampled_from(U64_EDGES) | st.integers(0, layout.U64_MAX))
        at(entries, path)[index] = number & (2 ** (8 * dtype.itemsize) - 1)
    entries["record"]["debit_account_id"] = 0
    openings = entries["kind"] == ACCOUNT
    entries["record"]["debit_account_id"][openings] = entries["record"]["id"][openings]
    return entries


@settings(max_examples=150, deadline=None)
@given(entry_arrays(), st.sampled_from([0, 5, 2**44 - 1, 2**63]))
def test_rows_come_back(entries, number):
    view = BlockView(encoded(entries, number))
    view.check()
    assert view.entries().tobytes() == entries.tobytes()
    flagged = np.flatnonzero(entries["flags"] & HAS_METADATA)
    assert view.metadata_indexes.tolist() == flagged.tolist()


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 8190, layout.BLOCK_ENTRIES_MAX])
def test_rows_come_back_at_sizes(count):
    entries = random_entries(count, count)
    view = BlockView(encoded(entries))
    view.check()
    assert view.entries().tobytes() == entries.tobytes()
    for index in (0, count // 2, count - 1) if count else ():
        assert view.entries(index, index + 1).tobytes() == entries[index : index + 1].tobytes()


def test_greatest_numbers_everywhere():
    entries = entries_of({path: [layout.U64_MAX] * 3 for path, _ in LEAVES}, 3)
    assert BlockView(encoded(entries)).entries().tobytes() == entries.tobytes()
    entries[1] = np.zeros(1, layout.ENTRY)[0]
    assert BlockView(encoded(entries)).entries().tobytes() == entries.tobytes()


def test_header_attributes():
    entries = random_entries(3, 1)
    fields = {
        "first_entry": 11, "last_timestamp": 12, "last_account_timestamp": 13,
        "last_transfer_timestamp": 14, "business_date": 20260131, "flags": 1,
    }  # fmt: skip
    hashes = {"previous_hash": b"p" * 32, "root": b"r" * 32, "instance": b"i" * 16}
    header = header_of(entries, 9, **fields, **hashes)
    value = encode_block(entries, header, seed=SEED)
    for buffer in (value, memoryview(value), bytearray(value), np.frombuffer(value, "u1")):
        view = BlockView(buffer, number=9)
        assert view.header_bytes == value[:256] == header
        assert (view.number, view.entry_count, view.size_bytes) == (9, 3, len(value))
        assert view.seed == SEED
        for name, expected in (fields | hashes).items():
            assert getattr(view, name) == expected
    with pytest.raises(DataDamaged, match="block 8"):
        BlockView(value, number=8)
    for shift in range(1, 8):
        assert BlockView(memoryview(bytes(shift) + value)[shift:]).entries().tobytes() == (
            BlockView(value).entries().tobytes()
        )


def test_encode_takes_a_block_with_its_seed():
    class Block:
        entries = random_entries(4, 2)
        seed = SEED

    assert encode_block(Block(), header_of(Block.entries)) == encoded(Block.entries)


def test_encode_refuses_what_does_not_fit():
    entries = random_entries(4, 3)
    with pytest.raises(ValueError, match="5 entries"):
        encode_block(entries, build_header(number=7, entry_count=5), seed=SEED)
    with pytest.raises(ValueError, match="32 bytes"):
        encode_block(entries, header_of(entries), seed=b"short")
    with pytest.raises(ValueError, match="header"):
        encode_block(entries, bytes(256), seed=SEED)
    with pytest.raises(ValueError, match="ENTRY"):
        encode_block(entries["record"], header_of(entries), seed=SEED)
    entries["kind"] = ACCOUNT
    entries["record"]["debit_account_id"]["lo"] = entries["record"]["id"]["lo"] + 1
    with pytest.raises(ValueError, match="opening"):
        encoded(entries)
    with pytest.raises(ValueError, match="no field"):
        build_header(nonsense=1)
    with pytest.raises(ValueError, match="bytes"):
        build_header(root=b"short")
    with pytest.raises(OverflowError):
        build_header(entry_count=2**32)


def test_every_flipped_bit_is_found():
    value = bytearray(encoded(random_entries(70, 4)))
    BlockView(value).check()
    for place in range(len(value)):
        for bit in range(8) if place < 1200 else (place % 8,):
            value[place] ^= 1 << bit
            with pytest.raises(DataDamaged):
                BlockView(value).check()
            value[place] ^= 1 << bit
    BlockView(value).check()


def test_a_read_finds_the_flipped_byte_it_depends_on():
    """Whatever a damaged block still answers is what was written."""
    entries = random_entries(900, 6)
    value = bytearray(encoded(entries))
    rows = entries.tobytes()
    size = layout.ENTRY.itemsize
    rng = random.Random(1)
    refused = 0
    for _ in range(600):
        place, bit = rng.randrange(len(value)), 1 << rng.randrange(8)
        value[place] ^= bit
        try:
            view = BlockView(value)
        except DataDamaged:
            refused += 1
            value[place] ^= bit
            continue
        for index in rng.sample(range(900), 12):
            try:
                row = view.entries(index, index + 1).tobytes()
            except DataDamaged as error:
                refused += "block 7" in str(error)
            else:
                assert row == rows[index * size : (index + 1) * size]
        try:
            assert view.seed == SEED
        except DataDamaged:
            refused += 1
        value[place] ^= bit
    assert refused > 100


def test_truncated_values_are_refused():
    value = encoded(random_entries(40, 8))
    for size in range(len(value)):
        with pytest.raises(DataDamaged):
            BlockView(value[:size]).check()
    with pytest.raises(DataDamaged):
        BlockView(value + b"\0").check()


def _reseal(value):
    """Give a forged value correct checksums, as whoever can write the file could."""
    size = int.from_bytes(value[256:260], "little")
    body = 256 + size
    if not 300 < body < len(value):
        return
    value[body - 4 : body] = crc32c(value[: body - 4]).to_bytes(4, "little")
    total = len(value) - body
    chunks = -(-total // 4100)
    end = len(value) - 4 * chunks
    for chunk in range(chunks):
        part = value[body + 4096 * chunk : min(body + 4096 * (chunk + 1), end)]
        value[end + 4 * chunk : end + 4 * chunk + 4] = crc32c(part).to_bytes(4, "little")


def test_forged_values_never_read_out_of_bounds():
    """With checksums made right again, a changed byte gives DataDamaged or other numbers."""
    original = encoded(random_entries(150, 9))
    rng = random.Random(2)
    outcomes = {"refused": 0, "read": 0}
    for _ in range(4000):
        value = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            place = rng.choice((rng.randrange(80, 700), rng.randrange(len(value))))
            value[place] = rng.choice((0, 255, 128, rng.randrange(256)))
        _reseal(value)
        # An exact copy on the heap, so that a sanitizer build sees the first byte read too many.
        try:
            view = BlockView(bytes(value))
            view.entries()
            view.may_match(user_data_128=5, user_data_64=6, user_data_32=7, ledger=8, code=9)
            view.check()
        except DataDamaged:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50


def test_newer_format():
    value = bytearray(encoded(random_entries(3, 1)))
    value[8] = 1
    with pytest.raises(FormatTooNew, match="format 1"):
        BlockView(value)


def bench_entries(count, *, requests=1, accounts=1_000_000, seed=1, block=8000):
    """A block of the bench transfer: full payload, uniform accounts, time-ordered ids."""
    rng = np.random.default_rng(seed)
    entries = np.zeros(count, layout.ENTRY)
    record = entries["record"]
    entries["kind"] = TRANSFER
    start = 1_790_000_000_000_000_000
    index = np.arange(count, dtype=np.uint64)
    request = index * np.uint64(requests) // np.uint64(max(count, 1))
    record["timestamp"] = np.uint64(start) + request * np.uint64(1_234_567) + index
    milliseconds = np.uint64(start // 10**6) + request
    record["id"]["hi"] = milliseconds << np.uint64(16) | rng.integers(0, 2**16, count, np.uint64)
    record["id"]["lo"] = rng.integers(0, 2**64 - 1, count, np.uint64)
    record["amount"]["lo"] = rng.lognormal(9, 1.2, count).astype(np.uint64)
    for name in ("lo", "hi"):
        record["user_data_128"][name] = rng.integers(0, 2**64 - 1, count, np.uint64)
    record["user_data_64"] = rng.integers(0, 2**64 - 1, count, np.uint64)
    record["user_data_32"] = rng.integers(0, 2**32 - 1, count, np.uint64)
    record["ledger"] = 1
    record["code"] = 1
    blocks_between = max(1, accounts // (2 * count))
    for side in ("debit", "credit"):
        entries[f"{side}_slot"] = rng.integers(0, accounts, count)
        gap = rng.exponential(blocks_between, count).astype(np.uint64) % np.uint64(block)
        entries[side]["previous"] = (np.uint64(block) - gap) << np.uint64(20) | rng.integers(
            0, count, count, np.uint64
        )
        number = rng.poisson(100, count).astype(np.uint64)
        entries[side]["number"] = number
        entries[side]["skip"] = np.where(
            number % np.uint64(64) == 0,
            np.uint64((block // 2) << 20) + number,
            np.uint64(layout.NO_POSITION),
        )
        for name in ("debits_posted", "credits_posted"):
            entries[side][name]["lo"] = number * np.uint64(8000) + record["amount"]["lo"]
    return entries


def test_sizes():
    """A block of one entry stays small; a bench transfer takes what docs/storage.md states."""
    assert len(encoded(bench_entries(1))) < 560
    for count, requests in ((8190, 1), (65_536, 8)):
        entries = bench_entries(count, requests=requests)
        value = encode_block(entries, build_header(number=8000, entry_count=count), seed=SEED)
        assert BlockView(value).entries(0, 9).tobytes() == entries[:9].tobytes()
        assert len(value) / count < 76


def test_filters_let_pass_what_is_there_and_little_else():
    entries = bench_entries(5000)
    entries["record"]["code"] = 10 + np.arange(5000) % 3
    view = BlockView(encoded(entries))
    for index in range(0, 5000, 7):
        record = entries["record"][index]
        assert view.may_match(
            user_data_128=layout.to_int(record["user_data_128"]),
            user_data_64=int(record["user_data_64"]),
            user_data_32=int(record["user_data_32"]),
            ledger=1,
            code=int(record["code"]),
        )
    rng = random.Random(3)
    for name, bits in (("user_data_128", 128), ("user_data_64", 64), ("user_data_32", 32)):
        passed = sum(view.may_match(**{name: rng.getrandbits(bits)}) for _ in range(4000))
        assert passed < 120, name
    assert not view.may_match(ledger=2)
    assert not view.may_match(code=9)
    assert not view.may_match(code=13)
    assert view.may_match()


@pytest.mark.parametrize("distinct", [0, 1, 3, 24, 25, 200])
def test_filters_of_few_values_are_small(distinct):
    entries = bench_entries(2000)
    plain = entries.copy()
    plain["record"]["user_data_64"] = 0
    values = np.arange(1, distinct + 1, dtype=np.uint64) * np.uint64(0x123456789AB)
    if distinct:
        entries["record"]["user_data_64"] = np.random.default_rng(1).choice(values, 2000)
    else:
        entries["record"]["user_data_64"] = 0
    value = encoded(entries)
    view = BlockView(value)
    for number in np.unique(entries["record"]["user_data_64"]):
        assert view.may_match(user_data_64=int(number))
    passed = sum(view.may_match(user_data_64=number) for number in range(10**6, 10**6 + 2000))
    assert passed < 60 if distinct else passed == 0
    row_bytes = (view.row_size_bytes - BlockView(encoded(plain)).row_size_bytes) * 2000
    assert len(value) - len(encoded(plain)) - row_bytes < 60 + 2 * distinct


def test_crc32c_vectors():
    """RFC 3720, B.4, and the instruction against the tables at sizes around the stripes."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"") == 0
    data = random.Random(5).randbytes(13_000)
    for size in (0, 1, 7, 8, 9, 1359, 1360, 4079, 4080, 4081, 4096, 8161, 13_000):
        assert crc32c(data[:size]) == _checksum._crc32c_software(data[:size])
        assert crc32c(data[size:], crc32c(data[:size])) == crc32c(data)
