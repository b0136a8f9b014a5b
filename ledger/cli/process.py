"""A server as a child process: started, waited for, stopped or killed. The demo and the tests run
servers and witnesses with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ledger.errors import Unavailable

READY: Final = re.compile(r"^ready (?P<url>https?://\S+)", re.MULTILINE)
"""What ``sanyuan serve`` and ``sanyuan witness serve`` print when they take requests."""


class ServerProcess:
    """``sanyuan serve`` on a data directory, as a child process; as a context manager it is ended
    at the end. With ``words`` another command that serves a directory: ``("witness", "serve")``.

    ``url`` is where it listens. ``port`` 0 lets the system choose one. Raises Unavailable when the
    server ends instead of getting ready; ``output`` has what it printed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        words: tuple[str, ...] = ("serve",),
        port: int = 0,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        ready_within_s: float = 120.0,
    ) -> None:
        command = [sys.executable, "-m", "ledger", *words, str(directory)]
        command += ["--port", str(port)]
        self.output = ""
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        # The pipe is read to its end, or the server would stop when it is full.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        deadline = time.monotonic() + ready_within_s
        while not self._ready.wait(0.02):
            if self.process.poll() is not None:
                self._reader.join()
                if self._ready.is_set():
                    break
                code = self.process.returncode
                raise Unavailable("ended", f"the server ended with exit code {code}: {self.output}")
            if time.monotonic() > deadline:
                self.kill()
                raise Unavailable("slow", f"the server was not ready in time: {self.output}")
        found = READY.search(self.output)
        assert found is not None
        self.url = found["url"]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if READY.match(line):
                self._ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rsplit(":", 1)[1])

    def kill(self) -> None:
        """End it as a power cut would, with SIGKILL, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()

    def stop(self, timeout_s: float = 60.0) -> int:
        """End it with SIGTERM, let it drain, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self._reader.join()
        return code
