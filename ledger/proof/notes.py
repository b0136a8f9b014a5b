"""Signed notes, the paper on which transparency logs write: C2SP signed-note, tlog-checkpoint and
tlog-cosignature v1. Bytes in, values out; no file, no network, no clock.

A note is a text and signature lines under it. A checkpoint is a note whose text says the origin,
size and root of a log. A log signs the text itself (Ed25519, type 0x01); a witness signs the text
with the time before it (type 0x04). Lines of keys that nobody here knows are kept and count for
nothing.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519: Final = 0x01
"""Signature type of a log: Ed25519 over the note's text."""
COSIGNATURE: Final = 0x04
"""Signature type of a witness: Ed25519 over a time and the note's text, after the time."""

NOTE_SIZE_MAX: Final = 256 * 1024
SIGNATURE_COUNT_MAX: Final = 100
TREE_SIZE_MAX: Final = 2**63 - 1
TIME_MAX: Final = 2**63 - 1

_FIELD: Final = 2**255 - 19
_CURVE: Final = -121665 * pow(121666, -1, _FIELD) % _FIELD
_SMALL_ORDER: Final = frozenset(
    (
        0,
        1,
        _FIELD - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
    )
)
"""The y of the eight points that have small order: as a key, anybody could sign by them."""

_SIGNATURE_START: Final = "\u2014 "
_SECRET_START: Final = "PRIVATE+KEY+"
_HEX_ID: Final = re.compile(r"[0-9a-f]{8}")
_DECIMAL: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


class BadNote(ValueError):
    """A note, key or checkpoint that is not in its one form; the message is one line."""


class BadSignature(BadNote):
    """A signature that does not verify, or none by a known key."""


# ----------------------------------------------------------------------------------------------
# Small forms
# ----------------------------------------------------------------------------------------------


def decode_base64(text: str) -> bytes:
    """Return the bytes of standard, padded, canonical base64; BadNote for any other form."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadNote("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise BadNote("base64 that is not canonical")
    return data


def encode_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def parse_decimal(text: str) -> int:
    """Return a number from 0 to 2^63 - 1 written without leading zeros; BadNote for any other."""
    if _DECIMAL.fullmatch(text) is None or int(text) > TREE_SIZE_MAX:
        raise BadNote("not a decimal number from 0 to 2^63 - 1 without leading zeros")
    return int(text)


def check_name(name: str) -> str:
    """Return a key's name; BadNote when it is empty or has a space, plus or control character."""
    if not name or "+" in name or any(c.isspace() for c in name) or _CONTROL.search(name):
        raise BadNote("a key name that is empty or has a space, plus or control character in it")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BadNote("a key name that is not Unicode text") from None
    return name


# ----------------------------------------------------------------------------------------------
# Keys
# ----------------------------------------------------------------------------------------------


def key_id_of(name: str, *, kind: int, public: bytes) -> bytes:
    """Return the 4 bytes by which signature lines name a key."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key: name, signature type (ED25519 or COSIGNATURE) and its 32 bytes."""

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.kind not in (ED25519, COSIGNATURE):
            raise BadNote(f"a key of type 0x{self.kind:02x}; known are 0x01 and 0x04")
        if len(self.public) != 32:
            raise BadNote(f"a public key of {len(self.public)} bytes; Ed25519 has 32")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a vkey, ``name+hex key id+base64(type, public key)``; BadNote unless its id fits."""
        name, hex_id, data = _split_key(text, "vkey")
        key = cls(name, data[0], data[1:])
        if hex_id != key.hex_id:
            raise BadNote(f"a vkey with the id {hex_id}; that of its key is {key.hex_id}")
        return key

    @property
    def key_id(self) -> bytes:
        return key_id_of(self.name, kind=self.kind, public=self.public)

    @property
    def hex_id(self) -> str:
        return self.key_id.hex()

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the public key, in hex: what people read to each other."""
        return hashlib.sha256(self.public).hexdigest()

    def __str__(self) -> str:
        """Return the vkey."""
        return f"{self.name}+{self.hex_id}+{encode_base64(bytes([self.kind]) + self.public)}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key: name, signature type and the 32-byte seed, which ``repr`` leaves out."""

    name: str
    kind: int
    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != 32:
            raise BadNote(f"a private key of {len(self.seed)} bytes; Ed25519 has 32")
        VerifierKey(self.name, self.kind, self._private().public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """Read an skey, ``PRIVATE+KEY+name+hex key id+base64(type, seed)``. No message has any of
        it but the id.
        """
        if not text.startswith(_SECRET_START):
            raise BadNote("a signing key must begin with PRIVATE+KEY+")
        name, hex_id, data = _split_key(text.removeprefix(_SECRET_START), "signing key")
        key = cls(name, data[0], data[1:])
        if hex_id != key.verifier.hex_id:
            raise BadNote(f"a signing key with the id {hex_id}, which is not its own")
        return key

    def secret_text(self) -> str:
        """Return the skey: whoever reads it can sign."""
        data = encode_base64(bytes([self.kind]) + self.seed)
        return f"{_SECRET_START}{self.name}+{self.verifier.hex_id}+{data}"

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self.kind, self._private().public_key().public_bytes_raw())

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


def _split_key(text: str, what: str) -> tuple[str, str, bytes]:
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise BadNote(f"a {what} has three parts with + between them")
    name, hex_id, encoded = parts
    check_name(name)
    if _HEX_ID.fullmatch(hex_id) is None:
        raise BadNote(f"a {what} whose id is not 8 lower-case hex digits")
    data = decode_base64(encoded)
    if not data:
        raise BadNote(f"a {what} without a key")
    return name, hex_id, data


@functools.lru_cache(maxsize=1024)
def is_good_public_key(public: bytes) -> bool:
    """Tell whether 32 bytes are the one encoding of a point that is not of small order."""
    number = int.from_bytes(public, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= _FIELD or y in _SMALL_ORDER:
        return False
    x_squared = (y * y - 1) * pow(_CURVE * y * y + 1, -1, _FIELD) % _FIELD
    if x_squared == 0:
        return not sign
    return pow(x_squared, (_FIELD - 1) // 2, _FIELD) == 1


# ----------------------------------------------------------------------------------------------
# Notes
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: the key's name, its 4-byte id and what it signed with."""

    name: str
    key_id: bytes
    data: bytes

    def by(self, key: VerifierKey) -> bool:
        """Tell whether the line says it is by this key; nothing is verified."""
        return self.name == key.name and self.key_id == key.key_id

    @property
    def time_s(self) -> int:
        """The POSIX time of a cosignature; BadNote when it has not 72 bytes."""
        if len(self.data) != 72:
            raise BadNote(f"a cosignature of {len(self.data)} bytes; it has 72")
        return int.from_bytes(self.data[:8], "big")

    def __str__(self) -> str:
        """Return the line with its line end."""
        return f"{_SIGNATURE_START}{self.name} {encode_base64(self.key_id + self.data)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a line end, and the signature lines under it."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(str(one) for one in self.signatures)

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def signed_by(self, key: VerifierKey) -> Signature | None:
        """Return the first signature of this key, verified; None when it has none. BadSignature
        when any line of the key does not verify.
        """
        lines = [one for one in self.signatures if one.by(key)]
        if not all(verifies(key, self.text, one) for one in lines):
            raise BadSignature(f"the signature of {key.name}+{key.hex_id} does not verify")
        return lines[0] if lines else None

    def opened(self, keys: Iterable[VerifierKey]) -> dict[VerifierKey, Signature]:
        """Return the verified signature of each of these keys that signed; BadSignature when one
        does not verify or none signed.
        """
        found = {key: line for key in keys if (line := self.signed_by(key)) is not None}
        if not found:
            raise BadSignature("no signature by a known key")
        return found

    def with_signatures(self, more: Iterable[Signature]) -> Note:
        """Return the note with these lines as well; a line it has already is not repeated."""
        lines = dict.fromkeys((*self.signatures, *more))
        return Note(self.text, tuple(lines))


def parse_note(data: bytes | str) -> Note:
    """Read a signed note of at most 256 KiB and 100 signatures; BadNote for anything else."""
    if len(data) > NOTE_SIZE_MAX:
        raise BadNote(f"a note of {len(data)} bytes; at most {NOTE_SIZE_MAX} are read")
    try:
        whole = data.decode() if isinstance(data, bytes) else data.encode().decode()
    except UnicodeError:
        raise BadNote("a note that is not UTF-8") from None
    if _CONTROL.search(whole):
        raise BadNote("a note with a control character in it")
    end = whole.rfind("\n\n")
    if end < 0:
        raise BadNote("a note without an empty line before its signatures")
    text, lines = whole[: end + 1], whole[end + 2 :]
    if not lines:
        raise BadNote("a note without a signature")
    return Note(text, parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read signature lines, each with its line end: the end of a note, or a witness's answer."""
    if not lines.endswith("\n"):
        raise BadNote("a last signature line without a line end")
    split = lines[:-1].split("\n")
    if len(split) > SIGNATURE_COUNT_MAX:
        raise BadNote(f"{len(split)} signatures; at most {SIGNATURE_COUNT_MAX} are read")
    return tuple(_parse_signature(line) for line in split)


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    if not line.startswith(_SIGNATURE_START) or not space:
        raise BadNote("a signature line that is not a dash, a name and base64")
    data = decode_base64(encoded)
    if len(data) < 5:
        raise BadNote("a signature too short for a key id and anything after it")
    return Signature(check_name(name), data[:4], data[4:])


# ----------------------------------------------------------------------------------------------
# Signing and verifying
# ----------------------------------------------------------------------------------------------


def sign(key: SigningKey, text: str) -> Signature:
    """Return a log's signature of a note's text; ValueError unless the key has type 0x01."""
    if key.kind != ED25519:
        raise ValueError("only a key of type 0x01 signs a note's text itself")
    return Signature(key.name, key.verifier.key_id, _sign(key, _checked_text(text)))


def cosign(key: SigningKey, text: str, *, time_s: int) -> Signature:
    """Return a witness's cosignature/v1 of a checkpoint's text at a POSIX time; ValueError unless
    the key has type 0x04.
    """
    if key.kind != COSIGNATURE:
        raise ValueError("only a key of type 0x04 cosigns")
    _checked_text(text)
    signed = _sign(key, cosignature_message(text, time_s=time_s))
    return Signature(key.name, key.verifier.key_id, time_s.to_bytes(8, "big") + signed)


def cosignature_message(text: str, *, time_s: int) -> bytes:
    """Return what a cosignature/v1 signs."""
    if not 0 <= time_s <= TIME_MAX:
        raise ValueError("a time from 0 to 2^63 - 1 seconds")
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def verifies(key: VerifierKey, text: str, signature: Signature) -> bool:
    """Tell whether a line is this key's signature of the text, by the rules of the key's type."""
    if not signature.by(key) or not is_good_public_key(key.public):
        return False
    data, message = signature.data, text.encode()
    if key.kind == COSIGNATURE:
        if len(data) != 72 or signature.time_s > TIME_MAX:
            return False
        message = cosignature_message(text, time_s=signature.time_s)
        data = data[8:]
    if len(data) != 64:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(data, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _sign(key: SigningKey, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(key.seed).sign(message)


def _checked_text(text: str) -> bytes:
    if not text.endswith("\n") or _CONTROL.search(text):
        raise ValueError("a note's text ends in a line end and has no control characters")
    return text.encode()


# ----------------------------------------------------------------------------------------------
# Checkpoints
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says of itself: origin, size in records, root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the note text that a log signs."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint from a note's text; BadNote for any other text."""
    if not text.endswith("\n"):
        raise BadNote("a checkpoint that does not end in a line end")
    if _CONTROL.search(text):
        raise BadNote("a checkpoint with a control character in it")
    origin, *rest = text[:-1].split("\n")
    if len(rest) < 2 or not all((origin, *rest)):
        raise BadNote("a checkpoint has three lines or more and none is empty")
    size, root = parse_decimal(rest[0]), decode_base64(rest[1])
    if len(root) != 32:
        raise BadNote(f"a root of {len(root)} bytes; SHA-256 has 32")
    return Checkpoint(origin, size, root, tuple(rest[2:]))


def sign_checkpoint(key: SigningKey, checkpoint: Checkpoint) -> Note:
    """Return the checkpoint as a note signed by its log; the origin must be the key's name."""
    if key.name != checkpoint.origin:
        raise ValueError("a log signs checkpoints of its own origin")
    text = checkpoint.text()
    if parse_checkpoint(text) != checkpoint:
        raise ValueError("a checkpoint that would be read as another")
    return Note(text, (sign(key, text),))
