"""What verify.py says of files that are wrong in ways nobody would think of."""

from __future__ import annotations

import pytest

from ledger.proof import verify
from tests.model.proofs import Bundle, Ledger, canonical, export, in_order, manifest, sealed


def small() -> tuple[Bundle, bytes]:
    bank = Ledger("b.example")
    bank.open(1, ledger=1, code=1)
    bank.open(2, ledger=1, code=1)
    bank.transfer(3, 1, 2, 10)
    bank.close_block()
    state = bank.keep_state().block
    bank.transfer(4, 1, 2, 10)
    bank.close_block(seal=True)
    bundle = Bundle(bank, bank.checkpoint())
    bundle.add_statement(1, None, state)
    return bundle, f"log {bank.log.vkey}\nquorum none\n".encode()


@pytest.mark.parametrize("kind", [[], {}, ["entry"], None, 1, "nothing"])
def test_a_type_that_is_no_known_word(kind: object) -> None:
    bundle, policy = small()
    value = sealed({**bundle.value(), "items": [{"type": kind}]})
    report = verify.examine(verify.package_of_bytes(canonical(value).encode()), policy)
    assert (report.verdict, report.code) == ("refused", "malformed")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda table: table[:-1], 3),
        (lambda table: table + b"\n", 4),
        (lambda table: table + b"1,2\n", 4),
        (lambda table: b"", 1),
        (lambda table: table.replace(b",debit,10,", b",debit,11,"), 3),
    ],
)
def test_a_changed_table_is_refused_with_its_line(change, line: int) -> None:
    bundle, policy = small()
    files = export(bundle)
    files["statement-1.csv"] = change(files["statement-1.csv"])
    files["manifest.json"] = manifest(files, bundle.ledger.origin)
    report = verify.examine(verify.package_of_files(in_order(files)), policy)
    assert (report.verdict, report.code) == ("refused", "bad_csv")
    assert f"statement-1.csv, line {line}:" in (report.reason or "")


def test_a_bundle_of_millions_of_small_parts_is_refused_before_it_is_parsed() -> None:
    _, policy = small()
    data = b'{"items":[' + b"[]," * (1 << 21) + b"[]]}\n"
    report = verify.examine(verify.package_of_bytes(data), policy)
    assert (report.verdict, report.code) == ("refused", "too_large")
    assert report.reason == "bundle.json has more than 4194304 parts"
