"""Disk space: how much is left, and space of the journal written ahead with zeros.

Growing a file inside a sync costs several times what overwriting existing blocks costs, so a
background thread writes zeros behind the end of the journal's file, past O_DIRECT, so that its
bytes never wait in the page cache for LMDB's own sync to carry them.

The rule that keeps this safe: zeros go only where LMDB has never written and cannot be writing.
``_frontier`` is the first byte of the file that was never written, by zeros or by LMDB; zeros are
written from there on only, a piece at a time. Before a commit the journal claims all the bytes that
the commit can reach, counted from the last used page: the claim waits for a piece in its way, and
moves the frontier behind itself. So the frontier is a fence, and what is claimed or was written by
LMDB is always below it. No piece is begun during a commit, so that the two do not share the device:
a commit that finds no space written is as fast as it would be without.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ledger.storage.pages import PAGE_BYTES

_LOG = logging.getLogger(__name__)

PIECE_BYTES: Final = 1 << 20
AHEAD_BYTES_MIN: Final = 16 << 20
"""Written ahead even for a ledger that is still small."""


def _rounded_up(size: int) -> int:
    return -(-size // PIECE_BYTES) * PIECE_BYTES


def free_bytes(path: Path) -> int:
    """Return the bytes that this process may still write on the file system of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


class WriteAhead:
    """Keeps up to ``ahead_bytes`` of written space behind the last used page of a file that LMDB
    appends to.

    ``used_bytes`` tells the end of the last used page. Space is written only while more than
    ``reserve_bytes`` of disk are free. Failures end the writing ahead and nothing else: the journal
    is only slower without it.
    """

    def __init__(
        self,
        file: Path,
        used_bytes: Callable[[], int],
        *,
        ahead_bytes: int,
        reserve_bytes: int,
    ) -> None:
        self._file = file
        self._used_bytes = used_bytes
        self._ahead_bytes = ahead_bytes
        self._reserve_bytes = reserve_bytes
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        # Owned by the lock of _changed:
        self._frontier = 0
        self._writing = False
        self._paused = False
        self._settled = True
        self._thread: threading.Thread | None = None
        if ahead_bytes:
            size = os.stat(file).st_size
            self._frontier = _rounded_up(max(size, used_bytes()))
            self._settled = False
            self._thread = threading.Thread(target=self._run, name="write-ahead", daemon=True)
            self._thread.start()

    @property
    def written_ahead_bytes(self) -> int:
        """Bytes between the last used page and the frontier."""
        with self._changed:
            return max(0, self._frontier - self._used_bytes()) if self._ahead_bytes else 0

    @contextmanager
    def room(self, size_bytes: int) -> Iterator[None]:
        """Give the next ``size_bytes`` behind the last used page to a commit, which is the body of
        the with statement."""
        if self._thread is None:
            yield
            return
        end = self._used_bytes() + size_bytes
        with self._changed:
            # A piece under way ends at the frontier.
            while self._writing and end > self._frontier - PIECE_BYTES:
                self._changed.wait()
            outrun = end > self._frontier
            if outrun:
                self._frontier = _rounded_up(end)
            self._paused = True
        try:
            yield
        finally:
            with self._changed:
                if outrun:
                    # The claim was generous; now the true end is known.
                    self._frontier = _rounded_up(os.stat(self._file).st_size)
                self._paused = False
                self._settled = False
                self._changed.notify_all()

    def drain(self, timeout_s: float = 60.0) -> None:
        """Wait until the space wanted is written, or cannot be."""
        if self._thread is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._settled or self._stopped.is_set(), timeout_s)

    def close(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self._write_ahead()
        except OSError as error:
            _LOG.warning("%s: no space is written ahead any more: %s", self._file, error.strerror)
        finally:
            self._stopped.set()
            with self._changed:
                self._writing = False
                self._settled = True
                self._changed.notify_all()

    def _open(self) -> int:
        try:
            return os.open(self._file, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError:
            # Some file systems know no O_DIRECT; there the pages wait in the cache.
            return os.open(self._file, os.O_WRONLY | os.O_CLOEXEC)

    def _wanted_bytes(self) -> int:
        used = self._used_bytes()
        return used + min(self._ahead_bytes, max(AHEAD_BYTES_MIN, used))

    def _write_ahead(self) -> None:
        zeros = mmap.mmap(-1, PIECE_BYTES)
        descriptor = self._open()
        try:
            while not self._stopped.is_set():
                with self._changed:
                    start = self._frontier
                    if (
                        self._paused
                        or start + PIECE_BYTES > self._wanted_bytes()
                        or free_bytes(self._file) < self._reserve_bytes + PIECE_BYTES
                    ):
                        self._settled = True
                        self._changed.notify_all()
                        self._changed.wait(1.0)
                        continue
                    self._frontier = start + PIECE_BYTES
                    self._writing = True
                try:
                    self._write_piece(descriptor, zeros, start)
                finally:
                    with self._changed:
                        self._writing = False
                        self._changed.notify_all()
        finally:
            os.close(descriptor)

    @staticmethod
    def _write_piece(descriptor: int, zeros: mmap.mmap, start: int) -> None:
        done = 0
        while done < PIECE_BYTES:
            with memoryview(zeros) as view:
                done += os.pwrite(descriptor, view[done:], start + done)


def commit_bytes_max(value_sizes: list[int]) -> int:
    """Return the bytes behind the last used page that a commit of values of these sizes can reach.

    A value takes its own run of overflow pages, or at most one leaf when it is small; the pages
    above the leaves and the lists of free pages come on top.
    """
    pages = sum(size // PAGE_BYTES + 3 for size in value_sizes)
    return (pages + 128) * PAGE_BYTES
