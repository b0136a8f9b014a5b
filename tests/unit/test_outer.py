"""The outer log: its tree against RFC 6962 and the published vectors, its files against
tlog-tiles.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import DataDamaged, DiskFailed
from ledger.proof import tree
from ledger.proof.interval import Record, State, parse_record
from ledger.proof.notes import (
    ED25519,
    Checkpoint,
    SigningKey,
    VerifierKey,
    parse_checkpoint,
    parse_note,
    sign_checkpoint,
)
from ledger.proof.outer import TILE_PATH, OuterLog, differences, number_path

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors"
INCLUSION = sorted((VECTORS / "rfc6962-inclusion").rglob("*.json"))
NOTES = json.loads((VECTORS / "notes.json").read_text())
ORIGIN = "bank.example/ledger"
KEY = SigningKey(ORIGIN, ED25519, bytes(range(32)))


def reference_root(leaves: list[bytes]) -> bytes:
    """MTH, as RFC 6962 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + reference_root(leaves[:k]) + reference_root(leaves[k:])).digest()


def reference_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH, as RFC 6962 writes it."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*reference_path(index, leaves[:k]), reference_root(leaves[k:])]
    return [*reference_path(index - k, leaves[k:]), reference_root(leaves[:k])]


def record_at(index: int) -> Record:
    """Intervals of three blocks of ten entries; each state root is known two intervals later."""
    last = index * 3 + 2
    state = None
    if index >= 2:
        of = last - 4
        state = State(of, 1000 * of, 20260101, 20260101, hashlib.sha256(b"state%d" % of).digest())
    return Record(
        ORIGIN,
        bytes(range(16)),
        index * 3,
        last,
        index * 30,
        30,
        1000 * last,
        20260102,
        hashlib.sha256(b"root%d" % index).digest(),
        hashlib.sha256(b"last%d" % index).digest(),
        state,
        None,
    )


def filled(directory: Path, size: int) -> OuterLog:
    log = OuterLog(directory)
    for index in range(size):
        log.append(record_at(index).text())
    log.write_edge()
    return log


@pytest.mark.parametrize("path", INCLUSION, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_published_inclusion_cases(path: Path) -> None:
    case = json.loads(path.read_text())
    proof = [base64.b64decode(one) for one in case["proof"] or []]
    holds = tree.inclusion_holds(
        base64.b64decode(case["leafHash"] or ""),
        index=case["leafIdx"],
        size=case["treeSize"],
        path=proof,
        root=base64.b64decode(case["root"] or ""),
    )
    assert holds != case["wantErr"]


def test_published_roots() -> None:
    hasher = NOTES["rfc6962_hasher"]
    assert tree.EMPTY_ROOT.hex() == hasher["empty"]
    assert tree.leaf_hash(b"").hex() == hasher["empty_leaf"]
    assert tree.leaf_hash(b"L123456").hex() == hasher["leaf_L123456"]
    assert tree.node_hash(b"N123", b"N456").hex() == hasher["node_N123_N456"]
    leaves = [tree.leaf_hash(bytes.fromhex(one)) for one in NOTES["rfc6962_leaf_inputs_hex"]]
    for size, root in enumerate(NOTES["rfc6962_roots_by_size"]):
        assert tree.root_of(leaves[:size]).hex() == root


def test_published_consistency() -> None:
    old, new = (
        parse_checkpoint(parse_note(one["note"]).text)
        for one in NOTES["notes"]
        if one["name"].startswith("monkeys")
    )
    path = [bytes.fromhex(one) for one in NOTES["monkeys_consistency_5_8_hex"]]
    holds = {"old": 5, "old_root": old.root, "new": 8, "new_root": new.root}
    assert tree.consistency_holds(**holds, path=path)
    for wrong in (path[:-1], path[1:], [*path, bytes(32)], path[::-1], []):
        assert not tree.consistency_holds(**holds, path=wrong)
    # A size of 7 has the same shape: what binds a root to its size is the checkpoint's signature.
    for field, value in (("old", 4), ("old", 6), ("new", 9), ("old_root", new.root)):
        assert not tree.consistency_holds(**{**holds, field: value}, path=path)


def test_paths_of_all_small_trees() -> None:
    data = [b"%d" % i for i in range(35)]
    leaves = [tree.leaf_hash(one) for one in data]
    for size in range(36):
        root = tree.root_of(leaves[:size])
        assert root == reference_root(data[:size])

        def hash_of(start: int, end: int) -> bytes:
            return tree.root_of(leaves[start:end])

        for index in range(size):
            path = tree.inclusion_path(index, size, hash_of)
            assert path == reference_path(index, data[:size])
            for at in range(size + 1):
                holds = tree.inclusion_holds(
                    leaves[index], index=at, size=size, path=path, root=root
                )
                assert holds == (at == index)
        for old in range(size + 1):
            path = tree.consistency_path(old, size, hash_of)
            old_root = tree.root_of(leaves[:old])
            assert tree.consistency_holds(
                old=old, old_root=old_root, new=size, new_root=root, path=path
            )
            if 0 < old < size:
                wrong = {"old": old, "new": size, "path": path}
                assert not tree.consistency_holds(**wrong, old_root=bytes(32), new_root=root)
                assert not tree.consistency_holds(**wrong, old_root=old_root, new_root=bytes(32))
                assert not tree.consistency_holds(
                    old=old, old_root=old_root, new=size, new_root=root, path=path[:-1]
                )


def test_numbers_as_paths() -> None:
    assert [number_path(n) for n in (0, 7, 999, 1000, 1234067, 10**9)] == [
        "000", "007", "999", "x001/000", "x001/x234/067", "x001/x000/x000/000",
    ]  # fmt: skip
    for good in ("0/000", "63/x001/x234/067", "entries/000.p/1", "1/017.p/255", "0/x001/000.p/99"):
        assert TILE_PATH.fullmatch(good)
    for bad in (
        "64/000", "00/000", "0/0", "0/000.p/0", "0/000.p/256", "0/000.p/01", "entries/../000",
        "0/000/000", "0/x001", "-1/000", "0/000.new", "0/000.p/", "0/000\n", "data/000", "0/٠٠٠",
    ):  # fmt: skip
        assert not TILE_PATH.fullmatch(bad), bad


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 700])
def test_the_log_of_each_size(tmp_path: Path, size: int) -> None:
    log = filled(tmp_path / "log", size)
    data = [record_at(i).text().encode() for i in range(size)]
    leaves = [tree.leaf_hash(one) for one in data]
    for one in (log, OuterLog(tmp_path / "log")):
        assert one.size == size
        for at in {0, 1, size // 2, size - 1, size} - {-1}:
            if at <= size:
                assert one.root(at) == tree.root_of(leaves[:at])
                path = one.consistency(at, size)
                assert tree.consistency_holds(
                    old=at, old_root=one.root(at), new=size, new_root=one.root(), path=path
                )
        for index in {0, 1, 254, 255, 256, size // 2, size - 1}:
            if not 0 <= index < size:
                with pytest.raises(IndexError):
                    one.path(index, size)
                continue
            assert one.record(index).encode() == data[index]
            assert one.path(index, size) == reference_path(index, data)
            assert one.path(index, index + 1) == reference_path(index, data[: index + 1])
            for block in range(index * 3, index * 3 + 3):
                assert one.interval_of_block(block) == index
        assert one.interval_of_block(size * 3) is None
        assert one.interval_of_block(-1) is None
        for index in range(size):
            state = record_at(index).state
            if state is not None and index % 50 in (0, 1, 49):
                assert one.interval_of_state(state.block) == index
                assert one.interval_of_state(state.block + 1) is None
        assert one.interval_of_state(3 * size) is None


def test_the_files_are_those_of_tlog_tiles(tmp_path: Path) -> None:
    log = OuterLog(tmp_path)
    seen = set()
    for index in range(600):
        log.append(record_at(index).text())
        if index % 7 == 0 or index == 599:
            log.write_edge()
            seen.add(index + 1)
    files = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    leaves = [tree.leaf_hash(record_at(i).text().encode()) for i in range(600)]
    expected = {}
    for number in (0, 1):
        expected[f"tile/0/00{number}"] = b"".join(leaves[256 * number : 256 * number + 256])
        expected[f"tile/entries/00{number}"] = bundle(256 * number, 256)
    roots = [tree.root_of(leaves[:256]), tree.root_of(leaves[256:512])]
    expected["tile/1/000.p/1"], expected["tile/1/000.p/2"] = roots[0], b"".join(roots)
    for size in seen:
        if size > 512:
            width = size - 512
            expected[f"tile/0/002.p/{width}"] = b"".join(leaves[512:size])
            expected[f"tile/entries/002.p/{width}"] = bundle(512, width)
    assert files == expected


def bundle(first: int, count: int) -> bytes:
    texts = [record_at(i).text().encode() for i in range(first, first + count)]
    return b"".join(len(one).to_bytes(2, "big") + one for one in texts)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 65,537 records: three levels of tiles."""
    directory = tmp_path_factory.mktemp("large") / "log"
    filled(directory, 65_537)
    return directory


def test_a_large_log(large: Path) -> None:
    log = OuterLog(large)
    leaves = [tree.leaf_hash(record_at(i).text().encode()) for i in range(65_537)]
    assert log.file(1, 0).stat().st_size == 8192
    assert log.file(2, 0, 1).read_bytes() == tree.root_of(leaves[:65_536])
    for size in (65_535, 65_536, 65_537, 40_000):
        root = tree.root_of(leaves[:size])
        assert log.root(size) == root
        for index in (0, 255, 256, 39_999, size - 1):
            path = log.path(index, size)
            assert tree.inclusion_holds(leaves[index], index=index, size=size, path=path, root=root)
        for old in (1, 255, 256, 257, 32_768, 39_999):
            assert tree.consistency_holds(
                old=old,
                old_root=tree.root_of(leaves[:old]),
                new=size,
                new_root=root,
                path=log.consistency(old, size),
            )
    for index in (0, 1, 255, 256, 65_535, 65_536, 12_345):
        assert log.interval_of_block(index * 3 + 1) == index
    assert log.interval_of_block(65_537 * 3) is None


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_missing_or_wrong_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """Whatever happens to files of hashes, and to the last records, the log is a right one
    again: never longer, and the same where it has records.
    """
    rng = random.Random(seed)
    directory = tmp_path_factory.mktemp("broken")
    size = rng.choice([255, 256, 300, 513])
    filled(directory, size)
    hashes = sorted(path for path in directory.glob("tile/[0-9]*/**/*") if path.is_file())
    for path in rng.sample(hashes, min(2, len(hashes))):
        rng.choice([path.unlink, lambda path=path: path.write_bytes(b"half")])()
    if rng.random() < 0.5 and size % 256:
        records = directory / "tile/entries" / f"{number_path(size // 256)}.p/{size % 256}"
        records.write_bytes(records.read_bytes()[: rng.randrange(100)])
    log = OuterLog(directory)
    assert log.size in (size, size - size % 256)
    for index in range(log.size, size):
        log.append(record_at(index).text())
    log.write_edge()
    leaves = [tree.leaf_hash(record_at(i).text().encode()) for i in range(size)]
    assert log.root() == tree.root_of(leaves)
    for index in (0, size // 2, size - 1):
        log.path(index, size)
    for path in directory.glob("tile/[0-9]*/**/[0-9][0-9][0-9]"):
        if not path.parent.name.endswith(".p"):
            assert path.stat().st_size == 8192


def test_damaged_records_in_the_middle_are_put_aside(tmp_path: Path) -> None:
    filled(tmp_path, 600)
    (tmp_path / "tile/entries/000").write_bytes(b"\0\5short")
    (tmp_path / "tile/0/000").unlink()
    log = OuterLog(tmp_path)
    assert log.size == 0
    assert (tmp_path / "tile.damaged/entries/001").exists()


def test_a_hash_that_is_not_the_records_is_never_handed_out(tmp_path: Path) -> None:
    filled(tmp_path, 600)
    tile = tmp_path / "tile/0/000"
    data = bytearray(tile.read_bytes())
    data[32 * 7] ^= 1
    tile.write_bytes(data)
    log = OuterLog(tmp_path)
    with pytest.raises(DataDamaged, match="the hashes are not those of the records"):
        log.path(7, 600)


def test_truncated_and_appended_to_again(tmp_path: Path) -> None:
    for size in (0, 1, 255, 256, 257, 300, 511):
        log = filled(tmp_path / str(size), 515)
        log.truncate(size)
        fresh = filled(tmp_path / f"fresh{size}", size)
        assert (log.size, log.root()) == (size, fresh.root())
        for index in range(size, 520):
            log.append(record_at(index + 1000).text())
            fresh.append(record_at(index + 1000).text())
        log.write_edge()
        assert log.root() == fresh.root()
        assert OuterLog(tmp_path / str(size)).root() == fresh.root()


def test_tiles_of_a_published_size_are_written_again(tmp_path: Path) -> None:
    log = filled(tmp_path, 300)
    shutil.rmtree(tmp_path / "tile/entries/001.p")
    log.write_edge_of(290)
    assert (tmp_path / "tile/entries/001.p/34").read_bytes() == bundle(256, 34)
    assert (tmp_path / "tile/0/001.p/34").stat().st_size == 34 * 32
    log.write_edge_of(200)
    assert not (tmp_path / "tile/entries/000.p").exists()


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    """Appending fails wherever a file would be written, and succeeds later."""
    log = filled(tmp_path / "log", 255)
    root = log.root()
    (tmp_path / "log/tile/0/000.new").mkdir()
    with pytest.raises(DiskFailed):
        log.append(record_at(255).text())
    assert (log.size, log.root()) == (255, root)
    (tmp_path / "log/tile/0/000.new").rmdir()
    log.append(record_at(255).text())
    assert log.root() == filled(tmp_path / "other", 256).root()


def test_published_checkpoint_and_tlog_proof(tmp_path: Path) -> None:
    log = filled(tmp_path, 260)
    assert log.checkpoint() is None
    note = str(sign_checkpoint(KEY, Checkpoint(ORIGIN, 259, log.root(259))))
    log.publish(note)
    assert OuterLog(tmp_path).checkpoint() == note == (tmp_path / "checkpoint").read_text()
    proof = log.tlog_proof(258, note)
    head, _, rest = proof.partition("\n\n")
    assert rest == note
    first, index, *path = head.split("\n")
    assert (first, index) == ("c2sp.org/tlog-proof@v1", "index 258")
    checkpoint = parse_checkpoint(parse_note(rest).text)
    assert parse_note(rest).opened([VerifierKey.parse(str(KEY.verifier))])
    assert tree.inclusion_holds(
        tree.leaf_hash(record_at(258).text().encode()),
        index=258,
        size=checkpoint.size,
        path=[base64.b64decode(one) for one in path],
        root=checkpoint.root,
    )
    assert log.tlog_proof(0, str(sign_checkpoint(KEY, Checkpoint(ORIGIN, 1, log.root(1))))).count(
        "\n\n"
    )
    with pytest.raises(IndexError):
        log.tlog_proof(259, note)


def test_records_in_the_vectors_form() -> None:
    assert parse_record(record_at(5).text()) == record_at(5)


@pytest.mark.parametrize("size", [1, 255, 256, 300, 600])
def test_differences_from_the_journal_are_found_in_every_file(tmp_path: Path, size: int) -> None:
    """A folder that grew step by step agrees with one made at once; each file changed, or each
    that the checkpoint needs gone, is told by name.
    """
    folder = tmp_path / "log"
    log = OuterLog(folder)
    for index in range(size):
        log.append(record_at(index).text())
        if index % 50 == 49 or index == size - 1:
            log.write_edge()
    right = filled(tmp_path / "right", size + 3)
    shown = Checkpoint(ORIGIN, size, log.root())
    assert list(differences(folder, right, shown)) == []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert list(differences(folder, right, shown)) == [
            f"{path}: not what follows from the journal"
        ]
        path.unlink()
        width = int(path.name) if path.parent.name.endswith(".p") else 0
        needed = {size % 256, size // 256, 0}
        found = list(differences(folder, right, shown))
        assert found == [f"{path} is missing"] if width in needed else found == []
        path.write_bytes(data)
    (folder / "tile/0/other").write_bytes(b"")
    assert "no tile has this name" in next(iter(differences(folder, right, shown)))
    wrong = Checkpoint(ORIGIN, size, bytes(32))
    assert "published checkpoint" in next(iter(differences(folder, right, wrong)))
