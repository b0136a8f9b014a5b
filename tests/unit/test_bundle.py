"""The parts that bundles and packages are made of, over blocks of a real core."""

import base64
import hashlib
import io
import json
import zipfile

import blake3
import numpy as np
import pytest

from ledger import State, _merkle, layout
from ledger.errors import DataDamaged, RequestRefused
from ledger.proof import canonical, export
from ledger.proof.entries import (
    CREDIT,
    DEBIT,
    EXT_HASH,
    EXT_OPENED,
    OTHER_HASH,
    OTHER_OPENED,
    OWN,
    RELEASED,
    ext_item,
    packed,
    read_entry,
    side_item,
)
from ledger.proof.paths import Paths, Recent
from ledger.proof.prover import drawn

SECOND = 10**9


def keyed(name, message):
    key = blake3.blake3(b"", derive_key_context=f"sanyuan 2026 v1 {name}").digest()
    return blake3.blake3(message, key=key).digest()


def node(left, right):
    return keyed("node", left + right)


def plain_root(leaves):
    """The root as RFC 6962 defines it: split at the largest power of two below the size."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node(plain_root(leaves[:split]), plain_root(leaves[split:]))


def climb(leaf, index, size, path):
    """The root that a path leads to."""
    siblings = [path[at : at + 32] for at in range(0, len(path), 32)]

    def up(start, end):
        if end - start == 1:
            return leaf
        split = start + (1 << (end - start - 1).bit_length() - 1)
        below = up(start, split) if index < split else up(split, end)
        sibling = siblings.pop(0)
        return node(below, sibling) if index < split else node(sibling, below)

    root = up(0, size)
    assert not siblings
    return root


class Bank:
    """A ledger in memory with all kinds of entries, and what is made of its blocks."""

    def __init__(self):
        self.state = State()
        self.time = 10**18
        self.core = self.state.core
        self.paths = Paths(self.core.fill_account_ids)

    def do(self, method, events, **more):
        self.time += SECOND
        return getattr(self.state, method)(events, self.time, **more)["status"].tolist()

    def reader(self):
        return self.state._store.reader()

    def every_entry(self):
        with self.reader() as reader:
            for number in range(reader.last_block + 1):
                for index in range(reader.block(number).entry_count):
                    position = layout.position(number, index)
                    yield reader, position, self.paths.row(reader, position)


@pytest.fixture(scope="module")
def bank():
    one = Bank()
    created = layout.CREATED
    accounts = [{"id": i, "ledger": 156, "code": 20} for i in (1, 2, 3)]
    assert (
        one.do("create_accounts", accounts, metadata={2: b'{"name":"\xe7\x8e\x8b"}'})
        == [created] * 3
    )
    base = {"debit_account_id": 1, "credit_account_id": 2, "ledger": 156, "code": 1}
    pending, post, void = (
        layout.flag_mask("TRANSFER", name)
        for name in ("pending", "post_pending_transfer", "void_pending_transfer")
    )
    assert (
        one.do(
            "create_transfers",
            [
                {"id": 10, "amount": 100, **base},
                {"id": 11, "amount": 7, "flags": pending, **base},
                {"id": 12, "amount": 9, "flags": pending, "timeout": 1, **base},
                {"id": 13, "amount": 5, "flags": pending, **base},
            ],
            metadata={0: b'{"text":"rent"}'},
        )
        == [created] * 4
    )
    base = {"ledger": 156, "code": 1}
    assert (
        one.do(
            "create_transfers",
            [
                {"id": 14, "amount": 6, "pending_id": 11, "flags": post, **base},
                {"id": 15, "pending_id": 13, "flags": void, **base},
                {"id": 16, "amount": 1, "debit_account_id": 99, "credit_account_id": 2, **base},
            ],
        )[:2]
        == [created] * 2
    )
    one.time += 5 * SECOND
    assert one.state.expire(one.time) == 1
    one.do("change_settings", [{"id": 20, "account_id": 2, "overdraft": 50, "flags": 1}])
    one.do("define", [{"id": 21, "kind": 1, "ledger": 156, "exponent": 2}])
    one.do("move_business_date", [{"id": 22, "date": 20260331}])
    many = np.zeros(700, layout.TRANSFER)
    many["id"]["lo"] = np.arange(1000, 1700)
    many["debit_account_id"]["lo"], many["credit_account_id"]["lo"] = 1, 3
    many["amount"]["lo"], many["ledger"], many["code"] = 1, 156, 1
    texts = {i: b'{"n":"%d"}' % i for i in (0, 255, 256, 699)}
    assert set(one.do("create_transfers", many, metadata=texts)) == {created}
    return one


def leaf_by_hand(row, entry):
    """T from what a bundle shows, with every part opened, read from docs/proofs.md."""
    sides = []
    which = {"debit": DEBIT, "credit": CREDIT}
    for name, one in (("debit", entry.debit), ("credit", entry.credit)):
        shown = side_item(one, opened=True)
        if shown is None:
            sides.append(bytes(32))
            continue
        side = which[name] if entry.credit is not None else OWN
        message = (
            int(shown["account"]).to_bytes(16, "little")
            + int(shown["number"]).to_bytes(8, "little")
            + entry.released.to_bytes(16, "little")
            + bytes([side, entry.kind])
            + bytes(6)
            + base64.b64decode(shown["salt"])
        )
        sides.append(keyed("side", message))
    ext = ext_item(entry.ext, opened=True)
    if ext is None:
        digest = bytes(32)
    else:
        digest = keyed("ext", base64.b64decode(ext["salt"]) + ext["metadata"].encode())
    names = {number: name for name, (number, _) in layout.ENTRY_KINDS.items()}
    return keyed(names[entry.kind], entry.record + b"".join(sides) + digest)


def test_every_kind_of_entry_opens_to_its_leaf_and_leads_to_its_block(bank):
    kinds, erasable = set(), 0
    for reader, position, row in bank.every_entry():
        entry = read_entry(reader, position, row)
        kinds.add(entry.kind)
        erasable += entry.ext is not None
        if entry.index % 50 and entry.block > 7 and entry.index not in (255, 256, 699):
            continue
        assert leaf_by_hand(row, entry) == entry.leaf
        leaf, path = bank.paths.in_block(reader, position)
        assert leaf == entry.leaf
        view = reader.block(entry.block)
        assert climb(leaf, entry.index, view.entry_count, path) == view.root
    assert {layout.ENTRY_KINDS[name][0] for name in layout.ENTRY_KINDS} - kinds == {
        layout.ENTRY_KINDS["object_event"][0]
    }
    assert erasable == 6


def test_hidden_parts_are_the_hashes_of_the_opened_ones(bank):
    for reader, position, row in bank.every_entry():
        entry = read_entry(reader, position, row)
        for side in (entry.debit, entry.credit):
            hidden = side_item(side, opened=False)
            assert hidden == (None if side is None else base64.b64encode(side.digest).decode())
        assert (ext_item(entry.ext, opened=False) is None) == (entry.ext is None)


def test_packed_entries_say_which_side_and_hide_the_other(bank):
    seen = set()
    for reader, position, row in bank.every_entry():
        entry = read_entry(reader, position, row)
        for side, account_id in (
            ("debit", layout.to_int(row["record"]["debit_account_id"][0])),
            ("credit", layout.to_int(row["record"]["credit_account_id"][0])),
        ):
            if account_id == 0:
                continue
            for shown in (False, True):
                data = packed(entry, account_id, counterparty=shown, metadata=shown)
                kind, which, bits = data[:3]
                assert data[3:99] == entry.record
                assert kind == entry.kind
                own = entry.debit if which != CREDIT else entry.credit
                other = entry.credit if which != CREDIT else entry.debit
                assert data[99:115] == own.salt
                assert which == (OWN if other is None else DEBIT if side == "debit" else CREDIT)
                seen.add((bits, shown))
                rest = data[115:]
                if bits & RELEASED:
                    assert int.from_bytes(rest[:16], "little") == entry.released > 0
                    rest = rest[16:]
                if bits & OTHER_HASH:
                    assert rest[:32] == other.digest
                    rest = rest[32:]
                if bits & OTHER_OPENED:
                    assert int.from_bytes(rest[:16], "little") == other.account_id
                    assert int.from_bytes(rest[16:24], "little") == other.number
                    assert rest[24:40] == other.salt
                    rest = rest[40:]
                if bits & EXT_HASH:
                    assert rest == entry.ext.digest
                    rest = b""
                if bits & EXT_OPENED:
                    assert rest[:32] == entry.ext.salt
                    assert int.from_bytes(rest[32:34], "little") == len(rest[34:])
                    assert rest[34:] == entry.ext.metadata
                    rest = b""
                assert rest == b""
    for bit in (RELEASED, OTHER_HASH, OTHER_OPENED, EXT_HASH, EXT_OPENED):
        assert any(bits & bit for bits, _ in seen)
    assert not any(bits & (OTHER_OPENED | EXT_OPENED) for bits, shown in seen if not shown)


def test_a_block_whose_stored_rows_are_others_is_noticed(bank):
    """The leaves are compared with the root in the header before a path is given."""

    class Other:
        """A reader that shows the entries of a block with one amount changed."""

        def __init__(self, reader):
            self.reader = reader
            self.last_block = reader.last_block
            self.metadata = reader.metadata

        def block(self, number):
            view = self.reader.block(number)

            class View:
                def __getattr__(self, name):
                    return getattr(view, name)

                def entries(self, start, stop):
                    rows = view.entries(start, stop)
                    rows["record"]["amount"]["lo"][0] ^= 1
                    return rows

            return View()

    paths = Paths(bank.core.fill_account_ids)
    with bank.reader() as reader:
        with pytest.raises(DataDamaged, match="root in its header"):
            paths.in_block(Other(reader), layout.position(1, 0))
        paths.in_block(reader, layout.position(1, 0))
        with pytest.raises(DataDamaged, match="does not lead"):
            paths.in_block(Other(reader), layout.position(1, 0))


def test_what_was_used_lately_is_kept_up_to_its_bound():
    recent = Recent(1000)
    made = []

    def make(key):
        def array():
            made.append(key)
            return np.zeros(400, np.uint8)

        return recent.get(key, array)

    make(1), make(2), make(1), make(3), make(1)
    assert made == [1, 2, 3]
    make(2)
    assert made == [1, 2, 3, 2]


def test_canonical_json_has_one_form():
    text = 'a"\\/\b\f\n\r\t\x00\x1f\x7fé\u2028王😀'
    document = {"b": [1, True, None, {}], "a": text, "é": (1 << 53) - 1, "B": []}
    body = canonical.encode(document)
    assert body.endswith(b"\n")
    assert json.loads(body) == document
    assert body.decode() == (
        '{"B":[],"a":"a\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7fé\u2028王😀",'
        '"b":[1,true,null,{}],"é":9007199254740991}\n'
    )
    signed = json.loads(canonical.with_digest(document))
    assert signed.pop("sha256") == hashlib.sha256(canonical.encode(signed)).hexdigest()
    for wrong in (-1, 1 << 53, 1.0, b"x", {"a": [0.5]}):
        with pytest.raises(ValueError, match="canonical JSON"):
            canonical.encode(wrong)


def test_a_package_is_a_zip_in_its_one_form():
    files = [
        export._file("verify.py", b"print()\n"),
        export._file("bundle.json", b"{}\n"),
        export._spooled("state.bin", iter([b"a" * 192, b"b" * 192]), 1000),
        export._file("README.txt", "账本".encode()),
        export._file("checkpoint", b""),
    ]
    package = export.Package(files, "example.org/ledger")
    body = b"".join(package.pieces())
    assert b"".join(package.pieces()) == body
    assert len(body) == package.size
    with zipfile.ZipFile(io.BytesIO(body)) as opened:
        assert opened.testzip() is None
        infos = opened.infolist()
        assert [info.filename for info in infos] == [
            "manifest.json",
            "README.txt",
            "bundle.json",
            "checkpoint",
            "state.bin",
            "verify.py",
        ]
        for info in infos:
            assert info.compress_type == zipfile.ZIP_STORED
            assert (info.flag_bits, info.extra, info.comment) == (0x800, b"", b"")
            assert (info.create_version, info.extract_version, info.create_system) == (20, 20, 0)
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert (info.external_attr, info.internal_attr) == (0, 0)
        manifest = json.loads(opened.read("manifest.json"))
        assert manifest["origin"] == "example.org/ledger"
        assert list(manifest["files"]) == sorted(info.filename for info in infos[1:])
        for name, facts in manifest["files"].items():
            content = opened.read(name)
            assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    package.close()
    with pytest.raises(RequestRefused, match="more than 191"):
        export._spooled("state.bin", iter([b"a" * 192]), 191)


def test_the_words_for_people_are_in_both_languages():
    text = export.readme("example.org/ledger").decode()
    assert "example.org/ledger" in text
    for words in ("do not trust", "请勿信任", "verify.py", "python verify.py PACKAGE.zip --policy"):
        assert words in text


def test_times_have_nine_decimals():
    assert export.time_text(10**18 + 1) == "2001-09-09T01:46:40.000000001Z"
    assert export.time_text(0) == "1970-01-01T00:00:00.000000000Z"
    assert export.time_text((1 << 63) - 1) == "2262-04-11T23:47:16.854775807Z"


def test_draws_repeat_nothing_and_follow_from_the_seed():
    key = hashlib.sha256(b"seed").digest()
    numbers = drawn(key, 60, 61)
    assert len(set(numbers)) == 60
    assert max(numbers) < 61
    expected, k = [], 0
    while len(expected) < 60:
        data = b"sanyuan sample v1\n" + key + k.to_bytes(8, "big")
        value = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
        if value < 2**64 - 2**64 % 61 and value % 61 not in expected:
            expected.append(value % 61)
        k += 1
    assert numbers == expected
    assert drawn(key, 1, 1) == [0]
    assert (
        _merkle.KEYS["node"]
        == blake3.blake3(b"", derive_key_context="sanyuan 2026 v1 node").digest()
    )
