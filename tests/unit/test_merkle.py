"""The hash kernel against the blake3 package, published vectors and the forms read plainly."""

import json
from pathlib import Path

import blake3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import _merkle, layout

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "blake3_test_vectors.json"
SIDES = {  # entry kind -> side bytes of the debit and the credit side
    "account": (3, None),
    "transfer": (1, 2),
    "expiry": (1, 2),
    "account_settings": (3, None),
}


def _available_lanes() -> list[int]:
    widest = _merkle.lane_count()
    return [lanes for lanes in (1, 4, 8, 16) if lanes <= widest]


@pytest.fixture(params=[1, 4, 8, 16])
def lanes(request):
    """Runs the test with each kernel, and puts back the one that was chosen."""
    chosen = _merkle.lane_count()
    if request.param not in _available_lanes():
        pytest.skip(f"this processor has no kernel of {request.param} lanes")
    _merkle.choose_lanes(request.param)
    yield request.param
    _merkle.choose_lanes(chosen)


def keyed(key: bytes, data: bytes) -> bytes:
    return blake3.blake3(data, key=key).digest()


def random_entries(count: int, random: np.random.Generator) -> np.ndarray:
    """Return entries of all kinds with random bytes everywhere."""
    entries = np.frombuffer(random.bytes(count * layout.ENTRY.itemsize), layout.ENTRY).copy()
    entries["kind"] = random.choice([number for number, _ in layout.ENTRY_KINDS.values()], count)
    return entries


def expected_leaf(entry: np.void, index: int, seed: bytes, ext: bytes) -> bytes:
    """The leaf of one entry, written from the sentence in docs/architecture.md."""
    name = next(n for n, (number, _) in layout.ENTRY_KINDS.items() if number == entry["kind"])
    salts = blake3.blake3(b"", key=seed).digest(length=64, seek=64 * index)
    sides = []
    for place, which in enumerate(SIDES.get(name, (None, None))):
        if which is None:
            sides.append(bytes(32))
            continue
        side = ("debit", "credit")[place]
        sides.append(
            keyed(
                _merkle.KEYS["side"],
                entry["record"][f"{side}_account_id"].tobytes()
                + int(entry[side]["number"]).to_bytes(8, "little")
                + entry["released"].tobytes()
                + bytes([which, int(entry["kind"])])
                + bytes(6)
                + salts[16 * place : 16 * place + 16],
            )
        )
    record = entry["record"].tobytes()
    return keyed(_merkle.KEYS[name], record[:16] + record[48:] + sides[0] + sides[1] + ext)


def expected_root(leaves: list[bytes], name: str = "node") -> bytes:
    """The recursive definition of RFC 6962."""
    if len(leaves) < 2:
        return leaves[0] if leaves else bytes(32)
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = expected_root(leaves[:split], name), expected_root(leaves[split:], name)
    return keyed(_merkle.KEYS[name], left + right)


def expected_path(leaves: list[bytes], index: int, name: str) -> list[bytes]:
    """The recursive definition of RFC 6962's audit path."""
    if len(leaves) < 2:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return [*expected_path(left, index, name), expected_root(right, name)]
    return [*expected_path(right, index - split, name), expected_root(left, name)]


@pytest.mark.skipif(not VECTORS.exists(), reason="the published vectors are not beside the project")
def test_published_vectors():
    vectors = json.loads(VECTORS.read_text())
    key = vectors["key"].encode()
    for case in vectors["cases"]:
        data = bytes(i % 251 for i in range(case["input_len"]))
        assert _merkle.keyed_hash(key, data).hex() == case["keyed_hash"][:64]
        if case["input_len"] == 0:
            stream = b"".join(_merkle.xof(key, block) for block in range(3))
            assert case["keyed_hash"].startswith(stream[:131].hex())


@given(st.binary(min_size=32, max_size=32), st.integers(0, 20_000), st.randoms())
def test_keyed_hash_of_any_size(key, size, random):
    data = random.randbytes(size)
    assert _merkle.keyed_hash(key, data) == keyed(key, data)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**32))
def test_output_blocks(key, index):
    wanted = blake3.blake3(b"", key=key).digest(length=64, seek=64 * index)
    assert _merkle.xof(key, index) == wanted


@given(st.text(max_size=200))
def test_derived_keys(context):
    assert _merkle.derive_key(context) == blake3.blake3(b"", derive_key_context=context).digest()


def test_each_tree_and_kind_has_its_own_key():
    entries = {"side", "node", "chain", "block", "ext", *layout.ENTRY_KINDS}
    states = {"account_state", "tile", "sum", "group", "groups", "state", "interval"}
    assert set(_merkle.KEYS) == entries | states
    assert len(set(_merkle.KEYS.values())) == len(_merkle.KEYS)
    for name, key in _merkle.KEYS.items():
        context = f"sanyuan 2026 v1 {name}"
        assert key == blake3.blake3(b"", derive_key_context=context).digest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9, 16, 17, 31, 32, 33, 77])
def test_leaves_follow_their_form(lanes, count):
    random = np.random.default_rng(count)
    entries, seed = random_entries(count, random), random.bytes(32)
    ext = random.integers(0, 256, (count, 32), np.uint8)
    ext[::3] = 0
    leaves = _merkle.block_leaves(entries, seed, ext)
    for index in range(count):
        wanted = expected_leaf(entries[index], index, seed, ext[index].tobytes())
        assert leaves[index].tobytes() == wanted
    bare = _merkle.block_leaves(entries, seed)
    assert np.array_equal(bare, _merkle.block_leaves(entries, seed, np.zeros_like(ext)))


@pytest.mark.parametrize("count", [*range(0, 40), 64, 65, 100, 255, 256, 257])
def test_root_is_that_of_rfc_6962(lanes, count):
    leaves = np.random.default_rng(count).integers(0, 256, (count, 32), np.uint8)
    assert _merkle.tree_root(leaves) == expected_root([row.tobytes() for row in leaves])


@pytest.mark.parametrize("name", ["node", "tile", "groups", "interval"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 31, 33, 70])
def test_trees_and_paths_of_each_key(lanes, name, count):
    leaves = np.random.default_rng(count).integers(0, 256, (count, 32), np.uint8)
    rows = [row.tobytes() for row in leaves]
    assert _merkle.tree_root(leaves, name) == expected_root(rows, name)
    for index in range(count):
        assert _merkle.tree_path(leaves, index, name) == b"".join(expected_path(rows, index, name))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 15, 16, 17, 40])
def test_account_leaves(lanes, count):
    """Whether the messages stand alone or in rows of something else."""
    rows = np.frombuffer(np.random.default_rng(count).bytes(count * 224), "u1").reshape(-1, 224)
    wanted = [keyed(_merkle.KEYS["account_state"], row[:192].tobytes()) for row in rows]
    for messages in (rows[:, :192], rows[:, :192].copy()):
        assert [leaf.tobytes() for leaf in _merkle.account_leaves(messages)] == wanted
    records = np.zeros(count, layout.STATE_ROW)
    records["message"] = rows[:, :192]
    assert [leaf.tobytes() for leaf in _merkle.account_leaves(records["message"])] == wanted
    backwards = _merkle.account_leaves(rows[::-1, :192])
    assert [leaf.tobytes() for leaf in backwards] == wanted[::-1]


_AMOUNTS = st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**128 - 1, 2**128, 2**159, 2**160 - 1])


@given(st.lists(st.tuples(_AMOUNTS, _AMOUNTS), min_size=3, max_size=3), st.randoms())
def test_parents_of_the_sum_tree(pairs, random):
    nodes = [
        random.randbytes(32) + b"".join(pair[side].to_bytes(20, "little") for pair in pairs)
        for side in range(2)
    ]
    if any(left + right >= 2**160 for left, right in pairs):
        with pytest.raises(ValueError, match="160"):
            _merkle.sum_parent(*nodes)
        return
    digest = keyed(_merkle.KEYS["sum"], nodes[0] + bytes(4) + nodes[1] + bytes(4))
    sums = b"".join((left + right).to_bytes(20, "little") for left, right in pairs)
    assert _merkle.sum_parent(*nodes) == digest + sums


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_group_heads_and_state_root(lanes, count):
    random = np.random.default_rng(count)
    fields = [random.bytes(108) for _ in range(count)]
    heads = [_merkle.group_head(item) for item in fields]
    assert heads == [keyed(_merkle.KEYS["group"], item + bytes(20)) for item in fields]
    message = (2**63 + 5).to_bytes(8, "little") + count.to_bytes(8, "little")
    message += expected_root(heads, "groups") + bytes(16)
    wanted = keyed(_merkle.KEYS["state"], message)
    assert _merkle.state_root(2**63 + 5, heads) == wanted
    array = np.frombuffer(b"".join(heads), "u1").reshape(-1, 32)
    assert _merkle.state_root(2**63 + 5, array) == wanted


@pytest.mark.parametrize("hot", [0, 0.3, 1])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 33, 300, 2500])
def test_chains(lanes, count, hot):
    """Each account's leaves in order, whether one account takes none, some or all of them."""
    random = np.random.default_rng(count)
    heads = random.integers(0, 256, (100, 32), np.uint8)
    leaves = random.integers(0, 256, (count, 32), np.uint8)
    which = np.where(random.random(count) < hot, 7, random.integers(0, 100, count))
    wanted = [head.tobytes() for head in heads]
    for place, leaf in zip(which, leaves, strict=True):
        wanted[place] = keyed(_merkle.KEYS["chain"], wanted[place] + leaf.tobytes())
    first = _merkle.chain(heads[which[0]].tobytes(), leaves[0].tobytes())
    assert first == keyed(_merkle.KEYS["chain"], heads[which[0]].tobytes() + leaves[0].tobytes())
    _merkle.chain_heads(heads, leaves, which.tolist())
    assert [head.tobytes() for head in heads] == wanted


def test_block_hash_and_ext():
    header, seed, metadata = bytes(range(256)), bytes(range(32)), b'{"text":"rent"}'
    assert _merkle.block_hash(header) == keyed(_merkle.KEYS["block"], header)
    salt = blake3.blake3(b"", key=seed).digest(length=32, seek=64 * 7 + 32)
    assert _merkle.ext_digest(seed, 7, metadata) == keyed(_merkle.KEYS["ext"], salt + metadata)


def test_wrong_sizes_are_refused():
    entries = np.zeros(2, layout.ENTRY)
    for call in (
        lambda: _merkle.keyed_hash(b"short", b""),
        lambda: _merkle.block_hash(bytes(255)),
        lambda: _merkle.block_leaves(np.zeros(2, layout.TRANSFER), bytes(32)),
        lambda: _merkle.block_leaves(entries, bytes(31)),
        lambda: _merkle.block_leaves(entries, bytes(32), np.zeros((1, 32), np.uint8)),
        lambda: _merkle.tree_root(np.zeros((2, 31), np.uint8)),
        lambda: _merkle.chain_heads(np.zeros((1, 32), np.uint8), np.zeros((2, 32), np.uint8), [0]),
        lambda: _merkle.choose_lanes(3),
        lambda: _merkle.tree_root(np.zeros((2, 32), np.uint8), "leaf"),
        lambda: _merkle.tree_path(np.zeros((2, 31), np.uint8), 0),
        lambda: _merkle.account_leaves(np.zeros((2, 191), np.uint8)),
        lambda: _merkle.account_leaves(np.zeros((2, 192), np.uint16)),
        lambda: _merkle.sum_parent(bytes(92), bytes(96)),
        lambda: _merkle.group_head(bytes(128)),
        lambda: _merkle.state_root(1, [bytes(31)]),
    ):
        with pytest.raises(ValueError):
            call()
    for index in (-1, 2):
        with pytest.raises(IndexError):
            _merkle.tree_path(np.zeros((2, 32), np.uint8), index)
