"""The page's own hashes and signatures against the packages and published vectors."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blake3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.proof import verify
from tests.browser.chromium import Page
from tests.browser.evidence import BYTES
from tests.model.proofs import b64

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors"
FIELD = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
ORDER_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
OTHER_ORDER_8 = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
SIZES = [*range(300), *(1023, 1024, 1025, 2048, 2049, 4128, 5000, 70_000)]


@pytest.fixture(autouse=True)
def pure() -> Iterator[None]:
    """verify.py by its own arithmetic, which is what the page is compared with."""
    before = verify.CRYPTOGRAPHY
    verify.choose(pure=True)
    yield
    verify.CRYPTOGRAPHY = before


def called(page: Page, function: str, arguments: list[list[bytes]]) -> list[Any]:
    """Call a function of the page with each list of arguments; bytes come back as hex."""
    lists = [[b64(one) for one in some] for some in arguments]
    return list(
        page.run(
            f"""(() => {{
                {BYTES}
                const hex = (data) => data instanceof Uint8Array
                  ? Array.from(data, (one) => one.toString(16).padStart(2, "0")).join("") : data;
                return {json.dumps(lists)}.map((some) =>
                  hex(sanyuan.cryptography.{function}(...some.map(bytes))));
            }})()"""
        )
    )


def data_of(size: int) -> bytes:
    return bytes(place % 251 for place in range(size))


@pytest.mark.parametrize("name", ["sha256", "sha512"])
def test_sha_is_that_of_hashlib(page: Page, name: str) -> None:
    found = called(page, name, [[data_of(size)] for size in SIZES])
    assert found == [hashlib.new(name, data_of(size)).hexdigest() for size in SIZES]


def test_blake3_is_that_of_the_package(page: Page) -> None:
    key = bytes(range(32))
    sizes = [*SIZES, 1024 * 37 + 5]
    plain = called(page, "blake3", [[data_of(size)] for size in sizes])
    keyed = called(page, "blake3Keyed", [[key, data_of(size)] for size in sizes])
    assert plain == [blake3.blake3(data_of(size)).hexdigest() for size in sizes]
    assert keyed == [blake3.blake3(data_of(size), key=key).hexdigest() for size in sizes]


def test_blake3_passes_its_vectors(page: Page) -> None:
    path = VECTORS / "blake3_test_vectors.json"
    if not path.exists():
        pytest.skip("the published vectors are not here")
    vectors = json.loads(path.read_text())
    cases = vectors["cases"]
    inputs = [data_of(case["input_len"]) for case in cases]
    key, context = vectors["key"].encode(), vectors["context_string"]
    for function, field, found in (
        ("blake3", "hash", called(page, "blake3", [[one] for one in inputs])),
        ("keyed", "keyed_hash", called(page, "blake3Keyed", [[key, one] for one in inputs])),
    ):
        assert found == [case[field][:64] for case in cases], function
    derived = page.run(
        f"""(() => {{ {BYTES} return {json.dumps([b64(one) for one in inputs])}.map((one) =>
            Array.from(sanyuan.cryptography.blake3DeriveKey({json.dumps(context)}, bytes(one)),
              (byte) => byte.toString(16).padStart(2, "0")).join("")); }})()"""
    )
    assert derived == [case["derive_key"][:64] for case in cases]


def test_published_notes_verify(page: Page) -> None:
    path = VECTORS / "notes.json"
    if not path.exists():
        pytest.skip("the published vectors are not here")
    cases = []
    for note in json.loads(path.read_text())["notes"]:
        public = verify.strict_base64(note["vkey"].split("+", 2)[2])[1:]
        text, _, line = note["note"].rpartition("\n\n")
        signature = verify.strict_base64(line.split(" ")[2].strip())[4:]
        cases.append([public, f"{text}\n".encode(), signature])
    assert len(cases) >= 4
    assert called(page, "ed25519Verify", cases) == [True] * len(cases)
    other = [[public, text + b" ", signature] for public, text, signature in cases]
    assert called(page, "ed25519Verify", other) == [False] * len(cases)


def test_signatures_are_judged_as_by_the_package(page: Page) -> None:
    chance = random.Random(3)
    cases = []
    for number in range(30):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        public, message = key.public_key().public_bytes_raw(), chance.randbytes(7 * number)
        signature = key.sign(message)
        cases.append([public, message, signature])
        for part in range(3):
            changed = [bytearray(public), bytearray(message or b"x"), bytearray(signature)]
            place = chance.randrange(8 * len(changed[part]))
            changed[part][place // 8] ^= 1 << place % 8
            cases.append([bytes(one) for one in changed])
    expected = [verify.verify_ed25519(*case) for case in cases]
    assert expected.count(True) >= 30
    assert called(page, "ed25519Verify", cases) == expected


def encoded(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def small_order_points() -> list[bytes]:
    """All encodings, canonical or not, of the eight points of small order."""
    torsion = {0, 1, FIELD - 1}
    torsion |= {int.from_bytes(bytes.fromhex(one), "little") for one in (ORDER_8, OTHER_ORDER_8)}
    below = {y + FIELD for y in torsion if y + FIELD < 2**255}
    return [encoded(y, sign) for y in sorted(torsion | below) for sign in (0, 1)]


def test_no_public_key_of_small_order_or_in_another_encoding(page: Page) -> None:
    points = small_order_points()
    points += [encoded(y, sign) for y in range(FIELD, 2**255) for sign in (0, 1)]
    points += [encoded(2, 0), bytes(31), bytes(33)]  # on no curve, too short, too long
    assert called(page, "isGoodPublicKey", [[one] for one in points]) == [False] * len(points)
    good = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert called(page, "isGoodPublicKey", [[good]]) == [True]
    # With a key of small order, [S]B = R holds for S = 0 and R neutral, whatever was signed.
    trivial = [[key, b"any", encoded(1, 0) + bytes(32)] for key in points if len(key) == 32]
    assert called(page, "ed25519Verify", trivial) == [False] * len(trivial)


def test_the_equation_has_no_cofactor(page: Page) -> None:
    """With T of order 8 in the public key, an equation times 8 would hold for every signature."""
    torsion = verify.decode_point(bytes.fromhex(ORDER_8))
    assert torsion is not None
    cases = []
    for number in range(24):
        secret, nonce = 1000 + number, 5000 + number
        public = point_bytes(verify.add_points(multiple(secret), torsion))
        r = point_bytes(multiple(nonce))
        message = bytes([number])
        k = int.from_bytes(hashlib.sha512(r + public + message).digest(), "little") % ORDER
        s = (nonce + k * secret) % ORDER
        cases.append([public, message, r + s.to_bytes(32, "little")])
    assert called(page, "isGoodPublicKey", [[case[0]] for case in cases]) == [True] * len(cases)
    expected = [verify.verify_ed25519(*case) for case in cases]
    assert called(page, "ed25519Verify", cases) == expected
    assert 0 < expected.count(True) < len(cases) / 2  # those whose k is a multiple of 8


def multiple(scalar: int) -> verify.Point:
    total = verify.NEUTRAL
    for bit in bin(scalar)[2:]:
        total = verify.double_point(total)
        if bit == "1":
            total = verify.add_points(total, verify.BASE)
    return total


def point_bytes(point: verify.Point) -> bytes:
    inverse = pow(point[2], FIELD - 2, FIELD)
    return encoded(point[1] * inverse % FIELD, point[0] * inverse % FIELD & 1)


def test_signatures_have_one_form(page: Page) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, message = key.public_key().public_bytes_raw(), b"a checkpoint\n"
    signature = key.sign(message)
    s = int.from_bytes(signature[32:], "little")
    others = [signature[:32] + (s + k * ORDER).to_bytes(32, "little") for k in range(1, 8)]
    others += [signature[:-1], signature + b"\0", b""]
    assert called(page, "ed25519Verify", [[public, message, signature]]) == [True]
    assert called(page, "ed25519Verify", [[public, message, one] for one in others]) == [
        False
    ] * len(others)
