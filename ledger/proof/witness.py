"""A witness: it cosigns a log's checkpoint when the log only grew since the last one it saw. C2SP
tlog-witness without the network; requests and answers are bytes.

::

    DIR/key                 the witness's own key, mode 0600
    DIR/lock                locked by the one process that cosigns
    DIR/logs/<SHA-256 of origin>        the newest checkpoint it recorded, as the log signed it
    DIR/evidence/<name>.txt             two checkpoints of one log that contradict each other

The order is check, record, sign, answer, under one lock for each log, and a record is durable
before anything is signed. So whatever a crash leaves, the recorded checkpoint is never older than
one that was cosigned, and one size never gets two roots.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ledger.errors import ConfigurationError, DataDamaged, DirectoryInUse, DiskFailed, DiskFull
from ledger.proof.files import failed, sync_directory, write_file
from ledger.proof.notes import (
    COSIGNATURE,
    NOTE_SIZE_MAX,
    BadNote,
    BadSignature,
    Checkpoint,
    Note,
    SigningKey,
    VerifierKey,
    check_name,
    cosign,
    decode_base64,
    encode_base64,
    parse_checkpoint,
    parse_decimal,
    parse_note,
)
from ledger.proof.policy import Policy
from ledger.proof.tree import EMPTY_ROOT, consistency_holds

PROOF_HASHES_MAX: Final = 63
REQUEST_SIZE_MAX: Final = 128 * 1024
"""The longest proof, and a checkpoint with sixteen signatures of the largest kind there is."""
FORKS_KEPT_MAX: Final = 1000
INCONSISTENT_KEPT_MAX: Final = 100
"""Anybody may send a bad proof with a good checkpoint, but only the log's own key makes a fork."""

TEXT: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"

KEY: Final = "key"
LOCK: Final = "lock"
LOGS: Final = "logs"
EVIDENCE: Final = "evidence"
_KEY_SIZE_MAX: Final = 4096

_LOG: Final = logging.getLogger("sanyuan.witness")


# ----------------------------------------------------------------------------------------------
# Requests and answers
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """An add-checkpoint request: the size the witness is thought to have, the proof from it, and
    the new checkpoint.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: Note

    def __bytes__(self) -> bytes:
        lines = "".join(f"{encode_base64(one)}\n" for one in self.proof)
        return f"old {self.old_size}\n{lines}\n{self.note}".encode()


def parse_request(body: bytes) -> Request:
    """Read the body of an add-checkpoint request; BadNote for anything else."""
    if len(body) > REQUEST_SIZE_MAX:
        raise BadNote(f"a request of {len(body)} bytes; at most {REQUEST_SIZE_MAX} are read")
    head, empty_line, rest = body.partition(b"\n\n")
    if not empty_line:
        raise BadNote("no empty line before the checkpoint")
    try:
        first, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise BadNote("a proof that is not ASCII") from None
    word, _, number = first.partition(" ")
    if word != "old":
        raise BadNote("the first line is not the old size")
    if len(hashes) > PROOF_HASHES_MAX:
        raise BadNote(f"{len(hashes)} hashes of proof; at most {PROOF_HASHES_MAX} are read")
    proof = tuple(decode_base64(one) for one in hashes)
    if any(len(one) != 32 for one in proof):
        raise BadNote("a hash that has not 32 bytes")
    return Request(parse_decimal(number), proof, parse_note(rest))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the witness says: HTTP status, body, and in one word why."""

    status: int
    body: bytes
    outcome: str
    content_type: str = TEXT


def _refusal(status: int, outcome: str, why: str) -> Answer:
    return Answer(status, f"{why}\n".encode(), outcome)


OUTCOMES: Final = (
    "cosigned",
    "malformed",
    "unknown_log",
    "not_signed",
    "other_size",
    "fork",
    "inconsistent",
    "disk",
)
"""How a request can end. fork: the log signed two roots of one size. inconsistent: it signed a
checkpoint whose proof does not lead from the recorded one. other_size: the client thought of
another size, and is told the right one. disk: the checkpoint could not be recorded.
"""


# ----------------------------------------------------------------------------------------------
# The directory
# ----------------------------------------------------------------------------------------------


def create_key(directory: Path, name: str) -> VerifierKey:
    """Make a witness's directory, or take an empty one, and a new key in it; return its public
    part. Raises ConfigurationError when the name will not do or a key is there.
    """
    try:
        key = SigningKey(check_name(name), COSIGNATURE, os.urandom(32))
    except BadNote as error:
        raise ConfigurationError(f"{name!a}: {error}") from None
    path = directory / KEY
    new = path.with_name(f"{KEY}.{os.getpid()}.new")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(new, f"{key.secret_text()}\n".encode(), sync=True, mode=0o600)
        try:
            os.link(new, path)  # unlike a rename, this never takes a key away
        finally:
            new.unlink()
        sync_directory(directory)
        sync_directory(directory.parent)
    except FileExistsError:
        raise ConfigurationError(f"{directory} has a key already") from None
    except OSError as error:
        raise failed(error, path) from error
    return key.verifier


def read_key(directory: Path) -> SigningKey:
    """Return the key of a witness's directory; ConfigurationError when there is none that only its
    owner may read.
    """
    path = directory / KEY
    try:
        with open(path, "rb") as opened:
            if os.fstat(opened.fileno()).st_mode & 0o077:
                raise ConfigurationError(f"{path} can be read by others: chmod 600 {path}")
            data = opened.read(_KEY_SIZE_MAX)
        key = SigningKey.parse(data.decode().removesuffix("\n"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{directory} has no key: make one with 'sanyuan witness new-key {directory}'"
        ) from None
    except OSError as error:
        raise failed(error, path) from error
    except (UnicodeDecodeError, BadNote):  # no message may quote any of it
        raise ConfigurationError(f"{path} is not a signing key") from None
    if key.kind != COSIGNATURE:
        raise ConfigurationError(f"{path} is not the key of a witness (type 0x04)")
    return key


def policy_line(key: VerifierKey, url: str | None = None) -> str:
    """Return the line by which a policy names this witness."""
    return f"witness {key.name} {key}" + (f" {url}" if url else "")


# ----------------------------------------------------------------------------------------------
# The witness
# ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Seen:
    """What is known of one log. All but the lock is owned by who holds it."""

    origin: str
    path: Path
    note: Note | None = None
    checkpoint: Checkpoint | None = None
    recorded_at_s: int | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        return 0 if self.checkpoint is None else self.checkpoint.size

    @property
    def root(self) -> bytes:
        return EMPTY_ROOT if self.checkpoint is None else self.checkpoint.root


class Witness:
    """One witness and its directory; ``add_checkpoint`` may be called by many threads.

    ``policy`` names the logs, with the sizes that each key may sign. Raises ConfigurationError when
    there is no key or a recorded checkpoint is of no key in the policy, DirectoryInUse,
    DataDamaged and DiskFailed.
    """

    def __init__(self, directory: Path, policy: Policy, *, clock_s: Callable[[], float]) -> None:
        self._directory = directory
        self._policy = policy
        self._clock_s = clock_s
        self._key = read_key(directory)
        self.key: Final = self._key.verifier
        """The public key."""
        self.failure: DiskFailed | None = None
        """Set when the disk failed: from then on nothing is signed."""
        self._totals: Counter[str] = Counter()
        self._totals_lock = threading.Lock()
        self._lock = _locked(directory)
        try:
            for part in (LOGS, EVIDENCE):
                (directory / part).mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory)
            self._evidence = {path.name for path in (directory / EVIDENCE).glob("*.txt")}
            origins = dict.fromkeys(log.key.name for log in policy.logs)
            self._logs = {origin: self._read(origin) for origin in origins}
        except OSError as error:
            self.close()
            raise failed(error, directory) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, origin: str) -> _Seen:
        name = hashlib.sha256(origin.encode()).hexdigest()
        seen = _Seen(origin, self._directory / LOGS / name)
        try:
            with open(seen.path, "rb") as opened:
                data = opened.read(NOTE_SIZE_MAX + 1)
                seen.recorded_at_s = int(os.fstat(opened.fileno()).st_mtime)
        except FileNotFoundError:
            return seen
        advice = "this witness must not go on without it: make a new one with a new key"
        try:
            note = parse_note(data)
            checkpoint = parse_checkpoint(note.text)
        except BadNote as error:
            raise DataDamaged(f"{seen.path}: {error}; {advice}") from None
        if checkpoint.origin != origin:
            raise DataDamaged(f"{seen.path}: it is of the log {checkpoint.origin}; {advice}")
        try:
            self._policy.signing_log(note, checkpoint)
        except BadSignature as error:
            raise ConfigurationError(
                f"{seen.path}: {error}; keep the log's former key until it has signed with the new"
            ) from None
        seen.note, seen.checkpoint = note, checkpoint
        return seen

    # ------------------------------------------------------------------------------------------

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer one request: with a cosignature when the checkpoint is the log's and consistent
        with the one recorded, which it then replaces.
        """
        answer = self._add_checkpoint(body)
        with self._totals_lock:
            self._totals[answer.outcome] += 1
        return answer

    def _add_checkpoint(self, body: bytes) -> Answer:
        try:
            request = parse_request(body)
            checkpoint = parse_checkpoint(request.note.text)
        except BadNote as error:
            return _refusal(400, "malformed", str(error))
        seen = self._logs.get(checkpoint.origin)
        if seen is None:
            return _refusal(404, "unknown_log", "this witness does not know the log")
        try:
            self._policy.signing_log(request.note, checkpoint)
        except BadSignature as error:
            return _refusal(403, "not_signed", str(error))
        if request.old_size > checkpoint.size:
            return _refusal(400, "malformed", "the old size is larger than the checkpoint's")
        with seen.lock:
            answer = self._decide(seen, request, checkpoint)
            seen.outcomes[answer.outcome] += 1
        return answer

    def _decide(self, seen: _Seen, request: Request, new: Checkpoint) -> Answer:
        """Check, record, sign; the log's lock is held."""
        if seen.note is not None and new.size == seen.size and new.root != seen.root:
            self._keep_evidence("fork", seen, request)
            return Answer(409, f"{seen.size}\n".encode(), "fork", SIZE)
        if request.old_size != seen.size:
            return Answer(409, f"{seen.size}\n".encode(), "other_size", SIZE)
        if not _extends(seen, request, new):
            self._keep_evidence("inconsistent", seen, request)
            return _refusal(422, "inconsistent", "the consistency proof does not verify")
        if self.failure is not None:
            return _refusal(500, "disk", "the witness cannot record anything")
        if new != seen.checkpoint:
            try:
                write_file(seen.path, bytes(request.note), sync=True, mode=0o600)
            except DiskFailed as error:
                _LOG.error("nothing is signed: %s", error)
                if not isinstance(error, DiskFull):
                    self.failure = error
                return _refusal(500, "disk", "the witness cannot record the checkpoint")
        now_s = int(self._clock_s())
        seen.note, seen.checkpoint, seen.recorded_at_s = request.note, new, now_s
        # From here on the checkpoint is recorded, whatever happens.
        line = cosign(self._key, request.note.text, time_s=now_s)
        return Answer(200, str(line).encode(), "cosigned")

    def _keep_evidence(self, what: str, seen: _Seen, request: Request) -> None:
        """Write down both checkpoints, each signed by its log, and the proof that was sent; once
        for each two checkpoints.
        """
        pair = hashlib.sha256(f"{seen.note}\n{request.note.text}".encode()).hexdigest()[:32]
        name = f"{what}-{pair}.txt"
        kept_max = FORKS_KEPT_MAX if what == "fork" else INCONSISTENT_KEPT_MAX
        with self._totals_lock:
            kept = sum(other.startswith(what) for other in self._evidence)
            if name in self._evidence or kept >= kept_max:
                return
            self._evidence.add(name)
        path = self._directory / EVIDENCE / name
        sent = parse_checkpoint(request.note.text).size
        _LOG.error(
            "refused a checkpoint of %s: %s, recorded size %d, sent size %d; evidence in %s",
            *(seen.origin, what, seen.size, sent, path),
        )
        recorded = "nothing\n" if seen.note is None else str(seen.note)
        content = f"{what}\n\n--- recorded\n{recorded}\n--- refused\n".encode() + bytes(request)
        try:
            write_file(path, content, sync=True, mode=0o600)
        except DiskFailed as error:
            _LOG.error("the evidence could not be kept: %s", error)

    # ------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return what anybody may know: the key, each log with its recorded checkpoint, what was
        refused since the start, how many pieces of evidence are kept.
        """
        logs = []
        for seen in self._logs.values():
            with seen.lock:
                logs.append(
                    {
                        "origin": seen.origin,
                        "keys": [str(log.key) for log in self._policy.logs_of(seen.origin)],
                        "size": seen.size,
                        "root": encode_base64(seen.root),
                        "recorded_at_s": seen.recorded_at_s,
                        "checkpoint": None if seen.note is None else str(seen.note),
                        "outcomes": dict(seen.outcomes),
                    }
                )
        with self._totals_lock:
            outcomes = {name: self._totals[name] for name in OUTCOMES}
            evidence = sorted(self._evidence)
        return {
            "witness": str(self.key),
            "fingerprint": self.key.fingerprint,
            "logs": logs,
            "outcomes": outcomes,
            "evidence": evidence,
            "failure": None if self.failure is None else str(self.failure),
        }


def _extends(seen: _Seen, request: Request, new: Checkpoint) -> bool:
    if new.size == 0 and new.root != EMPTY_ROOT:
        return False
    return consistency_holds(
        old=seen.size, old_root=seen.root, new=new.size, new_root=new.root, path=request.proof
    )


def _locked(directory: Path) -> int:
    path = directory / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise failed(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DirectoryInUse(f"{directory} is in use by another process") from None
    return descriptor
