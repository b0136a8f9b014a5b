"""Asks witnesses to cosign a checkpoint: all at the same time, each with its own thread, connection
and memory of how far it is. The other side of C2SP tlog-witness; ``witness`` is one of them.

A witness that is away or slow costs nobody but itself: a round ends as soon as the quorum is met
and the others had a moment more. One that refuses, because to its eyes the log is forked, is told
apart from one that fails, and is logged at once.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from ledger.errors import ConfigurationError
from ledger.proof.notes import (
    BadNote,
    Checkpoint,
    Note,
    Signature,
    VerifierKey,
    parse_checkpoint,
    parse_decimal,
    parse_signatures,
)
from ledger.proof.policy import Policy, Witness
from ledger.proof.witness import SIZE, Request

TIMEOUT_S: Final = 5.0
"""A witness may keep us waiting so long, for a connection or for an answer."""
PATIENCE_S: Final = 0.2
"""When the quorum is met, the other witnesses have so much longer to answer."""
ANSWER_SIZE_MAX: Final = 64 * 1024
TRIES: Final = 3
"""With the size that we remember, with the one that the witness names, and once more for a race."""

_LOG: Final = logging.getLogger("sanyuan.cosigners")

Prove = Callable[[int], Sequence[bytes]]
"""prove(old size): the consistency path from that size to the checkpoint's. Called on the threads
of the witnesses, several at a time.
"""


@dataclass(frozen=True, slots=True)
class WitnessState:
    """What is known of one witness. Times are seconds since 1970."""

    name: str
    key: VerifierKey
    url: str
    size: int = 0
    """Of the newest checkpoint that it is known to have recorded."""
    cosigned_size: int | None = None
    cosigned_at_s: float | None = None
    """When it last cosigned, and a checkpoint of what size."""
    cosigned: int = 0
    failed: int = 0
    """It could not be reached, or answered nonsense."""
    refused: int = 0
    """It has, or says that it has, another history of this log."""
    refuses: bool = False
    """Whether it did so the last time."""
    problem: str | None = None
    """Why it did not cosign the last time; None when it did."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A checkpoint with the cosignatures that came in time."""

    note: Note
    quorum_met: bool
    cosigned: tuple[str, ...]
    problems: dict[str, str]
    """For each witness that did not cosign in time, why."""


class _Failed(Exception):
    """The witness could not be asked, or what it said is not an answer."""


class _Refused(Exception):
    """The witness sees another history of the log."""


class _Round:
    """One checkpoint and the answers to it."""

    def __init__(self, note: Note, checkpoint: Checkpoint, prove: Prove, names: set[str]) -> None:
        self.note = note
        self.checkpoint = checkpoint
        self.prove = prove
        self.changed = threading.Condition()
        # Under the condition:
        self.waiting = names
        self.answers: dict[str, Signature] = {}
        self.problems: dict[str, str] = {}

    def answer(self, name: str, outcome: Signature | str) -> None:
        with self.changed:
            self.waiting.discard(name)
            if isinstance(outcome, str):
                self.problems[name] = outcome
            else:
                self.answers[name] = outcome
            self.changed.notify_all()


class Cosigners:
    """The witnesses of a policy that have a URL there. Its threads end with ``close``.

    Raises ConfigurationError when a URL is none, or when these witnesses could never be the
    quorum. ``tls`` is for https URLs; None trusts what the system trusts.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        clock_s: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._patience_s = patience_s
        reachable = [witness for witness in policy.witnesses if witness.url is not None]
        if not policy.quorum_met(witness.name for witness in reachable):
            raise ConfigurationError(
                f"the quorum {policy.quorum} of the policy needs witnesses that have no URL there"
            )
        self._workers = [
            _Worker(witness, timeout_s=timeout_s, clock_s=clock_s, tls=tls) for witness in reachable
        ]
        for worker in self._workers:
            worker.start()

    def states(self) -> list[WitnessState]:
        """Return what is known of each witness, in the order of the policy."""
        return [worker.state for worker in self._workers]

    def collect(self, note: Note, prove: Prove, *, within_s: float = TIMEOUT_S) -> Collected:
        """Ask all witnesses to cosign a checkpoint that its log has signed, and return it with
        their cosignatures, each verified.

        Returns when all have answered, when the quorum is met and the patience with the others has
        run out, or after ``within_s``. An answer that comes later is remembered in ``states`` only.
        """
        began = time.monotonic()
        names = {worker.state.name for worker in self._workers}
        current = _Round(note, parse_checkpoint(note.text), prove, set(names))
        for worker in self._workers:
            worker.give(current)
        end = began + within_s
        met = False
        with current.changed:
            while True:
                if not met and self._policy.quorum_met(current.answers):
                    met = True
                    end = min(end, time.monotonic() + self._patience_s)
                left = end - time.monotonic()
                if not current.waiting or left <= 0:
                    break
                current.changed.wait(left)
            answers, problems = dict(current.answers), dict(current.problems)
            problems |= dict.fromkeys(sorted(current.waiting), "no answer in time")
        order = [
            name for name in (worker.state.name for worker in self._workers) if name in answers
        ]
        return Collected(
            note.with_signatures(answers[name] for name in order), met, tuple(order), problems
        )

    def close(self) -> None:
        """End the threads; a request under way is given up."""
        for worker in self._workers:
            worker.stop()


class _Worker(threading.Thread):
    """One witness: its thread, its connection, what is known of it."""

    def __init__(
        self,
        witness: Witness,
        *,
        timeout_s: float,
        clock_s: Callable[[], float],
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(name=f"witness-{witness.name}", daemon=True)
        assert witness.url is not None
        self.state = WitnessState(witness.name, witness.key, witness.url)
        """Replaced as a whole by this thread."""
        self._key = witness.key
        self._clock_s = clock_s
        self._connection, self._path = _connection(witness.url, timeout_s, tls)
        self._wanted = threading.Condition()
        # Under the condition:
        self._next: _Round | None = None
        self._stopped = False

    def give(self, current: _Round) -> None:
        """Let this be the next checkpoint to cosign, instead of one that still waits."""
        with self._wanted:
            before, self._next = self._next, current
            self._wanted.notify()
        if before is not None:
            before.answer(self.state.name, "it is still busy with an earlier checkpoint")

    def stop(self) -> None:
        with self._wanted:
            self._stopped = True
            self._wanted.notify()

    def run(self) -> None:
        """Answer rounds until stopped."""
        while True:
            with self._wanted:
                while self._next is None and not self._stopped:
                    self._wanted.wait()
                current, self._next = self._next, None
                if self._stopped:
                    break
            assert current is not None
            current.answer(self.state.name, self._outcome(current))
        self._connection.close()

    def _outcome(self, current: _Round) -> Signature | str:
        before = self.state
        try:
            signature = self._ask(current)
        except _Refused as error:
            self.state = replace(
                self.state, refused=before.refused + 1, refuses=True, problem=str(error)
            )
            if not before.refuses:
                _LOG.error("witness %s refuses the log: %s", before.name, error)
            return str(error)
        except (_Failed, OSError, http.client.HTTPException) as error:
            self._connection.close()
            problem = str(error) or type(error).__name__
        except Exception as error:  # whatever it is, the thread must live on
            self._connection.close()
            problem = f"{type(error).__name__}: {error}"
            _LOG.exception("witness %s could not be asked", before.name)
        else:
            size = current.checkpoint.size
            self.state = replace(
                self.state,
                size=size,
                cosigned_size=size,
                cosigned_at_s=self._clock_s(),
                cosigned=before.cosigned + 1,
                refuses=False,
                problem=None,
            )
            if before.problem is not None:
                _LOG.info("witness %s cosigns again", before.name)
            return signature
        self.state = replace(self.state, failed=before.failed + 1, refuses=False, problem=problem)
        if before.problem is None:
            _LOG.warning("witness %s does not cosign: %s", before.name, problem)
        return problem

    def _ask(self, current: _Round) -> Signature:
        new_size = current.checkpoint.size
        size = min(self.state.size, new_size)
        for _ in range(TRIES):
            proof = tuple(current.prove(size)) if 0 < size < new_size else ()
            request = bytes(Request(size, proof, current.note))
            status, content_type, body = self._post(request)
            if status == 200:
                return self._verified(current.note, body)
            if status == 422:
                raise _Refused(f"from size {size} to {new_size} it accepts no proof: a fork")
            if status != 409 or content_type.partition(";")[0].strip() != SIZE:
                raise _Failed(f"HTTP status {status}: {_shown(body)}")
            told = _size_told(body)
            if told > new_size:
                raise _Refused(f"it has seen {told} records, and this checkpoint has {new_size}")
            if told == size:
                raise _Refused(f"it has another root of size {size}: a fork")
            size = told
            self.state = replace(self.state, size=told)
        raise _Failed("it names another size each time")

    def _verified(self, note: Note, body: bytes) -> Signature:
        try:
            lines = parse_signatures(body.decode())
            found = Note(note.text, lines).signed_by(self._key)
        except (UnicodeDecodeError, BadNote) as error:
            raise _Failed(f"its answer is no cosignature: {error}") from None
        if found is None:
            raise _Failed("its answer has no cosignature by its key in the policy")
        return found

    def _post(self, body: bytes) -> tuple[int, str, bytes]:
        headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": "sanyuan"}
        kept_alive = self._connection.sock is not None
        try:
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionError):
            self._connection.close()
            if not kept_alive:
                raise
            # The witness closed a connection that was idle; asking twice does no harm.
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
        data = response.read(ANSWER_SIZE_MAX + 1)
        if len(data) > ANSWER_SIZE_MAX:
            raise _Failed(f"an answer of more than {ANSWER_SIZE_MAX} bytes")
        return response.status, response.headers.get("Content-Type", ""), data


def _connection(
    url: str, timeout_s: float, tls: ssl.SSLContext | None
) -> tuple[http.client.HTTPConnection, str]:
    wrong = f"{url!a} is not the URL of a witness, such as https://witness.example.org/"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(wrong) from None
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(wrong)
    path = parts.path.rstrip("/") + "/add-checkpoint"
    if not path.isascii() or any(c <= " " or c == "\x7f" for c in path + host):
        raise ConfigurationError(wrong)
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s), path
    if parts.scheme == "https":
        context = tls or ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), path
    raise ConfigurationError(wrong)


def _size_told(body: bytes) -> int:
    try:
        return parse_decimal(body.decode("ascii").removesuffix("\n"))
    except (UnicodeDecodeError, BadNote):
        raise _Failed(f"HTTP status 409 without a size: {_shown(body)}") from None


def _shown(body: bytes) -> str:
    """The beginning of what a stranger sent, as a log may show it."""
    return ascii(body[:100].decode(errors="replace").strip())
