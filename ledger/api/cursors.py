"""Opaque cursors: where a list goes on, and of which list it is.

A cursor holds numbers only, so that one that was tampered with can name a wrong place in the same
list and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Final

from ledger.api.problems import Problem

_VERSION: Final = 1
_FORM: Final = struct.Struct("<B8sQQ")


def fingerprint(*parts: object) -> bytes:
    """Return eight bytes that stand for a list and its filters."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def write(list_of: bytes, at: int, until: int = 0) -> str:
    """Return the cursor of place ``at`` in the list with this fingerprint; ``until`` is where the
    list ends."""
    packed = _FORM.pack(_VERSION, list_of, at, until)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def read(text: str, list_of: bytes) -> tuple[int, int]:
    """Return (at, until) of a cursor; raise the problem invalid_cursor when it is not one of this
    list."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        version, whose, at, until = _FORM.unpack(packed)
    except (ValueError, binascii.Error, struct.error):
        raise Problem("invalid_cursor", "the cursor is not one of this server's") from None
    if version != _VERSION or whose != list_of:
        raise Problem("invalid_cursor", "the cursor belongs to another list, or to other filters")
    return at, until
