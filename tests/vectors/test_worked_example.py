"""The worked example of docs/proofs.md, computed again from its inputs: here without the ledger, by
the ``blake3`` and ``cryptography`` packages; and by the ledger's own core, which writes the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/proofs.md").read_text()
BEGIN, END = "<!-- generated: the worked example -->", "<!-- end of the worked example -->"
Value = bytes | str
OWN, DEBIT, CREDIT = 3, 1, 2
ACCOUNT, TRANSFER = 1, 2
ZEROS = bytes(32)


def read(page: str) -> tuple[dict, dict[str, Value]]:
    """The inputs, and each step's value by its name."""
    section = page[page.index(BEGIN) : page.index(END)]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.S | re.M)
    (inputs,) = [json.loads(text) for kind, text in blocks if kind == "json"]
    steps: dict[str, Value] = {}
    for line in "".join(text for kind, text in blocks if not kind).splitlines():
        if not line.startswith("  "):
            name = line
            assert name not in steps, f"{name} is there twice"
        elif line.startswith("  |"):
            steps[name] = str(steps.get(name, "")) + line[4:] + "\n"
        else:
            before = steps.get(name, b"")
            assert isinstance(before, bytes)
            steps[name] = before + bytes.fromhex(line.split()[0])
    return inputs, steps


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Steps(dict[str, Value]):
    """The steps as they follow from the inputs and the formats of the page."""

    def __init__(self, inputs: dict) -> None:
        self.inputs = inputs
        found = re.search(r'account leaf `A` \| 192 \| `keyed\("(\w+)"', PAGE)
        assert found is not None
        self.leaf_key = found[1]
        names = ["side", "ext", "account", "transfer", "administration", "node", "block", "chain"]
        for name in (*names, self.leaf_key, "tile", "group", "state", "interval"):
            key = blake3(b"", derive_key_context=f"sanyuan 2026 v1 {name}").digest()
            self[f"key {name}"] = key
        self.instance = bytes.fromhex(inputs["instance"])
        self.seal_time = inputs["seal_timestamp"]
        self.entries()
        self.chains()
        self.state()
        self.blocks_and_record()
        self.outer_log()

    def keyed(self, name: str, message: bytes) -> bytes:
        key = self[f"key {name}"]
        assert isinstance(key, bytes)
        assert len(message) % 64 == 0 or name == "ext"
        return blake3(message, key=key).digest()

    def hashed(self, name: str, key: str, message: bytes) -> bytes:
        """Both lines of a step: its message, and its hash."""
        self[f"message of {name}"] = message
        self[name] = self.keyed(key, message)
        return self.keyed(key, message)

    def salts(self, index: int, name: str) -> bytes:
        xof = blake3(b"", key=bytes.fromhex(self.inputs["seeds"][0]))
        self[f"salts, {name}"] = salts = xof.digest(length=64, seek=64 * index)
        return salts

    def side(self, of: str, account: int, number: int, side: int, kind: int, salt: bytes) -> bytes:
        message = little(account, 16) + little(number, 8) + bytes(16)
        message += bytes([side, kind]) + bytes(6) + salt
        return self.hashed(f"S, {of}", "side", message)

    def entries(self) -> None:
        self.leaves, self.state_salts = [], []
        for index, account in enumerate(self.inputs["accounts"]):
            name = f"opening of account {account['id']}"
            salts = self.salts(index, name)
            own = self.side(f"{name}, own", account["id"], 0, OWN, ACCOUNT, salts[:16])
            record = little(account["id"], 16) + bytes(16 + 16 + 16 + 8 + 4 + 4)
            record += little(account["ledger"], 4) + little(account["code"], 2) + bytes(2)
            record += little(account["timestamp"], 8)
            leaf = self.hashed(f"T, {name}", "account", record + own + ZEROS + ZEROS)
            self.leaves.append(leaf)
            self.state_salts.append(salts[16:32])
        one = self.inputs["transfer"]
        name = f"transfer {one['id']}"
        salts = self.salts(2, name)
        debit_id, credit_id = one["debit_account_id"], one["credit_account_id"]
        debit = self.side(f"{name}, debit", debit_id, 1, DEBIT, TRANSFER, salts[:16])
        credit = self.side(f"{name}, credit", credit_id, 1, CREDIT, TRANSFER, salts[16:32])
        ext = self.hashed("ext", "ext", salts[32:] + one["metadata"].encode())
        record = little(one["id"], 16) + little(one["amount"], 16) + bytes(16 + 16 + 8 + 4 + 4)
        record += little(one["ledger"], 4) + little(one["code"], 2) + bytes(2)
        record += little(one["timestamp"], 8)
        leaf = self.hashed(f"T, {name}", "transfer", record + debit + credit + ext)
        self.leaves.append(leaf)
        node = self.keyed("node", self.leaves[0] + self.leaves[1])
        self["node over the two openings"] = node
        self["root of block 0"] = self.root = self.keyed("node", node + self.leaves[2])

    def chains(self) -> None:
        self.heads = [self.keyed("chain", leaf + self.leaves[2]) for leaf in self.leaves[:2]]
        for account, head in zip(self.inputs["accounts"], self.heads, strict=True):
            self[f"head of account {account['id']}"] = head

    def state(self) -> None:
        amount = little(self.inputs["transfer"]["amount"], 16)
        leaves = []
        for place, account in enumerate(self.inputs["accounts"]):
            nothing = bytes(16)
            debits, credits = (amount, nothing) if place == 0 else (nothing, amount)
            message = little(account["id"], 16) + nothing + debits + nothing + credits
            message += bytes(16 + 16) + self.heads[place] + little(2, 8) + little(place, 8)
            message += little(account["ledger"], 4) + little(account["code"], 2)
            message += bytes(2 + 2 + 1 + 5) + self.state_salts[place]
            leaves.append(self.hashed(f"A, account {account['id']}", self.leaf_key, message))
        self["tile"] = tile = self.keyed("tile", leaves[0] + leaves[1])
        self["sums"] = sums = (amount + bytes(4)) * 3
        one = self.inputs["accounts"][0]
        fields = bytes(2) + little(one["code"], 2) + little(one["ledger"], 4) + little(2, 8)
        head_message = fields + tile + sums + bytes(20)
        head = self["group head"] = self.keyed("group", head_message)
        self["message of the group head"] = head_message
        message = little(0, 8) + little(1, 8) + head + bytes(16)
        self["message of the state root"] = message
        self["state root"] = self.state_root = self.keyed("state", message)

    def header(self, number: int, **of: int | bytes) -> bytes:
        openings, transfer = self.inputs["accounts"], self.inputs["transfer"]
        parts = [
            b"SANYUAN\0",
            little(self.inputs["format"], 4) + little(self.inputs["rules"], 4) + self.instance,
            little(number, 8) + little(self.inputs["term"], 8) + little(of["first_entry"], 8),
            little(of["time"], 8),
            little(openings[1]["timestamp"], 8) + little(transfer["timestamp"], 8),
            bytes(8) + little(of["count"], 4) + little(of["flags"], 4),
            little(self.inputs["business_date"], 4) + bytes(4),
            of["previous"] + of["root"] + of["state_root"] + bytes(56),
        ]
        header = b"".join(parts)
        assert len(header) == 256
        self[f"header of block {number}"] = header
        self[f"hash of block {number}"] = hash_ = self.keyed("block", header)
        return hash_

    def blocks_and_record(self) -> None:
        transfer_time = self.inputs["transfer"]["timestamp"]
        first = self.header(
            0, first_entry=0, time=transfer_time, count=3, flags=0,
            previous=ZEROS, root=self.root, state_root=ZEROS,
        )  # fmt: skip
        record = bytes(16 + 16 + 16 + 16 + 8 + 4 + 4 + 4) + little(1, 2) + bytes(2)
        record += little(self.seal_time, 8)
        seal = self.hashed("T, seal", "administration", record + ZEROS + ZEROS + ZEROS)
        last = self.header(
            1, first_entry=3, time=self.seal_time, count=1, flags=1,
            previous=first, root=seal, state_root=self.state_root,
        )  # fmt: skip
        root = self["root of the interval"] = self.keyed("interval", first + last)
        date = self.inputs["business_date"]
        self["record"] = (
            "sanyuan interval v1\n"
            f"origin {self.inputs['origin']}\n"
            f"instance {self.instance.hex()}\n"
            "blocks 0 1\n"
            "entries 0 4\n"
            f"time {self.seal_time}\n"
            f"date {date}\n"
            f"root {b64(root)}\n"
            f"last {b64(last)}\n"
            f"state 0 {transfer_time} 0 {date} {b64(self.state_root)}\n"
        )

    def outer_log(self) -> None:
        root = hashlib.sha256(b"\0" + str(self["record"]).encode()).digest()
        self["leaf of the record"] = root
        origin, witness = self.inputs["origin"], self.inputs["witness"]
        self["checkpoint"] = text = f"{origin}\n1\n{b64(root)}\n"
        time = self.inputs["cosigned_at"]
        self["message of the cosignature"] = message = f"cosignature/v1\ntime {time}\n{text}"
        for name, what, key, kind, signed, before in (
            (origin, "log", "log_private_key", 1, text, b""),
            (witness, "witness", "witness_private_key", 4, message, time.to_bytes(8, "big")),
        ):
            private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.inputs[key]))
            public = bytes([kind]) + private.public_key().public_bytes_raw()
            key_id = hashlib.sha256(f"{name}\n".encode() + public).digest()[:4]
            self[f"key of the {what}"] = f"{name}+{key_id.hex()}+{b64(public)}\n"
            line = f"— {name} {b64(key_id + before + private.sign(signed.encode()))}\n"
            self["signature of the log" if what == "log" else "cosignature"] = line


def wrong(page: str) -> list[str]:
    """The steps of a page that do not follow from its inputs."""
    inputs, steps = read(page)
    plain = Steps(inputs)
    return [name for name in {**steps, **plain} if steps.get(name) != plain.get(name)]


def test_every_value_follows_from_the_inputs() -> None:
    assert wrong(PAGE) == []
    assert len(read(PAGE)[1]) > 50


def test_the_core_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    before = set(sys.modules)
    from tools import worked_example

    assert worked_example.page() == PAGE
    for name in set(sys.modules) - before:
        if name.startswith("tools"):
            del sys.modules[name]


def test_any_changed_digit_is_noticed() -> None:
    lines = PAGE.splitlines(keepends=True)
    start = next(at for at, line in enumerate(lines) if line.startswith(BEGIN))
    changed = 0
    for at in range(start, len(lines)):
        digits = re.match(r"  ([0-9a-f]{2,})", lines[at])
        if digits is None:
            continue
        last = digits.end() - 1
        other = "0" if lines[at][last] != "0" else "1"
        line = lines[at][:last] + other + lines[at][last + 1 :]
        assert wrong("".join((*lines[:at], line, *lines[at + 1 :]))), lines[at]
        changed += 1
    assert changed > 150
    assert wrong(PAGE.replace('"amount": 10000', '"amount": 10001'))
    assert wrong(PAGE.replace("  | blocks 0 1\n", "  | blocks 0 2\n"))
