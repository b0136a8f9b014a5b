"""The key that signs the log's checkpoints, and what keeps it from ever signing a fork.

::

    FILE               the private key, mode 0600: a line PRIVATE+KEY+..., or encrypted (below)
    FILE.checkpoint    the newest checkpoint it signed: durable before the signature leaves
    FILE.policy        the log's public keys, and which sizes each may sign
    FILE.lock          held by the one process that signs
    FILE.next          while a rotation is under way: the key that comes after

An encrypted key is text too: its vkey, then the private key sealed with AES-256-GCM under a key
that scrypt makes of the passphrase; the lines before the last are authenticated with it.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ledger.errors import ConfigurationError, DirectoryInUse, LedgerError
from ledger.proof import tree
from ledger.proof.files import Hook, failed, no_hook, sync_directory, write_file
from ledger.proof.interval import ORIGIN_BYTES_MAX
from ledger.proof.notes import (
    ED25519,
    BadNote,
    Checkpoint,
    Note,
    SigningKey,
    VerifierKey,
    decode_base64,
    encode_base64,
    parse_checkpoint,
    parse_note,
    sign_checkpoint,
)
from ledger.proof.policy import BadPolicy, Log, Policy, parse_policy

DEFAULT_NAME: Final = "signing-key"
"""The key's file in the data directory, unless another is named."""
PASSPHRASE_BYTES_MAX: Final = 1024

_ENCRYPTED: Final = "sanyuan encrypted signing key v1"
_SCRYPT_COST: Final = 1 << 17
_SCRYPT_COST_MAX: Final = 1 << 20
_SCRYPT_BLOCK: Final = 8
_FILE_BYTES_MAX: Final = 4096
_ORIGIN: Final = re.compile(rf"[!-*,-~]{{1,{ORIGIN_BYTES_MAX}}}")
_FORM: Final = re.compile(
    rf"(?P<head>{_ENCRYPTED}\n"
    r"vkey (?P<vkey>\S+)\n"
    r"scrypt (?P<cost>[1-9][0-9]{0,7}) 8 1 (?P<salt>\S+)\n)"
    r"aes-256-gcm (?P<nonce>\S+) (?P<sealed>\S+)\n"
)

ADVICE: Final = (
    "blocks that were signed are not in this journal, as after a restore from an old backup. Find"
    " the newest journal, or begin a log with another name; docs/keys.md says how"
)

Consistency = Callable[[int, int], list[bytes]]
"""consistency(old size, new size): the path that proves one tree begins with the other."""


class KeyUnreadable(ConfigurationError):
    """The signing key cannot be used: not there, open to others, or another passphrase."""


class LogForked(LedgerError):
    """The journal does not lead to what was signed before. Nothing is signed; ``detail`` says what
    to do.
    """


def check_origin(name: str) -> str:
    """Return a log's name; raise ConfigurationError unless it is printable ASCII without space and
    plus.
    """
    if _ORIGIN.fullmatch(name) is None:
        raise ConfigurationError(
            f"{name!r} cannot name a log: 1 to {ORIGIN_BYTES_MAX} printable ASCII characters"
            " without space and '+', such as bank.example/ledger"
        )
    return name


# ----------------------------------------------------------------------------------------------
# The private key's file
# ----------------------------------------------------------------------------------------------


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def key_text(key: SigningKey, passphrase: bytes | None) -> str:
    """Return what a key's file has: the key itself, or encrypted."""
    if passphrase is None:
        return key.secret_text() + "\n"
    salt, nonce = os.urandom(16), os.urandom(12)
    head = (
        f"{_ENCRYPTED}\nvkey {key.verifier}\n"
        f"scrypt {_SCRYPT_COST} {_SCRYPT_BLOCK} 1 {encode_base64(salt)}\n"
    )
    cipher = AESGCM(_derived(passphrase, salt, _SCRYPT_COST))
    sealed = cipher.encrypt(nonce, key.secret_text().encode(), head.encode())
    return f"{head}aes-256-gcm {encode_base64(nonce)} {encode_base64(sealed)}\n"


def _derived(passphrase: bytes, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=_SCRYPT_BLOCK, p=1).derive(passphrase)


def read_verifier(path: Path) -> VerifierKey:
    """Return the public key of a signing key's file; no passphrase is needed. Raises
    KeyUnreadable.
    """
    text = _read_private(path)
    match = _FORM.fullmatch(text)
    try:
        if match is not None:
            return VerifierKey.parse(match["vkey"])
        return SigningKey.parse(text.removesuffix("\n")).verifier
    except BadNote as error:
        raise KeyUnreadable(f"{path}: {error}") from None


def is_encrypted(path: Path) -> bool:
    """Tell whether a signing key's file needs a passphrase; raises KeyUnreadable."""
    return _FORM.fullmatch(_read_private(path)) is not None


def read_key(path: Path, passphrase: bytes | None) -> SigningKey:
    """Return a signing key; raise KeyUnreadable when its file is missing, open to others, damaged,
    or encrypted with another passphrase. No message has any of the key.
    """
    text = _read_private(path)
    match = _FORM.fullmatch(text)
    try:
        if match is not None:
            if passphrase is None:
                raise KeyUnreadable(f"{path} is encrypted: give its passphrase")
            cost = int(match["cost"])
            if cost & (cost - 1) or not 2 <= cost <= _SCRYPT_COST_MAX:
                raise KeyUnreadable(f"{path}: a scrypt cost of {cost}")
            salt, nonce = decode_base64(match["salt"]), decode_base64(match["nonce"])
            try:
                cipher = AESGCM(_derived(passphrase, salt, cost))
                sealed = decode_base64(match["sealed"])
                text = cipher.decrypt(nonce, sealed, match["head"].encode()).decode()
            except (InvalidTag, ValueError, UnicodeDecodeError):
                raise KeyUnreadable(
                    f"{path}: the passphrase is not this key's, or the file is damaged"
                ) from None
        key = SigningKey.parse(text.removesuffix("\n"))
    except BadNote as error:
        raise KeyUnreadable(f"{path}: {error}") from None
    if key.kind != ED25519 or _ORIGIN.fullmatch(key.name) is None:
        raise KeyUnreadable(f"{path} is not a key that signs checkpoints of a log")
    if match is not None and str(key.verifier) != match["vkey"]:
        raise KeyUnreadable(f"{path}: its public key is not that of its private key")
    return key


def _read_private(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyUnreadable(f"{path} is not a file")
            if status.st_mode & 0o077:
                raise KeyUnreadable(
                    f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):o}):"
                    f" chmod 600 {path}"
                )
            data = os.read(descriptor, _FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise KeyUnreadable(
            f"{path} does not exist: make it with sanyuan signing-key new"
        ) from None
    except OSError as error:
        raise KeyUnreadable(f"{path}: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise KeyUnreadable(f"{path} is not a signing key: it is too long")
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise KeyUnreadable(f"{path} is not a signing key") from None


# ----------------------------------------------------------------------------------------------
# Making and replacing keys
# ----------------------------------------------------------------------------------------------


def create_key(path: Path, *, name: str, passphrase: bytes | None) -> VerifierKey:
    """Make the signing key of a new log and return its public key. The private key gets its name
    last. Raises ConfigurationError when there is one, or was one that has signed.
    """
    check_origin(name)
    if path.exists():
        raise ConfigurationError(f"{path} exists: a log's key is replaced by signing-key rotate")
    signed = last_signed(path)
    if signed is not None and parse_checkpoint(signed.text).size:
        raise ConfigurationError(
            f"{_beside(path, '.checkpoint')} says that a key which is gone has signed: bring it"
            " back, or begin another log with another name and an empty folder; see docs/keys.md"
        )
    key = SigningKey(name, ED25519, os.urandom(32))
    with locked(path):
        beginning = sign_checkpoint(key, Checkpoint(name, 0, tree.EMPTY_ROOT))
        write_file(_beside(path, ".checkpoint"), bytes(beginning), sync=True)
        text = policy_text((Log(key.verifier),))
        write_file(_beside(path, ".policy"), text.encode(), sync=True)
        write_file(path, key_text(key, passphrase).encode(), sync=True, mode=0o600)
    return key.verifier


def policy_text(logs: tuple[Log, ...]) -> str:
    """Return the policy of a log's keys in order; ranges stand there when there are several."""
    lines: list[str] = []
    for log in logs:
        lines.append(f"log {log.key}")
        if len(logs) > 1:
            last = "-" if log.last_size is None else log.last_size
            lines.append(f"# sanyuan-range {log.key.name}+{log.key.hex_id} {log.first_size} {last}")
    return "\n".join([*lines, "quorum none", ""])


def was_made(path: Path) -> bool:
    """Tell whether there is a signing key at a place, or what belongs to one that is gone."""
    return path.exists() or _beside(path, ".policy").exists()


def read_policy(path: Path) -> Policy:
    """Return the public keys of the log of a signing key; raise ConfigurationError without them."""
    file = _beside(path, ".policy")
    try:
        return parse_policy(file.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file} is missing: bring it back from where the key was"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except BadPolicy as error:
        raise ConfigurationError(f"{file}: {error}") from error


def last_signed(path: Path) -> Note | None:
    """Return the newest checkpoint that a signing key signed, None where the file is missing.

    Raises ConfigurationError when it is no checkpoint. The signature is not looked at.
    """
    file = _beside(path, ".checkpoint")
    try:
        note = parse_note(file.read_bytes())
        parse_checkpoint(note.text)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    except BadNote as error:
        raise ConfigurationError(f"{file}: {error}; see docs/keys.md") from error
    return note


def prepare_next(path: Path, *, name: str, passphrase: bytes | None) -> VerifierKey:
    """Make the key that follows, or return the one that an earlier call made."""
    following = _beside(path, ".next")
    if not following.exists():
        key = SigningKey(name, ED25519, os.urandom(32))
        write_file(following, key_text(key, passphrase).encode(), sync=True, mode=0o600)
    verifier = read_verifier(following)
    if verifier.name != name:
        raise ConfigurationError(f"{following} is a key of another log: remove it")
    return verifier


def next_exists(path: Path) -> bool:
    """Tell whether a rotation is under way."""
    return _beside(path, ".next").exists()


def switch_to_next(path: Path) -> Policy:
    """Let the next key sign from the size after the newest signed one on; the old one is removed.

    Returns the policy with both keys. Nobody may be signing. A cut-off call is finished by
    ``finish_switch``, which everybody calls who opens the key.
    """
    policy = read_policy(path)
    note = last_signed(path)
    if note is None:
        raise ConfigurationError(f"{_beside(path, '.checkpoint')} is missing; see docs/keys.md")
    size = parse_checkpoint(note.text).size
    *earlier, old = policy.logs
    logs = (
        *earlier,
        Log(old.key, None, old.first_size, size),
        Log(read_verifier(_beside(path, ".next")), None, size + 1, None),
    )
    write_file(_beside(path, ".policy.next"), policy_text(logs).encode(), sync=True)
    try:
        os.replace(_beside(path, ".next"), path)
        sync_directory(path.parent)
    except OSError as error:
        raise failed(error, path) from error
    finish_switch(path)
    return read_policy(path)


def finish_switch(path: Path) -> None:
    """Finish a rotation that was cut off after the new key took the old one's place."""
    waiting = _beside(path, ".policy.next")
    try:
        policy = parse_policy(waiting.read_bytes())
        if policy.logs[-1].key == read_verifier(path):
            os.replace(waiting, _beside(path, ".policy"))
            sync_directory(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise failed(error, waiting) from error
    except BadPolicy as error:
        raise ConfigurationError(f"{waiting}: {error}") from error


class locked:
    """Holds a key's lock while the context lasts; raises DirectoryInUse."""

    def __init__(self, path: Path) -> None:
        lock = _beside(path, ".lock")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            try:
                self._descriptor = os.open(lock, flags, 0o600)
            except FileNotFoundError:
                raise ConfigurationError(f"{path.parent} does not exist") from None
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(self._descriptor)
                raise DirectoryInUse(f"{path} is in use by another process") from error
        except OSError as error:
            raise KeyUnreadable(f"{lock}: {error.strerror}") from error

    def close(self) -> None:
        """Let others have the key; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> locked:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# ----------------------------------------------------------------------------------------------
# Signing
# ----------------------------------------------------------------------------------------------


class Signer:
    """A signing key in use: it signs what extends the newest checkpoint that it signed, and nothing
    else. One for each key at a time, on this machine.
    """

    def __init__(
        self, path: Path, passphrase: bytes | None = None, *, hook: Hook = no_hook
    ) -> None:
        """Raises KeyUnreadable, DirectoryInUse while another has the key, and ConfigurationError
        when what belongs to it is missing.
        """
        self._path = path
        self._hook = hook
        self._lock = locked(path)
        try:
            finish_switch(path)
            self._key = read_key(path, passphrase)
            self._last = self._read_last()
        except BaseException:
            self._lock.close()
            raise

    def _read_last(self) -> Note:
        policy = read_policy(self._path)
        self._log = policy.logs[-1]
        if self._log.key != self._key.verifier or self._log.last_size is not None:
            raise ConfigurationError(
                f"{_beside(self._path, '.policy')} does not end with the key {self._path}"
            )
        note = last_signed(self._path)
        file = _beside(self._path, ".checkpoint")
        if note is None:
            raise ConfigurationError(
                f"{file} is missing, so it is unknown what was signed: put the newest signed"
                " checkpoint there that anyone has seen; see docs/keys.md"
            )
        checkpoint = parse_checkpoint(note.text)
        try:
            if checkpoint.origin != self._key.name:
                raise BadNote("it is of another log")
            policy.signing_log(note, checkpoint)
        except BadNote as error:
            raise ConfigurationError(f"{file}: {error}; see docs/keys.md") from error
        return note

    @property
    def origin(self) -> str:
        """The log's name, which is the key's."""
        return self._key.name

    @property
    def verifier(self) -> VerifierKey:
        """The public key."""
        return self._key.verifier

    @property
    def last(self) -> Checkpoint:
        """The newest checkpoint that was signed, by this key or the one before it."""
        return parse_checkpoint(self._last.text)

    def sign(self, size: int, root: bytes, consistency: Consistency) -> Note:
        """Return the signed checkpoint of a size; it is durable before.

        The newest one again gives the same bytes. Raises LogForked for a tree that does not
        extend it, DiskFailed.
        """
        last = self.last
        if size == last.size and root == last.root:
            return self._last
        if size <= last.size or not self._log.may_sign(size):
            raise LogForked(
                f"a tree of {size} records is to be signed, and one of {last.size} was: {ADVICE}"
            )
        path = consistency(last.size, size)
        if not tree.consistency_holds(
            old=last.size, old_root=last.root, new=size, new_root=root, path=path
        ):
            raise LogForked(
                f"the log of {size} records does not begin with the {last.size} that were signed:"
                f" {ADVICE}"
            )
        note = sign_checkpoint(self._key, Checkpoint(self._key.name, size, root))
        self._hook("state", "before")
        write_file(_beside(self._path, ".checkpoint"), bytes(note), sync=True)
        self._hook("state", "after")
        self._last = note
        return note

    def close(self) -> None:
        """Let others have the key; closing twice is allowed."""
        self._lock.close()
