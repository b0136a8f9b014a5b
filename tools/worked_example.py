"""The worked example of docs/proofs.md: a tiny ledger, each step of its proofs in real bytes.

The ledger's own core, state tree, chain of headers, interval record and signatures make every
value; where they only give the end of a step, the message before it is written out and its hash
compared. ``tests/vectors/test_worked_example.py`` computes all of it again, without the ledger.

A step is a name and the lines of its value: hexadecimal digits with a word on what they are, or
text behind a bar. tools/generate.py puts the section between its markers.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ledger import _merkle, layout
from ledger._block import Block
from ledger._core import Core
from ledger._pack import encode_block
from ledger._state_tree import StateBuilder
from ledger.proof import notes
from ledger.proof.interval import Intervals
from ledger.state import Chain
from ledger.storage.memory import MemoryDisk, MemoryJournal

PAGE = Path(__file__).resolve().parent.parent / "docs/proofs.md"
BEGIN = "<!-- generated: the worked example -->"
END = "<!-- end of the worked example -->"

START = 1_767_603_600_000_000_000
INPUTS: dict[str, Any] = {
    "origin": "bank.example/ledger",
    "instance": bytes(range(0xA0, 0xB0)).hex(),
    "seeds": [bytes(range(32)).hex(), bytes(range(32, 64)).hex()],
    "accounts": [
        {"id": 1, "ledger": 156, "code": 1001, "timestamp": START + 1},
        {"id": 2, "ledger": 156, "code": 1001, "timestamp": START + 2},
    ],
    "transfer": {
        "id": 10,
        "debit_account_id": 1,
        "credit_account_id": 2,
        "amount": 10_000,
        "ledger": 156,
        "code": 1,
        "timestamp": START + 3,
        "metadata": '{"text":"cash"}',
    },
    "seal_timestamp": START + 800_000_000,
    "log_private_key": bytes(range(0x40, 0x60)).hex(),
    "witness": "witness.example/w1",
    "witness_private_key": bytes(range(0x60, 0x80)).hex(),
    "cosigned_at": START // 10**9 + 2,
}
ENTRY_NAMES = ("opening of account 1", "opening of account 2", "transfer 10")

Pieces = list[tuple[bytes, str]]


class Section:
    """The text of the example as it grows."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def heading(self, title: str, prose: str) -> None:
        """Begin a part: its fence ends the one before."""
        if self.lines:
            self.lines.append("```")
        self.lines += ["", f"**{title}.** {prose}", "", "```"]

    def pieces(self, name: str, pieces: Pieces) -> bytes:
        """Write a message, field by field; return its bytes."""
        self.lines.append(name)
        width = min(64, max(2 * len(data) for data, _ in pieces))
        for data, label in pieces:
            for start in range(0, len(data), 32):
                part = data[start : start + 32].hex()
                self.lines.append(f"  {part:<{width}}  {label if start == 0 else ''}".rstrip())
        return b"".join(data for data, _ in pieces)

    def hash(self, name: str, data: bytes) -> bytes:
        """Write a value on one line or more; return it."""
        self.pieces(name, [(data, "")])
        return data

    def text(self, name: str, text: str) -> str:
        """Write a text, each line of which ends with a line end; return it."""
        self.lines.append(name)
        self.lines += [f"  | {line}".rstrip() for line in text.removesuffix("\n").split("\n")]
        return text


def fields(name: str, data: bytes) -> Pieces:
    """Split a record of layout.py into its fields."""
    return [
        (data[offset : offset + dtype.itemsize], field)
        for field, (dtype, offset, *_) in layout.DTYPES[name].fields.items()
    ]


def little(value: int, size: int) -> bytes:
    """Return a number as it stands in hashed messages."""
    return value.to_bytes(size, "little")


def check(*, computed: object, given: object, what: str) -> None:
    """Stop when the message that was written out does not lead to the core's own value."""
    if computed != given:
        raise SystemExit(f"the worked example does not follow the core: {what}")


class Example:
    """The tiny ledger: two openings and a transfer in block 0, a seal in block 1."""

    def __init__(self) -> None:
        self.core = Core(holds_max=1)
        self.instance = bytes.fromhex(INPUTS["instance"])
        self.seeds = [bytes.fromhex(seed) for seed in INPUTS["seeds"]]
        self.chain = Chain(self.instance, bytes(32))
        self.journal = MemoryJournal(MemoryDisk(self.instance))
        self.blocks: list[Block] = []
        self.headers: list[bytes] = []
        block = Block()
        self.core.open_block(block, 0)
        self._post(self.core.create_accounts, layout.ACCOUNT, INPUTS["accounts"])
        metadata = {0: INPUTS["transfer"]["metadata"].encode()}
        self._post(self.core.create_transfers, layout.TRANSFER, [INPUTS["transfer"]], metadata)
        self._close(block)
        builder = StateBuilder()
        self.core.begin_capture()
        captured = []
        while len(rows := self.core.capture_step(256)):
            captured.append(rows)
            builder.add(rows)
        self.state = builder.finish(0)
        self.messages = np.concatenate(captured)["message"]
        seal = Block()
        self.core.open_block(seal, 1)
        self.core.seal(INPUTS["seal_timestamp"])
        self._close(seal, flags=layout.flag_mask("BLOCK", "seal"), state=(0, self.state.root))

    def _post(
        self,
        create: Any,
        dtype: np.dtype[Any],
        events: list[dict[str, Any]],
        metadata: dict[int, bytes] | None = None,
    ) -> None:
        rows = [
            {name: value for name, value in event.items() if name not in ("timestamp", "metadata")}
            for event in events
        ]
        results = np.zeros(len(rows), layout.RESULT)
        create(
            layout.record_array(dtype, rows), events[-1]["timestamp"], results, metadata=metadata
        )
        check(computed=set(results["status"]), given={layout.CREATED}, what="statuses")

    def _close(self, block: Block, **header: Any) -> None:
        self.core.close_block()
        self.core.hash_block(block, self.seeds[len(self.blocks)])
        self.blocks.append(block)
        self.headers.append(self.chain.header(block, **header))
        value = encode_block(block, self.headers[-1])
        places = [
            (block.number << layout.INDEX_BITS | index, metadata)
            for index, metadata in enumerate(block.metadata, 2)
        ]
        self.journal.append(block.number, value, places)


def entry_pieces(entry: Any) -> Pieces:
    """Return the 96 bytes of a record that are hashed, field by field."""
    return [
        piece
        for piece in fields("TRANSFER", entry["record"].tobytes())
        if piece[1] not in ("debit_account_id", "credit_account_id")
    ]


def side_pieces(account: int, number: int, side: int, kind: int, salt: bytes) -> Pieces:
    """Return the message of S, field by field."""
    return [
        (little(account, 16), "account id"),
        (little(number, 8), "entry number"),
        (bytes(16), "released"),
        (bytes([side]), "side"),
        (bytes([kind]), "kind"),
        (bytes(6), "zeros"),
        (salt, "salt"),
    ]


def entries(section: Section, example: Example) -> list[bytes]:
    """Write salts, sides, ext and leaves of block 0; return the leaves."""
    block = example.blocks[0]
    metadata = INPUTS["transfer"]["metadata"].encode()
    ext = np.zeros((3, 32), np.uint8)
    ext[2] = np.frombuffer(_merkle.ext_digest(example.seeds[0], 2, metadata), np.uint8)
    core_leaves = _merkle.block_leaves(block.entries, example.seeds[0], ext)
    leaves = []
    sides = [[(1, 0, 3)], [(2, 0, 3)], [(1, 1, 1), (2, 1, 2)]]
    section.heading(
        "Entries",
        "Each has its salts, from the seed of the block; a message for each side; the leaf `T`.",
    )
    for index, name in enumerate(ENTRY_NAMES):
        entry = block.entries[index]
        kind = int(entry["kind"])
        salts = bytes(_merkle.xof(example.seeds[0], index))
        section.pieces(
            f"salts, {name}",
            [(salts[:16], "debit or own"), (salts[16:32], "credit"), (salts[32:], "ext")],
        )
        hashes = [bytes(32), bytes(32)]
        for place, (account, number, side) in enumerate(sides[index]):
            of = f"{name}, {('', 'debit', 'credit', 'own')[side]}"
            salt = salts[16 * place : 16 * place + 16]
            message = section.pieces(
                f"message of S, {of}", side_pieces(account, number, side, kind, salt)
            )
            hashes[place] = section.hash(f"S, {of}", _merkle.keyed_hash(_key("side"), message))
            of_core = _merkle.side_digest(account, number, 0, side, kind, salt)
            check(computed=hashes[place], given=of_core, what=f"S, {of}")
        if index == 2:
            message = section.pieces(
                "message of ext", [(salts[32:], "salt"), (metadata, "metadata")]
            )
            digest = section.hash("ext", _merkle.keyed_hash(_key("ext"), message))
            check(computed=digest, given=ext[2].tobytes(), what="ext")
        pieces = entry_pieces(entry)
        pieces += [(hashes[0], "S debit or own"), (hashes[1], "S credit")]
        pieces += [(ext[index].tobytes(), "ext")]
        message = section.pieces(f"message of T, {name}", pieces)
        kind_name = _kind_name(kind)
        leaf = section.hash(f"T, {name}", _merkle.keyed_hash(_key(kind_name), message))
        check(computed=leaf, given=core_leaves[index].tobytes(), what=f"T, {name}")
        leaves.append(leaf)
    return leaves


def _kind_name(kind: int) -> str:
    return next(name for name, (number, _) in layout.ENTRY_KINDS.items() if number == kind)


def _key(name: str) -> bytes:
    return _merkle.KEYS[name]


def block_zero(section: Section, example: Example, leaves: list[bytes]) -> None:
    """Write root, header and hash of block 0, and the heads of the accounts' chains."""
    section.heading("Block 0", "Its root, over three leaves; its header; its hash.")
    inner = _merkle.keyed_hash(_key("node"), leaves[0] + leaves[1])
    section.hash("node over the two openings", inner)
    root = section.hash("root of block 0", _merkle.keyed_hash(_key("node"), inner + leaves[2]))
    check(computed=root, given=bytes(example.blocks[0].root), what="root of block 0")
    section.pieces("header of block 0", fields("BLOCK_HEADER", example.headers[0]))
    section.hash("hash of block 0", _merkle.block_hash(example.headers[0]))
    section.heading(
        "Chains", "The opening's leaf, and then the chain over it and the transfer's leaf."
    )
    for place, account in enumerate((1, 2)):
        head = _merkle.keyed_hash(_key("chain"), leaves[place] + leaves[2])
        section.hash(f"head of account {account}", head)
        given = bytes(example.core.account_details(account)["head"])
        check(computed=head, given=given, what=f"head of account {account}")


def state(section: Section, example: Example) -> None:
    """Write the state root after block 0."""
    section.heading(
        "State after block 0",
        "Both accounts are in one group and one tile; so the sum tree is that tile, and the groups"
        " root is the head of that group.",
    )
    leaves = _merkle.account_leaves(np.ascontiguousarray(example.messages))
    for place, account in enumerate((1, 2)):
        message = section.pieces(
            f"message of A, account {account}",
            fields("ACCOUNT_LEAF", example.messages[place].tobytes()),
        )
        leaf = section.hash(f"A, account {account}", leaves[place].tobytes())
        key = _merkle.derive_key(f"sanyuan 2026 v1 {leaf_key()}")
        check(computed=_merkle.keyed_hash(key, message), given=leaf, what=f"A, account {account}")
    (group,) = example.state.groups
    tile = section.hash("tile", _merkle.tree_root(leaves, "tile"))
    sums = [
        (group.fields[48 + 20 * place : 68 + 20 * place], name)
        for place, name in enumerate(("debits_posted", "credits_posted", "credit balances"))
    ]
    section.pieces("sums", sums)
    check(
        computed=bytes(group.tiles[0]),
        given=tile + b"".join(data for data, _ in sums),
        what="tile",
    )
    message = section.pieces(
        "message of the group head",
        [
            (group.fields[:1], "kind"),
            (group.fields[1:2], "zero"),
            (group.fields[2:4], "code"),
            (group.fields[4:8], "ledger"),
            (group.fields[8:16], "account count"),
            (group.fields[16:48], "top hash"),
            *sums,
            (bytes(20), "zeros"),
        ],
    )
    head = section.hash("group head", _merkle.keyed_hash(_key("group"), message))
    check(computed=head, given=bytes(group.head), what="group head")
    message = section.pieces(
        "message of the state root",
        [
            (little(0, 8), "block"),
            (little(1, 8), "group count"),
            (head, "groups root"),
            (bytes(16), "zeros"),
        ],
    )
    root = section.hash("state root", _merkle.keyed_hash(_key("state"), message))
    check(computed=root, given=bytes(example.state.root), what="state root")


def leaf_key() -> str:
    """Return the name of the key of account leaves, as the table of docs/proofs.md has it."""
    text = PAGE.read_text()
    found = re.search(r"\| account leaf `A` \| 192 \| `keyed\(\"(\w+)\"", text)
    if found is None:
        raise SystemExit("docs/proofs.md has lost its line on account leaves")
    return found[1]


def interval(section: Section, example: Example) -> str:
    """Write block 1 and the record of the interval; return the record."""
    section.heading(
        "Block 1",
        "The ledger's own entry, a seal: it has no sides, and its leaf alone is the root. The"
        " header names the state root after block 0.",
    )
    entry = example.blocks[1].entries[0]
    pieces = [*entry_pieces(entry), (bytes(32), "no side"), (bytes(32), "no side")]
    message = section.pieces("message of T, seal", [*pieces, (bytes(32), "no ext")])
    leaf = section.hash("T, seal", _merkle.keyed_hash(_key("administration"), message))
    check(computed=leaf, given=bytes(example.blocks[1].root), what="root of block 1")
    section.pieces("header of block 1", fields("BLOCK_HEADER", example.headers[1]))
    section.hash("hash of block 1", _merkle.block_hash(example.headers[1]))
    section.heading("Interval 0", "Blocks 0 and 1, under the key `interval`; and the record.")
    hashes = b"".join(map(_merkle.block_hash, example.headers))
    root = section.hash("root of the interval", _merkle.keyed_hash(_key("interval"), hashes))
    with example.journal.reader() as reader:
        (record,) = Intervals(INPUTS["origin"], example.instance).read(reader, 1)
    check(computed=root, given=record.root, what="root of the interval")
    return section.text("record", record.text())


def outer_log(section: Section, record: str) -> None:
    """Write the log of one record: leaf, checkpoint, signature, cosignature."""
    section.heading(
        "Outer log",
        "The leaf is SHA-256 of a zero byte and the record; of one leaf it is the root too. The"
        " log signs the three lines of the checkpoint, the witness what is shown below.",
    )
    root = section.hash("leaf of the record", hashlib.sha256(b"\0" + record.encode()).digest())
    checkpoint = notes.Checkpoint(INPUTS["origin"], 1, root)
    text = section.text("checkpoint", checkpoint.text())
    log = notes.SigningKey(
        INPUTS["origin"], notes.ED25519, bytes.fromhex(INPUTS["log_private_key"])
    )
    witness = notes.SigningKey(
        INPUTS["witness"], notes.COSIGNATURE, bytes.fromhex(INPUTS["witness_private_key"])
    )
    section.text("key of the log", f"{log.verifier}\n")
    section.text("signature of the log", str(notes.sign(log, text)))
    section.text("key of the witness", f"{witness.verifier}\n")
    time_s = INPUTS["cosigned_at"]
    section.text(
        "message of the cosignature", notes.cosignature_message(text, time_s=time_s).decode()
    )
    section.text("cosignature", str(notes.cosign(witness, text, time_s=time_s)))


def build() -> str:
    """Return the section: inputs as JSON, then every step."""
    example, section = Example(), Section()
    inputs = {**INPUTS}
    row = np.frombuffer(example.headers[0], layout.BLOCK_HEADER)[0]
    inputs |= {name: int(row[name]) for name in ("format", "rules", "term", "business_date")}
    keys = ["side", "ext", "account", "transfer", "administration", "node", "block", "chain"]
    keys += [leaf_key(), "tile", "group", "state", "interval"]
    section.heading("Keys", '`derive_key("sanyuan 2026 v1 <name>", "")` for each name that occurs.')
    for name in dict.fromkeys(keys):
        section.hash(f"key {name}", _merkle.derive_key(f"sanyuan 2026 v1 {name}"))
    leaves = entries(section, example)
    block_zero(section, example, leaves)
    state(section, example)
    outer_log(section, interval(section, example))
    section.lines.append("```")
    return "\n".join(["", "```json", json.dumps(inputs, indent=1), "```", *section.lines, ""])


def page() -> str:
    """Return docs/proofs.md with the example between its markers made again."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit("docs/proofs.md has lost the markers of its worked example")
    return f"{before}{BEGIN}\n{build()}\n{END}{after}"
