"""The private part of a stored block in both forms: salts, and bare hashes of what was erased."""

from __future__ import annotations

import numpy as np
import pytest

from ledger import _merkle, layout
from ledger._block import Block
from ledger._core import Core
from ledger._pack import BlockView, build_header, encode_block
from ledger._private import Private
from ledger.errors import DataDamaged

SEED = bytes(range(32))
PART = {name: number for name, (number, _) in layout.BARE_PARTS.items()}


def decided(metadata: dict[int, bytes]) -> Block:
    """Return a closed block: three accounts, forty transfers among them, some with metadata."""
    core, block = Core(holds_max=16), Block()
    core.open_block(block, 0)
    results = np.zeros(3, layout.RESULT)
    accounts = [{"id": 7 + n, "ledger": 1, "code": 1} for n in range(3)]
    core.create_accounts(
        layout.record_array(layout.ACCOUNT, accounts), 1000, results, metadata={0: b'{"a":1}'}
    )
    rows = [
        {
            "id": 100 + n,
            "debit_account_id": 7 + n % 3,
            "credit_account_id": 7 + (n + 1) % 3,
            "amount": n + 1,
            "ledger": 1,
            "code": 1,
        }
        for n in range(40)
    ]
    results = np.zeros(40, layout.RESULT)
    events = layout.record_array(layout.TRANSFER, rows)
    core.create_transfers(events, 2000, results, metadata=metadata)
    assert set(results["status"]) == {layout.CREATED}
    core.close_block()
    core.hash_block(block, SEED)
    return block


def value_of(block: Block, private: Private | None = None) -> bytes:
    header = build_header(number=0, entry_count=len(block.entries), root=block.root)
    return encode_block(block.entries, header, seed=private or block.seed)


def bare_rows(rows: list[tuple[int, str, bytes]]) -> np.ndarray:
    array = np.zeros(len(rows), layout.BARE)
    for place, (index, part, digest) in enumerate(sorted(rows, key=lambda r: (r[0], PART[r[1]]))):
        array[place] = (index, PART[part], np.frombuffer(digest, np.uint8))
    return array


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_bare_sides_and_salts_give_the_same_leaves_as_the_seed(lanes: int) -> None:
    widest = _merkle.lane_count()
    try:
        _merkle.choose_lanes(lanes)
    except ValueError:
        pytest.skip(f"no kernel of {lanes} lanes here")
    try:
        block = decided({3: b'{"b":2}', 39: b'{"c":3}'})
        view = BlockView(value_of(block))
        private = view.private()
        assert private.seed == SEED
        assert not view.erased
        assert private.metadata_indexes.tolist() == [0, 6, 42]
        ext = private.ext_digests(block.metadata)
        leaves = _merkle.block_leaves(block.entries, private, ext)
        assert _merkle.tree_root(leaves) == block.root

        salts, ext_salts, _ = private.explicit()
        entries = block.entries.copy()
        rows = []
        for index in (5, 30, 37):
            entry = entries[index]
            digest = _merkle.side_digest(
                layout.to_int(entry["record"]["debit_account_id"]),
                int(entry["debit"]["number"]),
                0,
                1,
                int(entry["kind"]),
                salts[index, :16],
            )
            rows.append((index, "debit_side", digest))
            salts[index, :16] = 0
            entries["record"]["debit_account_id"][index] = (0, 0)
        rows.append((1, "leaf", leaves[1].tobytes()))
        rows.append((42, "leaf", leaves[42].tobytes()))
        entries["record"]["id"][1] = (99, 99)
        erased = Private(
            len(entries),
            salts=salts,
            metadata_indexes=private.metadata_indexes,
            ext_salts=ext_salts,
            bare=bare_rows(rows),
        )
        again = _merkle.block_leaves(entries, erased, erased.ext_digests(block.metadata))
        assert again.tobytes() == leaves.tobytes()
        assert erased.entry(5).debit_salt is None
        assert erased.entry(5).debit == rows[0][2]
        assert erased.entry(6).debit_salt == _merkle.xof(SEED, 6)[:16]
        assert erased.entry(6).ext_salt == _merkle.xof(SEED, 6)[32:]
        assert erased.entry(1).leaf == leaves[1].tobytes()
    finally:
        _merkle.choose_lanes(widest)


def test_the_second_form_is_stored_and_read_back() -> None:
    block = decided({3: b'{"b":2}'})
    salts, ext_salts, _ = BlockView(value_of(block)).private().explicit()
    bare = bare_rows([(4, "debit_account", bytes(range(32))), (4, "leaf", bytes(32))])
    private = Private(43, salts=salts, metadata_indexes=[0, 6], ext_salts=ext_salts, bare=bare)
    value = value_of(block, private)
    view = BlockView(value)
    view.check()
    assert view.erased
    assert view.seed is None
    assert view.metadata_indexes.tolist() == [0, 6]
    read = view.private()
    assert read.salts.tobytes() == salts.tobytes()
    assert read.ext_salts.tobytes() == ext_salts.tobytes()
    assert read.bare.tobytes() == bare.tobytes()
    plain = BlockView(value_of(block))
    assert view.entries().tobytes() == plain.entries().tobytes()
    assert encode_block(view.entries(), view.header_bytes, seed=read) == value
    with pytest.raises(ValueError, match="metadata"):
        encode_block(
            view.entries(),
            view.header_bytes,
            seed=Private(43, salts=salts, ext_salts=ext_salts[:0], bare=bare),
        )


def test_every_changed_byte_of_the_second_form_is_found() -> None:
    block = decided({})
    salts, ext_salts, _ = BlockView(value_of(block)).private().explicit()
    private = Private(
        43,
        salts=salts,
        metadata_indexes=[0],
        ext_salts=ext_salts,
        bare=bare_rows([(4, "leaf", bytes(32))]),
    )
    value = bytearray(value_of(block, private))
    for place in range(256, len(value), 7):
        value[place] ^= 1
        with pytest.raises(DataDamaged):
            BlockView(bytes(value)).check()
        value[place] ^= 1
    BlockView(bytes(value)).check()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(43, "leaf", bytes(32))],
        [(4, "leaf", bytes(32)), (4, "leaf", bytes(32))],
    ],
    ids=["none", "outside", "twice"],
)
def test_bare_hashes_that_do_not_fit_are_refused(rows: list[tuple[int, str, bytes]]) -> None:
    with pytest.raises(ValueError, match="bare hashes"):
        Private(43, salts=np.zeros((43, 32)), ext_salts=np.zeros((0, 32)), bare=bare_rows(rows))
