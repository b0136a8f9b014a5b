"""What the tests of witnesses share: a small log with a key of its own, forks of it, and witnesses
as separate processes.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from ledger.proof import notes, tree
from ledger.proof.witness import Request

READY_WITHIN_S: Final = 60.0


class SmallLog:
    """A log of made-up records, all in memory. ``fork(size)`` is one by the same key that differs
    from the record ``size`` on.
    """

    def __init__(self, name: str = "example.com/log", *, seed: int = 1) -> None:
        self.key = notes.SigningKey(name, notes.ED25519, bytes([seed]) * 32)
        self._leaves = [tree.leaf_hash(f"record {n}".encode()) for n in range(300)]

    def fork(self, size: int, *, branch: int = 0) -> SmallLog:
        other = SmallLog(self.key.name, seed=self.key.seed[0])
        branched = (f"branch {branch} of record {n}".encode() for n in range(size, 300))
        other._leaves = self._leaves[:size] + [tree.leaf_hash(record) for record in branched]
        return other

    @property
    def vkey(self) -> str:
        return str(self.key.verifier)

    def root(self, size: int) -> bytes:
        return tree.root_of(self._leaves[:size])

    def note(self, size: int) -> notes.Note:
        checkpoint = notes.Checkpoint(self.key.name, size, self.root(size))
        return notes.sign_checkpoint(self.key, checkpoint)

    def proof(self, old: int, new: int) -> tuple[bytes, ...]:
        def hash_of(start: int, end: int) -> bytes:
            return tree.root_of(self._leaves[start:end])

        return tuple(tree.consistency_path(old, new, hash_of))

    def request(self, old: int, new: int) -> bytes:
        """The body of an add-checkpoint request."""
        return bytes(Request(old, self.proof(old, new), self.note(new)))


class WitnessProcess:
    """``sanyuan witness serve`` in a process of its own, on a port that the system chooses. As a
    context manager it is killed at the end, by its own process id.
    """

    def __init__(self, directory: Path, *logs: str, arguments: tuple[str, ...] = ()) -> None:
        command = [sys.executable, "-m", "ledger", "witness"]
        name = f"witness.example/{directory.name}"
        if not (directory / "key").exists():
            made = [*command, "new-key", str(directory), "--name", name]
            subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        options = [option for log in logs for option in ("--log", log)]
        self.output = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [*command, "serve", str(directory), "--port", "0", *options, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ready.wait(READY_WITHIN_S)
        lines = self.output.splitlines()
        ready = [line.split() for line in lines if line.startswith("ready ")]
        if not ready:
            self.kill()
            raise AssertionError(f"the witness did not get ready: {self.output}")
        ((_, self.url, vkey),) = ready
        self.key = notes.VerifierKey.parse(vkey)
        self.policy_line = next(line for line in lines if line.startswith("witness "))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if line.startswith("ready "):
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> WitnessProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def stop(self) -> int:
        """End it with SIGTERM, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(READY_WITHIN_S)
        self._reader.join()
        return code

    def ask(
        self,
        body: bytes | None = None,
        *,
        method: str = "POST",
        path: str = "/add-checkpoint",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, str, bytes]:
        """Send one request; return status, content type, body."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def get(self, path: str) -> str:
        status, _, body = self.ask(method="GET", path=path)
        assert status == 200
        return body.decode()
