"""API keys: made, listed and revoked by the command line, checked by the server. Only hashes are
stored.

A key is ``sanyuan_<id>_<secret>``: the id names it in lists and logs, the secret has 256 random
bits, so that one plain
SHA-256 is as hard to turn round as any. The file ``api-keys.json`` in the data directory is
replaced as a whole; a running
server notices within a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ledger.errors import ConfigurationError

FILE_NAME: Final = "api-keys.json"
SCOPES: Final[dict[str, str]] = {
    "accounts:write": "open accounts",
    "transfers:write": "post transfers",
    "read": "read accounts, transfers, statements, queries, the feed",
    "audit": "read, the trial balance, proofs and metrics",
    "admin": "everything, and settings, definitions and the business date",
}
"""What a key may be allowed to do."""
_KEY: Final = re.compile(r"sanyuan_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NO_DIGEST: Final = "0" * 64
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key: its id and name, scopes, the SHA-256 of its secret, and when it was made, ns
    since 1970."""

    id: str
    name: str
    scopes: tuple[str, ...]
    digest: str
    created_at_ns: int

    def allows(self, scopes: frozenset[str]) -> bool:
        """Whether the key has one of the scopes; admin has them all, audit can read."""
        mine = set(self.scopes)
        if "admin" in mine:
            return True
        if "audit" in mine:
            mine.add("read")
        return not scopes.isdisjoint(mine)


def create_key(directory: Path, *, name: str, scopes: tuple[str, ...]) -> tuple[ApiKey, str]:
    """Make a key and store its hash; return it and the text of the key, which is shown once and
    never stored.

    Raises ConfigurationError for an unknown scope, no scope, an empty name or one that is taken.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigurationError(
            f"unknown scope {unknown[0]!r}; there are {', '.join(SCOPES)}"
            if unknown
            else f"a key needs a scope; there are {', '.join(SCOPES)}"
        )
    if not name or len(name) > 100 or not name.isprintable():
        raise ConfigurationError("a key needs a name of at most 100 printable characters")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with _changing(directory) as keys:
        if any(key.name == name for key in keys):
            raise ConfigurationError(f"there is a key named {name!r} already")
        key = ApiKey(key_id, name, tuple(sorted(set(scopes))), _digest(secret), time.time_ns())
        keys.append(key)
    return key, f"sanyuan_{key_id}_{secret}"


def list_keys(directory: Path) -> list[ApiKey]:
    """Return the keys of a data directory in the order in which they were made; raise
    ConfigurationError for a bad file."""
    return _read(directory / FILE_NAME)


def revoke_key(directory: Path, name_or_id: str) -> ApiKey:
    """Take a key away, by its name or id, and return it; raise ConfigurationError when there is
    none."""
    with _changing(directory) as keys:
        for key in keys:
            if name_or_id in (key.name, key.id):
                keys.remove(key)
                return key
        raise ConfigurationError(f"there is no key named {name_or_id!r}")


class KeyRing:
    """The keys of a data directory as the server sees them; reads the file again when it
    changed."""

    def __init__(self, directory: Path) -> None:
        """Raises ConfigurationError when there is no key or the file is bad."""
        self._path = directory / FILE_NAME
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at_s = 0.0
        self._keys: dict[str, ApiKey] = {}
        self._load()
        if not self._keys:
            raise ConfigurationError(f"{self._path}: no API key; make one with sanyuan api-keys")

    def find(self, text: str) -> ApiKey | None:
        """Return the key that ``text`` is, or None; takes the same time for a wrong secret and an
        unknown id."""
        now = time.monotonic()
        if now - self._looked_at_s >= 1.0:
            self._looked_at_s = now
            self._load()
        match = _KEY.fullmatch(text)
        key = self._keys.get(match[1]) if match else None
        digest = _digest(match[2] if match else "")
        same = hmac.compare_digest(digest, key.digest if key else _NO_DIGEST)
        return key if same else None

    def _load(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._keys = {key.id: key for key in _read(self._path)}
            self._stamp = stamp


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> list[ApiKey]:
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ConfigurationError(f"{path}: version {document['version']} is not known here")
        keys = [ApiKey(**{**key, "scopes": tuple(key["scopes"])}) for key in document["keys"]]
        if not all(re.fullmatch("[0-9a-f]{64}", key.digest) for key in keys):
            raise ValueError("a digest is malformed")
        return keys
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigurationError(f"{path}: not a file of API keys: {error}") from error


@contextmanager
def _changing(directory: Path) -> Iterator[list[ApiKey]]:
    """The keys, to be changed in place; written back as a whole, by one process at a time."""
    path = directory / FILE_NAME
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = _read(path)
        yield keys
        new = path.with_name(FILE_NAME + ".new")
        text = json.dumps({"version": _VERSION, "keys": [asdict(key) for key in keys]}, indent=1)
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, text.encode() + b"\n")
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(new, path)
        os.fsync(lock)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    finally:
        os.close(lock)
