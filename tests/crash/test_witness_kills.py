"""A witness killed at any point: what it cosigned is not forgotten, and no size gets two roots."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.proof import files, notes, witness
from ledger.proof.cosigners import Cosigners
from ledger.proof.policy import parse_policy, policy_of_logs
from ledger.proof.witness import Witness, create_key
from tests.witnesses import SmallLog, WitnessProcess

LOG = SmallLog()
POLICY = policy_of_logs([LOG.key.verifier])
CALLS = ("open", "write", "fsync", "close", "replace")


def opened(directory: Path) -> Witness:
    return Witness(directory, POLICY, clock_s=lambda: 1_700_000_000)


class Suicide:
    """Stands before the system calls that record a checkpoint and before the signing of it, and
    kills the process before or after the n-th of them.
    """

    def __init__(self, point: int) -> None:
        self.point = point
        self.seen = 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.pass_by()
            result = function(*arguments, **options)
            self.pass_by()
            return result

        return wrapped

    def pass_by(self) -> None:
        if self.seen == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def killed_child(directory: Path, body: bytes, point: int) -> tuple[bool, bytes]:
    """Ask a witness in a forked child that kills itself at a point; return whether it lived, and
    the answer that it gave before it died, if any.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            one = opened(directory)
            suicide = Suicide(point)
            for name in CALLS:
                setattr(files.os, name, suicide.wrap(getattr(os, name)))
            witness.cosign = suicide.wrap(witness.cosign)
            answer = one.add_checkpoint(body)
            suicide.pass_by()
            files.os.write(writing, answer.body)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    lived = os.WIFEXITED(status)
    assert lived or os.WTERMSIG(status) == signal.SIGKILL
    assert not lived or os.WEXITSTATUS(status) == 0
    return lived, answer


def test_killed_before_and_after_each_step(tmp_path: Path) -> None:
    point, recorded_sizes = 0, []
    while True:
        directory = tmp_path / f"{point}"
        create_key(directory, "witness.example/w")
        with opened(directory) as one:
            assert one.add_checkpoint(LOG.request(0, 5)).status == 200
        lived, answer = killed_child(directory, LOG.request(5, 8), point)
        with opened(directory) as one:
            size = one.status()["logs"][0]["size"]
            recorded_sizes.append(size)
            assert size in (5, 8)
            if answer:  # what was told to anybody is recorded
                assert size == 8
            fork = one.add_checkpoint(LOG.fork(5).request(5, 8))
            assert fork.outcome == ("cosigned" if size == 5 else "fork")
            if size == 8:  # what was recorded and not answered can still be had
                again = one.add_checkpoint(LOG.request(8, 8))
                (line,) = notes.parse_signatures(again.body.decode())
                assert notes.verifies(one.key, LOG.note(8).text, line)
        if lived:
            assert answer
            break
        point += 1
    # Open, write, sync, close, rename, and the folder's open, sync, close; before and after each.
    assert point >= 2 * 8 + 2, "some step was not killed"
    assert recorded_sizes == sorted(recorded_sizes)
    assert set(recorded_sizes) == {5, 8}


def _killed_under_load(tmp_path: Path, *, kills: int, seed: int) -> None:
    """Kill a serving witness again and again, while a log by one key shows it two continuations of
    each size that was cosigned.
    """
    rng = random.Random(seed)
    cosigned: dict[int, str] = {}
    log, size = LOG, 0
    for _ in range(kills):
        with WitnessProcess(tmp_path / "w", LOG.vkey) as process:
            policy = parse_policy(
                f"log {LOG.vkey}\n{process.policy_line}\nquorum {process.key.name}\n".encode()
            )
            cosigners = Cosigners(policy, patience_s=0.0)
            killer = threading.Timer(rng.uniform(0.05, 0.5), process.process.kill)
            killer.start()
            while process.process.poll() is None and size < 299:
                branches = [log.fork(size, branch=n) for n in (1, 2)]
                rng.shuffle(branches)
                # In the end neither is cosigned only when the witness died.
                for branch in branches:
                    prove = partial(branch.proof, new=size + 1)
                    found = cosigners.collect(branch.note(size + 1), prove, within_s=20)
                    if found.quorum_met:
                        text = found.note.text
                        assert cosigned.setdefault(size + 1, text) == text, "two roots of one size"
                        log = branch
                if size + 1 in cosigned:
                    size += 1
            killer.join()
            cosigners.close()
    assert len(cosigned) == size > 0


def test_killed_under_load(tmp_path: Path) -> None:
    _killed_under_load(tmp_path, kills=3, seed=1)


@pytest.mark.long
def test_killed_under_load_long(tmp_path: Path) -> None:
    for seed in range(20):
        _killed_under_load(tmp_path / f"{seed}", kills=10, seed=seed)
