"""Signed notes, checkpoints and cosignatures: published examples, and what must be refused."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.proof import notes

VECTORS = json.loads(
    (Path(__file__).parents[2].parent / "shared" / "vectors" / "notes.json").read_text()
)
NOTES = VECTORS["notes"]
SIGNED = NOTES[2]["note"]
LOG = notes.SigningKey("example.com/log", notes.ED25519, bytes(range(32)))
WITNESS = notes.SigningKey("example.com/witness", notes.COSIGNATURE, bytes(range(32, 64)))
CHECKPOINT = notes.Checkpoint("example.com/log", 7, hashlib.sha256(b"root").digest())


@pytest.mark.parametrize("case", NOTES, ids=[case["name"] for case in NOTES])
def test_published_notes_verify(case: dict[str, str]) -> None:
    key = notes.VerifierKey.parse(case["vkey"])
    note = notes.parse_note(case["note"].encode())
    assert note.opened([key]) == {key: note.signatures[0]}
    assert str(key) == case["vkey"]
    assert str(note) == case["note"]
    if "skey" in case:
        secret = notes.SigningKey.parse(case["skey"])
        assert secret.verifier == key
        assert secret.secret_text() == case["skey"]
        assert str(notes.Note(note.text, (notes.sign(secret, note.text),))) == case["note"]
        assert case["skey"][-20:] not in repr(secret)


@pytest.mark.parametrize("case", VECTORS["witness_keys"], ids=["1", "2", "3"])
def test_published_witness_keys(case: dict[str, str]) -> None:
    assert str(notes.SigningKey.parse(case["skey"]).verifier) == case["vkey"]


def test_published_key_of_a_log() -> None:
    assert str(notes.VerifierKey.parse(VECTORS["tessera_log_vkey"])) == VECTORS["tessera_log_vkey"]


def test_example_of_the_cosignature_specification() -> None:
    """The example of tlog-cosignature has a time one can read; its key is not published."""
    line = (
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJs"
        "X3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
    )
    (signature,) = notes.parse_signatures(line)
    assert signature.time_s == 1679315147
    assert str(signature) == line
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    message = notes.cosignature_message(text, time_s=1679315147)
    assert message.decode() == "cosignature/v1\ntime 1679315147\n" + text


def test_checkpoint_signed_and_cosigned() -> None:
    note = notes.sign_checkpoint(LOG, CHECKPOINT)
    cosigned = note.with_signatures([notes.cosign(WITNESS, note.text, time_s=1_700_000_000)])
    again = notes.parse_note(bytes(cosigned))
    opened = again.opened([LOG.verifier, WITNESS.verifier])
    assert set(opened) == {LOG.verifier, WITNESS.verifier}
    assert opened[WITNESS.verifier].time_s == 1_700_000_000
    assert len(opened[WITNESS.verifier].data) == 72
    assert notes.parse_checkpoint(again.text) == CHECKPOINT
    assert cosigned.with_signatures(cosigned.signatures) == cosigned


def test_one_key_in_two_roles_is_two_keys() -> None:
    """A cosignature never passes as a log's signature by the same key, nor the other way."""
    text = CHECKPOINT.text()
    as_log = notes.SigningKey("same", notes.ED25519, bytes(32))
    as_witness = notes.SigningKey("same", notes.COSIGNATURE, bytes(32))
    assert as_log.verifier.public == as_witness.verifier.public
    assert as_log.verifier.key_id != as_witness.verifier.key_id
    cosigned = notes.cosign(as_witness, text, time_s=1)
    disguised = notes.Signature("same", as_log.verifier.key_id, cosigned.data)
    assert not notes.verifies(as_log.verifier, text, disguised)
    assert not notes.verifies(as_log.verifier, text, cosigned)
    with pytest.raises(ValueError, match="0x01"):
        notes.sign(as_witness, text)
    with pytest.raises(ValueError, match="0x04"):
        notes.cosign(as_log, text, time_s=1)


def test_bad_signature_of_a_known_key_spoils_the_note() -> None:
    note = notes.sign_checkpoint(LOG, CHECKPOINT)
    (line,) = note.signatures
    broken = notes.Signature(line.name, line.key_id, bytes([line.data[0] ^ 1]) + line.data[1:])
    for lines in [(broken,), (line, broken), (broken, line)]:
        with pytest.raises(notes.BadSignature, match="does not verify"):
            notes.Note(note.text, lines).opened([LOG.verifier])


def test_lines_of_unknown_keys_count_for_nothing() -> None:
    note = notes.sign_checkpoint(LOG, CHECKPOINT)
    other_id = notes.Signature(LOG.name, b"\0\0\0\0", b"anything of any length")
    other_name = notes.Signature("somebody", LOG.verifier.key_id, b"x")
    mixed = notes.parse_note(bytes(note.with_signatures([other_id, other_name])))
    assert len(mixed.signatures) == 3
    assert list(mixed.opened([LOG.verifier, WITNESS.verifier])) == [LOG.verifier]
    with pytest.raises(notes.BadSignature, match="no signature by a known key"):
        notes.Note(note.text, (other_id, other_name)).opened([LOG.verifier])


@given(st.integers(0, 8 * 72 - 1))
def test_any_flipped_bit_of_a_cosignature_is_refused(bit: int) -> None:
    text = CHECKPOINT.text()
    good = notes.cosign(WITNESS, text, time_s=1_700_000_000)
    data = bytearray(good.data)
    data[bit // 8] ^= 1 << bit % 8
    assert notes.verifies(WITNESS.verifier, text, good)
    bad = notes.Signature(good.name, good.key_id, bytes(data))
    assert not notes.verifies(WITNESS.verifier, text, bad)


FIELD = 2**255 - 19
POINTLESS = {
    # The eight points of small order: for them a signature of zeros fits one text in eight or all.
    **{
        f"order-{n}": y.to_bytes(32, "little")
        for n, y in [
            (1, 1),
            (2, FIELD - 1),
            (4, 0),
            ("4-sign", 1 << 255),
            (8, 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826),
            (
                "8-sign",
                0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826 | 1 << 255,
            ),
            ("8b", 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7),
        ]
    },
    "zero-once-more": FIELD.to_bytes(32, "little"),
    "one-once-more": (FIELD + 1).to_bytes(32, "little"),
    "nine-once-more": (FIELD + 9).to_bytes(32, "little"),
    "minus-zero": (1 | 1 << 255).to_bytes(32, "little"),
    "not-on-the-curve": (2).to_bytes(32, "little"),
}


@pytest.mark.parametrize("case", POINTLESS)
def test_keys_by_which_anybody_could_sign(case: str) -> None:
    key = notes.VerifierKey("weak", notes.ED25519, POINTLESS[case])
    neutral = (1).to_bytes(32, "little")
    for number in range(20):
        forged = notes.Signature("weak", key.key_id, neutral + bytes(32))
        assert not notes.verifies(key, f"text {number}\n", forged)
    assert not notes.is_good_public_key(key.public)


@given(st.binary(min_size=32, max_size=32))
def test_made_keys_are_good(seed: bytes) -> None:
    assert notes.is_good_public_key(notes.SigningKey("k", notes.ED25519, seed).verifier.public)


MALFORMED = {
    "empty": "",
    "no-signature": SIGNED.split("\n\n")[0] + "\n\n",
    "no-empty-line": SIGNED.replace("\n\n", "\n"),
    "no-line-end": SIGNED[:-1],
    "text-after": SIGNED + "more\n",
    "hyphen-for-dash": SIGNED.replace("—", "-"),
    "carriage-returns": SIGNED.replace("\n", "\r\n"),
    "tab-in-text": "a\tb" + SIGNED,
    "nul-in-text": "a\0b" + SIGNED,
    "name-with-plus": SIGNED.replace("— monkeys", "— mon+keys"),
    "name-empty": SIGNED.replace("— monkeys", "— "),
    "name-with-no-break-space": SIGNED.replace("— monkeys", "— mon\u00a0keys"),
    "two-spaces": SIGNED.replace("— monkeys ", "— monkeys  "),
    "space-at-end": SIGNED[:-1] + " \n",
    "not-base64": SIGNED[:-6] + "!!!!=\n",
    "not-padded": SIGNED[:-2] + "\n",
    "not-canonical": SIGNED.replace("9AY=", "9AZ="),
    "only-a-key-id": SIGNED.split("— ")[0] + "— monkeys 202ffQ==\n",
    "too-many": SIGNED + SIGNED.split("\n\n")[1] * notes.SIGNATURE_COUNT_MAX,
    "too-long": "a" * notes.NOTE_SIZE_MAX + SIGNED,
    "surrogate": "\ud800" + SIGNED,
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_notes_are_refused(case: str) -> None:
    with pytest.raises(notes.BadNote) as refused:
        notes.parse_note(MALFORMED[case])
    assert "\n" not in str(refused.value)


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    for data in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80"):
        with pytest.raises(notes.BadNote, match="UTF-8"):
            notes.parse_note(data + SIGNED.encode())


def test_the_last_empty_line_separates() -> None:
    text = "first\n\nsecond\n"
    note = notes.Note(text, (notes.sign(LOG, text),))
    assert notes.parse_note(str(note)) == note


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_refused(data: bytes) -> None:
    try:
        note = notes.parse_note(data)
    except notes.BadNote:
        return
    assert bytes(note) == data


GOOD_KEY = str(LOG.verifier)
BAD_KEYS = {
    "empty": "",
    "two-parts": "name+00000000",
    "upper-hex": GOOD_KEY.replace(LOG.verifier.hex_id, LOG.verifier.hex_id.upper()),
    "wrong-id": GOOD_KEY.replace(LOG.verifier.hex_id, "00000000"),
    "other-name": "x" + GOOD_KEY,
    "empty-name": GOOD_KEY.removeprefix(LOG.name),
    "space-in-name": "a " + GOOD_KEY,
    "line-end": GOOD_KEY + "\n",
    "no-key": f"{LOG.name}+{LOG.verifier.hex_id}+",
    "short-key": f"{LOG.name}+{LOG.verifier.hex_id}+AQID",
    "unknown-type": "{}+{}+{}".format(
        LOG.name,
        notes.key_id_of(LOG.name, kind=6, public=bytes(32)).hex(),
        notes.encode_base64(b"\x06" + bytes(32)),
    ),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_bad_keys_are_refused(case: str) -> None:
    with pytest.raises(notes.BadNote):
        notes.VerifierKey.parse(BAD_KEYS[case])
    with pytest.raises(notes.BadNote):
        notes.SigningKey.parse("PRIVATE+KEY+" + BAD_KEYS[case])
    with pytest.raises(notes.BadNote):
        notes.SigningKey.parse(GOOD_KEY)


ROOT = notes.encode_base64(CHECKPOINT.root)
BAD_CHECKPOINTS = {
    "two-lines": "origin\n7\n",
    "no-line-end": f"origin\n7\n{ROOT}",
    "empty-origin": f"\n7\n{ROOT}\n",
    "leading-zero": f"origin\n07\n{ROOT}\n",
    "plus": f"origin\n+7\n{ROOT}\n",
    "negative": f"origin\n-7\n{ROOT}\n",
    "other-digits": f"origin\n٧\n{ROOT}\n",
    "underscore": f"origin\n1_0\n{ROOT}\n",
    "too-large": f"origin\n{2**63}\n{ROOT}\n",
    "huge": f"origin\n{'9' * 5000}\n{ROOT}\n",
    "short-root": "origin\n7\nAAAA\n",
    "root-not-canonical": f"origin\n7\n{'A' * 42}B=\n",
    "empty-extension": f"origin\n7\n{ROOT}\n\n",
    "tab": f"ori\tgin\n7\n{ROOT}\n",
}


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_bad_checkpoints_are_refused(case: str) -> None:
    with pytest.raises(notes.BadNote):
        notes.parse_checkpoint(BAD_CHECKPOINTS[case])


def test_extension_lines_are_kept() -> None:
    text = CHECKPOINT.text() + "an extension\n"
    assert notes.parse_checkpoint(text).extensions == ("an extension",)
    assert notes.parse_checkpoint(text).text() == text


def test_a_log_signs_only_its_own_origin() -> None:
    with pytest.raises(ValueError, match="origin"):
        notes.sign_checkpoint(LOG, notes.Checkpoint("another", 0, bytes(32)))
