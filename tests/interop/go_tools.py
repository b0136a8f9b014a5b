"""Programs that others wrote in Go, installed for the tests into a folder of their own: nothing of
them is in this repository.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from ledger.proof import notes

TOOLS: Final = {
    "fsck": [("github.com/transparency-dev/tessera/cmd/fsck", "v1.0.4")],
    "posix-oneshot": [("github.com/transparency-dev/tessera/cmd/examples/posix-oneshot", "v1.0.4")],
    # The newest version wants a newer Go than many machines have.
    "litewitness": [
        ("filippo.io/torchwood/cmd/litewitness", "v0.10.0"),
        ("filippo.io/torchwood/cmd/litewitness", "v0.9.0"),
    ],
}
INSTALL_WITHIN_S: Final = 1800
RUN_WITHIN_S: Final = 120


def find_go() -> str:
    """Return the path of a Go toolchain; skip the test where there is none."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        pytest.skip("no Go toolchain on this machine")
    return found


def install(tool: str, folder: Path) -> Path:
    """Install a tool into a folder and return its path; skip the test when its module cannot be
    had.
    """
    program = folder / tool
    if program.exists():
        return program
    go = find_go()
    reasons = []
    for package, version in TOOLS[tool]:
        done = subprocess.run(
            [go, "install", f"{package}@{version}"],
            env=os.environ | {"GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_WITHIN_S,
            check=False,
        )
        if done.returncode == 0:
            assert program.exists()
            return program
        reasons.append(f"{package}@{version}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    pytest.skip("; ".join(reasons))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the files of a folder over HTTP, and give the URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def fsck(program: Path, folder: Path, url: str, vkey: str) -> tuple[bool, str]:
    """Let Tessera's fsck make the tree again from a log's entries; tell whether all its hashes and
    its root are the log's, and what it printed.
    """
    key = folder / "log.vkey"
    key.write_text(vkey)
    done = subprocess.run(
        [program, f"--storage_url={url}", f"--public_key={key}", "--ui=false", "-N=2", "-v=1"],
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
        check=False,
    )
    output = done.stdout + done.stderr
    # It exits with 0 in either case.
    good = done.returncode == 0 and "Successfully fsck'd log with size" in output
    assert good != ("fsck failed" in output), output
    return good, output


@contextmanager
def litewitness(program: Path, folder: Path, log: notes.VerifierKey) -> Iterator[tuple[str, str]]:
    """Run litewitness for one log, with its key in an ssh-agent of its own; give its URL and vkey.

    Its logs are put straight into its database: the program that does so cannot always be
    installed.
    """
    if shutil.which("ssh-agent") is None or shutil.which("ssh-add") is None:
        pytest.skip("litewitness needs ssh-agent and ssh-add: apt-get install openssh-client")
    name = "litewitness.example/w"
    private = Ed25519PrivateKey.generate()
    key = folder / "ssh-key"
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    key.touch(mode=0o600)
    key.write_bytes(pem)
    public = private.public_key()
    blob = base64.b64decode(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1])
    fingerprint = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    verifier = notes.VerifierKey(name, notes.COSIGNATURE, public.public_bytes_raw())
    agent_socket = folder / "agent"
    assert len(str(agent_socket)) < 100, "a socket's path is short"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    processes: list[subprocess.Popen[bytes]] = []
    output = folder / "litewitness.log"
    try:
        processes.append(subprocess.Popen(["ssh-agent", "-D", "-a", str(agent_socket)]))
        _wait(agent_socket.exists, processes[0])
        subprocess.run(
            ["ssh-add", "-q", str(key)],
            env=os.environ | {"SSH_AUTH_SOCK": str(agent_socket)},
            check=True,
        )
        with open(output, "wb") as log_file:
            processes.append(
                subprocess.Popen(
                    [
                        *(program, "-db", folder / "litewitness.db", "-name", name),
                        *("-key", f"SHA256:{fingerprint}", "-ssh-agent", agent_socket),
                        *("-listen", f"127.0.0.1:{port}"),
                    ],
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                )
            )
        _wait(lambda: _listens(port), processes[1], output)
        with sqlite3.connect(folder / "litewitness.db", timeout=30) as database:
            nothing = notes.encode_base64(hashlib.sha256(b"").digest())
            database.execute("INSERT INTO log VALUES (?, 0, ?)", (log.name, nothing))
            database.execute("INSERT INTO key VALUES (?, ?)", (log.name, str(log)))
        database.close()
        yield f"http://127.0.0.1:{port}", str(verifier)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(ready: object, process: subprocess.Popen[bytes], output: Path | None = None) -> None:
    assert callable(ready)
    deadline = time.monotonic() + RUN_WITHIN_S
    while not ready():
        told = output.read_text(errors="replace") if output is not None else ""
        assert process.poll() is None, f"it ended: {told}"
        assert time.monotonic() < deadline, f"it was not ready in time: {told}"
        time.sleep(0.05)
