"""The thread that keeps the outer log: sealed blocks become records, tiles, signed checkpoints,
cosigned checkpoints.

::

    sealed, durable block ──> record ──> tiles ──> FILE.checkpoint ──> signature ──> cosignatures
                                                   (durable first)                   ──> checkpoint

Whatever waits is covered by one checkpoint. Posting never waits for any of it: a failure is a
warning, and is tried again. Killed anywhere, the next start goes on from the files; since what was
signed is durable before the signature leaves, the next checkpoint extends whatever anyone has seen.
"""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from ledger.errors import ConfigurationError, DirectoryInUse, DiskFailed, LedgerError
from ledger.proof.files import Hook, no_hook
from ledger.proof.interval import DoesNotFollow, Intervals, Reader, parse_record
from ledger.proof.notes import (
    BadNote,
    Checkpoint,
    Note,
    parse_checkpoint,
)
from ledger.proof.outer import WIDTH, OuterLog
from ledger.proof.policy import Policy, QuorumNotMet
from ledger.proof.signing import (
    ADVICE,
    KeyUnreadable,
    LogForked,
    Signer,
    last_signed,
    read_policy,
)

_LOG = logging.getLogger("sanyuan.log")

LATE_S: Final = 30.0
"""A sealed block that is not under a checkpoint after so long is worth a warning."""
RETRY_S: Final = 5.0
"""After a failure it is tried again so often."""
COSIGN_S: Final = 5.0
"""Witnesses have so long to answer; a checkpoint that is signed meanwhile waits for them."""
COSIGN_AGAIN_S: Final = 2.0
"""A checkpoint without a quorum is sent to the witnesses again after so long."""
STOP_SLACK_S: Final = 2.0
BLOCKS_AT_ONCE: Final = 4096
"""Blocks read under one view of the journal."""
_WAITING_MAX: Final = 4096

Open = Callable[[], AbstractContextManager[tuple[Reader, int]]]
"""Gives a view of the journal and the number of its last durable block."""


class WitnessState(Protocol):
    """What is known of a witness."""

    @property
    def name(self) -> str: ...
    @property
    def cosigned_at_s(self) -> float | None: ...
    @property
    def refused(self) -> int: ...
    @property
    def refuses(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...


class Collected(Protocol):
    """What a round brought."""

    @property
    def note(self) -> Note: ...


class Cosigners(Protocol):
    """The witnesses of a policy, asked over the network: ``ledger.proof.cosigners.Cosigners``."""

    def collect(
        self, note: Note, prove: Callable[[int], Sequence[bytes]], *, within_s: float
    ) -> Collected:
        """Return a checkpoint with the verified cosignatures that came in time."""
        ...

    def states(self) -> Sequence[WitnessState]: ...
    def close(self) -> None: ...


class _Waiting:
    """Which seals are not covered yet, and since when."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seals: deque[tuple[int, float]] = deque()
        self._lock = threading.Lock()

    def add(self, block: int) -> None:
        with self._lock:
            if len(self._seals) >= _WAITING_MAX:
                # The last place stands for all later seals: its time is the oldest of theirs.
                self._seals[-1] = (block, self._seals[-1][1])
            else:
                self._seals.append((block, self._monotonic()))

    def covered(self, block: int) -> None:
        with self._lock:
            while self._seals and self._seals[0][0] <= block:
                self._seals.popleft()

    def age_s(self) -> float:
        with self._lock:
            return self._monotonic() - self._seals[0][1] if self._seals else 0.0


class Publisher:
    """Keeps the log in a directory up to the sealed blocks of a journal. ``log`` may be read at any
    time; ``start`` after the journal was recovered.
    """

    def __init__(
        self,
        directory: Path,
        *,
        instance: bytes,
        journal: Open,
        key: Path,
        passphrase: bytes | None = None,
        policy: Policy | None = None,
        cosigners: Cosigners | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        hook: Hook = no_hook,
    ) -> None:
        """``policy`` says when a checkpoint is shown to everybody; without one, or without
        ``cosigners``, as soon as it is signed. Raises DiskFailed.
        """
        self.log = OuterLog(directory, hook=hook)
        self.on_published: list[Callable[[Checkpoint, int], None]] = []
        """Called with each published checkpoint and the last block that it covers."""
        self._instance = instance
        self._journal = journal
        self._key = key
        self._passphrase = passphrase
        self._policy = policy
        self._cosigners = cosigners
        self._monotonic = monotonic
        self._hook = hook
        self._threads: list[threading.Thread] = []

        # Guarded by the lock:
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._cosign_wake = threading.Condition(self._lock)
        self._published_wake = threading.Condition(self._lock)
        self._sealed_block = -1
        self._stopping = False
        self._cosign_stopping = False
        self._deadline = math.inf
        """Of a stop: what is under way then is given up."""
        self._signed: Note | None = None
        """The newest checkpoint signed, for the cosigning thread to take."""

        # Owned by the log's thread, read by all:
        self._signer: Signer | None = None
        self._unreadable: tuple[LedgerError, object] | None = None
        """Why the key cannot be used, and what its file looked like then."""
        self._intervals: Intervals | None = None
        self._forked: str | None = None
        self._shown_checked = False
        self._problem: tuple[str, str] | None = None
        self._signed_size = 0
        self._cpu_s = 0.0
        self._unsigned = _Waiting(monotonic)

        self._policy_problem: str | None = None

        # Owned by the thread that publishes, read by all:
        self._unpublished = _Waiting(monotonic)

    # ------------------------------------------------------------------------------------------
    # From outside
    # ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow the journal, from where the log ends."""
        runs = [("ledger-log", self._run)]
        if self._cosigners is not None:
            runs.append(("ledger-cosign", self._cosign_run))
        for name, run in runs:
            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def sealed(self, block: int) -> None:
        """Say that a sealed block is durable; from any thread, and soon done."""
        self._unsigned.add(block)
        self._unpublished.add(block)
        with self._lock:
            self._sealed_block = max(self._sealed_block, block)
            self._wake.notify()

    def wait_published(self, block: int, timeout_s: float) -> bool:
        """Wait until the published checkpoint covers a block; False when the time is over."""

        def covered() -> bool:
            index = self.log.interval_of_block(block)
            checkpoint = self.log.published()
            return index is not None and checkpoint is not None and index < checkpoint.size

        with self._lock:
            return self._published_wake.wait_for(covered, timeout_s)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Cover what is sealed, if that can be done in time, and end."""
        with self._lock:
            self._stopping = True
            self._deadline = self._monotonic() + timeout_s
            self._wake.notify_all()
        for thread in self._threads:  # the log's own first: the other waits for what it signs
            thread.join(max(0.0, self._deadline - self._monotonic()) + STOP_SLACK_S)
            with self._lock:
                self._cosign_stopping = True
                self._cosign_wake.notify_all()
        if self._signer is not None:
            self._signer.close()
        if self._cosigners is not None:
            self._cosigners.close()

    @property
    def cpu_s(self) -> float:
        """Processor time of the log's thread so far."""
        return self._cpu_s

    def policy_copy(self) -> bytes | None:
        """Return the policy by which checkpoints are published, or one of the log's keys alone;
        None when that cannot be read."""
        try:
            return bytes(self._policy or read_policy(self._key))
        except LedgerError:
            return None

    def warnings(self) -> list[tuple[str, str]]:
        """Return what an operator should know, as codes and sentences; posting goes on."""
        found: list[tuple[str, str]] = []
        problem = self._problem
        if problem is not None:
            found.append(problem)
        elif self._unsigned.age_s() > LATE_S:
            age = self._unsigned.age_s()
            found.append(("checkpoint_late", f"sealed blocks are not signed for {age:.0f} s"))
        if self._cosigners is not None:
            refusing = [
                f"{state.name}: {state.problem}"
                for state in self._cosigners.states()
                if state.refuses
            ]
            if refusing:
                found.append(("log_refused", f"witnesses refuse this log: {'; '.join(refusing)}"))
        if self._policy_problem is not None:
            found.append(("policy_refuses", self._policy_problem))
        elif problem is None and self._cosigners is not None:
            age = self._unpublished.age_s()
            if age > LATE_S:
                silent = [
                    f"{state.name} ({state.problem})"
                    for state in self._cosigners.states()
                    if state.problem is not None
                ]
                found.append(
                    (
                        "cosignatures_missing",
                        f"for {age:.0f} s no checkpoint had the cosignatures that the policy asks"
                        f" for; silent: {', '.join(silent) or 'nobody'}",
                    )
                )
        return found

    def metrics(self) -> list[tuple[str, str, str, list[tuple[str, float]]]]:
        """Return name, kind, doc and samples (labels, value) of each metric."""
        published = self.log.published()
        families: list[tuple[str, str, str, list[tuple[str, float]]]] = [
            ("sanyuan_log_size", "gauge", "Records in the outer log.", [("", self.log.size)]),
            (
                "sanyuan_checkpoint_size",
                "gauge",
                "Size of the newest signed checkpoint.",
                [("", self._signed_size)],
            ),
            (
                "sanyuan_published_checkpoint_size",
                "gauge",
                "Size of the published checkpoint, which has the quorum of the policy.",
                [("", 0 if published is None else published.size)],
            ),
            (
                "sanyuan_checkpoint_age_seconds",
                "gauge",
                "How long the oldest sealed block waits for a signed checkpoint; 0 for none.",
                [("", round(self._unsigned.age_s(), 3))],
            ),
            (
                "sanyuan_log_cpu_seconds_total",
                "counter",
                "Processor time of the thread that keeps the outer log.",
                [("", round(self._cpu_s, 6))],
            ),
            (
                "sanyuan_cosigned_checkpoint_age_seconds",
                "gauge",
                "How long the oldest sealed block waits for a published checkpoint; 0 for none.",
                [("", round(self._unpublished.age_s(), 3))],
            ),
        ]
        if self._cosigners is not None:
            states = [
                (f'witness="{_label(state.name)}"', state) for state in self._cosigners.states()
            ]
            families.append(
                (
                    "sanyuan_witness_success_timestamp_seconds",
                    "gauge",
                    "When a witness last cosigned, since 1970; 0 for never.",
                    [(label, state.cosigned_at_s or 0.0) for label, state in states],
                )
            )
            families.append(
                (
                    "sanyuan_witness_refusals_total",
                    "counter",
                    "How often a witness refused this log as a fork of what it knows.",
                    [(label, state.refused) for label, state in states],
                )
            )
        return families

    # ------------------------------------------------------------------------------------------
    # The log's thread
    # ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failed, seen = False, -2
        while True:
            with self._lock:
                if seen != -2:
                    self._wake.wait_for(
                        lambda: self._stopping or (not failed and self._sealed_block > seen),  # noqa: B023
                        RETRY_S if failed else None,
                    )
                stopping, seen = self._stopping, self._sealed_block
            failed = self._step()
            self._cpu_s = time.thread_time()
            if stopping:
                return

    def _step(self) -> bool:
        """Bring the log to the sealed blocks; tell whether that failed."""
        try:
            self._follow()
        except _Abandoned:
            return True
        except LogForked as error:
            problem = ("log_forked", str(error))
        except (KeyUnreadable, DirectoryInUse) as error:
            problem = ("signing_key_unreadable", str(error))
        except DiskFailed as error:
            problem = ("log_not_written", str(error))
        except LedgerError as error:
            problem = ("log_stopped", str(error))
        except Exception as error:  # a bug of ours must not end the thread without a word
            _LOG.exception("the log's thread failed")
            problem = ("log_stopped", f"{type(error).__name__}: {error}")
        else:
            self._problem = None
            return False
        if self._problem != problem:
            _LOG.error("%s: %s", *problem)
        self._problem = problem
        return True

    def _follow(self) -> None:
        if self._forked is not None:
            raise LogForked(self._forked)
        unreadable = self._open_signer()
        try:
            if self._intervals is None:
                origin = self._origin()
                if origin is None:
                    assert unreadable is not None
                    raise unreadable
                self._intervals = self._begin(origin)
            self._append_all(self._intervals, self.log)
        except LogForked as error:
            self._forked = str(error)
            raise
        except BaseException:
            self._intervals = None  # what was read and not appended is read again
            raise
        self._check_shown()
        if unreadable is not None:
            raise unreadable
        assert self._signer is not None
        self._sign(self._signer)

    def _open_signer(self) -> LedgerError | None:
        """Open the key unless that is done; return why it cannot be."""
        if self._signer is not None:
            return None
        stamp = self._stamp()
        if self._unreadable is not None and self._unreadable[1] == stamp:
            # Trying a passphrase costs a good deal, and the same file would not take it now.
            return self._unreadable[0]
        try:
            self._signer = Signer(self._key, self._passphrase, hook=self._hook)
        except KeyUnreadable as error:
            self._unreadable = (error, stamp)
            return error
        except LedgerError as error:
            return error
        self._unreadable = None
        return None

    def _stamp(self) -> object:
        try:
            status = self._key.stat()
        except OSError:
            return None
        return (status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid)

    def _origin(self) -> str | None:
        """Return the log's name, from the key or, when that cannot be read, from what is beside it
        or from the log.
        """
        if self._signer is not None:
            return self._signer.origin
        try:
            return read_policy(self._key).logs[-1].key.name
        except ConfigurationError:
            last = self.log.last_record()
        return None if last is None else last.origin

    def _append_all(self, intervals: Intervals, log: OuterLog) -> None:
        while True:
            with self._journal() as (reader, limit):
                last = min(limit, intervals.next_block + BLOCKS_AT_ONCE - 1)
                for record in intervals.read(reader, last):
                    log.append(record.text())
            if last == limit:
                return
            if self._monotonic() > self._deadline:
                raise _Abandoned

    # ---- the start ----

    def _begin(self, origin: str) -> Intervals:
        """Return where the log goes on, after its last records were found in the journal."""
        last = self.log.last_record()
        if last is not None and (last.origin != origin or last.instance != self._instance):
            raise LogForked(
                f"{self.log.directory} has the log {last.origin} of the ledger"
                f" {last.instance.hex()}, not {origin} of this one: put the folder aside;"
                " docs/keys.md says how"
            )
        intervals = self._compared(origin)
        if intervals is None:
            intervals = self._rebuilt(origin)
        published = self.log.published()
        if self.log.size:
            record = self.log.last_record()
            assert record is not None
            self._unsigned.add(record.last_block)
            if published is None or published.size < self.log.size:
                self._unpublished.add(record.last_block)
        return intervals

    def _compared(self, origin: str) -> Intervals | None:
        """Compare the last records with the journal; None when they are not what it says."""
        size = self.log.size
        if size == 0:
            return Intervals(origin, self._instance)
        first = (size - 1) // WIDTH * WIDTH
        before = parse_record(self.log.record(first - 1)) if first else None
        intervals = Intervals(origin, self._instance, before)
        last = self.log.last_record()
        assert last is not None
        index = first
        try:
            while intervals.next_block <= last.last_block:
                with self._journal() as (reader, limit):
                    if limit < last.last_block:
                        return None
                    upto = min(last.last_block, intervals.next_block + BLOCKS_AT_ONCE - 1)
                    for record in intervals.read(reader, upto):
                        if index >= size or self.log.record(index) != record.text():
                            return None
                        index += 1
        except (DoesNotFollow, LookupError):
            return None
        return intervals if index == size else None

    def _rebuilt(self, origin: str) -> Intervals:
        """Make the log again from the journal, unless the journal leads elsewhere than what was
        signed or shown.
        """
        _LOG.warning("%s: records are not those of the journal; made again", self.log.directory)
        folder = self.log.directory / "rebuilt"
        shutil.rmtree(folder, ignore_errors=True)
        fresh = OuterLog(folder)
        intervals = Intervals(origin, self._instance)
        self._append_all(intervals, fresh)
        self._check_extends(fresh)
        fresh.write_edge()
        self.log.replace_tiles(fresh)
        return intervals

    def _check_shown(self) -> None:
        """At the start, when the log has all that the journal has: it must begin with what was
        shown before, and the tiles of that must be there, which a power cut may have taken.
        """
        if self._shown_checked:
            return
        try:
            self._check_extends(self.log)
        except LogForked as error:
            self._forked = str(error)
            raise
        published = self.log.published()
        if published is not None:
            self.log.write_edge_of(published.size)
        self._shown_checked = True

    def _check_extends(self, log: OuterLog) -> None:
        """Raise LogForked unless a log begins with what was signed, and with what is published."""
        signed = self._signer.last if self._signer is not None else self._last_signed()
        for checkpoint, what in ((signed, "signed"), (self.log.published(), "published")):
            if checkpoint is None:
                continue
            if checkpoint.size > log.size or log.root(checkpoint.size) != checkpoint.root:
                raise LogForked(
                    f"a checkpoint of {checkpoint.size} records was {what}, and the journal gives"
                    f" {log.size}"
                    + (" that do not begin with them" if checkpoint.size <= log.size else "")
                    + f": {ADVICE}"
                )

    def _last_signed(self) -> Checkpoint | None:
        note = last_signed(self._key)
        return None if note is None else parse_checkpoint(note.text)

    # ---- signing ----

    def _sign(self, signer: Signer) -> None:
        size = self.log.size
        if size == 0:
            return
        note = self._signed
        if note is None or self._signed_size != size:
            self.log.write_edge()
            note = signer.sign(size, self.log.root(size), self.log.consistency)
            self._hook("signature", "after")
            self._signed_size = size
            self._unsigned.covered(self._last_block(size))
            self._check_policy(note)
            with self._lock:
                self._signed = note
                self._cosign_wake.notify()
        if self._cosigners is None:
            published = self.log.published()
            if published is None or published.size < size:
                self._publish(note)

    def _check_policy(self, note: Note) -> None:
        """Notice a policy by which nobody would take what this key signs."""
        self._policy_problem = None
        if self._policy is not None:
            try:
                self._policy.signing_log(note, parse_checkpoint(note.text))
            except BadNote as error:
                self._policy_problem = f"the policy has not the key that signs: {error}"

    def _last_block(self, size: int) -> int:
        return parse_record(self.log.record(size - 1)).last_block

    def _publish(self, note: Note) -> None:
        checkpoint = parse_checkpoint(note.text)
        self.log.publish(str(note))
        last = self._last_block(checkpoint.size)
        self._unpublished.covered(last)
        with self._lock:
            self._published_wake.notify_all()
        for told in self.on_published:
            told(checkpoint, last)

    # ------------------------------------------------------------------------------------------
    # The cosigning thread
    # ------------------------------------------------------------------------------------------

    def _cosign_run(self) -> None:
        asked: Note | None = None
        gathered: Note | None = None
        """The checkpoint that was asked for with the cosignatures so far; None when it is
        published."""
        while True:
            with self._lock:
                self._cosign_wake.wait_for(
                    lambda: self._cosign_stopping or self._signed is not asked,  # noqa: B023
                    None if gathered is None else COSIGN_AGAIN_S,
                )
                if self._signed is asked:
                    if self._cosign_stopping:
                        return
                else:
                    asked = gathered = self._signed
            try:
                if gathered is not None:
                    gathered = self._cosigned(gathered)
            except DiskFailed as error:
                _LOG.error("the checkpoint was not published: %s", error)
            except Exception:  # a bug of ours, or of a witness: posting and signing go on
                _LOG.exception("cosignatures could not be had")

    def _cosigned(self, note: Note) -> Note | None:
        """Gather cosignatures and publish; return what there is when that is not enough."""
        assert self._cosigners is not None
        assert self._policy is not None
        policy = self._policy
        size = parse_checkpoint(note.text).size
        published = self.log.published()
        if published is not None and published.size >= size and self._satisfies():
            return None

        def cosigned_by() -> list[str]:
            lines = note.signatures
            return [w.name for w in policy.witnesses if any(line.by(w.key) for line in lines)]

        if not policy.quorum_met(cosigned_by()):
            found = self._cosigners.collect(
                note, lambda old: self.log.consistency(old, size), within_s=COSIGN_S
            )
            # One line of each key: that of an earlier round stays.
            known = {(line.name, line.key_id) for line in note.signatures}
            note = note.with_signatures(
                line for line in found.note.signatures if (line.name, line.key_id) not in known
            )
        self._hook("cosignatures", "after")
        if not policy.quorum_met(cosigned_by()):
            return note
        self._publish(note)
        return None

    def _satisfies(self) -> bool:
        """Tell whether the published checkpoint has the cosignatures that the policy asks for."""
        note = self.log.checkpoint()
        assert note is not None
        assert self._policy is not None
        try:
            self._policy.approve(note)
        except QuorumNotMet:
            return False
        except BadNote:
            return True  # of an earlier key: what is missing is in the policy
        return True


class _Abandoned(Exception):
    """The time of a stop is over."""


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
