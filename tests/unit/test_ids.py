"""The index of ids against a dictionary: over sealed tables, runs, merges, reopening and damage."""

import random
import threading

import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import _ids, layout
from ledger.errors import DataDamaged, DiskFull, FormatTooNew
from ledger.storage import ids as storage_ids
from ledger.storage.ids import IdIndex

INSTANCE = bytes(range(16))
KINDS = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")


def open_env(path):
    return lmdb.open(
        str(path), map_size=1 << 30, max_dbs=1, sync=False, metasync=False, lib_version=0
    )


@pytest.fixture
def env(tmp_path):
    environment = open_env(tmp_path)
    yield environment
    environment.close()


def entries_of(rows) -> np.ndarray:
    """Return ENTRY rows from (kind, id, pending id, flags)."""
    entries = np.zeros(len(rows), layout.ENTRY)
    for entry, (kind, id, pending_id, flags) in zip(entries, rows, strict=True):
        entry["kind"] = KINDS[kind]
        entry["record"]["id"] = layout.from_int(id)
        entry["record"]["pending_id"] = layout.from_int(pending_id)
        entry["record"]["flags"] = flags
    return entries


def transfers_of(rows) -> np.ndarray:
    """Return TRANSFER events from (id, pending id, flags)."""
    return layout.record_array(
        layout.TRANSFER, [{"id": i, "pending_id": p, "flags": f} for i, p, f in rows]
    )


def plain_block(ids) -> np.ndarray:
    """Return the entries of a block of transfers."""
    entries = np.zeros(len(ids), layout.ENTRY)
    entries["kind"] = KINDS["transfer"]
    entries["record"]["id"] = u128(ids)
    return entries


def u128(ids) -> np.ndarray:
    return np.array([layout.from_int(int(id)) for id in ids], layout.U128)


def random_ids(count, seed):
    return np.frombuffer(np.random.default_rng(seed).bytes(16 * count), layout.U128)


def found(index, ids, namespace=0):
    """Return {id: {(position, resolved)}} as the index says, for those that it finds."""
    candidates = index.candidates_of(u128(ids), namespace)
    answer = {}
    for hit in index.lookup(candidates):
        id = layout.to_int(candidates[int(hit["candidate"])]["id"])
        answer.setdefault(id, set()).add((int(hit["position"]), bool(hit["resolved"])))
    return answer


class Model:
    """What the index must know: a dictionary, and the blocks in order."""

    def __init__(self):
        self.records = {}
        self.blocks = []

    def add(self, rows):
        number = len(self.blocks)
        for place, (kind, id, pending_id, flags) in enumerate(rows):
            position = layout.position(number, place)
            if kind in ("transfer", "burned_id"):
                self.note(0, id, position, False)
            elif kind in ("account_settings", "definition", "administration"):
                self.note(1, id, position, False)
            if kind == "expiry" or (kind == "transfer" and flags & (POST | VOID)):
                self.note(0, pending_id, position, True)
        self.blocks.append(rows)
        return entries_of(rows), number

    def note(self, namespace, id, position, resolved):
        self.records.setdefault((namespace, id), set()).add((position, resolved))

    def check(self, index, ids):
        for namespace in (0, 1):
            wanted = {
                id: self.records[namespace, id] for id in ids if (namespace, id) in self.records
            }
            assert found(index, ids, namespace) == wanted


def random_rows(source, count):
    """Rows of all kinds; ids from a small range, so that they meet again in other kinds."""
    rows = []
    for _ in range(count):
        kind = source.choice(
            ["transfer"] * 6 + ["account", "expiry", "burned_id", *list(KINDS)[4:]]
        )
        id = (
            0
            if kind == "expiry"
            else source.choice([source.randrange(1, 5000), source.getrandbits(127)])
        )
        pending_id, flags = 0, 0
        if kind == "expiry" or (kind == "transfer" and source.random() < 0.3):
            pending_id, flags = source.randrange(1, 5000), source.choice([POST, VOID])
        rows.append((kind, id or 0, pending_id, flags))
    return rows


ACTIONS = ["insert", "insert", "insert", "durable", "drain", "reopen"]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=20))
def test_against_a_dictionary(tmp_path_factory, seed, actions):
    source = random.Random(seed)
    path = tmp_path_factory.mktemp("ids")
    model, env = Model(), open_env(path)
    index = IdIndex(INSTANCE, 1024, env)
    durable = -1
    ids = {0, layout.U128_MAX, *range(1, 60), 2**100}
    try:
        for action in actions:
            if action == "insert":
                for _ in range(source.randrange(1, 8)):
                    rows = random_rows(source, source.choice([1, 30, 700]))
                    ids.update(source.choice(rows)[1] for _ in range(5))
                    index.insert_block(*model.add(rows))
            elif action == "durable" and model.blocks:
                durable = source.randrange(durable, len(model.blocks))
                index.maintain(durable)
            elif action == "drain":
                index.drain()
            elif action == "reopen":
                index.close()
                env.close()
                env = open_env(path)
                index = IdIndex(INSTANCE, 1024, env)
                assert index.floor <= durable
                start = source.randrange(index.floor + 2)
                for number in range(start, len(model.blocks)):
                    index.insert_block(entries_of(model.blocks[number]), number)
            model.check(index, ids)
            assert len(index) == sum(map(len, model.records.values()))
    finally:
        index.close()
        env.close()


def test_memory_keeps_everything():
    model, index = Model(), IdIndex(INSTANCE, 1024)
    source = random.Random(1)
    for _ in range(40):
        index.insert_block(*model.add(random_rows(source, 200)))
        index.maintain(0)
    index.drain()
    index.close()
    assert index.run_count == 0
    model.check(index, {id for _, id in model.records} | {10**30})


def test_candidates_of_events():
    index = IdIndex(INSTANCE, 1024)
    rows = [("transfer", 10, 0, 0), ("burned_id", 12, 0, 0), ("transfer", 14, 10, POST)]
    index.insert_block(entries_of(rows), 3)
    events = transfers_of(
        [
            (10, 0, 0),  # exists
            (11, 0, 0),  # below the largest, but unknown
            (12, 0, 0),  # burned
            (15, 10, POST),  # only the hold is known
            (16, 10, VOID),  # its hold is open in the core
            (17, 14, 0),  # no post: pending_id means nothing
            (0, 0, POST),
            (layout.U128_MAX, layout.U128_MAX, VOID),
        ]
    )
    skip = np.zeros(len(events), bool)
    skip[4] = True
    candidates = index.candidates(events, skip)
    assert [layout.to_int(row["id"]) for row in candidates] == [10, 12, 10]
    hits = index.lookup(candidates)
    assert hits.tolist() == [
        (0, layout.position(3, 0), False),
        (0, layout.position(3, 2), True),
        (1, layout.position(3, 1), False),
        (2, layout.position(3, 0), False),
        (2, layout.position(3, 2), True),
    ]
    assert len(index.candidates(events)) == 4
    assert len(index.candidates(events[:0])) == 0
    assert len(index.lookup(candidates[:0])) == 0


def fill(index, *, blocks, size, seed=0, start=0):
    """Insert blocks of random ids, each durable at once; return all ids."""
    ids = random_ids(blocks * size, seed)
    for number in range(blocks):
        entries = np.zeros(size, layout.ENTRY)
        entries["kind"] = KINDS["transfer"]
        entries["record"]["id"] = ids[number * size : (number + 1) * size]
        index.insert_block(entries, start + number)
        index.maintain(start + number)
    index.drain()
    return ids


def test_runs_are_merged_and_left_overs_removed(env):
    index = IdIndex(INSTANCE, 20_000, env)
    ids = fill(index, blocks=200, size=1000)
    # 200,000 ids in tables of 10,000: 19 runs at least, were they not merged by fours.
    assert 1 <= index.run_count <= 3 * 3
    candidates = index.candidates_of(ids, 0)
    assert len(candidates) == len(ids)
    hits = index.lookup(candidates)
    places = np.arange(len(ids), dtype=np.uint64)
    assert np.array_equal(hits["candidate"], places)
    assert np.array_equal(hits["position"], places // 1000 << np.uint64(20) | places % 1000)
    assert not hits["resolved"].any()
    with env.begin(db=env.open_db(b"runs")) as transaction:
        numbers = {key[5:13] for key, _ in transaction.cursor() if key.startswith(b"chunk")}
        heads = {key[3:] for key, _ in transaction.cursor() if key.startswith(b"run")}
    assert numbers == heads
    assert len(heads) == index.run_count
    index.close()


def test_few_unknown_ids_are_candidates(env):
    index = IdIndex(INSTANCE, 50_000, env)
    fill(index, blocks=30, size=5000)
    unknown = random_ids(100_000, 99)
    share = len(index.candidates_of(unknown, 0)) / len(unknown) / index.run_count
    assert 0 < share < 0.01
    assert len(index.lookup(index.candidates_of(unknown, 0))) == 0
    index.close()


def test_hashes_below_all_of_a_run_are_in_none_of_its_chunks(env):
    index = IdIndex(INSTANCE, 2048, env)
    fill(index, blocks=4, size=1024)
    run = index._view.runs[0]
    below = np.zeros(200_000, layout.DTYPES["CANDIDATE"])
    below["hash"] = np.random.default_rng(1).integers(0, int(run.fences[0]), len(below), np.uint64)
    below["namespace"] = layout.NAMESPACES["administrative"][0]
    passed = run.filter.select(below)
    assert len(passed)
    for place in passed[:50].tolist():
        assert len(index.lookup(below[place : place + 1])) == 0
    index.close()


def test_ordered_ids_need_no_filter(env):
    index = IdIndex(INSTANCE, 2048, env)
    for number in range(20):
        ids = [(number * 1000 + i + 1) << 64 for i in range(1000)]
        events = transfers_of([(id, 0, 0) for id in ids])
        assert len(index.candidates(events)) == 0
        index.insert_block(plain_block(ids), number)
        index.maintain(number)
    index.drain()
    assert index.run_count > 0
    assert len(index.candidates(transfers_of([(1 << 64, 0, 0)]))) == 1
    index.close()


def test_nothing_is_written_before_it_is_durable(env):
    index = IdIndex(INSTANCE, 1024, env)
    for number in range(40):
        index.insert_block(plain_block(range(number * 100 + 1, number * 100 + 101)), number)
    index.drain()
    assert index.floor == -1
    assert index.run_count == 0
    index.maintain(20)
    index.drain()
    assert 0 <= index.floor <= 20
    index.maintain(39)
    index.drain()
    assert 20 <= index.floor <= 39
    assert not index.backlogged
    index.close()


def test_a_table_grows_while_the_disk_is_behind(env):
    index = IdIndex(INSTANCE, 1024, env)
    for number in range(storage_ids.BACKLOG_TABLES + 2):
        index.insert_block(plain_block(range(number * 5000 + 1, number * 5000 + 5001)), number)
    assert index.backlogged
    assert len(found(index, range(1, 40_000, 37))) == len(range(1, 40_000, 37))
    index.maintain(100)
    index.drain()
    assert not index.backlogged
    index.close()


def test_equal_hashes_stay_together(env):
    """More records of one id than a chunk holds, over several runs, and its neighbours."""
    index = IdIndex(INSTANCE, 20_000, env)
    rows = [("expiry", 0, 7, 0)] * 6000 + [("transfer", id, 0, 0) for id in range(8, 5008)]
    for number in range(9):
        index.insert_block(entries_of(rows), number)
        index.maintain(number)
    index.drain()
    wanted = {(layout.position(n, i), True) for n in range(9) for i in range(6000)}
    assert found(index, [7]) == {7: wanted}
    assert found(index, [4000]) == {4000: {(layout.position(n, 9992), False) for n in range(9)}}
    index.close()


def test_readers_beside_the_writer(env):
    """Other threads find every id from the moment it is in, through seals, runs and merges."""
    index = IdIndex(INSTANCE, 4096, env)
    ids, size = random_ids(120_000, 5), 1000
    inserted, failures, stop = [0], [], threading.Event()

    def read():
        source = np.random.default_rng(threading.get_ident() % 1000)
        while not stop.is_set():
            count = inserted[0]
            if not count:
                continue
            places = np.sort(source.choice(count, min(count, 50), replace=False))
            hits = index.lookup(index.candidates_of(ids[places], 0))
            wanted = places // size << 20 | places % size
            if hits["position"].tolist() != wanted.tolist():
                failures.append((count, places, hits))
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(len(ids) // size):
        entries = np.zeros(size, layout.ENTRY)
        entries["kind"] = KINDS["transfer"]
        entries["record"]["id"] = ids[number * size : (number + 1) * size]
        index.insert_block(entries, number)
        inserted[0] += size
        index.maintain(number)
    index.drain()
    stop.set()
    for reader in readers:
        reader.join()
    index.close()
    assert not failures


def stored(env):
    with env.begin(db=env.open_db(b"runs")) as transaction:
        return dict(transaction.cursor())


def damage(env, key, place):
    with env.begin(db=env.open_db(b"runs"), write=True) as transaction:
        value = bytearray(transaction.get(key))
        value[place] ^= 1
        transaction.put(key, bytes(value))


@pytest.mark.parametrize("prefix", [b"index", b"run", b"filter"])
@pytest.mark.parametrize("place", [0, 20, -1])
def test_damage_is_found_at_start(env, prefix, place):
    index = IdIndex(INSTANCE, 1024, env)
    fill(index, blocks=8, size=100)
    index.close()
    damage(env, next(key for key in stored(env) if key.startswith(prefix)), place)
    with pytest.raises(DataDamaged, match="index of ids"):
        IdIndex(INSTANCE, 1024, env)


@pytest.mark.parametrize("place", [0, 17, 40, -1])
def test_damage_of_a_chunk_is_found_and_named(env, place):
    index = IdIndex(INSTANCE, 1024, env)
    ids = fill(index, blocks=8, size=100)
    index.close()
    key = next(key for key in stored(env) if key.startswith(b"chunk"))
    damage(env, key, place)
    index = IdIndex(INSTANCE, 1024, env)
    with pytest.raises(DataDamaged, match="chunk 0 of run 1"):
        index.lookup(index.candidates_of(ids, 0))
    index.close()


def test_damage_stops_the_merge(env):
    index = IdIndex(INSTANCE, 1024, env)
    fill(index, blocks=8, size=100)
    index.close()
    damage(env, next(key for key in stored(env) if key.startswith(b"chunk")), 50)
    index = IdIndex(INSTANCE, 1024, env)
    with pytest.raises(DataDamaged, match="chunk 0 of run 1"):
        fill(index, blocks=40, size=100, seed=1, start=8)
    with pytest.raises(DataDamaged):
        index.maintain(1000)
    index.close()


@pytest.mark.parametrize("prefix", [b"index", b"filter", b"chunk"])
def test_lost_values_are_found(env, prefix):
    index = IdIndex(INSTANCE, 1024, env)
    ids = fill(index, blocks=8, size=100)
    index.close()
    key = next(key for key in stored(env) if key.startswith(prefix))
    with env.begin(db=env.open_db(b"runs"), write=True) as transaction:
        transaction.delete(key)
    if prefix == b"chunk":
        index = IdIndex(INSTANCE, 1024, env)
        candidates = index.candidates_of(ids, 0)
        with pytest.raises(DataDamaged, match="chunk 0 of run 1 is missing"):
            index.lookup(candidates)
    else:
        with pytest.raises(DataDamaged, match="missing"):
            IdIndex(INSTANCE, 1024, env)


def test_left_overs_of_a_crash_are_removed(env):
    index = IdIndex(INSTANCE, 1024, env)
    ids = fill(index, blocks=8, size=100)
    index.close()
    before = stored(env)
    with env.begin(db=env.open_db(b"runs"), write=True) as transaction:
        for run in (2, 900):
            for part in range(3):
                transaction.put(storage_ids._chunk_key(run, part), b"half a run" * 1000)
            transaction.put(storage_ids._filter_key(run, 0), b"half a filter")
    index = IdIndex(INSTANCE, 1024, env)
    index.drain()
    assert stored(env) == before
    kept = ids[: 100 * (index.floor + 1)]
    more = fill(index, blocks=8, size=100, seed=1, start=index.floor + 1)
    hits = index.lookup(index.candidates_of(np.concatenate([kept, more]), 0))
    assert len(hits) == len(kept) + len(more)
    index.close()


def test_another_instance_and_a_newer_format_are_refused(env, monkeypatch):
    index = IdIndex(INSTANCE, 1024, env)
    with monkeypatch.context() as patch:
        patch.setattr(storage_ids, "FORMAT", 2)
        fill(index, blocks=8, size=100)
    index.close()
    with pytest.raises(FormatTooNew):
        IdIndex(INSTANCE, 1024, env)
    monkeypatch.setattr(storage_ids, "FORMAT", 2)
    with pytest.raises(DataDamaged, match="another ledger"):
        IdIndex(bytes(16), 1024, env)


def test_a_full_disk_is_waited_for(tmp_path, monkeypatch):
    """The map stands for the disk: too small at first, then larger."""
    monkeypatch.setattr(storage_ids, "RETRY_S", 0.01)
    with lmdb.open(str(tmp_path), map_size=1 << 17, max_dbs=1, sync=False) as env:
        index = IdIndex(INSTANCE, 50_000, env)
        ids = random_ids(200_000, 0)
        for number in range(20):
            entries = np.zeros(10_000, layout.ENTRY)
            entries["kind"] = KINDS["transfer"]
            entries["record"]["id"] = ids[number * 10_000 : (number + 1) * 10_000]
            index.insert_block(entries, number)
            index.maintain(number)
        with pytest.raises(DiskFull):
            index.drain()
        index.maintain(19)
        assert index.run_count == 0
        assert len(index.lookup(index.candidates_of(ids, 0))) == len(ids)
        env.set_mapsize(1 << 30)
        while index.run_count == 0 or index._full is not None:
            threading.Event().wait(0.01)
        index.drain()
        assert index.floor >= 16
        assert len(index.lookup(index.candidates_of(ids, 0))) == len(ids)
        with env.begin(db=env.open_db(b"runs")) as transaction:
            numbers = {key[5:13] for key, _ in transaction.cursor() if key.startswith(b"chunk")}
        assert len(numbers) == index.run_count
        index.close()


@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**64 - 1), st.integers(3, 900), st.integers(0, 65_535), st.booleans()
        ),
        max_size=60,
    )
)
def test_chunks_hold_what_was_packed(rows):
    rows.sort(key=lambda row: row[0])
    hashes = np.array([row[0] for row in rows], np.uint64)
    references = np.array(
        [block << 20 | index | resolved << 63 for _, block, index, resolved in rows], np.uint64
    )
    bits = _ids.index_bits_of(references)
    packing = {"base_block": 3, "index_bits": bits, "width": _ids.reference_width(3, 900, bits)}
    assert packing["width"] <= 4
    body = _ids.encode_chunk(hashes, references, **packing)
    assert len(body) == len(rows) * (8 + packing["width"])
    again = _ids.decode_chunk(body, len(rows), **packing)
    assert np.array_equal(again[0], hashes)
    assert np.array_equal(again[1], references)
    wanted = np.array(sorted({row[0] for row in rows} | {5}), np.uint64)
    found = _ids.search_chunk(body, len(rows), wanted, **packing)
    assert sorted((int(wanted[place]), reference) for place, reference in found) == sorted(
        (hash, reference)
        for hash, reference in zip(hashes.tolist(), references.tolist(), strict=True)
    )


def test_hashes_of_ordered_ids_spread():
    keys = _ids.IdKeys(bytes(range(32)))
    for shift in (0, 40, 64, 100):
        ids = u128([(i + 1) << shift for i in range(1 << 14)])
        hashes = keys.hashes_of(ids, 0)
        assert len(set(hashes.tolist())) == len(ids)
        counts = np.bincount((hashes >> np.uint64(56)).astype(int), minlength=256)
        assert counts.min() > 20  # 64 expected, deviation 8
        assert counts.max() < 120
        flipped = np.bitwise_count(hashes[1:] ^ hashes[:-1]).mean()
        assert 31 < flipped < 33
        assert not np.any(hashes == keys.hashes_of(ids, 1))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="16 bytes"):
        IdIndex(b"short", 1024)
    index = IdIndex(INSTANCE, 1024)
    with pytest.raises(ValueError, match="ENTRY"):
        index.insert_block(np.zeros(1, layout.TRANSFER), 0)
    with pytest.raises(ValueError, match="too large"):
        index.insert_block(plain_block([1]), 1 << 43)
    with pytest.raises(ValueError, match="skip_pending"):
        index.candidates(np.zeros(2, layout.TRANSFER), np.zeros(1, bool))
