"""Collecting cosignatures: from witnesses in processes of their own, and from hostile ones."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ledger.errors import ConfigurationError
from ledger.proof import notes
from ledger.proof.cosigners import ANSWER_SIZE_MAX, Cosigners
from ledger.proof.policy import Policy, QuorumNotMet, parse_policy
from ledger.proof.witness import SIZE, parse_request
from tests.witnesses import SmallLog, WitnessProcess

LOG = SmallLog()


def two_of(lines: list[str], log: SmallLog = LOG) -> Policy:
    """A policy of this log that wants cosignatures of two of these witnesses."""
    names = " ".join(line.split()[1] for line in lines)
    text = "\n".join([f"log {log.vkey}", *lines, f"group two 2 {names}", "quorum two", ""])
    return parse_policy(text.encode())


def collect(cosigners: Cosigners, log: SmallLog, size: int, within_s: float = 20.0):
    return cosigners.collect(log.note(size), lambda old: log.proof(old, size), within_s=within_s)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def asking(stack: ExitStack, policy: Policy, **options: float) -> Cosigners:
    cosigners = Cosigners(policy, **{"timeout_s": 10.0, "patience_s": 10.0} | options)
    stack.callback(cosigners.close)
    return cosigners


# ----------------------------------------------------------------------------------------------
# Our witnesses, each in a process of its own
# ----------------------------------------------------------------------------------------------


def test_three_witnesses_one_stopped_and_a_fork(
    tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    witnesses = [
        stack.enter_context(WitnessProcess(tmp_path / f"w{n}", LOG.vkey)) for n in (1, 2, 3)
    ]
    policy = two_of([witness.policy_line for witness in witnesses])
    names = tuple(witness.name for witness in policy.witnesses)
    cosigners = asking(stack, policy)

    for size in (1, 5, 8):
        collected = collect(cosigners, LOG, size)
        assert collected.quorum_met, collected.problems
        assert collected.cosigned == names
        approved = policy.approve(bytes(collected.note))
        assert approved.checkpoint.size == size
        assert len(approved.cosignatures) == 3

    # One stops: the quorum of two holds, and who is missing is told.
    assert witnesses[2].stop() == 0
    collected = collect(cosigners, LOG, 9)
    assert collected.quorum_met
    assert collected.cosigned == names[:2]
    assert list(collected.problems) == [names[2]]
    assert len(policy.approve(collected.note).cosignatures) == 2
    assert f"witness {names[2]} does not cosign" in caplog.text
    states = cosigners.states()
    assert [state.cosigned_size for state in states] == [9, 9, 8]
    assert [state.failed for state in states] == [0, 0, 1]
    assert states[2].problem
    assert states[0].cosigned_at_s == pytest.approx(time.time(), abs=60)

    # It comes back with its key and what it recorded, on another port.
    again = stack.enter_context(WitnessProcess(tmp_path / "w3", LOG.vkey))
    assert again.key == witnesses[2].key
    witnesses[2] = again
    policy = two_of([witness.policy_line for witness in witnesses])
    cosigners = asking(stack, policy)
    assert collect(cosigners, LOG, 12).cosigned == names

    # A fork by the log's own key: all refuse it, however it is asked, and that is seen.
    fork = LOG.fork(7)
    for size in (12, 13, 20):
        forked = asking(stack, policy)
        collected = collect(forked, fork, size)
        assert not collected.quorum_met
        assert collected.cosigned == ()
        assert set(collected.problems) == set(names)
        assert all("fork" in problem for problem in collected.problems.values())
        assert [state.refused for state in forked.states()] == [1, 1, 1]
        with pytest.raises(QuorumNotMet):
            policy.approve(collected.note)
    assert caplog.text.count("refuses the log") == 9
    for witness in witnesses:
        label = f'origin="{LOG.key.name}"'
        metrics = witness.get("/metrics").splitlines()
        # Size 12 was asked for twice: with a size unknown, then with the one that was told.
        assert f'sanyuan_witness_refused_total{{{label},reason="fork"}} 2' in metrics
        assert f'sanyuan_witness_refused_total{{{label},reason="inconsistent"}} 2' in metrics
        assert f"sanyuan_witness_log_size{{{label}}} 12" in metrics
        assert witness.output.count("refused a checkpoint of") == 3
    assert len(list((tmp_path / "w1" / "evidence").glob("*.txt"))) == 3

    # The true log goes on.
    assert collect(cosigners, LOG, 13).cosigned == names


def test_a_log_that_fell_back_is_told(tmp_path: Path, stack: ExitStack) -> None:
    """As after a restore from an old backup: the witness has seen what is not there any more."""
    witness = stack.enter_context(WitnessProcess(tmp_path / "w", LOG.vkey))
    policy = parse_policy(
        f"log {LOG.vkey}\n{witness.policy_line}\nquorum {witness.key.name}\n".encode()
    )
    assert collect(asking(stack, policy), LOG, 9).quorum_met
    fallen = asking(stack, policy)
    for _ in range(2):  # also when the size is remembered
        (problem,) = collect(fallen, LOG, 5).problems.values()
        assert problem == "it has seen 9 records, and this checkpoint has 5"
    assert fallen.states()[0].refused == 2


def test_a_killed_witness_goes_on_and_idle_connections_are_renewed(
    tmp_path: Path, stack: ExitStack
) -> None:
    first = stack.enter_context(WitnessProcess(tmp_path / "w", LOG.vkey))
    port = first.url.rsplit(":", 1)[1]
    policy = parse_policy(
        f"log {LOG.vkey}\n{first.policy_line}\nquorum {first.key.name}\n".encode()
    )
    cosigners = asking(stack, policy)
    assert collect(cosigners, LOG, 5).quorum_met
    first.kill()
    assert not collect(cosigners, LOG, 6).quorum_met
    stack.enter_context(
        WitnessProcess(tmp_path / "w", LOG.vkey, arguments=("--port", port)),
    )
    assert collect(cosigners, LOG, 6).quorum_met
    state = cosigners.states()[0]
    assert (state.cosigned, state.failed, state.problem) == (2, 1, None)


# ----------------------------------------------------------------------------------------------
# Hostile witnesses
# ----------------------------------------------------------------------------------------------

Reply = tuple[int, str, bytes]


class Hostile:
    """A server that answers as a test says, and remembers the old sizes that it was sent."""

    def __init__(self, reply: Callable[[int, notes.Note], Reply]) -> None:
        self.key = notes.SigningKey("hostile", notes.COSIGNATURE, bytes([9]) * 32)
        self.old_sizes: list[int] = []
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = parse_request(body)
                hostile.old_sizes.append(request.old_size)
                status, content_type, answer = reply(request.old_size, request.note)
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/some/prefix/"

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def policy(self) -> Policy:
        line = f"witness hostile {self.key.verifier} {self.url}"
        return parse_policy(f"log {LOG.vkey}\n{line}\nquorum hostile\n".encode())


KEY = notes.SigningKey("hostile", notes.COSIGNATURE, bytes([9]) * 32)
STRANGER = notes.SigningKey("hostile", notes.COSIGNATURE, bytes([8]) * 32)


def line(key: notes.SigningKey, text: str) -> bytes:
    return str(notes.cosign(key, text, time_s=1_700_000_000)).encode()


def altered(data: bytes) -> bytes:
    (good,) = notes.parse_signatures(data.decode())
    bad = good.data[:-1] + bytes([good.data[-1] ^ 1])
    return str(notes.Signature(good.name, good.key_id, bad)).encode()


TEXT = "text/plain"
BAD_ANSWERS: dict[str, tuple[Callable[[int, notes.Note], Reply], str]] = {
    "nothing": (lambda old, note: (200, TEXT, b""), "no cosignature"),
    "rubbish": (lambda old, note: (200, TEXT, b"\xff\0" * 40), "no cosignature"),
    "no-line-end": (lambda old, note: (200, TEXT, line(KEY, note.text)[:-1]), "no cosignature"),
    "whole-note": (lambda old, note: (200, TEXT, bytes(note)), "no cosignature"),
    "stranger": (lambda old, note: (200, TEXT, line(STRANGER, note.text)), "by its key"),
    "another-text": (
        lambda old, note: (200, TEXT, line(KEY, LOG.note(4).text)),
        "does not verify",
    ),
    "altered": (lambda old, note: (200, TEXT, altered(line(KEY, note.text))), "does not verify"),
    "good-then-altered": (
        lambda old, note: (200, TEXT, line(KEY, note.text) + altered(line(KEY, note.text))),
        "does not verify",
    ),
    "the-log's-own": (lambda old, note: (200, TEXT, str(note.signatures[0]).encode()), "by its"),
    "too-long": (lambda old, note: (200, TEXT, b"x" * (ANSWER_SIZE_MAX + 1)), "more than"),
    "error": (lambda old, note: (500, TEXT, b"\x1b[31m" + b"oops" * 99), "500: '\\x1b[31moops"),
    "redirect": (lambda old, note: (302, TEXT, b""), "302"),
    "not-found": (lambda old, note: (404, TEXT, b"unknown log\n"), "404: 'unknown log'"),
    "size-of-no-type": (lambda old, note: (409, TEXT, b"3\n"), "409: '3'"),
    "no-size": (lambda old, note: (409, SIZE, b"three\n"), "without a size"),
    "negative-size": (lambda old, note: (409, SIZE, b"-3\n"), "without a size"),
    "same-size": (lambda old, note: (409, SIZE, b"0\n"), "another root of size 0"),
    "ahead": (lambda old, note: (409, SIZE, b"9\n"), "has seen 9 records"),
    "other-sizes": (lambda old, note: (409, SIZE, b"%d\n" % (old + 1)), "another size each time"),
    "no-proof-good": (lambda old, note: (422, TEXT, b""), "accepts no proof: a fork"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_bad_answers_are_not_taken(stack: ExitStack, case: str) -> None:
    reply, why = BAD_ANSWERS[case]
    hostile = stack.enter_context(Hostile(reply))
    collected = collect(asking(stack, hostile.policy), LOG, 7)
    assert not collected.quorum_met
    assert collected.note == LOG.note(7)
    assert why in collected.problems["hostile"]
    assert "\x1b" not in collected.problems["hostile"]
    assert len(hostile.old_sizes) <= 3


def test_strange_lines_beside_a_good_one_are_dropped(stack: ExitStack) -> None:
    hostile = stack.enter_context(
        Hostile(
            lambda old, note: (200, TEXT, line(STRANGER, note.text) + line(KEY, note.text)),
        )
    )
    collected = collect(asking(stack, hostile.policy), LOG, 7)
    assert collected.quorum_met
    assert [one.key_id for one in collected.note.signatures] == [
        LOG.key.verifier.key_id,
        KEY.verifier.key_id,
    ]


def test_the_size_that_a_witness_names_is_used_and_remembered(stack: ExitStack) -> None:
    recorded = [3]

    def reply(old: int, note: notes.Note) -> Reply:
        if old != recorded[0]:
            return 409, f"{SIZE}; charset=utf-8", b"%d\n" % recorded[0]
        recorded[0] = notes.parse_checkpoint(note.text).size
        return 200, TEXT, line(KEY, note.text)

    hostile = stack.enter_context(Hostile(reply))
    cosigners = asking(stack, hostile.policy)
    assert collect(cosigners, LOG, 7).quorum_met
    assert collect(cosigners, LOG, 9).quorum_met
    recorded[0] = 10  # somebody else brought it a newer one
    assert collect(cosigners, LOG, 12).quorum_met
    assert hostile.old_sizes == [0, 3, 7, 9, 10]


def test_a_proof_that_cannot_be_made_is_a_failure(stack: ExitStack) -> None:
    hostile = stack.enter_context(Hostile(lambda old, note: (409, SIZE, b"3\n")))
    cosigners = asking(stack, hostile.policy)

    def broken(old: int) -> list[bytes]:
        raise OSError("the tiles are gone")

    collected = cosigners.collect(LOG.note(7), broken)
    assert collected.problems == {"hostile": "the tiles are gone"}


def test_a_slow_witness_holds_nobody_up(stack: ExitStack) -> None:
    release = threading.Event()
    stack.callback(release.set)

    def slow(old: int, note: notes.Note) -> Reply:
        release.wait(30)
        return 200, TEXT, line(KEY, note.text)

    good = stack.enter_context(Hostile(lambda old, note: (200, TEXT, line(STRANGER, note.text))))
    bad = stack.enter_context(Hostile(slow))
    policy = parse_policy(
        (
            f"log {LOG.vkey}\nwitness good {STRANGER.verifier} {good.url}\n"
            f"witness slow {KEY.verifier} {bad.url}\ngroup any any good slow\nquorum any\n"
        ).encode()
    )
    cosigners = asking(stack, policy, patience_s=0.05)
    for size in (7, 8, 9):
        began = time.monotonic()
        collected = collect(cosigners, LOG, size)
        assert time.monotonic() - began < 5
        assert collected.cosigned == ("good",)
        assert collected.problems == {"slow": "no answer in time"}
    # What it says later of the first checkpoint is remembered, and it goes on with the newest.
    release.set()
    deadline = time.monotonic() + 20
    while cosigners.states()[1].cosigned_size != 9 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert cosigners.states()[1].cosigned == 2


def test_the_deadline_holds_when_nobody_answers(stack: ExitStack) -> None:
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # accepts, says nothing
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    policy = parse_policy(
        f"log {LOG.vkey}\nwitness w {KEY.verifier} {url}\nquorum w\n".encode(),
    )
    cosigners = asking(stack, policy, timeout_s=0.3)
    began = time.monotonic()
    collected = collect(cosigners, LOG, 7, within_s=0.1)
    assert time.monotonic() - began < 5
    assert collected.problems == {"w": "no answer in time"}
    collected = collect(cosigners, LOG, 7, within_s=20)
    assert collected.problems == {"w": "timed out"}


# ----------------------------------------------------------------------------------------------
# Policies
# ----------------------------------------------------------------------------------------------


def test_a_quorum_that_has_no_urls_is_refused() -> None:
    policy = parse_policy(f"log {LOG.vkey}\nwitness w {KEY.verifier}\nquorum w\n".encode())
    with pytest.raises(ConfigurationError, match="no URL"):
        Cosigners(policy)


def test_without_witnesses_there_is_nothing_to_wait_for(stack: ExitStack) -> None:
    cosigners = asking(stack, parse_policy(f"log {LOG.vkey}\nquorum none\n".encode()))
    collected = collect(cosigners, LOG, 7)
    assert collected.quorum_met
    assert collected.note == LOG.note(7)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://w.example",
        "w.example",
        "http://",
        "http://user:secret@w.example",
        "http://w.example:99999",
        "http://w.example/?a=b",
        "http://w.example/#a",
        "http://w.example/\x85",
        "http://[::1",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    policy = parse_policy(f"log {LOG.vkey}\nwitness w {KEY.verifier} {url}\nquorum w\n".encode())
    with pytest.raises(ConfigurationError, match="not the URL of a witness"):
        Cosigners(policy)
