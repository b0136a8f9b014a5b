"""Canonical JSON and base64: the one way in which a bundle can be written.

UTF-8, keys sorted by code point, no whitespace, escapes only where JSON must, one line feed at the
end. docs/proofs.md has the rules; ``verify.py`` refuses every other form.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

DIGEST_FIELD: Final = "sha256"


def encode(document: Any) -> bytes:
    """Return a document of objects, arrays, strings, whole numbers, booleans and null as canonical
    JSON with its line feed; raise ValueError for a number that has another form."""
    _check(document)
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return (text + "\n").encode()


def with_digest(document: dict[str, Any]) -> bytes:
    """Return the canonical JSON of a document, its own digest added as ``sha256``."""
    digest = hashlib.sha256(encode(document)).hexdigest()
    return encode({**document, DIGEST_FIELD: digest})


def b64(data: bytes) -> str:
    """Return canonical base64."""
    return base64.b64encode(data).decode()


def _check(value: Any) -> None:
    if isinstance(value, dict):
        for one in value.values():
            _check(one)
    elif isinstance(value, list):
        for one in value:
            _check(one)
    elif isinstance(value, int):
        if not 0 <= value <= (1 << 53) - 1:
            raise ValueError(f"{value} is no whole number of canonical JSON")
    elif value is not None and not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is nothing that canonical JSON has")
